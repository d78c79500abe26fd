/** What survives a restart, a kill, and every kind of trouble with the file; and what it costs when it does not. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { DatabaseSync } from 'node:sqlite'
import t, { type Test } from 'tap'
import type { Entry } from '../../src/model.ts'
import type { Disk } from '../../src/ports.ts'
import { createDisk } from '../../src/world/disk.ts'
import { troubleOf } from '../../src/world/disk-file.ts'
import { epoch, fakeWorld } from '../support/world.ts'

const MIB = 1_048_576
const HOUR = 3_600_000
const RETRY = 30_000

function entry(body: string | Buffer, more: Partial<Entry> = {}): Entry {
  return {
    status: 200,
    contentType: 'application/json',
    body: Buffer.from(body),
    etag: '"e1"',
    storedAt: epoch,
    keptUntil: epoch + 2 * HOUR,
    scraper: 'a',
    promptHash: null,
    country: null,
    priceCredits: 3,
    unclaimed: false,
    ...more,
  }
}

function aDisk(t: Test, options: { path?: string; maxBytes?: number } = {}) {
  const path = options.path ?? join(t.testdir(), 'data', 'cache.db')
  const world = fakeWorld()
  const open: Disk[] = []
  t.teardown(() => {
    for (const disk of open) disk.close()
  })
  function start(maxBytes = options.maxBytes ?? 64 * MIB): Disk {
    const disk = createDisk({ path, maxBytes }, world.clock, world.emit)
    open.push(disk)
    return disk
  }
  const disk = start()
  function restart(maxBytes?: number): Disk {
    for (const disk of open.splice(0)) disk.close()
    return start(maxBytes)
  }
  /** What was told of the store, in order. */
  const changes = () => world.told('disk-changed').map(({ to, because }) => `${to} ${because}`)
  return { path, disk, start, restart, changes, ...world }
}

/** What a knife would do to a closed file. */
function cut(path: string, sql: string): void {
  const db = new DatabaseSync(path)
  db.exec(sql)
  db.close()
}

function sizeOf(path: string): number {
  return ['', '-wal'].reduce((sum, tail) => sum + (statSync(path + tail, { throwIfNoEntry: false })?.size ?? 0), 0)
}

function asides(path: string): string[] {
  return readdirSync(dirname(path)).filter((name) => name.startsWith(`${basename(path)}.corrupt-`))
}

const put = (disk: Disk, key: string, value: unknown, expiresAt: number | null = null) =>
  disk.put([{ space: 'jobs', key, value, expiresAt }])

void t.test('what was written is there after a restart, to the byte', async (t) => {
  const { disk, restart, path, changes } = aDisk(t)
  const full = entry(Buffer.from([0, 255, 10, 13]), {
    promptHash: 'ph',
    country: 'DE',
    status: 404,
    etag: 'W/"x"',
    unclaimed: true,
  })
  disk.writeEntry('client/k1', full)
  disk.writeEntry('k2', entry('', { status: 500 }))
  disk.put([
    { space: 'jobs', key: 'j1', value: { state: 'done', list: [1, null] }, expiresAt: null },
    { space: 'budgets', key: 'j1', value: 7, expiresAt: epoch + HOUR },
  ])
  const later = restart()
  t.same(later.readEntry('client/k1'), full)
  t.same(later.readEntry('k2'), entry('', { status: 500 }))
  t.equal(later.readEntry('k3'), null)
  t.same(later.get('jobs', 'j1'), { state: 'done', list: [1, null] })
  t.equal(later.get('budgets', 'j1'), 7)
  t.equal(later.get('budgets', 'j2'), null)
  t.same([...later.list('jobs')], [['j1', { state: 'done', list: [1, null] }]])
  t.same([...later.list('nothing')], [])
  t.equal(later.entries, 2)
  t.same(changes(), [])
  t.equal(statSync(path).mode & 0o777, 0o600)
  t.equal(statSync(`${path}-wal`).mode & 0o777, 0o600)
})

void t.test('an answer is readable at once, written a moment later, and the last word on a key holds', async (t) => {
  const { disk, clock, restart } = aDisk(t)
  disk.writeEntry('k1', entry('old'))
  t.equal(String(disk.readEntry('k1')?.body), 'old')
  t.equal(disk.entries, 0)
  await clock.advance(50)
  t.equal(disk.entries, 1)
  t.equal(String(disk.readEntry('k1')?.body), 'old')
  disk.writeEntry('k1', entry('new'))
  disk.writeEntry('k2', entry('two'))
  t.equal(String(disk.readEntry('k1')?.body), 'new')
  disk.deleteEntry('k2')
  t.equal(disk.readEntry('k2'), null)
  const later = restart()
  t.equal(String(later.readEntry('k1')?.body), 'new')
  t.equal(later.readEntry('k2'), null)
  t.equal(later.entries, 1)
})

void t.test('what is no good even instead of an error is a miss, and its room is taken back', async (t) => {
  const { disk, clock } = aDisk(t)
  for (let i = 0; i < 100; i++) disk.writeEntry(`k${i}`, entry(Buffer.alloc(20_000)))
  disk.writeEntry('fresh', entry('x', { keptUntil: epoch + 9 * HOUR }))
  t.equal(disk.readEntry('k1')?.body.length, 20_000)
  await clock.advance(HOUR)
  const before = disk.bytes
  t.equal(disk.readEntry('k1')?.body.length, 20_000)
  await clock.advance(HOUR)
  t.equal(disk.readEntry('k1'), null)
  await clock.advance(2 * 60_000)
  t.equal(disk.entries, 1)
  t.ok(disk.bytes < before / 5)
  t.equal(String(disk.readEntry('fresh')?.body), 'x')
  disk.writeEntry('late', entry('x', { keptUntil: 0 }))
  t.equal(disk.readEntry('late'), null)
})

void t.test('an expired or deleted record is not returned, not listed, and leaves the file', async (t) => {
  const { disk, clock, restart, path } = aDisk(t)
  put(disk, 'short', 1, epoch + 1_000)
  put(disk, 'gone', 2)
  put(disk, 'kept', 3)
  put(disk, 'gone', null)
  put(disk, 'never', null)
  await clock.advance(999)
  t.same(
    [...disk.list('jobs')].map(([key]) => key),
    ['short', 'kept'],
  )
  await clock.advance(1)
  t.equal(disk.get('jobs', 'short'), null)
  t.equal(disk.get('jobs', 'gone'), null)
  t.same([...disk.list('jobs')], [['kept', 3]])
  await clock.advance(60_000)
  disk.close()
  const db = new DatabaseSync(path)
  t.same(
    db
      .prepare('SELECT key FROM records')
      .all()
      .map((row) => row['key']),
    ['kept'],
  )
  db.close()
  const later = restart()
  put(later, 'short', 1, epoch + 100_000)
  later.close()
  await clock.advance(HOUR)
  t.same([...restart().list('jobs')], [['kept', 3]])
})

void t.test('a purge takes what matches, queued or written, and says how many', async (t) => {
  const { disk, clock } = aDisk(t)
  const fill = () => {
    disk.writeEntry('a-de', entry('1', { country: 'DE', promptHash: 'p' }))
    disk.writeEntry('a-us', entry('2', { country: 'US' }))
    disk.flush()
    disk.writeEntry('b-de', entry('3', { scraper: 'b', country: 'DE', storedAt: epoch - 1 }))
  }
  const left = () => ['a-de', 'a-us', 'b-de'].filter((key) => disk.readEntry(key))
  for (const [filter, count, kept] of [
    [{ scraper: 'a' }, 2, ['b-de']],
    [{ promptHash: 'p' }, 1, ['a-us', 'b-de']],
    [{ country: 'DE' }, 2, ['a-us']],
    [{ country: 'DE', scraper: 'b' }, 1, ['a-de', 'a-us']],
    [{ storedBefore: epoch }, 1, ['a-de', 'a-us']],
    [{ scraper: 'c' }, 0, ['a-de', 'a-us', 'b-de']],
    [{}, 3, []],
  ] as const) {
    fill()
    t.equal(disk.purge(filter), count)
    t.same(left(), kept)
    t.equal(disk.entries, kept.length)
  }
  t.equal(disk.purge({}), 0)
  await clock.advance(100)
  t.equal(disk.entries, 0)
})

void t.test('a damaged row is a miss and is deleted; the others stay', async (t) => {
  const { disk, restart, path, changes } = aDisk(t)
  for (const key of ['body', 'field', 'lost', 'huge', 'fine']) disk.writeEntry(key, entry('{"a":1}'))
  put(disk, 'bad', 1_000)
  put(disk, 'good', 1)
  disk.close()
  cut(
    path,
    `UPDATE bodies SET body = CAST('{"a":2}' AS BLOB) WHERE id = (SELECT id FROM entries WHERE key = 'body');
     UPDATE entries SET status = 201 WHERE key = 'field';
     DELETE FROM bodies WHERE id = (SELECT id FROM entries WHERE key = 'lost');
     UPDATE entries SET stored_at = 9007199254740993 WHERE key = 'huge';
     UPDATE records SET value = '9000' WHERE key = 'bad'`,
  )
  const later = restart()
  for (const key of ['body', 'field', 'lost', 'huge']) t.equal(later.readEntry(key), null, key)
  t.equal(String(later.readEntry('fine')?.body), '{"a":1}')
  t.same([...later.list('jobs')], [['good', 1]])
  later.flush()
  t.equal(later.entries, 1)
  t.same(changes(), [])
})

// Kill

/** A process of its own with a store on the file, and what it says, line by line. */
function aProcess(t: Test, path: string, body: string): { child: ChildProcess; lines: AsyncIterable<string> } {
  const code = `
    import { writeSync } from 'node:fs'
    import { createDisk } from ${JSON.stringify(new URL('../../src/world/disk.ts', import.meta.url).href)}
    const after = (ms, job) => { const timer = setTimeout(job, ms); return { cancel: () => clearTimeout(timer) } }
    const clock = { now: Date.now, wall: Date.now, after }
    const disk = createDisk({ path: ${JSON.stringify(path)}, maxBytes: ${64 * MIB} }, clock, () => undefined)
    const say = (line) => writeSync(1, line + '\\n')
    ${body}`
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['pipe', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  if (!child.stdout) throw new Error('no output to read')
  return { child, lines: createInterface({ input: child.stdout }) }
}

void t.test('after a kill -9 in the middle of writing, all that was acknowledged is there', async (t) => {
  const path = join(t.testdir(), 'cache.db')
  const { child, lines } = aProcess(
    t,
    path,
    `const far = Date.now() + 1e9
     for (let i = 0; ; i++) {
       disk.put([{ space: 'a', key: 'k' + i, value: { i }, expiresAt: null }, { space: 'b', key: 'last', value: i, expiresAt: null }])
       disk.writeEntry('k' + i, { status: 200, contentType: 't', body: Buffer.alloc(3000, i), etag: '"' + i + '"', storedAt: 0,
         keptUntil: far, scraper: 'a', promptHash: null, country: null, priceCredits: 3, unclaimed: false })
       if (i % 100 === 0) { disk.flush(); say('flushed ' + i) } else say('put ' + i)
       if (i % 10 === 0) await new Promise(setImmediate)
     }`,
  )
  const exited = once(child, 'exit')
  const said = { put: 0, flushed: 0 }
  for await (const line of lines) {
    const [what, i] = line.split(' ')
    said.put = Number(i)
    if (what === 'flushed') said.flushed = Number(i)
    if (said.put === 3_050) child.kill('SIGKILL')
  }
  await exited
  t.ok(existsSync(`${path}-wal`), 'it had no time to tidy up')
  t.ok(said.put >= 3_050)
  const { disk, changes } = aDisk(t, { path })
  t.same(changes(), [])
  const missing = Array.from({ length: said.put + 1 }, (_, i) => i).filter((i) => !disk.get('a', `k${i}`))
  t.same(missing, [])
  t.ok(Number(disk.get('b', 'last')) >= said.put)
  t.same(disk.get('a', `k${Number(disk.get('b', 'last'))}`), { i: disk.get('b', 'last') }, 'both of one put, or none')
  const lost = Array.from({ length: said.flushed + 1 }, (_, i) => i).filter(
    (i) => disk.readEntry(`k${i}`)?.body.equals(Buffer.alloc(3_000, i)) !== true,
  )
  t.same(lost, [])
})

void t.test('a file that another process holds is left to it until that one ends', async (t) => {
  const path = join(t.testdir(), 'cache.db')
  const { child, lines } = aProcess(
    t,
    path,
    `disk.put([{ space: 'jobs', key: 'theirs', value: 1, expiresAt: null }, { space: 'jobs', key: 'both', value: 1, expiresAt: null }])
     say(disk.state)
     process.stdin.on('data', () => { disk.close(); process.exit() })`,
  )
  for await (const line of lines) {
    t.equal(line, 'up')
    break
  }
  const { disk, clock, changes } = aDisk(t, { path })
  t.equal(disk.state, 'down')
  disk.writeEntry('k1', entry('kept'))
  put(disk, 'ours', 2)
  put(disk, 'both', 2)
  put(disk, 'brief', 3)
  put(disk, 'brief', null)
  await clock.advance(RETRY)
  t.same(changes(), ['down locked'])
  t.same([disk.get('jobs', 'ours'), disk.get('jobs', 'theirs')], [2, null])
  t.equal(String(disk.readEntry('k1')?.body), 'kept')
  child.stdin?.write('end')
  await once(child, 'exit')
  await clock.advance(RETRY)
  t.same(changes(), ['down locked', 'up locked'])
  t.equal(disk.state, 'up')
  t.same(
    new Map(disk.list('jobs')),
    new Map([
      ['ours', 2],
      ['both', 2],
      ['theirs', 1],
    ]),
  )
  t.equal(disk.entries, 1)
})

// Trouble with the file

void t.test('a file that is not ours or not whole is put aside, and a new one started at once', async (t) => {
  const { disk, restart, path, changes, clock, events } = aDisk(t)
  for (let i = 0; i < 50; i++) disk.writeEntry(`k${i}`, entry(Buffer.alloc(9_000)))
  const spoilt: [string, () => void][] = [
    ['garbage', () => writeFileSync(path, 'this is no database '.repeat(1_000))],
    ['cut off', () => truncateSync(path, 20_480)],
    ['of another program', () => (rmSync(path), cut(path, 'CREATE TABLE notes (text TEXT)'))],
    ['without a table', () => cut(path, 'DROP TABLE bodies')],
  ]
  let now = disk
  for (const [name, spoil] of spoilt) {
    put(now, 'j1', name)
    now.writeEntry('k1', entry('x'))
    now.close()
    spoil()
    const seen = changes().length
    await clock.advance(1)
    now = restart()
    t.same(changes().slice(seen), ['down corrupt', 'up corrupt'], name)
    t.equal(now.state, 'up')
    t.equal(now.readEntry('k1'), null)
    t.equal(now.entries, 0)
    now.writeEntry('k2', entry('y'))
    now.flush()
    t.equal(now.entries, 1)
  }
  t.equal(now.get('jobs', 'j1'), 'without a table', 'records that can still be read are saved')
  t.same(
    asides(path),
    [2, 3].map((i) => `cache.db.corrupt-${epoch + 1 + i}`),
    'the last two are kept',
  )
  t.notMatch(JSON.stringify(events), /cache\.db|tap-testdir/)
})

void t.test('two outages are told twice, and records outlive them', async (t) => {
  const { disk, path, changes, clock, restart } = aDisk(t)
  put(disk, 'j1', 1)
  disk.writeEntry('k1', entry('x'))
  disk.flush()

  rmSync(path)
  disk.writeEntry('k2', entry('written while it was away'))
  put(disk, 'j2', 2)
  put(disk, 'j3', 3)
  t.equal(disk.state, 'down')
  t.equal(disk.readEntry('k1'), null)
  t.equal(disk.bytes, 0)
  t.equal(disk.entries, 0)
  await clock.advance(RETRY)
  t.same(changes(), ['down io', 'up io'])
  t.equal(disk.readEntry('k1'), null)
  t.equal(String(disk.readEntry('k2')?.body), 'written while it was away')

  writeFileSync(path, 'garbage')
  put(disk, 'j1', null)
  put(disk, 'j2', 22)
  await clock.advance(RETRY - 1)
  t.same(changes(), ['down io', 'up io', 'down corrupt'])
  t.same(
    [...disk.list('jobs')],
    [
      ['j2', 22],
      ['j3', 3],
    ],
  )
  await clock.advance(1)
  t.same(changes(), ['down io', 'up io', 'down corrupt', 'up corrupt'])
  t.same(
    [...restart().list('jobs')],
    [
      ['j2', 22],
      ['j3', 3],
    ],
  )
})

void t.test('a page that goes bad while it runs is noticed when it is read', async (t) => {
  const { disk, restart, path, changes, clock } = aDisk(t)
  put(disk, 'j1', 1)
  for (let i = 0; i < 200; i++) disk.writeEntry(`k${i}`, entry(Buffer.alloc(3_000)))
  const now = restart()
  const size = statSync(path).size
  writeFileSync(
    path,
    Buffer.concat([readFileSync(path).subarray(0, 4_096 * 8), Buffer.alloc(size - 4_096 * 8, 0xab)]),
    {
      flag: 'r+',
    },
  )
  for (let i = 0; i < 200; i++) t.equal(now.readEntry(`k${i}`), null)
  t.same(changes(), ['down corrupt'])
  await clock.advance(RETRY)
  t.same(changes(), ['down corrupt', 'up corrupt'])
  t.equal(restart().get('jobs', 'j1'), 1)
  t.equal(disk.state, 'down')
})

void t.test('where no file can be, it serves from memory and says why once', async (t) => {
  const dir = t.testdir({ file: 'x', folder: { 'cache.db': {} } })
  for (const [path, because] of [
    [join(dir, 'file', 'cache.db'), 'io'],
    [join(dir, 'folder', 'cache.db'), 'io'],
    // Even the superuser cannot make files there.
    ['/sys/cache.db', 'read-only'],
  ] as const) {
    const { disk, clock, changes } = aDisk(t, { path })
    put(disk, 'j1', 1)
    disk.writeEntry('k1', entry('x'))
    disk.flush()
    await clock.advance(3 * RETRY)
    t.same(changes(), [`down ${because}`])
    t.equal(disk.get('jobs', 'j1'), 1)
    disk.close()
    t.equal(clock.timers, 0)
  }
})

void t.test('a file of ours that cannot be written to is not used', async (t) => {
  const { disk, path, restart, changes, clock } = aDisk(t)
  put(disk, 'j1', 1)
  disk.close()
  // A log that cannot be opened for writing, for the superuser either.
  mkdirSync(`${path}-wal`)
  const now = restart()
  t.equal(now.state, 'down')
  rmSync(`${path}-wal`, { recursive: true })
  await clock.advance(RETRY)
  t.match(changes(), [/^down (io|read-only)$/, /^up (io|read-only)$/])
  t.equal(now.get('jobs', 'j1'), 1)
})

/** A volume of its own, so that it can be full; null where this user may not mount one. */
function aVolume(t: Test, megabytes: number): string | null {
  const dir = mkdtempSync(join(tmpdir(), 'disk-test-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${megabytes}m`, 'tmpfs', dir], { stdio: 'ignore' })
  } catch {
    return null
  }
  t.teardown(() => execFileSync('umount', ['-l', dir]))
  return dir
}

void t.test('what the library and the system call full is full', async (t) => {
  t.equal(troubleOf(Object.assign(new Error('x'), { code: 'ERR_SQLITE_ERROR', errcode: 13 })), 'full')
  t.equal(troubleOf(Object.assign(new Error('x'), { code: 'ENOSPC' })), 'full')
  t.equal(troubleOf(Object.assign(new Error('x'), { code: 'ERR_SQLITE_ERROR', errcode: 10 | (3 << 8) })), 'io')
  t.equal(troubleOf('x'), 'io')
})

void t.test('a full disk is told once, and used again when there is room', async (t) => {
  const dir = aVolume(t, 4)
  const { disk, path, restart, changes, clock } = aDisk(t, { path: join(dir ?? t.testdir(), 'cache.db') })
  put(disk, 'j1', 1)
  if (dir) fillUp(join(dir, 'filler'))
  // Nobody may mount here: at least something else that cannot be written to comes and goes.
  else renameSync(path, `${path}.away`)
  for (let i = 0; i < 100; i++) put(disk, `j${i}`, 'x'.repeat(100))
  disk.writeEntry('k1', entry(Buffer.alloc(100_000)))
  await clock.advance(2 * RETRY - 1)
  if (dir) t.same(changes(), ['down full'])
  t.equal(disk.readEntry('k1')?.body.length, 100_000)
  t.equal(disk.get('jobs', 'j99'), 'x'.repeat(100))
  if (dir) rmSync(join(dir, 'filler'))
  await clock.advance(RETRY)
  t.equal(changes().length, 2)
  const later = restart()
  t.equal([...later.list('jobs')].length, 100)
  t.equal(later.readEntry('k1')?.body.length, 100_000)
})

function fillUp(path: string): void {
  try {
    for (;;) writeFileSync(path, Buffer.alloc(4_096), { flag: 'a' })
  } catch {
    // Full: that was the aim.
  }
}

void t.test('on a volume smaller than its limit it soon finds out how much there is', async (t) => {
  const dir = aVolume(t, 12)
  const { disk, path, clock, changes } = aDisk(t, { path: join(dir ?? t.testdir(), 'cache.db'), maxBytes: 256 * MIB })
  for (let i = 0; i < 1_000; i++) {
    disk.writeEntry(`k${i}`, entry(Buffer.alloc(30_000)))
    await clock.advance(disk.state === 'up' ? 10 : RETRY)
  }
  t.ok(changes().length <= 20, `${changes().length} changes`)
  t.equal(disk.state, 'up')
  t.equal(disk.readEntry('k999')?.body.length, 30_000)
  t.ok(sizeOf(path) > 3 * MIB)
})

// Bounds

void t.test('the file and its log stay within the limit, whatever comes', async (t) => {
  const { disk, clock, path, told } = aDisk(t, { maxBytes: 2 * MIB })
  const sizes = [100, 70_000, 3_000, 20_000, 110_000]
  let largest = 0
  for (let i = 0; i < 400; i++) {
    disk.writeEntry(`k${i}`, entry(Buffer.alloc(sizes[i % sizes.length] ?? 0, i), { promptHash: 'p'.repeat(43) }))
    if (i % 7 === 0) await clock.advance(50)
    largest = Math.max(largest, sizeOf(path))
  }
  disk.flush()
  largest = Math.max(largest, sizeOf(path))
  t.ok(largest <= 2 * MIB, `${largest} bytes`)
  t.ok(disk.bytes <= 2 * MIB)
  t.ok(disk.bytes > MIB, 'and the room is used')
  t.equal(disk.readEntry('k399')?.body.length, 110_000)
  t.equal(disk.readEntry('k1'), null)
  t.equal(told('cache-evicted').length, 400 - disk.entries)
  disk.writeEntry('big', entry(Buffer.alloc(200_000)))
  t.equal(disk.readEntry('big'), null, 'one that would drive out all others is not kept')
})

void t.test('the least valuable is given up first', async (t) => {
  const { disk, clock } = aDisk(t, { maxBytes: MIB })
  const body = Buffer.alloc(10_000)
  disk.writeEntry('gone', entry(body, { keptUntil: epoch + 30_000, priceCredits: 100 }))
  disk.writeEntry('dear', entry(body, { priceCredits: 30 }))
  disk.writeEntry('cheap', entry(body, { priceCredits: 0 }))
  disk.writeEntry('used', entry(body, { priceCredits: 0 }))
  await clock.advance(31_000)
  for (let i = 0; i < 20; i++) {
    disk.writeEntry(`f${i}`, entry(body, { priceCredits: 0 }))
    await clock.advance(60_000)
    disk.readEntry('used')
  }
  const alive = () => ['gone', 'dear', 'cheap', 'used'].filter((key) => disk.readEntry(key))
  for (let i = 20; i < 75; i++) {
    disk.writeEntry(`f${i}`, entry(body, { priceCredits: 0 }))
    await clock.advance(50)
    disk.readEntry('used')
  }
  t.same(alive(), ['dear', 'used'])
  for (let i = 75; i < 300; i++) {
    disk.writeEntry(`f${i}`, entry(body, { priceCredits: 3 }))
    await clock.advance(50)
  }
  t.same(alive(), ['dear'], 'what was cheap to ask again went, what was dear stayed')
})

void t.test('with a lower limit the file shrinks, in steps', async (t) => {
  const { disk, restart, path, clock } = aDisk(t, { maxBytes: 32 * MIB })
  for (let i = 0; i < 1_000; i++) disk.writeEntry(`k${i}`, entry(Buffer.alloc(20_000)))
  disk.close()
  t.ok(sizeOf(path) > 19 * MIB)
  const now = restart(8 * MIB)
  const atStart = now.entries
  t.ok(atStart > 900)
  await clock.advance(50)
  t.ok(now.entries < atStart && now.entries > atStart - 100, 'a little at a time')
  await clock.advance(20_000)
  t.ok(now.bytes <= 8 * MIB)
  t.ok(sizeOf(path) <= 8 * MIB)
  t.ok(now.entries > 100)
})

void t.test('what waits for a disk that is away is bounded, and nothing deleted comes back', async (t) => {
  const { disk, path, clock } = aDisk(t)
  for (const key of ['deleted', 'purged', 'kept']) disk.writeEntry(key, entry(key, { scraper: key }))
  disk.flush()
  renameSync(path, `${path}.away`)
  renameSync(`${path}-wal`, `${path}.away-wal`)
  put(disk, 'j1', 1)
  t.equal(disk.state, 'down')
  disk.deleteEntry('deleted')
  t.equal(disk.purge({ scraper: 'purged' }), 0)
  for (let i = 0; i < 1_000; i++) disk.writeEntry(`k${i}`, entry(Buffer.alloc(10_000)))
  t.equal(disk.readEntry('k0'), null)
  t.equal(disk.readEntry('k999')?.body.length, 10_000)
  t.equal(disk.purge({ scraper: 'a', storedBefore: epoch }), 0)
  renameSync(`${path}.away`, path)
  renameSync(`${path}.away-wal`, `${path}-wal`)
  await clock.advance(RETRY)
  t.equal(disk.state, 'up')
  t.same(
    ['deleted', 'purged', 'kept'].filter((key) => disk.readEntry(key)),
    ['kept'],
  )
  await clock.advance(1_000)
  t.equal(disk.readEntry('k0'), null)
  t.equal(disk.readEntry('k999')?.body.length, 10_000)
})

void t.test('more purges and deletions than can be remembered take everything that was stored', async (t) => {
  for (const forget of [
    (disk: Disk) => Array.from({ length: 65 }, (_, i) => disk.purge({ scraper: `s${i}` })),
    (disk: Disk) => Array.from({ length: 20_000 }, (_, i) => disk.deleteEntry(`some key or other ${i}`)),
  ]) {
    const { disk, path, clock } = aDisk(t)
    disk.writeEntry('k1', entry('x'))
    disk.flush()
    renameSync(path, `${path}.away`)
    renameSync(`${path}-wal`, `${path}.away-wal`)
    put(disk, 'j1', 1)
    await clock.advance(1)
    forget(disk)
    await clock.advance(1)
    disk.writeEntry('k2', entry('y', { storedAt: clock.wall() }))
    renameSync(`${path}.away`, path)
    renameSync(`${path}.away-wal`, `${path}-wal`)
    await clock.advance(RETRY)
    t.equal(disk.readEntry('k1'), null)
    t.equal(String(disk.readEntry('k2')?.body), 'y')
  }
})

// Start

void t.test('nothing is counted at start: the totals are in the file', async (t) => {
  const { disk, path, restart } = aDisk(t)
  for (let i = 0; i < 10; i++) disk.writeEntry(`k${i}`, entry('x'))
  disk.close()
  cut(path, "UPDATE meta SET value = 1234567 WHERE name = 'entries'")
  t.equal(restart().entries, 1_234_567)
})

void t.test('a file of a later format is left alone; of an earlier one the records are kept', async (t) => {
  const { disk, path, restart, changes, clock } = aDisk(t)
  put(disk, 'j1', 1)
  disk.writeEntry('k1', entry('x'))
  disk.close()
  cut(path, 'PRAGMA user_version = 999')
  const before = readFileSync(path)
  const later = restart()
  put(later, 'j2', 2)
  await clock.advance(RETRY)
  t.same(changes(), ['down format'])
  later.close()
  t.ok(readFileSync(path).equals(before))
  t.same(asides(path), [])
  cut(path, 'PRAGMA user_version = 0')
  const now = restart()
  t.equal(now.state, 'up')
  t.equal(now.get('jobs', 'j1'), 1)
  t.equal(now.readEntry('k1'), null)
  t.same(asides(path), [])
  t.equal(restart().get('jobs', 'j1'), 1)
})

void t.test('after its end it keeps nothing, waits for nothing and harms nothing', async (t) => {
  const { disk, clock, path } = aDisk(t)
  disk.writeEntry('k1', entry('x'))
  disk.close()
  disk.close()
  t.equal(existsSync(`${path}-wal`), false)
  disk.writeEntry('k2', entry('x'))
  put(disk, 'j1', 1)
  disk.flush()
  t.equal(disk.readEntry('k1'), null)
  t.equal(disk.readEntry('k2'), null)
  t.equal(disk.state, 'down')
  t.equal(clock.timers, 0)
})

/** What survives a restart, a kill, a power cut and every kind of trouble with the files; and what it costs when it does not. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { DatabaseSync } from 'node:sqlite'
import { crc32 } from 'node:zlib'
import t, { type Test } from 'tap'
import type { Entry } from '../../src/model.ts'
import type { Disk } from '../../src/ports.ts'
import type { DiskFile } from '../../src/telemetry/events.ts'
import { createDisk } from '../../src/world/disk.ts'
import { troubleOf } from '../../src/world/disk-file.ts'
import { epoch, fakeWorld } from '../support/world.ts'

const MIB = 1_048_576
const HOUR = 3_600_000
/** Of the answers; the records are tried again each second. */
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
  function start(maxBytes = options.maxBytes ?? 64 * MIB, sync?: (path: string) => Promise<void>): Disk {
    const disk = createDisk({ path, maxBytes }, world.clock, world.emit, sync)
    open.push(disk)
    return disk
  }
  const disk = start()
  function restart(maxBytes?: number): Disk {
    for (const disk of open.splice(0)) disk.close()
    return start(maxBytes)
  }
  /** What was told of a file, in order. */
  const changes = (file: DiskFile) =>
    world.told('disk-changed').flatMap((event) => (event.file === file ? [`${event.to} ${event.because}`] : []))
  const recordsPath = join(dirname(path), 'records.db')
  return { path, recordsPath, disk, start, restart, changes, ...world }
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

const add = (disk: Disk, key: string, sum: Record<string, number>) =>
  disk.put([{ space: 'spent', key, add: sum, expiresAt: null }])

const put = (disk: Disk, key: string, value: unknown, expiresAt: number | null = null) =>
  disk.put([{ space: 'jobs', key, value, expiresAt }])

void t.test('what was written is there after a restart, to the byte', async (t) => {
  const { disk, restart, path, recordsPath, events } = aDisk(t)
  const full = entry(Buffer.from([0, 255, 10, 13]), {
    promptHash: 'ph',
    country: 'DE',
    status: 404,
    etag: 'W/"x"',
    unclaimed: true,
  })
  disk.writeEntry('client/k1', full)
  disk.writeEntry('k2', entry(''))
  disk.put([
    { space: 'jobs', key: 'j1', value: { state: 'done', list: [1, null] }, expiresAt: null },
    { space: 'budgets', key: 'j1', value: 7, expiresAt: epoch + HOUR },
  ])
  const later = restart()
  t.same(later.readEntry('client/k1'), full)
  t.same(later.readEntry('k2'), entry(''))
  t.equal(later.readEntry('k3'), null)
  t.same(later.get('jobs', 'j1'), { state: 'done', list: [1, null] })
  t.equal(later.get('budgets', 'j1'), 7)
  t.equal(later.get('budgets', 'j2'), null)
  t.same([...later.list('jobs')], [['j1', { state: 'done', list: [1, null] }]])
  t.same([...later.list('nothing')], [])
  t.equal(later.entries, 2)
  t.same([later.isRead, later.records, later.answers], [true, 'up', 'up'])
  t.same(events, [])
  for (const file of [path, recordsPath, `${path}-wal`, `${recordsPath}-wal`])
    t.equal(statSync(file).mode & 0o777, 0o600, file)
})

// Answers

void t.test('the last answer under a key holds, and is in the file at once', async (t) => {
  const { disk, restart } = aDisk(t)
  disk.writeEntry('k1', entry('old'))
  t.equal(disk.entries, 1)
  disk.writeEntry('k1', entry('new'))
  t.equal(disk.entries, 1)
  t.equal(String(disk.readEntry('k1')?.body), 'new')
  t.equal(String(restart().readEntry('k1')?.body), 'new')
})

void t.test('an answer that no client can use is a miss, and its room is taken back', async (t) => {
  const { disk, clock } = aDisk(t)
  for (let i = 0; i < 100; i++) disk.writeEntry(`k${i}`, entry(Buffer.alloc(20_000)))
  await clock.advance(HOUR)
  t.equal(disk.readEntry('k1')?.body.length, 20_000)
  await clock.advance(HOUR)
  t.equal(disk.readEntry('k1'), null)
  const before = disk.bytes
  for (let i = 0; i < 5; i++) disk.writeEntry(`fresh${i}`, entry('x', { keptUntil: epoch + 9 * HOUR }))
  t.equal(disk.entries, 5)
  t.ok(disk.bytes < before / 5)
})

void t.test('a purge takes what matches and says how many; one of everything begins a new file', async (t) => {
  const { disk, path } = aDisk(t)
  const fill = () => {
    disk.writeEntry('a-de', entry('1', { country: 'DE', promptHash: 'p' }))
    disk.writeEntry('a-us', entry('2', { country: 'US' }))
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
  t.notOk(existsSync(`${path}.corrupt`))
  t.equal(disk.answers, 'up')
})

void t.test('the number of entries stays true, whatever comes and goes', async (t) => {
  const { disk, restart, clock } = aDisk(t)
  t.equal(disk.entries, 0)
  for (const key of ['a', 'b', 'c', 'd', 'e', 'f']) disk.writeEntry(key, entry(key, { keptUntil: epoch + 2 * HOUR }))
  disk.writeEntry('a', entry('again'))
  disk.writeEntry('short', entry('short', { keptUntil: epoch + HOUR }))
  t.equal(disk.entries, 7, 'written twice is one')
  disk.purge({ scraper: 'b' })
  disk.writeEntry('g', entry('g', { scraper: 'b' }))
  disk.writeEntry('h', entry('h', { scraper: 'b' }))
  t.equal(disk.purge({ scraper: 'b' }), 2)
  t.equal(disk.entries, 7, 'what was purged is not counted')
  disk.writeEntry('i', entry('i'))
  t.equal(disk.entries, 8, 'the rows of what was purged went, and were not counted any more')
  await clock.advance(HOUR)
  disk.writeEntry('i', entry('i'))
  t.equal(disk.entries, 7, 'nor is what expired')
  disk.writeEntry('big', entry(Buffer.alloc(3 * MIB)))
  const counted = disk.entries
  for (let number = 0; number < 30; number += 1) disk.writeEntry(`big ${number}`, entry(Buffer.alloc(3 * MIB)))
  t.ok(disk.entries < counted + 30, 'the limit was reached')
  const kept = disk.entries
  t.equal(restart().entries, kept, 'as the file has it')
})

void t.test('a damaged row is a miss and is deleted; the others stay', async (t) => {
  const { disk, restart, path, recordsPath, events } = aDisk(t)
  for (const key of ['body', 'field', 'lost', 'huge', 'fine']) disk.writeEntry(key, entry('{"a":1}'))
  put(disk, 'bad', 1_000)
  put(disk, 'good', 1)
  disk.close()
  cut(
    path,
    `UPDATE bodies SET body = CAST('{"a":2}' AS BLOB) WHERE id = (SELECT id FROM entries WHERE key = 'body');
     UPDATE bodies SET meta = replace(meta, '200', '201') WHERE id = (SELECT id FROM entries WHERE key = 'field');
     DELETE FROM bodies WHERE id = (SELECT id FROM entries WHERE key = 'lost');
     UPDATE bodies SET checksum = 9007199254740993 WHERE id = (SELECT id FROM entries WHERE key = 'huge')`,
  )
  cut(recordsPath, "UPDATE records SET value = '9000' WHERE key = 'bad'")
  const later = restart()
  for (const key of ['body', 'field', 'lost', 'huge']) t.equal(later.readEntry(key), null, key)
  t.equal(String(later.readEntry('fine')?.body), '{"a":1}')
  t.same([...later.list('jobs')], [['good', 1]])
  t.equal(later.entries, 1)
  t.same(events, [])
})

void t.test('the file and its log stay within the limit, whatever comes', async (t) => {
  const { disk, path, told } = aDisk(t, { maxBytes: 2 * MIB })
  const sizes = [100, 70_000, 3_000, 20_000, 110_000]
  let largest = 0
  for (let i = 0; i < 400; i++) {
    disk.writeEntry(`k${i}`, entry(Buffer.alloc(sizes[i % sizes.length] ?? 0, i), { promptHash: 'p'.repeat(43) }))
    largest = Math.max(largest, sizeOf(path))
  }
  t.ok(largest <= 2 * MIB, `${largest} bytes`)
  t.ok(disk.bytes <= 2 * MIB)
  t.ok(disk.bytes > MIB, 'and the room is used')
  t.equal(disk.readEntry('k399')?.body.length, 110_000)
  t.equal(disk.readEntry('k1'), null)
  t.equal(told('cache-evicted').length, 400 - disk.entries)
  disk.writeEntry('big', entry(Buffer.alloc(200_000)))
  t.equal(disk.readEntry('big'), null, 'one that would drive out all others is not kept')
})

void t.test('the least recently used is given up first', async (t) => {
  const { disk, clock } = aDisk(t, { maxBytes: MIB })
  const body = Buffer.alloc(10_000)
  const stay = { keptUntil: epoch + 1_000 * HOUR }
  for (const key of ['used', 'unused']) disk.writeEntry(key, entry(body, stay))
  for (let i = 0; i < 300; i++) {
    await clock.advance(60_000)
    disk.readEntry('used')
    disk.writeEntry(`f${i}`, entry(body, stay))
  }
  t.same(
    ['unused', 'f0', 'f299', 'used'].filter((key) => disk.readEntry(key)),
    ['f299', 'used'],
  )
})

void t.test('with a lower limit the file shrinks, a step with each write', async (t) => {
  const { disk, restart, path } = aDisk(t, { maxBytes: 32 * MIB })
  for (let i = 0; i < 1_000; i++) disk.writeEntry(`k${i}`, entry(Buffer.alloc(20_000)))
  disk.close()
  t.ok(sizeOf(path) > 19 * MIB)
  const now = restart(8 * MIB)
  t.equal(now.entries, 1_000)
  now.writeEntry('new', entry('x'))
  t.ok(now.entries < 1_000 && now.entries > 950, 'a little at a time')
  for (let i = 0; i < 50; i++) now.writeEntry(`new${i}`, entry('x'))
  t.ok(now.bytes <= 8 * MIB)
  t.ok(now.entries > 100)
  now.close()
  t.ok(sizeOf(path) <= 8 * MIB)
})

void t.test(
  'answers that are not ours, not whole or of another format are thrown away and begun anew at once',
  async (t) => {
    const { disk, restart, path, changes, events } = aDisk(t)
    for (let i = 0; i < 50; i++) disk.writeEntry(`k${i}`, entry(Buffer.alloc(9_000)))
    put(disk, 'j1', 1)
    const spoilt: [name: string, because: string, spoil: () => void][] = [
      ['garbage', 'corrupt', () => writeFileSync(path, 'this is no database '.repeat(1_000))],
      ['cut off', 'corrupt', () => truncateSync(path, 20_480)],
      ['of another program', 'corrupt', () => (rmSync(path), cut(path, 'CREATE TABLE notes (text TEXT)'))],
      ['without a table', 'corrupt', () => cut(path, 'DROP TABLE bodies')],
      ['of a later version', 'format', () => cut(path, 'PRAGMA user_version = 99')],
    ]
    let now = disk
    for (const [name, because, spoil] of spoilt) {
      for (let i = 0; i < 50; i++) now.writeEntry(`k${i}`, entry(Buffer.alloc(9_000)))
      now.close()
      spoil()
      const seen = changes('answers').length
      now = restart()
      t.same(changes('answers').slice(seen), [`down ${because}`, `up ${because}`], name)
      t.equal(now.answers, 'up')
      t.equal(now.readEntry('k1'), null)
      t.equal(now.entries, 0)
      now.writeEntry('k2', entry('y'))
      t.equal(now.entries, 1)
    }
    t.same(changes('records'), [])
    t.equal(now.get('jobs', 'j1'), 1)
    t.notOk(existsSync(`${path}.corrupt`), 'a cache is not worth keeping')
    t.notMatch(JSON.stringify(events), /cache\.db|tap-testdir/)
  },
)

void t.test('a page that goes bad while it runs is noticed when it is read, and the cache is begun anew', async (t) => {
  const { disk, restart, path, changes } = aDisk(t)
  for (let i = 0; i < 200; i++) disk.writeEntry(`k${i}`, entry(Buffer.alloc(3_000)))
  const now = restart()
  const whole = readFileSync(path)
  whole.fill(0xab, 4_096 * 8)
  writeFileSync(path, whole, { flag: 'r+' })
  for (let i = 0; i < 200; i++) t.equal(now.readEntry(`k${i}`), null)
  t.same(changes('answers'), ['down corrupt', 'up corrupt'])
  now.writeEntry('new', entry('x'))
  t.equal(String(now.readEntry('new')?.body), 'x')
})

void t.test('what is purged while the file is away is not there when it is back', async (t) => {
  const { disk, path, start, clock } = aDisk(t)
  disk.writeEntry('k1', entry('x'))
  disk.close()
  const holder = new DatabaseSync(path)
  holder.exec('BEGIN EXCLUSIVE')
  const now = start()
  t.equal(now.answers, 'down')
  t.equal(now.purge({ scraper: 'a' }), 0)
  t.equal(now.readEntry('k1'), null)
  holder.close()
  await clock.advance(RETRY)
  t.equal(now.answers, 'up')
  t.equal(now.readEntry('k1'), null)
})

// Records

void t.test('an expired or deleted record is not returned, not listed, and leaves the file', async (t) => {
  const { disk, clock, restart, recordsPath } = aDisk(t)
  put(disk, 'short', 1, epoch + 1_000)
  put(disk, 'gone', 2)
  put(disk, 'kept', 3)
  put(disk, 'gone', null)
  put(disk, 'never', null)
  await clock.advance(999)
  t.same(
    [...disk.list('jobs')].map(([key]) => key),
    ['kept', 'short'],
  )
  await clock.advance(1)
  t.equal(disk.get('jobs', 'short'), null)
  t.equal(disk.get('jobs', 'gone'), null)
  t.same([...disk.list('jobs')], [['kept', 3]])
  await clock.advance(60_000)
  disk.close()
  t.same(keysIn(recordsPath), ['kept'])
  const later = restart()
  put(later, 'short', 1, epoch + 100_000)
  later.close()
  await clock.advance(HOUR)
  t.same([...restart().list('jobs')], [['kept', 3]])
})

function keysIn(path: string): unknown[] {
  const db = new DatabaseSync(path)
  const rows = db.prepare('SELECT key FROM records WHERE space <> ?').all('file')
  db.close()
  return rows.map((row) => row['key'])
}

void t.test('sums are added to, by name and number', async (t) => {
  const { disk, restart } = aDisk(t)
  add(disk, 'team', { credits: 3 })
  add(disk, 'team', { credits: 4, requests: 1 })
  add(disk, 'team', { credits: -2 })
  t.same(disk.get('spent', 'team'), { credits: 5, requests: 1 })
  const later = restart()
  add(later, 'team', { credits: 1 })
  t.same(later.get('spent', 'team'), { credits: 6, requests: 1 })
})

void t.test(
  'a folder has one owner: another process waits for its end, and adds what it has spent meanwhile',
  async (t) => {
    const path = join(t.testdir(), 'cache.db')
    const { child, lines } = aProcess(
      t,
      path,
      `disk.put([{ space: 'jobs', key: 'theirs', value: 1, expiresAt: null }, { space: 'jobs', key: 'both', value: 1, expiresAt: null },
       { space: 'spent', key: 'team', add: { credits: 57 }, expiresAt: null }])
     disk.writeEntry('k1', { status: 200, contentType: 't', body: Buffer.from('theirs'), etag: '"1"', storedAt: 0, keptUntil: 1e15, scraper: 'a', promptHash: null, country: null, priceCredits: 3, unclaimed: false })
     say(disk.records)
     process.stdin.on('data', () => {
       disk.put([{ space: 'spent', key: 'team', add: { credits: 1 }, expiresAt: null }])
       disk.close()
       process.exit()
     })`,
    )
    for await (const line of lines) {
      t.equal(line, 'up')
      break
    }
    const { disk, clock, changes } = aDisk(t, { path })
    const reads: unknown[] = []
    disk.onRead(() => reads.push(disk.get('spent', 'team')))
    t.same([disk.records, disk.isRead, disk.answers], ['held', false, 'down'])
    put(disk, 'ours', 2)
    put(disk, 'both', 2)
    put(disk, 'brief', 3)
    put(disk, 'brief', null)
    add(disk, 'team', { credits: 2 })
    t.equal(await disk.secure(), false)
    await clock.advance(10_000)
    t.same(changes('records'), ['down locked'])
    t.same(changes('answers'), [])
    t.same([disk.get('jobs', 'ours'), disk.get('jobs', 'theirs')], [2, null])
    child.stdin?.write('end')
    await once(child, 'exit')
    await clock.advance(1_000)
    t.same(changes('records'), ['down locked', 'up locked'])
    t.same([disk.records, disk.isRead, disk.answers], ['up', true, 'up'])
    t.same(reads, [{ credits: 60 }], 'added, never written over')
    t.same(
      new Map(disk.list('jobs')),
      new Map([
        ['ours', 2],
        ['both', 2],
        ['theirs', 1],
      ]),
    )
    t.equal(String(disk.readEntry('k1')?.body), 'theirs')
    t.equal(await disk.secure(), true)
  },
)

void t.test(
  'records that are damaged are put aside; what can be read of them is saved, and what is being written',
  async (t) => {
    const { disk, restart, recordsPath, changes, clock } = aDisk(t)
    put(disk, 'j1', 1)
    add(disk, 'team', { credits: 5 })
    writeFileSync(recordsPath, 'garbage')
    add(disk, 'team', { credits: 2 })
    await clock.advance(1_000)
    t.same(changes('records'), ['down corrupt', 'up corrupt'])
    t.ok(existsSync(`${recordsPath}.corrupt`))
    t.same([...disk.list('jobs')], [['j1', 1]])
    t.same(disk.get('spent', 'team'), { credits: 7 })
    put(disk, 'j2', 2)
    const later = restart()
    t.same([later.get('jobs', 'j2'), later.get('spent', 'team')], [2, { credits: 7 }])
    for (let i = 0; i < 50; i++) put(later, `long-${i}`, 'x'.repeat(1_000))
    later.close()
    const whole = readFileSync(recordsPath)
    whole.fill(0xab, whole.length - 3 * 4_096)
    writeFileSync(recordsPath, whole)
    const next = restart()
    t.same([next.records, next.isRead], ['up', true])
  },
)

void t.test(
  'a file that is lost while it is used is begun anew, with what could not be written to the old one',
  async (t) => {
    const { disk, recordsPath, restart, changes, clock } = aDisk(t)
    put(disk, 'j1', 1)
    const reads: unknown[] = []
    disk.onRead(() => reads.push(disk.get('jobs', 'j1')))
    rmSync(recordsPath)
    add(disk, 'team', { credits: 2 })
    add(disk, 'team', { credits: 3 })
    put(disk, 'j2', 2)
    put(disk, 'j3', 3)
    put(disk, 'j3', null)
    t.same(
      [disk.records, disk.isRead, disk.get('spent', 'team'), disk.get('jobs', 'j2')],
      ['down', true, { credits: 5 }, 2],
    )
    t.equal(await disk.secure(), false)
    await clock.advance(1_000)
    t.same(changes('records'), ['down io', 'up io'])
    t.same(reads, [null], 'whoever remembers more can write it again')
    t.equal(await disk.secure(), true)
    const later = restart()
    t.same([...later.list('jobs')], [['j2', 2]])
    t.same(later.get('spent', 'team'), { credits: 5 })
  },
)

void t.test('records of a later format are left alone, and are not known', async (t) => {
  const { disk, recordsPath, restart, changes, clock } = aDisk(t)
  put(disk, 'j1', 1)
  disk.close()
  cut(recordsPath, 'PRAGMA user_version = 99')
  const before = readFileSync(recordsPath)
  const later = restart()
  put(later, 'j2', 2)
  await clock.advance(RETRY)
  t.same(changes('records'), ['down format'])
  t.same([later.isRead, later.records, later.answers], [false, 'down', 'up'])
  later.close()
  t.ok(readFileSync(recordsPath).equals(before))
  t.notOk(existsSync(`${recordsPath}.corrupt`))
})

void t.test(
  'of a store of an earlier version the records are imported, once, and the answers thrown away',
  async (t) => {
    const path = join(t.testdir(), 'cache.db')
    oldStore(path)
    const { disk, restart, recordsPath, events } = aDisk(t, { path })
    t.same([...disk.list('jobs')], [['j1', { state: 'pending' }]])
    t.same(disk.get('spent', '2026-01/team'), { credits: 57 })
    t.equal(disk.readEntry('k1'), null)
    add(disk, '2026-01/team', { credits: 3 })
    put(disk, 'j1', null)
    t.same(restart().get('spent', '2026-01/team'), { credits: 60 })
    const last = restart()
    t.same([...last.list('jobs')], [])
    last.close()
    t.same(keysIn(recordsPath), ['2026-01/team'])
    t.same(events, [])
  },
)

void t.test('a store of an earlier version that its process still uses is waited for', async (t) => {
  const path = join(t.testdir(), 'cache.db')
  oldStore(path)
  const holder = new DatabaseSync(path)
  holder.exec('BEGIN EXCLUSIVE')
  const { disk, clock } = aDisk(t, { path })
  t.same([disk.records, disk.isRead], ['held', false])
  add(disk, '2026-01/team', { credits: 3 })
  holder.close()
  await clock.advance(1_000)
  t.same([disk.records, disk.get('spent', '2026-01/team')], ['up', { credits: 60 }])
})

/** As version 0.1 wrote it before answers and records were two files. */
function oldStore(path: string): void {
  const rows = [
    ['jobs', 'j1', '{"state":"pending"}'],
    ['spent', '2026-01/team', '57'],
  ] as const
  cut(
    path,
    `PRAGMA application_id = 0x5371446b; PRAGMA user_version = 1; PRAGMA journal_mode = WAL;
     CREATE TABLE entries (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE) STRICT; INSERT INTO entries (key) VALUES ('k1');
     CREATE TABLE records (
       space TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, expires_at INTEGER, checksum INTEGER NOT NULL,
       PRIMARY KEY (space, key)
     ) STRICT, WITHOUT ROWID;
     ${rows.map(([space, key, text]) => `INSERT INTO records VALUES ('${space}', '${key}', '${text}', NULL, ${crc32(`${space}\n${key}\nnull\n${text}`)});`).join('')}`,
  )
}

// Kill and power cut

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
       disk.put([{ space: 'a', key: 'k' + i, value: { i }, expiresAt: null }, { space: 'b', key: 'last', value: i, expiresAt: null },
         { space: 'c', key: 'sum', add: { n: 1 }, expiresAt: null }])
       disk.writeEntry('k' + i, { status: 200, contentType: 't', body: Buffer.alloc(3000, i), etag: '"' + i + '"', storedAt: 0,
         keptUntil: far, scraper: 'a', promptHash: null, country: null, priceCredits: 3, unclaimed: false })
       say('put ' + i)
       if (i % 10 === 0) await new Promise(setImmediate)
     }`,
  )
  const exited = once(child, 'exit')
  let said = 0
  for await (const line of lines) {
    said = Number(line.split(' ')[1])
    if (said === 3_050) child.kill('SIGKILL')
  }
  await exited
  t.ok(existsSync(`${path}-wal`), 'it had no time to tidy up')
  t.ok(said >= 3_050)
  const { disk, events } = aDisk(t, { path })
  t.same(events, [])
  const all = Array.from({ length: said + 1 }, (_, i) => i)
  t.same(
    all.filter((i) => !disk.get('a', `k${i}`)),
    [],
  )
  const last = Number(disk.get('b', 'last'))
  t.ok(last >= said)
  t.same(disk.get('a', `k${last}`), { i: last }, 'all of one put, or nothing')
  t.same(disk.get('c', 'sum'), { n: last + 1 })
  t.same(
    all.filter((i) => disk.readEntry(`k${i}`)?.body.equals(Buffer.alloc(3_000, i)) !== true),
    [],
  )
})

void t.test('what was secured is there after a power cut, whatever of the log is lost', async (t) => {
  const { path, recordsPath, disk, start } = aDisk(t)
  disk.close()
  const synced: { file: Buffer; log: Buffer }[] = []
  // What a power cut leaves at the least: the log as it was when it was synced last.
  const world = start(MIB, async (log) => void synced.push({ file: readFileSync(recordsPath), log: readFileSync(log) }))
  const names: string[] = []
  for (let i = 0; i < 20; i++) {
    put(world, `held-${i}`, 'x'.repeat(500))
    t.equal(await world.secure(), true)
    names.push(`held-${i}`)
    // Settled, but nobody has asked for a sync: a power cut may bring it back, and it counts as spent then.
    if (i % 3 === 0) put(world, `held-${i}`, null)
    const folder = mkdtempSync(join(tmpdir(), 'power-cut-'))
    t.teardown(() => rmSync(folder, { recursive: true }))
    const { file, log } = synced.at(-1) ?? { file: Buffer.alloc(0), log: Buffer.alloc(0) }
    writeFileSync(join(folder, 'records.db'), file)
    writeFileSync(join(folder, 'records.db-wal'), log)
    const after = aDisk(t, { path: join(folder, basename(path)) })
    t.ok(after.disk.get('jobs', `held-${i}`), `held-${i} is there`)
    t.same(after.events, [])
    after.disk.close()
  }
  t.equal(synced.length, 20)
})

void t.test('those who ask for a sync while one runs share the next one, and each gets what they wrote', async (t) => {
  const running: (() => void)[] = []
  const { disk, start, recordsPath } = aDisk(t)
  disk.close()
  const now = start(MIB, () => new Promise((resolve) => running.push(resolve)))
  put(now, 'first', 1)
  const first = now.secure()
  await new Promise(setImmediate)
  put(now, 'second', 1)
  const others = [now.secure(), now.secure()]
  t.equal(running.length, 1)
  running[0]?.()
  t.equal(await first, true)
  await new Promise(setImmediate)
  t.equal(running.length, 2, 'one for both, begun after they wrote')
  running[1]?.()
  t.same(await Promise.all(others), [true, true])
  t.equal(running.length, 2)
  const refused = start(MIB, async () => {
    throw Object.assign(new Error('no'), { code: 'EIO' })
  })
  t.ok(existsSync(recordsPath))
  t.equal(await refused.secure(), false, 'held by another')
})

void t.test('a log that cannot be synced is trouble, and is told', async (t) => {
  const { disk, start, changes, clock } = aDisk(t)
  disk.close()
  let isSick = true
  const now = start(MIB, async () => {
    if (isSick) throw Object.assign(new Error('no'), { code: 'EIO' })
  })
  put(now, 'j1', 1)
  t.equal(await now.secure(), false)
  t.same(changes('records'), ['down io'])
  isSick = false
  await clock.advance(1_000)
  t.equal(await now.secure(), true)
  t.same(changes('records'), ['down io', 'up io'])
})

// Volumes

/** A volume of its own; null where this user may not mount one. */
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

void t.test('where no file can be, nothing is kept on the disk, and it is said once why', async (t) => {
  const dir = t.testdir({ file: 'x', folder: { 'cache.db': {} } })
  for (const [path, file, because] of [
    [join(dir, 'file', 'cache.db'), 'records', 'io'],
    [join(dir, 'folder', 'cache.db'), 'answers', 'io'],
    // Even the superuser cannot make files there.
    ['/sys/cache.db', 'records', 'read-only'],
  ] as const) {
    const { disk, clock, changes } = aDisk(t, { path })
    put(disk, 'j1', 1)
    disk.writeEntry('k1', entry('x'))
    await clock.advance(3 * RETRY)
    t.same(changes(file), [`down ${because}`])
    t.equal(disk.get('jobs', 'j1'), 1)
    disk.close()
    t.equal(clock.timers, 0)
  }
})

void t.test('what the library and the system call full is full', async (t) => {
  t.equal(troubleOf(Object.assign(new Error('x'), { code: 'ERR_SQLITE_ERROR', errcode: 13 })), 'full')
  t.equal(troubleOf(Object.assign(new Error('x'), { code: 'ENOSPC' })), 'full')
  t.equal(troubleOf(Object.assign(new Error('x'), { code: 'ERR_SQLITE_ERROR', errcode: 10 | (3 << 8) })), 'io')
  t.equal(troubleOf('x'), 'io')
})

void t.test(
  'on a full volume records are still written, into room that was taken before; answers are still read',
  async (t) => {
    const dir = aVolume(t, 6)
    if (!dir) {
      t.pass('no volume can be mounted here')
      return
    }
    const { disk, changes, clock, restart } = aDisk(t, { path: join(dir, 'cache.db') })
    disk.writeEntry('old', entry(Buffer.alloc(10_000)))
    fillUp(join(dir, 'filler'))
    for (let i = 0; i < 300; i++) {
      put(disk, `hold-${i}`, 'x'.repeat(200))
      add(disk, 'team', { credits: 3 })
      if (i > 20) put(disk, `hold-${i - 20}`, null)
      if (i % 50 === 0) t.equal(await disk.secure(), true)
    }
    t.same(changes('records'), [])
    disk.writeEntry('new', entry(Buffer.alloc(100_000)))
    t.same(changes('answers'), ['down full'])
    t.equal(disk.readEntry('old')?.body.length, 10_000)
    rmSync(join(dir, 'filler'))
    await clock.advance(RETRY)
    t.same(changes('answers'), ['down full', 'up full'])
    disk.writeEntry('new', entry(Buffer.alloc(100_000)))
    const later = restart()
    t.equal(later.readEntry('new')?.body.length, 100_000)
    t.same(later.get('spent', 'team'), { credits: 900 })
  },
)

void t.test(
  'a start on a full volume: what is there is read, nothing is secured, and nothing is lost when there is room',
  async (t) => {
    const dir = aVolume(t, 6)
    if (!dir) {
      t.pass('no volume can be mounted here')
      return
    }
    const { disk, changes, clock, restart } = aDisk(t, { path: join(dir, 'cache.db') })
    add(disk, 'team', { credits: 27 })
    put(disk, 'j1', 1)
    disk.close()
    fillUp(join(dir, 'filler'))
    const now = restart()
    t.same([now.isRead, now.get('spent', 'team'), now.get('jobs', 'j1')], [true, { credits: 27 }, 1])
    add(now, 'team', { credits: 3 })
    t.equal(await now.secure(), false)
    t.same([changes('records'), now.records], [['down full'], 'down'])
    rmSync(join(dir, 'filler'))
    await clock.advance(1_000)
    t.same(changes('records'), ['down full', 'up full'])
    t.equal(await now.secure(), true)
    t.same(restart().get('spent', 'team'), { credits: 30 })
  },
)

void t.test('a start on a volume that cannot be written to: what is there is read all the same', async (t) => {
  const dir = aVolume(t, 6)
  if (!dir) {
    t.pass('no volume can be mounted here')
    return
  }
  const folder = join(dir, 'data')
  const { child, lines } = aProcess(
    t,
    join(folder, 'cache.db'),
    `disk.put([{ space: 'spent', key: 'team', add: { credits: 27 }, expiresAt: null }]); say('done'); setInterval(() => {}, 1e6)`,
  )
  for await (const line of lines) {
    t.equal(line, 'done')
    break
  }
  child.kill('SIGKILL')
  await once(child, 'exit')
  execFileSync('mount', ['-o', 'remount,ro', dir])
  const { disk, changes, clock, restart } = aDisk(t, { path: join(folder, 'cache.db') })
  t.same([disk.isRead, disk.records, disk.get('spent', 'team')], [true, 'down', { credits: 27 }])
  t.same(changes('records'), ['down read-only'])
  add(disk, 'team', { credits: 3 })
  t.equal(await disk.secure(), false)
  execFileSync('mount', ['-o', 'remount,rw', dir])
  await clock.advance(RETRY)
  t.same(changes('records'), ['down read-only', 'up read-only'])
  t.equal(disk.answers, 'up')
  t.same(restart().get('spent', 'team'), { credits: 30 })
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
    await clock.advance(disk.answers === 'up' ? 10 : RETRY)
  }
  t.ok(changes('answers').length <= 20, `${changes('answers').length} changes`)
  t.same(changes('records'), [])
  t.equal(disk.answers, 'up')
  disk.writeEntry('last', entry(Buffer.alloc(30_000)))
  t.equal(disk.readEntry('last')?.body.length, 30_000)
  t.ok(sizeOf(path) > 3 * MIB)
})

void t.test('after its end it keeps nothing, waits for nothing and harms nothing', async (t) => {
  const { disk, clock, path, recordsPath } = aDisk(t)
  disk.writeEntry('k1', entry('x'))
  disk.close()
  disk.close()
  t.same(
    [path, recordsPath].filter((file) => existsSync(`${file}-wal`)),
    [],
  )
  disk.writeEntry('k2', entry('x'))
  put(disk, 'j1', 1)
  t.equal(disk.readEntry('k1'), null)
  t.equal(disk.readEntry('k2'), null)
  t.equal(disk.answers, 'down')
  t.equal(clock.timers, 0)
})

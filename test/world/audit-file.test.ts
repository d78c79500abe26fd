/** The audit file, on a real disk and on one that misbehaves: batches, rotation, trouble and recovery, what is lost is told. */
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createAuditFile, type AuditDoor } from '../../src/world/audit-file.ts'
import { fakeWorld } from '../support/world.ts'

function onDisk(t: Test, maxBytes = 1_000_000) {
  const world = fakeWorld()
  const path = join(t.testdir(), 'data', 'audit.ndjson')
  const file = createAuditFile({ path, maxBytes }, world.clock, world.emit)
  return { ...world, file, path, read: (end = '') => readFileSync(path + end, 'utf8') }
}

/** A disk in memory, with as much trouble as a test wants. */
function inMemory() {
  const world = fakeWorld()
  const disk = { text: '', trouble: null as string | null, appends: 0, hold: null as Promise<void> | null }
  const door: AuditDoor = {
    async append(_path, text) {
      disk.appends += 1
      if (disk.hold) await disk.hold
      if (disk.trouble) throw Object.assign(new Error('no'), { code: disk.trouble })
      disk.text += text
      return disk.text.length
    },
    rename: async () => undefined,
    sizeOf: async () => disk.text.length,
  }
  const file = createAuditFile({ path: 'audit', maxBytes: 1e9 }, world.clock, world.emit, door)
  return { ...world, file, disk }
}

void t.test('lines are gathered, and are there a moment later, for their owner only', async (t) => {
  const { file, clock, path, read } = onDisk(t)
  for (let n = 0; n < 3; n += 1) file.append(`{"n":${n}}\n`)
  t.notOk(existsSync(path), 'nothing happens on the way of a request')
  t.equal(clock.timers, 1)
  await file.flush()
  t.equal(read(), '{"n":0}\n{"n":1}\n{"n":2}\n')
  t.equal(statSync(path).mode & 0o777, 0o600)
  t.equal(statSync(join(path, '..')).mode & 0o777, 0o700)
  t.equal(clock.timers, 0)
  await file.flush()
  file.append('{"last":true}\n')
  await file.close()
  t.match(read(), /"last":true}\n$/)
  file.append('too late\n')
  await file.close()
  t.notMatch(read(), 'too late')
  t.equal(clock.timers, 0)
})

void t.test('at its limit the file becomes .1, and no line is lost between the two', async (t) => {
  const { file, read, path } = onDisk(t, 100)
  const line = `${'x'.repeat(39)}\n`
  for (let n = 0; n < 5; n += 1) {
    file.append(line)
    await file.flush()
  }
  t.equal(read('.1').length, 80)
  t.equal(read().length, 40)
  t.notOk(existsSync(`${path}.2`))
  await file.close()
})

void t.test('the next process goes on, on a new line where the last one was cut off', async (t) => {
  const { file, path, read } = onDisk(t)
  mkdirSync(join(path, '..'), { recursive: true })
  writeFileSync(path, '{"whole":1}\n{"half":')
  file.append('{"n":1}\n')
  await file.flush()
  t.equal(read(), '{"whole":1}\n{"half":\n{"n":1}\n')
  file.append('{"n":2}\n')
  await file.close()
  t.match(read(), /"n":1}\n{"n":2}\n$/)
})

void t.test('who moves the file away gets a new one', async (t) => {
  const { file, path, read } = onDisk(t)
  file.append('one\n')
  await file.flush()
  rmSync(path)
  file.append('two\n')
  await file.close()
  t.equal(read(), 'two\n')
})

void t.test('what is in the way is told once, nothing hangs, and all is written when it is gone', async (t) => {
  const { file, path, told, clock, read } = onDisk(t)
  writeFileSync(join(path, '..'), 'a file where the folder should be')
  file.append('one\n')
  await file.flush()
  file.append('two\n')
  await file.flush()
  t.match(told('audit-changed'), [{ to: 'down', because: 'path' }])
  t.equal(told('audit-changed').length, 1)
  t.equal(clock.timers, 1, 'it tries again by itself')
  rmSync(join(path, '..'))
  await file.flush()
  t.match(told('audit-changed')[1], { to: 'up', because: 'path', lostLines: 0 })
  t.equal(read(), 'one\ntwo\n')

  rmSync(path)
  execFileSync('mkfifo', [path])
  file.append('three\n')
  await file.flush()
  t.match(told('audit-changed')[2], { to: 'down', because: 'path' }, 'a pipe nobody reads from does not hang it')
  await file.close()
  t.equal(clock.timers, 0)
  chmodSync(path, 0o600)
})

void t.test('on a full disk lines wait, up to a limit; the newest are given up and counted', async (t) => {
  const { file, disk, told, clock } = inMemory()
  disk.trouble = 'ENOSPC'
  const line = `${'x'.repeat(65_535)}\n`
  file.append(line)
  await clock.advance(250)
  for (let n = 0; n < 199; n += 1) file.append(line)
  t.match(told('audit-changed'), [{ to: 'down', because: 'full' }])
  const triesBefore = disk.appends
  await clock.advance(20_000)
  t.equal(disk.appends - triesBefore, 4, 'tried every five seconds')
  disk.trouble = null
  await clock.advance(5_000)
  t.match(told('audit-changed')[1], { to: 'up', because: 'full', lostLines: 72 })
  t.equal(disk.text.length, 128 * line.length, 'what was kept is whole')
  file.append('after\n')
  await file.close()
  t.match(disk.text, /after\n$/)
})

void t.test('a disk that is too slow is told, too, and does not fill the memory', async (t) => {
  const { file, disk, told, clock } = inMemory()
  const { promise, resolve } = Promise.withResolvers<void>()
  disk.hold = promise
  const line = `${'x'.repeat(65_535)}\n`
  for (let n = 0; n < 130; n += 1) file.append(line)
  t.match(told('audit-changed'), [{ to: 'down', because: 'slow' }])
  disk.hold = null
  resolve()
  await clock.settle()
  t.match(told('audit-changed')[1], { to: 'up', lostLines: 2 })
  t.equal(disk.text.length, 128 * line.length)
  await file.close()
})

void t.test('every kind of trouble has a name', async (t) => {
  for (const [code, because] of [
    ['EROFS', 'read-only'],
    ['EACCES', 'read-only'],
    ['EFBIG', 'full'],
    ['EIO', 'io'],
  ] as const) {
    const { file, disk, told } = inMemory()
    disk.trouble = code
    file.append('x\n')
    await file.flush()
    t.match(told('audit-changed'), [{ to: 'down', because }])
    await file.close()
  }
})

void t.test('a batch that got in by half is taken back', async (t) => {
  const { file, path, read, told } = onDisk(t)
  file.append('one\n')
  await file.flush()
  // The kernel itself refuses what is beyond the size that a process may write.
  const code = `
    const { createAuditFile } = await import(${JSON.stringify(new URL('../../src/world/audit-file.ts', import.meta.url).href)})
    const clock = { now: () => 0, wall: () => 0, after: () => ({ cancel() {} }) }
    const file = createAuditFile({ path: ${JSON.stringify(path)}, maxBytes: 1e9 }, clock, (event) => console.log(JSON.stringify(event)))
    file.append('x'.repeat(100_000) + '\\n')
    await file.close()`
  // What measures coverage writes files of its own, which the limit would hit as well.
  const limited = [
    '-c',
    'unset NODE_V8_COVERAGE NODE_OPTIONS; ulimit -f 50; exec "$0" --input-type=module -e "$1"',
    process.execPath,
    code,
  ]
  const said = execFileSync('/bin/bash', limited, { encoding: 'utf8' })
  t.match(JSON.parse(said), { to: 'down', because: 'full' })
  t.equal(read(), 'one\n')
  t.same(told('audit-changed'), [])
  await file.close()
})

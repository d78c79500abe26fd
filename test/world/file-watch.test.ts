/** A watched file over a real folder: everything that may happen to a mounted secret, seen at the next look. */
import { mkdirSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { execFileSync } from 'node:child_process'
import t, { type Test } from 'tap'
import { watchFile } from '../../src/world/file-watch.ts'
import { fakeClock } from '../support/world.ts'

const look = 5_000

function stage(t: Test, before: (folder: string) => void = () => {}, name = 'secret') {
  const folder = t.testdir({})
  before(folder)
  const clock = fakeClock()
  const seen: (string | null)[] = []
  const watch = watchFile(join(folder, name), clock, (text) => seen.push(text))
  t.teardown(() => watch.close())
  /** What is told at the next look. */
  async function next(): Promise<(string | null)[]> {
    seen.length = 0
    await clock.advance(look)
    return [...seen]
  }
  return { folder, path: join(folder, name), clock, watch, seen, next }
}

void t.test('It tells what the file holds, and after that only what is new', async (t) => {
  const { path, seen, next } = stage(t, (folder) => writeFileSync(join(folder, 'secret'), 'one'))
  t.strictSame(seen, ['one'])
  t.strictSame(await next(), [])
  writeFileSync(path, 'two')
  t.strictSame(await next(), ['two'], 'as long as before, within the same moment')
  writeFileSync(path, 'two')
  t.strictSame(await next(), [], 'written again')
  writeFileSync(`${path}.new`, 'three')
  renameSync(`${path}.new`, path)
  t.strictSame(await next(), ['three'], 'renamed into place')
})

void t.test('A link that is swapped, as Kubernetes does with a mounted secret', async (t) => {
  const { folder, seen, next } = stage(t, (folder) => {
    mkdirSync(join(folder, '..1'))
    writeFileSync(join(folder, '..1', 'secret'), 'first')
    symlinkSync('..1', join(folder, '..data'))
    symlinkSync('..data/secret', join(folder, 'secret'))
  })
  t.strictSame(seen, ['first'])
  mkdirSync(join(folder, '..2'))
  writeFileSync(join(folder, '..2', 'secret'), 'other')
  symlinkSync('..2', join(folder, '..data_tmp'))
  renameSync(join(folder, '..data_tmp'), join(folder, '..data'))
  rmSync(join(folder, '..1'), { recursive: true })
  t.strictSame(await next(), ['other'])
})

void t.test('A file that goes is told once, and so is its return', async (t) => {
  const { path, seen, next } = stage(t)
  t.strictSame(seen, [null], 'not there yet')
  t.strictSame(await next(), [])
  writeFileSync(path, 'here')
  t.strictSame(await next(), ['here'])
  unlinkSync(path)
  t.strictSame(await next(), [null])
  mkdirSync(path)
  t.strictSame(await next(), [], 'a folder is no better')
  rmSync(path, { recursive: true })
  writeFileSync(path, 'x'.repeat(1_048_577))
  t.strictSame(await next(), [], 'nor is what can be neither a secret nor settings by its size')
  writeFileSync(path, '')
  t.strictSame(await next(), [''])
})

void t.test('A pipe is not waited for', async (t) => {
  const { seen, next } = stage(t, (folder) => void execFileSync('mkfifo', [join(folder, 'secret')]))
  t.strictSame(seen, [])
  t.strictSame(await next(), [])
})

void t.test('After the end it looks no more, whoever ends it', async (t) => {
  const { path, clock, watch, next } = stage(t, (folder) => writeFileSync(join(folder, 'secret'), 'one'))
  watch.close()
  writeFileSync(path, 'two')
  t.strictSame(await next(), [])
  t.equal(clock.timers, 0)

  const own = watchFile(path, clock, (text) => text === 'three' && own.close())
  writeFileSync(path, 'three')
  await clock.advance(look)
  t.equal(clock.timers, 0, 'from within')
})

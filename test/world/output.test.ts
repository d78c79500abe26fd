/** Standard output as a process has it: a pipe whose reader takes its time, or goes; a disk without room. */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, constants, openSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { createOutput } from '../../src/world/output.ts'

const output = new URL('../../src/world/output.ts', import.meta.url).href

void t.test('output: a reader who pauses does not stop the process', async (t) => {
  const script = `
    import { createStdout } from ${JSON.stringify(output)}
    const { write } = createStdout()
    for (let line = 0; line < 4_096; line += 1) write('x'.repeat(1_023) + '\\n')
    process.stderr.write('goes on')
    process.stdin.on('end', () => process.exit()).resume()`
  // Where it is stopped, it is ended, and has not said that it goes on.
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { timeout: 20_000 })
  const [said] = (await Promise.race([once(child.stderr, 'data'), once(child, 'exit')])) as [unknown]
  t.equal(String(said), 'goes on')
  const read = text(child.stdout)
  child.stdin.end()
  await read
})

/** A pipe of the kernel's that holds 64 KiB, and retries that wait until a test calls them. */
function createPipe(t: Test) {
  const path = join(t.testdir(), 'pipe')
  execFileSync('mkfifo', [path])
  const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  const writer = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK)
  const retries: (() => void)[] = []
  const output = createOutput(writer, (_ms, job) => retries.push(job))
  const decoder = new TextDecoder()
  /** What is in it by now. */
  function read(): string {
    const bytes = Buffer.alloc(1024 * 1024)
    try {
      return decoder.decode(bytes.subarray(0, readSync(reader, bytes)), { stream: true })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return ''
      throw error
    }
  }
  return { output, retries, read, close: () => closeSync(reader) }
}

function numbered(count: number): string[] {
  return Array.from({ length: count }, (_, n) => `${String(n).padStart(6)} ${'ü'.repeat(120)}\n`)
}

void t.test('output: a line is out when the call returns', async (t) => {
  const { output, read } = createPipe(t)
  output.write('one\n')
  t.equal(read(), 'one\n')
})

void t.test('output: lines wait for a full pipe; all arrive, whole and in order', async (t) => {
  const { output, retries, read } = createPipe(t)
  const lines = numbered(2_000)
  for (const line of lines) output.write(line)
  t.equal(retries.length, 1, 'one retry at a time')
  let all = read()
  t.ok(all.length < lines.join('').length)
  output.flush()
  all += read()
  t.ok(all.length > 65_536 / 2, 'a flush does not wait for the retry')
  for (let retry = retries.shift(); retry; retry = retries.shift()) {
    retry()
    all += read()
  }
  t.equal(all, lines.join(''))
})

void t.test('output: beyond its limit lines are lost, and it reports how many', async (t) => {
  const { output, retries, read } = createPipe(t)
  const line = `${'x'.repeat(1024 * 1024 - 1)}\n`
  for (let n = 0; n < 8; n += 1) output.write(line)
  output.write(`${line}lost, too\n`)
  let all = ''
  for (let retry = retries.shift(); retry; retry = retries.shift()) {
    retry()
    all += read()
  }
  await new Promise((resolve) => process.nextTick(resolve))
  all += read()
  t.ok(all.startsWith(line.repeat(8)), 'all others are there')
  const { time, ...rest } = JSON.parse(all.slice(8 * line.length)) as { time: string }
  t.strictSame(rest, { level: 'warn', msg: 'log lines lost', lines: 2 })
  t.equal(new Date(time).toISOString(), time)
})

void t.test('output: a full disk throws nothing, and the end of the process does not wait for it', async (t) => {
  const output = createOutput(openSync('/dev/full', 'w'), () => t.fail('no retry by the clock'))
  output.write('one\n')
  output.write('two\n')
  output.flush()
})

void t.test('output: once the reader has gone, lines are dropped quietly', async (t) => {
  const { output, retries, close } = createPipe(t)
  close()
  output.write('one\n')
  output.write('two\n')
  output.flush()
  t.equal(retries.length, 0)
})

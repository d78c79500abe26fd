/** Standard output as a process has it: a pipe whose reader takes its time. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import t from 'tap'

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

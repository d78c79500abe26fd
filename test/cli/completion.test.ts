/** What the shells are told: bash for real, the others as far as their text goes. */
import { spawnSync } from 'node:child_process'
import t, { type Test } from 'tap'
import { commands } from '../../src/cli/commands.ts'
import { runCompletion } from '../../src/cli/completion.ts'
import { settingNames } from '../../src/config/describe.ts'

async function scriptFor(operand: string): Promise<string> {
  let text = ''
  await runCompletion({ operand }, { stdout: (more) => (text += more) })
  return text
}

/** What bash offers for the last of these words. */
async function offered(t: Test, words: readonly string[]): Promise<string[]> {
  const script = await scriptFor('bash')
  const line = words.map((word) => `'${word}'`).join(' ')
  const call = `COMP_WORDS=(scrapellm-proxy ${line}); COMP_CWORD=${words.length}; _scrapellm_proxy; printf '%s\\n' "\${COMPREPLY[@]}"`
  const cwd = t.testdir({ 'my settings.yaml': '', 'my.yaml': '', other: {} })
  // Not interactive: what it may not set then is not what is tested.
  const { status, stdout } = spawnSync('bash', ['-c', `${script}\n${call}`], { cwd, encoding: 'utf8' })
  t.equal(status, 0)
  return stdout.trim().split('\n')
}

void t.test('bash completes commands, options, files, settings and shells', async (t) => {
  t.match(await offered(t, ['']), [...Object.keys(commands), '--config', '--set'])
  t.strictSame(await offered(t, ['che']), ['check'])
  t.strictSame(await offered(t, ['check', '--']), ['--config', '--set', '--help', '--version'])
  t.strictSame(await offered(t, ['replay', '--ou']), ['--outage', '--outage-at'])
  t.strictSame(await offered(t, ['token', '--s']), [''])
  t.strictSame(await offered(t, ['completion', '']), ['bash', 'zsh', 'fish', '--help', '--version'])
  t.strictSame((await offered(t, ['check', '--config', 'my'])).toSorted(), ['my settings.yaml', 'my.yaml'])
  t.strictSame(await offered(t, ['--config', '=', 'my.']), ['my.yaml'])
  t.strictSame(await offered(t, ['--set', 'cache.t']), ['cache.ttl='])
  t.strictSame(await offered(t, ['--set', '=', 'listen.p']), ['listen.port='])
  t.strictSame(await offered(t, ['demo', '--port', '']), [''])
  t.strictSame(await offered(t, ['--config', 'my.yaml', 'doc']), ['doctor'])
})

void t.test('every shell is told every command, option and setting', async (t) => {
  t.ok(settingNames().length > 50)
  for (const shell of ['bash', 'zsh', 'fish']) {
    const script = await scriptFor(shell)
    for (const word of [...Object.keys(commands), 'failure-rate', ...settingNames().map((name) => `${name}=`)])
      t.ok(script.includes(word), `${shell}: ${word}`)
  }
  t.equal(await runCompletion({ operand: 'cmd' }, { stdout: (text) => t.fail(text) }), 1)
})

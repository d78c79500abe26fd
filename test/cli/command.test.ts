/** The commands, called as `main` calls them: what they print, where, and with which exit code. */
import { spawn } from 'node:child_process'
import { hash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import t from 'tap'
import { parse } from 'yaml'
import { parseCommandLine } from '../../src/cli/args.ts'
import { runCheck } from '../../src/cli/check.ts'
import { commands, optionsOf } from '../../src/cli/commands.ts'
import { helpText } from '../../src/cli/help.ts'
import type { Io } from '../../src/cli/io.ts'
import { runSchema } from '../../src/cli/schema.ts'
import { defaultFile } from '../../src/cli/settings.ts'
import { runToken } from '../../src/cli/token.ts'
import { runTrace } from '../../src/cli/trace.ts'
import { root, start } from '../support/process.ts'
import { readSettings, withoutKey } from '../../src/cli/settings.ts'
import { aProxy } from '../support/proxy.ts'

const noFiles: Readonly<Record<string, string>> = {}

function terminal(
  files = noFiles,
  environment: Record<string, string> = { SCRAPELLM_API_KEY: 'upstream-key-of-the-tests' },
) {
  const out: string[] = []
  const err: string[] = []
  const io: Io = {
    stdout: (text) => void out.push(text),
    stderr: (text) => void err.push(text),
    environment,
    readFile: (path) => {
      const text = files[path]
      if (text === undefined) throw Object.assign(new Error('gone'), { code: 'ENOENT' })
      return text
    },
    cwd: '/somewhere',
    randomBytes: (count) => new Uint8Array(count).fill(255),
  }
  return { io, out: () => out.join(''), err: () => err.join('') }
}

void t.test('commands that make no paid call need no key, and an empty one is none', async (t) => {
  const files = { '/somewhere/some.yaml': 'log: { level: warn }' }
  for (const environment of [{}, { SCRAPELLM_API_KEY: '' }]) {
    const { io } = terminal(files, environment)
    const wanted = { configs: ['some.yaml'], sets: [] }
    t.throws(() => readSettings(wanted, io), { message: /SCRAPELLM_API_KEY is not set/ })
    t.equal(readSettings(wanted, withoutKey(io)).config.log.level, 'warn')
  }
})

void t.test('the command line', async (t) => {
  const run = { kind: 'run', command: 'serve', operand: null, configs: [], sets: [], port: null, quiet: false }
  const rows: [string[], object][] = [
    [[], run],
    [
      ['serve', '--config', 'a.yaml', '--config=b.yaml', '--set', 'log.level=debug'],
      { ...run, configs: ['a.yaml', 'b.yaml'], sets: ['log.level=debug'] },
    ],
    [['--set=listen.port=0'], { ...run, sets: ['listen.port=0'] }],
    [['check', '--config', 'a.yaml'], { ...run, command: 'check', configs: ['a.yaml'] }],
    [['token', 'search-team'], { ...run, command: 'token', operand: 'search-team' }],
    [['simulator', '--port', '0'], { ...run, command: 'simulator', port: 0 }],
    [['demo', '--quiet'], { ...run, command: 'demo', quiet: true }],
    [['--help'], { kind: 'help', command: null }],
    [['help'], { kind: 'help', command: null }],
    [['check', '-h'], { kind: 'help', command: 'check' }],
    [['token', '--help'], { kind: 'help', command: 'token' }],
    [['help', 'replay'], { kind: 'help', command: 'replay' }],
    [['help', 'chekc'], { kind: 'wrong', message: /did you mean "check"/ }],
    [['--version'], { kind: 'version' }],
    [['chekc'], { kind: 'wrong', message: 'unknown command "chekc"; did you mean "check"?' }],
    [
      ['dance'],
      {
        kind: 'wrong',
        message:
          'unknown command "dance"; known are serve, check, doctor, schema, report, trace, token, simulator, demo, replay',
      },
    ],
    [['--confg', 'a.yaml'], { kind: 'wrong', message: 'unknown option "--confg"; did you mean "--config"?' }],
    [['--config'], { kind: 'wrong', message: '--config needs a value: --config FILE' }],
    [['demo', '--quiet=yes'], { kind: 'wrong', message: '--quiet takes no value' }],
    [['demo', '--port', '99999'], { kind: 'wrong', message: '--port needs a whole number from 0 to 65535' }],
    [['token'], { kind: 'wrong', message: 'token needs a NAME: scrapellm-proxy token NAME' }],
    [['check', 'a.yaml'], { kind: 'wrong', message: 'check takes no argument; "a.yaml" is too many' }],
    [['schema', '--port', '1'], { kind: 'wrong', message: '--port is not an option of schema, which has none' }],
    [['toString'], { kind: 'wrong' }],
  ]
  for (const [words, wanted] of rows) t.match(parseCommandLine(words), wanted, words.join(' ') || '(nothing)')
  t.match(parseCommandLine(['check', '--port', '1']), { message: /of check, which has --config, --set$/ })
  for (const name of [
    'serve',
    'check',
    'schema',
    'token NAME',
    'simulator',
    'demo',
    '--config FILE',
    '--set path=value',
  ])
    t.match(helpText(null), name)
})

void t.test('each command has a help of its own', async (t) => {
  for (const command of Object.keys(commands) as (keyof typeof commands)[]) {
    const text = helpText(command)
    t.match(text, `scrapellm-proxy ${command}`)
    t.match(text, commands[command].help)
    const listed = [...text.matchAll(/^ {2}--([\w-]+)/gm)].map(([, name]) => name)
    t.strictSame(
      listed,
      optionsOf(command).map(([name]) => name),
      command,
    )
  }
})

void t.test('check says ok and what is in effect, without secrets', async (t) => {
  const { io, out, err } = terminal({
    '/somewhere/my.yaml': 'listen: { port: 81 }\ncache: { ttl: 30h }',
    '/etc/more.yaml': 'log: { level: warn }',
  })
  t.equal(await runCheck({ configs: ['my.yaml', '/etc/more.yaml'], sets: ['listen.port=82'] }, io), 0)
  const [first, ...rest] = out().split('\n')
  t.equal(first, 'ok')
  t.match(parse(rest.join('\n')), { listen: { port: 82 }, log: { level: 'warn' }, cache: { ttl: '30h' } })
  t.notMatch(out(), 'upstream-key-of')
  t.match(err(), /^warning: cache\.ttl/)
})

void t.test('check says every mistake at once, with exit code 78', async (t) => {
  const { io, out, err } = terminal({ '/somewhere/my.yaml': 'listen: { prot: 81 }\ncache: { ttl: 3 }' })
  t.equal(await runCheck({ configs: ['my.yaml'], sets: [] }, io), 78)
  t.equal(out(), '')
  t.strictSame(
    err()
      .trim()
      .split('\n')
      .map((line) => line.split(':')[0]),
    ['listen.prot', 'cache.ttl'],
  )
})

void t.test('colours are for terminals that want them', async (t) => {
  const rows: [string[], boolean][] = [
    [[], false],
    [['NO_COLOR=1'], false],
    [['FORCE_COLOR=1'], true],
  ]
  for (const [environment, isColoured] of rows) {
    const command = [process.execPath, join(root, 'src/main.ts'), 'doctor', '--set', 'cahce.ttl=1h']
    const words = ['-u', 'NO_COLOR', '-u', 'FORCE_COLOR', ...environment, ...command]
    const { code, stdout } = await start(t, 'env', words).ended
    t.equal(code, 78)
    t.equal(stdout.includes('\u001B['), isColoured, environment.join())
  }
})

void t.test('a file that is not there is a mistake, too', async (t) => {
  const { io, err } = terminal()
  t.equal(await runCheck({ configs: ['my.yaml', 'other.yaml'], sets: [] }, io), 78)
  t.equal(err(), 'my.yaml: cannot be read (no such file)\nother.yaml: cannot be read (no such file)\n')
})

void t.test('without --config, the packaged settings are used, from whatever folder', async (t) => {
  t.ok(existsSync(defaultFile))
  const { io, out } = terminal({ [defaultFile]: 'listen: { port: 83 }' })
  t.equal(await runCheck({ configs: [], sets: [] }, io), 0)
  t.match(out(), /port: 83/)
})

void t.test('without an upstream key there is one message, and it knows the way out', async (t) => {
  const { io, err } = terminal({ [defaultFile]: 'listen: { port: 83 }' }, {})
  t.equal(await runCheck({ configs: [], sets: [] }, io), 78)
  t.match(err(), /^[^\n]*export SCRAPELLM_API_KEY=[^\n]*npm run demo[^\n]*\n$/)
})

void t.test('schema prints the JSON Schema', async (t) => {
  const { io, out } = terminal()
  t.equal(await runSchema({}, io), 0)
  t.match(JSON.parse(out()), { type: 'object', properties: { listen: {}, clients: {} }, additionalProperties: false })
})

void t.test('token makes a token that the lines it prints let in', async (t) => {
  const { io, out } = terminal()
  t.equal(await runToken({ name: 'search-team' }, io), 0)
  const [token = ''] = /slp_[\w-]{32}$/m.exec(out()) ?? []
  t.ok(token)
  const lines = out().slice(out().indexOf('clients:'))
  t.match(lines, hash('sha256', token))
  t.notMatch(lines, token)

  const { io: second, out: checked } = terminal({ '/somewhere/my.yaml': lines })
  t.equal(await runCheck({ configs: ['my.yaml'], sets: [] }, second), 0)
  t.match(checked(), /search-team/)
})

void t.test('token refuses a name that no client can have', async (t) => {
  for (const name of ['search team', 'anonymous', '']) {
    const { io, out, err } = terminal()
    t.equal(await runToken({ name }, io), 1)
    t.equal(out(), '')
    t.match(err(), /cannot be a client's name|choose another name/)
  }
})

void t.test('trace shows what became of a request, and needs the admin token but no upstream key', async (t) => {
  const { ask, adminUrl, app } = await aProxy(t, 'admin: { token: admin-token-of-the-tests }')
  await ask('one', { headers: { 'x-request-id': 'mine' } })
  const set = (...more: string[]) => [`admin.port=${new URL(adminUrl).port}`, ...more]
  const token = 'admin.token=admin-token-of-the-tests'
  const trace = async (id: string, sets: readonly string[]) => {
    const { io, out, err } = terminal({ [defaultFile]: 'log: { level: info }' }, {})
    return { code: await runTrace({ id, configs: [], sets }, io), out: out(), err: err() }
  }
  t.match(await trace('mine', set(token)), {
    code: 0,
    out: /^Request mine\n  Came .*\n\nAttempt .*\n1 .* ok 200 +main +3 +answered\n$/s,
    err: '',
  })
  t.match(await trace('../status?', set(token)), {
    code: 1,
    out: '',
    err: /^There is no trail of such a request: [^\n]*\n$/,
  })
  t.match(await trace('mine', set()), { code: 1, out: '', err: 'The admin token is missing or wrong.\n' })
  app.hurry()
  await app.close()
  t.match(await trace('mine', set(token)), { code: 1, out: '', err: /^No proxy answers at 127\.0\.0\.1:\d+: / })
})

void t.test('a long text reaches a reader that is slow', async (t) => {
  const child = spawn(process.execPath, [join(root, 'src/main.ts'), 'schema'], { stdio: ['ignore', 'pipe', 'inherit'] })
  // The pipe is full before the first byte is read.
  await once(child.stdout, 'readable')
  t.match(JSON.parse(await text(child.stdout)), { type: 'object' })
})

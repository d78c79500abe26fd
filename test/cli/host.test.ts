/** The process among others: signals at any moment, a terminal that is closed, a supervisor that wants to be told. */
import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { once } from 'node:events'
import { connect } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { root, runProgram, start, startProgram, startProxy } from '../support/process.ts'
import { request } from '../support/proxy.ts'

const UPSTREAM = 'http://127.0.0.1:9'
const sets = ['listen.port=0', 'admin.port=0', `upstream.url=${UPSTREAM}`].flatMap((one) => ['--set', one])
const SCRAPELLM_API_KEY = 'upstream-key-of-the-tests'

/** As the value of NODE_OPTIONS: a module that is loaded before the program. */
function preload(source: string): string {
  return `--import=data:text/javascript,${encodeURIComponent(source)}`
}

void t.test('SIGHUP while the program is being loaded is a reload once it listens', async (t) => {
  const signalWhileLoading = `
    import { registerHooks } from 'node:module'
    registerHooks({
      load(url, context, next) {
        if (url.endsWith('/compose.ts')) process.kill(process.pid, 'SIGHUP')
        return next(url, context)
      },
    })`
  const program = startProgram(t, sets, {
    environment: { SCRAPELLM_API_KEY, NODE_OPTIONS: preload(signalWhileLoading) },
  })
  await program.saw(/"msg":"listening"[^]*"because":"SIGHUP".*"msg":"settings reloaded"/)
  program.signal('SIGTERM')
  t.match(await program.ended, { code: 0, stderr: '' })
})

void t.test('SIGUSR1 opens no inspector, SIGUSR2 ends nothing, SIGQUIT drains', async (t) => {
  const proxy = await startProxy(t, UPSTREAM)
  proxy.signal('SIGUSR1')
  proxy.signal('SIGUSR2')
  t.equal((await request(undefined, `${proxy.adminUrl}/healthz`)).status, 200)
  proxy.signal('SIGQUIT')
  t.match(await proxy.ended, { code: 0, stderr: '' })
  t.match(proxy.stdout(), /"reason":"SIGQUIT","msg":"draining"/)
})

void t.test('a closed terminal ends it; SIGHUP with the terminal still there is a reload', async (t) => {
  const command = [process.execPath, join(root, 'src/main.ts'), ...sets].map((one) => `'${one}'`).join(' ')
  const terminal = start(t, 'script', ['--quiet', '--flush', '--command', `exec ${command}`, '/dev/null'], {
    environment: { SCRAPELLM_API_KEY },
  })
  const [line] = await terminal.saw(/\{.*"msg":"listening".*\}/)
  const { admin_url: adminUrl } = JSON.parse(line) as { admin_url: string }
  const children = readFileSync(`/proc/${terminal.pid()}/task/${terminal.pid()}/children`, 'utf8')
  process.kill(Number(children), 'SIGHUP')
  await terminal.saw(/"msg":"settings reloaded"/)

  const port = Number(new URL(adminUrl).port)
  const socket = connect(port, '127.0.0.1')
  await once(socket, 'connect')
  socket.resume()
  terminal.signal('SIGKILL')
  await once(socket, 'close')
  await t.rejects(once(connect(port, '127.0.0.1'), 'connect'), { code: 'ECONNREFUSED' }, 'nobody holds the port')
})

void t.test(
  'systemd is told in order: ready, ready again after a reload with what became of it, stopping',
  async (t) => {
    const folder = t.testdir({ 'my.yaml': '' })
    const told = join(folder, 'told')
    writeFileSync(join(folder, 'my.yaml'), 'log: { level: info }\n')
    writeFileSync(join(folder, 'systemd-notify'), `#!/bin/sh\nprintf '%s\\n' "$@" >> ${told}\n`)
    chmodSync(join(folder, 'systemd-notify'), 0o755)
    const program = startProgram(t, ['--config', join(folder, 'my.yaml'), ...sets], {
      environment: { SCRAPELLM_API_KEY, NOTIFY_SOCKET: '/unused', PATH: `${folder}:${process.env['PATH']}` },
    })
    await program.saw(/"msg":"listening"/)
    writeFileSync(join(folder, 'my.yaml'), 'log: { levle: info }\n')
    program.signal('SIGHUP')
    await program.saw(/"msg":"settings not reloaded"/)
    program.signal('SIGTERM')
    t.match(await program.ended, { code: 0, stderr: '' })
    const lines = readFileSync(told, 'utf8').trim().split('\n')
    t.match(lines, [
      'READY=1',
      /^STATUS=Listening on http:\/\/127\.0\.0\.1:\d+\.$/,
      'READY=1',
      /^STATUS=Settings not reloaded, generation 1 stays in force: log\.levle: unknown key; did you mean "level"\?/,
      'STOPPING=1',
      /^STATUS=Draining/,
    ])
  },
)

void t.test('a systemd that cannot be told is a warning', async (t) => {
  const program = startProgram(t, sets, {
    environment: { SCRAPELLM_API_KEY, NOTIFY_SOCKET: '/nowhere', PATH: t.testdir() },
  })
  await program.saw(/"level":"warn".*"msg":"systemd could not be notified"/)
  program.signal('SIGTERM')
  t.match(await program.ended, { code: 0, stderr: '' })
})

void t.test('an older Node gets a sentence, not a stack', async (t) => {
  const older = preload(`Object.defineProperty(process.versions, 'node', { value: '20.20.2' })`)
  const { code, stdout, stderr } = await runProgram(t, ['--version'], { environment: { NODE_OPTIONS: older } })
  t.equal(code, 78)
  t.equal(stdout, '')
  t.match(stderr, /^scrapellm-proxy needs Node\.js 22\.19 or later; this is 20\.20\.2\. Install [^\n]+\n$/)
})

void t.test('a host to listen on that does not exist gets a sentence, not a stack', async (t) => {
  const { code, stderr } = await runProgram(
    t,
    [...sets, '--set', 'listen.host=nowhere.invalid', '--set', 'clients={ team: { token: a-token-of-the-tests } }'],
    { environment: { SCRAPELLM_API_KEY } },
  )
  t.equal(code, 78)
  t.match(stderr, /^Cannot listen on "nowhere\.invalid": there is no such host\. Set listen\.host [^\n]+\n$/)
})

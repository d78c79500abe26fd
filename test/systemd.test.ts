/** The shipped unit under a real systemd: a boot, reloads, a crash, wrong settings, a stop with an open call. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createSimulator, instant } from '../src/simulator/simulator.ts'
import { root, start } from './support/process.ts'
import { request } from './support/proxy.ts'
import { aSystemd, whyNoSystemd } from './support/systemd.ts'

const NAME = 'scrapellm-proxy.service'

/** With the paths of the mounts below: Node takes no TypeScript from a folder `node_modules`. */
function shippedUnit(): string {
  return readFileSync(join(root, 'deploy/systemd', NAME), 'utf8')
    .replaceAll('/usr/bin/node', '/opt/node')
    .replaceAll('/opt/scrapellm-proxy/lib/node_modules/scrapellm-proxy/dist/main.js', '/opt/source/src/main.ts')
    .replaceAll('/etc/scrapellm-proxy', '/opt/etc')
}

void t.test('the unit lives through all that happens to a service', { skip: whyNoSystemd() ?? false }, async (t) => {
  const simulator = createSimulator({ latency: instant })
  const { url: upstream } = await simulator.start()
  t.teardown(() => simulator.close())
  const settings = readFileSync(join(root, 'deploy/systemd/settings.yaml'), 'utf8')
    .replace('8080', '0')
    .replace('9464', '0')
    .replace('upstream: {', `upstream: { url: '${upstream}',`)
  const etc = t.testdir({
    'settings.yaml': settings,
    'upstream-key': 'upstream-key-of-the-tests',
    'admin-token': 'admin-token-of-the-tests',
  })
  const systemd = await aSystemd(t, {
    units: { [NAME]: shippedUnit(), [`${NAME}.d/log.conf`]: `[Service]\nStandardOutput=append:/opt/etc/log\n` },
    mounts: { [process.execPath]: '/node', [root]: '/source', [etc]: '/etc' },
  })
  const value = (name: string): string => systemd.run('systemctl', 'show', '--value', '-p', name, NAME).stdout.trim()
  const systemctl = (verb: string): number | null => systemd.run('systemctl', verb, NAME).status
  const log = start(t, 'tail', ['--lines=+1', '--follow=name', '--retry', join(etc, 'log')])
  t.equal(value('ActiveState'), 'active', 'it starts with the machine, and is started once it listens')
  t.match(value('StatusText'), /^Listening on http:\/\/127\.0\.0\.1:\d+\.$/)

  t.equal(systemd.run('sh', '-c', `systemctl restart ${NAME} && systemctl reload ${NAME}`).status, 0)
  t.equal(value('ActiveState'), 'active', 'a reload right after a restart')
  t.match(value('StatusText'), /^Settings reloaded \(generation 2\)\.$/)

  writeFileSync(join(etc, 'settings.yaml'), `${settings}\ncahce: {}\n`)
  systemctl('reload')
  t.match(
    value('StatusText'),
    /^Settings not reloaded, generation 2 stays in force: cahce: unknown key; did you mean "cache"\?/,
  )
  t.equal(value('ActiveState'), 'active')
  for (const signal of ['SIGUSR1', 'SIGUSR2'])
    systemd.run('systemctl', 'kill', '--kill-who=main', `--signal=${signal}`, NAME)

  t.equal(systemctl('restart'), 1, 'wrong settings do not start')
  t.equal(value('ActiveState'), 'failed')
  t.equal(value('ExecMainStatus'), '78')
  t.equal(value('NRestarts'), '0')

  writeFileSync(join(etc, 'settings.yaml'), settings)
  t.equal(systemctl('start'), 0)
  const before = value('MainPID')
  systemd.run('systemctl', 'kill', '--kill-who=main', '--signal=SIGKILL', NAME)
  await log.saw(/(?:"msg":"listening"[^]*){4}/)
  t.not(value('MainPID'), before)
  t.equal(value('NRestarts'), '1', 'it comes back after a crash')

  const { url } = log.lines().findLast(({ msg }) => msg === 'listening') as { url: string }
  simulator.script({ prompt: 'open' }, ['hold'])
  const open = request(undefined, `${url}/scrapers/chatgpt?prompt=open`)
  await simulator.received(1)
  const stop = systemd.start('systemctl', 'stop', NAME)
  await log.saw(/(?:"msg":"draining"[^]*){3}/)
  simulator.release()
  t.match(await open, { status: 200 })
  t.match(await stop.ended, { code: 0 })
  t.equal(value('ActiveState'), 'inactive')
  t.equal(value('Result'), 'success')
})

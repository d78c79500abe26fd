/** Runs the proxy until it is told to stop: listens, reloads on SIGHUP, drains on the first signal to stop, ends the drain on the second. */
import { compose, type App } from '../compose.ts'
import type { Reloaded, SettingsSource } from '../config/reload.ts'
import { routeText, routeTo } from '../config/route.ts'
import type { Config } from '../config/schema.ts'
import { examineLimits } from '../doctor/machine.ts'
import type { World } from '../ports.ts'
import type { Host } from './host.ts'
import { limitsHere } from './limits.ts'

const EXIT_FAILURE = 1
/** What is written at the end takes moments; a store that hangs must not keep us. */
const LONGEST_CLOSE_MS = 10_000

export interface Served {
  readonly app: App
  readonly port: number
  readonly adminPort: number
  /** The exit code, once everything has ended. */
  readonly ended: Promise<number>
}

/** Throws a ConfigError when the settings are wrong at the start. */
export async function serve(source: SettingsSource, world: World, version: string, host: Host): Promise<Served> {
  const loaded = source.read()
  const { config, warnings } = loaded
  const app = compose(loaded, world, version, undefined, source)
  for (const warning of warnings) app.log.warn('settings', { warning })
  for (const { name, status, text, advice } of examineLimits(limitsHere(), config))
    if (status === 'warn' || status === 'fail') app.log.warn(name, { warning: text, advice })
  const { port, adminPort } = await app.listen()
  const url = urlOf(config.listen, port)
  const adminUrl = urlOf(config.admin, adminPort)
  let told = Promise.resolve()
  const ended = new Promise<number>((resolve) => {
    let code: number | null = null
    const stop = (reason: string, exitCode: number): void => {
      const isFirst = code === null
      code = Math.max(code ?? 0, exitCode)
      if (isFirst) {
        app.log.info('draining', { reason })
        notify(['STOPPING=1', 'STATUS=Draining: open requests are finished.'])
        void end()
      } else {
        app.log.warn('ending the drain', { reason })
        app.hurry()
      }
    }
    const fail = (error: unknown): void => {
      app.uncaught(error)
      stop('uncaught', EXIT_FAILURE)
    }
    const end = async (): Promise<void> => {
      try {
        const how = await app.drain()
        app.log.info('stopped', { how })
        await told
        await close(app, world)
      } catch (error) {
        app.uncaught(error)
        code = EXIT_FAILURE
      }
      resolve(code ?? EXIT_FAILURE)
    }
    host.onStop((reason) => stop(reason, 0))
    host.onFault(fail)
  })
  // Last: whoever waits for this line may send a signal the moment it is there.
  app.log.info('listening', {
    host: config.listen.host,
    port,
    url,
    admin_host: config.admin.host,
    admin_port: adminPort,
    admin_url: adminUrl,
    upstream: routeText(routeTo(config.upstream, world.environment)),
    version,
  })
  notify(['READY=1', `STATUS=Listening on ${url}.`])
  host.onReload(() => notify(['READY=1', `STATUS=${statusAfter(app.reload('SIGHUP'))}`]))
  return { app, port, adminPort, ended }

  function notify(assignments: readonly string[]): void {
    told = host.notify(assignments).catch((error: unknown) => app.log.warn('systemd could not be notified', { error }))
  }
}

/** One line for `systemctl status`. */
function statusAfter(reloaded: Reloaded): string {
  const { generation } = reloaded
  if (reloaded.result === 'invalid')
    return `Settings not reloaded, generation ${generation} stays in force: ${reloaded.mistakes.join(' ')}`
  const waiting = reloaded.waiting.length === 0 ? '' : `; these wait for a restart: ${reloaded.waiting.join(', ')}`
  return `Settings reloaded (generation ${generation})${waiting}.`
}

/** Whatever fails or hangs now, the process ends. */
async function close(app: App, { clock }: World): Promise<void> {
  const overdue = Promise.withResolvers<void>()
  const timer = clock.after(LONGEST_CLOSE_MS, overdue.resolve)
  await Promise.race([app.close(), overdue.promise])
  timer.cancel()
}

function urlOf({ host, tls }: Config['listen' | 'admin'], port: number): string {
  return `${tls ? 'https' : 'http'}://${host.includes(':') ? `[${host}]` : host}:${port}`
}

/** Runs the proxy until it is told to stop: listens, reloads on SIGHUP, drains on the first signal to stop, ends the drain on the second. */
import { compose, type App } from '../compose.ts'
import type { SettingsSource } from '../config/reload.ts'
import { routeText, routeTo } from '../config/route.ts'
import type { Config } from '../config/schema.ts'
import type { World } from '../ports.ts'

const EXIT_FAILURE = 1
/** What is written at the end takes moments; a store that hangs must not keep us. */
const LONGEST_CLOSE_MS = 10_000

/** `process`, as far as this needs it. */
export interface Signals {
  on(signal: 'SIGTERM' | 'SIGINT' | 'SIGHUP', listener: () => void): unknown
  on(event: 'uncaughtException', listener: (error: unknown) => void): unknown
}

export interface Served {
  readonly app: App
  readonly port: number
  readonly adminPort: number
  /** The exit code, once everything has ended. */
  readonly ended: Promise<number>
}

/** Throws a ConfigError when the settings are wrong at the start. */
export async function serve(source: SettingsSource, world: World, version: string, signals: Signals): Promise<Served> {
  const loaded = source.read()
  const { config, warnings } = loaded
  const app = compose(loaded, world, version, undefined, source)
  signals.on('SIGHUP', () => void app.reload('SIGHUP'))
  for (const warning of warnings) app.log.warn('settings', { warning })
  const { port, adminPort } = await app.listen()
  const url = urlOf(config.listen, port)
  const adminUrl = urlOf(config.admin, adminPort)
  const ended = new Promise<number>((resolve) => {
    let code: number | null = null
    const stop = (reason: string, exitCode: number): void => {
      const isFirst = code === null
      code = Math.max(code ?? 0, exitCode)
      if (isFirst) {
        app.log.info('draining', { reason })
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
        await close(app, world)
      } catch (error) {
        app.uncaught(error)
        code = EXIT_FAILURE
      }
      resolve(code ?? EXIT_FAILURE)
    }
    signals.on('SIGTERM', () => stop('SIGTERM', 0))
    signals.on('SIGINT', () => stop('SIGINT', 0))
    // Promises that nobody has caught come here, too.
    signals.on('uncaughtException', fail)
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
  return { app, port, adminPort, ended }
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

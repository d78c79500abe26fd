/** Runs the proxy until it is told to stop: listens, reloads on SIGHUP, drains on the first signal to stop, ends the drain on the second. */
import { compose, type App } from '../compose.ts'
import type { SettingsSource } from '../config/reload.ts'
import type { Config } from '../config/schema.ts'
import type { World } from '../ports.ts'

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
      if (code !== null) {
        app.log.warn('ending the drain', { reason })
        app.hurry()
        return
      }
      code = exitCode
      app.log.info('draining', { reason })
      void app.drain().then(async (how) => {
        app.log.info('stopped', { how })
        await app.close()
        resolve(exitCode)
      })
    }
    signals.on('SIGTERM', () => stop('SIGTERM', 0))
    signals.on('SIGINT', () => stop('SIGINT', 0))
    signals.on('uncaughtException', (error) => {
      app.log.error('uncaught', { error })
      stop('uncaught', 1)
    })
  })
  // Last: whoever waits for this line may send a signal the moment it is there.
  app.log.info('listening', {
    host: config.listen.host,
    port,
    url,
    admin_host: config.admin.host,
    admin_port: adminPort,
    admin_url: adminUrl,
    version,
  })
  return { app, port, adminPort, ended }
}

function urlOf({ host, tls }: Config['listen' | 'admin'], port: number): string {
  return `${tls ? 'https' : 'http'}://${host.includes(':') ? `[${host}]` : host}:${port}`
}

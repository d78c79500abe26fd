/**
 * The composition root: settings and a world in, a running proxy out. The builders in `compose/` make the parts, each from
 * those made before it; this file says in which order, what a reload changes, and what the process does as a whole. What
 * each part does is in its own file.
 */
import { Closing } from './compose/closing.ts'
import { buildAdmin } from './compose/admin.ts'
import { buildEdge } from './compose/edge.ts'
import { buildEngine } from './compose/engine.ts'
import { SettingsInForce } from './compose/in-force.ts'
import { buildLimits } from './compose/limits.ts'
import { buildStores } from './compose/stores.ts'
import { buildTelemetry } from './compose/telemetry.ts'
import type { Loaded } from './config/load.ts'
import { cacheBytesOf } from './config/policy.ts'
import { createReloader, type Reloaded, type SettingsSource } from './config/reload.ts'
import type { Config } from './config/schema.ts'
import { createShutdown } from './shutdown.ts'
import { createAdmin } from './http/admin.ts'
import type { Drained } from './http/drain.ts'
import { createServer } from './http/server.ts'
import { rowsOf } from './limits/day-sums.ts'
import { reportOn } from './limits/report.ts'
import type { World } from './ports.ts'
import { priceOf } from './scrapellm/credits.ts'
import { scrapers } from './scrapellm/endpoints.ts'
import { answerHeaders, openApi } from './scrapellm/openapi.ts'
import { promptHash } from './scrapellm/params.ts'
import { keyCheck } from './scrapellm/probe.ts'
import { createProfile } from './scrapellm/profile.ts'
import { createServing } from './serving.ts'
import { diskOptions, keyNamesOf, keysOf, placesOf, secretsOf, signingSecretsOf } from './options.ts'
import type { Log } from './telemetry/log.ts'

/** What the settings are checked against and cannot know by themselves. */
export const known = { scrapers, priceCredits: Math.min(...scrapers.map(priceOf)) }

/** How a key is tried without spending a credit. */
export const upstreamKeys = keyCheck

export { answerHeaders, openApi }

export interface App {
  readonly log: Log
  /** Puts the settings as they are now in force, or leaves everything as it was and says why. */
  reload(because: string): Reloaded
  /** Opens both ports; rejects when one cannot be had. */
  listen(): Promise<Ports>
  /**
   * Not ready at once, no new connections after `readinessDelay`, open requests finish or the grace ends. What is
   * still open then is cut: whoever waits is told so, what was sent counts as charged, and jobs are left for others.
   */
  drain(): Promise<Drained>
  /** The grace ends now. */
  hurry(): void
  /** Tells of a fault that nobody caught, as far as it may be shown. */
  uncaught(error: unknown): void
  /** Requests that have not been answered yet. */
  readonly openRequests: number
  /** Ends everything that `drain` left: upstream calls, the admin port, timers. */
  close(): Promise<void>
}

export interface Ports {
  readonly port: number
  readonly adminPort: number
}

/** What callers and operators come in by: sockets, unless somebody hands in other doors. */
export interface Listeners {
  readonly createServer: typeof createServer
  readonly createAdmin: typeof createAdmin
}

/** `source`: where settings are read from again; left out, there is nothing to be reloaded. */
export function compose(
  loaded: Loaded,
  world: World,
  version: string,
  listeners: Listeners = { createServer, createAdmin },
  source: SettingsSource = { read: () => loaded, files: [] },
): App {
  // The settings at start: for what lasts as long as the process. All else takes those in force, or of its own request.
  const { config } = loaded
  const { clock } = world
  const startedAt = clock.wall()
  const profile = createProfile({ version }, clock)
  const closing = new Closing()
  let isListening = false
  const inForce = new SettingsInForce(config)
  const telemetry = buildTelemetry({ config, world, version, scrapers: profile.scrapers, closing })
  const { log, emit } = telemetry
  const drainer = createShutdown({
    log,
    clock,
    times: () => inForce.config().shutdown,
    parts: () => ({ ...engine, server: edge.server, generations: inForce.generations }),
  })
  telemetry.recorder.watch(drainer)
  const stores = buildStores({ config, world, telemetry, closing })
  const limits = buildLimits({ config, world, telemetry, stores, inForce, closing })
  const isCutting = (): boolean => drainer.isCutting
  const engine = buildEngine({ config, world, profile, telemetry, stores, limits, inForce, isCutting, closing })
  const { generations } = inForce
  const published = new Map([['/openapi.json', Buffer.from(JSON.stringify(openApi(version)))]])
  const edge = buildEdge({
    ...listeners,
    loaded,
    world,
    telemetry,
    stores,
    inForce,
    published,
    closing,
    overload: engine.overload,
  })
  const reloader = createReloader({
    source,
    clock,
    watchFile: world.watchFile,
    inForce: () => ({ config: generations.current.config, generation: generations.number }),
    swap,
    tell,
    broke: (error) => emit({ kind: 'broke', where: 'reload', error }),
  })
  closing.add(reloader.close)
  const admin = buildAdmin({
    ...listeners,
    config,
    world,
    version,
    startedAt,
    telemetry,
    stores,
    limits,
    engine,
    edge,
    inForce,
    reloader,
    isReady: () => isListening && !edge.server.draining && stores.disk?.records !== 'held',
    promptHash,
    closing,
  })

  return {
    log,
    reload: reloader.reload,
    listen,
    drain: drainer.drain,
    hurry: drainer.hurry,
    uncaught: telemetry.recorder.uncaught,
    get openRequests() {
      return edge.server.openRequests
    },
    close: () => closing.close(),
  }

  /** What may fail comes first and changes nothing; from the swap on nothing fails. */
  function swap(next: Loaded): number {
    const { config } = next
    const keys = generations.current.keys.under(keysOf(config))
    const serving = createServing(config, engine.lasting, keys, generations.current)
    log.hide(...secretsOf(config))
    log.setLevel(config.log.level)
    telemetry.access.adopt({ level: config.log.level, prompts: config.log.prompts })
    telemetry.audit.keepPrompts(config.log.prompts)
    telemetry.metrics.admit({ clients: Object.keys(config.clients), keys: keyNamesOf(config) })
    admin.adopt(config)
    stores.local.resize(cacheBytesOf(config, stores.gauge.limitBytes))
    stores.signingKeys.adopt(signingSecretsOf(config))
    engine.bulkhead.adopt(placesOf(config))
    engine.overload.adopt(config.overload)
    limits.adopt(config)
    const generation = generations.swap(serving)
    keys.inForce()
    edge.adopt(next)
    return generation
  }

  function tell(reloaded: Reloaded, because: string): void {
    const told = { changed: [], waiting: [], mistakes: [], warnings: [], ...reloaded }
    const { result, generation, changed, waiting, mistakes, warnings } = told
    const keys = keyNamesOf(inForce.config())
    emit({ kind: 'reloaded', result, because, generation, changed, waiting, mistakes, keys })
    for (const warning of warnings) log.warn('settings', { warning })
  }

  /** What the process before left behind: its jobs are followed up, and the rest of what it held was spent on calls that are lost. */
  async function takeOver(): Promise<void> {
    try {
      await engine.crashRecovery.resumeOrphans()
    } catch (error) {
      emit({ kind: 'broke', where: 'takeover', error })
    }
    limits.ownBudget.sweep()
  }

  async function listen(): Promise<Ports> {
    const { disk, store } = stores
    if (!disk || disk.isRead) await takeOver()
    disk?.onRead(() => void takeOver())
    if (store) engine.crashRecovery.keepResuming()
    await admin.listen()
    await edge.server.listen()
    await admin.resumeNotifications()
    isListening = true
    reloader.watch(loaded.secretFiles)
    return { port: edge.server.port, adminPort: admin.port }
  }
}

/** What the data folder says of a month, while no proxy uses it; null = there is none, or it cannot be read. */
export function readReport(config: Config, world: World, month: string) {
  if (!config.cache.disk || config.redis) return null
  const disk = world.openDisk(diskOptions(config.cache.disk), () => undefined)
  try {
    return disk.isRead ? reportOn(month, rowsOf(disk, month), config.price ?? null) : null
  } finally {
    disk.close()
  }
}

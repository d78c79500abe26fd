/** Builds what operators see and do: the admin port with its pages and operations, the gauges, the webhooks. */
import { parseDuration } from '../config/units.ts'
import type { Reloader } from '../config/reload.ts'
import type { Config } from '../config/schema.ts'
import type { createAdmin } from '../http/admin.ts'
import { createCircuitRoute } from '../http/circuits.ts'
import { createCreditsRoute } from '../http/credits.ts'
import { problemPage } from '../http/html.ts'
import { createKeyRoute } from '../http/keys.ts'
import { createPurgeRoute } from '../http/purge.ts'
import { createReloadRoute } from '../http/reload.ts'
import { createReportRoute } from '../http/report.ts'
import { createRequestRoutes } from '../http/requests.ts'
import { createStatusPage } from '../http/status-page.ts'
import { createStatus } from '../http/status.ts'
import { rowsOf } from '../limits/day-sums.ts'
import { reportOn } from '../limits/report.ts'
import { createLocalOutbox } from '../notify/local-outbox.ts'
import { createNotifier } from '../notify/notifier.ts'
import { createSharedOutbox } from '../notify/shared-outbox.ts'
import type { World } from '../ports.ts'
import { adminTokenOf, targetsOf } from '../options.ts'
import type { Closing } from './closing.ts'
import type { Edge } from './edge.ts'
import type { Engine } from './engine.ts'
import type { InForce } from './in-force.ts'
import type { Limits } from './limits.ts'
import type { Stores } from './stores.ts'
import type { Telemetry } from './telemetry.ts'

export interface AdminBase {
  readonly config: Config
  readonly world: World
  readonly version: string
  readonly startedAt: number
  readonly telemetry: Telemetry
  readonly stores: Stores
  readonly limits: Limits
  readonly engine: Engine
  readonly edge: Edge
  readonly inForce: InForce
  readonly reloader: Reloader
  readonly isReady: () => boolean
  readonly promptHash: (prompt: string) => string
  readonly createAdmin: typeof createAdmin
  readonly closing: Closing
}

export function buildAdmin(base: AdminBase) {
  const { config, world, version, startedAt, telemetry, stores, limits, engine, edge, inForce, reloader } = base
  const { clock, random } = world
  const { emit, metrics, audit, history, recorder } = telemetry
  const { store, disk } = stores
  const { generations } = inForce
  const { breakers, bulkhead, overload, flights, profile } = engine
  const notifier = buildNotifier(base)
  metrics.showGauges({
    openRequests: () => telemetry.open.size,
    breakers: breakers.states,
    keys: () => generations.current.keys.states(),
    retryTokens: (scraper) => generations.current.retryBudget.tokens(scraper),
    overload: () => overload,
    certificateUntil: () => edge.certificates.listen?.now.validUntil ?? null,
    wallMs: clock.wall,
    queued: (scraper) => bulkhead.queued(scraper),
    limits: {
      upstream: (scraper) => bulkhead.limit(scraper),
      maxConcurrent: () => inForce.config().upstream.maxConcurrent,
      queueSize: () => inForce.config().upstream.queue.size,
    },
    budgets: limits.budget.states,
    tokens: () => tokensNow(base),
    cache: () => tiersNow(base),
    configGeneration: () => generations.number,
    disk: () => disk,
    auditFile: config.audit ? () => telemetry.auditFile?.state ?? 'up' : undefined,
    redis: config.redis ? () => store?.state ?? 'down' : undefined,
  })
  const status = createStatus({
    version,
    startedAt,
    clock,
    configGeneration: () => generations.number,
    generationsInUse: () => 1 + generations.old,
    unapplied: () => reloader.unapplied,
    ready: base.isReady,
    draining: () => edge.server.draining,
    openRequests: () => edge.server.openRequests,
    overload: () => overload,
    breakers: breakers.states,
    slow: telemetry.pace.slow,
    keys: () => generations.current.keys.states(),
    flights: flights.list,
    places: () =>
      profile.scrapers.map((scraper) => ({
        scraper,
        underWay: bulkhead.inFlight(scraper),
        limit: bulkhead.limit(scraper),
        waiting: bulkhead.queued(scraper),
      })),
    cache: () => tiersNow(base),
    disk: () => disk,
    redis: () => store?.state ?? null,
    redisTrouble: () => store?.trouble ?? null,
    auditFile: () => telemetry.auditFile?.state ?? null,
    credits: recorder.credits,
    budgets: limits.budget.states,
    clients: () =>
      limits.spending().map(({ client, dayCredits, monthCredits }) => ({
        name: client,
        openQuestions: limits.admission.open(client),
        dayCredits,
        monthCredits,
      })),
    tokens: () => tokensNow(base),
    trails: audit,
    history,
  })
  const admin = base.createAdmin(
    { host: config.admin.host, port: config.admin.port, token: adminTokenOf(config) },
    {
      random,
      emit,
      certificate: edge.certificates.admin,
      ready: base.isReady,
      metrics: metrics.text,
      status,
      problemPage,
      routes: [
        ...operations(base),
        createStatusPage({ status, history, trails: audit }),
        ...createRequestRoutes({ trails: audit, clock }),
      ],
    },
  )
  base.closing.add(admin.close)

  return {
    listen: admin.listen,
    resumeNotifications: notifier.resume,
    get port() {
      return admin.port
    },
    adopt(next: Config): void {
      admin.setToken(adminTokenOf(next))
      notifier.adopt(next)
    },
  }
}

function operations(base: AdminBase) {
  const { world, inForce, engine, reloader } = base
  const { clock, random } = world
  const { generations } = inForce
  return [
    createPurgeRoute({
      purge: (filter) => generations.current.cache.purge(filter),
      scrapers: engine.profile.scrapers,
      promptHash: base.promptHash,
      durationMs: parseDuration,
      clock,
    }),
    createReloadRoute({ random, reload: () => reloader.reload('POST /reload') }),
    createKeyRoute({ tryNow: (name) => generations.current.keys.tryNow(name) }),
    createCircuitRoute({ closeNow: engine.breakers.closeNow }),
    createCreditsRoute({
      clients: () => inForce.clients().map(({ name }) => name),
      correct: (client, spentCredits) => correct(base, client, spentCredits),
    }),
    createReportRoute({
      reportOf: (month) => reportOf(base, month),
      thisMonth: () => new Date(clock.wall()).toISOString().slice(0, 7),
    }),
  ]
}

function buildNotifier({ config, world, telemetry, stores, closing }: AdminBase) {
  const { clock, random, environment, post } = world
  const { log, metrics, emit } = telemetry
  const { store, records } = stores
  let targets = targetsOf(config, environment)
  const local = createLocalOutbox(records, clock)
  const notifier = createNotifier({
    outbox: store ? createSharedOutbox(store, local) : local,
    clock,
    random,
    post,
    targets: () => targets,
    done(outcome, event, status) {
      metrics.notifications.add(1, outcome)
      if (outcome === 'given-up') log.warn('notification given up', { event, status })
    },
    broke: (error) => emit({ kind: 'broke', where: 'notify', error }),
  })
  telemetry.recorder.watch(notifier)
  closing.add(() => notifier.close())
  return {
    resume: () => notifier.resume(),
    adopt: (next: Config) => void (targets = targetsOf(next, environment)),
  }
}

async function correct({ limits, telemetry }: AdminBase, client: string, spentCredits: number) {
  const corrected = await limits.correct(client, spentCredits)
  telemetry.emit({ kind: 'credits-corrected', client, ...corrected })
  return corrected
}

async function reportOf({ stores, inForce }: AdminBase, month: string) {
  stores.traffic.flush()
  const names = inForce.clients().map(({ name }) => name)
  const rows = await (stores.daySums?.rowsOf(month, names) ?? rowsOf(stores.records, month))
  return reportOn(month, rows, inForce.config().price ?? null)
}

/** When each token of each client was used last, by its place in the settings. */
function tokensNow({ inForce, stores }: AdminBase) {
  return inForce.generations.current.known.flatMap(({ client, tokens }) =>
    tokens.map((token, at) => ({
      client: client.name,
      name: `${at + 1} ${token.hash.slice(0, 6)}`,
      lastUsedAt: stores.tokenUses.lastUsed(token),
      expiresAt: token.expiresAt,
    })),
  )
}

function tiersNow({ config, stores: { local, disk } }: AdminBase) {
  const memory = { tier: 'memory', entries: local.count, bytes: local.bytes, maxBytes: local.maxBytes } as const
  const { disk: onDisk } = config.cache
  if (!disk || !onDisk) return [memory]
  return [memory, { tier: 'disk', entries: disk.entries, bytes: disk.bytes, maxBytes: onDisk.maxSize } as const]
}

/**
 * The composition root: settings and a world in, a running proxy out. The only file that connects parts to the world; what
 * each part does is in its own file, the order of a request in `pipeline.ts`. Longer than other files, because everything is connected here and nowhere else.
 */
import { createLocalTier } from './cache/local-tier.ts'
import { createCodec } from './cache/codec.ts'
import { createSharedTier } from './cache/shared-tier.ts'
import { createSigningKeys } from './cache/signing-keys.ts'
import { followAuthority, followCertificate } from './config/certificate.ts'
import type { Loaded } from './config/load.ts'
import { cacheBytesOf } from './config/policy.ts'
import { createReloader, type Reloaded, type SettingsSource } from './config/reload.ts'
import type { Config } from './config/schema.ts'
import { parseDuration } from './config/units.ts'
import { createEnding } from './ending.ts'
import { ProxyError } from './errors.ts'
import { createGenerations, type Generations } from './generations.ts'
import { createAdmin } from './http/admin.ts'
import { createCircuitRoute } from './http/circuits.ts'
import { createCreditsRoute } from './http/credits.ts'
import type { Drained } from './http/drain.ts'
import { problemPage } from './http/html.ts'
import { createKeyRoute } from './http/keys.ts'
import { createPurgeRoute } from './http/purge.ts'
import { createReloadRoute } from './http/reload.ts'
import { createReportRoute } from './http/report.ts'
import { createRequestRoutes } from './http/requests.ts'
import { matches } from './http/respond.ts'
import { createServer } from './http/server.ts'
import { createStatusPage } from './http/status-page.ts'
import { createStatus } from './http/status.ts'
import { createTokenUses } from './http/token-uses.ts'
import { createJobs } from './jobs/book.ts'
import { createDurableUpstream } from './jobs/durable.ts'
import { createSharedRecords } from './jobs/shared-records.ts'
import { createSharedJobStore } from './jobs/shared-store.ts'
import { createLocalJobStore, createMemoryStore } from './jobs/store.ts'
import { followKeyFiles } from './keys/key-files.ts'
import { createKeyMemory, noMemory } from './keys/key-memory.ts'
import { createKeys } from './keys/pool.ts'
import { createSharedRests } from './keys/shared-rests.ts'
import { createAdmission } from './limits/admission.ts'
import { createBudget } from './limits/budget.ts'
import { createTraffic, rowsOf } from './limits/day-sums.ts'
import { reportOn } from './limits/report.ts'
import { createSharedAdmission } from './limits/shared-admission.ts'
import { createSharedBudget } from './limits/shared-budget.ts'
import { createSharedConcurrencyLimits } from './limits/shared-concurrency.ts'
import { createSharedRateLimits } from './limits/shared-rate.ts'
import { createSuccession } from './succession.ts'
import type { Client } from './model.ts'
import { answerHeaders, openApi } from './scrapellm/openapi.ts'
import { createLocalOutbox } from './notify/local-outbox.ts'
import { createNotifier, type Notifier } from './notify/notifier.ts'
import { createSharedOutbox } from './notify/shared-outbox.ts'
import type { Budget } from './parts.ts'
import type { SharedStore, World } from './ports.ts'
import { createBreakers } from './resilience/breaker.ts'
import { createBulkhead } from './resilience/bulkhead.ts'
import { createFlights } from './resilience/coalesce.ts'
import { createOverload, type YieldingCache } from './resilience/overload.ts'
import { createRetryBudget } from './resilience/retry-budget.ts'
import { createSeal } from './resilience/shared-flight-marks.ts'
import { createSharedFlights, loneFlights } from './resilience/shared-flight.ts'
import { createSharedHints } from './resilience/shared-hints.ts'
import { priceOf } from './scrapellm/credits.ts'
import { scrapers } from './scrapellm/endpoints.ts'
import { promptHash } from './scrapellm/params.ts'
import { keyCheck } from './scrapellm/probe.ts'
import { createProfile } from './scrapellm/profile.ts'
import { createSession, soloSession } from './session.ts'
import { createServing, type Lasting } from './serving.ts'
import {
  accountLimitsOf,
  adminTokenOf,
  auditOptions,
  clientOf,
  diskOptions,
  keyNamesOf,
  keysOf,
  longestRestOf,
  placesOf,
  secretsOf,
  sharedOptions,
  signingSecretsOf,
  targetsOf,
  tiersOf,
} from './slices.ts'
import { createAccessLog } from './telemetry/access-log.ts'
import { createAudit } from './telemetry/audit.ts'
import { watchTraffic } from './telemetry/day-traffic.ts'
import type { TelemetryEvent } from './telemetry/events.ts'
import { createHistory } from './telemetry/history.ts'
import { createLog, type Log } from './telemetry/log.ts'
import { createMetrics } from './telemetry/metrics.ts'
import { createRecorder } from './telemetry/recorder.ts'
import { createTracing } from './telemetry/tracing.ts'

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
   * Contract section 7: not ready at once, no new connections after `readinessDelay`, open requests finish or the grace ends. What is
   * still open then is cut: whoever waits is told so, what was sent counts as charged, and jobs are left for others.
   */
  drain(): Promise<Drained>
  /** The grace ends now. */
  hurry(): void
  /** Tells of a fault that nobody caught, as far as it may be shown. */
  uncaught(error: unknown): void
  /** Ends everything that `drain` left: upstream calls, the admin port, timers. */
  close(): Promise<void>
}

export interface Ports {
  readonly port: number
  readonly adminPort: number
}

/** What callers and operators come in by: sockets, unless somebody hands in other doors. */
export interface Doors {
  readonly createServer: typeof createServer
  readonly createAdmin: typeof createAdmin
}

/** `source`: where settings are read from again; left out, there is nothing to be reloaded. */
export function compose(
  loaded: Loaded,
  world: World,
  version: string,
  doors: Doors = { createServer, createAdmin },
  source: SettingsSource = { read: () => loaded, files: [] },
): App {
  // The settings at start: for what lasts as long as the process. All else takes those in force, or of its own request.
  const { config: firstConfig } = loaded
  const { clock, random, output } = world
  const startedAt = clock.wall()
  const log = createLog({ level: firstConfig.log.level, sink: output.write, secrets: secretsOf(firstConfig) })
  const profile = createProfile({ version }, clock)
  let generations: Generations | null = null
  let notifier: Notifier | null = null
  const ending = createEnding({
    log,
    clock,
    times: () => inForce().shutdown,
    parts: () => ({ server, flights, jobs, durable, generations: served }),
  })

  // First of all, because parts may have something to tell as soon as they are made; what it reads of them is read when asked.
  const metrics = createMetrics({
    clients: Object.keys(firstConfig.clients),
    scrapers: profile.scrapers,
    keys: keyNamesOf(firstConfig),
    tiers: tiersOf(firstConfig),
    version,
    gauges: {
      breakers: () => breakers.states(),
      keys: () => served.current.keys.states(),
      retryTokens: (scraper) => served.current.retryBudget.tokens(scraper),
      overload: () => overload,
      certificateUntil: () => certificates.listen?.now.validUntil ?? null,
      queued: (scraper) => bulkhead.queued(scraper),
      limits: {
        upstream: (scraper) => bulkhead.limit(scraper),
        maxConcurrent: () => inForce().upstream.maxConcurrent,
        queueSize: () => inForce().upstream.queue.size,
      },
      budgets: () => budget.states(),
      tokens: () => tokensNow(),
      cache: tiers,
      configGeneration: () => served.number,
      disk: () => disk,
      auditFile: firstConfig.audit ? () => auditFile?.state ?? 'up' : undefined,
      redis: firstConfig.redis ? () => store?.state ?? 'down' : undefined,
    },
  })
  const access = createAccessLog(
    { level: firstConfig.log.level, prompts: firstConfig.log.prompts },
    { clock, sink: output.write },
  )
  const tracing = createTracing({ clock, random, version })
  const auditFile = firstConfig.audit
    ? world.openAuditFile(auditOptions(firstConfig.audit), (event) => recorder.emit(event))
    : null
  const audit = createAudit(
    { prompts: firstConfig.log.prompts },
    { clock, keyOf: (call, client) => served.current.cache.keyOf(call, client), append: auditFile?.append ?? null },
  )
  const { traceIdOf } = tracing
  const { openPrompts } = audit
  const history = createHistory({ clock, credits: () => recorder.totals() })
  const tells = { note: (event: TelemetryEvent) => notifier?.note(event) }
  const watchers = [audit, ...tracing.watchers, history, tells, watchTraffic(() => traffic), { note: ending.note }]
  const recorder = createRecorder({ metrics, access, log, clock, matches, watchers, traceIdOf, openPrompts })
  const { emit } = recorder

  const store = firstConfig.redis ? world.openShared(sharedOptions(firstConfig.redis), emit) : null
  const disk = firstConfig.cache.disk && !store ? world.openDisk(diskOptions(firstConfig.cache.disk), emit) : null
  if (disk) history.keepIn(disk)
  // Where there is no disk, what is counted is forgotten with the process.
  const records = disk ?? createMemoryStore(clock)
  const traffic = createTraffic(records, clock)
  const tokenUses = createTokenUses(records, clock)
  const jobStore = store ? createSharedJobStore(createSharedRecords(store, clock), clock) : null
  const jobRecords = jobStore ?? createLocalJobStore(disk ?? createMemoryStore(clock))
  const session = store ? createSession({ store, clock, id: random.id() }) : soloSession(random.id(), clock)
  const gauge = world.gaugePressure()
  const local = createLocalTier({
    maxBytes: cacheBytesOf(firstConfig, gauge.limitBytes),
    onEvicted: () => emit({ kind: 'cache-evicted', tier: 'memory' }),
  })
  const signingKeys = createSigningKeys(clock)
  signingKeys.adopt(signingSecretsOf(firstConfig))
  const shared = store
    ? createSharedTier({
        codec: createCodec({ signingKeys: signingKeys.all, maxBytes: MAX_SHARED_BYTES }),
        store,
        memory: local,
        clock,
        random,
        emit,
      })
    : null
  const together = store ? share(store) : null
  let accountLimits = accountLimitsOf(firstConfig)
  const ownBudget = createBudget({
    clock,
    emit,
    random,
    store: records,
    clients: people,
    account: () => accountLimits,
    mustBeSafe: () => inForce().jobs.execution === 'durable',
  })
  const budget: Budget = together?.budget ?? ownBudget
  const sharedFlights = together?.flights ?? loneFlights
  const flights = createFlights({ clock, emit, random })
  const breakers = createBreakers({
    policy: firstConfig.breaker,
    scrapers: profile.scrapers,
    clock,
    random,
    emit,
  })
  const retryBudget = createRetryBudget({ ...firstConfig.retry.budget, clock, isWell: breakers.isWell })
  const bulkhead = createBulkhead(placesOf(firstConfig), { clock, random, emit })
  const overload = createOverload(firstConfig.overload, { clock, random, emit, gauge, cache: yieldingCache() })
  const rests = store ? restsOver(store) : null
  const memory = rests ?? (disk ? createKeyMemory(disk, clock) : noMemory)
  const firstKeys = createKeys({ clock, random, emit, memory, ...keysOf(firstConfig) })
  const admission = together?.admission ?? createAdmission({ clock })
  const durable = createDurableUpstream({ profile, store: jobRecords, clock, random, session, adoptHold: budget.adopt })
  const jobs = createJobs({
    profile,
    store: jobRecords,
    clock,
    random,
    emit,
    session,
    refund: budget.refund,
    fill({ client: payer, call, verdict, ageMs }) {
      const client = clientNamed(payer)
      const { cache } = served.current
      if (client)
        cache.store(cache.keyOf(call, client), call, verdict, client.cache, {
          unclaimed: false,
          ageMs,
          isPassedOn: false,
        })
    },
  })

  const lasting: Lasting = {
    clock,
    random,
    emit,
    connect: world.connect,
    environment: world.environment,
    profile,
    tiers: { local, durable: disk, shared },
    admission,
    budget,
    flights,
    sharedFlights,
    retryBudget,
    breakers,
    bulkhead,
    overload,
    durable,
    jobs,
    recorder,
    audit,
    tracing,
    isCutting: () => ending.isCutting,
    tokenUses,
  }
  const served = createGenerations(createServing(firstConfig, lasting, firstKeys, null), clock)
  generations = served
  const succession = createSuccession({
    clock,
    random,
    emit,
    jobs,
    durable,
    budget,
    clientNamed,
    serving: () => served.current,
  })
  rests?.follow(({ name, because, untilAt }) => served.current.keys.heed(name, because, untilAt))
  let keyWatch = followKeys(loaded)
  let authorityWatch = followUpstreamAuthority(firstConfig)
  const redisAuthorityWatch = store && followCa('redis', firstConfig.redis?.ca, store.trust)
  const certificates = {
    listen: certificateOf('listen', firstConfig.listen.tls),
    admin: certificateOf('admin', firstConfig.admin.tls),
  }
  const server = doors.createServer(firstConfig.listen, {
    certificate: certificates.listen,
    published: new Map([['/openapi.json', Buffer.from(JSON.stringify(openApi(version)))]]),
    clock,
    random,
    emit,
    serving: () => served.current,
    refusesAll: () => (overload.state === 'critical' ? overload.because : null),
    refused: recorder.refused,
  })
  const reloader = createReloader({
    source,
    clock,
    watchFile: world.watchFile,
    inForce: () => ({ config: served.current.config, generation: served.number }),
    swap,
    tell,
    broke: (error) => emit({ kind: 'broke', where: 'reload', error }),
  })

  const purge = createPurgeRoute({
    purge: (filter) => served.current.cache.purge(filter),
    scrapers: profile.scrapers,
    promptHash,
    durationMs: parseDuration,
    clock,
  })
  let targets = targetsOf(firstConfig, world.environment)
  notifier = createNotifier({
    outbox: store ? createSharedOutbox(store, createLocalOutbox(records, clock)) : createLocalOutbox(records, clock),
    clock,
    random,
    post: world.post,
    targets: () => targets,
    done(outcome, event, status) {
      metrics.notifications.add(1, outcome)
      if (outcome === 'given-up') log.warn('notification given up', { event, status })
    },
    broke: (error) => emit({ kind: 'broke', where: 'notify', error }),
  })
  let isListening = false
  const status = createStatus({
    version,
    startedAt,
    clock,
    configGeneration: () => served.number,
    generationsInUse: () => 1 + served.old,
    unapplied: () => reloader.unapplied,
    ready: isReady,
    draining: () => server.draining,
    openRequests: () => server.openRequests,
    overload: () => overload,
    breakers: breakers.states,
    keys: () => served.current.keys.states(),
    flights: flights.list,
    places: placesOfScrapers,
    cache: tiers,
    disk: () => disk,
    redis: () => store?.state ?? null,
    redisTrouble: () => store?.trouble ?? null,
    auditFile: () => auditFile?.state ?? null,
    credits: recorder.credits,
    budgets: budget.states,
    clients: () =>
      (together?.budget ?? ownBudget).spending().map(({ client, dayCredits, monthCredits }) => ({
        name: client,
        openQuestions: admission.open(client),
        dayCredits,
        monthCredits,
      })),
    tokens: tokensNow,
    trails: audit,
    history,
  })
  const admin = doors.createAdmin(
    { host: firstConfig.admin.host, port: firstConfig.admin.port, token: adminTokenOf(firstConfig) },
    {
      random,
      emit,
      certificate: certificates.admin,
      ready: isReady,
      metrics: metrics.text,
      status,
      problemPage,
      routes: [
        purge,
        createReloadRoute({ random, reload: () => reloader.reload('POST /reload') }),
        createKeyRoute({ tryNow: (name) => served.current.keys.tryNow(name) }),
        createCircuitRoute({ closeNow: breakers.closeNow }),
        createCreditsRoute({ clients: () => people().map(({ name }) => name), correct }),
        createReportRoute({ reportOf, thisMonth: () => new Date(clock.wall()).toISOString().slice(0, 7) }),
        createStatusPage({ status, history, trails: audit }),
        ...createRequestRoutes({ trails: audit, clock }),
      ],
    },
  )

  function yieldingCache(): YieldingCache {
    return {
      get bytes() {
        return local.bytes
      },
      get maxBytes() {
        return local.maxBytes
      },
      get fullBytes() {
        return cacheBytesOf(inForce(), gauge.limitBytes)
      },
      resize: local.resize,
    }
  }

  function certificateOf(name: 'listen' | 'admin', files: Config['listen']['tls']) {
    if (!files) return null
    return followCertificate({
      path: `${name}.tls`,
      files,
      watch: world.watchFile,
      clock,
      tell(news) {
        if (news.kind === 'kept') return log.warn('certificate kept', { port: name, because: news.because })
        log.info('certificate replaced', { port: name, valid_until: new Date(news.validUntil).toISOString() })
      },
    })
  }

  function restsOver(store: SharedStore) {
    const topic = {
      store,
      clock,
      random,
      topic: 'keys',
      names: () => keyNamesOf(inForce()),
      maxLeftMs: () => longestRestOf(inForce()),
    }
    return createSharedRests({ clock, openHints: (heard) => createSharedHints({ ...topic, heard }) })
  }

  /** While parts are being made, nothing is in force but what they are made of. */
  function inForce(): Config {
    return generations?.current.config ?? firstConfig
  }

  function people(): readonly Client[] {
    return generations?.people() ?? Object.keys(firstConfig.clients).map((name) => clientOf(firstConfig, name))
  }

  // Reload

  /** What may fail comes first and changes nothing; from the swap on nothing fails. */
  function swap(next: Loaded): number {
    const { config } = next
    const keys = served.current.keys.under(keysOf(config))
    const serving = createServing(config, lasting, keys, served.current)
    log.hide(...secretsOf(config))
    log.setLevel(config.log.level)
    access.adopt({ level: config.log.level, prompts: config.log.prompts })
    audit.keepPrompts(config.log.prompts)
    metrics.admit({ clients: Object.keys(config.clients), keys: keyNamesOf(config) })
    admin.setToken(adminTokenOf(config))
    local.resize(cacheBytesOf(config, gauge.limitBytes))
    bulkhead.adopt(placesOf(config))
    accountLimits = accountLimitsOf(config)
    targets = targetsOf(config, world.environment)
    overload.adopt(config.overload)
    signingKeys.adopt(signingSecretsOf(config))
    const generation = served.swap(serving)
    keys.inForce()
    keyWatch.close()
    keyWatch = followKeys(next)
    authorityWatch?.close()
    authorityWatch = followUpstreamAuthority(config)
    return generation
  }

  function tell(reloaded: Reloaded, because: string): void {
    const told = { changed: [], waiting: [], mistakes: [], warnings: [], ...reloaded }
    const { result, generation, changed, waiting, mistakes, warnings } = told
    emit({ kind: 'reloaded', result, because, generation, changed, waiting, mistakes, keys: keyNamesOf(inForce()) })
    for (const warning of warnings) log.warn('settings', { warning })
  }

  function followUpstreamAuthority({ upstream: { ca } }: Config): { close(): void } | null {
    return followCa('upstream', ca, (pem) => served.current.connection.transport.trust(pem))
  }

  function followCa(name: 'upstream' | 'redis', file: string | undefined, trust: (pem: string) => boolean) {
    if (file === undefined) return null
    return followAuthority({
      path: `${name}.ca`,
      file,
      watch: world.watchFile,
      trust,
      tell(news) {
        if (news.kind === 'kept') return log.warn('certificate kept', { port: name, because: news.because })
        log.info('certificate replaced', { port: name })
      },
    })
  }

  function followKeys({ keyFiles }: Loaded): { close(): void } {
    return followKeyFiles({
      files: keyFiles,
      watch: world.watchFile,
      replace: (name, secret) => served.current.keys.replace(name, secret),
      tell({ name, kind, secret }) {
        if (!secret) return log.warn('upstream key file is no good', { key_name: name, because: kind })
        log.hide(secret.reveal())
        log.info('upstream key replaced', { key_name: name })
      },
    })
  }

  /** What the replicas count and do together. */
  function share(store: SharedStore) {
    const concurrency = createSharedConcurrencyLimits({ store, session })
    const budget = createSharedBudget({
      store,
      clock,
      random,
      emit,
      clients: people,
      whenAway: () => inForce().redis?.whenAway ?? 'closed',
      tell: ({ kind, client, credits }) => emit({ kind: 'credits-away', how: kind, client, credits }),
    })
    const flights = createSharedFlights({
      store,
      clock,
      random,
      emit,
      session,
      seal: createSeal(signingKeys.all),
      read: (key) => shared?.read(key) ?? Promise.resolve('away'),
      keep: (key, entry, fence) => shared?.keep(key, entry, fence) ?? Promise.resolve('away'),
    })
    return {
      admission: createSharedAdmission({ rates: createSharedRateLimits({ store, clock, session }), concurrency }),
      budget,
      flights,
      async close() {
        flights.close()
        await flights.idle()
        concurrency.close()
        await budget.close()
      },
    }
  }

  function correct(client: string, spentCredits: number) {
    if (store) throw notShared('A correction')
    const corrected = ownBudget.correct(client, spentCredits)
    emit({ kind: 'credits-corrected', client, ...corrected })
    return corrected
  }

  function reportOf(month: string) {
    if (store) throw notShared('The report')
    traffic.flush()
    return reportOn(month, rowsOf(records, month), inForce().price ?? null)
  }

  /** When each token of each client was used last, by its place in the settings. */
  function tokensNow() {
    return served.current.known.flatMap(({ client, tokens }) =>
      tokens.map((token, at) => ({
        client: client.name,
        name: `${at + 1} ${token.hash.slice(0, 6)}`,
        lastUsedAt: tokenUses.lastUsed(token),
        expiresAt: token.expiresAt,
      })),
    )
  }

  function isReady(): boolean {
    return isListening && !server.draining && disk?.records !== 'held'
  }

  function tiers() {
    const memory = { tier: 'memory', entries: local.count, bytes: local.bytes, maxBytes: local.maxBytes } as const
    const { disk: onDisk } = firstConfig.cache
    if (!disk || !onDisk) return [memory]
    return [memory, { tier: 'disk', entries: disk.entries, bytes: disk.bytes, maxBytes: onDisk.maxSize } as const]
  }

  function placesOfScrapers() {
    return profile.scrapers.map((scraper) => ({
      scraper,
      underWay: bulkhead.inFlight(scraper),
      limit: bulkhead.limit(scraper),
      waiting: bulkhead.queued(scraper),
    }))
  }

  function clientNamed(name: string): Client | null {
    return people().find((client) => client.name === name) ?? null
  }

  /** What the process before left behind: its jobs are followed up, and the rest of what it held was spent on calls that are lost. */
  async function takeOver(): Promise<void> {
    try {
      await succession.takeUp()
    } catch (error) {
      emit({ kind: 'broke', where: 'takeover', error })
    }
    ownBudget.sweep()
  }

  async function listen(): Promise<Ports> {
    if (!disk || disk.isRead) await takeOver()
    disk?.onRead(() => void takeOver())
    if (store) succession.keepTakingUp()
    await admin.listen()
    await server.listen()
    await notifier?.resume()
    isListening = true
    reloader.watch(loaded.secretFiles)
    return { port: server.port, adminPort: admin.port }
  }

  return {
    log,
    reload: reloader.reload,
    listen,
    drain: ending.drain,
    hurry: ending.hurry,
    uncaught: recorder.uncaught,
    async close() {
      reloader.close()
      succession.close()
      keyWatch.close()
      authorityWatch?.close()
      redisAuthorityWatch?.close()
      certificates.listen?.close()
      certificates.admin?.close()
      durable.close()
      await admin.close()
      served.close()
      breakers.close()
      overload.close()
      notifier?.close()
      traffic.close()
      disk?.close()
      jobStore?.close()
      await shared?.settled()
      await together?.close()
      rests?.close()
      shared?.close()
      await session.close()
      store?.close()
      access.flush()
      audit.close()
      await auditFile?.close()
      output.flush()
    },
  }
}

/** Of what is kept in the data folder, and not in Redis. */
function notShared(what: string): ProxyError {
  return new ProxyError(
    'REQUEST_INVALID',
    `${what} is for a proxy with its own data folder: with redis, credits are counted there. Use the metric credits_spent_total for sums.`,
  )
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

/** A longer answer is kept by each replica for itself. */
const MAX_SHARED_BYTES = 4 * 1_048_576

/**
 * The composition root: settings and a world in, a running proxy out. The only file that connects parts to the world; what
 * each part does is in its own file, the order of a request in `pipeline.ts`. Longer than other files, because everything is connected here and nowhere else.
 */
import { createHash } from 'node:crypto'
import { createLocalTier } from './cache/local-tier.ts'
import { createCodec, signingKeyOf } from './cache/codec.ts'
import { createSharedTier } from './cache/shared-tier.ts'
import { createCache } from './cache/tiered.ts'
import type { Loaded } from './config/load.ts'
import { resolveClient } from './config/policy.ts'
import { resolveRetry, type Config } from './config/schema.ts'
import { parseDuration } from './config/units.ts'
import { createAdmin } from './http/admin.ts'
import { createClients } from './http/clients.ts'
import type { Drained } from './http/drain.ts'
import { createPurgeRoute } from './http/purge.ts'
import { createRequestRoutes } from './http/requests.ts'
import { createResponder, matches } from './http/respond.ts'
import { createServer } from './http/server.ts'
import { createStatusPage } from './http/status-page.ts'
import { createStatus } from './http/status.ts'
import { noWishes } from './http/wishes.ts'
import { createJobs } from './jobs/book.ts'
import { createDurableUpstream } from './jobs/durable.ts'
import { createPlainUpstream } from './jobs/plain.ts'
import { createLiveness } from './jobs/liveness.ts'
import { createSharedRecords } from './jobs/shared-records.ts'
import { createSharedJobStore } from './jobs/shared-store.ts'
import { createLocalJobStore, createMemoryStore } from './jobs/store.ts'
import { followKeyFiles } from './keys/key-files.ts'
import { createKeyMemory, noMemory } from './keys/key-memory.ts'
import { restsIn } from './keys/key-state.ts'
import { createKeys } from './keys/pool.ts'
import { createSharedRests } from './keys/shared-rests.ts'
import { createAdmission } from './limits/admission.ts'
import { createBudget } from './limits/budget.ts'
import { createFleet } from './limits/insurance.ts'
import { createSharedAdmission } from './limits/shared-admission.ts'
import { createSharedBudget } from './limits/shared-budget.ts'
import { createSharedConcurrencyLimits } from './limits/shared-concurrency.ts'
import { createSharedRateLimits } from './limits/shared-rate.ts'
import type { Call, Client, Tier } from './model.ts'
import type { Budget, PromisedAnswer } from './parts.ts'
import { createPipeline } from './pipeline.ts'
import type { SharedOptions, SharedStore, Timer, World } from './ports.ts'
import { createBreakers } from './resilience/breaker.ts'
import { createBulkhead } from './resilience/bulkhead.ts'
import { createFlights } from './resilience/coalesce.ts'
import { createOverload } from './resilience/overload.ts'
import { createRetryBudget } from './resilience/retry-budget.ts'
import { createRetry } from './resilience/retry.ts'
import { createSeal } from './resilience/shared-flight-marks.ts'
import { createSharedFlights, loneFlights } from './resilience/shared-flight.ts'
import { createCircuitHints, createSharedHints } from './resilience/shared-hints.ts'
import { priceOf } from './scrapellm/credits.ts'
import { scrapers } from './scrapellm/endpoints.ts'
import { promptHash } from './scrapellm/params.ts'
import { createProfile } from './scrapellm/profile.ts'
import { createAccessLog } from './telemetry/access-log.ts'
import { createAudit } from './telemetry/audit.ts'
import { createLog, type Log } from './telemetry/log.ts'
import { createMetrics } from './telemetry/metrics.ts'
import { createRecorder } from './telemetry/recorder.ts'
import { createTracing } from './telemetry/tracing.ts'

/** What the settings are checked against and cannot know by themselves. */
export const known = { scrapers, priceCredits: Math.min(...scrapers.map(priceOf)) }

export interface App {
  readonly log: Log
  /** Opens both ports; rejects when one cannot be had. */
  listen(): Promise<Ports>
  /** Contract section 7: not ready at once, no new connections after `readinessDelay`, open requests finish or the grace ends. */
  drain(): Promise<Drained>
  /** Cuts a drain short. */
  hurry(): void
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

export function compose(
  { config, keyFiles }: Pick<Loaded, 'config' | 'keyFiles'>,
  world: World,
  version: string,
  doors: Doors = { createServer, createAdmin },
): App {
  const { clock, random, output } = world
  const startedAt = clock.wall()
  const log = createLog({ level: config.log.level, sink: output.write, secrets: secretsOf(config) })
  const profile = createProfile({ markReplays: config.cache.markReplays, version }, clock)
  const clients = clientsOf(config)
  const retryPolicy = resolveRetry(config.retry)

  // First of all, because parts may have something to tell as soon as they are made; what it reads of them is read when asked.
  const metrics = createMetrics({
    clients: clients.map(({ client }) => client.name),
    scrapers: profile.scrapers,
    keys: config.upstream.keys.map((key) => key.name),
    tiers: tiersOf(config),
    version,
    gauges: {
      breakers: () => breakers.states(),
      keys: () => keys.states(),
      retryTokens: (scraper) => retryBudget.tokens(scraper),
      overload: () => overload,
      queued: (scraper) => bulkhead.queued(scraper),
      budgets: () => budget.states(),
      cache: tiers,
      configGeneration: () => 1,
      redis: config.redis ? () => store?.state ?? 'down' : undefined,
    },
  })
  const access = createAccessLog(
    { level: config.log.level, prompts: config.log.prompts },
    { clock, sink: output.write },
  )
  const tracing = createTracing({ clock, random, version })
  const auditFile = config.audit
    ? world.openAuditFile(auditOptions(config.audit), (event) => recorder.emit(event))
    : null
  const audit = createAudit(
    { prompts: config.log.prompts },
    { clock, keyOf: (call, client) => cache.keyOf(call, client), append: auditFile?.append ?? null },
  )
  const watchers = [audit, ...tracing.watchers]
  const recorder = createRecorder({ metrics, access, log, clock, matches, watchers, traceIdOf: tracing.traceIdOf })
  const { emit } = recorder

  const store = config.redis ? world.openShared(sharedOptions(config.redis), emit) : null
  const disk = config.cache.disk && !store ? world.openDisk(diskOptions(config.cache.disk), emit) : null
  const jobStore = store ? createSharedJobStore(createSharedRecords(store, clock), clock) : null
  const jobRecords = jobStore ?? createLocalJobStore(disk ?? createMemoryStore(clock))
  const processId = random.id()
  const local = createLocalTier({
    maxBytes: config.cache.memory.maxSize,
    onEvicted: () => emit({ kind: 'cache-evicted', tier: 'memory' }),
  })
  const shared = store
    ? createSharedTier({
        codec: createCodec({ signingKeys: signingKeysOf(config), maxBytes: MAX_SHARED_BYTES }),
        store,
        memory: local,
        clock,
        random,
        emit,
      })
    : null
  const cache = createCache({ replay: profile.replay }, { local, durable: disk, shared }, clock, emit)
  const people = (): Client[] => clients.map(({ client }) => client)
  const together = store ? share(store) : null
  const ownBudget = createBudget({ clock, emit, random, store: disk, clients: people })
  const budget: Budget = together?.budget ?? ownBudget
  const sharedFlights = together?.flights ?? loneFlights
  const flights = createFlights({ clock, emit, random })
  const retryBudget = createRetryBudget({ ...config.retry.budget, clock })
  const retry = createRetry({ clock, random, emit, budget: retryBudget })
  const { openForMax } = config.breaker
  const hints = store
    ? createCircuitHints({ store, clock, random, scrapers: profile.scrapers, openForMaxMs: openForMax })
    : null
  const breakers = createBreakers({
    policy: config.breaker,
    scrapers: profile.scrapers,
    clock,
    random,
    emit,
    ...(hints ? { hints } : {}),
  })
  const { maxConcurrent, perScraper = null, queue } = config.upstream
  const bulkhead = createBulkhead({ maxConcurrent, perScraper, queue }, { clock, random, emit })
  const overload = createOverload(config.overload, { clock, random, emit, gauge: world.gaugePressure() })
  const keyRest = restsIn(retryPolicy)
  const rests = store ? restsOver(store) : null
  const memory = rests ?? (disk ? createKeyMemory(disk, clock) : noMemory)
  const keys = createKeys({ clock, random, emit, keys: config.upstream.keys, keyRest, memory })
  rests?.follow(({ name, because, untilAt }) => keys.heed(name, because, untilAt))
  const keyWatch = followKeyFiles({
    files: keyFiles,
    watch: world.watchFile,
    replace: keys.replace,
    tell({ name, kind, secret }) {
      if (!secret) return log.warn('upstream key file is no good', { key_name: name, because: kind })
      log.hide(secret.reveal())
      log.info('upstream key replaced', { key_name: name })
    },
  })
  const admission = together?.admission ?? createAdmission({ clock })
  const transport = world.connect({
    url: config.upstream.url,
    connectTimeoutMs: config.upstream.connectTimeout,
    maxResponseBytes: config.upstream.maxResponseSize,
  })

  const plain = createPlainUpstream({ profile, transport })
  const { execution } = config.jobs
  const adoptHold = budget.adopt
  const life = createLiveness({ store: jobRecords, clock, processId })
  const durable = createDurableUpstream({
    plain,
    execution,
    profile,
    store: jobRecords,
    clock,
    random,
    life,
    adoptHold,
  })
  const jobs = createJobs({
    profile,
    store: jobRecords,
    clock,
    random,
    emit,
    life,
    refund: budget.refund,
    fill({ client: payer, call, verdict, ageMs }) {
      const client = clientNamed(payer)
      if (client)
        cache.store(cache.keyOf(call, client), call, verdict, client.cache, {
          unclaimed: false,
          ageMs,
          isPassedOn: false,
        })
    },
  })

  const pipeline = createPipeline({
    clock,
    emit,
    clients: createClients({
      clients,
      anonymous: clients.find(({ client }) => client.name === 'anonymous')?.client ?? null,
    }),
    profile,
    admission,
    cache,
    budget,
    flights,
    retry: tracing.retry(audit.retry(retry)),
    breakers,
    bulkhead,
    overload,
    keys,
    upstream: audit.upstream(tracing.upstream(durable)),
    sharedFlights,
    jobs,
    recorder,
  })
  const serving = {
    handle: pipeline.handle,
    respond: createResponder({ markReplays: config.cache.markReplays, replay: profile.replay }),
  }
  const server = doors.createServer(config.listen, {
    clock,
    random,
    emit,
    serving: () => serving,
    isCritical: () => overload.state === 'critical',
    refused: recorder.refused,
  })

  const purge = createPurgeRoute({
    purge: cache.purge,
    scrapers: profile.scrapers,
    promptHash,
    durationMs: parseDuration,
    clock,
  })
  let isListening = false
  let takingUp: Timer | null = null
  const status = createStatus({
    version,
    startedAt,
    clock,
    configGeneration: () => 1,
    ready: isReady,
    draining: () => server.draining,
    openRequests: () => server.openRequests,
    overload: () => overload,
    breakers: breakers.states,
    keys: keys.states,
    flights: flights.list,
    cache: tiers,
    disk: () => disk?.state ?? null,
    redis: () => store?.state ?? null,
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
    trails: audit,
  })
  const admin = doors.createAdmin(
    { host: config.admin.host, port: config.admin.port, token: config.admin.token?.reveal() ?? null },
    {
      random,
      emit,
      ready: isReady,
      metrics: metrics.text,
      status,
      routes: [purge, createStatusPage(status), ...createRequestRoutes({ trails: audit, clock })],
    },
  )

  function restsOver(store: SharedStore) {
    const names = config.upstream.keys.map(({ name }) => name)
    const longestMs = Math.max(keyRest.creditsExhausted ?? 0, keyRest.unauthorized ?? 0, LONGEST_LIMIT_MS)
    const topic = { store, clock, random, topic: 'keys', names, maxLeftMs: longestMs }
    return createSharedRests({ clock, openHints: (heard) => createSharedHints({ ...topic, heard }) })
  }

  /** What the replicas count and do together. */
  function share(store: SharedStore) {
    const fleet = createFleet({ store, clock, replicaId: processId })
    const ports = { store, clock, random, replicas: fleet.size }
    const concurrency = createSharedConcurrencyLimits(ports)
    const budget = createSharedBudget({
      store,
      clock,
      random,
      emit,
      clients: people,
      whenAway: config.redis?.whenAway ?? 'closed',
      tell: ({ kind, client, credits }) => emit({ kind: 'credits-away', how: kind, client, credits }),
    })
    const flights = createSharedFlights(
      { replicaId: processId },
      {
        store,
        clock,
        random,
        emit,
        seal: createSeal(signingKeysOf(config)),
        read: (key) => shared?.read(key) ?? Promise.resolve('away'),
        keep: (key, entry, fence) => shared?.keep(key, entry, fence) ?? Promise.resolve('away'),
      },
    )
    return {
      admission: createSharedAdmission({ rates: createSharedRateLimits(ports), concurrency }),
      budget,
      flights,
      async close() {
        flights.close()
        await flights.idle()
        concurrency.close()
        await Promise.all([budget.close(), fleet.close()])
      },
    }
  }

  function isReady(): boolean {
    return isListening && !server.draining
  }

  function tiers(): readonly { readonly tier: 'memory' | 'disk'; readonly entries: number; readonly bytes: number }[] {
    const memory = { tier: 'memory', entries: local.count, bytes: local.bytes } as const
    return disk ? [memory, { tier: 'disk', entries: disk.entries, bytes: disk.bytes }] : [memory]
  }

  function clientNamed(name: string): Client | null {
    return clients.find(({ client }) => client.name === name)?.client ?? null
  }

  /** What a process that is gone has begun and paid for is flown to its end. */
  async function takeUp(): Promise<void> {
    const promised = await jobs.interrupted()
    for (const { call, client: payer, cacheKey: key, holdId } of (await durable.leftBehind()).submitted) {
      const client = clientNamed(payer)
      if (!client) continue
      const request = { id: random.id(), traceparent: null, wishes: noWishes }
      const askedAt = clock.now()
      const landing = pipeline.resume({ request, client, call, key, askedAt }, budget.adopt(holdId) ?? budget.none)
      for (const promise of promised) if (isFor(promise, payer, call, key)) await jobs.resume(promise.id, landing)
    }
  }

  /** Other replicas may be lost at any time, and what they have begun with them. */
  function keepTakingUp(): void {
    takingUp = clock.after(TAKE_UP_EVERY_MS, () => {
      keepTakingUp()
      takeUp().catch((error: unknown) => recorder.emit({ kind: 'broke', where: 'taking up', error }))
    })
  }

  /** An answer kept under a key is for all who would find it there; any other only for the client that asked so. */
  function isFor(promise: PromisedAnswer, payer: string, call: Call, key: string | null): boolean {
    const owner = clientNamed(promise.client)
    if (!owner || promise.call.path !== call.path) return false
    if (key !== null) return cache.keyOf(promise.call, owner) === key
    return owner.name === payer && JSON.stringify(promise.call.params) === JSON.stringify(call.params)
  }

  async function listen(): Promise<Ports> {
    await takeUp()
    // What nobody has adopted by now belonged to calls that were lost.
    ownBudget.sweep()
    if (store) keepTakingUp()
    await admin.listen()
    await server.listen()
    isListening = true
    return { port: server.port, adminPort: admin.port }
  }

  const hurried = Promise.withResolvers<void>()

  /** First the requests, then the flights that nobody waits for any more: they are probably paid for. */
  async function drain(): Promise<Drained> {
    const { readinessDelay, grace } = config.shutdown
    clock.after(readinessDelay + grace, hurried.resolve)
    const how = await server.drain({ readinessDelayMs: readinessDelay, graceMs: grace })
    await Promise.race([flights.idle(), hurried.promise])
    return flights.size === 0 ? how : 'forced'
  }

  function hurry(): void {
    void server.drain({ readinessDelayMs: 0, graceMs: 0 })
    hurried.resolve()
  }

  return {
    log,
    listen,
    drain,
    hurry,
    async close() {
      takingUp?.cancel()
      keyWatch.close()
      durable.close()
      await admin.close()
      transport.close()
      breakers.close()
      overload.close()
      disk?.close()
      await life.close()
      jobStore?.close()
      await shared?.settled()
      await together?.close()
      rests?.close()
      hints?.close()
      shared?.close()
      store?.close()
      access.flush()
      audit.close()
      await auditFile?.close()
      output.flush()
    },
  }
}

interface KnownClient {
  readonly client: Client
  readonly tokenHashes: readonly string[]
}

function clientsOf(config: Config): readonly KnownClient[] {
  return Object.entries(config.clients).map(([name, { tokenSha256, token }]) => ({
    client: { name, ...resolveClient(config, name) },
    tokenHashes: [...tokenSha256, ...token.map((secret) => createHash('sha256').update(secret.reveal()).digest('hex'))],
  }))
}

function secretsOf({ upstream, clients, admin }: Config): readonly string[] {
  const tokens = Object.values(clients).flatMap(({ token }) => token)
  const secrets = [...upstream.keys.map(({ secret }) => secret), ...tokens, ...(admin.token ? [admin.token] : [])]
  return secrets.map((secret) => secret.reveal())
}

function tiersOf({ cache, redis }: Config): Tier[] {
  if (redis) return ['memory', 'redis']
  return cache.disk ? ['memory', 'disk'] : ['memory']
}

function sharedOptions(redis: NonNullable<Config['redis']>): SharedOptions {
  const { username = null, password, database, timeout: timeoutMs, prefix } = redis
  return { place: placeOf(redis), username, password: password?.reveal() ?? null, database, timeoutMs, prefix }
}

function placeOf({ url = '', sentinel, cluster }: NonNullable<Config['redis']>): SharedOptions['place'] {
  if (sentinel) return { kind: 'sentinel', ...sentinel }
  return cluster ? { kind: 'cluster', urls: cluster } : { kind: 'single', url }
}

/** The first signs, all are believed. Replicas with the same upstream keys believe each other without a secret of its own. */
function signingKeysOf({ redis, upstream }: Config): readonly [Buffer, ...Buffer[]] {
  const given = redis?.signingKey ?? []
  const [first, ...others] = given.length > 0 ? given : upstream.keys.map(({ secret }) => secret)
  if (!first) throw new TypeError('settings without an upstream key')
  return [signingKeyOf(first.reveal()), ...others.map((secret) => signingKeyOf(secret.reveal()))]
}

function auditOptions({ path, maxSize }: NonNullable<Config['audit']>) {
  return { path, maxBytes: maxSize }
}

function diskOptions({ path, maxSize }: Exclude<Config['cache']['disk'], false>) {
  return { path, maxBytes: maxSize }
}

const TAKE_UP_EVERY_MS = 15_000

/** As long as a rate limit of upstream is believed. */
const LONGEST_LIMIT_MS = 3_600_000

/** A longer answer is kept by each replica for itself. */
const MAX_SHARED_BYTES = 4 * 1_048_576

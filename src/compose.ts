/**
 * The composition root: settings and a world in, a running proxy out. The only file that connects parts to the world; what
 * each part does is in its own file, the order of a request in `pipeline.ts`.
 */
import { createHash } from 'node:crypto'
import { createLocalTier } from './cache/local-tier.ts'
import { createCache } from './cache/tiered.ts'
import { resolveRetry, type Config } from './config/schema.ts'
import { createAdmin } from './http/admin.ts'
import { createClients } from './http/clients.ts'
import type { Drained } from './http/drain.ts'
import { createResponder, matches } from './http/respond.ts'
import { createServer } from './http/server.ts'
import { createKeys } from './keys/pool.ts'
import { createAdmission } from './limits/admission.ts'
import type { Client } from './model.ts'
import { createPipeline } from './pipeline.ts'
import type { Emit, World } from './ports.ts'
import { createBreakers } from './resilience/breaker.ts'
import { createBulkhead } from './resilience/bulkhead.ts'
import { createFlights } from './resilience/coalesce.ts'
import { createRetryBudget } from './resilience/retry-budget.ts'
import { createRetry } from './resilience/retry.ts'
import { createProfile } from './scrapellm/profile.ts'
import { createAccessLog } from './telemetry/access-log.ts'
import { createLog, type Log } from './telemetry/log.ts'
import { createMetrics } from './telemetry/metrics.ts'
import { createRecorder } from './telemetry/recorder.ts'

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

export function compose(config: Config, world: World, version: string): App {
  const { clock, random, output } = world
  const startedAt = clock.wall()
  const secrets = config.upstream.keys.map((key) => key.secret.reveal())
  const log = createLog({ level: config.log.level, sink: output.write, secrets })
  const profile = createProfile({ markReplays: config.cache.markReplays, version }, clock)
  const clients = clientsOf(config)
  const retryPolicy = resolveRetry(config.retry)

  // The recorder counts what the parts do, and its gauges read how the parts stand: each needs the other.
  const emit: Emit = (event) => recorder.emit(event)
  const local = createLocalTier({
    maxBytes: config.cache.memory.maxSize,
    onEvicted: () => emit({ kind: 'cache-evicted', tier: 'memory' }),
  })
  const cache = createCache({ replay: profile.replay }, local, null, clock, emit)
  const flights = createFlights({ clock, emit })
  const retryBudget = createRetryBudget({ ...config.retry.budget, clock })
  const retry = createRetry({ clock, random, emit, budget: retryBudget })
  const breakers = createBreakers({ policy: config.breaker, scrapers: profile.scrapers, clock, random, emit })
  const { maxConcurrent, perScraper = null } = config.upstream
  const bulkhead = createBulkhead({ maxConcurrent, perScraper })
  const keyRest = {
    creditsExhausted: retryPolicy.classes.creditsExhausted.keyRest,
    unauthorized: retryPolicy.classes.unauthorized.keyRest,
  }
  const keys = createKeys({ clock, random, emit, keys: config.upstream.keys, keyRest })
  const admission = createAdmission({ clock })
  const transport = world.connect({
    url: config.upstream.url,
    connectTimeoutMs: config.upstream.connectTimeout,
    maxResponseBytes: config.upstream.maxResponseSize,
  })

  const metrics = createMetrics({
    clients: clients.map(({ client }) => client.name),
    scrapers: profile.scrapers,
    keys: config.upstream.keys.map((key) => key.name),
    tiers: ['memory'],
    version,
    gauges: {
      breakers: breakers.states,
      keys: keys.states,
      retryTokens: retryBudget.tokens,
      cache: () => [{ tier: 'memory', entries: local.count, bytes: local.bytes }],
      configGeneration: () => 1,
    },
  })
  const access = createAccessLog(
    { level: config.log.level, prompts: config.log.prompts },
    { clock, sink: output.write },
  )
  const recorder = createRecorder({ metrics, access, log, clock, matches })

  const handle = createPipeline({
    clock,
    emit,
    clients: createClients({
      clients,
      anonymous: clients.find(({ client }) => client.name === 'anonymous')?.client ?? null,
    }),
    profile,
    admission,
    cache,
    flights,
    retry,
    breakers,
    bulkhead,
    keys,
    transport,
    recorder,
  })
  const serving = {
    handle,
    respond: createResponder({ markReplays: config.cache.markReplays, replay: profile.replay }),
  }
  const server = createServer(config.listen, { clock, random, emit, serving: () => serving, refused: recorder.refused })

  let isListening = false
  const admin = createAdmin(
    { host: config.admin.host, port: config.admin.port, token: config.admin.token?.reveal() ?? null },
    { random, emit, ready: () => isListening && !server.draining, metrics: metrics.text, status },
  )

  /** What an operator may see: no secret, no prompt. */
  function status(): object {
    return {
      version,
      uptime_seconds: Math.floor((clock.wall() - startedAt) / 1000),
      config_generation: 1,
      draining: server.draining,
      open_requests: server.openRequests,
      breakers: breakers
        .states()
        .map(({ scraper, state, openUntil }) => ({ scraper, state, open_until: iso(openUntil) })),
      keys: keys.states().map(({ name, state, untilAt }) => ({ name, state, until: iso(untilAt) })),
      flights: flights.size,
      cache: { memory: { entries: local.count, bytes: local.bytes } },
      clients: clients.map(({ client }) => ({ name: client.name, open_questions: admission.open(client.name) })),
    }
  }

  async function listen(): Promise<Ports> {
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
      await admin.close()
      transport.close()
      breakers.close()
      access.flush()
      output.flush()
    },
  }
}

interface KnownClient {
  readonly client: Client
  readonly tokenHashes: readonly string[]
}

function clientsOf(config: Config): readonly KnownClient[] {
  const retry = resolveRetry(config.retry)
  const { ttl, staleIfError, emptyResultTtl, scope } = config.cache
  const cache = { ttl, staleIfError, staleWhileRevalidate: 0, emptyResultTtl, scope }
  return Object.entries(config.clients).map(([name, { rate = null, concurrency = null, tokenSha256, token }]) => ({
    client: { name, rate, concurrency, retry, cache, credits: { perDay: null, perMonth: null }, scrapers: null },
    tokenHashes: [...tokenSha256, ...token.map((secret) => createHash('sha256').update(secret.reveal()).digest('hex'))],
  }))
}

function iso(at: number | null): string | null {
  return at !== null && Number.isFinite(at) ? new Date(at).toISOString() : null
}

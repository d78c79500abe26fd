/** Builds what asks upstream: flights, breakers, retries, places, keys, jobs, and the first serving. */
import { cacheBytesOf } from '../config/policy.ts'
import type { Config } from '../config/schema.ts'
import { createGenerations } from '../generations.ts'
import { createJobs } from '../jobs/book.ts'
import { createDurableUpstream } from '../jobs/durable.ts'
import { createKeys } from '../keys/pool.ts'
import type { Profile } from '../parts.ts'
import type { World } from '../ports.ts'
import { createBreakers } from '../resilience/breaker.ts'
import { createBulkhead } from '../resilience/bulkhead.ts'
import { createFlights } from '../resilience/coalesce.ts'
import { createOverload, type YieldingCache } from '../resilience/overload.ts'
import { createRetryBudget } from '../resilience/retry-budget.ts'
import { createServing, type Lasting } from '../serving.ts'
import { keysOf, placesOf } from '../options.ts'
import { createCrashRecovery } from '../crash-recovery.ts'
import { watchTraffic } from '../telemetry/day-traffic.ts'
import type { Closing } from './closing.ts'
import type { SettingsInForce } from './in-force.ts'
import type { Limits } from './limits.ts'
import type { Stores } from './stores.ts'
import type { Telemetry } from './telemetry.ts'

export interface EngineBase {
  readonly config: Config
  readonly world: World
  readonly profile: Profile
  readonly telemetry: Telemetry
  readonly stores: Stores
  readonly limits: Limits
  readonly inForce: SettingsInForce
  /** Nothing is repeated any more. */
  readonly isCutting: () => boolean
  readonly closing: Closing
}

export type Engine = ReturnType<typeof buildEngine>

export function buildEngine(base: EngineBase) {
  const { config, world, profile, telemetry, stores, limits, inForce, closing } = base
  const { clock, random } = world
  const { emit, recorder, tracing } = telemetry
  const { budget, admission, sharedFlights, cooldowns } = limits
  const { session, jobRecords } = stores
  telemetry.watch(watchTraffic(stores.traffic))
  const flights = createFlights({ clock, emit, random })
  const breakers = createBreakers({ policy: config.breaker, scrapers: profile.scrapers, clock, random, emit })
  const retryBudget = createRetryBudget({ ...config.retry.budget, clock, isWell: breakers.isWell })
  const bulkhead = createBulkhead(placesOf(config), { clock, random, emit })
  const { gauge } = stores
  const overload = createOverload(config.overload, { clock, random, emit, gauge, cache: yieldingCache(base) })
  closing.add(overload.close)
  closing.add(breakers.close)
  const firstKeys = createKeys({ clock, random, emit, memory: limits.keyMemory, ...keysOf(config) })
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
      const client = inForce.clientNamed(payer)
      const { cache } = inForce.generations.current
      const kept = { unclaimed: false, ageMs, isPassedOn: false }
      if (client) cache.store(cache.keyOf(call, client), call, verdict, client.cache, kept)
    },
  })
  const lasting: Lasting = {
    clock,
    random,
    emit,
    connect: world.connect,
    environment: world.environment,
    profile,
    tiers: { local: stores.local, durable: stores.disk, shared: stores.shared },
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
    traces: tracing,
    isCutting: base.isCutting,
    tokenUses: stores.tokenUses,
  }
  const generations = inForce.begin(createGenerations(createServing(config, lasting, firstKeys, null), clock))
  closing.add(generations.close)
  closing.add(() => void durable.close())
  const crashRecovery = createCrashRecovery({
    clock,
    random,
    emit,
    jobs,
    durable,
    budget,
    clientNamed: inForce.clientNamed,
    serving: () => generations.current,
  })
  closing.add(crashRecovery.close)
  cooldowns?.follow(({ name, because, untilAt }) =>
    generations.current.keys.applyRemoteCooldown(name, because, untilAt),
  )

  return { profile, flights, breakers, bulkhead, overload, durable, jobs, lasting, crashRecovery }
}

function yieldingCache({ stores: { local, gauge }, inForce }: EngineBase): YieldingCache {
  return {
    get bytes() {
      return local.bytes
    },
    get maxBytes() {
      return local.maxBytes
    },
    get fullBytes() {
      return cacheBytesOf(inForce.config(), gauge.limitBytes)
    },
    resize: local.resize,
  }
}

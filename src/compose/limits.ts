/** Builds what clients and keys may use, here or among all replicas: rates, places, credits, flights, rests of keys. */
import type { Config } from '../config/schema.ts'
import { createKeyMemory, noMemory } from '../keys/key-memory.ts'
import { createSharedCooldowns } from '../keys/shared-cooldowns.ts'
import { createAdmission } from '../limits/admission.ts'
import { createBudget } from '../limits/budget.ts'
import { createSharedAdmission } from '../limits/shared-admission.ts'
import { createSharedBudget } from '../limits/shared-budget.ts'
import type { SharedDaySums } from '../limits/shared-day-sums.ts'
import { createSharedConcurrencyLimits } from '../limits/shared-concurrency.ts'
import { createSharedRateLimits } from '../limits/shared-rate.ts'
import type { AccountLimits } from '../model.ts'
import type { Budget } from '../parts.ts'
import type { SharedStore, World } from '../ports.ts'
import { createSigner } from '../resilience/shared-flight-records.ts'
import { createSharedFlights, loneFlights } from '../resilience/shared-flight.ts'
import { createGossip } from '../resilience/gossip.ts'
import { accountLimitsOf, keyNamesOf, longestRestOf } from '../options.ts'
import type { Closing } from './closing.ts'
import type { InForce } from './in-force.ts'
import type { Stores } from './stores.ts'
import type { Telemetry } from './telemetry.ts'

export interface LimitsBase {
  readonly config: Config
  readonly world: World
  readonly telemetry: Telemetry
  readonly stores: Stores
  readonly inForce: InForce
  readonly closing: Closing
}

export type Limits = ReturnType<typeof buildLimits>

export function buildLimits(base: LimitsBase) {
  const { config, world, telemetry, stores, inForce } = base
  const { clock, random } = world
  const { emit } = telemetry
  const { store, disk, records } = stores
  const cooldowns = store ? sharedCooldowns(store, base) : null
  let accountLimits: AccountLimits | null = accountLimitsOf(config)
  const together = store && stores.daySums ? shareLimits(store, stores.daySums, base, () => accountLimits) : null
  const ownBudget = createBudget({
    clock,
    emit,
    random,
    store: records,
    clients: inForce.clients,
    account: () => accountLimits,
    mustBeSafe: () => inForce.config().jobs.execution === 'durable',
  })
  const budget: Budget = together?.budget ?? ownBudget
  return {
    ownBudget,
    budget,
    spending: together?.budget.spending ?? ownBudget.spending,
    correct: together?.budget.correct ?? ownBudget.correct,
    admission: together?.admission ?? createAdmission({ clock }),
    sharedFlights: together?.flights ?? loneFlights,
    cooldowns,
    keyMemory: cooldowns ?? (disk ? createKeyMemory(disk, clock) : noMemory),
    adopt: (next: Config) => void (accountLimits = accountLimitsOf(next)),
  }
}

function sharedCooldowns(store: SharedStore, { world: { clock, random }, inForce, closing }: LimitsBase) {
  const topic = {
    store,
    clock,
    random,
    topic: 'keys',
    names: () => keyNamesOf(inForce.config()),
    maxLeftMs: () => longestRestOf(inForce.config()),
  }
  const cooldowns = createSharedCooldowns({ clock, openHints: (heard) => createGossip({ ...topic, heard }) })
  closing.add(cooldowns.close)
  return cooldowns
}

/** What the replicas count and do together. */
function shareLimits(
  store: SharedStore,
  daySums: SharedDaySums,
  { world, telemetry, stores, inForce, closing }: LimitsBase,
  whole: () => AccountLimits | null,
) {
  const { clock, random } = world
  const { emit } = telemetry
  const { session, shared, signingKeys } = stores
  const concurrency = createSharedConcurrencyLimits({ store, session, clock })
  const budget = createSharedBudget({
    store,
    clock,
    random,
    emit,
    session,
    clients: inForce.clients,
    whole,
    daySums,
    whenAway: () => inForce.config().redis?.whenAway ?? 'closed',
    tell: ({ kind, client, credits }) => emit({ kind: 'credits-away', how: kind, client, credits }),
  })
  closing.add(budget.close)
  closing.add(concurrency.close)
  const flights = createSharedFlights({
    store,
    clock,
    random,
    emit,
    session,
    signer: createSigner(signingKeys.all),
    read: (key) => shared?.read(key) ?? Promise.resolve('away'),
    keep: (key, entry, fence, end) => shared?.keep(key, entry, fence, end) ?? Promise.resolve('away'),
  })
  closing.add(async () => {
    flights.close()
    await flights.idle()
  })
  const rates = createSharedRateLimits({ store, clock, session })
  return { admission: createSharedAdmission({ rates, concurrency }), budget, flights }
}

/** Builds what clients and keys may use, here or among all replicas: rates, places, credits, flights, rests of keys. */
import type { Config } from '../config/schema.ts'
import { createKeyMemory, noMemory } from '../keys/key-memory.ts'
import { createSharedRests } from '../keys/shared-rests.ts'
import { createAdmission } from '../limits/admission.ts'
import { createBudget } from '../limits/budget.ts'
import { createSharedAdmission } from '../limits/shared-admission.ts'
import { createSharedBudget } from '../limits/shared-budget.ts'
import { createSharedConcurrencyLimits } from '../limits/shared-concurrency.ts'
import { createSharedRateLimits } from '../limits/shared-rate.ts'
import type { AccountLimits } from '../model.ts'
import type { Budget } from '../parts.ts'
import type { SharedStore, World } from '../ports.ts'
import { createSeal } from '../resilience/shared-flight-marks.ts'
import { createSharedFlights, loneFlights } from '../resilience/shared-flight.ts'
import { createSharedHints } from '../resilience/shared-hints.ts'
import { accountLimitsOf, keyNamesOf, longestRestOf } from '../slices.ts'
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
  const rests = store ? sharedRests(store, base) : null
  const together = store ? shareLimits(store, base) : null
  let accountLimits: AccountLimits | null = accountLimitsOf(config)
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
    admission: together?.admission ?? createAdmission({ clock }),
    sharedFlights: together?.flights ?? loneFlights,
    rests,
    keyMemory: rests ?? (disk ? createKeyMemory(disk, clock) : noMemory),
    adopt: (next: Config) => void (accountLimits = accountLimitsOf(next)),
  }
}

function sharedRests(store: SharedStore, { world: { clock, random }, inForce, closing }: LimitsBase) {
  const topic = {
    store,
    clock,
    random,
    topic: 'keys',
    names: () => keyNamesOf(inForce.config()),
    maxLeftMs: () => longestRestOf(inForce.config()),
  }
  const rests = createSharedRests({ clock, openHints: (heard) => createSharedHints({ ...topic, heard }) })
  closing.add(rests.close)
  return rests
}

/** What the replicas count and do together. */
function shareLimits(store: SharedStore, { world, telemetry, stores, inForce, closing }: LimitsBase) {
  const { clock, random } = world
  const { emit } = telemetry
  const { session, shared, signingKeys } = stores
  const concurrency = createSharedConcurrencyLimits({ store, session })
  const budget = createSharedBudget({
    store,
    clock,
    random,
    emit,
    session,
    clients: inForce.clients,
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
    seal: createSeal(signingKeys.all),
    read: (key) => shared?.read(key) ?? Promise.resolve('away'),
    keep: (key, entry, fence) => shared?.keep(key, entry, fence) ?? Promise.resolve('away'),
  })
  closing.add(async () => {
    flights.close()
    await flights.idle()
  })
  const rates = createSharedRateLimits({ store, clock, session })
  return { admission: createSharedAdmission({ rates, concurrency }), budget, flights }
}

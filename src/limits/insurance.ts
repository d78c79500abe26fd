/**
 * What a replica may allow by itself while the store is away: of rates and places its share, which takes knowing how many
 * replicas there are; of credits the allowance that it leased before, which the store counts as held all the time. So whatever
 * is granted meanwhile was taken from the budget already, even if this replica never comes back to say so.
 */
import { ProxyError } from '../errors.ts'
import type { Client } from '../model.ts'
import type { Clock, SharedStore } from '../ports.ts'
import { createHeartbeat } from './heartbeat.ts'
import { aliveScript } from './scripts.ts'

export interface Fleet {
  /** How many replicas there are, this one included, as far as is known; what was last seen holds while the store is away. */
  size(): number
  /** Tells the others that this replica is no more. */
  close(): Promise<void>
}

interface FleetPorts {
  readonly store: SharedStore
  readonly clock: Clock
  /** No other replica's. */
  readonly replicaId: string
  /** After so long without a sign of life a replica counts no more. */
  readonly ttlMs?: number
}

const REPLICA_TTL_MS = 15_000
const KEYS = ['limits:{fleet}:replicas']
const MAX_ALLOWANCE = 50
const ALLOWANCE_SHARE = 50
const RETRY_AFTER_MS = 5_000

export function createFleet({ store, clock, replicaId, ttlMs = REPLICA_TTL_MS }: FleetPorts): Fleet {
  let seen = 1
  const heartbeat = createHeartbeat(clock, ttlMs / 3, beat)
  const stopListening = store.onState((state) => {
    if (state === 'up') void heartbeat.now()
  })
  void heartbeat.now()

  async function beat(): Promise<void> {
    const counted = await store.run(aliveScript, KEYS, [ttlMs, replicaId])
    // A replica that was away longer than its sign of life finds an empty room, and the others a moment later.
    if (counted.kind === 'known' && Number(counted.value) >= 1) seen = Number(counted.value)
  }

  return {
    size: () => seen,
    async close() {
      stopListening()
      heartbeat.stop()
      await heartbeat.now()
      await store.run(aliveScript, KEYS, [0, replicaId])
    },
  }
}

/** Its part of what all replicas together may; rounded down, so that they stay below it, but never nothing. */
export function shareOf(limit: number, replicas: number): number {
  return Math.max(1, Math.floor(limit / replicas))
}

/** The credits that a replica leases in advance: two of a hundred, of the smaller limit, and not more than a few questions. */
export function allowanceOf({ perDay, perMonth }: Client['credits']): number {
  const limit = Math.min(perDay ?? Number.POSITIVE_INFINITY, perMonth ?? Number.POSITIVE_INFINITY)
  return Math.min(MAX_ALLOWANCE, Math.floor(limit / ALLOWANCE_SHARE))
}

/** There are credits, but nobody can take them now. */
export function storeAway(): ProxyError {
  const detail =
    'Redis, which counts the credits of this client, is unavailable, and what this replica may spend without it is used up. ' +
    'Known answers still come; retry later.'
  return new ProxyError('BUDGET_UNAVAILABLE', detail, { retryAfterMs: RETRY_AFTER_MS })
}

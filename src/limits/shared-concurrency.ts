/**
 * How many questions of a client may be open at a time, on all replicas together. A place in the store expires unless its
 * replica says now and then that it is still taken, so those of a dead replica come free by themselves. While the store is
 * away, each replica grants its share; when it is back, it is told of the places taken meanwhile.
 */
import { ProxyError } from '../errors.ts'
import type { Client } from '../model.ts'
import type { Place } from '../parts.ts'
import type { Clock, Random, SharedStore } from '../ports.ts'
import { createHeartbeat } from './heartbeat.ts'
import { shareOf } from './insurance.ts'
import { enterScript, leaveScript, renewScript, tagged } from './scripts.ts'

export interface SharedConcurrencyLimits {
  /** Throws or rejects with CONCURRENCY_LIMITED. A client without a limit is counted all the same, without asking. */
  enter(client: Client): Place | Promise<Place>
  /** On this replica. */
  open(clientName: string): number
  close(): void
}

interface ConcurrencyPorts {
  readonly store: SharedStore
  readonly clock: Clock
  readonly random: Random
  readonly replicas: () => number
  readonly ttlMs?: number
}

const PLACE_TTL_MS = 30_000
/** A script holds up everybody else, and Lua takes no more arguments than some thousands. */
const MAX_IDS = 1_000
/** More are not told to the store: it forgets places by itself that nobody renews. */
const MAX_OWED = 10_000
/** Nobody knows when one of the open questions is answered. */
const RETRY_AFTER_MS = 1_000

export function createSharedConcurrencyLimits(ports: ConcurrencyPorts): SharedConcurrencyLimits {
  const { store, clock, random, replicas, ttlMs = PLACE_TTL_MS } = ports
  /** Places of this replica by client; the store knows of those that are true here. */
  const taken = new Map<string, Map<string, boolean>>()
  /** Left here, and perhaps not in the store. */
  const owed = new Map<string, Set<string>>()
  const heartbeat = createHeartbeat(clock, ttlMs / 3, beat)
  const stopListening = store.onState((state) => {
    if (state === 'up') void heartbeat.now()
  })

  function enter({ name, concurrency }: Client): Place | Promise<Place> {
    const id = random.id()
    return concurrency === null ? take(name, id, false) : ask(name, id, concurrency)
  }

  async function ask(name: string, id: string, limit: number): Promise<Place> {
    const reply = await store.run(enterScript, [keyOf(name)], [ttlMs, limit, id])
    const isGranted = reply.kind === 'known' ? reply.value === 1 : open(name) < shareOf(limit, replicas())
    if (isGranted) return take(name, id, true)
    // It may have been granted all the same, and nobody would ever leave it.
    if (reply.kind === 'away' && reply.sent) leave(name, id)
    throw new ProxyError('CONCURRENCY_LIMITED', 'This client has as many open questions as it may.', {
      retryAfterMs: RETRY_AFTER_MS,
    })
  }

  function take(name: string, id: string, isShared: boolean): Place {
    const own = taken.get(name) ?? new Map<string, boolean>()
    taken.set(name, own.set(id, isShared))
    return {
      leave() {
        if (!own.delete(id) || !isShared) return
        leave(name, id)
      },
    }
  }

  function leave(name: string, id: string): void {
    const ids = owed.get(name) ?? new Set<string>()
    for (const oldest of ids.size < MAX_OWED ? [] : ids.values().take(1)) ids.delete(oldest)
    owed.set(name, ids.add(id))
    void tellLeft(name, ids, [id])
  }

  async function tellLeft(name: string, owing: Set<string>, ids: readonly string[]): Promise<void> {
    const told = await store.run(leaveScript, [keyOf(name)], ids)
    if (told.kind === 'known') for (const id of ids) owing.delete(id)
  }

  async function beat(): Promise<void> {
    if (store.state === 'down') return
    for (const [name, ids] of owed) if (ids.size > 0) await tellLeft(name, ids, [...ids].slice(0, MAX_IDS))
    for (const [name, own] of taken) {
      const ids = Array.from(own).flatMap(([id, isShared]) => (isShared ? [id] : []))
      for (let from = 0; from < ids.length; from += MAX_IDS) {
        await store.run(renewScript, [keyOf(name)], [ttlMs, ...ids.slice(from, from + MAX_IDS)])
      }
    }
  }

  function open(clientName: string): number {
    return taken.get(clientName)?.size ?? 0
  }

  function close(): void {
    stopListening()
    heartbeat.stop()
  }

  return { enter, open, close }
}

function keyOf(clientName: string): string {
  return tagged('open', clientName)
}

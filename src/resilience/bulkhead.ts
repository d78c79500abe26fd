/**
 * Limits the upstream calls that are under way at the same time: over all scrapers, for each, and, unless that is switched off, to what
 * upstream turns out to take. A call beyond waits in the queue of its scraper, where clients take turns. Scrapers take turns as well, so
 * that neither a long queue nor a full scraper keeps the others from their places.
 *
 * Promises: a place is counted in the step that gives it, so no interleaving exceeds a limit; a call that nobody waits for leaves the
 * queue; afterwards there is neither a timer nor a listener left.
 */
import { overloaded, type ProxyError } from '../errors.ts'
import { tooManyCalls } from '../failures.ts'
import type { Verdict } from '../model.ts'
import type { Bulkhead, Flight, Permit } from '../parts.ts'
import type { Clock, Emit, Random } from '../ports.ts'
import { type AdaptiveLimit, type CallUnderWay, createAdaptiveLimit } from './adaptive-limit.ts'
import { createFairQueue, type FairQueue, type QueuedClient } from './fair-queue.ts'

export interface BulkheadPolicy {
  readonly maxConcurrent: number
  /** For every scraper, or for those that are named; null or not named: only the limit over all holds. */
  readonly perScraper: number | Readonly<Record<string, number>> | null
  /** Follow what upstream takes. */
  readonly adaptive: boolean
  /** So many calls may wait for each scraper, 0 = none, and none longer than `maxWait` milliseconds. */
  readonly queue: { readonly size: number; readonly maxWait: number }
}

export interface BulkheadGauges {
  /** Calls under way, of one scraper or of all. */
  inFlight(scraper?: string): number
  /** Calls that wait for a place, of one scraper or of all. */
  queued(scraper?: string): number
  /** How many calls of this scraper may be under way now. */
  limit(scraper: string): number
}

interface BulkheadPorts {
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
}

interface Waiter {
  letIn(): void
  refuse(error: ProxyError): void
}

type Patience = Pick<Flight, 'onAbandoned'>

interface Lane {
  readonly scraper: string
  readonly queue: FairQueue<Waiter>
  readonly found: AdaptiveLimit
}

/** Of `maxWait`: so much longer waits a call whose turn comes within that time. */
const EXTRA_WAIT = 0.25

export interface SizedBulkhead extends Bulkhead, BulkheadGauges {
  /** Other limits from now on, also for calls that wait already. */
  adopt(policy: BulkheadPolicy): void
}

export function createBulkhead(first: BulkheadPolicy, ports: BulkheadPorts): SizedBulkhead {
  let policy = first
  const { clock, random, emit } = ports
  /** In the order of their turns. */
  const lanes = new Map<string, Lane>()
  let inAll = 0

  function enter(scraper: string, flight: Patience, client: QueuedClient, isRepeat: boolean): Permit | Promise<Permit> {
    const lane = laneOf(scraper)
    if (hasRoom(lane)) return take(lane)
    const { size, maxWait } = policy.queue
    if (size === 0 || maxWait === 0) throw noPlace()
    // A repetition has been in already: places and the retry budget bound their number.
    if (!isRepeat && lane.queue.newcomers >= size) makeRoom(lane, client)
    return wait(lane, flight, client, isRepeat)
  }

  function laneOf(scraper: string): Lane {
    const known = lanes.get(scraper)
    if (known) return known
    const lane = { scraper, queue: createFairQueue<Waiter>(), found: createAdaptiveLimit() }
    lanes.set(scraper, lane)
    return lane
  }

  function take(lane: Lane): Permit {
    inAll += 1
    const call = lane.found.letIn(clock.now())
    let isTaken = true
    return {
      ended: (verdict, otherKeyReady) => ended(lane, call, verdict, otherKeyReady),
      leave() {
        if (!isTaken) return
        isTaken = false
        inAll -= 1
        lane.found.left(call, clock.now())
        while (passOn());
      },
    }
  }

  function ended(lane: Lane, call: CallUnderWay, verdict: Verdict, otherKeyReady: boolean): boolean {
    if (!policy.adaptive) return false
    if (verdict.kind === 'answered') {
      lane.found.answered(fixedLimit(lane.scraper), clock.now())
      return false
    }
    if (!tooManyCalls.has(verdict.class) || (verdict.fault === 'key' && otherKeyReady)) return false
    return lane.found.refused(call, clock.now())
  }

  /** The queue is full: whoever takes most of it for its weight gives way. Throws when that is the client that comes. */
  function makeRoom(lane: Lane, client: QueuedClient): void {
    const error = overloaded('queue', 'Too many requests wait for a place among the upstream calls.', random.next())
    const displaced = lane.queue.displaced(client)
    if (!displaced) throw error
    displaced.refuse(error)
  }

  function wait(lane: Lane, flight: Patience, client: QueuedClient, isRepeat: boolean): Promise<Permit> {
    return new Promise((resolve, reject) => {
      const startedAt = clock.now()
      const waiter: Waiter = {
        letIn() {
          stepOut()
          resolve(take(lane))
        },
        refuse(error) {
          stepOut()
          reject(error)
        },
      }
      const ticket = lane.queue.add(client, waiter, isRepeat)
      const { maxWait } = policy.queue
      let timer = clock.after(maxWait, () => {
        // Whoever has waited so long for a queue that moves is not refused just before its turn.
        if (!ticket.isNear(EXTRA_WAIT)) return waiter.refuse(noPlace())
        timer = clock.after(EXTRA_WAIT * maxWait, () => waiter.refuse(noPlace()))
      })
      const stopListening = flight.onAbandoned(() => waiter.refuse(noPlace()))

      function stepOut(): void {
        timer.cancel()
        stopListening()
        ticket.leave()
        emit({ kind: 'queue-left', scraper: lane.scraper, waitedMs: clock.now() - startedAt })
      }
    })
  }

  /** A free place goes to the scraper whose turn it is among those that may have one. False = to nobody. */
  function passOn(): boolean {
    for (const priority of ['interactive', 'batch'] as const) {
      for (const lane of lanes.values()) {
        if (!lane.queue.has(priority) || !hasRoom(lane)) continue
        lanes.delete(lane.scraper)
        lanes.set(lane.scraper, lane)
        lane.queue.next(priority)?.letIn()
        return true
      }
    }
    return false
  }

  function adopt(next: BulkheadPolicy): void {
    if (!next.adaptive) for (const { found } of lanes.values()) found.reset()
    policy = next
    while (passOn());
  }

  function hasRoom(lane: Lane): boolean {
    return inAll < policy.maxConcurrent && lane.found.underWay < limitOf(lane)
  }

  function limitOf({ scraper, found }: Lane): number {
    return Math.min(fixedLimit(scraper), found.current)
  }

  function fixedLimit(scraper: string): number {
    const { maxConcurrent, perScraper } = policy
    const limit = typeof perScraper === 'number' ? perScraper : perScraper?.[scraper]
    return Math.min(maxConcurrent, limit ?? maxConcurrent)
  }

  function inFlight(scraper?: string): number {
    return scraper === undefined ? inAll : (lanes.get(scraper)?.found.underWay ?? 0)
  }

  function queued(scraper?: string): number {
    if (scraper !== undefined) return lanes.get(scraper)?.queue.size ?? 0
    return lanes.values().reduce((sum, { queue }) => sum + queue.size, 0)
  }

  function noPlace(): ProxyError {
    return overloaded('places', 'Too many upstream calls are under way.', random.next())
  }

  return {
    enter,
    inFlight,
    queued,
    limit: (scraper) => Math.min(fixedLimit(scraper), lanes.get(scraper)?.found.current ?? Number.POSITIVE_INFINITY),
    adopt,
  }
}

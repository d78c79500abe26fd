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
import type { Bulkhead, Permit } from '../fetch-parts.ts'
import type { Flight, QueuedClient } from '../flights.ts'
import type { Clock, Emit, Random } from '../ports.ts'
import { type AdaptiveLimit, type CallUnderWay, createAdaptiveLimit } from './adaptive-limit.ts'
import { createFairQueue, type FairQueue } from './fair-queue.ts'

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

type Passengers = Pick<Flight, 'mostUrgent' | 'onJoined' | 'onAbandoned'>

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

class FairBulkhead implements SizedBulkhead {
  readonly #clock: Clock
  readonly #random: Random
  readonly #emit: Emit
  #policy: BulkheadPolicy
  /** In the order of their turns. */
  readonly #lanes = new Map<string, Lane>()
  #inAll = 0

  constructor(first: BulkheadPolicy, ports: BulkheadPorts) {
    this.#policy = first
    const { clock, random, emit } = ports
    this.#clock = clock
    this.#random = random
    this.#emit = emit
  }

  readonly enter = (
    scraper: string,
    flight: Passengers,
    payer: QueuedClient,
    isRepeat: boolean,
  ): Permit | Promise<Permit> => {
    const lane = this.#laneOf(scraper)
    if (this.#hasRoom(lane)) return this.#take(lane)
    const { size, maxWait } = this.#policy.queue
    if (size === 0 || maxWait === 0) throw this.#noPlace()
    const client = flight.mostUrgent() ?? payer
    // A repetition has been in already: places and the retry budget bound their number.
    if (!isRepeat && lane.queue.newcomers >= size) this.#makeRoom(lane, client)
    return this.#wait(lane, flight, client, isRepeat)
  }

  readonly inFlight = (scraper?: string): number => {
    return scraper === undefined ? this.#inAll : (this.#lanes.get(scraper)?.found.underWay ?? 0)
  }

  readonly queued = (scraper?: string): number => {
    if (scraper !== undefined) return this.#lanes.get(scraper)?.queue.size ?? 0
    return this.#lanes.values().reduce((sum, { queue }) => sum + queue.size, 0)
  }

  readonly limit: SizedBulkhead['limit'] = (scraper) =>
    Math.min(this.#fixedLimit(scraper), this.#lanes.get(scraper)?.found.current ?? Number.POSITIVE_INFINITY)

  readonly adopt = (next: BulkheadPolicy): void => {
    if (!next.adaptive) for (const { found } of this.#lanes.values()) found.reset()
    this.#policy = next
    while (this.#passOn());
  }

  #laneOf(scraper: string): Lane {
    const known = this.#lanes.get(scraper)
    if (known) return known
    const lane = { scraper, queue: createFairQueue<Waiter>(), found: createAdaptiveLimit() }
    this.#lanes.set(scraper, lane)
    return lane
  }

  #take(lane: Lane): Permit {
    this.#inAll += 1
    const call = lane.found.letIn(this.#clock.now())
    let isTaken = true
    return {
      ended: (verdict, otherKeyReady) => this.#ended(lane, call, verdict, otherKeyReady),
      leave: () => {
        if (!isTaken) return
        isTaken = false
        this.#inAll -= 1
        lane.found.left(call, this.#clock.now())
        while (this.#passOn());
      },
    }
  }

  #ended(lane: Lane, call: CallUnderWay, verdict: Verdict, otherKeyReady: boolean): boolean {
    if (!this.#policy.adaptive) return false
    if (verdict.kind === 'answered') {
      lane.found.answered(this.#fixedLimit(lane.scraper), this.#clock.now())
      return false
    }
    if (!tooManyCalls.has(verdict.class) || (verdict.fault === 'key' && otherKeyReady)) return false
    return lane.found.refused(call, this.#clock.now())
  }

  /** The queue is full: whoever takes most of it for its weight gives way. Throws when that is the client that comes. */
  #makeRoom(lane: Lane, client: QueuedClient): void {
    const error = overloaded(
      'queue',
      'Too many requests wait for a place among the upstream calls.',
      this.#random.next(),
    )
    const displaced = lane.queue.displaced(client)
    if (!displaced) throw error
    displaced.refuse(error)
  }

  #wait(lane: Lane, flight: Passengers, client: QueuedClient, isRepeat: boolean): Promise<Permit> {
    return new Promise((resolve, reject) => {
      const startedAt = this.#clock.now()
      const stepOut = (): void => {
        timer.cancel()
        stopListening()
        stopWatching()
        ticket.leave()
        this.#emit({ kind: 'queue-left', scraper: lane.scraper, waitedMs: this.#clock.now() - startedAt })
      }
      const waiter: Waiter = {
        letIn: () => {
          stepOut()
          resolve(this.#take(lane))
        },
        refuse(error) {
          stepOut()
          reject(error)
        },
      }
      const ticket = lane.queue.add(client, waiter, isRepeat)
      const { maxWait } = this.#policy.queue
      let timer = this.#clock.after(maxWait, () => {
        // Whoever has waited so long for a queue that moves is not refused just before its turn.
        if (!ticket.isNear(EXTRA_WAIT)) return waiter.refuse(this.#noPlace())
        timer = this.#clock.after(EXTRA_WAIT * maxWait, () => waiter.refuse(this.#noPlace()))
      })
      const stopListening = flight.onAbandoned(() => waiter.refuse(this.#noPlace()))
      // Who is more urgent and joins takes the question along; it stays there when that one leaves.
      let { priority } = client
      const stopWatching = flight.onJoined(() => {
        const joined = flight.mostUrgent()
        if (priority === 'interactive' || joined?.priority !== 'interactive') return
        priority = 'interactive'
        ticket.move(joined)
      })
    })
  }

  /** A free place goes to the scraper whose turn it is among those that may have one. False = to nobody. */
  #passOn(): boolean {
    for (const priority of ['interactive', 'batch'] as const) {
      for (const lane of this.#lanes.values()) {
        if (!lane.queue.has(priority) || !this.#hasRoom(lane)) continue
        this.#lanes.delete(lane.scraper)
        this.#lanes.set(lane.scraper, lane)
        lane.queue.next(priority)?.letIn()
        return true
      }
    }
    return false
  }

  #hasRoom(lane: Lane): boolean {
    return this.#inAll < this.#policy.maxConcurrent && lane.found.underWay < this.#limitOf(lane)
  }

  #limitOf({ scraper, found }: Lane): number {
    return Math.min(this.#fixedLimit(scraper), found.current)
  }

  #fixedLimit(scraper: string): number {
    const { maxConcurrent, perScraper } = this.#policy
    const limit = typeof perScraper === 'number' ? perScraper : perScraper?.[scraper]
    return Math.min(maxConcurrent, limit ?? maxConcurrent)
  }

  #noPlace(): ProxyError {
    return overloaded('places', 'Too many upstream calls are in progress.', this.#random.next())
  }
}

export function createBulkhead(first: BulkheadPolicy, ports: BulkheadPorts): SizedBulkhead {
  return new FairBulkhead(first, ports)
}

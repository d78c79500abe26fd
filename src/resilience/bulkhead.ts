/**
 * At most so many attempts at a time, over all scrapers and for each. Who finds no place waits in the queue of its scraper,
 * which is short and soon over: calls here take minutes, and a long queue would only hide that. Free places go to the
 * scrapers in turn, so that neither a long queue nor a full scraper keeps the others from theirs.
 *
 * Promises: a place is counted in the step that gives it, so no interleaving exceeds a limit; a flight that nobody waits for
 * any more leaves the queue; afterwards there is neither a timer nor a listener left.
 */
import { overloaded, type ProxyError } from '../errors.ts'
import type { Bulkhead, Flight, Place } from '../parts.ts'
import type { Clock, Emit, Random } from '../ports.ts'

export interface BulkheadPolicy {
  readonly maxConcurrent: number
  /** A limit for each, or for those that are named; null, or not named = only the limit over all holds. */
  readonly perScraper: number | Readonly<Record<string, number>> | null
  /** So many may wait for each scraper, 0 = none, and none longer than so many milliseconds. */
  readonly queue: { readonly size: number; readonly maxWait: number }
}

export interface BulkheadGauges {
  /** Attempts under way, of one scraper or of all. */
  inFlight(scraper?: string): number
  /** Attempts that wait for a place, of one scraper or of all. */
  queued(scraper?: string): number
}

interface BulkheadPorts {
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
}

interface Waiting {
  /** Takes the place that is free. */
  enter(): void
}

type Patience = Pick<Flight, 'patienceUntil' | 'onAbandoned'>

export interface SizedBulkhead extends Bulkhead, BulkheadGauges {
  /** Other limits from now on, for those who wait already, too: what is to protect us protects us at once. */
  adopt(policy: BulkheadPolicy): void
}

export function createBulkhead(first: BulkheadPolicy, ports: BulkheadPorts): SizedBulkhead {
  let policy = first
  const { clock, random, emit } = ports
  const taken = new Map<string, number>()
  /** In the order of their turns; none is empty. */
  const queues = new Map<string, Set<Waiting>>()
  let inAll = 0

  function enter(scraper: string, flight: Patience): Place | Promise<Place> {
    if (hasRoom(scraper)) return take(scraper)
    const { size, maxWait } = policy.queue
    if (queued(scraper) >= size || maxWait === 0) throw full()
    return wait(scraper, flight)
  }

  function take(scraper: string): Place {
    taken.set(scraper, inFlight(scraper) + 1)
    inAll += 1

    let isTaken = true
    return {
      leave() {
        if (!isTaken) return
        isTaken = false
        inAll -= 1
        taken.set(scraper, inFlight(scraper) - 1)
        passOn()
      },
    }
  }

  function wait(scraper: string, flight: Patience): Promise<Place> {
    return new Promise((resolve, reject) => {
      const startedAt = clock.now()
      const queue = queues.get(scraper) ?? new Set()
      const waiting: Waiting = {
        enter() {
          stepOut()
          resolve(take(scraper))
        },
      }
      const giveUp = (): void => {
        stepOut()
        reject(full())
      }
      queue.add(waiting)
      queues.set(scraper, queue)
      const timer = clock.after(policy.queue.maxWait, giveUp)
      const stopListening = flight.onAbandoned(giveUp)

      function stepOut(): void {
        timer.cancel()
        stopListening()
        queue.delete(waiting)
        if (queue.size === 0) queues.delete(scraper)
        emit({ kind: 'queue-left', scraper, waitedMs: clock.now() - startedAt })
      }
    })
  }

  /** One place is free: it goes to who came first, of the scraper whose turn it is among those that may have it. False = to nobody. */
  function passOn(): boolean {
    for (const [scraper, queue] of queues) {
      if (!hasRoom(scraper)) continue
      queues.delete(scraper)
      queues.set(scraper, queue)
      const [first] = queue
      first?.enter()
      return first !== undefined
    }
    return false
  }

  function adopt(next: BulkheadPolicy): void {
    policy = next
    while (passOn());
  }

  function hasRoom(scraper: string): boolean {
    return inAll < policy.maxConcurrent && inFlight(scraper) < limitOf(scraper)
  }

  function limitOf(scraper: string): number {
    const { maxConcurrent, perScraper } = policy
    const limit = typeof perScraper === 'number' ? perScraper : perScraper?.[scraper]
    return limit ?? maxConcurrent
  }

  function inFlight(scraper?: string): number {
    return scraper === undefined ? inAll : (taken.get(scraper) ?? 0)
  }

  function queued(scraper?: string): number {
    if (scraper !== undefined) return queues.get(scraper)?.size ?? 0
    return queues.values().reduce((sum, { size }) => sum + size, 0)
  }

  function full(): ProxyError {
    return overloaded('places', 'Too many upstream calls are under way.', random.next())
  }

  return { enter, inFlight, queued, adopt }
}

/**
 * At most so many attempts at a time, over all scrapers and for each. It never queues: who finds no place is told at once,
 * because calls here take minutes and a queue would only hide that.
 */
import { ProxyError } from '../errors.ts'
import type { Bulkhead, Place } from '../parts.ts'

export interface BulkheadPolicy {
  readonly maxConcurrent: number
  /** A limit for each, or for those that are named; null, or not named = only the limit over all holds. */
  readonly perScraper: number | Readonly<Record<string, number>> | null
}

export interface BulkheadGauges {
  /** Attempts under way, of one scraper or of all. */
  inFlight(scraper?: string): number
}

const retryAfterMs = 1_000

export function createBulkhead(policy: BulkheadPolicy): Bulkhead & BulkheadGauges {
  const { maxConcurrent, perScraper } = policy
  const taken = new Map<string, number>()
  let inAll = 0

  function enter(scraper: string): Place {
    const ofScraper = taken.get(scraper) ?? 0
    if (inAll >= maxConcurrent || ofScraper >= limitOf(scraper))
      throw new ProxyError('OVERLOADED', 'Too many upstream calls are under way.', { retryAfterMs })
    taken.set(scraper, ofScraper + 1)
    inAll += 1

    let isTaken = true
    return {
      leave() {
        if (!isTaken) return
        isTaken = false
        inAll -= 1
        taken.set(scraper, inFlight(scraper) - 1)
      },
    }
  }

  function limitOf(scraper: string): number {
    const limit = typeof perScraper === 'number' ? perScraper : perScraper?.[scraper]
    return limit ?? maxConcurrent
  }

  function inFlight(scraper?: string): number {
    return scraper === undefined ? inAll : (taken.get(scraper) ?? 0)
  }

  return { enter, inFlight }
}

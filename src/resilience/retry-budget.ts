/**
 * How much repeating upstream can bear: a token bucket per scraper. A repetition takes tokens, an answer gives them back,
 * so that scattered failures are repeated freely while a total outage uses the bucket up and stops the storm. A slow
 * refill lets a quiet route try again after an outage. Never negative, never above its capacity.
 */
import type { Clock } from '../ports.ts'

export interface RetryBudgetPolicy {
  readonly capacity: number
  readonly cost: number
  /** For repetitions after failures that take long, or that may have been charged. */
  readonly costSlow: number
  /** Milliseconds per token. */
  readonly refill: number
}

export interface RetryBudget {
  /** What one request may draw from the bucket of its scraper. */
  open(scraper: string): Allowance
  tokens(scraper: string): number
}

export interface Allowance {
  /** Takes the cost of one repetition. False = there is not enough, and nothing was taken. */
  pay(slow: boolean): boolean
  /** One token for an answer at the first try; after a repetition, the cost of the last one back. Counts once. */
  succeeded(): void
  /** The repetition paid for last was not made after all: its cost goes back. */
  unused(): void
}

interface Bucket {
  tokens: number
  at: number
}

export function createRetryBudget(ports: RetryBudgetPolicy & { readonly clock: Clock }): RetryBudget {
  const { capacity, cost, costSlow, refill, clock } = ports
  const buckets = new Map<string, Bucket>()

  function bucketOf(scraper: string): Bucket {
    const now = clock.now()
    const bucket = buckets.get(scraper) ?? { tokens: capacity, at: now }
    buckets.set(scraper, bucket)
    bucket.tokens = Math.min(capacity, bucket.tokens + (now - bucket.at) / refill)
    bucket.at = now
    return bucket
  }

  function give(scraper: string, tokens: number): void {
    const bucket = bucketOf(scraper)
    bucket.tokens = Math.min(capacity, bucket.tokens + tokens)
  }

  function open(scraper: string): Allowance {
    let lastCost = 0
    let isSettled = false
    return {
      pay(slow) {
        const price = slow ? costSlow : cost
        const bucket = bucketOf(scraper)
        if (isSettled || bucket.tokens < price) return false
        bucket.tokens -= price
        lastCost = price
        return true
      },
      succeeded() {
        if (isSettled) return
        isSettled = true
        give(scraper, lastCost === 0 ? 1 : lastCost)
      },
      unused() {
        if (isSettled) return
        isSettled = true
        give(scraper, lastCost)
      },
    }
  }

  return { open, tokens: (scraper) => bucketOf(scraper).tokens }
}

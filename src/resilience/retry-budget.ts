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
  /** The same buckets of another size and price. */
  under(policy: RetryBudgetPolicy): RetryBudget
}

export interface Allowance {
  /** Takes the cost of one repetition. False = there is not enough, and nothing was taken. */
  pay(slow: boolean): boolean
  /** One token for an answer at the first try; after a repetition, the cost of the last one back. Counts once. */
  succeeded(): void
  /** The repetition paid for last was not made after all: its cost goes back. */
  unused(): void
}

/** What is missing in a bucket, and not what is in it: so a capacity may change, and a full one is still full. */
interface Bucket {
  missing: number
  at: number
}

export function createRetryBudget({ clock, ...policy }: RetryBudgetPolicy & { readonly clock: Clock }): RetryBudget {
  return budgetOver(new Map(), policy, clock)
}

function budgetOver(buckets: Map<string, Bucket>, policy: RetryBudgetPolicy, clock: Clock): RetryBudget {
  const { capacity, cost, costSlow, refill } = policy

  function bucketOf(scraper: string): Bucket {
    const now = clock.now()
    const bucket = buckets.get(scraper) ?? { missing: 0, at: now }
    buckets.set(scraper, bucket)
    bucket.missing = Math.max(0, Math.min(capacity, bucket.missing) - (now - bucket.at) / refill)
    bucket.at = now
    return bucket
  }

  function give(scraper: string, tokens: number): void {
    const bucket = bucketOf(scraper)
    bucket.missing = Math.max(0, bucket.missing - tokens)
  }

  function open(scraper: string): Allowance {
    let lastCost = 0
    let isSettled = false
    return {
      pay(slow) {
        const price = slow ? costSlow : cost
        const bucket = bucketOf(scraper)
        if (isSettled || capacity - bucket.missing < price) return false
        bucket.missing += price
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

  return {
    open,
    under: (next) => budgetOver(buckets, next, clock),
    tokens: (scraper) => capacity - bucketOf(scraper).missing,
  }
}

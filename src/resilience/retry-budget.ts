/**
 * How many repetitions upstream can bear: a token bucket per scraper. A repetition takes tokens, an answer gives them back, so
 * that scattered failures are repeated freely while a total outage uses the bucket up and stops the storm. A slow refill lets a
 * quiet route try again after an outage. While most calls are well, repeating costs nothing: answers come minutes after the
 * failures that they pay for. One question, and one client among several, can take a part of the bucket at most, so that a
 * question that always fails does not cost others their repetitions. Never negative, never above its capacity.
 */
import type { Spender } from '../parts.ts'
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
  /** What one flight may draw from the bucket of its scraper. */
  open(scraper: string, spender: Spender): Allowance
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

/** What is missing, and not what is there: so a capacity may change, and a full bucket is still full. */
interface Level {
  missing: number
  at: number
}

interface Bucket extends Level {
  /** What each of them has taken and not brought back; of those that have. */
  readonly questions: Map<string, Level>
  readonly clients: Map<string, Level>
  /** When each client asked last. The names are those of the settings. */
  readonly askedAt: Map<string, number>
  sweptAt: number
}

const QUESTION_SHARE = 0.25
const CLIENT_SHARE = 0.5
/** A client that has not asked for so long needs nothing left over. */
const ACTIVE_MS = 10 * 60_000

interface BudgetPorts {
  readonly clock: Clock
  /** Most calls of this scraper are well now. */
  readonly isWell: (scraper: string) => boolean
}

export function createRetryBudget({ clock, isWell, ...policy }: RetryBudgetPolicy & BudgetPorts): RetryBudget {
  return budgetOver(new Map(), policy, { clock, isWell })
}

function budgetOver(buckets: Map<string, Bucket>, policy: RetryBudgetPolicy, ports: BudgetPorts): RetryBudget {
  const { clock, isWell } = ports
  const { capacity, cost, costSlow, refill } = policy

  function bucketOf(scraper: string): Bucket {
    const now = clock.now()
    const bucket = buckets.get(scraper) ?? {
      missing: 0,
      at: now,
      questions: new Map(),
      clients: new Map(),
      askedAt: new Map(),
      sweptAt: now,
    }
    buckets.set(scraper, bucket)
    bucket.missing = Math.min(capacity, bucket.missing)
    fill(bucket, now)
    return bucket
  }

  function fill(level: Level, now: number): void {
    level.missing = Math.max(0, level.missing - (now - level.at) / refill)
    level.at = now
  }

  function missing(levels: Map<string, Level>, name: string): number {
    const level = levels.get(name)
    if (!level) return 0
    fill(level, clock.now())
    if (level.missing === 0) levels.delete(name)
    return level.missing
  }

  function take(levels: Map<string, Level>, name: string, tokens: number): void {
    levels.set(name, { missing: missing(levels, name) + tokens, at: clock.now() })
  }

  /** Forgets those who have nothing to bring back any more. */
  function sweep(bucket: Bucket): void {
    if (clock.now() - bucket.sweptAt < refill) return
    bucket.sweptAt = clock.now()
    for (const levels of [bucket.questions, bucket.clients]) for (const name of levels.keys()) missing(levels, name)
  }

  function give(levels: Map<string, Level>, name: string, tokens: number): void {
    const level = levels.get(name)
    if (!level) return
    level.missing -= tokens
    if (level.missing <= 0) levels.delete(name)
  }

  function mayClientTake(bucket: Bucket, client: string, price: number): boolean {
    const now = clock.now()
    const isAlone = ![...bucket.askedAt].some(([name, at]) => name !== client && now - at < ACTIVE_MS)
    return isAlone || missing(bucket.clients, client) + price <= Math.max(price, capacity * CLIENT_SHARE)
  }

  /** What its own flight has taken does not count: the number of attempts bounds that. */
  function mayQuestionTake(bucket: Bucket, question: string, own: number): boolean {
    return missing(bucket.questions, question) - own <= capacity * QUESTION_SHARE
  }

  function open(scraper: string, { client, question }: Spender): Allowance {
    bucketOf(scraper).askedAt.set(client, clock.now())
    let lastCost = 0
    let taken = 0
    let isSettled = false

    function giveBack(tokens: number): void {
      if (isSettled) return
      isSettled = true
      const bucket = bucketOf(scraper)
      bucket.missing = Math.max(0, bucket.missing - tokens)
      give(bucket.questions, question, tokens)
      give(bucket.clients, client, tokens)
    }

    return {
      pay(slow) {
        const price = slow ? costSlow : cost
        const bucket = bucketOf(scraper)
        if (isSettled || !mayQuestionTake(bucket, question, taken)) return false
        sweep(bucket)
        if (!isWell(scraper)) {
          if (capacity - bucket.missing < price || !mayClientTake(bucket, client, price)) return false
          bucket.missing += price
          take(bucket.clients, client, price)
        }
        take(bucket.questions, question, price)
        lastCost = price
        taken += price
        return true
      },
      succeeded: () => giveBack(lastCost === 0 ? 1 : lastCost),
      unused: () => giveBack(lastCost),
    }
  }

  return {
    open,
    under: (next) => budgetOver(buckets, next, ports),
    tokens: (scraper) => capacity - bucketOf(scraper).missing,
  }
}

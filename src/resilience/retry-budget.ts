/**
 * How many repetitions upstream can bear: a token bucket per scraper. A repetition takes tokens, an answer gives them back, so
 * that scattered failures are repeated freely while a total outage uses the bucket up and stops the storm. A slow refill lets a
 * quiet route try again after an outage. While most calls are well, repeating costs nothing: answers come minutes after the
 * failures that they pay for. One question, and one client among several, can take a part of the bucket at most, so that a
 * question that always fails does not cost others their repetitions. Never negative, never above its capacity.
 */
import type { Spender } from '../fetch-parts.ts'
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

class RetryTokens implements RetryBudget {
  readonly #buckets: Map<string, Bucket>
  readonly #ports: BudgetPorts
  readonly #clock: Clock
  readonly #isWell: (scraper: string) => boolean
  readonly #capacity: number
  readonly #cost: number
  readonly #costSlow: number
  readonly #refill: number

  constructor(buckets: Map<string, Bucket>, policy: RetryBudgetPolicy, ports: BudgetPorts) {
    this.#buckets = buckets
    this.#ports = ports
    const { clock, isWell } = ports
    this.#clock = clock
    this.#isWell = isWell
    const { capacity, cost, costSlow, refill } = policy
    this.#capacity = capacity
    this.#cost = cost
    this.#costSlow = costSlow
    this.#refill = refill
  }

  readonly open = (scraper: string, { client, question }: Spender): Allowance => {
    this.#bucketOf(scraper).askedAt.set(client, this.#clock.now())
    let lastCost = 0
    let taken = 0
    let isSettled = false

    const giveBack = (tokens: number): void => {
      if (isSettled) return
      isSettled = true
      const bucket = this.#bucketOf(scraper)
      bucket.missing = Math.max(0, bucket.missing - tokens)
      this.#give(bucket.questions, question, tokens)
      this.#give(bucket.clients, client, tokens)
    }

    return {
      pay: (slow) => {
        const price = slow ? this.#costSlow : this.#cost
        const bucket = this.#bucketOf(scraper)
        if (isSettled || !this.#mayQuestionTake(bucket, question, taken)) return false
        this.#sweep(bucket)
        if (!this.#isWell(scraper)) {
          if (this.#capacity - bucket.missing < price || !this.#mayClientTake(bucket, client, price)) return false
          bucket.missing += price
          this.#take(bucket.clients, client, price)
        }
        this.#take(bucket.questions, question, price)
        lastCost = price
        taken += price
        return true
      },
      succeeded: () => giveBack(lastCost === 0 ? 1 : lastCost),
      unused: () => giveBack(lastCost),
    }
  }

  readonly under: RetryBudget['under'] = (next) => budgetOver(this.#buckets, next, this.#ports)

  readonly tokens: RetryBudget['tokens'] = (scraper) => this.#capacity - this.#bucketOf(scraper).missing

  #bucketOf(scraper: string): Bucket {
    const now = this.#clock.now()
    const bucket = this.#buckets.get(scraper) ?? {
      missing: 0,
      at: now,
      questions: new Map(),
      clients: new Map(),
      askedAt: new Map(),
      sweptAt: now,
    }
    this.#buckets.set(scraper, bucket)
    bucket.missing = Math.min(this.#capacity, bucket.missing)
    this.#fill(bucket, now)
    return bucket
  }

  #fill(level: Level, now: number): void {
    level.missing = Math.max(0, level.missing - (now - level.at) / this.#refill)
    level.at = now
  }

  #missing(levels: Map<string, Level>, name: string): number {
    const level = levels.get(name)
    if (!level) return 0
    this.#fill(level, this.#clock.now())
    if (level.missing === 0) levels.delete(name)
    return level.missing
  }

  #take(levels: Map<string, Level>, name: string, tokens: number): void {
    levels.set(name, { missing: this.#missing(levels, name) + tokens, at: this.#clock.now() })
  }

  /** Forgets those who have nothing to bring back any more. */
  #sweep(bucket: Bucket): void {
    if (this.#clock.now() - bucket.sweptAt < this.#refill) return
    bucket.sweptAt = this.#clock.now()
    for (const levels of [bucket.questions, bucket.clients])
      for (const name of levels.keys()) this.#missing(levels, name)
  }

  #give(levels: Map<string, Level>, name: string, tokens: number): void {
    const level = levels.get(name)
    if (!level) return
    level.missing -= tokens
    if (level.missing <= 0) levels.delete(name)
  }

  #mayClientTake(bucket: Bucket, client: string, price: number): boolean {
    const now = this.#clock.now()
    const isAlone = ![...bucket.askedAt].some(([name, at]) => name !== client && now - at < ACTIVE_MS)
    return isAlone || this.#missing(bucket.clients, client) + price <= Math.max(price, this.#capacity * CLIENT_SHARE)
  }

  /** What its own flight has taken does not count: the number of attempts bounds that. */
  #mayQuestionTake(bucket: Bucket, question: string, own: number): boolean {
    return this.#missing(bucket.questions, question) - own <= this.#capacity * QUESTION_SHARE
  }
}

function budgetOver(buckets: Map<string, Bucket>, policy: RetryBudgetPolicy, ports: BudgetPorts): RetryBudget {
  return new RetryTokens(buckets, policy, ports)
}

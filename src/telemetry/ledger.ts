/**
 * Where every credit went: an attempt ends in one entry (charged, free, or perhaps charged), a flight's charge in one (given to
 * its payer, unclaimed, or wasted), an answer in at most one. The contract's counters are these entries and nothing else.
 *
 * For each client: spent + saved = delivered + wasted + unclaimed + settling. What is spent and settling comes from attempts,
 * what became of it from landings and outcomes, so that the sum can fail; where it does, that is a bug and told as one. What
 * may have been charged is in no sum. Credits are integers.
 */
import type { Attempt, Landing, Outcome } from '../model.ts'
import type { SavedHow } from './labels.ts'
import type { Metrics } from './metrics.ts'

export interface LedgerPorts {
  readonly metrics: Pick<
    Metrics,
    | 'creditsSpent'
    | 'creditsUncertain'
    | 'creditsWasted'
    | 'creditsSaved'
    | 'creditsDelivered'
    | 'creditsUnclaimed'
    | 'creditsRefunded'
    | 'ledgerImbalance'
  >
  readonly broke: (error: Error) => void
}

export interface Ledger {
  started(): void
  ended(payer: string, scraper: string, attempt: Attempt): void
  /** `claimed`: the payer was there to get the answer. */
  landed(payer: string, scraper: string, landing: Landing, claimed: boolean): void
  /** It brought nobody an answer, whatever upstream said. */
  lost(payer: string, scraper: string, attempts: readonly Attempt[]): void
  /** An answer that cost less than its price. */
  saved(client: string, scraper: string, saving: Saving): void
  /** A job that had been charged has failed. The sum stays as it was: what was spent was spent, and comes back. */
  refunded(payer: string, scraper: string, keyName: string, credits: number): void
  status(): LedgerStatus
  /** Spent and saved by all clients, kept as it goes. */
  totals(): { readonly spent: number; readonly saved: number }
}

/** What an answer would have cost more without the proxy. */
export interface Saving {
  readonly how: SavedHow
  readonly credits: number
}

/** What became of a client's credits. */
export interface Account {
  readonly spent: number
  readonly saved: Readonly<Record<SavedHow, number>>
  /** The worth of the answers that it got, paid or saved. */
  readonly delivered: number
  /** Charged for an answer that was none. */
  readonly wasted: number
  /** Charged for an answer that the client did not wait for. */
  readonly unclaimed: number
  /** Charged in a flight that has not landed yet. */
  readonly settling: number
  /** May have been charged for nothing. */
  readonly uncertain: number
  /** Spent, and given back by upstream since. */
  readonly refunded: number
}

export interface LedgerStatus {
  readonly attempts: {
    readonly started: number
    readonly charged: number
    readonly free: number
    readonly uncertain: number
    readonly underway: number
  }
  readonly total: Account
  readonly clients: readonly (Account & { readonly client: string })[]
  /** Credits that are not where they should be: 0, or there is a bug. */
  readonly imbalance: number
}

type Saved = { -readonly [How in SavedHow]: number }
type Tally = { -readonly [Field in Exclude<keyof Account, 'saved'>]: number } & {
  readonly saved: Saved
  /** As it was found last, so that each is told once. */
  imbalance: number
}

class CreditLedger implements Ledger {
  readonly #metrics: LedgerPorts['metrics']
  readonly #broke: (error: Error) => void
  readonly #tallies = new Map<string, Tally>()
  readonly #ends = { charged: 0, free: 0, uncertain: 0 }
  readonly #totals = { spent: 0, saved: 0 }
  #startedCount = 0
  /** Charged attempts whose flight is under way, and who pays. An attempt that is forgotten stays in its client's sum. */
  readonly #settling = new WeakMap<Attempt, string>()

  constructor({ metrics, broke }: LedgerPorts) {
    this.#metrics = metrics
    this.#broke = broke
  }

  readonly started: Ledger['started'] = () => void (this.#startedCount += 1)

  readonly ended = (payer: string, scraper: string, attempt: Attempt): void => {
    const { charge, keyName } = attempt
    const tally = this.#tallyOf(payer)
    const isUseless = attempt.class !== 'ok'
    if (charge.state === 'free') this.#ends.free += 1
    if (charge.state === 'unknown') {
      this.#ends.uncertain += 1
      tally.uncertain += charge.credits
      this.#metrics.creditsUncertain.add(charge.credits, payer, scraper, keyName)
      if (isUseless) this.#metrics.creditsWasted.add(charge.credits, payer, scraper, 'uncertain')
    }
    if (charge.state === 'charged') {
      this.#ends.charged += 1
      tally.spent += charge.credits
      this.#totals.spent += charge.credits
      this.#metrics.creditsSpent.add(charge.credits, payer, scraper, keyName)
      if (isUseless) this.#waste(payer, scraper, charge.credits)
      else {
        tally.settling += charge.credits
        this.#settling.set(attempt, payer)
      }
    }
    this.#check(payer)
  }

  readonly landed = (payer: string, scraper: string, { attempts, verdict }: Landing, claimed: boolean): void => {
    this.#settle(attempts)
    if (verdict.kind === 'answered' && verdict.charge.state === 'charged') {
      if (claimed) this.#deliver(payer, verdict.charge.credits)
      else {
        this.#tallyOf(payer).unclaimed += verdict.charge.credits
        this.#metrics.creditsUnclaimed.add(verdict.charge.credits, payer, scraper)
      }
    }
    this.#check(payer)
  }

  readonly lost = (payer: string, scraper: string, attempts: readonly Attempt[]): void => {
    this.#waste(payer, scraper, this.#settle(attempts))
    this.#check(payer)
  }

  readonly saved = (client: string, scraper: string, { how, credits }: Saving): void => {
    this.#tallyOf(client).saved[how] += credits
    this.#totals.saved += credits
    this.#metrics.creditsSaved.add(credits, client, scraper, how)
    this.#deliver(client, credits)
  }

  readonly refunded = (payer: string, scraper: string, keyName: string, credits: number): void => {
    this.#tallyOf(payer).refunded += credits
    this.#metrics.creditsRefunded.add(credits, payer, scraper, keyName)
  }

  readonly status = (): LedgerStatus => {
    const total = emptyTally()
    const clients = Array.from(this.#tallies, ([client, tally]) => {
      add(total, tally)
      return { client, ...accountOf(tally) }
    })
    const underway = this.#startedCount - this.#ends.charged - this.#ends.free - this.#ends.uncertain
    return {
      attempts: { started: this.#startedCount, ...this.#ends, underway },
      total: accountOf(total),
      clients,
      imbalance: total.imbalance,
    }
  }

  readonly totals: Ledger['totals'] = () => ({ ...this.#totals })

  #waste(payer: string, scraper: string, credits: number): void {
    this.#tallyOf(payer).wasted += credits
    this.#metrics.creditsWasted.add(credits, payer, scraper, 'invalid')
  }

  /** They settle no more. Says how much that was. */
  #settle(attempts: readonly Attempt[]): number {
    let credits = 0
    for (const attempt of attempts) {
      const owner = this.#settling.get(attempt)
      if (owner === undefined) continue
      this.#settling.delete(attempt)
      this.#tallyOf(owner).settling -= attempt.charge.credits
      credits += attempt.charge.credits
    }
    return credits
  }

  #deliver(client: string, credits: number): void {
    this.#tallyOf(client).delivered += credits
    this.#metrics.creditsDelivered.add(credits, client)
  }

  #check(client: string): void {
    const tally = this.#tallyOf(client)
    const imbalance = imbalanceOf(tally)
    if (imbalance === tally.imbalance) return
    this.#metrics.ledgerImbalance.add(Math.abs(imbalance) - Math.abs(tally.imbalance))
    tally.imbalance = imbalance
    if (imbalance !== 0) this.#broke(new Error(`${imbalance} credits of client ${client} are not accounted for`))
  }

  #tallyOf(client: string): Tally {
    const known = this.#tallies.get(client)
    if (known) return known
    const made = emptyTally()
    this.#tallies.set(client, made)
    return made
  }
}

export function createLedger(ports: LedgerPorts): Ledger {
  return new CreditLedger(ports)
}

/** What the answer would have cost without the proxy; null = nothing was saved. */
export function savedBy(outcome: Outcome): Saving | null {
  if (outcome.kind === 'hit') {
    return { how: outcome.entry.unclaimed ? 'rescued' : 'hit', credits: outcome.entry.priceCredits }
  }
  if (outcome.kind === 'stale') return { how: 'stale', credits: outcome.entry.priceCredits }
  if (outcome.kind !== 'fetched' || outcome.role !== 'joined') return null
  const { verdict } = outcome.landing
  if (verdict.kind !== 'answered' || verdict.charge.state !== 'charged') return null
  return { how: 'joined', credits: verdict.charge.credits }
}

function imbalanceOf({ spent, saved, delivered, wasted, unclaimed, settling }: Account): number {
  const savedCredits = saved.hit + saved.joined + saved.stale + saved.rescued
  return spent + savedCredits - delivered - wasted - unclaimed - settling
}

function emptyTally(): Tally {
  const saved = { hit: 0, joined: 0, stale: 0, rescued: 0 }
  return {
    spent: 0,
    saved,
    delivered: 0,
    wasted: 0,
    unclaimed: 0,
    settling: 0,
    uncertain: 0,
    refunded: 0,
    imbalance: 0,
  }
}

function add(total: Tally, tally: Tally): void {
  for (const how of ['hit', 'joined', 'stale', 'rescued'] as const) total.saved[how] += tally.saved[how]
  for (const field of ['spent', 'delivered', 'wasted', 'unclaimed', 'settling', 'uncertain', 'refunded'] as const) {
    total[field] += tally[field]
  }
  total.imbalance += Math.abs(imbalanceOf(tally))
}

function accountOf(tally: Tally): Account {
  const { spent, saved, delivered, wasted, unclaimed, settling, uncertain, refunded } = tally
  return { spent, saved: { ...saved }, delivered, wasted, unclaimed, settling, uncertain, refunded }
}

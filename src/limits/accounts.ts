/**
 * What clients, and the account as a whole, have used of their periods: held for flights under way, and spent. Whether there is
 * enough and that it is taken are one synchronous step. Spent credits are added to the store when their hold is settled, and read
 * from it when an account first appears in a period, and whenever the store has been read again. Knows holds only by their sums.
 */
import { ProxyError } from '../errors.ts'
import type { CreditLimits } from '../model.ts'
import type { Clock, Disk, DiskRecord, DiskSum, Emit } from '../ports.ts'
import type { Period } from './period.ts'

const DAY_MS = 86_400_000
/** By then every period is over that was not when its account was last touched, however the wall clock was stepped. */
const FORGET_AFTER_MS = 32 * DAY_MS
/** Shares of a limit, in per cent, that are told when they are reached. */
/** Shares of a limit, in percent, that are told when they are reached. */
export const TOLD_AT = [50, 80, 95, 100] as const

/** Durable records; null = what was spent is forgotten when the process ends. */
export type BudgetStore = Pick<Disk, 'put' | 'secure' | 'get' | 'list' | 'onRead' | 'isRead'> | null

/** The account as a whole: no client has this name. */
export const WHOLE = ''

/** What has been used of a period. Changed by the functions of this file only. */
export interface Account {
  /** Or `WHOLE`. */
  readonly client: string
  readonly period: Period
  heldCredits: number
  spentCredits: number
  /** The part of `spentCredits` whose holds are settled: what the store knows. */
  settledCredits: number
  touchedAt: number
  /** Up to this share of the limit has been told; null = nothing was spent yet by this process. */
  toldPercent: number | null
}

/** An account that is charged for a client's calls, and how far it may go for them; null = as far as it likes. */
export interface Charged {
  readonly account: Account
  readonly limitCredits: number | null
  /** What shares are told of: the limit with its reserve. */
  readonly wholeCredits: number | null
}

export interface Accounts {
  of(client: string, period: Period): Account
  /** All or nothing. Throws BUDGET_EXHAUSTED with the time to the reset of the last account that refuses. */
  reserve(charged: readonly Charged[], credits: number): void
  /** Takes over an earlier process's hold, as it was written down. */
  resume(charged: readonly Charged[], heldCredits: number, spentCredits: number): void
  /** Held credits are free again. */
  release(charged: readonly Charged[], credits: number): void
  spend(charged: readonly Charged[], credits: number): void
  /**
   * Writes down what was spent, or given back, together with `others`: a crash in between would count twice or not at all. Nothing
   * falls below 0.
   */
  book(charged: readonly Charged[], credits: number, others: readonly (DiskRecord | DiskSum)[]): void
  /** As `book`, for what was not spent by a hold: a refund, or a correction by the operator. Says how much it was in the end. */
  correct(charged: readonly Charged[], credits: number, othersOf: (credits: number) => readonly DiskSum[]): number
  /** What is held for each client that has an account. */
  held(): ReadonlyMap<string, number>
  /** The store has been read: others may have spent, too. */
  reload(): void
}

class AccountBook implements Accounts {
  readonly #clock: Clock
  readonly #emit: Emit
  readonly #store: BudgetStore
  readonly #accounts = new Map<string, Account>()
  #lookedAt: number

  constructor(clock: Clock, emit: Emit, store: BudgetStore) {
    this.#clock = clock
    this.#emit = emit
    this.#store = store
    this.#lookedAt = clock.now()
  }

  readonly of = (client: string, period: Period): Account => {
    const key = keyOf(client, period)
    const known = this.#accounts.get(key)
    if (known) return known
    this.#forgetOld()
    const spentCredits = this.#storedCredits(key)
    const made = {
      client,
      period,
      heldCredits: 0,
      spentCredits,
      settledCredits: spentCredits,
      touchedAt: this.#clock.now(),
      toldPercent: null,
    }
    this.#accounts.set(key, made)
    return made
  }

  readonly reserve = (charged: readonly Charged[], credits: number): void => {
    const refusing = charged.flatMap(({ account, limitCredits }) =>
      limitCredits !== null && leftOf(account, limitCredits) < credits
        ? [{ ...account, isHeld: limitCredits - account.spentCredits >= credits }]
        : [],
    )
    if (refusing.length > 0) throw exhausted(refusing, this.#clock.wall())
    for (const { account } of charged) {
      account.heldCredits += credits
      account.touchedAt = this.#clock.now()
    }
  }

  readonly resume = (charged: readonly Charged[], heldCredits: number, spentCredits: number): void => {
    for (const { account } of charged) {
      account.heldCredits += heldCredits
      account.spentCredits += spentCredits
    }
  }

  readonly release = (charged: readonly Charged[], credits: number): void => {
    for (const { account } of charged) account.heldCredits -= credits
  }

  readonly spend = (charged: readonly Charged[], credits: number): void => {
    for (const { account, wholeCredits } of charged) {
      account.spentCredits += credits
      account.touchedAt = this.#clock.now()
      if (wholeCredits !== null && wholeCredits > 0) this.#tell(account, wholeCredits)
    }
  }

  readonly book = (charged: readonly Charged[], credits: number, others: readonly (DiskRecord | DiskSum)[]): void => {
    for (const { account } of charged) account.settledCredits += credits
    const sums = credits === 0 ? [] : charged.map(({ account }) => spentSum(account, credits))
    if (sums.length + others.length > 0) this.#store?.put([...sums, ...others])
  }

  readonly correct = (
    charged: readonly Charged[],
    credits: number,
    othersOf: (credits: number) => readonly DiskSum[],
  ): number => {
    // None of them falls below what was never spent in it: a day may know less of it than its month.
    const changes = charged.map(({ account }) => ({ account, by: Math.max(credits, -account.settledCredits) }))
    const given = changes.findLast(({ account }) => account.client !== '')?.by ?? 0
    const sums = changes.flatMap(({ account, by }) => {
      account.spentCredits += by
      account.settledCredits += by
      return by === 0 ? [] : [spentSum(account, by)]
    })
    if (sums.length > 0) this.#store?.put([...sums, ...(given === 0 ? [] : othersOf(given))])
    return given
  }

  /** Each hold is in the account of one day, today's or one before. */
  readonly held = (): ReadonlyMap<string, number> => {
    const credits = new Map<string, number>()
    for (const { client, period, heldCredits } of this.#accounts.values()) {
      if (period.kind === 'day') credits.set(client, (credits.get(client) ?? 0) + heldCredits)
    }
    return credits
  }

  readonly reload = (): void => {
    for (const [key, account] of this.#accounts) {
      const others = this.#storedCredits(key) - account.settledCredits
      // A store that has less than it was told has lost it.
      if (others < 0) this.#store?.put([spentSum(account, -others)])
      account.settledCredits += Math.max(0, others)
      account.spentCredits += Math.max(0, others)
    }
  }

  #storedCredits(key: string): number {
    const { credits } = (this.#store?.get('spent', key) ?? {}) as { readonly credits?: unknown }
    return isCredits(credits) ? credits : 0
  }

  /** Now and then: at the turn of a day each client gets new accounts, one after the other. */
  #forgetOld(): void {
    const now = this.#clock.now()
    if (now - this.#lookedAt < DAY_MS / 24) return
    this.#lookedAt = now
    const before = now - FORGET_AFTER_MS
    for (const [key, { heldCredits, spentCredits, settledCredits, touchedAt }] of this.#accounts) {
      const isSettled = heldCredits === 0 && spentCredits === settledCredits
      if (isSettled && touchedAt < before) this.#accounts.delete(key)
    }
  }

  #tell(account: Account, limitCredits: number): void {
    const { client, period, spentCredits, settledCredits } = account
    // An earlier process has told what the store knows.
    account.toldPercent ??= TOLD_AT.findLast((percent) => settledCredits * 100 >= percent * limitCredits) ?? 0
    for (const percent of TOLD_AT) {
      if (percent <= account.toldPercent || spentCredits * 100 < percent * limitCredits) continue
      account.toldPercent = percent
      const usedUpAt = usedUpAtThisPace(account, limitCredits, this.#clock.wall())
      this.#emit({ kind: 'budget-used', client, period, percent, spentCredits, limitCredits, usedUpAt })
    }
  }
}

export function createAccounts(clock: Clock, emit: Emit, store: BudgetStore): Accounts {
  return new AccountBook(clock, emit, store)
}

function spentSum({ client, period }: Account, credits: number): DiskSum {
  return { space: 'spent', key: keyOf(client, period), add: { credits }, expiresAt: period.resetAt + DAY_MS }
}

/** Null = it lasts until the period ends. */
export function usedUpAtThisPace(
  { period, spentCredits }: Pick<Account, 'period' | 'spentCredits'>,
  limitCredits: number,
  wallMs: number,
): number | null {
  const at = period.startsAt + ((wallMs - period.startsAt) * limitCredits) / spentCredits
  return at < period.resetAt ? Math.max(wallMs, Math.round(at)) : null
}

export function limitOf({ perDay, perMonth, topUp }: CreditLimits, period: Period, wallMs: number): number | null {
  if (period.kind === 'day') return perDay
  return perMonth === null ? null : perMonth + (topUp && wallMs < topUp.until ? topUp.credits : 0)
}

export function leftOf({ heldCredits, spentCredits }: Account, limitCredits: number): number {
  return limitCredits - heldCredits - spentCredits
}

export function isCredits(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0
}

function keyOf(client: string, period: Period): string {
  return `${period.id}/${client}`
}

export interface RefusingAccount {
  readonly client: string
  readonly period: Period
  /** It is not spent: only requests under way are in the way, and what they do not use comes back. */
  readonly isHeld: boolean
}

/** Until what requests under way have set aside may be free again: failures come within seconds. */
const HELD_RETRY_MS = 10_000

/** With the reset of the last to be over of the accounts that are spent. At least one account refuses. */
export function exhausted(refusing: readonly RefusingAccount[], wallMs: number): ProxyError {
  const [last] = refusing.toSorted(
    (a, b) => Number(a.isHeld) - Number(b.isHeld) || b.period.resetAt - a.period.resetAt,
  ) as [RefusingAccount]
  const { client, isHeld } = last
  const { kind, resetAt } = last.period
  const whose = client === WHOLE ? 'all clients together' : 'this client'
  if (isHeld) {
    return new ProxyError(
      'BUDGET_EXHAUSTED',
      `What is left of the credit budget of ${whose} for the ${kind} is set aside for requests under way. What they do not use comes back.`,
      { retryAfterMs: Math.max(0, Math.min(HELD_RETRY_MS, resetAt - wallMs)) },
    )
  }
  const reset = new Date(resetAt).toISOString().replace('.000Z', 'Z')
  return new ProxyError(
    'BUDGET_EXHAUSTED',
    `The credit budget of ${whose} for the ${kind} does not cover this request. The budget resets at ${reset}.`,
    { retryAfterMs: Math.max(0, resetAt - wallMs) },
  )
}

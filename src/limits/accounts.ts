/**
 * What clients have used of their periods: held for flights under way, and spent. Whether there is enough and that it is taken
 * are one synchronous step. Spent credits are added to the store when their hold is settled, and read from it when a client first
 * appears in a period, and whenever the store has been read again. Knows holds only by their sums.
 */
import { ProxyError } from '../errors.ts'
import type { Client } from '../model.ts'
import type { Clock, Disk, DiskRecord, DiskSum, Emit } from '../ports.ts'
import type { Period } from './period.ts'

const DAY_MS = 86_400_000
/** By then every period is over that was not when its account was last touched, however the wall clock was stepped. */
const FORGET_AFTER_MS = 32 * DAY_MS

export type Limits = Client['credits']

/** Durable records; null = what was spent is forgotten when the process ends. */
export type BudgetStore = Pick<Disk, 'put' | 'secure' | 'get' | 'list' | 'onRead' | 'isRead'> | null

/** What a client has used of a period. Changed by the functions of this file only. */
export interface Account {
  readonly client: string
  readonly period: Period
  heldCredits: number
  spentCredits: number
  /** The part of `spentCredits` whose holds are settled: what the store knows. */
  settledCredits: number
  touchedAt: number
}

export interface Accounts {
  of(client: string, period: Period): Account
  /** All or nothing. Throws BUDGET_EXHAUSTED with the time to the reset of the last account that refuses. */
  reserve(own: readonly Account[], limits: Limits, credits: number): void
  /** Takes over an earlier process's hold, as it was written down. */
  resume(own: readonly Account[], heldCredits: number, spentCredits: number): void
  /** Held credits are free again. */
  release(own: readonly Account[], credits: number): void
  spend(own: readonly Account[], limits: Limits, credits: number): void
  /** Writes down what a settled hold has spent, in one transaction with `others`: a crash in between would count twice or not at all. */
  book(own: readonly Account[], credits: number, others: readonly DiskRecord[]): void
  /** Upstream has given credits back. Never more than were spent. */
  refund(own: readonly Account[], credits: number): void
  /** What is held for each client that has an account. */
  held(): ReadonlyMap<string, number>
  /** The store has been read: others may have spent, too. */
  reload(): void
}

export function createAccounts(clock: Clock, emit: Emit, store: BudgetStore): Accounts {
  const accounts = new Map<string, Account>()
  let lookedAt = clock.now()

  return { of, reserve, resume, release, spend, book, refund, held, reload }

  function of(client: string, period: Period): Account {
    const key = keyOf(client, period)
    const known = accounts.get(key)
    if (known) return known
    forgetOld()
    const spentCredits = storedCredits(key)
    const made = { client, period, heldCredits: 0, spentCredits, settledCredits: spentCredits, touchedAt: clock.now() }
    accounts.set(key, made)
    return made
  }

  function storedCredits(key: string): number {
    const { credits } = (store?.get('spent', key) ?? {}) as { readonly credits?: unknown }
    return isCredits(credits) ? credits : 0
  }

  function reload(): void {
    for (const [key, account] of accounts) {
      const others = storedCredits(key) - account.settledCredits
      // A store that has less than it was told has lost it.
      if (others < 0) store?.put([spentSum(account, -others)])
      account.settledCredits += Math.max(0, others)
      account.spentCredits += Math.max(0, others)
    }
  }

  /** Now and then: at the turn of a day each client gets new accounts, one after the other. */
  function forgetOld(): void {
    const now = clock.now()
    if (now - lookedAt < DAY_MS / 24) return
    lookedAt = now
    const before = now - FORGET_AFTER_MS
    for (const [key, { heldCredits, spentCredits, settledCredits, touchedAt }] of accounts) {
      const isSettled = heldCredits === 0 && spentCredits === settledCredits
      if (isSettled && touchedAt < before) accounts.delete(key)
    }
  }

  function reserve(own: readonly Account[], limits: Limits, credits: number): void {
    const refusing = own
      .filter((account) => {
        const limitCredits = limitOf(limits, account.period)
        return limitCredits !== null && leftOf(account, limitCredits) < credits
      })
      .toSorted((a, b) => b.period.resetAt - a.period.resetAt)[0]
    if (refusing) throw exhausted(refusing.period, clock.wall())
    for (const account of own) {
      account.heldCredits += credits
      account.touchedAt = clock.now()
    }
  }

  function resume(own: readonly Account[], heldCredits: number, spentCredits: number): void {
    for (const account of own) {
      account.heldCredits += heldCredits
      account.spentCredits += spentCredits
    }
  }

  function release(own: readonly Account[], credits: number): void {
    for (const account of own) account.heldCredits -= credits
  }

  function spend(own: readonly Account[], limits: Limits, credits: number): void {
    for (const account of own) {
      const before = account.spentCredits
      account.spentCredits += credits
      account.touchedAt = clock.now()
      warnWhenNear(account, before, limitOf(limits, account.period))
    }
  }

  /** Once: what is spent only grows, so it gets past four fifths of a limit a single time. */
  function warnWhenNear({ client, period, spentCredits }: Account, before: number, limitCredits: number | null): void {
    if (limitCredits === null || before * 5 >= limitCredits * 4 || spentCredits * 5 < limitCredits * 4) return
    emit({ kind: 'budget-near', client, period: period.kind, spentCredits, limitCredits })
  }

  function book(own: readonly Account[], credits: number, others: readonly DiskRecord[]): void {
    for (const account of own) account.settledCredits += credits
    const records = credits > 0 ? [...own.map((account) => spentSum(account, credits)), ...others] : others
    if (records.length > 0) store?.put(records)
  }

  function refund(own: readonly Account[], credits: number): void {
    const given = Math.min(credits, ...own.map(({ settledCredits }) => settledCredits))
    for (const account of own) {
      account.spentCredits -= given
      account.settledCredits -= given
    }
    if (given > 0) store?.put(own.map((account) => spentSum(account, -given)))
  }

  /** Each hold is in the account of one day, today's or one before. */
  function held(): ReadonlyMap<string, number> {
    const credits = new Map<string, number>()
    for (const { client, period, heldCredits } of accounts.values()) {
      if (period.kind === 'day') credits.set(client, (credits.get(client) ?? 0) + heldCredits)
    }
    return credits
  }
}

function spentSum({ client, period }: Account, credits: number): DiskSum {
  return { space: 'spent', key: keyOf(client, period), add: { credits }, expiresAt: period.resetAt + DAY_MS }
}

export function limitOf(limits: Limits, period: Period): number | null {
  return period.kind === 'day' ? limits.perDay : limits.perMonth
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

function exhausted({ kind, resetAt }: Period, wallMs: number): ProxyError {
  const reset = new Date(resetAt).toISOString().replace('.000Z', 'Z')
  return new ProxyError(
    'BUDGET_EXHAUSTED',
    `What this client has left of its credits for the ${kind} does not pay for this question; the ${kind} ends at ${reset} (UTC).`,
    { retryAfterMs: Math.max(0, resetAt - wallMs) },
  )
}

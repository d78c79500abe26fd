/**
 * One hold on a client's credits: set aside before a fetch, charged by its attempts, settled after it. What is in the store
 * survives a crash, and counts as spent then.
 */
import { ProxyError } from '../errors.ts'
import type { Charge } from '../model.ts'
import type { Hold } from '../fetch-parts.ts'
import type { Clock, DiskRecord, DiskSum } from '../ports.ts'
import { type Accounts, type BudgetStore, type Charged, isCredits } from './accounts.ts'
import { daySum } from './day-sums.ts'
import { type Period, periodNamed } from './period.ts'

/** A hold as it is written down before an attempt. If nothing more is heard of it, `credits` counts as spent. */
export interface HoldRecord {
  readonly client: string
  readonly scraper: string
  readonly periods: readonly string[]
  readonly credits: number
  /** The part of `credits` that earlier attempts have used up. */
  readonly spentCredits: number
  readonly uses: readonly Use[]
}

/** What attempts with one key have cost: charged, and perhaps charged. */
type Use = readonly [keyName: string, spent: number, uncertain: number]

/** Shared by all holds of a budget. */
export interface HoldPorts {
  readonly accounts: Accounts
  readonly store: BudgetStore
  readonly clock: Clock
  /** Also what is spent without a limit must be safe before it is sent. */
  readonly mustBeSafe: () => boolean
  /** The holds that this process has in the store, by id. */
  readonly written: Map<string, HoldRecord>
}

export interface HoldSubject {
  readonly client: string
  readonly scraper: string
  readonly charged: readonly Charged[]
}

const RETRY_AFTER_MS = 5_000

export class LocalHold implements Hold {
  readonly id: string
  readonly #ports: HoldPorts
  readonly #subject: HoldSubject
  readonly #uses: Map<string, Use>
  #restCredits: number
  #spentCredits: number
  /** As it is in the store; null = it is not. */
  #record: HoldRecord | null
  #isSettled = false

  /** `record`: as an earlier process has left it. */
  constructor(ports: HoldPorts, id: string, subject: HoldSubject, heldCredits: number, record: HoldRecord | null) {
    this.id = id
    this.#ports = ports
    this.#subject = subject
    this.#uses = new Map(record?.uses.map((use) => [use[0], use]))
    this.#restCredits = heldCredits
    this.#spentCredits = record?.spentCredits ?? 0
    this.#record = record
  }

  get restCredits(): number {
    return this.#restCredits
  }

  readonly secure = async (credits: number): Promise<void> => {
    const { accounts, store, mustBeSafe } = this.#ports
    const { charged } = this.#subject
    // Nothing would give back what is set aside now.
    if (this.#isSettled) throw new Error('This hold is settled.')
    if (this.#restCredits < credits) {
      accounts.reserve(charged, credits - this.#restCredits)
      this.#restCredits = credits
    }
    this.#writeDown()
    const hasLimit = isLimited(charged)
    if (!store || !(hasLimit || mustBeSafe()) || (await store.secure())) return
    throw hasLimit ? unavailable() : unsafe()
  }

  readonly spend = ({ state, credits }: Charge, keyName = 'none'): void => {
    if (state === 'free' || credits === 0) return
    const { accounts } = this.#ports
    const { charged } = this.#subject
    const taken = Math.min(this.#restCredits, credits)
    this.#restCredits -= taken
    this.#spentCredits += credits
    const [, spent, uncertain] = this.#uses.get(keyName) ?? [keyName, 0, 0]
    const isSure = state === 'charged'
    this.#uses.set(keyName, [keyName, spent + (isSure ? credits : 0), uncertain + (isSure ? 0 : credits)])
    accounts.release(charged, taken)
    accounts.spend(charged, credits)
    if (this.#isSettled) return accounts.book(charged, credits, this.#sums())
    // It cost more than was set aside for it: a crash must not forget that.
    if (this.#record && taken < credits) this.#writeDown()
  }

  readonly settle = (): void => {
    if (this.#isSettled) return
    this.#isSettled = true
    const { accounts, written } = this.#ports
    const { charged } = this.#subject
    accounts.release(charged, this.#restCredits)
    this.#restCredits = 0
    const removal: readonly DiskRecord[] = this.#record
      ? [{ space: 'hold', key: this.id, value: null, expiresAt: null }]
      : []
    accounts.book(charged, this.#spentCredits, [...this.#sums(), ...removal])
    written.delete(this.id)
  }

  #writeDown(): void {
    const { written, store } = this.#ports
    const { client, scraper, charged } = this.#subject
    const spentCredits = this.#spentCredits
    const credits = spentCredits + this.#restCredits
    if (this.#record?.credits === credits && this.#record.spentCredits === spentCredits) return
    const periods = [...new Set(charged.map(({ account }) => account.period.id))]
    const value: HoldRecord = { client, scraper, periods, credits, spentCredits, uses: [...this.#uses.values()] }
    this.#record = value
    written.set(this.id, value)
    store?.put([{ space: 'hold', key: this.id, value, expiresAt: null }])
  }

  /** Of what has not been booked yet. */
  #sums(): readonly DiskSum[] {
    const { client, scraper, charged } = this.#subject
    const at = charged[0]?.account.period.startsAt ?? this.#ports.clock.wall()
    const sums = Array.from(this.#uses.values(), ([key, spent, uncertain]) =>
      daySum(
        at,
        { client, scraper, key },
        { ...(spent > 0 ? { spent } : {}), ...(uncertain > 0 ? { uncertain } : {}) },
      ),
    )
    this.#uses.clear()
    return sums
  }
}

export function isLimited(charged: readonly Charged[]): boolean {
  return charged.some(({ limitCredits }) => limitCredits !== null)
}

export function unavailable(): ProxyError {
  const detail =
    'The data folder is unavailable, so credits cannot be counted. Cached answers are still served. Retry later.'
  return new ProxyError('BUDGET_UNAVAILABLE', detail, { retryAfterMs: RETRY_AFTER_MS })
}

function unsafe(): ProxyError {
  const detail = 'The data folder cannot be written to right now, and durable requests require that. Retry later.'
  return new ProxyError('STORE_UNAVAILABLE', detail, { retryAfterMs: RETRY_AFTER_MS })
}

/** Null = not of this format. */
export function readHold(value: unknown): { readonly record: HoldRecord; readonly periods: readonly Period[] } | null {
  if (typeof value !== 'object' || value === null) return null
  const {
    client,
    scraper = 'none',
    periods: names,
    credits,
    spentCredits,
    uses = [],
  } = value as Partial<Record<keyof HoldRecord, unknown>>
  if (typeof client !== 'string' || !isCredits(credits) || !isCredits(spentCredits) || spentCredits > credits)
    return null
  if (!Array.isArray(names) || typeof scraper !== 'string' || !isUses(uses)) return null
  const periods = names.map((name) => periodNamed(String(name))).filter((period) => period !== null)
  if (periods.length !== names.length || periods.length === 0) return null
  const ids = periods.map(({ id }) => id)
  return { record: { client, scraper, periods: ids, credits, spentCredits, uses }, periods }
}

function isUses(value: unknown): value is readonly Use[] {
  return (
    Array.isArray(value) &&
    value.every(
      (use) =>
        Array.isArray(use) && typeof use[0] === 'string' && isCredits(use[1]) && isCredits(use[2]) && use.length === 3,
    )
  )
}

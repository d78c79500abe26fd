/**
 * Credits of a client per UTC day and month, for one process: set aside before the flight, settled after it.
 *
 * left + held + spent = limit, at every moment. Only `credits_used` above the price, or a limit lowered meanwhile, can push
 * what is left below 0, and it is shown so; nothing is granted then. A hold belongs to the periods it was made in. Before an
 * attempt the hold is in the store, safe from a kill and a power cut; what an earlier process left there counts as held until it
 * is adopted or swept. A client with a budget is granted nothing that cannot be written down, and nothing before it is known what
 * has been spent.
 */
import { ProxyError } from '../errors.ts'
import type { Call, Charge, Client, LimitState } from '../model.ts'
import type { Budget, BudgetStatus, Hold } from '../parts.ts'
import type { Clock, Emit, Random } from '../ports.ts'
import { type Account, type BudgetStore, createAccounts, isCredits, leftOf, limitOf, type Limits } from './accounts.ts'
import { dayOf, monthOf, type Period, periodNamed } from './period.ts'
import { creditsPolicy } from './policy.ts'

export interface BudgetPorts {
  readonly clock: Clock
  readonly emit: Emit
  readonly random: Random
  readonly store: BudgetStore
  /** Those of the settings in force. */
  readonly clients: () => readonly Client[]
  /** Also what clients without a budget spend must be safe before it is sent: a job is known by it later. */
  readonly mustBeSafe?: () => boolean
}

export interface Budgets extends Budget {
  /** Counts as spent what an earlier process left behind and nobody adopted: its calls may have been charged. */
  sweep(): void
  /** What every client spends now, those without limits too. */
  spending(): readonly Spending[]
}

export interface Spending {
  readonly client: string
  readonly dayCredits: number
  readonly monthCredits: number
  readonly heldCredits: number
}

/** A hold as it is written down before an attempt. If nothing more is heard of it, `credits` counts as spent. */
interface HoldRecord {
  readonly client: string
  readonly periods: readonly string[]
  readonly credits: number
  /** The part of `credits` that earlier attempts have used up. */
  readonly spentCredits: number
}

interface OpenHold extends Hold {
  restCredits(): number
}

type Today = readonly [day: Period, month: Period]

interface Limited {
  readonly account: Account
  readonly limitCredits: number
  readonly policy: string
}

const noLimits: readonly LimitState[] = []
const none: Hold = { id: 'none', secure: async () => {}, spend() {}, settle() {} }
const unlimited: Limits = { perDay: null, perMonth: null }
const RETRY_AFTER_MS = 5_000

export function createBudget({ clock, emit, random, store, clients, mustBeSafe = () => false }: BudgetPorts): Budgets {
  const accounts = createAccounts(clock, emit, store)
  const leftBehind = new Map<string, OpenHold>()
  /** The holds that this process has in the store. */
  const written = new Map<string, HoldRecord>()
  let today: Today | null = null
  const limitedBy = new WeakMap<Client, { readonly day: Today; readonly own: readonly Limited[] }>()
  findLeftBehind()
  store?.onRead(() => {
    accounts.reload()
    // A store that was lost, and begun anew, does not have them.
    store.put(Array.from(written, ([key, value]) => ({ space: 'hold', key, value, expiresAt: null })))
    findLeftBehind()
  })

  return { hold, none, adopt, refund, hasRoom, limits, states, sweep, spending }

  async function hold({ name, credits }: Client, { priceCredits }: Call): Promise<Hold> {
    if (priceCredits === 0) return none
    if (isLimited(credits) && !isKnown()) throw unavailable()
    const own = periods().map((period) => accounts.of(name, period))
    accounts.reserve(own, credits, priceCredits)
    return openHold(random.id(), own, credits, priceCredits, null)
  }

  function adopt(holdId: string): Hold | null {
    const found = leftBehind.get(holdId) ?? null
    leftBehind.delete(holdId)
    return found
  }

  /** In the periods it was spent in; for a period that is over nobody minds any more. */
  function refund(client: string, credits: number, spentAt: number): void {
    accounts.refund(
      [dayOf(spentAt), monthOf(spentAt)].map((period) => accounts.of(client, period)),
      credits,
    )
  }

  function sweep(): void {
    let credits = 0
    for (const hold of leftBehind.values()) {
      const restCredits = hold.restCredits()
      credits += restCredits
      hold.spend({ state: 'unknown', credits: restCredits })
      hold.settle()
    }
    if (leftBehind.size > 0) emit({ kind: 'holds-swept', holds: leftBehind.size, credits })
    leftBehind.clear()
  }

  function findLeftBehind(): void {
    for (const [id, value] of store?.list('hold') ?? []) {
      const found = readHold(value)
      if (!found || written.has(id) || leftBehind.has(id)) continue
      const { client, credits, spentCredits } = found.record
      const own = found.periods.map((period) => accounts.of(client, period))
      const limits = clients().find(({ name }) => name === client)?.credits ?? unlimited
      accounts.resume(own, credits - spentCredits, spentCredits)
      leftBehind.set(id, openHold(id, own, limits, credits - spentCredits, found.record))
    }
  }

  // How things stand

  function isKnown(): boolean {
    return store === null || store.isRead
  }

  function hasRoom(client: Client): boolean {
    if (isLimited(client.credits) && !isKnown()) return false
    return statesOf(client).every(({ leftCredits, limitCredits }) => leftCredits * 5 >= limitCredits)
  }

  function limits(client: Client): readonly LimitState[] {
    const wallMs = clock.wall()
    const own = limited(client, wallMs)
    if (own.length === 0) return noLimits
    return own.map(({ account, limitCredits, policy }) => ({
      policy,
      remaining: Math.max(0, leftOf(account, limitCredits)),
      resetMs: account.period.resetAt - wallMs,
    }))
  }

  function states(): readonly BudgetStatus[] {
    return clients().flatMap(statesOf)
  }

  function statesOf(client: Client): BudgetStatus[] {
    return limited(client).map(({ account, limitCredits }) => ({
      client: client.name,
      period: account.period.kind,
      limitCredits,
      leftCredits: leftOf(account, limitCredits),
      heldCredits: account.heldCredits,
      spentCredits: account.spentCredits,
      resetAt: account.period.resetAt,
    }))
  }

  /** Looked up once per client and day: every answer tells how its client stands. */
  function limited(client: Client, wallMs = clock.wall()): readonly Limited[] {
    if (!isKnown()) return []
    const day = periods(wallMs)
    const known = limitedBy.get(client)
    if (known?.day === day) return known.own
    const own = day.flatMap((period) => {
      const limitCredits = limitOf(client.credits, period)
      if (limitCredits === null) return []
      return [{ account: accounts.of(client.name, period), limitCredits, policy: creditsPolicy(period, limitCredits) }]
    })
    limitedBy.set(client, { day, own })
    return own
  }

  function spending(): readonly Spending[] {
    const [day, month] = periods()
    const held = accounts.held()
    return clients().map(({ name }) => ({
      client: name,
      dayCredits: accounts.of(name, day).spentCredits,
      monthCredits: accounts.of(name, month).spentCredits,
      heldCredits: held.get(name) ?? 0,
    }))
  }

  function periods(wallMs = clock.wall()): Today {
    if (!today || wallMs < today[0].startsAt || wallMs >= today[0].resetAt) today = [dayOf(wallMs), monthOf(wallMs)]
    return today
  }

  // One hold

  function openHold(
    id: string,
    own: readonly Account[],
    limits: Limits,
    heldCredits: number,
    record: HoldRecord | null,
  ): OpenHold {
    let restCredits = heldCredits
    let spentCredits = record?.spentCredits ?? 0
    let known = record
    let isSettled = false

    return { id, secure, spend, settle, restCredits: () => restCredits }

    async function secure(credits: number): Promise<void> {
      // Nobody would ever give back what is set aside now.
      if (isSettled) throw new Error('This hold is settled.')
      if (restCredits < credits) {
        accounts.reserve(own, limits, credits - restCredits)
        restCredits = credits
      }
      writeDown()
      const mustNotFail = isLimited(limits)
      if (!store || !(mustNotFail || mustBeSafe()) || (await store.secure())) return
      throw mustNotFail ? unavailable() : unsafe()
    }

    function writeDown(): void {
      const credits = spentCredits + restCredits
      if (known?.credits === credits && known.spentCredits === spentCredits) return
      known = { client: own[0]?.client ?? '', periods: own.map(({ period }) => period.id), credits, spentCredits }
      written.set(id, known)
      store?.put([{ space: 'hold', key: id, value: known, expiresAt: null }])
    }

    function spend({ state, credits }: Charge): void {
      if (state === 'free') return
      const taken = Math.min(restCredits, credits)
      restCredits -= taken
      spentCredits += credits
      accounts.release(own, taken)
      accounts.spend(own, limits, credits)
      if (isSettled) return accounts.book(own, credits, [])
      // It cost more than was set aside for it: a crash must not forget that.
      if (known && taken < credits) writeDown()
    }

    function settle(): void {
      if (isSettled) return
      isSettled = true
      accounts.release(own, restCredits)
      restCredits = 0
      accounts.book(own, spentCredits, known ? [{ space: 'hold', key: id, value: null, expiresAt: null }] : [])
      written.delete(id)
    }
  }
}

function isLimited({ perDay, perMonth }: Limits): boolean {
  return perDay !== null || perMonth !== null
}

function unavailable(): ProxyError {
  const detail =
    'The file with what has been spent cannot be used now, so credits cannot be granted. Known answers still come.'
  return new ProxyError('BUDGET_UNAVAILABLE', detail, { retryAfterMs: RETRY_AFTER_MS })
}

function unsafe(): ProxyError {
  const detail = 'The file with what must survive a restart cannot be written now, and this request depends on it.'
  return new ProxyError('STORE_UNAVAILABLE', detail, { retryAfterMs: RETRY_AFTER_MS })
}

/** Null = not of this format. */
function readHold(value: unknown): { readonly record: HoldRecord; readonly periods: readonly Period[] } | null {
  if (typeof value !== 'object' || value === null) return null
  const { client, periods: names, credits, spentCredits } = value as Partial<Record<keyof HoldRecord, unknown>>
  if (typeof client !== 'string' || !isCredits(credits) || !isCredits(spentCredits) || spentCredits > credits)
    return null
  if (!Array.isArray(names)) return null
  const periods = names.map((name) => periodNamed(String(name))).filter((period) => period !== null)
  if (periods.length !== names.length || periods.length === 0) return null
  return { record: { client, periods: periods.map(({ id }) => id), credits, spentCredits }, periods }
}

/**
 * Credits per UTC day and month, of each client and of the account as a whole, for one process: set aside before the flight, settled
 * after it.
 *
 * left + held + spent = limit, at every moment. Only `credits_used` above the price, or a limit lowered meanwhile, can push
 * what is left below 0, and it is shown so; nothing is granted then. A hold belongs to the periods it was made in. Before an
 * attempt the hold is in the store, safe from a kill and a power cut; what an earlier process left there counts as held until it
 * is adopted or swept. Where there is a limit nothing is granted that cannot be written down, and nothing before it is known what
 * has been spent. Longer than other files, because the life of a hold is read in one go.
 */
import { ProxyError } from '../errors.ts'
import type { AccountLimits, Call, Charge, Client, LimitState } from '../model.ts'
import type { Budget, BudgetStatus, Hold } from '../parts.ts'
import type { Clock, DiskRecord, DiskSum, Emit, Random } from '../ports.ts'
import {
  type Account,
  type BudgetStore,
  type Charged,
  createAccounts,
  isCredits,
  leftOf,
  limitOf,
  WHOLE,
} from './accounts.ts'
import { daySum } from './day-sums.ts'
import { dayOf, monthOf, type Period, periodNamed } from './period.ts'
import { creditsPolicy } from './policy.ts'

export interface BudgetPorts {
  readonly clock: Clock
  readonly emit: Emit
  readonly random: Random
  readonly store: BudgetStore
  /** Those of the settings in force. */
  readonly clients: () => readonly Client[]
  /** Of the account as a whole; null = no limits. */
  readonly account?: () => AccountLimits | null
  /** Also what is spent without a limit must be safe before it is sent: a job is known by it later. */
  readonly mustBeSafe?: () => boolean
}

export interface Budgets extends Budget {
  /** Counts as spent what an earlier process left behind and nobody adopted: its calls may have been charged. */
  sweep(): void
  /** What every client spends now, those without limits too. */
  spending(): readonly Spending[]
  /** The client has spent so much this month, whatever was counted; the difference is taken from today's account as well. */
  correct(client: string, spentCredits: number): Corrected
}

export interface Corrected {
  readonly beforeCredits: number
  readonly spentCredits: number
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
  readonly scraper: string
  readonly periods: readonly string[]
  readonly credits: number
  /** The part of `credits` that earlier attempts have used up. */
  readonly spentCredits: number
  readonly uses: readonly Use[]
}

/** What attempts with one key have cost: charged, and perhaps charged. */
type Use = readonly [keyName: string, spent: number, uncertain: number]

interface OpenHold extends Hold {
  restCredits(): number
}

type Today = readonly [day: Period, month: Period]

/** Who is charged for a client's calls now: its own accounts, then those of the whole. */
interface Standing {
  readonly day: Today
  readonly whole: AccountLimits | null
  /** Until the day ends, or a top-up does. */
  readonly until: number
  readonly charged: readonly Charged[]
  readonly own: readonly { readonly account: Account; readonly limitCredits: number; readonly policy: string }[]
}

const noLimits: readonly LimitState[] = []
const none: Hold = { id: 'none', secure: async () => {}, spend() {}, settle() {} }
const RETRY_AFTER_MS = 5_000

export function createBudget(ports: BudgetPorts): Budgets {
  const { clock, emit, random, store, clients, account: wholeLimits = () => null, mustBeSafe = () => false } = ports
  const accounts = createAccounts(clock, emit, store)
  const leftBehind = new Map<string, OpenHold>()
  /** The holds that this process has in the store. */
  const written = new Map<string, HoldRecord>()
  const standings = new WeakMap<Client, Standing>()
  let today: Today | null = null
  findLeftBehind()
  store?.onRead(() => {
    accounts.reload()
    // A store that was lost, and begun anew, does not have them.
    store.put(Array.from(written, ([key, value]) => ({ space: 'hold', key, value, expiresAt: null })))
    findLeftBehind()
  })

  return { hold, none, adopt, refund, correct, hasRoom, limits, states, sweep, spending }

  async function hold(client: Client, { priceCredits, scraper }: Call): Promise<Hold> {
    if (priceCredits === 0) return none
    const { charged } = standingOf(client)
    if (isLimited(charged) && !isKnown()) throw unavailable()
    accounts.reserve(charged, priceCredits)
    return openHold(random.id(), client.name, scraper, charged, priceCredits, null)
  }

  function adopt(holdId: string): Hold | null {
    const found = leftBehind.get(holdId) ?? null
    leftBehind.delete(holdId)
    return found
  }

  /** In the periods it was spent in; for a period that is over nobody minds any more. */
  function refund(name: string, credits: number, spentAt: number, about = { scraper: 'none', key: 'none' }): void {
    const charged = chargedIn(name, [dayOf(spentAt), monthOf(spentAt)])
    accounts.correct(charged, -credits, (given) => [daySum(spentAt, { client: name, ...about }, { refunded: -given })])
  }

  function correct(name: string, spentCredits: number): Corrected {
    const beforeCredits = accounts.of(name, periods()[1]).spentCredits
    const subject = { client: name, scraper: 'none', key: 'none' }
    const given = accounts.correct(chargedIn(name, periods()), spentCredits - beforeCredits, (corrected) => [
      daySum(clock.wall(), subject, { corrected }),
    ])
    return { beforeCredits, spentCredits: beforeCredits + given }
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
      const { client, scraper, credits, spentCredits } = found.record
      const known = clients().find(({ name }) => name === client)
      const charged = chargedIn(client, found.periods, known)
      accounts.resume(charged, credits - spentCredits, spentCredits)
      leftBehind.set(id, openHold(id, client, scraper, charged, credits - spentCredits, found.record))
    }
  }

  // How things stand

  function isKnown(): boolean {
    return store === null || store.isRead
  }

  function hasRoom(client: Client): boolean {
    const { charged } = standingOf(client)
    if (isLimited(charged) && !isKnown()) return false
    return charged.every(
      ({ account, limitCredits }) => limitCredits === null || leftOf(account, limitCredits) * 5 >= limitCredits,
    )
  }

  function limits(client: Client): readonly LimitState[] {
    const wallMs = clock.wall()
    const { own } = standingOf(client, wallMs)
    if (own.length === 0 || !isKnown()) return noLimits
    return own.map(({ account, limitCredits, policy }) => ({
      policy,
      remaining: Math.max(0, leftOf(account, limitCredits)),
      resetMs: account.period.resetAt - wallMs,
    }))
  }

  function states(): readonly BudgetStatus[] {
    if (!isKnown()) return []
    const whole = wholeLimits()
    const ofWhole = whole ? periods().map((period) => charge(WHOLE, period, limitOf(whole, period, clock.wall()))) : []
    return [...clients().flatMap((client) => standingOf(client).own), ...ofWhole].flatMap(
      ({ account, limitCredits }) => {
        if (limitCredits === null) return []
        const { client, period, heldCredits, spentCredits } = account
        const leftCredits = leftOf(account, limitCredits)
        const { kind, resetAt } = period
        return [{ client, period: kind, limitCredits, leftCredits, heldCredits, spentCredits, resetAt }]
      },
    )
  }

  /** Looked up once per client and day: every answer tells how its client stands. */
  function standingOf(client: Client, wallMs = clock.wall()): Standing {
    const [day, whole] = [periods(wallMs), wholeLimits()]
    const known = standings.get(client)
    if (known?.day === day && known.whole === whole && wallMs < known.until) return known
    const charged = chargedIn(client.name, day, client, wallMs)
    const own = charged.flatMap(({ account, limitCredits }) =>
      limitCredits === null || account.client === WHOLE
        ? []
        : [{ account, limitCredits, policy: creditsPolicy(account.period, limitCredits) }],
    )
    const { topUp } = client.credits
    const until = topUp && wallMs < topUp.until ? topUp.until : Number.POSITIVE_INFINITY
    const standing = { day, whole, until, charged, own }
    standings.set(client, standing)
    return standing
  }

  /** Without `client`, as if there were no limits: for what has been spent already. */
  function chargedIn(
    name: string,
    days: readonly Period[],
    client?: Client,
    wallMs = clock.wall(),
  ): readonly Charged[] {
    const whole = client ? wholeLimits() : null
    const kept = client?.mayUseReserve ? 0 : (whole?.reserveCredits ?? 0)
    return days.flatMap((period) => {
      const ofWhole = whole && limitOf(whole, period, wallMs)
      return [
        charge(name, period, client ? limitOf(client.credits, period, wallMs) : null),
        charge(WHOLE, period, ofWhole, kept),
      ]
    })
  }

  function charge(name: string, period: Period, wholeCredits: number | null, reserveCredits = 0): Charged {
    const limitCredits = wholeCredits === null ? null : wholeCredits - reserveCredits
    return { account: accounts.of(name, period), limitCredits, wholeCredits }
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
    client: string,
    scraper: string,
    charged: readonly Charged[],
    heldCredits: number,
    record: HoldRecord | null,
  ): OpenHold {
    let restCredits = heldCredits
    let spentCredits = record?.spentCredits ?? 0
    let known = record
    let isSettled = false
    const uses = new Map(record?.uses.map((use) => [use[0], use]))

    return { id, secure, spend, settle, restCredits: () => restCredits }

    async function secure(credits: number): Promise<void> {
      // Nobody would ever give back what is set aside now.
      if (isSettled) throw new Error('This hold is settled.')
      if (restCredits < credits) {
        accounts.reserve(charged, credits - restCredits)
        restCredits = credits
      }
      writeDown()
      const hasLimit = isLimited(charged)
      if (!store || !(hasLimit || mustBeSafe()) || (await store.secure())) return
      throw hasLimit ? unavailable() : unsafe()
    }

    function writeDown(): void {
      const credits = spentCredits + restCredits
      if (known?.credits === credits && known.spentCredits === spentCredits) return
      const periods = [...new Set(charged.map(({ account }) => account.period.id))]
      known = { client, scraper, periods, credits, spentCredits, uses: [...uses.values()] }
      written.set(id, known)
      store?.put([{ space: 'hold', key: id, value: known, expiresAt: null }])
    }

    function spend({ state, credits }: Charge, keyName = 'none'): void {
      if (state === 'free' || credits === 0) return
      const taken = Math.min(restCredits, credits)
      restCredits -= taken
      spentCredits += credits
      const [, spent, uncertain] = uses.get(keyName) ?? [keyName, 0, 0]
      const isSure = state === 'charged'
      uses.set(keyName, [keyName, spent + (isSure ? credits : 0), uncertain + (isSure ? 0 : credits)])
      accounts.release(charged, taken)
      accounts.spend(charged, credits)
      if (isSettled) return accounts.book(charged, credits, sums())
      // It cost more than was set aside for it: a crash must not forget that.
      if (known && taken < credits) writeDown()
    }

    function settle(): void {
      if (isSettled) return
      isSettled = true
      accounts.release(charged, restCredits)
      restCredits = 0
      const gone: readonly DiskRecord[] = known ? [{ space: 'hold', key: id, value: null, expiresAt: null }] : []
      accounts.book(charged, spentCredits, [...sums(), ...gone])
      written.delete(id)
    }

    /** Of what has not been booked yet. */
    function sums(): readonly DiskSum[] {
      const at = charged[0]?.account.period.startsAt ?? clock.wall()
      const found = Array.from(uses.values(), ([key, spent, uncertain]) =>
        daySum(
          at,
          { client, scraper, key },
          { ...(spent > 0 ? { spent } : {}), ...(uncertain > 0 ? { uncertain } : {}) },
        ),
      )
      uses.clear()
      return found
    }
  }
}

function isLimited(charged: readonly Charged[]): boolean {
  return charged.some(({ limitCredits }) => limitCredits !== null)
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

/**
 * Credits per UTC day and month, of each client and of the account as a whole, for one process: set aside before the flight, settled
 * after it.
 *
 * left + held + spent = limit, at every moment. Only `credits_used` above the price, or a limit lowered meanwhile, can push
 * what is left below 0, and it is shown so; nothing is granted then. A hold belongs to the periods it was made in. Before an
 * attempt the hold is in the store, safe from a kill and a power cut; what an earlier process left there counts as held until it
 * is adopted or swept. Where there is a limit nothing is granted that cannot be written down, and nothing before it is known what
 * has been spent.
 */
import type { AccountLimits, Call, Client, LimitState } from '../model.ts'
import type { Hold } from '../fetch-parts.ts'
import type { Budget, BudgetStatus } from '../parts.ts'
import type { Clock, Emit, Random } from '../ports.ts'
import {
  type Accounts,
  type Account,
  type BudgetStore,
  type Charged,
  createAccounts,
  leftOf,
  limitOf,
  WHOLE,
} from './accounts.ts'
import { daySum } from './day-sums.ts'
import { type HoldPorts, type HoldRecord, isLimited, LocalHold, readHold, unavailable } from './local-hold.ts'
import { dayOf, monthOf, type Period } from './period.ts'
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

class LocalBudget implements Budgets {
  readonly #clock: Clock
  readonly #emit: Emit
  readonly #random: Random
  readonly #store: BudgetStore
  readonly #clients: () => readonly Client[]
  readonly #wholeLimits: () => AccountLimits | null
  readonly #accounts: Accounts
  readonly #orphaned = new Map<string, LocalHold>()
  /** The holds that this process has in the store. */
  readonly #written = new Map<string, HoldRecord>()
  readonly #holds: HoldPorts
  readonly #standings = new WeakMap<Client, Standing>()
  #today: Today | null = null

  constructor(ports: BudgetPorts) {
    const { clock, emit, random, store, clients, account: wholeLimits = () => null, mustBeSafe = () => false } = ports
    this.#clock = clock
    this.#emit = emit
    this.#random = random
    this.#store = store
    this.#clients = clients
    this.#wholeLimits = wholeLimits
    this.#accounts = createAccounts(clock, emit, store)
    this.#holds = { accounts: this.#accounts, store, clock, mustBeSafe, written: this.#written }
    this.#findOrphans()
    store?.onRead(() => {
      this.#accounts.reload()
      // A store that was lost, and begun anew, does not have them.
      store.put(Array.from(this.#written, ([key, value]) => ({ space: 'hold', key, value, expiresAt: null })))
      this.#findOrphans()
    })
  }

  readonly hold = async (client: Client, { priceCredits, scraper }: Call): Promise<Hold> => {
    if (priceCredits === 0) return none
    const { charged } = this.#standingOf(client)
    if (isLimited(charged) && !this.#isKnown()) throw unavailable()
    this.#accounts.reserve(charged, priceCredits)
    return new LocalHold(this.#holds, this.#random.id(), { client: client.name, scraper, charged }, priceCredits, null)
  }

  readonly none: Budgets['none'] = none

  readonly adopt = (holdId: string): Hold | null => {
    const found = this.#orphaned.get(holdId) ?? null
    this.#orphaned.delete(holdId)
    return found
  }

  /** In the periods it was spent in; for a period that is over nobody minds any more. */
  readonly refund = (
    name: string,
    credits: number,
    spentAt: number,
    about = { scraper: 'none', key: 'none' },
  ): void => {
    const charged = this.#chargedIn(name, [dayOf(spentAt), monthOf(spentAt)])
    this.#accounts.correct(charged, -credits, (given) => [
      daySum(spentAt, { client: name, ...about }, { refunded: -given }),
    ])
  }

  readonly correct = (name: string, spentCredits: number): Corrected => {
    const beforeCredits = this.#accounts.of(name, this.#periods()[1]).spentCredits
    const subject = { client: name, scraper: 'none', key: 'none' }
    const given = this.#accounts.correct(
      this.#chargedIn(name, this.#periods()),
      spentCredits - beforeCredits,
      (corrected) => [daySum(this.#clock.wall(), subject, { corrected })],
    )
    return { beforeCredits, spentCredits: beforeCredits + given }
  }

  readonly hasRoom = (client: Client): boolean => {
    const { charged } = this.#standingOf(client)
    if (isLimited(charged) && !this.#isKnown()) return false
    return charged.every(
      ({ account, limitCredits }) => limitCredits === null || leftOf(account, limitCredits) * 5 >= limitCredits,
    )
  }

  readonly limits = (client: Client): readonly LimitState[] => {
    const wallMs = this.#clock.wall()
    const { own } = this.#standingOf(client, wallMs)
    if (own.length === 0 || !this.#isKnown()) return noLimits
    return own.map(({ account, limitCredits, policy }) => ({
      policy,
      remaining: Math.max(0, leftOf(account, limitCredits)),
      resetMs: account.period.resetAt - wallMs,
    }))
  }

  readonly states = (): readonly BudgetStatus[] => {
    if (!this.#isKnown()) return []
    const whole = this.#wholeLimits()
    const ofWhole = whole
      ? this.#periods().map((period) => this.#charge(WHOLE, period, limitOf(whole, period, this.#clock.wall())))
      : []
    return [...this.#clients().flatMap((client) => this.#standingOf(client).own), ...ofWhole].flatMap(
      ({ account, limitCredits }) => {
        if (limitCredits === null) return []
        const { client, period, heldCredits, spentCredits } = account
        const leftCredits = leftOf(account, limitCredits)
        const { kind, resetAt } = period
        return [{ client, period: kind, limitCredits, leftCredits, heldCredits, spentCredits, resetAt }]
      },
    )
  }

  readonly sweep = (): void => {
    let credits = 0
    for (const hold of this.#orphaned.values()) {
      const restCredits = hold.restCredits
      credits += restCredits
      hold.spend({ state: 'unknown', credits: restCredits })
      hold.settle()
    }
    if (this.#orphaned.size > 0) this.#emit({ kind: 'holds-swept', holds: this.#orphaned.size, credits })
    this.#orphaned.clear()
  }

  readonly spending = (): readonly Spending[] => {
    const [day, month] = this.#periods()
    const held = this.#accounts.held()
    return this.#clients().map(({ name }) => ({
      client: name,
      dayCredits: this.#accounts.of(name, day).spentCredits,
      monthCredits: this.#accounts.of(name, month).spentCredits,
      heldCredits: held.get(name) ?? 0,
    }))
  }

  #findOrphans(): void {
    for (const [id, value] of this.#store?.list('hold') ?? []) {
      const found = readHold(value)
      if (!found || this.#written.has(id) || this.#orphaned.has(id)) continue
      const { client, scraper, credits, spentCredits } = found.record
      const known = this.#clients().find(({ name }) => name === client)
      const charged = this.#chargedIn(client, found.periods, known)
      this.#accounts.resume(charged, credits - spentCredits, spentCredits)
      this.#orphaned.set(
        id,
        new LocalHold(this.#holds, id, { client, scraper, charged }, credits - spentCredits, found.record),
      )
    }
  }

  // How things stand

  #isKnown(): boolean {
    return this.#store === null || this.#store.isRead
  }

  /** Looked up once per client and day: every answer tells how its client stands. */
  #standingOf(client: Client, wallMs = this.#clock.wall()): Standing {
    const [day, whole] = [this.#periods(wallMs), this.#wholeLimits()]
    const known = this.#standings.get(client)
    if (known?.day === day && known.whole === whole && wallMs < known.until) return known
    const charged = this.#chargedIn(client.name, day, client, wallMs)
    const own = charged.flatMap(({ account, limitCredits }) =>
      limitCredits === null || account.client === WHOLE
        ? []
        : [{ account, limitCredits, policy: creditsPolicy(account.period, limitCredits) }],
    )
    const { topUp } = client.credits
    const until = topUp && wallMs < topUp.until ? topUp.until : Number.POSITIVE_INFINITY
    const standing = { day, whole, until, charged, own }
    this.#standings.set(client, standing)
    return standing
  }

  /** Without `client`, as if there were no limits: for what has been spent already. */
  #chargedIn(name: string, days: readonly Period[], client?: Client, wallMs = this.#clock.wall()): readonly Charged[] {
    const whole = client ? this.#wholeLimits() : null
    const kept = client?.mayUseReserve ? 0 : (whole?.reserveCredits ?? 0)
    return days.flatMap((period) => {
      const ofWhole = whole && limitOf(whole, period, wallMs)
      return [
        this.#charge(name, period, client ? limitOf(client.credits, period, wallMs) : null),
        this.#charge(WHOLE, period, ofWhole, kept),
      ]
    })
  }

  #charge(name: string, period: Period, wholeCredits: number | null, reserveCredits = 0): Charged {
    const limitCredits = wholeCredits === null ? null : wholeCredits - reserveCredits
    return { account: this.#accounts.of(name, period), limitCredits, wholeCredits }
  }

  #periods(wallMs = this.#clock.wall()): Today {
    if (!this.#today || wallMs < this.#today[0].startsAt || wallMs >= this.#today[0].resetAt)
      this.#today = [dayOf(wallMs), monthOf(wallMs)]
    return this.#today
  }
}

export function createBudget(ports: BudgetPorts): Budgets {
  return new LocalBudget(ports)
}

/**
 * Credits of a client, and of the account as a whole, per UTC day and month, counted by all replicas together: set aside before the flight from
 * slices that this replica has leased, marked in the shared store before each attempt, settled after it. The account is one more book, under
 * a name that no client has; whoever may use its reserve pays from slices of its own there.
 *
 * While the store is away nothing more is spent than was marked in advance (`closed`), or this replica counts by itself against what it
 * last knew (`open`: as many times too much as there are replicas). Clients without a limit are only written up.
 *
 * How clients stand is told without asking: what others have spent is at most 15 s old while the store is up.
 */
import type { AccountLimits, Call, Client } from '../model.ts'
import type { Hold } from '../fetch-parts.ts'
import type { Budget } from '../parts.ts'
import { WHOLE } from './accounts.ts'
import type { Corrected, Spending } from './budget.ts'
import { createSharedAccount, type SharedAccount } from './shared-account.ts'
import type { AccountPorts, LimitsOfRun } from './shared-book.ts'
import { daySum } from './day-sums.ts'
import type { SharedDaySums } from './shared-day-sums.ts'
import { type AwayNews, createSlot, type Slot, unavailable } from './shared-slot.ts'
import { createStandings, isLimited, type Payer, wholeFor } from './shared-standing.ts'

export interface SharedBudgetPorts extends AccountPorts {
  /** Those of the settings in force. */
  readonly clients: () => readonly Client[]
  /** Of the account as a whole; null = no limits. */
  readonly whole: () => AccountLimits | null
  /** For the report. */
  readonly daySums: Pick<SharedDaySums, 'put'>
  readonly whenAway: () => 'closed' | 'open'
  readonly tell: (news: AwayNews) => void
}

export interface SharedBudgets extends Budget {
  /** What every client spends now, those without limits too. */
  spending(): readonly Spending[]
  /** The client has spent so much this month, whatever was counted; the difference is taken from today's account as well. */
  correct(client: string, spentCredits: number): Promise<Corrected>
  /** Tells the store all that it has not heard, and hears what others have told. */
  flush(): Promise<void>
  /** Gives back what was marked in advance. Holds that are open still count as spent when the session has ended. */
  close(): Promise<void>
}

interface Known {
  readonly account: SharedAccount
  /** The beat before which a flight was paid for last; and one for those who may use the reserve. */
  usedAtBeat: number
  reserveUsedAtBeat: number
}

/** Every replica hears of the others every third beat of its session. */
const BEATS = 3
/** A process that is restarted again and again must not leave something marked behind each time. */
const YOUNG_MS = 15_000
const MAX_FLOAT = 50
const FLOAT_SHARE = 50
const LAST_TENTH = 10
const none: Hold = { id: 'none', secure: async () => {}, spend() {}, settle() {} }

class SharedBudget implements SharedBudgets {
  readonly #ports: SharedBudgetPorts
  readonly #accounts = new Map<string, Known>()
  readonly #startedAt: number
  readonly #standings: ReturnType<typeof createStandings>
  readonly #stopListening: () => void
  #beats = 0
  readonly none = none
  readonly hasRoom: SharedBudgets['hasRoom']
  readonly limits: SharedBudgets['limits']
  readonly states: SharedBudgets['states']
  readonly spending: SharedBudgets['spending']

  constructor(ports: SharedBudgetPorts) {
    this.#ports = ports
    this.#startedAt = ports.clock.now()
    this.#standings = createStandings(ports, (name) => this.#accounts.get(name)?.account ?? null)
    this.hasRoom = this.#standings.hasRoom
    this.limits = this.#standings.limits
    this.states = this.#standings.states
    this.spending = this.#standings.spending
    this.#stopListening = ports.session.onBeat((isNew) => void this.#beat(isNew))
    void this.flush()
  }

  readonly hold = async (client: Client, { priceCredits, scraper }: Call): Promise<Hold> => {
    if (priceCredits === 0) return none
    const slots = this.#slotsOf(client)
    const [own, whole] = slots
    await own.reserve(priceCredits)
    try {
      await whole.reserve(priceCredits)
    } catch (error) {
      own.settle()
      throw error
    }
    const id = [this.#ports.random.id(), client.name, own.run.name, priceCredits, whole.run.name, scraper].join('@')
    return this.#openHold(id, { client, scraper }, slots)
  }

  /** The call of another replica, paid by this one from now on. */
  readonly adopt = (holdId: string): Hold | null => {
    const [, name = '', run = '', credits = '', runOfWhole = '', scraper = 'none'] = holdId.split('@')
    const client = this.#ports.clients().find((one) => one.name === name)
    if (!client || credits === '') return null
    const own = this.#openHold(holdId, { client, scraper }, this.#slotsOf(client))
    let isPaid = true
    return {
      id: holdId,
      async secure(price) {
        isPaid = false
        await own.secure(price)
      },
      spend(charge, keyName) {
        isPaid ||= charge.state !== 'free'
        own.spend(charge, keyName)
      },
      settle: () => {
        own.settle()
        if (!isPaid) return
        isPaid = false
        void this.#knownOf(name).account.takeOver(run, Number(credits))
        void this.#knownOf(WHOLE).account.takeOver(runOfWhole, Number(credits))
      },
    }
  }

  readonly refund: Budget['refund'] = (client, credits, spentAt, about = { scraper: 'none', key: 'none' }) => {
    if (!this.#ports.clients().some(({ name }) => name === client)) return
    const refunded = this.#knownOf(client).account.refund(credits, spentAt)
    this.#knownOf(WHOLE).account.refund(credits, spentAt)
    if (refunded > 0) this.#ports.daySums.put([daySum(spentAt, { client, ...about }, { refunded })])
  }

  readonly correct = async (client: string, spentCredits: number): Promise<Corrected> => {
    const corrected = await this.#knownOf(client).account.correct(() => spentCredits)
    if (!corrected) throw unavailable('away')
    const byCredits = corrected.spentCredits - corrected.beforeCredits
    await this.#knownOf(WHOLE).account.correct((credits) => credits + byCredits)
    const { daySums, session } = this.#ports
    const subject = { client, scraper: 'none', key: 'none' }
    if (byCredits !== 0) daySums.put([daySum(session.wallMs(), subject, { corrected: byCredits })])
    return corrected
  }

  readonly flush = async (): Promise<void> => {
    await Promise.all(this.#payers().map((payer) => this.#beatFor(payer, isLimited(payer))))
  }

  readonly close = async (): Promise<void> => {
    this.#stopListening()
    await Promise.all(Array.from(this.#accounts.values(), ({ account }) => account.close()))
  }

  #openHold(
    id: string,
    { client, scraper }: { readonly client: Client; readonly scraper: string },
    slots: readonly [own: Slot, whole: Slot],
  ): Hold {
    const { tellShares } = this.#standings
    const { whole, daySums } = this.#ports
    let isSettled = false
    return {
      id,
      async secure(credits) {
        // Nobody would ever give back what is set aside now.
        if (isSettled) throw new Error('This hold is settled.')
        const secured = await Promise.allSettled(slots.map((slot) => slot.secure(credits)))
        for (const one of secured) if (one.status === 'rejected') throw one.reason
      },
      spend({ state, credits }, key = 'none') {
        if (state === 'free' || credits === 0) return
        for (const slot of slots) slot.spend(credits)
        const figures = state === 'charged' ? { spent: credits } : { uncertain: credits }
        daySums.put([daySum(Date.parse(slots[0].run.dayId), { client: client.name, scraper, key }, figures)])
        for (const payer of [client, wholeFor(whole(), { mayUseReserve: true })]) tellShares(payer)
      },
      settle() {
        if (!isSettled) for (const slot of slots) slot.settle()
        isSettled = true
      },
    }
  }

  /** Of the client, and of the account as a whole. */
  #slotsOf(client: Client): readonly [own: Slot, whole: Slot] {
    const { name, credits } = client
    const { store, session, whenAway } = this.#ports
    const [known, whole] = [this.#knownOf(name), this.#knownOf(WHOLE)]
    known.usedAtBeat = this.#beats
    if (client.mayUseReserve) whole.reserveUsedAtBeat = this.#beats
    else whole.usedAtBeat = this.#beats
    const tell = (news: Omit<AwayNews, 'client'>): void => this.#ports.tell({ ...news, client: name })
    const ways = { store, session, whenAway, refusal: this.#standings.refusal, standings: this.#standings.of }
    // Told once, of the client, where both have limits.
    const tellOfWhole = isLimited(client) ? () => {} : tell
    return [
      createSlot({ name, credits }, known.account, { ...ways, tell }),
      createSlot(wholeFor(this.#ports.whole(), client), whole.account, { ...ways, tell: tellOfWhole }),
    ]
  }

  // Signs of life

  async #beat(isNew: boolean): Promise<void> {
    this.#beats += 1
    const isDue = isNew || this.#beats % BEATS === 0
    await Promise.all(this.#payers().map((payer) => this.#beatFor(payer, isDue)))
  }

  #payers(): readonly Payer[] {
    const { clients, whole } = this.#ports
    return [...clients().map(({ name, credits }) => ({ name, credits })), wholeFor(whole(), {})]
  }

  async #beatFor(payer: Payer, isDue: boolean): Promise<void> {
    if (!isLimited(payer) && !this.#accounts.has(payer.name)) return
    const known = this.#knownOf(payer.name)
    const withReserve = payer.name === WHOLE ? wholeFor(this.#ports.whole(), { mayUseReserve: true }) : null
    await this.#setFloat(payer, known, known.usedAtBeat)
    if (withReserve) await this.#setFloat(withReserve, known, known.reserveUsedAtBeat)
    await known.account.tell(isDue)
    this.#standings.tellShares(withReserve ?? payer)
  }

  async #setFloat(payer: Payer, { account }: Known, usedAtBeat: number): Promise<void> {
    const isBusy = this.#beats - usedAtBeat <= BEATS && this.#ports.clock.now() - this.#startedAt > YOUNG_MS
    if (isLimited(payer)) await account.setFloat(account.run(payer.mayUseReserve), isBusy ? this.#floatOf(payer) : 0)
  }

  /** What this replica may spend while the store is away; nothing of the last tenth. */
  #floatOf(payer: Payer): number {
    const standings = this.#standings.of(payer)
    if (standings.some(({ leftCredits, limitCredits }) => leftCredits * LAST_TENTH < limitCredits)) return 0
    const { perDay, perMonth } = payer.credits
    const limit = Math.min(perDay ?? Number.POSITIVE_INFINITY, perMonth ?? Number.POSITIVE_INFINITY)
    return Math.min(MAX_FLOAT, Math.floor(limit / FLOAT_SHARE))
  }

  #knownOf(name: string): Known {
    const found = this.#accounts.get(name)
    if (found) return found
    const { clients, whole } = this.#ports
    const limitsOf: LimitsOfRun = (mayUseReserve) =>
      name === WHOLE
        ? wholeFor(whole(), { mayUseReserve }).credits
        : (clients().find((one) => one.name === name)?.credits ?? null)
    const never = -BEATS - 1
    const account = createSharedAccount(name, limitsOf, this.#ports)
    const made = { account, usedAtBeat: never, reserveUsedAtBeat: never }
    this.#accounts.set(name, made)
    return made
  }
}

export function createSharedBudget(ports: SharedBudgetPorts): SharedBudgets {
  return new SharedBudget(ports)
}

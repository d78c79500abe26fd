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
import { type AwayNews, createSlot, type Slot, unavailable } from './shared-slot.ts'
import { createStandings, isLimited, type Payer, wholeFor } from './shared-standing.ts'

export interface SharedBudgetPorts extends AccountPorts {
  /** Those of the settings in force. */
  readonly clients: () => readonly Client[]
  /** Of the account as a whole; null = no limits. */
  readonly whole: () => AccountLimits | null
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

export function createSharedBudget(ports: SharedBudgetPorts): SharedBudgets {
  const { clock, random, session, clients, store } = ports
  const accounts = new Map<string, Known>()
  const startedAt = clock.now()
  const standings = createStandings(ports, (name) => accounts.get(name)?.account ?? null)
  let beats = 0
  const stopListening = session.onBeat((isNew) => void beat(isNew))
  void flush()

  const { hasRoom, limits, states, spending, tellShares } = standings

  return { hold, none, adopt, refund, hasRoom, limits, states, spending, correct, flush, close }

  async function hold(client: Client, { priceCredits }: Call): Promise<Hold> {
    if (priceCredits === 0) return none
    const slots = slotsOf(client)
    const [own, whole] = slots
    await own.reserve(priceCredits)
    try {
      await whole.reserve(priceCredits)
    } catch (error) {
      own.settle()
      throw error
    }
    return openHold([random.id(), client.name, own.run.name, priceCredits, whole.run.name].join('@'), client, slots)
  }

  /** The call of another replica, paid by this one from now on. */
  function adopt(holdId: string): Hold | null {
    const [, name = '', run = '', credits = '', runOfWhole = ''] = holdId.split('@')
    const client = clients().find((one) => one.name === name)
    if (!client || credits === '') return null
    const own = openHold(holdId, client, slotsOf(client))
    let isPaid = true
    return {
      id: holdId,
      async secure(price) {
        isPaid = false
        await own.secure(price)
      },
      spend(charge) {
        isPaid ||= charge.state !== 'free'
        own.spend(charge)
      },
      settle() {
        own.settle()
        if (!isPaid) return
        isPaid = false
        void knownOf(client.name).account.takeOver(run, Number(credits))
        void knownOf(WHOLE).account.takeOver(runOfWhole, Number(credits))
      },
    }
  }

  function refund(clientName: string, credits: number, spentAt: number): void {
    if (!clients().some(({ name }) => name === clientName)) return
    for (const name of [clientName, WHOLE]) knownOf(name).account.refund(credits, spentAt)
  }

  async function correct(clientName: string, spentCredits: number): Promise<Corrected> {
    const corrected = await knownOf(clientName).account.correct(() => spentCredits)
    if (!corrected) throw unavailable('away')
    await knownOf(WHOLE).account.correct((credits) => credits + corrected.spentCredits - corrected.beforeCredits)
    return corrected
  }

  function openHold(id: string, client: Client, slots: readonly Slot[]): Hold {
    let isSettled = false
    return {
      id,
      async secure(credits) {
        // Nobody would ever give back what is set aside now.
        if (isSettled) throw new Error('This hold is settled.')
        const secured = await Promise.allSettled(slots.map((slot) => slot.secure(credits)))
        for (const one of secured) if (one.status === 'rejected') throw one.reason
      },
      spend({ state, credits }) {
        if (state === 'free') return
        for (const slot of slots) slot.spend(credits)
        for (const payer of [client, wholeFor(ports.whole(), { mayUseReserve: true })]) tellShares(payer)
      },
      settle() {
        if (!isSettled) for (const slot of slots) slot.settle()
        isSettled = true
      },
    }
  }

  /** Of the client, and of the account as a whole. */
  function slotsOf(client: Client): readonly [own: Slot, whole: Slot] {
    const { name, credits } = client
    const [known, whole] = [knownOf(name), knownOf(WHOLE)]
    known.usedAtBeat = beats
    if (client.mayUseReserve) whole.reserveUsedAtBeat = beats
    else whole.usedAtBeat = beats
    const tell = (news: Omit<AwayNews, 'client'>): void => ports.tell({ ...news, client: name })
    const ways = { store, session, whenAway: ports.whenAway, refusal: standings.refusal, standings: standings.of }
    return [
      createSlot({ name, credits }, known.account, { ...ways, tell }),
      // Told once, of the client, where both have limits.
      createSlot(wholeFor(ports.whole(), client), whole.account, {
        ...ways,
        tell: isLimited(client) ? () => {} : tell,
      }),
    ]
  }

  // Signs of life

  async function beat(isNew: boolean): Promise<void> {
    beats += 1
    const isDue = isNew || beats % BEATS === 0
    await Promise.all(payers().map((payer) => beatFor(payer, isDue)))
  }

  function payers(): readonly Payer[] {
    return [...clients().map(({ name, credits }) => ({ name, credits })), wholeFor(ports.whole(), {})]
  }

  async function beatFor(payer: Payer, isDue: boolean): Promise<void> {
    if (!isLimited(payer) && !accounts.has(payer.name)) return
    const known = knownOf(payer.name)
    await setFloat(payer, known, known.usedAtBeat)
    if (payer.name === WHOLE) {
      const withReserve = wholeFor(ports.whole(), { mayUseReserve: true })
      await setFloat(withReserve, known, known.reserveUsedAtBeat)
      await known.account.tell(isDue)
      return tellShares(withReserve)
    }
    await known.account.tell(isDue)
    tellShares(payer)
  }

  async function setFloat(payer: Payer, { account }: Known, usedAtBeat: number): Promise<void> {
    const isBusy = beats - usedAtBeat <= BEATS && clock.now() - startedAt > YOUNG_MS
    if (isLimited(payer)) await account.setFloat(account.run(payer.mayUseReserve), isBusy ? floatOf(payer) : 0)
  }

  async function flush(): Promise<void> {
    await Promise.all(payers().map((payer) => beatFor(payer, isLimited(payer))))
  }

  async function close(): Promise<void> {
    stopListening()
    await Promise.all(Array.from(accounts.values(), ({ account }) => account.close()))
  }

  /** What this replica may spend while the store is away; nothing of the last tenth. */
  function floatOf(payer: Payer): number {
    if (standings.of(payer).some(({ leftCredits, limitCredits }) => leftCredits * LAST_TENTH < limitCredits)) return 0
    const { perDay, perMonth } = payer.credits
    const limit = Math.min(perDay ?? Number.POSITIVE_INFINITY, perMonth ?? Number.POSITIVE_INFINITY)
    return Math.min(MAX_FLOAT, Math.floor(limit / FLOAT_SHARE))
  }

  function knownOf(name: string): Known {
    const found = accounts.get(name)
    if (found) return found
    const limitsOf: LimitsOfRun = (mayUseReserve) =>
      name === WHOLE
        ? wholeFor(ports.whole(), { mayUseReserve }).credits
        : (clients().find((one) => one.name === name)?.credits ?? null)
    const never = -BEATS - 1
    const made = {
      account: createSharedAccount(name, limitsOf, ports),
      usedAtBeat: never,
      reserveUsedAtBeat: never,
    }
    accounts.set(name, made)
    return made
  }
}

/**
 * Credits of a client per UTC day and month, counted by all replicas together: set aside before the flight from a slice that this replica
 * has leased, marked in the shared store before each attempt, settled after it.
 *
 * While the store is away nothing more is spent than was marked in advance (`closed`), or this replica counts by itself against what it
 * last knew (`open`: as many times too much as there are replicas). Clients without a limit are only written up.
 *
 * How clients stand is told without asking: what others have spent is at most 15 s old while the store is up.
 */
import type { Call, Client } from '../model.ts'
import type { Hold } from '../fetch-parts.ts'
import type { Budget } from '../parts.ts'
import type { Corrected, Spending } from './budget.ts'
import { createSharedAccount, type SharedAccount } from './shared-account.ts'
import type { AccountPorts } from './shared-book.ts'
import { type AwayNews, createSlot, type Slot, unavailable } from './shared-slot.ts'
import { createStandings, isLimited } from './shared-standing.ts'

export interface SharedBudgetPorts extends AccountPorts {
  /** Those of the settings in force. */
  readonly clients: () => readonly Client[]
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
  /** The beat before which a flight was paid for last. */
  usedAtBeat: number
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
  const { clock, random, session, clients } = ports
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
    const slot = slotOf(client)
    await slot.reserve(priceCredits)
    return openHold(`${random.id()}@${client.name}@${slot.run.name}@${priceCredits}`, client, slot)
  }

  /** The call of another replica, paid by this one from now on. */
  function adopt(holdId: string): Hold | null {
    const [, name = '', run = '', credits = ''] = holdId.split('@')
    const client = clients().find((one) => one.name === name)
    if (!client || credits === '') return null
    const own = openHold(holdId, client, slotOf(client))
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
        if (isPaid) void knownOf(client).account.takeOver(run, Number(credits))
        isPaid = false
      },
    }
  }

  function refund(clientName: string, credits: number, spentAt: number): void {
    const client = clients().find(({ name }) => name === clientName)
    if (client) knownOf(client).account.refund(credits, spentAt)
  }

  async function correct(clientName: string, spentCredits: number): Promise<Corrected> {
    const client = clients().find(({ name }) => name === clientName)
    const corrected = client ? await knownOf(client).account.correct(spentCredits) : null
    if (!corrected) throw unavailable('away')
    return corrected
  }

  function openHold(id: string, client: Client, slot: Slot): Hold {
    let isSettled = false
    return {
      id,
      async secure(credits) {
        // Nobody would ever give back what is set aside now.
        if (isSettled) throw new Error('This hold is settled.')
        await slot.secure(credits)
      },
      spend({ state, credits }) {
        if (state === 'free') return
        slot.spend(credits)
        tellShares(client)
      },
      settle() {
        if (!isSettled) slot.settle()
        isSettled = true
      },
    }
  }

  function slotOf(client: Client): Slot {
    const known = knownOf(client)
    known.usedAtBeat = beats
    return createSlot(client, known.account, { ...ports, refusal: standings.refusal, standings: standings.of })
  }

  // Signs of life

  async function beat(isNew: boolean): Promise<void> {
    beats += 1
    const isDue = isNew || beats % BEATS === 0
    await Promise.all(clients().map((client) => beatFor(client, isDue)))
  }

  async function beatFor(client: Client, isDue: boolean): Promise<void> {
    if (!isLimited(client) && !accounts.has(client.name)) return
    const known = knownOf(client)
    const isBusy = beats - known.usedAtBeat <= BEATS && clock.now() - startedAt > YOUNG_MS
    if (isLimited(client)) await known.account.setFloat(isBusy ? floatOf(client) : 0)
    await known.account.tell(isDue)
    tellShares(client)
  }

  async function flush(): Promise<void> {
    await Promise.all(clients().map((client) => beatFor(client, isLimited(client))))
  }

  async function close(): Promise<void> {
    stopListening()
    await Promise.all(Array.from(accounts.values(), ({ account }) => account.close()))
  }

  /** What this replica may spend while the store is away; nothing of the last tenth. */
  function floatOf(client: Client): number {
    if (standings.of(client).some(({ leftCredits, limitCredits }) => leftCredits * LAST_TENTH < limitCredits)) return 0
    const { perDay, perMonth } = client.credits
    const limit = Math.min(perDay ?? Number.POSITIVE_INFINITY, perMonth ?? Number.POSITIVE_INFINITY)
    return Math.min(MAX_FLOAT, Math.floor(limit / FLOAT_SHARE))
  }

  function knownOf({ name }: Client): Known {
    const found = accounts.get(name)
    if (found) return found
    const credits = () => clients().find((one) => one.name === name)?.credits ?? null
    const made = { account: createSharedAccount(name, credits, ports), usedAtBeat: -BEATS - 1 }
    accounts.set(name, made)
    return made
  }
}

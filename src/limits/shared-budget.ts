/**
 * Credits of a client per UTC day and month, counted by all replicas together, by the clock of the store: set aside before the
 * flight, marked before each attempt, settled after it, one round trip each. left + held + spent = limit after every one.
 *
 * While the store is away nothing more is spent than was leased before (`closed`), or this replica counts by itself against what
 * it last knew (`open`: as many times too much as there are replicas). Clients without a limit are only written up.
 *
 * How things stand is told without asking, as the last reply had it: at most a heartbeat old while the store is up.
 */
import type { Call, Client } from '../model.ts'
import type { Budget, Hold } from '../parts.ts'
import type { Clock, Emit, Random, SharedStore } from '../ports.ts'
import type { Spending } from './budget.ts'
import { createHeartbeat } from './heartbeat.ts'
import { storeAway } from './insurance.ts'
import { dayOf } from './period.ts'
import { freeOf, type Purse, takeFrom, writeUpOn } from './purse.ts'
import { type Became, createSharedAccounts, type SlipChange, slipOf } from './shared-accounts.ts'
import { type Book, emptyBook, giveBack, type OpenSlip, tabIn, tellBook } from './shared-book.ts'
import { createStandings, isLimited } from './shared-standing.ts'

/** Money was asked for while the store is away. */
export interface AwayNews {
  /** From the allowance, counted by this replica alone, or not granted. */
  readonly kind: 'allowance' | 'open' | 'refused'
  readonly client: string
  readonly credits: number
}

export interface SharedBudgetPorts {
  readonly store: SharedStore
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
  /** Those of the settings in force. */
  readonly clients: () => readonly Client[]
  readonly whenAway: () => 'closed' | 'open'
  readonly tell: (news: AwayNews) => void
  /** After so long without a sign of life a hold is given back, or counts as spent where it may have been charged. */
  readonly holdTtlMs?: number
  readonly allowanceTtlMs?: number
  /** So long nothing is granted by a store that has lost its memory. */
  readonly waryMs?: number
}

export interface SharedBudgets extends Budget {
  /** What every client spends now, those without limits too. */
  spending(): readonly Spending[]
  /** Tells the store all that it has not heard. */
  flush(): Promise<void>
  /** Gives back what this replica has leased. Holds that are open still are left to be swept. */
  close(): Promise<void>
}

const HOLD_TTL_MS = 60_000
const ALLOWANCE_TTL_MS = 60 * 60_000
const none: Hold = { id: 'none', secure: async () => {}, spend() {}, settle() {} }

export function createSharedBudget(ports: SharedBudgetPorts): SharedBudgets {
  const { store, clock, random, emit, clients, whenAway, tell } = ports
  const { holdTtlMs = HOLD_TTL_MS, allowanceTtlMs = ALLOWANCE_TTL_MS } = ports
  const beatMs = holdTtlMs / 4
  /** Longer than a replica may be silent before it is taken for dead. */
  const { waryMs = holdTtlMs + beatMs } = ports
  const accounts = createSharedAccounts({ store, clock, random, emit, patienceMs: 2 * beatMs, waryMs, onForgotten })
  const books = new Map<string, Book>()
  const standings = createStandings(accounts, (name) => books.get(name)?.tabs ?? [], clients)
  const heartbeat = createHeartbeat(clock, beatMs, beat)
  const stopListening = store.onState((state) => {
    if (state === 'up') void heartbeat.now()
  })
  void heartbeat.now()

  return {
    hold,
    none,
    adopt,
    refund,
    hasRoom: standings.hasRoom,
    limits: standings.limits,
    states: standings.states,
    spending: standings.spending,
    flush: () => heartbeat.now(),
    close,
  }

  async function hold(client: Client, { priceCredits }: Call): Promise<Hold> {
    if (priceCredits === 0) return none
    const id = `${random.id()}@${client.name}`
    return openHold(id, client, await purseFor(id, client, priceCredits, false))
  }

  /** Whether it is known is found out when it is used; what is not counts as used up. */
  function adopt(holdId: string): Hold | null {
    const name = holdId.slice(holdId.indexOf('@') + 1)
    const client = clients().find((one) => one.name === name)
    if (!client || !holdId.includes('@')) return null
    const purse = isLimited(client) ? sharedPurse(client, slipOf(holdId), true) : purseOnTab(client, 0)
    return openHold(holdId, client, purse)
  }

  /** In the periods it was spent in, told with the next heartbeat at the latest. */
  function refund(clientName: string, credits: number, spentAt: number): void {
    const client = clients().find(({ name }) => name === clientName)
    if (!client) return
    const slip = { ...slipOf(`refund/${random.id()}`), spentCredits: credits }
    bookOf(client).refunds.add({ slip, spentAt })
    void tellAbout(client)
  }

  function openHold(id: string, client: Client, first: Purse): Hold {
    const purses = [first]
    let current = first
    let isSettled = false

    function use(purse: Purse): void {
      current = purse
      purses.push(purse)
    }

    return {
      id,
      async secure(credits) {
        // Nobody would ever give back what is set aside now.
        if (isSettled) throw new Error('This hold is settled.')
        const said = await current.secure(credits)
        if (said === 'away') use(insured(client, credits))
        if (said === 'short') use(await purseFor(`${random.id()}@${client.name}`, client, credits, true))
      },
      spend({ state, credits }) {
        if (state === 'free') return
        current.spend(credits)
        if (isSettled) current.settle()
      },
      settle() {
        if (isSettled) return
        isSettled = true
        for (const purse of purses) purse.settle()
      },
    }
  }

  // Where credits come from

  async function purseFor(id: string, client: Client, credits: number, isSent: boolean): Promise<Purse> {
    if (!isLimited(client)) return purseOnTab(client, credits)
    const slip = slipOf(id)
    const became = await reserve(client, { slip, heldCredits: credits, isSent })
    if (became === 'done') return sharedPurse(client, slip, false)
    // It may have been granted all the same, and is not wanted any more.
    if (became === 'unsure') bookOf(client).ended.add(slip)
    if (became === 'denied') throw standings.exhausted(client, credits)
    return insured(client, credits)
  }

  function sharedPurse(client: Client, slip: OpenSlip['slip'], isAdopted: boolean): Purse {
    const book = bookOf(client)
    const open: OpenSlip = { slip, isChanging: isAdopted }
    let mustAdopt = isAdopted
    book.holds.add(open)

    return {
      async secure(credits) {
        if (mustAdopt) {
          const told = await accounts.change(client, [
            { slip, step: 'adopt', heldCredits: 0, isSent: false, ttlMs: holdTtlMs },
          ])
          if (told.kind === 'away') return 'away'
          mustAdopt = open.isChanging = false
        }
        if (isMarked(credits)) return 'secured'
        open.isChanging = true
        const became = await reserve(client, { slip, heldCredits: Math.max(slip.heldCredits, credits), isSent: true })
        open.isChanging = false
        if (became === 'denied') throw standings.exhausted(client, credits)
        return became === 'done' ? 'secured' : 'away'
      },
      spend(credits) {
        const isTooMuch = credits > slip.heldCredits
        slip.heldCredits = Math.max(0, slip.heldCredits - credits)
        slip.spentCredits += credits
        // It cost more than was set aside for it: a crash must not forget that.
        if (isTooMuch) void tellAbout(client)
      },
      settle() {
        book.holds.delete(open)
        slip.heldCredits = 0
        void end()
      },
    }

    /** If nothing more were heard of this hold, as much would count as spent as this attempt may make it. */
    function isMarked(credits: number): boolean {
      const { told, heldCredits, spentCredits } = slip
      return told?.isSent === true && credits <= heldCredits && spentCredits + credits <= told.totalCredits
    }

    async function end(): Promise<void> {
      const change = { slip, step: 'end', heldCredits: 0, isSent: true, ttlMs: 0 } as const
      const told = await accounts.change(client, [change])
      if (told.kind === 'away') book.ended.add(slip)
    }
  }

  /** Gives the allowance back when there is nothing else left: it is worth as much as any other credits. */
  async function reserve(
    client: Client,
    what: Pick<SlipChange, 'slip' | 'heldCredits' | 'isSent'>,
  ): Promise<Became | 'unsure'> {
    const change = { ...what, step: 'reserve', ttlMs: holdTtlMs } as const
    const first = await accounts.change(client, [change])
    if (first.kind === 'away') return first.sent ? 'unsure' : 'wary'
    const free = bookOf(client).leases.filter((lease) => freeOf(lease) > 0)
    if (first.value[0] !== 'denied' || free.length === 0) return first.value[0] ?? 'wary'
    for (const lease of free) giveBack(lease)
    const returns = free.map(({ slip, inUseCredits }) => {
      return { slip, step: 'lease', heldCredits: inUseCredits, isSent: true, ttlMs: allowanceTtlMs } as const
    })
    const again = await accounts.change(client, [...returns, change])
    if (again.kind === 'away') return again.sent ? 'unsure' : 'wary'
    return again.value.at(-1) ?? 'wary'
  }

  function insured(client: Client, credits: number): Purse {
    if (!isLimited(client)) return purseOnTab(client, credits)
    if (whenAway() === 'open') {
      const purse = purseOnTab(client, credits)
      tell({ kind: 'open', client: client.name, credits })
      return purse
    }
    for (const lease of bookOf(client).leases) {
      const purse = takeFrom(lease, credits)
      if (!purse) continue
      tell({ kind: 'allowance', client: client.name, credits })
      return purse
    }
    tell({ kind: 'refused', client: client.name, credits })
    throw storeAway()
  }

  function purseOnTab(client: Client, credits: number): Purse {
    return writeUpOn(
      () => tabIn(bookOf(client), dayOf(accounts.wallMs(client.name)).id, random),
      credits,
      (more) => {
        if (standings.refuses(client, more)) throw standings.exhausted(client, more)
      },
    )
  }

  // What the store is told

  async function beat(): Promise<void> {
    for (const client of clients()) if (isWorthTelling(client)) await tellAbout(client)
  }

  function isWorthTelling(client: Client): boolean {
    return store.state === 'up' && (isLimited(client) || books.has(client.name))
  }

  async function tellAbout(client: Client, isLast = false): Promise<void> {
    await tellBook({ accounts, random, holdTtlMs, allowanceTtlMs }, client, bookOf(client), isLast)
  }

  function onForgotten(clientName: string): void {
    const client = clients().find(({ name }) => name === clientName)
    if (client) void tellAbout(client)
  }

  async function close(): Promise<void> {
    stopListening()
    heartbeat.stop()
    await heartbeat.now()
    for (const client of clients()) if (isWorthTelling(client)) await tellAbout(client, true)
  }

  function bookOf({ name }: Client): Book {
    const known = books.get(name)
    if (known) return known
    const made = emptyBook()
    books.set(name, made)
    return made
  }
}

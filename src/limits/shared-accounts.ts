/**
 * What the clients of this replica have in the shared store: its records there, as they are to be, and the totals of all replicas
 * as the last reply told them. All changes of a client go through one script, and with each the replica says what it knows, so
 * that a store which has lost its memory is told it again. Knows nothing of holds; who owns a record says how it is to be.
 */
import type { Client } from '../model.ts'
import type { Clock, Emit, Random, Shared, SharedStore } from '../ports.ts'
import { isCredits, limitOf, TOLD_AT, usedUpAtThisPace } from './accounts.ts'
import { dayOf, monthOf, type Period, periodNamed } from './period.ts'
import { Change, creditsScript, tagged } from './scripts.ts'

/** One record in the store, as its owner knows it. */
export interface Slip {
  readonly id: string
  spentCredits: number
  heldCredits: number
  /** What is held in it may have been charged: if nothing more is heard of it, it counts as spent. */
  isSent: boolean
  /** What is known to be in the store; null = nothing yet. */
  told: Told | null
  turns: number
}

interface Told {
  readonly spentCredits: number
  readonly totalCredits: number
  readonly isSent: boolean
  readonly epoch: string
}

export interface SlipChange {
  readonly slip: Slip
  readonly step: 'reserve' | 'lease' | 'keep' | 'tab' | 'end' | 'adopt' | 'refund'
  readonly heldCredits: number
  readonly isSent: boolean
  readonly ttlMs: number
}

/** `wary`: the store has lost its memory, and waits for all replicas to tell what they know. `gone`: swept, as what it was. */
export type Became = 'done' | 'denied' | 'wary' | 'gone'

export interface Totals {
  readonly period: Period
  readonly spentCredits: number
  readonly heldCredits: number
  /** What was spent, by epochs of the store, in its own words: for its next one, should it forget them. */
  readonly shares: string
}

/** What the last reply told. It is as old as that: others may have spent since. */
export interface Known {
  readonly epoch: string
  readonly runs: number
  /** How far the clock of the store is ahead of ours. */
  readonly skewMs: number
  readonly day: Totals
  readonly month: Totals
}

export interface SharedAccounts {
  /** All or nothing reaches the store, but each change has an outcome of its own. */
  change(client: Client, changes: readonly SlipChange[]): Promise<Shared<readonly Became[]>>
  /** Null = the store has told nothing of this client yet. Periods that are over since are shown as unused. */
  known(clientName: string): Known | null
  /** By the clock of the store, as far as it is known. */
  wallMs(clientName: string): number
}

interface AccountsPorts {
  readonly store: SharedStore
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
  /** After a silence of so long nobody's records are swept, for as long again. */
  readonly patienceMs: number
  readonly waryMs: number
  /** The store has lost its memory: what this replica has there is to be told again. */
  readonly onForgotten: (clientName: string) => void
}

const HEAD = 15
const FIELDS = 3
/** A script holds up everybody else: a longer list goes in pieces. */
const MAX_CHANGES = 200
const unused = { spentCredits: 0, heldCredits: 0, shares: '' }
const becameOf: ReadonlyMap<unknown, Became> = new Map([
  [Change.done, 'done'],
  [Change.denied, 'denied'],
  [Change.wary, 'wary'],
  [Change.gone, 'gone'],
])

export function slipOf(id: string): Slip {
  return { id, spentCredits: 0, heldCredits: 0, isSent: false, told: null, turns: 0 }
}

export function createSharedAccounts(ports: AccountsPorts): SharedAccounts {
  const { store, clock, random, emit, patienceMs, waryMs, onForgotten } = ports
  const knowledge = new Map<string, Known>()

  return { change, known, wallMs }

  async function change(client: Client, changes: readonly SlipChange[]): Promise<Shared<readonly Became[]>> {
    const became: Became[] = []
    for (let from = 0; from === 0 || from < changes.length; from += MAX_CHANGES) {
      const told = await send(client, changes.slice(from, from + MAX_CHANGES))
      if (told.kind === 'away') return told
      became.push(...told.value)
    }
    return { kind: 'known', value: became }
  }

  async function send(client: Client, changes: readonly SlipChange[]): Promise<Shared<readonly Became[]>> {
    const { name, credits } = client
    const before = knowledge.get(name)
    const asTold = changes.map((one) => ({ ...one, spentCredits: one.slip.spentCredits, before: one.slip.heldCredits }))
    const keys = ['totals', 'records', 'due'].map((kind) => tagged(`credits:${kind}`, name))
    const reply = await store.run(creditsScript, keys, [
      credits.perDay ?? -1,
      limitOf(credits, monthOf(wallMs(name)), wallMs(name)) ?? -1,
      before?.epoch ?? '',
      before?.runs ?? 0,
      random.id(),
      before?.day.period.id ?? '',
      before?.day.shares ?? '',
      before?.month.period.id ?? '',
      before?.month.shares ?? '',
      patienceMs,
      waryMs,
      ...asTold.flatMap(argumentsOf),
    ])
    if (reply.kind === 'away') return reply
    const read = readReply(reply.value, clock.wall(), changes.length)
    if (!read) return { kind: 'away', sent: true }
    learn(client, read.known)
    if (read.sweptCredits > 0) emit({ kind: 'holds-swept', holds: read.sweptHolds, credits: read.sweptCredits })
    const became = asTold.map((one, index) => settle(one, read.outcomes[index] ?? nothing, read.known.epoch))
    if (before && before.epoch !== read.known.epoch) onForgotten(name)
    return { kind: 'known', value: became }
  }

  function learn(client: Client, now: Known): void {
    const before = knowledge.get(client.name)
    // Replies come in the order of their runs, unless a connection broke meanwhile.
    if (before && before.epoch === now.epoch && before.runs >= now.runs) return
    knowledge.set(client.name, now)
    tell(client, before?.day, now.day)
    tell(client, before?.month, now.month)
  }

  /** Once per replica, period and share. */
  function tell({ name, credits }: Client, before: Totals | undefined, { period, spentCredits }: Totals): void {
    const limitCredits = limitOf(credits, period, wallMs(name))
    if (limitCredits === null || limitCredits === 0) return
    const spentBefore = before?.period.id === period.id ? before.spentCredits : 0
    for (const percent of TOLD_AT) {
      const reached = percent * limitCredits
      if (spentBefore * 100 >= reached || spentCredits * 100 < reached) continue
      const usedUpAt = usedUpAtThisPace({ period, spentCredits }, limitCredits, wallMs(name))
      emit({ kind: 'budget-used', client: name, period, percent, spentCredits, limitCredits, usedUpAt })
    }
  }

  function known(clientName: string): Known | null {
    const found = knowledge.get(clientName)
    if (!found) return null
    const wall = clock.wall() + found.skewMs
    return { ...found, day: current(found.day, wall), month: current(found.month, wall) }
  }

  function wallMs(clientName: string): number {
    return clock.wall() + (knowledge.get(clientName)?.skewMs ?? 0)
  }
}

type AsTold = SlipChange & { readonly spentCredits: number; readonly before: number }

function argumentsOf({ slip, step, isSent, spentCredits, heldCredits, ttlMs }: AsTold): readonly (string | number)[] {
  slip.turns += 1
  const { told } = slip
  const toldOf = told ?? { spentCredits: 0, totalCredits: 0, isSent: false, epoch: '' }
  return [slip.id, step, flag(isSent), spentCredits, heldCredits].concat(
    [toldOf.spentCredits, toldOf.totalCredits, flag(toldOf.isSent), toldOf.epoch],
    [slip.turns, ttlMs],
  )
}

function flag(isSo: boolean): number {
  return isSo ? 1 : 0
}

interface ChangeOutcome {
  readonly became: Became
  readonly heldCredits: number
  readonly spentCredits: number
}

const nothing: ChangeOutcome = { became: 'denied', heldCredits: 0, spentCredits: 0 }

/** What a change that reached the store makes of the slip. Meanwhile credits may have been taken from it: only what is new is added. */
function settle({ slip, step, isSent, heldCredits, before }: AsTold, outcome: ChangeOutcome, epoch: string): Became {
  const { became } = outcome
  if (became === 'gone' || step === 'refund') return became
  if (step === 'adopt') {
    slip.heldCredits = outcome.heldCredits
    slip.spentCredits = outcome.spentCredits
  } else if (step === 'lease') slip.heldCredits += outcome.heldCredits - before
  else if (became === 'done') {
    slip.heldCredits += heldCredits - before
    slip.isSent ||= isSent
  }
  // A refusal changes nothing; where there was nothing, there is nothing now.
  if (became === 'done' || slip.told || outcome.heldCredits > 0) {
    const { spentCredits } = outcome
    slip.told = { spentCredits, totalCredits: spentCredits + outcome.heldCredits, isSent: slip.isSent, epoch }
  }
  return became
}

interface Reading {
  readonly known: Known
  readonly sweptHolds: number
  readonly sweptCredits: number
  readonly outcomes: readonly ChangeOutcome[]
}

/** Null = not a reply of the script. */
function readReply(value: unknown, wallMs: number, changes: number): Reading | null {
  if (!Array.isArray(value) || value.length !== HEAD + FIELDS * changes) return null
  const [epoch, runs, now, dayId, , , , monthId] = value
  const [day, month] = [periodNamed(String(dayId)), periodNamed(String(monthId))]
  if (typeof epoch !== 'string' || !day || !month || !value.slice(1, 3).every(isCredits)) return null
  const outcomes = Array.from({ length: changes }, (_, index) => {
    const [became, heldCredits, spentCredits] = value.slice(HEAD + index * FIELDS)
    return {
      became: becameOf.get(became) ?? 'denied',
      heldCredits: Number(heldCredits),
      spentCredits: Number(spentCredits),
    }
  })
  return {
    known: {
      epoch,
      runs: Number(runs),
      skewMs: Number(now) - wallMs,
      day: totalsOf(day, value.slice(4, 7), value[13]),
      month: totalsOf(month, value.slice(8, 11), value[14]),
    },
    sweptHolds: Number(value[11]),
    sweptCredits: Number(value[12]),
    outcomes,
  }
}

function totalsOf(period: Period, numbers: readonly unknown[], shares: unknown): Totals {
  const [chargedCredits = 0, refundedCredits = 0, heldCredits = 0] = numbers.map(Number)
  const spentCredits = chargedCredits - refundedCredits
  return { period, spentCredits, heldCredits, shares: String(shares) }
}

function current(totals: Totals, wallMs: number): Totals {
  if (wallMs < totals.period.resetAt) return totals
  const period = periodAt(totals.period.kind, wallMs)
  return { period, ...unused }
}

function periodAt(kind: Period['kind'], wallMs: number): Period {
  return kind === 'day' ? dayOf(wallMs) : monthOf(wallMs)
}

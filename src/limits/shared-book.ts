/**
 * What this replica has to tell the store about one client: its open holds, those that have ended, its allowance and its tabs.
 * Told with every heartbeat, after an outage, and when the store has lost its memory; said as it is, so that telling it twice
 * does no harm. The allowance is renewed on the way, and given back when the client's credits run low.
 */
import type { Client } from '../model.ts'
import type { Random, Shared } from '../ports.ts'
import { allowanceOf } from './insurance.ts'
import { freeOf, type Lease, leaseOf, type Tab, tabOf, untold } from './purse.ts'
import type { Became, Known, SharedAccounts, Slip, SlipChange } from './shared-accounts.ts'

export interface Book {
  readonly holds: Set<OpenSlip>
  /** Settled here; the store may not have heard it. */
  readonly ended: Set<Slip>
  /** The last is in use. */
  leases: Lease[]
  tabs: Tab[]
  readonly refunds: Set<Refund>
}

/** What the store has not heard of. */
export interface Refund {
  readonly slip: Slip
  readonly spentAt: number
}

export interface OpenSlip {
  readonly slip: Slip
  /** It is being changed: what it will be is not known yet. */
  isChanging: boolean
}

export interface BookPorts {
  readonly accounts: SharedAccounts
  readonly random: Random
  readonly holdTtlMs: number
  readonly allowanceTtlMs: number
}

/** A lower left than this and allowances go back. */
const LAST_TENTH = 10
const REFUND_TTL_MS = 24 * 60 * 60_000

export function emptyBook(): Book {
  return { holds: new Set(), ended: new Set(), leases: [], tabs: [], refunds: new Set() }
}

/** Where what needs no asking is written up today. */
export function tabIn(book: Book, dayId: string, random: Random): Tab {
  const last = book.tabs.at(-1)
  if (last?.dayId === dayId) return last
  const made = tabOf(`tab/${random.id()}`, dayId)
  book.tabs.push(made)
  return made
}

/** `isLast`: this replica stops, and keeps nothing. */
export async function tellBook(
  { accounts, random, holdTtlMs, allowanceTtlMs }: BookPorts,
  client: Client,
  book: Book,
  isLast: boolean,
): Promise<Shared<null>> {
  const credits = isLast ? 0 : wanted(client, accounts.known(client.name))
  review(book, client, credits, isLast, accounts, random)
  const ended = [...book.ended]
  const overs = book.leases.filter(isOver)
  const leases = book.leases.filter((lease) => !isOver(lease))
  const refunds = [...book.refunds]
  const changes: readonly SlipChange[] = [
    ...refunds.map(refundOf),
    ...[...ended, ...overs.map(({ slip }) => slip)].map(endOf),
    ...Array.from(book.holds).flatMap((hold) => (hold.isChanging ? [] : [keptOf(hold, holdTtlMs)])),
    ...book.tabs.map(
      ({ slip }) => ({ slip, step: 'tab', heldCredits: 0, isSent: true, ttlMs: allowanceTtlMs }) as const,
    ),
    ...leases.map((lease) => renewalOf(lease, credits, allowanceTtlMs)),
  ]
  const told = await accounts.change(client, changes)
  if (told.kind === 'away') return told

  for (const slip of ended) book.ended.delete(slip)
  for (const refund of refunds) book.refunds.delete(refund)
  for (const [index, lease] of leases.entries()) {
    learn(lease, told.value[changes.length - leases.length + index] ?? 'gone', accounts.known(client.name))
  }
  book.leases = book.leases.filter((lease) => !overs.includes(lease))
  book.tabs = book.tabs.filter((tab) => tab === book.tabs.at(-1) || tab.heldCredits > 0 || untold(tab) > 0)
  return { kind: 'known', value: null }
}

/** Stops using an allowance of another day, begins one where there is none, and gives back what is too much. */
function review(
  book: Book,
  client: Client,
  credits: number,
  isLast: boolean,
  accounts: SharedAccounts,
  random: Random,
): void {
  const dayId = accounts.known(client.name)?.day.period.id ?? null
  for (const lease of book.leases) {
    const isOfAnotherDay = lease.dayId !== null && lease.dayId !== dayId
    if (isLast || isOfAnotherDay) retire(lease)
    const { slip, inUseCredits } = lease
    slip.heldCredits = Math.min(slip.heldCredits, inUseCredits + credits)
  }
  const isCovered = book.leases.some(({ isRetired }) => !isRetired)
  if (!isCovered && credits > 0) book.leases.push(leaseOf(`lease/${random.id()}`))
}

/** What is free goes back at once, so that nobody takes it while it is being given back. */
export function retire(lease: Lease): void {
  lease.isRetired = true
  giveBack(lease)
}

export function giveBack(lease: Lease): void {
  lease.slip.heldCredits = lease.inUseCredits
}

function learn(lease: Lease, became: Became, known: Known | null): void {
  // Swept: all that was in it counts as spent, and none of it may be used any more.
  if (became === 'gone') retire(lease)
  else if (lease.slip.told) lease.dayId ??= known?.day.period.id ?? null
}

/** What this replica would like to have at hand. */
function wanted({ credits }: Client, known: Known | null): number {
  if (credits.perDay === null && credits.perMonth === null) return 0
  const isLow =
    known !== null &&
    [[credits.perDay, known.day] as const, [credits.perMonth, known.month] as const].some(
      ([limit, { heldCredits, spentCredits }]) => {
        return limit !== null && (limit - heldCredits - spentCredits) * LAST_TENTH < limit
      },
    )
  return isLow ? 0 : allowanceOf(credits)
}

function isOver(lease: Lease): boolean {
  return lease.isRetired && lease.inUseCredits === 0 && freeOf(lease) === 0
}

function endOf(slip: Slip): SlipChange {
  return { slip, step: 'end', heldCredits: 0, isSent: true, ttlMs: 0 }
}

function keptOf({ slip }: OpenSlip, ttlMs: number): SlipChange {
  return { slip, step: 'keep', heldCredits: slip.heldCredits, isSent: slip.isSent, ttlMs }
}

function renewalOf({ slip, inUseCredits, isRetired }: Lease, credits: number, ttlMs: number): SlipChange {
  return { slip, step: 'lease', heldCredits: inUseCredits + (isRetired ? 0 : credits), isSent: true, ttlMs }
}

/** The time takes the place of what is held. Long remembered: what comes twice must count once. */
function refundOf({ slip, spentAt }: Refund): SlipChange {
  return { slip, step: 'refund', heldCredits: spentAt, isSent: false, ttlMs: REFUND_TTL_MS }
}

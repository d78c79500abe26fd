/**
 * One replica's part in the credits of one client on one day, as counters that only grow, and the reply of the store to them (pure). Who
 * merges records takes the maximum of each counter (see `credits.lua`).
 */
import { isCredits } from './accounts.ts'

/** Taken, taken back, spent, marked, cleared, refunded: all grow only. */
export type Counters = [taken: number, back: number, spent: number, marked: number, cleared: number, refunded: number]

/** This replica on one UTC day. */
export interface Run {
  readonly dayId: string
  readonly name: string
  /** It pays for those who may use the reserve, and has slices of its own for them. */
  readonly usesReserve: boolean
  readonly own: Counters
  /** As the last reply had it. */
  heard: Readonly<Counters>
  /** Set aside for open holds, and the part of it that is marked. */
  heldCredits: number
  markedCredits: number
  /** Spent by this run, and paid by another one. */
  movedCredits: number
  /** Marked in advance, for use while the store is away. */
  floatCredits: number
  /** For an answer of the store. */
  readonly waiting: Waiting[]
}

export interface Waiting {
  readonly credits: number
  readonly isMark: boolean
  readonly resolve: (asked: Asked) => void
}

/** `exhausted`: not so much is left. `recovering`: the store may have lost data, and not all have told yet what they know. */
export type Asked = 'done' | 'exhausted' | 'recovering' | 'away'

export interface Used {
  readonly spentCredits: number
  /** Set aside for flights under way, by all replicas, as far as it is known. */
  readonly heldCredits: number
}

export interface Totals {
  readonly dayId: string
  /** Used, at risk, spent: of the day, and of the month. */
  readonly day: readonly [number, number, number]
  readonly month: readonly [number, number, number]
}

const HEAD = 12
export const unused = [0, 0, 0] as const

/** What of the slice can be set aside. */
export function freeOf(run: Run): number {
  return run.markedCredits - run.heldCredits - shortOf(run)
}

/** So much more is spent or marked than the slice has. */
export function shortOf({ own, movedCredits }: Run): number {
  return riskOf(own) + movedCredits - own[0] + own[1]
}

export function releaseFloat(run: Run, credits: number): void {
  run.floatCredits -= credits
  run.own[4] += credits
}

export function riskOf([, , spent, marked, cleared]: Readonly<Counters>): number {
  return Math.max(spent, marked - cleared)
}

export function isDirty({ own, heard }: Run): boolean {
  return own.some((count, at) => count > (heard[at] ?? 0))
}

export interface Reply {
  readonly line: string
  readonly isSettled: boolean
  readonly marked: number
  readonly lostRuns: number
  readonly lostCredits: number
  readonly record: Readonly<Counters>
  readonly totals: Omit<Totals, 'dayId'>
  readonly book: readonly (readonly [run: string, record: string])[]
}

/** Null = not a reply of the script. */
export function readReply(value: unknown): Reply | null {
  if (!Array.isArray(value) || value.length < HEAD) return null
  const [line, settled, marked, lostRuns, lostCredits, record, ...rest] = value as readonly unknown[]
  const [used = 0, monthUsed = 0, risk = 0, monthRisk = 0, spent = 0, monthSpent = 0] = rest.map(Number)
  if (typeof line !== 'string' || !isCredits(marked) || typeof record !== 'string') return null
  const flat = rest.slice(6).map(String)
  return {
    line,
    isSettled: settled === 1,
    marked,
    lostRuns: Number(lostRuns),
    lostCredits: Number(lostCredits),
    record: countersOf(record),
    totals: { day: [used, risk, spent], month: [monthUsed, monthRisk, monthSpent] },
    book: flat.flatMap((run, at) => (at % 2 === 0 && run[10] === '/' ? [[run, flat[at + 1] ?? ''] as const] : [])),
  }
}

export function countersOf(text: string): Readonly<Counters> {
  const [taken = 0, back = 0, spent = 0, marked = 0, cleared = 0, refunded = 0] = text.split(' ').map(Number)
  return [taken, back, spent, marked, cleared, refunded]
}

export function textOf(counters: Readonly<Counters>): string {
  return counters.join(' ')
}

export function nameOfRun(dayId: string, sessionId: string, usesReserve: boolean): string {
  return `${dayId}/${sessionId}${usesReserve ? '+' : ''}`
}

export function sessionOf(run: string): string {
  return run.slice(11).replace(/\+$/, '')
}

export function emptyRun(dayId: string, name: string, usesReserve: boolean): Run {
  return {
    dayId,
    name,
    usesReserve,
    own: [0, 0, 0, 0, 0, 0],
    heard: [0, 0, 0, 0, 0, 0],
    heldCredits: 0,
    markedCredits: 0,
    movedCredits: 0,
    floatCredits: 0,
    waiting: [],
  }
}

/** As of the last reply, and what this replica has spent and set aside since. */
export function usedIn(period: 'day' | 'month', today: string, totals: Totals, runs: Iterable<Run>): Used {
  const isOf = (dayId: string): boolean =>
    period === 'day' ? dayId === today : dayId.slice(0, 7) === today.slice(0, 7)
  let [, atRisk, spentCredits] = isOf(totals.dayId) ? totals[period] : unused
  for (const { dayId, own, heard, heldCredits, markedCredits } of runs) {
    if (!isOf(dayId)) continue
    const refunded = own[5] - heard[5]
    atRisk += riskOf(own) - riskOf(heard) - refunded + heldCredits - markedCredits
    spentCredits += own[2] - heard[2] - refunded
  }
  return { spentCredits, heldCredits: Math.max(0, atRisk - spentCredits) }
}

/** In the order of days. */
export function spentByDay(records: ReadonlyMap<string, string>): ReadonlyMap<string, number> {
  const days = new Map<string, number>()
  for (const name of [...records.keys()].toSorted()) {
    const [, , spent, , , refunded] = countersOf(records.get(name) ?? '')
    days.set(name.slice(0, 10), (days.get(name.slice(0, 10)) ?? 0) + spent - refunded)
  }
  return days
}

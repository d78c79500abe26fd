/**
 * The credits of one client in the shared store, as this replica has them: slices that it has leased, what it has spent of them, and what
 * it knows of the others. The records are merged by the maximum of counters that only grow (see `credits.lua`), so what is told late, twice,
 * or again after the store has lost it, is counted once.
 *
 * A slice may be taken back by whoever is short of credits, as far as it is not marked: so before each attempt its price is marked as
 * "may be charged", and the reply says whether it is still there. What may be spent while the store is away is marked in advance: the float.
 */
import { luaScript } from '../lua.ts'
import type { CreditLimits } from '../model.ts'
import type { Clock, Emit, Random, SharedStore } from '../ports.ts'
import type { Session } from '../session.ts'
import { limitOf } from './accounts.ts'
import { dayOf, monthOf } from './period.ts'
import {
  type Counters,
  countersOf,
  emptyRun,
  nameOfRun,
  sessionOf,
  isDirty,
  readReply,
  releaseFloat,
  type Reply,
  riskOf,
  spentByDay,
  type Run,
  textOf,
  unused,
  type Used,
  usedIn,
  type Totals,
} from './shared-run.ts'
import { keyOf } from './shares.ts'

export interface SharedBook {
  /** Of today. */
  run(usesReserve?: boolean, dayId?: string): Run
  /** One command; null = the store is away, and may have heard it all the same. */
  send(run: Run, telling: Telling): Promise<Reply | null>
  /** Resolves to true when a store that lost data has just been told again what is known here. */
  restored(): Promise<boolean>
  /** A sign of life: tells what the store does not know. `isUrgent`: whether there is anything or not. */
  tell(isUrgent: boolean): Promise<void>
  /** Soon, in one command with what else happens meanwhile. */
  tellSoon(isAtOnce?: boolean): void
  /** Says that what was marked for a hold of another replica is paid by this one. */
  takeOver(run: string, credits: number): Promise<void>
  /** Says how much that was in the end. */
  refund(credits: number, spentAt: number): number
  used(period: 'day' | 'month'): Used
  /** Of this month, in the order of days, as the store had it last. */
  spentByDay(): ReadonlyMap<string, number>
  close(): Promise<void>
}

export interface AccountPorts {
  readonly store: Pick<SharedStore, 'run' | 'state'>
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
  readonly session: Session
}

export interface Telling {
  readonly marks?: number
  readonly need?: number
  /** On which line everything else has been told. */
  readonly line?: string
  readonly wantsBook?: boolean
  readonly gone?: readonly string[]
  readonly others?: readonly (readonly [run: string, record: string])[]
}

const script = luaScript('credits.lua', import.meta.url, 2)
const SOON_MS = 1_000
/** A script holds up everybody else: a longer list goes in pieces. */
const MAX_RUNS = 200

/** Those of the settings in force; null = the client is not in them. */
export type LimitsOfRun = (usesReserve: boolean) => CreditLimits | null

export function createSharedBook(name: string, limits: LimitsOfRun, ports: AccountPorts): SharedBook {
  const { store, clock, random, emit, session } = ports
  const runs = new Map<string, Run>()
  /** The records of all runs of this month, as far as they were seen: for a store that has lost them. */
  let book = { monthId: '', records: new Map<string, string>() }
  let line = ''
  let totals: Totals = { dayId: '', day: unused, month: unused }
  let restoring: Promise<void> | null = null
  let soon: { cancel(): void } | null = null
  const used = (period: 'day' | 'month'): Used => usedIn(period, run().dayId, totals, runs.values())

  return {
    run,
    send,
    restored,
    tell,
    tellSoon,
    takeOver,
    refund,
    used,
    spentByDay: () => spentByDay(book.records),
    close,
  }

  function run(usesReserve = false, dayId = dayOf(session.wallMs()).id): Run {
    const runName = nameOfRun(dayId, session.id, usesReserve)
    const known = runs.get(runName)
    if (known) return known
    const made = emptyRun(dayId, runName, usesReserve)
    runs.set(runName, made)
    return made
  }

  async function tell(isUrgent: boolean): Promise<void> {
    const today = run()
    for (const [runName, other] of runs) {
      if (other === today) continue
      if (other.dayId !== today.dayId) releaseFloat(other, other.floatCredits)
      if (isDirty(other)) await send(other, {})
      // As long as something may be given back for it, its counters must go on growing.
      if (other.heldCredits === 0 && !isDirty(other) && !isOfMonth(other.dayId)) runs.delete(runName)
    }
    const gone = Array.from(book.records.keys()).filter(isLeftOpen).slice(0, MAX_RUNS)
    if (isUrgent || gone.length > 0 || isDirty(today)) await send(today, { wantsBook: true, gone })
    await restoring
  }

  function isLeftOpen(name: string): boolean {
    const counters = countersOf(book.records.get(name) ?? '')
    const isOpen = Math.max(counters[0] - counters[1], riskOf(counters)) > counters[2]
    return isOpen && sessionOf(name) !== session.id && session.fateOf(sessionOf(name)) !== 'alive'
  }

  async function restored(): Promise<boolean> {
    const isAnew = restoring !== null
    await restoring
    return isAnew
  }

  function tellSoon(isAtOnce = false): void {
    if (isAtOnce) soon?.cancel()
    if (!isAtOnce && soon) return
    soon = clock.after(isAtOnce ? 0 : SOON_MS, () => {
      soon = null
      for (const one of runs.values()) if (isDirty(one)) void send(one, {})
    })
  }

  async function takeOver(name: string, credits: number): Promise<void> {
    const today = run()
    await send(today, { wantsBook: true })
    const record = book.records.get(name)
    if (record === undefined) return
    const counters: Counters = [...countersOf(record)]
    const isAtRisk = riskOf(counters) - counters[2] >= credits
    // Once its replica is gone, what was marked counts as spent.
    counters[isAtRisk ? 4 : 5] += credits
    const others = [[name, textOf(counters)]] as const
    await send(today, { wantsBook: true, others })
  }

  /** For a month that is over nobody minds. */
  function refund(credits: number, spentAt: number): number {
    const of = run(false, dayOf(spentAt).id)
    const refunded = isOfMonth(of.dayId) ? Math.min(credits, used('month').spentCredits) : 0
    of.own[5] += refunded
    tellSoon(true)
    return refunded
  }

  /** Null = the store is away; it may have heard it all the same. */
  async function send(of: Run, telling: Telling): Promise<Reply | null> {
    const credits = limits(of.usesReserve) ?? { perDay: null, perMonth: null }
    const month = monthOf(Date.parse(of.dayId))
    const keys = [keyOf('credits', name), keyOf(`credits:${month.id}`, name)]
    const limitOfMonth = limitOf(credits, month, session.wallMs())
    const [knownLine, newLine] = [telling.line ?? line, random.id()]
    const head = [session.id, knownLine, newLine, credits.perDay ?? -1, limitOfMonth ?? -1]
    const reply = await store.run(script, keys, [...head, ...argumentsOf(of, telling, session)])
    const read = reply.kind === 'known' ? readReply(reply.value) : null
    if (!read) return null
    learn(of, month.id, read)
    if (read.lostRuns > 0) emit({ kind: 'holds-swept', holds: read.lostRuns, credits: read.lostCredits })
    if (line === '') line = read.line
    else if (read.line !== line && telling.line === undefined)
      restoring ??= restore(read.line).finally(() => (restoring = null))
    return read
  }

  function learn(of: Run, monthId: string, { record, totals: told, book: copy }: Reply): void {
    of.heard = record
    of.own[0] = Math.max(of.own[0], record[0])
    of.own[1] = Math.max(of.own[1], record[1])
    of.movedCredits = Math.max(0, record[5] - of.own[5])
    const today = run()
    if (!isOfMonth(of.dayId)) return
    if (book.monthId !== monthId) book = { monthId, records: new Map() }
    for (const [name, record] of copy) book.records.set(name, record)
    const known = totals.dayId === today.dayId ? totals.day : unused
    totals = { dayId: today.dayId, day: of.dayId === today.dayId ? told.day : known, month: told.month }
  }

  /** The store may have lost data: it is told all that is known here, what others have said before among it. */
  async function restore(newLine: string): Promise<void> {
    for (const old of runs.values()) if (old !== run() && !(await send(old, { line }))) return
    const own = new Set(Array.from(runs.values(), ({ name }) => name))
    const known = [...book.records].filter(([name]) => !own.has(name))
    for (let from = 0; from === 0 || from < known.length; from += MAX_RUNS) {
      const isLast = from + MAX_RUNS >= known.length
      const others = known.slice(from, from + MAX_RUNS)
      const told = await send(run(), { line: isLast ? newLine : line, others, wantsBook: isLast })
      if (told?.line !== newLine) return
    }
    line = newLine
  }

  function isOfMonth(dayId: string): boolean {
    return dayId.slice(0, 7) === run().dayId.slice(0, 7)
  }

  async function close(): Promise<void> {
    soon?.cancel()
    for (const one of runs.values()) {
      releaseFloat(one, one.floatCredits)
      if (isDirty(one)) await send(one, {})
    }
  }
}

function argumentsOf(of: Run, telling: Telling, session: Session): readonly (string | number)[] {
  const { marks = 0, need = 0, wantsBook = false, gone = [], others = [] } = telling
  const alive = session.others()
  return [
    marks,
    need,
    session.size(),
    Number(alive !== null),
    of.heard[0],
    Number(wantsBook),
    alive?.length ?? 0,
    ...(alive ?? []),
    gone.length,
    ...gone,
    of.name,
    textOf(of.own),
    ...others.flat(),
  ]
}

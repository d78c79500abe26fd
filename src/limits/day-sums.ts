/**
 * What each client had and paid, per UTC day, scraper and key: the figures of the report. Sums that are added to, so that several
 * processes, and one after another, make one account. Money is added together with the books, so that the two cannot differ; what
 * costs nothing (requests, savings) is added every few seconds.
 */
import type { Clock, Disk, DiskSum, Timer } from '../ports.ts'
import { dayOf } from './period.ts'

/** Credits, but for `requests`. */
export interface DayFigures {
  readonly requests: number
  readonly spent: number
  /** Sent and not answered: perhaps charged. Counted in the budgets, and not among those spent. */
  readonly uncertain: number
  /** Spent on jobs that failed, and given back. */
  readonly refunded: number
  /** By the operator, in either direction. */
  readonly corrected: number
  readonly hit: number
  readonly joined: number
  readonly stale: number
  readonly rescued: number
}

export interface DayRow extends DayFigures {
  readonly day: string
  readonly client: string
  readonly scraper: string
  /** `none` where upstream was not asked, or it is not known with which key. */
  readonly key: string
}

export interface DaySubject {
  readonly client: string
  readonly scraper: string
  readonly key: string
}

export type DayStore = Pick<Disk, 'put' | 'list'>

/** What the requests of clients came to that cost nothing to count exactly: how many, and what they saved. */
export interface Traffic {
  /** One request, and the credits that it saved, if any. */
  add(subject: DaySubject, how: 'hit' | 'joined' | 'stale' | 'rescued' | null, credits: number): void
  /** Writes what waits. */
  flush(): void
  close(): void
}

const KEPT_MS = 400 * 86_400_000
const FLUSH_MS = 5_000
const nothing: DayFigures = {
  requests: 0,
  spent: 0,
  uncertain: 0,
  refunded: 0,
  corrected: 0,
  hit: 0,
  joined: 0,
  stale: 0,
  rescued: 0,
}
export const figureNames = Object.keys(nothing) as readonly (keyof DayFigures)[]

/** To be written together with what it is about. */
export function daySum(wallMs: number, subject: DaySubject, add: Partial<DayFigures>): DiskSum {
  const { id, resetAt } = dayOf(wallMs)
  const { client, scraper, key } = subject
  return {
    space: spaceOf(id.slice(0, 7)),
    key: [id, client, scraper, key].join('/'),
    add,
    expiresAt: resetAt + KEPT_MS,
  }
}

export function createTraffic(store: Pick<DayStore, 'put'>, clock: Clock): Traffic {
  /** Of today, by client, scraper and key. */
  const waiting = new Map<string, { readonly subject: DaySubject; readonly figures: Record<string, number> }>()
  let today = dayOf(clock.wall())
  let timer: Timer | null = null

  return {
    add(subject, how, credits) {
      const wallMs = clock.wall()
      if (wallMs >= today.resetAt || wallMs < today.startsAt) {
        flush()
        today = dayOf(wallMs)
      }
      const name = `${subject.client}/${subject.scraper}/${subject.key}`
      const known = waiting.get(name) ?? { subject, figures: { requests: 0 } }
      waiting.set(name, known)
      known.figures['requests'] = (known.figures['requests'] ?? 0) + 1
      if (how !== null) known.figures[how] = (known.figures[how] ?? 0) + credits
      timer ??= clock.after(FLUSH_MS, flush)
    },
    flush,
    close() {
      timer?.cancel()
      flush()
    },
  }

  function flush(): void {
    timer = null
    const at = today.startsAt
    if (waiting.size > 0)
      store.put(Array.from(waiting.values(), ({ subject, figures }) => daySum(at, subject, figures)))
    waiting.clear()
  }
}

/** `month` as in `2026-11`; in the order of days, clients, scrapers and keys. */
export function rowsOf(store: Pick<DayStore, 'list'>, month: string): readonly DayRow[] {
  return summed(Array.from(store.list(spaceOf(month)), ([name, figures]) => rowNamed(name, figures)))
}

/** `name`: as in `daySum`. */
export function rowNamed(name: string, figures: unknown): DayRow {
  const [day = '', client = '', scraper = '', key = ''] = name.split('/')
  const known = new Map(Object.entries(figures ?? {}))
  const read = figureNames.map((one) => [one, Number.isSafeInteger(known.get(one)) ? Number(known.get(one)) : 0])
  return { day, client, scraper, key, ...nothing, ...(Object.fromEntries(read) as Partial<DayFigures>) }
}

/** Rows about the same are one; in the order of days, clients, scrapers and keys. */
export function summed(rows: readonly DayRow[]): readonly DayRow[] {
  const sums = new Map<string, DayRow>()
  for (const row of rows) {
    const before = sums.get(nameOf(row))
    const sum = before && Object.fromEntries(figureNames.map((name) => [name, before[name] + row[name]]))
    sums.set(nameOf(row), { ...row, ...sum })
  }
  return [...sums.values()].toSorted((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1))
}

/** What it comes to in the books. */
export function netOf({ spent, uncertain, refunded, corrected }: DayFigures): number {
  return spent + uncertain - refunded + corrected
}

function nameOf({ day, client, scraper, key }: DayRow): string {
  return [day, client, scraper, key].join('/')
}

export function spaceOf(month: string): string {
  return `day-sums/${month}`
}

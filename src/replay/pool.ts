/**
 * What upstream did at about that time, to draw from where a policy asks more often than was recorded. The assumption: at any
 * moment upstream treats all questions to a scraper alike, but for how their attempt before has ended. So an attempt is drawn
 * from those that followed the same end within a minute, or else from any within a minute; where these are fewer than twenty,
 * within 5 minutes, then half an hour, then from all; last of all from those of other scrapers.
 */
import type { VerdictClass } from '../failures.ts'
import type { RecordedAttempt } from './audit-line.ts'

export interface Pool {
  add(scraper: string, after: VerdictClass | null, attempt: RecordedAttempt): void
  /** `chance` is uniform in [0, 1). Null = nothing is recorded at all. */
  draw(scraper: string, after: VerdictClass | null, at: number, chance: number): RecordedAttempt | null
  /** The same, among answers. */
  drawOk(scraper: string, at: number, chance: number): RecordedAttempt | null
}

const ENOUGH = 20
const WINDOWS_MS = [60_000, 5 * 60_000, 30 * 60_000]
const ANYWHERE = '*'

interface Shelf {
  readonly attempts: RecordedAttempt[]
  isSorted: boolean
}

const empty: Shelf = { attempts: [], isSorted: true }

export function createPool(): Pool {
  const shelves = new Map<string, Shelf>()

  return {
    add(scraper, after, attempt) {
      for (const name of [scraper, ANYWHERE]) {
        put(`${name} all`, attempt)
        put(`${name} after ${after}`, attempt)
        if (attempt.class === 'ok') put(`${name} ok`, attempt)
      }
    },
    draw: (scraper, after, at, chance) =>
      near([`${scraper} after ${after}`, `${scraper} all`], at, chance) ??
      near([`${ANYWHERE} after ${after}`, `${ANYWHERE} all`], at, chance),
    drawOk: (scraper, at, chance) => near([`${scraper} ok`], at, chance) ?? near([`${ANYWHERE} ok`], at, chance),
  }

  function put(name: string, attempt: RecordedAttempt): void {
    const shelf = shelves.get(name) ?? { attempts: [], isSorted: false }
    shelf.attempts.push(attempt)
    shelf.isSorted = false
    shelves.set(name, shelf)
  }

  /** From the first of these that has enough, in the narrowest window in which one has. */
  function near(names: readonly string[], at: number, chance: number): RecordedAttempt | null {
    const found = names.map((name) => sorted(shelves.get(name) ?? empty))
    for (const windowMs of WINDOWS_MS) {
      for (const attempts of found) {
        const from = firstAt(attempts, at - windowMs)
        const to = firstAt(attempts, at + windowMs)
        if (to - from >= ENOUGH) return attempts[from + Math.floor(chance * (to - from))] ?? null
      }
    }
    const any = found.find((attempts) => attempts.length >= ENOUGH) ?? found.at(-1) ?? []
    return any[Math.floor(chance * any.length)] ?? null
  }
}

function sorted(shelf: Shelf): readonly RecordedAttempt[] {
  if (!shelf.isSorted) shelf.attempts.sort((a, b) => a.at - b.at)
  shelf.isSorted = true
  return shelf.attempts
}

/** The index of the first that is not before then. */
function firstAt(attempts: readonly RecordedAttempt[], at: number): number {
  let low = 0
  let high = attempts.length
  while (low < high) {
    const middle = (low + high) >> 1
    if ((attempts[middle]?.at ?? 0) < at) low = middle + 1
    else high = middle
  }
  return low
}

/**
 * What upstream did at about that time, to draw from where a policy asks at another time than was recorded, or more often. The
 * assumption: at any moment upstream treats all questions to a scraper alike, but for how their attempt before has ended, and for a
 * question that always fails. So an attempt ends as one of the same question within 2 s did, or as one of those that followed the same
 * end within 2 s, or as any within 2 s; where these are fewer than three, as the nearest in time; last of all as that of another scraper.
 */
import type { VerdictClass } from '../failures.ts'
import type { RecordedAttempt } from './traffic.ts'

export interface Drawn {
  readonly attempt: RecordedAttempt
  /** How far in time from the moment that was asked for. */
  readonly awayMs: number
}

export interface Pool {
  /** `key`: equal = the same question; null = nobody knows. */
  add(scraper: string, key: string | null, after: VerdictClass | null, attempt: RecordedAttempt): void
  /** `chance` is uniform in [0, 1). Null = nothing is recorded at all. */
  draw(scraper: string, key: string | null, after: VerdictClass | null, at: number, chance: number): Drawn | null
  /** The same, among answers, which take longer or shorter whenever they are: from the twenty that are nearest. */
  drawOk(scraper: string, at: number, chance: number): Drawn | null
}

export const SAME_TIME_MS = 2_000
const ENOUGH = 3
/** More than the attempts of one or two requests. */
const OFTEN = 9
const ENOUGH_ANSWERS = 20
const ANYWHERE = '*'

interface Shelf {
  readonly attempts: RecordedAttempt[]
  isSorted: boolean
}

export function createPool(): Pool {
  const shelves = new Map<string, Shelf>()

  return {
    add(scraper, key, after, attempt) {
      if (key !== null) put(`question ${key}`, attempt)
      for (const name of [scraper, ANYWHERE]) {
        put(`${name} all`, attempt)
        put(`${name} after ${after}`, attempt)
        if (attempt.class === 'ok') put(`${name} ok`, attempt)
      }
    },
    draw(scraper, key, after, at, chance) {
      const own = shelf(`question ${key}`)
      const [all, anywhere] = [shelf(`${scraper} all`), shelf(`${ANYWHERE} all`)]
      return (
        atThatTime(own, 1, at, chance) ??
        alwaysFails(own, at, chance) ??
        atThatTime(shelf(`${scraper} after ${after}`), ENOUGH, at, chance) ??
        atThatTime(all, ENOUGH, at, chance) ??
        nearest(all.length > 0 ? all : anywhere, 1, at, chance)
      )
    },
    drawOk: (scraper, at, chance) =>
      nearest(shelf(`${scraper} ok`), ENOUGH_ANSWERS, at, chance) ??
      nearest(shelf(`${ANYWHERE} ok`), ENOUGH_ANSWERS, at, chance),
  }

  function put(name: string, attempt: RecordedAttempt): void {
    const shelf = shelves.get(name) ?? { attempts: [], isSorted: false }
    shelf.attempts.push(attempt)
    shelf.isSorted = false
    shelves.set(name, shelf)
  }

  /** By their start. */
  function shelf(name: string): readonly RecordedAttempt[] {
    const found = shelves.get(name)
    if (!found) return []
    if (!found.isSorted) found.attempts.sort((a, b) => a.at - b.at)
    found.isSorted = true
    return found.attempts
  }
}

function atThatTime(attempts: readonly RecordedAttempt[], enough: number, at: number, chance: number): Drawn | null {
  const from = firstAt(attempts, at - SAME_TIME_MS)
  const count = firstAt(attempts, at + SAME_TIME_MS) - from
  return count >= enough ? pick(attempts, from, count, at, chance) : null
}

/** A question that was asked often within a minute, and never answered, is at fault itself. */
function alwaysFails(own: readonly RecordedAttempt[], at: number, chance: number): Drawn | null {
  const from = firstAt(own, at - 60_000)
  const to = firstAt(own, at + 60_000)
  if (to - from < OFTEN || own.slice(from, to).some(({ class: ended }) => ended === 'ok')) return null
  return nearest(own, 1, at, chance)
}

function nearest(attempts: readonly RecordedAttempt[], count: number, at: number, chance: number): Drawn | null {
  let from = firstAt(attempts, at)
  let to = from
  while (to - from < Math.min(count, attempts.length)) {
    const [before, next] = [attempts[from - 1], attempts[to]]
    if (before && (!next || at - before.at <= next.at - at)) from -= 1
    else to += 1
  }
  return pick(attempts, from, to - from, at, chance)
}

function pick(
  attempts: readonly RecordedAttempt[],
  from: number,
  count: number,
  at: number,
  chance: number,
): Drawn | null {
  const attempt = attempts[from + Math.floor(chance * count)]
  return count > 0 && attempt ? { attempt, awayMs: Math.abs(attempt.at - at) } : null
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

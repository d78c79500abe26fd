/**
 * How many calls upstream takes at once for one scraper. Upstream says so only by refusing what is beyond (429), so the limit is
 * found by trying, as TCP finds its window: it begins without bound, is cut to 97 % of what upstream took when calls are refused, and
 * grows again while it is used up and calls are answered, by one call at first and by twice as much with each further step.
 *
 * Refusals that have another cause change nothing, because a repetition costs less than waiting: a queue that upstream shares with
 * others is full now and then. They are told apart by the calls that upstream has taken beside as many others, or more, and still works
 * on: with a limit there are none. Calls that were under way before a cut say nothing new, so one round of calls causes one cut, by half
 * at most.
 */

export interface CallUnderWay {
  /** Counts the calls of the scraper. */
  readonly number: number
  /** Upstream had so many calls when this one was let in, itself included and without those that it has refused since. */
  rank: number
}

export interface AdaptiveLimit {
  /** Infinity while nothing is known. */
  readonly current: number
  readonly underWay: number
  letIn(now: number): CallUnderWay
  left(call: CallUnderWay, now: number): void
  /** Before it has left. `most` calls are allowed anyhow: a limit that has reached it is no longer needed. */
  answered(most: number, now: number): void
  /** Before it has left. True = upstream had other calls, so it may have been one too many. */
  refused(call: CallUnderWay, now: number): boolean
  /** Forgets what was found. */
  reset(): void
}

const KEPT_SHARE = 0.97
/** Refusals are judged together when they come within so long. */
const WINDOW_MS = 10_000
/** So many cause a cut: two, and one more for each 50 calls under way. */
const LEAST_REFUSALS = 2
const MOST_REFUSALS = 6
const CALLS_PER_MORE_REFUSAL = 50
/** After a cut the limit stays for so long, then grows with each step. Only time in which it is used up counts. */
const HOLD_MS = 30_000
const STEP_MS = 3_000

export function createAdaptiveLimit(): AdaptiveLimit {
  let limit = Number.POSITIVE_INFINITY
  let calls = 0
  /** In the order in which they were let in. */
  const underWay = new Set<CallUnderWay>()
  /** Calls up to this number were let in before the last cut. */
  let judged = 0
  let windowEnds = 0
  let refusals = 0
  let lowestRank = Number.POSITIVE_INFINITY
  let base = 0
  let steps = 0
  let usedUpMs = 0
  let usedUpSince: number | null = null

  function letIn(now: number): CallUnderWay {
    const call = { number: (calls += 1), rank: underWay.size + 1 }
    underWay.add(call)
    measureUse(now)
    return call
  }

  function left(call: CallUnderWay, now: number): void {
    underWay.delete(call)
    measureUse(now)
  }

  function measureUse(now: number): void {
    if (usedUpSince !== null) usedUpMs += now - usedUpSince
    usedUpSince = underWay.size >= limit ? now : null
  }

  function answered(most: number, now: number): void {
    measureUse(now)
    if (usedUpMs < HOLD_MS + steps * STEP_MS) return
    limit = base + 2 ** steps
    steps += 1
    if (limit >= most) reset()
  }

  function refused({ rank, number }: CallUnderWay, now: number): boolean {
    for (const later of underWay) if (later.number > number) later.rank -= 1
    // A call that was alone was not refused because of others.
    if (rank === 1) return false
    if (number > judged) judge(rank, now)
    return true
  }

  function judge(rank: number, now: number): void {
    if (now >= windowEnds) openWindow(now)
    refusals += 1
    lowestRank = Math.min(lowestRank, rank)
    const needed = Math.min(MOST_REFUSALS, LEAST_REFUSALS + Math.floor(underWay.size / CALLS_PER_MORE_REFUSAL))
    if (refusals < needed || refusals < takenFrom(lowestRank)) return
    const taken = Math.round(KEPT_SHARE * (lowestRank - 1))
    limit = Math.min(limit, Math.max(1, taken, Math.ceil(underWay.size / 2)))
    base = limit
    judged = calls
    windowEnds = now
    holdOn()
  }

  function takenFrom(rank: number): number {
    let count = 0
    for (const call of underWay) if (call.rank >= rank) count += 1
    return count
  }

  function openWindow(now: number): void {
    windowEnds = now + WINDOW_MS
    refusals = 0
    lowestRank = Number.POSITIVE_INFINITY
  }

  function holdOn(): void {
    steps = 0
    usedUpMs = 0
    usedUpSince = null
  }

  function reset(): void {
    limit = Number.POSITIVE_INFINITY
    holdOn()
  }

  return {
    get current() {
      return limit
    },
    get underWay() {
      return underWay.size
    },
    letIn,
    left,
    answered,
    refused,
    reset,
  }
}

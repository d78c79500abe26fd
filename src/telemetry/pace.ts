/**
 * Whether upstream is slow: the latency of the last five minutes of each scraper against what is usual for it, by the same rule as the alert
 * `UpstreamSlow`. Usual is the median of the minutes of about a day; until it is known, 30 s count as usual.
 */
import type { Clock } from '../ports.ts'
import type { EventOf } from './events.ts'
import { bucketOf, noLatencies, percentile } from './history-step.ts'

export interface SlowScraper {
  readonly scraper: string
  /** One answer in twenty takes so long or longer. */
  readonly p95Ms: number
  readonly usualMs: number
  /** Epoch milliseconds. */
  readonly since: number
}

const kinds = ['attempt-ended'] as const

export interface Pace {
  readonly kinds: typeof kinds
  note(event: Pick<EventOf<'attempt-ended'>, 'scraper' | 'attempt'>): void
  slow(): readonly SlowScraper[]
}

interface Seen {
  /** Attempts that ended in each of the last minutes, by latency. */
  readonly minutes: Map<number, number[]>
  /** The 95th percentile of each minute of late, older ones counted less. */
  readonly usual: number[]
  latestMinute: number
  since: number | null
}

/** Never slow below `floorMs`. `npm run incidents` scales it, as it scales the rules. */
export const slowness = { floorMs: 60_000, timesUsual: 2 }

const MINUTE_MS = 60_000
const WINDOW_MINUTES = 5
const FEWEST_ATTEMPTS = 10
const EXPECTED_MS = 30_000
const EXPECTED_WEIGHT = 10
const DECAY = 0.5 ** (1 / (24 * 60))

export function createPace({ clock }: { readonly clock: Clock }): Pace {
  const scrapers = new Map<string, Seen>()

  return {
    kinds,
    note({ scraper, attempt }) {
      const seen = scrapers.get(scraper) ?? begin(scraper)
      const minute = minuteNow()
      if (minute !== seen.latestMinute) learn(seen, minute)
      const counts = seen.minutes.get(minute) ?? noLatencies()
      seen.minutes.set(minute, counts)
      const bucket = bucketOf(attempt.durationMs)
      counts[bucket] = (counts[bucket] ?? 0) + 1
      judge(seen)
    },
    slow: () =>
      [...scrapers].flatMap(([scraper, seen]) => {
        const slow = judge(seen)
        return slow === null ? [] : [{ scraper, ...slow }]
      }),
  }

  function begin(scraper: string): Seen {
    const usual = noLatencies()
    usual[bucketOf(EXPECTED_MS)] = EXPECTED_WEIGHT
    const seen: Seen = { minutes: new Map(), usual, latestMinute: minuteNow(), since: null }
    scrapers.set(scraper, seen)
    return seen
  }

  function learn(seen: Seen, minute: number): void {
    seen.latestMinute = minute
    const p95Ms = latelyOf(seen, minute - 1)
    if (p95Ms === null) return
    for (const [bucket, weight] of seen.usual.entries()) seen.usual[bucket] = weight * DECAY
    const bucket = bucketOf(p95Ms)
    seen.usual[bucket] = (seen.usual[bucket] ?? 0) + 1
  }

  function judge(seen: Seen): Omit<SlowScraper, 'scraper'> | null {
    const p95Ms = latelyOf(seen, minuteNow())
    const usualMs = percentile(seen.usual, 0.5) ?? EXPECTED_MS
    const isSlow = p95Ms !== null && p95Ms > Math.max(slowness.floorMs, slowness.timesUsual * usualMs)
    if (!isSlow) {
      seen.since = null
      return null
    }
    seen.since ??= clock.wall()
    return { p95Ms, usualMs, since: seen.since }
  }

  /** Of the minutes until this one; null = too few to tell. */
  function latelyOf({ minutes }: Seen, last: number): number | null {
    const sum = noLatencies()
    let count = 0
    for (const [minute, counts] of minutes) {
      if (minute <= last - WINDOW_MINUTES) {
        minutes.delete(minute)
        continue
      }
      for (const [bucket, more] of counts.entries()) {
        sum[bucket] = (sum[bucket] ?? 0) + more
        count += more
      }
    }
    return count < FEWEST_ATTEMPTS ? null : percentile(sum, 0.95)
  }

  function minuteNow(): number {
    return Math.floor(clock.now() / MINUTE_MS)
  }
}

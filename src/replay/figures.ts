/**
 * What a policy is judged by, counted the same way whether it was recorded or replayed. Success as the SLO has it: of all
 * requests but those whose caller made a mistake, hung up or asked for the cache alone, those that were not answered 408, 429
 * or 5xx. Latency: of everything that was answered, hits and refusals too.
 */
import type { Code } from '../errors.ts'
import type { Charge, Refused } from '../model.ts'

export interface Figures {
  readonly requests: number
  /** Whose caller hung up. */
  readonly gone: number
  /** Null = there was nothing that could succeed. */
  readonly successRate: number | null
  readonly latencyMs: { readonly p50: number | null; readonly p95: number | null; readonly p99: number | null }
  readonly attempts: number
  /** Of them those whose end was drawn from another time than theirs. */
  readonly guessedAttempts: number
  readonly retries: number
  readonly retriesRefused: Readonly<Partial<Record<Refused, number>>>
  readonly credits: { readonly spent: number; readonly uncertain: number; readonly saved: number }
  readonly breakerOpenings: number
  readonly refusals: Readonly<Partial<Record<Code, number>>>
}

export interface Answer {
  readonly status: number | 'gone'
  readonly code: Code | null
  readonly durationMs: number
}

export interface Tally {
  answered(answer: Answer): void
  attempted(charge: Charge): void
  retried(times: number): void
  stopped(reason: Refused): void
  saved(credits: number): void
  opened(): void
  guessed(): void
  figures(): Figures
}

export function createTally(): Tally {
  const durations: number[] = []
  const retriesRefused = new Map<Refused, number>()
  const refusals = new Map<Code, number>()
  const credits = { spent: 0, uncertain: 0, saved: 0 }
  let requests = 0
  let gone = 0
  let bad = 0
  let eligible = 0
  let attempts = 0
  let retries = 0
  let breakerOpenings = 0
  let guessedAttempts = 0

  return {
    answered({ status, code, durationMs }) {
      requests += 1
      if (code) refusals.set(code, (refusals.get(code) ?? 0) + 1)
      if (status === 'gone') {
        gone += 1
        return
      }
      durations.push(durationMs)
      const isBad = status === 408 || status === 429 || status >= 500
      if (code === 'CACHE_MISS' || (!isBad && status >= 400)) return
      eligible += 1
      if (isBad) bad += 1
    },
    attempted(charge) {
      attempts += 1
      if (charge.state === 'charged') credits.spent += charge.credits
      if (charge.state === 'unknown') credits.uncertain += charge.credits
    },
    retried: (times) => void (retries += times),
    // A failure that is never repeated was refused nothing.
    stopped(reason) {
      if (reason !== 'final') retriesRefused.set(reason, (retriesRefused.get(reason) ?? 0) + 1)
    },
    saved: (saved) => void (credits.saved += saved),
    opened: () => void (breakerOpenings += 1),
    guessed: () => void (guessedAttempts += 1),
    figures() {
      const sorted = Float64Array.from(durations).toSorted()
      return {
        requests,
        gone,
        successRate: eligible === 0 ? null : (eligible - bad) / eligible,
        latencyMs: { p50: quantile(sorted, 0.5), p95: quantile(sorted, 0.95), p99: quantile(sorted, 0.99) },
        attempts,
        guessedAttempts,
        retries,
        retriesRefused: inOrder(retriesRefused),
        credits: { ...credits },
        breakerOpenings,
        refusals: inOrder(refusals),
      }
    },
  }
}

/** The smallest that is no less than so much of all. */
function quantile(sorted: Float64Array, share: number): number | null {
  const value = sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)]
  return value === undefined ? null : Math.round(value * 1_000) / 1_000
}

function inOrder<K extends string>(counts: ReadonlyMap<K, number>): Partial<Record<K, number>> {
  const ordered = [...counts].toSorted(([a], [b]) => (a < b ? -1 : 1))
  return Object.fromEntries(ordered) as Partial<Record<K, number>>
}

/**
 * One step of the history: what is counted in it, what is drawn of it, and how it is stored. Latencies are counted in buckets, so a
 * step has the same size whatever happens in it.
 */
import { type OutcomeName, outcomeNames } from './outcome-status.ts'

export interface Step {
  /** Epoch milliseconds of the wall. */
  readonly at: number
  readonly requests: Readonly<Record<OutcomeName, number>>
  /** Of answers that upstream was asked for; null = there were none. */
  readonly p50Ms: number | null
  readonly p95Ms: number | null
  readonly spentCredits: number
  readonly savedCredits: number
  /** The most at the same time. */
  readonly openQuestions: number
}

/** What an hour amounts to. */
export interface Hour {
  readonly requests: number
  readonly perMinute: number
  /** 4xx by the proxy, or for the caller's own mistake. Not part of `success`. */
  readonly refused: number
  /** Null = there were no requests, or no misses. */
  readonly success: number | null
  readonly hits: number | null
  readonly p50Ms: number | null
  readonly p95Ms: number | null
  readonly spentCredits: number
  readonly savedCredits: number
}

/** Upper bounds of latencies, in milliseconds; beyond the last one it is the last one. */
const bounds = [
  250, 500, 1000, 2000, 3000, 4000, 5000, 6000, 8000, 10_000, 12_000, 15_000, 20_000, 25_000, 30_000, 40_000, 50_000,
  60_000, 90_000, 120_000, 180_000, 300_000, 600_000,
] as const
/** Numbers of one step, in one order: what is stored is this. */
export interface Slot {
  at: number
  readonly requests: number[]
  readonly latencies: number[]
  spent: number
  saved: number
  open: number
}

/** The shortest time that a rate is told for. */
const STEP_MS = 10_000

export function emptySlot(at: number, open: number): Slot {
  return { at, requests: outcomeNames.map(() => 0), latencies: noLatencies(), spent: 0, saved: 0, open }
}

/** Counts of latencies, one for each bucket. */
export function noLatencies(): number[] {
  return bounds.map(() => 0)
}

export function bucketOf(latencyMs: number): number {
  const bucket = bounds.findIndex((bound) => latencyMs <= bound)
  return bucket < 0 ? bounds.length - 1 : bucket
}

export function numbersOf({ requests, latencies, spent, saved, open }: Slot): readonly number[] {
  return [spent, saved, open, ...requests, ...latencies]
}

/** Null = not what this version writes. */
export function slotFrom(at: number, numbers: unknown): Slot | null {
  if (!Array.isArray(numbers) || !numbers.every((one): one is number => Number.isFinite(one))) return null
  const [spent = 0, saved = 0, open = 0, ...rest] = numbers
  if (!Number.isFinite(at) || rest.length !== outcomeNames.length + bounds.length) return null
  return {
    at,
    requests: rest.slice(0, outcomeNames.length),
    latencies: rest.slice(outcomeNames.length),
    spent,
    saved,
    open,
  }
}

export function stepFrom(slot: Slot): Step {
  const [cached = 0, fetched = 0, stale = 0, refused = 0, failed = 0] = slot.requests
  return {
    at: slot.at,
    requests: { cached, fetched, stale, refused, failed },
    p50Ms: percentile(slot.latencies, 0.5),
    p95Ms: percentile(slot.latencies, 0.95),
    spentCredits: slot.spent,
    savedCredits: slot.saved,
    openQuestions: slot.open,
  }
}

/** `until`: where the hour ends. After a start it is shorter than an hour. */
export function hourFrom(slots: readonly Slot[], until: number): Hour {
  const sum = emptySlot(0, 0)
  for (const { requests, latencies, spent, saved } of slots) {
    for (const [index, count] of requests.entries()) sum.requests[index] = (sum.requests[index] ?? 0) + count
    for (const [index, count] of latencies.entries()) sum.latencies[index] = (sum.latencies[index] ?? 0) + count
    sum.spent += spent
    sum.saved += saved
  }
  const { requests: by, p50Ms, p95Ms } = stepFrom(sum)
  const answered = by.cached + by.fetched + by.stale
  const asked = answered + by.failed
  const requests = asked + by.refused
  const minutes = Math.min(60, Math.max(until - (slots[0]?.at ?? until), STEP_MS) / 60_000)
  return {
    requests,
    perMinute: requests / minutes,
    refused: by.refused,
    success: asked === 0 ? null : answered / asked,
    hits: answered === 0 ? null : (by.cached + by.stale) / answered,
    p50Ms,
    p95Ms,
    spentCredits: sum.spent,
    savedCredits: sum.saved,
  }
}

/** Between the bounds of its bucket, in proportion. */
export function percentile(counts: readonly number[], share: number): number | null {
  const all = counts.reduce((sum, count) => sum + count, 0)
  if (all === 0) return null
  let below = 0
  for (const [index, count] of counts.entries()) {
    if (below + count >= share * all) {
      const lower = bounds[index - 1] ?? 0
      const upper = bounds[index] ?? lower
      return lower + ((upper - lower) * (share * all - below)) / count
    }
    below += count
  }
  return bounds.at(-1) ?? null
}

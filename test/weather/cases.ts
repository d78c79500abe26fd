/** The parts that the rows of the weather table are made of: who asks when, how upstream behaves, what is measured. */
import { createSeededHash } from '../../src/replay/chance.ts'
import type { Figures } from './figures.ts'
import type { Ask, Asked, Run } from './run.ts'
import type { Behaviour, Incoming, SeenCall, Treatment } from './upstream.ts'

export interface Case {
  /** `W1` to `W12`. */
  readonly row: string
  readonly weather: string
  /** Beside the settings that are tried; for rows that need clients or keys. */
  readonly sets?: readonly string[]
  readonly lengthMs: number
  /** Made anew for each run: a behaviour may have state. */
  readonly plan: (seed: number) => Plan
  /** The requests that the figures are about; left out = all. */
  readonly about?: (asked: Ask) => boolean
  /** Since the start; left out = upstream has no outage in this row. */
  readonly recoveredMs?: number
  /** What does not hold, in words; empty = the row holds. */
  readonly judge: (measured: Measured) => readonly string[]
}

export interface Plan {
  readonly asks: readonly Ask[]
  readonly behaviour: Behaviour
}

export interface Measured {
  readonly figures: Figures
  /** Share of requests that four attempts could have answered, with no breaker and no retry budget. */
  readonly possible: number
  readonly runs: readonly Run[]
  /** Of all runs; only those the case is about. */
  readonly asked: readonly Asked[]
  readonly calls: readonly SeenCall[]
}

export const SECOND = 1_000
export const MINUTE = 60 * SECOND

const ARRIVAL = 1

/** Different questions, one by one as chance has it (Poisson). */
export function poisson(
  seed: number,
  perSecond: number,
  fromMs: number,
  untilMs: number,
  ask: Partial<Ask> = {},
): Ask[] {
  const luck = createSeededHash(seed)
  const asks: Ask[] = []
  const first = Math.round(fromMs) * 1_000
  let atMs = fromMs
  for (let number = first + 1; ; number += 1) {
    atMs += (-Math.log(1 - luck(number, 0, ARRIVAL)) * 1_000) / perSecond
    if (atMs > untilMs) return asks
    asks.push({ atMs, prompt: `question ${number}`, ...ask })
  }
}

export function inOrder(...lists: readonly (readonly Ask[])[]): Ask[] {
  return lists.flat().toSorted((a, b) => a.atMs - b.atMs)
}

// Upstream

export const answers: Behaviour = () => ({ kind: 'answer' })

const FAILURE = 21

/** `afterMs` null = as long as an answer. */
export function failsAtRandom(rate: number, afterMs: number | null): Behaviour {
  return ({ chance, answerMs }) =>
    chance(FAILURE) < rate ? { kind: 'failure', status: 500, afterMs: afterMs ?? answerMs } : { kind: 'answer' }
}

export type OutageKind = '503' | 'refused' | '502 in HTML'

/** Refusals need no thought. */
const outages: Readonly<Record<OutageKind, Treatment>> = {
  '503': { kind: 'failure', status: 503, afterMs: 100, detail: 'The scraper pool is warming up.' },
  refused: { kind: 'refused', afterMs: 2 },
  '502 in HTML': { kind: 'failure', status: 502, afterMs: 50, html: true },
}

export function outage(kind: OutageKind, fromMs: number, forMs: number, otherwise: Behaviour = answers): Behaviour {
  return (call) => (isWithin(call.atMs, fromMs, forMs) ? outages[kind] : otherwise(call))
}

export function isWithin(atMs: number, fromMs: number, forMs: number): boolean {
  return atMs >= fromMs && atMs < fromMs + forMs
}

export const queueFull: Treatment = {
  kind: 'failure',
  status: 429,
  afterMs: 100,
  detail: 'The scraper queue is full. Try again in a few seconds.',
}
export const rateLimited: Treatment = {
  kind: 'failure',
  status: 429,
  afterMs: 100,
  detail: 'Rate limit exceeded. Retry after a moment.',
}

/** Takes so many calls at once; what is said beyond. */
export function capacity(limit: (atMs: number) => number, beyond: Treatment): Behaviour {
  return ({ working, atMs }: Incoming) => (working < limit(atMs) ? { kind: 'answer' } : beyond)
}

// Judging

export function percent(share: number): string {
  return `${(share * 100).toFixed(2)} %`
}

/** The complaint, when it does not hold. */
export function must(holds: boolean, complaint: string): readonly string[] {
  return holds ? [] : [complaint]
}

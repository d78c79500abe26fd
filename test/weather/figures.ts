/** What a run of the weather table is judged by. */
import type { Asked, Run } from './run.ts'
import type { SeenCall } from './upstream.ts'

export interface Figures {
  readonly requests: number
  /** Shares are 0 to 1. */
  readonly success: number
  readonly refusedByCircuit: number
  readonly attemptsPerRequest: number
  /** Null = nothing was answered. */
  readonly creditsPerAnswer: number | null
  /** Of requests that were answered. */
  readonly p50Ms: number
  readonly p95Ms: number
}

export function figuresOf(asked: readonly Asked[], calls: readonly SeenCall[]): Figures {
  const answered = asked.filter(isAnswered)
  const credits = calls.reduce((sum, { credits }) => sum + credits, 0)
  const durations = answered.map(({ durationMs }) => durationMs).toSorted((a, b) => a - b)
  return {
    requests: asked.length,
    success: share(answered.length, asked.length),
    refusedByCircuit: share(asked.filter(isCircuitOpen).length, asked.length),
    attemptsPerRequest: share(calls.length, asked.length),
    creditsPerAnswer: answered.length === 0 ? null : credits / answered.length,
    p50Ms: quantile(durations, 0.5),
    p95Ms: quantile(durations, 0.95),
  }
}

export function isAnswered({ status }: Asked): boolean {
  return status >= 200 && status < 300
}

export function isCircuitOpen({ code }: Asked): boolean {
  return code === 'CIRCUIT_OPEN'
}

/** The first call after upstream's recovery that is answered. */
export function firstSuccess({ calls, startsAt }: Run, recoveredMs: number): SeenCall | null {
  const at = startsAt + recoveredMs
  let first: SeenCall | null = null
  for (const call of calls)
    if (call.end === 'answered' && call.startedAt >= at && (!first || call.startedAt < first.startedAt)) first = call
  return first
}

export function share(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole
}

/** Of sorted values: the smallest that is no less than so much of all. */
export function quantile(sorted: readonly number[], part: number): number {
  return sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)] ?? 0
}

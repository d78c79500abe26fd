/**
 * How long to pause before the next attempt: full jitter, so that many who failed together do not come back together. `Retry-After`
 * only makes it longer. Pure; chance is a parameter.
 */
import type { ClassPolicy } from '../model.ts'

/** The spread over `Retry-After` is a tenth of it, at most this. */
const longestSpreadMs = 5_000

/** `repeat` counts from 1: which repetition of this failure class the pause is for. `chance` is uniform in [0, 1). */
export function backoffMs(
  backoff: ClassPolicy['backoff'],
  repeat: number,
  retryAfterMs: number | null,
  chance: number,
): number {
  const jitteredMs = chance * Math.min(backoff.max, backoff.base * 2 ** (repeat - 1))
  const askedMs = retryAfterMs ?? 0
  // Both carry the jitter: those who were told the same must not come back together.
  return Math.max(jitteredMs, askedMs + chance * Math.min(longestSpreadMs, askedMs / 10))
}

/** Upstream's `Retry-After` (RFC 9110 section 10.2.3). The vendor documents none, a gateway in front of it may send one. */
const LONGEST_MS = 3_600_000

// All three forms of an HTTP date start with a weekday. `Date.parse` alone would make a date of `-5`.
const HTTP_DATE = /^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? [\w :-]+$/

/** Later than any billing cycle turns. */
const SANE_MS = 31 * 86_400_000

/**
 * Milliseconds until then; null = none. Zero, a point in time that is past, and garbage count as none: such a header tells nobody
 * anything, and would take the jitter out of pauses.
 */
export function readRetryAfter(value: string | null, nowMs: number): number | null {
  const text = value?.trim() ?? ''
  const ms = /^\d+$/.test(text) ? Number(text) * 1000 : untilDate(text, nowMs)
  return ms > 0 && ms <= SANE_MS ? ms : null
}

/** How long of it we believe for our own pauses. */
export function believedMs(retryAfterMs: number | null): number | null {
  return retryAfterMs === null ? null : Math.min(retryAfterMs, LONGEST_MS)
}

function untilDate(text: string, nowMs: number): number {
  if (!HTTP_DATE.test(text)) return Number.NaN
  // The asctime form names no zone, and means UTC as the others do.
  return Date.parse(text.endsWith(' GMT') ? text : `${text} GMT`) - nowMs
}

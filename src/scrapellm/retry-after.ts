/** Upstream's `Retry-After` (RFC 9110 section 10.2.3). The vendor documents none, a gateway in front of it may send one. */
const LONGEST_MS = 3_600_000

// All three forms of an HTTP date start with a weekday. `Date.parse` alone would make a date of `-5`.
const HTTP_DATE = /^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? [\w :-]+$/

/** Between 0 and an hour; null = none or garbage. */
export function readRetryAfter(value: string | null, nowMs: number): number | null {
  const text = value?.trim() ?? ''
  const ms = /^\d+$/.test(text) ? Number(text) * 1000 : untilDate(text, nowMs)
  return Number.isNaN(ms) ? null : Math.min(Math.max(ms, 0), LONGEST_MS)
}

function untilDate(text: string, nowMs: number): number {
  if (!HTTP_DATE.test(text)) return Number.NaN
  // The asctime form names no zone, and means UTC as the others do.
  return Date.parse(text.endsWith(' GMT') ? text : `${text} GMT`) - nowMs
}

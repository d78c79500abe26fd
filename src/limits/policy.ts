/**
 * The items of `RateLimit-Policy`. Clients with the same limit share one text: it goes into every answer, and those of ten
 * thousand clients would be in no cache of the processor.
 */
import type { LimitState, RatePolicy } from '../model.ts'
import type { Period } from './period.ts'

/** As many as there are different limits in the settings, and in those before a reload. */
const texts = new Map<string, string>()
const mostTexts = 10_000

/** Its window is in whole seconds. */
export function requestsPolicy({ limit, per }: RatePolicy): string {
  return shared(`"requests";q=${limit};w=${Math.max(1, Math.round(per / 1_000))}`)
}

/** With one request more than before. */
export function withOneMore(limits: LimitState, { limit, per, burst }: RatePolicy): LimitState {
  const { policy, remaining, resetMs } = limits
  return { policy, remaining: Math.min(burst, remaining + 1), resetMs: Math.max(0, Math.round(resetMs - per / limit)) }
}

export function creditsPolicy({ kind, startsAt, resetAt }: Period, limitCredits: number): string {
  return shared(`"credits-${kind}";q=${limitCredits};w=${(resetAt - startsAt) / 1_000}`)
}

function shared(text: string): string {
  const known = texts.get(text)
  if (known !== undefined) return known
  if (texts.size < mostTexts) texts.set(text, text)
  return text
}

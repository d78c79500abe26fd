/**
 * Freshness, judged when an entry is looked up: by the policy of the client that asks, whoever paid for the answer, and by the
 * caller's request directives (RFC 9111 sections 4.2 and 5.2.1). Pure.
 */
import type { CachePolicy, Entry, PurgeFilter, StaleUse, CacheDirectives } from '../model.ts'

export type Freshness = 'fresh' | StaleUse | 'unwanted' | 'gone'

/**
 * An entry from the future was stored under a clock that is wrong, or was: its age is unknown. Clocks that are kept in step by
 * NTP differ by less, and such an entry counts as stored just now.
 */
const CLOCK_TOLERANCE_MS = 5_000

/** An answer; the only error that is kept is "empty result". */
export function isAnswer({ status }: Pick<Entry, 'status'>): boolean {
  return status < 300
}

/** How long an entry is fresh for a client, from `storedAt` on. */
export function lifetimeMs(entry: Entry, policy: CachePolicy): number {
  return isAnswer(entry) ? policy.ttl : policy.emptyResultTtl
}

/** How long an entry is of any use to a client, from `storedAt` on. "Empty result" replaces no error. */
export function usableMs(entry: Pick<Entry, 'status'>, policy: CachePolicy): number {
  if (!isAnswer(entry)) return policy.emptyResultTtl
  return policy.ttl + Math.max(policy.staleIfError, policy.staleWhileRevalidate)
}

/** Whole seconds since it was stored; never negative. */
export function ageSeconds({ storedAt }: Entry, wallMs: number): number {
  return Math.max(0, Math.floor((wallMs - storedAt) / 1000))
}

/** No client can use it: it may be dropped. */
export function isDead({ storedAt, keptUntil }: Entry, wallMs: number): boolean {
  return wallMs >= keptUntil || storedAt - wallMs > CLOCK_TOLERANCE_MS
}

export function judge(entry: Entry, cacheDirectives: CacheDirectives, policy: CachePolicy, wallMs: number): Freshness {
  const ageMs = Math.max(0, wallMs - entry.storedAt)
  if (isDead(entry, wallMs) || ageMs >= usableMs(entry, policy)) return 'gone'
  if (cacheDirectives.noCache || cacheDirectives.noStore) return 'unwanted'
  const leftMs = lifetimeMs(entry, policy) - ageMs
  const { maxAgeMs, minFreshMs, maxStaleMs } = cacheDirectives
  if (maxAgeMs !== null && ageMs > maxAgeMs) return 'unwanted'
  if (minFreshMs !== null) return leftMs > 0 && leftMs >= minFreshMs ? 'fresh' : 'unwanted'
  if (leftMs > 0) return 'fresh'
  if (maxAgeMs === null && -leftMs < policy.staleWhileRevalidate) return 'revalidating'
  if (maxStaleMs !== null && -leftMs <= maxStaleMs) return 'max-stale'
  // A caller that asked for something fresher would rather have the error.
  return maxAgeMs === null && -leftMs < policy.staleIfError ? 'error' : 'unwanted'
}

export function matches(entry: Entry, { scraper, promptHash, country, storedBefore }: PurgeFilter): boolean {
  if (scraper !== undefined && entry.scraper !== scraper) return false
  if (promptHash !== undefined && entry.promptHash !== promptHash) return false
  if (country !== undefined && entry.country !== country) return false
  return storedBefore === undefined || entry.storedAt < storedBefore
}

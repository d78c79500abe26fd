/** The three ages of an entry, and what a caller's wishes make of them. Pure. */
import type { Entry, PurgeFilter, Wishes } from '../model.ts'

export function isGone(entry: Entry, wallMs: number): boolean {
  return wallMs >= Math.max(entry.freshUntil, entry.staleUntil)
}

/** May this entry be the answer as it is, now? RFC 9111 section 4.2 and the request directives of section 5.2.1. */
export function isFreshEnough(entry: Entry, wishes: Wishes, wallMs: number): boolean {
  if (wishes.noCache) return false
  const ageMs = wallMs - entry.storedAt
  const leftMs = entry.freshUntil - wallMs
  if (wishes.maxAgeMs !== null && ageMs > wishes.maxAgeMs) return false
  if (wishes.minFreshMs !== null) return leftMs >= wishes.minFreshMs
  return leftMs > 0 || (wishes.maxStaleMs !== null && -leftMs < wishes.maxStaleMs)
}

/** May this entry stand in for an error, now? A caller who asked for something fresher would rather have the error. */
export function mayReplaceError(entry: Entry, wishes: Wishes, wallMs: number): boolean {
  if (wishes.noCache || wishes.maxAgeMs !== null || wishes.minFreshMs !== null) return false
  return wallMs < entry.staleUntil
}

export function matches(entry: Entry, { scraper, promptHash, country, storedBefore }: PurgeFilter): boolean {
  if (scraper !== undefined && entry.scraper !== scraper) return false
  if (promptHash !== undefined && entry.promptHash !== promptHash) return false
  if (country !== undefined && entry.country !== country) return false
  return storedBefore === undefined || entry.storedAt < storedBefore
}

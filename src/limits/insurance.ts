/**
 * What a replica may spend by itself while the store is away: the allowance that it leased before, which the store counts as held all
 * the time. So whatever is granted meanwhile was taken from the budget already, even if this replica never comes back to say so.
 */
import { ProxyError } from '../errors.ts'
import type { Client } from '../model.ts'

const MAX_ALLOWANCE = 50
const ALLOWANCE_SHARE = 50
const RETRY_AFTER_MS = 5_000

/** The credits that a replica leases in advance: two of a hundred, of the smaller limit, and not more than a few questions. */
export function allowanceOf({ perDay, perMonth }: Client['credits']): number {
  const limit = Math.min(perDay ?? Number.POSITIVE_INFINITY, perMonth ?? Number.POSITIVE_INFINITY)
  return Math.min(MAX_ALLOWANCE, Math.floor(limit / ALLOWANCE_SHARE))
}

/** There are credits, but nobody can take them now. */
export function storeAway(): ProxyError {
  const detail =
    'Redis is unavailable, and the credits that this replica may spend without Redis are used up. ' +
    'Cached answers are still served. Retry later.'
  return new ProxyError('BUDGET_UNAVAILABLE', detail, { retryAfterMs: RETRY_AFTER_MS })
}

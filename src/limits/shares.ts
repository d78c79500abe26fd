/** What all replicas count together, and what one of them grants while they cannot. */
import { WHOLE } from './accounts.ts'

/** All keys of one client, or of the account as a whole, are in one slot of a cluster; a name may hold anything. */
export function keyOf(kind: string, clientName: string): string {
  return `limits:{${clientName === WHOLE ? '+' : encodeURIComponent(clientName)}}:${kind}`
}

/** Its part of what all replicas together may; rounded down, so that they stay below it, but never nothing. */
export function shareOf(limit: number, replicas: number): number {
  return Math.max(1, Math.floor(limit / replicas))
}

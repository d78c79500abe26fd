/** How a request ended: the status that it is answered with, and what that is to an operator. */
import { type Code, refusals } from '../errors.ts'
import type { Outcome } from '../model.ts'

/** `code`: of the refusal that is sent in place of an answer; null = there is none. `gone` = the caller disconnected first. */
export function statusOf(outcome: Outcome, code: Code | null): number | 'gone' {
  if (outcome.kind === 'gone') return 'gone'
  if (outcome.kind === 'refused') return outcome.error.status
  if (outcome.kind === 'job') return outcome.reply.status
  if (outcome.kind !== 'fetched') return outcome.entry.status
  return outcome.landing.verdict.reply?.status ?? refusals[code ?? 'INTERNAL'].statuses[0]
}

/** `refused`: the caller's own mistake or limit. `failed`: what was promised and not kept; the alerts count it. */
export const outcomeNames = ['cached', 'fetched', 'stale', 'refused', 'failed'] as const
export type OutcomeName = (typeof outcomeNames)[number]

/** Null = the caller disconnected: nobody knows. */
export function outcomeNameOf(outcome: Outcome, status: number | 'gone'): OutcomeName | null {
  if (status === 'gone' || outcome.kind === 'gone') return null
  if (outcome.kind === 'refused') return outcome.error.fault === 'client' ? 'refused' : 'failed'
  if (outcome.kind === 'stale') return 'stale'
  if (outcome.kind === 'fetched' && outcome.landing.verdict.kind === 'failed')
    return outcome.landing.verdict.fault === 'client' ? 'refused' : 'failed'
  // A kept failure is one, too.
  if (status >= 400) return status >= 500 ? 'failed' : 'refused'
  if (outcome.kind === 'hit' || (outcome.kind === 'fetched' && outcome.role === 'joined')) return 'cached'
  return 'fetched'
}

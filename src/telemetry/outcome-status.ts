/** The status that a request is answered with; `gone` = the caller disconnected first. */
import { type Code, refusals } from '../errors.ts'
import type { Outcome } from '../model.ts'

/** `code`: of the refusal that is sent in place of an answer; null = there is none. */
export function statusOf(outcome: Outcome, code: Code | null): number | 'gone' {
  if (outcome.kind === 'gone') return 'gone'
  if (outcome.kind === 'refused') return outcome.error.status
  if (outcome.kind === 'job') return outcome.reply.status
  if (outcome.kind !== 'fetched') return outcome.entry.status
  return outcome.landing.verdict.reply?.status ?? refusals[code ?? 'INTERNAL'].statuses[0]
}

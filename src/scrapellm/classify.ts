/**
 * The verdict on an attempt: errors by the table in error-class.ts, answers by their shape, broken connections by what had been sent.
 * Returns a verdict for anything, and never throws.
 */
import { traitsOf, type VerdictClass } from '../failures.ts'
import type { Call, Charge, Health, Reply, Verdict, WireReason, WireResult } from '../model.ts'
import { isComplete, isFilled, parseObject } from './answers.ts'
import type { JsonObject } from './answers.ts'
import { chargeOf, chargeOfLoss, FREE } from './credits.ts'
import { errorClassOf } from './error-class.ts'
import { readRetryAfter } from './retry-after.ts'

export function classify(call: Call, result: WireResult, nowMs: number): Verdict {
  if (result.kind === 'broken') return broken(call, result)
  const { reply } = result
  const body = parseObject(reply.body)
  const verdictClass = errorClassOf(reply, body, call.params)
  if (verdictClass) return refusedBy(verdictClass, reply, nowMs)
  return answered(call, reply, body) ?? unusable(call, reply, body, nowMs)
}

/** Upstream's own words, JSON or not, are what the caller gets. */
function refusedBy(verdictClass: VerdictClass, reply: Reply, nowMs: number): Verdict {
  const { fault, health } = traitsOf(verdictClass)
  const retryAfterMs = readRetryAfter(reply.retryAfter, nowMs)
  return { kind: 'failed', class: verdictClass, fault, reply, refusal: null, charge: FREE, health, retryAfterMs }
}

function answered(call: Call, reply: Reply, body: JsonObject | null): Verdict | null {
  if (!body || !isAnswered(call, reply.status, body)) return null
  const keepable = call.endpoint === 'answer'
  return { kind: 'answered', reply, charge: chargeOf(call, body), health: 'up', keepable }
}

function isAnswered(call: Call, status: number, body: JsonObject): boolean {
  if (call.endpoint === 'answer') return status === 200 && isComplete(call.scraper, body)
  // Nothing else of a submit's body is documented (api notes 1.6), but without the id what was paid for cannot be fetched.
  if (call.endpoint === 'submit') return (status === 202 || status === 200) && isFilled(body['job_id'])
  // A failed job is a 200 as well, and a true answer.
  return status === 200
}

/** Neither an error nor an answer: HTML with a 200, `status: "failed"`, no text, a redirect. Nothing of it is shown. */
function unusable(call: Call, reply: Reply, body: JsonObject | null, nowMs: number): Verdict {
  const isSuccess = reply.status >= 200 && reply.status < 300
  return {
    ...lost('UPSTREAM_INVALID', isSuccess ? chargeOfLoss(call, body) : FREE, 'down'),
    retryAfterMs: readRetryAfter(reply.retryAfter, nowMs),
  }
}

function broken(call: Call, { sent, reason }: Extract<WireResult, { kind: 'broken' }>): Verdict {
  const health = saysNothing.has(reason) ? 'neutral' : 'down'
  const fault = reason === 'local' ? 'proxy' : 'upstream'
  if (!sent) return { ...lost('UPSTREAM_UNREACHABLE', FREE, health), class: 'unreachable', fault }
  const isInvalid = reason === 'malformed' || reason === 'truncated' || reason === 'too-big'
  return lost(isInvalid ? 'UPSTREAM_INVALID' : 'UPSTREAM_UNREACHABLE', chargeOfLoss(call, null), health)
}

/** About upstream: the exchange was ended here, failed here, or met a connection that had been idle for too long. */
const saysNothing: ReadonlySet<WireReason> = new Set(['aborted', 'local', 'idle-closed'])

function lost(
  refusal: 'UPSTREAM_UNREACHABLE' | 'UPSTREAM_INVALID',
  charge: Charge,
  health: Health,
): Extract<Verdict, { kind: 'failed' }> {
  return {
    kind: 'failed',
    class: 'ambiguous',
    fault: 'upstream',
    reply: null,
    refusal,
    charge,
    health,
    retryAfterMs: null,
  }
}

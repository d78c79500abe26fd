/**
 * What we make of an attempt: a table for upstream's errors, first match wins, and a few sentences for what is not an error.
 * A 429 has three meanings and a 500 two, told apart by their text alone (api notes 2.3); a text that nobody documents gets
 * the meaning that does the least harm. Promises to return a verdict for anything, and never to throw.
 */
import type { Fault } from '../errors.ts'
import type { Call, Charge, Health, Reply, Verdict, VerdictClass, WireResult } from '../model.ts'
import { isComplete, isFilled, isObject, parseObject } from './answers.ts'
import type { JsonObject } from './answers.ts'
import { chargeOf, chargeOfLoss, FREE } from './credits.ts'
import { readRetryAfter } from './retry-after.ts'

/** One row: the statuses from … to, what the error's `detail` contains (lower case; '' = whatever), and what follows. */
type Rule = readonly [from: number, to: number, says: string, verdict: VerdictClass, fault: Fault, health: Health]

/** All of them are free: only a 200 and an accepted job are charged (api notes 3.2; undocumented for a submit with 5xx). */
const rules: readonly Rule[] = [
  [408, 408, '', 'timeout', 'upstream', 'slow'], // the AI was silent for all of `timeout`: the pool itself may be well
  [429, 429, 'credit', 'creditsExhausted', 'key', 'neutral'],
  [429, 429, 'rate limit', 'rateLimited', 'key', 'neutral'],
  [429, 429, '', 'queueFull', 'upstream', 'neutral'], // when unsure, the meaning that puts no key to rest
  [401, 401, '', 'unauthorized', 'key', 'neutral'], // a bad key or one without credits: indistinguishable
  [500, 500, 'empty result', 'emptyResult', 'upstream', 'neutral'], // the question's doing, not the scraper's
  [500, 500, '', 'serverError', 'upstream', 'down'],
  [503, 503, '', 'warmingUp', 'upstream', 'down'],
  [500, 599, '', 'gatewayTimeout', 'upstream', 'down'], // 504, and what gateways say instead (502, 520 to 527)
  [400, 499, '', 'rejected', 'client', 'neutral'],
]

export function classify(call: Call, result: WireResult, nowMs: number): Verdict {
  if (result.kind === 'broken') return broken(call, result)
  const { reply } = result
  const body = parseObject(reply.body)
  const rule = ruleFor(reply.status, body)
  if (rule) return refusedBy(rule, reply, nowMs)
  return answered(call, reply, body) ?? unusable(call, reply, body, nowMs)
}

function ruleFor(status: number, body: JsonObject | null): Rule | undefined {
  const text = textOf(body?.['detail']).toLowerCase()
  return rules.find(([from, to, says]) => status >= from && status <= to && text.includes(says))
}

/** A string as documented, or the lists and objects that frameworks put there (api notes 2.3): the strings two levels down. */
function textOf(detail: unknown): string {
  if (typeof detail === 'string') return detail
  if (!isObject(detail)) return ''
  return Object.values(detail)
    .flatMap((item) => (isObject(item) ? Object.values(item) : [item]))
    .filter((item) => typeof item === 'string')
    .join('\n')
}

/** Upstream's own words, JSON or not, are what the caller gets. */
function refusedBy([, , , verdictClass, fault, health]: Rule, reply: Reply, nowMs: number): Verdict {
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
  // We ended it ourselves: that says nothing about upstream.
  const health = reason === 'aborted' ? 'neutral' : 'down'
  if (!sent) return { ...lost('UPSTREAM_UNREACHABLE', FREE, health), class: 'unreachable' }
  const isInvalid = reason === 'malformed' || reason === 'truncated' || reason === 'too-big'
  return lost(isInvalid ? 'UPSTREAM_INVALID' : 'UPSTREAM_UNREACHABLE', chargeOfLoss(call, null), health)
}

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

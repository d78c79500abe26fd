/**
 * The verdict on an attempt: errors by the table in error-class.ts, answers by their shape, broken connections by what had been sent.
 * Returns a verdict for anything, and never throws.
 */
import { traitsOf, type VerdictClass } from '../failures.ts'
import type { Anomaly, Call, Charge, Health, Reply, Verdict, WireReason, WireResult } from '../model.ts'
import { isObject, parseJson, type JsonObject } from './answers.ts'
import { FREE, possibleCharge, priceCharge, statedCharge } from './credits.ts'
import { errorClassOf } from './error-class.ts'
import { believedMs, readRetryAfter } from './retry-after.ts'
import { shapeOf } from './shape.ts'

export function classify(call: Call, result: WireResult, nowMs: number): Verdict {
  if (result.kind === 'broken') return broken(call, result)
  const value = parseJson(result.reply.body)
  const reply = understood(result.reply, value, nowMs)
  const body = isObject(value) && !Array.isArray(value) ? value : null
  const verdictClass = errorClassOf(reply, body, call.params)
  if (verdictClass) return failed(call, verdictClass, reply, body, FREE, nowMs)
  const isSuccess = reply.status >= 200 && reply.status < 300
  if (!isSuccess || value === undefined) return invalid(call, reply, isSuccess, nowMs)
  const shape = shapeOf(call, reply.status, value)
  // It says that it failed, and not whether it was charged: repeated at most once.
  if (shape === 'failed')
    return { ...failed(call, 'ambiguous', reply, body, possibleCharge(call), nowMs), repeatable: 'once' }
  return answered(call, reply, body, shape)
}

/**
 * The first answer says what it is, as the kept one does. `Retry-After` becomes a number of seconds, whatever form it had, and nobody is
 * handed one that we did not understand.
 */
function understood(reply: Reply, value: unknown, nowMs: number): Reply {
  const contentType = reply.contentType ?? (value === undefined ? null : 'application/json')
  const retryAfterMs = readRetryAfter(reply.retryAfter, nowMs)
  const retryAfter = retryAfterMs === null ? null : String(Math.ceil(retryAfterMs / 1000))
  const isSame = contentType === reply.contentType && retryAfter === reply.retryAfter
  return isSame ? reply : { ...reply, contentType, retryAfter }
}

const anomalyOf: Readonly<Record<string, Anomaly>> = {
  unknown: 'unknownShape',
  empty: 'emptyAnswer',
  otherQuestion: 'otherQuestion',
}

function answered(call: Call, reply: Reply, body: JsonObject | null, shape: ReturnType<typeof shapeOf>): Verdict {
  const stated = call.endpoint === 'answer' ? statedCharge(call, body) : null
  const anomaly = anomalyOf[shape]
  const anomalies: readonly Anomaly[] = [
    ...(anomaly ? [anomaly] : []),
    ...(stated?.isImplausible ? (['implausibleCharge'] as const) : []),
  ]
  return {
    kind: 'answered',
    reply,
    charge: stated?.charge ?? priceCharge(call),
    // Nobody knows whether a shape that is not documented is good or bad news.
    health: shape === 'unknown' || shape === 'empty' ? 'neutral' : 'up',
    keepable: call.endpoint === 'answer' && shape === 'known',
    ...(anomalies.length > 0 && { anomalies }),
  }
}

/** Upstream's own words, JSON or not, are what the caller gets. `unstated` is the charge where the answer does not state one. */
function failed(
  call: Call,
  verdictClass: VerdictClass,
  reply: Reply,
  body: JsonObject | null,
  unstated: Charge,
  nowMs: number,
): Extract<Verdict, { kind: 'failed' }> {
  const { fault, health } = traitsOf(verdictClass)
  const stated = statedCharge(call, body)
  const retryAfterMs = believedMs(readRetryAfter(reply.retryAfter, nowMs))
  return {
    kind: 'failed',
    class: verdictClass,
    fault,
    reply,
    refusal: null,
    charge: stated?.charge ?? unstated,
    health,
    retryAfterMs,
    ...(stated?.isImplausible && { anomalies: ['implausibleCharge'] as const }),
  }
}

/** Neither an error nor an answer: cut off, HTML with a 200, a redirect. Nothing of it is shown. */
function invalid(call: Call, reply: Reply, isSuccess: boolean, nowMs: number): Verdict {
  return {
    ...lost('UPSTREAM_INVALID', isSuccess ? possibleCharge(call) : FREE, 'down'),
    retryAfterMs: believedMs(readRetryAfter(reply.retryAfter, nowMs)),
  }
}

function broken(call: Call, { sent, reason }: Extract<WireResult, { kind: 'broken' }>): Verdict {
  const health = saysNothing.has(reason) ? 'neutral' : 'down'
  const fault = reason === 'local' ? 'proxy' : 'upstream'
  if (!sent) return { ...lost('UPSTREAM_UNREACHABLE', FREE, health), class: 'unreachable', fault }
  const isInvalid = reason === 'malformed' || reason === 'truncated' || reason === 'too-big'
  const verdict = lost(isInvalid ? 'UPSTREAM_INVALID' : 'UPSTREAM_UNREACHABLE', possibleCharge(call), health)
  // It was complete but for our own limit, and would be too big again.
  return reason === 'too-big' ? { ...verdict, health: 'neutral', repeatable: 'never' } : verdict
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

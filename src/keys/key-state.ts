/**
 * What is known of one upstream key, as a state machine of plain values. A key that met its limit rests. One that was refused (no
 * credits, revoked, blocked) rests too, and one request tries it before the others use it again. While no key is ready, a resting key
 * is tried every 30 s as well: a refused request costs nothing. Pure: time and chance are parameters.
 */
import { type FailureClass, failures, isKeyRefused } from '../failures.ts'
import type { RetryPolicy, Verdict } from '../model.ts'
import type { KeyState } from '../telemetry/events.ts'

export type KeyCondition = { readonly kind: 'ready' } | RestingKey

export interface RestingKey {
  readonly kind: 'resting'
  readonly reason: FailureClass
  /** The end of its rest. Until a trial has been answered, it is reported as resting. */
  readonly untilAt: number
  /** While no key is ready, a request may try it from then on. */
  readonly tryAt: number
  /** When the trial under way began; null = there is none. */
  readonly trialAt: number | null
}

/** How long a key that met a failure of this class rests; null or absent = it does not. */
export type KeyRest = Readonly<Partial<Record<FailureClass, number | null>>>

/** As the settings say it, class by class. */
export function restsIn({ classes }: RetryPolicy): KeyRest {
  return Object.fromEntries(Object.entries(classes).map(([name, { keyRest }]) => [name, keyRest]))
}

export const ready: KeyCondition = { kind: 'ready' }

/** Upstream refuses a key at once. A trial that has not been refused for so long lets the other requests use the key. */
export const TRIAL_MS = 5_000
const TRY_EVERY_MS = 30_000
/** Replicas do not try at the same moment. */
const TRY_SPREAD = 0.1
/** What `Retry-After` can make the last ready key rest. */
const LONGEST_LAST_REST_MS = 5 * 60_000

/** What the passing of time made of it: a limit is over with the rest, a refusal is not. */
export function refreshed(condition: KeyCondition, now: number): KeyCondition {
  if (condition.kind === 'ready' || isKeyRefused(condition.reason) || now < condition.untilAt) return condition
  return condition.trialAt === null || isOpen(condition, now) ? ready : condition
}

/** Requests may use it without waiting for a trial. */
export function isOpen(condition: KeyCondition, now: number): boolean {
  return condition.kind === 'ready' || (condition.trialAt !== null && now >= condition.trialAt + TRIAL_MS)
}

/** A request may try it. `isNoneOpen`: there is no other key that could be used. */
export function isTriable(condition: KeyCondition, isNoneOpen: boolean, now: number): boolean {
  if (condition.kind === 'ready' || condition.trialAt !== null) return false
  return now >= condition.untilAt || (isNoneOpen && now >= condition.tryAt)
}

/** When it can be used or tried next, as far as time decides; null = now. */
export function nextUseAt(condition: KeyCondition, isNoneOpen: boolean, now: number): number | null {
  if (isOpen(condition, now) || condition.kind === 'ready') return null
  if (condition.trialAt !== null) return condition.trialAt + TRIAL_MS
  const at = isNoneOpen ? Math.min(condition.tryAt, condition.untilAt) : condition.untilAt
  return at > now ? at : null
}

/** A request takes it. */
export function used(condition: KeyCondition, now: number): KeyCondition {
  return condition.kind === 'resting' && condition.trialAt === null ? { ...condition, trialAt: now } : condition
}

export interface Judging {
  /** The request took the key while it rested: to try it, or because a trial had not been refused. */
  readonly isTrial: boolean
  /** No other key could be used. */
  readonly isLast: boolean
  readonly rest: KeyRest
  readonly now: number
  /** Uniform in [0, 1). */
  readonly chance: () => number
}

export function judged(condition: KeyCondition, verdict: Verdict, judging: Judging): KeyCondition {
  const { isTrial, isLast, rest, now, chance } = judging
  if (verdict.kind === 'failed' && verdict.class !== 'rejected') {
    const asked = verdict.class === 'rateLimited' ? (verdict.retryAfterMs ?? 0) : 0
    const restMs = Math.max(rest[verdict.class] ?? 0, isLast ? Math.min(asked, LONGEST_LAST_REST_MS) : asked)
    if (restMs > 0) return rested(condition, verdict.class, now + restMs, isTrial, tryAfter(now, chance()))
  }
  if (condition.kind === 'ready' || !isTrial) return condition
  if (verdict.kind === 'answered') return ready
  // It said nothing about the key: the next request tries it again.
  return isOpen(condition, now) ? condition : { ...condition, trialAt: null }
}

/** What another replica says of it: it rests longer, never shorter. One request may find out here, if no key is ready. */
export function told(
  condition: KeyCondition,
  { reason, untilAt }: Pick<RestingKey, 'reason' | 'untilAt'>,
  now: number,
): KeyCondition {
  if (condition.kind === 'ready') return rested(condition, reason, untilAt, false, now)
  if (condition.trialAt !== null || untilAt <= condition.untilAt) return condition
  return rested(condition, reason, untilAt, false, condition.tryAt)
}

/** Its rest is over: the next request tries it. */
export function restEnded(condition: KeyCondition, now: number): KeyCondition {
  return condition.kind === 'ready' ? ready : { ...condition, untilAt: Math.min(condition.untilAt, now) }
}

/** A key that has not proved itself is reported as what it was. */
export function stateOf(condition: KeyCondition): KeyState {
  if (condition.kind === 'ready') return 'ready'
  return condition.reason === 'creditsExhausted' ? 'spent' : 'resting'
}

/** Its state differs, or a trial was refused and it rests longer than was reported. */
export function isNews(before: KeyCondition, next: KeyCondition, now: number): boolean {
  if (before.kind === 'ready' || next.kind === 'ready') return before.kind !== next.kind
  const isRefused = before.trialAt !== null && next.trialAt === null
  return stateOf(before) !== stateOf(next) || (isRefused && next.untilAt > Math.max(before.untilAt, now))
}

/**
 * What a trial finds out replaces what was known, but for the end of a rest that is the same and not over. Otherwise the later end
 * and the more serious reason hold.
 */
function rested(
  before: KeyCondition,
  failure: FailureClass,
  untilAt: number,
  isTrial: boolean,
  tryAt: number,
): RestingKey {
  const fresh: RestingKey = { kind: 'resting', reason: failure, untilAt, tryAt, trialAt: null }
  if (before.kind === 'ready') return fresh
  if (isTrial && (isKeyRefused(failure) || !isKeyRefused(before.reason))) {
    const isSame = failure === before.reason && before.untilAt > tryAt && isKeyRefused(failure)
    return isSame ? { ...fresh, untilAt: before.untilAt } : fresh
  }
  const reason = severityOf(before.reason) > severityOf(failure) ? before.reason : failure
  return { ...fresh, reason, untilAt: Math.max(untilAt, before.untilAt) }
}

function tryAfter(now: number, chance: number): number {
  return now + TRY_EVERY_MS * (1 - TRY_SPREAD * chance)
}

function severityOf(failure: FailureClass): number {
  return failures[failure].keySeverity ?? 0
}

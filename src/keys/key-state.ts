/**
 * What is known of one upstream key, as a state machine of plain values. A key that met its limit rests; one without
 * credits, or that was refused, must pass a trial of one request after its rest before it is trusted again. A rest is only
 * ever extended. Pure: the time is a parameter.
 */
import { type FailureClass, failures, isKeyRefused } from '../failures.ts'
import type { RetryPolicy, Verdict } from '../model.ts'
import type { KeyState } from '../telemetry/events.ts'

export type KeyCondition =
  | { readonly kind: 'ready' }
  | { readonly kind: 'resting'; readonly untilAt: number; readonly because: FailureClass }
  | { readonly kind: 'spent'; readonly untilAt: number }
  /** Its rest is over. `lentUntil`: one request has it now, and no other may until then; null = nobody has. */
  | { readonly kind: 'trial'; readonly because: FailureClass; readonly lentUntil: number | null }

/** How long a key that met a failure of this class rests; null or absent = it does not. */
export type KeyRest = Readonly<Partial<Record<FailureClass, number | null>>>

/** As the settings say it, class by class. */
export function restsIn({ classes }: RetryPolicy): KeyRest {
  return Object.fromEntries(Object.entries(classes).map(([name, { keyRest }]) => [name, keyRest]))
}

export const ready: KeyCondition = { kind: 'ready' }

/** A trial that has told nothing for so long blocks the next one no more. */
const trialMs = 60_000

/** What the passing of time made of it. */
export function awaken(condition: KeyCondition, now: number): KeyCondition {
  if (!isResting(condition) || now < condition.untilAt) return condition
  const because = becauseOf(condition)
  return because !== null && isKeyRefused(because) ? { kind: 'trial', because, lentUntil: null } : ready
}

export function isLendable(condition: KeyCondition, now: number): boolean {
  if (condition.kind === 'trial') return condition.lentUntil === null || now >= condition.lentUntil
  return condition.kind === 'ready'
}

export function lend(condition: KeyCondition, now: number): KeyCondition {
  return condition.kind === 'trial' ? { ...condition, lentUntil: now + trialMs } : condition
}

/** What a verdict makes of it. `isTrial`: it is the verdict on the one request that the key was tried with. */
export function judge(
  condition: KeyCondition,
  verdict: Verdict,
  isTrial: boolean,
  now: number,
  rest: KeyRest,
): KeyCondition {
  if (verdict.kind === 'failed' && verdict.class !== 'rejected') {
    const restMs = restOf(verdict.class, verdict.retryAfterMs, rest)
    if (restMs > 0) return layDown(condition, now + restMs, verdict.class)
  }
  if (condition.kind !== 'trial' || !isTrial) return condition
  return verdict.kind === 'answered' ? ready : { ...condition, lentUntil: null }
}

/** What another secret makes of it: distrust was of the old one, so it is tried at once; a limit may be of the account. */
export function renew(condition: KeyCondition): KeyCondition {
  const because = becauseOf(condition)
  return because === null || because === 'rateLimited' ? condition : { kind: 'trial', because, lentUntil: null }
}

/** What another replica says of it: it rests longer, never shorter. */
export function heed(condition: KeyCondition, untilAt: number, because: FailureClass): KeyCondition {
  return untilAt > (untilOf(condition) ?? 0) ? layDown(condition, untilAt, because) : condition
}

/** When it may be used again; null = now, or when its trial ends, which nobody knows. */
export function untilOf(condition: KeyCondition): number | null {
  return isResting(condition) ? condition.untilAt : null
}

/** A key on trial is shown as what it was: it has not proved anything yet. */
export function labelOf(condition: KeyCondition): KeyState {
  if (condition.kind !== 'trial') return condition.kind
  return condition.because === 'creditsExhausted' ? 'spent' : 'resting'
}

export function becauseOf(condition: KeyCondition): FailureClass | null {
  if (condition.kind === 'ready') return null
  return condition.kind === 'spent' ? 'creditsExhausted' : condition.because
}

function isResting(condition: KeyCondition): condition is Extract<KeyCondition, { untilAt: number }> {
  return condition.kind === 'resting' || condition.kind === 'spent'
}

function restOf(failure: FailureClass, retryAfterMs: number | null, rest: KeyRest): number {
  const asked = failure === 'rateLimited' ? (retryAfterMs ?? 0) : 0
  return Math.max(rest[failure] ?? 0, asked)
}

/** The later end holds, and the graver reason; but what is found out by a trial is newer than what led to it. */
function layDown(condition: KeyCondition, untilAt: number, failure: FailureClass): KeyCondition {
  const before = condition.kind === 'trial' && isKeyRefused(failure) ? null : becauseOf(condition)
  const because = before && severityOf(before) > severityOf(failure) ? before : failure
  const until = Math.max(untilAt, untilOf(condition) ?? 0)
  return because === 'creditsExhausted'
    ? { kind: 'spent', untilAt: until }
    : { kind: 'resting', untilAt: until, because }
}

function severityOf(failure: FailureClass): number {
  return failures[failure].keySeverity ?? 0
}

/** What a failed attempt and the policies of those who wait allow. Pure. */
import type { Code } from '../errors.ts'
import { failureClasses } from '../failures.ts'
import type { Call, Refused, RetryPolicy, Verdict } from '../model.ts'

type Failed = Extract<Verdict, { kind: 'failed' }>

/**
 * What was charged is not asked again. Upstream may take a submitted job twice, so it is repeated only after an answer, or where nothing
 * was sent. `onceFailures`: failures so far after which one repetition is allowed, this one included.
 */
export function mayAskAgain(call: Call, onceFailures: number, verdict: Failed): boolean {
  if (verdict.charge.state === 'charged' || verdict.repeatable === 'never') return false
  if (verdict.repeatable === 'once' && onceFailures > 1) return false
  if (call.endpoint !== 'submit') return true
  return verdict.class === 'unreachable' || (verdict.class !== 'ambiguous' && verdict.reply !== null)
}

/** The most attempts, in all and for each class, that one of these policies allows; everything else as the first one says. Null = there is none. */
export function mostGenerous(policies: ReadonlySet<RetryPolicy>): RetryPolicy | null {
  const [first, ...others] = policies
  if (!first || others.length === 0) return first ?? null
  return others.reduce((one, other) => {
    const classes = { ...one.classes }
    for (const failure of failureClasses) {
      const attempts = Math.max(classes[failure].attempts, other.classes[failure].attempts)
      classes[failure] = { ...classes[failure], attempts }
    }
    const attempts = Math.max(one.attempts, other.attempts)
    return { attempts, deadline: Math.max(one.deadline, other.deadline), classes }
  }, first)
}

/** Why a flight ends whose repetition was refused with this code. */
export function reasonOf(code: Code): Refused {
  if (code === 'NO_KEY_AVAILABLE') return 'key'
  if (code === 'DEADLINE_EXCEEDED') return 'deadline'
  if (code === 'SHUTTING_DOWN') return 'shutdown'
  return code === 'OVERLOADED' ? 'places' : 'breaker'
}

/**
 * Asks again, while it makes sense: while somebody waits long enough, the policy of the failure's class allows it and the
 * retry budget pays. A key that is used up is replaced at once by another one.
 *
 * Promises: no attempt starts after the last asker's deadline, or when nobody waits; what upstream really said beats why
 * we stopped asking; a job is submitted again only where nothing can have been submitted. Knows nothing of the wire.
 */
import { ProxyError, type Code } from '../errors.ts'
import { type FailureClass, failures, isKeyRefused } from '../failures.ts'
import type { Attempt, Call, ClassPolicy, Landing, Refused, RetryPolicy, Verdict } from '../model.ts'
import type { Attempted, Flight, Retry, Turn } from '../parts.ts'
import type { Clock, Emit, Random } from '../ports.ts'
import { backoffMs } from './backoff.ts'
import type { Allowance, RetryBudget } from './retry-budget.ts'

interface RetryPorts {
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
  readonly budget: RetryBudget
  /** True = no repetition any more. While a drain lets open requests finish, it is still false. */
  readonly isDraining?: () => boolean
}

type Failed = Extract<Verdict, { kind: 'failed' }>

/** What to do after a failed attempt. */
type Step = { readonly kind: 'stop'; readonly reason: Refused } | Repeat

interface Repeat {
  readonly kind: 'repeat'
  readonly class: FailureClass
  readonly waitMs: number
  readonly bypassCache: boolean
}

/** What one flight has been through. */
interface Course {
  readonly call: Call
  readonly policy: RetryPolicy
  readonly flight: Flight
  readonly allowance: Allowance
  readonly attempts: Attempt[]
  readonly failures: Map<FailureClass, number>
  /** Keys that this flight must not use again: spent or refused ones for good, limited ones until the next pause. */
  readonly spentKeys: Map<string, FailureClass>
  /** Attempts after which another key took over. */
  uncounted: number
}

export function createRetry({ clock, random, emit, budget, isDraining = () => false }: RetryPorts): Retry {
  return { run }

  async function run(
    call: Call,
    policy: RetryPolicy,
    flight: Flight,
    attempt: (turn: Turn) => Promise<Attempted>,
  ): Promise<Landing> {
    let wasAbandoned = false
    const stopListening = flight.onAbandoned(() => void (wasAbandoned = true))
    try {
      return await fly(call, policy, flight, async (turn) => {
        wasAbandoned = false
        const tried = await attempt(turn)
        // Told only now: an attempt that was refused, or waited for its place in vain, has asked nothing.
        if (wasAbandoned) emit({ kind: 'flight-orphaned', scraper: call.scraper })
        return tried
      })
    } finally {
      stopListening()
    }
  }

  async function fly(
    call: Call,
    policy: RetryPolicy,
    flight: Flight,
    attempt: (turn: Turn) => Promise<Attempted>,
  ): Promise<Landing> {
    const course: Course = {
      call,
      policy,
      flight,
      allowance: budget.open(call.scraper),
      attempts: [],
      failures: new Map(),
      spentKeys: new Map(),
      uncounted: 0,
    }
    if (flight.patienceUntil() <= clock.now())
      throw new ProxyError('DEADLINE_EXCEEDED', "The request's time was up before it could be asked.")

    let waitedMs = 0
    let repeat: Repeat | null = null
    let last: Failed | null = null
    for (;;) {
      let tried: Attempted
      try {
        tried = await attempt(turnOf(course, waitedMs, repeat?.bypassCache ?? false))
      } catch (error) {
        if (!last || !(error instanceof ProxyError)) throw error
        course.allowance.unused()
        return stop(course, last, reasonOf(error.code))
      }
      const { verdict } = tried
      course.attempts.push(tried.attempt)
      if (repeat) emit({ kind: 'retried', scraper: call.scraper, class: repeat.class, waitMs: waitedMs })
      if (verdict.kind === 'answered') {
        course.allowance.succeeded()
        return landing(course, verdict, null)
      }

      last = verdict
      flight.report(landing(course, verdict, 'deadline'))
      const step = decide(course, tried, verdict, repeat)
      if (step.kind === 'stop') return stop(course, verdict, step.reason)

      waitedMs = await pause(flight, step.waitMs)
      // The world may have changed meanwhile: whoever would have waited long enough may be gone.
      const late = hindrance(course, 0)
      if (late) {
        course.allowance.unused()
        return stop(course, verdict, late)
      }
      repeat = step
    }
  }

  function decide(course: Course, tried: Attempted, verdict: Failed, before: Repeat | null): Step {
    if (verdict.class === 'rejected') return { kind: 'stop', reason: 'final' }
    const failure = verdict.class
    const policy = course.policy.classes[failure]
    if (!mayAskAgain(course.call, verdict)) return { kind: 'stop', reason: 'final' }
    const { keyName } = tried.attempt
    if (verdict.fault === 'key' && tried.otherKeyReady && !course.spentKeys.has(keyName))
      return failOver(course, failure, keyName, before)
    const sameClass = (course.failures.get(failure) ?? 0) + 1
    course.failures.set(failure, sameClass)
    return sameKeyAgain(course, policy, verdict, failure, sameClass)
  }

  /** Only the key is at fault: another key takes over at once, and the attempt does not count. Bounded by the number of keys. */
  function failOver(course: Course, failure: FailureClass, keyName: string, before: Repeat | null): Step {
    course.uncounted += 1
    const reason = hindrance(course, 0)
    if (reason) return { kind: 'stop', reason }
    course.spentKeys.set(keyName, failure)
    return { kind: 'repeat', class: failure, waitMs: 0, bypassCache: before?.bypassCache ?? false }
  }

  function sameKeyAgain(
    course: Course,
    policy: ClassPolicy,
    verdict: Failed,
    failure: FailureClass,
    sameClass: number,
  ): Step {
    if (sameClass >= policy.attempts) return { kind: 'stop', reason: isKeyRefused(failure) ? 'key' : 'attempts' }
    if (counted(course) >= course.policy.attempts) return { kind: 'stop', reason: 'attempts' }
    const waitMs = backoffMs(policy.backoff, sameClass, verdict.retryAfterMs, random.next())
    const reason = hindrance(course, waitMs)
    if (reason) return { kind: 'stop', reason }
    // Asked last: what is refused for another reason costs nothing.
    if (!course.allowance.pay(failures[failure].isSlow)) return { kind: 'stop', reason: 'budget' }
    for (const [key, because] of course.spentKeys) if (!isKeyRefused(because)) course.spentKeys.delete(key)
    return { kind: 'repeat', class: failure, waitMs, bypassCache: policy.bypassCache }
  }

  /** Why no attempt may start in so many milliseconds; null = one may. */
  function hindrance({ flight }: Course, waitMs: number): Refused | null {
    if (isDraining()) return 'shutdown'
    const patienceUntil = flight.patienceUntil()
    if (patienceUntil === 0) return 'abandoned'
    return clock.now() + waitMs < patienceUntil ? null : 'deadline'
  }

  /** Sleeps while somebody waits; who boards an abandoned flight in time finds the pause going on. Returns its length. */
  async function pause(flight: Flight, ms: number): Promise<number> {
    const startedAt = clock.now()
    const until = startedAt + ms
    while (clock.now() < until && flight.patienceUntil() > 0 && !isDraining()) await nap(flight, until - clock.now())
    return clock.now() - startedAt
  }

  function nap(flight: Flight, ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = clock.after(ms, wake)
      const stopListening = flight.onAbandoned(wake)
      function wake(): void {
        timer.cancel()
        stopListening()
        resolve()
      }
    })
  }

  function turnOf({ attempts, spentKeys, flight }: Course, waitedMs: number, bypassCache: boolean): Turn {
    return {
      number: attempts.length + 1,
      waitedMs,
      bypassCache,
      spentKeys: new Set(spentKeys.keys()),
      leftMs: () => flight.patienceUntil() - clock.now(),
    }
  }

  function stop(course: Course, verdict: Failed, reason: Refused): Landing {
    if (reason !== 'final') emit({ kind: 'retry-refused', scraper: course.call.scraper, reason })
    return landing(course, verdict, reason)
  }
}

/** Upstream may take a submitted job twice, so it is repeated only after an answer, or where nothing was sent. */
function mayAskAgain(call: Call, verdict: Failed): boolean {
  if (call.endpoint !== 'submit') return true
  return verdict.class === 'unreachable' || (verdict.class !== 'ambiguous' && verdict.reply !== null)
}

function counted({ attempts, uncounted }: Course): number {
  return attempts.length - uncounted
}

function landing({ attempts }: Course, verdict: Verdict, stoppedBy: Refused | null): Landing {
  return {
    verdict,
    attempts: [...attempts],
    stoppedBy,
    chargedCredits: attempts.reduce((sum, { charge }) => sum + (charge.state === 'charged' ? charge.credits : 0), 0),
    entry: null,
  }
}

function reasonOf(code: Code): Refused {
  if (code === 'NO_KEY_AVAILABLE') return 'key'
  if (code === 'DEADLINE_EXCEEDED') return 'deadline'
  if (code === 'SHUTTING_DOWN') return 'shutdown'
  // CIRCUIT_OPEN, and OVERLOADED: both protect upstream and us from more load.
  return 'breaker'
}

/**
 * Repeats an attempt while somebody waits, the policy of the failure's class allows it and the retry budget pays. A key that is
 * used up is replaced at once by another one. Where several clients wait, the most generous of their policies holds.
 *
 * Promises: no attempt starts when nobody waits, or with less than 10 s left of the flight's deadline; what upstream really said
 * takes precedence over the reason for stopping; a job is submitted again only where nothing can have been submitted. Knows
 * nothing of the wire.
 */
import { ProxyError } from '../errors.ts'
import { type FailureClass, failures, isKeyRefused } from '../failures.ts'
import type { Attempt, Call, ClassPolicy, Landing, Refused, RetryPolicy, Verdict } from '../model.ts'
import type { Attempted, Retry, Spender, Turn } from '../fetch-parts.ts'
import type { Flight } from '../flights.ts'
import type { Clock, Emit, Random } from '../ports.ts'
import { backoffMs } from './backoff.ts'
import type { Allowance, RetryBudget } from './retry-budget.ts'
import { mayAskAgain, mostGenerous, reasonOf } from './retry-policy.ts'

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
  readonly isLast: boolean
  readonly isOverBudget: boolean
  /** The retry budget paid for it. */
  readonly isPaid: boolean
}

/** What one flight has been through. */
interface State {
  readonly call: Call
  /** The most generous of those who wait; when nobody does, the last one. */
  policy: RetryPolicy
  readonly flight: Flight
  readonly allowance: Allowance
  readonly attempts: Attempt[]
  readonly failures: Map<FailureClass, number>
  /** Keys that this flight must not use again: spent or refused ones for good, limited ones until the next pause. */
  readonly spentKeys: Map<string, FailureClass>
  /** Attempts after which another key took over, or that upstream sent back as one call too many. */
  uncounted: number
  /** Failures after which one repetition is allowed in all. */
  onceFailures: number
  /** How often upstream sent it back as one call too many. */
  returns: number
  /** The last failure that upstream answered; null = none has been. */
  answer: Failed | null
}
/** A repetition that takes nothing from the retry budget. */
const free = { isLast: false, isOverBudget: false, isPaid: false }
/** The smallest `timeout` that upstream takes (docs/vendor-api.md): an attempt with less time left would be refused. */
const SHORTEST_ATTEMPT_MS = 10_000
/** What the first attempt needs at least of a `retry.deadline` that is hardly longer than that, or shorter. */
const FIRST_ATTEMPT_SHARE = 0.9

class RetryLoop implements Retry {
  readonly #clock: Clock
  readonly #random: Random
  readonly #emit: Emit
  readonly #budget: RetryBudget
  readonly #isDraining: () => boolean

  constructor({ clock, random, emit, budget, isDraining = () => false }: RetryPorts) {
    this.#clock = clock
    this.#random = random
    this.#emit = emit
    this.#budget = budget
    this.#isDraining = isDraining
  }

  readonly run = async (
    call: Call,
    spender: Spender,
    flight: Flight,
    attempt: (turn: Turn) => Promise<Attempted | null>,
  ): Promise<Landing> => {
    let wasAbandoned = false
    const stopListening = flight.onAbandoned(() => void (wasAbandoned = true))
    try {
      return await this.#fly(call, spender, flight, async (turn) => {
        wasAbandoned = false
        const tried = await attempt(turn)
        // Told only now: an attempt that was refused, or waited for its place in vain, has asked nothing.
        if (wasAbandoned) this.#emit({ kind: 'flight-orphaned', scraper: call.scraper })
        return tried
      })
    } finally {
      stopListening()
    }
  }

  async #fly(
    call: Call,
    spender: Spender,
    flight: Flight,
    attempt: (turn: Turn) => Promise<Attempted | null>,
  ): Promise<Landing> {
    const policy = mostGenerous(flight.policies())
    if (policy === null || flight.patienceUntil() <= this.#clock.now()) throw tooLate()
    const state: State = {
      call,
      policy,
      flight,
      allowance: this.#budget.open(call.scraper, spender),
      attempts: [],
      failures: new Map(),
      spentKeys: new Map(),
      uncounted: 0,
      onceFailures: 0,
      returns: 0,
      answer: null,
    }
    let waitedMs = 0
    let repeat: Repeat | null = null
    let last: Failed | null = null
    for (;;) {
      let tried: Attempted | null
      try {
        tried = await attempt(this.#turnOf(state, waitedMs, repeat))
      } catch (error) {
        if (!last || !(error instanceof ProxyError)) throw error
        if (repeat?.isPaid) state.allowance.unused()
        return this.#stop(state, last, flight.patienceUntil() === 0 ? 'abandoned' : reasonOf(error.code))
      }
      if (!tried) {
        if (!last) throw new TypeError('The first attempt needs no budget')
        return this.#stop(state, last, 'budget')
      }
      const { verdict } = tried
      state.attempts.push(tried.attempt)
      if (repeat) this.#emit({ kind: 'retried', scraper: call.scraper, class: repeat.class, waitMs: waitedMs })
      if (verdict.kind === 'answered') {
        state.allowance.succeeded()
        return landing(state, verdict, null)
      }

      last = verdict
      if (isAnswer(verdict)) state.answer = verdict
      flight.report(state.answer && landing(state, state.answer, 'deadline'))
      const step = this.#decide(state, tried, verdict, repeat)
      if (step.kind === 'stop') return this.#stop(state, verdict, step.reason)

      waitedMs = await this.#pause(flight, step.waitMs)
      // The world may have changed meanwhile: whoever would have waited long enough may be gone.
      const late = this.#hindrance(state, 0)
      if (late) {
        if (step.isPaid) state.allowance.unused()
        return this.#stop(state, verdict, late)
      }
      repeat = step
    }
  }

  #decide(state: State, tried: Attempted, verdict: Failed, before: Repeat | null): Step {
    if (verdict.class === 'rejected') return { kind: 'stop', reason: 'final' }
    const failure = verdict.class
    state.policy = mostGenerous(state.flight.policies()) ?? state.policy
    if (verdict.repeatable === 'once') state.onceFailures += 1
    const policy = state.policy.classes[failure]
    if (!mayAskAgain(state.call, state.onceFailures, verdict)) return { kind: 'stop', reason: 'final' }
    const { keyName } = tried.attempt
    if (verdict.fault === 'key' && tried.otherKeyReady && !state.spentKeys.has(keyName))
      return this.#failOver(state, failure, keyName, before)
    // Who allows one attempt only has ruled out any repetition.
    if (tried.wasTooMany && Math.min(policy.attempts, state.policy.attempts) > 1)
      return this.#sendBack(state, policy, verdict, failure, before)
    const sameClass = (state.failures.get(failure) ?? 0) + 1
    state.failures.set(failure, sameClass)
    return this.#sameKeyAgain(state, policy, verdict, failure, sameClass)
  }

  /** Only the key is at fault: another key takes over at once, and the attempt does not count. Bounded by the number of keys. */
  #failOver(state: State, failure: FailureClass, keyName: string, before: Repeat | null): Step {
    state.uncounted += 1
    const reason = this.#hindrance(state, 0)
    if (reason) return { kind: 'stop', reason }
    state.spentKeys.set(keyName, failure)
    const bypassCache = before?.bypassCache ?? false
    return { kind: 'repeat', class: failure, waitMs: 0, bypassCache, ...free }
  }

  /** The proxy offered more calls than upstream takes. The attempt does not count: the call waits for a place again, now among fewer. */
  #sendBack(state: State, policy: ClassPolicy, verdict: Failed, failure: FailureClass, before: Repeat | null): Step {
    state.uncounted += 1
    state.returns += 1
    const waitMs = backoffMs(policy.backoff, state.returns, verdict.retryAfterMs, this.#random.next())
    const reason = this.#hindrance(state, waitMs)
    if (reason) return { kind: 'stop', reason }
    this.#forgetLimits(state)
    const bypassCache = before?.bypassCache ?? false
    return { kind: 'repeat', class: failure, waitMs, bypassCache, ...free }
  }

  /** After a pause, keys that were limited may be used again. */
  #forgetLimits({ spentKeys }: State): void {
    for (const [key, because] of spentKeys) if (!isKeyRefused(because)) spentKeys.delete(key)
  }

  #sameKeyAgain(state: State, policy: ClassPolicy, verdict: Failed, failure: FailureClass, sameClass: number): Step {
    if (sameClass >= policy.attempts) return { kind: 'stop', reason: isKeyRefused(failure) ? 'key' : 'attempts' }
    if (counted(state) >= state.policy.attempts) return { kind: 'stop', reason: 'attempts' }
    const waitMs = backoffMs(policy.backoff, sameClass, verdict.retryAfterMs, this.#random.next())
    const reason = this.#hindrance(state, waitMs)
    if (reason) return { kind: 'stop', reason }
    // Asked last: what is refused for another reason costs nothing.
    const isPaid = state.allowance.pay(failures[failure].isSlow)
    // Only what the circuit counts can open it.
    if (!isPaid && verdict.health === 'neutral') return { kind: 'stop', reason: 'budget' }
    this.#forgetLimits(state)
    const isLast = sameClass + 1 >= policy.attempts || counted(state) + 1 >= state.policy.attempts
    const { bypassCache } = policy
    return { kind: 'repeat', class: failure, waitMs, bypassCache, isLast, isOverBudget: !isPaid, isPaid }
  }

  /** Why no attempt may start in so many milliseconds; null = one may. */
  #hindrance(state: State, waitMs: number): Refused | null {
    if (this.#isDraining()) return 'shutdown'
    if (state.flight.patienceUntil() === 0) return 'abandoned'
    return waitMs < this.#startableMs(state) ? null : 'deadline'
  }

  #startableMs({ flight, attempts, policy }: State): number {
    const neededMs =
      attempts.length > 0 ? SHORTEST_ATTEMPT_MS : Math.min(SHORTEST_ATTEMPT_MS, FIRST_ATTEMPT_SHARE * policy.deadline)
    return Math.min(flight.patienceUntil(), flight.endsAt() - neededMs) - this.#clock.now()
  }

  /** Sleeps while somebody waits; who boards an abandoned flight in time finds the pause going on. Returns its length. */
  async #pause(flight: Flight, ms: number): Promise<number> {
    const startedAt = this.#clock.now()
    const until = startedAt + ms
    while (this.#clock.now() < until && flight.patienceUntil() > 0 && !this.#isDraining())
      await this.#nap(flight, until - this.#clock.now())
    return this.#clock.now() - startedAt
  }

  #nap(flight: Flight, ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = this.#clock.after(ms, wake)
      const stopListening = flight.onAbandoned(wake)
      function wake(): void {
        timer.cancel()
        stopListening()
        resolve()
      }
    })
  }

  #turnOf(state: State, waitedMs: number, repeat: Repeat | null): Turn {
    const { attempts, spentKeys, flight } = state
    return {
      number: attempts.length + 1,
      waitedMs,
      bypassCache: repeat?.bypassCache ?? false,
      isLast: repeat?.isLast ?? false,
      isOverBudget: repeat?.isOverBudget ?? false,
      spentKeys: new Set(spentKeys.keys()),
      leftMs: () => Math.max(SHORTEST_ATTEMPT_MS, flight.endsAt() - this.#clock.now()),
      startableMs: () => this.#startableMs(state),
    }
  }

  #stop(state: State, verdict: Failed, reason: Refused): Landing {
    if (reason !== 'final') this.#emit({ kind: 'retry-refused', scraper: state.call.scraper, reason })
    // Whether a job was submitted is what its last attempt says: an earlier answer would say that it was not.
    const told = verdict.reply || state.call.endpoint === 'submit' ? verdict : (state.answer ?? verdict)
    return landing(state, told, reason)
  }
}

export function createRetry(ports: RetryPorts): Retry {
  return new RetryLoop(ports)
}

function tooLate(): ProxyError {
  return new ProxyError('DEADLINE_EXCEEDED', 'The time limit of this request passed before upstream could be called.')
}

/** A refused key is the operator's to mend, and nothing to tell a caller. */
function isAnswer(verdict: Failed): boolean {
  return verdict.reply !== null && verdict.class !== 'unauthorized'
}

function counted({ attempts, uncounted }: State): number {
  return attempts.length - uncounted
}

function landing({ attempts }: State, verdict: Verdict, stoppedBy: Refused | null): Landing {
  return {
    verdict,
    attempts: [...attempts],
    stoppedBy,
    chargedCredits: attempts.reduce((sum, { charge }) => sum + charge.credits, 0),
    entry: null,
  }
}

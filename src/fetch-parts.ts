/**
 * What a fetch needs of each part on the way of an attempt, with the promises it relies on: place, circuit, key, credits, upstream,
 * and what decides on another attempt.
 */
import type { ProxyError } from './errors.ts'
import type { FailureClass } from './failures.ts'
import type { Flight, FlightLease, QueuedClient } from './flights.ts'
import type { Attempt, Call, Charge, Client, Health, Landing, RequestIdentity, Verdict, WireTrouble } from './model.ts'
import type { BreakerState, KeyState } from './telemetry/events.ts'

/** A place that is taken until it is left. */
export interface Place {
  /** Only the first call counts. */
  leave(): void
}

/** Limits the upstream calls under way, in all and per scraper. */
export interface Bulkhead {
  /**
   * Waits where there is no place, as long as somebody waits for the flight; clients take turns. It takes a turn of the most urgent
   * client that waits for it, of `payer` where nobody does. `isRepeat`: the same flight has been let in before, so it waits before all
   * others of that client. Throws, or rejects with, OVERLOADED.
   */
  enter(
    scraper: string,
    flight: Pick<Flight, 'mostUrgent' | 'onJoined' | 'onAbandoned'>,
    payer: QueuedClient,
    isRepeat: boolean,
  ): Permit | Promise<Permit>
}

/** A place among the upstream calls under way. */
export interface Permit extends Place {
  /**
   * How the call ended, before `leave`. True = upstream refused it because too many other calls were under way. With another key ready,
   * a rate limit is the key's and says nothing about the number of calls.
   */
  ended(verdict: Verdict, otherKeyReady: boolean): boolean
}

/** Credits set aside for one flight. What its attempts cost is taken from it, the rest goes back. */
export interface Hold {
  readonly id: string
  /**
   * Before each attempt: as much as it may cost is set aside, and written down so that even after a crash it counts as spent.
   * Rejects with BUDGET_EXHAUSTED when earlier attempts of this flight have used up what was set aside and no more is left.
   */
  secure(credits: number): Promise<void>
  /** After each attempt, with the name of the key that was used. What may have been charged counts as charged. */
  spend(charge: Charge, keyName?: string): void
  /** Gives back what was not spent. Never throws; only the first call counts. */
  settle(): void
}

/** What one attempt may know about the attempts before it. */
export interface Turn {
  readonly number: number
  readonly waitedMs: number
  readonly bypassCache: boolean
  /** How long an attempt that starts now may take: what is left of the flight's deadline, never less than upstream's smallest `timeout`. */
  leftMs(): number
  /** For how much longer an attempt may be started: somebody waits, and the flight's deadline leaves time for it. Negative = no more. */
  startableMs(): number
  /** A repetition after which there is no other: it is not made while the circuit may open. */
  readonly isLast: boolean
  /** The retry budget forbids it, unless the circuit was open, or might have opened, and lets it in. */
  readonly isOverBudget: boolean
  /** Names of keys that this flight must not use again. */
  readonly spentKeys: ReadonlySet<string>
}

export interface Attempted {
  readonly attempt: Attempt
  readonly verdict: Verdict
  /** Another key is ready that this flight has not used up: fail over to it at once. */
  readonly otherKeyReady: boolean
  /** Upstream refused it because too many other calls of ours were under way: the proxy offered too much, the request is as good as it was. */
  readonly wasTooMany: boolean
}

/** Whose repetitions these are: a question, and a client among several, take a part of the retry budget at most. */
export interface Spender {
  /** By name. */
  readonly client: string
  /** Equal = the same question. */
  readonly question: string
}

export interface Retry {
  /**
   * Repeats `attempt` while the policies of those who wait, deadline and retry budget allow; null from `attempt` = the budget
   * forbids it. The last real answer of upstream takes precedence over the reason for stopping: a refusal is thrown only when no
   * attempt was answered.
   */
  run(
    call: Call,
    spender: Spender,
    flight: Flight,
    attempt: (turn: Turn) => Promise<Attempted | null>,
  ): Promise<Landing>
}

/** An attempt that wants to pass a circuit. */
export interface BreakerEntry {
  readonly scraper: string
  /** Failures of one question alone never open a circuit. */
  readonly question: string
  readonly flight: Pick<Flight, 'patienceUntil' | 'onAbandoned' | 'held'>
  readonly isLast: boolean
  readonly isOverBudget: boolean
}

export interface Pass {
  /** How long it was held. */
  readonly heldMs: number
  /** The circuit has opened since: upstream must not be asked. */
  isVoid(): boolean
  /** Upstream is asked from now on. */
  start(): void
  /** How upstream is, as this attempt found it. For what must not happen before the circuit knows; else it learns from what `work` gives back. */
  ended(health: Health): void
}

export interface Breakers {
  /**
   * Lets an attempt pass, or holds it for a while where the circuit is open. Rejects with CIRCUIT_OPEN and the time until the next
   * trial. Null = the retry budget forbids it and the circuit stays closed. `work` gives null when its pass is void, and is then
   * called again; what it throws is not counted.
   */
  run(entry: BreakerEntry, work: (pass: Pass) => Promise<Attempted | null>): Promise<Attempted | null>
  /** Not closed. */
  isOpen(scraper: string): boolean
  states(): readonly BreakerStatus[]
}

export interface BreakerStatus {
  readonly scraper: string
  readonly state: BreakerState
  /** When the next trial is due; null unless it is open, and while the next attempt is the trial. */
  readonly openUntil: number | null
  /** Attempts that wait for it to close. */
  readonly held: number
}

export interface KeyLease {
  readonly name: string
  /** Null where the call needs none. */
  readonly secret: string | null
  report(verdict: Verdict): void
}

export interface Keys {
  /**
   * A ready key that this flight has not used up, heavier ones more often; a limited key that returns within moments is
   * waited for. Rejects with NO_KEY_AVAILABLE and the earliest return, and with DEADLINE_EXCEEDED when the attempt may not be started any more.
   */
  lease(call: Call, turn: Turn): Promise<KeyLease>
  hasOther(spent: ReadonlySet<string>): boolean
  /** What to tell a client when upstream has refused the last key: its 401 is the operator's to mend, and reads like a wrong client token. */
  refusal(): ProxyError
  states(): readonly KeyStatus[]
}

export interface KeyStatus {
  readonly name: string
  readonly state: KeyState
  /** Why it is not ready, and what an operator does about it; null = it is ready. */
  readonly problem: { readonly reason: FailureClass; readonly says: string; readonly remedy: string } | null
  /** The end of its rest; null = it is ready, or the next request tries it. */
  readonly untilAt: number | null
  /** When a request may use or try it, sooner than that where no other key is ready; null = now. */
  readonly tryAt: number | null
}

/** Traces of calls, where an OpenTelemetry SDK is loaded. */
export interface Traces {
  /** Asks upstream within the attempt of this flight that has just begun. `traceparent`: what upstream is told. */
  within<T>(flight: number, request: RequestIdentity, ask: (traceparent: string | null) => Promise<T>): Promise<T>
}

/** One attempt at upstream: as a plain call, or backed by a job. */
export interface Upstream {
  /** Never rejects: failures are verdicts. */
  ask(question: Question): Promise<Asked>
}

export interface Question {
  readonly call: Call
  readonly turn: Turn
  readonly key: KeyLease
  readonly identity: RequestIdentity
  readonly client: Client
  readonly hold: Hold
  /** Where the answer will be kept; null = nowhere. */
  readonly cacheKey: string | null
  /** The right to ask for all replicas. */
  readonly lease: FlightLease
  /** The job that a lost replica has left behind, as it was `submitted` to the lease; null = none. */
  readonly takeover: string | null
}

export interface Asked {
  readonly verdict: Verdict
  /** What upstream answered with; null = no complete answer. */
  readonly status: number | null
  /** Why there is none; null = there is, or nobody knows. */
  readonly trouble: WireTrouble | null
}

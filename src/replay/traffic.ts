/**
 * What is replayed: questions as they came, and what upstream would do with them. A recording is one kind of traffic, invented
 * questions are another; who replays them cannot tell the difference. Points in time are epoch milliseconds.
 */
import type { Code } from '../errors.ts'
import type { VerdictClass } from '../failures.ts'
import type { Call, Charge } from '../model.ts'

/** What upstream did with one attempt. */
export interface AttemptOutcome {
  readonly class: VerdictClass | 'ok'
  readonly status: number | null
  readonly durationMs: number
  readonly charge: Charge
  readonly retryAfterMs: number | null
  /** Nothing was asked at about that time, so nobody knows: it ends as the nearest in time did. */
  readonly isGuess?: boolean
}

export interface RecordedAttempt extends AttemptOutcome {
  readonly at: number
}

/** Of the attempts that were recorded for it, those that a policy makes are played in order. */
export interface Question {
  readonly number: number
  readonly at: number
  readonly client: string
  readonly scraper: string
  /** Null = it was refused before it was read. */
  readonly endpoint: Call['endpoint'] | null
  /** Equal = may share an answer; null = it never does. */
  readonly key: string | null
  readonly priceCredits: number
  readonly timeoutMs: number | null
  /** As it was recorded: the caller's own or, if that is shorter, the deadline of the policy. */
  readonly patienceMs: number | null
  readonly wish: 'bypass' | 'only-if-cached' | 'head' | null
  /** Its caller hung up after so long. */
  readonly goneAfterMs: number | null
  /** Its caller wanted a job id after so long instead of the answer. */
  readonly laterAfterMs: number | null
  /** Refused for what its caller did wrong, which no policy changes. */
  readonly refusal: { readonly code: Code; readonly status: number } | null
  /** The status it got from what was known about jobs. */
  readonly known: number | null
  readonly plays: readonly RecordedAttempt[]
}

/** An answer that is there without any of these questions having asked for it: from before, or from another replica. */
export interface Kept {
  readonly at: number
  readonly storedAt: number
  readonly key: string
  readonly scraper: string
  readonly priceCredits: number
  readonly client: string
}

/** What upstream would do. The same question always gets the same. */
export interface ResponseModel {
  /** `after` is how its attempt before ended; null = there was none. */
  draw(question: Question, attempt: number, after: VerdictClass | null, at: number): AttemptOutcome
  /** The same, if it were an answer. */
  drawOk(question: Question, attempt: number, at: number): AttemptOutcome
}

export interface Traffic {
  readonly count: number
  readonly from: number
  readonly until: number
  /** In the order of their time. */
  questions(): Iterable<Question>
  readonly kept: readonly Kept[]
  readonly responses: ResponseModel
}

export const FREE: Charge = { state: 'free', credits: 0 }

/**
 * What the pipeline needs of each part, with the promises it relies on. Parts throw a ProxyError to end an exchange
 * and return values to continue it. What a fetch needs is in `fetch-parts.ts` and `flights.ts`.
 */
import type { Hold, KeyLease, Place, Turn } from './fetch-parts.ts'
import type {
  CacheDirectives,
  CachePolicy,
  Call,
  Client,
  Entry,
  Exchange,
  Landing,
  LimitState,
  Lookup,
  Outcome,
  ProxyRequest,
  PurgeFilter,
  Reply,
  RequestIdentity,
  UpstreamRequest,
  Verdict,
  WireResult,
} from './model.ts'
import type { OverloadState } from './telemetry/events.ts'

export interface Clients {
  /** Compares in constant time. Throws CLIENT_UNKNOWN, and ORIGIN_REFUSED for a web page without a known token. */
  identify(request: ProxyRequest): Client
}

/** All that is known about the vendor: pure functions over tables. */
export interface Profile {
  /** The name of the vendor, for people. */
  readonly vendor: string
  /** Closed list: metric labels, and the scrapers that have a circuit breaker. */
  readonly scrapers: readonly string[]
  /** Throws ENDPOINT_UNKNOWN, METHOD_NOT_ALLOWED (with `allow`) or REQUEST_INVALID. */
  read(request: ProxyRequest): Call
  /** Builds the request from an allow-list: nothing of the caller's headers gets in but what is named here. */
  sign(call: Call, turn: Turn, key: KeyLease, identity: RequestIdentity): UpstreamRequest
  /** Never throws. `secret` is looked for in the reply and blotted out. */
  classify(call: Call, result: WireResult, key: KeyLease): Verdict
  /** The body as it is given to those who did not pay for it: `cached: true`, `credits_used: 0`. */
  replay(body: Buffer): Buffer
  readonly jobs: JobDialect
}

/** Jobs in upstream's words: what its documents mean, and documents of our own that read like its own. */
export interface JobDialect {
  /** The job that a poll asks for, as `canonicalId` has it. */
  idOf(poll: Call): string
  /** Two ids that upstream might take for one are the same. */
  canonicalId(id: string): string
  /** The id in the reply to a submission. */
  submittedId(reply: Reply): string | null
  /** Null = not the document of a job. */
  read(document: Reply): JobState | null
  /** The same question as a job, and back. */
  toSubmission(question: Call): Call
  toQuestion(submission: Call): Call
  toPoll(id: string, question: Call): Call
  /** Throws REQUEST_INVALID for a question that upstream refuses for certain: no answer of it can be promised. */
  mayPromise(question: Call): void
  /** How the question would have been answered at once, now that its job has ended: 200 or an error. Null = it has not. */
  toAnswer(question: Call, document: Reply): Reply | null
  /** What upstream says of a failure, in its words; null = nothing that can be read. */
  errorOf(reply: Reply): string | null
  write(job: OwnJob): Reply
  /** What whoever must not know of a job gets: just what upstream says of an id it does not know. */
  readonly unknown: Reply
}

export interface JobState {
  readonly status: 'pending' | 'done' | 'failed'
  /** Null = not said, or not understood. */
  readonly createdAt: number | null
  readonly completedAt: number | null
}

/** A job that upstream knows nothing of. */
export interface OwnJob {
  readonly id: string
  readonly question: Call
  readonly createdAt: number
  readonly state:
    | { readonly kind: 'accepted' }
    | { readonly kind: 'pending' }
    /** `answer` is the body that the question was answered with. */
    | { readonly kind: 'done'; readonly completedAt: number; readonly answer: Buffer }
    /** `error` null = nothing to say but that it failed. */
    | { readonly kind: 'failed'; readonly completedAt: number; readonly error: string | null }
}

export interface Admission {
  /** Throws RATE_LIMITED with the time to wait, or SCRAPER_NOT_ALLOWED. Null = this client has no limit. */
  admit(client: Client, call: Call): LimitState | null | Promise<LimitState | null>
  /**
   * A request that was admitted is refused for want of places or credits, and does not use up the rate. `leftMs`: until time alone
   * has given that request back. Says where the client stands then.
   */
  giveBack(client: Client, limits: LimitState, leftMs: number): LimitState
  /** A place among the client's open questions. Throws CONCURRENCY_LIMITED. */
  enter(client: Client): Place | Promise<Place>
}

/** Whether the process has more to do than it can. */
export interface Overload {
  readonly state: OverloadState
  /** Throws OVERLOADED while known answers are all that is given. */
  mayAsk(): void
}

/** Credits of a client per UTC day and month. Credits are integers; no interleaving ever spends more than the limit. */
export interface Budget {
  /** Sets aside what one attempt at this call may cost. Rejects with BUDGET_EXHAUSTED and the time to the reset. */
  hold(client: Client, call: Call): Promise<Hold>
  /** For those who ride along on what somebody else pays. */
  readonly none: Hold
  /** Takes up a hold that an earlier process has left behind, by its id; null when it is not known. */
  adopt(holdId: string): Hold | null
  /** Upstream has given back what was spent at this point of the wall's time. */
  refund(
    client: string,
    credits: number,
    spentAt: number,
    about?: { readonly scraper: string; readonly key: string },
  ): void
  /** At least a fifth of the client's budget is left. */
  hasRoom(client: Client): boolean
  /** Where the client stands, for the `RateLimit` headers; empty without limits. */
  limits(client: Client): readonly LimitState[]
  states(): readonly BudgetStatus[]
}

export interface BudgetStatus {
  /** Empty = the account as a whole. */
  readonly client: string
  readonly period: 'day' | 'month'
  readonly limitCredits: number
  /** left + held + spent = limit, at every moment. */
  readonly leftCredits: number
  readonly heldCredits: number
  readonly spentCredits: number
  readonly resetAt: number
}

/** What is known about jobs: who owns them, what they were submitted for, how they ended. */
export interface Jobs {
  /**
   * The way of a submission or a poll: a known answer is given (`job`), else `asked` is forwarded: `call`, or the poll of an unknown job
   * in place of another client's. Polls of one job that come together are one (`joinKey`). The flight goes `through` here before its
   * waiters get the landing, so that what it brings is remembered even when its caller has left. Throws IDEMPOTENCY_CONFLICT, IDEMPOTENCY_UNRESOLVED or IDEMPOTENCY_UNAVAILABLE.
   */
  follow(
    request: ProxyRequest,
    client: Client,
    call: Call,
    forward: (asked: Call, joinKey: string | null, through: Through) => Promise<Outcome>,
  ): Promise<Outcome>
  /** Answers a question later: 202 with the id of a job, under which `landing` can be polled. */
  promise(client: Client, call: Call, landing: Promise<Landing | null>): JobReply | Promise<JobReply>
  /** What a dead process promised and did not keep; it fails unless it is resumed. */
  interrupted(): readonly PromisedAnswer[] | Promise<readonly PromisedAnswer[]>
  /** From when it resolves on, the promise is this process's. */
  resume(id: string, landing: Promise<Landing | null>): void | Promise<void>
}

export type JobReply = Extract<Outcome, { kind: 'job' }>

export type Through = (flight: Promise<Landing>) => Promise<Landing>

export interface PromisedAnswer {
  readonly id: string
  /** By name. */
  readonly client: string
  readonly call: Call
}

export interface Cache {
  /** Where this client's answer to this call is kept; null = nowhere. */
  keyOf(call: Call, client: Client): string | null
  /** Never throws: a sick tier is a miss. `until`, by the clock: so long a tier that went away a moment ago may be waited for. */
  lookup(
    key: string | null,
    call: Call,
    cacheDirectives: CacheDirectives,
    policy: CachePolicy,
    until: number,
  ): Lookup | Promise<Lookup>
  /** Never throws. Null = not to be kept. `unclaimed`: nobody waits for it any more; `ageMs`: how long ago it was answered; `isPassedOn`: other replicas get it from its flight. */
  store(
    key: string | null,
    call: Call,
    verdict: Verdict,
    policy: CachePolicy,
    kept: { readonly unclaimed: boolean; readonly ageMs: number; readonly isPassedOn: boolean },
  ): Entry | null
  /** Somebody has got this entry now. */
  claim(key: string, entry: Entry): void
  /** Drops what matches from all tiers; says how many entries that were. */
  purge(filter: PurgeFilter): number
}

/** Answers one request; at once where nothing has to be waited for. Never throws or rejects. */
export type Handle = (exchange: Exchange) => Outcome | Promise<Outcome>

export interface Recorder {
  /** The exchange waits for something: it is under way until the place is left, right before it is recorded. */
  begin(exchange: Exchange): Place
  /** Once per exchange, whatever happened. */
  record(exchange: Exchange, outcome: Outcome): void
}

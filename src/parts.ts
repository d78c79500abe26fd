/**
 * What the pipeline needs from each part, with the promises it relies on. Parts throw a ProxyError to end an exchange
 * and return values to continue it. Longer than other files, because the pipeline's needs are read together.
 */
import type { ProxyError } from './errors.ts'
import type { FailureClass } from './failures.ts'
import type {
  Attempt,
  CachePolicy,
  Call,
  Charge,
  Client,
  Entry,
  Exchange,
  Health,
  Landing,
  LimitState,
  Lookup,
  Made,
  Outcome,
  ProxyRequest,
  Reply,
  PurgeFilter,
  RetryPolicy,
  TrailMark,
  UpstreamRequest,
  Verdict,
  CacheDirectives,
  WireResult,
  WireTrouble,
} from './model.ts'
import type { BreakerState, KeyState, OverloadState } from './telemetry/events.ts'

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

export interface RequestIdentity {
  readonly id: string
  readonly traceparent: string | null
  trail?: TrailMark
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

/** A request that waits for a flight. */
export interface Waiter {
  /** For the status page. */
  readonly scraper: string
  /** When it stops waiting. This ends neither a call nor the flight. */
  readonly deadlineAt: number
  /** From here on `policy.deadline` counts. */
  readonly askedAt: number
  /** Of its client: how far the flight may go while this asker waits. */
  readonly policy: RetryPolicy
  readonly client: QueuedClient
  /** An expired answer may be given instead: it does not wait while a circuit is open. */
  readonly hasFallback: boolean
  readonly onGone: ProxyRequest['onGone']
}

/** A client as the queue for places sees it. */
export type QueuedClient = Pick<Client, 'name' | 'weight' | 'priority'>

/** A flight as the code that flies it sees it. It belongs to no client, so what it may do is the most that a waiting client allows. */
export interface Flight {
  /** The latest deadline of those who still wait; 0 when nobody does. */
  patienceUntil(): number
  /** When the flight must have ended: the latest `askedAt` + `policy.deadline` of those who still wait; 0 when nobody does. */
  endsAt(): number
  /** The policies of those who still wait, without repetitions; that of the first asker first. */
  policies(): ReadonlySet<RetryPolicy>
  /** The one who began it still waits. */
  leaderWaits(): boolean
  /** The first of those who still wait that is `interactive`, else the first; null = nobody waits. */
  mostUrgent(): QueuedClient | null
  /** Calls one listener back when another asker joins. Returns the way to stop listening. */
  onJoined(listener: () => void): () => void
  /** Calls back when the last asker leaves. Returns the way to stop listening. */
  onAbandoned(listener: () => void): () => void
  /** How it stands now: what waiters get whose time is up before the flight ends. */
  report(progress: Landing): void
  /** Kept up to date by the code that makes the attempts. */
  readonly made: Made
  /** It waits for an open circuit: those who have a fallback leave, with what is known or CIRCUIT_OPEN. */
  held(): void
}

export interface Joined {
  readonly role: 'leader' | 'joined'
  /** Null = the asker hung up first. Rejects with DEADLINE_EXCEEDED when their time is up and nothing has been answered. */
  readonly landing: Promise<Landing | null>
  /** What the flight has tried, as of now. */
  readonly made: Readonly<Made>
}

export interface Flights {
  /**
   * Joins the flight under way for `key`, or starts one; null starts one that nobody can join. Synchronous: there is no gap
   * between "is someone flying?" and "then I fly". A flight that all have left is finished all the same.
   */
  join(key: string | null, waiter: Waiter, fly: (flight: Flight) => Promise<Landing>): Joined
  /** Somebody could join a flight for `key` right now. */
  has(key: string | null): boolean
  readonly size: number
  /** Resolves when no flight is in the air any more, those that nobody waits for included. */
  idle(): Promise<void>
  /** Everybody who waits is given up with this error, and whoever comes from now on. The flights go on. */
  ground(error: ProxyError): void
  /** For the status page: every flight with its age. */
  list(): readonly FlightStatus[]
}

export interface FlightStatus {
  readonly scraper: string
  readonly waiters: number
  readonly startedAt: number
}

/** A question that other replicas may be asking at this moment, too. */
export interface SharedQuestion {
  /** The same on all replicas for what may have the same answer; null = nobody else's. */
  readonly key: string | null
  readonly scraper: string
  /** When it came in, by the clock: a flight that landed later answers it. */
  readonly askedAt: number
}

/** The right to ask upstream for all replicas. */
export interface FlightLease {
  /**
   * Orders what is written about one question, as texts: a record of a greater fence is never overwritten by one of a smaller.
   * Null = none is known; then what is written is the newest.
   */
  readonly fence: string | null
  /**
   * Before each attempt: from now on credits may be gone. Gives back the job that a lost replica has left behind, as it was
   * `submitted` there: to be followed up instead of asking anew. Rejects, to end the flight, when nothing has been asked yet and
   * another replica flies now; it is followed then.
   */
  begin(): Promise<string | null>
  /** Upstream has taken a job, and others can take it up with what is in here. */
  submitted(job: string): Promise<void>
}

/** One flight at a time among all replicas, as far as they can hear each other. */
export interface SharedFlights {
  /** Flies with `lead`, or waits for the replica that does; then the landing has no attempts. Never fails for trouble with the store. */
  fly(
    question: SharedQuestion,
    flight: Pick<Flight, 'patienceUntil' | 'policies' | 'onAbandoned'>,
    lead: (lease: FlightLease) => Promise<Landing>,
  ): Promise<Landing>
  /** Resolves when the other replicas know all that has landed here, or cannot be told. */
  idle(): Promise<void>
  /** Waits for nothing any more. */
  close(): void
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
  trail?: TrailMark
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

/** Answers one request; at once where nothing has to be waited for. Never throws or rejects. */
export type Handle = (exchange: Exchange) => Outcome | Promise<Outcome>

export interface Recorder {
  begin(exchange: Exchange): void
  /** Once per exchange, whatever happened. */
  record(exchange: Exchange, outcome: Outcome): void
}

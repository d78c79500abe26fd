/** A flight: one call that several requests wait for, in this process and among all replicas. */
import type { ProxyError } from './errors.ts'
import type { Client, Landing, Made, ProxyRequest, RetryPolicy } from './model.ts'

/** A client as the queue for places sees it. */
export type QueuedClient = Pick<Client, 'name' | 'weight' | 'priority'>

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

/** A flight as the code that flies it sees it. It belongs to no client, so what it may do is the most that a waiting client allows. */
export interface Flight {
  /** Events name it by this. */
  readonly id: number
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
  report(progress: Landing | null): void
  /** Kept up to date by the code that makes the attempts. */
  readonly made: Made
  /** It waits for an open circuit: those who have a fallback leave, with what is known or CIRCUIT_OPEN. */
  held(): void
}

export interface Joined {
  /** The id of the flight. */
  readonly id: number
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

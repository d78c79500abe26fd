/** Everything that can happen beside an outcome, as one union: parts emit it, the recorder turns it into metrics and log lines. */
import type { FailureClass, VerdictClass } from '../failures.ts'
import type { Attempt, Call, Landing, ProxyRequest, Refused, RequestIdentity, Tier, WireTrouble } from '../model.ts'

export type BreakerState = 'closed' | 'half-open' | 'open'
export type HeldEnd = 'passed' | 'refused' | 'left'
export type KeyState = 'ready' | 'resting' | 'spent'

export type DiskFile = 'answers' | 'records'
/** `locked`: another process owns the folder. `format`: written by a newer version. */
export type DiskTrouble = 'corrupt' | 'locked' | 'read-only' | 'full' | 'io' | 'format'

/** `slow`: more comes than the disk takes. `path`: there is something in the way that is not a file. */
export type AuditTrouble = 'full' | 'read-only' | 'path' | 'slow' | 'io'

export type RedisOperation = 'connect' | 'probe' | 'get' | 'set' | 'delete' | 'script' | 'publish' | 'subscribe'
/** `unreachable`: refused, reset, no such name. `timeout`: connected, and does not answer. */
export type RedisTrouble =
  | 'unreachable'
  | 'timeout'
  | 'auth'
  | 'loading'
  | 'busy'
  | 'read-only'
  | 'out-of-memory'
  | 'no-permission'
  | 'cannot-persist'
  | 'too-few-replicas'
  | 'cluster'
  | 'error'

/** `shedding`: only known answers are given; `critical`: every new request is refused. */
export type OverloadState = 'calm' | 'shedding' | 'critical'
export type OverloadCause = 'event-loop' | 'memory'

/** Why bytes of a shared tier were not taken for an entry. */
export type CacheFlaw = 'signature' | 'version' | 'damaged' | 'too-big'

/** `restart`: a setting was changed that needs one. */
export type ReloadResult = 'applied' | 'invalid' | 'restart'

/** What an operator can do on the admin port. */
export type OperatorAction = 'key-try' | 'circuit-close' | 'purge' | 'reload' | 'credits'

/** `from` is an address; `by` the user name that a browser sent with the token, which nobody has checked. */
export interface OperatorAct {
  readonly action: OperatorAction
  readonly what: Readonly<Record<string, string | number>>
  readonly from: string
  readonly by: string | null
}

export type EventKind = TelemetryEvent['kind']
export type EventOf<Kind extends EventKind> = Extract<TelemetryEvent, { kind: Kind }>

export type TelemetryEvent =
  /**
   * A flight has begun: a question that is asked upstream once, here or by another replica. `payer` is the client that is charged for
   * it, `request` the one it was begun for; it waits for the answer if `on` is `request`.
   */
  | {
      readonly kind: 'flight-started'
      readonly flight: number
      readonly call: Call
      readonly payer: string
      readonly request: RequestIdentity
      readonly on: 'request' | 'refresh' | 'resume'
    }
  /** Another request waits for the same flight. */
  | { readonly kind: 'flight-joined'; readonly flight: number; readonly request: RequestIdentity }
  /** The last event of a flight, however it went. */
  | { readonly kind: 'flight-ended'; readonly flight: number }
  | ({ readonly kind: 'attempt-started'; readonly flight: number; readonly scraper: string } & Pick<
      Attempt,
      'number' | 'waitedMs' | 'keyName'
    >)
  /** One attempt has ended; `payer` is the client that is charged for it, `id` that of the request it was made for. */
  | {
      readonly kind: 'attempt-ended'
      readonly flight: number
      readonly scraper: string
      readonly payer: string
      readonly id: string
      readonly attempt: Attempt
      /** What upstream asked for with `Retry-After`. */
      readonly retryAfterMs: number | null
    }
  /** An exchange with upstream has ended, polls of jobs among them; `trouble` null = upstream answered. */
  | { readonly kind: 'wire-ended'; readonly scraper: string; readonly trouble: WireTrouble | null }
  /** The process has more to do than it can, or no more; `because` is null when it is over. */
  | {
      readonly kind: 'overload-changed'
      readonly to: OverloadState
      readonly because: OverloadCause | null
      readonly eventLoopDelayMs: number
      /** Share of the limit. */
      readonly memory: number
    }
  /** Memory is short: kept answers in memory may take so many bytes now. `isOver` = as many as the settings say. */
  | {
      readonly kind: 'cache-gives-way'
      readonly isOver: boolean
      readonly maxBytes: number
      /** Share of the limit. */
      readonly memory: number
    }
  /** An attempt waited so long for a place in the bulkhead, and got one or gave up. */
  | { readonly kind: 'queue-left'; readonly scraper: string; readonly waitedMs: number }
  | { readonly kind: 'retried'; readonly scraper: string; readonly class: VerdictClass; readonly waitMs: number }
  | { readonly kind: 'retry-refused'; readonly scraper: string; readonly reason: Refused }
  | {
      readonly kind: 'breaker-changed'
      readonly scraper: string
      readonly to: BreakerState
      /** Until the next trial, when it is open. */
      readonly openForMs: number | null
      /** Open because a trial has failed: it was not closed before. */
      readonly isStillOpen: boolean
    }
  /** An attempt waited for an open circuit: `passed` = it was let in, `refused` = for too long, `left` = nobody waited any more. */
  | { readonly kind: 'hold-ended'; readonly scraper: string; readonly end: HeldEnd; readonly heldMs: number }
  | {
      readonly kind: 'key-changed'
      readonly key: string
      readonly to: KeyState
      readonly because: FailureClass | null
      readonly untilAt: number | null
    }
  | ({ readonly kind: 'operator-acted' } & OperatorAct)
  | { readonly kind: 'cache-looked-up'; readonly tier: Tier; readonly result: 'hit' | 'stale' | 'miss' }
  | { readonly kind: 'cache-evicted'; readonly tier: Tier }
  /** A file on the disk cannot be used, or can again; `because` is why it could not. */
  | {
      readonly kind: 'disk-changed'
      readonly file: DiskFile
      readonly to: 'up' | 'down'
      readonly because: DiskTrouble
    }
  /** Lines cannot be written to the audit file, or can again; `lostLines` is how many were given up meanwhile. */
  | {
      readonly kind: 'audit-changed'
      readonly to: 'up' | 'down'
      readonly because: AuditTrouble
      readonly lostLines: number
    }
  /** Upstream has answered, and `payer` was charged for it; `claimed`: it was still there to get the answer. */
  | {
      readonly kind: 'flight-landed'
      readonly flight: number
      readonly payer: string
      readonly scraper: string
      readonly landing: Landing
      readonly claimed: boolean
    }
  /** A flight has come to nothing by a refusal or a bug: what its attempts cost brought nobody an answer. */
  | {
      readonly kind: 'flight-lost'
      readonly flight: number
      readonly payer: string
      readonly scraper: string
      readonly attempts: readonly Attempt[]
    }
  /** A share of the credits of a client, or of the account as a whole (`client` is empty), is spent. Once per share and period. */
  | {
      readonly kind: 'budget-used'
      readonly client: string
      readonly period: { readonly kind: 'day' | 'month'; readonly id: string }
      readonly percent: 50 | 80 | 95 | 100
      readonly spentCredits: number
      readonly limitCredits: number
      /** At the pace so far; null = not before the period ends. */
      readonly usedUpAt: number | null
    }
  /** An operator has said what a client has really spent this month. */
  | {
      readonly kind: 'credits-corrected'
      readonly client: string
      readonly beforeCredits: number
      readonly spentCredits: number
    }
  /** The shared store is away: credits from what was leased in advance, counted by this replica alone, or not granted. */
  | {
      readonly kind: 'credits-away'
      readonly how: 'allowance' | 'open' | 'refused'
      readonly client: string
      readonly credits: number
    }
  /** Credits set aside by an earlier process count as spent now: its calls may have been charged. */
  | { readonly kind: 'holds-swept'; readonly holds: number; readonly credits: number }
  /** Bytes that are not an entry of ours: poisoned, foreign, of another version, cut off. */
  | { readonly kind: 'cache-rejected'; readonly tier: Tier; readonly because: CacheFlaw }
  /**
   * Redis was lost or is back, or is there for the first time (`because` is null then), or refuses writes; `because` is why it was lost,
   * `word` the first word of its refusal.
   */
  | {
      readonly kind: 'redis-changed'
      readonly to: 'up' | 'refusing' | 'down'
      readonly because: RedisTrouble | null
      readonly word: string | null
    }
  /** Redis is still away, for another cause. */
  | {
      readonly kind: 'redis-cause-changed'
      readonly state: 'down' | 'refusing'
      readonly because: RedisTrouble
      readonly word: string | null
    }
  /** One operation that was sent to Redis, or would have been but for too many under way. */
  | { readonly kind: 'redis-failed'; readonly operation: RedisOperation }
  /** A job that `payer` submitted has failed, and upstream has given its price back. Once per job. */
  | {
      readonly kind: 'job-refunded'
      readonly payer: string
      readonly scraper: string
      readonly key: string
      readonly credits: number
    }
  /** Another replica flew the question. `landed`: so it is answered; `led`: it was flown here in the end; `left`: nobody waited any more. */
  | { readonly kind: 'flight-followed'; readonly scraper: string; readonly end: 'landed' | 'led' | 'left' }
  /**
   * A replica is gone, and its call is made here. `sent`: it may have been charged, and the question is asked once more; `job`: its
   * job is followed up.
   */
  | { readonly kind: 'flight-taken-over'; readonly scraper: string; readonly from: 'sent' | 'job' }
  /** This replica was not heard of for too long, and another one makes its call. */
  | { readonly kind: 'lease-lost'; readonly scraper: string }
  /** The last asker left; the call is finished and kept all the same. */
  | { readonly kind: 'flight-orphaned'; readonly scraper: string }
  /** Other settings are in force, but for those that wait for a restart; or none are, and `mistakes` says why. None of it holds a secret. */
  | {
      readonly kind: 'reloaded'
      readonly result: ReloadResult
      readonly because: string
      /** In force now. */
      readonly generation: number
      readonly changed: readonly string[]
      readonly waiting: readonly string[]
      readonly mistakes: readonly string[]
      /** Of the upstream keys in force. */
      readonly keys: readonly string[]
    }
  /** A bug: shown to nobody but the log. `request`: the one it happened to, where it is known. */
  /** Somebody spoke HTTP without TLS to a port that speaks TLS. */
  | { readonly kind: 'plain-http'; readonly port: 'listen' | 'admin' }
  | {
      readonly kind: 'broke'
      readonly where: string
      readonly error: unknown
      readonly request?: Pick<ProxyRequest, 'id' | 'target'>
    }

/**
 * The nouns, as readonly values. An exchange becomes them one after the other: a request, a client's call, a lookup,
 * a flight with its attempts, each with a verdict, and in the end one outcome.
 *
 * Points in time are epoch milliseconds, durations milliseconds, credits integers. `null` is "known to be absent".
 */
import type { Fault, ProxyError } from './errors.ts'
import type { Failure, FailureClass, VerdictClass } from './failures.ts'

// What the caller said

/** One decoded query parameter, in the order of the request target. */
export type Param = readonly [name: string, value: string]

/** A request target, decoded once. The caller's `api_key` is taken out of it. */
export interface Target {
  readonly path: string
  readonly params: readonly Param[]
  /** A client token that came as `?api_key=`. */
  readonly token: string | null
  /** What it asks for, once that has been worked out: the same each time. */
  call?: Call
}

/** What the caller's `Cache-Control` asks of our cache (RFC 9111 section 5.2.1). */
export interface CacheDirectives {
  readonly noCache: boolean
  readonly noStore: boolean
  readonly onlyIfCached: boolean
  readonly maxAgeMs: number | null
  /** Infinity when the directive came without a number. */
  readonly maxStaleMs: number | null
  readonly minFreshMs: number | null
}

/** What tells a request of a web page from one of a program. */
export interface RequestSource {
  /** Null = HTTP/1.0 without one. */
  readonly host: string | null
  readonly origin: string | null
  /** `Sec-Fetch-Site`, which browsers alone send. */
  readonly fetchSite: string | null
}

export interface ProxyRequest {
  readonly id: string
  readonly method: string
  readonly target: Target
  /** What the caller presented as its token, from whichever of the three places; never forwarded, stored, logged or echoed. */
  readonly token: string | null
  readonly cacheDirectives: CacheDirectives
  readonly ifNoneMatch: string | null
  /** `X-Request-Timeout`, in milliseconds. */
  readonly patienceMs: number | null
  /** `X-Sample`; null or absent = not given. */
  readonly sample?: number | null
  readonly idempotencyKey: string | null
  /** RFC 7240 `Prefer`: answer 202 at once (`waitMs` 0) or after so long; null = not asked for. */
  readonly respondAsyncAfterMs: number | null
  readonly traceparent: string | null
  readonly arrivedAt: number
  readonly source: RequestSource
  /** Calls back at most once, when the caller hung up before its answer. Returns the way to stop listening. */
  readonly onGone: (listener: () => void) => () => void
}

/** What a request is known by where it goes on to upstream. */
export type RequestIdentity = Pick<ProxyRequest, 'id' | 'traceparent'>

// Who asks

export interface ClassPolicy {
  readonly attempts: number
  readonly backoff: { readonly base: number; readonly max: number }
  /** The next attempt carries `bypass_cache=true`. */
  readonly bypassCache: boolean
  /** How long a key that met this rests; null = it does not. */
  readonly keyRest: number | null
}

/** Durations in milliseconds. `attempts` is the number in all, the first included. */
export interface RetryPolicy {
  readonly attempts: number
  readonly deadline: number
  readonly classes: Readonly<Record<FailureClass, ClassPolicy>>
}

export interface CachePolicy {
  readonly ttl: number
  readonly staleIfError: number
  readonly staleWhileRevalidate: number
  readonly emptyResultTtl: number
  readonly scope: 'shared' | 'client'
}

export interface RatePolicy {
  readonly limit: number
  readonly per: number
  readonly burst: number
}

/** Whoever may ask, with the policy that holds for its requests. `name` is the metric label. */
export interface CreditLimits {
  readonly perDay: number | null
  readonly perMonth: number | null
  /** More for each month, until this point of the wall's time. */
  readonly topUp?: { readonly credits: number; readonly until: number } | null
}

/** What all clients together may spend, and what is kept back of it for those who may use the reserve. */
export interface AccountLimits {
  readonly perDay: number | null
  readonly perMonth: number | null
  readonly reserveCredits: number
}

export interface Client {
  readonly name: string
  readonly rate: RatePolicy | null
  readonly concurrency: number | null
  /** Its share of the places for upstream calls beside other clients that wait. */
  readonly weight: number
  /** `batch`: asked when no `interactive` request waits. */
  readonly priority: 'interactive' | 'batch'
  readonly retry: RetryPolicy
  readonly cache: CachePolicy
  /** Credits per UTC day and month; null = no limit. */
  readonly credits: CreditLimits
  /** It may also spend what the account as a whole keeps in reserve. */
  readonly mayUseReserve?: boolean
  /** The scrapers it may ask; null = all. */
  readonly scrapers: ReadonlySet<string> | null
}

/** A token of a client, as far as it is kept. */
export interface KnownToken {
  /** SHA-256 in lower-case hexadecimal. */
  readonly hash: string
  /** By the wall; null = never. */
  readonly expiresAt: number | null
}

// What is asked

export interface Call {
  readonly endpoint: 'answer' | 'submit' | 'status'
  readonly method: 'GET' | 'POST'
  /** From the closed list of the profile, or `none` where the call names no scraper: a metric label. */
  readonly scraper: string
  readonly path: string
  readonly params: readonly Param[]
  /** Hash of all that changes the answer; null = the answer is never kept and never shared. */
  readonly key: string | null
  /** The caller wants a fresh answer: not from the cache, not from a call in flight. */
  readonly bypass: boolean
  /** Upstream's own limit for one attempt as the caller gave it; null = upstream's default holds. */
  readonly timeoutMs: number | null
  readonly priceCredits: number
  /** Hash of the prompt, for logs; the prompt itself stays in `params`. */
  readonly promptHash: string | null
  /** Effective country, upper case, for purging by it; null where the call has none. */
  readonly country: string | null
  /** Which of several independent answers to the question; absent where the call is a poll. */
  readonly sample?: number
  /** A parameter has a value without a documented meaning: the answer is neither kept nor shared. */
  readonly unknownValue?: boolean
}

// What upstream said

export interface UpstreamRequest {
  readonly method: 'GET' | 'POST'
  readonly target: string
  readonly headers: Readonly<Record<string, string>>
  /** The attempt ends after so long, whatever happens. */
  readonly limitMs: number
}

/** A complete answer of upstream, whatever its status. */
export interface Reply {
  readonly status: number
  readonly contentType: string | null
  readonly retryAfter: string | null
  readonly location: string | null
  readonly body: Buffer
}

/** Why no complete answer came over the wire: a closed list, because it is a metric label. */
export type WireReason =
  /** The name does not exist, or has no address. */
  | 'name-not-found'
  /** The name servers did not answer, or failed. */
  | 'name-server'
  | 'refused'
  | 'no-route'
  | 'connect-timeout'
  | 'tls-expired'
  | 'tls-self-signed'
  | 'tls-unknown-ca'
  | 'tls-wrong-host'
  /** Any other failure of TLS. */
  | 'tls'
  /** The outbound proxy cannot be reached, or refused the connection. */
  | 'outbound-proxy'
  /** Trouble of this process or machine, such as no open files left: it says nothing about upstream. */
  | 'local'
  /** Upstream had closed a connection that was kept for another request, while this one was on its way. */
  | 'idle-closed'
  | 'reset'
  /** No complete answer within the limit of the attempt. */
  | 'timeout'
  | 'malformed'
  | 'truncated'
  | 'too-big'
  /** Ended by this process. */
  | 'aborted'

/** Why an exchange with upstream broke. */
export interface WireTrouble {
  readonly reason: WireReason
  /** As the system, OpenSSL or the HTTP client calls it; null = there is none. */
  readonly code: string | null
}

/** What came over the wire, or how it broke. `sent` = upstream may have taken the request, so it may have been charged. */
export type WireResult =
  | { readonly kind: 'reply'; readonly reply: Reply }
  | ({ readonly kind: 'broken'; readonly sent: boolean } & WireTrouble)

/** What an attempt cost. `unknown`: `credits` may have been charged, and nothing will ever tell. */
export interface Charge {
  readonly state: 'charged' | 'free' | 'unknown'
  readonly credits: number
}

/** What the circuit breaker may learn from an attempt: `neutral` is never counted. */
export type Health = 'up' | Failure['health']

/**
 * What was unexpected about an answer that was handed on all the same: it has a shape that is not documented, it is empty, it names
 * another prompt or scraper, or its `credits_used` was not believed. None of them but the last may be kept.
 */
export type Anomaly = 'unknownShape' | 'emptyAnswer' | 'otherQuestion' | 'implausibleCharge'

/** What we make of an attempt. */
export type Verdict =
  | {
      readonly kind: 'answered'
      readonly reply: Reply
      readonly charge: Charge
      readonly health: Health
      /** May this answer be kept, and shared with others who ask the same? */
      readonly keepable: boolean
      readonly anomalies?: readonly Anomaly[]
    }
  | {
      readonly kind: 'failed'
      readonly class: VerdictClass
      readonly fault: Fault
      /** Null when there is no complete answer to show; then `refusal` says what to answer instead. */
      readonly reply: Reply | null
      readonly refusal: 'UPSTREAM_UNREACHABLE' | 'UPSTREAM_INVALID' | null
      readonly charge: Charge
      readonly health: Health
      /** Upstream's `Retry-After`, both forms, clamped; null = none or garbage. */
      readonly retryAfterMs: number | null
      readonly anomalies?: readonly Anomaly[]
      /** How often it may be repeated, whatever the policy; absent = as the policy says. What was charged is never repeated. */
      readonly repeatable?: 'once' | 'never'
    }

/** Why a failed attempt was the last one. */
export type Refused =
  | 'attempts'
  | 'budget'
  | 'deadline'
  | 'breaker'
  | 'places'
  | 'key'
  | 'shutdown'
  | 'final'
  | 'abandoned'

export interface Attempt {
  readonly number: number
  readonly startedAt: number
  readonly durationMs: number
  /** How long we paused before this attempt. */
  readonly waitedMs: number
  readonly keyName: string
  readonly status: number | null
  readonly class: VerdictClass | 'ok'
  readonly charge: Charge
  readonly anomalies?: readonly Anomaly[]
  /** Null = upstream answered. */
  readonly trouble: WireTrouble | null
}

/** How a flight ended: its last real verdict, and everything that was tried on the way. */
export interface Landing {
  readonly verdict: Verdict
  readonly attempts: readonly Attempt[]
  /** Null when the flight ended with an answer. */
  readonly stoppedBy: Refused | null
  readonly chargedCredits: number
  /** What was kept of it, if it was. */
  readonly entry: Entry | null
}

/** What a flight has tried so far, the attempt under way included; `credits` with what may have been, or may yet be, charged. */
export interface Made {
  attempts: number
  credits: number
}

// What is kept

/**
 * An answer as it was stored. It does not say how long it is fresh: that is judged at look-up by the policy of the client that
 * asks, whoever paid for it (see `cache/entry.ts`).
 */
export interface Entry {
  readonly status: number
  readonly contentType: string
  readonly body: Buffer
  readonly etag: string
  readonly storedAt: number
  /** When every tier may drop it, because no client's policy can use it any longer. */
  readonly keptUntil: number
  readonly scraper: string
  readonly promptHash: string | null
  readonly country: string | null
  /** What asking upstream again would cost. */
  readonly priceCredits: number
  /** All waiters had left when it was stored: the first one to get it is spared a second payment. */
  readonly unclaimed: boolean
}

export type Tier = 'memory' | 'disk' | 'redis'

/**
 * Why an expired answer may be given. `error`: only in place of an error. `revalidating`: at once, within `staleWhileRevalidate`,
 * while a fresh answer is fetched. `max-stale`: at once, because the caller's `max-stale` accepts it.
 */
export type StaleUse = 'error' | 'revalidating' | 'max-stale'

export type Lookup =
  | { readonly kind: 'fresh'; readonly entry: Entry; readonly tier: Tier }
  /** Expired, and of use for this reason. */
  | { readonly kind: 'stale'; readonly entry: Entry; readonly tier: Tier; readonly because: StaleUse }
  /** `bypassed`: there is one, but the caller's cache directives forbid its use. */
  | { readonly kind: 'missing'; readonly bypassed: boolean }

/** All that is given must match; nothing given is everything. */
export interface PurgeFilter {
  readonly scraper?: string | undefined
  readonly promptHash?: string | undefined
  readonly country?: string | undefined
  /** Epoch milliseconds; exclusive. */
  readonly storedBefore?: number | undefined
}

// How it ended

export type CacheLabel = 'hit' | 'stale' | 'miss' | 'joined' | 'bypass' | 'none'

/** `made`: for a request that stopped waiting before its flight ended, what had been tried until then; else its landing says so. */
export type Outcome =
  | { readonly kind: 'hit'; readonly entry: Entry; readonly tier: Tier }
  | {
      readonly kind: 'stale'
      readonly entry: Entry
      readonly tier: Tier
      /** Null = upstream was not asked, or by somebody else. */
      readonly landing: Landing | null
      readonly made?: Readonly<Made> | undefined
      readonly because: StaleUse
    }
  | {
      readonly kind: 'fetched'
      readonly landing: Landing
      readonly role: 'leader' | 'joined'
      readonly made?: Readonly<Made> | undefined
      readonly forwardedBecause: 'miss' | 'stale' | 'request' | 'bypass' | 'method'
    }
  | { readonly kind: 'refused'; readonly error: ProxyError; readonly made?: Readonly<Made> | undefined }
  /** Answered from what is known about jobs: a replayed submission, a remembered state, or the promise of an answer (202). */
  | {
      readonly kind: 'job'
      readonly reply: Reply
      readonly idempotentReplay: boolean
      /** For a promise: what its answer is expected to take, or has taken already. Absent = nothing was asked for it. */
      readonly promised?: { readonly made: Readonly<Made>; readonly role: 'leader' | 'joined' } | undefined
    }
  /** The caller hung up; nobody is there to be answered. */
  | { readonly kind: 'gone' }

/** One client request from arrival to answer: what is known of it so far. The pipeline fills it in, telemetry reads it. */
export interface Exchange {
  readonly request: ProxyRequest
  client: Client | null
  call: Call | null
  /** Where the client stands in requests, null without a limit. */
  limits: LimitState | null
  /** Where it stands in credits when the answer leaves; empty without a budget. */
  credits: readonly LimitState[]
  /** The flight it waits, or has waited, for; null = none. */
  flight: { readonly id: number; readonly role: 'leader' | 'joined' } | null
}

/** Where the client stands after this request, for the `RateLimit` headers. */
export interface LimitState {
  readonly policy: string
  readonly remaining: number
  readonly resetMs: number
}

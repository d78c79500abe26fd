/**
 * What can be told of one request afterwards: its outcome, the flight it rode on with every attempt, and in words why each
 * attempt was or was not repeated. Holds no key, no token, no target, and a prompt only where the operator asked for it.
 * Points in time are epoch milliseconds of the wall.
 */
import type { Code, Reason } from '../errors.ts'
import type { VerdictClass } from '../failures.ts'
import type { Anomaly, CacheLabel, Call, Charge, Param, Refused, Tier, WireReason, WireTrouble } from '../model.ts'

export interface AttemptTrail {
  readonly number: number
  readonly startedAt: number
  readonly durationMs: number
  readonly waitedMs: number
  readonly keyName: string
  readonly status: number | null
  readonly class: VerdictClass | 'ok'
  readonly charge: Charge
  /** What upstream asked for with `Retry-After`. */
  readonly retryAfterMs: number | null
  readonly anomalies: readonly Anomaly[]
  /** Why there is no complete answer; null = there is one. */
  readonly trouble: WireTrouble | null
}

/** An attempt that has not been answered yet. */
export type AttemptUnderWay = Pick<AttemptTrail, 'number' | 'startedAt' | 'waitedMs' | 'keyName'>

/** Something beside the attempts that explains what became of them. */
export interface TrailEvent {
  readonly at: number
  readonly text: string
}

export interface FlightTrail {
  /** The id of the request that began it, which is also the `X-Request-Id` upstream got; null = it has not asked yet. */
  readonly id: string | null
  readonly startedAt: number
  /** Null = under way. */
  readonly landedAt: number | null
  /** Why its last attempt was the last; null = it was answered, or is under way, or ended with a refusal of ours. */
  readonly stoppedBy: Refused | null
  readonly attempts: readonly AttemptTrail[]
  readonly underWay: AttemptUnderWay | null
  readonly events: readonly TrailEvent[]
}

/** `unattended`: a flight for nobody who waits, that refreshes an answer or finishes what an earlier process began. */
export type Role = 'leader' | 'joined' | 'unattended'

export interface Trail {
  readonly id: string
  readonly traceId: string | null
  readonly at: number
  /** Null = under way. */
  readonly durationMs: number | null
  readonly client: string
  readonly scraper: string
  /** Null = refused before it was read. */
  readonly endpoint: Call['endpoint'] | null
  readonly promptHash: string | null
  readonly prompt: string | null
  /** The status of the answer; `gone` = the caller hung up; null = under way. */
  readonly status: number | 'gone' | null
  readonly cache: CacheLabel | null
  readonly tier: Tier | null
  readonly code: Code | null
  /** Where the code has several causes. */
  readonly reason: Reason | null
  /** What the caller was told beside the code. */
  readonly detail: string | null
  readonly credits: number
  readonly role: Role | null
  readonly flight: FlightTrail | null
  /** Why this request was not waited for any longer, where that is not the end of its flight. */
  readonly stoppedBy: Refused | null
  readonly events: readonly TrailEvent[]
}

/** How much is remembered. */
export interface Kept {
  /** Of the requests that asked upstream, or failed for another reason than their caller's. */
  readonly asked: { readonly most: number; readonly now: number; readonly since: number | null }
  /** Of all others: answered from the cache, or refused for what their caller did. */
  readonly others: { readonly most: number; readonly now: number; readonly since: number | null }
}

/** A kind of trouble, and when it was met last. */
export interface Trouble {
  /** A failure class of attempts, or a code of our own refusals. */
  readonly name: VerdictClass | Code
  readonly kind: 'attempt' | 'refusal'
  readonly count: number
  readonly lastAt: number
  readonly scraper: string
  /** Whom it met, the most affected first. */
  readonly clients: readonly string[]
  readonly status: number | null
  readonly requestId: string
}

export interface Trails {
  /** Newest first; those under way included. */
  find(id: string): readonly Trail[]
  /** Newest first; those under way come before all others. */
  recent(count: number, isWanted?: (trail: Trail) => boolean): readonly Trail[]
  /** Of what is remembered, the latest first. */
  troubles(): readonly Trouble[]
  kept(): Kept
}

const reasons: Readonly<Record<Refused, string>> = {
  attempts: 'no more attempts are allowed for this class of failure, or in all',
  budget: 'the retry budget of this scraper is used up',
  deadline: "the request's time was up, or would have been before the next attempt",
  breaker: 'the circuit of this scraper was open',
  places: 'too many upstream calls were under way',
  key: 'no other upstream key was ready',
  shutdown: 'the proxy was shutting down',
  final: 'a failure of this class is final: the same question would fare the same, or a job might be submitted twice',
  abandoned: 'nobody waited for it any more',
}

/** Why attempts stop, in words that follow "not repeated:". */
export function promptsIn(params: readonly Param[]): string[] {
  return params.filter(([name]) => name === 'prompt').map(([, text]) => text)
}

export function reasonText(reason: Refused): string {
  return reasons[reason]
}

const anomalies: Readonly<Record<Anomaly, string>> = {
  unknownShape: 'its shape is not documented: handed on and not kept',
  emptyAnswer: 'it has no content: handed on and not kept',
  otherQuestion: 'it names another prompt or scraper than was asked: handed on and not kept',
  implausibleCharge: 'its credits_used is beyond ten times the price: the price was charged',
}

const troubles: Readonly<Record<WireReason, string>> = {
  'name-not-found': "upstream's name does not exist",
  'name-server': 'the name servers did not say where upstream is',
  refused: 'upstream refused the connection',
  'no-route': 'there is no route to upstream',
  'connect-timeout': 'no connection within upstream.connectTimeout',
  'tls-expired': "upstream's certificate has expired",
  'tls-self-signed': "upstream's certificate is signed by itself",
  'tls-unknown-ca': "upstream's certificate is from an authority that is not trusted",
  'tls-wrong-host': "upstream's certificate is for another host",
  tls: 'TLS with upstream failed',
  'outbound-proxy': 'the outbound proxy cannot be reached, or refused',
  local: 'trouble of this machine',
  'idle-closed': 'upstream had closed the idle connection',
  reset: 'the connection broke',
  timeout: 'no complete answer in time',
  malformed: 'the answer is not HTTP',
  truncated: 'the answer was cut off',
  'too-big': 'the answer is too big',
  aborted: 'ended by the proxy',
}

/** Why an attempt has no complete answer. */
export function troubleText(trouble: WireTrouble | null): string {
  if (trouble === null) return 'no complete answer'
  const text = troubles[trouble.reason]
  return trouble.code === null ? text : `${text} (${trouble.code})`
}

/** Why the attempt at `index` was or was not repeated. */
export function whyOf({ attempts, underWay, landedAt, stoppedBy }: FlightTrail, index: number): string {
  const attempt = attempts[index]
  const next = attempts[index + 1] ?? underWay
  if (attempt?.class === 'ok') return ['answered', ...attempt.anomalies.map((anomaly) => anomalies[anomaly])].join('; ')
  if (next) {
    if (attempt && next.keyName !== attempt.keyName && next.waitedMs === 0)
      return `repeated at once with key ${next.keyName}`
    return `repeated after ${msText(next.waitedMs)}`
  }
  if (stoppedBy) return `not repeated: ${reasonText(stoppedBy)}`
  return landedAt === null ? 'the pause before the next attempt is under way' : 'not repeated'
}

/** A duration for people: three digits that count. */
export function msText(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`
  const seconds = ms / 1_000
  if (seconds < 100) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`
  const minutes = seconds / 60
  return minutes < 100 ? `${minutes.toFixed(minutes < 10 ? 1 : 0)} min` : `${(minutes / 60).toFixed(1)} h`
}

/**
 * The table of failures: every way an attempt at upstream can fail, who must act, what the circuit breaker learns, what it says of the key
 * that was used, and how it is retried by default. Settings, metric labels, verdicts, replay and the documentation are derived from it.
 */
import type { Fault } from './errors.ts'

export interface Failure {
  /** The statuses and texts it is recognised by, for the settings reference. */
  readonly meaning: string
  /** What the proxy does, for people. */
  readonly action: string
  readonly fault: Fault
  /** What the circuit breaker counts; `slow` counts half, `neutral` not at all. */
  readonly health: 'down' | 'slow' | 'neutral'
  /** The attempt usually took as long as an answer: a repetition takes `costSlow` from the retry budget. */
  readonly isSlow: boolean
  /**
   * How serious it is for the key; null = it says nothing about the key. 0: the key is limited, and usable again after a pause. From 1 on
   * the same request does not use the key again, and after its rest one request tries it before it is trusted.
   */
  readonly keySeverity: 0 | 1 | 2 | 3 | null
  /** What a key that rests because of it is said to be, and what an operator does before having it tried; null = waits. */
  readonly ofKey?: { readonly says: string; readonly remedy: string | null }
  /** What differs from `retry.attempts` and `retry.backoff`, as written in the settings. */
  readonly defaults: {
    readonly attempts?: number
    readonly base?: string
    readonly bypassCache?: boolean
    readonly keyRest?: string
  }
}

const table = {
  timeout: {
    meaning: '408: the AI provider was silent for all of `timeout`.',
    action: 'again with `bypass_cache=true`',
    fault: 'upstream',
    health: 'slow',
    isSlow: true,
    keySeverity: null,
    defaults: { attempts: 2, bypassCache: true },
  },
  rateLimited: {
    meaning: '429, "rate limit".',
    action: 'at once with another key, else after a pause',
    fault: 'key',
    health: 'neutral',
    isSlow: false,
    keySeverity: 0,
    ofKey: { says: 'is rate limited', remedy: null },
    defaults: { base: '1s' },
  },
  queueFull: {
    meaning: '429, anything else.',
    action: 'after a pause',
    fault: 'upstream',
    health: 'neutral',
    isSlow: false,
    keySeverity: null,
    defaults: { base: '1s' },
  },
  creditsExhausted: {
    meaning: '402, and 429 "credit" that is not "rate limit".',
    action: 'at once with another key; this one rests, then one request tries it',
    fault: 'key',
    health: 'neutral',
    isSlow: false,
    keySeverity: 3,
    ofKey: { says: 'is out of credits', remedy: 'Add credits' },
    defaults: { attempts: 1, keyRest: '15m' },
  },
  unauthorized: {
    meaning: '401.',
    action: 'at once with another key; this one rests, then one request tries it',
    fault: 'key',
    health: 'neutral',
    isSlow: false,
    keySeverity: 2,
    ofKey: { says: 'was refused by upstream (401)', remedy: 'Have it activated again, or replace its secret' },
    defaults: { attempts: 1, keyRest: '5m' },
  },
  emptyResult: {
    meaning: '500, "empty result".',
    action: 'after a pause; then remembered for a minute',
    fault: 'upstream',
    health: 'neutral',
    isSlow: false,
    keySeverity: null,
    defaults: { attempts: 2 },
  },
  serverError: {
    meaning: '500, anything else.',
    action: 'after a pause',
    fault: 'upstream',
    health: 'down',
    isSlow: false,
    keySeverity: null,
    defaults: {},
  },
  warmingUp: {
    meaning: '503.',
    action: 'after a pause',
    fault: 'upstream',
    health: 'down',
    isSlow: false,
    keySeverity: null,
    defaults: { base: '1s' },
  },
  gatewayTimeout: {
    meaning: '504 and other 5xx of a gateway, except 501 and 505.',
    action: 'after a pause',
    fault: 'upstream',
    health: 'down',
    isSlow: true,
    keySeverity: null,
    defaults: {},
  },
  unreachable: {
    meaning: 'Refused, DNS, TLS: nothing was sent.',
    action: 'after a pause',
    fault: 'upstream',
    health: 'down',
    isSlow: false,
    keySeverity: null,
    defaults: {},
  },
  blocked: {
    meaning: '403, 407, 451, and a 405 in HTML: something between the proxy and upstream refuses this key or address.',
    action: 'at once with another key; this one rests, then one request tries it',
    fault: 'key',
    health: 'neutral',
    isSlow: false,
    keySeverity: 1,
    ofKey: { says: 'is blocked on the way to upstream', remedy: 'Find out which firewall or proxy refuses it' },
    defaults: { attempts: 1, keyRest: '1m' },
  },
  ambiguous: {
    meaning: 'Sent, then no complete answer, or an answer that says it failed: may have been charged.',
    action:
      'once more after a pause, unless it is known to be charged; counted in `scrapellm_proxy_ambiguous_attempts_total`',
    fault: 'upstream',
    health: 'down',
    isSlow: true,
    keySeverity: null,
    defaults: { attempts: 2 },
  },
} as const satisfies Readonly<Record<string, Failure>>

export type FailureClass = keyof typeof table

export const failures: Readonly<Record<FailureClass, Failure>> = table

export const failureClasses = Object.keys(table) as readonly FailureClass[]

/** Upstream takes no more calls now. */
export const tooManyCalls: ReadonlySet<string> = new Set<FailureClass>(['rateLimited', 'queueFull'])

/** `rejected` is upstream's judgement of the request itself (400, 404 …): never repeated, never counted against upstream. */
export type VerdictClass = FailureClass | 'rejected'

export const verdictClasses: readonly VerdictClass[] = [...failureClasses, 'rejected']

const rejected = { fault: 'client', health: 'neutral' } as const

/** Those that say something about the key. */
export const keyFailures: ReadonlySet<string> = new Set(
  failureClasses.filter((name) => failures[name].keySeverity !== null),
)

/** Who must act, and what the circuit breaker learns. */
export function traitsOf(verdictClass: VerdictClass): Pick<Failure, 'fault' | 'health'> {
  return verdictClass === 'rejected' ? rejected : failures[verdictClass]
}

/** The key is out for the rest of the request, and must prove itself after its rest. */
export function isKeyRefused(failureClass: FailureClass): boolean {
  return (failures[failureClass].keySeverity ?? 0) > 0
}

/**
 * The table of the proxy's own refusals, and the one error that carries them.
 *
 * `fault` says who must act: the client, the operator of the upstream key, the upstream, or we ourselves. It drives
 * behaviour (what is repeated, what counts against the circuit breaker, when a stale answer may step in); `code` is the
 * stable name that users, dashboards and tests rely on. Upstream's own errors are not in here: they pass through.
 */

export type Fault = 'client' | 'key' | 'upstream' | 'proxy'

interface Refusal {
  /** The first status is the usual one; a ProxyError may choose another one of the list. */
  readonly statuses: readonly [number, ...number[]]
  readonly fault: Fault
  readonly title: string
  /** When this happens, as README and the contract say it. */
  readonly when: string
}

/** One row per refusal: the contract's table of codes. */
export const refusals = {
  CLIENT_UNKNOWN: { statuses: [401], fault: 'client', title: 'Unknown client', when: 'no valid client token' },
  ORIGIN_REFUSED: {
    statuses: [403],
    fault: 'client',
    title: 'Origin refused',
    when: 'a web page of another origin sent a request without a token',
  },
  SCRAPER_NOT_ALLOWED: {
    statuses: [403],
    fault: 'client',
    title: 'Scraper not allowed',
    when: "the scraper is not in the client's `scrapers`",
  },
  REQUEST_INVALID: {
    statuses: [400, 414, 431],
    fault: 'client',
    title: 'Invalid request',
    when: 'malformed or oversized target, repeated parameter, two different tokens, or a body on a GET',
  },
  ENDPOINT_UNKNOWN: { statuses: [404], fault: 'client', title: 'Unknown endpoint', when: 'no such route or scraper' },
  METHOD_NOT_ALLOWED: {
    statuses: [405],
    fault: 'client',
    title: 'Method not allowed',
    when: 'the route does not support this method; `Allow` lists the supported ones',
  },
  RATE_LIMITED: {
    statuses: [429],
    fault: 'client',
    title: 'Rate limit exceeded',
    when: "the client's rate limit is exceeded",
  },
  CONCURRENCY_LIMITED: {
    statuses: [429],
    fault: 'client',
    title: 'Too many open requests',
    when: "the client's limit of open requests is reached",
  },
  BUDGET_EXHAUSTED: {
    statuses: [429],
    fault: 'client',
    title: 'Credit budget exhausted',
    when: 'the client has no credits left in this period; cached answers are still served',
  },
  BUDGET_UNAVAILABLE: {
    statuses: [503],
    fault: 'proxy',
    title: 'Credit budget unavailable',
    when: 'the store that counts credits (Redis or the data folder) is unavailable, and the credits that may be spent without it are used up; cached answers are still served',
  },
  STORE_UNAVAILABLE: {
    statuses: [503],
    fault: 'proxy',
    title: 'Store unavailable',
    when: 'the data folder cannot be written to, and `jobs.execution: durable` requires that',
  },
  CACHE_MISS: {
    statuses: [504],
    fault: 'client',
    title: 'Not in the cache',
    when: 'the request says `only-if-cached`, and no answer is cached',
  },
  NO_KEY_AVAILABLE: {
    statuses: [503],
    fault: 'key',
    title: 'No upstream key available',
    when: 'no upstream key is usable: each is limited, out of credits or refused',
  },
  CIRCUIT_OPEN: {
    statuses: [503],
    fault: 'upstream',
    title: 'Circuit open',
    when: 'calls to this scraper keep failing, so its circuit breaker is open',
  },
  OVERLOADED: {
    statuses: [503],
    fault: 'proxy',
    title: 'Overloaded',
    when: 'too many upstream calls, connections or waiting requests, or too little memory',
  },
  UPSTREAM_UNREACHABLE: {
    statuses: [504],
    fault: 'upstream',
    title: 'Upstream unreachable',
    when: 'no attempt got a complete answer',
  },
  UPSTREAM_INVALID: {
    statuses: [502],
    fault: 'upstream',
    title: 'Invalid upstream answer',
    when: "upstream's answer is incomplete, not JSON, or too large",
  },
  DEADLINE_EXCEEDED: {
    statuses: [504],
    fault: 'upstream',
    title: 'Deadline exceeded',
    when: 'the time limit of the request has passed, and no attempt was answered',
  },
  IDEMPOTENCY_CONFLICT: {
    statuses: [409, 422],
    fault: 'client',
    title: 'Idempotency conflict',
    when: 'the same `Idempotency-Key` is still being submitted (409) or came with other parameters (422)',
  },
  IDEMPOTENCY_UNRESOLVED: {
    statuses: [409],
    fault: 'client',
    title: 'Idempotency unresolved',
    when: 'a crash interrupted the submission, so its outcome is unknown: use a new key',
  },
  IDEMPOTENCY_UNAVAILABLE: {
    statuses: [503],
    fault: 'proxy',
    title: 'Idempotency keys unavailable',
    when: 'the store is unavailable, so the `Idempotency-Key` cannot be checked; nothing was submitted',
  },
  SHUTTING_DOWN: { statuses: [503], fault: 'proxy', title: 'Shutting down', when: 'the proxy is draining' },
  INTERNAL: {
    statuses: [500],
    fault: 'proxy',
    title: 'Internal error',
    when: 'a bug in the proxy; the log has the details',
  },
} as const satisfies Record<string, Refusal>

export type Code = keyof typeof refusals

/** Why a request was refused, where one code has several causes. The contract's closed list: a metric label. */
export const reasons = ['event-loop', 'memory', 'places', 'queue', 'connections'] as const

export type Reason = (typeof reasons)[number]

export const codes = Object.keys(refusals) as readonly Code[]

interface ProxyErrorOptions {
  readonly status?: number
  readonly reason?: Reason
  readonly retryAfterMs?: number
  readonly allow?: string
  /** The connection cannot be trusted after this request (framing, over-long): it is closed after the answer. */
  readonly close?: boolean
  readonly cause?: unknown
}

/** A refusal by the proxy itself. `detail` is shown to the caller: no host name, key, token, prompt or stack belongs in it. */
export class ProxyError extends Error {
  override readonly name = 'ProxyError'
  readonly code: Code
  readonly status: number
  readonly fault: Fault
  /** Null where the code has one cause. */
  readonly reason: Reason | null
  readonly retryAfterMs: number | null
  readonly allow: string | null
  readonly close: boolean

  constructor(code: Code, detail: string, options: ProxyErrorOptions = {}) {
    super(detail, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.status = options.status ?? refusals[code].statuses[0]
    this.fault = refusals[code].fault
    this.reason = options.reason ?? null
    this.retryAfterMs = options.retryAfterMs ?? null
    this.allow = options.allow ?? null
    this.close = options.close ?? false
  }

  get title(): string {
    return refusals[this.code].title
  }

  /** Whatever was thrown, as a refusal: what is not one already is a bug, whose cause is for the log alone. */
  static from(error: unknown): ProxyError {
    if (error instanceof ProxyError) return error
    return new ProxyError('INTERNAL', 'Internal error. Include the request ID when you report it.', {
      cause: error,
    })
  }
}

/**
 * OVERLOADED, to be tried again after 1 to 5 seconds: requests that are refused together must not come back together.
 * `chance` is in [0, 1).
 */
export function overloaded(
  reason: Reason,
  detail: string,
  chance: number,
  options: { readonly close?: boolean } = {},
): ProxyError {
  const retryAfterMs = 1_000 + Math.floor(chance * 5) * 1_000
  const text = `${detail} Retry after the time in Retry-After.`
  return new ProxyError('OVERLOADED', text, { ...options, reason, retryAfterMs })
}

/** All attempts failed, and none of them brought an answer that could be handed on. */
export function unanswered(code: Unanswered): ProxyError {
  return new ProxyError(code, unansweredBecause[code])
}

export type Unanswered = keyof typeof unansweredBecause

const unansweredBecause = {
  UPSTREAM_UNREACHABLE: 'Upstream could not be reached, or the connection was lost before its answer was complete.',
  UPSTREAM_INVALID: 'The answer of upstream was truncated, not JSON, or too large.',
}

/** The settings are wrong. Every mistake at once; `main` prints them and exits with 78 (EX_CONFIG of sysexits.h). */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
  readonly mistakes: readonly string[]

  constructor(mistakes: readonly string[]) {
    super(mistakes.join('\n'))
    this.mistakes = mistakes
  }
}

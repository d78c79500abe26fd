/** Values for tests below the pipeline: verdicts of every class as upstream's errors become them, and the default policies. */
import { traitsOf, type VerdictClass } from '../../src/failures.ts'
import type { Attempt, Call, Client, Reply, RetryPolicy, Verdict } from '../../src/model.ts'
import type { Attempted } from '../../src/fetch-parts.ts'

type Failed = Extract<Verdict, { kind: 'failed' }>
type Answered = Extract<Verdict, { kind: 'answered' }>

const statuses: Readonly<Partial<Record<VerdictClass, number>>> = {
  timeout: 408,
  rateLimited: 429,
  queueFull: 429,
  creditsExhausted: 429,
  unauthorized: 401,
  emptyResult: 500,
  serverError: 500,
  warmingUp: 503,
  gatewayTimeout: 504,
  blocked: 403,
  rejected: 400,
}

export function reply(status: number, body = '{}'): Reply {
  return { status, contentType: 'application/json', retryAfter: null, location: null, body: Buffer.from(body) }
}

export function answered(changes: Partial<Answered> = {}): Answered {
  return {
    kind: 'answered',
    reply: reply(200),
    charge: { state: 'charged', credits: 3 },
    health: 'up',
    keepable: true,
    ...changes,
  }
}

export function failed(verdictClass: VerdictClass, changes: Partial<Failed> = {}): Failed {
  const status = statuses[verdictClass] ?? null
  const { fault, health } = traitsOf(verdictClass)
  return {
    kind: 'failed',
    class: verdictClass,
    fault,
    reply: status === null ? null : reply(status, JSON.stringify({ detail: verdictClass })),
    refusal: status === null ? 'UPSTREAM_UNREACHABLE' : null,
    charge: verdictClass === 'ambiguous' ? { state: 'unknown', credits: 3 } : { state: 'free', credits: 0 },
    health,
    retryAfterMs: null,
    ...changes,
  }
}

/** An attempt that took no time. */
export function attempted(
  verdict: Verdict,
  changes: Partial<Attempt> & Partial<Pick<Attempted, 'otherKeyReady' | 'wasTooMany'>> = {},
): Attempted {
  const { otherKeyReady = false, wasTooMany = false, ...rest } = changes
  return {
    verdict,
    otherKeyReady,
    wasTooMany,
    attempt: {
      number: 1,
      startedAt: 0,
      durationMs: 0,
      waitedMs: 0,
      keyName: 'main',
      status: verdict.reply?.status ?? null,
      class: verdict.kind === 'answered' ? 'ok' : verdict.class,
      charge: verdict.charge,
      trouble: null,
      ...rest,
    },
  }
}

const usual = { attempts: 4, backoff: { base: 500, max: 30_000 }, bypassCache: false, keyRest: null }
const gentle = { ...usual, backoff: { base: 1_000, max: 30_000 } }

/** The defaults of the contract, section 2. */
export const retryDefaults: RetryPolicy = {
  attempts: 4,
  deadline: 600_000,
  classes: {
    timeout: { ...usual, attempts: 2, bypassCache: true },
    rateLimited: gentle,
    queueFull: gentle,
    creditsExhausted: { ...usual, attempts: 1, keyRest: 15 * 60_000 },
    unauthorized: { ...usual, attempts: 1, keyRest: 5 * 60_000 },
    emptyResult: { ...usual, attempts: 2 },
    serverError: usual,
    warmingUp: gentle,
    gatewayTimeout: usual,
    unreachable: usual,
    blocked: { ...usual, attempts: 1, keyRest: 60_000 },
    ambiguous: { ...usual, attempts: 2 },
  },
}

export const budgetDefaults = { capacity: 100, cost: 5, costSlow: 10, refill: 12_000 }

export const keyRestDefaults = { creditsExhausted: 15 * 60_000, unauthorized: 5 * 60_000, blocked: 60_000 }

export const breakerDefaults = {
  failureRate: 0.9,
  window: 50,
  minimum: 30,
  consecutive: 20,
  questions: 3,
  openFor: 1_000,
  openForMax: 20_000,
  hold: 30_000,
}

export function aCall(changes: Partial<Call> = {}): Call {
  return {
    endpoint: 'answer',
    method: 'GET',
    scraper: 'alpha',
    path: '/scrapers/alpha',
    params: [],
    country: null,
    key: 'question',
    bypass: false,
    timeoutMs: null,
    priceCredits: 3,
    promptHash: null,
    ...changes,
  }
}

export function aClient(changes: Partial<Client> = {}): Client {
  return {
    name: 'team',
    rate: null,
    concurrency: null,
    weight: 1,
    priority: 'interactive',
    retry: retryDefaults,
    cache: { ttl: 60_000, staleIfError: 0, staleWhileRevalidate: 0, emptyResultTtl: 0, scope: 'shared' },
    credits: { perDay: null, perMonth: null },
    scrapers: null,
    ...changes,
  }
}

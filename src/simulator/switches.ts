// What the vendor does not document, as typed switches: the default first.
// Knows the values and how to read them; what a switch does is in the file that asks for it.

import { check, readFields } from './input.ts'

export interface RateLimit {
  readonly limit: number
  readonly windowMs: number
  readonly retryAfter?: boolean
}

export interface Switches {
  /** Fields of the 202 body: job_id with status and scraper, job_id alone, or created_at as well (8.7). */
  submitBody: 'status' | 'job-id' | 'created-at'
  /** Shape of a validation error: 400 with a string, or 422 with a list of objects (8.7, 2.3). */
  validation: '400-string' | '422-list'
  /** Status for a scraper that does not exist (8.7). */
  unknownScraper: '404' | '400'
  /** How an exhausted balance is refused: the credits text with 429, or a 401 (8.7, 2.3). */
  noCredits: '429' | '401'
  /** Which key counts when header and query both carry one (1.2). */
  keyPrecedence: 'header' | 'query'
  /** The 429 of a full queue: text only, with Retry-After, or a gateway's HTML (8.7). */
  queueFull: 'plain' | 'retry-after' | 'html'
  /** Price of an answer from the vendor's cache (8.7, 3.4). */
  cachedCharge: 'full' | 'free'
  /** Whether a cached answer repeats its first job_id (8.7). */
  cachedJobId: 'same' | 'new'
  /** Whether cached answers carry cached_at (8.7, 1.4). */
  cachedAt: boolean
  /** Lifetime in the vendor's own cache; 0 switches that cache off (8.7). */
  vendorCacheTtlMs: number
  /** Whether bypass_cache=true renews the entry in the vendor's cache (3.4). */
  bypassRefreshes: boolean
  /** A client that disconnects: the work is finished and charged, or aborted and free (8.7). */
  clientLeaves: 'charged' | 'free'
  /** A sync 500: never charged, or charged and refunded (8.7, 3.2). */
  sync500: 'free' | 'reserve'
  /** How late a refund reaches the balance (8.7). */
  refundDelayMs: number
  /** completed_at of a pending job: left out, or null (8.7, 1.7). */
  pendingCompletedAt: 'absent' | 'null'
  /** The vendor's own attempts before a job has failed: 3 in total, or 4 (8.7, 4). */
  jobAttempts: number
  /** Fields of a job's result: as few as in the documented example, or all of a sync answer (1.7). */
  jobResult: 'example' | 'full'
  /** Durations: evenly between the bounds, one in ten up to the call's timeout, or log-normal with nine of ten between the bounds (8.7). */
  latencyShape: 'uniform' | 'tail' | 'log-normal'
  /** When a scripted 408 is sent: at once, or at the end of the call's (scaled) timeout (8.7). */
  timeout408: 'at-once' | 'at-timeout'
  /** Whether sync answers carry url and created_at, which only third-party clients name (1.4). */
  optionalFields: boolean
  /** Form of copilot's links: bare URLs, or objects (1.5). */
  copilotLinks: 'strings' | 'objects'
  /** A country in which the scraper is listed as unavailable: refused, or answered (7). */
  unsupportedCountry: '400' | 'accept'
  /** Calls per fixed window before 429-rate; null for none (6). */
  rateLimit: RateLimit | null
  /** Sync calls that may be open before 429-queue; null for any number (6). */
  queueDepth: number | null
  /** Whether the two limits count per key or over all keys (2.3). */
  limitScope: 'key' | 'account'
  /** Whether a prompt starting with "sim:" plays the steps it names (a convention of the simulator). */
  promptScripts: boolean
  /** Pads result to at least this many bytes (for load tests). */
  resultBytes: number
}

interface Spec<T> {
  readonly initial: T
  readonly rule: string
  readonly accepts: (value: unknown) => boolean
}

const SPECS: { readonly [Name in keyof Switches]: Spec<Switches[Name]> } = {
  submitBody: oneOf('status', 'job-id', 'created-at'),
  validation: oneOf('400-string', '422-list'),
  unknownScraper: oneOf('404', '400'),
  noCredits: oneOf('429', '401'),
  keyPrecedence: oneOf('header', 'query'),
  queueFull: oneOf('plain', 'retry-after', 'html'),
  cachedCharge: oneOf('full', 'free'),
  cachedJobId: oneOf('same', 'new'),
  cachedAt: flag(false),
  vendorCacheTtlMs: amount(0),
  bypassRefreshes: flag(true),
  clientLeaves: oneOf('charged', 'free'),
  sync500: oneOf('free', 'reserve'),
  refundDelayMs: amount(0),
  pendingCompletedAt: oneOf('absent', 'null'),
  jobAttempts: { initial: 3, rule: 'a whole number from 1 to 10', accepts: (value) => isWhole(value, 1, 10) },
  jobResult: oneOf('example', 'full'),
  latencyShape: oneOf('uniform', 'tail', 'log-normal'),
  timeout408: oneOf('at-once', 'at-timeout'),
  optionalFields: flag(false),
  copilotLinks: oneOf('strings', 'objects'),
  unsupportedCountry: oneOf('400', 'accept'),
  rateLimit: { initial: null, rule: 'null or { limit, windowMs, retryAfter? }', accepts: isRateLimit },
  queueDepth: {
    initial: null,
    rule: 'null or a whole number',
    accepts: (value) => value === null || isWhole(value, 0, Infinity),
  },
  limitScope: oneOf('key', 'account'),
  promptScripts: flag(true),
  resultBytes: amount(0),
}

export const switchNames = Object.keys(SPECS) as readonly (keyof Switches)[]

export function defaultSwitches(): Switches {
  return Object.fromEntries(switchNames.map((name) => [name, SPECS[name].initial])) as unknown as Switches
}

/** Throws a SimulatorInputError that names the switch and its values. */
export function readSwitches(value: unknown): Partial<Switches> {
  const changes = readFields(value, 'switches', switchNames)
  for (const name of switchNames) {
    if (changes[name] === undefined) continue
    check(SPECS[name].accepts(changes[name]), `switch "${name}" must be ${SPECS[name].rule}`)
  }
  return changes
}

function oneOf<const T extends string>(...values: readonly [T, ...T[]]): Spec<T> {
  return {
    initial: values[0],
    rule: `one of ${values.join(', ')}`,
    accepts: (value) => values.some((known) => known === value),
  }
}

function flag(initial: boolean): Spec<boolean> {
  return { initial, rule: 'true or false', accepts: (value) => typeof value === 'boolean' }
}

function amount(initial: number): Spec<number> {
  return {
    initial,
    rule: 'a number of at least 0',
    accepts: (value) => typeof value === 'number' && Number.isFinite(value) && value >= 0,
  }
}

function isWhole(value: unknown, min: number, max: number): boolean {
  return typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max
}

function isRateLimit(value: unknown): boolean {
  if (value === null) return true
  if (typeof value !== 'object') return false
  const { limit, windowMs, retryAfter = false } = value as Record<string, unknown>
  return isWhole(limit, 0, Infinity) && isWhole(windowMs, 1, Infinity) && typeof retryAfter === 'boolean'
}

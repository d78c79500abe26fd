/**
 * One line of the audit file, format 1 (its fields are described where it is written), read with suspicion: what has not the
 * type it should have makes the line a broken one. Fields and kinds that are not known are passed over.
 */
import { codes, type Code } from '../errors.ts'
import { verdictClasses } from '../failures.ts'
import type { Attempt, Charge, Refused } from '../model.ts'
import type { RecordedAttempt } from './traffic.ts'

export interface RecordedLine {
  readonly kind: 'request' | 'flight'
  readonly at: number
  readonly durationMs: number | null
  readonly id: string
  readonly client: string
  readonly scraper: string
  readonly endpoint: 'answer' | 'submit' | 'status' | null
  readonly question: string | null
  readonly priceCredits: number
  readonly patienceMs: number | null
  readonly timeoutMs: number | null
  readonly cache: 'hit' | 'stale' | 'miss' | 'joined' | 'bypass' | 'none'
  readonly ageMs: number | null
  readonly status: number | 'gone' | null
  readonly code: Code | null
  readonly stored: boolean
  readonly role: 'leader' | 'joined' | 'unattended' | null
  readonly flight: string | null
  readonly stoppedBy: Refused | null
  readonly attempts: readonly RecordedAttempt[]
}

export type Read =
  | { readonly kind: 'line'; readonly line: RecordedLine }
  /** Of a kind that is not known. */
  | { readonly kind: 'other' }
  /** Of another format. */
  | { readonly kind: 'version'; readonly version: unknown }
  | { readonly kind: 'broken' }

const VERSION = 1

const endpoints = ['answer', 'submit', 'status'] as const
const caches = ['hit', 'stale', 'miss', 'joined', 'bypass', 'none'] as const
const roles = ['leader', 'joined', 'unattended'] as const
const charges = ['charged', 'free', 'unknown'] as const
const stops = ['attempts', 'budget', 'deadline', 'breaker', 'places', 'key', 'shutdown', 'final', 'abandoned'] as const
const classes: readonly Attempt['class'][] = ['ok', ...verdictClasses]

type Fields = Readonly<Record<string, unknown>>

class Broken extends Error {}

/** Never throws. */
export function readLine(text: string): Read {
  try {
    const fields: unknown = JSON.parse(text)
    if (!isFields(fields) || fields['v'] === undefined) return { kind: 'broken' }
    if (fields['v'] !== VERSION) return { kind: 'version', version: fields['v'] }
    const { kind } = fields
    if (kind !== 'request' && kind !== 'flight') return { kind: 'other' }
    return { kind: 'line', line: lineOf(kind, fields) }
  } catch {
    return { kind: 'broken' }
  }
}

function lineOf(kind: 'request' | 'flight', fields: Fields): RecordedLine {
  const at = amount(fields, 'at')
  const flightAt = amountOrNull(fields, 'flight_at') ?? at
  const { status, stored } = fields
  return {
    kind,
    at,
    durationMs: amountOrNull(fields, 'duration_ms'),
    id: text(fields, 'id'),
    client: text(fields, 'client'),
    scraper: text(fields, 'scraper'),
    endpoint: oneOfOrNull(fields, 'endpoint', endpoints),
    question: fields['question'] === undefined ? null : text(fields, 'question'),
    priceCredits: amountOrNull(fields, 'price') ?? 0,
    patienceMs: amountOrNull(fields, 'patience_ms'),
    timeoutMs: amountOrNull(fields, 'timeout_ms'),
    cache: oneOfOrNull(fields, 'cache', caches) ?? 'none',
    ageMs: amountOrNull(fields, 'age_ms'),
    status: status === 'gone' ? status : amountOrNull(fields, 'status'),
    code: oneOfOrNull(fields, 'code', codes),
    stored: stored === true,
    role: oneOfOrNull(fields, 'role', roles),
    flight: fields['flight'] === undefined ? null : text(fields, 'flight'),
    stoppedBy: oneOfOrNull(fields, 'stopped_by', stops),
    attempts: attemptsOf(fields['attempts'], flightAt),
  }
}

function attemptsOf(given: unknown, flightAt: number): readonly RecordedAttempt[] {
  if (given === undefined) return []
  if (!Array.isArray(given)) throw new Broken()
  return given.map((fields: unknown) => {
    if (!isFields(fields)) throw new Broken()
    return {
      at: flightAt + amount(fields, 'after_ms'),
      class: oneOf(fields, 'class', classes),
      status: amountOrNull(fields, 'status'),
      durationMs: amount(fields, 'duration_ms'),
      charge: chargeOf(fields),
      retryAfterMs: amountOrNull(fields, 'retry_after_ms'),
    }
  })
}

function chargeOf(fields: Fields): Charge {
  return { state: oneOf(fields, 'charge', charges), credits: amount(fields, 'credits') }
}

function amount(fields: Fields, name: string): number {
  const value = fields[name]
  if (typeof value !== 'number' || !Number.isFinite(value) || value < 0) throw new Broken()
  return value
}

function amountOrNull(fields: Fields, name: string): number | null {
  return fields[name] === undefined ? null : amount(fields, name)
}

function text(fields: Fields, name: string): string {
  const value = fields[name]
  if (typeof value !== 'string') throw new Broken()
  return value
}

function oneOf<T extends string>(fields: Fields, name: string, known: readonly T[]): T {
  const found = known.find((one) => one === fields[name])
  if (found === undefined) throw new Broken()
  return found
}

function oneOfOrNull<T extends string>(fields: Fields, name: string, known: readonly T[]): T | null {
  return fields[name] === undefined ? null : oneOf(fields, name, known)
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

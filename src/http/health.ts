/** How the proxy is, in one word, and what is wrong and since when, in words for an operator. */
import type { BreakerStatus, KeyStatus } from '../fetch-parts.ts'
import type { BudgetStatus } from '../parts.ts'
import type { SharedState } from '../ports.ts'
import type { OverloadCause, OverloadState } from '../telemetry/events.ts'
import type { LedgerStatus } from '../telemetry/ledger.ts'
import type { SlowScraper } from '../telemetry/pace.ts'

export type Up = 'up' | 'down'

export interface DiskStatus {
  readonly answers: Up
  /** `held`: another process owns the data folder. */
  readonly records: Up | 'held'
}

export interface OverloadStatus {
  readonly state: OverloadState
  /** Null while calm. */
  readonly because: OverloadCause | null
}

/** `limit`: a limit is at work, or something needs a hand soon; `outage`: something does not work. */
type Level = 'limit' | 'outage'

export interface Cause {
  readonly level: Level
  readonly text: string
  readonly since: string
}

export interface Health {
  readonly state: 'ok' | 'degraded' | 'starting' | 'draining'
  /** That of the worst cause; null = all is well. */
  readonly level: Level | null
  /** The texts of the causes. */
  readonly because: readonly string[]
  /** When the first of what is wrong now began; null = nothing is. */
  readonly since: string | null
  /** Outages first; empty where all is well. */
  readonly causes: readonly Cause[]
}

const overloadWords = { shedding: 'cache misses are refused', critical: 'all new requests are refused' }
const overloadCauses = { 'event-loop': 'the event loop is late', memory: 'memory is nearly full' }

export interface Vital {
  /** Those in the files have a mistake. */
  readonly areSettingsRefused: boolean
  readonly overload: OverloadStatus
  readonly breakers: readonly BreakerStatus[]
  readonly slow: readonly SlowScraper[]
  readonly keys: readonly KeyStatus[]
  readonly disk: DiskStatus | null
  readonly redis: SharedState | null
  readonly redisTrouble: string | null
  readonly auditFile: Up | null
  readonly credits: LedgerStatus
  readonly budgets: readonly BudgetStatus[]
}

/** When this part, by the name that the history has for it, began to be unwell: epoch milliseconds. */
export type BeganAt = (name: string) => number

export function healthOf(isReady: boolean, isDraining: boolean, vital: Vital, beganAt: BeganAt): Health {
  const troubles = [...outagesOf(vital, beganAt), ...limitsOf(vital, beganAt)]
  const causes = troubles.map(({ level, text, at }) => ({ level, text, since: new Date(at).toISOString() }))
  const told = {
    level: causes[0]?.level ?? null,
    because: causes.map(({ text }) => text),
    since: causes.length === 0 ? null : new Date(Math.min(...troubles.map(({ at }) => at))).toISOString(),
    causes,
  }
  if (isDraining) return { state: 'draining', ...told }
  if (!isReady) return { state: 'starting', ...told }
  return { state: causes.length === 0 ? 'ok' : 'degraded', ...told }
}

interface Trouble {
  readonly level: Level
  readonly text: string
  readonly at: number
}

function* outagesOf(vital: Vital, beganAt: BeganAt): Generator<Trouble> {
  const { overload, breakers, keys, disk, redis, redisTrouble, auditFile, credits } = vital
  const outage = (name: string, text: string): Trouble => ({ level: 'outage', text, at: beganAt(name) })
  const { state, because } = overload
  if (state !== 'calm' && because !== null)
    yield outage('overload', `overloaded: ${overloadCauses[because]}, and ${overloadWords[state]}`)
  for (const one of breakers)
    if (one.state !== 'closed' && !isUnasked(one))
      yield outage(`circuit of ${one.scraper}`, `upstream fails for ${one.scraper} (circuit ${one.state})`)
  if (isKeyless(keys)) {
    const at = Math.max(...keys.map(({ name }) => beganAt(`key ${name}`)))
    yield { level: 'outage', text: `no upstream key is ready: ${keys.map(keyText).join(', ')}`, at }
  }
  if (redis === 'down') yield outage('Redis', `Redis is unavailable: ${redisTrouble ?? 'not connected yet'}`)
  if (redis === 'refusing') yield outage('Redis', `Redis refuses writes: ${redisTrouble}`)
  if (disk?.answers === 'down' && disk.records !== 'held') yield outage('disk answers', 'the disk cache is unavailable')
  if (disk?.records === 'down') yield outage('disk records', 'budgets and jobs cannot be saved to disk')
  if (disk?.records === 'held') yield outage('data folder', 'waiting for the data folder: another process uses it')
  if (auditFile === 'down') yield outage('audit file', 'the audit file cannot be written')
  if (credits.imbalance !== 0)
    yield outage('ledger', `${credits.imbalance} credits are unaccounted for: a bug of the proxy`)
}

function* limitsOf(vital: Vital, beganAt: BeganAt): Generator<Trouble> {
  const { areSettingsRefused, breakers, slow, keys, budgets } = vital
  const limit = (name: string, text: string): Trouble => ({ level: 'limit', text, at: beganAt(name) })
  for (const { scraper, p95Ms, usualMs, since } of slow)
    yield {
      level: 'limit',
      text: `${scraper} is slow: 1 in 20 answers takes ${secondsText(p95Ms)} or longer (usually ${secondsText(usualMs)})`,
      at: since,
    }
  for (const one of breakers)
    if (isUnasked(one))
      yield limit(
        `circuit of ${one.scraper}`,
        `the circuit of ${one.scraper} is open and idle: the next request tests upstream`,
      )
  if (areSettingsRefused)
    yield limit('settings', 'the changed settings were refused: the proxy would not start with them')
  if (!isKeyless(keys))
    for (const key of keys)
      if (key.state !== 'ready') yield limit(`key ${key.name}`, `upstream key ${keyText(key)}; others are ready`)
  for (const { client, period, leftCredits } of budgets)
    if (leftCredits <= 0)
      yield limit(
        `budget of ${client} for the ${period}`,
        `${client === '' ? 'the account' : `client ${client}`} has used up its credits for the ${period}`,
      )
}

/** Its circuit is open, and nobody asks: whether upstream is back is not known. */
function isUnasked({ state, openUntil, held }: BreakerStatus): boolean {
  return state === 'open' && openUntil === null && held === 0
}

function isKeyless(keys: readonly KeyStatus[]): boolean {
  return keys.length > 0 && keys.every(({ state }) => state !== 'ready')
}

function keyText({ name, problem }: KeyStatus): string {
  return `${name} ${problem?.says ?? 'rests'}`
}

function secondsText(ms: number): string {
  return `${Math.round(ms / 1_000)} s`
}

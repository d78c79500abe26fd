/** How the proxy is, in one word, and what is wrong, in words for an operator. */
import type { BreakerStatus, KeyStatus } from '../fetch-parts.ts'
import type { BudgetStatus } from '../parts.ts'
import type { SharedState } from '../ports.ts'
import type { OverloadCause, OverloadState } from '../telemetry/events.ts'
import type { LedgerStatus } from '../telemetry/ledger.ts'

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

export interface Health {
  readonly state: 'ok' | 'degraded' | 'starting' | 'draining'
  /** `limit`: a limit is at work, or something needs a hand soon; `outage`: something does not work. Null = all is well. */
  readonly level: 'limit' | 'outage' | null
  /** In words, outages first; empty where all is well. */
  readonly because: readonly string[]
  /** When the first of what is wrong now began; null = nothing is, or it is not known. */
  readonly since: string | null
}

const overloadWords = {
  shedding: 'overloaded, misses are refused',
  critical: 'overloaded, all new requests are refused',
}
const overloadCauses = { 'event-loop': 'the event loop is late', memory: 'memory is nearly full' }

export interface Vital {
  /** Those in the files have a mistake. */
  readonly areSettingsRefused: boolean
  readonly overload: OverloadStatus
  readonly breakers: readonly BreakerStatus[]
  readonly keys: readonly KeyStatus[]
  readonly disk: DiskStatus | null
  readonly redis: SharedState | null
  readonly redisTrouble: string | null
  readonly auditFile: Up | null
  readonly credits: LedgerStatus
  readonly budgets: readonly BudgetStatus[]
}

export function healthOf(isReady: boolean, isDraining: boolean, vital: Vital, began: string | null): Health {
  const { outages, limits } = troublesOf(vital)
  const because = [...outages, ...limits]
  const level = outages.length > 0 ? 'outage' : limits.length > 0 ? 'limit' : null
  const since = because.length === 0 ? null : began
  if (isDraining) return { state: 'draining', level, because, since }
  if (!isReady) return { state: 'starting', level, because, since }
  return { state: because.length === 0 ? 'ok' : 'degraded', level, because, since }
}

/** Its circuit is open, and nobody asks: whether upstream is back is not known. */
function isUnasked({ state, openUntil, held }: BreakerStatus): boolean {
  return state === 'open' && openUntil === null && held === 0
}

interface Troubles {
  readonly outages: readonly string[]
  readonly limits: readonly string[]
}

function troublesOf(vital: Vital): Troubles {
  const { areSettingsRefused, overload, breakers, keys, disk, redis, redisTrouble, auditFile, credits, budgets } = vital
  const circuits = breakers.filter((one) => one.state !== 'closed' && !isUnasked(one)).map(({ scraper }) => scraper)
  const unasked = breakers.filter(isUnasked).map(({ scraper }) => scraper)
  const resting = keys.filter(({ state }) => state !== 'ready').map(({ name }) => name)
  const isKeyless = resting.length > 0 && resting.length === keys.length
  const empty = budgets.filter(({ leftCredits }) => leftCredits <= 0)
  const { state, because } = overload
  const outages = [
    state !== 'calm' && because !== null && `${overloadWords[state]}: ${overloadCauses[because]}`,
    circuits.length > 0 && `upstream fails for ${circuits.join(', ')} (circuit not closed)`,
    isKeyless && `no key is ready: key ${resting.join(', ')}`,
    redis === 'down' && `Redis is away: ${redisTrouble ?? 'not reached yet'}`,
    redis === 'refusing' && `Redis refuses writes: ${redisTrouble}`,
    disk?.answers === 'down' && disk.records !== 'held' && 'the disk cache is lost',
    disk?.records === 'down' && 'budgets and jobs cannot be saved: the records file is lost',
    disk?.records === 'held' && 'waiting for the data folder: another process holds it',
    auditFile === 'down' && 'the audit file cannot be written',
    credits.imbalance !== 0 && `${credits.imbalance} credits are not accounted for: a bug`,
  ]
  const limits = [
    unasked.length > 0 && `nobody has asked ${unasked.join(', ')} since the outage: the next request tries it`,
    areSettingsRefused && 'the settings in the files were refused: a restart would fail',
    resting.length > 0 && !isKeyless && `not ready: key ${resting.join(', ')}`,
    ...empty.map(
      ({ client, period }) =>
        `${client === '' ? 'the account as a whole' : client} has spent its credits of the ${period}`,
    ),
  ]
  const isText = (one: string | false): one is string => one !== false
  return { outages: outages.filter(isText), limits: limits.filter(isText) }
}

/**
 * What an operator may see of the running proxy, gathered from its parts: the JSON of `GET /status` and the page of `GET /`.
 * No secret and no prompt is in it; request ids are the callers' words.
 */
import type { BreakerStatus, BudgetStatus, FlightStatus, KeyStatus } from '../parts.ts'
import type { Clock, SharedState } from '../ports.ts'
import type { BreakerState, KeyState, OverloadCause, OverloadState } from '../telemetry/events.ts'
import type { LedgerStatus } from '../telemetry/ledger.ts'
import type { Trail, Trails } from '../telemetry/trail.ts'

type Up = 'up' | 'down'

export interface StatusGauges {
  readonly version: string
  /** By the wall. */
  readonly startedAt: number
  readonly clock: Clock
  readonly configGeneration: () => number
  /** Old ones included, whose questions are still open. */
  readonly generationsInUse?: () => number
  readonly ready: () => boolean
  readonly draining: () => boolean
  readonly openRequests: () => number
  readonly overload?: () => OverloadStatus
  readonly breakers: () => readonly BreakerStatus[]
  readonly keys: () => readonly KeyStatus[]
  readonly flights: () => readonly FlightStatus[]
  readonly cache: () => readonly TierStatus[]
  /** Null = there is none, here and below. */
  readonly disk: () => Up | null
  readonly redis?: () => SharedState | null
  readonly auditFile?: () => Up | null
  readonly credits: () => LedgerStatus
  readonly budgets: () => readonly BudgetStatus[]
  readonly clients: () => readonly ClientGauge[]
  readonly trails: Trails
}

export interface OverloadStatus {
  readonly state: OverloadState
  /** Null while calm. */
  readonly because: OverloadCause | null
}

export interface TierStatus {
  readonly tier: string
  readonly entries: number
  readonly bytes: number
}

export interface ClientGauge {
  readonly name: string
  readonly openQuestions: number
  readonly dayCredits: number
  readonly monthCredits: number
}

export interface Health {
  readonly state: 'ok' | 'degraded' | 'starting' | 'draining'
  /** In words; empty where all is well. */
  readonly because: readonly string[]
}

/** Points in time are ISO 8601 in UTC. Field names are what scripts rely on: add, never rename. */
export interface StatusReport {
  readonly version: string
  readonly time: string
  readonly uptime_seconds: number
  readonly config_generation: number
  readonly generations_in_use: number
  readonly health: Health
  readonly draining: boolean
  readonly open_requests: number
  readonly overload: OverloadState
  readonly breakers: readonly {
    readonly scraper: string
    readonly state: BreakerState
    readonly open_until: string | null
  }[]
  readonly keys: readonly { readonly name: string; readonly state: KeyState; readonly until: string | null }[]
  readonly flights: readonly { readonly scraper: string; readonly askers: number; readonly started_at: string | null }[]
  readonly cache: readonly TierStatus[]
  readonly disk: Up | null
  readonly redis: SharedState | null
  readonly audit_file: Up | null
  readonly credits: LedgerStatus
  readonly budgets: readonly BudgetReport[]
  readonly clients: readonly {
    readonly name: string
    readonly open_questions: number
    readonly credits_today: number
    readonly credits_this_month: number
  }[]
  readonly errors: readonly ErrorReport[]
  readonly recent: readonly RecentReport[]
}

export interface BudgetReport {
  readonly client: string
  readonly period: 'day' | 'month'
  readonly limit: number
  readonly left: number
  readonly held: number
  readonly spent: number
  readonly reset_at: string | null
}

/** What went wrong lately, by class of failure or code of refusal. */
export interface ErrorReport {
  readonly name: string
  readonly kind: 'attempt' | 'refusal'
  readonly count: number
  readonly last_at: string | null
  readonly scraper: string
  readonly status: number | null
  readonly request_id: string
}

export interface RecentReport {
  readonly id: string
  readonly at: string | null
  readonly client: string
  readonly scraper: string
  readonly cache: string | null
  /** Null = under way. */
  readonly status: number | 'gone' | null
  readonly code: string | null
  readonly attempts: number
  readonly credits: number
  readonly duration_ms: number | null
}

const recentCount = 25

export function createStatus(gauges: StatusGauges): () => StatusReport {
  const { clock, startedAt, trails } = gauges
  return () => {
    const parts = {
      overload: gauges.overload?.() ?? noOverload,
      breakers: gauges.breakers(),
      keys: gauges.keys(),
      disk: gauges.disk(),
      redis: gauges.redis?.() ?? null,
      auditFile: gauges.auditFile?.() ?? null,
      credits: gauges.credits(),
      budgets: gauges.budgets(),
    }
    const now = clock.wall()
    return {
      version: gauges.version,
      time: new Date(now).toISOString(),
      uptime_seconds: Math.floor((now - startedAt) / 1000),
      config_generation: gauges.configGeneration(),
      generations_in_use: gauges.generationsInUse?.() ?? 1,
      health: healthOf(gauges.ready(), gauges.draining(), parts),
      draining: gauges.draining(),
      open_requests: gauges.openRequests(),
      overload: parts.overload.state,
      breakers: parts.breakers.map(({ scraper, state, openUntil }) => ({ scraper, state, open_until: iso(openUntil) })),
      keys: parts.keys.map(({ name, state, untilAt }) => ({ name, state, until: iso(untilAt) })),
      flights: gauges.flights().map(({ scraper, askers, startedAt: at }) => ({ scraper, askers, started_at: iso(at) })),
      cache: gauges.cache(),
      disk: parts.disk,
      redis: parts.redis,
      audit_file: parts.auditFile,
      credits: parts.credits,
      budgets: parts.budgets.map(budgetOf),
      clients: gauges.clients().map(({ name, openQuestions, dayCredits, monthCredits }) => ({
        name,
        open_questions: openQuestions,
        credits_today: dayCredits,
        credits_this_month: monthCredits,
      })),
      errors: trails.troubles().map(({ name, kind, count, lastAt, scraper, status, requestId }) => ({
        name,
        kind,
        count,
        last_at: iso(lastAt),
        scraper,
        status,
        request_id: requestId,
      })),
      recent: trails.recent(recentCount).map(recentOf),
    }
  }
}

const noOverload: OverloadStatus = { state: 'calm', because: null }
const overloadWords = {
  shedding: 'overloaded, misses are refused',
  critical: 'overloaded, all new requests are refused',
}
const overloadCauses = { 'event-loop': 'the event loop is late', memory: 'memory is nearly full' }

interface Vital {
  readonly overload: OverloadStatus
  readonly breakers: readonly BreakerStatus[]
  readonly keys: readonly KeyStatus[]
  readonly disk: Up | null
  readonly redis: SharedState | null
  readonly auditFile: Up | null
  readonly credits: LedgerStatus
  readonly budgets: readonly BudgetStatus[]
}

function healthOf(isReady: boolean, isDraining: boolean, vital: Vital): Health {
  const because = troublesOf(vital)
  if (isDraining) return { state: 'draining', because }
  if (!isReady) return { state: 'starting', because }
  return { state: because.length === 0 ? 'ok' : 'degraded', because }
}

function troublesOf({
  overload: { state, because },
  breakers,
  keys,
  disk,
  redis,
  auditFile,
  credits,
  budgets,
}: Vital): string[] {
  const circuits = breakers.filter(({ state }) => state !== 'closed').map(({ scraper }) => scraper)
  const resting = keys.filter(({ state }) => state !== 'ready').map(({ name }) => name)
  const empty = budgets.filter(({ leftCredits }) => leftCredits <= 0)
  return [
    ...(state === 'calm' || because === null ? [] : [`${overloadWords[state]}: ${overloadCauses[because]}`]),
    ...(circuits.length > 0 ? [`upstream fails for ${circuits.join(', ')} (circuit not closed)`] : []),
    ...(resting.length > 0
      ? [`${resting.length === keys.length ? 'no key is ready' : 'not ready'}: key ${resting.join(', ')}`]
      : []),
    ...(redis === 'down' ? ['Redis is away'] : []),
    ...(redis === 'refusing' ? ['Redis refuses writes (log line "redis refuses writes" says why)'] : []),
    ...(disk === 'down' ? ['the disk cache is lost'] : []),
    ...(auditFile === 'down' ? ['the audit file cannot be written'] : []),
    ...empty.map(({ client, period }) => `${client} has spent its credits of the ${period}`),
    ...(credits.imbalance === 0 ? [] : [`${credits.imbalance} credits are not accounted for: a bug`]),
  ]
}

function budgetOf(budget: BudgetStatus): BudgetReport {
  const { client, period, limitCredits, leftCredits, heldCredits, spentCredits, resetAt } = budget
  return {
    client,
    period,
    limit: limitCredits,
    left: leftCredits,
    held: heldCredits,
    spent: spentCredits,
    reset_at: iso(resetAt),
  }
}

function recentOf({ id, at, client, scraper, cache, status, code, flight, credits, durationMs }: Trail): RecentReport {
  return {
    id,
    at: iso(at),
    client,
    scraper,
    cache,
    status,
    code,
    attempts: (flight?.attempts.length ?? 0) + (flight?.underWay ? 1 : 0),
    credits,
    duration_ms: durationMs,
  }
}

function iso(at: number | null): string | null {
  return at !== null && Number.isFinite(at) ? new Date(at).toISOString() : null
}

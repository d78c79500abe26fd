/**
 * What an operator may see of the running proxy, gathered from its parts: the JSON of `GET /status` and the page of `GET /`.
 * No secret and no prompt is in it; request ids are the callers' words.
 */
import type { FailureClass } from '../failures.ts'
import type { BreakerStatus, KeyStatus } from '../fetch-parts.ts'
import type { FlightStatus } from '../flights.ts'
import type { BudgetStatus } from '../parts.ts'
import type { Clock, SharedState } from '../ports.ts'
import type { BreakerState, KeyState, OverloadState } from '../telemetry/events.ts'
import type { History } from '../telemetry/history.ts'
import type { Hour } from '../telemetry/history-step.ts'
import type { LedgerStatus } from '../telemetry/ledger.ts'
import type { SlowScraper } from '../telemetry/pace.ts'
import type { Trail, Trails } from '../telemetry/trail.ts'
import { type BeganAt, type DiskStatus, type Health, healthOf, type OverloadStatus, type Up } from './health.ts'

export interface StatusGauges {
  readonly version: string
  /** By the wall. */
  readonly startedAt: number
  readonly clock: Clock
  readonly configGeneration: () => number
  /** Old ones included, whose questions are still open. */
  readonly generationsInUse?: () => number
  /** How the settings in the files differ from those in force. */
  readonly unapplied?: () => { readonly mistakes: readonly string[]; readonly waiting: readonly string[] }
  readonly ready: () => boolean
  readonly draining: () => boolean
  readonly openRequests: () => number
  readonly overload?: () => OverloadStatus
  readonly breakers: () => readonly BreakerStatus[]
  /** Scrapers that are slower than usual. */
  readonly slow?: () => readonly SlowScraper[]
  readonly keys: () => readonly KeyStatus[]
  readonly flights: () => readonly FlightStatus[]
  readonly places?: () => readonly PlacesStatus[]
  readonly cache: () => readonly TierStatus[]
  /** Null = there is none, here and below. */
  readonly disk: () => DiskStatus | null
  readonly redis?: () => SharedState | null
  readonly redisTrouble?: () => string | null
  readonly auditFile?: () => Up | null
  readonly credits: () => LedgerStatus
  readonly budgets: () => readonly BudgetStatus[]
  readonly clients: () => readonly ClientGauge[]
  readonly tokens?: () => readonly TokenGauge[]
  readonly trails: Trails
  readonly history: Pick<History, 'hours' | 'troubles' | 'acts'>
}

export interface TierStatus {
  readonly tier: string
  readonly entries: number
  readonly bytes: number
  readonly maxBytes: number
}

/** Upstream calls of one scraper. */
export interface PlacesStatus {
  readonly scraper: string
  readonly underWay: number
  /** How many may be under way now. */
  readonly limit: number
  readonly waiting: number
}

export interface TokenGauge {
  readonly client: string
  /** Place in the settings, and the first digits of its hash. */
  readonly name: string
  /** By the wall; null = not as far as is known. */
  readonly lastUsedAt: number | null
  /** Null = never. */
  readonly expiresAt: number | null
}

export interface ClientGauge {
  readonly name: string
  readonly openQuestions: number
  readonly dayCredits: number
  readonly monthCredits: number
}

/** Points in time are ISO 8601 in UTC. Field names are what scripts rely on: add, never rename. */
export interface StatusReport {
  readonly version: string
  readonly time: string
  readonly uptime_seconds: number
  readonly config_generation: number
  readonly generations_in_use: number
  /** Of the settings in the files: why they were refused, and those that wait for a restart. */
  readonly settings: { readonly mistakes: readonly string[]; readonly waiting_for_restart: readonly string[] }
  readonly health: Health
  readonly draining: boolean
  readonly open_requests: number
  readonly overload: OverloadState
  readonly breakers: readonly {
    readonly scraper: string
    readonly state: BreakerState
    readonly open_until: string | null
    /** Attempts that wait for it to close. */
    readonly held: number
  }[]
  readonly keys: readonly {
    readonly name: string
    readonly state: KeyState
    readonly until: string | null
    /** The failure class that made it rest, in words, and what ends it; null = it is ready. */
    readonly reason: FailureClass | null
    readonly says: string | null
    readonly remedy: string | null
    /** While no key is ready, a request tries it then; null = the next request does, or it is ready. */
    readonly next_try: string | null
  }[]
  readonly flights: readonly { readonly scraper: string; readonly askers: number; readonly started_at: string | null }[]
  readonly places: readonly {
    readonly scraper: string
    readonly under_way: number
    readonly limit: number
    readonly waiting: number
  }[]
  readonly cache: readonly {
    readonly tier: string
    readonly entries: number
    readonly bytes: number
    readonly max_bytes: number
  }[]
  readonly disk: Up | null
  /** `held`: another process owns the data folder. */
  readonly records: DiskStatus['records'] | null
  readonly redis: SharedState | null
  /** Why it is away or refuses, as of the last attempt. */
  readonly redis_because: string | null
  readonly audit_file: Up | null
  readonly credits: LedgerStatus
  readonly budgets: readonly BudgetReport[]
  /** Of the account as a whole; empty without limits. */
  readonly account: readonly Omit<BudgetReport, 'client'>[]
  readonly clients: readonly {
    readonly name: string
    readonly open_questions: number
    readonly credits_today: number
    readonly credits_this_month: number
    readonly tokens: readonly TokenReport[]
  }[]
  /** The last 60 minutes, and the same ones a day ago (null = not known). */
  readonly last_hour: HourReport
  readonly same_hour_yesterday: HourReport | null
  /** What operators did on the admin port, the latest first. */
  readonly acts: readonly {
    readonly at: string | null
    readonly did: string
    readonly from: string
    readonly by: string | null
  }[]
  readonly errors: readonly ErrorReport[]
  readonly recent: readonly RecentReport[]
}

/** Shares are 0 to 1; null where there was nothing to take a share of. Latencies are those of misses. */
export interface HourReport {
  readonly requests: number
  /** Since the start, where that is less than an hour ago. */
  readonly requests_per_minute: number
  /** Answered 4xx by the proxy or for the caller's own mistake; not in `success_ratio`. */
  readonly refused: number
  readonly success_ratio: number | null
  readonly hit_ratio: number | null
  readonly p50_ms: number | null
  readonly p95_ms: number | null
  readonly credits_spent: number
  readonly credits_saved: number
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
  /** Whom it met, the most affected first. */
  readonly clients: readonly string[]
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
  const beginnings = createBeginnings(gauges)
  return () => {
    const { mistakes, waiting } = gauges.unapplied?.() ?? { mistakes: [], waiting: [] }
    const parts = {
      areSettingsRefused: mistakes.length > 0,
      overload: gauges.overload?.() ?? noOverload,
      breakers: gauges.breakers(),
      slow: gauges.slow?.() ?? [],
      keys: gauges.keys(),
      disk: gauges.disk(),
      redis: gauges.redis?.() ?? null,
      redisTrouble: gauges.redisTrouble?.() ?? null,
      auditFile: gauges.auditFile?.() ?? null,
      credits: gauges.credits(),
      budgets: gauges.budgets(),
    }
    const now = clock.wall()
    const hours = gauges.history.hours()
    return {
      version: gauges.version,
      time: new Date(now).toISOString(),
      uptime_seconds: Math.floor((now - startedAt) / 1000),
      config_generation: gauges.configGeneration(),
      generations_in_use: gauges.generationsInUse?.() ?? 1,
      settings: { mistakes, waiting_for_restart: waiting },
      health: beginnings((beganAt) => healthOf(gauges.ready(), gauges.draining(), parts, beganAt)),
      draining: gauges.draining(),
      open_requests: gauges.openRequests(),
      overload: parts.overload.state,
      breakers: parts.breakers.map(({ openUntil, ...circuit }) => ({ ...circuit, open_until: iso(openUntil) })),
      keys: parts.keys.map(keyOf),
      flights: gauges
        .flights()
        .map(({ scraper, waiters, startedAt: at }) => ({ scraper, askers: waiters, started_at: iso(at) })),
      places: (gauges.places?.() ?? []).map(({ underWay, ...rest }) => ({ under_way: underWay, ...rest })),
      cache: gauges.cache().map(({ maxBytes, ...rest }) => ({ ...rest, max_bytes: maxBytes })),
      disk: parts.disk?.answers ?? null,
      records: parts.disk?.records ?? null,
      redis: parts.redis,
      redis_because: parts.redisTrouble,
      audit_file: parts.auditFile,
      credits: parts.credits,
      budgets: parts.budgets.filter(({ client }) => client !== '').map(budgetOf),
      account: parts.budgets.filter(({ client }) => client === '').map(accountOf),
      clients: gauges.clients().map(({ name, openQuestions, dayCredits, monthCredits }) => ({
        name,
        open_questions: openQuestions,
        credits_today: dayCredits,
        credits_this_month: monthCredits,
        tokens: (gauges.tokens?.() ?? []).filter(({ client }) => client === name).map(tokenOf),
      })),
      last_hour: hourOf(hours.now),
      same_hour_yesterday: hours.dayAgo ? hourOf(hours.dayAgo) : null,
      acts: gauges.history.acts().map(({ at, text, from, by }) => ({ at: iso(at), did: text, from, by })),
      errors: trails.troubles().map(({ name, kind, count, lastAt, scraper, clients, status, requestId }) => ({
        name,
        kind,
        count,
        last_at: iso(lastAt),
        scraper,
        clients,
        status,
        request_id: requestId,
      })),
      recent: trails.recent(recentCount).map(recentReport),
    }
  }
}

/** When each trouble began: as the history tells, or else when it was seen first. */
function createBeginnings({ clock, history }: Pick<StatusGauges, 'clock' | 'history'>) {
  let seen = new Map<string, number>()
  return (look: (beganAt: BeganAt) => Health): Health => {
    const told = new Map(history.troubles().map(({ text, at }) => [text, at]))
    const present = new Map<string, number>()
    const health = look((name) => {
      const at = told.get(name) ?? seen.get(name) ?? clock.wall()
      present.set(name, at)
      return at
    })
    seen = present
    return health
  }
}

const noOverload: OverloadStatus = { state: 'calm', because: null }
function hourOf({
  requests,
  perMinute,
  refused,
  success,
  hits,
  p50Ms,
  p95Ms,
  spentCredits,
  savedCredits,
}: Hour): HourReport {
  return {
    requests,
    requests_per_minute: Number(perMinute.toFixed(2)),
    refused,
    success_ratio: success,
    hit_ratio: hits,
    p50_ms: p50Ms,
    p95_ms: p95Ms,
    credits_spent: spentCredits,
    credits_saved: savedCredits,
  }
}

function keyOf({ name, state, problem, untilAt, tryAt }: KeyStatus): StatusReport['keys'][number] {
  const { reason = null, says = null, remedy = null } = problem ?? {}
  return { name, state, until: iso(untilAt), reason, says, remedy, next_try: iso(tryAt) }
}

export interface TokenReport {
  readonly token: string
  readonly last_used_at: string | null
  readonly expires_at: string | null
}

function tokenOf({ name, lastUsedAt, expiresAt }: TokenGauge): TokenReport {
  return { token: name, last_used_at: iso(lastUsedAt), expires_at: iso(expiresAt) }
}

function accountOf(budget: BudgetStatus): Omit<BudgetReport, 'client'> {
  const { client: _, ...report } = budgetOf(budget)
  return report
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

export function recentReport({
  id,
  at,
  client,
  scraper,
  cache,
  status,
  code,
  flight,
  credits,
  durationMs,
}: Trail): RecentReport {
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

/** Every gauge that is read at each scrape, from the live parts. A new one is one row. */
import type { BreakerStatus, KeyStatus } from '../fetch-parts.ts'
import type { Tier } from '../model.ts'
import type { BudgetStatus } from '../parts.ts'
import type { SharedState } from '../ports.ts'
import type { BreakerState, KeyState, OverloadState } from './events.ts'
import type { ListOptions } from './labels.ts'
import { row, type Row } from './metric-rows.ts'
import type { LabelValue } from './series.ts'

/** How the parts stand at this moment. */
export interface Gauges {
  readonly openRequests?: () => number
  readonly breakers: () => readonly BreakerStatus[]
  readonly keys: () => readonly KeyStatus[]
  /** Left out where nothing is limited. */
  readonly budgets?: () => readonly BudgetStatus[]
  readonly tokens?: () => readonly {
    readonly client: string
    readonly name: string
    readonly lastUsedAt: number | null
  }[]
  readonly retryTokens: (scraper: string) => number
  readonly queued?: (scraper: string) => number
  readonly limits?: {
    readonly upstream: (scraper: string) => number
    readonly maxConcurrent: () => number
    readonly queueSize: () => number
  }
  /** Epoch milliseconds; null = there is none. */
  readonly certificateUntil?: () => number | null
  readonly wallMs?: () => number
  readonly overload?: () => { readonly state: OverloadState; readonly memory: number }
  readonly cache: () => readonly {
    readonly tier: Tier
    readonly entries: number
    readonly bytes: number
    readonly maxBytes: number
  }[]
  readonly configGeneration: () => number
  /** Null = there is none. */
  readonly disk?: () => { readonly answers: 'up' | 'down'; readonly records: 'up' | 'down' | 'held' } | null
  /** Left out where there is none. */
  readonly auditFile?: (() => 'up' | 'down') | undefined
  /** Left out where there is no Redis. */
  readonly redis?: (() => SharedState) | undefined
}

interface Reading extends Row {
  readonly read: (
    given: ListOptions & { readonly gauges: Gauges },
  ) => readonly (readonly [value: number, ...labels: readonly LabelValue[]])[]
}

const breakerLevels: Readonly<Record<BreakerState, number>> = { closed: 0, 'half-open': 1, open: 2 }

const overloadLevels: Readonly<Record<OverloadState, number>> = { calm: 0, shedding: 1, critical: 2 }

const keyLevels: Readonly<Record<KeyState, number>> = { ready: 0, resting: 1, spent: 2 }

/** Gauges that are read from the live parts at each scrape. */
export const readingRows: readonly Reading[] = [
  {
    ...row([], 'in_flight_requests', 'Client requests that are open now.'),
    read: ({ gauges }) => [[gauges.openRequests?.() ?? 0]],
  },
  {
    ...row(
      [],
      'overload_state',
      'Overload state: 0 calm, 1 shedding (cache misses are refused), 2 critical (all new requests are refused).',
    ),
    read: ({ gauges }) => [[overloadLevels[gauges.overload?.().state ?? 'calm']]],
  },
  {
    ...row(
      [],
      'memory_used_ratio',
      'Used share of the memory available to the process (container or machine), or of its heap, whichever is higher.',
    ),
    read: ({ gauges }) => [[gauges.overload?.().memory ?? 0]],
  },
  {
    ...row(['scraper'], 'upstream_queue_length', 'Upstream attempts waiting in the queue.'),
    read: ({ scrapers, gauges }) => scrapers.map((scraper) => [gauges.queued?.(scraper) ?? 0, scraper]),
  },
  {
    ...row(
      ['scraper'],
      'upstream_limit',
      'Current limit of concurrent upstream attempts: the smallest of `upstream.maxConcurrent`, `perScraper` and the adaptive limit.',
    ),
    read: ({ scrapers, gauges: { limits } }) =>
      limits ? scrapers.map((scraper) => [limits.upstream(scraper), scraper]) : [],
  },
  {
    ...row([], 'upstream_max_concurrent', 'The setting `upstream.maxConcurrent`.'),
    read: ({ gauges: { limits } }) => (limits ? [[limits.maxConcurrent()]] : []),
  },
  {
    ...row([], 'upstream_queue_size', 'The setting `upstream.queue.size`: maximum queue length per scraper.'),
    read: ({ gauges: { limits } }) => (limits ? [[limits.queueSize()]] : []),
  },
  {
    ...row(
      ['scraper'],
      'retry_budget_tokens',
      'Tokens left in the retry budget; when they run out, nothing is retried.',
    ),
    read: ({ scrapers, gauges }) => scrapers.map((scraper) => [gauges.retryTokens(scraper), scraper]),
  },
  {
    ...row(['scraper'], 'breaker_state', 'Circuit breaker: 0 closed, 1 half-open, 2 open.'),
    read: ({ scrapers, gauges }) => {
      const states = new Map(gauges.breakers().map(({ scraper, state }) => [scraper, state]))
      return scrapers.map((scraper) => [breakerLevels[states.get(scraper) ?? 'closed'], scraper])
    },
  },
  {
    ...row(['scraper'], 'breaker_held', 'Attempts waiting for an open circuit, or for a circuit that may open.'),
    read: ({ scrapers, gauges }) => {
      const held = new Map(gauges.breakers().map(({ scraper, held }) => [scraper, held]))
      return scrapers.map((scraper) => [held.get(scraper) ?? 0, scraper])
    },
  },
  {
    ...row(['key'], 'key_state', 'Upstream key: 0 ready, 1 resting, 2 spent.'),
    read: ({ gauges }) => gauges.keys().map(({ name, state }) => [keyLevels[state], name]),
  },
  {
    ...row(
      ['client', 'period'],
      'credits_budget_remaining',
      "Credits left of a client's budget for the UTC day or month, less those held for calls under way; below 0 when answers cost more than their price.",
    ),
    read: ({ gauges }) => budgetsOf(gauges, ({ leftCredits }) => leftCredits),
  },
  {
    ...row(['client', 'period'], 'credits_budget_limit', "Credits of a client's budget for the UTC day or month."),
    read: ({ gauges }) => budgetsOf(gauges, ({ limitCredits }) => limitCredits),
  },
  {
    ...row(
      ['client', 'period'],
      'credits_budget_held',
      "Credits of a client's budget that are held for calls under way.",
    ),
    read: ({ gauges }) => budgetsOf(gauges, ({ heldCredits }) => heldCredits),
  },
  {
    ...row(
      ['period'],
      'credits_account_remaining',
      'Credits left of `upstream.credits` for the UTC day or month, including the reserve, minus the credits held for calls in progress. Absent without `upstream.credits`.',
    ),
    read: ({ gauges }) =>
      (gauges.budgets?.() ?? [])
        .filter(({ client }) => client === '')
        .map(({ leftCredits, period }) => [leftCredits, period] as const),
  },
  {
    ...row(
      ['client', 'token'],
      'client_token_last_used_timestamp_seconds',
      'Unix time of the last use of a client token; 0 = never, as far as is known. The token is identified by its position in the settings and the first 6 digits of its SHA-256.',
    ),
    read: ({ gauges }) =>
      (gauges.tokens?.() ?? []).map(
        ({ client, name, lastUsedAt }) => [(lastUsedAt ?? 0) / 1000, client, name] as const,
      ),
  },
  {
    ...row(['tier'], 'cache_entries', 'Cached answers.'),
    read: ({ gauges }) => gauges.cache().map(({ tier, entries }) => [entries, tier]),
  },
  {
    ...row(['tier'], 'cache_bytes', 'Size of the cached answers in bytes.'),
    read: ({ gauges }) => gauges.cache().map(({ tier, bytes }) => [bytes, tier]),
  },
  {
    ...row(
      ['tier'],
      'cache_max_bytes',
      'Current maximum size of the tier in bytes: the setting, or less for the memory tier while memory is low.',
    ),
    read: ({ gauges }) => gauges.cache().map(({ tier, maxBytes }) => [maxBytes, tier]),
  },
  {
    ...row(
      ['file'],
      'disk_up',
      '1 if the file of `cache.disk` is writable, else 0. records: budgets, jobs and key cooldowns; answers: the cache. Absent without `cache.disk`.',
    ),
    read: ({ gauges }) => {
      const disk = gauges.disk?.()
      return disk
        ? [
            [disk.answers === 'up' ? 1 : 0, 'answers'],
            [disk.records === 'up' ? 1 : 0, 'records'],
          ]
        : []
    },
  },
  {
    ...row([], 'audit_up', '1 if the audit file is writable, else 0. Absent without `audit`.'),
    read: ({ gauges }) => (gauges.auditFile ? [[gauges.auditFile() === 'up' ? 1 : 0]] : []),
  },
  {
    ...row([], 'redis_up', '1 if Redis answers and accepts writes, else 0. Absent without `redis`.'),
    read: ({ gauges }) => (gauges.redis ? [[gauges.redis() === 'up' ? 1 : 0]] : []),
  },
  {
    ...row(
      [],
      'redis_refuses_writes',
      '1 if Redis answers but refuses writes (full, read-only, no permission), else 0. Absent without `redis`.',
    ),
    read: ({ gauges }) => (gauges.redis ? [[gauges.redis() === 'refusing' ? 1 : 0]] : []),
  },
  {
    ...row(
      [],
      'tls_certificate_expiry_timestamp_seconds',
      'Unix time at which the certificate of `listen.tls` expires. Absent without TLS.',
    ),
    read({ gauges }) {
      const until = gauges.certificateUntil?.() ?? null
      return until === null ? [] : [[until / 1000]]
    },
  },
  {
    ...row([], 'clock_timestamp_seconds', 'Unix time of the clock of this machine when it was scraped.'),
    read: ({ gauges }) => (gauges.wallMs ? [[gauges.wallMs() / 1000]] : []),
  },
  {
    ...row([], 'config_generation', 'Generation of the current settings: 1 at start, increased by 1 with each reload.'),
    read: ({ gauges }) => [[gauges.configGeneration()]],
  },
  {
    ...row(['version', 'node'], 'build_info', 'Always 1; the versions of the proxy and of Node are in the labels.'),
    read: ({ version }) => [[1, version, process.versions.node]],
  },
]

function budgetsOf({ budgets }: Gauges, valueOf: (budget: BudgetStatus) => number) {
  const own = (budgets?.() ?? []).filter(({ client }) => client !== '')
  return own.map((budget) => [valueOf(budget), budget.client, budget.period] as const)
}

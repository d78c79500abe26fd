/**
 * Every metric: name, labels, help, buckets. A new one is one row of a table below.
 *
 * Counts live in plain integers (`series.ts`) and become prom-client values only while somebody scrapes: no library call is
 * on the way of a request. A metric with few possible series shows them all from the start, as 0, so that a first event is
 * an increase and a dashboard has no gaps; the series of the others appear with their first count. Longer than other files:
 * the tables are meant to be read in one place.
 */
import prom from 'prom-client'
import type { Tier } from '../model.ts'
import type { BreakerStatus, KeyStatus } from '../fetch-parts.ts'
import type { BudgetStatus } from '../parts.ts'
import type { SharedState } from '../ports.ts'
import type { BreakerState, KeyState, OverloadState } from './events.ts'
import { closedLists, shownName, type LabelName, type LabelTypes, type ListOptions } from './labels.ts'
import { openMetrics, openMetricsType, wantsOpenMetrics } from './open-metrics.ts'
import {
  createCounter,
  createHistogram,
  type Counter,
  type Histogram,
  type Label,
  type LabelValue,
  type Sample,
} from './series.ts'

const prefix = 'scrapellm_proxy_'
const shownFromTheStart = 128

const counterRows = {
  requests: row(
    ['client', 'scraper', 'status', 'cache'],
    'requests_total',
    'Finished requests, by status (gone = the caller disconnected first) and cache result. client is unknown if no client was identified; scraper is none if the call names no scraper.',
  ),
  requestOutcomes: row(
    ['ended'],
    'request_outcomes_total',
    "Finished requests, by what they are to the promise of availability: cached, fetched and stale are good, failed is bad, refused (the caller's own mistake or limit, or `only-if-cached` without an answer) and callers that disconnected are not part of it.",
  ),
  upstreamResponses: row(
    ['scraper', 'status'],
    'upstream_responses_total',
    'Upstream attempts that ended, by the status received (none = no complete answer).',
  ),
  upstreamFailures: row(
    ['scraper', 'class'],
    'upstream_failures_total',
    'Upstream attempts that failed, by failure class (rejected = upstream rejected the request itself).',
  ),
  upstreamAnomalies: row(
    ['scraper', 'anomaly'],
    'upstream_anomalies_total',
    'Complete answers with unexpected content, passed on anyway: an undocumented shape, no content, a prompt or scraper that differs from the request, or a `credits_used` above ten times the price (ignored).',
  ),
  upstreamUnreachable: row(
    ['scraper', 'wire'],
    'upstream_unreachable_total',
    'Calls to upstream without a complete answer, job polls included, by network error (local = a problem of this machine).',
  ),
  samples: row(
    ['scraper', 'sample'],
    'samples_total',
    'Requests by the requested sample number; 1 if none was requested.',
  ),
  retries: row(['scraper', 'class'], 'retries_total', 'Repeated attempts, by the failure class that caused them.'),
  retriesRefused: row(
    ['reason'],
    'retries_refused_total',
    'Failed attempts that were not retried although their class allows it, by the reason.',
  ),
  ambiguousAttempts: row(
    ['scraper'],
    'ambiguous_attempts_total',
    'Attempts that were sent and got no complete answer, so they may have been charged.',
  ),
  breakerTransitions: row(
    ['scraper', 'to'],
    'breaker_transitions_total',
    'Changes of a circuit breaker, by new state; open again because a trial failed is none.',
  ),
  breakerHolds: row(
    ['hold'],
    'breaker_holds_total',
    'Attempts that waited for an open circuit, by outcome: passed = let through, refused = ended with CIRCUIT_OPEN, left = all callers disconnected.',
  ),
  cacheLookups: row(['tier', 'result'], 'cache_lookups_total', 'Cache look-ups, by tier and result.'),
  cacheEvictions: row(['tier'], 'cache_evictions_total', 'Answers evicted from a full cache before they expired.'),
  cacheRejections: row(
    ['tier', 'flaw'],
    'cache_rejections_total',
    'Stored entries that were rejected on reading: bad signature, wrong key, another version, or truncated.',
  ),
  notifications: row(
    ['notified'],
    'notifications_total',
    'Webhook notifications, delivered or given up after an hour.',
  ),
  redisErrors: row(['operation'], 'redis_errors_total', 'Operations on Redis that failed or took too long.'),
  joinedRequests: row(
    ['scraper'],
    'joined_requests_total',
    'Requests that joined a call already in flight for the same question.',
  ),
  orphanedFlights: row(
    ['scraper'],
    'orphaned_flights_total',
    'Upstream calls whose callers have all disconnected; they are completed and cached anyway.',
  ),
  refusals: row(['client', 'code'], 'refusals_total', 'Requests refused by the proxy itself, by X-Proxy-Code.'),
  overloaded: row(
    ['cause'],
    'overloaded_total',
    'Refusals with the code OVERLOADED, by reason: event-loop = the event loop is late, memory = memory is low, places = no upstream call finished in time, queue = the queue for upstream calls is full, connections = too many connections.',
  ),
  creditsSpent: row(
    ['client', 'scraper', 'key'],
    'credits_spent_total',
    'Credits charged by upstream, by the client whose request started the call and the upstream key.',
  ),
  creditsSaved: row(['client', 'scraper', 'how'], 'credits_saved_total', 'Credits saved by the proxy, by how.'),
  creditsUncertain: row(
    ['client', 'scraper', 'key'],
    'credits_uncertain_total',
    'Credits that may have been charged, because the attempt was sent and got no complete answer. Not part of `credits_spent_total`.',
  ),
  creditsWasted: row(
    ['client', 'scraper', 'why'],
    'credits_wasted_total',
    'Credits spent without a usable answer: charged for an invalid answer, or possibly charged for none (uncertain).',
  ),
  // By client alone: that is where the books balance, and with many clients each label counts.
  creditsDelivered: row(
    ['client'],
    'credits_delivered_total',
    'Value in credits of the answers that clients received, paid or saved. Spent + saved = delivered + wasted (invalid) + unclaimed + charges of calls in progress.',
  ),
  creditsAway: row(
    ['client', 'mode'],
    'credits_away_total',
    'Credits requested while Redis was unavailable: granted from the allowance leased in advance, counted by this replica alone (open), or refused.',
  ),
  sharedFlights: row(
    ['end'],
    'shared_flights_total',
    "Questions that another replica was asking. Waited for until they landed, were led here in the end, or nobody waited any more (left); taken over from a replica that is gone (sent: it may have been charged; job: its job is followed up); lost = this replica's own was taken over.",
  ),
  creditsRefunded: row(
    ['client', 'scraper', 'key'],
    'credits_refunded_total',
    'Credits that upstream refunded for failed jobs.',
  ),
  creditsUnclaimed: row(
    ['client', 'scraper'],
    'credits_unclaimed_total',
    'Credits charged for answers that arrived after the paying client had disconnected. The answers are cached.',
  ),
  jobs: row(
    ['scraper', 'outcome'],
    'jobs_total',
    'Job requests: submitted, polled, rejected by upstream, failed upstream, refused by the proxy, or gone (the caller disconnected).',
  ),
  configReloads: row(
    ['reload'],
    'config_reloads_total',
    'Reloads of the settings: applied, invalid (nothing changed), or restart (applied, except for settings that require a restart).',
  ),
  auditLinesLost: row(
    [],
    'audit_lines_lost_total',
    'Audit lines dropped while the audit file could not be written; counted when the file is writable again.',
  ),
  bugs: row([], 'bugs_total', 'Faults of the proxy itself: each one has a log line with its stack.'),
} as const

/** Gauges that are moved up and down. */
const levelRows = {
  inFlightRequests: row([], 'in_flight_requests', 'Client requests that are open now.'),
  upstreamInFlight: row(['scraper'], 'upstream_in_flight', 'Upstream attempts that are open now.'),
  ledgerImbalance: row(
    [],
    'ledger_imbalance_credits',
    'Difference between the two sides of the credit ledger. Anything but 0 is a bug in the proxy.',
  ),
} as const

const seconds = {
  // A hit takes microseconds, an answer of upstream 5 to 300 s, and no attempt more than 600 s. Each limit is a series for
  // every scraper and cache result: no more of them than a decision needs.
  request: [0.001, 0.005, 0.05, 1, 5, 15, 30, 60, 120, 300, 600],
  overhead: [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5],
  queue: [0.1, 1, 5, 15, 60],
  attempt: [0.5, 2.5, 5, 10, 20, 30, 60, 120, 300, 600],
}

const histogramRows = {
  requestDuration: {
    ...row(['scraper', 'cache'], 'request_duration_seconds', 'Seconds from the arrival of a request to its outcome.'),
    bounds: seconds.request,
  },
  overhead: {
    ...row(
      [],
      'overhead_seconds',
      'Seconds that the proxy adds to a request: its duration without waiting for upstream and without pauses between retries.',
    ),
    bounds: seconds.overhead,
  },
  attemptDuration: {
    ...row(['scraper'], 'upstream_attempt_duration_seconds', 'Seconds that one upstream attempt took.'),
    bounds: seconds.attempt,
  },
  queueWait: {
    ...row(
      [],
      'upstream_queue_wait_seconds',
      'Seconds that attempts waited in the queue for upstream calls, successful or not. Attempts that did not wait are not counted.',
    ),
    bounds: seconds.queue,
  },
} as const

const breakerLevels: Readonly<Record<BreakerState, number>> = { closed: 0, 'half-open': 1, open: 2 }
const overloadLevels: Readonly<Record<OverloadState, number>> = { calm: 0, shedding: 1, critical: 2 }
const keyLevels: Readonly<Record<KeyState, number>> = { ready: 0, resting: 1, spent: 2 }

/** Gauges that are read from the live parts at each scrape. */
const readingRows: readonly Reading[] = [
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

export interface MetricDescription {
  readonly name: string
  readonly type: 'counter' | 'gauge' | 'histogram'
  readonly help: string
  readonly labels: readonly string[]
  /** Upper limits of the buckets of a histogram. */
  readonly bounds?: readonly number[]
}

/** All metrics of the proxy's own, for documentation and for the test of the dashboards. */
export const metricCatalogue: readonly MetricDescription[] = [
  ...Object.values(counterRows).map((row) => describe('counter', row)),
  ...[...Object.values(levelRows), ...readingRows].map((row) => describe('gauge', row)),
  ...Object.values(histogramRows).map((row) => ({ ...describe('histogram', row), bounds: row.bounds })),
].toSorted((a, b) => (a.name < b.name ? -1 : 1))

/** How the parts stand at this moment. */
export interface Gauges {
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

export type Metrics = ReturnType<typeof createMetrics>

export function createMetrics(options: ListOptions) {
  const lists = closedLists(options)
  const registry = new prom.Registry()
  /** Shows the zeros of metrics whose labels may have got new values. */
  const shown: (() => void)[] = []
  prom.collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: 20 })

  const metrics = {
    ...counters(counterRows, 'counter'),
    ...counters(levelRows, 'gauge'),
    ...histograms(),
    admit,
    showGauges,
    /** Everything, as OpenMetrics with examples where `accept` prefers that. */
    text,
  }
  return metrics

  /** Once: from now on what the parts hold at the moment is shown, too. */
  function showGauges(gauges: Gauges): void {
    const given = { ...options, gauges }
    for (const reading of readingRows) {
      expose(describe('gauge', reading), () =>
        reading
          .read(given)
          .map(([value, ...values]) => ({ value, labels: named(reading.labels.map(shownName), values) })),
      )
    }
  }

  async function text(accept = '') {
    const body = await registry.metrics()
    if (!wantsOpenMetrics(accept)) return { contentType: registry.contentType as string, body }
    return { contentType: openMetricsType, body: openMetrics(body, metrics.requestDuration.samples()) }
  }

  function counters<Rows extends Readonly<Record<string, Row>>>(rows: Rows, type: 'counter' | 'gauge') {
    const made = Object.entries(rows).map(([id, row]) => {
      const counter = createCounter(labelsOf(row))
      const showZeros = (): void => zeros(row.labels).forEach((values) => counter.add(0, ...values))
      showZeros()
      if (row.labels.some((label) => label === 'client' || label === 'key')) shown.push(showZeros)
      expose(describe(type, row), () => counter.samples())
      return [id, counter]
    })
    // A table cannot be mapped row by row without losing its types on the way.
    return Object.fromEntries(made) as { readonly [Id in keyof Rows]: Counter<ValuesOf<Rows[Id]['labels']>> }
  }

  function histograms() {
    const made = Object.entries(histogramRows).map(([id, row]) => {
      const histogram = createHistogram(prefix + row.name, labelsOf(row), row.bounds)
      expose(describe('histogram', row), () => histogram.samples())
      return [id, histogram]
    })
    type Rows = typeof histogramRows
    return Object.fromEntries(made) as { readonly [Id in keyof Rows]: Histogram<ValuesOf<Rows[Id]['labels']>> }
  }

  function labelsOf(row: Row): Label[] {
    return row.labels.map((name) => ({ name: shownName(name), list: lists[name] }))
  }

  /** New names of the settings; those that are not in them any more keep what they have counted. */
  function admit({ clients, keys }: Pick<ListOptions, 'clients' | 'keys'>): void {
    lists.client.extend(clients)
    lists.key.extend(keys)
    for (const showZeros of shown) showZeros()
  }

  /** Every combination of label values, where they are few: shown before it was counted. */
  function zeros(labels: readonly LabelName[]): LabelValue[][] {
    const size = labels.reduce((product, label) => product * lists[label].values.length, 1)
    if (size > shownFromTheStart) return []
    return labels.reduce<LabelValue[][]>(
      (rows, label) => rows.flatMap((row) => lists[label].values.map((value) => [...row, value])),
      [[]],
    )
  }

  /** The registry asks a metric for its values and no more; ours answer from their own integers. */
  function expose(description: MetricDescription, samples: () => readonly Sample[]): void {
    const { name, help, type } = description
    const metric = { name, help, type, get: async () => ({ name, help, type, values: samples(), aggregator: 'sum' }) }
    registry.registerMetric(metric as unknown as prom.Gauge)
  }
}

interface Row {
  readonly name: string
  readonly labels: readonly LabelName[]
  readonly help: string
}

interface Reading extends Row {
  readonly read: (
    given: ListOptions & { readonly gauges: Gauges },
  ) => readonly (readonly [value: number, ...labels: readonly LabelValue[]])[]
}

function budgetsOf({ budgets }: Gauges, valueOf: (budget: BudgetStatus) => number) {
  const own = (budgets?.() ?? []).filter(({ client }) => client !== '')
  return own.map((budget) => [valueOf(budget), budget.client, budget.period] as const)
}

type ValuesOf<Labels extends readonly LabelName[]> = { readonly [I in keyof Labels]: LabelTypes[Labels[I]] }

function row<const Labels extends readonly LabelName[]>(labels: Labels, name: string, help: string) {
  return { name, labels, help }
}

function describe(type: MetricDescription['type'], { name, help, labels }: Row): MetricDescription {
  return { name: prefix + name, type, help, labels: labels.map(shownName) }
}

function named(names: readonly string[], values: readonly LabelValue[]): Record<string, LabelValue> {
  return Object.fromEntries(names.map((name, i) => [name, values[i] ?? '']))
}

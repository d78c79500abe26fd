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
import type { BreakerStatus, BudgetStatus, KeyStatus } from '../parts.ts'
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
    'Requests that ended, by the status sent (gone = the caller hung up first) and what the cache did for them. client is unknown where nobody was identified, scraper is none where the call names none.',
  ),
  upstreamResponses: row(
    ['scraper', 'status'],
    'upstream_responses_total',
    'Upstream attempts that ended, by the status received (none = no complete answer).',
  ),
  upstreamFailures: row(
    ['scraper', 'class'],
    'upstream_failures_total',
    'Upstream attempts that failed, by failure class (rejected = upstream refused the question itself).',
  ),
  upstreamAnomalies: row(
    ['scraper', 'anomaly'],
    'upstream_anomalies_total',
    'Complete answers with something unexpected in them, handed on all the same: a shape that is not documented, no content, another prompt or scraper than was asked, or a `credits_used` beyond ten times the price, which was not believed.',
  ),
  upstreamUnreachable: row(
    ['scraper', 'wire'],
    'upstream_unreachable_total',
    'Calls to upstream without a complete answer, polls of jobs among them, by what went wrong on the way (local = trouble of this machine).',
  ),
  samples: row(
    ['scraper', 'sample'],
    'samples_total',
    'Answered or refused questions by the number of the sample that was asked for; 1 where none was.',
  ),
  retries: row(['scraper', 'class'], 'retries_total', 'Repeated attempts, by the failure class that caused them.'),
  retriesRefused: row(
    ['reason'],
    'retries_refused_total',
    'Failed attempts that could have been repeated and were not, by what forbade it.',
  ),
  ambiguousAttempts: row(
    ['scraper'],
    'ambiguous_attempts_total',
    'Attempts that were sent and got no complete answer: they may have been charged, and nothing will ever tell.',
  ),
  breakerTransitions: row(
    ['scraper', 'to'],
    'breaker_transitions_total',
    'Changes of a circuit breaker, by new state; open again because a trial failed is none.',
  ),
  breakerHolds: row(
    ['hold'],
    'breaker_holds_total',
    'Attempts that waited for an open circuit: let in (passed), given CIRCUIT_OPEN in the end (refused), or nobody waited any more (left).',
  ),
  cacheLookups: row(['tier', 'result'], 'cache_lookups_total', 'Cache look-ups, by tier and result.'),
  cacheEvictions: row(['tier'], 'cache_evictions_total', 'Answers thrown out of a full cache before their time.'),
  cacheRejections: row(
    ['tier', 'flaw'],
    'cache_rejections_total',
    'Stored bytes that were not taken for an answer: poisoned, foreign, of another version or cut off.',
  ),
  notifications: row(
    ['notified'],
    'notifications_total',
    'Webhook notifications that were delivered, or given up after an hour.',
  ),
  redisErrors: row(['operation'], 'redis_errors_total', 'Operations on Redis that failed or took too long.'),
  joinedRequests: row(
    ['scraper'],
    'joined_requests_total',
    'Requests answered by a call that was already in flight for the same question.',
  ),
  orphanedFlights: row(
    ['scraper'],
    'orphaned_flights_total',
    'Calls that everybody left who waited for them; they are finished and kept all the same.',
  ),
  refusals: row(
    ['client', 'code'],
    'refusals_total',
    'Answers that were refusals of the proxy itself, by X-Proxy-Code.',
  ),
  overloaded: row(
    ['cause'],
    'overloaded_total',
    'Refusals with the code OVERLOADED, by reason: the event loop is late, memory is short, no place among the upstream calls in time (places), the queue before them is full, or too many connections.',
  ),
  creditsSpent: row(
    ['client', 'scraper', 'key'],
    'credits_spent_total',
    'Credits charged by upstream, by the client that asked first and the name of the upstream key.',
  ),
  creditsSaved: row(
    ['client', 'scraper', 'how'],
    'credits_saved_total',
    'Credits that answers would have cost without the proxy, by what saved them.',
  ),
  creditsUncertain: row(
    ['client', 'scraper', 'key'],
    'credits_uncertain_total',
    'Credits that may have been charged: the attempt was sent and brought no complete answer. Not among those spent.',
  ),
  creditsWasted: row(
    ['client', 'scraper', 'why'],
    'credits_wasted_total',
    'Credits without an answer: charged for an invalid one, or uncertain (may have been charged for nothing).',
  ),
  // By client alone: that is where the books balance, and with many clients each label counts.
  creditsDelivered: row(
    ['client'],
    'credits_delivered_total',
    'Worth of the answers that clients got, paid for or saved. Spent + saved = delivered + wasted (invalid) + unclaimed + charges of calls under way.',
  ),
  creditsAway: row(
    ['client', 'mode'],
    'credits_away_total',
    'Credits asked for while Redis was away: granted from the allowance leased in advance, counted by this replica alone (open), or refused.',
  ),
  sharedFlights: row(
    ['end'],
    'shared_flights_total',
    "Questions that another replica was asking. Waited for until they landed, were led here in the end, or nobody waited any more (left); taken over from a replica that is gone (sent: it may have been charged; job: its job is followed up); lost = this replica's own was taken over.",
  ),
  creditsRefunded: row(
    ['client', 'scraper', 'key'],
    'credits_refunded_total',
    'Credits spent on jobs that failed, which upstream gave back.',
  ),
  creditsUnclaimed: row(
    ['client', 'scraper'],
    'credits_unclaimed_total',
    'Credits charged for answers that arrived after the client who pays had left. They are kept for whoever asks next.',
  ),
  jobs: row(
    ['scraper', 'outcome'],
    'jobs_total',
    'Job calls: submitted, polled, rejected by upstream, failed upstream, refused by the proxy, or gone (the caller hung up).',
  ),
  configReloads: row(
    ['reload'],
    'config_reloads_total',
    'Attempts to put changed settings in force: applied, invalid (a mistake in them: nothing changed), or restart (applied, but for settings that wait for a restart).',
  ),
  auditLinesLost: row(
    [],
    'audit_lines_lost_total',
    'Lines of the audit file that were given up while it could not be written; counted when it is back.',
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
    'Credits that are not where they should be: always 0, or the proxy has a bug.',
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
      'Seconds of a request that were not spent waiting for upstream or pausing before a retry: what the proxy adds.',
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
      'Seconds that attempts waited for a place under `upstream_limit`, with or without success; those that found one at once are not in it.',
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
      'Overload: 0 calm, 1 shedding (misses are refused, known answers come), 2 critical (all new requests are refused).',
    ),
    read: ({ gauges }) => [[overloadLevels[gauges.overload?.().state ?? 'calm']]],
  },
  {
    ...row(
      [],
      'memory_used_ratio',
      'Share in use of the memory that the process may take (by its container or machine), or of its heap, whichever is fuller.',
    ),
    read: ({ gauges }) => [[gauges.overload?.().memory ?? 0]],
  },
  {
    ...row(['scraper'], 'upstream_queue_length', 'Upstream attempts that wait for a place now.'),
    read: ({ scrapers, gauges }) => scrapers.map((scraper) => [gauges.queued?.(scraper) ?? 0, scraper]),
  },
  {
    ...row(
      ['scraper'],
      'upstream_limit',
      'Upstream attempts that may be open now: `upstream.maxConcurrent`, `perScraper`, or what upstream was found to take, whichever is least.',
    ),
    read: ({ scrapers, gauges: { limits } }) =>
      limits ? scrapers.map((scraper) => [limits.upstream(scraper), scraper]) : [],
  },
  {
    ...row([], 'upstream_max_concurrent', 'The setting `upstream.maxConcurrent`.'),
    read: ({ gauges: { limits } }) => (limits ? [[limits.maxConcurrent()]] : []),
  },
  {
    ...row([], 'upstream_queue_size', 'The setting `upstream.queue.size`: attempts that may wait for each scraper.'),
    read: ({ gauges: { limits } }) => (limits ? [[limits.queueSize()]] : []),
  },
  {
    ...row(
      ['scraper'],
      'retry_budget_tokens',
      'Tokens left in the retry budget; without enough of them nothing is repeated.',
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
    ...row(['scraper'], 'breaker_held', 'Attempts that wait for an open circuit, or for one that may open, now.'),
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
      'Credits left of `upstream.credits` for the UTC day or month, the reserve included, less those held for calls under way. Absent where none are set.',
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
      'When a client token was used last, in seconds since 1970; 0 = never, as far as is known. The token is told by its place in the settings and the first 6 digits of its SHA-256.',
    ),
    read: ({ gauges }) =>
      (gauges.tokens?.() ?? []).map(
        ({ client, name, lastUsedAt }) => [(lastUsedAt ?? 0) / 1000, client, name] as const,
      ),
  },
  {
    ...row(['tier'], 'cache_entries', 'Answers kept now.'),
    read: ({ gauges }) => gauges.cache().map(({ tier, entries }) => [entries, tier]),
  },
  {
    ...row(['tier'], 'cache_bytes', 'Bytes of the answers kept now.'),
    read: ({ gauges }) => gauges.cache().map(({ tier, bytes }) => [bytes, tier]),
  },
  {
    ...row(
      ['tier'],
      'cache_max_bytes',
      'Bytes of answers that the tier may keep now: the setting, or less in memory while memory is short.',
    ),
    read: ({ gauges }) => gauges.cache().map(({ tier, maxBytes }) => [maxBytes, tier]),
  },
  {
    ...row(
      ['file'],
      'disk_up',
      'A file of `cache.disk` can be written to: 1, or 0. records: money, jobs and key rests; answers: the cache. Absent where there is none.',
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
    ...row([], 'audit_up', 'The audit file can be written to: 1, or 0. Absent where there is none.'),
    read: ({ gauges }) => (gauges.auditFile ? [[gauges.auditFile() === 'up' ? 1 : 0]] : []),
  },
  {
    ...row(
      [],
      'redis_up',
      'Redis answers and takes writes: 1, or 0 while the proxy does without it. Absent where none is set.',
    ),
    read: ({ gauges }) => (gauges.redis ? [[gauges.redis() === 'up' ? 1 : 0]] : []),
  },
  {
    ...row(
      [],
      'redis_refuses_writes',
      'Redis answers, but refuses to write (full, read-only, no permission): 1, else 0.',
    ),
    read: ({ gauges }) => (gauges.redis ? [[gauges.redis() === 'refusing' ? 1 : 0]] : []),
  },
  {
    ...row(
      [],
      'tls_certificate_expiry_timestamp_seconds',
      'When the certificate of `listen.tls` ends, in seconds since 1970. Absent without TLS.',
    ),
    read({ gauges }) {
      const until = gauges.certificateUntil?.() ?? null
      return until === null ? [] : [[until / 1000]]
    },
  },
  {
    ...row([], 'config_generation', 'Number of the settings in force: 1 at start, one more with each reload.'),
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

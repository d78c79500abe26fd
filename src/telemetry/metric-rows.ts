/** Every counter and histogram: name, labels, help, buckets. A new one is one row. Gauges that are read at each scrape are in `gauges.ts`. */
import type { LabelName } from './labels.ts'

export interface Row {
  readonly name: string
  readonly labels: readonly LabelName[]
  readonly help: string
}

export function row<const Labels extends readonly LabelName[]>(labels: Labels, name: string, help: string) {
  return { name, labels, help }
}

export const counterRows = {
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
export const levelRows = {
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

export const histogramRows = {
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

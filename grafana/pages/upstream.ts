import type { Page } from '../dashboard.ts'
import type { Panel } from '../panel.ts'
import { happened, metric, quantile, rate, share, total } from '../query.ts'
import { circuits, failuresByClass, keys, openCircuits } from './overview.ts'

const attempts = total('upstream_responses_total')

const stats: readonly Panel[] = [
  {
    kind: 'stat',
    title: 'Attempts that succeed',
    shows:
      'Attempts with a good answer, out of all, over the time shown. Retries hide most of the others from callers.',
    red: 'see "Failures by class".',
    unit: 'percentunit',
    queries: [[`1 - ${share(total('upstream_failures_total'), attempts)}`, 'success']],
    warn: 0.9,
    bad: 0.7,
    max: 1,
    empty: 'no attempts',
  },
  {
    kind: 'stat',
    title: 'Answered 503',
    shows: 'Attempts that upstream answered with 503 (warming up), out of all, over the time shown.',
    red: 'the vendor has too few workers. Wait; fewer calls at a time (`upstream.perScraper`) help.',
    unit: 'percentunit',
    queries: [[share(total('upstream_responses_total', 'status="503"'), attempts), '503']],
    warn: 0.1,
    bad: 0.3,
    max: 1,
    empty: 'no attempts',
  },
  {
    kind: 'stat',
    title: 'Amplification',
    shows: 'Attempts for each call that had to be made: 1 without retries, at most `retry.attempts`.',
    red: 'retries multiply the load on an upstream that fails. See "Retries by class"; the retry budget ends it by itself.',
    unit: 'short',
    queries: [[`${attempts} / ((${attempts} - (${total('retries_total')} or vector(0))) > 0)`, 'attempts']],
    warn: 1.2,
    bad: 1.5,
    decimals: 2,
    empty: 'no attempts',
  },
  openCircuits,
  {
    kind: 'stat',
    title: 'Ambiguous attempts',
    shows: 'Attempts that were sent and got no complete answer, over the time shown: they may have been charged.',
    red: 'something cuts calls: a firewall, a proxy on the way, too short a deadline, or upstream itself.',
    unit: 'short',
    queries: [[total('ambiguous_attempts_total'), 'attempts']],
    bad: 1,
    decimals: 0,
  },
  {
    kind: 'stat',
    title: 'Left by all callers',
    shows: 'Calls that nobody waited for any more, over the time shown. They are finished and kept all the same.',
    red: 'callers give up before upstream answers: raise their timeouts to ten minutes, or let them submit jobs.',
    unit: 'short',
    queries: [[total('orphaned_flights_total'), 'calls']],
    bad: 10,
    warn: 1,
    decimals: 0,
  },
]

export const upstream: Page = {
  name: 'upstream',
  title: 'upstream and retries',
  answers: 'How does upstream behave, what is repeated, and what is not?',
  rows: [
    { title: 'Over the time shown', lines: [stats] },
    {
      title: 'Upstream',
      lines: [
        [
          {
            kind: 'stack',
            title: 'Attempts by status',
            shows: 'Attempts per second, by what upstream answered (none = no complete answer).',
            red: '401: a key is dead. 429: a limit or no credits. 5xx: the vendor. none: the network. See "Failures by class".',
            unit: 'ops',
            queries: [[`sum by (status) (${rate('upstream_responses_total')})`, '{{status}}']],
          },
          failuresByClass,
        ],
        [
          {
            kind: 'graph',
            title: 'Attempt latency',
            shows:
              'How long one attempt takes, by scraper: half of them less than p50, 19 of 20 less than p95. Minutes are normal.',
            red: null,
            unit: 's',
            queries: [
              [quantile(0.5, 'upstream_attempt_duration_seconds', ['scraper']), '{{scraper}} p50'],
              [quantile(0.95, 'upstream_attempt_duration_seconds', ['scraper']), '{{scraper}} p95'],
            ],
          },
          {
            kind: 'stack',
            title: 'Attempts open now',
            shows: 'Attempts under way, by scraper.',
            red: 'it stays at its limit: see "Places in use".',
            unit: 'short',
            queries: [[`sum by (scraper) (${metric('upstream_in_flight')})`, '{{scraper}}']],
          },
        ],
        [
          {
            kind: 'graph',
            title: 'Places in use',
            shows:
              'Attempts open now out of those that may be, by scraper, in the instance that is fullest; `all` is the share of `upstream.maxConcurrent` over all scrapers.',
            red: 'calls wait for a place. If "Limit of open attempts" is below the settings, that is what upstream takes (it answers 429 beyond): a larger plan, or fewer questions. Else raise `upstream.maxConcurrent` or `perScraper`.',
            unit: 'percentunit',
            queries: [
              [`(max by (scraper) (${metric('upstream_in_flight')} / ${metric('upstream_limit')})) > 0`, '{{scraper}}'],
              [
                `max(sum by (instance) (${metric('upstream_in_flight')}) / on (instance) ${metric('upstream_max_concurrent')})`,
                'all',
              ],
            ],
            warn: 0.8,
            bad: 1,
            max: 1,
          },
          {
            kind: 'graph',
            title: 'Limit of open attempts',
            shows:
              'How many attempts may be open, by scraper, over all instances. It is lowered when upstream answers 429 to what is beyond, and grows again while all of it is used.',
            red: 'upstream takes fewer calls than you offer. It is found again by itself when upstream takes more.',
            unit: 'short',
            queries: [[`sum by (scraper) (${metric('upstream_limit')})`, '{{scraper}}']],
          },
        ],
        [
          {
            kind: 'stack',
            title: 'Calls without a complete answer',
            shows:
              'Calls to upstream per minute that broke before a complete answer, by reason: name, route, refused, TLS, time, connection.',
            red: 'local: this machine has run out of files or ports, or a local firewall forbids it. name-*, no-route, connect-timeout: the network here. tls-*: the certificate. outbound-proxy: that proxy. The log line `upstream unreachable` has the code.',
            unit: 'short',
            queries: [[`60 * sum by (reason) (${rate('upstream_unreachable_total')})`, '{{reason}}']],
          },
        ],
        [
          {
            kind: 'stack',
            title: 'Waiting for a place',
            shows:
              'Attempts that found all places taken and wait for one, by scraper. Clients take turns by `clients.NAME.weight`.',
            red: 'more is asked than may be under way: see "Places in use".',
            unit: 'short',
            queries: [[`sum by (scraper) (${metric('upstream_queue_length')})`, '{{scraper}}']],
          },
          {
            kind: 'graph',
            title: 'Queue in use',
            shows: 'Attempts that wait out of `upstream.queue.size`, by scraper, in the instance that is fullest.',
            red: 'in a full queue the client that waits with most gets 503 OVERLOADED, reason `queue`. See "Places in use".',
            unit: 'percentunit',
            queries: [
              [
                `(max by (scraper) (${metric('upstream_queue_length')} / on (instance) group_left () (${metric('upstream_queue_size')} > 0))) > 0`,
                '{{scraper}}',
              ],
            ],
            warn: 0.5,
            bad: 0.9,
            max: 1,
            empty: 'nothing waits',
          },
          {
            kind: 'graph',
            title: 'Wait for a place',
            shows:
              'How long attempts waited for a place, those included that were refused in the end; those that found one at once are not.',
            red: 'the wait nears `upstream.queue.maxWait`: more are refused than served. See "Places in use".',
            unit: 's',
            queries: [
              [quantile(0.5, 'upstream_queue_wait_seconds', []), 'p50'],
              [quantile(0.95, 'upstream_queue_wait_seconds', []), 'p95'],
            ],
          },
        ],
      ],
    },
    {
      title: 'Retries',
      lines: [
        [
          {
            kind: 'stack',
            title: 'Retries by class',
            shows: 'Repeated attempts per minute, by the failure that caused them.',
            red: 'see "Failures by class" for what to do about each.',
            unit: 'short',
            queries: [[`60 * sum by (class) (${rate('retries_total')})`, '{{class}}']],
          },
          {
            kind: 'stack',
            title: 'Retries refused by reason',
            shows: 'Failed attempts per minute that could have been repeated and were not, by what forbade it.',
            red: 'attempts: it failed every time. budget: most calls fail. deadline: callers allow too little time. breaker: the scraper rests. places: no place in time. key: no key is ready. abandoned: nobody waits.',
            unit: 'short',
            queries: [
              [`60 * sum by (reason) (rate(${metric('retries_refused_total')}[$__rate_interval]))`, '{{reason}}'],
            ],
          },
          {
            kind: 'graph',
            title: 'Retry budget',
            shows: 'Tokens left in the retry budget of each scraper; without enough of them nothing is repeated.',
            red: 'most calls fail, so that repeating them would do harm. It fills up by itself (`retry.budget.refill`).',
            unit: 'short',
            queries: [[`min by (scraper) (${metric('retry_budget_tokens')})`, '{{scraper}}']],
            warn: 25,
            bad: 10,
          },
        ],
        [
          {
            kind: 'graph',
            title: 'Amplification by scraper',
            shows: 'Attempts for each call that had to be made, by scraper: 1 without retries.',
            red: 'more than half of the calls are repeated: an alert after a quarter of an hour. See "Retries by class".',
            unit: 'short',
            queries: [
              [
                `sum by (scraper) (${rate('upstream_responses_total')}) / (sum by (scraper) (${rate('upstream_responses_total')}) - sum by (scraper) (${rate('retries_total')}) > 0)`,
                '{{scraper}}',
              ],
            ],
            warn: 1.2,
            bad: 1.5,
          },
          {
            kind: 'graph',
            title: 'Attempts cut off',
            shows: 'Ambiguous attempts per minute, and calls left by all callers, by scraper.',
            red: 'ambiguous: something cuts calls that may be charged. left: callers give up too early.',
            unit: 'short',
            queries: [
              [`(60 * sum by (scraper) (${rate('ambiguous_attempts_total')})) > 0`, '{{scraper}} ambiguous'],
              [`(60 * sum by (scraper) (${rate('orphaned_flights_total')})) > 0`, '{{scraper}} left'],
            ],
            empty: 'none',
          },
        ],
        [
          {
            kind: 'stack',
            title: 'Samples',
            shows:
              'Questions per minute by the number of the sample that was asked for (`sample=N`): each sample from 2 on is an independent, paid answer.',
            red: 'a client takes more samples than it needs: each costs as much as a new question.',
            unit: 'short',
            queries: [[`60 * sum by (sample) (${rate('samples_total')})`, '{{sample}}']],
          },
          {
            kind: 'stack',
            title: 'Unexpected answers',
            shows:
              'Complete, paid answers per hour with something unexpected in them, by scraper. They are handed on, but not kept.',
            red: 'unknownShape: the vendor has changed its answers, and each of them is paid for anew; look for a new version of the proxy. emptyAnswer: the vendor charges for nothing. otherQuestion: answers are mixed up on the way. implausibleCharge: compare with the account of the vendor.',
            unit: 'short',
            queries: [
              [`3600 * sum by (scraper, anomaly) (${rate('upstream_anomalies_total')})`, '{{scraper}} {{anomaly}}'],
            ],
          },
        ],
      ],
    },
    {
      title: 'Circuits, keys and jobs',
      lines: [
        [circuits, keys],
        [
          {
            kind: 'stack',
            title: 'Circuit changes',
            shows:
              'When circuits opened and closed, by scraper: an outage is one opening, however many trials fail in it.',
            red: 'a circuit flaps: upstream recovers for a moment and fails again. A longer `breaker.openFor` asks it less often.',
            unit: 'short',
            queries: [[happened('scraper, to', 'breaker_transitions_total', 'to!="half-open"'), '{{scraper}} {{to}}']],
          },
          {
            kind: 'stack',
            title: 'Held by an open circuit',
            shows:
              'Attempts that wait for an open circuit now, by scraper; and per hour how such waits ended: passed, refused (CIRCUIT_OPEN), or left by all callers.',
            red: 'refused: the outage lasted longer than `breaker.hold`. See "Failures by class" for what upstream answers.',
            unit: 'short',
            queries: [
              [`sum by (scraper) (${metric('breaker_held')})`, 'held {{scraper}}'],
              [`3600 * sum by (hold) (${rate('breaker_holds_total')})`, '{{hold}} per hour'],
            ],
          },
        ],
        [
          {
            kind: 'stack',
            title: 'Jobs by outcome',
            shows: 'Job calls per second: submitted, polled, or why not.',
            red: 'rejected: callers send nonsense. failed: upstream; see "Failures by class". refused: by the proxy. gone: callers hang up.',
            unit: 'ops',
            queries: [[`sum by (outcome) (${rate('jobs_total')})`, '{{outcome}}']],
          },
        ],
      ],
    },
  ],
}

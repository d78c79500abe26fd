import type { Page } from '../dashboard.ts'
import type { Panel } from '../panel.ts'
import { metric, quantile, rate, share, total, withoutCall, yesterday } from '../query.ts'

export const success: Panel = {
  kind: 'stat',
  title: 'Success',
  shows:
    'Answers, out of all requests that the promise of availability is about, over the time shown and for all clients. Mistakes of callers, limits of a client and callers that hung up are not part of it.',
  red: 'see "Answers by status" for what callers get instead, and "Failures by class" for why.',
  unit: 'percentunit',
  queries: [
    [
      share(
        total('request_outcomes_total', 'outcome=~"cached|fetched|stale"'),
        total('request_outcomes_total', 'outcome!="refused"'),
      ),
      'success',
    ],
  ],
  warn: 0.995,
  bad: 0.95,
  max: 1,
  decimals: 2,
  empty: 'no traffic',
}

export const hitRatio: Panel = {
  kind: 'stat',
  title: 'Hit ratio',
  shows:
    'Questions answered without a call of their own (hit, joined, stale), out of all that may be, over the time shown.',
  red: 'prompts do not repeat, `cache.ttl` is too short, the cache is too small (Cache dashboard, evictions), or callers bypass it. Where prompts never repeat this is no fault.',
  unit: 'percentunit',
  queries: [[share(total('requests_total', withoutCall), total('requests_total', 'cache!="none"')), 'hits']],
  warn: 0.2,
  bad: 0.05,
  max: 1,
  decimals: 1,
  empty: 'no traffic',
}

export const circuits: Panel = {
  kind: 'timeline',
  title: 'Circuit breakers',
  shows: 'When each scraper rested because it kept failing. Half-open: one probe decides.',
  red: 'upstream fails for this scraper. Questions get expired answers or 503 CIRCUIT_OPEN, and cost nothing. Look at the status page of the vendor; the circuit closes by itself.',
  unit: 'none',
  queries: [[`max by (scraper) (${metric('breaker_state')})`, '{{scraper}}']],
  states: [
    ['closed', 'green'],
    ['half-open', 'orange'],
    ['open', 'red'],
  ],
}

export const keys: Panel = {
  kind: 'timeline',
  title: 'Upstream keys',
  shows: 'When each upstream key rested (rate limit, refused) or was spent (no credits).',
  red: 'spent: buy credits or add a key. Resting with 401: is the key still valid? Resting with 429: more keys, or a lower `upstream.maxConcurrent`.',
  unit: 'none',
  queries: [[`max by (key) (${metric('key_state')})`, '{{key}}']],
  states: [
    ['ready', 'green'],
    ['resting', 'orange'],
    ['spent', 'red'],
  ],
}

export const failuresByClass: Panel = {
  kind: 'stack',
  title: 'Failures by class',
  shows: 'Upstream attempts per second that failed, by why. Most of them are repeated and never seen by callers.',
  red: 'creditsExhausted: buy credits. unauthorized: the key is dead. blocked: a firewall or proxy is in the way. rateLimited, queueFull: ask less at a time. timeout, ambiguous: may have been charged. rejected: callers send nonsense. The others are the vendor: wait.',
  unit: 'ops',
  queries: [[`sum by (class) (${rate('upstream_failures_total')})`, '{{class}}']],
}

export const answersByStatus: Panel = {
  kind: 'stack',
  title: 'Answers by status',
  shows: 'Requests per second, by the status that callers got (gone = they hung up first).',
  red: '401: a caller has the wrong token. 429: limits and budgets. 500: "Bugs". 502, 503, 504: upstream; see "Failures by class".',
  unit: 'reqps',
  queries: [[`sum by (status) (${rate('requests_total')})`, '{{status}}']],
}

export const requestsByCache: Panel = {
  kind: 'stack',
  title: 'Requests by cache result',
  shows:
    'Requests per second, by what the cache did: hit, stale and joined cost nothing, miss and bypass go upstream, none are refusals and job calls.',
  red: null,
  unit: 'reqps',
  queries: [[`sum by (cache) (${rate('requests_total')})`, '{{cache}}']],
}

export const bugs: Panel = {
  kind: 'stat',
  title: 'Bugs',
  shows: 'Faults of the proxy itself, over the time shown.',
  red: 'the log has a line `bug` with the stack for each. Report it; the caller got 500 INTERNAL and may simply ask again.',
  unit: 'short',
  queries: [[total('bugs_total'), 'bugs']],
  bad: 1,
  decimals: 0,
}

export const openCircuits: Panel = {
  kind: 'now',
  title: 'Circuits open',
  shows: 'Scrapers whose circuit breaker is not closed now.',
  red: 'see "Circuit breakers" for which and since when.',
  unit: 'short',
  queries: [[`sum(max by (scraper) (${metric('breaker_state')}) > bool 0)`, 'open']],
  bad: 1,
}

const keysNotReady: Panel = {
  kind: 'now',
  title: 'Keys not ready',
  shows: 'Upstream keys that rest or are spent now.',
  red: 'see "Upstream keys". While one key is ready, questions are answered; with none they get 503 NO_KEY_AVAILABLE.',
  unit: 'short',
  queries: [[`sum(max by (key) (${metric('key_state')}) > bool 0)`, 'keys']],
  bad: 1,
}

const stats: readonly Panel[] = [
  {
    kind: 'now',
    title: 'Requests',
    shows: 'Requests of clients per second, now.',
    red: null,
    unit: 'reqps',
    queries: [[`sum(${rate('requests_total')})`, 'requests']],
  },
  {
    kind: 'now',
    title: 'Upstream attempts',
    shows: 'Attempts at upstream per second, now: what hits and joins did not avoid, plus retries.',
    red: null,
    unit: 'ops',
    queries: [[`sum(${rate('upstream_responses_total')})`, 'attempts']],
  },
  {
    kind: 'now',
    title: 'Credits per minute',
    shows: 'Credits that upstream charges per minute, now.',
    red: null,
    unit: 'short',
    queries: [[`60 * sum(${rate('credits_spent_total')})`, 'spent']],
  },
  {
    kind: 'stat',
    title: 'Credits saved',
    shows: 'What answers would have cost on top without the proxy, over the time shown.',
    red: null,
    unit: 'short',
    queries: [[total('credits_saved_total'), 'saved']],
  },
]

const more: readonly Panel[] = [
  openCircuits,
  keysNotReady,
  {
    kind: 'now',
    title: 'Open requests',
    shows: 'Requests that wait for an answer now; one may take minutes.',
    red: null,
    unit: 'short',
    queries: [[`sum(${metric('in_flight_requests')})`, 'open']],
  },
  {
    kind: 'now',
    title: 'Calls upstream',
    shows: 'Attempts that are open at upstream now.',
    red: null,
    unit: 'short',
    queries: [[`sum(${metric('upstream_in_flight')})`, 'open']],
  },
  {
    kind: 'now',
    title: 'Least budget left',
    shows: 'What is left of the budget that has the least left, of any client, as a share of it.',
    red: 'this client is refused with BUDGET_EXHAUSTED; answers that are kept still come. Credits dashboard: which one, and what it spends on.',
    unit: 'percentunit',
    queries: [[`min(${metric('credits_budget_remaining')} / (${metric('credits_budget_limit')} > 0))`, 'left']],
    warn: 0.2,
    bad: 0.05,
    max: 1,
    empty: 'no budgets',
  },
  bugs,
]

function latencyOf(q: number, name: string): Panel {
  const misses = ['cache=~"miss|bypass"']
  return {
    kind: 'graph',
    title: `Latency of misses, ${name}`,
    shows: `How long callers waited for answers that upstream was asked for (${name}), beside the same time yesterday.`,
    red: null,
    unit: 's',
    queries: [
      [quantile(q, 'request_duration_seconds', [], ...misses), 'now'],
      [yesterday(q, 'request_duration_seconds', ...misses), 'yesterday'],
    ],
  }
}

export const overview: Page = {
  name: 'overview',
  title: 'overview',
  answers: 'Is it well, what does it cost, what does it save, and where does it hurt?',
  rows: [
    { title: 'Latency', lines: [[latencyOf(0.5, 'p50'), latencyOf(0.95, 'p95')]] },
    { title: 'Now', lines: [[success, hitRatio, ...stats], more] },
    {
      title: 'Traffic',
      lines: [
        [requestsByCache, answersByStatus],
        [
          {
            kind: 'graph',
            title: 'Requests and attempts',
            shows:
              'What clients ask and what reaches upstream, per second. The gap is what the cache and joining save.',
            red: null,
            unit: 'reqps',
            queries: [
              [`sum(${rate('requests_total')})`, 'requests'],
              [`sum(${rate('upstream_responses_total')})`, 'upstream attempts'],
            ],
          },
          {
            kind: 'graph',
            title: 'Credits spent and saved',
            shows:
              'Credits per minute that upstream charged, and that answers without a call of their own did not cost.',
            red: null,
            unit: 'short',
            queries: [
              [`60 * sum(${rate('credits_spent_total')})`, 'spent'],
              [`60 * sum(${rate('credits_saved_total')})`, 'saved'],
            ],
          },
        ],
      ],
    },
    {
      title: 'Where it hurts',
      lines: [
        [failuresByClass, refusalsByCode()],
        [circuits, keys],
      ],
    },
  ],
}

export function refusalsByCode(): Panel {
  return {
    kind: 'stack',
    title: 'Refusals by code',
    shows: 'Answers per second that are refusals of the proxy itself, by X-Proxy-Code.',
    red: 'RATE_LIMITED, CONCURRENCY_LIMITED, BUDGET_EXHAUSTED: limits of the client. NO_KEY_AVAILABLE: "Upstream keys". CIRCUIT_OPEN: "Circuit breakers". OVERLOADED: raise `upstream.maxConcurrent` or run more instances. INTERNAL: report the log line.',
    unit: 'ops',
    queries: [[`sum by (code) (${rate('refusals_total')})`, '{{code}}']],
  }
}

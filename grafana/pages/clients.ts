import type { Page } from '../dashboard.ts'
import type { Panel } from '../panel.ts'
import { metric, quantile, rate, servable, served, share, total } from '../query.ts'
import { budgetRemaining } from './credits.ts'
import { answersByStatus, refusalsByCode, success } from './overview.ts'

const limits = 'code=~"RATE_LIMITED|CONCURRENCY_LIMITED|BUDGET_EXHAUSTED"'

const stats: readonly Panel[] = [
  success,
  {
    kind: 'stat',
    title: 'Refused by limits',
    shows: 'Requests that met a rate, concurrency or budget limit of theirs, out of all, over the time shown.',
    red: 'see "Limits by client": is the limit too low, or does the client ask in a loop?',
    unit: 'percentunit',
    queries: [[share(total('refusals_total', limits), total('requests_total')), 'refused']],
    warn: 0.01,
    bad: 0.1,
    max: 1,
    empty: 'no traffic',
  },
  {
    kind: 'stat',
    title: 'Hung up',
    shows: 'Callers that hung up before the answer, out of all requests, over the time shown.',
    red: 'their timeout, or that of a load balancer on the way, is shorter than an answer takes: ten minutes are safe. See "Hung up by client".',
    unit: 'percentunit',
    queries: [[share(total('requests_total', 'status="gone"'), total('requests_total')), 'gone']],
    warn: 0.01,
    bad: 0.05,
    max: 1,
    empty: 'no traffic',
  },
  {
    kind: 'stat',
    title: 'Wrong token',
    shows: 'Requests without a known token, over the time shown.',
    red: 'a caller was not given its new token, or somebody tries. The access log has their lines (code CLIENT_UNKNOWN).',
    unit: 'short',
    queries: [
      [`sum(increase(${metric('refusals_total', 'code="CLIENT_UNKNOWN"')}[$__range])) or vector(0)`, 'requests'],
    ],
    warn: 1,
    bad: 20,
    decimals: 0,
  },
]

export const clients: Page = {
  name: 'clients',
  title: 'clients and limits',
  answers: 'What does each client ask and get, how long does it wait, and which limit does it meet?',
  rows: [
    { title: 'Over the time shown', lines: [stats] },
    {
      title: 'Clients',
      lines: [
        [
          {
            kind: 'stack',
            title: 'Requests by client',
            shows: 'Requests per second of the ten clients that ask most.',
            red: null,
            unit: 'reqps',
            queries: [[`topk(10, sum by (client) (${rate('requests_total')}))`, '{{client}}']],
          },
          {
            kind: 'graph',
            title: 'Success by client',
            shows: 'Answers with a result, out of all requests that can have one, by client.',
            red: 'choose this client at the top, then see "Answers by status" and "Refusals by code".',
            unit: 'percentunit',
            queries: [
              [
                `sum by (client) (${rate('requests_total', served)}) / (sum by (client) (${rate('requests_total', servable)}) > 0)`,
                '{{client}}',
              ],
            ],
            warn: 0.995,
            bad: 0.95,
            max: 1,
          },
          {
            kind: 'graph',
            title: 'Hung up by client',
            shows: 'Callers per minute that hung up before the answer, by client.',
            red: 'see "Hung up" at the top.',
            unit: 'short',
            queries: [[`60 * topk(10, sum by (client) (${rate('requests_total', 'status="gone"')}))`, '{{client}}']],
          },
        ],
        [answersByStatus, refusalsByCode()],
      ],
    },
    {
      title: 'Limits',
      lines: [
        [
          {
            kind: 'stack',
            title: 'Limits by client',
            shows: 'Requests per minute that met a limit of the client, by which.',
            red: 'RATE_LIMITED: `clients.NAME.rate`. CONCURRENCY_LIMITED: `clients.NAME.concurrency`. BUDGET_EXHAUSTED: `clients.NAME.credits`. Every refusal says when to ask again: does the client heed Retry-After?',
            unit: 'short',
            queries: [
              [`60 * topk(10, sum by (client, code) (${rate('refusals_total', limits)}))`, '{{client}} {{code}}'],
            ],
          },
          {
            kind: 'stack',
            title: 'Overloaded by reason',
            shows: 'Requests per minute that were refused as OVERLOADED, by reason.',
            red: 'places, queue: the limits of upstream calls (Upstream dashboard). memory, event-loop: this process (Runtime dashboard). connections: callers open too many.',
            unit: 'short',
            queries: [[`60 * sum by (reason) (${rate('overloaded_total')})`, '{{reason}}']],
          },
          budgetRemaining,
        ],
      ],
    },
    {
      title: 'Waiting',
      lines: [
        [
          {
            kind: 'graph',
            title: 'Latency of hits',
            shows:
              'How long callers wait for an answer that is kept. Dots are single requests: they lead to what happened to them.',
            red: 'a hit takes milliseconds: the process is short of CPU (Runtime dashboard, event loop), or the disk is slow.',
            unit: 's',
            queries: [
              [quantile(0.5, 'request_duration_seconds', [], 'cache="hit"'), 'p50'],
              [quantile(0.99, 'request_duration_seconds', [], 'cache="hit"'), 'p99'],
            ],
            examples: true,
            warn: 0.01,
            bad: 0.05,
          },
          {
            kind: 'graph',
            title: 'Latency by cache result',
            shows:
              'How long 19 of 20 callers wait at most, by what the cache did. A miss takes what upstream takes, and minutes are normal. Dots are single requests: they lead to what happened to them.',
            red: null,
            unit: 's',
            queries: [[quantile(0.95, 'request_duration_seconds', ['cache']), '{{cache}}']],
            examples: true,
          },
          {
            kind: 'heatmap',
            title: 'Waiting for upstream',
            shows: 'How many callers waited how long for an answer from upstream.',
            red: null,
            unit: 's',
            queries: [
              [
                `sum by (le) (increase(${metric('request_duration_seconds_bucket', 'cache=~"miss|bypass|joined"')}[$__rate_interval]))`,
                '{{le}}',
              ],
            ],
          },
        ],
      ],
    },
  ],
}

import type { Page } from '../dashboard.ts'
import type { Panel } from '../panel.ts'
import { metric, rate, share, total } from '../query.ts'

const perMinute = (by: string, name: string): string => `60 * sum by (${by}) (${rate(name)})`

export const budgetRemaining: Panel = {
  kind: 'graph',
  title: 'Budget remaining',
  shows:
    'Share left of the budget of each client for the UTC day or month, less what is held for calls under way; below 0 % when answers cost more than their price.',
  red: 'the client is refused with BUDGET_EXHAUSTED until the period ends; answers that are kept still come. Find out what it asks ("Spent by client"), then raise `clients.NAME.credits` or let it wait.',
  unit: 'percentunit',
  queries: [
    [
      `min by (client, period) (${metric('credits_budget_remaining')}) / (max by (client, period) (${metric('credits_budget_limit')}) > 0)`,
      '{{client}} {{period}}',
    ],
  ],
  warn: 0.2,
  bad: 0.05,
}

const stats: readonly Panel[] = [
  {
    kind: 'stat',
    title: 'Spent',
    shows: 'Credits charged by upstream over the time shown.',
    red: null,
    unit: 'short',
    queries: [[total('credits_spent_total'), 'spent']],
  },
  {
    kind: 'stat',
    title: 'Saved',
    shows: 'What answers would have cost on top without the proxy, over the time shown.',
    red: null,
    unit: 'short',
    queries: [[total('credits_saved_total'), 'saved']],
  },
  {
    kind: 'stat',
    title: 'Saved share',
    shows: 'Credits saved, out of all that the answers would have cost, over the time shown.',
    red: null,
    unit: 'percentunit',
    queries: [
      [
        share(total('credits_saved_total'), `(${total('credits_saved_total')} + ${total('credits_spent_total')})`),
        'saved',
      ],
    ],
    max: 1,
    empty: 'nothing spent',
  },
  {
    kind: 'stat',
    title: 'Wasted share',
    shows:
      'Credits that brought no answer (charged for an invalid one, or uncertain), out of those spent or uncertain.',
    red: 'see "Wasted": invalid is the vendor (ask for a refund, with request ids of the log); uncertain are calls cut off: longer timeouts, a look at proxies and firewalls on the way.',
    unit: 'percentunit',
    queries: [
      [
        share(
          total('credits_wasted_total'),
          `(${total('credits_spent_total')} + (${total('credits_uncertain_total')} or vector(0)))`,
        ),
        'wasted',
      ],
    ],
    warn: 0.01,
    bad: 0.05,
    max: 1,
    empty: 'nothing spent',
  },
  {
    kind: 'now',
    title: 'Ledger',
    shows:
      'Credits that are not where they should be: spent + saved must equal delivered + wasted + unclaimed + settling.',
    red: 'the proxy has a bug: report it, with the log lines `bug` of that time. Compare with the account of the vendor meanwhile.',
    unit: 'short',
    queries: [[`max(abs(${metric('ledger_imbalance_credits')}))`, 'imbalance']],
    bad: 1,
  },
  {
    kind: 'stat',
    title: 'Budgets nearly spent',
    shows: 'Budgets of which four fifths are spent now.',
    red: 'see "Budget remaining": will it last until the period ends?',
    unit: 'short',
    queries: [
      [
        `count(min by (client, period) (${metric('credits_budget_remaining')}) <= 0.2 * max by (client, period) (${metric('credits_budget_limit')}))`,
        'budgets',
      ],
    ],
    bad: 1,
    decimals: 0,
    empty: 'none',
  },
]

export const credits: Page = {
  name: 'credits',
  title: 'credits',
  answers: 'Who spends what on which scraper, what is saved, what is wasted, and how long will it last?',
  rows: [
    { title: 'Over the time shown', lines: [stats] },
    {
      title: 'Spent and saved',
      lines: [
        [
          {
            kind: 'stack',
            title: 'Spent by scraper',
            shows: 'Credits per minute, by scraper.',
            red: null,
            unit: 'short',
            queries: [[perMinute('scraper', 'credits_spent_total'), '{{scraper}}']],
          },
          {
            kind: 'stack',
            title: 'Saved by how',
            shows:
              'Credits per minute that were not spent: hit, joined, stale, or rescued (an answer after a failed call).',
            red: null,
            unit: 'short',
            queries: [[perMinute('how', 'credits_saved_total'), '{{how}}']],
          },
          {
            kind: 'stack',
            title: 'Wasted',
            shows: 'Credits per minute without an answer: charged for an invalid one, or perhaps charged (uncertain).',
            red: 'invalid: the vendor charges for answers that are none; ask for a refund. uncertain: see "Uncertain by key".',
            unit: 'short',
            queries: [[perMinute('why', 'credits_wasted_total'), '{{why}}']],
          },
        ],
        [
          {
            kind: 'stack',
            title: 'Spent by client',
            shows: 'Credits per minute of the ten clients that spend most.',
            red: null,
            unit: 'short',
            queries: [[`topk(10, ${perMinute('client', 'credits_spent_total')})`, '{{client}}']],
          },
          {
            kind: 'stack',
            title: 'Spent by upstream key',
            shows: 'Credits per minute, by the upstream key that pays.',
            red: null,
            unit: 'short',
            queries: [[perMinute('key', 'credits_spent_total'), '{{key}}']],
          },
          {
            kind: 'graph',
            title: 'Uncertain by key',
            shows:
              'Credits per minute that may have been charged: the attempt was sent and brought no complete answer.',
            red: 'calls are cut off on the way. Look at timeouts (`retry.deadline`), at the network, and at upstream; compare with the account of the vendor.',
            unit: 'short',
            queries: [[perMinute('key', 'credits_uncertain_total'), '{{key}}']],
            bad: 1,
          },
        ],
        [
          {
            kind: 'graph',
            title: 'Where credits went',
            shows:
              'Worth of the answers that clients got, and credits for answers that came after the payer had left, per minute.',
            red: 'unclaimed grows: callers give up too early. They are kept for whoever asks next; raise the timeouts of callers, or let them submit jobs.',
            unit: 'short',
            queries: [
              [`60 * sum(${rate('credits_delivered_total')})`, 'delivered'],
              [`60 * sum(${rate('credits_unclaimed_total')})`, 'unclaimed'],
            ],
          },
          {
            kind: 'stack',
            title: 'Refunded by scraper',
            shows: 'Credits per minute that upstream gave back for jobs that failed, by scraper.',
            red: null,
            unit: 'short',
            queries: [[perMinute('scraper', 'credits_refunded_total'), '{{scraper}}']],
          },
          {
            kind: 'graph',
            title: 'Compared with last week',
            shows: 'Credits spent per hour, now and at the same time a week ago.',
            red: 'three times as much as a week ago raises an alert: see "Spent by client" for who it is.',
            unit: 'short',
            queries: [
              [`3600 * sum(rate(${metric('credits_spent_total')}[1h]))`, 'now'],
              [`3600 * sum(rate(${metric('credits_spent_total')}[1h] offset 1w))`, 'a week ago'],
            ],
          },
        ],
      ],
    },
    {
      title: 'Budgets',
      lines: [
        [
          budgetRemaining,
          {
            kind: 'graph',
            title: 'Budget held',
            shows: "Credits of each client's budget that are held for calls under way.",
            red: null,
            unit: 'short',
            queries: [[`sum by (client, period) (${metric('credits_budget_held')})`, '{{client}} {{period}}']],
          },
          {
            kind: 'stack',
            title: 'Asked without Redis',
            shows:
              'Credits per minute that clients asked for while Redis was away, by what became of it: granted from what was leased in advance, counted by one instance alone (open), or refused.',
            red: 'Redis is gone: see the Cache dashboard. `redis.whenAway` says what clients get until it is back.',
            unit: 'short',
            queries: [[perMinute('client, mode', 'credits_away_total'), '{{client}} {{mode}}']],
          },
          {
            kind: 'graph',
            title: 'Hours until a budget is spent',
            shows: 'At the pace of the last hour. Budgets of a day end with the UTC day.',
            red: 'it will not last: see "Spent by client", then raise the budget, or make answers live longer (`clients.NAME.cache.ttl`).',
            unit: 'h',
            queries: [
              [
                `min by (client, period) (${metric('credits_budget_remaining')}) / on (client) group_left () (3600 * sum by (client) (rate(${metric('credits_spent_total')}[1h])) > 0)`,
                '{{client}} {{period}}',
              ],
            ],
            warn: 24,
            bad: 4,
          },
        ],
        [
          {
            kind: 'graph',
            title: 'Account remaining',
            shows:
              'Credits left of `upstream.credits`, the account as a whole, for the UTC day or month. Empty where none are set.',
            red: 'clients without `mayUseReserve` are refused with BUDGET_EXHAUSTED at the reserve, all others at 0. Find out who spends ("Spent by client").',
            unit: 'short',
            queries: [[`min by (period) (${metric('credits_account_remaining')})`, '{{period}}']],
          },
          {
            kind: 'graph',
            title: 'Days since a token was used',
            shows: 'For each client token: its place in the settings and the first digits of its hash.',
            red: null,
            unit: 'd',
            queries: [
              [
                `min by (client, token) (clamp_min(time() - (${metric('client_token_last_used_timestamp_seconds')} > 0), 0) / 86400)`,
                '{{client}} {{token}}',
              ],
            ],
          },
          {
            kind: 'graph',
            title: 'Notifications',
            shows: 'Webhook notifications per hour, by what became of them.',
            red: 'given-up: the target has taken none for an hour. Look at its URL and at the log line `notification given up`.',
            unit: 'short',
            queries: [[`3600 * sum by (outcome) (${rate('notifications_total')})`, '{{outcome}}']],
          },
        ],
      ],
    },
  ],
}

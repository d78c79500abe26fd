/** From the recording rules of `rules/slo.yaml`, because a month is too long to be counted each time somebody looks. */
import type { Page } from '../dashboard.ts'
import type { Panel } from '../panel.ts'

const burn = (window: string): string =>
  `max by (slo) (job:scrapellm_proxy_slo_bad:ratio_rate${window} / on (slo) group_left () job:scrapellm_proxy_slo_budget:ratio)`

const burnOver = (window: string, factor: number, severity: string): Panel => ({
  kind: 'graph',
  title: `Burn rate, ${window}`,
  shows: `How many times faster than allowed the error budget was used in the last ${window}: 1 = it lasts exactly 30 days.`,
  red: `above ${factor}, with enough traffic, it raises an alert (${severity}). "Bad events" says which promise; for availability see the Upstream dashboard, for overhead and hits the Runtime dashboard.`,
  unit: 'short',
  queries: [[burn(window), '{{slo}}']],
  warn: 1,
  bad: factor > 1 ? factor : 1.001,
})

const over30d = (name: string): string => `sum_over_time(job:scrapellm_proxy_slo_${name}:rate5m[30d])`

export const slo: Page = {
  name: 'slo',
  title: 'SLO',
  answers: 'Is what was promised kept, and how much room for failure is left?',
  rows: [
    {
      title: 'Promises',
      lines: [
        [
          {
            kind: 'now',
            title: 'Error budget left',
            shows:
              'Share of the failures allowed in 30 days that is left. availability: 99.5 % of the requests are answered (mistakes and limits of callers do not count). overhead: 99 % below 50 ms. hits: 99 % below 50 ms.',
            red: 'no more risks until it recovers: no changes to settings, no upgrades. "Bad events" says when it was used up.',
            unit: 'percentunit',
            queries: [
              [
                `1 - max by (slo) ((${over30d('bad')} / (${over30d('events')} > 0)) / on (slo) group_left () job:scrapellm_proxy_slo_budget:ratio)`,
                '{{slo}}',
              ],
            ],
            warn: 0.25,
            bad: 0,
            decimals: 1,
            empty: 'no traffic, or no rules',
          },
          {
            kind: 'now',
            title: 'Good, last 30 days',
            shows: 'Share of good events in 30 days, for each promise.',
            red: 'less than promised: see "Bad events" for when, and "Error budget left" for how much more is allowed.',
            unit: 'percentunit',
            queries: [[`1 - max by (slo) (${over30d('bad')} / (${over30d('events')} > 0))`, '{{slo}}']],
            decimals: 2,
            warn: 0.995,
            bad: 0.99,
            max: 1,
            empty: 'no traffic, or no rules',
          },
        ],
      ],
    },
    {
      title: 'Burn rates',
      lines: [
        [burnOver('1h', 14.4, 'page'), burnOver('6h', 6, 'page')],
        [burnOver('1d', 3, 'ticket'), burnOver('3d', 1, 'ticket')],
      ],
    },
    {
      title: 'Events',
      lines: [
        [
          {
            kind: 'graph',
            title: 'Events',
            shows: 'What counts, per second. With fewer than 20 in the short window no alert is raised.',
            red: null,
            unit: 'ops',
            queries: [['sum by (slo) (job:scrapellm_proxy_slo_events:rate5m)', '{{slo}}']],
          },
          {
            kind: 'graph',
            title: 'Bad events',
            shows: 'What counts against the error budget, per second.',
            red: 'availability: what callers get is on the Clients dashboard, why on the Upstream dashboard. overhead, hits: Runtime dashboard.',
            unit: 'ops',
            queries: [['sum by (slo) (job:scrapellm_proxy_slo_bad:rate5m)', '{{slo}}']],
          },
          {
            kind: 'timeline',
            title: 'Alerts firing',
            shows:
              'Which alerts of the proxy fire, by name and severity. What to do is in their description and in the run-book (docs/dashboards-and-alerts.md).',
            red: 'page: somebody must look now. ticket: within a day.',
            unit: 'none',
            queries: [
              [
                'max by (alertname, severity) (ALERTS{alertname=~"ScrapellmProxy.+",alertstate="firing"})',
                '{{alertname}} ({{severity}})',
              ],
            ],
            states: [
              ['quiet', 'green'],
              ['firing', 'red'],
            ],
          },
        ],
      ],
    },
  ],
}

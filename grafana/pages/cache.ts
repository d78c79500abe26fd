import type { Page } from '../dashboard.ts'
import { metric, rate, share, total } from '../query.ts'
import { hitRatio, requestsByCache } from './overview.ts'

export const cache: Page = {
  name: 'cache',
  title: 'cache',
  answers: 'What is found where, is there room, and is the shared store well?',
  rows: [
    {
      title: 'Over the time shown',
      lines: [
        [
          hitRatio,
          {
            kind: 'stat',
            title: 'Stale share',
            shows:
              'Answers past their time, given because upstream failed or while a fresh one was fetched, out of all answers from the cache.',
            red: 'upstream fails and callers live on old answers: see the Upstream dashboard.',
            unit: 'percentunit',
            queries: [
              [share(total('requests_total', 'cache="stale"'), total('requests_total', 'cache=~"hit|stale"')), 'stale'],
            ],
            warn: 0.05,
            bad: 0.3,
            max: 1,
            empty: 'no hits',
          },
          {
            kind: 'stat',
            title: 'Evicted',
            shows: 'Answers thrown out before their time because the cache was full, over the time shown.',
            red: 'it is too small: raise `cache.memory.maxSize` or `cache.disk.maxSize`, as far as "Size" and the machine allow.',
            unit: 'short',
            queries: [[total('cache_evictions_total'), 'answers']],
            warn: 1,
            bad: 1000,
            decimals: 0,
          },
          {
            kind: 'now',
            title: 'Redis',
            shows: 'The worst of all instances: 1 = Redis answers and takes writes, 0 = it is done without.',
            red: 'each instance works for itself: limits and joining are local, hits are fewer. The log line `redis lost` or `redis refuses writes` says why.',
            unit: 'none',
            queries: [[`min(${metric('redis_up')})`, 'up']],
            warn: 1,
            bad: 0.5,
            empty: 'not used',
          },
        ],
      ],
    },
    {
      title: 'What is found',
      lines: [
        [
          requestsByCache,
          {
            kind: 'graph',
            title: 'Hit ratio and its week',
            shows:
              'The share of answers without a call of their own in the last hour, and the median of the last seven days. All instances together; needs the recording rules.',
            red: 'it fell below half of the median, which raises an alert: was the cache emptied, `cache.ttl` shortened, or are the prompts new?',
            unit: 'percentunit',
            queries: [
              ['job:scrapellm_proxy_hits:ratio_rate1h', 'last hour'],
              ['quantile_over_time(0.5, job:scrapellm_proxy_hits:ratio_rate1h[7d])', 'median of 7 days'],
            ],
            max: 1,
          },
        ],
        [
          {
            kind: 'stack',
            title: 'Look-ups by tier and result',
            shows: 'Look-ups per second. A look-up that misses the first tier goes on to the next.',
            red: null,
            unit: 'ops',
            queries: [[`sum by (tier, result) (${rate('cache_lookups_total')})`, '{{tier}} {{result}}']],
          },
          {
            kind: 'stack',
            title: 'Joined calls',
            shows: 'Requests per minute answered by a call that was already under way for the same question.',
            red: null,
            unit: 'short',
            queries: [[`60 * sum by (scraper) (${rate('joined_requests_total')})`, '{{scraper}}']],
          },
        ],
      ],
    },
    {
      title: 'Room',
      lines: [
        [
          {
            kind: 'graph',
            title: 'Size',
            shows: 'Bytes of the answers that are kept, by tier.',
            red: 'it stays at its limit and "Evictions" is not 0: it is too small.',
            unit: 'bytes',
            queries: [[`sum by (tier) (${metric('cache_bytes')})`, '{{tier}}']],
          },
          {
            kind: 'graph',
            title: 'Room in use',
            shows: 'Bytes of answers out of those that may be kept, by tier, in the instance that is fullest.',
            red: 'full, which is normal where "Evictions" is low. In memory the limit shrinks while memory is short (Runtime dashboard).',
            unit: 'percentunit',
            queries: [[`max by (tier) (${metric('cache_bytes')} / ${metric('cache_max_bytes')})`, '{{tier}}']],
            max: 1,
          },
          {
            kind: 'graph',
            title: 'Answers kept',
            shows: 'How many answers are kept, by tier.',
            red: null,
            unit: 'short',
            queries: [[`sum by (tier) (${metric('cache_entries')})`, '{{tier}}']],
          },
          {
            kind: 'stack',
            title: 'Evictions',
            shows: 'Answers thrown out before their time per minute, by tier.',
            red: 'the cache is too small: raise `cache.memory.maxSize` or `cache.disk.maxSize`.',
            unit: 'short',
            queries: [[`60 * sum by (tier) (${rate('cache_evictions_total')})`, '{{tier}}']],
          },
        ],
      ],
    },
    {
      title: 'Disk',
      lines: [
        [
          {
            kind: 'timeline',
            title: 'Files on the disk',
            shows:
              'When a file could not be written to. records: money, jobs, key rests; answers: the cache; audit: the audit file. Empty for what the settings do not have.',
            red: 'records: clients with a budget are refused, and so are durable jobs: a full or read-only volume, or another process that holds the folder. The log lines `records file lost` and `disk cache lost` say why.',
            unit: 'none',
            queries: [
              [`min by (instance, file) (${metric('disk_up')})`, '{{instance}} {{file}}'],
              [`min by (instance) (${metric('audit_up')})`, '{{instance}} audit'],
            ],
            states: [
              ['down', 'red'],
              ['up', 'green'],
            ],
          },
          {
            kind: 'stack',
            title: 'Lost audit lines',
            shows:
              'Lines per minute of the audit file that were given up while it could not be written, told when it is back.',
            red: 'any: replay and the office miss these requests. A full or read-only volume, or a slow one; the log line `audit file lost` says why.',
            unit: 'short',
            queries: [[`60 * sum by (instance) (${rate('audit_lines_lost_total')})`, '{{instance}}']],
          },
        ],
      ],
    },
    {
      title: 'Shared store',
      lines: [
        [
          {
            kind: 'timeline',
            title: 'Redis by instance',
            shows: 'When each instance did without Redis, or was refused by it. Empty where none is set.',
            red: 'one instance: its network. All of them: Redis itself. The log line `redis lost` or `redis refuses writes` says why.',
            unit: 'none',
            queries: [
              [
                `min by (instance) (${metric('redis_up')}) + 2 * max by (instance) (${metric('redis_refuses_writes')})`,
                '{{instance}}',
              ],
            ],
            states: [
              ['down', 'red'],
              ['up', 'green'],
              ['refuses writes', 'orange'],
            ],
          },
          {
            kind: 'stack',
            title: 'Redis errors',
            shows: 'Operations on Redis per minute that failed or took too long.',
            red: 'Redis is overloaded, out of memory or far away: look at its own metrics. Nobody waits for it: each request does without.',
            unit: 'short',
            queries: [[`60 * sum by (operation) (${rate('redis_errors_total')})`, '{{operation}}']],
          },
          {
            kind: 'stack',
            title: 'Shared calls',
            shows:
              'Questions per minute that another instance was asking already: waited for (landed, led, left), or taken over from an instance that was lost (sent, job, lost).',
            red: 'sent, job, lost: instances die or lose Redis. sent may have been paid twice. Look at their logs and at "Redis by instance".',
            unit: 'short',
            queries: [[`60 * sum by (end) (${rate('shared_flights_total')})`, '{{end}}']],
          },
          {
            kind: 'stack',
            title: 'Rejected entries',
            shows: 'Stored bytes per minute that were not taken for an answer, by tier and why.',
            red: 'signature: somebody else writes to the store, or instances have different secrets; find out who. version: instances of different releases, passes by itself. damaged, too-big: a faulty disk or a foreign writer.',
            unit: 'short',
            queries: [[`60 * sum by (tier, flaw) (${rate('cache_rejections_total')})`, '{{tier}} {{flaw}}']],
          },
        ],
      ],
    },
  ],
}

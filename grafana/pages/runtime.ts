import type { Page } from '../dashboard.ts'
import { metric, ofProxies, quantile, total } from '../query.ts'
import { bugs } from './overview.ts'

const here = '{instance=~"$instance"}'
const worst = (name: string): string => `max by (instance) (${ofProxies(`${name}${here}`)})`
const perSecond = (name: string): string => `sum by (instance) (${ofProxies(`rate(${name}${here}[$__rate_interval])`)})`

export const runtime: Page = {
  name: 'runtime',
  title: 'runtime',
  answers: 'Is the process well: CPU, memory, event loop, and what it adds to each request?',
  rows: [
    {
      title: 'Instances',
      lines: [
        [
          {
            kind: 'now',
            title: 'Version',
            shows: 'Which version of the proxy runs on which Node, and on how many instances.',
            red: null,
            unit: 'none',
            queries: [[`sum by (version, node) (${metric('build_info')})`, '{{version}}, Node {{node}}']],
          },
          {
            kind: 'now',
            title: 'Settings',
            shows: 'Number of the settings in force on each instance: 1 at start, one more with each reload.',
            red: null,
            unit: 'none',
            queries: [[`max by (instance) (${metric('config_generation')})`, '{{instance}}']],
          },
          {
            kind: 'stat',
            title: 'Reloads refused',
            shows: 'Attempts to put changed settings in force that changed nothing, over the time shown.',
            red: 'the settings in the files are not those that run: the log line `settings not reloaded` says what is wrong.',
            unit: 'short',
            queries: [[total('config_reloads_total', 'result!="applied"'), 'refused']],
            warn: 1,
            bad: 5,
            decimals: 0,
          },
          {
            kind: 'now',
            title: 'Up for',
            shows: 'Time since each instance was started.',
            red: null,
            unit: 's',
            queries: [[`time() - ${worst('process_start_time_seconds')}`, '{{instance}}']],
          },
          {
            kind: 'now',
            title: 'Certificate ends in',
            shows: 'How long the certificate of `listen.tls` is valid, the one that ends first.',
            red: 'clients will refuse the proxy: renew the files; they are read anew by themselves. A log line `certificate kept` says why new ones were not taken.',
            unit: 's',
            queries: [[`min(${metric('tls_certificate_expiry_timestamp_seconds')}) - time()`, 'left']],
            warn: 14 * 86_400,
            bad: 3 * 86_400,
            empty: 'no TLS',
          },
          {
            kind: 'stat',
            title: 'Restarts',
            shows: 'Starts over the time shown.',
            red: 'it was upgraded, or it crashes: the last log line before a start says which (`stopped` or `uncaught`).',
            unit: 'short',
            queries: [[`sum(${ofProxies(`changes(process_start_time_seconds${here}[$__range])`)})`, 'starts']],
            warn: 1,
            bad: 3,
            decimals: 0,
          },
        ],
      ],
    },
    {
      title: 'What the proxy adds',
      lines: [
        [
          {
            kind: 'graph',
            title: 'Overhead',
            shows: 'Time of a request that was not spent waiting for upstream or pausing before a retry.',
            red: 'it is short of CPU: see "Event loop" and "CPU". Run more instances, or give this one a core of its own.',
            unit: 's',
            queries: [
              [quantile(0.5, 'overhead_seconds', []), 'p50'],
              [quantile(0.95, 'overhead_seconds', []), 'p95'],
              [quantile(0.99, 'overhead_seconds', []), 'p99'],
            ],
            warn: 0.02,
            bad: 0.05,
          },
          {
            kind: 'graph',
            title: 'Event loop',
            shows: 'Delay of the event loop: 99 of 100 times it was shorter.',
            red: 'something blocks the process, or it has too little CPU. Every caller waits so much longer.',
            unit: 's',
            queries: [[worst('nodejs_eventloop_lag_p99_seconds'), '{{instance}}']],
            warn: 0.1,
            bad: 0.2,
          },
          bugs,
        ],
      ],
    },
    {
      title: 'Overload',
      lines: [
        [
          {
            kind: 'timeline',
            title: 'Load shedding',
            shows: 'When an instance has more to do than it can: first misses are refused, then every new request.',
            red: 'callers get 503 OVERLOADED. "Event loop" and "Memory in use" say why: run more instances, or give them more memory or CPU.',
            unit: 'none',
            queries: [[`max by (instance) (${metric('overload_state')})`, '{{instance}}']],
            states: [
              ['calm', 'green'],
              ['misses are refused', 'orange'],
              ['all requests are refused', 'red'],
            ],
          },
          {
            kind: 'graph',
            title: 'Memory in use',
            shows:
              'Share in use of the memory that each instance may take (by its container or machine), or of its heap, whichever is fuller.',
            red: 'misses are refused from `overload.memory` on. Give it more memory, or lower `cache.memory.maxSize`; "Memory" says what it is used for.',
            unit: 'percentunit',
            queries: [[`max by (instance) (${metric('memory_used_ratio')})`, '{{instance}}']],
            warn: 0.75,
            bad: 0.85,
            max: 1,
          },
        ],
      ],
    },
    {
      title: 'Process',
      lines: [
        [
          {
            kind: 'graph',
            title: 'Memory',
            shows: 'Memory of the process, and what of it is heap and buffers.',
            red: 'it grows for hours while the Cache dashboard shows no growth: a leak, please report it. Otherwise lower `cache.memory.maxSize`, or give it more.',
            unit: 'bytes',
            queries: [
              [worst('process_resident_memory_bytes'), '{{instance}} resident'],
              [worst('nodejs_heap_size_used_bytes'), '{{instance}} heap'],
              [worst('nodejs_external_memory_bytes'), '{{instance}} buffers'],
            ],
            warn: 700e6,
            bad: 900e6,
          },
          {
            kind: 'graph',
            title: 'CPU',
            shows: 'Cores in use. The proxy works on one, and a little more for the disk.',
            red: 'one core is used up: run more instances.',
            unit: 'short',
            queries: [[perSecond('process_cpu_seconds_total'), '{{instance}}']],
            warn: 0.7,
            bad: 0.9,
          },
          {
            kind: 'graph',
            title: 'Garbage collection',
            shows: 'Share of the time that goes into collecting garbage.',
            red: 'the heap is too small for what is in it: more memory, or a smaller `cache.memory.maxSize`.',
            unit: 'percentunit',
            queries: [[perSecond('nodejs_gc_duration_seconds_sum'), '{{instance}}']],
            warn: 0.05,
            bad: 0.1,
          },
        ],
        [
          {
            kind: 'graph',
            title: 'Open files and sockets',
            shows: 'Files and sockets that are open, and how many may be.',
            red: 'it nears the limit: raise `ulimit -n`. It grows without traffic: please report it.',
            unit: 'short',
            queries: [
              [worst('process_open_fds'), '{{instance}} open'],
              [worst('process_max_fds'), '{{instance}} limit'],
            ],
          },
          {
            kind: 'graph',
            title: 'Open requests by instance',
            shows: 'Requests that wait for an answer, by instance.',
            red: null,
            unit: 'short',
            queries: [[`sum by (instance) (${metric('in_flight_requests')})`, '{{instance}}']],
          },
        ],
      ],
    },
    {
      title: 'Scraping',
      lines: [
        [
          {
            kind: 'graph',
            title: 'Clock',
            shows: 'How far the wall clock of each instance is from that of Prometheus.',
            red: 'the clock of the machine was set, or NTP does not run. Days and months of budgets, ages of answers and times of logs are those of this clock.',
            unit: 's',
            queries: [
              [
                `${metric('clock_timestamp_seconds')} - timestamp(${metric('clock_timestamp_seconds')})`,
                '{{instance}}',
              ],
            ],
            warn: 5,
            bad: 60,
          },
          {
            kind: 'graph',
            title: 'Series',
            shows: 'Series that each instance offers to Prometheus.',
            red: 'more than 2,000: many clients, scrapers and keys. Fewer clients in the settings, or drop series with `metric_relabel_configs`.',
            unit: 'short',
            queries: [[worst('scrape_samples_scraped'), '{{instance}}']],
            warn: 1500,
            bad: 2000,
          },
          {
            kind: 'graph',
            title: 'Scrape duration',
            shows: 'How long Prometheus waits for the metrics of each instance.',
            red: 'the process or the network is slow: see "Event loop".',
            unit: 's',
            queries: [[worst('scrape_duration_seconds'), '{{instance}}']],
            warn: 0.25,
            bad: 1,
          },
        ],
      ],
    },
  ],
}

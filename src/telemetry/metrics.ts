/**
 * The metrics: how the rows of `metric-rows.ts` and `gauges.ts` become counters, histograms and the text of a scrape.
 *
 * Counts live in plain integers (`series.ts`) and become prom-client values only while somebody scrapes: no library call is
 * on the way of a request. A metric with few possible series shows them all from the start, as 0, so that a first event is
 * an increase and a dashboard has no gaps; the series of the others appear with their first count.
 */
import prom from 'prom-client'
import { readingRows, type Gauges } from './gauges.ts'
import { closedLists, shownName, type LabelName, type LabelTypes, type ListOptions } from './labels.ts'
import { counterRows, histogramRows, levelRows, type Row } from './metric-rows.ts'
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

type ValuesOf<Labels extends readonly LabelName[]> = { readonly [I in keyof Labels]: LabelTypes[Labels[I]] }

function describe(type: MetricDescription['type'], { name, help, labels }: Row): MetricDescription {
  return { name: prefix + name, type, help, labels: labels.map(shownName) }
}

function named(names: readonly string[], values: readonly LabelValue[]): Record<string, LabelValue> {
  return Object.fromEntries(names.map((name, i) => [name, values[i] ?? '']))
}

/** What the panels of the dashboards show while an incident is at its height: every query of every panel, asked of the real Prometheus. */
import { type Dashboard, dashboards, type Panel } from '../support/grafana.ts'
import type { Prometheus } from '../support/prometheus.ts'

export interface Look {
  /** What is wrong with a panel itself, whatever happens. */
  readonly faults: readonly string[]
  /** Panels that are red, each with its last value. */
  readonly red: readonly string[]
}

interface Series {
  readonly values: readonly number[]
  readonly last: number
}

/** Real seconds that are looked at: what a dashboard shows of a quarter of an hour. */
const RANGE_SECONDS = 60
const MOST_ZEROS = 3

/** Below zero is right: a budget that answers have overdrawn. */
const mayBeNegative = /[Bb]udget|[Cc]redits left/

export async function lookAt({ api }: Prometheus): Promise<Look> {
  const faults: string[] = []
  const red: string[] = []
  for (const [file, dashboard] of dashboards) {
    for (const panel of chartsOf(dashboard)) {
      const name = `${file.replace('.json', '')}, "${panel.title}"`
      try {
        const series = (await Promise.all((panel.targets ?? []).map(({ expr }) => seriesOf(api, expr)))).flat()
        faults.push(...faultsOf(panel, series).map((fault) => `${name} ${fault}`))
        const worst = series.find(({ last }) => colorOf(panel, last) === 'red')
        if (worst) red.push(`${name} ${Number(worst.last.toPrecision(3))}`)
      } catch (error) {
        faults.push(`${name} cannot be asked: ${String(error)}`)
      }
    }
  }
  return { faults, red }
}

function chartsOf({ panels }: Dashboard): readonly Panel[] {
  return panels.filter(({ type }) => type !== 'row')
}

async function seriesOf(api: Prometheus['api'], expr: string): Promise<readonly Series[]> {
  const now = Date.now() / 1_000
  const query = expr
    .replaceAll('$__rate_interval', '4s')
    .replaceAll('$__range', `${RANGE_SECONDS}s`)
    .replaceAll(/"\$\w+"/g, '".*"')
  const asked = { query, start: String(now - RANGE_SECONDS), end: String(now), step: '1' }
  const { result } = (await api('query_range', asked)) as {
    readonly result: readonly {
      readonly metric: Readonly<Record<string, string>>
      readonly values: readonly (readonly [at: number, value: string])[]
    }[]
  }
  // The time that the proxy adds is that of a machine which others use, too.
  const ours = result.filter(({ metric }) => !/^(?:overhead|hits)$/.test(metric['slo'] ?? ''))
  return ours.map(({ values }) => {
    const numbers = values.map(([, value]) => Number(value))
    return { values: numbers, last: numbers.at(-1) ?? Number.NaN }
  })
}

function faultsOf({ type, title, fieldConfig }: Panel, series: readonly Series[]): string[] {
  const { max } = fieldConfig?.defaults ?? {}
  const known = series.flatMap(({ values }) => values.filter((value) => !Number.isNaN(value)))
  const zeros = series.filter(({ values }) => values.every((value) => value === 0)).length
  return [
    ...(type === 'stat' && series.some(({ last }) => Number.isNaN(last)) ? ['shows NaN'] : []),
    ...(known.some((value) => !Number.isFinite(value)) ? ['shows Infinity'] : []),
    ...(max !== undefined && known.some((value) => value > max * 1.001)
      ? [`goes up to ${Math.max(...known)}, beyond its axis (${max})`]
      : []),
    ...(known.some((value) => value < 0) && !mayBeNegative.test(title) ? [`goes below 0: ${Math.min(...known)}`] : []),
    ...(type === 'timeseries' && zeros > MOST_ZEROS
      ? [`has ${zeros} series in its legend that are 0 all the time`]
      : []),
  ]
}

/** As Grafana takes it: that of the last threshold at or below the value. */
function colorOf({ fieldConfig }: Panel, value: number): string | null {
  const steps = fieldConfig?.defaults.thresholds?.steps ?? []
  return steps.findLast((step) => step.value === null || step.value <= value)?.color ?? null
}

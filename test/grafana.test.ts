/** The dashboards name only metrics, labels and label values that exist; every metric is on one; every panel says what to do. */
import { readFileSync, readdirSync } from 'node:fs'
import t from 'tap'
import { parse } from 'yaml'
import { labelLists } from '../src/telemetry/labels.ts'
import { createMetrics, metricCatalogue } from '../src/telemetry/metrics.ts'

interface Panel {
  readonly type: string
  readonly title: string
  readonly description?: string
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number }
  readonly targets?: readonly { readonly refId: string; readonly expr: string }[]
  readonly fieldConfig?: { readonly defaults: { readonly unit?: string } }
}

interface Dashboard {
  readonly uid: string
  readonly schemaVersion: number
  readonly panels: readonly Panel[]
  readonly annotations: { readonly list: readonly { readonly expr?: string }[] }
  readonly templating: { readonly list: readonly { readonly name: string; readonly definition?: string }[] }
}

const folder = new URL('../grafana/', import.meta.url)
const read = (path: string) => readFileSync(new URL(path, folder), 'utf8')
const files = readdirSync(new URL('dashboards/', folder)).filter((name) => name.endsWith('.json'))
const dashboards = files.map((name): [string, Dashboard] => [name, JSON.parse(read(`dashboards/${name}`))])

/** What Prometheus adds to every series. */
const targetLabels = ['instance', 'job']
const catalogue = new Map<string, readonly string[]>(
  metricCatalogue.flatMap(({ name, type, labels }): [string, readonly string[]][] =>
    type === 'histogram'
      ? [
          [`${name}_bucket`, [...labels, 'le']],
          [`${name}_sum`, labels],
          [`${name}_count`, labels],
        ]
      : [[name, labels]],
  ),
)

/** Each metric of an expression, with its matchers and the labels it is grouped by. */
function usesIn(expr: string) {
  const selectors = [...expr.matchAll(/\b((?:scrapellm_proxy|process|nodejs)_\w+)(?:\{([^}]*)\})?/g)]
  const grouped = [...expr.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, labels = '']) => labels.split(/, */))
  return selectors.map(([, name = '', matchers = '']) => ({
    name,
    grouped,
    matchers: [...matchers.matchAll(/(\w+)(=~|!~|!=|=)"([^"]*)"/g)].map(([, label = '', , value = '']) => ({
      label,
      values: value.startsWith('$') ? [] : value.split('|'),
    })),
  }))
}

function expressionsOf(dashboard: Dashboard): string[] {
  return [
    ...dashboard.panels.flatMap((panel) => (panel.targets ?? []).map(({ expr }) => expr)),
    ...dashboard.annotations.list.flatMap(({ expr }) => expr ?? []),
    ...dashboard.templating.list.flatMap(({ definition }) => {
      const [, metric, label] = /^label_values\((\w+), (\w+)\)$/.exec(definition ?? '') ?? []
      return metric ? [`count by (${label}) (${metric})`] : []
    }),
  ]
}

async function defaultMetrics(): Promise<Set<string>> {
  const gauges = {
    breakers: () => [],
    keys: () => [],
    retryTokens: () => 0,
    cache: () => [],
    configGeneration: () => 1,
  }
  const metrics = createMetrics({ clients: [], scrapers: [], keys: [], tiers: [], version: '1', gauges })
  const { body } = await metrics.text()
  const types = [...body.matchAll(/^# TYPE ((?:process|nodejs)_\w+) (\w+)$/gm)]
  return new Set(
    types.flatMap(([, name = '', type]) => (type === 'histogram' ? [`${name}_sum`, `${name}_count`] : [name])),
  )
}

void t.test('every metric on a dashboard exists, with the labels and label values it is asked for', async (t) => {
  const defaults = await defaultMetrics()
  const lists: Readonly<Record<string, readonly (string | number)[]>> = labelLists
  for (const [file, dashboard] of dashboards) {
    const expressions = expressionsOf(dashboard)
    t.ok(expressions.length > 20, `${file}: expressions found`)
    for (const expr of expressions) {
      const uses = usesIn(expr)
      t.ok(uses.length > 0, `names a metric: ${expr}`)
      const offered = [...targetLabels, ...uses.flatMap(({ name }) => catalogue.get(name) ?? [])]
      for (const { name, matchers, grouped } of uses) {
        const labels = catalogue.get(name)
        if (!labels) {
          t.ok(defaults.has(name), `${name} exists`)
          continue
        }
        for (const { label, values } of matchers) {
          t.ok(labels.includes(label), `${name} has the label ${label}`)
          const list = lists[label]?.map(String)
          for (const value of list ? values : []) {
            t.ok(
              list?.some((known) => new RegExp(`^(?:${value})$`).test(known)),
              `${label} can be ${value}: ${expr}`,
            )
          }
        }
        for (const label of grouped) t.ok(offered.includes(label), `can be grouped by ${label}: ${expr}`)
      }
    }
  }
})

void t.test('every metric of the proxy is on some dashboard', async (t) => {
  const used = new Set(
    dashboards.flatMap(([, dashboard]) =>
      dashboard.panels.flatMap(({ targets = [] }) =>
        targets.flatMap(({ expr }) => usesIn(expr).map(({ name }) => name)),
      ),
    ),
  )
  for (const { name, type } of metricCatalogue) {
    t.ok(used.has(type === 'histogram' ? `${name}_bucket` : name), name)
  }
})

void t.test('every panel says what it shows and what to do when it is red, and has its place', async (t) => {
  for (const [file, { panels, schemaVersion }] of dashboards) {
    t.ok(schemaVersion >= 39, file)
    const charts = panels.filter(({ type }) => type !== 'row')
    for (const { title, description = '', targets = [], fieldConfig } of charts) {
      t.match(description, /When |There is no red/, `${file}: ${title}`)
      t.ok(fieldConfig?.defaults.unit, `${title} has a unit`)
      t.equal(new Set(targets.map(({ refId }) => refId)).size, targets.length, `${title} has distinct queries`)
    }
    t.equal(new Set(charts.map(({ title }) => title)).size, charts.length, 'titles are distinct')
    for (const [index, { title, gridPos: a }] of panels.entries()) {
      const overlaps = panels.slice(index + 1).filter(({ gridPos: b }) => {
        return a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h
      })
      t.strictSame(overlaps, [], `nothing lies over ${title}`)
      t.ok(a.x + a.w <= 24, `${title} is not too wide`)
    }
    for (const [, title = ''] of charts.flatMap(({ description = '' }) => [
      ...description.matchAll(/"([A-Z][^"]+)"/g),
    ])) {
      const titles = panels.map((panel) => panel.title)
      t.ok(titles.includes(title), `a description points to "${title}", which exists`)
    }
  }
})

void t.test('the page beside the dashboards has a line for every panel, and none for others', async (t) => {
  const rows = [...read('README.md').matchAll(/^\| (?!panel)([^|]+) \| [^|]+ \|$/gm)].map(([, title]) => title)
  const titles = dashboards.flatMap(([, { panels }]) =>
    panels.filter(({ type }) => type !== 'row').map(({ title }) => title),
  )
  t.strictSame(rows, titles)
})

void t.test('provisioning names the data source and the folder that the dashboards are mounted to', async (t) => {
  const sources = parse(read('provisioning/datasources/prometheus.yaml'))
  t.match(sources, { apiVersion: 1, datasources: [{ type: 'prometheus', url: '$PROMETHEUS_URL' }] })
  const providers = parse(read('provisioning/dashboards/scrapellm-proxy.yaml'))
  t.match(providers, { apiVersion: 1, providers: [{ type: 'file' }] })
  t.match(read('README.md'), `/grafana/dashboards:${providers.providers[0].options.path}`)
})

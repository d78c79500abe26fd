/**
 * The dashboards and alert rules name only metrics, labels and label values that exist; every metric is on a dashboard; every
 * panel and every alert says what to do; the rules do what their unit tests say. `prometheus.test.ts` asks a real Prometheus.
 */
import { spawnSync } from 'node:child_process'
import t from 'tap'
import { parse } from 'yaml'
import { pages, stale } from '../grafana/build.ts'
import { labelLists } from '../src/telemetry/labels.ts'
import { createMetrics, metricCatalogue } from '../src/telemetry/metrics.ts'
import { dashboards, expressionsOf, read, ruleFiles, rules, rulesFolder, ruleTests, usesIn } from './support/grafana.ts'

const runbook = read('../docs/dashboards-and-alerts.md')

/** What Prometheus adds to every series. */
const targetLabels = ['instance', 'job']
const catalogue = new Map<string, readonly string[]>([
  ...metricCatalogue.flatMap(({ name, type, labels }): [string, readonly string[]][] =>
    type === 'histogram'
      ? [
          [`${name}_bucket`, [...labels, 'le']],
          [`${name}_sum`, labels],
          [`${name}_count`, labels],
        ]
      : [[name, labels]],
  ),
  ...rules.flatMap(({ record, labels = {} }): [string, readonly string[]][] =>
    record === undefined ? [] : [[record, ['slo', ...Object.keys(labels)]]],
  ),
  ['ALERTS', ['alertname', 'severity', 'alertstate']],
  ['up', []],
  ['scrape_samples_scraped', []],
  ['scrape_duration_seconds', []],
])
async function defaultMetrics(): Promise<Set<string>> {
  const metrics = createMetrics({ clients: [], scrapers: [], keys: [], tiers: [], version: '1' })
  const { body } = await metrics.text()
  const types = [...body.matchAll(/^# TYPE ((?:process|nodejs)_\w+) (\w+)$/gm)]
  return new Set(
    types.flatMap(([, name = '', type]) => (type === 'histogram' ? [`${name}_sum`, `${name}_count`] : [name])),
  )
}

void t.test('every metric that is asked for exists, with the labels and label values it is asked for', async (t) => {
  const defaults = await defaultMetrics()
  const lists: Readonly<Record<string, readonly (string | number)[]>> = {
    ...labelLists,
    result: [...labelLists.result, ...labelLists.reload],
    reason: [...labelLists.reason, ...labelLists.wire],
    outcome: [...labelLists.outcome, ...labelLists.ended],
  }
  const asked = dashboards.flatMap(([, dashboard]) => expressionsOf(dashboard))
  t.ok(asked.length > 100, 'expressions found')
  for (const expr of [...asked, ...rules.map((rule) => rule.expr)]) {
    const uses = usesIn(expr)
    if (!expr.startsWith('vector(')) t.ok(uses.length > 0, `names a metric: ${expr}`)
    const offered = [...targetLabels, ...uses.flatMap(({ name }) => catalogue.get(name) ?? [])]
    for (const { name, matchers, grouped } of uses) {
      const labels = catalogue.get(name)
      if (!labels) {
        t.ok(defaults.has(name), `${name} exists`)
        continue
      }
      for (const { label, values } of matchers) {
        t.ok([...targetLabels, ...labels].includes(label), `${name} has the label ${label}`)
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
  }
  const titles = new Set(dashboards.flatMap(([, { panels }]) => panels.map(({ title }) => title)))
  for (const text of [...descriptions(), runbook]) {
    for (const [, title = ''] of text.matchAll(/"([A-Z][^"]+)"/g))
      t.ok(titles.has(title), `there is a panel "${title}"`)
  }
})

function descriptions(): string[] {
  const panels = dashboards.flatMap(([, dashboard]) => dashboard.panels.map(({ description = '' }) => description))
  return [...panels, ...rules.map(({ annotations }) => annotations?.['description'] ?? '')]
}

void t.test('the files are what the code says', async (t) => {
  t.strictSame(stale(), [], 'npm run docs makes them so')
  t.equal(dashboards.length, 7)
})

void t.test('every dashboard has the variables, the marks and a way to the others', async (t) => {
  for (const [file, { uid, tags, links, templating, annotations, panels }] of dashboards) {
    const variables = templating.list.map(({ name, multi = false }) => `${name}${multi ? ', several' : ''}`)
    t.strictSame(variables, ['datasource', 'instance, several', 'client, several', 'scraper, several'], file)
    const marks = annotations.list.map(({ expr = '' }) => expr)
    for (const name of ['process_start_time_seconds', 'config_generation', 'breaker_transitions_total'])
      t.ok(
        marks.some((expr) => expr.includes(name)),
        `${file}: ${name} is marked`,
      )
    t.match(links, [{ type: 'dashboards', tags, includeVars: true }], `${file} leads to all with its tag`)
    t.equal(uid, `scrapellm-proxy-${file.replace('.json', '')}`)
    t.equal(new Set(panels.map(({ id }) => id)).size, panels.length, `${file}: ids are distinct`)
  }
  t.equal(new Set(dashboards.map(([, { tags }]) => tags.join())).size, 1, 'one tag for all')
})

void t.test(
  'every alert says how urgent it is, what is wrong, what to do, and has a line in the run-book',
  async (t) => {
    const alerts = rules.filter(({ alert }) => alert !== undefined)
    for (const { alert = '', labels = {}, annotations = {} } of alerts) {
      t.match(labels['severity'], /^(?:page|ticket)$/, alert)
      t.match(annotations, {
        summary: /\w{3}/,
        description: /\w{3}/,
        runbook: `docs/dashboards-and-alerts.md, ${alert}`,
      })
    }
    const rows = [...runbook.matchAll(/^\| `(ScrapellmProxy\w+)` \| (page|ticket|page, ticket) \|/gm)]
    const severities = new Map<string, string>()
    for (const { alert = '', labels } of alerts) {
      const sorted = new Set([...(severities.get(alert)?.split(', ') ?? []), labels?.['severity'] ?? ''])
      severities.set(alert, [...sorted].join(', '))
    }
    t.strictSame(Object.fromEntries(rows.map(([, name, severity]) => [name, severity])), Object.fromEntries(severities))
  },
)

void t.test('every alert is seen to fire and to be quiet in a unit test of the rules, and they pass', async (t) => {
  interface Case {
    readonly promql_expr_test: readonly { readonly expr: string; readonly exp_samples?: readonly unknown[] }[]
  }
  const seen = ruleTests
    .flatMap((name) => (parse(read(`rules/${name}`)) as { tests: readonly Case[] }).tests)
    .flatMap((one) => one.promql_expr_test)
    .map(({ expr, exp_samples: samples = [] }) => {
      const [, alert = ''] = /ALERTS\{alertname="(\w+)",alertstate="firing"/.exec(expr) ?? []
      return `${alert} ${samples.length > 0 ? 'fires' : 'is quiet'}`
    })
  for (const alert of new Set(rules.flatMap(({ alert }) => alert ?? []))) {
    t.ok(seen.includes(`${alert} fires`), `${alert} fires`)
    t.ok(seen.includes(`${alert} is quiet`), `${alert} is quiet`)
  }
  for (const args of [
    ['check', 'rules', ...ruleFiles],
    ['test', 'rules', ...ruleTests],
  ]) {
    const { status, stdout, stderr } = spawnSync('promtool', args, { cwd: rulesFolder })
    t.equal(status, 0, `promtool ${args.join(' ')}\n${stdout.toString()}${stderr.toString()}`)
  }
})

void t.test('the page beside the dashboards says of each what it answers', async (t) => {
  const rows = [...read('README.md').matchAll(/^\| \[([^\]]+)\]\(dashboards\/([\w-]+)\.json\) \| (.+) \|$/gm)]
  t.strictSame(
    rows.map(([, , name, answers]) => [name, answers]),
    pages.map(({ name, answers }) => [name, answers]),
  )
})

void t.test('provisioning names the data source and the folder that the dashboards are mounted to', async (t) => {
  const sources = parse(read('provisioning/datasources/prometheus.yaml'))
  t.match(sources, { apiVersion: 1, datasources: [{ type: 'prometheus', url: '$PROMETHEUS_URL' }] })
  // Grafana replaces one $ by the environment and makes one of two.
  t.match(sources, {
    datasources: [
      { jsonData: { exemplarTraceIdDestinations: [{ name: 'request_id', url: /\/requests\/\$\$\{__value\.raw\}$/ }] } },
    ],
  })
  const providers = parse(read('provisioning/dashboards/scrapellm-proxy.yaml'))
  t.match(providers, { apiVersion: 1, providers: [{ type: 'file' }] })
  t.match(runbook, `/grafana/dashboards:${providers.providers[0].options.path}`)
})

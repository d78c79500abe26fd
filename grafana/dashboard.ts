/**
 * What all dashboards have in common: variables, annotations, links from one to the others, and rows of panels. The panels
 * of a line share its width.
 */
import {
  AnnotationQueryBuilder,
  DashboardBuilder,
  DashboardCursorSync,
  DashboardLinkBuilder,
  DashboardLinkType,
  DatasourceVariableBuilder,
  QueryVariableBuilder,
  RowBuilder,
  VariableRefresh,
  VariableSort,
  type Dashboard,
} from '@grafana/grafana-foundation-sdk/dashboard'
import { built, source, type Panel } from './panel.ts'
import { metric, ofProxies } from './query.ts'

export interface Page {
  /** The file, and the end of the uid. */
  readonly name: string
  readonly title: string
  /** The question that it answers. */
  readonly answers: string
  readonly rows: readonly Row[]
}

export interface Row {
  readonly title: string
  readonly lines: readonly (readonly Panel[])[]
}

const tag = 'scrapellm-proxy'
const circuitChanges = `sum by (scraper, to) (increase(${metric('breaker_transitions_total', 'to!="half-open"')}[1m])) > 0`

export function dashboardOf({ name, title, answers, rows }: Page): Dashboard {
  const builder = new DashboardBuilder(`scrapellm-proxy: ${title}`)
    .uid(`scrapellm-proxy-${name}`)
    .description(`${answers} Each panel says what to do when it is red.`)
    .tags([tag])
    .editable()
    .tooltip(DashboardCursorSync.Crosshair)
    .refresh('30s')
    .time({ from: 'now-6h', to: 'now' })
    .timezone('browser')
    .link(others())
  for (const variable of variables()) builder.withVariable(variable)
  for (const annotation of annotations()) builder.annotation(annotation)
  let id = 0
  for (const { title, lines } of rows) {
    builder.withRow(new RowBuilder(title).id(++id))
    for (const line of lines) for (const panel of line) builder.withPanel(built(panel, ++id, 24 / line.length))
  }
  return builder.build()
}

function others(): DashboardLinkBuilder {
  return new DashboardLinkBuilder('Dashboards of the proxy')
    .type(DashboardLinkType.Dashboards)
    .tags([tag])
    .asDropdown(false)
    .includeVars(true)
    .keepTime(true)
}

function variables() {
  return [
    new DatasourceVariableBuilder('datasource').label('Data source').type('prometheus'),
    choice('instance', 'Instance', 'build_info'),
    choice('client', 'Client', 'requests_total'),
    choice('scraper', 'Scraper', 'requests_total'),
  ]
}

/** One, several or all values of a label. */
function choice(name: string, label: string, of: string): QueryVariableBuilder {
  const query = `label_values(scrapellm_proxy_${of}, ${name})`
  const builder = new QueryVariableBuilder(name)
    .label(label)
    .datasource(source)
    .definition(query)
    .query({ qryType: 1, query, refId: 'variable' })
    .refresh(VariableRefresh.OnTimeRangeChanged)
    .multi(true)
    .includeAll(true)
    .allValue('.*')
    .current({ text: 'All', value: '$__all' })
  // oxlint-disable-next-line unicorn/no-array-sort -- a setting of the variable, not an array
  return builder.sort(VariableSort.AlphabeticalAsc)
}

function annotations(): AnnotationQueryBuilder[] {
  return [
    mark(
      'Start',
      'blue',
      ofProxies('changes(process_start_time_seconds{instance=~"$instance"}[1m]) > 0'),
      '{{instance}}',
    ),
    mark('Settings', 'purple', `changes(${metric('config_generation')}[1m]) > 0`, 'new settings on {{instance}}'),
    mark('Circuits', 'orange', circuitChanges, '{{scraper}} is {{to}}'),
  ]
}

function mark(name: string, color: string, expression: string, text: string): AnnotationQueryBuilder {
  return new AnnotationQueryBuilder()
    .name(name)
    .datasource(source)
    .enable(true)
    .iconColor(color)
    .expr(expression)
    .titleFormat(name)
    .textFormat(text)
    .step('60s')
}

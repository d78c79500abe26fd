/**
 * The panels as data: what it shows, what to do when it is red, its queries. `built` makes of one what Grafana reads. The type
 * asks for what a panel must not lack: a unit, and a sentence for the day when it is red, or why it never is.
 */
import {
  GraphDrawStyle,
  GraphGradientMode,
  GraphThresholdsStyleMode,
  LegendDisplayMode,
  LegendPlacement,
  StackingMode,
  TooltipDisplayMode,
  VisibilityMode,
  BigValueColorMode,
  BigValueGraphMode,
  GraphThresholdsStyleConfigBuilder,
  ReduceDataOptionsBuilder,
  StackingConfigBuilder,
  VizLegendOptionsBuilder,
  VizTooltipOptionsBuilder,
} from '@grafana/grafana-foundation-sdk/common'
import {
  MappingType,
  ThresholdsConfigBuilder,
  ThresholdsMode,
  type Threshold,
} from '@grafana/grafana-foundation-sdk/dashboard'
import { PanelBuilder as HeatmapBuilder } from '@grafana/grafana-foundation-sdk/heatmap'
import { DataqueryBuilder, PromQueryFormat } from '@grafana/grafana-foundation-sdk/prometheus'
import { PanelBuilder as StatBuilder } from '@grafana/grafana-foundation-sdk/stat'
import { PanelBuilder as TimelineBuilder } from '@grafana/grafana-foundation-sdk/statetimeline'
import { PanelBuilder as GraphBuilder } from '@grafana/grafana-foundation-sdk/timeseries'

export type Query = readonly [expression: string, legend: string]

export interface Panel {
  /** `stat`: one number over the time shown. `now`: one number at its end. `stack`: parts of a whole. */
  readonly kind: 'stat' | 'now' | 'graph' | 'stack' | 'timeline' | 'heatmap'
  readonly title: string
  readonly shows: string
  /** What to do then; null = it shows no good and no bad. */
  readonly red: string | null
  readonly unit: string
  readonly queries: readonly Query[]
  /** Where it turns red, and orange before that. A `bad` below `warn`: less is worse. */
  readonly warn?: number
  readonly bad?: number
  readonly max?: number
  readonly decimals?: number
  /** In place of "no data", where nothing is not a fault. */
  readonly empty?: string
  /** Shows single requests, by their ids, beside the sum of all. */
  readonly examples?: true
  /** Timeline: the words and colours of the values 0, 1, 2 … */
  readonly states?: readonly (readonly [word: string, color: string])[]
}

type Builder = StatBuilder | GraphBuilder | TimelineBuilder | HeatmapBuilder

export const source = { type: 'prometheus', uid: '${datasource}' }

/** `span` is out of 24. */
export function built(panel: Panel, id: number, span: number): Builder {
  const builder = dressed(panel, id, span)
  for (const [index, query] of panel.queries.entries()) builder.withTarget(target(panel, index, query))
  return builder
}

export function heightOf({ kind }: Panel): number {
  return kind === 'stat' || kind === 'now' ? 4 : 8
}

function dressed(panel: Panel, id: number, span: number): Builder {
  const { title, unit, max, decimals, empty } = panel
  const builder = builders[panel.kind](panel)
    .id(id)
    .title(title)
    .description(descriptionOf(panel))
    .datasource(source)
    .unit(unit)
    .span(span)
    .height(heightOf(panel))
    .thresholds(new ThresholdsConfigBuilder().mode(ThresholdsMode.Absolute).steps(stepsOf(panel)))
  if (max !== undefined) builder.max(max)
  if (decimals !== undefined) builder.decimals(decimals)
  if (empty !== undefined) builder.noValue(empty)
  return builder
}

function descriptionOf({ shows, red }: Panel): string {
  return red === null ? `${shows} There is no red: it shows no good and no bad.` : `${shows} When red: ${red}`
}

function stepsOf({ warn, bad, red, states }: Panel): Threshold[] {
  const base = { value: null, color: red === null || states ? 'blue' : 'green' }
  if (bad === undefined) return [base]
  if (warn === undefined) return [base, { value: bad, color: 'red' }]
  if (bad > warn) return [base, { value: warn, color: 'orange' }, { value: bad, color: 'red' }]
  return [
    { value: null, color: 'red' },
    { value: bad, color: 'orange' },
    { value: warn, color: 'green' },
  ]
}

const builders: Readonly<Record<Panel['kind'], (panel: Panel) => Builder>> = {
  stat,
  now: stat,
  graph,
  stack: graph,
  timeline: (panel) =>
    new TimelineBuilder().mergeValues(true).showValue(VisibilityMode.Never).legend(legend()).mappings(words(panel)),
  heatmap: () => new HeatmapBuilder().calculate(false).showLegend(),
}

function stat(): StatBuilder {
  return new StatBuilder()
    .colorMode(BigValueColorMode.Value)
    .graphMode(BigValueGraphMode.None)
    .reduceOptions(new ReduceDataOptionsBuilder().calcs(['lastNotNull']).fields('').values(false))
}

function graph({ kind, bad }: Panel): GraphBuilder {
  const isStack = kind === 'stack'
  const builder = new GraphBuilder()
    .drawStyle(GraphDrawStyle.Line)
    .gradientMode(GraphGradientMode.None)
    .lineWidth(1)
    .fillOpacity(isStack ? 40 : 8)
    .showPoints(VisibilityMode.Never)
    .legend(legend())
    .tooltip(new VizTooltipOptionsBuilder().mode(TooltipDisplayMode.Multi))
  if (isStack) builder.stacking(new StackingConfigBuilder().mode(StackingMode.Normal).group('A'))
  if (bad !== undefined)
    builder.thresholdsStyle(new GraphThresholdsStyleConfigBuilder().mode(GraphThresholdsStyleMode.Dashed))
  return builder
}

function legend(): VizLegendOptionsBuilder {
  return new VizLegendOptionsBuilder()
    .showLegend(true)
    .displayMode(LegendDisplayMode.List)
    .placement(LegendPlacement.Bottom)
    .calcs([])
}

function words({ states = [] }: Panel) {
  const options = states.map(([text, color], value) => [String(value), { text, color, index: value }] as const)
  return [{ type: MappingType.ValueToText as const, options: Object.fromEntries(options) }]
}

function target({ kind, examples }: Panel, index: number, [expression, name]: Query): DataqueryBuilder {
  const query = new DataqueryBuilder()
    .refId('ABCDEFGH'.charAt(index))
    .datasource(source)
    // What is not there needs no place in the legend.
    .expr(kind === 'stack' ? `(${expression}) > 0` : expression)
    .legendFormat(name)
  if (examples) query.exemplar(true)
  if (kind === 'heatmap') query.format(PromQueryFormat.Heatmap)
  return kind === 'stat' || kind === 'now' ? query.instant() : query.range()
}

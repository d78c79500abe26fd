/**
 * PromQL as the dashboards write it. A metric is named without its prefix and looked up in the catalogue of the code, so that
 * one which does not exist fails the build; the variables of the dashboard become matchers where the metric has the label.
 */
import { metricCatalogue } from '../src/telemetry/metrics.ts'

const prefix = 'scrapellm_proxy_'
const labelsByName = new Map(
  metricCatalogue.flatMap(({ name, type, labels }) =>
    (type === 'histogram' ? ['_bucket', '_sum', '_count'] : ['']).map((suffix) => [name + suffix, labels] as const),
  ),
)

/** What the variables at the top of a dashboard choose, besides the instance that every series has. */
const variables = ['client', 'scraper']

export function metric(name: string, ...matchers: readonly string[]): string {
  const labels = labelsByName.get(prefix + name)
  if (!labels) throw new Error(`there is no metric ${prefix}${name}`)
  const chosen = ['instance', ...variables.filter((label) => labels.includes(label))].map((one) => `${one}=~"$${one}"`)
  return `${prefix}${name}{${[...chosen, ...matchers].join(',')}}`
}

/** A metric of Node or of Prometheus itself, which other programs have, too. */
export function ofProxies(expression: string): string {
  return `(${expression}) and on (instance, job) ${prefix}build_info`
}

/** Per second. */
export function rate(name: string, ...matchers: readonly string[]): string {
  return `rate(${metric(name, ...matchers)}[$__rate_interval])`
}

/** Whole numbers, for what happens now and then: a rate would show a single one as many. */
export function happened(by: string, name: string, ...matchers: readonly string[]): string {
  return `round(sum by (${by}) (increase(${metric(name, ...matchers)}[$__rate_interval])))`
}

/** Over the time that the dashboard shows. */
export function total(name: string, ...matchers: readonly string[]): string {
  return `sum(increase(${metric(name, ...matchers)}[$__range]))`
}

/** `part / whole`: 0 where nothing of the part was counted, nothing where there is no whole. */
export function share(part: string, whole: string): string {
  return `(${part} or vector(0)) / (${whole} > 0)`
}

export function quantile(q: number, name: string, by: readonly string[], ...matchers: readonly string[]): string {
  return `histogram_quantile(${q}, sum by (${['le', ...by].join(', ')}) (${rate(`${name}_bucket`, ...matchers)}))`
}

/** As it was a day before. */
export function yesterday(q: number, name: string, ...matchers: readonly string[]): string {
  return `histogram_quantile(${q}, sum by (le) (rate(${metric(`${name}_bucket`, ...matchers)}[$__rate_interval] offset 1d)))`
}

/** What a caller got who asked for something that can be answered. `gone` and mistakes of callers are in neither. */
export const served = 'status=~"2..|304"'
export const servable = 'status!~"gone|400|401|404|405|409|414|422|431|4xx"'
export const withoutCall = 'cache=~"hit|joined|stale"'

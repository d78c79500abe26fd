/**
 * The text of Prometheus as OpenMetrics, which may carry examples: the id of one request for each bucket, so that a slow one
 * can be looked up. The metrics library can do so, too, but drops the ending of its counters' names for good when it does.
 */
import type { Sample } from './series.ts'

export const openMetricsType = 'application/openmetrics-text; version=1.0.0; charset=utf-8'

/** Longer, with the name of its label, is against the format. */
const maxIdLength = 100

/** `samples` are those that may have an example. */
export function openMetrics(text: string, samples: readonly Sample[]): string {
  const examples = new Map(samples.flatMap((sample) => exampleOf(sample)))
  const lines = text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      if (line.startsWith('#')) return line.replace(/^(# (?:HELP|TYPE) \w+?)_total /, '$1 ')
      const example = examples.get(line.slice(0, line.lastIndexOf(' ')))
      return example === undefined ? line : line + example
    })
  return `${[...lines, '# EOF'].join('\n')}\n`
}

/** Does the caller prefer it? Prometheus names it first where it wants examples. */
export function wantsOpenMetrics(accept: string): boolean {
  return /^\s*application\/openmetrics-text\b/.test(accept)
}

/** By the beginning of its line. */
function exampleOf({ metricName = '', labels, example }: Sample): [line: string, end: string][] {
  if (!example || example.id.length > maxIdLength) return []
  const named = Object.entries(labels).map(([name, value]) => `${name}="${value}"`)
  return [[`${metricName}{${named.join(',')}}`, ` # {request_id=${JSON.stringify(example.id)}} ${example.value}`]]
}

/** What must happen now and then in a long run: what never happens is not tested, however many seeds there were. */
import { type Code, codes } from '../../src/errors.ts'
import { failureClasses } from '../../src/failures.ts'
import { labelLists } from '../../src/telemetry/labels.ts'

/** From so many requests on a run is long. */
export const LONG_RUN = 200_000

const notHere: ReadonlySet<Code> = new Set<Code>([
  // A bug of the proxy: it breaks the run.
  'INTERNAL',
  // Decided where a socket is read, and of whom comes without a token: here callers have no sockets, and all have tokens.
  'REQUEST_INVALID',
  'ORIGIN_REFUSED',
])

const metrics = [
  { name: 'upstream_failures_total', label: 'class', values: failureClasses },
  { name: 'retries_refused_total', label: 'reason', values: labelLists.reason },
  { name: 'shared_flights_total', label: 'end', values: labelLists.end },
  { name: 'overloaded_total', label: 'reason', values: ['memory', 'places', 'queue'] },
] as const

export const wanted: readonly string[] = [
  ...codes.filter((code) => !notHere.has(code)),
  ...metrics.flatMap(({ name, values }) => values.map((value) => `${name} ${value}`)),
]

/** What a replica has counted at least once. */
export function reachedIn(text: string): string[] {
  return metrics.flatMap(({ name, label }) => {
    const own = new RegExp(`^scrapellm_proxy_${name}\\{(?:.*,)?${label}="([^"]+)".*\\} (?!0$)`, 'gm')
    return Array.from(text.matchAll(own), ([, value]) => `${name} ${value}`)
  })
}

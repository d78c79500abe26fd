/** Which requests an operator wants to see, by the query string: `show=failed` or `slow`, `client`, `scraper`. */
import type { Trail } from '../telemetry/trail.ts'

export interface RequestFilter {
  readonly show: 'all' | 'failed' | 'slow'
  readonly client: string | null
  readonly scraper: string | null
}

/** Answers usually take 5 to 30 s. */
export const SLOW_MS = 30_000

/** What is not known counts as not given. */
export function filterIn(params: URLSearchParams): RequestFilter {
  const show = params.get('show')
  return {
    show: show === 'failed' || show === 'slow' ? show : 'all',
    client: params.get('client') || null,
    scraper: params.get('scraper') || null,
  }
}

/** `now` is of the wall: a request under way is slow once it has waited for long. */
export function passes(filter: RequestFilter, now: number): (trail: Trail) => boolean {
  const { show, client, scraper } = filter
  return (trail) => {
    if (client !== null && trail.client !== client) return false
    if (scraper !== null && trail.scraper !== scraper) return false
    if (show === 'failed') return typeof trail.status === 'number' && trail.status >= 400
    return show === 'all' || (trail.durationMs ?? now - trail.at) >= SLOW_MS
  }
}

/**
 * Where a request may go: the vendor's three routes and seven scrapers, as a closed list. A path matches exactly or not at all
 * (case, trailing slash and all), so nothing a caller invents can become a label, a breaker or a cached answer.
 */
import { ProxyError } from '../errors.ts'
import type { Call } from '../model.ts'

/** The documented scrapers: docs/vendor-api.md, "Endpoints". */
export const scrapers = [
  'chatgpt',
  'perplexity',
  'grok',
  'copilot',
  'gemini',
  'google_ai_mode',
  'amazon_rufus',
] as const

/** What a call is labelled with that names no scraper. */
export const NO_SCRAPER = 'none'

export interface Endpoint {
  readonly kind: Call['endpoint']
  readonly scraper: string
  /** What goes upstream: HEAD never does. */
  readonly method: Call['method']
  readonly allow: readonly string[]
}

interface Route {
  readonly kind: Call['endpoint']
  readonly pattern: string
  readonly method: Call['method']
  readonly allow: readonly string[]
}

const answer: Route = { kind: 'answer', pattern: '/scrapers/{scraper}', method: 'GET', allow: ['GET', 'HEAD'] }
const submit: Route = { kind: 'submit', pattern: '/scrapers/{scraper}/jobs', method: 'POST', allow: ['POST'] }
const status: Route = { kind: 'status', pattern: '/jobs/{job_id}', method: 'GET', allow: ['GET'] }
const routes = [answer, submit, status]

const byPath: ReadonlyMap<string, Endpoint> = new Map(
  scrapers.flatMap((scraper) =>
    [answer, submit].map((route) => [route.pattern.replace('{scraper}', scraper), endpointOf(route, scraper)]),
  ),
)

// Async ids are UUIDs, those of sync answers look like `job_abc123`: both fit, nothing that has to be encoded does.
const JOB_PATH = /^\/jobs\/[A-Za-z0-9_-]{1,128}$/
const jobStatus = endpointOf(status, NO_SCRAPER)

const UNKNOWN =
  `No such endpoint. The routes are ${routes.map((route) => `${route.method} ${route.pattern}`).join(', ')}; ` +
  `the scrapers are ${scrapers.join(', ')}.`

/** Throws ENDPOINT_UNKNOWN, and METHOD_NOT_ALLOWED only for a path that exists. */
export function findEndpoint(path: string, method: string): Endpoint {
  const endpoint = byPath.get(path) ?? (JOB_PATH.test(path) ? jobStatus : null)
  if (!endpoint) throw new ProxyError('ENDPOINT_UNKNOWN', UNKNOWN)
  if (!endpoint.allow.includes(method)) {
    const allow = endpoint.allow.join(', ')
    throw new ProxyError('METHOD_NOT_ALLOWED', `This endpoint supports ${allow}.`, { allow })
  }
  return endpoint
}

function endpointOf({ kind, method, allow }: Route, scraper: string): Endpoint {
  return { kind, scraper, method, allow }
}

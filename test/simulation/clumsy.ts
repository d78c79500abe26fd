/** Requests that are wrong whatever happens around them, and the refusal that each must get, but for that of a proxy that ends. */
import type { Code } from '../../src/errors.ts'
import type { ProxyRequest } from '../../src/model.ts'
import { NARROW } from './plan.ts'

interface Mistake {
  readonly code: Code
  readonly make: (request: ProxyRequest) => ProxyRequest
}

export const mistakes: readonly [Mistake, ...Mistake[]] = [
  { code: 'CLIENT_UNKNOWN', make: (request) => ({ ...request, token: 'nobody' }) },
  { code: 'CLIENT_UNKNOWN', make: (request) => ({ ...request, token: null }) },
  {
    code: 'SCRAPER_NOT_ALLOWED',
    make: (request) => ({ ...request, token: NARROW.token, target: { ...request.target, path: '/scrapers/copilot' } }),
  },
  {
    code: 'ENDPOINT_UNKNOWN',
    make: (request) => ({ ...request, target: { ...request.target, path: '/scrapers/nothing' } }),
  },
  { code: 'METHOD_NOT_ALLOWED', make: (request) => ({ ...request, method: 'HEAD' }) },
  {
    code: 'CACHE_MISS',
    make: (request) => ({ ...request, cacheDirectives: { ...request.cacheDirectives, onlyIfCached: true } }),
  },
]

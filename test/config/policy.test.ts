/** What holds for one client: its own word, else what was said for all, else the default. One row for each way to say it. */
import t from 'tap'
import { loadConfig } from '../../src/config/load.ts'
import { resolveClient } from '../../src/config/policy.ts'
import type { FailureClass } from '../../src/failures.ts'
import type { Client, ClassPolicy, RetryPolicy } from '../../src/model.ts'
import { retryDefaults } from '../support/verdicts.ts'

const minute = 60_000
const hour = 60 * minute

/** `all` and `own` are YAML in one line: what holds for all, and what the client says. */
function policyOf(own: string, all = '{}'): Omit<Client, 'name'> {
  const sources = [
    { name: 'all', text: all },
    { name: 'own', text: `clients: { other: { token: a-token-of-the-other-client }, anonymous: ${own} }` },
  ]
  const { config } = loadConfig(sources, [], { SCRAPELLM_API_KEY: 'upstream-key-of-the-tests' }, () => '')
  return resolveClient(config, 'anonymous')
}

const cacheDefaults = {
  ttl: 12 * hour,
  staleIfError: 12 * hour,
  staleWhileRevalidate: 0,
  emptyResultTtl: minute,
  scope: 'shared',
}

void t.test('A client that says nothing has what holds for all, and no limits', async (t) => {
  t.strictSame(policyOf('{}'), {
    rate: null,
    concurrency: null,
    weight: 1,
    priority: 'interactive',
    retry: retryDefaults,
    cache: cacheDefaults,
    credits: { perDay: null, perMonth: null, topUp: null },
    mayUseReserve: false,
    scrapers: null,
  })
})

void t.test('Limits are those of the client', async (t) => {
  t.match(
    policyOf('{ rate: { limit: 60, per: 1m, burst: 5 }, concurrency: 9, credits: { perDay: 0 }, scrapers: [b, a, b] }'),
    {
      rate: { limit: 60, per: minute, burst: 5 },
      concurrency: 9,
      credits: { perDay: 0, perMonth: null },
      scrapers: new Set(['a', 'b']),
    },
  )
})

void t.test('What a client says of the cache holds for it, and the rest is as for all', async (t) => {
  const rows: [own: string, all: string, expected: Partial<Client['cache']>][] = [
    ['ttl: 1h', '', { ttl: hour }],
    ['staleIfError: 0s', 'staleIfError: 1h', { staleIfError: 0 }],
    ['staleWhileRevalidate: 5m', 'ttl: 1h', { staleWhileRevalidate: 5 * minute, ttl: hour }],
    ['emptyResultTtl: 0s', '', { emptyResultTtl: 0 }],
    ['scope: client', 'scope: shared', { scope: 'client' }],
    ['scope: shared', 'scope: client', { scope: 'shared' }],
    ['', 'staleWhileRevalidate: 1h, scope: client', { staleWhileRevalidate: hour, scope: 'client' }],
  ]
  for (const [own, all, expected] of rows) {
    const { cache } = policyOf(`{ cache: { ${own} } }`, `cache: { ${all} }`)
    t.strictSame(cache, { ...cacheDefaults, ...expected }, `${own} over ${all}`)
  }
})

void t.test('What a client says of all failures', async (t) => {
  const rows: [own: string, all: string, expected: Partial<RetryPolicy>][] = [
    ['attempts: 1', '', { attempts: 1, deadline: 600_000 }],
    ['deadline: 30s', 'attempts: 7', { attempts: 7, deadline: 30_000 }],
    ['attempts: 6, deadline: 1m', 'attempts: 2, deadline: 2m', { attempts: 6, deadline: minute }],
  ]
  for (const [own, all, expected] of rows)
    t.match(policyOf(`{ retry: { ${own} } }`, `retry: { ${all} }`).retry, expected, `${own} over ${all}`)
})

void t.test('What a client says of a class of failure, and what it says of all, seen from one class', async (t) => {
  const rows: [of: FailureClass, own: string, all: string, expected: Partial<ClassPolicy>][] = [
    // A default of the class is not more than the client allows in all, and not less because it allows more.
    ['serverError', 'attempts: 6', '', { attempts: 6 }],
    ['timeout', 'attempts: 6', '', { attempts: 2 }],
    ['timeout', 'attempts: 1', '', { attempts: 1 }],
    // What was said of the class, by whomever, beats what was said of all.
    ['timeout', 'attempts: 6', 'classes: { timeout: { attempts: 3 } }', { attempts: 3 }],
    ['timeout', 'classes: { timeout: { attempts: 4 } }', 'classes: { timeout: { attempts: 3 } }', { attempts: 4 }],
    ['timeout', 'attempts: 5, classes: { timeout: { attempts: 4 } }', '', { attempts: 4 }],
    ['serverError', 'classes: { timeout: { attempts: 1 } }', '', { attempts: 4 }],
    // The same for pauses, each end by itself.
    ['serverError', 'backoff: { base: 2s }', '', { backoff: { base: 2_000, max: 30_000 } }],
    ['serverError', 'backoff: { max: 5s }', 'backoff: { base: 3s }', { backoff: { base: 3_000, max: 5_000 } }],
    ['rateLimited', 'backoff: { base: 2s }', '', { backoff: { base: 1_000, max: 30_000 } }],
    [
      'rateLimited',
      'classes: { rateLimited: { backoff: { base: 4s } } }',
      'classes: { rateLimited: { backoff: { max: 9s } } }',
      { backoff: { base: 4_000, max: 9_000 } },
    ],
    [
      'serverError',
      'backoff: { max: 5s }, classes: { serverError: { backoff: { base: 7s } } }',
      '',
      { backoff: { base: 7_000, max: 7_000 } },
    ],
    ['timeout', 'classes: { timeout: { bypassCache: false } }', '', { bypassCache: false }],
    ['serverError', 'classes: { serverError: { bypassCache: true } }', '', { bypassCache: true }],
    ['timeout', 'classes: { timeout: { attempts: 1 } }', '', { bypassCache: true }],
    // Keys are everybody's.
    ['unauthorized', 'attempts: 1', 'classes: { unauthorized: { keyRest: 1m } }', { keyRest: minute }],
  ]
  for (const [of, own, all, expected] of rows) {
    const policy = policyOf(`{ retry: { ${own} } }`, `retry: { ${all} }`)
    t.match(policy.retry.classes[of], expected, `${of}: ${own} over ${all}`)
  }
})

void t.test('Other clients have none of it', async (t) => {
  const text =
    'clients: { a: { token: a-token-of-enough-letters, retry: { attempts: 1 }, cache: { ttl: 1h } }, anonymous: {} }'
  const { config } = loadConfig([{ name: 'a', text }], [], { SCRAPELLM_API_KEY: 'upstream-key' }, () => '')
  t.equal(resolveClient(config, 'a').retry.attempts, 1)
  t.strictSame(resolveClient(config, 'anonymous').retry, retryDefaults)
  t.strictSame(resolveClient(config, 'anonymous').cache, cacheDefaults)
  t.throws(() => resolveClient(config, 'nobody'), RangeError)
})

void t.test('A client has a weight and a priority', async (t) => {
  t.match(policyOf('{ weight: 3, priority: batch }'), { weight: 3, priority: 'batch' })
})

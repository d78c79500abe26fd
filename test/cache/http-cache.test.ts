/**
 * The cases of the cache tests of http-tests (https://github.com/http-tests/cache-tests) that mean something here, in our own words and
 * with our own right values: one proxy, one clock, a question for each case. Their response `max-age` is our `cache.ttl`, by client.
 * Which cases are left out, and why, is a table in test/README.md, whose figures are counted here.
 */
import { readFileSync } from 'node:fs'
import t from 'tap'
import type { Step as UpstreamStep } from '../../src/simulator/step.ts'
import { type Answer, aProxy } from '../support/proxy.ts'

const SETTINGS = `
cache: { ttl: 1h, staleIfError: 0s }
retry: { attempts: 1 }
breaker: { window: 1000, minimum: 1000, consecutive: 1000 }
clients:
  hour: { token: token-of-hour-0123456789 }
  never: { token: token-of-never-0123456789, cache: { ttl: 0s } }
  brief: { token: token-of-brief-0123456789, cache: { ttl: 2s } }
  lenient: { token: token-of-lenient-0123456789, cache: { ttl: 2s, staleIfError: 1h } }
  background: { token: token-of-background-0123456789, cache: { ttl: 2s, staleWhileRevalidate: 4s } }
`

const ttls = { hour: 3600, never: 0, brief: 2, lenient: 2, background: 2 }

type Client = keyof typeof ttls

/** Upstream was asked; a kept answer was given that is fresh, or that has expired; neither. */
type Way = 'asked' | 'kept' | 'stale' | 'refused'

interface Step {
  /** Seconds that pass before. */
  readonly after?: number
  readonly send?: Record<string, string | string[]>
  readonly method?: string
  /** More parameters. */
  readonly query?: string
  /** What upstream does, if it is asked. */
  readonly upstream?: UpstreamStep
  readonly is: Way
  /** 200 when left out. */
  readonly status?: number
  readonly has?: Record<string, string | RegExp | undefined>
}

type Case =
  | readonly [id: string, ...steps: readonly Step[]]
  | readonly [id: string, client: Client, ...steps: readonly Step[]]

/** The first time a question is asked. */
const first: Step = { is: 'asked' }
/** Three seconds old: expired for those of two seconds. */
const later = 3
const kept: Step = { after: later, is: 'kept' }
const again: Step = { after: later, is: 'asked' }

/** Real time passes as well, on a busy machine even seconds. */
const aged = (seconds: number): RegExp => new RegExp(`^(?:${[0, 1, 2, 3].map((more) => seconds + more).join('|')})$`)

/** `{tag}` stands for the opaque tag of the first answer, with its quotes. */
const given = (name: string, value: string | string[], step: Step): Step => ({ ...step, send: { [name]: value } })
const control = (value: string | string[], step: Step): Step => given('cache-control', value, step)
const ifNone = (value: string, step: Step): Step => given('if-none-match', value, step)
const same: Step = { is: 'kept', status: 304, has: { etag: 'W/{tag}', 'content-type': undefined } }

/** Upstream's own caching headers decide nothing. */
const says = (headers: Record<string, string | string[]>): readonly Step[] => [
  { ...first, upstream: { kind: '200', headers } },
  kept,
]

const error = (status: number): readonly Step[] => [{ ...first, upstream: { kind: 'answer', status }, status }, again]

/** By group, as they name them. */
const groups: Readonly<Record<string, readonly Case[]>> = {
  'cc-freshness': [
    ['freshness-none', 'never', ...says({}).slice(0, 1), again],
    ['freshness-max-age', first, kept],
    ['freshness-max-age-stale', 'brief', first, again],
    ['freshness-max-age-0', 'never', ...says({ 'cache-control': 'max-age=3600' }).slice(0, 1), again],
    ['freshness-max-age-max-plus', first, control('max-age=99999999999', kept)],
    ['freshness-max-age-case-insenstive', first, control('MaX-aGe=1', again)],
    ['freshness-max-age-extension', first, control('foobar, max-age=1', again)],
    ['freshness-max-age-negative', first, control('max-age=-3600', kept)],
    ['freshness-max-age-age', ...says({ 'cache-control': 'max-age=3600', age: '7200' })],
    ['freshness-max-age-date', ...says({ 'cache-control': 'max-age=3600', date: 'Thu, 01 Jan 2026 00:00:00 GMT' })],
    ['freshness-max-age-0-expires', ...says({ 'cache-control': 'max-age=0' })],
    ['freshness-max-age-s-maxage-shared-longer', ...says({ 'cache-control': 'max-age=3600, s-maxage=1' })],
  ],
  // Of requests, the only ones that are read.
  'cc-parse': [
    ['freshness-max-age-two-fresh-stale-sameline', first, control('max-age=1800, max-age=1', kept)],
    ['freshness-max-age-two-fresh-stale-sepline', first, control(['max-age=1800', 'max-age=1'], kept)],
    ['freshness-max-age-two-stale-fresh-sameline', first, control('max-age=1, max-age=1800', again)],
    ['freshness-max-age-two-stale-fresh-sepline', first, control(['max-age=1', 'max-age=1800'], again)],
    ['freshness-max-age-quoted', first, control('max-age="1"', again)],
    ['freshness-max-age-ignore-quoted', first, control('x="a, max-age=1, no-cache, b", max-age=3600', kept)],
    ['freshness-max-age-ignore-quoted-rev', first, control('max-age=3600, x="a\\", no-cache, b"', kept)],
    ['freshness-max-age-space-before-equals', first, control('max-age =1', again)],
    ['freshness-max-age-space-after-equals', first, control('max-age= 1', again)],
    ['freshness-max-age-leading-zero', first, control('max-age=0001', again)],
    ['freshness-max-age-single-quoted', first, control("max-age='1'", kept)],
    ['freshness-max-age-decimal-zero', first, control('max-age=1.0', kept)],
    ['freshness-max-age-decimal-five', first, control('max-age=1.5', kept)],
    ['freshness-max-age-a100', first, control('max-age=a1', kept)],
    ['freshness-max-age-100a', first, control('max-age=1a', kept)],
  ],
  'age-parse': [
    ['age-parse-nonnumeric', ...says({ age: 'abc' })],
    ['age-parse-negative', ...says({ age: '-7200' })],
    ['age-parse-large', ...says({ age: '2147483648' })],
    ['age-parse-suffix-twoline', ...says({ age: ['7200', '0'] })],
  ],
  expires: [['freshness-expires-past', ...says({ expires: 'Thu, 01 Jan 2026 00:00:00 GMT' })]],
  'expires-parse': [['freshness-expires-invalid-multiple-lines', ...says({ expires: ['0', '0'] })]],
  'cc-response': [
    ['cc-resp-private-shared', ...says({ 'cache-control': 'private' })],
    ['cc-resp-no-store', ...says({ 'cache-control': 'no-store' })],
    ['cc-resp-no-cache', ...says({ 'cache-control': 'no-cache' })],
    ['cc-resp-must-revalidate-fresh', ...says({ 'cache-control': 'max-age=10000, must-revalidate' })],
  ],
  stale: [
    ['stale-close', 'brief', first, { ...again, upstream: 'reset-before-charge', status: 504 }],
    ['stale-503', 'brief', first, { ...again, upstream: '503', status: 503 }],
    ['stale-sie-close', 'lenient', first, { ...again, upstream: 'reset-before-charge', is: 'stale' }],
    ['stale-sie-503', 'lenient', first, { ...again, upstream: '503', is: 'stale' }],
    ['stale-while-revalidate', 'background', first, { after: later, is: 'stale' }],
    ['stale-while-revalidate-window', 'background', first, { after: 7, is: 'asked' }],
    ['stale-warning-become', 'lenient', first, { ...again, upstream: '503', is: 'stale', has: { warning: undefined } }],
  ],
  method: [['method-POST', { is: 'refused', method: 'POST', status: 405, has: { allow: 'GET, HEAD' } }, first]],
  status: [
    ...[400, 404, 410, 499, 500, 502, 503, 504, 599].map((status): Case => [
      `status-${status}-fresh`,
      ...error(status),
    ]),
    ['status-204-fresh', { ...first, upstream: { kind: 'answer', status: 204, body: '' }, status: 502 }, again],
    ['status-302-fresh', { ...first, upstream: 'redirect', status: 502 }, again],
  ],
  'cc-request': [
    ['ccreq-ma0', first, control('max-age=0', again)],
    ['ccreq-ma1', first, control('max-age=1', again)],
    ['ccreq-magreaterage', first, control('max-age=600', { ...again, after: 1800 })],
    ['ccreq-max-stale', 'lenient', first, control('max-stale=1000', { ...kept, is: 'stale' })],
    ['ccreq-max-stale-age', 'lenient', first, control('max-stale=1000', { ...again, after: 2000 })],
    ['ccreq-min-fresh', first, control('min-fresh=4000', again)],
    ['ccreq-min-fresh-age', first, control('min-fresh=1000', { ...again, after: 3000 })],
    ['ccreq-no-cache', first, control('no-cache', again), { is: 'kept', has: { age: aged(0) } }],
    ['ccreq-no-cache-lm', ...says({ 'last-modified': 'Thu, 01 Jan 2026 00:00:00 GMT' }), control('no-cache', again)],
    ['ccreq-no-cache-etag', ...says({ etag: '"abc"' }), control('no-cache', again)],
    [
      'ccreq-no-store',
      first,
      control('no-store', { ...again, has: { age: undefined } }),
      { is: 'kept', has: { age: aged(3) } },
    ],
    ['ccreq-oic', control('only-if-cached', { is: 'refused', status: 504 }), first, control('only-if-cached', kept)],
  ],
  pragma: [
    ['pragma-request-no-cache', first, given('pragma', 'no-cache', again)],
    ['pragma-request-extension', first, given('pragma', 'unrecognised-extension', kept)],
    ['pragma-response-no-cache', ...says({ pragma: 'no-cache' })],
  ],
  vary: [
    ['vary-match', ...says({ vary: 'foo' })],
    ['vary-no-match', says({ vary: 'foo' })[0] ?? first, given('foo', '2', kept)],
  ],
  'vary-parse': [['vary-syntax-star', ...says({ vary: '*' })]],
  // No answer has a Last-Modified, so there is nothing to compare with (RFC 9110 section 13.1.3).
  'conditional-lm': [
    ['conditional-lm-fresh', first, given('if-modified-since', 'Fri, 01 Jan 2100 00:00:00 GMT', kept)],
    ['conditional-lm-stale', 'brief', first, given('if-modified-since', 'Fri, 01 Jan 2100 00:00:00 GMT', again)],
    ['conditional-lm-fresh-rfc850', first, given('if-modified-since', 'Friday, 01-Jan-00 00:00:00 GMT', kept)],
  ],
  'conditional-inm': [
    ['conditional-etag-weak-respond', first, ifNone('W/{tag}', same)],
    ['conditional-etag-strong-respond', first, ifNone('{tag}', same)],
    [
      'conditional-304-etag',
      first,
      ifNone('W/{tag}', { ...same, after: later, has: { etag: 'W/{tag}', age: aged(3) } }),
    ],
    [
      'conditional-etag-precedence',
      first,
      { ...same, send: { 'if-none-match': '{tag}', 'if-modified-since': 'Thu, 01 Jan 1970 00:00:00 GMT' } },
    ],
    ['conditional-etag-strong-respond-obs-text', first, ifNone('"\u00fc", {tag}', same)],
    ['conditional-etag-quoted-respond-unquoted', first, ifNone('abcdef', kept)],
    ['conditional-etag-weak-respond-lowercase', first, ifNone('w/{tag}', kept)],
    ['conditional-etag-weak-respond-backslash', first, ifNone('W\\{tag}', kept)],
    ['conditional-etag-weak-respond-omit-slash', first, ifNone('W{tag}', kept)],
    ['conditional-etag-strong-respond-multiple-first', first, ifNone('{tag}, "1234", "5678"', same)],
    ['conditional-etag-strong-respond-multiple-second', first, ifNone('"1234", W/{tag}, "5678"', same)],
    ['conditional-etag-strong-respond-multiple-last', first, ifNone('"12,34", "5678",{tag}', same)],
    ['conditional-etag-strong-generate', 'brief', first, ifNone('{tag}', again)],
    ['conditional-etag-forward', ifNone('"abcdef"', first)],
    ['conditional-etag-forward-unquoted', ifNone('abcdef', first)],
  ],
  headers: [
    ['headers-omit-headers-listed-in-Connection', ...says({ connection: 'a', a: '1' })],
    [
      'headers-store-Test-Header',
      says({ 'test-header': '1' })[0] ?? first,
      { ...kept, has: { 'test-header': undefined, 'content-type': 'application/json' } },
    ],
  ],
  // HEAD never goes upstream.
  updateHEAD: [
    [
      'head-writethrough',
      'brief',
      first,
      { after: later, method: 'HEAD', is: 'refused', status: 405, has: { allow: 'GET' } },
    ],
    ['head-200-retain', first, { ...kept, method: 'HEAD', has: { age: aged(3), etag: 'W/{tag}' } }, kept],
    ['head-200-update', { is: 'refused', method: 'HEAD', status: 405 }, first],
  ],
  invalidation: [
    ['invalidate-POST-failed', first, { is: 'refused', method: 'POST', status: 405 }, kept],
    ['invalidate-DELETE-failed', first, { is: 'refused', method: 'DELETE', status: 405 }, kept],
  ],
  partial: [['partial-store-complete-reuse-partial', first, given('range', 'bytes=0-1', kept)]],
  other: [
    ['other-age-gen', first, { ...kept, has: { age: aged(3) } }],
    ['other-age-update-max-age', ...says({ age: '30' }), { after: 30, is: 'kept', has: { age: aged(33) } }],
    ['query-args-different', first, { is: 'asked', query: '&country=DE' }],
    ['query-args-same', { ...first, query: '&country=DE' }, { ...kept, query: '&country=de' }],
    ['other-fresh-content-disposition-attachment', ...says({ 'content-disposition': 'attachment' })],
    ['other-set-cookie', { ...first, upstream: 'set-cookie' }, { ...kept, has: { 'set-cookie': undefined } }],
    ['other-cookie', first, given('cookie', 'a=b', kept)],
  ],
}

void t.test('Every case has its right value', async (t) => {
  const { ask, clock, sim } = await aProxy(t, SETTINGS)

  async function run(id: string, client: Client, steps: readonly Step[]): Promise<void> {
    let tag = ''
    let age = 0
    for (const [at, step] of steps.entries()) {
      const { after = 0, method = 'GET', query = '', upstream, is, status = 200, has = {} } = step
      await sim.idle()
      clock.skip(after * 1000)
      age += after
      if (upstream) sim.script({ prompt: id }, [upstream])
      const before = sim.requests.length
      const headers = { 'x-api-key': `token-of-${client}-0123456789`, ...withTag(step.send, tag) }
      const answer = await ask(`/scrapers/chatgpt?prompt=${id}${query}`, { method, headers })
      const way = wayOf(answer, sim.requests.length > before)
      if (way === 'asked' && answer.headers.age !== undefined) age = 0
      const isKept = way === 'kept' || way === 'stale'
      const expected = { ...(isKept && freshness(answer, age, ttls[client])), ...withTag(has, tag) }
      const body = method === 'HEAD' || status === 304 ? /^$/ : String
      const { status: got, headers: had, text } = answer
      t.match({ way, got, had, text }, { way: is, got: status, had: expected, text: body }, `${id}, request ${at + 1}`)
      tag ||= String(answer.headers.etag).replace('W/', '')
    }
  }

  for (const [id, second, ...rest] of Object.values(groups).flat()) {
    if (typeof second === 'string') await run(id, second, rest)
    else await run(id, 'hour', [second, ...rest] as Step[])
  }
})

void t.test('The table in test/README.md counts them', async (t) => {
  const readme = readFileSync('test/README.md', 'utf8')
  const rows = [...readme.matchAll(/^\| `([\w-]+)` \| (\d+) \| (\d+) \|/gm)]
  const here = Object.entries(groups).map(([group, cases]) => [group, cases.length])
  t.same(
    rows.filter(([, , , count]) => count !== '0').map(([, group, , count]) => [group, Number(count)]),
    here,
  )
  const sum = (column: number): number => rows.reduce((total, row) => total + Number(row[column]), 0)
  t.match(readme, `| **all** | ${sum(2)} | ${sum(3)} |`)
})

/** What a cache downstream makes of it is what the proxy says itself: of `max-age`, less `Age` is left. */
function freshness({ headers }: Answer, age: number, ttl: number): Record<string, string | RegExp> {
  const left = ttl - Number(headers.age)
  return {
    age: aged(age),
    'cache-control': `private, max-age=${ttl}`,
    'cache-status': new RegExp(`; hit; ttl=${left};`),
  }
}

function wayOf({ headers }: Answer, wasAsked: boolean): Way {
  const cacheStatus = String(headers['cache-status'])
  if (cacheStatus.includes('; hit; ttl=-')) return 'stale'
  if (wasAsked) return 'asked'
  return cacheStatus.includes('; hit; ') ? 'kept' : 'refused'
}

function withTag<T>(headers: Record<string, T> = {}, tag: string): Record<string, T | string> {
  const filled = Object.entries(headers).map(([name, value]) => [
    name,
    typeof value === 'string' ? value.replace('{tag}', tag) : value,
  ])
  return Object.fromEntries(filled) as Record<string, T | string>
}

/** What is kept, for how long, for whom, and what a caller's wishes make of it. */
import { hash } from 'node:crypto'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { noDirectives } from '../../src/http/cache-directives.ts'
import { createLocalTier } from '../../src/cache/local-tier.ts'
import { createCache } from '../../src/cache/tiered.ts'
import type {
  Call,
  CachePolicy,
  Client,
  Entry,
  Lookup,
  Reply,
  StaleUse,
  Verdict,
  CacheDirectives,
} from '../../src/model.ts'
import type { TelemetryEvent } from '../../src/telemetry/events.ts'

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void
const HOUR = 3_600_000
const NOW = { unclaimed: false, ageMs: 0, isPassedOn: false }
const NO_WAIT = 0
const POLICY: CachePolicy = {
  ttl: HOUR,
  staleIfError: HOUR,
  staleWhileRevalidate: 0,
  emptyResultTtl: 60_000,
  scope: 'shared',
}
const CALL = {
  endpoint: 'answer',
  method: 'GET',
  scraper: 'chatgpt',
  path: '/',
  params: [],
  key: 'k1',
  bypass: false,
  timeoutMs: null,
  priceCredits: 3,
  promptHash: 'abc',
  country: 'US',
} as unknown as Call

function reply(body: string, status = 200): Reply {
  return { status, contentType: 'application/json', retryAfter: null, location: null, body: Buffer.from(body) }
}

function answered(body: string, keepable = true): Verdict {
  return { kind: 'answered', reply: reply(body), charge: { state: 'charged', credits: 3 }, health: 'up', keepable }
}

const EMPTY: Verdict = {
  kind: 'failed',
  class: 'emptyResult',
  fault: 'upstream',
  reply: reply('{"detail":"Scraper returned an empty result."}', 500),
  refusal: null,
  charge: { state: 'free', credits: 0 },
  health: 'neutral',
  retryAfterMs: null,
}

function aCache(maxBytes = 1_000_000, policies: readonly CachePolicy[] = [POLICY]) {
  const time = { at: 1_700_000_000_000 }
  const events: TelemetryEvent[] = []
  const emit = (event: TelemetryEvent) => void events.push(event)
  const local = createLocalTier({ maxBytes, onEvicted: () => emit({ kind: 'cache-evicted', tier: 'memory' }) })
  const clock = { now: () => time.at, wall: () => time.at, after: () => ({ cancel: () => undefined }) }
  const cache = createCache(
    { replay: (body) => Buffer.concat([body, Buffer.from('*')]), policies },
    { local, durable: null, shared: null },
    clock,
    emit,
  )
  return { cache, local, time, events }
}

function client(name: string, scope: 'shared' | 'client'): Client {
  return { name, cache: { ...POLICY, scope } } as Client
}

void t.test('an answer is fresh for its ttl, then good only instead of an error, then gone', async (t) => {
  const { cache, local, time } = aCache()
  cache.store('k1', CALL, answered('{"a":1}'), POLICY, NOW)
  const seen: [number, string][] = []
  for (const at of [0, HOUR - 1, HOUR, 2 * HOUR - 1, 2 * HOUR]) {
    time.at = 1_700_000_000_000 + at
    seen.push([at, (await cache.lookup('k1', CALL, noDirectives, POLICY, NO_WAIT)).kind])
  }
  t.same(seen, [
    [0, 'fresh'],
    [HOUR - 1, 'fresh'],
    [HOUR, 'stale'],
    [2 * HOUR - 1, 'stale'],
    [2 * HOUR, 'missing'],
  ])
  t.equal(local.count, 0, 'what is gone is dropped')
})

void t.test('freshness is judged by the policy of the client that asks, whoever paid', async (t) => {
  const brief: CachePolicy = { ...POLICY, ttl: 1_000, staleIfError: 0, emptyResultTtl: 0 }
  const long: CachePolicy = { ...POLICY, ttl: 10 * HOUR, staleIfError: 0, staleWhileRevalidate: 5 * HOUR }
  for (const payer of [brief, POLICY, long]) {
    const { cache, local, time } = aCache(1_000_000, [brief, POLICY, long])
    const startAt = time.at
    cache.store('k1', CALL, answered('{}'), payer, NOW)
    const seen: string[] = []
    for (const age of [999, 1_000, HOUR, 2 * HOUR, 10 * HOUR, 15 * HOUR]) {
      time.at = startAt + age
      const kinds = [brief, POLICY, long].map((policy) => {
        const found = cache.lookup('k1', CALL, noDirectives, policy, NO_WAIT) as Lookup
        return found.kind === 'stale' ? found.because : found.kind
      })
      seen.push(kinds.join(' '))
    }
    t.same(seen, [
      'fresh fresh fresh',
      'missing fresh fresh',
      'missing error fresh',
      'missing missing fresh',
      'missing missing revalidating',
      'missing missing missing',
    ])
    t.equal(local.count, 0, 'dropped when no client can use it any more')
  }
})

void t.test('a payer that keeps nothing pays for those that do, but not across scopes', async (t) => {
  const nothing: CachePolicy = { ...POLICY, ttl: 0, staleIfError: 0, emptyResultTtl: 0 }
  const { cache } = aCache(1_000_000, [nothing, POLICY])
  t.ok(cache.store('k1', CALL, answered('{}'), nothing, NOW))
  t.equal((cache.lookup('k1', CALL, noDirectives, POLICY, NO_WAIT) as Lookup).kind, 'fresh')
  t.equal((cache.lookup('k1', CALL, noDirectives, nothing, NO_WAIT) as Lookup).kind, 'missing')
  t.equal(cache.store('a/k1', CALL, answered('{}'), { ...nothing, scope: 'client' }, NOW), null)
  const entry = cache.store('b/k1', CALL, answered('{}'), { ...POLICY, ttl: 1, staleIfError: 0, scope: 'client' }, NOW)
  t.equal(entry && entry.keptUntil - entry.storedAt, 1)
})

void t.test('stale-while-revalidate allows no stale answer instead of an error, and the other way round', async (t) => {
  const policy: CachePolicy = { ...POLICY, staleIfError: 1_000, staleWhileRevalidate: 2_000 }
  const { cache, time } = aCache(1_000_000, [policy])
  cache.store('k1', CALL, answered('{}'), policy, NOW)
  time.at += HOUR + 1_500
  t.match(cache.lookup('k1', CALL, noDirectives, policy, NO_WAIT), { because: 'revalidating' })
  t.match(cache.lookup('k1', CALL, noDirectives, { ...policy, staleWhileRevalidate: 500 }, NO_WAIT), {
    kind: 'missing',
  })
  t.match(
    cache.lookup('k1', CALL, noDirectives, { ...policy, staleIfError: 3_000, staleWhileRevalidate: 0 }, NO_WAIT),
    {
      because: 'error',
    },
  )
})

void t.test('an entry from the future is gone, and one from within clock jitter is new', async (t) => {
  const { cache, local, time } = aCache()
  cache.store('k1', CALL, answered('{}'), POLICY, NOW)
  time.at -= 5_000
  t.match(cache.lookup('k1', CALL, noDirectives, POLICY, NO_WAIT), { kind: 'fresh' })
  time.at -= 1
  t.match(cache.lookup('k1', CALL, noDirectives, POLICY, NO_WAIT), { kind: 'missing', bypassed: false })
  t.equal(local.count, 0)
  t.ok(cache.store('k1', CALL, EMPTY, POLICY, NOW), 'and hides nothing')
})

void t.test('what is kept is the replay, under one weak validator of the original', async (t) => {
  const { cache } = aCache()
  const entry = cache.store('k1', CALL, answered('{"a":1}'), POLICY, NOW)
  t.equal(entry?.body.toString(), '{"a":1}*')
  t.match(entry?.etag, /^W\/"[\w-]{27}"$/)
  t.equal(entry?.priceCredits, 3)
  t.equal(entry?.body.buffer.byteLength, entry?.body.length, 'not a window into a shared pool')
})

void t.test('one client never sees the answer of another when the scope is the client', async (t) => {
  const { cache } = aCache()
  t.equal(cache.keyOf(CALL, client('a', 'shared')), cache.keyOf(CALL, client('b', 'shared')))
  t.not(cache.keyOf(CALL, client('a', 'client')), cache.keyOf(CALL, client('b', 'client')))
  t.equal(cache.keyOf({ ...CALL, key: null }, client('a', 'client')), null)
})

void t.test('what may not be kept is not kept', async (t) => {
  const { cache, local } = aCache(1_000_000, [])
  const serverError: Verdict = { ...EMPTY, class: 'serverError' }
  t.equal(cache.store(null, CALL, answered('{}'), POLICY, NOW), null, 'no key')
  t.equal(cache.store('k1', CALL, answered('{}', false), POLICY, NOW), null, 'not keepable')
  t.equal(cache.store('k1', CALL, serverError, POLICY, NOW), null, 'an error')
  t.equal(cache.store('k1', CALL, answered('{}'), { ...POLICY, ttl: 0, staleIfError: 0 }, NOW), null, 'no ttl')
  t.equal(cache.store('k1', CALL, EMPTY, { ...POLICY, emptyResultTtl: 0 }, NOW), null, 'no memory for empty results')
  t.equal(local.count, 0)
})

void t.test('"empty result" is remembered briefly, and never hides a real answer', async (t) => {
  const { cache, time } = aCache()
  const entry = cache.store('k1', CALL, EMPTY, POLICY, NOW)
  t.match(entry, { status: 500, priceCredits: 0 })
  t.equal((await cache.lookup('k1', CALL, noDirectives, POLICY, NO_WAIT)).kind, 'fresh')
  time.at += 60_000
  t.equal((await cache.lookup('k1', CALL, noDirectives, POLICY, NO_WAIT)).kind, 'missing')
  cache.store('k1', CALL, answered('{"a":1}'), POLICY, NOW)
  time.at += HOUR
  t.equal(cache.store('k1', CALL, EMPTY, POLICY, NOW), null)
  t.match(await cache.lookup('k1', CALL, noDirectives, POLICY, NO_WAIT), { kind: 'stale', entry: { status: 200 } })
})

void t.test('request Cache-Control decides whether what is kept will do', async (t) => {
  const table: [string, Partial<CacheDirectives>, number, 'fresh' | 'missing' | StaleUse][] = [
    ['no-cache wants a fresh one', { noCache: true }, 0, 'missing'],
    ['no-store wants a fresh one', { noStore: true }, 0, 'missing'],
    ['no-store would rather have the error', { noStore: true }, HOUR, 'missing'],
    ['young enough', { maxAgeMs: 10_000 }, 10_000, 'fresh'],
    ['too old', { maxAgeMs: 10_000 }, 10_001, 'missing'],
    ['max-age=0 wants a fresh one', { maxAgeMs: 0 }, 1, 'missing'],
    ['fresh for long enough', { minFreshMs: 1_000 }, HOUR - 1_000, 'fresh'],
    ['not fresh for long enough', { minFreshMs: 1_000 }, HOUR - 999, 'missing'],
    ['not fresh any more, whatever min-fresh says', { minFreshMs: 0 }, HOUR, 'missing'],
    ['expired, but that is tolerated', { maxStaleMs: 5_000 }, HOUR + 5_000, 'max-stale'],
    ['expired for too long', { maxStaleMs: 5_000 }, HOUR + 5_001, 'error'],
    ['any staleness will do', { maxStaleMs: Number.POSITIVE_INFINITY }, 2 * HOUR - 1, 'max-stale'],
    ['even that ends when it is gone', { maxStaleMs: Number.POSITIVE_INFINITY }, 2 * HOUR, 'missing'],
  ]
  for (const [name, wish, age, expected] of table) {
    const { cache, time } = aCache()
    cache.store('k1', CALL, answered('{}'), POLICY, NOW)
    time.at += age
    const found = await cache.lookup('k1', CALL, { ...noDirectives, ...wish }, POLICY, NO_WAIT)
    t.equal(found.kind === 'stale' ? found.because : found.kind, expected, name)
  }
})

void t.test('bypass_cache reads nothing and says that something was there to be bypassed', async (t) => {
  const { cache } = aCache()
  cache.store('k1', CALL, answered('{}'), POLICY, NOW)
  t.same(await cache.lookup('k1', { ...CALL, bypass: true }, noDirectives, POLICY, NO_WAIT), {
    kind: 'missing',
    bypassed: true,
  })
  t.same(await cache.lookup(null, CALL, noDirectives, POLICY, NO_WAIT), { kind: 'missing', bypassed: false })
})

void t.test('the memory tier is bounded by bytes, evicts the least recently used, and says so', async (t) => {
  const { cache, local, events } = aCache(6_500)
  const body = 'x'.repeat(400)
  for (const key of ['a', 'b', 'c']) cache.store(key, CALL, answered(body), POLICY, NOW)
  await cache.lookup('a', CALL, noDirectives, POLICY, NO_WAIT)
  cache.store('d', CALL, answered(body), POLICY, NOW)
  t.ok(local.bytes <= 6_500)
  t.equal((await cache.lookup('a', CALL, noDirectives, POLICY, NO_WAIT)).kind, 'fresh', 'used just now')
  t.equal((await cache.lookup('b', CALL, noDirectives, POLICY, NO_WAIT)).kind, 'missing')
  t.equal(events.filter((event) => event.kind === 'cache-evicted').length, 1)
  t.same(
    ['a', 'b', 'c', 'd'].filter((key) => local.get(key)),
    ['a', 'c', 'd'],
  )
  local.delete('a')
  t.equal(local.count, 2)
})

void t.test('the answer of an old job does not take the place of one that was paid for since', async (t) => {
  const { cache, time } = aCache()
  cache.store('k1', CALL, answered('newer'), POLICY, NOW)
  time.at += 1_000
  t.equal(cache.store('k1', CALL, answered('older'), POLICY, { ...NOW, ageMs: 60_000 }), null)
  t.match(await cache.lookup('k1', CALL, noDirectives, POLICY, NO_WAIT), {
    kind: 'fresh',
    entry: { body: Buffer.from('newer*') },
  })
  t.ok(cache.store('k1', CALL, answered('newest'), POLICY, { ...NOW, ageMs: 500 }), 'a newer job does')
})

void t.test(
  'an entry takes no more than 680 bytes of heap beside its body, and more than that is counted',
  async (t) => {
    const { cache, local } = aCache(1_000_000_000)
    const collect = (): number => {
      gc()
      return process.memoryUsage().heapUsed
    }
    const store = (number: number): void => {
      const key = hash('sha256', String(number))
      cache.store(key, { ...CALL, promptHash: key.slice(0, 12) }, answered('x'.repeat(500)), POLICY, NOW)
    }
    store(-1)
    const [before, count] = [collect(), 5_000]
    for (let number = 0; number < count; number += 1) store(number)
    const bytes = (collect() - before) / count
    t.ok(bytes < 680, `${Math.round(bytes)} B`)
    t.ok(local.bytes / local.count > 500 + 2 * bytes, 'with what is not collected yet')
  },
)

void t.test('The memory can be made smaller and larger: the least recently used go, the others stay', async (t) => {
  let evicted = 0
  const local = createLocalTier({ maxBytes: 12_000, onEvicted: () => void (evicted += 1) })
  const entry = { body: Buffer.alloc(1_000), storedAt: 1 } as Entry
  for (const key of ['a', 'b', 'c', 'd']) local.set(key, entry)
  local.get('a')
  local.resize(12_000)
  t.equal(local.count, 4)
  local.resize(2 * 2_851)
  t.strictSame([local.get('d')?.storedAt, local.get('a')?.storedAt, local.get('b')], [1, 1, undefined])
  t.equal(evicted, 2)
  local.resize(20_000)
  t.equal(local.count, 2)
  t.equal(local.bytes, 2 * 2_851)
  for (const key of ['e', 'f', 'g', 'h', 'i']) local.set(key, entry)
  t.equal(local.count, 7)
  local.set('a', { ...entry, body: Buffer.alloc(30_000) })
  t.strictSame([local.count, local.get('a')], [6, undefined], "an answer without room takes nobody else's")
})

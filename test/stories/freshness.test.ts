/** How fresh an answer is for the client that asks: by its own settings, whoever paid, and whatever the clocks of others say. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { aProxy, type Answer } from '../support/proxy.ts'
import { type RedisProcess, startRedis, until } from '../support/redis.ts'

const HOUR = 3_600_000

const CLIENTS = `
cache: { ttl: 12h, staleIfError: 0s }
clients:
  payer: { token: payer-token-0123456789 }
  brief: { token: brief-token-0123456789, cache: { ttl: 1s } }
  long: { token: long-token-0123456789, cache: { ttl: 24h } }
  lenient: { token: lenient-token-0123456789, cache: { ttl: 1s, staleIfError: 13h } }
`

function as(client: string, more: Record<string, string> = {}): { headers: Record<string, string> } {
  return { headers: { 'x-api-key': `${client}-token-0123456789`, ...more } }
}

function cacheOf({ headers }: Answer): string {
  return String(headers['cache-status']).replace('scrapellm-proxy; ', '')
}

/** No time has passed for Redis, where a call that ended a moment ago still answers the same question. */
async function forgetFlights(redis: RedisProcess): Promise<void> {
  const names = await redis.ask('KEYS', 'slp:flight-2:*')
  for (const [name] of names.matchAll(/slp:flight-2:\S+/g)) await redis.ask('DEL', name)
}

for (const tier of ['memory', 'disk', 'redis'] as const) {
  void t.test(`the ttl of the client that asks counts, not that of the payer (${tier})`, async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'slp-fresh-'))
    t.teardown(() => rmSync(folder, { recursive: true, force: true }))
    const path = join(folder, 'cache.db')
    const redis = tier === 'redis' ? await startRedis(t) : null
    const store = {
      memory: '',
      disk: `cache: { disk: { path: "${path}" } }`,
      redis: `redis: { url: "${redis?.url}", timeout: 5s }`,
    }[tier]
    const settings = store.startsWith('cache')
      ? CLIENTS.replace('cache: {', `cache: { disk: { path: "${path}" },`)
      : `${CLIENTS}\n${store}`
    const { ask, clock, sim, lines } = await aProxy(t, settings)
    if (redis) await until(() => lines().some(({ msg }) => msg === 'redis is up'))

    await ask('q', as('payer'))
    t.match((await ask('q', as('brief'))).headers, { 'cache-control': 'private, max-age=1' }, 'fresh at first')
    clock.skip(2_000)
    if (redis) await forgetFlights(redis)
    t.match(cacheOf(await ask('q', as('payer'))), /^hit; ttl=4319\d; /)
    t.match((await ask('q', as('long'))).headers, { 'cache-control': 'private, max-age=86400' })
    t.equal(sim.requests.length, 1)
    t.match(cacheOf(await ask('q', as('brief'))), /^fwd=miss; /, 'it does not get what it calls gone')
    t.equal(sim.requests.length, 2)

    clock.skip(12 * HOUR)
    if (redis) await forgetFlights(redis)
    t.match(cacheOf(await ask('q', as('long'))), /^hit; ttl=43\d+; /, 'what a client of one second paid for')
    sim.script(
      { prompt: 'q' },
      Array.from({ length: 20 }, () => '503' as const),
    )
    t.equal((await ask('q', as('payer'))).status, 503)
    t.match(cacheOf(await ask('q', as('lenient'))), /^hit; ttl=-43\d+; detail=stale-if-error$/)
  })
}

void t.test(
  'a shorter ttl holds at once for what is kept already, and so does a longer one while it is kept',
  async (t) => {
    const { ask, clock, write, app, sim } = await aProxy(t, 'cache: { ttl: 1h, staleIfError: 2h }')
    await ask('q')
    clock.skip(HOUR / 2)
    write('cache: { ttl: 10m, staleIfError: 0s }')
    t.match(app.reload('test'), { result: 'applied' })
    t.match(cacheOf(await ask('q', { headers: { 'cache-control': 'only-if-cached' } })), /CACHE_MISS/)
    write('cache: { ttl: 2h, staleIfError: 0s }')
    t.match(app.reload('test'), { result: 'applied' })
    t.match(cacheOf(await ask('q')), /^hit; ttl=5\d\d\d; /)
    t.equal(sim.requests.length, 1)
  },
)

void t.test('a replica whose clock is two hours ahead does not extend the ttl of an answer', async (t) => {
  const redis = await startRedis(t)
  const settings = `redis: { url: "${redis.url}", timeout: 5s }\ncache: { ttl: 1h, staleIfError: 0s }`
  const ahead = await aProxy(t, settings, { aheadMs: 2 * HOUR })
  const right = await aProxy(t, settings)
  for (const { lines } of [ahead, right]) await until(() => lines().some(({ msg }) => msg === 'redis is up'))
  await ahead.ask('q')
  const [key = ''] = [...(await redis.ask('KEYS', 'slp:c*')).matchAll(/slp:c[A-Z]:\{[\da-f]+\}/g)].map(([name]) => name)
  t.match(cacheOf(await right.ask('q')), /^hit; ttl=3[56]\d\d; detail=redis$/)

  /** Half an hour passes, in Redis as well. */
  const halfAnHour = async (): Promise<void> => {
    const left = Number((await redis.ask('PTTL', key)).slice(1))
    await redis.ask('PEXPIRE', key, String(left - HOUR / 2))
    right.clock.skip(HOUR / 2)
  }
  await halfAnHour()
  t.match(cacheOf(await right.ask('q')), /^hit; ttl=1[78]\d\d; detail=redis$/)
  await halfAnHour()
  await forgetFlights(redis)
  t.match(cacheOf(await right.ask('q')), /^fwd=miss/)
  t.match(cacheOf(await right.ask('q')), /^hit; ttl=3[56]\d\d; /, 'and what is paid for then is kept')
})

void t.test('an answer stored with a clock a year ahead is not used once the clock is right', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'slp-fresh-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const settings = `cache: { disk: { path: "${join(folder, 'cache.db')}" } }`
  const wrong = await aProxy(t, settings, { aheadMs: 365 * 24 * HOUR })
  await wrong.ask('q')
  await wrong.app.close()
  const right = await aProxy(t, settings)
  t.match(cacheOf(await right.ask('q')), /^fwd=miss; fwd-status=200; stored$/)
  t.match(cacheOf(await right.ask('q')), /^hit; ttl=43\d+; /)
})

void t.test('an answer returned for max-stale says how stale it is, and counts as stale', async (t) => {
  const { ask, clock, sim, metric } = await aProxy(t, 'cache: { ttl: 20s, staleIfError: 1h }')
  await ask('q')
  clock.skip(15_000)
  const aged = await ask('q')
  t.match(aged.headers, { age: '15', 'cache-control': 'private, max-age=20' }, 'max-age is the whole lifetime')
  clock.skip(15_000)
  const stale = await ask('q', { headers: { 'cache-control': 'max-stale=60, only-if-cached' } })
  t.match(stale, { status: 200, headers: { age: '30', 'cache-control': 'private, max-age=20' } })
  t.match(cacheOf(stale), /^hit; ttl=-10; detail=max-stale$/)
  t.match(cacheOf(await ask('q', { headers: { 'cache-control': 'max-stale=5' } })), /^fwd=stale; /)
  t.equal(sim.requests.length, 2)
  const counted = await metric('requests_total')
  t.match(counted, { 'client="anonymous",scraper="chatgpt",status="200",cache="stale"': 1 })
})

void t.test('no-store gets a fresh answer that is neither cached nor shared', async (t) => {
  const { ask, sim } = await aProxy(t)
  await ask('q')
  const noStore = { headers: { 'cache-control': 'no-store' } }
  const fresh = await ask('q', noStore)
  t.equal(cacheOf(fresh), 'fwd=request; fwd-status=200')
  t.match(fresh.headers, { 'cache-control': 'no-store', 'x-proxy-credits': '3' })
  t.equal(fresh.json['cached'], false)
  const kept = await ask('q')
  t.match(cacheOf(kept), /^hit/)
  t.not(kept.json['result'], fresh.json['result'], 'the kept answer stays')

  sim.script({ prompt: 'live' }, ['hold', 'hold', 'hold'])
  const first = ask('live', noStore)
  await sim.received(1, { prompt: 'live' })
  const second = ask('live', noStore)
  await sim.received(2, { prompt: 'live' })
  const third = ask('live')
  await sim.received(3, { prompt: 'live' })
  sim.release()
  const answers = await Promise.all([first, second, third])
  t.same(
    answers.map((answer) => answer.headers['x-proxy-credits']),
    ['3', '3', '3'],
  )
})

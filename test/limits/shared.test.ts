/** Rates and permits that several replicas grant together, on a real Redis, and what each may grant without it. */
import t, { type Test } from 'tap'
import { ProxyError } from '../../src/errors.ts'
import { createSharedAdmission } from '../../src/limits/shared-admission.ts'
import { createSharedConcurrencyLimits } from '../../src/limits/shared-concurrency.ts'
import { createSharedRateLimits } from '../../src/limits/shared-rate.ts'
import { shareOf } from '../../src/limits/shares.ts'
import type { Call, Client, LimitState } from '../../src/model.ts'
import type { Place } from '../../src/fetch-parts.ts'
import type { Shared, SharedStore } from '../../src/ports.ts'
import { createClock } from '../../src/world/clock.ts'
import { createRandom } from '../../src/world/random.ts'
import { createRedis } from '../../src/world/redis.ts'
import { type RedisProcess, startRedis, until } from '../support/redis.ts'
import { aSession } from '../support/session.ts'
import { aClient } from '../support/verdicts.ts'
import { fakeClock } from '../support/world.ts'

async function openStore(t: Test, url: string, timeoutMs = 5_000): Promise<SharedStore> {
  const place = { kind: 'single', url } as const
  const access = { place, username: null, password: null, database: 0, timeoutMs, prefix: 't:' }
  const store = createRedis(access, createClock(), createRandom(), () => {})
  t.teardown(() => store.close())
  await until(() => store.state === 'up')
  return store
}

/** Answers what it is told to, and remembers nothing. */
function scripted(reply: () => Shared<unknown>): SharedStore {
  const away = async () => ({ kind: 'away', sent: false }) as const
  return {
    get: away,
    set: away,
    delete: away,
    publish: away,
    run: async () => reply(),
    channelName: (channel) => channel,
    subscribe: () => ({ close() {} }),
    trouble: null,
    trust: () => false,
    state: 'up',
    onState: () => () => {},
    close() {},
  }
}

async function refusalOf(work: () => unknown): Promise<ProxyError> {
  try {
    await work()
  } catch (error) {
    if (error instanceof ProxyError) return error
    throw error
  }
  throw new Error('Nothing was refused.')
}

async function grants(count: number, ask: () => unknown): Promise<number> {
  const asked = await Promise.allSettled(Array.from({ length: count }, async () => ask()))
  for (const one of asked) if (one.status === 'rejected' && !(one.reason instanceof ProxyError)) throw one.reason
  return asked.filter(({ status }) => status === 'fulfilled').length
}

function redisMs(reply: string): number {
  const [seconds = 0, micros = 0] = [...reply.matchAll(/\n(\d+)\r/g)].map(([, digits]) => Number(digits)).slice(-2)
  return seconds * 1_000 + micros / 1_000
}

async function timeOf(redis: RedisProcess): Promise<number> {
  return redisMs(await redis.ask('TIME'))
}

// Rates

function rated(limit: number, per: number, burst: number, name = 'team'): Client {
  return aClient({ name, rate: { limit, per, burst } })
}

void t.test('A burst is shared by all replicas, and said as one replica would say it', async (t) => {
  const redis = await startRedis(t)
  const limits = await Promise.all(
    Array.from({ length: 3 }, async () =>
      createSharedRateLimits({
        store: await openStore(t, redis.url),
        clock: fakeClock(),
        session: aSession('one', new Set(), 3),
      }),
    ),
  )
  // One request in a quarter of an hour: none comes back while this test runs.
  const client = rated(96, 86_400_000, 20)
  const [first] = limits
  const state = (await first?.admit(client)) as LimitState
  t.strictSame(state, { policy: '"requests";q=96;w=86400', remaining: 19, resetMs: 900_000 })
  let granted = 1
  for (const one of limits) granted += await grants(20, () => one.admit(client))
  t.equal(granted, 20)
  const refusal = await refusalOf(() => first?.admit(client))
  t.match(refusal, { code: 'RATE_LIMITED', status: 429 })
  t.ok((refusal.retryAfterMs ?? 0) > 800_000 && (refusal.retryAfterMs ?? 0) <= 900_000)
  t.match(await first?.admit(rated(96, 86_400_000, 20, 'other {team}')), { remaining: 19 }, 'each client for itself')
  t.equal(first?.admit(aClient()), null, 'no limit, no asking')

  const ttl = Number(/:(\d+)/.exec(await redis.ask('PTTL', 't:limits:{team}:rate'))?.[1])
  t.ok(ttl > 17_000_000 && ttl <= 18_000_000, 'it is forgotten when the bucket is full again')
  t.match(await first?.admit(rated(96, 86_400_000, 30)), { remaining: 9 }, 'a higher burst holds at once')
  t.ok(
    ((await refusalOf(() => first?.admit(rated(86_400_000, 86_400_000, 1)))).retryAfterMs ?? 0) <= 1,
    'and a lower one',
  )
})

void t.test('L4: in any window at most burst + window / interval, whoever is asked', async (t) => {
  const redis = await startRedis(t)
  const limits = await Promise.all(
    Array.from({ length: 4 }, async () =>
      createSharedRateLimits({
        store: await openStore(t, redis.url),
        clock: fakeClock(),
        session: aSession('one', new Set(), 4),
      }),
    ),
  )
  for (const { limit, per, burst } of [
    { limit: 1_000, per: 1_000, burst: 50 },
    { limit: 7, per: 100, burst: 1 },
    { limit: 3, per: 1_000, burst: 10 },
  ]) {
    const client = rated(limit, per, burst, `team-${limit}`)
    const from = await timeOf(redis)
    let granted = 0
    let lastWindow = 0
    for (let turn = 0; turn < 40; turn += 1) {
      const all = await Promise.all(limits.map((one) => grants(5, () => one.admit(client))))
      granted += all.reduce((sum, count) => sum + count, 0)
      lastWindow = (await timeOf(redis)) - from
      t.ok(granted <= burst + (lastWindow * limit) / per, `${granted} in ${lastWindow} ms`)
    }
    t.ok(granted >= Math.min(800, burst), 'and the burst is granted')
    const { retryAfterMs } = await refusalOf(async () => {
      for (;;) await limits[0]?.admit(client)
    })
    const until0 = (await timeOf(redis)) + (retryAfterMs ?? 0)
    await until(async () => (await timeOf(redis)) >= until0)
    t.ok(await limits[1]?.admit(client), 'who waits as long as told is let in')
  }
})

void t.test(
  'Redis away: each replica grants its share of the rate, and the client is told its own policy',
  async (t) => {
    const clock = fakeClock()
    const limits = createSharedRateLimits({
      store: scripted(() => ({ kind: 'away', sent: true })),
      clock,
      session: aSession('one', new Set(), 3),
    })
    const client = rated(60, 60_000, 20)
    t.strictSame(await limits.admit(client), { policy: '"requests";q=60;w=60', remaining: 5, resetMs: 3_000 })
    t.equal(await grants(50, () => limits.admit(client)), 5, 'a third of the burst')
    t.equal((await refusalOf(() => limits.admit(client))).retryAfterMs, 3_000)
    await clock.advance(60_000)
    t.equal(await grants(50, () => limits.admit(client)), 6)
    t.equal(await grants(9, () => limits.admit(rated(1, 60_000, 1, 'one'))), 1, 'but never nothing')
    t.equal(shareOf(2, 3), 1)

    const garbled = createSharedRateLimits({
      store: scripted(() => ({ kind: 'known', value: ['x', 'y'] })),
      clock,
      session: aSession('one', new Set(), 1),
    })
    t.match(await garbled.admit(client), { remaining: 19 }, 'a reply that makes no sense is none')
  },
)

void t.test('Redis stopped and back: one wait at most, then a share, then all together again', async (t) => {
  const redis = await startRedis(t)
  const store = await openStore(t, redis.url, 200)
  const limits = createSharedRateLimits({ store, clock: fakeClock(), session: aSession('one', new Set(), 2) })
  const client = rated(96, 86_400_000, 20)
  t.equal(await grants(50, () => limits.admit(client)), 20)
  redis.pause()
  t.equal(await grants(50, () => limits.admit(client)), 10)
  t.equal(store.state, 'down')
  redis.resume()
  await until(() => store.state === 'up')
  t.match(await refusalOf(() => limits.admit(client)), { code: 'RATE_LIMITED' })
})

// Permits

function crowded(concurrency: number | null, name = 'team'): Client {
  return aClient({ name, concurrency })
}

async function permitsOf(t: Test, url: string, gone: Set<string>, id: string, timeoutMs?: number) {
  const store = await openStore(t, url, timeoutMs)
  const session = aSession(id, gone, 2)
  const clock = fakeClock()
  const limits = createSharedConcurrencyLimits({ store, session, clock })
  t.teardown(() => limits.close())
  return { store, session, clock, limits }
}

const KEY = 't:limits:{team}:permits'

async function inRedis(redis: RedisProcess, id: string): Promise<string | undefined> {
  return /\n(\d+)\r/.exec(await redis.ask('HGET', KEY, id))?.[1]
}

void t.test('Permits are those of all replicas; one that is left is free for everybody', async (t) => {
  const redis = await startRedis(t)
  const gone = new Set<string>()
  const one = await permitsOf(t, redis.url, gone, 'one')
  const two = await permitsOf(t, redis.url, gone, 'two')
  const client = crowded(3)
  const permits: Place[] = []
  permits.push(await one.limits.enter(client), await two.limits.enter(client), await one.limits.enter(client))
  t.match(await refusalOf(() => two.limits.enter(client)), {
    code: 'CONCURRENCY_LIMITED',
    status: 429,
    retryAfterMs: 1_000,
  })
  t.equal(one.limits.open('team'), 2)
  permits[0]?.leave()
  permits[0]?.leave()
  t.equal(one.limits.open('team'), 1)
  await until(async () => (await inRedis(redis, 'one')) === '1')
  const permit = await two.limits.enter(client)
  t.equal(await grants(10, () => one.limits.enter(client)), 0)
  permit.leave()

  const free = two.limits.enter(crowded(null, 'free')) as Place
  t.equal(two.limits.open('free'), 1, 'without a limit nobody is asked')
  t.match(await redis.ask('EXISTS', 't:limits:{free}:permits'), ':0')
  free.leave()
  t.equal(two.limits.open('free'), 0)
  t.equal(two.limits.open('nobody'), 0)
})

void t.test('C: 400 askers on 4 replicas never are more than the limit', async (t) => {
  const redis = await startRedis(t)
  const replicas = await Promise.all(
    Array.from({ length: 4 }, (_, index) => permitsOf(t, redis.url, new Set(), `replica-${index}`)),
  )
  const client = crowded(10)
  let open = 0
  let most = 0
  let served = 0
  await Promise.all(
    Array.from({ length: 400 }, async (_, waiter) => {
      try {
        const permit = await replicas[waiter % 4]?.limits.enter(client)
        open += 1
        most = Math.max(most, open)
        await new Promise(setImmediate)
        open -= 1
        served += 1
        permit?.leave()
      } catch (error) {
        if (!(error instanceof ProxyError)) throw error
      }
    }),
  )
  t.ok(most <= 10 && served >= 10, `${most} at a time, ${served} in all`)
  await until(async () => (await redis.ask('EXISTS', KEY)) === ':0\r\n')
})

void t.test('Two askers at once who are both refused leave no permit behind', async (t) => {
  const redis = await startRedis(t)
  const one = await permitsOf(t, redis.url, new Set(), 'one')
  const two = await permitsOf(t, redis.url, new Set(), 'two')
  const client = crowded(1)
  const permit = await one.limits.enter(client)
  t.equal(await grants(2, () => two.limits.enter(client)), 0)
  // Behind whatever was told of the refusals.
  await two.store.get('barrier')
  await until(async () => (await inRedis(redis, 'two')) === undefined)
  permit.leave()
  await until(async () => (await inRedis(redis, 'one')) === undefined)
  t.equal(await grants(1, () => one.limits.enter(client)), 1)
})

// Permits that come along with the rate

const call = { scraper: 'alpha', endpoint: 'answer' } as Call

async function admissionOf(t: Test, url: string, id: string) {
  const { store, session, clock, limits } = await permitsOf(t, url, new Set(), id)
  const scripts: string[] = []
  const counted: SharedStore = { ...store, run: (...asked) => (scripts.push(asked[1].join(' ')), store.run(...asked)) }
  const concurrency = createSharedConcurrencyLimits({ store: counted, session, clock })
  t.teardown(() => concurrency.close())
  const rates = createSharedRateLimits({ store: counted, clock, session })
  return { clock, scripts, limits, admission: createSharedAdmission({ rates, concurrency }) }
}

function admitted(concurrency: number): Client {
  return aClient({ name: 'team', concurrency, rate: { limit: 1_000_000, per: 1_000, burst: 1_000_000 } })
}

void t.test(
  'Far from the limit a permit takes no command of its own, and is told to be free within a second',
  async (t) => {
    const redis = await startRedis(t)
    const { admission, scripts, clock } = await admissionOf(t, redis.url, 'one')
    const client = admitted(20)
    const permits: Place[] = []
    for (let n = 0; n < 3; n += 1) {
      await admission.admit(client, call)
      permits.push(await admission.enter(client))
    }
    t.strictSame(scripts, Array(3).fill('limits:{team}:rate limits:{team}:permits'))
    t.equal(await inRedis(redis, 'one'), '3')
    for (const permit of permits) permit.leave()
    await admission.admit(client, call)
    t.equal(await inRedis(redis, 'one'), '1', 'the next request says it, and is counted, whether it is a hit or not')
    await clock.advance(1_000)
    await until(async () => (await redis.ask('EXISTS', KEY)) === ':0\r\n')
    t.equal(scripts.length, 5)

    const few = admitted(19)
    await admission.admit(few, call)
    t.match(await redis.ask('EXISTS', KEY), ':0', 'of a small limit none is taken that may not be needed')
  },
)

void t.test('Near the limit each permit is asked for, and one that is left is free at once', async (t) => {
  const redis = await startRedis(t)
  const [one, two] = [await admissionOf(t, redis.url, 'one'), await admissionOf(t, redis.url, 'two')]
  const client = admitted(20)
  const permits: Place[] = []
  for (let n = 0; n < 20; n += 1) {
    const { admission } = n % 2 === 0 ? one : two
    await admission.admit(client, call)
    permits.push(await admission.enter(client))
  }
  for (const { admission } of [one, two]) {
    await admission.admit(client, call)
    t.match(await refusalOf(() => admission.enter(client)), { code: 'CONCURRENCY_LIMITED' })
  }
  permits[0]?.leave()
  await until(async () => (await inRedis(redis, 'one')) === '9')
  await two.admission.admit(client, call)
  t.ok(await two.admission.enter(client))
})

void t.test('C: 400 askers whose permits come along with the rate never are more than the limit', async (t) => {
  const redis = await startRedis(t)
  const replicas = await Promise.all(Array.from({ length: 4 }, (_, index) => admissionOf(t, redis.url, `r${index}`)))
  const client = admitted(24)
  let [open, most, served] = [0, 0, 0]
  await Promise.all(
    Array.from({ length: 400 }, async (_, asker) => {
      const { admission } = replicas[asker % 4] as (typeof replicas)[0]
      for (let turn = 0; turn < 3; turn += 1) {
        await admission.admit(client, call)
        // Every third is a hit, and needs no permit.
        if ((asker + turn) % 3 === 0) continue
        try {
          const permit = await admission.enter(client)
          open += 1
          most = Math.max(most, open)
          for (let n = 0; n < 1 + (asker % 3); n += 1) await new Promise(setImmediate)
          open -= 1
          served += 1
          permit.leave()
        } catch (error) {
          if (!(error instanceof ProxyError)) throw error
        }
      }
    }),
  )
  t.ok(most <= 24 && served >= 24, `${most} at a time, ${served} in all`)
  for (const { clock } of replicas) await clock.advance(1_000)
  await until(async () => (await redis.ask('EXISTS', KEY)) === ':0\r\n')
})

void t.test('The permits of a replica that is gone come free when they stand in the way', async (t) => {
  const redis = await startRedis(t)
  const gone = new Set<string>()
  const dead = await permitsOf(t, redis.url, gone, 'dead')
  const living = await permitsOf(t, redis.url, gone, 'living')
  const client = crowded(2)
  await dead.limits.enter(client)
  const kept = await living.limits.enter(client)
  t.equal(await grants(5, () => living.limits.enter(client)), 0)
  dead.session.fade()
  t.equal(await grants(5, () => living.limits.enter(client)), 1)
  t.equal(await inRedis(redis, 'dead'), undefined)
  kept.leave()
  await until(async () => (await inRedis(redis, 'living')) === '1')
})

void t.test('Redis stopped: a share of the permits; back: those that are taken, no others', async (t) => {
  const redis = await startRedis(t)
  const { limits, store, session } = await permitsOf(t, redis.url, new Set(), 'one', 300)
  const client = crowded(6)
  const first = await limits.enter(client)
  redis.pause()
  t.equal(await grants(20, () => limits.enter(client)), 2, 'three are the share, one was taken before')
  first.leave()
  t.equal(await grants(20, () => limits.enter(client)), 1)
  redis.resume()
  await until(() => store.state === 'up')
  session.beats(false)
  await until(async () => (await inRedis(redis, 'one')) === '3')
  t.equal(await grants(20, () => limits.enter(client)), 3, 'what was asked in vain took no permit')

  await redis.kill()
  await until(() => store.state === 'down')
  await redis.restart()
  await until(() => store.state === 'up')
  session.beats(true)
  await until(async () => (await inRedis(redis, 'one')) === '6')
  t.equal(await grants(20, () => limits.enter(client)), 0)
})

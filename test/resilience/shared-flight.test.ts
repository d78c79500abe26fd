/**
 * Replicas on one real Redis, each with its own connections and its own two clocks: one for its flights, one for the time limits of
 * its store. Which of them are gone is said by the test, so nothing here waits for time to pass. S1 to S8 are the invariants of the
 * reliability notes.
 */
import { createSecretKey } from 'node:crypto'
import t, { type Test } from 'tap'
import { ProxyError } from '../../src/errors.ts'
import type { Entry, Landing, RetryPolicy } from '../../src/model.ts'
import type { Waiter, FlightLease, SharedFlights } from '../../src/flights.ts'
import type { SharedScript, SharedStore } from '../../src/ports.ts'
import { createFlights } from '../../src/resilience/coalesce.ts'
import {
  acquireScript as acquire,
  landScript as land,
  renewScript as renew,
} from '../../src/resilience/shared-flight-lease.ts'
import { createSigner, recordOf, readRecord, writeRecord } from '../../src/resilience/shared-flight-records.ts'
import { createSharedFlights, loneFlights, type SharedFlightPorts } from '../../src/resilience/shared-flight.ts'
import { createRedis } from '../../src/world/redis.ts'
import { type RedisProcess, startRedis, until } from '../support/redis.ts'
import { aSession, type FakeSession } from '../support/session.ts'
import { answered, failed, reply, retryDefaults } from '../support/verdicts.ts'
import { type FakeWorld, fakeWorld } from '../support/world.ts'

const hour = 3_600_000
const timeoutMs = 250
const signingKey = createSecretKey(Buffer.from('a signing key that all replicas have'))
const seal = createSigner(() => [signingKey])
const nobody: Waiter['onGone'] = () => () => {}

/** One question to upstream, answered when the test says so. */
interface Asked {
  readonly replica: string
  readonly lease: FlightLease
  /** The job to take up. */
  readonly job: string | null
  readonly answer: (text: string) => void
  readonly end: (landing: Landing) => void
  readonly break: (error: unknown) => void
}

interface Following {
  readonly landing: Promise<Landing>
  readonly isSettled: () => boolean
  /** The last asker of this replica hangs up. */
  readonly leave: () => void
}

interface Replica {
  readonly name: string
  readonly world: FakeWorld
  readonly storeWorld: FakeWorld
  readonly store: SharedStore
  readonly flights: SharedFlights
  readonly session: FakeSession
  /** How often a script was run. */
  readonly ran: (script: SharedScript) => number
  readonly ask: (
    key: string | null,
    options?: { agoMs?: number; hesitates?: Promise<unknown>; policy?: RetryPolicy },
  ) => Following
  readonly lead: (lease: FlightLease) => Promise<Landing>
  /** The store's background work goes on until the store is so. */
  readonly becomes: (state: 'up' | 'down') => Promise<void>
}

interface Cluster {
  readonly redis: RedisProcess
  readonly replicas: readonly Replica[]
  /** Questions that upstream got, in order. */
  readonly upstream: readonly Asked[]
  /** The n-th question to upstream, from 1. */
  readonly asked: (n: number) => Promise<Asked>
  /** Names of the keys that match. */
  readonly keys: (pattern: string) => Promise<string[]>
  readonly field: (name: string) => Promise<string>
  /** The lease of the one question has run out. */
  readonly expire: () => Promise<void>
  /** Nothing is left of what happened, once all is told. */
  readonly isQuiet: (t: Test) => Promise<void>
}

type Options = Partial<SharedFlightPorts> & {
  readonly wrap?: (store: SharedStore) => SharedStore
  /** Most tests are about a store that is away for longer. */
  readonly blinkMs?: number
}

/** As the shared tier does it: what has a greater fence stays. */
const keepScript: SharedScript = {
  numberOfKeys: 1,
  replies: 'text',
  lua: `
local old = redis.call('HGET', KEYS[1], 'fence')
if not old or ARGV[1] == '' or old <= ARGV[1] then redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'body', ARGV[2]) end
return 1`,
}
const readScript: SharedScript = {
  numberOfKeys: 1,
  replies: 'text',
  lua: `return redis.call('HGET', KEYS[1], 'body')`,
}

async function aCluster(t: Test, size: number, options: (name: string) => Options = () => ({})): Promise<Cluster> {
  const redis = await startRedis(t)
  const upstream: Asked[] = []
  const replicas: Replica[] = []
  const gone = new Set<string>()
  for (let number = 1; number <= size; number++) {
    const name = `r${number}`
    replicas.push(await aReplica(t, redis, aSession(name, gone), upstream, options(name)))
  }

  async function keys(pattern: string): Promise<string[]> {
    return textsOf(await redis.ask('KEYS', pattern))
  }

  async function theKey(pattern: string): Promise<string> {
    const [name = 'none', ...more] = await keys(pattern)
    if (more.length > 0) throw new Error('There is more than one.')
    return name
  }

  return {
    redis,
    replicas,
    upstream,
    keys,
    async asked(n) {
      await until(() => upstream.length >= n)
      return upstream[n - 1] as Asked
    },
    field: async (field) => textsOf(await redis.ask('HGET', await theKey('*:record'), field))[0] ?? '',
    expire: async () => void (await redis.ask('DEL', await theKey('*:lease'))),
    async isQuiet(t) {
      await Promise.all(replicas.map(({ flights }) => flights.idle()))
      t.strictSame(await keys('*:lease'), [], 'no lease is left')
      await until(async () => (await redis.ask('PUBSUB', 'CHANNELS')) === '*0\r\n')
      for (const { world, name } of replicas) t.equal(world.clock.timers, 0, `no timer is left at ${name}`)
    },
  }
}

async function aReplica(
  t: Test,
  redis: RedisProcess,
  session: FakeSession,
  upstream: Asked[],
  { wrap = (store) => store, blinkMs = 0, ...ports }: Options,
): Promise<Replica> {
  const { id: name } = session
  const seed = Number(name.slice(1))
  const world = fakeWorld(seed)
  const storeWorld = fakeWorld(100 + seed)
  const place = { place: { kind: 'single', url: redis.url }, username: null, password: null, database: 0 } as const
  const real = createRedis({ ...place, timeoutMs, prefix: 't:' }, storeWorld.clock, storeWorld.random, storeWorld.emit)
  const runs: SharedScript[] = []
  const store = wrap({
    ...real,
    get state() {
      return real.state
    },
    run(script, keys, args) {
      runs.push(script)
      return real.run(script, keys, args)
    },
  })
  await until(() => real.state === 'up')
  const flights = createSharedFlights(
    {
      store,
      clock: world.clock,
      random: world.random,
      emit: world.emit,
      session,
      signer: seal,
      async read(key) {
        const found = await real.run(readScript, [`kept:${key}`], [])
        if (found.kind === 'away') return 'away'
        return typeof found.value === 'string' ? anEntry(found.value) : null
      },
      async keep(key, entry, fence) {
        const said = await real.run(keepScript, [`kept:${key}`], [fence ?? '', entry.body])
        return said.kind === 'away' ? 'away' : true
      },
      ...ports,
    },
    { blinkMs },
  )
  t.teardown(() => {
    flights.close()
    real.close()
  })

  function ask(
    key: string | null,
    {
      agoMs = 0,
      hesitates = Promise.resolve(),
      policy = retryDefaults,
    }: { agoMs?: number; hesitates?: Promise<unknown>; policy?: RetryPolicy } = {},
  ): Following {
    const leaving = new Set<() => void>()
    let patienceUntil = world.clock.now() + hour
    let isSettled = false
    const landing = flights.fly(
      { key, scraper: 'alpha', askedAt: world.clock.now() - agoMs },
      {
        patienceUntil: () => patienceUntil,
        policies: () => new Set([policy]),
        onAbandoned(listener) {
          leaving.add(listener)
          return () => void leaving.delete(listener)
        },
      },
      async (lease) => {
        await hesitates
        return lead(lease)
      },
    )
    const settled = (): void => void (isSettled = true)
    landing.then(settled, settled)
    return {
      landing,
      isSettled: () => isSettled,
      leave() {
        patienceUntil = 0
        for (const listener of leaving) listener()
      },
    }
  }

  async function lead(lease: FlightLease): Promise<Landing> {
    const job = await lease.begin()
    return new Promise((resolve, reject) => {
      const answer = (text: string): void => resolve(aLanding(text))
      upstream.push({ replica: name, lease, job, answer, end: resolve, break: reject })
    })
  }

  return {
    name,
    world,
    storeWorld,
    store,
    flights,
    session,
    ask,
    lead,
    ran: (script) => runs.filter((one) => one === script).length,
    becomes: (state) =>
      until(async () => {
        await storeWorld.clock.advance(50)
        return real.state === state
      }),
  }
}

/** The texts in a reply as it is on the wire. */
function textsOf(wire: string): string[] {
  return Array.from(wire.matchAll(/\$\d+\r\n([^\r]*)\r\n/g), ([, text = '']) => text)
}

function anEntry(text: string): Entry {
  return {
    status: 200,
    contentType: 'application/json',
    body: Buffer.from(text),
    etag: '"e"',
    storedAt: 0,
    keptUntil: hour,
    scraper: 'alpha',
    promptHash: null,
    country: null,
    priceCredits: 3,
    unclaimed: false,
  }
}

const attempt = {
  number: 1,
  startedAt: 0,
  durationMs: 1,
  waitedMs: 0,
  keyName: 'main',
  status: 200,
  class: 'ok',
  charge: { state: 'charged', credits: 3 },
  trouble: null,
} as const

function aLanding(text: string): Landing {
  const verdict = answered({ reply: reply(200, text) })
  return { verdict, attempts: [attempt], stoppedBy: null, chargedCredits: 3, entry: anEntry(text) }
}

function aFailure(changes: Partial<Landing> = {}): Landing {
  const verdict = failed('serverError', { retryAfterMs: 2_000 })
  return { verdict, attempts: [attempt], stoppedBy: 'attempts', chargedCredits: 0, entry: null, ...changes }
}

function bodyOf({ verdict }: Landing): string {
  return verdict.reply?.body.toString() ?? ''
}

/** What a replica told telemetry, in short. */
function storyOf({ world }: Replica): string[] {
  return world.events.flatMap((event) => {
    if (event.kind === 'flight-followed') return [`followed: ${event.end}`]
    if (event.kind === 'flight-taken-over') return [`taken over: ${event.from}`]
    return [event.kind]
  })
}

async function refusalOf(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => null,
    (error: unknown) => error,
  )
  return error instanceof ProxyError ? error.code : String(error)
}

/** It has looked, found the flight taken, subscribed, and looked again: from now on it rests. */
async function follows({ ran, world }: Replica, looks = 2): Promise<void> {
  await until(() => ran(acquire) >= looks && world.clock.timers >= 1)
}

/** Time passes at this replica until its followers have looked once more, and have heard what there is. */
async function looksAgain(replica: Replica): Promise<void> {
  const before = replica.ran(acquire)
  await until(() => replica.world.clock.timers === 1)
  await replica.world.clock.advance(1_250)
  await until(() => replica.ran(acquire) > before)
  await replica.store.get('barrier')
}

void t.test('S1, S7: a thousand ask eight replicas the same at once, upstream is asked once', async (t) => {
  const { replicas, asked, upstream, isQuiet } = await aCluster(t, 8)
  const joined = replicas.flatMap(({ flights, world: { clock, emit, random }, lead }) => {
    const local = createFlights({ clock, emit, random })
    return Array.from({ length: 125 }, () => {
      const askedAt = clock.now()
      const waiter = {
        scraper: 'alpha',
        deadlineAt: askedAt + hour,
        askedAt,
        policy: retryDefaults,
        client: { name: 'team', weight: 1, priority: 'interactive' } as const,
        hasFallback: false,
        onGone: nobody,
      }
      const question = { key: 'q', scraper: 'alpha', askedAt: clock.now() }
      return local.join('q', waiter, (flight) => flights.fly(question, flight, lead))
    })
  })
  const leader = await asked(1)
  for (const replica of replicas) if (replica.name !== leader.replica) await follows(replica)
  leader.answer('forty-two')
  const landings = (await Promise.all(joined.map(({ landing }) => landing))).filter((landing) => landing !== null)
  t.equal(landings.length, 1_000)
  t.ok(landings.every((landing) => bodyOf(landing) === 'forty-two'))
  t.equal(upstream.length, 1)
  const elsewhere = landings.filter(({ attempts }) => attempts.length === 0)
  t.equal(elsewhere.length, 875)
  t.ok(elsewhere.every(({ chargedCredits, entry }) => chargedCredits === 0 && entry !== null))
  t.same(elsewhere[0]?.verdict.charge, { state: 'charged', credits: 3 }, 'what they have been spared')
  await isQuiet(t)
})

void t.test('Different questions, and those that are nobody else’s, fly on their own', async (t) => {
  const { replicas, asked, upstream, keys } = await aCluster(t, 2)
  const [one, two] = replicas as [Replica, Replica]
  const all = [one.ask('q'), two.ask('other'), one.ask(null), two.ask(null)]
  await asked(4)
  t.equal((await keys('*:lease')).length, 2)
  for (const [index, { answer, lease }] of upstream.entries()) {
    await lease.submitted('job')
    answer(`answer ${index}`)
  }
  const bodies = await Promise.all(all.map(async ({ landing }) => bodyOf(await landing)))
  t.equal(new Set(bodies).size, 4)
  await loneFlights.idle()
  const alone = loneFlights.fly({ key: 'q', scraper: 'alpha', askedAt: 0 }, {} as never, async ({ fence, begin }) => {
    t.equal(fence, null)
    t.equal(await begin(), null)
    return aLanding('alone')
  })
  t.equal(bodyOf(await alone), 'alone')
  loneFlights.close()
})

void t.test('Who asked before it landed gets what landed, who asks later does not', async (t) => {
  const { replicas, asked, redis, keys, field, isQuiet } = await aCluster(t, 2)
  const [one, two] = replicas as [Replica, Replica]
  const first = one.ask('q')
  const leader = await asked(1)
  await leader.lease.submitted('job-1')
  leader.answer('first')
  await first.landing
  await one.flights.idle()
  t.equal(bodyOf(await two.ask('q', { agoMs: 60_000 }).landing), 'first')
  t.equal(two.world.told('flight-followed').length, 0, 'there was nothing to follow')

  const [record = ''] = await keys('*:record')
  await redis.ask('HSET', record, 'markedAt', String(Number(await field('markedAt')) - 1_000_000))
  const later = two.ask('q')
  const laterAsked = await asked(2)
  t.equal(laterAsked.job, null, 'a job that has ended is not taken up')
  t.equal(two.world.told('flight-taken-over').length, 0)
  laterAsked.answer('second')
  t.equal(bodyOf(await later.landing), 'second')
  await two.flights.idle()

  await redis.ask('HSET', record, 'markedAt', String(Number(await field('markedAt')) + hour * 1_000))
  const afterStep = one.ask('q', { agoMs: 60_000 })
  ;(await asked(3)).answer('third')
  t.equal(bodyOf(await afterStep.landing), 'third', 'A56: an end that lies in the future says nothing')
  await isQuiet(t)
})

void t.test('A replica that is gone before it asked is replaced, and follows when it comes back', async (t) => {
  const { replicas, asked, upstream, isQuiet } = await aCluster(t, 3)
  const [one, two, three] = replicas as [Replica, Replica, Replica]
  const { promise: stopped, resolve: wakeUp } = Promise.withResolvers<void>()
  const first = one.ask('q', { hesitates: stopped })
  await until(() => one.ran(acquire) === 1)
  await one.store.get('barrier')
  const others = [two.ask('q'), three.ask('q')]
  for (const replica of [two, three]) await follows(replica)

  await looksAgain(two)
  t.equal(upstream.length, 0, 'it is still there')
  one.session.fade()
  await looksAgain(two)
  const second = await asked(1)
  t.equal(second.replica, 'r2')
  await looksAgain(three)
  t.same(storyOf(two), ['taken over: sent', 'followed: led'])

  wakeUp()
  await until(() => one.world.told('lease-lost').length === 1)
  await follows(one, 3)
  second.answer('from the second')
  for (const { landing } of [first, ...others]) t.equal(bodyOf(await landing), 'from the second')
  t.equal(upstream.length, 1)
  t.same(storyOf(one), ['lease-lost', 'followed: landed'])
  await isQuiet(t)
})

void t.test('S2, S4: a replica that is gone while upstream works is replaced once', async (t) => {
  const { replicas, asked, upstream, redis, isQuiet } = await aCluster(t, 4)
  const [one, ...rest] = replicas as [Replica, ...Replica[]]
  const first = one.ask('q')
  const lost = await asked(1)
  const others = rest.map((replica) => replica.ask('q'))
  for (const replica of rest) await follows(replica)
  for (const replica of rest) await looksAgain(replica)
  t.equal(upstream.length, 1)

  one.session.fade()
  for (const replica of rest) await looksAgain(replica)
  const second = await asked(2)
  for (const replica of rest) if (replica.name !== second.replica) await looksAgain(replica)
  t.equal(upstream.length, 2)
  t.strictSame(
    rest.flatMap(({ world }) => world.told('flight-taken-over')),
    [{ kind: 'flight-taken-over', scraper: 'alpha', from: 'sent' }],
  )

  second.answer('newer')
  for (const { landing } of others) t.equal(bodyOf(await landing), 'newer')
  await Promise.all(rest.map(({ flights }) => flights.idle()))
  t.ok(String(second.lease.fence) > String(lost.lease.fence))
  lost.answer('older')
  t.equal(bodyOf(await first.landing), 'older', 'those who wait for it get it')
  await one.flights.idle()
  t.match(await redis.ask('HGET', 't:kept:q', 'body'), 'newer')
  await isQuiet(t)
})

void t.test('A replica that was taken for gone learns it from its next sign of life', async (t) => {
  const { replicas, asked, keys, isQuiet } = await aCluster(t, 2)
  const [one, two] = replicas as [Replica, Replica]
  const first = one.ask('q')
  const lost = await asked(1)
  one.session.fade()
  const other = two.ask('q')
  const second = await asked(2)
  t.same(storyOf(two), ['taken over: sent'], 'whoever asks later does not wait for the dead')

  one.session.beats(true)
  await until(() => one.world.told('lease-lost').length === 1)
  t.equal(await lost.lease.begin(), null, 'what it repeats is its own business')
  one.session.beats(true)
  t.equal(one.ran(renew), 1, 'it says no more that the call is its own')
  lost.answer('older')
  await first.landing
  await one.flights.idle()
  t.equal((await keys('*:lease')).length, 1, 'the lease of the other one stands')
  second.answer('newer')
  await other.landing
  await isQuiet(t)
})

void t.test('A lease needs no heartbeat, and is said again to a store that may have forgotten it', async (t) => {
  const { replicas, asked, redis, keys, upstream, isQuiet } = await aCluster(t, 2)
  const [one, two] = replicas as [Replica, Replica]
  const first = one.ask('q')
  const leader = await asked(1)
  const lease = await keys('*:lease')
  one.session.beats(false)
  await one.store.get('barrier')
  t.equal(one.ran(renew), 0)
  await redis.ask('FLUSHALL')
  one.session.beats(true)
  await until(() => one.ran(renew) === 1)
  await one.store.get('barrier')
  t.strictSame(await keys('*:lease'), lease)
  const other = two.ask('q')
  await follows(two)
  t.equal(upstream.length, 1)
  leader.answer('one')
  t.equal(bodyOf(await other.landing), 'one')
  await first.landing
  one.session.beats(true)
  t.equal(one.ran(renew), 1, 'what is over is not said again')
  await isQuiet(t)
})

void t.test('A job left behind is taken up instead of paid for again, as often as needed', async (t) => {
  const { replicas, asked, isQuiet } = await aCluster(t, 4)
  const [one, two, three, four] = replicas as [Replica, Replica, Replica, Replica]
  const first = one.ask('q')
  const lost = await asked(1)
  t.equal(lost.job, null)
  await lost.lease.submitted('{"id":"job-1"}')

  one.session.fade()
  const second = two.ask('q')
  const secondAsked = await asked(2)
  t.equal(secondAsked.job, '{"id":"job-1"}')
  two.session.fade()
  const third = three.ask('q')
  const thirdAsked = await asked(3)
  t.equal(thirdAsked.job, '{"id":"job-1"}')
  t.same([two, three].map(storyOf), [['taken over: job'], ['taken over: job']])

  const fourth = four.ask('q')
  await follows(four)
  thirdAsked.break(new ProxyError('SHUTTING_DOWN', 'The proxy is shutting down. Retry later, or on another replica.'))
  t.equal(await refusalOf(third.landing), 'SHUTTING_DOWN')
  const fourthAsked = await asked(4)
  t.equal(fourthAsked.job, '{"id":"job-1"}', 'it leaves the job behind when it leaves')
  t.equal(await fourthAsked.lease.begin(), null, 'a job that came to nothing is not taken up twice')
  four.session.fade()
  const again = three.ask('q')
  t.equal((await asked(5)).job, null)
  for (const { answer } of [lost, secondAsked, fourthAsked, await asked(5)]) answer('done')
  await Promise.all([first, second, fourth, again].map(({ landing }) => landing))
  await isQuiet(t)
})

void t.test('A failure is shared with those who wait, and with nobody after them', async (t) => {
  const { replicas, asked, upstream, isQuiet } = await aCluster(t, 4)
  const [one, ...rest] = replicas as [Replica, ...Replica[]]
  const first = one.ask('q')
  const leader = await asked(1)
  const others = rest.map((replica) => replica.ask('q', { agoMs: 1_000, policy: { ...retryDefaults, attempts: 1 } }))
  for (const replica of rest) await follows(replica)
  leader.end(aFailure())
  t.equal((await first.landing).attempts.length, 1)
  for (const { landing } of others) {
    const landed = await landing
    t.match(landed, { attempts: [], stoppedBy: 'attempts', chargedCredits: 0, entry: null })
    t.match(landed.verdict, { kind: 'failed', class: 'serverError', retryAfterMs: 2_000, health: 'neutral' })
    t.equal(bodyOf(landed), '{"detail":"serverError"}')
  }
  t.equal(upstream.length, 1)
  await one.flights.idle()

  const later = one.ask('q')
  ;(await asked(2)).answer('now it works')
  t.equal(bodyOf(await later.landing), 'now it works')
  await isQuiet(t)
})

void t.test('A failure is not shared with a client that allows more attempts than were made', async (t) => {
  const { replicas, asked, upstream, isQuiet } = await aCluster(t, 3)
  const [one, ...rest] = replicas as [Replica, Replica, Replica]
  const first = one.ask('q', { policy: { ...retryDefaults, attempts: 1 } })
  const leader = await asked(1)
  const others = rest.map((replica) => replica.ask('q'))
  for (const replica of rest) await follows(replica)
  leader.end(aFailure())
  t.match(await first.landing, { stoppedBy: 'attempts', verdict: { class: 'serverError' } })
  ;(await asked(2)).answer('the second try')
  for (const { landing } of others) t.equal(bodyOf(await landing), 'the second try')
  t.equal(upstream.length, 2, 'one of the two asks for both')
  await isQuiet(t)
})

void t.test('An answer that is not kept is shared with those who wait, and paid for once', async (t) => {
  const { replicas, asked, upstream, isQuiet } = await aCluster(t, 3)
  const [one, ...rest] = replicas as [Replica, ...Replica[]]
  const first = one.ask('q')
  const leader = await asked(1)
  const others = rest.map((replica) => replica.ask('q', { agoMs: 1_000 }))
  for (const replica of rest) await follows(replica)
  const verdict = answered({ reply: reply(202, '[{"odd":1}]'), keepable: false, anomalies: ['unknownShape'] })
  leader.end({ ...aLanding('unused'), verdict, entry: null })
  await first.landing
  for (const { landing } of others) {
    const landed = await landing
    t.match(landed, {
      attempts: [],
      chargedCredits: 0,
      entry: null,
      verdict: { ...verdict, reply: { status: 202 }, health: 'neutral' },
    })
    t.equal(bodyOf(landed), '[{"odd":1}]')
  }
  t.equal(upstream.length, 1)
  await one.flights.idle()
  await isQuiet(t)
})

void t.test('What ends a flight for reasons of its own replica is for the next one to try', async (t) => {
  const { replicas, asked, upstream, isQuiet } = await aCluster(t, 3)
  const [one, ...rest] = replicas as [Replica, Replica, Replica]
  const first = one.ask('q')
  const leader = await asked(1)
  const others = rest.map((replica) => replica.ask('q'))
  for (const replica of rest) await follows(replica)
  leader.break(new ProxyError('CIRCUIT_OPEN', 'This scraper rests.'))
  t.equal(await refusalOf(first.landing), 'CIRCUIT_OPEN')
  const second = await asked(2)
  second.end(aFailure({ stoppedBy: 'deadline' }))
  const third = await asked(3)
  third.answer('at last')
  const bodies = await Promise.all(others.map(async ({ landing }) => bodyOf(await landing)))
  t.strictSame(bodies.toSorted(), ['at last', '{"detail":"serverError"}'])
  t.equal(upstream.length, 3)
  t.equal(rest.flatMap(({ world }) => world.told('flight-taken-over')).length, 0, 'nobody was lost')
  await isQuiet(t)
})

void t.test('An answer that cannot be shared does not make the others wait for each other', async (t) => {
  const kept: string[] = []
  const keep: SharedFlightPorts['keep'] = async (_key, { body }, fence) => {
    kept.push(`${body.toString()}, ${fence === null ? 'no' : 'a'} fence`)
    return false
  }
  const { replicas, asked, keys, isQuiet } = await aCluster(t, 3, () => ({ keep }))
  const [one, ...rest] = replicas as [Replica, Replica, Replica]
  const first = one.ask('q')
  const leader = await asked(1)
  const others = rest.map((replica) => replica.ask('q'))
  for (const replica of rest) await follows(replica)
  leader.answer('too big')
  t.equal(bodyOf(await first.landing), 'too big')
  const both = [await asked(2), await asked(3)]
  t.strictSame(await keys('*:lease'), [], 'both fly at the same time')
  for (const { answer } of both) answer('too big as well')
  for (const { landing } of others) t.equal(bodyOf(await landing), 'too big as well')
  t.strictSame(
    kept,
    ['too big, a fence', 'too big as well, no fence', 'too big as well, no fence'],
    'it is tried again',
  )
  await isQuiet(t)
})

void t.test('An answer that is gone before it is read is asked for again, by one', async (t) => {
  const { replicas, asked, redis, upstream, isQuiet } = await aCluster(t, 3, () => ({
    keep: async () => true,
  }))
  const [one, ...rest] = replicas as [Replica, Replica, Replica]
  const first = one.ask('q')
  const leader = await asked(1)
  const others = rest.map((replica) => replica.ask('q', { agoMs: 60_000 }))
  for (const replica of rest) await follows(replica)
  leader.answer('purged')
  await first.landing
  const second = await asked(2)
  await redis.ask('HSET', 't:kept:q', 'body', 'second')
  second.answer('second')
  for (const { landing } of others) t.equal(bodyOf(await landing), 'second')
  t.equal(upstream.length, 2)
  await isQuiet(t)
})

void t.test('S5: a lost message costs one look, which comes within 1.25 s', async (t) => {
  const deaf = (store: SharedStore): SharedStore => ({
    ...store,
    get state() {
      return store.state
    },
    subscribe: () => ({ close: () => {} }),
  })
  const { replicas, asked, isQuiet } = await aCluster(t, 2, (name) => (name === 'r2' ? { wrap: deaf } : {}))
  const [one, two] = replicas as [Replica, Replica]
  const first = one.ask('q')
  const leader = await asked(1)
  const other = two.ask('q')
  await until(() => two.world.clock.timers === 1)
  leader.answer('quietly')
  await first.landing
  await one.flights.idle()
  await two.store.get('barrier')
  await two.world.clock.advance(749)
  t.notOk(other.isSettled())
  t.equal(two.ran(acquire), 1)
  await two.world.clock.advance(501)
  t.equal(bodyOf(await other.landing), 'quietly')
  t.equal(two.ran(acquire), 2)
  await isQuiet(t)
})

void t.test('S6, A54: forged messages, ends and jobs are hints or nothing at all', async (t) => {
  const { replicas, asked, upstream, redis, keys, field, expire, isQuiet } = await aCluster(t, 2)
  const [one, two] = replicas as [Replica, Replica]
  const elsewhere = one.ask('other')
  const failing = await asked(1)
  failing.end(aFailure())
  await elsewhere.landing
  await one.flights.idle()
  const foreign = await field('mark')
  t.match(foreign, 'serverError')
  await redis.ask('FLUSHALL')

  const first = one.ask('q')
  const leader = await asked(2)
  const other = two.ask('q')
  await follows(two)
  const [channel = ''] = textsOf(await redis.ask('PUBSUB', 'CHANNELS'))
  const [record = ''] = await keys('*:record')
  const hint = async (): Promise<void> => {
    const before = two.ran(acquire)
    await redis.ask('PUBLISH', channel, 'done')
    await until(() => two.ran(acquire) > before)
    await two.store.get('barrier')
  }
  await hint()
  for (const mark of [foreign, 'x', `${foreign.slice(0, 43)}{"kind":"kept"}`]) {
    const at = String(Number(await field('token')) + 1)
    await redis.ask('HSET', record, 'mark', mark, 'marker', at, 'markedAt', at, 'markUntil', '9e15')
    await hint()
    t.notOk(other.isSettled())
  }
  await redis.ask('HSET', record, 'job', 'somebody else’s job')
  await expire()
  await hint()
  const second = await asked(3)
  t.equal(second.job, null)
  second.answer('true')
  t.equal(bodyOf(await other.landing), 'true')
  leader.answer('true')
  await first.landing
  t.equal(upstream.length, 3)
  await isQuiet(t)

  await redis.ask('FLUSHALL')
  await redis.ask('SET', record, 'of another type')
  const poisoned = two.ask('q')
  ;(await asked(4)).answer('alone')
  t.equal(bodyOf(await poisoned.landing), 'alone', 'a poisoned record is as good as no Redis')
  const told = { isSo: false }
  void two.flights.idle().then(() => (told.isSo = true))
  await until(async () => {
    await two.world.clock.advance(1_000)
    return told.isSo
  })
  await redis.ask('DEL', record)
  await isQuiet(t)
})

void t.test('S8: who leaves stops following, the flight and the others do not notice', async (t) => {
  const { replicas, asked, upstream, redis, isQuiet } = await aCluster(t, 3)
  const [one, two, three] = replicas as [Replica, Replica, Replica]
  const first = one.ask('q')
  const leader = await asked(1)
  const leaving = two.ask('q')
  const staying = three.ask('q')
  for (const replica of [two, three]) await follows(replica)
  leaving.leave()
  t.equal(await refusalOf(leaving.landing), 'DEADLINE_EXCEEDED')
  t.same(storyOf(two), ['followed: left'])
  t.equal(two.world.clock.timers, 0)
  first.leave()
  leader.answer('for those who stayed')
  t.equal(bodyOf(await staying.landing), 'for those who stayed')
  t.equal(upstream.length, 1)
  await isQuiet(t)
  t.match(await redis.ask('HGET', 't:kept:q', 'body'), 'for those who stayed', 'and for who asks again')
})

void t.test('M4: a Redis that is lost for less than a lease takes costs no second call', async (t) => {
  const { replicas, asked, upstream, redis, isQuiet } = await aCluster(t, 3)
  const [one, ...rest] = replicas as [Replica, Replica, Replica]
  const first = one.ask('q')
  const leader = await asked(1)
  const others = rest.map((replica) => replica.ask('q'))
  for (const replica of rest) await follows(replica)

  await redis.ask('CLIENT', 'KILL', 'TYPE', 'normal')
  for (const { becomes } of replicas) await becomes('up')
  for (const replica of rest) await looksAgain(replica)
  await redis.kill()
  for (const { becomes } of replicas) await becomes('down')
  for (const { world } of rest) await world.clock.advance(10_000)
  await redis.restart()
  for (const { becomes } of replicas) await becomes('up')
  for (const replica of rest) await looksAgain(replica)
  t.equal(upstream.length, 1, 'an empty Redis says nothing against the lease that was seen')

  one.session.beats(true)
  await until(() => one.ran(renew) === 1)
  for (const replica of rest) await looksAgain(replica)
  for (const { world } of rest) await world.clock.advance(10_000)
  t.equal(upstream.length, 1)
  leader.answer('first')
  for (const { landing } of [first, ...others]) t.equal(bodyOf(await landing), 'first')
  t.equal(upstream.length, 1)
  for (const { storeWorld } of replicas) await storeWorld.clock.advance(5_000)
  await isQuiet(t)
})

void t.test('M4: an answer that comes while Redis is away is passed on when it is back', async (t) => {
  const { replicas, asked, upstream, redis, isQuiet } = await aCluster(t, 2)
  const [one, two] = replicas as [Replica, Replica]
  const first = one.ask('q')
  const leader = await asked(1)
  const other = two.ask('q')
  await follows(two)
  await redis.kill()
  for (const { becomes } of replicas) await becomes('down')
  leader.answer('first')
  t.equal(bodyOf(await first.landing), 'first')
  await two.world.clock.advance(5_000)
  await redis.restart()
  for (const { becomes } of replicas) await becomes('up')
  t.equal(bodyOf(await other.landing), 'first')
  t.equal(upstream.length, 1)
  for (const { storeWorld } of replicas) await storeWorld.clock.advance(5_000)
  await isQuiet(t)
})

void t.test(
  'Redis dies mid-flight and stays away: everybody is served, and it gets the answer when it returns',
  async (t) => {
    const { replicas, asked, upstream, redis, isQuiet } = await aCluster(t, 3)
    const [one, ...rest] = replicas as [Replica, Replica, Replica]
    const first = one.ask('q')
    const leader = await asked(1)
    await leader.lease.submitted('job-1')
    const others = rest.map((replica) => replica.ask('q'))
    for (const replica of rest) await follows(replica)
    await redis.kill()
    for (const { becomes } of replicas) await becomes('down')
    for (const { world } of rest) await world.clock.advance(13_000)
    t.equal(upstream.length, 1, 'they wait as long as the lease would have lasted')
    for (const { world } of rest) await world.clock.advance(4_000)
    const alone = [await asked(2), await asked(3)]
    t.strictSame(
      alone.map(({ job }) => job),
      ['job-1', 'job-1'],
      'what they know of the job still holds',
    )
    t.same(rest.map(storyOf), [['followed: led'], ['followed: led']])
    leader.answer('first')
    t.equal(bodyOf(await first.landing), 'first')
    alone[0]?.answer('its own')
    alone[1]?.end(aFailure())
    const bodies = await Promise.all(others.map(async ({ landing }) => bodyOf(await landing)))
    t.strictSame(bodies.toSorted(), ['its own', '{"detail":"serverError"}'])
    t.equal(upstream.length, 3)

    await one.world.clock.advance(30_000)
    await redis.restart()
    await Promise.all(replicas.map(({ becomes }) => becomes('up')))
    await Promise.all(replicas.map(({ flights }) => flights.idle()))
    t.match(await redis.ask('HGET', 't:kept:q', 'body'), /first|its own/)
    for (const { storeWorld } of replicas) await storeWorld.clock.advance(5_000)
    await isQuiet(t)
  },
)

void t.test('A store that lost the lease of a replica which is gone is waited for once', async (t) => {
  const { replicas, asked, redis, isQuiet } = await aCluster(t, 2)
  const [one, two] = replicas as [Replica, Replica]
  const first = one.ask('q')
  const leader = await asked(1)
  const other = two.ask('q')
  await follows(two)
  await redis.ask('FLUSHALL')
  await looksAgain(two)
  await two.world.clock.advance(15_000)
  const second = await asked(2)
  second.answer('second')
  t.equal(bodyOf(await other.landing), 'second')
  leader.answer('first')
  await first.landing
  await isQuiet(t)
})

void t.test('A Redis that stays away for a minute is told nothing', async (t) => {
  const { replicas, asked, redis } = await aCluster(t, 1)
  const [one] = replicas as [Replica]
  const first = one.ask('q')
  const leader = await asked(1)
  await redis.kill()
  await one.becomes('down')
  leader.answer('first')
  await first.landing
  await one.world.clock.advance(60_000)
  await one.flights.idle()
  await redis.restart()
  await one.becomes('up')
  t.equal(await redis.ask('DBSIZE'), ':0\r\n')
  t.equal(one.world.clock.timers, 0)
})

void t.test(
  'Redis is stopped: the first question pays the time limit, the next nothing, then they share again',
  async (t) => {
    const { replicas, asked, upstream, redis, isQuiet } = await aCluster(t, 2)
    const [one, two] = replicas as [Replica, Replica]
    redis.pause()
    const first = one.ask('q')
    await one.storeWorld.clock.advance(timeoutMs)
    await asked(1)
    t.equal(one.storeWorld.clock.now() - two.storeWorld.clock.now(), timeoutMs)
    const next = one.ask('next')
    await asked(2)
    t.equal(one.storeWorld.clock.now() - two.storeWorld.clock.now(), timeoutMs)

    redis.resume()
    await one.becomes('up')
    one.session.beats(false)
    await until(() => upstream.every(({ lease }) => lease.fence !== null))
    await one.store.get('barrier')
    const other = two.ask('q')
    await follows(two)
    for (const { answer } of upstream) answer('shared')
    t.equal(bodyOf(await other.landing), 'shared')
    await Promise.all([first.landing, next.landing])
    t.equal(upstream.length, 2)
    await isQuiet(t)
  },
)

void t.test('A replica that flies alone leaves a flight of another one alone', async (t) => {
  const { replicas, asked, redis, keys, isQuiet } = await aCluster(t, 2)
  const [one, two] = replicas as [Replica, Replica]
  redis.pause()
  const first = one.ask('q')
  await one.storeWorld.clock.advance(timeoutMs)
  const alone = await asked(1)
  redis.resume()
  await one.becomes('up')
  await redis.ask('FLUSHALL')
  const other = two.ask('q')
  const leader = await asked(2)
  one.session.beats(false)
  await until(() => one.ran(acquire) === 2)
  alone.answer('alone')
  await first.landing
  await one.flights.idle()
  t.equal((await keys('*:lease')).length, 1)
  t.notOk(other.isSettled())
  leader.answer('leader')
  t.equal(bodyOf(await other.landing), 'leader')
  await isQuiet(t)
})

void t.test('A failure that could not be told in time is told to nobody', async (t) => {
  const { replicas, asked, redis, field, isQuiet } = await aCluster(t, 1)
  const [one] = replicas as [Replica]
  const first = one.ask('q')
  const leader = await asked(1)
  redis.pause()
  leader.end(aFailure())
  await first.landing
  await one.storeWorld.clock.advance(timeoutMs)
  await one.world.clock.advance(6_000)
  await redis.kill()
  await redis.restart()
  await one.becomes('up')
  await one.flights.idle()
  t.equal(await field('over'), leader.lease.fence, 'the flight is over')
  t.equal(await field('mark'), '')
  await isQuiet(t)
})

void t.test('A reply that got lost is asked for again: the lease is found to be one’s own', async (t) => {
  let losses = 4
  const forgetful = (store: SharedStore): SharedStore => ({
    ...store,
    get state() {
      return store.state
    },
    async run(script, keys, args) {
      const said = await store.run(script, keys, args)
      if (script !== acquire || losses === 0) return said
      losses -= 1
      return { kind: 'away', sent: true }
    },
  })
  const { replicas, asked, isQuiet } = await aCluster(t, 2, (name) => (name === 'r1' ? { wrap: forgetful } : {}))
  const [one, two] = replicas as [Replica, Replica]
  const first = one.ask('q')
  const leader = await asked(1)
  t.equal(leader.lease.fence, null)
  const other = two.ask('q')
  await follows(two)
  one.session.beats(false)
  await until(() => leader.lease.fence !== null)
  leader.answer('mine')
  t.equal(bodyOf(await other.landing), 'mine')
  await first.landing
  await isQuiet(t)
})

void t.test(
  'M4: a stall or a restart of Redis as the question comes costs one call, not one at each replica',
  async (t) => {
    const { replicas, asked, upstream, redis, isQuiet } = await aCluster(t, 3, () => ({ blinkMs: 2_000 }))
    for (const blink of ['stall', 'restart']) {
      const before = upstream.length
      if (blink === 'stall') {
        redis.pause()
      } else {
        await redis.kill()
        await until(() => replicas.every(({ store }) => store.state === 'down'))
      }
      const all = replicas.map((replica) => replica.ask(blink))
      let landed = 0
      for (const { landing } of all) void landing.then(() => (landed += 1))
      await until(async () => {
        for (const { storeWorld, store } of replicas)
          if (store.state !== 'down') await storeWorld.clock.advance(timeoutMs)
        return replicas.every(({ store }) => store.state === 'down')
      })
      for (const { world } of replicas) await world.clock.advance(1_000)
      t.equal(upstream.length, before, 'nobody asks yet')
      if (blink === 'stall') redis.resume()
      else await redis.restart()
      for (const replica of replicas) await replica.becomes('up')
      const leader = await asked(before + 1)
      leader.answer(blink)
      // Whoever subscribes again only after the message was sent finds the answer with the next look.
      await until(async () => {
        for (const { world } of replicas) await world.clock.advance(50)
        return landed === all.length
      })
      for (const { landing } of all) t.equal(bodyOf(await landing), blink)
      t.equal(upstream.length, before + 1)
    }
    await isQuiet(t)
  },
)

void t.test('A Redis that stays away is waited for once, and not by those who come later', async (t) => {
  const { replicas, asked, upstream, redis, isQuiet } = await aCluster(t, 1, () => ({ blinkMs: 2_000 }))
  const [one] = replicas as [Replica]
  await redis.kill()
  await until(() => one.store.state === 'down')
  const first = one.ask('first')
  await one.world.clock.advance(1_999)
  t.equal(upstream.length, 0)
  await one.world.clock.advance(1)
  ;(await asked(1)).answer('alone')
  t.equal(bodyOf(await first.landing), 'alone')
  const later = one.ask('later')
  ;(await asked(2)).answer('at once')
  t.equal(bodyOf(await later.landing), 'at once')
  await redis.restart()
  await one.becomes('up')
  await isQuiet(t)
})

void t.test('A flight that fails while its lease is being taken late leaves no lease behind', async (t) => {
  const reply = Promise.withResolvers<void>()
  let isLate = false
  const { replicas, asked, redis, isQuiet } = await aCluster(t, 1, () => ({
    wrap: (store) => ({
      ...store,
      get state() {
        return store.state
      },
      async run(...command) {
        const said = await store.run(...command)
        if (isLate && command[0] === acquire) await reply.promise
        return said
      },
    }),
  }))
  const [one] = replicas as [Replica]
  await redis.kill()
  await one.becomes('down')
  const first = one.ask('q')
  const leader = await asked(1)
  await redis.restart()
  await one.becomes('up')
  isLate = true
  one.session.beats(true)
  await until(() => one.ran(acquire) > 1)
  leader.break(new ProxyError('OVERLOADED', 'No place.', { reason: 'places' }))
  await t.rejects(first.landing, { code: 'OVERLOADED' })
  reply.resolve()
  await isQuiet(t)
})

void t.test('A tier that takes nothing while Redis is there holds the others up for three tries', async (t) => {
  const tries = { count: 0 }
  const keep: SharedFlightPorts['keep'] = async () => {
    tries.count += 1
    return 'away'
  }
  const { replicas, asked, isQuiet } = await aCluster(t, 2, (name) => (name === 'r1' ? { keep } : {}))
  const [one, two] = replicas as [Replica, Replica]
  const first = one.ask('q')
  const leader = await asked(1)
  const other = two.ask('q')
  await follows(two)
  leader.answer('one')
  await first.landing
  for (let n = 1; n <= 2; n++) {
    await until(() => tries.count === n)
    await one.world.clock.advance(1_000)
  }
  const second = await asked(2)
  t.equal(tries.count, 3)
  second.answer('two')
  t.equal(bodyOf(await other.landing), 'two')
  await isQuiet(t)
})

void t.test('A tier that cannot be read is waited for as long as a lease lasts', async (t) => {
  const { replicas, asked, isQuiet } = await aCluster(t, 2, () => ({ read: async () => 'away' }))
  const [one, two] = replicas as [Replica, Replica]
  const first = one.ask('q')
  const leader = await asked(1)
  const other = two.ask('q')
  await follows(two)
  leader.answer('one')
  await first.landing
  await one.flights.idle()
  await looksAgain(two)
  await two.world.clock.advance(15_000)
  ;(await asked(2)).answer('two')
  t.equal(bodyOf(await other.landing), 'two')
  await isQuiet(t)
})

void t.test('A bug in the tier is for the log, and for nobody else', async (t) => {
  const bug = new Error('bug')
  const { replicas, asked } = await aCluster(t, 1, () => ({ keep: () => Promise.reject(bug) }))
  const [one] = replicas as [Replica]
  const first = one.ask('q')
  ;(await asked(1)).answer('one')
  t.equal(bodyOf(await first.landing), 'one')
  await one.flights.idle()
  t.strictSame(one.world.told('broke'), [{ kind: 'broke', where: 'shared flight', error: bug }])
  t.equal(one.world.clock.timers, 0)
})

void t.test('An answer that is on its way to the store when its replica ends is not paid for again', async (t) => {
  const written = Promise.withResolvers<void>()
  const { replicas, asked, upstream, redis } = await aCluster(t, 2, (name) => {
    if (name !== 'r1') return {}
    return {
      async keep(key: string, entry: Entry) {
        await written.promise
        await redis.ask('HSET', `t:kept:${key}`, 'body', entry.body.toString())
        return true
      },
    }
  })
  const [one, two] = replicas as [Replica, Replica]
  const first = one.ask('q')
  const leader = await asked(1)
  const other = two.ask('q')
  await follows(two)
  leader.answer('one')
  t.equal(bodyOf(await first.landing), 'one')
  one.flights.close()
  await looksAgain(two)
  await looksAgain(two)
  t.equal(upstream.length, 1, 'the lease is held until the answer is there')
  written.resolve()
  await one.flights.idle()
  await two.world.clock.advance(2_000)
  t.equal(bodyOf(await other.landing), 'one')
  t.equal(upstream.length, 1)
})

void t.test('Closed, it waits for nothing any more', async (t) => {
  const { replicas, asked, redis } = await aCluster(t, 2)
  const [one, two] = replicas as [Replica, Replica]
  const first = one.ask('q')
  const leader = await asked(1)
  const late = one.ask('late')
  const second = await asked(2)
  const other = two.ask('q')
  await follows(two)
  two.flights.close()
  t.equal(await refusalOf(other.landing), 'SHUTTING_DOWN')
  await redis.kill()
  await one.becomes('down')
  second.answer('late')
  await late.landing
  one.flights.close()
  await one.flights.idle()
  t.equal(one.world.clock.timers, 0, 'it does not wait for Redis')
  leader.answer('one')
  t.equal(bodyOf(await first.landing), 'one')
  await one.flights.idle()
  t.equal(one.world.clock.timers, 0)
})

void t.test(
  'The steps in the store: only the newest token renews and lands, and time that runs backwards changes nothing',
  async (t) => {
    const { replicas, redis } = await aCluster(t, 1)
    const [{ store }] = replicas as [Replica]
    const keys = ['{q}:lease', '{q}:record']
    const run = async (script: SharedScript, ...args: (string | number)[]): Promise<unknown> => {
      const said = await store.run(script, keys, args)
      return said.kind === 'known' ? said.value : 'away'
    }
    const take = (owner: string, gone = '', seen = '0'): Promise<unknown> =>
      run(acquire, owner, 60_000, 1_000, '0', gone, seen)
    const [, first = ''] = (await take('a/1')) as string[]
    t.match(first, /^\d{16}$/)
    t.same(await take('b/1'), ['held', first, 'a/1', ''])
    t.same(await take('b/1', 'aa/'), ['held', first, 'a/1', ''], 'another process is gone')
    t.same(await take('a/1'), ['leased', first, '', ''])
    t.same(await take('b/1', '', String(Number(first) + 1)), ['forgotten'], 'a newer lease was seen')
    const ahead = String(Number(first) + hour * 1_000)
    await redis.ask('HSET', 't:{q}:record', 'token', ahead)
    const [, second = '', from] = (await take('b/1', 'a/')) as string[]
    t.equal(second, String(Number(ahead) + 1), 'tokens grow where the clock does not')
    t.equal(from, 'sent')
    t.equal(await run(renew, first, 'a/1', 60_000, ''), 0)
    t.equal(await run(land, first, 'mark', 5_000, 0, '', 60_000, 't:channel', 'q'), 0)
    t.match(await redis.ask('GET', 't:{q}:lease'), second)
    t.equal(await run(renew, second, 'b/1', 60_000, ''), 1)
    t.equal(await run(land, second, '', 5_000, 0, '', 60_000, 't:channel', 'q'), 1)
    t.equal(await run(renew, second, 'b/1', 60_000, ''), 0, 'a renewal that comes late revives nothing')
    t.equal(await redis.ask('EXISTS', 't:{q}:lease'), ':0\r\n')

    await redis.ask('DEL', 't:{q}:record')
    await redis.ask('SET', 't:{q}:lease', first)
    t.equal(await run(renew, second, 'b/1', 60_000, ''), 0)
    t.equal(await run(land, second, '', 5_000, 0, '', 60_000, 't:channel', 'q'), 1)
    t.match(await redis.ask('GET', 't:{q}:lease'), first, 'nobody gives back what is not theirs')
  },
)

void t.test('Marks: what is told of a landing, sealed with the newest key and believed with all', (t) => {
  t.same(recordOf(aLanding('a'), true), { kind: 'kept' })
  t.same(recordOf(aLanding('a'), false), { kind: 'unshared' })
  for (const stoppedBy of ['deadline', 'abandoned', 'shutdown'] as const)
    t.equal(recordOf(aFailure({ stoppedBy }), false), null)
  const huge = failed('serverError', { reply: reply(500, 'x'.repeat(65_537)) })
  t.same(recordOf(aFailure({ verdict: huge }), false), { kind: 'unshared' })
  const odd = { ...aLanding('a'), verdict: answered({ reply: reply(200, '[]'), keepable: false }) }
  const oddMark = recordOf(odd, false)
  t.equal(oddMark?.kind, 'answered')
  t.strictSame(oddMark && readRecord(writeRecord(oddMark)), oddMark)
  const hugeAnswer = answered({ reply: reply(200, 'x'.repeat(65_537)), keepable: false })
  t.same(recordOf({ ...odd, verdict: hugeAnswer }, false), { kind: 'unshared' })
  const unanswered = recordOf(aFailure({ verdict: failed('unreachable') }), false)
  t.equal(unanswered?.kind, 'failed')
  t.strictSame(unanswered && readRecord(writeRecord(unanswered)), unanswered)

  const next = createSigner(() => [createSecretKey(Buffer.from('the next key')), signingKey])
  const sealed = seal.close('q', 'text')
  t.equal(next.open('q', sealed), 'text')
  t.equal(seal.open('q', next.close('q', 'text')), null)
  t.equal(seal.open('r', sealed), null)
  t.equal(seal.open('q', `${sealed}!`), null)
  t.equal(seal.open('q', ''), null)
  t.end()
})

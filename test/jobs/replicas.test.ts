/**
 * Jobs of several replicas on a real Redis: one submission per idempotency key, owners and ends that all know, and what a replica
 * that is lost has left behind. The replicas live in one process, each with a connection and a clock of its own; the simulator's ledger has
 * the last word.
 */
import { createSecretKey } from 'node:crypto'
import t, { type Test } from 'tap'
import { createJobs, type JobAnswer } from '../../src/jobs/book.ts'
import { createDurableUpstream, type DurableUpstream } from '../../src/jobs/durable.ts'
import { createPlainUpstream } from '../../src/jobs/plain.ts'
import { createSharedRecords } from '../../src/jobs/shared-records.ts'
import { createSharedJobStore, type SharedJobStore } from '../../src/jobs/shared-store.ts'
import type { Landing, Outcome } from '../../src/model.ts'
import type { Question, Upstream } from '../../src/fetch-parts.ts'
import type { SharedStore } from '../../src/ports.ts'
import { createSigner } from '../../src/resilience/shared-flight-records.ts'
import { createSharedFlights } from '../../src/resilience/shared-flight.ts'
import { createSession, type Session } from '../../src/session.ts'
import { createSimulator, instant, type Simulator } from '../../src/simulator/simulator.ts'
import { createRandom } from '../../src/world/random.ts'
import { createRedis } from '../../src/world/redis.ts'
import { createTransport } from '../../src/world/transport.ts'
import { elasticClock, type ElasticClock } from '../support/proxy.ts'
import { type RedisProcess, startRedis, until } from '../support/redis.ts'
import { answered, retryDefaults } from '../support/verdicts.ts'
import { aCaller, aHold, aQuestion, bodyOf, createDesk, type Desk, json, landingOf } from './desk.ts'
import { others, profile, questionOf, replyOf, team } from './desk.ts'

interface Replica extends Desk {
  readonly name: string
  readonly clock: ElasticClock
  readonly shared: SharedStore
  readonly store: SharedJobStore
  readonly session: Session
  readonly durable: DurableUpstream & Upstream
  readonly filled: JobAnswer[]
  readonly refunded: number[]
  readonly adopted: string[]
  /** Asks as the leader of a flight among all replicas does. */
  readonly fly: (query: string, changes?: Partial<Question>) => Promise<Landing>
  /** As after kill -9, when it has not been heard of for long enough. */
  readonly die: () => Promise<void>
  /** So the others think, and it goes on. */
  readonly end: () => Promise<void>
}

interface Fleet {
  readonly redis: RedisProcess
  readonly sim: Simulator
  readonly aReplica: (name: string) => Promise<Replica>
}

const answer = landingOf(answered({ reply: json(200, '{"status":"done","result":"Yes.","credits_used":3}') }))
const nobody = (): Promise<Landing | null> => new Promise(() => {})
const jobIdOf = (outcome: Outcome): string => String(bodyOf(outcome)['job_id'])
const callsOf = (sim: Simulator, call: string): number => sim.requests.filter((one) => one.call === call).length

async function aFleet(t: Test): Promise<Fleet> {
  const redis = await startRedis(t)
  const sim = createSimulator({ latency: instant })
  const { url } = await sim.start()
  t.teardown(() => sim.close())
  const sessions: Session[] = []
  return { redis, sim, aReplica: (name) => aReplica(t, name, redis, url, sessions) }
}

/** `sessions` are those of all replicas. */
async function aReplica(
  t: Test,
  name: string,
  redis: RedisProcess,
  url: string,
  sessions: Session[],
): Promise<Replica> {
  const clock = elasticClock()
  const random = createRandom()
  const place = { kind: 'single', url: redis.url } as const
  const access = { place, username: null, password: null, database: 0, timeoutMs: 5_000, prefix: 't:' }
  const shared = createRedis(access, clock, random, () => {})
  const transport = createTransport(
    { url, connectTimeoutMs: 5_000, connectionMaxAgeMs: 30_000, maxResponseBytes: 1_000_000 },
    clock,
  )
  await until(() => shared.state === 'up')
  const store = createSharedJobStore(createSharedRecords(shared, clock), clock)
  const session = createSession({ store: shared, clock, id: name })
  sessions.push(session)
  const plain = createPlainUpstream({ profile, transport, emit: () => {} })
  const filled: JobAnswer[] = []
  const refunded: number[] = []
  const adopted: string[] = []
  const jobs = createJobs({
    profile,
    store,
    clock,
    random,
    session,
    emit: () => {},
    fill: (one) => void filled.push(one),
    refund: (_client, credits) => void refunded.push(credits),
  })
  const jobsUpstream = createDurableUpstream({
    profile,
    store,
    clock: hasty(clock),
    random,
    session,
    adoptHold: (id) => (adopted.push(id), aHold(id)),
  })
  const durable = { ...jobsUpstream, ...jobsUpstream.under({ plain, execution: 'durable' }) }
  const flights = createSharedFlights(
    {
      store: shared,
      clock,
      random,
      emit: () => {},
      session,
      signer: createSigner(() => [createSecretKey(Buffer.alloc(32, 1))]),
      read: async () => null,
      keep: async () => false,
    },
    { pollMs: 50 },
  )
  t.teardown(async () => {
    await session.close()
    durable.close()
    store.close()
    flights.close()
    shared.close()
    transport.close()
  })

  function fly(query: string, changes: Partial<Question> = {}): Promise<Landing> {
    const call = questionOf(query)
    const flight = {
      patienceUntil: () => Number.POSITIVE_INFINITY,
      policies: () => new Set([retryDefaults]),
      onAbandoned: () => () => {},
    }
    return flights.fly({ key: call.key, scraper: call.scraper, askedAt: clock.now() }, flight, async (lease) => {
      const takeover = await lease.begin()
      const { verdict } = await durable.ask(aQuestion(call, { hold: aHold(name), lease, takeover, ...changes }))
      return landingOf(verdict)
    })
  }

  /** The others hear of it. */
  async function end(): Promise<void> {
    await session.close()
    await Promise.all(sessions.map((other) => other.beat()))
  }

  async function die(): Promise<void> {
    durable.close()
    flights.close()
    await end()
    store.close()
  }

  return {
    ...createDesk(jobs, clock, plain),
    name,
    clock,
    shared,
    store,
    session,
    durable,
    filled,
    refunded,
    adopted,
    fly,
    die,
    end,
  }
}

/** Polls come at once. */
function hasty(clock: ElasticClock): ElasticClock {
  return { ...clock, after: (ms, job) => clock.after(ms / 50, job) }
}

// Idempotency keys

void t.test('20 identical submissions over two replicas at once: one job, one charge, equal answers', async (t) => {
  const { sim, aReplica } = await aFleet(t)
  const replicas = [await aReplica('one'), await aReplica('two')] as const
  sim.script({ call: 'submit' }, ['hold'])
  const asked = Array.from({ length: 20 }, (_, n) => replicas[n % 2 ? 1 : 0].submit('prompt=x', 'k'))
  await sim.received(1)
  // Those of the other replica wait by now, and a question with other parameters is refused on both.
  for (const { submit } of replicas) {
    await t.rejects(submit('prompt=y', 'k'), { code: 'IDEMPOTENCY_CONFLICT', status: 422 })
  }
  sim.release()
  const outcomes = await Promise.all(asked)
  t.equal(new Set(outcomes.map((outcome) => replyOf(outcome).body.toString())).size, 1)
  t.equal(outcomes.filter(({ kind }) => kind === 'fetched').length, 1)
  t.equal(outcomes.filter((outcome) => outcome.kind === 'job' && outcome.idempotentReplay).length, 19)
  t.equal(sim.ledger.entries.length, 1)
  for (const { submit } of replicas) await t.rejects(submit('prompt=y', 'k'), { code: 'IDEMPOTENCY_CONFLICT' })
})

void t.test('whoever waits for another replica waits as long as they would', async (t) => {
  const { sim, aReplica } = await aFleet(t)
  const [one, two] = [await aReplica('one'), await aReplica('two')]
  sim.script({ call: 'submit' }, ['hold'])
  const first = one.submit('prompt=x', 'k')
  await sim.received(1)
  const hasty = aCaller(two.clock, { idempotencyKey: 'k', patienceMs: 0 })
  await t.rejects(two.submit('prompt=x', 'k', team, hasty), { code: 'IDEMPOTENCY_CONFLICT', message: /still/ })
  const leaver = aCaller(two.clock, { idempotencyKey: 'k' })
  const left = two.submit('prompt=x', 'k', team, leaver)
  await until(() => leaver.listeners() > 0)
  leaver.leave()
  t.strictSame(await left, { kind: 'gone' })
  sim.release()
  await first
  t.match(await two.submit('prompt=x', 'k'), { kind: 'job', idempotentReplay: true })
})

void t.test('when nothing was submitted the key is free on all; when its replica is lost, on none', async (t) => {
  const { sim, aReplica } = await aFleet(t)
  const [one, two] = [await aReplica('one'), await aReplica('two')]
  sim.script({ call: 'submit' }, ['503', 'hold'])
  t.equal(replyOf(await one.submit('prompt=x', 'k')).status, 503)
  const cutOff = one.submit('prompt=y', 'k')
  await sim.received(2)
  const hasty = aCaller(two.clock, { idempotencyKey: 'k', patienceMs: 0 })
  await t.rejects(two.submit('prompt=y', 'k', team, hasty), { status: 409, message: /still/ })
  await one.die()
  await t.rejects(two.submit('prompt=y', 'k', team, hasty), { status: 409, message: /still/ }, 'it may come back')
  two.clock.skip(60_000)
  await t.rejects(two.submit('prompt=y', 'k'), { code: 'IDEMPOTENCY_UNRESOLVED', retryAfterMs: null })
  t.equal(callsOf(sim, 'submit'), 2)
  sim.release()
  await cutOff
})

// Owners and ends

void t.test('a job is its owner’s on every replica, and its end is known on all, counted once', async (t) => {
  const { sim, aReplica } = await aFleet(t)
  const [one, two] = [await aReplica('one'), await aReplica('two')]
  sim.script({ call: 'submit' }, [
    { kind: 'done', polls: 0 },
    { kind: 'failed', polls: 0 },
  ])
  const done = jobIdOf(await one.submit('prompt=x'))
  const failed = jobIdOf(await one.submit('prompt=y'))
  t.equal(replyOf(await two.poll(done, others)).status, 404)
  const pollsOfIt = (): number => sim.requests.filter(({ path }) => path === `/jobs/${done}`).length
  t.equal(pollsOfIt(), 0)

  await Promise.all([one.poll(done), two.poll(done), one.poll(failed), two.poll(failed)])
  t.equal(one.filled.length + two.filled.length, 1, 'filled once, though both asked')
  t.strictSame([...one.refunded, ...two.refunded], [3], 'and refunded once')
  const polls = pollsOfIt()
  for (const { poll } of [one, two]) {
    t.match(await poll(done), { kind: 'job' })
    t.equal(bodyOf(await poll(failed))['status'], 'failed')
    t.equal(replyOf(await poll(done, others)).status, 404)
  }
  t.equal(pollsOfIt(), polls)
})

// Promises

void t.test('a promise is pending on every replica until it is kept, and then kept on all', async (t) => {
  const { sim, aReplica } = await aFleet(t)
  const [one, two] = [await aReplica('one'), await aReplica('two')]
  const landing = Promise.withResolvers<Landing | null>()
  const id = jobIdOf(await one.jobs.promise(team, questionOf('prompt=x'), landing.promise))
  t.equal(bodyOf(await two.poll(id))['status'], 'pending')
  t.equal(replyOf(await two.poll(id, others)).status, 404)
  t.same(await two.jobs.interrupted(), [], 'the living keep their own')
  landing.resolve(answer)
  await until(async () => bodyOf(await two.poll(id))['status'] === 'done')
  t.strictSame(replyOf(await two.poll(id)).body, replyOf(await one.poll(id)).body)
  t.notOk(sim.requests.some(({ path }) => path === `/jobs/${id}`))
})

void t.test('a promise of a lost replica is kept by one that takes it up, and fails when none does', async (t) => {
  const { aReplica } = await aFleet(t)
  const [one, two, three] = [await aReplica('one'), await aReplica('two'), await aReplica('three')]
  const kept = jobIdOf(await one.jobs.promise(team, questionOf('prompt=x'), nobody()))
  const lost = jobIdOf(await one.jobs.promise(team, questionOf('prompt=y'), nobody()))
  await one.die()
  t.equal(bodyOf(await three.poll(lost))['status'], 'pending', 'somebody may be about to take it up')
  t.same(new Set((await two.jobs.interrupted()).map(({ id }) => id)), new Set([kept, lost]))
  const landing = Promise.withResolvers<Landing | null>()
  await two.jobs.resume(kept, landing.promise)
  t.match(await three.jobs.interrupted(), [{ id: lost, client: 'team' }])
  await three.jobs.resume(UUID_OF_NOBODY, Promise.reject(new Error('nobody waits')))

  three.clock.skip(60_000)
  t.match(bodyOf(await three.poll(lost)), { status: 'failed', error: /interrupted/ })
  t.equal(bodyOf(await two.poll(lost))['status'], 'failed')
  t.equal(bodyOf(await three.poll(kept))['status'], 'pending')
  landing.resolve(answer)
  await until(async () => bodyOf(await three.poll(kept))['status'] === 'done')
})

const UUID_OF_NOBODY = '00000000-0000-4000-8000-000000000000'

// Durable jobs

void t.test('the replica that flies is lost: the one that waits polls its job, one submit, one charge', async (t) => {
  const { sim, aReplica } = await aFleet(t)
  const [one, two] = [await aReplica('one'), await aReplica('two')]
  sim.script({ call: 'submit' }, ['pending'])
  void one.fly('prompt=x')
  await sim.received(1, { call: 'poll' })
  const waiting = two.fly('prompt=x')
  await one.die()
  const polls = callsOf(sim, 'poll')
  await sim.received(polls + 1, { call: 'poll' })
  sim.release()
  t.match((await waiting).verdict, { kind: 'answered', charge: { state: 'charged', credits: 3 } })
  t.strictSame(two.adopted, ['one'], 'its hold is given back, who asks now pays')
  t.equal(sim.ledger.entries.length, 1)
  t.strictSame(await (await aReplica('three')).durable.orphaned(), { submitted: [], lost: [] })
})

void t.test('what dead replicas left behind is taken up by one, and what the living do is left alone', async (t) => {
  const { sim, aReplica } = await aFleet(t)
  const [one, two, three] = [await aReplica('one'), await aReplica('two'), await aReplica('three')]
  sim.script({ prompt: 'x', call: 'submit' }, ['pending'])
  sim.script({ prompt: 'y', call: 'submit' }, ['hold'])
  const x = questionOf('prompt=x')
  void one.durable.ask(aQuestion(x))
  void one.durable.ask(aQuestion(questionOf('prompt=y')))
  await sim.received(1, { call: 'poll' })
  await sim.received(2, { call: 'submit' })
  t.strictSame(await two.durable.orphaned(), { submitted: [], lost: [] })
  await one.die()
  const found = await Promise.all([two.durable.orphaned(), three.durable.orphaned()])
  t.match(
    found.flatMap(({ submitted }) => submitted),
    [{ client: 'team', call: x }],
  )
  t.equal(found.flatMap(({ submitted }) => submitted).length, 1)
  t.equal(found.flatMap(({ lost }) => lost).length, 1)
  const taker = found[0].submitted.length > 0 ? two : three
  sim.release()
  t.match((await taker.durable.ask(aQuestion(x))).verdict, { kind: 'answered' })
  t.equal(sim.ledger.entries.filter(({ prompt }) => prompt === 'x').length, 1)
  t.notMatch(await three.durable.orphaned(), { submitted: [{ call: x }] })
})

void t.test('a replica that was taken for dead and is not leaves the charge to whoever took its job', async (t) => {
  const { sim, aReplica } = await aFleet(t)
  const [one, two, three] = [await aReplica('one'), await aReplica('two'), await aReplica('three')]
  sim.script({ call: 'submit' }, ['pending'])
  const x = questionOf('prompt=x')
  const slow = one.durable.ask(aQuestion(x))
  await sim.received(1, { call: 'poll' })
  await one.end()
  t.equal((await two.durable.orphaned()).submitted.length, 1)
  await two.end()
  t.equal((await three.durable.orphaned()).submitted.length, 1)
  void two.durable.ask(aQuestion(questionOf('prompt=other')))
  sim.release()
  t.match((await slow).verdict, { kind: 'answered', charge: { state: 'free' } })
  const submits = callsOf(sim, 'submit')
  void two.durable.ask(aQuestion(x))
  await sim.received(submits + 1, { call: 'submit' })
  t.match((await three.durable.ask(aQuestion(x))).verdict, { charge: { state: 'charged', credits: 3 } })
})

// Redis away

void t.test('while Redis is away each replica knows its own, and tells it when Redis is back', async (t) => {
  const { redis, sim, aReplica } = await aFleet(t)
  const [one, two] = [await aReplica('one'), await aReplica('two')]
  const before = await one.submit('prompt=x', 'before')
  await redis.kill()
  await until(() => one.shared.state === 'down' && two.shared.state === 'down')

  t.strictSame(replyOf(await one.submit('prompt=x', 'before')).body, replyOf(before).body)
  await t.rejects(one.submit('prompt=y', 'meanwhile'), { code: 'IDEMPOTENCY_UNAVAILABLE', status: 503 })
  await t.rejects(two.submit('prompt=x', 'before'), { code: 'IDEMPOTENCY_UNAVAILABLE', retryAfterMs: 2_000 })
  const meanwhile = await one.submit('prompt=y')
  t.equal(replyOf(await one.poll(jobIdOf(meanwhile), others)).status, 404)
  t.match(await two.poll(jobIdOf(meanwhile), others), { kind: 'fetched' }, 'unknown ids pass through')
  const promised = jobIdOf(await one.jobs.promise(team, questionOf('prompt=z'), nobody()))
  t.equal(bodyOf(await one.poll(promised))['status'], 'pending')
  t.same(await one.jobs.interrupted(), [])
  t.notOk(await two.session.isLost('one'), 'nobody is gone because of that')
  t.strictSame(await one.durable.orphaned(), { submitted: [], lost: [] })
  t.equal(sim.ledger.entries.length, 2)

  await redis.restart()
  await until(() => one.shared.state === 'up' && two.shared.state === 'up')
  await until(async () => bodyOf(await two.poll(promised))['status'] === 'pending')
  // Who knew nothing of it gives way to whoever did.
  await until(async () => replyOf(await two.poll(jobIdOf(meanwhile), others)).status === 404)
  t.equal(bodyOf(await two.poll(promised))['status'], 'pending')
  t.match(await one.submit('prompt=x', 'before'), { kind: 'job', idempotentReplay: true }, 'though Redis has lost it')
  t.equal(sim.ledger.entries.length, 2)
})

void t.test(
  'a store that returns empty is told again what is asked for, and what was deleted meanwhile is',
  async (t) => {
    const { redis, aReplica } = await aFleet(t)
    const [one, two] = [await aReplica('one'), await aReplica('two')]
    const record = (key: string, value: unknown) => ({ space: 's', key, value, expiresAt: one.clock.wall() + 60_000 })
    await one.store.put([record('a', 1), record('b', 2), record('c', 3)])
    await redis.ask('DEL', 't:records:{jobs}', 't:records:{jobs}:due')
    t.match(await one.store.get('s', 'a'), { value: 1 })
    await until(async () => (await two.store.get('s', 'a')) !== null)
    t.equal(await two.store.get('s', 'b'), null)

    await redis.kill()
    await until(() => one.shared.state === 'down')
    await one.store.put([record('a', null), record('b', 20)])
    t.equal(await one.store.get('s', 'a'), null)
    t.strictSame(new Map(await one.store.list('s')), new Map(Object.entries({ b: 20, c: 3 })))
    const read = await one.store.get('s', 'b')
    t.match(await one.store.swap(record('b', 21), null), { kind: 'other', there: { value: 20 } })
    t.match(await one.store.swap(record('b', 21), read?.revision ?? ''), { kind: 'written' })
    await redis.restart()
    await until(() => one.shared.state === 'up')
    t.strictSame(new Map(await one.store.list('s')).get('b'), 21, 'also before it is there')
    await until(async () => (await two.store.get('s', 'b'))?.value === 21)
    t.equal(await two.store.get('s', 'a'), null)
  },
)

void t.test('a claim whose reply was lost is withdrawn, so that the key is free for everybody', async (t) => {
  const { redis, aReplica } = await aFleet(t)
  const two = await aReplica('two')
  const records = createSharedRecords(two.shared, two.clock)
  let losing = true
  const store = createSharedJobStore(
    {
      ...records,
      async swap(record, revision, others) {
        const said = await records.swap(record, revision, others)
        return losing ? { kind: 'away', sent: true } : said
      },
    },
    two.clock,
  )
  t.teardown(() => store.close())
  const claim = { space: 's', key: 'k', value: { claim: 'one' }, expiresAt: two.clock.wall() + 60_000 }
  t.strictSame(await store.claim(claim), { kind: 'away' })
  t.match(await two.store.get('s', 'k'), { value: { claim: 'one' } }, 'it did arrive')
  losing = false
  two.clock.skip(1_000)
  await until(async () => (await two.store.get('s', 'k')) === null)
  t.strictSame(await store.claim({ ...claim, value: { claim: 'two' } }), { kind: 'written' })
  t.match(await store.claim({ ...claim, value: { claim: 'three' } }), { kind: 'other' }, 'known without asking')
  await redis.kill()
  await until(() => two.shared.state === 'down')
  t.match(await store.claim({ ...claim, value: { claim: 'three' } }), { kind: 'other' })
})

void t.test('what is remembered for a store that is away is bounded, and ends when it is closed', async (t) => {
  const clock = elasticClock()
  const away = async () => ({ kind: 'away', sent: false }) as const
  const store = createSharedJobStore({ put: away, get: away, list: away, swap: away }, clock, 3)
  await store.put([1, 2, 3, 4].map((n) => ({ space: 's', key: String(n), value: n, expiresAt: null })))
  t.strictSame(
    (await store.list('s')).map(([key]) => key),
    ['2', '3', '4'],
  )
  store.close()
  clock.skip(60_000)
  await store.put([{ space: 's', key: '5', value: 5, expiresAt: null }])
  t.match(await store.get('s', '5'), { value: 5 })
})

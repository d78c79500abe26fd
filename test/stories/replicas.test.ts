/** Several replicas share their calls: real processes, a real redis-server. The simulator's ledger has the last word. */
import t from 'tap'
import { aFleet, callsFor, TEAM } from '../support/fleet.ts'
import { request } from '../support/proxy.ts'
import { startRedis, until } from '../support/redis.ts'

/** Long enough for a busy machine to have made the call before it is over. */
const PATIENCE_S = '3'

void t.test('an answer paid for by one replica is free on all; a purge reaches all', async (t) => {
  const redis = await startRedis(t)
  const { ask, sim, replicas } = await aFleet(t, 2, [`redis.url=${redis.url}`])
  const paid = await ask(0, 'q')
  t.equal(paid.headers['x-proxy-credits'], '3')
  const free = await ask(1, 'q')
  t.match(free.headers['cache-status'], /^scrapellm-proxy; hit; ttl=\d+; detail=redis$/)
  t.equal(free.json['result'], paid.json['result'])
  t.match((await ask(1, 'q')).headers['cache-status'], /detail=memory/)
  await request(undefined, `${replicas[1]?.adminUrl}/cache/purge`, { method: 'POST', body: '{"prompt":"q"}' })
  await until(async () => callsFor(sim, 'q') === 2 || (await ask(0, 'q'), callsFor(sim, 'q') === 2))
  t.equal(callsFor(sim, 'q'), 2)
})

void t.test('3 replicas, 1,000 identical requests at once: one upstream call, 3 credits, all answered', async (t) => {
  const redis = await startRedis(t)
  const { ask, sim } = await aFleet(t, 3, [`redis.url=${redis.url}`])
  sim.script({ prompt: 'q' }, ['hold'])
  const answers = Array.from({ length: 1_000 }, (_, index) => ask(index, 'q'))
  await sim.received(1)
  // What is asked after them on each replica is answered: so they are all in.
  await Promise.all([0, 1, 2].map((replica) => ask(replica, `barrier ${replica}`)))
  sim.release()
  const all = await Promise.all(answers)
  t.equal(all.filter(({ status }) => status === 200).length, 1_000)
  t.equal(
    all.reduce((sum, { headers }) => sum + Number(headers['x-proxy-credits']), 0),
    3,
  )
  t.equal(callsFor(sim, 'q'), 1)
  t.equal(sim.ledger.total(), 12)
})

void t.test(
  'a caller of one replica runs out of patience: those of the others get the answer of the same call',
  async (t) => {
    const redis = await startRedis(t)
    const { ask, sim } = await aFleet(t, 2, [`redis.url=${redis.url}`])
    sim.script({ prompt: 'q' }, ['hold'])
    const impatient = ask(0, 'q', { 'x-request-timeout': PATIENCE_S })
    await sim.received(1, { prompt: 'q' })
    const patient = ask(1, 'q')
    t.match(await impatient, { status: 504, headers: { 'x-proxy-code': 'DEADLINE_EXCEEDED', 'x-proxy-credits': '3' } })
    await ask(1, 'barrier')
    sim.release()
    t.match(await patient, { status: 200, headers: { 'x-proxy-credits': '0' } })
    t.equal(callsFor(sim, 'q'), 1)

    sim.script({ prompt: 'fails' }, [{ kind: 'hold', next: '503' }, '200'])
    const first = ask(0, 'fails', { 'x-request-timeout': PATIENCE_S })
    await sim.received(1, { prompt: 'fails' })
    const follower = ask(1, 'fails')
    t.match(await first, { status: 504 })
    await ask(1, 'another barrier')
    sim.release()
    t.match(await follower, { status: 200, headers: { 'x-proxy-attempts': '1', 'x-proxy-credits': '3' } })
    t.equal(callsFor(sim, 'fails'), 2, 'the replica that still has a waiting caller tries again')
  },
)

void t.test(
  'a replica is killed during calls: clients of the others are answered, and each question is paid for at most once more',
  async (t) => {
    const redis = await startRedis(t)
    const { ask, sim, replicas } = await aFleet(t, 3, [`redis.url=${redis.url}`])
    const prompts = Array.from({ length: 200 }, (_, index) => `question ${index}`)
    for (const prompt of prompts) sim.script({ prompt }, ['hold'])
    const asked = prompts.flatMap((prompt, index) =>
      Array.from({ length: 5 }, (_, waiter) => {
        const replica = (index + waiter) % 3
        return { replica, answer: ask(replica, prompt).catch(() => null) }
      }),
    )
    await sim.received(200)
    const first = sim.requests.length
    replicas[0]?.signal('SIGKILL')
    await replicas[0]?.ended
    const releasing = setInterval(() => sim.release(), 50)
    const survivors = await Promise.all(asked.filter(({ replica }) => replica !== 0).map(({ answer }) => answer))
    clearInterval(releasing)
    const others = survivors.filter((answer) => answer?.status !== 200)
    t.strictSame(
      others.map((answer) => `${answer?.status} ${String(answer?.headers['x-proxy-code'])}`),
      [],
    )
    t.ok(sim.requests.length <= first + 200, `${sim.requests.length} calls`)
    for (const prompt of prompts)
      if (callsFor(sim, prompt) > 2) t.fail(`${prompt} was asked ${callsFor(sim, prompt)} times`)
  },
)

void t.test(
  'durable: the replica that submitted a job is killed, and another resumes it; one submission',
  async (t) => {
    const redis = await startRedis(t)
    const { ask, sim, replicas } = await aFleet(t, 2, [`redis.url=${redis.url}`, 'jobs.execution=durable'])
    sim.script({ prompt: 'q', call: 'submit' }, ['pending'])
    const lost = ask(0, 'q').catch(() => null)
    await sim.received(1, { call: 'poll' })
    const other = ask(1, 'q')
    replicas[0]?.signal('SIGKILL')
    await replicas[0]?.ended
    t.equal(await lost, null)
    const before = sim.requests.filter(({ call }) => call === 'poll').length
    await sim.received(before + 1, { call: 'poll' })
    sim.release()
    t.equal((await other).status, 200)
    t.equal(sim.requests.filter(({ call }) => call === 'submit').length, 1)
    t.equal(sim.ledger.total(), 3)
  },
)

void t.test(
  'durable: the replica that submitted has to go, who waits there is told, another one has the answer: one bill',
  async (t) => {
    const redis = await startRedis(t)
    const sets = [
      `redis.url=${redis.url}`,
      'jobs.execution=durable',
      'shutdown.grace=0s',
      'clients.team.credits.perDay=30',
    ]
    const { ask, sim, replicas } = await aFleet(t, 2, sets)
    sim.script({ call: 'submit' }, ['pending'])
    const open = ask(0, 'long', TEAM)
    await sim.received(1, { call: 'poll' })
    replicas[0]?.signal('SIGTERM')
    t.match(await open, { status: 503, headers: { 'x-proxy-code': 'SHUTTING_DOWN' } })
    t.match(await replicas[0]?.ended, { code: 0 })
    sim.release()
    t.match(await ask(1, 'long', TEAM), { status: 200 })
    t.equal(sim.requests.filter(({ call }) => call === 'submit').length, 1)
    t.equal(sim.ledger.total(), 3)
    const { budgets } = (await request(undefined, `${replicas[1]?.adminUrl}/status`)).json as {
      budgets: { client: string; held: number; spent: number }[]
    }
    t.match(
      budgets.filter(({ client }) => client === 'team'),
      [{ spent: 3 }],
    )
  },
)

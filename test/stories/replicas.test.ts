/** Several replicas, one Redis: real processes, a real redis-server, and all that befalls them. The simulator's ledger has the last word. */
import http from 'node:http'
import t, { type Test } from 'tap'
import { createSimulator, instant, type Simulator } from '../../src/simulator/simulator.ts'
import { startProxy, type Running } from '../support/process.ts'
import { request, type Answer } from '../support/proxy.ts'
import { startCluster, startRedis, startSentinels, until } from '../support/redis.ts'

const TEAM = { 'x-api-key': 'team-token-0123456789' }
const CLIENTS = ['clients.anonymous={}', 'clients.team.token=team-token-0123456789']
const PATIENT_BREAKER = 'breaker={ consecutive: 10000, failureRate: 1, window: 10000, minimum: 10000, hold: 0s }'

interface Fleet {
  readonly sim: Simulator
  readonly replicas: readonly Running[]
  /** Asks the replica of that number, counted round. */
  readonly ask: (replica: number, prompt: string, headers?: Record<string, string>) => Promise<Answer>
}

async function aFleet(t: Test, size: number, sets: readonly string[]): Promise<Fleet> {
  const sim = createSimulator({ latency: instant })
  const { url } = await sim.start()
  t.teardown(() => sim.close())
  const all = ['log.level=warn', 'upstream.maxConcurrent=2000', ...CLIENTS, ...sets]
  const quiet = all.map((set) => (set === 'log.level=warn' ? 'log.level=info' : set))
  const replicas = await Promise.all(Array.from({ length: size }, () => startProxy(t, url, quiet)))
  await Promise.all(replicas.map((replica) => replica.saw(/"msg":"redis is up"/)))
  const agent = new http.Agent({ keepAlive: true, maxSockets: 400 })
  t.teardown(() => agent.destroy())

  function ask(replica: number, prompt: string, headers: Record<string, string> = {}): Promise<Answer> {
    const { url } = replicas[replica % size] as Running
    return request(agent, `${url}/scrapers/chatgpt?${new URLSearchParams({ prompt }).toString()}`, { headers })
  }

  return { sim, replicas, ask }
}

function callsFor(sim: Simulator, prompt: string): number {
  return sim.requests.filter((one) => one.prompt === prompt).length
}

void t.test('an answer that one replica has paid for is free on all, and a purge reaches all', async (t) => {
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

void t.test('3 replicas, 1,000 identical questions at once: one upstream call, 3 credits, all answered', async (t) => {
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
    const impatient = ask(0, 'q', { 'x-request-timeout': '0.5' })
    await sim.received(1, { prompt: 'q' })
    const patient = ask(1, 'q')
    t.match(await impatient, { status: 504, headers: { 'x-proxy-code': 'DEADLINE_EXCEEDED', 'x-proxy-credits': '3' } })
    await ask(1, 'barrier')
    sim.release()
    t.match(await patient, { status: 200, headers: { 'x-proxy-credits': '0' } })
    t.equal(callsFor(sim, 'q'), 1)

    sim.script({ prompt: 'fails' }, [{ kind: 'hold', next: '503' }, '200'])
    const first = ask(0, 'fails', { 'x-request-timeout': '0.5' })
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
  'a replica is killed in the middle: who asked the others is answered, and no question is paid more than once more',
  async (t) => {
    const redis = await startRedis(t)
    const { ask, sim, replicas } = await aFleet(t, 3, [`redis.url=${redis.url}`])
    const prompts = Array.from({ length: 200 }, (_, index) => `question ${index}`)
    for (const prompt of prompts) sim.script({ prompt }, ['hold'])
    const asked = prompts.flatMap((prompt, index) =>
      Array.from({ length: 5 }, (_, asker) => {
        const replica = (index + asker) % 3
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
    t.equal(survivors.filter((answer) => answer?.status === 200).length, survivors.length)
    t.ok(sim.requests.length <= first + 200, `${sim.requests.length} calls`)
    for (const prompt of prompts)
      if (callsFor(sim, prompt) > 2) t.fail(`${prompt} was asked ${callsFor(sim, prompt)} times`)
  },
)

void t.test('durable: the replica that submitted is killed, another one takes up the job: one submit', async (t) => {
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
})

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

void t.test('a budget of 1,000 credits over 4 replicas and 200 workers: exactly 999 are spent', async (t) => {
  const redis = await startRedis(t)
  const { ask, sim } = await aFleet(t, 4, [
    `redis.url=${redis.url}`,
    // On a busy machine a reply may take longer than the 250 ms that are usual: that is not what is asked here.
    'redis.timeout=3s',
    'clients.team.credits.perDay=1000',
    PATIENT_BREAKER,
  ])
  let question = 0
  let refusals = 0
  async function work(worker: number): Promise<void> {
    while (refusals < 200) {
      const prompt = `question ${(question += 1)}`
      if (question % 5 === 0) sim.script({ prompt }, ['503'])
      const answer = await ask(worker, prompt, TEAM)
      if (answer.headers['x-proxy-code'] === 'BUDGET_EXHAUSTED') refusals += 1
    }
  }
  await Promise.all(Array.from({ length: 200 }, (_, worker) => work(worker)))
  // What was held for calls that failed, when the last worker was refused, is there again.
  await sim.idle()
  for (let worker = 0, inARow = 0; inARow < 8; worker += 1) {
    const answer = await ask(worker, `question ${(question += 1)}`, TEAM)
    inARow = answer.headers['x-proxy-code'] === 'BUDGET_EXHAUSTED' ? inARow + 1 : 0
  }
  t.equal(sim.ledger.total(), 999)
})

void t.test(
  'Redis hangs, dies and returns empty: no failure because of it, no overspending, and sharing comes back',
  async (t) => {
    const redis = await startRedis(t)
    const { ask, sim, replicas } = await aFleet(t, 2, [`redis.url=${redis.url}`, 'clients.team.credits.perDay=3000'])
    const answers: Answer[] = []
    let question = 0
    const load = { isOver: false }
    async function keepAsking(worker: number): Promise<void> {
      while (!load.isOver) answers.push(await ask(worker, `question ${(question += 1)}`))
    }
    const loading = Promise.all(Array.from({ length: 8 }, (_, worker) => keepAsking(worker)))
    await sim.received(50)
    redis.pause()
    await Promise.all(replicas.map((replica) => replica.saw(/"msg":"redis lost"/)))
    await sim.received(sim.requests.length + 50)
    t.equal((await ask(0, 'known')).status, 200)
    t.match((await ask(0, 'known')).headers['cache-status'], /hit/)
    redis.resume()
    await Promise.all(replicas.map((replica) => replica.saw(/redis lost[^]*redis is up/)))
    await redis.kill()
    await Promise.all(replicas.map((replica) => replica.saw(/redis lost[^]*redis is up[^]*redis lost/)))
    await sim.received(sim.requests.length + 50)
    await redis.restart()
    await Promise.all(replicas.map((replica) => replica.saw(/redis lost[^]*redis is up[^]*redis lost[^]*redis is up/)))
    load.isOver = true
    await loading
    t.same([...new Set(answers.map(({ status }) => status))], [200])
    let round = 0
    await until(async () => {
      const prompt = `shared again ${(round += 1)}`
      await ask(0, prompt)
      return (await ask(1, prompt)).headers['x-proxy-credits'] === '0'
    })
    t.ok(round < 100, `shared again at question ${round}`)
  },
)

void t.test(
  'money while Redis hangs: only the allowance that was taken in advance, known answers still come',
  async (t) => {
    const redis = await startRedis(t)
    const { ask, sim, replicas } = await aFleet(t, 2, [`redis.url=${redis.url}`, 'clients.team.credits.perDay=300'])
    await ask(0, 'known', TEAM)
    await ask(1, 'known too', TEAM)
    redis.pause()
    const before = sim.ledger.total()
    let refused: Answer | null = null
    for (let index = 0; index < 40 && !refused; index++) {
      const answer = await ask(index, `question ${index}`, TEAM)
      if (answer.status !== 200) refused = answer
    }
    t.match(refused, { status: 503, headers: { 'retry-after': /\d/ } })
    t.ok(sim.ledger.total() - before <= 12, `${sim.ledger.total() - before} credits without Redis`)
    t.equal((await ask(0, 'known', TEAM)).status, 200)
    redis.resume()
    await Promise.all(replicas.map((replica) => replica.saw(/redis lost[^]*redis is up/)))
    t.equal((await ask(0, 'after', TEAM)).status, 200)
  },
)

void t.test('through Sentinels, and in a cluster', async (t) => {
  const trio = await startSentinels(t)
  const urls = trio.urls.map((url) => JSON.stringify(url)).join(', ')
  const nodes = (await startCluster(t)).map(({ url }) => JSON.stringify(url)).join(', ')
  for (const place of [`redis.sentinel={ urls: [${urls}], name: slp }`, `redis.cluster=[${nodes}]`]) {
    const { ask, sim } = await aFleet(t, 2, [
      place,
      'clients.team.credits.perDay=9',
      'clients.team.rate={ limit: 100, per: 1m }',
    ])
    sim.script({ prompt: 'q' }, ['hold'])
    const both = [ask(0, 'q', TEAM), ask(1, 'q', TEAM)]
    await sim.received(1)
    await Promise.all([ask(0, 'barrier 0'), ask(1, 'barrier 1')])
    sim.release()
    for (const { status } of await Promise.all(both)) t.equal(status, 200, place)
    t.equal(callsFor(sim, 'q'), 1, place)
    t.equal((await ask(1, 'two', TEAM)).status, 200)
    t.equal((await ask(0, 'three', TEAM)).status, 200)
    t.match(await ask(1, 'four', TEAM), { status: 429, json: { code: 'BUDGET_EXHAUSTED' } }, place)
  }
})

/** Several replicas and what befalls their Redis: real processes, a real redis-server. The simulator's ledger has the last word. */
import t from 'tap'
import { aFleet, callsFor, TEAM } from '../support/fleet.ts'
import type { Answer } from '../support/proxy.ts'
import { startCluster, startRedis, startSentinels, until } from '../support/redis.ts'

const PATIENT_BREAKER = 'breaker={ consecutive: 10000, failureRate: 1, window: 10000, minimum: 10000, hold: 0s }'

void t.test('4 replicas, 200 workers, a budget of 1,000 credits: exactly 999 are spent', async (t) => {
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
  'Redis hangs, dies and comes back empty: no request fails, nothing is overspent, and sharing resumes',
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

void t.test('while Redis hangs, only credits leased in advance are spent; cached answers are served', async (t) => {
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
})

void t.test('works with Redis Sentinel and Redis Cluster', async (t) => {
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

/**
 * What each kind of trouble with Redis costs: real proxy processes, a real redis-server, and a line between them that can be cut. The
 * ledger of the simulator decides. These are the rows of the table in docs/several-replicas.md.
 */
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createSimulator, instant, type Simulator } from '../../src/simulator/simulator.ts'
import { startFaultProxy } from '../support/fault-proxy.ts'
import { type Running, startProxy } from '../support/process.ts'
import { type Answer, type Asking, request } from '../support/proxy.ts'
import { startRedis, until } from '../support/redis.ts'

const TOKEN = 'team-token-0123456789'
const TEAM = { 'x-api-key': TOKEN }
const CLIENTS = ['clients.anonymous={}', `clients.team.token=${TOKEN}`]

async function aSimulator(t: Test): Promise<Simulator & { readonly url: string }> {
  const sim = createSimulator({ latency: instant })
  const { url } = await sim.start()
  t.teardown(() => sim.close())
  return Object.assign(sim, { url })
}

async function aReplica(
  t: Test,
  upstream: string,
  redisUrl: string,
  sets: readonly string[] = [],
  environment: Readonly<Record<string, string>> = {},
): Promise<Running> {
  const all = [`redis.url=${redisUrl}`, ...CLIENTS, ...sets]
  const replica = await startProxy(t, upstream, all, { SCRAPELLM_API_KEY: 'upstream-key-of-the-tests', ...environment })
  await replica.saw(/"msg":"redis is up"/)
  return replica
}

function send({ url }: Running, path: string, asking: Asking = {}): Promise<Answer> {
  return request(undefined, url + path, asking)
}

function ask(replica: Running, prompt: string, headers: Record<string, string> = {}): Promise<Answer> {
  return send(replica, `/scrapers/chatgpt?${new URLSearchParams({ prompt }).toString()}`, { headers })
}

function submit(replica: Running, prompt: string, key: string): Promise<Answer> {
  const headers = { ...TEAM, 'idempotency-key': key }
  const query = new URLSearchParams({ prompt }).toString()
  return send(replica, `/scrapers/chatgpt/jobs?${query}`, { method: 'POST', headers })
}

async function metric({ adminUrl }: Running, name: string): Promise<number> {
  const { text } = await request(undefined, `${adminUrl}/metrics`)
  return Number(new RegExp(`^scrapellm_proxy_${name} (\\S+)$`, 'm').exec(text)?.[1])
}

void t.test('M3: a Redis that refuses writes is reported as such, and still read', async (t) => {
  const sim = await aSimulator(t)
  const ways = [
    { set: ['CONFIG', 'SET', 'maxmemory', '1'], undo: ['CONFIG', 'SET', 'maxmemory', '0'], word: 'OOM' },
    {
      set: ['ACL', 'SETUSER', 'default', '-@scripting'],
      undo: ['ACL', 'SETUSER', 'default', '+@scripting'],
      word: 'NOPERM',
    },
    { set: ['REPLICAOF', '127.0.0.1', '1'], undo: ['REPLICAOF', 'NO', 'ONE'], word: 'READONLY' },
  ]
  for (const { set, undo, word } of ways) {
    const redis = await startRedis(t)
    const one = await aReplica(t, sim.url, redis.url, ['clients.team.credits.perDay=300'])
    const two = await aReplica(t, sim.url, redis.url, ['clients.team.credits.perDay=300'])
    t.equal((await ask(one, `known ${word}`, TEAM)).status, 200)
    // The answer is written behind the one that the client got.
    await until(async () => /slp:c\w+:{/.test(await redis.ask('KEYS', '*')))
    await redis.ask(...set)
    const before = sim.ledger.total()
    let refused: Answer | null = null
    for (let index = 0; index < 40 && !refused; index++) {
      const answer = await ask(one, `${word} ${index}`, TEAM)
      if (answer.status !== 200) refused = answer
    }
    t.match(refused, { status: 503, headers: { 'x-proxy-code': 'BUDGET_UNAVAILABLE', 'retry-after': /^\d+$/ } }, word)
    t.ok(sim.ledger.total() - before <= 50, `${sim.ledger.total() - before} credits without Redis`)

    await one.saw(new RegExp(`"word":"${word}".*"msg":"redis refuses writes"`))
    // It may be connecting again, in the hope of a master.
    await until(async () => (await metric(one, 'redis_refuses_writes')) === 1)
    t.equal(await metric(one, 'redis_up'), 0)
    const { json } = await request(undefined, `${one.adminUrl}/status`)
    t.match(json, { redis: 'refusing', health: { state: 'degraded', because: [/Redis refuses writes/] } })
    // The list of purges is read by a script, and without that list no answer is served.
    if (word !== 'NOPERM') {
      // It may be connecting again as well, and nothing is read in that moment.
      let known: Answer | null = null
      await until(async () => {
        known = await ask(two, `known ${word}`, { ...TEAM, 'cache-control': 'only-if-cached' })
        return known.status === 200
      })
      t.match((known as Answer | null)?.headers, { 'cache-status': /; hit; .*detail=redis/ }, 'still read')
    }

    await redis.ask(...undo)
    await one.saw(/redis refuses writes[^]*"msg":"redis is up"/)
    await until(async () => (await metric(one, 'redis_up')) === 1)
    t.equal(await metric(one, 'redis_refuses_writes'), 0)
  }
})

void t.test('M4: one upstream call, whatever Redis does for a moment during it', async (t) => {
  const sim = await aSimulator(t)
  const redis = await startRedis(t)
  const lines = await Promise.all([1, 2, 3].map(() => startFaultProxy(t, redis.port)))
  const replicas = await Promise.all(lines.map(({ url }) => aReplica(t, sim.url, url)))
  const blinks: Readonly<Record<string, () => Promise<void>>> = {
    'CLIENT KILL': async () => void (await redis.ask('CLIENT', 'KILL', 'TYPE', 'normal')),
    'a reset': async () => {
      for (const line of lines) line.reset()
    },
    'a restart, empty': async () => {
      await redis.kill()
      await redis.restart()
    },
    'a stall of 800 ms': async () => {
      redis.pause()
      await new Promise((resolve) => setTimeout(resolve, 800))
      redis.resume()
    },
  }
  for (const [blink, happens] of Object.entries(blinks)) {
    const ups = replicas.map((replica) => countOf(replica, 'redis is up'))
    sim.script({ prompt: blink }, ['hold'])
    const answers = replicas.map((replica) => ask(replica, blink))
    await sim.received(1, { prompt: blink })
    // Each replica has looked whose call it is when it has answered a question that came behind.
    await Promise.all(replicas.map((replica, index) => ask(replica, `${blink}, barrier ${index}`)))
    await happens()
    await Promise.all(
      replicas.map((replica, index) =>
        until(async () => {
          const isUp = (await metric(replica, 'redis_up')) === 1
          // It may not even have been noticed.
          return isUp && (blink === 'a stall of 800 ms' || countOf(replica, 'redis is up') > (ups[index] ?? 0))
        }),
      ),
    )
    // Those who follow listen again, are told to look, and have looked when a question behind that is answered.
    for (let turn = 1; turn <= 2; turn++) {
      let channel = ''
      await until(async () => {
        channel = /slp:flight:[\w-]+/.exec(await redis.ask('PUBSUB', 'CHANNELS', 'slp:flight:*'))?.[0] ?? ''
        return (await redis.ask('PUBSUB', 'NUMSUB', channel)).endsWith(':2\r\n')
      })
      await redis.ask('PUBLISH', channel, 'look')
      await Promise.all(replicas.map((replica, index) => ask(replica, `${blink}, barrier ${turn}.${index}`)))
    }
    sim.release()
    const all = await Promise.all(answers)
    t.strictSame(
      all.map(({ status }) => status),
      [200, 200, 200],
      blink,
    )
    t.equal(sim.requests.filter(({ prompt }) => prompt === blink).length, 1, `${blink}: one call`)
    t.equal(
      all.reduce((sum, { headers }) => sum + Number(headers['x-proxy-credits']), 0),
      3,
    )
  }
})

function countOf(replica: Running, msg: string): number {
  return replica.lines().filter((line) => line['msg'] === msg).length
}

void t.test("M7: an answer stored by a replica with a wrong clock is fresh for at most the reader's ttl", async (t) => {
  const sim = await aSimulator(t)
  const redis = await startRedis(t)
  const folder = t.testdir({ ahead: String(2 * 3_600_000), behind: String(-2 * 3_600_000) })
  const preload = new URL('../faults/clock-step.ts', import.meta.url).href
  const ttl = 4
  const sets = [`cache.ttl=${ttl}s`, 'cache.staleIfError=0s']
  const right = await aReplica(t, sim.url, redis.url, sets)
  for (const way of ['ahead', 'behind']) {
    const wrong = await aReplica(t, sim.url, redis.url, sets, {
      CLOCK_OFFSET_FILE: join(folder, way),
      NODE_OPTIONS: `${process.env['NODE_OPTIONS'] ?? ''} --import ${preload}`,
    })
    wrong.signal('SIGUSR2')
    await wrong.saw(/"msg":"clock stepped"/)
    for (const [payer, waiter] of [
      [wrong, right],
      [right, wrong],
    ] as const) {
      const prompt = `${way} ${payer === wrong ? 'pays' : 'asks'}`
      t.equal((await ask(payer, prompt)).headers['x-proxy-credits'], '3')
      let free = 0
      await until(async () => {
        const { headers } = await ask(waiter, prompt)
        const left = Number(/; hit; ttl=(-?\d+)/.exec(String(headers['cache-status']))?.[1] ?? 0)
        if (left > ttl) t.fail(`${prompt}: fresh for ${left} s`)
        const isFree = headers['x-proxy-credits'] === '0'
        if (isFree) free += 1
        return !isFree
      })
      t.ok(free > 0, `${prompt}: free ${free} times, then paid for again`)
      t.equal((await ask(payer, prompt)).headers['x-proxy-credits'], '0', 'the newer answer is kept for all')
    }
  }
})

void t.test('M5: an Idempotency-Key is refused while Redis is away, and never charged twice', async (t) => {
  const redis = await startRedis(t)
  const sim = await aSimulator(t)
  const one = await aReplica(t, sim.url, redis.url)
  const line = await startFaultProxy(t, redis.port)
  const two = await aReplica(t, sim.url, line.url)
  for (const [round, cut] of [line.blackhole, line.refuse, line.blackhole, line.refuse, line.reset].entries()) {
    const key = `order-${round}`
    const first = await submit(one, key, key)
    t.equal(first.status, 202)
    cut()
    const meanwhile = await submit(two, key, key)
    if (meanwhile.status === 503) {
      t.match(meanwhile.headers, { 'x-proxy-code': 'IDEMPOTENCY_UNAVAILABLE', 'retry-after': /^\d+$/ })
    } else {
      t.match(meanwhile, { status: 202, headers: { 'idempotent-replayed': 'true' } })
    }
    line.heal()
    await until(async () => (await submit(two, key, key)).status === 202)
    const again = await submit(two, key, key)
    t.equal(again.json['job_id'], first.json['job_id'])
    // A key that nobody has used is free, also when its claim was sent and the reply was lost.
    const fresh = `fresh-${round}`
    line.blackhole()
    t.equal((await submit(two, fresh, fresh)).status, 503)
    line.heal()
    await until(async () => (await submit(two, fresh, fresh)).status === 202)
    t.match(await submit(one, fresh, fresh), { status: 202, headers: { 'idempotent-replayed': 'true' } })
  }
  t.equal(sim.requests.filter(({ call }) => call === 'submit').length, 10)
  t.equal(sim.ledger.total(), 30)
})

/** Asks the replicas in turn until each of them says that the budget is used up. */
async function askUntilSpent(replicas: readonly Running[]): Promise<void> {
  let question = 0
  for (let inARow = 0; inARow < 2 * replicas.length;) {
    const replica = replicas[(question += 1) % replicas.length] as Running
    const { headers } = await ask(replica, `until it is spent ${question}`, TEAM)
    inARow = headers['x-proxy-code'] === 'BUDGET_EXHAUSTED' ? inARow + 1 : 0
  }
}

void t.test('M1: a failover to a standby that lacks the last calls of a replica overspends no budget', async (t) => {
  const sim = await aSimulator(t)
  const master = await startRedis(t)
  const standby = await startRedis(t, ['--replicaof', '127.0.0.1', String(master.port)])
  const lines = [await startFaultProxy(t, master.port), await startFaultProxy(t, master.port)] as const
  const [one, two] = await Promise.all([
    aReplica(t, sim.url, lines[0].url, ['clients.team.credits.perDay=90']),
    aReplica(t, sim.url, lines[1].url, ['clients.team.credits.perDay=90']),
  ])
  await ask(one, 'first of one', TEAM)
  await ask(two, 'first of two', TEAM)
  await until(async () => {
    const [at, to] = await Promise.all([master, standby].map((redis) => redis.ask('INFO', 'replication')))
    return offset(at) === offset(to)
  })
  await standby.ask('REPLICAOF', 'NO', 'ONE')
  for (let call = 1; call <= 15; call++) t.equal((await ask(one, `forgotten ${call}`, TEAM)).status, 200)

  one.signal('SIGSTOP')
  await master.kill()
  for (const line of lines) line.lead(standby.port)
  for (let call = 1; call <= 30; call++) await ask(two, `meanwhile ${call}`, TEAM)
  one.signal('SIGCONT')
  await askUntilSpent([one, two])
  t.equal(sim.ledger.total(), 90)
  for (const { adminUrl } of [one, two]) {
    await until(async () => {
      const { json } = await request(undefined, `${adminUrl}/status`)
      const { left, spent } = (json as { budgets: { left: number; spent: number }[] }).budgets[0] ?? {}
      return left === 0 && spent === 90
    })
  }
})

function offset(replication = ''): string {
  return /master_repl_offset:(\d+)/.exec(replication)?.[1] ?? 'none'
}

void t.test(
  'M10: what killed replicas held is spent by the others, to the last credit, and a correction gives back more',
  async (t) => {
    const sim = await aSimulator(t)
    const redis = await startRedis(t)
    const [survivor, ...others] = await Promise.all(
      [0, 1, 2].map(() => aReplica(t, sim.url, redis.url, ['clients.team.credits.perDay=150'])),
    )
    if (!survivor) return
    for (const [index, other] of others.entries()) {
      t.equal((await ask(other, `of ${index}`, TEAM)).status, 200)
      other.signal('SIGKILL')
      await other.ended
    }
    await askUntilSpent([survivor])
    t.equal(sim.ledger.total(), 150)

    const correction = { method: 'POST', body: '{"spent": 100}' }
    const { json } = await request(undefined, `${survivor.adminUrl}/clients/team/credits`, correction)
    t.match(json, { client: 'team', spent: 100 })
    t.equal((await ask(survivor, 'of a corrected budget', TEAM)).status, 200)
  },
)

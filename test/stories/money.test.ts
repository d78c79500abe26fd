/** What things cost: budgets under concurrency, what survives a crash, jobs, refreshed and rescued answers, purging. */
import { join } from 'node:path'
import { writeFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { createSimulator, instant, type SimulatorOptions } from '../../src/simulator/simulator.ts'
import type { Step } from '../../src/simulator/step.ts'
import { startProxy, type Running } from '../support/process.ts'
import { aProxy, request, type Answer } from '../support/proxy.ts'
import { seededRandom } from '../support/world.ts'

const TEAM = { headers: { 'x-api-key': 'team-token-0123456789' } }

function team(credits: string): string {
  return `
clients:
  anonymous: {}
  team: { token: team-token-0123456789, credits: ${credits} }
breaker: { consecutive: 10000, failureRate: 1, window: 10000, minimum: 10000, hold: 0s }
`
}

async function aSimulator(t: Test, options: SimulatorOptions = {}) {
  const sim = createSimulator({ latency: instant, ...options })
  const { url } = await sim.start()
  t.teardown(() => sim.close())
  return { sim, url }
}

function askOf(proxy: Running): (path: string, headers?: Record<string, string>) => Promise<Answer> {
  return (path, headers = {}) => request(undefined, proxy.url + path, { headers })
}

void t.test(
  '64 workers on a budget of 1,000 credits, with failures and disconnects: exactly 999 are spent',
  async (t) => {
    const free: Step[] = ['503', '500', '408', '429-queue', '504', '429-rate']
    const { ask, sim, admin } = await aProxy(t, team('{ perDay: 1000 }'))
    const random = seededRandom(11)
    let question = 0
    const refused: Answer[] = []

    async function work(): Promise<void> {
      while (refused.length < 64) {
        const prompt = `question ${(question += 1)}`
        if (random.next() < 0.3) sim.script({ prompt }, [free[Math.floor(random.next() * free.length)] ?? '503'])
        const hangUp = new AbortController()
        const asking = ask(prompt, { ...TEAM, signal: hangUp.signal })
        if (random.next() < 0.1) setImmediate(() => hangUp.abort())
        const answer = await asking.catch(() => null)
        if (answer?.headers['x-proxy-code'] === 'BUDGET_EXHAUSTED') refused.push(answer)
      }
    }

    await Promise.all(Array.from({ length: 64 }, work))
    await sim.idle()
    t.equal(sim.ledger.total(), 999)
    t.match(refused[0], { status: 429, headers: { 'retry-after': /^\d+$/ }, json: { detail: /resets|set aside/ } })
    const status = (await admin('/status')).json
    t.match(JSON.stringify(status), /"spent":999/)
  },
)

void t.test('connection resets and truncated answers never overspend a budget', async (t) => {
  const { ask, sim, metric } = await aProxy(t, team('{ perDay: 300 }'))
  const unclear: Step[] = ['reset-after-charge', 'reset-before-charge', 'truncated', 'not-json', '503', '200']
  const random = seededRandom(5)
  let question = 0
  let refusals = 0

  async function work(): Promise<void> {
    while (refusals < 64) {
      const prompt = `question ${(question += 1)}`
      sim.script({ prompt }, [unclear[Math.floor(random.next() * unclear.length)] ?? '200'])
      const answer = await ask(prompt, TEAM)
      if (answer.headers['x-proxy-code'] === 'BUDGET_EXHAUSTED') refusals += 1
    }
  }

  await Promise.all(Array.from({ length: 64 }, work))
  t.ok(sim.ledger.total() <= 300, `${sim.ledger.total()} were charged`)
  const spent = Object.values(await metric('credits_spent_total')).reduce((sum, value) => sum + value, 0)
  const uncertain = Object.values(await metric('credits_uncertain_total')).reduce((sum, value) => sum + value, 0)
  t.ok(spent + uncertain <= 300)
  t.ok(spent <= sim.ledger.total() && sim.ledger.total() <= spent + uncertain, 'the two ledgers agree to the credit')
})

void t.test('budget used up: cached answers are served, new questions are refused until the period ends', async (t) => {
  const { ask, sim, clock, metric, lines } = await aProxy(t, team('{ perDay: 15, perMonth: 1000 }'))
  for (const prompt of ['1', '2', '3', '4', '5']) t.equal((await ask(prompt, TEAM)).status, 200)
  const refused = await ask('6', TEAM)
  t.match(refused, { status: 429, headers: { 'x-proxy-code': 'BUDGET_EXHAUSTED' } })
  t.equal(refused.headers['ratelimit-policy'], '"credits-day";q=15;w=86400, "credits-month";q=1000;w=2592000')
  t.match(refused.headers['ratelimit'], /^"credits-day";r=0;t=\d+, "credits-month";r=985;t=\d+$/)
  t.match(await ask('1', TEAM), { status: 200, headers: { 'x-proxy-credits': '0' } })
  t.equal((await ask('6')).status, 200, 'another client has a budget of its own')
  t.match(await ask('6', TEAM), { status: 200 }, 'which answers for all')
  t.match(await metric('credits_budget_remaining'), {
    'client="team",period="day"': 0,
    'client="team",period="month"': 985,
  })
  t.equal(lines().filter(({ msg }) => /budget/.test(String(msg))).length, 1, 'said once, at 80 %')
  clock.skip(Number(refused.headers['retry-after']) * 1_000)
  t.equal((await ask('7', TEAM)).status, 200, 'the next day')
  t.equal(sim.ledger.total(), 21)
})

void t.test('a shared call is charged to its first client only', async (t) => {
  const { ask, sim, metric } = await aProxy(t, team('{ perDay: 3 }'))
  sim.script({ prompt: 'q' }, ['hold'])
  const first = ask('q')
  await sim.received(1)
  const joined = ask('q', TEAM)
  await ask('/scrapers/grok?prompt=barrier')
  sim.release()
  t.equal((await first).headers['x-proxy-credits'], '3')
  t.equal((await joined).headers['x-proxy-credits'], '0')
  t.match(await metric('credits_budget_remaining'), { 'client="team",period="day"': 3 })
  t.match(await metric('credits_saved_total'), { 'client="team",scraper="chatgpt",how="joined"': 3 })
})

void t.test('a client that disconnects and asks again gets the answer it paid for (rescued)', async (t) => {
  const { ask, sim, metric, admin } = await aProxy(t)
  sim.script({ prompt: 'q' }, ['hold'])
  const hangUp = new AbortController()
  const lost = ask('q', { signal: hangUp.signal })
  await sim.received(1)
  hangUp.abort()
  await t.rejects(lost)
  await ask('/scrapers/grok?prompt=barrier')
  sim.release()
  await sim.idle()
  await ask('q')
  await ask('q')
  t.match(await metric('credits_saved_total'), {
    'client="anonymous",scraper="chatgpt",how="rescued"': 3,
    'client="anonymous",scraper="chatgpt",how="hit"': 3,
  })
  t.same(await metric('ledger_imbalance_credits'), { '': 0 })
  t.equal((await admin('/status')).status, 200)
})

void t.test('stale-while-revalidate: the expired answer at once, a fresh one fetched in the background', async (t) => {
  const { ask, sim, clock } = await aProxy(t, 'cache: { ttl: 1h, staleWhileRevalidate: 1h, staleIfError: 0s }')
  const old = await ask('q')
  clock.skip(3_600_001)
  sim.script({ prompt: 'q' }, ['hold'])
  const shown = await ask('q')
  t.match(shown, {
    status: 200,
    headers: { 'cache-status': /hit; ttl=-\d+; detail=stale-while-revalidate/, 'x-proxy-credits': '0' },
  })
  t.equal(shown.json['result'], old.json['result'])
  await ask('q')
  t.equal(sim.requests.filter(({ prompt }) => prompt === 'q').length, 2, 'one refresh, however many ask')
  sim.release()
  await sim.idle()
  await ask('/scrapers/grok?prompt=barrier')
  const fresh = await ask('q')
  t.match(fresh.headers['cache-status'], /hit; ttl=3\d\d\d/)
  t.not(fresh.json['result'], old.json['result'])
  t.equal(sim.ledger.total(), 9)
})

void t.test('no background refresh for a client that is low on credits', async (t) => {
  const { ask, sim, clock } = await aProxy(
    t,
    `${team('{ perMonth: 15 }')}\ncache: { ttl: 1h, staleWhileRevalidate: 1h }`,
  )
  for (const prompt of ['1', '2', '3', '4', '5']) await ask(prompt, TEAM)
  clock.skip(3_600_001)
  t.match((await ask('1', TEAM)).headers['cache-status'], /stale-while-revalidate/)
  await ask('/scrapers/grok?prompt=barrier')
  t.equal(sim.requests.filter(({ prompt }) => prompt === '1').length, 1)
})

void t.test('a purge removes matching answers from all tiers', async (t) => {
  const dir = t.testdir({})
  const { ask, admin, sim } = await aProxy(t, `cache: { disk: { path: ${join(dir, 'cache.db')}, maxSize: 16MiB } }`)
  for (const path of ['chatgpt?prompt=a', 'chatgpt?prompt=b&country=DE', 'grok?prompt=a'])
    await ask(`/scrapers/${path}`)
  const purge = (body: string) => admin('/cache/purge', { method: 'POST', body })
  t.match(await purge('{"scraper":"chatgpt","country":"DE"}'), { status: 200, json: { purged: 1 } })
  t.match((await ask('/scrapers/chatgpt?prompt=b&country=DE')).headers['cache-status'], /fwd=miss/)
  t.match(await purge('{"prompt":"a"}'), { json: { purged: 2 } })
  t.match(await purge('{}'), { json: { purged: 1 } })
  t.match(await purge('{"colour":"red"}'), { status: 400, json: { detail: /colour/ } })
  t.match((await ask('a')).headers['cache-status'], /fwd=miss/)
  t.equal(sim.requests.length, 5)
})

void t.test('after kill -9 and a restart, a paid answer is a hit from disk', async (t) => {
  const { sim, url } = await aSimulator(t)
  const sets = [`cache.disk.path=${join(t.testdir({}), 'cache.db')}`]
  const first = await startProxy(t, url, sets)
  const answer = await askOf(first)('/scrapers/chatgpt?prompt=precious')
  t.equal(answer.status, 200)
  // The answer is on the disk a moment later; a purge that matches nothing waits for what is queued.
  await request(undefined, `${first.adminUrl}/cache/purge`, { method: 'POST', body: '{"scraper":"grok"}' })
  first.signal('SIGKILL')
  await first.ended
  const second = await startProxy(t, url, sets)
  const again = await askOf(second)('/scrapers/chatgpt?prompt=precious')
  t.match(again.headers['cache-status'], /^scrapellm-proxy; hit; ttl=\d+; detail=disk$/)
  t.equal(again.json['result'], answer.json['result'])
  t.equal(sim.ledger.total(), 3)
})

void t.test('after kill -9, credits held for calls under way count as spent', async (t) => {
  const { sim, url } = await aSimulator(t)
  const sets = [
    `cache.disk.path=${join(t.testdir({}), 'cache.db')}`,
    'clients.team.token=team-token-0123456789',
    'clients.team.credits.perDay=4',
  ]
  sim.script({ prompt: 'q' }, ['hold'])
  const first = await startProxy(t, url, sets)
  const lost = askOf(first)('/scrapers/chatgpt?prompt=q', TEAM.headers).catch(() => 'lost')
  await sim.received(1)
  first.signal('SIGKILL')
  await first.ended
  t.equal(await lost, 'lost')
  const second = await startProxy(t, url, sets)
  t.match(await askOf(second)('/scrapers/chatgpt?prompt=other', TEAM.headers), {
    status: 429,
    json: { code: 'BUDGET_EXHAUSTED' },
  })
  sim.release()
})

void t.test(
  'durable: after kill -9 during a call, the restarted process resumes the job; one submission, one charge',
  async (t) => {
    const { sim, url } = await aSimulator(t)
    const sets = [`cache.disk.path=${join(t.testdir({}), 'cache.db')}`, 'jobs.execution=durable']
    sim.script({ prompt: 'long', call: 'submit' }, ['pending'])
    const first = await startProxy(t, url, sets)
    const lost = askOf(first)('/scrapers/chatgpt?prompt=long').catch(() => 'lost')
    await sim.received(1, { call: 'poll' })
    first.signal('SIGKILL')
    await first.ended
    t.equal(await lost, 'lost')
    const second = await startProxy(t, url, sets)
    const again = askOf(second)('/scrapers/chatgpt?prompt=long')
    await sim.received(2, { call: 'poll' })
    sim.release()
    const answer = await again
    t.match(answer, { status: 200, json: { prompt: 'long', status: 'done' } })
    t.equal(sim.requests.filter(({ call }) => call === 'submit').length, 1)
    t.equal(sim.requests.filter(({ call }) => call === 'sync').length, 0)
    t.equal(sim.ledger.total(), 3)
  },
)

void t.test('twenty submissions at once with one Idempotency-Key: one job, one charge, equal answers', async (t) => {
  const { ask, sim } = await aProxy(t)
  const submit = (prompt: string) =>
    ask(`/scrapers/grok/jobs?prompt=${prompt}`, { method: 'POST', headers: { 'idempotency-key': 'once' } })
  const answers = await Promise.all(Array.from({ length: 20 }, () => submit('x')))
  t.equal(new Set(answers.map(({ status, json }) => `${status} ${String(json['job_id'])}`)).size, 1)
  t.equal(answers.filter(({ headers }) => headers['idempotent-replayed'] === 'true').length, 19)
  t.equal(sim.ledger.total(), 3)
  t.match(await submit('other'), { status: 422, headers: { 'x-proxy-code': 'IDEMPOTENCY_CONFLICT' } })
})

void t.test(
  'a job belongs to the client that submitted it; its result is remembered, and answers the same question',
  async (t) => {
    const { ask, sim } = await aProxy(
      t,
      'clients: { anonymous: {}, a: { token: token-of-a-0123456789 }, b: { token: token-of-b-0123456789 } }',
    )
    const as = (token: string) => ({ headers: { 'x-api-key': token } })
    const submitted = await ask('/scrapers/grok/jobs?prompt=x', { method: 'POST', ...as('token-of-a-0123456789') })
    const id = String(submitted.json['job_id'])
    t.match(await ask(`/jobs/${id}`, as('token-of-b-0123456789')), { status: 404, json: { detail: /Job not found/ } })
    const done = await ask(`/jobs/${id}`, as('token-of-a-0123456789'))
    t.match(done.json, { status: 'done' })
    const polls = sim.requests.filter(({ call }) => call === 'poll').length
    await ask(`/jobs/${id}`, as('token-of-a-0123456789'))
    t.equal(sim.requests.filter(({ call }) => call === 'poll').length, polls, 'the end never changes')
    t.match(await ask('/scrapers/grok?prompt=x'), {
      status: 200,
      headers: { 'cache-status': /hit/, 'x-proxy-credits': '0' },
    })
    t.equal(sim.ledger.total(), 3)
  },
)

void t.test('a failed job is refunded to the budget of the client that submitted it', async (t) => {
  const { ask, sim, metric } = await aProxy(t, team('{ perDay: 3 }'))
  sim.script({ prompt: 'x', call: 'submit' }, ['failed'])
  const { json } = await ask('/scrapers/grok/jobs?prompt=x', { method: 'POST', ...TEAM })
  t.match(await ask('y', TEAM), { status: 429, json: { code: 'BUDGET_EXHAUSTED' } })
  t.match((await ask(`/jobs/${String(json['job_id'])}`, TEAM)).json, { status: 'failed' })
  t.match(await metric('credits_refunded_total'), { 'client="team",scraper="grok",key="main"': 3 })
  t.equal((await ask('y', TEAM)).status, 200)
  t.equal(sim.ledger.total(), 3)
  t.same(await metric('ledger_imbalance_credits'), { '': 0 })
})

void t.test(
  'Prefer: respond-async gets a job id at once, or after wait=N seconds; a cached answer is returned directly',
  async (t) => {
    const { ask, sim, clock } = await aProxy(t)
    sim.script({ prompt: 'q' }, ['hold'])
    const promised = await ask('q', { headers: { prefer: 'respond-async' } })
    t.match(promised, { status: 202, headers: { location: /^\/jobs\/[\w-]+$/ } })
    const location = String(promised.headers['location'])
    t.match((await ask(location)).json, { status: 'pending' })
    const waiting = ask('q', { headers: { prefer: 'respond-async, wait=5' } })
    await ask('/scrapers/grok?prompt=barrier')
    clock.skip(5_000)
    t.equal((await waiting).status, 202)
    sim.release()
    await sim.idle()
    await ask('/scrapers/grok?prompt=barrier2')
    t.match((await ask(location)).json, { status: 'done', result: { prompt: 'q' } })
    t.equal((await ask('q', { headers: { prefer: 'respond-async' } })).status, 200)
    t.equal(sim.ledger.total(), 9)
  },
)

void t.test('Prefer: respond-async promises nothing to a request that ScrapeLLM refuses for certain', async (t) => {
  const { ask, sim } = await aProxy(t)
  const options = { headers: { prefer: 'respond-async' } }
  for (const query of ['', '?country=DE', '?prompt=', `?prompt=${'x'.repeat(4_001)}`]) {
    t.match(await ask(`/scrapers/grok${query}`, options), {
      status: 400,
      headers: { 'x-proxy-code': 'REQUEST_INVALID', 'x-proxy-credits': '0', location: undefined },
      json: { detail: 'The parameter prompt must have 1 to 4000 characters.' },
    })
  }
  t.same(sim.requests, [])
  const longest = encodeURIComponent('😀'.repeat(4_000))
  t.equal((await ask(`/scrapers/grok?prompt=${longest}`, options)).status, 202)
  t.match(
    await ask('/scrapers/grok'),
    { status: 400, json: { detail: 'prompt must have 1 to 4000 characters.' } },
    'else it is for ScrapeLLM to say',
  )
})

void t.test('a corrupt disk cache is reported once and replaced; the proxy keeps serving', async (t) => {
  const { url } = await aSimulator(t)
  const path = join(t.testdir({}), 'cache.db')
  writeFileSync(path, 'this is not a database'.repeat(1_000))
  const proxy = await startProxy(t, url, [`cache.disk.path=${path}`])
  t.equal((await askOf(proxy)('/scrapers/chatgpt?prompt=q')).status, 200)
  t.equal(proxy.lines().filter(({ msg, level }) => /disk/.test(String(msg)) && level !== 'info').length, 1)
})

void t.test('a key in a file is read again when the file changes', async (t) => {
  const { sim, url } = await aSimulator(t, { keys: { 'key-number-one': {}, 'key-number-two': {} } })
  const path = join(t.testdir({}), 'key')
  writeFileSync(path, 'key-number-one\n')
  const proxy = await startProxy(t, url, [`upstream.keys=[{ name: main, secret: "file:${path}" }]`, 'cache.disk=false'])
  const ask = askOf(proxy)
  t.equal((await ask('/scrapers/chatgpt?prompt=1')).status, 200)
  sim.setKey('key-number-one', null)
  writeFileSync(path, 'key-number-two\n')
  await proxy.saw(/upstream key.*(read again|changed|replaced)/)
  t.equal((await ask('/scrapers/chatgpt?prompt=2')).status, 200)
  t.equal(sim.requests.at(-1)?.key, 'key-number-two')
})

/** X-Request-Timeout ends the wait of its caller, never the call: who gets what, when, and what it costs. */
import t from 'tap'
import { aProxy, type Answer, type Proxy } from '../support/proxy.ts'

function within(seconds: number, more: Record<string, string> = {}) {
  return { headers: { 'x-request-timeout': String(seconds), ...more } }
}

function facts({ status, headers }: Answer) {
  return {
    status,
    code: headers['x-proxy-code'],
    attempts: headers['x-proxy-attempts'],
    credits: headers['x-proxy-credits'],
  }
}

const late = { status: 504, code: 'DEADLINE_EXCEEDED', attempts: '1', credits: '3' }

function timeoutsSent({ sim }: Proxy): (string | undefined)[] {
  return sim.requests.map(({ params }) => params.find(([name]) => name === 'timeout')?.[1])
}

/** Whatever was sent before has been taken in when this is answered. */
async function barrier({ ask, sim }: Proxy): Promise<void> {
  await ask(`/scrapers/grok?prompt=barrier-${sim.requests.length}`)
}

for (const seconds of [0.5, 5, 10]) {
  void t.test(
    `${seconds} s of patience: 504 on time, and six patient callers get the answer of the same call`,
    async (t) => {
      const proxy = await aProxy(t)
      const { ask, sim, clock } = proxy
      sim.script({ prompt: 'q' }, ['hold'])
      const impatient = ask('q', within(seconds))
      await sim.received(1)
      const patient = Array.from({ length: 6 }, () => ask('q'))
      await barrier(proxy)
      t.equal(timeoutsSent(proxy)[0], undefined, 'the patience of a caller never reaches upstream')
      clock.skip(seconds * 1_000)
      t.same(facts(await impatient), late)
      sim.release()
      for (const answer of await Promise.all(patient)) t.equal(answer.status, 200)
      t.match(await ask('q', within(seconds)), { status: 200, headers: { 'cache-status': /; hit;/ } })
      t.equal(sim.ledger.total(), 6, 'one call, and the barrier')
    },
  )
}

void t.test(
  'X-Request-Timeout ends the wait, not the call: 504 on time, one charge, and the next request is a hit',
  async (t) => {
    const { ask, sim, clock } = await aProxy(t)
    sim.script({ prompt: 'q' }, ['hold'])
    const first = ask('q', within(12))
    await sim.received(1)
    clock.skip(12_000)
    t.same(facts(await first), late)
    const second = ask('q', within(12))
    await ask('/scrapers/grok?prompt=barrier')
    clock.skip(12_000)
    t.same(facts(await second), { ...late, credits: '0' }, 'the second caller joined the call that the first one pays')
    sim.release()
    await sim.idle()
    t.match(facts(await ask('q', within(12))), { status: 200, attempts: '0', credits: '0' })
    t.equal(sim.requests.filter(({ prompt }) => prompt === 'q').length, 1)
  },
)

void t.test(
  'the timeout parameter is the limit of an attempt and is sent as it was given, whatever the patience',
  async (t) => {
    const proxy = await aProxy(t)
    const { ask, sim, clock } = proxy
    sim.script({ prompt: 'q' }, ['hold'])
    const answer = ask('/scrapers/chatgpt?prompt=q&timeout=60', within(12))
    await sim.received(1)
    t.strictSame(timeoutsSent(proxy), ['60'])
    clock.skip(12_000)
    t.match(facts(await answer), late)
  },
)

void t.test(
  'at the end of X-Request-Timeout an expired answer is returned; the call goes on and is cached',
  async (t) => {
    const { ask, sim, clock } = await aProxy(t, 'cache: { ttl: 1m, staleIfError: 1h }')
    const old = await ask('q')
    clock.skip(120_000)
    sim.script({ prompt: 'q' }, ['hold'])
    const answer = ask('q', within(8))
    await sim.received(2)
    clock.skip(8_000)
    const stale = await answer
    t.match(stale.headers['cache-status'], /; hit; ttl=-\d+; detail=stale-if-error/)
    t.match(facts(stale), { status: 200, attempts: '1', credits: '3' })
    t.equal(stale.json['result'], old.json['result'])
    sim.release()
    await sim.idle()
    const fresh = await ask('q')
    t.match(fresh.headers['cache-status'], /; hit; ttl=\d+/)
    t.not(fresh.json['result'], old.json['result'])
    t.equal(sim.requests.length, 2)
  },
)

void t.test('an attempt that fails after every client has given up is not retried', async (t) => {
  const { ask, sim, clock, metric } = await aProxy(t)
  sim.script({ prompt: 'q' }, [{ kind: 'hold', next: '503' }, '200'])
  const answer = ask('q', within(5))
  await sim.received(1)
  clock.skip(5_000)
  t.same(facts(await answer), late)
  sim.release()
  await sim.idle()
  await ask('/scrapers/grok?prompt=barrier')
  t.equal(sim.requests.filter(({ prompt }) => prompt === 'q').length, 1)
  t.match(await metric('retries_refused_total'), { 'reason="abandoned"': 1 })
  t.match(facts(await ask('q')), { status: 200, attempts: '1', credits: '3' })
})

void t.test(
  'the last upstream answer is preferred to DEADLINE_EXCEEDED, and says that another attempt was under way',
  async (t) => {
    const { ask, sim, clock } = await aProxy(t)
    sim.script({ prompt: 'q' }, ['504', 'hold'])
    const answer = ask('q', within(5))
    await sim.received(2)
    clock.skip(5_000)
    t.same(facts(await answer), { status: 504, code: undefined, attempts: '2', credits: '3' })
    sim.release()
    await sim.idle()
    t.match(facts(await ask('q')), { status: 200, credits: '0' })
  },
)

void t.test(
  'a repetition gets the time that retry.deadline leaves, and no attempt starts with less than 10 s',
  async (t) => {
    const proxy = await aProxy(t, 'retry: { deadline: 60s, classes: { warmingUp: { attempts: 4 } } }')
    const { ask, sim, clock } = proxy
    sim.script({ prompt: 'q' }, [{ kind: '503', retryAfter: 20 }, { kind: 'hold', next: '503' }, '200'])
    const answer = ask('q')
    await sim.received(1)
    await sim.idle()
    await barrier(proxy)
    clock.skip(23_000)
    await sim.received(2, { prompt: 'q' })
    const [first, , second] = timeoutsSent(proxy).map(Number)
    t.ok(first && first > 50 && first <= 60, `the default of 300 s is shortened by the deadline: ${first}`)
    t.ok(second && second > 30 && second <= 37, `and so is that of the repetition: ${second}`)
    clock.skip(28_000)
    sim.release({ prompt: 'q' })
    t.match(
      await answer,
      { status: 503, headers: { 'x-proxy-attempts': '2' } },
      'less than 10 s are left: given back at once',
    )
  },
)

void t.test('a deadline shorter than the smallest attempt allows one attempt, with the smallest timeout', async (t) => {
  const proxy = await aProxy(t, 'retry: { deadline: 3s }')
  const { ask, sim, clock } = proxy
  sim.script({ prompt: 'q' }, ['hold'])
  const answer = ask('q')
  await sim.received(1)
  t.strictSame(timeoutsSent(proxy), ['10'])
  clock.skip(3_000)
  t.same(facts(await answer), late)
  sim.release()
  await sim.idle()
  t.match(facts(await ask('q')), { status: 200, credits: '0' })
})

void t.test('a shared call is retried under the most generous policy of its waiting clients', async (t) => {
  const proxy = await aProxy(
    t,
    `clients:
  anonymous: {}
  brief: { token: brief-token-0123456789, retry: { attempts: 1, deadline: 20s } }`,
  )
  const { ask, sim, clock } = proxy
  const brief = { headers: { 'x-api-key': 'brief-token-0123456789' } }
  sim.script({ prompt: 'alone' }, ['503', '200'])
  t.match(facts(await ask('alone', brief)), { status: 503, attempts: '1' })

  sim.script({ prompt: 'q' }, [{ kind: 'hold', next: '503' }, '200'])
  const leader = ask('q', brief)
  await sim.received(1, { prompt: 'q' })
  const patient = ask('q')
  await barrier(proxy)
  sim.release()
  t.match(facts(await leader), { status: 200, attempts: '2', credits: '3' })
  t.match(facts(await patient), { status: 200, attempts: '2', credits: '0' })

  sim.script({ prompt: 'late' }, [{ kind: 'hold', next: '503' }, 'hold'])
  const gone = ask('late', brief)
  await sim.received(1, { prompt: 'late' })
  const stays = ask('late')
  await barrier(proxy)
  clock.skip(20_000)
  t.same(facts(await gone), late)
  sim.release()
  await sim.received(2, { prompt: 'late' })
  t.equal(timeoutsSent(proxy).at(-1), undefined, 'and so does the deadline')
  sim.release()
  t.match(facts(await stays), { status: 200, attempts: '2' })
})

void t.test('Prefer: respond-async, wait=30 with X-Request-Timeout: 5 gets a job id after 5 s', async (t) => {
  const { ask, sim, clock } = await aProxy(t)
  sim.script({ prompt: 'q' }, ['hold'])
  const answer = ask('q', within(5, { prefer: 'respond-async, wait=30' }))
  await sim.received(1)
  clock.skip(5_000)
  const promised = await answer
  t.equal(promised.status, 202)
  sim.release()
  await sim.idle()
  await ask('q')
  t.match((await ask(String(promised.headers['location']))).json, { status: 'done' })
  t.equal(sim.requests.length, 1)
})

void t.test('a submission outlives the X-Request-Timeout of its client, and is not repeated', async (t) => {
  const { ask, sim, clock } = await aProxy(t)
  sim.script({ prompt: 'q' }, ['hold'])
  const submission = { method: 'POST', headers: { 'x-request-timeout': '5', 'idempotency-key': 'one' } }
  const first = ask('/scrapers/chatgpt/jobs?prompt=q', submission)
  await sim.received(1)
  clock.skip(5_000)
  t.same(facts(await first), late)
  sim.release()
  await sim.idle()
  t.match(await ask('/scrapers/chatgpt/jobs?prompt=q', submission), {
    status: 202,
    headers: { 'idempotent-replayed': 'true', 'x-proxy-credits': '0' },
  })
  t.equal(sim.requests.length, 1)
})

void t.test('durable: a job outlives the X-Request-Timeout of its client, and its answer becomes a hit', async (t) => {
  const settings = `{ jobs: { execution: durable }, cache: { disk: { path: "${t.testdir({})}/cache.db" } } }`
  const proxy = await aProxy(t, settings)
  const { ask, sim, clock } = proxy
  sim.script({ prompt: 'q' }, ['pending'])
  const first = ask('q', within(5))
  await sim.received(1)
  await sim.idle()
  await barrier(proxy)
  clock.skip(5_000)
  t.same(facts(await first), late)
  sim.release()
  const known = { headers: { 'cache-control': 'only-if-cached' } }
  let answer = await ask('q', known)
  for (let polls = 0; polls < 10 && answer.status !== 200; polls += 1) {
    clock.skip(6_000)
    await barrier(proxy)
    answer = await ask('q', known)
  }
  t.match(facts(answer), { status: 200, credits: '0' })
  t.equal(sim.requests.filter(({ call, prompt }) => call === 'submit' && prompt === 'q').length, 1)
})

void t.test('a call that no client waits for any more is recorded in audit file and log', async (t) => {
  const { ask, sim, clock, admin, lines } = await aProxy(t, 'log: { level: debug }')
  sim.script({ prompt: 'q' }, ['hold'])
  const answer = ask('q', within(5, { 'x-request-id': 'late-1' }))
  await sim.received(1)
  clock.skip(5_000)
  t.match((await answer).json, { detail: /its answer cached: retry/ })
  sim.release()
  await sim.idle()
  await ask('/scrapers/grok?prompt=barrier')
  clock.skip(5_000)
  const line = lines().find(({ id }) => id === 'late-1')
  t.match(line, { status: 504, code: 'DEADLINE_EXCEEDED', attempts: 1, credits: 3 })
  t.match((await admin('/requests/late-1')).json, { status: 504, attempts: [{ class: 'ok', credits: 3 }] })
})

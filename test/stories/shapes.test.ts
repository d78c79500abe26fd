/** Complete answers in shapes that nobody has seen yet: what a service sees, what they cost, and what they do to everybody else. */
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { type ShapeKind, shapeKinds } from '../../src/simulator/shapes.ts'
import { aProxy, type Answer } from '../support/proxy.ts'

const CHATGPT = '/scrapers/chatgpt'

/** Understood, and so kept, though odd. */
const kept: Partial<Record<ShapeKind, string | null>> = {
  'shape-bom': null,
  'shape-no-type': null,
  'shape-dear': 'implausibleCharge',
}
const anomalies: Partial<Record<ShapeKind, string | null>> = {
  ...kept,
  'shape-blank': 'emptyAnswer',
  'shape-other-prompt': 'otherQuestion',
  'shape-other-scraper': 'otherQuestion',
}
const anomalyOf = (kind: ShapeKind): string | null => (kind in anomalies ? (anomalies[kind] ?? null) : 'unknownShape')

function facts({ status, headers }: Answer) {
  return {
    status,
    attempts: headers['x-proxy-attempts'],
    credits: headers['x-proxy-credits'],
    code: headers['x-proxy-code'],
    type: headers['content-type'],
    cache: headers['cache-status'],
  }
}

function counted(samples: Record<string, number>): [string, number][] {
  return Object.entries(samples).filter(([, count]) => count > 0)
}

for (const kind of shapeKinds) {
  const anomaly = anomalyOf(kind)
  const isKept = kind in kept

  void t.test(`${kind}, five in a row: handed on, paid once each, and the circuit stays closed`, async (t) => {
    const { ask, sim, metric, lines } = await aProxy(t)
    const status = Number(/^shape-(\d+)/.exec(kind)?.[1] ?? 200)
    for (let n = 0; n < 5; n += 1) {
      const prompt = `${kind} ${n}`
      sim.script({ prompt }, [kind, '200'])
      const first = await ask(prompt)
      t.match(facts(first), { status, attempts: '1', credits: '3', code: undefined, type: 'application/json' })
      t.equal(first.headers['cache-status']?.includes('stored'), isKept)
      const second = await ask(prompt)
      t.equal(second.headers['x-proxy-credits'], isKept ? '0' : '3', 'asked anew, because it is not kept')
      t.equal(second.headers['content-type'], 'application/json')
      if (isKept) {
        t.match(JSON.parse(second.text.replace('\ufeff', '')), { cached: true, credits_used: 0 })
        t.ok(second.text.startsWith(first.text.slice(0, 20)), 'the bytes are the same otherwise')
      }
    }
    t.equal(sim.requests.length, isKept ? 5 : 10)
    t.strictSame(Object.values(await metric('breaker_state')), [0, 0, 0, 0, 0, 0, 0])
    t.strictSame(counted(await metric('upstream_failures_total')), [])
    t.strictSame(
      counted(await metric('upstream_anomalies_total')),
      anomaly ? [[`scraper="chatgpt",anomaly="${anomaly}"`, 5]] : [],
    )
    const warnings = lines().filter(({ msg }) => msg === 'unexpected upstream answer')
    t.match(warnings, anomaly ? [{ level: 'warn', scraper: 'chatgpt', anomaly }] : [], 'one line, not five')
    t.equal(warnings.length, anomaly ? 1 : 0)
    t.equal((await metric('ledger_imbalance_credits'))[''], 0)
  })
}

void t.test('an answer of unknown shape is shared, and paid for once', async (t) => {
  const { ask, sim } = await aProxy(t)
  for (const kind of shapeKinds) {
    const prompt = `together ${kind}`
    sim.script({ prompt }, [{ kind: 'hold', next: kind }, '200'])
    const both = [ask(prompt), ask(prompt)]
    await sim.received(1, { prompt })
    await sim.until(() => sim.requests.some((one) => one.prompt === prompt && one.held))
    await ask('/nowhere')
    sim.release({ prompt })
    const answers = await Promise.all(both)
    const [leader, joined] = answers.toSorted((a, b) => creditsIn(b) - creditsIn(a)) as [Answer, Answer]
    t.strictSame([creditsIn(leader), creditsIn(joined)], [3, 0], kind)
    t.equal(joined.status, leader.status, kind)
    if (anomalyOf(kind) === 'unknownShape') t.equal(joined.text, leader.text, `${kind}: as it is`)
  }
  t.equal(sim.requests.length, shapeKinds.length)
})

function onDisk(t: Test): string {
  return `cache: { disk: { path: '${join(t.testdir({}), 'cache.db')}' } }`
}

function creditsIn({ headers }: Answer): number {
  return Number(headers['x-proxy-credits'])
}

void t.test('an answer with a failed status is retried once, unless it was charged', async (t) => {
  const { ask, sim } = await aProxy(t)
  const failed = (body: object) => ({ kind: 'answer', status: 200, body, credits: 3 }) as const
  sim.script({ prompt: 'well again' }, [failed({ error: 'x' }), '200'])
  t.match(await ask('well again'), { json: { status: 'done' } })
  const rows = [
    [{ status: 'failed', error: 'execution failed' }, '2'],
    [{ detail: 'Scraper returned an empty result.' }, '2'],
    [{ status: 'error', credits_used: 3 }, '1'],
  ] as const
  for (const [body, attempts] of rows) {
    const prompt = JSON.stringify(body)
    sim.script({ prompt }, [failed(body), failed(body), failed(body), '200'])
    const answer = await ask(prompt)
    t.match(facts(answer), { status: 200, attempts, code: undefined }, prompt)
    t.strictSame(answer.json, body, 'and upstream’s own words are handed on')
  }
})

void t.test('stale-if-error replaces an answer with a failed status, not one of unknown shape', async (t) => {
  const { ask, sim, clock } = await aProxy(t, 'cache: { ttl: 1s, staleIfError: 1h }')
  const failed = { kind: 'answer', status: 200, body: { error: 'x', credits_used: 3 } } as const
  sim.script({ prompt: 'q' }, ['200', failed, 'shape-blocks'])
  await ask('q')
  clock.skip(2_000)
  t.match((await ask('q')).headers['cache-status'], /detail=stale-if-error/)
  clock.skip(2_000)
  t.match(await ask('q'), { json: { result: [{ type: 'text' }] } })
})

void t.test('one absurd credits_used does not lock a client out', async (t) => {
  const { ask, sim, metric } = await aProxy(t, 'clients: { anonymous: { credits: { perDay: 100 } } }')
  sim.script({ prompt: 'dear' }, ['shape-dear'])
  t.match(facts(await ask('dear')), { status: 200, credits: '3' })
  t.match(facts(await ask('next')), { status: 200, credits: '3' })
  t.equal((await metric('credits_budget_remaining'))['client="anonymous",period="day"'], 94)
})

void t.test('an answer that is too large is not retried', async (t) => {
  const { ask, sim } = await aProxy(t, 'upstream: { maxResponseSize: 64KiB }')
  sim.script({ prompt: 'big' }, [{ kind: 'huge', bytes: 200_000 }, '200'])
  t.match(facts(await ask('big')), { status: 502, attempts: '1', code: 'UPSTREAM_INVALID' })
  t.equal(sim.requests.length, 1)
})

// Jobs

void t.test('a job document of unknown shape is returned, and the job submitted once', async (t) => {
  const { ask, sim } = await aProxy(t)
  for (const kind of shapeKinds) {
    const prompt = `job ${kind}`
    sim.script({ prompt, call: 'submit' }, ['done'])
    const submitted = await ask(`${CHATGPT}/jobs?${new URLSearchParams({ prompt }).toString()}`, { method: 'POST' })
    const id = String(submitted.json['job_id'])
    sim.script({ jobId: id }, ['done', kind, kind, kind])
    const first = await ask(`/jobs/${id}`)
    t.equal(first.status, 200, kind)

    const odd = `odd ${kind}`
    sim.script({ prompt: odd, call: 'submit' }, [kind, '200'])
    const answer = await ask(`${CHATGPT}/jobs?${new URLSearchParams({ prompt: odd }).toString()}`, { method: 'POST' })
    t.match(facts(answer), { attempts: '1', credits: '3', code: undefined }, kind)
  }
  t.equal(sim.ledger.total(), 6 * shapeKinds.length)
})

void t.test('a poll answer of unknown shape is returned, at no cost', async (t) => {
  const { ask, sim, metric } = await aProxy(t)
  for (const kind of shapeKinds) {
    const prompt = `poll ${kind}`
    sim.script({ prompt, call: 'submit' }, [{ kind: 'done', polls: 0 }])
    const submitted = await ask(`${CHATGPT}/jobs?${new URLSearchParams({ prompt }).toString()}`, { method: 'POST' })
    const id = String(submitted.json['job_id'])
    sim.script({ jobId: id }, [kind])
    t.match(facts(await ask(`/jobs/${id}`)), { attempts: '1', credits: '0', code: undefined }, kind)
  }
  t.strictSame(counted(await metric('upstream_failures_total')), [])
})

void t.test('durable: a question is submitted once, and a job result of unknown shape is returned', async (t) => {
  const { ask, sim, clock, metric } = await aProxy(t, `${onDisk(t)}\njobs: { execution: durable }`)
  const skipping = setInterval(() => clock.skip(1_000), 20)
  t.teardown(() => clearInterval(skipping))
  // Those whose documents end the job.
  const ending: readonly ShapeKind[] = [
    'shape-blocks',
    'shape-object',
    'shape-completed',
    'shape-no-status',
    'shape-blank',
    'shape-other-prompt',
    'shape-201',
    'shape-203',
    'shape-206',
    'shape-bom',
    'shape-no-type',
  ]
  for (const kind of ending) {
    const prompt = `durable ${kind}`
    sim.script({ prompt, call: 'submit' }, [{ kind: 'done', polls: 0 }])
    sim.script({ call: 'poll' }, ['done', kind])
    const answer = await ask(prompt)
    t.match(facts(answer), { status: 200, credits: '3', code: undefined }, kind)
  }
  t.equal(sim.requests.filter(({ call }) => call === 'submit').length, ending.length)
  t.strictSame(Object.values(await metric('breaker_state')), [0, 0, 0, 0, 0, 0, 0])
})

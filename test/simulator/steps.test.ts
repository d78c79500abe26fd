// Every step over a real socket: what the client sees and what the ledger says.

import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import t from 'tap'
import { stepKinds, type Step, type StepKind } from '../../src/simulator/step.ts'
import { startSimulator } from './client.ts'

interface Expected {
  readonly status: number | null
  readonly charged: number
  readonly body?: RegExp
  readonly minimumBytes?: number
  readonly broken?: string
  readonly headers?: Record<string, unknown>
  readonly step?: Step
}

const ANSWERED = /"status":"done".*"result":"Answer of grok to \\"x\\", call 1 \[1\]\."/
const CUT = { status: 200, charged: 3, broken: 'ECONNRESET', body: /^\{"scraper":"grok"(?!.*\}$)/ }

// hold, hang, stall and drip do not end by themselves: they have tests of their own.
const EXPECTED: Record<Exclude<StepKind, 'hold' | 'hang' | 'stall' | 'drip'>, Expected> = {
  '200': { status: 200, charged: 3, body: ANSWERED, headers: { 'content-type': 'application/json' } },
  cached: { status: 200, charged: 3, body: /"cached":true/ },
  'set-cookie': { status: 200, charged: 3, headers: { 'set-cookie': ['session=simulated; Path=/; HttpOnly', 'lb=2'] } },
  gzip: { status: 200, charged: 3, headers: { 'content-encoding': 'gzip' } },
  huge: {
    status: 200,
    charged: 3,
    step: { kind: 'huge', bytes: 300_000 },
    body: /^\{"scraper":"grok"/,
    minimumBytes: 300_000,
  },
  truncated: CUT,
  'truncated-chunked': { ...CUT, headers: { 'transfer-encoding': 'chunked' } },
  'not-json': { status: 200, charged: 3, body: /^<html>/, headers: { 'content-type': 'text/html' } },
  'empty-200': { status: 200, charged: 3, body: /^$/, headers: { 'content-length': '0' } },
  'empty-result-200': {
    status: 200,
    charged: 3,
    body: /"status":"done".*"result":"","result_markdown":"","web_sources":\[\]/,
  },
  'status-failed-200': { status: 200, charged: 3, body: /"status":"failed".*"error":"execution failed"/ },
  'reset-before-charge': { status: null, charged: 0, broken: 'ECONNRESET' },
  'reset-after-charge': { status: null, charged: 3, broken: 'ECONNRESET' },
  garbage: { status: null, charged: 0, broken: 'HPE_INVALID_CONSTANT' },
  redirect: { status: 302, charged: 0, body: /^$/, headers: { location: 'https://elsewhere.example/login' } },
  'echo-key': { status: 500, charged: 0, body: /key-one/ },
  answer: { status: 418, charged: 0, step: { kind: 'answer', status: 418, body: 'tea' }, body: /^tea$/ },
  '400': { status: 400, charged: 0, body: /"detail":"/ },
  '422-list': { status: 422, charged: 0, body: /"detail":\[\{"type":"value_error","loc":\["query","prompt"\]/ },
  '401': { status: 401, charged: 0, body: /"detail":"Invalid or revoked API key\."/ },
  '401-missing': {
    status: 401,
    charged: 0,
    body: /^\{"detail":"Missing API key\. Pass your key in the X-API-Key header or as \?api_key= in the URL\."\}$/,
  },
  '401-no-credits': { status: 401, charged: 0, body: /no credits/ },
  '402': { status: 402, charged: 0, body: /"detail":"/ },
  '403': { status: 403, charged: 0, body: /"detail":"/ },
  '403-html': { status: 403, charged: 0, body: /^<html>/ },
  '405-html': { status: 405, charged: 0, body: /^<html>/ },
  '404': {
    status: 404,
    charged: 0,
    body: /"Job not found\. It may have expired \(jobs are retained for 24 hours\) or the ID is invalid\."/,
  },
  '408': { status: 408, charged: 0, body: /"detail":"/ },
  '429-rate': { status: 429, charged: 0, body: /"Rate limit exceeded\. Retry after a moment\."/ },
  '429-queue': { status: 429, charged: 0, body: /^(?!.*(?:credit|rate limit)).*"detail":"/i },
  '429-credits': {
    status: 429,
    charged: 0,
    body: /"Credit limit reached\. Upgrade your plan or wait for your billing cycle to reset\."/,
  },
  '500': { status: 500, charged: 0, body: /^(?!.*empty result).*"detail":"/ },
  '500-empty': { status: 500, charged: 0, body: /"Scraper returned an empty result\."/ },
  '501': { status: 501, charged: 0, body: /"detail":"/ },
  '503': { status: 503, charged: 0, body: /"detail":"/ },
  '504': { status: 504, charged: 0, body: /"detail":"/ },
  '504-html': { status: 504, charged: 0, body: /^<html>/, headers: { 'content-type': 'text/html' } },
  '502-html': { status: 502, charged: 0, body: /^<html>/, headers: { 'content-type': 'text/html' } },
  'shape-blocks': { status: 200, charged: 3, body: /"result":\[\{"type":"text"/ },
  'shape-object': { status: 200, charged: 3, body: /"result":\{"text"/ },
  'shape-completed': { status: 200, charged: 3, body: /"status":"completed"/ },
  'shape-no-status': { status: 200, charged: 3, body: /^(?!.*"status")/ },
  'shape-renamed': { status: 200, charged: 3, body: /"answer":"Answer of grok/ },
  'shape-empty-text': { status: 200, charged: 3, body: /"result":"".*"search_results":\[\{/ },
  'shape-no-products': { status: 200, charged: 3, body: /"products":\[\]/ },
  'shape-blank': { status: 200, charged: 3, body: /"result":" \\n\u00a0\u200b"/ },
  'shape-other-prompt': { status: 200, charged: 3, body: /"prompt":"Something else entirely"/ },
  'shape-other-scraper': { status: 200, charged: 3, body: /"scraper":"another_scraper"/ },
  'shape-array': { status: 200, charged: 3, body: /^\[\{/ },
  'shape-text': { status: 200, charged: 3, body: /^"Answer of grok/ },
  'shape-201': { status: 201, charged: 3, body: ANSWERED },
  'shape-202-job': { status: 202, charged: 3, body: /^\{"job_id":"job_[^"]+"\}$/ },
  'shape-203': { status: 203, charged: 3, body: ANSWERED },
  'shape-206': { status: 206, charged: 3, body: ANSWERED },
  'shape-bom': { status: 200, charged: 3, body: /^\ufeff\{/ },
  'shape-no-type': { status: 200, charged: 3, body: ANSWERED, headers: { 'content-type': undefined } },
  'shape-dear': { status: 200, charged: 3, body: /"credits_used":9007199254740991/ },
  done: { status: 200, charged: 3, body: ANSWERED },
  failed: { status: 200, charged: 3, body: /"status":"failed"/ },
  pending: { status: 200, charged: 3, body: ANSWERED },
}

for (const [kind, expected] of Object.entries(EXPECTED)) {
  void t.test(`the step ${kind} looks and costs as documented, and the next call is answered`, async (t) => {
    const { sim, ask } = await startSimulator(t)
    sim.script({ prompt: 'x' }, [expected.step ?? (kind as Exclude<StepKind, 'answer'>)])
    const answer = await ask('/scrapers/grok?prompt=x')
    t.equal(answer.status, expected.status)
    t.equal(answer.broken, expected.broken ?? null)
    const text = kind === 'gzip' ? gunzipSync(answer.body).toString() : answer.body.toString()
    if (expected.body !== undefined) t.ok(expected.body.test(text), 'body', { found: text.slice(0, 300) })
    for (const [name, value] of Object.entries(expected.headers ?? {})) t.same(answer.headers[name], value, name)
    t.ok(answer.body.length > (expected.minimumBytes ?? -1))
    t.equal(sim.ledger.total('key-one'), expected.charged)
    await sim.idle()
    t.match(sim.requests, [{ step: kind, status: expected.status, closedEarly: false, finished: true }])
    const next = await ask('/scrapers/grok?prompt=x')
    t.match(next.json(), { status: 'done', result: /call 2/ })
  })
}

void t.test('a drip never ends until the client leaves, and is charged', async (t) => {
  const { sim, begin } = await startSimulator(t)
  sim.script({}, [{ kind: 'drip', everyMs: 1 }])
  const call = begin('/scrapers/grok?prompt=x')
  await call.firstBytes
  t.equal(sim.open, 1)
  call.leave()
  await sim.idle()
  t.match(sim.requests, [{ status: 200, closedEarly: true }])
  t.equal(sim.ledger.total(), 3)
})

void t.test('a stalled body stops half-way, and ends when it is released', async (t) => {
  const { sim, begin } = await startSimulator(t)
  sim.script({}, [{ kind: 'stall', times: 2 }])
  const call = begin('/scrapers/grok?prompt=x')
  await call.firstBytes
  t.equal(sim.release({ prompt: 'x' }), 1)
  t.match((await call.answer).json(), { status: 'done' })
  const left = begin('/scrapers/grok?prompt=x')
  await left.firstBytes
  left.leave()
  await sim.idle()
  t.equal(sim.release(), 0)
  t.match(sim.requests, [{ closedEarly: false }, { closedEarly: true }])
})

void t.test('held calls wait for release, each by its match, and play what comes then', async (t) => {
  const { sim, begin } = await startSimulator(t)
  sim.script({ prompt: 'a' }, ['hold'])
  sim.script({ prompt: 'b' }, [{ kind: 'hold', next: '503' }])
  sim.script({ prompt: 'c' }, [{ kind: 'hang', next: { kind: '429-rate', retryAfter: 7 } }])
  const calls = ['a', 'b', 'c'].map((prompt) => begin(`/scrapers/grok?prompt=${prompt}`))
  await sim.received(3)
  t.ok(sim.requests.every(({ held }) => held))
  t.equal(sim.ledger.total(), 0)
  t.equal(sim.release({ prompt: 'a' }), 1)
  t.equal((await calls[0]?.answer)?.status, 200)
  t.equal(sim.open, 2)
  t.equal(sim.release(), 2)
  t.equal((await calls[1]?.answer)?.status, 503)
  t.match(await calls[2]?.answer, { status: 429, headers: { 'retry-after': '7' } })
  await sim.idle()
  t.equal(sim.open, 0)
  t.match(
    sim.requests.find(({ prompt }) => prompt === 'c'),
    { step: 'hang', status: 429 },
  )
})

void t.test(
  'a client that leaves a hang costs nothing, one that leaves a hold is charged when the work is over',
  async (t) => {
    const { sim, begin } = await startSimulator(t)
    sim.script({ prompt: 'hang' }, ['hang'])
    sim.script({ prompt: 'hold' }, ['hold'])
    sim.script({ prompt: 'fails' }, [{ kind: 'hold', next: '500' }])
    const calls = ['hang', 'hold', 'fails'].map((prompt) => begin(`/scrapers/grok?prompt=${prompt}`))
    await sim.received(3)
    for (const call of calls) call.leave()
    await sim.until(() => sim.requests.every(({ closedEarly }) => closedEarly))
    t.equal(sim.open, 2, 'the vendor still works on the held ones')
    t.equal(sim.ledger.total(), 0)
    t.equal(sim.release(), 2)
    await sim.idle()
    t.match(sim.ledger.entries, [{ prompt: 'hold', credits: 3 }])
  },
)

void t.test('where the vendor aborts for clients that leave, nothing is charged', async (t) => {
  const { sim, begin } = await startSimulator(t, { switches: { clientLeaves: 'free' } })
  sim.script({ prompt: 'held' }, ['hold'])
  sim.script({ prompt: 'slow' }, [{ kind: '200', delayMs: 3_600_000 }])
  const calls = ['held', 'slow'].map((prompt) => begin(`/scrapers/grok?prompt=${prompt}`))
  await sim.received(2)
  for (const call of calls) call.leave()
  await sim.idle()
  t.equal(sim.release(), 0)
  t.equal(sim.ledger.entries.length, 0)
})

void t.test('a step object changes body, headers, wait, price and number of calls', async (t) => {
  const { sim, ask } = await startSimulator(t)
  const date = 'Wed, 21 Oct 2026 07:28:00 GMT'
  sim.script({ prompt: 'x' }, [
    {
      kind: '503',
      times: 2,
      retryAfter: date,
      headers: { 'content-type': 'text/plain', 'X-Vendor': ['a', 'b'] },
      body: 'soon',
    },
    { kind: '200', credits: 1, delayMs: 1 },
    { kind: 'answer', status: 200, credits: 3, body: { status: 'done' } },
    { kind: 'redirect', status: 307, location: '/elsewhere' },
    { kind: 'echo-key', status: 400 },
    { kind: '504', times: 'forever' },
  ])
  for (const _ of [1, 2]) {
    const answer = await ask('/scrapers/grok?prompt=x')
    t.match(answer.headers, { 'retry-after': date, 'content-type': 'text/plain', 'x-vendor': 'a, b' })
    t.equal(answer.body.toString(), 'soon')
  }
  t.match((await ask('/scrapers/grok?prompt=x')).json(), { credits_used: 1 })
  t.equal(sim.ledger.total(), 1)
  t.same((await ask('/scrapers/grok?prompt=x')).json(), { status: 'done' })
  t.equal(sim.ledger.total(), 4)
  t.match(await ask('/scrapers/grok?prompt=x'), { status: 307, headers: { location: '/elsewhere' } })
  t.equal((await ask('/scrapers/grok?prompt=x')).status, 400)
  for (const _ of [1, 2, 3]) t.equal((await ask('/scrapers/grok?prompt=x')).status, 504)
})

void t.test(
  'the script that names more plays first, of equals the older one, and no script touches other calls',
  async (t) => {
    const { sim, ask } = await startSimulator(t)
    sim.script({ scraper: 'grok' }, ['500'])
    sim.script({ prompt: 'x' }, ['503'])
    sim.script({ scraper: 'grok', prompt: 'x', country: 'DE', key: 'key-one', bypassCache: true }, ['504'])
    sim.script({ scraper: 'grok', call: 'submit' }, ['408'])
    sim.script({}, [])
    t.equal((await ask('/scrapers/gemini?prompt=y')).status, 200)
    t.equal((await ask('/scrapers/grok?prompt=x&country=DE&bypass_cache=true')).status, 504)
    t.equal((await ask('/scrapers/grok?prompt=x')).status, 500)
    t.equal((await ask('/scrapers/grok?prompt=x')).status, 503)
    t.equal((await ask('/scrapers/grok?prompt=x')).status, 200)
    t.equal((await ask('/scrapers/grok/jobs?prompt=x', { method: 'POST' })).status, 408)
  },
)

void t.test('a prompt that starts with sim: plays its own steps, once, per scraper', async (t) => {
  const { sim, ask } = await startSimulator(t)
  const statuses = async (path: string): Promise<unknown[]> => {
    const found = []
    for (let call = 0; call < 4; call += 1) found.push((await ask(path)).status)
    return found
  }
  t.same(await statuses('/scrapers/grok?prompt=sim:503,500,200+which+app'), [503, 500, 200, 200])
  t.same(await statuses('/scrapers/gemini?prompt=sim:503,500,200+which+app'), [503, 500, 200, 200])
  t.same(await statuses('/scrapers/grok?prompt=sim:nonsense+which+app'), [200, 200, 200, 200])
  sim.setSwitches({ promptScripts: false })
  t.same(await statuses('/scrapers/grok?prompt=sim:503,500+another'), [200, 200, 200, 200])
})

void t.test('mistakes in steps are refused with a sentence', async (t) => {
  const { sim } = await startSimulator(t)
  const wrong: readonly (readonly [unknown, RegExp])[] = [
    ['505', /there is no step "505"; steps are 200, cached/],
    [{ kind: '200', bytes: 3 }, /step "200" has no field "bytes"/],
    [{ kind: 'answer' }, /needs a status/],
    [{ kind: 'answer', status: 101 }, /from 200 to 599/],
    [{ kind: '200', times: 0 }, /times must be/],
    [{ kind: '503', retryAfter: true }, /retryAfter must be/],
    [{ kind: '503', body: 3 }, /body must be/],
    [{ kind: '503', headers: 'a: b' }, /headers must be/],
    [{ kind: '503', headers: { 'a b': 'c' } }, /header "a b"/],
    [{ kind: '503', retryAfter: 'a\nb' }, /header "Retry-After"/],
    [{ kind: '503', delayMs: -1 }, /delayMs must not be negative/],
    [{ kind: '503', delayMs: '1' }, /delayMs must be a number/],
    [{ kind: 'pending', outcome: 'lost' }, /outcome must be/],
    [{ kind: 'hold', next: 'no' }, /there is no step "no"/],
    [null, /there is no step null/],
  ]
  for (const [step, message] of wrong) t.throws(() => sim.script({}, [step as Step]), message, JSON.stringify(step))
})

void t.test('the manual has a row for every step', async (t) => {
  const manual = readFileSync(new URL('../../src/simulator/README.md', import.meta.url), 'utf8')
  const rows = [
    ...manual.slice(manual.indexOf('## Steps'), manual.indexOf('## Switches')).matchAll(/^\| `([^`]+)` \|/gm),
  ]
  t.same(new Set(rows.map(([, name]) => name)), new Set(stepKinds))
})

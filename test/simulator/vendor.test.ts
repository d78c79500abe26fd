// The vendor's API over real sockets: routes, keys, parameters, answers, money, weather, and every switch.

import { readFileSync } from 'node:fs'
import t from 'tap'
import { defaultSwitches, switchNames, type Switches } from '../../src/simulator/switches.ts'
import { startSimulator } from './client.ts'

const NOON = Date.UTC(2026, 4, 11, 12)

const OWN_FIELDS = {
  chatgpt: { result: /call 1/, links: [{ url: /http/, text: /./ }], search_queries: ['x'], llm_model: 'gpt-4o' },
  perplexity: { result: /call 1/, sources: [{ title: /./, url: /http/, snippet: /./ }], related_questions: [/x/] },
  gemini: { result: /call 1/, citations: [{ highlights: ['Half'], favicon: null }], llm_model: 'gemini-2.0-flash' },
  grok: { result: /call 1/, web_sources: [{ preview: /./ }], x_results: [{ url: /http/ }] },
  copilot: { result: /call 1/, citations: [{ website_name: 'Example' }], links: [/^http/] },
  google_ai_mode: { result: /call 1/, citations: [{ title: /./ }], search_results: [{ website_name: 'Example' }] },
  amazon_rufus: { products: [{ asin: 'B000000001', title: 'x, call 1', rating: '4.4' }], related_questions: [/x/] },
}

for (const [scraper, fields] of Object.entries(OWN_FIELDS)) {
  void t.test(`${scraper} answers with the common fields and its own`, async (t) => {
    const { ask } = await startSimulator(t)
    const common = {
      scraper,
      status: 'done',
      job_id: /^job_/,
      prompt: 'x',
      country: 'GB',
      credits_used: 3,
      cached: false,
    }
    t.match((await ask(`/scrapers/${scraper}?prompt=x&country=GB`)).json(), { ...common, ...fields, elapsed_ms: 0 })
  })
}

void t.test('parameters that change the content change it', async (t) => {
  const { ask } = await startSimulator(t)
  t.match((await ask('/scrapers/perplexity?prompt=x&web_search=false')).json(), { sources: [] })
  t.hasProp((await ask('/scrapers/chatgpt?prompt=x&markdown_json=true')).json(), 'markdown_json')
})

void t.test('wrong routes, methods and parameters are refused and free', async (t) => {
  const { sim, ask } = await startSimulator(t)
  const refused: readonly (readonly [string, string, number])[] = [
    ['GET', '/', 404],
    ['GET', '/scrapers/', 404],
    ['GET', '/scrapers/bing?prompt=x', 404],
    ['GET', '/scrapers/grok/other?prompt=x', 404],
    ['GET', '/scrapers/grok/jobs/more', 404],
    ['POST', '/scrapers/grok?prompt=x', 405],
    ['HEAD', '/scrapers/grok?prompt=x', 405],
    ['GET', '/scrapers/grok/jobs?prompt=x', 405],
    ['DELETE', '/jobs/5c0d9c1e-8d57-4b6e-9a55-0f3a6f1f2b10', 405],
    ['GET', '/jobs/5c0d9c1e-8d57-4b6e-9a55-0f3a6f1f2b10', 404],
    ['GET', '/scrapers/grok', 400],
    ['GET', '/scrapers/grok?prompt=', 400],
    ['GET', `/scrapers/grok?prompt=${'a'.repeat(4001)}`, 400],
    ['GET', '/scrapers/grok?prompt=x&timeout=9.9', 400],
    ['GET', '/scrapers/grok?prompt=x&timeout=601', 400],
    ['GET', '/scrapers/grok?prompt=x&timeout=', 400],
    ['GET', '/scrapers/grok?prompt=x&timeout=soon', 400],
    ['GET', '/scrapers/grok?prompt=x&bypass_cache=maybe', 400],
    ['GET', '/scrapers/grok?prompt=x&country=', 400],
    ['GET', '/scrapers/grok?prompt=x&country=JP', 400],
    ['POST', '/scrapers/grok/jobs', 400],
  ]
  for (const [method, path, status] of refused) {
    const answer = await ask(path, { method })
    t.equal(answer.status, status, `${method} ${path.slice(0, 60)}`)
    if (method !== 'HEAD') t.type(answer.json()['detail'], 'string')
    if (status === 405) t.match(answer.headers, { allow: /GET|POST/ })
  }
  t.equal(sim.ledger.total(), 0)
})

void t.test('four thousand emoji in the prompt are answered, and every request is recorded as it was', async (t) => {
  const { sim, ask } = await startSimulator(t, { now: () => NOON })
  const prompt = '🦊'.repeat(4000)
  const answer = await ask(`/scrapers/grok?prompt=${encodeURIComponent(prompt)}&timeout=600&b=1&b=2`, {
    body: 'body',
    headers: { 'X-Mixed-Case': 'Y' },
  })
  t.equal(answer.json()['prompt'], prompt)
  const [request] = sim.requests
  t.match(request, { index: 1, call: 'sync', method: 'GET', path: '/scrapers/grok', scraper: 'grok', key: 'key-one' })
  t.match(request, { body: 'body', receivedAt: NOON, headers: { 'x-mixed-case': 'Y' }, jobId: null, country: null })
  t.ok(request?.rawHeaders.includes('X-Mixed-Case'))
  t.same(request?.params.slice(1), [
    ['timeout', '600'],
    ['b', '1'],
    ['b', '2'],
  ])
})

void t.test('keys: any is good by default; given ones have a balance, a top-up and an end', async (t) => {
  const open = await startSimulator(t)
  t.equal((await open.ask('/scrapers/grok?prompt=x', { key: 'whatever' })).status, 200)
  t.match((await open.ask('/scrapers/grok?prompt=x', { key: null })).json(), { detail: /^Missing API key/ })
  t.equal((await open.ask('/scrapers/grok?prompt=x', { key: '' })).status, 401)
  open.sim.setKey('whatever', null)
  t.equal((await open.ask('/scrapers/grok?prompt=x', { key: 'whatever' })).status, 401)

  const { sim, ask } = await startSimulator(t, { keys: { spent: { credits: 5 }, 'key-one': {} } })
  const asSpent = { key: 'spent' }
  t.equal((await ask('/scrapers/grok?prompt=x', { key: 'other' })).status, 401)
  t.equal((await ask('/scrapers/grok?prompt=x', asSpent)).status, 200)
  t.match(await ask('/scrapers/grok?prompt=x', asSpent), { status: 429 })
  sim.setSwitches({ noCredits: '401' })
  t.match((await ask('/scrapers/grok?prompt=x', asSpent)).json(), { detail: /no credits/ })
  sim.setKey('spent', { credits: 6 })
  t.equal((await ask('/scrapers/grok?prompt=x&api_key=spent', { key: null })).status, 200)
  t.same(sim.ledger.totals(), { spent: 6 })
  t.equal(sim.ledger.total('key-one'), 0)
  sim.reset()
  t.equal((await ask('/scrapers/grok?prompt=x', asSpent)).status, 200, 'a reset gives the allowance back')
})

void t.test('the vendor cache, once switched on, repeats answers until they are old or bypassed', async (t) => {
  let time = NOON
  const { sim, ask } = await startSimulator(t, { now: () => time, switches: { vendorCacheTtlMs: 1000 } })
  const first = (await ask('/scrapers/grok?prompt=x')).json()
  t.same((await ask('/scrapers/grok?prompt=x&country=us')).json(), { ...first, cached: true })
  t.equal(sim.ledger.total(), 6)
  t.match((await ask('/scrapers/grok?prompt=x&country=DE')).json(), { cached: false })
  sim.setSwitches({ cachedCharge: 'free', cachedJobId: 'new', cachedAt: true })
  const again = (await ask('/scrapers/grok?prompt=x')).json()
  t.match(again, { cached: true, credits_used: 0, result: first['result'], cached_at: '2026-05-11T12:00:00+00:00' })
  t.not(again['job_id'], first['job_id'])
  t.equal(sim.ledger.total(), 9)
  sim.setSwitches({ bypassRefreshes: false })
  t.match((await ask('/scrapers/grok?prompt=x&bypass_cache=true')).json(), { cached: false, result: /call 5/ })
  t.match((await ask('/scrapers/grok?prompt=x')).json(), { cached: true, result: /call 1/ })
  sim.setSwitches({ bypassRefreshes: true })
  await ask('/scrapers/grok?prompt=x&bypass_cache=true')
  t.match((await ask('/scrapers/grok?prompt=x')).json(), { cached: true, result: /call 7/ })
  time += 1000
  t.match((await ask('/scrapers/grok?prompt=x')).json(), { cached: false })
})

void t.test('rate and queue limits count per key or over all, and open again', async (t) => {
  let time = NOON
  const rateLimit = { limit: 1, windowMs: 5000, retryAfter: true }
  const { sim, ask, begin } = await startSimulator(t, { now: () => time, switches: { rateLimit } })
  t.equal((await ask('/scrapers/grok?prompt=x')).status, 200)
  t.match(await ask('/scrapers/grok?prompt=x'), { status: 429, headers: { 'retry-after': '5' } })
  t.equal((await ask('/scrapers/grok?prompt=x', { key: 'two' })).status, 200)
  sim.setSwitches({ limitScope: 'account', rateLimit: { limit: 1, windowMs: 5000 } })
  t.equal((await ask('/scrapers/grok?prompt=x', { key: 'three' })).status, 200)
  t.equal((await ask('/scrapers/grok?prompt=x', { key: 'four' })).headers['retry-after'], undefined)
  time += 5000
  t.equal((await ask('/scrapers/grok?prompt=x')).status, 200)
  sim.setSwitches({ rateLimit: null, queueDepth: 1, limitScope: 'key' })
  sim.script({}, ['hold'])
  const held = begin('/scrapers/grok?prompt=x')
  await sim.until(() => sim.requests.at(-1)?.held === true)
  t.match((await ask('/scrapers/grok?prompt=y')).json(), { detail: /queue/ })
  t.equal((await ask('/scrapers/grok?prompt=y', { key: 'two' })).status, 200)
  t.equal((await ask('/scrapers/grok/jobs?prompt=y', { method: 'POST' })).status, 202)
  sim.release()
  await held.answer
})

void t.test('weather: outage, warm-up and failure rate last until told otherwise', async (t) => {
  let time = NOON
  const { sim, ask, submit } = await startSimulator(t, { now: () => time, seed: 7 })
  const statusOf = async (scraper: string): Promise<unknown> => (await ask(`/scrapers/${scraper}?prompt=x`)).status
  sim.weather('grok', { outage: true })
  t.same([await statusOf('grok'), await statusOf('grok'), await statusOf('gemini')], [503, 503, 200])
  t.equal((await submit('prompt=x')).status, 503)
  sim.weather('all', { outage: '504-html' })
  t.same([await statusOf('grok'), await statusOf('gemini')], [503, 504])
  sim.weather('all', null)
  sim.weather('grok', { warmUp: { requests: 2 } })
  t.same([await statusOf('grok'), await statusOf('grok'), await statusOf('grok')], [503, 503, 200])
  sim.weather('grok', { warmUp: { forMs: 10 } })
  t.equal(await statusOf('grok'), 503)
  time += 10
  t.equal(await statusOf('grok'), 200)
  sim.weather('grok', { failureRate: 1, failures: ['408', { kind: '429-rate' }] })
  const seen = new Set<unknown>()
  for (let call = 0; call < 40; call += 1) seen.add(await statusOf('grok'))
  t.same(seen, new Set([408, 429]))
  const id = String((await submit('prompt=x')).json()['job_id'])
  t.match(
    (await ask(`/jobs/${id}`)).json(),
    { status: 'failed' },
    'bad luck is retried by the vendor, then fails the job',
  )
  t.equal(sim.ledger.entries.at(-1)?.state, 'refunded')
  sim.weather('grok', { failureRate: 0.5 })
  const halves = []
  for (let call = 0; call < 40; call += 1) halves.push(await statusOf('grok'))
  t.ok(halves.includes(200) && halves.some((status) => status !== 200))
  for (const wrong of [{ failureRate: 2 }, { failures: [] }, { warmUp: { hours: 1 } }, { outage: 'rain' }]) {
    t.throws(() => sim.weather('grok', wrong as object), { name: 'SimulatorInputError' })
  }
})

void t.test('latency follows the seed and the scale, and a slow answer beyond its timeout is a 408', async (t) => {
  const slow = { latency: { minMs: 5000, maxMs: 30_000 }, speedUp: 1e6 }
  const elapsed = async (seed: number): Promise<unknown> => {
    const { ask } = await startSimulator(t, { ...slow, seed })
    return (await ask('/scrapers/grok?prompt=x')).json()['elapsed_ms']
  }
  t.equal(await elapsed(1), await elapsed(1))
  t.not(await elapsed(1), await elapsed(2))
  const { sim, ask } = await startSimulator(t, { latency: { minMs: 20_000, maxMs: 20_000 }, speedUp: 1e6 })
  t.equal((await ask('/scrapers/grok?prompt=x&timeout=10')).status, 408)
  sim.setSwitches({ latencyShape: 'tail', timeout408: 'at-timeout' })
  const durations = []
  for (let call = 0; call < 60; call += 1)
    durations.push(Number((await ask('/scrapers/grok?prompt=x')).json()['elapsed_ms']))
  t.ok(durations.some((ms) => ms > 20_000) && durations.some((ms) => ms === 20_000))
  sim.script({}, ['408'])
  t.equal((await ask('/scrapers/grok?prompt=x')).status, 408)

  const wide = await startSimulator(t, { ...slow, switches: { latencyShape: 'log-normal' } })
  const spread: number[] = []
  for (let call = 0; call < 100; call += 1)
    spread.push(Number((await wide.ask('/scrapers/grok?prompt=x')).json()['elapsed_ms']))
  const outside = spread.filter((ms) => ms < 5_000 || ms > 30_000).length
  t.ok(outside > 0 && outside < 20, `${outside} of 100 are outside of the bounds`)
  t.ok(spread.toSorted((a, b) => a - b)[50]! < 15_000, 'the median is the geometric mean')
})

const SWITCHED: readonly (readonly [Partial<Switches>, string, object])[] = [
  [{ validation: '422-list' }, '/scrapers/grok', { status: 422, detail: [{ loc: ['query', 'prompt'] }] }],
  [{ unknownScraper: '400' }, '/scrapers/bing?prompt=x', { status: 400 }],
  [{ unknownScraper: '400', validation: '422-list' }, '/scrapers/bing?prompt=x', { status: 422 }],
  [{ unsupportedCountry: 'accept' }, '/scrapers/gemini?prompt=x&country=tw', { status: 200, country: 'tw' }],
  [{ keyPrecedence: 'query' }, '/scrapers/grok?prompt=x&api_key=bad', { status: 401 }],
  [{ keyPrecedence: 'header' }, '/scrapers/grok?prompt=x&api_key=bad', { status: 200 }],
  [{ queueFull: 'retry-after' }, '/scrapers/grok?prompt=sim:429-queue', { status: 429, retryAfter: '3' }],
  [{ queueFull: 'html' }, '/scrapers/grok?prompt=sim:429-queue', { status: 429, type: 'text/html' }],
  [{ optionalFields: true }, '/scrapers/grok?prompt=x', { url: /^http/, created_at: /\+00:00$/ }],
  [{ copilotLinks: 'objects' }, '/scrapers/copilot?prompt=x', { links: [{ text: 'B', url: /^http/ }] }],
  [{ resultBytes: 5000 }, '/scrapers/grok?prompt=x', { length: 5002 }],
]

for (const [switches, path, expected] of SWITCHED) {
  void t.test(`the switch ${JSON.stringify(switches)} changes ${path}`, async (t) => {
    const { ask } = await startSimulator(t, { switches, keys: { 'key-one': {} } })
    const answer = await ask(path)
    const isJson = answer.headers['content-type'] === 'application/json'
    const body: Record<string, unknown> = isJson ? answer.json() : {}
    const length = JSON.stringify(body['result'] ?? '').length - 2
    const head = { type: answer.headers['content-type'], retryAfter: answer.headers['retry-after'] }
    t.match({ ...body, ...head, length, status: answer.status }, expected)
  })
}

void t.test('every switch is in the manual with its default first, and refuses other values', async (t) => {
  const manual = readFileSync(new URL('../../src/simulator/README.md', import.meta.url), 'utf8')
  const rows = manual.slice(manual.indexOf('## Switches')).matchAll(/^\| `([^`]+)` \| `([^`]+)`/gm)
  const documented = Object.fromEntries([...rows].map(([, name, initial]) => [name, initial]))
  const { sim } = await startSimulator(t)
  for (const name of switchNames) {
    t.equal(documented[name], JSON.stringify(defaultSwitches()[name]).replaceAll('"', ''), name)
    t.throws(() => sim.setSwitches({ [name]: 'nonsense' }), { message: new RegExp(`switch "${name}" must be`) })
  }
  t.equal(Object.keys(documented).length, switchNames.length)
  t.throws(() => sim.setSwitches({ rateLimit: { limit: 1 } } as object), /rateLimit/)
  t.throws(() => sim.setSwitches({ weather: 1 } as object), /switches has no field "weather"/)
  t.same(sim.switches, defaultSwitches())
})

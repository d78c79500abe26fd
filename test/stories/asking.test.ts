/** What a service sees that asks: the first time, again, together with others, with wishes, and after hanging up. */
import t from 'tap'
import { aProxy, UPSTREAM_KEY, type Answer, type Asking } from '../support/proxy.ts'

const CLIENTS = `
clients:
  anonymous: {}
  alice: { token: alice-token-0123456789 }
  bob: { token: bob-token-0123456789, rate: { limit: 2, per: 1m }, concurrency: 1 }
`

function facts(answer: Answer) {
  const { status, headers } = answer
  return {
    status,
    cache: String(headers['cache-status'])
      .replace('scrapellm-proxy; ', '')
      .replace(/ttl=\d+/, 'ttl=N'),
    attempts: headers['x-proxy-attempts'],
    credits: headers['x-proxy-credits'],
  }
}

void t.test("a new question goes upstream with the proxy's key, and the answer is cached", async (t) => {
  const { ask, sim } = await aProxy(t)
  const answer = await ask('hello', { headers: { 'x-request-id': 'my-id' } })
  t.same(facts(answer), { status: 200, cache: 'fwd=miss; fwd-status=200; stored', attempts: '1', credits: '3' })
  t.match(answer.json, { prompt: 'hello', credits_used: 3, cached: false })
  t.equal(answer.headers['x-request-id'], 'my-id')
  t.equal(answer.headers['age'], '0')
  t.equal(answer.headers['cache-control'], 'private, max-age=43200')
  const [asked] = sim.requests
  t.equal(asked?.target, '/scrapers/chatgpt?prompt=hello')
  t.same(Object.keys(asked?.headers ?? {}).toSorted(), [
    'accept',
    'accept-encoding',
    'connection',
    'host',
    'user-agent',
    'x-api-key',
    'x-request-id',
  ])
  t.equal(asked?.key, UPSTREAM_KEY)
})

void t.test('the same question again is free', async (t) => {
  const { ask, sim } = await aProxy(t)
  const first = await ask('hello')
  const second = await ask('hello')
  t.same(facts(second), { status: 200, cache: 'hit; ttl=N; detail=memory', attempts: '0', credits: '0' })
  t.match(second.json, { result: first.json['result'], credits_used: 0, cached: true })
  t.equal(second.headers['etag'], first.headers['etag'])
  t.equal(sim.requests.length, 1)
  t.equal(sim.ledger.total(), 3)
})

void t.test('order, encoding and defaults of query parameters do not make a different question', async (t) => {
  const { ask, sim } = await aProxy(t)
  await ask('/scrapers/chatgpt?prompt=a+b&country=us')
  for (const other of ['?country=US&prompt=a%20b', '?prompt=%61%20b', '?prompt=a+b&timeout=60&bypass_cache=false']) {
    t.match((await ask(`/scrapers/chatgpt${other}`)).headers['cache-status'], 'hit', other)
  }
  for (const different of [
    '?prompt=a%2Bb',
    '?prompt=A+b',
    '?prompt=a+b&country=DE',
    '?prompt=a+b&markdown_json=true',
  ]) {
    t.match((await ask(`/scrapers/chatgpt${different}`)).headers['cache-status'], 'fwd=miss', different)
  }
  t.equal(sim.requests.length, 5)
})

void t.test('fifty identical requests at once: one upstream call, one charge', async (t) => {
  const { ask, sim } = await aProxy(t)
  sim.script({ prompt: 'popular' }, ['hold'])
  const first = ask('popular')
  await sim.received(1)
  const others = Array.from({ length: 49 }, () => ask('popular'))
  // A question that is answered at once is proof that those before it have been taken in.
  await ask('/scrapers/grok?prompt=barrier')
  sim.release()
  const leader = await first
  const joined = await Promise.all(others)
  t.same(facts(leader), { status: 200, cache: 'fwd=miss; fwd-status=200; stored', attempts: '1', credits: '3' })
  for (const answer of joined) {
    t.ok(['fwd=miss; collapsed', 'hit; ttl=N; detail=memory'].includes(facts(answer).cache))
    t.match(answer.json, { credits_used: 0, cached: true, result: leader.json['result'] })
  }
  t.equal(sim.requests.filter(({ prompt }) => prompt === 'popular').length, 1)
  t.equal(sim.ledger.total(), 6)
})

void t.test('a client disconnects: the call is completed and cached, and asking again is free', async (t) => {
  const { ask, sim, metric } = await aProxy(t)
  sim.script({ prompt: 'slow' }, ['hold'])
  const hangUp = new AbortController()
  const lost = ask('slow', { signal: hangUp.signal })
  await sim.received(1)
  hangUp.abort()
  await t.rejects(lost)
  await ask('/scrapers/grok?prompt=barrier')
  t.equal(sim.requests[0]?.closedEarly, false)
  sim.release()
  await sim.idle()
  t.match((await ask('slow')).headers['cache-status'], 'hit')
  t.equal(sim.ledger.total(), 6)
  t.match(await metric('requests_total'), { 'client="anonymous",scraper="chatgpt",status="gone",cache="none"': 1 })
})

void t.test('a client disconnects: the others who share its call still get the answer', async (t) => {
  const { ask, sim } = await aProxy(t)
  sim.script({ prompt: 'shared' }, ['hold'])
  const hangUp = new AbortController()
  const leader = ask('shared', { signal: hangUp.signal })
  await sim.received(1)
  const other = ask('shared')
  await ask('/scrapers/grok?prompt=barrier')
  hangUp.abort()
  await t.rejects(leader)
  sim.release()
  t.equal((await other).status, 200)
  t.equal(sim.requests.filter(({ prompt }) => prompt === 'shared').length, 1)
})

void t.test(
  'bypass_cache=true gets a fresh answer, neither cached nor shared, which is then cached for others',
  async (t) => {
    const { ask, sim } = await aProxy(t)
    const old = await ask('news')
    const fresh = await ask('/scrapers/chatgpt?prompt=news&bypass_cache=true')
    t.same(facts(fresh), { status: 200, cache: 'fwd=bypass; fwd-status=200; stored', attempts: '1', credits: '3' })
    t.not(fresh.json['result'], old.json['result'])
    t.same(sim.requests[1]?.params, [
      ['prompt', 'news'],
      ['bypass_cache', 'true'],
    ])
    t.equal((await ask('news')).json['result'], fresh.json['result'])

    sim.script({ prompt: 'live' }, ['hold', 'hold'])
    const one = ask('live')
    await sim.received(1, { prompt: 'live' })
    const two = ask('/scrapers/chatgpt?prompt=live&bypass_cache=true')
    await sim.received(2, { prompt: 'live' })
    sim.release()
    await Promise.all([one, two])
  },
)

void t.test('request Cache-Control is honoured', async (t) => {
  const { ask, sim, clock } = await aProxy(t)
  const wishing = (value: string) => ({ headers: { 'cache-control': value } })
  t.match(await ask('q', wishing('only-if-cached')), { status: 504, headers: { 'x-proxy-code': 'CACHE_MISS' } })
  t.equal(sim.requests.length, 0)
  await ask('q', wishing('no-store'))
  t.match(facts(await ask('q')), { cache: 'fwd=miss; fwd-status=200; stored' }, 'no-store kept nothing')
  t.match(facts(await ask('q', wishing('only-if-cached'))), { status: 200 })
  t.match(facts(await ask('q', wishing('no-cache'))), { cache: 'fwd=request; fwd-status=200; stored' })
  clock.skip(101_000)
  t.match(facts(await ask('q', wishing('max-age=100'))), { cache: /^fwd=/ })
  clock.skip(12 * 3_600_000)
  t.match(facts(await ask('q', wishing('max-stale, only-if-cached'))), { status: 200 })
  t.match(facts(await ask('q', wishing('only-if-cached'))), { status: 504 })
})

void t.test('If-None-Match saves the body', async (t) => {
  const { ask } = await aProxy(t)
  const { headers } = await ask('q')
  const again = await ask('q', { headers: { 'if-none-match': String(headers['etag']) } })
  t.match(again, { status: 304, text: '', headers: { etag: headers['etag'] } })
  t.equal((await ask('q', { headers: { 'if-none-match': '"other"' } })).status, 200)
})

void t.test('HEAD is answered from the cache, never with a paid call', async (t) => {
  const { ask, sim } = await aProxy(t)
  t.match(await ask('q', { method: 'HEAD' }), { status: 405, headers: { allow: 'GET' } })
  const { text } = await ask('q')
  const head = await ask('q', { method: 'HEAD' })
  t.match(head, { status: 200, text: '' })
  t.ok(Math.abs(Number(head.headers['content-length']) - text.length) < 4)
  t.equal(sim.requests.length, 1)
})

void t.test('a prompt of 4,000 CJK characters is accepted; a request target over 64 KiB gets 414', async (t) => {
  const { ask, sim } = await aProxy(t)
  const prompt = '漢'.repeat(4_000)
  t.equal((await ask(prompt)).status, 200)
  t.equal(sim.requests[0]?.prompt, prompt)
  t.match(await ask(`/scrapers/chatgpt?prompt=${'x'.repeat(65_600)}`), {
    status: 414,
    headers: { 'x-proxy-code': 'REQUEST_INVALID' },
  })
})

void t.test('the token identifies the client and is not sent upstream', async (t) => {
  const { ask, sim, output, metric } = await aProxy(t, CLIENTS)
  const ways = [
    ask('1', { headers: { 'x-api-key': 'alice-token-0123456789' } }),
    ask('2', { headers: { authorization: 'Bearer alice-token-0123456789' } }),
    ask('/scrapers/chatgpt?prompt=3&api_key=alice-token-0123456789'),
  ]
  for (const answer of await Promise.all(ways)) t.equal(answer.status, 200)
  t.equal((await ask('4', { headers: { 'x-api-key': 'old-vendor-key-of-the-service' } })).status, 200)
  t.same(
    sim.requests.map(({ key, params }) => [key, params.length]),
    Array.from({ length: 4 }, () => [UPSTREAM_KEY, 1]),
  )
  t.match(await metric('requests_total'), {
    'client="alice",scraper="chatgpt",status="200",cache="miss"': 3,
    'client="anonymous",scraper="chatgpt",status="200",cache="miss"': 1,
  })
  t.notMatch(JSON.stringify(sim.requests), 'alice-token')
  t.notMatch(output(), 'alice-token')
})

void t.test('no valid token: 401; two different tokens: 400', async (t) => {
  const { ask, sim } = await aProxy(t, 'clients: { alice: { token: alice-token-0123456789 } }')
  t.match(await ask('q'), { status: 401, headers: { 'x-proxy-code': 'CLIENT_UNKNOWN' }, json: { detail: String } })
  t.equal((await ask('q', { headers: { 'x-api-key': 'wrong-token-0123456789' } })).status, 401)
  const two = { 'x-api-key': 'alice-token-0123456789', authorization: 'Bearer another-token-0123456789' }
  t.match(await ask('q', { headers: two }), { status: 400, headers: { 'x-proxy-code': 'REQUEST_INVALID' } })
  t.equal(sim.requests.length, 0)
})

void t.test('every refusal says what to do', async (t) => {
  const { ask, sim } = await aProxy(
    t,
    `clients:
  one: { token: token-of-one-0123456789 }
  two: { token: token-of-two-0123456789, rate: { limit: 1, per: 1h, burst: 1 } }`,
  )
  const headers = { 'x-api-key': 'token-of-one-0123456789' }
  const busy = { 'x-api-key': 'token-of-two-0123456789' }
  const both = { ...headers, authorization: 'Bearer another-token-0123456789' }
  const post = { method: 'POST', headers: { ...headers, 'idempotency-key': 'k' } }
  await ask('/scrapers/grok/jobs?prompt=one', post)
  await ask('/scrapers/grok?prompt=c', { headers: busy })
  const rows: [path: string, asking: Asking, says: RegExp][] = [
    ['/scrapers/grok?prompt=a', {}, /Send a token of this proxy, not a key of ScrapeLLM/],
    ['/scrapers/grok?prompt=a', { headers: both }, /send one, in one place/],
    ['/scrapers/grok?prompt=a&prompt=b', { headers }, /more than once: give it once/],
    [`/scrapers/grok?prompt=${'x'.repeat(65_536)}`, { headers }, /longer than 64 KiB: shorten it/],
    ['/scrapers/grok/jobs?prompt=two', post, /with other parameters: use a new key/],
    ['/scrapers/grok?prompt=b', { headers: { ...headers, 'cache-control': 'only-if-cached' } }, /leave it out/],
    ['/scrapers/grok', { method: 'PUT', headers }, /This endpoint supports GET, HEAD/],
    ['/scrapers/groc', { headers }, /the scrapers are chatgpt, /],
    ['/scrapers/grok?prompt=c', { headers: busy }, /^Rate limit exceeded: 1 request per hour\. Retry in \d+ s\.$/],
  ]
  for (const [path, asking, says] of rows)
    t.match((await ask(path, asking)).json['detail'], says, `${asking.method ?? 'GET'} ${path.slice(0, 40)}`)
  t.equal(sim.requests.length, 2)
})

void t.test('rate and concurrency limits answer 429 with Retry-After', async (t) => {
  const { ask, sim, clock } = await aProxy(t, CLIENTS)
  const bob = { headers: { 'x-api-key': 'bob-token-0123456789' } }
  sim.script({ prompt: 'long' }, ['hold'])
  const open = ask('long', bob)
  await sim.received(1)
  t.match(await ask('another', bob), {
    status: 429,
    headers: { 'x-proxy-code': 'CONCURRENCY_LIMITED', 'retry-after': /^\d+$/ },
  })
  sim.release()
  const first = await open
  t.equal(first.headers['ratelimit-policy'], '"requests";q=2;w=60')
  t.equal((await ask('long', bob)).status, 200, 'what was refused for want of a place does not count')
  const third = await ask('long', bob)
  t.match(third, { status: 429, headers: { 'x-proxy-code': 'RATE_LIMITED', 'retry-after': '30' } })
  clock.skip(30_000)
  t.equal((await ask('long', bob)).status, 200, 'cached answers are still served')
})

void t.test('with cache.scope: client, no client gets an answer of another', async (t) => {
  const { ask, sim } = await aProxy(t, `${CLIENTS}\ncache: { scope: client }`)
  await ask('q')
  await ask('q', { headers: { 'x-api-key': 'alice-token-0123456789' } })
  await ask('q')
  t.equal(sim.requests.length, 2)
})

void t.test('job calls are passed through, with the key on submissions only', async (t) => {
  const { ask, sim } = await aProxy(t)
  const submitted = await ask('/scrapers/gemini/jobs?prompt=later', { method: 'POST' })
  t.same(facts(submitted), { status: 202, cache: 'fwd=method; fwd-status=202', attempts: '1', credits: '3' })
  const id = String(submitted.json['job_id'])
  const polled = await ask(`/jobs/${id}`, { headers: { 'x-api-key': 'whatever-it-is-0123' } })
  t.match(polled, { status: 200, json: { job_id: id }, headers: { 'x-proxy-credits': '0' } })
  t.same(
    sim.requests.map(({ method, key }) => [method, key]),
    [
      ['POST', UPSTREAM_KEY],
      ['GET', null],
    ],
  )
  t.match(await ask('/jobs/5c0d9c1e-8d57-4b6e-9a55-0f3a6f1f2b10'), { status: 404, json: { detail: /Job not found/ } })
})

void t.test(
  "another client's job and an unknown one are the same in every header, in the body and upstream",
  async (t) => {
    const { ask, sim } = await aProxy(
      t,
      'clients: { one: { token: token-of-one-0123456789 }, two: { token: token-of-two-0123456789 } }',
    )
    const as = (name: string, more = {}) => ({ headers: { 'x-api-key': `token-of-${name}-0123456789`, ...more } })
    const submitted = await ask('/scrapers/grok/jobs?prompt=mine', { method: 'POST', ...as('one') })
    const promised = await ask('/scrapers/grok?prompt=later', as('one', { prefer: 'respond-async' }))
    const other = { ...as('two', { 'x-request-id': 'poll' }) }
    const bare = ({ status, headers, text }: Answer) => ({ status, headers: { ...headers, date: '' }, text })
    const unknown = bare(await ask('/jobs/5c0d9c1e-8d57-4b6e-9a55-0f3a6f1f2b10', other))
    t.match(unknown, { status: 404, headers: { 'cache-status': 'scrapellm-proxy; fwd=bypass; fwd-status=404' } })
    for (const { json } of [submitted, promised]) {
      t.strictSame(bare(await ask(`/jobs/${String(json['job_id'])}`, other)), unknown)
      t.equal((await ask(`/jobs/${String(json['job_id'])}`, as('one'))).status, 200)
    }

    sim.script({ call: 'poll' }, ['503', '503', '503', '503', '503', '503', '503', '503'])
    const down = bare(await ask('/jobs/6c0d9c1e-8d57-4b6e-9a55-0f3a6f1f2b10', other))
    t.strictSame(
      bare(await ask(`/jobs/${String(submitted.json['job_id'])}`, other)),
      down,
      'when upstream fails as well',
    )
  },
)

void t.test('an unknown path or scraper: 404 without an upstream call', async (t) => {
  const { ask, sim } = await aProxy(t)
  for (const path of [
    '/',
    '/scrapers',
    '/scrapers/ChatGPT?prompt=x',
    '/scrapers/chatgpt/?prompt=x',
    '/metrics',
    '/status',
    '/healthz',
  ]) {
    t.match(
      await ask(path),
      { status: 404, headers: { 'x-proxy-code': 'ENDPOINT_UNKNOWN', 'content-type': 'application/problem+json' } },
      path,
    )
  }
  t.match(await ask('q', { method: 'DELETE' }), { status: 405, headers: { allow: 'GET, HEAD' } })
  t.match(await ask('/scrapers/chatgpt?prompt=a&prompt=b'), {
    status: 400,
    json: { code: 'REQUEST_INVALID', detail: /prompt/ },
  })
  t.equal(sim.requests.length, 0)
})

void t.test('samples are independent answers to one question; each is fetched once and cached', async (t) => {
  const { ask, sim, metric, admin } = await aProxy(t)
  const path = '/scrapers/chatgpt?prompt=q'
  const first = await ask(path)
  t.match(first.headers, { 'x-proxy-sample': '1', 'x-proxy-credits': '3' })
  t.match((await ask(`${path}&sample=1`)).headers, { 'x-proxy-sample': '1', 'x-proxy-credits': '0' })
  const second = await ask(`${path}&sample=2`)
  t.match(second.headers, { 'x-proxy-sample': '2', 'x-proxy-credits': '3' })
  t.not(second.json['result'], first.json['result'])
  const again = await ask(path, { headers: { 'x-sample': '2' } })
  t.match(
    again.headers,
    { 'x-proxy-sample': '2', 'x-proxy-credits': '0', vary: 'X-Sample' },
    'also for a cache of yours',
  )
  t.equal(again.json['result'], second.json['result'])
  t.strictSame(
    sim.requests.map(({ params }) => params),
    [
      [['prompt', 'q']],
      [
        ['prompt', 'q'],
        ['bypass_cache', 'true'],
      ],
    ],
    'the sample stays here, and the cache of upstream is skipped from the second on',
  )

  sim.script({ prompt: 'together' }, ['hold', 'hold'])
  const both = ['sample=3', 'sample=3', 'sample=4'].map((sample) => ask(`/scrapers/chatgpt?prompt=together&${sample}`))
  await sim.received(2, { prompt: 'together' })
  sim.release({ prompt: 'together' })
  const credits = (await Promise.all(both)).map(({ headers }) => Number(headers['x-proxy-credits']))
  t.equal(
    credits.reduce((sum, one) => sum + one),
    6,
    'the same sample shares a call, another one does not',
  )

  t.match(await ask(`${path}&sample=101`), { status: 400, headers: { 'x-proxy-code': 'REQUEST_INVALID' } })
  t.match(await ask(path, { headers: { 'x-sample': 'two' } }), { status: 400 })
  t.match(await ask(`${path}&sample=3`, { headers: { 'x-sample': '4' } }), { status: 400 })
  const purged = await admin('/cache/purge', { method: 'POST', body: '{"prompt":"q"}' })
  t.equal(purged.json['purged'], 2, 'a purge of the prompt takes all its samples')
  const sampled = await metric('samples_total')
  t.match(sampled, { 'scraper="chatgpt",sample="1"': 2, 'scraper="chatgpt",sample="2-10"': 5 })
})

void t.test(
  'True and FALSE are true and false; a value without a meaning is not kept, and Cache-Status says why',
  async (t) => {
    const { ask, sim } = await aProxy(t)
    const path = '/scrapers/perplexity?prompt=q&web_search='
    await ask(`${path}False`)
    t.match((await ask(`${path}false`)).headers['cache-status'], /; hit;/)
    t.strictSame(sim.requests[0]?.params, [
      ['prompt', 'q'],
      ['web_search', 'false'],
    ])
    const unknown = await ask(`${path}yes`)
    t.equal(unknown.headers['cache-status'], 'scrapellm-proxy; fwd=miss; fwd-status=200; detail=unknown-value')
    t.strictSame(
      sim.requests[1]?.params,
      [
        ['prompt', 'q'],
        ['web_search', 'yes'],
      ],
      'as it came',
    )
  },
)

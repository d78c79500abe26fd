/** What a service sees, and what it costs, when upstream fails in each of its ways. */
import t from 'tap'
import { until } from '../support/redis.ts'
import { aProxy, type Answer } from '../support/proxy.ts'

const TWO_KEYS = 'upstream: { keys: [{ name: one, secret: key-one }, { name: two, secret: key-two }] }'

function facts({ status, headers }: Answer) {
  return {
    status,
    attempts: headers['x-proxy-attempts'],
    credits: headers['x-proxy-credits'],
    code: headers['x-proxy-code'],
  }
}

void t.test('503, then 500, then 200: the client sees one 200', async (t) => {
  const { ask, sim, metric } = await aProxy(t)
  sim.script({ prompt: 'q' }, ['503', '500', '200'])
  t.same(facts(await ask('q')), { status: 200, attempts: '3', credits: '3', code: undefined })
  t.equal(sim.ledger.total(), 3)
  t.match(await metric('retries_total'), {
    'scraper="chatgpt",class="warmingUp"': 1,
    'scraper="chatgpt",class="serverError"': 1,
  })
  t.match(await metric('upstream_responses_total'), {
    'scraper="chatgpt",status="503"': 1,
    'scraper="chatgpt",status="500"': 1,
    'scraper="chatgpt",status="200"': 1,
  })
})

for (const [name, steps, expected, asked] of [
  ['408 is repeated once, past the cache of upstream', ['408', '200'], { status: 200, attempts: '2', credits: '3' }, 2],
  ['408 twice is given back', ['408', '408', '200'], { status: 408, attempts: '2', credits: '0' }, 2],
  ['429 "rate limit" is repeated', ['429-rate', '429-rate', '200'], { status: 200, attempts: '3', credits: '3' }, 3],
  ['429 with a full queue is repeated', ['429-queue', '200'], { status: 200, attempts: '2', credits: '3' }, 2],
  ['429 "credit limit" goes up once', ['429-credits', '200'], { status: 429, attempts: '1', credits: '0' }, 1],
  [
    '401 of the last key is ours to tell',
    ['401', '200'],
    { status: 503, attempts: '1', credits: '0', code: 'NO_KEY_AVAILABLE' },
    1,
  ],
  [
    '401 for want of credits is ours to tell',
    ['401-no-credits', '200'],
    { status: 503, attempts: '1', credits: '0', code: 'NO_KEY_AVAILABLE' },
    1,
  ],
  [
    '"empty result" is repeated once',
    ['500-empty', '500-empty', '200'],
    { status: 500, attempts: '2', credits: '0' },
    2,
  ],
  [
    '500 four times is given back',
    ['500', '500', '500', '500', '200'],
    { status: 500, attempts: '4', credits: '0' },
    4,
  ],
  ['504 is repeated', ['504', '200'], { status: 200, attempts: '2', credits: '3' }, 2],
  [
    '502 with HTML of a gateway is repeated',
    ['502-html', '504-html', '200'],
    { status: 200, attempts: '3', credits: '3' },
    3,
  ],
  ['400 is your own', ['400', '200'], { status: 400, attempts: '1', credits: '0' }, 1],
  ['422 with a list is your own', ['422-list', '200'], { status: 422, attempts: '1', credits: '0' }, 1],
  [
    'a reset is repeated once: it may have been charged',
    ['reset-before-charge', '200'],
    { status: 200, attempts: '2', credits: '6' },
    2,
  ],
  [
    'two resets are enough',
    ['reset-after-charge', 'reset-before-charge', '200'],
    { status: 504, attempts: '2', credits: '6', code: 'UPSTREAM_UNREACHABLE' },
    2,
  ],
  [
    'a cut-off answer is not an answer',
    ['truncated', 'truncated-chunked', '200'],
    { status: 502, attempts: '2', credits: '6', code: 'UPSTREAM_INVALID' },
    2,
  ],
  ['a 200 that is not JSON is not an answer', ['not-json', '200'], { status: 200, attempts: '2', credits: '6' }, 2],
  [
    'a redirect is not followed',
    ['redirect', 'redirect', '200'],
    { status: 502, attempts: '2', credits: '0', code: 'UPSTREAM_INVALID' },
    2,
  ],
] as const) {
  void t.test(name, async (t) => {
    const { ask, sim } = await aProxy(t)
    sim.script({ prompt: 'q' }, [...steps])
    t.same(facts(await ask('q')), { code: undefined, ...expected })
    t.equal(sim.requests.length, asked)
  })
}

void t.test('a retry after 408 sends bypass_cache=true, the first attempt does not', async (t) => {
  const { ask, sim } = await aProxy(t)
  sim.script({ prompt: 'q' }, ['408', '200'])
  await ask('q')
  t.same(
    sim.requests.map(({ bypassCache }) => bypassCache),
    [false, true],
  )
})

void t.test('when all attempts fail, the client gets the last upstream answer unchanged', async (t) => {
  const { ask, sim } = await aProxy(t)
  sim.script({ prompt: 'q' }, ['503', '503', '503', { kind: '504-html' }])
  const answer = await ask('q')
  t.match(answer, { status: 504, headers: { 'content-type': /text\/html/ } })
  t.equal(answer.headers['x-proxy-code'], undefined)
  t.equal(answer.headers['cache-control'], 'no-store')
})

for (const [name, steps, expected] of [
  ['a reset', ['503', 'reset-before-charge', 'reset-before-charge'], { status: 503, attempts: '3', credits: '6' }],
  ['a cut-off answer', ['500', 'truncated', 'truncated'], { status: 500, attempts: '3', credits: '6' }],
] as const) {
  void t.test(`the last upstream answer is given, too, when ${name} came after it`, async (t) => {
    const { ask, sim } = await aProxy(t)
    sim.script({ prompt: 'q' }, [...steps])
    t.same(facts(await ask('q')), { code: undefined, ...expected })
  })
}

void t.test('a submission that may have arrived is not given the answer of the attempt before', async (t) => {
  const { ask, sim } = await aProxy(t)
  sim.script({ prompt: 'q' }, ['503', 'reset-after-charge'])
  t.same(facts(await ask('/scrapers/grok/jobs?prompt=q', { method: 'POST' })), {
    status: 504,
    attempts: '2',
    credits: '3',
    code: 'UPSTREAM_UNREACHABLE',
  })
})

void t.test('patience ends: DEADLINE_EXCEEDED where no attempt was answered, else the last answer', async (t) => {
  for (const [steps, expected] of [
    [['reset-before-charge', 'hold'], { status: 504, code: 'DEADLINE_EXCEEDED' }],
    [['503', 'hold'], { status: 503, code: undefined }],
    [['503', 'reset-before-charge', 'hold'], { status: 503, code: undefined }],
  ] as const) {
    const { ask, sim, clock } = await aProxy(
      t,
      'retry: { backoff: { base: 0s }, classes: { warmingUp: { backoff: { base: 0s } } } }',
    )
    sim.script({ prompt: 'q' }, [...steps])
    const answer = ask('q', { headers: { 'x-request-timeout': '20' } })
    await sim.received(steps.length, { prompt: 'q' })
    clock.skip(20_000)
    t.match(facts(await answer), expected)
    sim.release()
    await sim.idle()
  }
})

void t.test('upstream unreachable: 504 with a code and without a host name', async (t) => {
  const { ask, sim } = await aProxy(t)
  await sim.close()
  const answer = await ask('q')
  t.match(answer, { status: 504, headers: { 'x-proxy-code': 'UPSTREAM_UNREACHABLE', 'x-proxy-attempts': '4' } })
  t.notMatch(answer.text, /127\.0\.0\.1|ECONN|localhost/)
})

void t.test('an API key echoed by upstream is redacted', async (t) => {
  const { ask, sim, output } = await aProxy(t, 'upstream: { keys: [{ name: main, secret: canary-key-0123456789 }] }')
  sim.script({ prompt: 'q' }, [{ kind: 'echo-key', times: 'forever' }])
  const answer = await ask('q')
  t.notMatch(answer.text + JSON.stringify(answer.headers) + output(), 'canary-key')
})

void t.test('of the upstream response headers only Content-Type is passed on', async (t) => {
  const { ask, sim } = await aProxy(t)
  sim.script({ prompt: 'q' }, ['set-cookie'])
  const { headers } = await ask('q')
  for (const name of ['set-cookie', 'server', 'via', 'access-control-allow-origin'])
    t.equal(headers[name], undefined, name)
})

void t.test('stale-if-error: an expired answer is returned instead of an error, and marked as stale', async (t) => {
  const { ask, sim, clock } = await aProxy(t)
  const { json } = await ask('q')
  clock.skip(13 * 3_600_000)
  sim.weather('chatgpt', { outage: true })
  const stale = await ask('q')
  t.same(facts(stale), { status: 200, attempts: '4', credits: '0', code: undefined })
  t.match(stale.headers['cache-status'], /^scrapellm-proxy; hit; ttl=-36\d\d; detail=stale-if-error$/)
  t.match(stale.json, { result: json['result'], cached: true, credits_used: 0 })
  t.equal(
    (await ask('/scrapers/chatgpt?prompt=q&bypass_cache=true')).status,
    503,
    'not for one who wants a fresh answer',
  )
  clock.skip(12 * 3_600_000)
  t.equal((await ask('q')).status, 503, 'not for ever')
})

void t.test('"empty result" is cached for a minute', async (t) => {
  const { ask, sim, clock } = await aProxy(t)
  sim.script({ prompt: 'vague' }, ['500-empty', '500-empty'])
  const path = '/scrapers/amazon_rufus?prompt=vague'
  t.equal((await ask(path)).status, 500)
  const remembered = await ask(path)
  t.same(facts(remembered), { status: 500, attempts: '0', credits: '0', code: undefined })
  t.equal(sim.requests.length, 2)
  clock.skip(60_000)
  t.equal((await ask(path)).status, 200)
})

void t.test('a key without credits rests, and clients do not notice', async (t) => {
  const { ask, sim, metric, clock } = await aProxy(t, TWO_KEYS, {
    simulator: { keys: { 'key-one': { credits: 0 }, 'key-two': {} } },
  })
  t.same(facts(await ask('a')), { status: 200, attempts: '2', credits: '3', code: undefined })
  t.same(facts(await ask('b')), { status: 200, attempts: '1', credits: '3', code: undefined })
  t.same(
    sim.requests.map(({ key }) => key),
    ['key-one', 'key-two', 'key-two'],
  )
  t.same(await metric('key_state'), { 'key="one"': 2, 'key="two"': 0 })
  sim.setKey('key-one', {})
  clock.skip(15 * 60_000)
  await ask('c')
  await ask('d')
  t.same(await metric('key_state'), { 'key="one"': 0, 'key="two"': 0 }, 'one trial brought it back')
})

void t.test('keyRest works for every failure class', async (t) => {
  const { ask, sim, metric } = await aProxy(
    t,
    `${TWO_KEYS}\nretry: { attempts: 1, classes: { serverError: { keyRest: 1m } } }`,
  )
  sim.script({ prompt: 'a' }, ['500'])
  await ask('a')
  t.equal((await ask('b')).status, 200)
  t.same(
    sim.requests.map(({ key }) => key),
    ['key-one', 'key-two'],
  )
  t.same(await metric('key_state'), { 'key="one"': 1, 'key="two"': 0 })
})

void t.test('all keys without credits: 503 with the earliest return; cached answers are served', async (t) => {
  const { ask, sim } = await aProxy(t, TWO_KEYS)
  await ask('known')
  sim.setKey('key-one', { credits: 0 })
  sim.setKey('key-two', { credits: 0 })
  t.match(await ask('a'), { status: 429, json: { detail: /Credit limit/ }, headers: { 'x-proxy-attempts': '2' } })
  const refused = await ask('b')
  t.match(refused, { status: 503, headers: { 'x-proxy-code': 'NO_KEY_AVAILABLE' } })
  t.ok(Number(refused.headers['retry-after']) > 20 && Number(refused.headers['retry-after']) <= 33, 'then one is tried')
  t.match(
    refused.json['detail'],
    /`one` is out of credits until [^`]* UTC, `two` is out of credits until [^`]* UTC\. Add credits, then run `POST \/keys\/(one|two)\/try`\./,
  )
  t.equal((await ask('known')).status, 200)
  t.equal(sim.requests.length, 3)
})

void t.test('sustained 503s open the circuit of that scraper only, and it closes again', async (t) => {
  const { ask, sim, metric, clock, lines } = await aProxy(t)
  const known = await ask('known')
  t.equal(known.status, 200)
  sim.weather('chatgpt', { outage: true })
  const state = async () => (await metric('breaker_state'))['scraper="chatgpt"']
  // Together they fail twenty times in a row before one of them has used up its attempts; from then on all are held.
  const held = Array.from({ length: 8 }, (_, question) => ask(`question ${question}`))
  await until(async () => (await state()) !== 0)
  t.ok(((await metric('breaker_held'))['scraper="chatgpt"'] ?? 0) > 0)
  t.equal((await ask('known')).status, 200, 'cached answers are still served')
  t.equal((await ask('/scrapers/grok?prompt=a')).status, 200, 'other scrapers go on')

  // The outage lasts longer than the hold: callers are told at once.
  clock.skip(31_000)
  for (const answer of await Promise.all(held)) t.equal(answer.status, 503)
  const refused = await ask('refused')
  t.match(refused, { status: 503, headers: { 'x-proxy-code': 'CIRCUIT_OPEN', 'x-proxy-attempts': '0' } })
  t.ok(Number(refused.headers['retry-after']) >= 1)

  sim.weather('chatgpt', null)
  clock.skip(60_000)
  t.equal((await ask('after the outage')).status, 200)
  t.equal(await state(), 0)
  t.ok(lines().some((line) => line['msg'] === 'circuit opened' && line['scraper'] === 'chatgpt'))
})

void t.test('429, 401 and 4xx never open a circuit', async (t) => {
  const { ask, sim, metric } = await aProxy(t, 'retry: { attempts: 1 }')
  for (const [index, kind] of (['429-queue', '400', '422-list', '500-empty', '429-rate'] as const).entries()) {
    for (let turn = 0; turn < 6; turn++) {
      const prompt = `q${index}.${turn}`
      sim.script({ prompt }, [kind])
      await ask(prompt)
    }
  }
  t.equal((await metric('breaker_state'))['scraper="chatgpt"'], 0)
})

void t.test('the timeout parameter limits one attempt, and the proxy waits a little longer', async (t) => {
  const { ask, sim, clock } = await aProxy(t, 'retry: { attempts: 1 }')
  sim.script({ prompt: 'q' }, ['hang'])
  const answer = ask('/scrapers/chatgpt?prompt=q&timeout=30')
  await sim.received(1)
  clock.skip(44_000)
  const other = await ask('/scrapers/grok?prompt=barrier')
  t.equal(other.status, 200)
  t.equal(sim.requests[0]?.closedEarly, false)
  clock.skip(1_100)
  t.match(await answer, { status: 504, headers: { 'x-proxy-code': 'UPSTREAM_UNREACHABLE' } })
})

void t.test('a Retry-After of upstream replaces the back-off', async (t) => {
  const { ask, sim, clock } = await aProxy(t)
  sim.script({ prompt: 'q' }, [{ kind: '503', retryAfter: 60 }, '200'])
  const answer = ask('q')
  await sim.received(1)
  await sim.idle()
  await ask('/scrapers/grok?prompt=barrier')
  clock.skip(59_000)
  await ask('/scrapers/grok?prompt=barrier2')
  t.equal(sim.requests.filter(({ prompt }) => prompt === 'q').length, 1)
  clock.skip(7_000)
  t.equal((await answer).status, 200)
})

void t.test('a job submission is retried only if nothing can have been submitted', async (t) => {
  const { ask, sim } = await aProxy(t)
  sim.script({ prompt: 'a' }, ['503', '200'])
  t.match(await ask('/scrapers/grok/jobs?prompt=a', { method: 'POST' }), {
    status: 202,
    headers: { 'x-proxy-attempts': '2' },
  })
  sim.script({ prompt: 'b' }, ['reset-after-charge', '200'])
  t.match(await ask('/scrapers/grok/jobs?prompt=b', { method: 'POST' }), {
    status: 504,
    headers: { 'x-proxy-attempts': '1' },
  })
  t.equal(sim.requests.filter(({ prompt }) => prompt === 'b').length, 1)
})

void t.test('credits that may have been charged are counted separately', async (t) => {
  const { ask, sim, metric } = await aProxy(t)
  sim.script({ prompt: 'q' }, ['reset-after-charge', '200'])
  await ask('q')
  t.equal(sim.ledger.total(), 6)
  t.match(await metric('credits_spent_total'), { 'client="anonymous",scraper="chatgpt",key="main"': 3 })
  t.match(await metric('ambiguous_attempts_total'), { 'scraper="chatgpt"': 1 })
})

void t.test('too many concurrent calls: 503 OVERLOADED with Retry-After', async (t) => {
  const { ask, sim } = await aProxy(
    t,
    'upstream: { maxConcurrent: 2, perScraper: { grok: 1 }, queue: { maxWait: 100ms } }',
  )
  sim.script({ prompt: 'q' }, ['hold'])
  const open = ask('/scrapers/grok?prompt=q')
  await sim.received(1)
  t.match(await ask('/scrapers/grok?prompt=other'), {
    status: 503,
    headers: { 'x-proxy-code': 'OVERLOADED', 'retry-after': /\d/ },
  })
  t.equal((await ask('/scrapers/gemini?prompt=other')).status, 200)
  sim.release()
  t.equal((await open).status, 200)
})

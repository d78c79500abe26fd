/** What leaves for upstream, and what a body says when it is given away a second time. */
import fc from 'fast-check'
import t from 'tap'
import type { Call, Param, ProxyRequest, UpstreamRequest } from '../../src/model.ts'
import type { RequestIdentity } from '../../src/model.ts'
import type { KeyLease, Turn } from '../../src/fetch-parts.ts'
import { createProfile } from '../../src/scrapellm/profile.ts'

const profile = createProfile({ version: '1.2.3' }, { wall: () => 0 })
const KEY: KeyLease = { name: 'main', secret: 'sk-secret', report: () => {} }
const TURN: Turn = {
  number: 1,
  waitedMs: 0,
  bypassCache: false,
  isLast: false,
  isOverBudget: false,
  leftMs: () => 600_000,
  startableMs: () => 590_000,
  spentKeys: new Set(),
}
const IDENTITY: RequestIdentity = { id: 'r1', traceparent: null }

function read(path: string, ...params: readonly Param[]): Call {
  const method = path.endsWith('/jobs') ? 'POST' : 'GET'
  return profile.read({ target: { path, params, token: 'their-token' }, method } as unknown as ProxyRequest)
}

function sign(call: Call, turn: Partial<Turn> = {}, key = KEY, identity = IDENTITY): UpstreamRequest {
  return profile.sign(call, { ...TURN, ...turn }, key, identity)
}

void t.test('a question leaves with our key and nothing of the caller but route and parameters', async (t) => {
  const call = read('/scrapers/chatgpt', ['prompt', 'a b+c&d=e%20é🙂'], ['country', 'de'], ['x[]', ''])
  t.strictSame(sign(call), {
    method: 'GET',
    target: '/scrapers/chatgpt?prompt=a%20b%2Bc%26d%3De%2520%C3%A9%F0%9F%99%82&country=de&x%5B%5D=',
    headers: {
      'x-api-key': 'sk-secret',
      accept: 'application/json',
      'accept-encoding': 'identity',
      'user-agent': 'scrapellm-proxy/1.2.3',
      'x-request-id': 'r1',
    },
    limitMs: 315_000,
  })
  t.equal(sign(read('/scrapers/chatgpt')).target, '/scrapers/chatgpt', 'no parameters, no question mark')
})

void t.test('a trace goes on, where there is one', async (t) => {
  const identity = { id: 'r2', traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01' }
  t.match(sign(read('/scrapers/grok'), {}, KEY, identity).headers, {
    'x-request-id': 'r2',
    traceparent: identity.traceparent,
  })
})

void t.test('a poll carries no key and keeps its own short time', async (t) => {
  const call = read('/jobs/job_1', ['timeout', '20'])
  const request = sign(call, { leftMs: () => 10_000, bypassCache: true })
  t.strictSame(request, {
    method: 'GET',
    target: '/jobs/job_1?timeout=20',
    headers: {
      accept: 'application/json',
      'accept-encoding': 'identity',
      'user-agent': 'scrapellm-proxy/1.2.3',
      'x-request-id': 'r1',
    },
    limitMs: 30_000,
  })
})

void t.test('a lease without a secret sends no empty header', async (t) => {
  t.notOk('x-api-key' in sign(read('/scrapers/grok'), {}, { ...KEY, secret: null }).headers)
})

void t.test('a submit leaves the timeout of the job alone', async (t) => {
  const call = read('/scrapers/grok/jobs', ['prompt', 'Hi'], ['timeout', '600'])
  t.match(sign(call), { method: 'POST', target: '/scrapers/grok/jobs?prompt=Hi&timeout=600', limitMs: 60_000 })
  t.match(sign(call, { leftMs: () => 10_000 }), {
    target: '/scrapers/grok/jobs?prompt=Hi&timeout=600',
    limitMs: 25_000,
  })
  t.equal(
    sign(read('/scrapers/grok/jobs', ['bypass_cache', 'no']), { bypassCache: true }).target,
    '/scrapers/grok/jobs?bypass_cache=true',
  )
})

void t.test('upstream is never given more time than is left', async (t) => {
  // the caller's timeout, time left, what upstream is told, how long we listen
  const rows: readonly (readonly [string | null, number, string | null, number])[] = [
    [null, 600_000, null, 315_000],
    [null, 300_000, null, 315_000],
    [null, 299_999.9, '299.999', 314_999.9],
    [null, 12_345.6, '12.345', 27_345.6],
    [null, 10_000, '10', 25_000],
    ['5', 10_000, '5', 20_000],
    ['20.50', 600_000, '20.50', 35_500],
    ['20.50', 20_500, '20.50', 35_500],
    ['20.50', 20_499, '20.499', 35_499],
    ['600', 500_000, '500', 515_000],
    ['601', 600_000, '601', 615_000],
    ['600', Number.POSITIVE_INFINITY, '600', 615_000],
    ['soon', 600_000, 'soon', 315_000],
    ['soon', 10_000, '10', 25_000],
  ]
  for (const [timeout, leftMs, told, limitMs] of rows) {
    const params: readonly Param[] = [...(timeout === null ? [] : [['timeout', timeout] as const]), ['prompt', 'Hi']]
    const request = sign(read('/scrapers/grok', ...params), { leftMs: () => leftMs })
    const sent = new URL(request.target, 'http://upstream').searchParams
    t.strictSame(sent.getAll('timeout'), told === null ? [] : [told], `timeout=${timeout} with ${leftMs} ms left`)
    t.equal(sent.get('prompt'), 'Hi')
    t.equal(request.limitMs, limitMs)
  }
})

void t.test("a repeat that goes round upstream's cache says so once, whatever the caller said", async (t) => {
  const target = (...params: readonly Param[]): string =>
    sign(read('/scrapers/grok', ...params), { bypassCache: true, leftMs: () => 11_000 }).target
  t.equal(target(['prompt', 'Hi']), '/scrapers/grok?prompt=Hi&bypass_cache=true&timeout=11')
  t.equal(
    target(['bypass_cache', 'false'], ['timeout', '20'], ['prompt', 'Hi']),
    '/scrapers/grok?bypass_cache=true&timeout=11&prompt=Hi',
  )
})

void t.test('a target is ASCII, and starts with the route that was read', async () => {
  const param = fc.tuple(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }))
  fc.assert(
    fc.property(fc.uniqueArray(param, { selector: ([name]) => name }), (params) => {
      const { target } = sign(read('/scrapers/grok', ...params))
      return /^\/scrapers\/grok(\?[\w.~!*'()%&=-]*)?$/.test(target)
    }),
  )
})

// Replays

const replay = (text: string): string => profile.replay(Buffer.from(text)).toString()

void t.test('a replayed body says that it was kept and cost nothing, and is else as it was', async (t) => {
  const rows: readonly (readonly [string, string])[] = [
    ['{"result":"a","credits_used":3,"cached":false}', '{"result":"a","credits_used":0,"cached":true}'],
    ['{"cached":true,"credits_used":0}', '{"cached":true,"credits_used":0}'],
    ['{"result":"a"}', '{"result":"a","cached":true,"credits_used":0}'],
    ['{"cached":false}', '{"cached":true,"credits_used":0}'],
    ['{"credits_used":3}', '{"credits_used":0,"cached":true}'],
    ['{}', '{"cached":true,"credits_used":0}'],
    ['{ }\n', '{ "cached":true,"credits_used":0}\n'],
    [
      '{"elapsed_ms":11840.20,"id":12345678901234567890,"e":1E+2,"cached":false,"credits_used":3}',
      '{"elapsed_ms":11840.20,"id":12345678901234567890,"e":1E+2,"cached":true,"credits_used":0}',
    ],
    [
      '{"result":{"cached":false,"credits_used":3},"list":[{"cached":false}],"cached":false,"credits_used":3}',
      '{"result":{"cached":false,"credits_used":3},"list":[{"cached":false}],"cached":true,"credits_used":0}',
    ],
    [
      '{"result":"\\"cached\\":false,}{][ \\\\","cached":false,"credits_used":3}',
      '{"result":"\\"cached\\":false,}{][ \\\\","cached":true,"credits_used":0}',
    ],
    ['{"a":"cached","credits_used":{"x":[3,4]},"cached":[]}', '{"a":"cached","credits_used":0,"cached":true}'],
    ['{"cach\\u0065d":false,"credits_used":3}', '{"cach\\u0065d":true,"credits_used":0}'],
    ['{"cached":false,"cached":null,"credits_used":3}', '{"cached":true,"cached":true,"credits_used":0}'],
    [
      '{"2":"é\\u00e9\\/","1":0,"__proto__":{"x":1},"cached":false,"credits_used":3}',
      '{"2":"é\\u00e9\\/","1":0,"__proto__":{"x":1},"cached":true,"credits_used":0}',
    ],
  ]
  for (const [body, expected] of rows) t.equal(replay(body), expected, body)
  t.equal(Reflect.get({}, 'x'), undefined)
})

void t.test('what is not a JSON object is replayed as it is', async (t) => {
  for (const body of ['', 'null', '[]', '"cached"', '7', '{"cached":false', '<html>', '[{"cached":false}]']) {
    t.equal(replay(body), body)
  }
  const binary = Buffer.from('{"cached":"\xff"}', 'latin1')
  t.equal(profile.replay(binary), binary)
})

void t.test('a body nested beyond any stack is replayed as well', async (t) => {
  const deep = '['.repeat(50_000) + ']'.repeat(50_000)
  t.equal(replay(`{"a":${deep},"cached":false}`), `{"a":${deep},"cached":true,"credits_used":0}`)
})

void t.test('marking changes the two members and nothing else, and twice is as once', async () => {
  const object = fc
    .dictionary(fc.oneof(fc.string(), fc.constantFrom('cached', 'credits_used', '__proto__')), fc.jsonValue())
    .chain((value) => fc.constantFrom(0, 2).map((indent) => JSON.stringify(value, null, indent)))
  fc.assert(
    fc.property(object, (text) => {
      const marked = replay(text)
      const expected = new Map(Object.entries(JSON.parse(text) as object))
      expected.set('cached', true).set('credits_used', 0)
      const isMarked = JSON.stringify(Object.fromEntries(expected)) === JSON.stringify(JSON.parse(marked))
      return isMarked && replay(marked) === marked
    }),
    { numRuns: 2000 },
  )
})

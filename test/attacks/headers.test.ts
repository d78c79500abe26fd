/** A31–A43: what callers say of themselves, and what they try to make of the cache. */
import { hash } from 'node:crypto'
import t from 'tap'
import { readQuestion } from '../../src/scrapellm/params.ts'
import type { Param } from '../../src/model.ts'
import { UPSTREAM_KEY } from '../support/proxy.ts'
import { answerOf, deviations, get, getOnce, httpOf, mustBeRefused, siege, TARGET } from '../support/siege.ts'
import { collisions } from '../fuzz/keys.ts'

const ONE = 'token-of-team-one-0123456789'
const TWO = 'token-of-team-two-0123456789'
const sha = (text: string): string => hash('sha256', text, 'hex')
const teams = `
clients:
  one: { tokenSha256: "${sha(ONE)}" }
  two: { tokenSha256: "${sha(TWO)}" }
`

void t.test('A31, A34–A36: headers that would strip, steer or colour a request change nothing upstream', async (t) => {
  const { send, upstream } = await siege(t)
  const rows: readonly (readonly [id: string, headers: string])[] = [
    [
      'A31 Connection names our headers',
      'Connection: x-api-key, authorization, host, content-length, accept, user-agent, close\r\n',
    ],
    ['A31 Connection names them twice', 'Connection: X-Api-Key\r\nConnection: Host, close\r\n'],
    [
      'A31 Proxy-Connection, Keep-Alive, TE, Trailer',
      'Proxy-Connection: x-api-key\r\nKeep-Alive: timeout=1\r\nTE: trailers, gzip\r\nTrailer: X-API-Key\r\nConnection: TE, close\r\n',
    ],
    ['A31 Proxy-Authorization', 'Proxy-Authorization: Basic YTpi\r\nConnection: close\r\n'],
    [
      'A34 X-Forwarded-*',
      'X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /evil\r\nConnection: close\r\n',
    ],
    [
      'A34 Forwarded, X-Real-IP',
      'Forwarded: for=127.0.0.1;host=evil\r\nX-Real-IP: ::1\r\nX-Client-IP: 10.0.0.1\r\nTrue-Client-IP: 10.0.0.1\r\nVia: 1.0 evil\r\nConnection: close\r\n',
    ],
    [
      'A35 method and target overrides',
      'X-HTTP-Method-Override: POST\r\nX-Method-Override: DELETE\r\nX-Original-URL: /jobs/x\r\nX-Rewrite-URL: /jobs/x\r\nX-Original-Host: evil\r\nConnection: close\r\n',
    ],
    [
      'A36 what nobody keys by',
      'Accept-Language: xx\r\nUser-Agent: evil\r\nOrigin: http://a\r\nCookie: a=b\r\nReferer: http://evil\r\nAccept: text/html\r\nContent-Type: text/html\r\nConnection: close\r\n',
    ],
    [
      'A36 ids that are none',
      'X-Request-Id: a b\r\ntraceparent: 00-0-0-0\r\ntracestate: evil=1\r\nbaggage: evil=1\r\nConnection: close\r\n',
    ],
  ]
  for (const [index, [id, headers]] of rows.entries()) {
    const peer = await send(get(`${TARGET}?prompt=${index}`, headers))
    t.same(peer.statuses(), [200], id)
    t.equal(upstream.heard.length, index + 1, `${id}: asked once`)
    t.same(
      upstream.heard.slice(-1).flatMap((one) => deviations(one, upstream.host)),
      [],
      id,
    )
    t.notMatch(upstream.heard.at(-1)?.raw, /evil|127\.0\.0\.1(?!:)|YTpi/, id)
  }
})

void t.test('A32: exactly one key upstream, and it is ours', async (t) => {
  const { send, upstream, proxy } = await siege(t)
  const attempts: readonly (readonly [query: string, headers: string])[] = [
    ['', 'X-API-Key: stolen-canary\r\n'],
    ['', 'x-Api-Key: stolen-canary\r\n'],
    ['', 'X_API_KEY: stolen-canary\r\n'],
    ['', 'X.API.Key: stolen-canary\r\n'],
    ['', 'Authorization: Bearer stolen-canary\r\n'],
    ['&api_key=stolen-canary', ''],
    ['&%61pi_key=stolen-canary', ''],
    ['&api_key=stolen-canary', 'X-API-Key: stolen-canary\r\n'],
  ]
  for (const [index, [query, headers]] of attempts.entries()) {
    const peer = await send(getOnce(`${TARGET}?prompt=${index}${query}`, headers))
    t.same(peer.statuses(), [200], `A32 ${query}${headers}`)
    const request = upstream.heard.at(-1)
    t.same(request ? deviations(request, upstream.host) : ['none'], [], `A32 ${query}${headers}`)
    t.notMatch(request?.raw, /stolen/, 'A32 what the caller gave stays here')
  }
  t.equal(upstream.heard.length, attempts.length)
  for (const [query, headers] of [
    ['&api_key=a', 'X-API-Key: b\r\n'],
    ['', 'X-API-Key: a\r\nAuthorization: Bearer b\r\n'],
    ['', 'X-API-Key: a\r\nx-api-key: b\r\n'],
    ['&api_key=a&api_key=b', ''],
  ] as const)
    mustBeRefused(t, await send(get(`${TARGET}?prompt=x${query}`, headers)), 400, `A32 two keys: ${query}${headers}`)
  const heard = upstream.heard.length
  for (const name of ['API_KEY', 'Api_Key', 'apikey', 'api-key', 'x-api-key', 'X_API_KEY', '%41pi_key']) {
    const peer = await send(get(`${TARGET}?prompt=x&${name}=stolen-canary`))
    mustBeRefused(t, peer, 400, `A32 a token under ${name}`)
    t.match(peer.text(), /spelled \\"api_key\\"/)
  }
  t.equal(upstream.heard.length, heard, 'A32 never forwarded as a parameter')
  const metrics = await proxy.admin('/metrics')
  t.notMatch(proxy.output() + metrics.text, /stolen/, 'A32 nor is it logged')
})

void t.test('A33: one token, given in one way', async (t) => {
  const { send, upstream } = await siege(t, teams)
  const rows: readonly (readonly [headers: string, status: number])[] = [
    [`Authorization: Bearer ${ONE}\r\nAuthorization: Bearer ${ONE}\r\n`, 400],
    [`Authorization: Bearer ${ONE}, Bearer ${TWO}\r\n`, 400],
    [`Authorization: Bearer ${ONE} ${TWO}\r\n`, 400],
    [`Authorization: Bearer\t${ONE}\r\n`, 400],
    [`Authorization: Bearer\r\n`, 400],
    [`Authorization: Bearer \xa0${ONE}\r\n`, 400],
    [`Authorization: Bearer${ONE}\r\n`, 401],
    [`Authorization: Basic ${ONE}\r\n`, 401],
    [`Authorization: ${ONE}\r\n`, 401],
    [`X-API-Key: ${ONE},${ONE}\r\n`, 401],
    [`X-API-Key: ${ONE.toUpperCase()}\r\n`, 401],
    [`X-API-Key: ${ONE}\xa0\r\n`, 401],
    [`X-API-Key: "${ONE}"\r\n`, 401],
    [`X-API-Key: ${sha(ONE)}\r\n`, 401],
    [`X-API-Key: \r\n`, 401],
    ['', 401],
    [`X-API-Key: ${ONE}\r\nAuthorization: Bearer ${TWO}\r\n`, 400],
  ]
  for (const [headers, status] of rows) {
    const peer = await send(getOnce(`${TARGET}?prompt=x`, headers))
    t.same(peer.statuses(), [status], `A33 ${JSON.stringify(headers)}`)
    t.notMatch(peer.text(), /token-of-team/, 'A33 and it is not echoed')
  }
  t.equal(upstream.heard.length, 0)
  for (const headers of [
    `X-API-Key: ${ONE} \r\n`,
    `authorization: bearer ${ONE}\r\n`,
    `Authorization: Bearer   ${ONE}\r\nX-API-Key: ${ONE}\r\n`,
  ])
    t.same((await send(getOnce(`${TARGET}?prompt=x`, headers))).statuses(), [200], `A33 ${JSON.stringify(headers)}`)
})

void t.test('A34: limits are the token’s, whatever address is claimed', async (t) => {
  const { send } = await siege(
    t,
    `clients: { one: { tokenSha256: "${sha(ONE)}", rate: { limit: 2, per: 1h, burst: 2 } } }`,
  )
  const statuses: number[] = []
  for (let turn = 1; turn <= 5; turn++) {
    const peer = await send(getOnce(`${TARGET}?prompt=x`, `X-API-Key: ${ONE}\r\nX-Forwarded-For: 10.0.0.${turn}\r\n`))
    statuses.push(...peer.statuses())
  }
  t.same(statuses, [200, 200, 429, 429, 429], 'A34 a new address each time buys nothing')
})

void t.test('A37: errors are never kept, and the next clean request is none the wiser', async (t) => {
  const { send, upstream, spent } = await siege(
    t,
    'retry: { attempts: 1 }\nbreaker: { hold: 0s, consecutive: 1000, minimum: 1000, window: 1000 }',
  )
  const clean = getOnce(`${TARGET}?prompt=poisoned`)
  const poisons: readonly (readonly [id: string, bytes: string])[] = [
    ['header oversize', get(`${TARGET}?prompt=poisoned`, `X-Oversized: ${'a'.repeat(80_000)}\r\n`)],
    ['meta characters', get(`${TARGET}?prompt=poisoned`, 'X-Metachar: \x07\x0a\r\n')],
    [
      'method override',
      getOnce(`${TARGET}?prompt=poisoned`, 'X-HTTP-Method-Override: DELETE\r\nCache-Control: only-if-cached\r\n'),
    ],
    ['HEAD', `HEAD ${TARGET}?prompt=poisoned HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`],
    ['another method', `DELETE ${TARGET}?prompt=poisoned HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`],
  ]
  for (const [id, bytes] of poisons) t.match((await send(bytes)).statuses().join(), /^[45]\d\d$/, `A37 ${id}`)
  for (const status of [
    '400 Bad',
    '401 Who',
    '403 No',
    '404 Gone',
    '414 Long',
    '500 Broken',
    '501 Never',
    '502 Bad',
    '503 Later',
  ]) {
    upstream.answer(() => httpOf('{"detail":"poison"}', { status, headers: 'Cache-Control: public, max-age=9999\r\n' }))
    const peer = await send(clean)
    t.match(peer.text(), /^cache-control: no-store/im, `A37 upstream says ${status}: not for keeping`)
  }
  t.equal((await spent()).kept, 0, 'A37 nothing is kept')
  upstream.answer((heard) => httpOf(answerOf(new URL(heard.target, 'http://x').searchParams.get('prompt') ?? '')))
})

void t.test('A37, A38, A39: one answer is kept, and it is the whole one', async (t) => {
  const { send, upstream, spent } = await siege(t)
  t.match((await send(getOnce(`${TARGET}?prompt=whole`))).text(), /answer to whole/)
  const odd = [
    `Range: bytes=${Array.from({ length: 1_000 }, () => '0-0').join(',')}\r\n`,
    'Range: bytes=0-0\r\nIf-Range: "x"\r\n',
    'Range: bytes=-1\r\n',
    'Accept-Encoding: gzip;q=0\r\n',
    'Accept-Encoding: identity;q=0, *;q=0\r\n',
    `Accept-Encoding: ${Array.from({ length: 2_000 }, (_, at) => `x${at};q=0.${at % 10}`).join(', ')}\r\n`,
    'Accept: application/xml;q=1, */*;q=0\r\nAccept-Language: tlh\r\nVary: *\r\n',
    'If-Match: "x"\r\nIf-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n',
  ]
  for (const headers of odd) {
    const peer = await send(getOnce(`${TARGET}?prompt=whole`, headers))
    t.same(peer.statuses(), [200], `A38, A39 ${headers.slice(0, 40)}`)
    t.match(peer.text(), /^cache-status: scrapellm-proxy; hit/im)
    t.notMatch(peer.text(), /^(?:content-range|content-encoding):|^vary: (?!X-Sample\r)/im)
    t.match(peer.text(), /answer to whole/)
  }
  t.equal(upstream.heard.length, 1)
  t.equal((await spent()).kept, 1, 'A39 one entry, no variants')
})

void t.test('A40, A41: floods that go round the cache are limited in requests and in credits', async (t) => {
  const { proxy, upstream } = await siege(
    t,
    `clients: { one: { tokenSha256: "${sha(ONE)}", credits: { perDay: 30, perMonth: 3000 }, rate: { limit: 40, per: 1h, burst: 40 } } }`,
  )
  const headers = { 'x-api-key': ONE }
  const known = await proxy.ask('known', { headers })
  t.equal(known.status, 200)
  const floods = await Promise.all(
    // Those that are refused for credits do not use up the rate; known answers do.
    Array.from({ length: 250 }, (_, turn) => {
      const more = ['', '', '&bypass_cache=true', `&junk_${turn}=${turn}`, ''][turn % 5] ?? ''
      const wish = ['no-cache', 'max-age=0', '', '', ''][turn % 5] ?? ''
      const all = wish === '' ? headers : { ...headers, 'cache-control': wish }
      return proxy.ask(`${TARGET}?prompt=known${more}`, { headers: all })
    }),
  )
  const codes = Object.groupBy(floods, ({ status, headers: h }) =>
    `${status} ${String(h['x-proxy-code'] ?? '')}`.trim(),
  )
  t.ok((codes['429 RATE_LIMITED']?.length ?? 0) > 0, 'A40 too often')
  t.ok((codes['429 BUDGET_EXHAUSTED']?.length ?? 0) > 0, 'A40, A41 too dear')
  t.same(Object.keys(codes).toSorted(), ['200', '429 BUDGET_EXHAUSTED', '429 RATE_LIMITED'])
  t.ok(upstream.heard.length <= 10, 'A40 never more calls than there are credits for')
  proxy.clock.skip(3_600_000)
  const absent = await proxy.ask('not known', { headers: { ...headers, 'cache-control': 'only-if-cached' } })
  t.equal(absent.status, 504, 'A40 only-if-cached asks nobody')
  t.equal(absent.headers['x-proxy-code'], 'CACHE_MISS')
})

void t.test('A42: no two questions have one key', async (t) => {
  const pairs: readonly (readonly [readonly Param[], readonly Param[]])[] = [
    [
      [
        ['prompt', 'a|b'],
        ['x', 'c'],
      ],
      [
        ['prompt', 'a'],
        ['x', 'b|c'],
      ],
    ],
    [
      [
        ['prompt', 'a'],
        ['b', ''],
      ],
      [
        ['prompt', ''],
        ['a', 'b'],
      ],
    ],
    [
      [['prompt', 'a1:b']],
      [
        ['prompt', 'a'],
        ['1', 'b'],
      ],
    ],
    [
      [['prompt', '6:promptx']],
      [
        ['prompt', ''],
        ['prompt6:', 'x'],
      ],
    ],
    [
      [
        ['prompt', 'a'],
        ['xy', 'z'],
      ],
      [
        ['prompt', 'a'],
        ['x', 'yz'],
      ],
    ],
    [
      [['prompt', 'a\0b']],
      [
        ['prompt', 'a'],
        ['\0b', ''],
      ],
    ],
  ]
  for (const [one, other] of pairs)
    t.not(readQuestion('chatgpt', one).key, readQuestion('chatgpt', other).key, `A42 ${JSON.stringify([one, other])}`)
  t.not(
    readQuestion('grok', [['prompt', 'x']]).key,
    readQuestion('gemini', [['prompt', 'x']]).key,
    'A42 the scraper counts',
  )
  t.same(
    collisions({ seed: 42, cases: 10_000 }),
    { collisions: [], distinct: 10_000 },
    'A42 of 10 000 questions made to be confused',
  )
})

void t.test('A43: an answer crosses from one client to another only where that is wanted', async (t) => {
  for (const [scope, mark] of [
    ['client', 'fwd=miss'],
    ['shared', 'hit'],
  ] as const) {
    const { proxy, upstream } = await siege(t, `${teams}\ncache: { scope: ${scope} }`)
    const first = await proxy.ask('whose', { headers: { 'x-api-key': ONE } })
    t.match(first.headers['cache-status'], /fwd=miss/)
    const second = await proxy.ask('whose', { headers: { 'x-api-key': TWO } })
    t.match(second.headers['cache-status'], new RegExp(mark), `A43 scope ${scope}`)
    t.equal(upstream.heard.length, scope === 'client' ? 2 : 1)
    const stranger = await proxy.ask('whose', { headers: { 'x-api-key': 'nobody' } })
    t.equal(stranger.status, 401, 'A43 and a stranger gets nothing that is kept')
    const condition = await proxy.ask('whose', {
      headers: { 'x-api-key': 'nobody', 'if-none-match': String(first.headers['etag']) },
    })
    t.equal(condition.status, 401, 'A43 nor may it ask whether something is kept')
    t.notMatch(proxy.output(), new RegExp(UPSTREAM_KEY))
  }
})

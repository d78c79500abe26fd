/** From raw request to ProxyRequest: what is read, and what is refused because it could be read in two ways. */
import t from 'tap'
import { ProxyError } from '../../src/errors.ts'
import type { Client, ProxyRequest, Target } from '../../src/model.ts'
import { createClients } from '../../src/http/clients.ts'
import { readFields, readId, readRequest } from '../../src/http/request.ts'
import { createTargets, readTarget } from '../../src/http/target.ts'
import { readRespondAsync, readDirectives } from '../../src/http/cache-directives.ts'
import { seededRandom } from '../support/world.ts'

const host = ['Host', 'proxy.example']

function read(rawHeaders: string[], url = '/scrapers/x?prompt=a', httpVersion = '1.1', method = 'GET'): ProxyRequest {
  return readRequest({ method, url, httpVersion }, readFields(rawHeaders), {
    id: 'id-1',
    arrivedAt: 5,
    onGone: () => () => {},
    target: readTarget,
  })
}

function refusal(job: () => unknown): ProxyError {
  try {
    job()
  } catch (error) {
    if (error instanceof ProxyError) return error
    throw error
  }
  throw new Error('It was not refused.')
}

void t.test('a target is decoded exactly once', async (t) => {
  const cases: [string, Partial<Target>][] = [
    ['/scrapers/x?prompt=a+b%20c%2Bd', { path: '/scrapers/x', params: [['prompt', 'a b c+d']] }],
    ['/jobs/%41', { path: '/jobs/A', params: [] }],
    [
      '/x?a=1&&b&=c&d=',
      {
        params: [
          ['a', '1'],
          ['b', ''],
          ['', 'c'],
          ['d', ''],
        ],
      },
    ],
    ['/x?a=%2525', { params: [['a', '%25']] }],
    [
      '/x?a=1;b=2&c=%26%3D%3B',
      {
        params: [
          ['a', '1;b=2'],
          ['c', '&=;'],
        ],
      },
    ],
    [
      '/x?prompt=a&prompt=b&prompt[]=c',
      {
        params: [
          ['prompt', 'a'],
          ['prompt', 'b'],
          ['prompt[]', 'c'],
        ],
      },
    ],
    [
      '/x?__proto__=a&constructor=b',
      {
        params: [
          ['__proto__', 'a'],
          ['constructor', 'b'],
        ],
      },
    ],
    ['/x?p=%2e%2e%2f..%5c%0d%0a', { params: [['p', '../..\\\r\n']] }],
    ['/x?p=%E6%97%A5%F0%9F%99%82', { params: [['p', '日🙂']] }],
    ['/x?p=a/../b?c', { params: [['p', 'a/../b?c']] }],
    ['/x?api%5Fkey=s&a=1', { params: [['a', '1']], token: 's' }],
    ['/x?api_key=&a=1', { params: [['a', '1']], token: null }],
    ['/scrapers//x', { path: '/scrapers//x' }],
    ['/..x/.y.', { path: '/..x/.y.' }],
    ['/x%23.css', { path: '/x#.css' }],
  ]
  for (const [raw, expected] of cases) t.match(readTarget(raw), expected, raw)
  t.equal(Object.getPrototypeOf({}), Object.prototype, 'prototypes are as they were')
})

void t.test('targets that two programs could read differently are refused, and the connection with them', async (t) => {
  const refused: [string, string[]][] = [
    ['A21', ['http://evil/x', 'https://evil:8443/x']],
    ['A22', ['//evil', '///evil', '/\\evil', '/\\/evil', '\\/evil']],
    ['A23', ['*', '?x', '@evil/', '']],
    ['A24', ['/scrapers/../jobs', '/a/%2e%2e/b', '/a/.%2E/b', '/a/..\\b', '/a/%2e%2e%2fb', '/a/..%5cb', '/a/.', '/..']],
    ['A25', ['/a%00', '/a%0d%0a', '/a%2fb', '/a%2Fb', '/a%5Cb', '/a%7f', '/é', '/a%c0%af', '/a%', '/a%zz', '/a%ff']],
    [
      'A25 in the query',
      ['/a?p=%c0%af', '/a?p=%', '/a?p=%zz', '/a?p=%ed%a0%80', '/a?p=%00', '/a?%ff=1', '/a?p=é', '/a?p= b'],
    ],
    ['A27', ['/scrapers/x#x', '/scrapers/x?p=1#x']],
    ['two query tokens', ['/x?api_key=a&api_key=a', '/x?api_key=a&api%5fkey=b']],
  ]
  for (const [id, targets] of refused) {
    for (const raw of targets) {
      const error = refusal(() => readTarget(raw))
      t.match(error, { code: 'REQUEST_INVALID', status: 400, close: true }, `${id} ${raw}`)
    }
  }
  t.equal(readTarget(`/x?p=${'a'.repeat(65_536 - 5)}`).params.length, 1, '64 KiB pass')
  t.match(
    refusal(() => readTarget(`/x?p=${'a'.repeat(65_537 - 5)}`)),
    { status: 414, close: true },
  )
})

void t.test('a refusal tells nothing of what was sent', async (t) => {
  for (const raw of ['/x?prompt=canary%', '/canary/..', '/x?api_key=canary&api_key=canary'])
    t.notMatch(refusal(() => readTarget(raw)).message, /canary/)
})

void t.test('targets asked again are the same object, except long ones and those with a token', async (t) => {
  const target = createTargets(2)
  const once = target('/a?p=1')
  const first = target('/a?p=1')
  t.not(first, once, 'what is asked once is not kept')
  t.equal(target('/a?p=1'), first)
  target('/b')
  target('/c')
  t.equal(target('/a?p=1'), first, 'the older generation is still known')
  for (const raw of ['/d', '/e', '/f', '/g', '/h']) target(raw)
  t.not(target('/a?p=1'), first, 'and in the end forgotten')
  t.not(target('/a?api_key=s'), target('/a?api_key=s'))
  const long = `/a?p=${'x'.repeat(3000)}`
  t.not(target(long), target(long))
  t.throws(() => target('//evil'))
})

void t.test('A1–A7, A11–A16, A28: framing and host must be beyond doubt', async (t) => {
  const refused: [string, string[], string?, number?][] = [
    ['A2 any transfer coding', [...host, 'Transfer-Encoding', 'chunked']],
    ['A3 gzip, chunked', [...host, 'transfer-encoding', 'gzip, chunked']],
    ['A5 empty transfer coding', [...host, 'Transfer-Encoding', '']],
    ['transfer coding with an underscore', [...host, 'Transfer_Encoding', 'chunked']],
    ['A16 a body', [...host, 'Content-Length', '5']],
    ['A7 leading zeros', [...host, 'Content-Length', '005']],
    ['A7 two zeros', [...host, 'Content-Length', '00']],
    ['A7 signed', [...host, 'Content-Length', '-0']],
    ['A7 empty', [...host, 'Content-Length', '']],
    ['A7 twice', [...host, 'Content-Length', '0', 'Content-Length', '0']],
    ['A11 HTTP/0.9', host, '0.9'],
    ['A12 HTTP/2.0', host, '2.0'],
    ['A13 too many headers', [...host, ...Array.from({ length: 100 }, () => ['a', '']).flat()], '1.1', 431],
    ['A28 no host', []],
    ['A28 two hosts', [...host, ...host]],
    ['A28 empty host', ['Host', '']],
    ['A28 list of hosts', ['Host', 'a, b']],
    ['A28 user info', ['Host', 'u@a']],
    ['A28 path', ['Host', 'a/b']],
    ['A28 port that is none', ['Host', 'a:b']],
  ]
  for (const [id, headers, version, status = 400] of refused) {
    const error = refusal(() => read(headers, '/x', version))
    t.match(error, { code: 'REQUEST_INVALID', status, close: true }, id)
  }
  for (const name of ['localhost', 'localhost:8080', '127.0.0.1:1', '[::1]:8080', 'a-b.example.com', 'a_b'])
    t.ok(read(['host', name]), name)
  t.ok(read([...host, 'Content-Length', '0'], '/x', '1.1', 'POST'), 'an empty body is none')
  t.ok(read(host, '/x', '1.0'))
  t.equal(readFields([...host, ...Array.from({ length: 99 }, () => ['a', '']).flat()]).count, 100)
})

void t.test('A32, A33: one token, from whichever place', async (t) => {
  const tokens: [string[], string, string | null][] = [
    [[], '/x', null],
    [['X-API-Key', 'a'], '/x', 'a'],
    [['x-api-KEY', 'a'], '/x', 'a'],
    [['Authorization', 'Bearer a'], '/x', 'a'],
    [['authorization', 'bearer   a'], '/x', 'a'],
    [[], '/x?api_key=a', 'a'],
    [['X-API-Key', 'a', 'Authorization', 'Bearer a'], '/x?api_key=a', 'a'],
    [['X-API-Key', ''], '/x?api_key=a', 'a'],
    [['Authorization', 'Basic a'], '/x', null],
    [['Authorization', 'Bearerish a'], '/x', null],
    [['X_API_KEY', 'a'], '/x', null],
  ]
  for (const [headers, url, token] of tokens)
    t.equal(read([...host, ...headers], url).token, token, JSON.stringify([headers, url]))

  const refused: [string[], string?][] = [
    [['X-API-Key', 'a', 'X-API-Key', 'a']],
    [['Authorization', 'Bearer a', 'Authorization', 'Bearer a']],
    [['Authorization', 'Basic a', 'Authorization', 'Basic b']],
    [['Authorization', 'Bearer a, Bearer b']],
    [['Authorization', 'Bearer a b']],
    [['Authorization', 'Bearer\ta']],
    [['Authorization', 'Bearer']],
    [['X-API-Key', 'a', 'Authorization', 'Bearer b']],
    [['X-API-Key', 'a'], '/x?api_key=b'],
    [['Authorization', 'Bearer a'], '/x?api_key=b'],
  ]
  for (const [headers, url] of refused)
    t.match(
      refusal(() => read([...host, ...headers], url)),
      { code: 'REQUEST_INVALID', status: 400 },
      headers.join(' '),
    )
})

void t.test('A30, A31, A34–A36: headers outside the list change nothing', async (t) => {
  const odd = ['__proto__', 'a', 'constructor', 'b', 'Connection', 'host, x-api-key', 'X-Forwarded-For', '1.2.3.4']
  const more = ['Forwarded', 'for=1', 'X-HTTP-Method-Override', 'DELETE', 'X-Original-URL', '/y', 'Cookie', 'a=b']
  const { onGone: _, ...plain } = read(host)
  const { onGone: __, ...odder } = read([
    ...host,
    ...odd,
    ...more,
    'TE',
    'trailers',
    'Upgrade',
    'h2c',
    'Range',
    'bytes=0-',
  ])
  t.same(odder, plain)
  t.match(plain, { id: 'id-1', method: 'GET', arrivedAt: 5, target: { path: '/scrapers/x' } })
})

void t.test('wishes of Cache-Control; Pragma counts only alone', async (t) => {
  const rows: [string | null, string | null, object][] = [
    [
      null,
      null,
      { noCache: false, noStore: false, onlyIfCached: false, maxAgeMs: null, maxStaleMs: null, minFreshMs: null },
    ],
    ['no-cache', null, { noCache: true, noStore: false }],
    ['No-Store, ONLY-IF-CACHED', null, { noStore: true, onlyIfCached: true }],
    ['max-age=0', null, { maxAgeMs: 0 }],
    ['max-age="60"', null, { maxAgeMs: 60_000 }],
    [' max-age = 5 , min-fresh=7', null, { maxAgeMs: 5000, minFreshMs: 7000 }],
    ['max-age=1, max-age=9', null, { maxAgeMs: 1000 }],
    ['max-stale', null, { maxStaleMs: Number.POSITIVE_INFINITY }],
    ['max-stale=30', null, { maxStaleMs: 30_000 }],
    ['max-age=-1, max-stale=x, min-fresh=1.5', null, { maxAgeMs: null, maxStaleMs: null, minFreshMs: null }],
    ['max-age', null, { maxAgeMs: null }],
    ['', null, { noCache: false }],
    ['=,;,"",x="a, no-store"', null, { noStore: false }],
    ['x=", no-cache, \\", no-store", min-fresh=3', null, { noCache: false, noStore: false, minFreshMs: 3000 }],
    ['x="a;b", max-age=4;y=", no-store", no-cache', null, { noCache: true, noStore: false, maxAgeMs: 4000 }],
    ['no-cache="Set-Cookie, Date"', null, { noCache: true }],
    ['x="open, no-cache', null, { noCache: false }],
    ['max-age=9999999999999999', null, { maxAgeMs: 2 ** 31 * 1000 }],
    [
      `max-age=${'9'.repeat(400)}, max-stale=2147483649`,
      null,
      { maxAgeMs: 2 ** 31 * 1000, maxStaleMs: 2 ** 31 * 1000 },
    ],
    [null, 'no-cache', { noCache: true }],
    [null, 'x', { noCache: false }],
    ['max-age=1', 'no-cache', { noCache: false, maxAgeMs: 1000 }],
  ]
  for (const [control, pragma, expected] of rows)
    t.match(readDirectives(control, pragma), expected, String(control ?? pragma))
  t.equal(readDirectives(null, null), readDirectives(null, null), 'one object for all who wish nothing')
  t.match(read([...host, 'Cache-Control', 'no-cache', 'Cache-Control', 'max-age=3']).cacheDirectives, {
    noCache: true,
    maxAgeMs: 3000,
  })
})

void t.test('Prefer: respond-async, at once or after a wait', async (t) => {
  const rows: [string | null, number | null][] = [
    [null, null],
    ['wait=10', null],
    ['respond-async', 0],
    ['respond-async, wait=10', 10_000],
    ['Wait=2; foo=bar, Respond-Async; x', 2000],
    ['respond-async, wait=soon', 0],
    ['handling=lenient', null],
  ]
  for (const [prefer, ms] of rows) t.equal(prefer === null ? null : readRespondAsync(prefer), ms, String(prefer))
})

void t.test('X-Request-Timeout: seconds above 0, in decimal digits', async (t) => {
  t.equal(read(host).patienceMs, null)
  t.equal(read([...host, 'X-Request-Timeout', '30']).patienceMs, 30_000)
  t.equal(read([...host, 'X-Request-Timeout', '0.25']).patienceMs, 250)
  for (const value of ['0', '0.0', '-1', 'soon', '', '1e3', '1,5', 'Infinity', '9'.repeat(400)]) {
    const error = refusal(() => read([...host, 'X-Request-Timeout', value]))
    t.match(error, { status: 400, message: /X-Request-Timeout.+ in decimal digits/ }, value.slice(0, 20))
  }
})

void t.test('Idempotency-Key: quoted or bare, up to 255 characters', async (t) => {
  const key = (value: string): string | null => read([...host, 'Idempotency-Key', value]).idempotencyKey
  t.equal(read(host).idempotencyKey, null)
  t.equal(key('abc-1'), 'abc-1')
  t.equal(key('"abc-1"'), 'abc-1')
  t.equal(key('"a\\"b\\\\c"'), 'a"b\\c')
  t.equal(key('x'.repeat(255)), 'x'.repeat(255))
  for (const value of ['', '""', '"a', '"a\\b"', 'x'.repeat(256), 'é'])
    t.match(
      refusal(() => key(value)),
      { status: 400, message: /Idempotency-Key/ },
      value.slice(0, 20),
    )
  t.throws(() => read([...host, 'Idempotency-Key', 'a', 'Idempotency-Key', 'a']))
})

void t.test('traceparent passes in its W3C form only, If-None-Match as it came', async (t) => {
  const good = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
  t.equal(read([...host, 'traceparent', good]).traceparent, good)
  for (const bad of [
    good.toUpperCase(),
    `${good}-x`,
    good.replace('00-', 'ff-'),
    `00-${'0'.repeat(32)}${good.slice(35)}`,
    'x',
  ])
    t.equal(read([...host, 'traceparent', bad]).traceparent, null, bad)
  t.equal(read([...host, 'If-None-Match', '"a"', 'If-None-Match', '"b"']).ifNoneMatch, '"a", "b"')
})

void t.test("the request id is the caller's if it is sane", async (t) => {
  const random = seededRandom(1)
  const id = (...values: string[]): string => readId(readFields(values.flatMap((v) => ['X-Request-Id', v])), random)
  t.equal(id('abc-1'), 'abc-1')
  t.equal(id('x'.repeat(128)), 'x'.repeat(128))
  for (const values of [[], [''], ['a b'], ['é'], ['x'.repeat(129)], ['a', 'b']]) t.equal(id(...values).length, 36)
})

void t.test('patterns are linear: 50 KiB of anything is read at once', async (t) => {
  for (const filler of ['/', ' ', '.', ',', '=', ';', '"', '%25', 'a']) {
    const long = filler.repeat(Math.ceil(50_000 / filler.length))
    const texts = [long, `a${long}!`, `a=${long}"`, `bearer ${long}!"`, `"${long}`]
    for (const text of texts) {
      readDirectives(text, text)
      readRespondAsync(text)
      for (const name of ['Host', 'Authorization', 'Idempotency-Key', 'traceparent', 'X-Request-Timeout']) {
        try {
          read([...host, name, text], `/${long}`)
        } catch (error) {
          if (!(error instanceof ProxyError)) throw error
        }
      }
    }
  }
  t.pass('a quadratic one would have hung here')
})

void t.test('identify: the client of the token, or the anonymous one, or nobody', async (t) => {
  const sha256 = '5dac79b33b540a2046b6c008415315b5a4c3d3adad16be2e2e71344b25d80027'
  const team = { name: 'search-team' } as Client
  const anonymous = { name: 'anonymous' } as Client
  const asked = (token: string | null): ProxyRequest => ({ ...read(host), token })
  const used: string[] = []
  const uses = { used: ({ hash }: { readonly hash: string }) => void used.push(hash), lastUsed: () => null }
  let wallMs = 0
  const known = { vendor: 'ScrapeLLM', hosts: null, uses, wall: () => wallMs }
  const clients = [
    {
      client: team,
      tokens: [
        { hash: '00'.repeat(32), expiresAt: null },
        { hash: sha256, expiresAt: 1_000 },
      ],
    },
  ]

  const strict = createClients({ ...known, clients, anonymous: null })
  t.equal(strict.identify(asked('search-team-example-token')), team)
  for (const token of [null, 'search-team-example-toke', 'x', ''])
    t.match(
      refusal(() => strict.identify(asked(token))),
      { code: 'CLIENT_UNKNOWN', status: 401 },
      String(token),
    )
  t.notMatch(refusal(() => strict.identify(asked('canary'))).message, /canary/)
  t.match(refusal(() => strict.identify(asked(null))).message, /no client token.*not a key of ScrapeLLM.*X-API-Key/)
  t.match(refusal(() => strict.identify(asked('x'))).message, /not valid.*Authorization: Bearer TOKEN/)

  const lenient = createClients({ ...known, clients, anonymous })
  t.equal(lenient.identify(asked('search-team-example-token')), team)
  t.equal(lenient.identify(asked('sk-old-vendor-key')), anonymous)
  t.equal(lenient.identify(asked(null)), anonymous)
  t.same(used, [sha256, sha256], 'only those that were let in')

  wallMs = 999
  t.equal(strict.identify(asked('search-team-example-token')), team)
  wallMs = 1_000
  t.match(
    refusal(() => strict.identify(asked('search-team-example-token'))),
    { code: 'CLIENT_UNKNOWN', message: /expired at 1970-01-01T00:00:01/ },
  )
  t.equal(lenient.identify(asked('search-team-example-token')), anonymous)
})

void t.test('a caller without a token is no web page', async (t) => {
  const anonymous = { name: 'anonymous' } as Client
  const uses = { used: () => undefined, lastUsed: () => null }
  const nobody = { vendor: 'ScrapeLLM', clients: [], anonymous, uses, wall: () => 0 }
  const onLoopback = createClients({ ...nobody, hosts: new Set(['proxy.example']) })
  const onNetwork = createClients({ ...nobody, hosts: null })
  const table: [headers: string[], loopback: boolean, network: boolean][] = [
    [['Host', '127.0.0.1:8080'], true, true],
    [['Host', 'localhost'], true, true],
    [['Host', '[::1]:8080'], true, true],
    [['Host', '[::ffff:127.0.0.1]:8080'], true, true],
    [['Host', 'PROXY.example:1'], true, true],
    [['Host', 'proxy.example.evil'], false, true],
    [['Host', '10.0.0.1'], false, true],
    [['Host', 'localhost', 'Sec-Fetch-Site', 'none'], true, true],
    [['Host', 'localhost', 'Sec-Fetch-Site', 'same-origin'], true, true],
    [['Host', 'localhost', 'Sec-Fetch-Site', 'same-site'], false, false],
    [['Host', 'localhost', 'Sec-Fetch-Site', 'cross-site'], false, false],
    [['Host', 'localhost:8080', 'Origin', 'http://localhost:8080'], true, true],
    [['Host', 'proxy.example', 'Origin', 'https://proxy.example'], true, true],
    [['Host', 'proxy.example:443', 'Origin', 'https://proxy.example'], true, true],
    [['Host', 'localhost:8080', 'Origin', 'http://localhost:3000'], false, false],
    [['Host', 'localhost:8080', 'Origin', 'http://127.0.0.1:8080'], false, false],
    [['Host', 'localhost', 'Origin', 'null'], false, false],
    [['Host', 'localhost', 'Origin', ''], false, false],
    [['Host', 'localhost', 'Origin', 'http://localhost', 'Origin', 'http://localhost'], false, false],
    [['Host', 'localhost', 'Origin', 'chrome-extension://abc'], false, false],
  ]
  for (const [headers, loopback, network] of table) {
    const asked = read(headers)
    for (const [clients, isLetIn] of [
      [onLoopback, loopback],
      [onNetwork, network],
    ] as const) {
      if (isLetIn) t.equal(clients.identify(asked), anonymous, headers.join(' '))
      else
        t.match(
          refusal(() => clients.identify(asked)),
          { code: 'ORIGIN_REFUSED', status: 403 },
          headers.join(' '),
        )
    }
  }
})

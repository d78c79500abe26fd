/** The proxy port over raw sockets: attacks A1–A43, callers who hang up, keep-alive, and the drain. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { ProxyError } from '../../src/errors.ts'
import { createResponder } from '../../src/http/respond.ts'
import { createServer, type Server, type Timeouts } from '../../src/http/server.ts'
import type { Entry, Exchange, Outcome, ProxyRequest } from '../../src/model.ts'
import { aProxy } from '../support/proxy.ts'
import { type FakeWorld, epoch, fakeWorld } from '../support/world.ts'

const entry: Entry = {
  status: 200,
  contentType: 'application/json',
  body: Buffer.from('{"answer":42}'),
  etag: '"e"',
  storedAt: epoch,
  keptUntil: epoch + 60_000,
  scraper: 'x',
  promptHash: null,
  country: null,
  priceCredits: 1,
  unclaimed: false,
}
const hit: Outcome = { kind: 'hit', entry, tier: 'memory' }
const plain = 'GET /scrapers/x?prompt=a HTTP/1.1\r\nHost: a\r\n\r\n'

interface Stage {
  readonly server: Server
  readonly world: FakeWorld
  readonly calls: ProxyRequest[]
  readonly refusals: ProxyError[]
  /** A connection, and all that comes back on it. */
  readonly open: () => Promise<Peer>
  /** Sends, and waits until the proxy has closed the connection. */
  readonly send: (bytes: string | Buffer) => Promise<Peer>
}

interface Peer {
  readonly socket: Socket
  readonly text: () => string
  readonly bytes: () => number
  /** How many answers have come. */
  readonly answers: () => number
  readonly closed: Promise<void>
  /** Null, or the code of the error that ended the connection. */
  readonly error: () => string | null
  until(condition: () => boolean): Promise<void>
}

type Play = (exchange: Exchange) => Promise<Outcome> | Outcome

async function stage(t: Test, play: Play = () => hit, timeouts: Partial<Timeouts> = {}): Promise<Stage> {
  const world = fakeWorld()
  const calls: ProxyRequest[] = []
  const refusals: ProxyError[] = []
  const respond = createResponder({ markReplays: true, replay: (body) => body })
  const handle = async (exchange: Exchange): Promise<Outcome> => {
    calls.push(exchange.request)
    return play(exchange)
  }
  const server = createServer(
    { host: '127.0.0.1', port: 0, timeouts },
    { ...world, generations: { current: { handle, respond } }, refused: (error) => refusals.push(error) },
  )
  await server.listen()
  t.teardown(() => server.drain({ readinessDelayMs: 0, graceMs: 0 }))

  async function open(): Promise<Peer> {
    const socket = connect(server.port, '127.0.0.1')
    const chunks: Buffer[] = []
    let bytes = 0
    let failure: string | null = null
    socket.on('data', (chunk) => {
      chunks.push(chunk)
      bytes += chunk.length
    })
    socket.on('error', (error: NodeJS.ErrnoException) => (failure = error.code ?? 'error'))
    const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
    await new Promise((resolve) => socket.once('connect', resolve))
    const text = (): string => Buffer.concat(chunks).toString('latin1')
    return {
      socket,
      text,
      bytes: () => bytes,
      answers: () => text().match(/HTTP\/1\.1 \d/g)?.length ?? 0,
      closed,
      error: () => failure,
      async until(condition) {
        while (!condition()) {
          if (socket.destroyed) throw new Error(`The connection was closed after: ${text()}`)
          await Promise.race([new Promise((resolve) => socket.once('data', resolve)), closed])
        }
      },
    }
  }

  async function send(bytes: string | Buffer): Promise<Peer> {
    const peer = await open()
    peer.socket.write(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes)
    await peer.closed
    return peer
  }

  return { server, world, calls, refusals, open, send }
}

/** Something that a test waits for, and something that it lets happen. */
function barrier<T = void>(): PromiseWithResolvers<T> {
  return Promise.withResolvers<T>()
}

function problemOf(t: Test, peer: Peer, status: number, name: string): void {
  const [head = '', body = ''] = peer.text().split('\r\n\r\n')
  t.match(head, new RegExp(`^HTTP/1\\.1 ${status} `), name)
  t.match(head, /^content-type: application\/problem\+json\r?$/im, name)
  t.match(head, /^connection: close\r?$/im, name)
  t.match(head, /^x-request-id: [\x21-\x7e]{1,128}\r?$/im, name)
  t.match(head, /^cache-status: scrapellm-proxy; detail=\w+\r?$/im, name)
  t.equal(Number(/^content-length: (\d+)/im.exec(head)?.[1]), body.length, name)
  t.has(JSON.parse(body), { status }, name)
  t.equal(peer.answers(), 1, `${name}: one answer`)
  t.equal(peer.error(), null, `${name}: no reset`)
}

const get = (target: string, headers = ''): string => `GET ${target} HTTP/1.1\r\nHost: a\r\n${headers}\r\n`
const post = (headers: string, body = ''): string =>
  `POST /scrapers/x/jobs HTTP/1.1\r\nHost: a\r\n${headers}\r\n${body}`

void t.test('A1–A28: what could be read in two ways is refused, closed, and never handled', async (t) => {
  const { send, calls, refusals } = await stage(t)
  const attacks: [id: string, bytes: string, status?: number][] = [
    ['A1 length and coding', post('Content-Length: 5\r\nTransfer-Encoding: chunked\r\n', '0\r\n\r\n')],
    ['A1 coding and length', post('Transfer-Encoding: chunked\r\nContent-Length: 5\r\n', '0\r\n\r\n')],
    ['A2 two codings', post('Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n', '0\r\n\r\n')],
    ['A2 chunked, chunked', post('Transfer-Encoding: chunked, chunked\r\n', '0\r\n\r\n')],
    ['A3 gzip, chunked', post('Transfer-Encoding: gzip, chunked\r\n', '0\r\n\r\n')],
    ['A3 xchunked', post('Transfer-Encoding: xchunked\r\n', '0\r\n\r\n')],
    ['A3 chunked;a=b', post('Transfer-Encoding: chunked;a=b\r\n', '0\r\n\r\n')],
    ['A3 identity', post('Transfer-Encoding: identity\r\n')],
    ['A4 coding with HTTP/1.0', 'POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
    ['A5 empty coding', post('Transfer-Encoding:\r\nContent-Length: 5\r\n', 'hello')],
    ['A5 empty coding alone', post('Transfer-Encoding:\r\n')],
    ['A6 coding with an underscore', post('Transfer_Encoding: chunked\r\n', '0\r\n\r\n')],
    ...[
      '5\r\nContent-Length: 5',
      '0\r\nContent-Length: 5',
      '5, 5',
      '+5',
      '-0',
      '0x5',
      '5e0',
      '005',
      '00',
      '1'.repeat(31),
      '',
    ].map((length): [string, string] => [`A7 length ${length}`, post(`Content-Length: ${length}\r\n`, 'hello')]),
    ['A8 chunk size 0x5', post('Transfer-Encoding: chunked\r\n', '0x5\r\nhello\r\n0\r\n\r\n')],
    ['A9 trailers', post('Transfer-Encoding: chunked\r\n', '0\r\nX-API-Key: evil\r\n\r\n')],
    ['A10 bare LF', 'GET /x HTTP/1.1\nHost: a\n\n'],
    ['A10 bare CR', 'GET /x HTTP/1.1\rHost: a\r\r'],
    ['A10 folded header', get('/x', 'A: b\r\n c\r\n')],
    ['A10 space before colon', get('/x', 'A : b\r\n')],
    ['A10 NUL', get('/x', 'A: b\0c\r\n')],
    ['A11 HTTP/0.9', 'GET /x\r\n\r\n'],
    ['A11 HTTP/0.9 with headers', 'GET /x\nHost: a\nContent-Length: 5\n\nhello'],
    ['A12 HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ['A12 HTTP/1.2', 'GET /x HTTP/1.2\r\nHost: a\r\n\r\n'],
    ['A12 HTTP/9.9', 'GET /x HTTP/9.9\r\nHost: a\r\n\r\n'],
    ['A12 lower case', 'get /x HTTP/1.1\r\nHost: a\r\n\r\n'],
    ['A13 hidden length', post(`${'a:\r\n'.repeat(2100)}Content-Length: 44\r\n`, plain), 431],
    ['A15 unknown expectation', get('/x', 'Expect: x\r\n'), 417],
    ['A15 body announced', post('Expect: 100-continue\r\nContent-Length: 5\r\n')],
    ...['GET', 'HEAD', 'DELETE', 'OPTIONS'].map((method): [string, string] => [
      `A16 ${method} with a body`,
      `${method} /x HTTP/1.1\r\nHost: a\r\nContent-Length: ${plain.length}\r\n\r\n${plain}`,
    ]),
    ['A17 bad, then good', get('//evil') + plain],
    ['A17 unreadable, then good', `GET /x HTTP/1.2\r\n\r\n${plain}`],
    ['A19 unknown method', 'FETCH /x HTTP/1.1\r\nHost: a\r\n\r\n', 405],
    ['A19 CONNECT', 'CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n', 405],
    ...[
      'http://evil/x',
      'https://evil:8443/x',
      '//evil',
      '///evil',
      '/\\evil',
      '/\\/evil',
      '*',
      '?x',
      '@evil/',
      '',
    ].map((target): [string, string] => [`A21–A23 ${target}`, get(target)]),
    ...['/scrapers/../jobs', '/%2e%2e/x', '/.%2E/x', '/..\\x', '/%2e%2e%2fx', '/..%5cx'].map(
      (target): [string, string] => [`A24 ${target}`, get(target)],
    ),
    ...['/%00', '/%0d%0a', '/%2f', '/%5c', '/\xe9', '/\xc0\xaf', '/%c0%af', '/%', '/%zz', '/x#x'].map(
      (target): [string, string] => [`A25, A27 ${target}`, get(target)],
    ),
    ['A28 no host', 'GET /x HTTP/1.1\r\n\r\n'],
    ...['a\r\nHost: b', 'a\r\nHost: a', '', 'a, b', 'u@a', 'a/b'].map((host): [string, string] => [
      `A28 host ${host}`,
      `GET /x HTTP/1.1\r\nHost: ${host}\r\n\r\n`,
    ]),
    ['A33 two Authorization', get('/x', 'Authorization: Bearer a\r\nAuthorization: Bearer a\r\n')],
    ['A33 two bearers', get('/x', 'Authorization: Bearer a, Bearer b\r\n')],
    ['A33 two keys', get('/x', 'X-API-Key: a\r\nx-api-key: a\r\n')],
  ]
  for (const [id, bytes, status = 400] of attacks) {
    const before = refusals.length
    const peer = await send(bytes)
    const name = id.replaceAll(/[^\x20-\x7e]/g, '?')
    if (id.startsWith('A16 HEAD')) t.match(peer.text(), /^HTTP\/1\.1 400 [^{]*$/, name)
    else problemOf(t, peer, status, name)
    t.equal(refusals.length, before + 1, `${name}: told once`)
  }
  t.equal(calls.length, 0, 'nothing of all this was handled')
  t.match((await send(get('/x', 'Connection: close\r\n'))).text(), /^HTTP\/1\.1 200 /)
  t.equal(calls.length, 1, 'the next clean request is')
})

void t.test('A14: over-long is told as what it is, 414 or 431, without a reset', async (t) => {
  const { send, calls } = await stage(t)
  const rows: [string, string, number][] = [
    ['target just too long', get(`/${'a'.repeat(65_536)}`), 414],
    ['target of 100 kB', get(`/${'a'.repeat(100_000)}`), 414],
    ['target of 2 MB', get(`/${'a'.repeat(2_000_000)}`), 414],
    ['header of 100 kB', get('/x', `A: ${'a'.repeat(100_000)}\r\n`), 431],
    ['header of 2 MB', get('/x', `A: ${'a'.repeat(2_000_000)}\r\n`), 431],
    ['many headers', get('/x', `A: ${'a'.repeat(500)}\r\n`.repeat(4000)), 431],
  ]
  for (const [name, bytes, status] of rows) problemOf(t, await send(bytes), status, name)
  t.equal(calls.length, 0)
})

void t.test('A14: a target that never ends is told in the end', async (t) => {
  const { open, world } = await stage(t)
  const peer = await open()
  peer.socket.write(`GET /${'a'.repeat(300_000)}`)
  while (world.clock.timers === 0) await new Promise(setImmediate)
  await world.clock.advance(1000)
  await peer.closed
  problemOf(t, peer, 414, 'never ending')
})

void t.test('long prompts of every script pass', async (t) => {
  const { send, calls } = await stage(t)
  for (const prompt of ['日'.repeat(4000), '🙂'.repeat(4000)]) {
    const peer = await send(get(`/scrapers/x?prompt=${encodeURIComponent(prompt)}`, 'Connection: close\r\n'))
    t.match(peer.text(), /^HTTP\/1\.1 200 /)
    t.same(calls.at(-1)?.target.params, [['prompt', prompt]])
  }
})

void t.test(
  'A17, A16: what follows an open request and is not HTTP ends the connection after its answer',
  async (t) => {
    const go = barrier()
    const { open, calls, refusals } = await stage(t, () => go.promise.then(() => hit))
    const peer = await open()
    peer.socket.write(`${plain}hello, not HTTP`)
    while (refusals.length === 0) await new Promise(setImmediate)
    peer.socket.write('more of it')
    go.resolve()
    await peer.closed
    t.match(peer.text(), /^HTTP\/1\.1 200 .*connection: close/is)
    t.equal(peer.answers(), 1)
    t.equal(calls.length, 1)
    t.equal(refusals.length, 1)
  },
)

void t.test(
  'A17: good, then bad, then good: the first is answered, the second refused, the third never seen',
  async (t) => {
    const go = barrier()
    const { open, calls } = await stage(t, () => go.promise.then(() => hit))
    const peer = await open()
    peer.socket.write(plain + get('/x#') + plain)
    while (calls.length === 0) await new Promise(setImmediate)
    go.resolve()
    await peer.closed
    t.match(peer.text(), /^HTTP\/1\.1 200 [^]*HTTP\/1\.1 400 /)
    t.equal(peer.answers(), 2)
    t.equal(calls.length, 1)
  },
)

void t.test('A15, A31, A34–A36, A38: what is only odd is ignored, and the connection stays', async (t) => {
  const { open, calls } = await stage(t)
  const peer = await open()
  const odd = [
    'Connection: x-api-key, host, content-length\r\nX-API-Key: k\r\n',
    'X-Forwarded-For: 1.2.3.4\r\nForwarded: for=x\r\nX-HTTP-Method-Override: DELETE\r\nX-Original-URL: /y\r\n',
    'Cookie: a=b\r\nOrigin: http://evil\r\nRange: bytes=0-0\r\nAccept-Encoding: gzip;q=0\r\n',
    '__proto__: a\r\nconstructor: b\r\n',
  ]
  for (const [index, headers] of odd.entries()) {
    peer.socket.write(get('/scrapers/x', headers))
    await peer.until(() => peer.answers() === index + 1)
  }
  t.equal(peer.text().match(/HTTP\/1\.1 200 OK/g)?.length, odd.length)
  t.same(
    calls.map(({ token }) => token),
    ['k', null, null, null],
  )
  peer.socket.write(post('Content-Length: 0\r\n') + post(''))
  await peer.until(() => peer.answers() === odd.length + 2)
  t.equal(calls.at(-1)?.method, 'POST')
  for (const method of ['TRACE', 'PROPFIND', 'OPTIONS']) {
    peer.socket.write(`${method} /x HTTP/1.1\r\nHost: a\r\n\r\n`)
    const answers = peer.answers()
    await peer.until(() => peer.answers() > answers)
    t.equal(calls.at(-1)?.method, method, 'routes decide about methods that exist')
  }
  peer.socket.write(get('/scrapers/x', 'Expect: 100-continue\r\nContent-Length: 0\r\n'))
  await peer.closed
  t.match(peer.text(), /HTTP\/1\.1 200 OK(?![^]*HTTP)[^]*connection: close/i, 'no body is waited for')
})

void t.test('A20: an offer to upgrade is ignored, and the connection goes on', async (t) => {
  const { open, calls } = await stage(t)
  const peer = await open()
  const offer =
    'Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n'
  for (const [index, bytes] of [get('/scrapers/x', offer), plain, get('/scrapers/x', offer), plain].entries()) {
    peer.socket.write(bytes)
    await peer.until(() => peer.answers() === index + 1)
  }
  t.equal(calls.length, 4)
  t.notMatch(peer.text(), /connection: close|101/i)
  peer.socket.destroy()
})

void t.test(
  'A15, A20: an expectation, or an upgrade with something behind it, is the last request of its connection',
  async (t) => {
    const { send, calls } = await stage(t)
    const last = [
      'Expect: 100-continue\r\n',
      'Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n',
      'Connection: Upgrade\r\nUpgrade:  websocket\r\n',
    ]
    for (const [index, headers] of last.entries()) {
      const peer = await send(plain + get('/scrapers/x', headers) + plain)
      t.equal(peer.answers(), 2, headers)
      t.match(peer.text(), /HTTP\/1\.1 200 [^]*HTTP\/1\.1 200 [^]*connection: close/i)
      t.equal(calls.length, 2 * (index + 1), 'what follows is never executed')
    }
  },
)

void t.test('HEAD has the headers of GET and no body; 304 has none either', async (t) => {
  const { send } = await stage(t)
  const head = await send('HEAD /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
  t.match(head.text(), /^HTTP\/1\.1 200 OK\r\n/)
  t.match(head.text(), new RegExp(`content-length: ${entry.body.length}\r\n`, 'i'))
  t.ok(head.text().endsWith('\r\n\r\n'))
  const unchanged = await send(get('/x', 'If-None-Match: W/"e"\r\nConnection: close\r\n'))
  t.match(unchanged.text(), /^HTTP\/1\.1 304 Not Modified\r\n/)
  t.ok(unchanged.text().endsWith('\r\n\r\n'))
  t.notMatch(unchanged.text(), /content-length/i)
})

void t.test('answers carry the request id, and a refusal of the pipeline keeps the connection', async (t) => {
  const { open } = await stage(t, () => ({
    kind: 'refused',
    error: new ProxyError('RATE_LIMITED', 'Slowly.', { retryAfterMs: 1500 }),
  }))
  const peer = await open()
  for (const id of ['one', 'two']) {
    peer.socket.write(get('/x', `X-Request-Id: ${id}\r\n`))
    await peer.until(() => peer.text().endsWith(`"request_id":"${id}"}`))
  }
  t.equal(peer.answers(), 2)
  t.match(peer.text(), /retry-after: 2\r\n/i)
  t.match(peer.text(), /x-proxy-code: RATE_LIMITED\r\n/i)
  peer.socket.destroy()
})

void t.test('a bug is an INTERNAL refusal, told to the log and not to the caller', async (t) => {
  const { send, world, refusals } = await stage(t, () => {
    throw new Error('canary')
  })
  const peer = await send(get('/x', 'Connection: close\r\n'))
  t.match(peer.text(), /^HTTP\/1\.1 500 [^]*"code":"INTERNAL"/)
  t.notMatch(peer.text(), /canary/)
  t.match(world.told('broke'), [{ where: 'http', error: { message: 'canary' } }])
  t.equal(refusals.length, 0, 'this exchange existed, and is recorded elsewhere')
})

void t.test('an answer that cannot be rendered or sent costs one connection, not the process', async (t) => {
  const spoilt = await stage(t, () => ({ ...hit, entry: { ...entry, contentType: 'a\r\nb: c' } }))
  const unsent = await spoilt.send(plain)
  t.equal(unsent.text(), '')
  t.equal(spoilt.world.told('broke').length, 1)
  t.equal(spoilt.server.openRequests, 0)

  const unknown = await stage(t, () => ({ kind: 'hit' }) as Outcome)
  const peer = await unknown.open()
  peer.socket.write(plain)
  await peer.until(() => peer.answers() === 1)
  t.match(peer.text(), /^HTTP\/1\.1 500 /)
  t.equal(unknown.world.told('broke').length, 1)
  peer.socket.destroy()
})

void t.test('the settings are taken once per request', async (t) => {
  const world = fakeWorld()
  let taken = 0
  const respond = createResponder({ markReplays: true, replay: (body) => body })
  const generations = {
    get current() {
      taken += 1
      return { handle: async () => hit, respond }
    },
  }
  const server = createServer({ host: '127.0.0.1', port: 0 }, { ...world, generations, refused: () => {} })
  await server.listen()
  const second = createServer({ host: '127.0.0.1', port: server.port }, { ...world, generations, refused: () => {} })
  await t.rejects(second.listen(), { code: 'EADDRINUSE' })
  t.equal((await fetch(`http://127.0.0.1:${server.port}/x`)).status, 200)
  t.equal(taken, 1)
  t.equal(await server.drain({ readinessDelayMs: 0, graceMs: 0 }), 'clean')
  t.equal(
    await second.drain({ readinessDelayMs: 0, graceMs: 1000 }),
    'clean',
    'one that never listened has nothing to end',
  )
})

void t.test('who hangs up is noticed once, by those who listen', async (t) => {
  const arrived = barrier<ProxyRequest>()
  const answer = barrier()
  const { open, server } = await stage(t, async ({ request }) => {
    arrived.resolve(request)
    await answer.promise
    return { kind: 'gone' }
  })
  const peer = await open()
  peer.socket.write(plain)
  const request = await arrived.promise
  t.equal(server.openRequests, 1)
  const gone = barrier()
  let heard = 0
  let unheard = 0
  request.onGone(() => {
    heard += 1
    gone.resolve()
  })
  request.onGone(() => (unheard += 1))()
  peer.socket.destroy()
  await gone.promise
  const late = barrier()
  request.onGone(() => late.resolve())
  await late.promise
  request.onGone(() => (unheard += 1))()
  answer.resolve()
  while (server.openRequests > 0) await new Promise(setImmediate)
  t.same([heard, unheard], [1, 0])
})

void t.test('who hangs up is noticed behind an earlier question of the same connection, too', async (t) => {
  const gone: string[] = []
  const asked = barrier()
  const { open } = await stage(t, ({ request }) => {
    request.onGone(() => gone.push(request.target.path))
    if (request.target.path === '/three') asked.resolve()
    return new Promise(() => {})
  })
  const peer = await open()
  peer.socket.write(get('/one') + get('/two') + get('/three'))
  await asked.promise
  peer.socket.destroy()
  while (gone.length < 3) await new Promise(setImmediate)
  t.strictSame(gone, ['/one', '/two', '/three'])
})

void t.test('who got an answer has not hung up', async (t) => {
  let heard = 0
  const { send } = await stage(t, ({ request }) => {
    request.onGone(() => (heard += 1))
    return hit
  })
  await send(get('/x', 'Connection: close\r\n'))
  t.equal(heard, 0)
})

void t.test('an idle connection is kept for as long as the settings say', async (t) => {
  const kept = /\r\nKeep-Alive: timeout=(\d+)\r\n/i
  for (const [settings, seconds] of [
    ['', '75'],
    ['listen: { keepAlive: 620s }', '620'],
  ] as const) {
    const { url } = await aProxy(t, settings)
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    t.teardown(() => socket.destroy())
    socket.write('GET /scrapers/chatgpt?prompt=q HTTP/1.1\r\nHost: localhost\r\n\r\n')
    const [answer] = (await once(socket, 'data')) as [Buffer]
    t.equal(kept.exec(answer.toString())?.[1], seconds)
  }
})

void t.test('A18: slow headers get 408, a slow reader is cut', async (t) => {
  const { open, server, calls, refusals } = await stage(
    t,
    () => ({ ...hit, entry: { ...entry, body: Buffer.alloc(32 * 1024 * 1024) } }),
    {
      headersMs: 100,
      requestMs: 100,
      checkMs: 20,
      slowReaderMs: 100,
    },
  )
  const slow = await open()
  slow.socket.write('GET /x HTTP/1.1\r\nHost:')
  await slow.closed
  problemOf(t, slow, 408, 'slow headers')
  t.equal(refusals.length, 1)

  const reader = await open()
  reader.socket.pause()
  reader.socket.write(plain)
  while (calls.length === 0) await new Promise(setImmediate)
  // The kernel's buffers are full and the rest has nowhere to go: only the cut can end this drain.
  t.equal(await server.drain({ readinessDelayMs: 0, graceMs: 60_000 }), 'clean')
  reader.socket.resume()
  await reader.closed
  t.ok(reader.bytes() < 32 * 1024 * 1024)
})

void t.test('an answer that is still being written is not cut by a drain', async (t) => {
  const body = Buffer.alloc(32 * 1024 * 1024, 'x')
  const { open, server, calls, world } = await stage(t, () => ({ ...hit, entry: { ...entry, body } }))
  const reader = await open()
  reader.socket.pause()
  reader.socket.write(plain)
  while (calls.length === 0 || server.openRequests > 0) await new Promise(setImmediate)
  const drained = server.drain({ readinessDelayMs: 0, graceMs: 60_000 })
  await world.clock.advance(1000)
  reader.socket.resume()
  await reader.until(() => reader.bytes() > body.length)
  t.ok(reader.text().endsWith('xxx'))
  await world.clock.finish(drained)
  t.equal(await drained, 'clean')
})

void t.test('A18: a refused caller who neither reads nor leaves is cut after a second', async (t) => {
  const { server, world } = await stage(t)
  const socket = connect({ port: server.port, host: '127.0.0.1', allowHalfOpen: true })
  const ended = new Promise((resolve) => socket.once('end', resolve))
  const closed = new Promise((resolve) => socket.once('close', resolve))
  socket.on('error', () => {})
  socket.resume()
  socket.write(get('//evil'))
  await ended
  socket.write('still talking')
  await world.clock.advance(1000)
  socket.write('still talking')
  await closed
  t.equal(world.clock.timers, 0, 'and no timer is left')
})

// The drain

void t.test('a drain finishes what is open, says so on the connection, and takes nothing new', async (t) => {
  const go = barrier()
  const { open, server, world, calls } = await stage(t, () => go.promise.then(() => hit))
  const [busy, idle, silent] = [await open(), await open(), await open()]
  busy.socket.write(plain)
  while (calls.length < 1) await new Promise(setImmediate)
  t.equal(server.draining, false)

  const drained = server.drain({ readinessDelayMs: 5000, graceMs: 60_000 })
  t.equal(server.draining, true, 'not ready at once')
  idle.socket.write(plain)
  while (calls.length < 2) await new Promise(setImmediate)

  await world.clock.advance(5000)
  await silent.closed
  t.equal(silent.answers(), 0)
  const late = connect(server.port, '127.0.0.1')
  t.match(await new Promise((resolve) => late.once('error', resolve)), { code: 'ECONNREFUSED' })

  go.resolve()
  await Promise.all([busy.closed, idle.closed])
  for (const peer of [busy, idle]) t.match(peer.text(), /^HTTP\/1\.1 200 .*connection: close/is)
  t.equal(await drained, 'clean')
  t.equal(server.openRequests, 0)
  t.equal(world.clock.timers, 0, 'no timer is left')
})

void t.test(
  'while it is only said that a drain has begun, requests are answered and their connections end',
  async (t) => {
    const { open, server, world } = await stage(t)
    const kept = await open()
    const drained = server.drain({ readinessDelayMs: 5000, graceMs: 60_000 })
    const late = await open()
    for (const peer of [kept, late]) {
      peer.socket.write(plain)
      await peer.closed
      t.match(peer.text(), /^HTTP\/1\.1 200 [^]*\r\nConnection: close\r\n/)
    }
    await world.clock.advance(5000)
    t.equal(await drained, 'clean')
  },
)

void t.test('a request that arrives during the drain on an open connection is refused in turn', async (t) => {
  const go = barrier()
  const { open, server, calls, refusals } = await stage(t, () => go.promise.then(() => hit))
  const peer = await open()
  peer.socket.write(plain)
  while (calls.length === 0) await new Promise(setImmediate)
  const drained = server.drain({ readinessDelayMs: 0, graceMs: 60_000 })
  peer.socket.write(plain)
  while (refusals.length === 0) await new Promise(setImmediate)
  go.resolve()
  await peer.closed
  t.match(peer.text(), /^HTTP\/1\.1 200 [^]*HTTP\/1\.1 503 [^]*"code":"SHUTTING_DOWN"/)
  t.match(peer.text(), /retry-after: 1\r\n/i)
  t.equal(calls.length, 1)
  t.equal(await drained, 'clean')
})

void t.test('when the grace ends the rest is cut; a second call can end it at once', async (t) => {
  const { open, server, world, calls } = await stage(t, () => barrier<Outcome>().promise)
  const peer = await open()
  peer.socket.write(plain)
  while (calls.length === 0) await new Promise(setImmediate)
  const drained = server.drain({ readinessDelayMs: 1000, graceMs: 2000 })
  await world.clock.advance(2999)
  t.equal(peer.socket.destroyed, false)
  await world.clock.advance(1)
  await peer.closed
  t.equal(await drained, 'forced')

  const second = await stage(t, () => barrier<Outcome>().promise)
  const other = await second.open()
  other.socket.write(plain)
  while (second.calls.length === 0) await new Promise(setImmediate)
  const slowly = second.server.drain({ readinessDelayMs: 10_000, graceMs: 660_000 })
  const atOnce = second.server.drain({ readinessDelayMs: 0, graceMs: 0 })
  await other.closed
  t.same(await Promise.all([slowly, atOnce]), ['forced', 'forced'])
  t.equal(second.world.clock.timers, 0)
})

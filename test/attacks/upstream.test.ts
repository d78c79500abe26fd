/** A44–A51: an upstream that lies, breaks off, repeats the key, never ends, or says more than it was asked. */
import { brotliCompressSync, deflateRawSync, deflateSync, gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { request, UPSTREAM_KEY } from '../support/proxy.ts'
import { answerOf, deviations, getOnce, httpOf, siege, type Siege, TARGET } from '../support/siege.ts'

/** One attempt, and a circuit that does not open: each row stands for itself. */
const single =
  'retry: { attempts: 1 }\nbreaker: { hold: 0s, consecutive: 10000, minimum: 1000, window: 1000, failureRate: 1 }\n'
const JSON_TYPE = 'Content-Type: application/json\r\n'
/** Without an echo, so that it may answer any question. */
const answer = (more: Readonly<Record<string, unknown>> = {}): string => answerOf('x', { prompt: undefined, ...more })
const whole = answer()
const ok = (headers: string, body: string): string => `HTTP/1.1 200 OK\r\n${JSON_TYPE}${headers}\r\n${body}`

type Row = readonly [id: string, said: string | Buffer, then?: 'close']

/** 502 for each row; nothing of the answer is shown or kept, and what may have been charged is said to be uncertain. */
async function allInvalid(t: Test, { send, upstream, spent }: Siege, rows: readonly Row[]): Promise<void> {
  for (const [index, [id, said, then]] of rows.entries()) {
    upstream.answer((_, socket) => {
      socket.write(said)
      if (then === 'close') socket.end()
      return null
    })
    const heard = upstream.heard.length
    const peer = await send(getOnce(`${TARGET}?prompt=${index}`))
    t.match(peer.text(), /^HTTP\/1\.1 502 [^]*\r\nx-proxy-code: UPSTREAM_INVALID\r\n/i, id)
    t.match(peer.text(), /\r\ncontent-type: application\/problem\+json\r\n/i, id)
    t.notMatch(peer.text(), /evil|<html|answer to|set-cookie|location/i, `${id}: nothing of it is shown`)
    t.equal(upstream.heard.length, heard + 1, `${id}: asked once`)
  }
  t.equal((await spent()).kept, 0, 'nothing is kept')
}

void t.test('A44: a redirect is not followed and not passed on', async (t) => {
  const at = await siege(t, single)
  const moved = (status: string, location: string): string =>
    `HTTP/1.1 ${status}\r\nLocation: ${location}\r\nContent-Length: 0\r\n\r\n`
  await allInvalid(t, at, [
    ['A44 302 to evil', moved('302 Found', 'http://evil.example/x')],
    ['A44 301 to a path', moved('301 Moved', '/evil')],
    ['A44 307 to the metadata service', moved('307 Temporary', 'http://169.254.169.254/evil')],
    ['A44 308 with a whole answer in it', httpOf(whole, { status: '308 Moved', headers: 'Location: http://evil\r\n' })],
    ['A44 303', moved('303 See', '//evil')],
    ['A44 300 with choices', httpOf('{"evil":1}', { status: '300 Choose', headers: 'Location: /evil\r\n' })],
    ['A44 304 that nobody asked for', 'HTTP/1.1 304 Not Modified\r\nETag: "evil"\r\n\r\n'],
  ])
})

void t.test('A45: of upstream’s headers only the content type and Retry-After are passed on', async (t) => {
  const { send, upstream } = await siege(t, single)
  const headers = [
    'Set-Cookie: evil=1',
    'Set-Cookie: evil=2',
    'Server: evil',
    'Via: 1.1 evil',
    'Access-Control-Allow-Origin: *',
    'X-Powered-By: evil',
    'Connection: x-evil, keep-alive',
    'X-Evil: 1',
    'Age: 99999',
    'ETag: "evil"',
    'Vary: *',
    'Cache-Control: public, max-age=31536000',
    'Expires: evil',
    'Content-Disposition: attachment; filename=evil',
    'Clear-Site-Data: "*"',
    'Refresh: 0;url=http://evil',
    'Link: <http://evil>',
    'Alt-Svc: h3=":443"; ma=1',
    'Strict-Transport-Security: max-age=1',
    'X-Api-Key: evil',
    'X-Request-Id: evil',
    'Cache-Status: evil; hit',
    'X-Proxy-Credits: -99',
    'X-Proxy-Code: evil',
    'RateLimit: "evil";r=0;t=1',
    'Location: http://evil',
    'WWW-Authenticate: Basic realm=evil',
    'Content-Location: /evil',
    'Trailer: evil',
  ].map((line) => `${line}\r\n`)
  upstream.answer(() => httpOf(whole, { headers: headers.join('') }))
  for (const turn of ['A45 from upstream', 'A45 from the cache']) {
    const peer = await send(getOnce(`${TARGET}?prompt=x`))
    t.same(peer.statuses(), [200], turn)
    const [head = ''] = peer.text().split('\r\n\r\n')
    t.notMatch(head, /evil|set-cookie|access-control|31536000|99999|-99/i, turn)
    const names = head
      .split('\r\n')
      .slice(1)
      .map((line) => line.split(':')[0]?.toLowerCase() ?? '')
    const own = [
      'x-request-id',
      'cache-status',
      'x-proxy-attempts',
      'x-proxy-credits',
      'x-proxy-client',
      'x-proxy-sample',
      'x-content-type-options',
      'age',
      'vary',
      'etag',
      'cache-control',
      'content-type',
      'content-length',
      'date',
      'connection',
    ]
    t.same(
      names.filter((name) => !own.includes(name)),
      [],
      turn,
    )
  }
  t.equal(upstream.heard.length, 1)
})

void t.test('A46: what is not a whole answer is none', async (t) => {
  const at = await siege(t, single)
  const cut = whole.slice(0, 40)
  await allInvalid(t, at, [
    ['A46 short of its length', ok(`Content-Length: ${whole.length}\r\n`, cut), 'close'],
    [
      'A46 chunks without the last',
      ok('Transfer-Encoding: chunked\r\n', `${whole.length.toString(16)}\r\n${whole}\r\n`),
      'close',
    ],
    ['A46 half a chunk', ok('Transfer-Encoding: chunked\r\n', `ffff\r\n${cut}`), 'close'],
    ['A46 no length, half an answer', ok('', cut), 'close'],
    ['A46 HTML with 200', httpOf('<html>evil</html>')],
    ['A46 nothing with 200', httpOf('')],
    ['A46 two documents', httpOf(whole + whole)],
    ['A46 something behind it', httpOf(`${whole}evil`)],
    ['A46 not UTF-8', httpOf(Buffer.from(whole.replace('answer to', '\xff\xfe'), 'latin1'))],
    ['A46 204', 'HTTP/1.1 204 No Content\r\n\r\n'],
    ['A46 status 999', httpOf(whole, { status: '999 evil' })],
  ])
  const uncertain = await at.proxy.metric('ambiguous_attempts_total')
  t.ok(
    Object.values(uncertain).reduce((all, one) => all + one, 0) >= 8,
    'A46 and counted as what may have been charged',
  )
})

void t.test(
  'A46: one whole JSON value of any shape is handed on, without upstream’s headers, and is not kept',
  async (t) => {
    const { send, upstream, spent } = await siege(t, single)
    const rows: readonly (readonly [id: string, said: string | Buffer])[] = [
      ['A46 status: pending', httpOf(answer({ status: 'pending' }))],
      ['A46 status: failed, with a result', httpOf(answer({ status: 'failed' }))],
      ['A46 an empty result', httpOf(answer({ result: '' }))],
      ['A46 a result that is no text', httpOf(answerOf('x', { result: { text: 1 } }))],
      ['A46 null', httpOf('null')],
      ['A46 a list', httpOf(`[${whole}]`)],
      ['A46 201', httpOf(whole, { status: '201 Created', headers: 'Location: http://evil\r\n' })],
      ['A46 206', httpOf(whole, { status: '206 Partial', headers: 'Content-Range: bytes 0-1/9\r\nX: evil\r\n' })],
    ]
    for (const [index, [id, said]] of rows.entries()) {
      upstream.answer(() => said)
      const peer = await send(getOnce(`${TARGET}?prompt=${index}`))
      t.match(peer.text(), /^HTTP\/1\.1 20[016] [^]*\r\ncache-control: no-store\r\n/i, id)
      t.notMatch(peer.text(), /evil|content-range|location|x-proxy-code/i, id)
    }
    t.equal(upstream.heard.length, rows.length)
    t.equal((await spent()).kept, 0, 'nothing is kept')
  },
)

void t.test('A47: answers with two lengths, endless ones, huge ones', async (t) => {
  const at = await siege(t, `${single}upstream: { maxResponseSize: 64KiB }`)
  const length = `Content-Length: ${whole.length}\r\n`
  await allInvalid(t, at, [
    [
      'A47 CL and TE',
      ok(`${length}Transfer-Encoding: chunked\r\n`, `${whole.length.toString(16)}\r\n${whole}\r\n0\r\n\r\n`),
      'close',
    ],
    ['A47 two lengths that differ', ok(`${length}Content-Length: 5\r\n`, whole), 'close'],
    ['A47 twice the same length', ok(length + length, whole), 'close'],
    ['A47 a signed length', ok(`Content-Length: +${whole.length}\r\n`, whole), 'close'],
    ['A47 a bad chunk size', ok('Transfer-Encoding: chunked\r\n', `0x5\r\n${whole}`), 'close'],
    ['A47 a folded header', ok(`X: a\r\n evil\r\n${length}`, whole), 'close'],
    ['A47 a NUL in a header', ok(`X: a\0b\r\n${length}`, whole), 'close'],
    ['A47 bare LF', `HTTP/1.1 200 OK\nContent-Length: ${whole.length}\n\n${whole}`, 'close'],
    ['A47 not HTTP', 'SSH-2.0-OpenSSH_9.9\r\n', 'close'],
    ['A47 HTTP/2', 'HTTP/2 200\r\n\r\n', 'close'],
    ['A47 headers of 100 kB', ok(`X: ${'a'.repeat(100_000)}\r\n${length}`, whole), 'close'],
    ['A47 100 000 header lines', ok('X: a\r\n'.repeat(100_000) + length, whole), 'close'],
    ['A47 a length of 1 GiB', ok(`Content-Length: ${2 ** 30}\r\n`, '{"evil":"')],
    ['A47 a length beyond all numbers', ok(`Content-Length: ${'9'.repeat(40)}\r\n`, '{"evil":"'), 'close'],
    ['A47 more than is taken, in chunks', ok('Transfer-Encoding: chunked\r\n', `fffff\r\n${'e'.repeat(100_000)}`)],
    ['A47 more than is taken, without a length', ok('', 'e'.repeat(100_000))],
  ])
  const { send, upstream, proxy } = at
  upstream.answer(() => ok('X: a\r\n'.repeat(300) + length, whole))
  t.same((await send(getOnce(`${TARGET}?prompt=many`))).statuses(), [200], 'A47 300 header lines are odd and no more')
  upstream.answer(() => 'HTTP/1.1 103 Early Hints\r\nLink: </evil>\r\n\r\n'.repeat(50) + httpOf(whole).toString())
  const hinted = await send(getOnce(`${TARGET}?prompt=hints`))
  t.same(hinted.statuses(), [200], 'A47 interim answers are ignored')
  t.notMatch(hinted.text(), / 103 |evil/)

  const dripping = Promise.withResolvers<void>()
  upstream.answer(() => {
    dripping.resolve()
    return ok('Content-Length: 1000\r\n', '{')
  })
  const waiting = proxy.ask(`${TARGET}?prompt=drip&timeout=10`)
  await dripping.promise
  proxy.clock.skip(26_000)
  t.match(await waiting, { status: 504 }, 'A47 an endless drip ends with its time')
  t.equal((await at.spent()).kept, 2)
})

void t.test('A47: 101 and 100 that nobody asked for', async (t) => {
  const { send, upstream, spent } = await siege(t, single)
  upstream.answer((_, socket) => {
    socket.write(
      `HTTP/1.1 101 Switching Protocols\r\nUpgrade: evil\r\nConnection: Upgrade\r\n\r\n${httpOf(whole).toString()}`,
    )
    return null
  })
  const peer = await send(getOnce(`${TARGET}?prompt=x`))
  t.same(peer.statuses(), [502], 'A47 101: no tunnel')
  t.notMatch(peer.text(), /answer to|evil/)
  upstream.answer(() => `HTTP/1.1 100 Continue\r\n\r\n${httpOf(whole).toString()}`)
  t.same((await send(getOnce(`${TARGET}?prompt=y`))).statuses(), [200], 'A47 100: waits for the answer')
  t.equal((await spent()).kept, 1)
})

void t.test('A48: an answer that nobody asked for never becomes somebody’s answer', async (t) => {
  const { proxy, upstream } = await siege(t, single)
  const poison = httpOf(answerOf('POISON'))
  const promptIn = (target: string): string => new URL(target, 'http://x').searchParams.get('prompt') ?? ''
  /** Resolves when the connection that was poisoned is gone. */
  let ended = Promise.resolve()
  let turn = 0
  upstream.answer((heard, socket) => {
    const answer = httpOf(answerOf(promptIn(heard.target)))
    ended = new Promise((resolve) => socket.once('close', () => resolve()))
    // In the same packet, in the next one, and when the connection has long gone back to the pool.
    if (turn++ % 3 === 0) return Buffer.concat([answer, poison])
    socket.write(answer)
    if (turn % 3 === 1) setImmediate(() => socket.destroyed || socket.write(poison))
    else setTimeout(() => socket.destroyed || socket.write(poison), 2)
    return null
  })
  const wrong: string[] = []
  for (let at = 0; at < 300; at++) {
    const prompt = `mine-${at}`
    const { status, text } = await proxy.ask(prompt)
    // What breaks is a failure; what must not be is another's answer.
    if (status === 200 && (JSON.parse(text) as { prompt: string }).prompt !== prompt) wrong.push(`${prompt}: ${text}`)
    await ended
  }
  t.same(wrong, [], 'A48 of 300 questions each got its own answer or none, and each poisoned connection was given up')
  upstream.answer((heard) => httpOf(answerOf(promptIn(heard.target))))
  for (let at = 0; at < 300; at++) {
    const { status, text } = await proxy.ask(`mine-${at}`)
    if (status !== 200 || !text.includes(`"prompt":"mine-${at}"`)) wrong.push(text)
  }
  t.same(wrong, [], 'A48 nor is another’s answer kept')
  t.same(upstream.heard.flatMap((one) => deviations(one, upstream.host)).slice(0, 3), [])
})

void t.test('A49: an upstream that repeats the key gives it to nobody', async (t) => {
  const secret = 'sk-canary/+"key=0123456789'
  const { send, upstream, proxy } = await siege(t, `${single}upstream: { keys: [{ name: main, secret: '${secret}' }] }`)
  const spellings = [secret, JSON.stringify(secret).slice(1, -1), encodeURIComponent(secret)]
  const answers: Buffer[] = [
    httpOf(JSON.stringify({ detail: `the key ${secret} is not good` }), { status: '401 Unauthorized' }),
    httpOf(JSON.stringify({ detail: [{ input: secret, ctx: { [secret]: 1 } }] }), { status: '422 Unprocessable' }),
    httpOf(`<html>${secret}</html>`, { status: '502 Bad' }),
    httpOf(JSON.stringify({ url: `/x?api_key=${encodeURIComponent(secret)}`, detail: 'x' }), { status: '500 Broken' }),
    httpOf(answer({ result: `you said ${secret}`, echoed: { 'x-api-key': secret } })),
    httpOf(whole, { headers: `X-Echo: ${secret}\r\nSet-Cookie: k=${secret}\r\n` }),
    httpOf(whole, { headers: `Content-Language: ${secret}\r\n` }),
    httpOf('{"detail":"slow"}', { status: '429 Slow', headers: `Retry-After: ${secret}\r\n` }),
    httpOf('{}', { status: '302 Found', headers: `Location: https://evil/?k=${encodeURIComponent(secret)}\r\n` }),
    Buffer.from(
      `HTTP/1.1 200 ${secret}\r\nContent-Type: application/json; k="${secret}"\r\nContent-Length: ${whole.length}\r\n\r\n${whole}`,
    ),
    Buffer.from(`${secret} is no HTTP\r\n\r\n`),
    Buffer.from(`HTTP/1.1 200 OK\r\nContent-Length: 10\r\nContent-Length: ${secret}\r\n\r\n`),
    httpOf(JSON.stringify({ detail: secret }).repeat(2)),
  ]
  const shown: string[] = []
  for (const [index, answer] of answers.entries()) {
    upstream.answer((_, socket) => {
      socket.end(answer)
      return null
    })
    for (const again of [0, 1])
      shown.push((await send(getOnce(`${TARGET}?prompt=${index}`))).text() || `nothing ${again}`)
    proxy.clock.skip(900_000)
  }
  const places: readonly (readonly [string, string])[] = [
    ...shown.map((text, at) => [`answer ${Math.floor(at / 2)}`, text] as const),
    ['log', proxy.output()],
    ['metrics', (await proxy.admin('/metrics')).text],
    ['status', (await proxy.admin('/status')).text],
    ['page', (await proxy.admin('/', { headers: { accept: 'text/html' } })).text],
  ]
  for (const [place, text] of places)
    for (const spelling of spellings) t.notOk(text.includes(spelling), `A49 not in ${place}`)
  t.ok(
    shown.some((text) => text.includes('[redacted]')),
    'A49 what is shown is blotted out',
  )
  t.equal(shown.length, answers.length * 2)
})

void t.test('A50: compressed bodies are unpacked within the size limit of an answer', async (t) => {
  const at = await siege(t, single)
  const bomb = gzipSync(Buffer.alloc(20_000_000))
  const packed = (encoding: string, body: Buffer): Buffer =>
    httpOf(body, { headers: `Content-Encoding: ${encoding}\r\n` })
  await allInvalid(t, at, [
    ['A50 a gzip bomb', packed('gzip', bomb)],
    ['A50 a br bomb', packed('br', brotliCompressSync(Buffer.alloc(20_000_000)))],
    ['A50 gzip that is cut off', packed('gzip', gzipSync(whole).subarray(0, -10))],
    ['A50 gzip that is none', packed('gzip', Buffer.from(whole))],
    ['A50 gzip in gzip', packed('gzip, gzip', gzipSync(gzipSync(whole)))],
    ['A50 an unknown encoding', packed('zstd', gzipSync(whole))],
    [
      'A50 gzip a thousand times',
      httpOf(bomb, { headers: `Content-Encoding: ${Array.from({ length: 1_000 }, () => 'gzip').join(', ')}\r\n` }),
    ],
  ])
  t.ok(
    at.upstream.heard.every(({ raw }) => /\r\naccept-encoding: identity\r\n/i.test(raw)),
    'A50 nobody asked for it',
  )
  for (const [encoding, pack] of Object.entries({
    gzip: gzipSync,
    'X-GZip': gzipSync,
    deflate: deflateSync,
    Deflate: deflateRawSync,
    br: brotliCompressSync,
  })) {
    at.upstream.answer(() => packed(encoding, pack(whole)))
    const peer = await at.send(getOnce(`${TARGET}?prompt=${encoding}-${pack.name}`))
    t.same(peer.statuses(), [200], `A50 ${encoding} of ${pack.name}`)
    t.ok(peer.text().endsWith(`\r\n\r\n${whole}`), 'A50 the bytes are those that were packed')
    t.notMatch(peer.text(), /content-encoding/i)
  }
  t.ok(bomb.length < 100_000)
})

void t.test('A51: a key without credits rests alone', async (t) => {
  const { proxy, upstream } = await siege(
    t,
    'upstream: { keys: [{ name: first, secret: first-key }, { name: second, secret: second-key }] }\nretry: { attempts: 4 }',
  )
  const keyOf = (raw: string): string => /x-api-key: (\S+)/.exec(raw)?.[1] ?? ''
  await proxy.ask('kept')
  upstream.answer((heard) =>
    keyOf(heard.raw) === 'first-key'
      ? httpOf('{"detail":"Credit limit reached. Please upgrade."}', { status: '429 Too Many' })
      : httpOf(answerOf(new URL(heard.target, 'http://x').searchParams.get('prompt') ?? '')),
  )
  const before = upstream.heard.length
  for (let at = 0; at < 20; at++) t.equal((await proxy.ask(`q-${at}`)).status, 200, 'A51 the other key carries on')
  t.ok(
    upstream.heard.slice(before).filter(({ raw }) => keyOf(raw) === 'first-key').length <= 1,
    'A51 the first is asked once more at most',
  )
  upstream.answer(() => httpOf('{"detail":"Credit limit reached."}', { status: '429 Too Many' }))
  await proxy.ask('the last credits')
  t.match((await proxy.ask('kept')).headers['cache-status'], /; hit/, 'A51 cached answers are still served')
  t.match(await proxy.ask('unknown'), { status: 503, headers: { 'x-proxy-code': 'NO_KEY_AVAILABLE' } })
  const states = await proxy.metric('breaker_state')
  t.same([...new Set(Object.values(states))], [0], 'A51 and no circuit has moved')
  t.notMatch(proxy.output(), new RegExp(UPSTREAM_KEY))
  t.equal((await request(undefined, `${proxy.adminUrl}/healthz`)).status, 200)
})

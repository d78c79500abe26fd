/** A1–A20: framing. Where does a request end, and who says so? Over raw sockets, in front of an upstream that keeps every byte. */
import t, { type Test } from 'tap'
import {
  deviations,
  get,
  getOnce,
  mustBeRefused,
  post,
  printable,
  siege,
  type Siege,
  TARGET,
} from '../support/siege.ts'
import { mutations } from './smuggling.ts'

const CHUNKED = 'Transfer-Encoding: chunked\r\n'
const good = get(`${TARGET}?prompt=second`)

/** Each row is refused, closed, and nobody upstream has heard of it. */
async function refuseAll(t: Test, { send, upstream, spent }: Siege, rows: readonly Row[]): Promise<void> {
  for (const [id, bytes, status = 400] of rows) {
    const heard = upstream.heard.length
    mustBeRefused(t, await send(bytes), status, printable(id))
    t.equal(upstream.heard.length, heard, `${printable(id)}: nobody was asked`)
  }
  t.same(await spent(), { credits: 0, kept: 0 }, 'nothing paid, nothing kept')
  t.same(upstream.strays, [])
}

type Row = readonly [id: string, bytes: string | Buffer, status?: number]

async function stillServes(t: Test, { send, upstream }: Siege): Promise<void> {
  const heard = upstream.heard.length
  const peer = await send(getOnce(`${TARGET}?prompt=clean-${heard}`))
  t.match(peer.text(), /^HTTP\/1\.1 200 /, 'the next clean request is answered')
  t.equal(upstream.heard.length, heard + 1)
  t.same(
    upstream.heard.flatMap((one) => deviations(one, upstream.host)),
    [],
    'and upstream got nothing that the proxy would not write',
  )
}

void t.test('A1–A5: a length and a coding, two codings, strange codings, empty ones', async (t) => {
  const at = await siege(t)
  await refuseAll(t, at, [
    ['A1 CL then TE', post(`Content-Length: 5\r\n${CHUNKED}`, '0\r\n\r\n')],
    ['A1 TE then CL', post(`${CHUNKED}Content-Length: 5\r\n`, '0\r\n\r\n')],
    ['A1 CL and TE in other cases', post('content-LENGTH: 5\r\ntransfer-ENCODING: CHUNKED\r\n', '0\r\n\r\n')],
    ['A1 a length of 0 and TE', post(`Content-Length: 0\r\n${CHUNKED}`, `0\r\n\r\n${good}`)],
    ['A2 two TE headers', post(CHUNKED + CHUNKED, '0\r\n\r\n')],
    ['A2 chunked, chunked', post('Transfer-Encoding: chunked, chunked\r\n', '0\r\n\r\n')],
    ['A2 chunked and identity', post(`${CHUNKED}Transfer-Encoding: identity\r\n`, '0\r\n\r\n')],
    ['A3 gzip, chunked', post('Transfer-Encoding: gzip, chunked\r\n', '0\r\n\r\n')],
    ['A3 chunked, gzip', post('Transfer-Encoding: chunked, gzip\r\n', '0\r\n\r\n')],
    ['A3 xchunked', post('Transfer-Encoding: xchunked\r\n', '0\r\n\r\n')],
    ['A3 chunked;a=b', post('Transfer-Encoding: chunked;a=b\r\n', '0\r\n\r\n')],
    ['A3 "chunked"', post('Transfer-Encoding: "chunked"\r\n', '0\r\n\r\n')],
    ['A3 identity', post('Transfer-Encoding: identity\r\n')],
    ['A4 TE with HTTP/1.0', `POST ${TARGET}/jobs HTTP/1.0\r\nHost: a\r\n${CHUNKED}\r\n0\r\n\r\n`],
    ['A4 TE with HTTP/1.0, GET', `GET ${TARGET}?prompt=x HTTP/1.0\r\nHost: a\r\n${CHUNKED}\r\n0\r\n\r\n`],
    ['A5 empty TE with CL', post('Transfer-Encoding:\r\nContent-Length: 5\r\n', 'hello')],
    ['A5 empty TE', post('Transfer-Encoding: \r\n')],
  ])
  await stillServes(t, at)
})

void t.test('A6: smuggled requests are never seen, however the framing headers are spelled', async (t) => {
  const at = await siege(t)
  const { send, upstream, spent } = at
  const all = [...mutations()]
  t.ok(all.length >= 1_768, `${all.length} mutations`)
  const wrong: string[] = []
  let next = 0
  async function worker(): Promise<void> {
    for (let one = all[next++]; one !== undefined; one = all[next++]) {
      const peer = await send(one.bytes)
      const isRefused = /^HTTP\/1\.1 (?:400|431) [^]*\r\nconnection: close\r\n/i.test(peer.text())
      if (!isRefused || peer.answers() !== 1 || peer.error() !== null) wrong.push(printable(one.name))
    }
  }
  await Promise.all(Array.from({ length: 16 }, worker))
  t.same(
    wrong.slice(0, 20),
    [],
    `A6: of ${all.length} mutations all were refused, each with one answer and a closed connection`,
  )
  t.equal(upstream.heard.length, 0, 'A6: not one request came through')
  t.same(await spent(), { credits: 0, kept: 0 })
  await stillServes(t, at)
})

void t.test('A7: Content-Length oddities', async (t) => {
  const at = await siege(t)
  const lengths = [
    '+5',
    '-0',
    '0x5',
    '5e0',
    '005',
    '00',
    '1'.repeat(31),
    '',
    '5, 5',
    '0, 0',
    '0 ',
    '5 5',
    '٥',
    '５',
    '0.0',
    '"0"',
    '0\t5',
  ]
  await refuseAll(t, at, [
    ['A7 twice the same', post('Content-Length: 5\r\nContent-Length: 5\r\n', 'hello')],
    ['A7 twice 0', post('Content-Length: 0\r\nContent-Length: 0\r\n')],
    ['A7 two that differ', post('Content-Length: 0\r\nContent-Length: 5\r\n', 'hello')],
    ['A7 an honest body', post('Content-Length: 5\r\n', 'hello')],
    // White space around a value is not part of it (RFC 9110 section 5.5): this one is a plain 0.
    ...lengths
      .filter((length) => length !== '0 ')
      .map((length): Row => [
        `A7 Content-Length oddities: ${printable(length)}`,
        post(`Content-Length: ${Buffer.from(length).toString('latin1')}\r\n`, 'hello'),
      ]),
  ])
  await stillServes(t, at)
})

void t.test('A8, A9: chunk sizes and trailers', async (t) => {
  const at = await siege(t)
  const chunk = (text: string): string => post(CHUNKED, text)
  await refuseAll(t, at, [
    ['A8 size 0x5', chunk('0x5\r\nhello\r\n0\r\n\r\n')],
    ['A8 size +5', chunk('+5\r\nhello\r\n0\r\n\r\n')],
    ['A8 17 digits', chunk(`${'f'.repeat(17)}\r\nhello\r\n0\r\n\r\n`)],
    ['A8 line feeds', chunk('5\nhello\n0\n\n')],
    ['A8 bare semicolon', chunk('5;\r\nhello\r\n0\r\n\r\n')],
    ['A8 extension of 64 KiB', chunk(`5;${'a'.repeat(65_536)}\r\nhello\r\n0\r\n\r\n`)],
    ['A8 line feed in an extension', chunk(`5;a\nhello\r\n0\r\n\r\n${good}`)],
    ['A8 negative size', chunk('-1\r\nhello\r\n0\r\n\r\n')],
    ['A8 empty size', chunk('\r\n0\r\n\r\n')],
    ['A8 a chunk longer than its size', chunk('1\r\nhello\r\n0\r\n\r\n')],
    ...[
      'X-API-Key: evil',
      'Host: evil',
      'Content-Length: 5',
      'Authorization: Bearer evil',
      'Transfer-Encoding: chunked',
    ].map((trailer): Row => [`A9 trailer ${trailer}`, chunk(`0\r\n${trailer}\r\n\r\n`)]),
  ])
  await stillServes(t, at)
})

void t.test('A10–A12: line ends, control bytes, versions and methods', async (t) => {
  const at = await siege(t)
  const controls = Array.from({ length: 32 }, (_, code) => code).filter((code) => code !== 9)
  await refuseAll(t, at, [
    ['A10 bare LF', `GET ${TARGET} HTTP/1.1\nHost: a\n\n`],
    ['A10 bare CR', `GET ${TARGET} HTTP/1.1\rHost: a\r\r`],
    ['A10 LF between headers', `GET ${TARGET} HTTP/1.1\r\nHost: a\nX: y\r\n\r\n`],
    ['A10 CR in a value', get(TARGET, 'A: b\rX-API-Key: c\r\n')],
    ['A10 folded header', get(TARGET, 'A: b\r\n c\r\n')],
    ['A10 folded by a tab', get(TARGET, 'A: b\r\n\tc\r\n')],
    ['A10 the first header folded', `GET ${TARGET} HTTP/1.1\r\n Host: a\r\n\r\n`],
    ['A10 space before the colon', get(TARGET, 'A : b\r\n')],
    ['A10 tab before the colon', get(TARGET, 'A\t: b\r\n')],
    ['A10 no colon', get(TARGET, 'A\r\n')],
    ['A10 no name', get(TARGET, ': b\r\n')],
    ...[...controls, 0x7f].map((code): Row => [
      `A10 control byte ${code} in a value`,
      get(TARGET, `A: b${String.fromCharCode(code)}c\r\n`),
    ]),
    ...[...controls, 0x7f, 0x80, 0xff].map((code): Row => [
      `A10 control byte ${code} in a name`,
      get(TARGET, `A${String.fromCharCode(code)}: c\r\n`),
    ]),
    ['A11 HTTP/0.9', `GET ${TARGET}\r\n\r\n`],
    ['A11 HTTP/0.9 with LF', `GET ${TARGET}\n\n`],
    ['A11 HTTP/0.9 with LF and a header', `GET ${TARGET}\nX-API-Key: a\n\n`],
    ['A11 HTTP/0.9 with headers and a body', `GET ${TARGET}\nHost: a\nContent-Length: 5\n\nhello`],
    ['A11 HTTP/0.9 spelled out', `GET ${TARGET} HTTP/0.9\r\nHost: a\r\n\r\n`],
    ['A12 HTTP/2 preface', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ...['1.2', '9.9', '2.0', '1.', '1.10', '01.1', '1,1'].map((version): Row => [
      `A12 HTTP/${version}`,
      `GET ${TARGET} HTTP/${version}\r\nHost: a\r\n\r\n`,
    ]),
    ['A12 http/1.1', `GET ${TARGET} http/1.1\r\nHost: a\r\n\r\n`],
    ['A12 method in lower case', `get ${TARGET} HTTP/1.1\r\nHost: a\r\n\r\n`],
    ['A12 RTSP', `DESCRIBE ${TARGET} RTSP/1.0\r\nHost: a\r\n\r\n`, 405],
    ['A12 GET of ICE', `GET ${TARGET} ICE/1.0\r\nHost: a\r\n\r\n`],
    ['A12 a TLS hello on a plain port', Buffer.from([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3])],
  ])
  // Node's parser takes this for HTTP/1.0 and does not say so; the answer is that of HTTP/1.0, and the connection ends.
  const rtsp = await at.send(`GET ${TARGET}?prompt=rtsp RTSP/1.0\r\nHost: a\r\n\r\n${good}`)
  t.same([rtsp.statuses(), at.upstream.heard.length], [[200], 1], 'A12 GET of RTSP/1.0: one canonical request')
  await stillServes(t, at)
})

void t.test('A13, A14: too many headers, too long ones', async (t) => {
  const at = await siege(t)
  await refuseAll(t, at, [
    [
      'A13 2 100 empty headers, then a length (CVE-2026-58044)',
      post(`${'a:\r\n'.repeat(2_100)}Content-Length: ${good.length}\r\n`, good),
      431,
    ],
    ['A13 101 headers', get(TARGET, 'a:\r\n'.repeat(100)), 431],
    ['A14 headers of 100 kB', get(TARGET, `A: ${'a'.repeat(100_000)}\r\n`), 431],
    ['A14 a name of 100 kB', get(TARGET, `${'a'.repeat(100_000)}: a\r\n`), 431],
    ['A14 a target of 65 537', get(`/${'a'.repeat(65_536)}`), 414],
    ['A14 a target of 2 MB', get(`/${'a'.repeat(2_000_000)}`), 414],
  ])
  const { upstream, send } = at
  const prompt = 'a'.repeat(65_000)
  t.match((await send(getOnce(`${TARGET}?prompt=${prompt}`))).text(), /^HTTP\/1\.1 200 /, 'A14 just short enough')
  t.same(
    upstream.heard.flatMap((one) => deviations(one, upstream.host)),
    [],
  )
  await stillServes(t, at)
})

void t.test('A15, A16: bodies announced, bodies where none belongs', async (t) => {
  const at = await siege(t)
  const fat = (method: string, target: string, headers: string): string =>
    `${method} ${target} HTTP/1.1\r\nHost: a\r\n${headers}\r\n${good}`
  await refuseAll(t, at, [
    ['A15 a body announced and never sent', post('Expect: 100-continue\r\nContent-Length: 5\r\n')],
    ['A15 a chunked body announced', post(`Expect: 100-continue\r\n${CHUNKED}`)],
    ['A15 Expect: x', get(TARGET, 'Expect: x\r\n'), 417],
    ...['GET', 'DELETE', 'OPTIONS', 'PUT'].flatMap((method): Row[] => [
      [`A16 ${method} with a length`, fat(method, `${TARGET}?prompt=x`, `Content-Length: ${good.length}\r\n`)],
      [`A16 ${method} with chunks`, fat(method, `${TARGET}?prompt=x`, CHUNKED)],
    ]),
  ])
  const { send, upstream } = at
  const head = await send(fat('HEAD', TARGET, `Content-Length: ${good.length}\r\n`))
  t.match(head.text(), /^HTTP\/1\.1 400 [^{]*$/, 'A16 HEAD with a length: headers only')
  t.equal(upstream.heard.length, 0)
  const expecting = await send(getOnce(`${TARGET}?prompt=x`, 'Expect: 100-continue\r\nContent-Length: 0\r\n'))
  t.same(expecting.statuses(), [200], 'A15 an expectation without a body is answered')
  t.notOk(
    upstream.heard.some(({ raw }) => /expect/i.test(raw)),
    'A15 and never forwarded',
  )
  await stillServes(t, at)
})

void t.test('A16: parameters in a body are told where they go, and an empty body does no harm', async (t) => {
  const { send, upstream, spent } = await siege(t)
  const json = 'Content-Type: application/json\r\n'
  const lengthOf = (body: string): string => `Content-Length: ${Buffer.byteLength(body)}\r\n`
  const chunksOf = (body: string): string => `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`
  const call = /Parameters go into the query string.*curl -G -X POST 'http:\/\/PROXY\/scrapers\/chatgpt\/jobs' /
  const rows: readonly (readonly [id: string, bytes: string, says: RegExp])[] = [
    ...['{"prompt":"secret","country":"US"}', 'prompt=secret&country=US'].flatMap((body) => [
      [body, post(lengthOf(body), body), /'prompt=\.{3}' --data-urlencode 'country=\.{3}'/] as const,
      [`${body} in chunks`, post(CHUNKED, chunksOf(body)), /'prompt=\.{3}' --data-urlencode 'country=\.{3}'/] as const,
    ]),
    ['a list', post(`${json}Content-Length: 2\r\n`, '[]'), call],
    ['no JSON at all', post(`${json}Content-Length: 2\r\n`, '{"'), call],
    ['names of nobody', post(lengthOf('{"<script>":1,"A B":2}'), '{"<script>":1,"A B":2}'), /'prompt=\.{3}' \(Python/],
    ['too long to look at', post(lengthOf('x'.repeat(70_000)), 'x'.repeat(70_000)), call],
    [
      'a question',
      fatPost(TARGET, '{"prompt":"secret"}'),
      /curl -G 'http:\/\/PROXY\/scrapers\/chatgpt' --data-urlencode/,
    ],
    [
      'a GET',
      `GET ${TARGET} HTTP/1.1\r\nHost: a\r\nContent-Length: 19\r\n\r\n{"prompt":"secret"}`,
      /a GET takes no body/,
    ],
  ]
  for (const [id, bytes, says] of rows) {
    const peer = await send(bytes)
    mustBeRefused(t, peer, 400, id)
    t.match(JSON.parse(peer.text().split('\r\n\r\n')[1] ?? ''), { code: 'REQUEST_INVALID', detail: says }, id)
    t.notMatch(peer.text(), /secret|script/, 'a value is not repeated')
  }
  t.equal(upstream.heard.length, 0)

  const empty: readonly (readonly [id: string, headers: string, body: string])[] = [
    ['{}', `${json}Content-Length: 2\r\n`, '{}'],
    ['spaces', 'Content-Length: 9\r\n', ' { \r\n }  '],
    ['null', 'Content-Length: 4\r\n', 'null'],
    ['no chunk', CHUNKED, '0\r\n\r\n'],
    ['{} in a chunk', CHUNKED, chunksOf('{}')],
  ]
  for (const [index, [id, headers, body]] of empty.entries()) {
    const request = `POST ${TARGET}/jobs?prompt=${index} HTTP/1.1\r\nHost: a\r\n${headers}\r\n${body}`
    const peer = await send(request + good)
    t.same(peer.statuses(), [202], `${id}: submitted, and nothing behind it is executed`)
    t.equal(upstream.heard.length, index + 1)
    t.same(
      upstream.heard.slice(-1).flatMap((one) => deviations(one, upstream.host)),
      [],
      id,
    )
  }
  t.equal((await spent()).credits, 3 * empty.length)
})

function fatPost(target: string, body: string): string {
  return `POST ${target} HTTP/1.1\r\nHost: a\r\nContent-Length: ${body.length}\r\n\r\n${body}`
}

void t.test('A15: a body that does not come, or breaks off, is not waited for', async (t) => {
  const { proxy, open, upstream } = await siege(t)
  const silent = await open()
  silent.socket.write(post('Content-Length: 5\r\n', 'hel'))
  while (!(await isOpen(proxy))) await new Promise(setImmediate)
  proxy.clock.skip(10_000)
  await silent.closed
  mustBeRefused(t, silent, 408, 'silent')
  const broken = await open()
  broken.socket.write(post(CHUNKED, '5\r\nhel'))
  broken.socket.destroy()
  while (await isOpen(proxy)) await new Promise(setImmediate)
  t.equal(upstream.heard.length, 0)
})

async function isOpen(proxy: Siege['proxy']): Promise<boolean> {
  const { json } = await proxy.admin('/status')
  return Number(json['open_requests']) > 0
}

void t.test('A17: garbage behind a good request in one packet is garbage, not a method', async (t) => {
  const { send } = await siege(t)
  const behind = async (text: string): Promise<string> => {
    const peer = await send(`GET /x HTTP/1.1\r\nHost: a\r\n\r\n${text}`)
    t.same(peer.statuses()[0], 404)
    return peer.statuses().slice(1).join()
  }
  t.equal(await behind('GARBAGE\r\n\r\n'), '400')
  t.equal(await behind('{"prompt":"x"}'), '400')
  t.equal(await behind('BREW /x HTTP/1.1\r\nHost: a\r\n\r\n'), '405')
  t.equal(await behind('GET /x?a=b c HTTP/1.1\r\nHost: a\r\n\r\n'), '400')
})

void t.test('A17: what follows a bad request in the same packet is never executed', async (t) => {
  const at = await siege(t)
  const bad: readonly string[] = [
    get('//evil'),
    get(`${TARGET}#`),
    'GET /x HTTP/1.2\r\n\r\n',
    post('Content-Length: 5\r\n'),
    post(CHUNKED, '5\r\nhello\r\n0\r\n\r\n'),
    get(TARGET, 'A : b\r\n'),
    `GET ${TARGET} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n`,
  ]
  await refuseAll(
    t,
    at,
    bad.map((one): Row => [`A17 ${one}, then a good one`, one + good]),
  )
  const { send, upstream } = at
  const peer = await send(get(`${TARGET}?prompt=first`) + get('//evil') + good)
  t.same(peer.statuses(), [200, 400], 'A17 good, bad, good: the first is answered, the third never seen')
  t.same(
    upstream.heard.map(({ target }) => target),
    [`${TARGET}?prompt=first`],
  )
  await stillServes(t, at)
})

void t.test('A19, A20: methods and upgrades', async (t) => {
  const at = await siege(t)
  const { send, upstream } = at
  for (const method of ['TRACE', 'PROPFIND', 'OPTIONS', 'DELETE', 'PUT', 'PATCH', 'LINK', 'M-SEARCH', 'QUERY']) {
    const peer = await send(`${method} ${TARGET}?prompt=x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`)
    t.match(peer.text(), /^HTTP\/1\.1 405 [^]*\r\nallow: GET, HEAD\r\n/i, `A19 ${method}`)
  }
  for (const [id, bytes] of [
    ['A19 CONNECT', 'CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n'],
    ['A19 CONNECT and a request in the tunnel', `CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n${good}`],
    ['A19 an unknown method', `FETCH ${TARGET} HTTP/1.1\r\nHost: a\r\n\r\n`],
  ] as const)
    mustBeRefused(t, await send(bytes), 405, id)
  t.equal(upstream.heard.length, 0)

  for (const [id, headers] of [
    ['A20 h2c', 'Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings, close\r\n'],
    [
      'A20 websocket',
      'Upgrade: websocket\r\nSec-WebSocket-Key: AAAA\r\nSec-WebSocket-Version: 13\r\nConnection: Upgrade, close\r\n',
    ],
  ] as const) {
    const heard = upstream.heard.length
    const peer = await send(get(`${TARGET}?prompt=${heard}`, headers) + good)
    t.match(peer.text(), /^HTTP\/1\.1 200 /, `${id}: an ordinary answer`)
    t.notMatch(peer.text(), /^(?:upgrade|HTTP\/1\.1 101)/im, id)
    t.equal(
      upstream.heard[heard]?.headers.find(([name]) => name === 'upgrade'),
      undefined,
      `${id}: not forwarded`,
    )
  }
  await stillServes(t, at)
})

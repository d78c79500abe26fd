/** The exchange with upstream, over real sockets: every way it can end, and whether bytes may have left. */
import { execFileSync } from 'node:child_process'
import http from 'node:http'
import net, { type AddressInfo, type Server, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import type { UpstreamRequest, WireResult } from '../../src/model.ts'
import type { Clock } from '../../src/ports.ts'
import { createTransport } from '../../src/world/transport.ts'

const REQUEST: UpstreamRequest = {
  method: 'GET',
  target: '/scrapers/chatgpt?prompt=a%20b',
  headers: { 'x-api-key': 'k' },
  limitMs: 60_000,
}

/** Timers that go off when the test says so. */
function handClock(): Clock & { expire(atMostMs?: number): void } {
  const jobs = new Map<() => void, number>()
  return {
    now: () => 0,
    wall: () => 0,
    after: (ms, job) => {
      jobs.set(job, ms)
      return { cancel: () => jobs.delete(job) }
    },
    expire: (atMostMs = Number.POSITIVE_INFINITY) => jobs.forEach((ms, job) => ms <= atMostMs && job()),
  }
}

async function listening(t: Test, server: Server): Promise<string> {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => sockets.add(socket))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

function transportTo(t: Test, url: string, clock: Clock = handClock(), maxResponseBytes = 1024) {
  const transport = createTransport(
    { url, connectTimeoutMs: 5_000, connectionMaxAgeMs: 30_000, maxResponseBytes },
    clock,
  )
  t.teardown(() => transport.close())
  return transport
}

/** A server that writes these bytes to whatever it is asked, then ends or resets. */
function raw(answer: string, then: 'end' | 'reset' | 'stay'): Server {
  return net.createServer((socket) => {
    socket.on('error', () => undefined)
    socket.once('data', () => {
      if (answer !== '') socket.write(answer)
      if (then === 'end') socket.end()
      if (then === 'reset') setImmediate(() => socket.resetAndDestroy())
    })
  })
}

function broken(result: WireResult): { sent: boolean; reason: string } {
  if (result.kind === 'reply') throw new Error('expected a broken exchange')
  return { sent: result.sent, reason: result.reason }
}

void t.test('a complete answer comes back whole, and the request was sent byte for byte as built', async (t) => {
  const seen: { url: string | undefined; headers: http.IncomingHttpHeaders }[] = []
  const url = await listening(
    t,
    http.createServer((request, response) => {
      seen.push({ url: request.url, headers: request.headers })
      response.writeHead(429, { 'content-type': 'application/json', 'retry-after': '3', 'set-cookie': 'a=b' })
      response.write('{"detail":')
      response.end('"x"}')
    }),
  )
  const result = await transportTo(t, url).forward(REQUEST)
  t.match(result, {
    kind: 'reply',
    reply: { status: 429, contentType: 'application/json', retryAfter: '3', location: null },
  })
  t.equal(result.kind === 'reply' && result.reply.body.toString(), '{"detail":"x"}')
  t.equal(seen[0]?.url, REQUEST.target)
  t.same(Object.keys(seen[0]?.headers ?? {}).toSorted(), ['connection', 'host', 'x-api-key'])
  t.equal(`http://${seen[0]?.headers.host}`, url)
})

void t.test('connections are kept and used again', async (t) => {
  const ports = new Set<number | undefined>()
  const url = await listening(
    t,
    http.createServer((request, response) => {
      ports.add(request.socket.remotePort)
      response.end('{}')
    }),
  )
  const transport = transportTo(t, url)
  for (let call = 0; call < 5; call++) t.equal((await transport.forward(REQUEST)).kind, 'reply')
  t.equal(ports.size, 1)
})

void t.test('a POST is framed by us: no body, Content-Length 0', async (t) => {
  const lengths: (string | undefined)[] = []
  const url = await listening(
    t,
    http.createServer((request, response) => {
      lengths.push(request.headers['content-length'])
      response.writeHead(202).end('{}')
    }),
  )
  await transportTo(t, url).forward({ ...REQUEST, method: 'POST' })
  t.same(lengths, ['0'])
})

void t.test('nothing was sent when nobody listens', async (t) => {
  const server = net.createServer()
  const url = await listening(t, server)
  await new Promise((resolve) => server.close(resolve))
  t.same(broken(await transportTo(t, url).forward(REQUEST)), { sent: false, reason: 'refused' })
})

void t.test('nothing was sent when the name does not resolve', async (t) => {
  t.same(broken(await transportTo(t, 'http://does-not-exist.invalid').forward(REQUEST)), {
    sent: false,
    reason: 'name-not-found',
  })
})

void t.test('nothing was sent when the other side does not speak TLS', async (t) => {
  const url = await listening(t, raw('HTTP/1.1 400 Bad Request\r\n\r\n', 'end'))
  const result = broken(await transportTo(t, url.replace('http:', 'https:')).forward(REQUEST))
  t.equal(result.sent, false)
})

void t.test('a header that cannot be written is refused before anything leaves', async (t) => {
  let connections = 0
  const url = await listening(
    t,
    net.createServer(() => connections++),
  )
  const result = await transportTo(t, url).forward({ ...REQUEST, headers: { 'x-api-key': 'a\nb' } })
  t.same(broken(result), { sent: false, reason: 'local' })
  t.equal(connections, 0)
})

for (const [name, server, reason] of [
  ['a reset after the request may have been charged', raw('', 'reset'), 'reset'],
  ['an end without an answer may have been charged', raw('', 'end'), 'reset'],
  [
    'an answer cut off by length is truncated',
    raw('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"a"', 'end'),
    'truncated',
  ],
  [
    'a cut chunked answer is truncated',
    raw('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n', 'end'),
    'truncated',
  ],
  [
    'a declared length over the limit is refused',
    raw('HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n', 'stay'),
    'too-big',
  ],
  ['a body over the limit is refused', raw(`HTTP/1.1 200 OK\r\n\r\n${'x'.repeat(2048)}`, 'stay'), 'too-big'],
  ['a malformed answer is a broken exchange', raw('SMTP ready\r\n\r\n', 'end'), 'malformed'],
  [
    'two framings at once are a broken exchange',
    raw('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}', 'end'),
    'malformed',
  ],
] as const) {
  void t.test(name, async (t) => {
    const url = await listening(t, server)
    t.same(broken(await transportTo(t, url).forward(REQUEST)), { sent: true, reason })
  })
}

void t.test('an answer that nobody asked for ends the idle connection: the next one asks on another', async (t) => {
  const body = 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n'
  let connections = 0
  const gone: Promise<void>[] = []
  const url = await listening(
    t,
    net.createServer((socket) => {
      connections++
      gone.push(new Promise((resolve) => socket.once('close', () => resolve())))
      socket.on('error', () => undefined)
      // The second one is said when the first has long been taken.
      socket.on('data', () => socket.write(`${body}1`, () => setTimeout(() => socket.write(`${body}2`), 20)))
    }),
  )
  const transport = transportTo(t, url)
  for (let turn = 1; turn <= 3; turn++) {
    const result = await transport.forward(REQUEST)
    t.equal(result.kind === 'reply' && result.reply.body.toString(), '1')
    await gone[turn - 1]
  }
  t.equal(connections, 3)
})

void t.test('a protocol that nobody asked for is no answer, and told at once', async (t) => {
  const url = await listening(
    t,
    raw('HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n', 'stay'),
  )
  t.same(broken(await transportTo(t, url).forward(REQUEST)), { sent: true, reason: 'malformed' })
})

void t.test('a TLS handshake that hangs ends with the time for a connection, and nothing was sent', async (t) => {
  const clock = handClock()
  const arrival = Promise.withResolvers<void>()
  const url = await listening(
    t,
    net.createServer((socket) => socket.on('error', () => undefined).once('data', () => arrival.resolve())),
  )
  const result = transportTo(t, url.replace('http:', 'https:'), clock).forward(REQUEST)
  await arrival.promise
  clock.expire(5_000)
  t.same(broken(await result), { sent: false, reason: 'connect-timeout' })
})

void t.test('the attempt ends at its limit, and the connection with it', async (t) => {
  const clock = handClock()
  let arrived = () => undefined as void
  let left = () => undefined as void
  const arrival = new Promise<void>((resolve) => (arrived = resolve))
  const departure = new Promise<void>((resolve) => (left = resolve))
  const url = await listening(
    t,
    http.createServer((request) => {
      request.socket.on('close', left)
      arrived()
    }),
  )
  const result = transportTo(t, url, clock).forward(REQUEST)
  await arrival
  clock.expire()
  t.same(broken(await result), { sent: true, reason: 'timeout' })
  await departure
})

void t.test('closing breaks what is under way as aborted', async (t) => {
  let arrived = () => undefined as void
  const arrival = new Promise<void>((resolve) => (arrived = resolve))
  const url = await listening(
    t,
    http.createServer(() => arrived()),
  )
  const transport = transportTo(t, url)
  const result = transport.forward(REQUEST)
  await arrival
  transport.close()
  t.same(broken(await result), { sent: true, reason: 'aborted' })
})

void t.test('a trailer or a 1xx in the answer does no harm', async (t) => {
  const url = await listening(
    t,
    raw(
      'HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n2\r\n{}\r\n0\r\nx: y\r\n\r\n',
      'end',
    ),
  )
  const result = await transportTo(t, url).forward(REQUEST)
  t.match(result, { kind: 'reply', reply: { status: 200 } })
})

void t.test('a kept connection that breaks right after the next request may have been closed before it', async (t) => {
  let asked = 0
  const server = net.createServer((socket) => {
    socket.on('error', () => undefined)
    socket.on('data', () => {
      asked += 1
      if (asked === 1) socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}')
      else socket.resetAndDestroy()
    })
  })
  const transport = transportTo(t, await listening(t, server))
  t.equal((await transport.forward(REQUEST)).kind, 'reply')
  t.same(broken(await transport.forward(REQUEST)), { sent: true, reason: 'idle-closed' })
  t.same(broken(await transport.forward(REQUEST)), { sent: true, reason: 'reset' }, 'a new one was not idle')
  t.equal(asked, 3, 'what may have been taken is not repeated here')
})

void t.test('no open files left: trouble of this process, and nothing was sent', async (t) => {
  const folder = new URL('../../src/world/', import.meta.url)
  const script = `
    import { openSync } from 'node:fs'
    import { createTransport } from '${new URL('transport.ts', folder).href}'
    import { createClock } from '${new URL('clock.ts', folder).href}'
    const transport = createTransport({ url: 'http://127.0.0.1:1', connectTimeoutMs: 5000, connectionMaxAgeMs: 30000, maxResponseBytes: 1024 }, createClock())
    try { for (;;) openSync('/dev/null') } catch {}
    const { kind, sent, reason, code } = await transport.forward({ method: 'GET', target: '/', headers: {}, limitMs: 5000 })
    console.log(JSON.stringify({ kind, sent, reason, code }))
    process.exit()
  `
  const command = ['ulimit -n 64; exec "$@"', 'sh', process.execPath, '--input-type=module', '--eval', script]
  const said = execFileSync('/bin/sh', ['-c', ...command], { encoding: 'utf8', env: { PATH: process.env['PATH'] } })
  t.same(JSON.parse(said), { kind: 'broken', sent: false, reason: 'local', code: 'EMFILE' })
})

void t.test('a connection that is too old is not used again', async (t) => {
  const ports = new Set<number | undefined>()
  const url = await listening(
    t,
    http.createServer((request, response) => {
      ports.add(request.socket.remotePort)
      response.end('{}')
    }),
  )
  let now = 0
  const transport = transportTo(t, url, { ...handClock(), now: () => now })
  await transport.forward(REQUEST)
  now = 29_999
  await transport.forward(REQUEST)
  t.equal(ports.size, 1)
  now = 30_000
  await transport.forward(REQUEST)
  t.equal(ports.size, 2)
})

void t.test('headers of 64 KiB are taken', async (t) => {
  const url = await listening(
    t,
    raw(`HTTP/1.1 200 OK\r\nX: ${'a'.repeat(65_536)}\r\nContent-Length: 2\r\n\r\n{}`, 'stay'),
  )
  t.equal((await transportTo(t, url).forward(REQUEST)).kind, 'reply')
})

void t.test('interim 100s that nobody asked for are discarded, in whatever pieces they come', async (t) => {
  const bytes = `${'HTTP/1.1 100 Continue\r\nX: y\r\n\r\n'.repeat(2)}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}`
  for (const size of [1, 7, bytes.length]) {
    const server = net.createServer({ noDelay: true }, (socket) => {
      socket.on('error', () => undefined)
      socket.once('data', () => {
        const write = (at: number): void => {
          if (at < bytes.length) socket.write(bytes.slice(at, at + size), () => setImmediate(write, at + size))
        }
        write(0)
      })
    })
    t.match(await transportTo(t, await listening(t, server)).forward(REQUEST), {
      kind: 'reply',
      reply: { status: 200 },
    })
  }
})

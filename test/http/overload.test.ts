/**
 * The whole proxy when it is too much: what is shed and what still comes, attacks A18, A58, A65 and A66 over real sockets, and
 * more connections than there may be. Nothing is timed: floods are bounded in number, and what is left of them is counted.
 */
import { connect, type Socket } from 'node:net'
import t from 'tap'
import type { ProxyError } from '../../src/errors.ts'
import { createResponder } from '../../src/http/respond.ts'
import { createServer } from '../../src/http/server.ts'
import type { Outcome, Reply } from '../../src/model.ts'
import type { Pressure } from '../../src/ports.ts'
import { aProxy } from '../support/proxy.ts'
import { fakeWorld } from '../support/world.ts'

const plainReply: Reply = {
  status: 200,
  contentType: 'application/json',
  retryAfter: null,
  location: null,
  body: Buffer.from('{}'),
}

const calm: Pressure = { eventLoopDelayMs: 0, eventLoopBusy: 0, memory: 0.1 }

void t.test(
  'short of memory, cached answers are still served and nothing new is asked; then nothing comes at all',
  async (t) => {
    let pressure = calm
    const proxy = await aProxy(t, '', { pressure: () => pressure })
    const looks = (count: number): void => {
      for (let i = 0; i < count; i += 1) proxy.clock.skip(500)
    }
    const states = async () => ({
      metric: (await proxy.metric('overload_state'))[''],
      status: (await proxy.admin('/status')).json['overload'],
      health: (await proxy.admin('/healthz')).status,
      ready: (await proxy.admin('/readyz')).status,
    })
    t.equal((await proxy.ask('known')).status, 200)
    t.match(await states(), { metric: 0, status: 'calm', health: 200, ready: 200 })

    pressure = { ...calm, memory: 0.9 }
    looks(4)
    t.match((await proxy.ask('known')).headers['cache-status'], /hit/)
    const refused = await proxy.ask('new')
    t.match(refused, { status: 503, headers: { 'x-proxy-code': 'OVERLOADED', 'retry-after': /^[1-5]$/ } })
    t.match(refused.json, { code: 'OVERLOADED', reason: 'memory', detail: /cached answers/ })
    t.equal((await proxy.metric('overloaded_total'))['reason="memory"'], 1)
    t.equal((await proxy.ask('/scrapers/chatgpt/jobs?prompt=new', { method: 'POST' })).status, 503)
    t.match(await states(), { metric: 1, status: 'shedding', health: 200, ready: 200 })
    t.match((await proxy.admin('/status')).json, {
      health: { state: 'degraded', because: ['overloaded: memory is nearly full, and cache misses are refused'] },
    })

    pressure = { ...calm, memory: 0.97 }
    looks(4)
    const all = await proxy.ask('known')
    t.match(all, { status: 503, headers: { 'x-proxy-code': 'OVERLOADED', connection: 'close' } })
    t.match(await states(), { metric: 2, status: 'critical', health: 200, ready: 200 })

    pressure = calm
    looks(20)
    t.equal((await proxy.ask('new')).status, 200)
    t.match(await states(), { metric: 0, status: 'calm' })
    t.match((await proxy.admin('/status')).json, { health: { state: 'ok' } })
    t.equal(proxy.sim.requests.length, 2, 'nothing was asked meanwhile')
    t.match(
      proxy.lines().filter(({ msg }) => String(msg).startsWith('overload')),
      [
        { level: 'warn', msg: 'overload: misses are refused', because: 'memory', memory: 0.9 },
        { level: 'error', msg: 'overload: all new requests are refused', because: 'memory', memory: 0.97 },
        { level: 'warn', msg: 'overload: misses are refused', because: 'memory', memory: 0.1 },
        { level: 'info', msg: 'overload is over', because: null },
      ],
    )
  },
)

void t.test('an expired answer that may be given instead of an error is given instead of OVERLOADED', async (t) => {
  let pressure = calm
  const proxy = await aProxy(t, 'cache: { ttl: 1h, staleIfError: 12h }', { pressure: () => pressure })
  await proxy.ask('known')
  proxy.clock.skip(2 * 3_600_000)
  pressure = { ...calm, eventLoopDelayMs: 300, eventLoopBusy: 1 }
  for (let i = 0; i < 4; i += 1) proxy.clock.skip(500)
  t.match((await proxy.ask('known')).headers['cache-status'], /stale-if-error/)
  t.equal((await proxy.ask('new')).status, 503)
})

interface Peer {
  readonly socket: Socket
  readonly text: () => string
  readonly closed: Promise<void>
  /** Resolves when so many answers have come. */
  answers(count: number): Promise<void>
}

/** A connection that is spoken over in bytes. */
async function open(url: string): Promise<Peer> {
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  const chunks: Buffer[] = []
  let heads = 0
  let tail = ''
  const waiting = new Set<() => void>()
  socket.on('data', (chunk) => {
    chunks.push(chunk)
    tail += chunk.toString('latin1')
    heads += tail.match(/HTTP\/1\.1 \d/g)?.length ?? 0
    // Part of the next status line at most, and never all of one.
    tail = tail.slice(-9)
    for (const look of waiting) look()
  })
  socket.on('error', () => undefined)
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
  await new Promise((resolve) => socket.once('connect', resolve))
  return {
    socket,
    closed,
    text: () => Buffer.concat(chunks).toString('latin1'),
    answers(count) {
      return new Promise((resolve) => {
        const look = (): void => {
          if (heads < count) return
          waiting.delete(look)
          resolve()
        }
        waiting.add(look)
        look()
      })
    },
  }
}

function question(prompt: string, headers = ''): string {
  return `GET /scrapers/chatgpt?prompt=${prompt} HTTP/1.1\r\nHost: a\r\n${headers}\r\n`
}

void t.test(
  'a connection beyond those there may be is told so and closed; silent ones are closed after a while',
  async (t) => {
    const proxy = await aProxy(t, 'listen: { maxConnections: 3 }')
    const inside = await Promise.all([open(proxy.url), open(proxy.url), open(proxy.url)])
    for (const peer of inside) {
      peer.socket.write(question('q'))
      await peer.answers(1)
    }
    const [asking, silent] = [await open(proxy.url), await open(proxy.url)]
    asking.socket.write(question('q'))
    await asking.closed
    t.match(
      asking.text(),
      /^HTTP\/1\.1 503 [^]*X-Proxy-Code: OVERLOADED[^]*Retry-After: [1-5]\r\n[^]*"code":"OVERLOADED"/,
    )
    t.match(asking.text(), /Connection: close/)
    proxy.clock.skip(2_000)
    await silent.closed
    t.equal(silent.text(), '')

    inside[0]?.socket.destroy()
    await inside[0]?.closed
    for (const peer of inside.slice(1)) {
      peer.socket.write(question('q'))
      await peer.answers(2)
    }
    t.match((await proxy.metric('refusals_total'))['client="unknown",code="OVERLOADED"'], 1)
  },
)

void t.test('who sends far more requests ahead than are answered is cut off', async (t) => {
  const proxy = await aProxy(t)
  proxy.sim.script({ prompt: 'held' }, ['hold'])
  const peer = await open(proxy.url)
  peer.socket.write(question('held').repeat(150))
  await proxy.sim.received(1)
  // The refusal is counted at once, and answered in its turn.
  while (((await proxy.metric('refusals_total'))['client="unknown",code="OVERLOADED"'] ?? 0) === 0);
  proxy.sim.release()
  await peer.closed
  t.equal(peer.text().match(/HTTP\/1\.1 200/g)?.length, 100)
  t.equal(peer.text().match(/HTTP\/1\.1 503/g)?.length, 1)
  t.equal(proxy.sim.requests.length, 1)
})

void t.test('A18: hundreds who say nothing, or never finish, are closed; who asks meanwhile is answered', async (t) => {
  const world = fakeWorld()
  const refusals: ProxyError[] = []
  const respond = createResponder({ markReplays: true, replay: (body) => body })
  const answer: Outcome = { kind: 'job', idempotentReplay: false, reply: plainReply }
  const server = createServer(
    { host: '127.0.0.1', port: 0, timeouts: { headersMs: 300, requestMs: 300, checkMs: 50 } },
    { ...world, generations: { current: { handle: () => answer, respond } }, refused: (error) => refusals.push(error) },
  )
  await server.listen()
  const url = `http://127.0.0.1:${server.port}`
  const silent = await Promise.all(Array.from({ length: 200 }, () => open(url)))
  const slow = await Promise.all(Array.from({ length: 200 }, () => open(url)))
  for (const { socket } of slow) socket.write('GET /x HTTP/1.1\r\nHost:')
  const announced = await open(url)
  announced.socket.write('POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n')
  const asking = await open(url)
  asking.socket.write('GET /x HTTP/1.1\r\nHost: a\r\n\r\n')
  await asking.answers(1)
  t.match(asking.text(), /^HTTP\/1\.1 200/)

  await Promise.all([...silent, ...slow, announced].map(({ closed }) => closed))
  t.ok(slow.every((peer) => /^HTTP\/1\.1 408 [^]*application\/problem\+json/.test(peer.text())))
  t.ok(silent.every((peer) => peer.text().startsWith('HTTP/1.1 408 ')))
  t.match(announced.text(), /^HTTP\/1\.1 408 /, 'nor is a body that does not come')
  t.equal(refusals.length, 401)
  asking.socket.destroy()
  t.equal(await server.drain({ readinessDelayMs: 0, graceMs: 60_000 }), 'clean')
  // Sockets tell of their end a turn later.
  while (world.clock.timers > 0) await new Promise(setImmediate)
})

void t.test(
  'A58: ten thousand wrong tokens cost no call, no series, no trail of others, and get one answer',
  async (t) => {
    const clients = 'clients: { team: { token: the-token-of-the-team } }'
    const proxy = await aProxy(t, clients)
    const right = { headers: { 'X-API-Key': 'the-token-of-the-team', 'X-Request-Id': 'the-one' } }
    proxy.sim.script({ prompt: 'fails' }, ['400'])
    await proxy.ask('fails', right)
    const series = async () => (await proxy.admin('/metrics')).text.match(/^scrapellm_proxy_/gm)?.length
    const stranger = await open(proxy.url)
    stranger.socket.write(question('q', 'X-API-Key: wrong\r\n'))
    await stranger.answers(1)
    const before = await series()

    const peers = await Promise.all(Array.from({ length: 20 }, () => open(proxy.url)))
    const bodies = new Set<string>()
    for (let round = 0; round < 10; round += 1) {
      await Promise.all(
        peers.map(async (peer, number) => {
          const burst = Array.from({ length: 50 }, (_, n) =>
            question('q', `X-API-Key: wrong-${round}-${number}-${n}\r\n`),
          )
          peer.socket.write(burst.join(''))
          await peer.answers((round + 1) * 50)
        }),
      )
    }
    for (const peer of peers) {
      t.equal(peer.text().match(/HTTP\/1\.1 401/g)?.length, 500)
      for (const [body] of peer.text().matchAll(/\{"type".*?\}/g)) bodies.add(body.replace(/"request_id":"[^"]*"/, ''))
    }
    t.equal(bodies.size, 1)
    t.equal(await series(), before, 'not one series more')
    t.equal(proxy.sim.requests.length, 1)
    t.equal((await proxy.admin('/requests/the-one')).status, 200, 'what somebody may ask about is still remembered')
    t.equal((await proxy.ask('q', right)).status, 200)
  },
)

void t.test(
  'A65: ten thousand wait for one flight, more are refused, and one who does not read holds up nobody',
  async (t) => {
    const proxy = await aProxy(t)
    proxy.sim.script({ prompt: 'popular' }, ['hold'])
    const first = await open(proxy.url)
    first.socket.write(question('popular'))
    await proxy.sim.received(1)
    const slow = await open(proxy.url)
    slow.socket.pause()
    slow.socket.write(question('popular').repeat(99))
    const peers = await Promise.all(Array.from({ length: 100 }, () => open(proxy.url)))
    for (const peer of peers) peer.socket.write(question('popular').repeat(100))
    const refused = async () => (await proxy.metric('refusals_total'))['client="anonymous",code="OVERLOADED"'] ?? 0
    while ((await refused()) < 100);
    t.equal(await refused(), 100)

    proxy.sim.release()
    await Promise.all([first.answers(1), ...peers.map((peer) => peer.answers(100))])
    const texts = peers.map((peer) => peer.text()).join('')
    t.equal(texts.match(/HTTP\/1\.1 200/g)?.length, 9_900)
    t.equal(texts.match(/HTTP\/1\.1 503/g)?.length, 100)
    t.equal(proxy.sim.requests.length, 1)
    t.equal(proxy.sim.ledger.total(), 3)
    slow.socket.resume()
    await slow.answers(99)
    t.match(await proxy.metric('in_flight_requests'), { '': 0 })
  },
)

void t.test('A66: ten thousand ask and hang up: orphans are bounded, all is settled, nothing is left', async (t) => {
  const places = 20
  const settings = `
upstream: { maxConcurrent: ${places}, queue: { size: 10, maxWait: 1s } }
clients: { anonymous: { credits: { perDay: 100000 } } }
`
  const proxy = await aProxy(t, settings)
  proxy.sim.script({}, [{ kind: 'hold', times: 'forever' }])
  const inFlight = async () => (await proxy.metric('in_flight_requests'))[''] ?? 0
  const ended = async () => Object.values(await proxy.metric('requests_total')).reduce((sum, count) => sum + count, 0)
  for (let round = 1; round <= 100; round += 1) {
    const peers = await Promise.all([open(proxy.url), open(proxy.url)])
    for (const [number, { socket }] of peers.entries())
      socket.write(Array.from({ length: 50 }, (_, n) => question(`storm-${round}-${number}-${n}`)).join(''))
    while ((await inFlight()) + (await ended()) < round * 100);
    if (round === 1) await proxy.sim.received(places)
    for (const { socket } of peers) socket.destroy()
    while ((await inFlight()) > 0);
    t.equal(proxy.sim.open, places, 'no more calls that nobody waits for than there are places')
  }
  t.equal(await ended(), 10_000)
  t.equal(proxy.sim.requests.length, places)

  proxy.sim.release()
  while (((await proxy.admin('/status')).json['flights'] as unknown[]).length > 0);
  t.match((await proxy.admin('/status')).json['budgets'], [
    { client: 'anonymous', held: 0, spent: proxy.sim.ledger.total() },
  ])
  t.match(await proxy.metric('ledger_imbalance_credits'), { '': 0 })
  t.match(await proxy.metric('upstream_queue_length'), { 'scraper="chatgpt"': 0 })
  t.match(await proxy.metric('upstream_in_flight'), { 'scraper="chatgpt"': 0 })
  t.match(await proxy.metric('orphaned_flights_total'), { 'scraper="chatgpt"': places })
})

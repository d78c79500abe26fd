/** TLS to upstream and to Redis, against real ones: who is believed, who is not, and that nothing is sent to the latter. */
import https from 'node:https'
import type { AddressInfo } from 'node:net'
import { readFileSync, writeFileSync } from 'node:fs'
import tls from 'node:tls'
import t, { type Test } from 'tap'
import { createClock } from '../../src/world/clock.ts'
import { createRedis } from '../../src/world/redis.ts'
import { createTransport } from '../../src/world/transport.ts'
import { anAuthority, type Issued } from '../support/certificates.ts'
import { aProxy } from '../support/proxy.ts'
import { freePort, startRedis, until } from '../support/redis.ts'
import { fakeWorld } from '../support/world.ts'

const request = { method: 'GET', target: '/scrapers/x', headers: { 'x-api-key': 'secret' }, limitMs: 60_000 } as const

async function anUpstream(t: Test, { cert, key }: Issued) {
  const asked: string[] = []
  const server = https.createServer({ cert: readFileSync(cert), key: readFileSync(key) }, (incoming, outgoing) => {
    asked.push(incoming.url ?? '')
    outgoing.writeHead(200, { 'content-type': 'application/json' }).end('{}')
  })
  server.on('tlsClientError', () => undefined)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  return { port: (server.address() as AddressInfo).port, asked }
}

function transportTo(t: Test, url: string, caPath: string | null) {
  const options = { url, connectTimeoutMs: 5_000, connectionMaxAgeMs: 30_000, maxResponseBytes: 1024, caPath }
  const transport = createTransport(options, createClock())
  t.teardown(() => transport.close())
  return transport
}

void t.test('an upstream of a CA of your own is believed, and its connections are kept', async (t) => {
  const authority = anAuthority(t)
  const { port, asked } = await anUpstream(t, authority.issue('gateway'))
  const transport = transportTo(t, `https://localhost:${port}`, authority.ca)
  for (let i = 0; i < 3; i += 1) t.match(await transport.forward(request), { kind: 'reply', reply: { status: 200 } })
  t.equal(asked.length, 3)
})

void t.test('whom nobody vouches for is sent nothing, and that is known', async (t) => {
  const authority = anAuthority(t)
  const stranger = anAuthority(t, 'stranger')
  const cases: [name: string, server: Issued, caPath: string | null][] = [
    ['no CA is given', authority.issue('unknown'), null],
    ['a certificate of another CA', stranger.issue('foreign'), authority.ca],
    ['another host', authority.issue('elsewhere', ['DNS:elsewhere.example']), authority.ca],
    ['expired', authority.issue('old', ['DNS:localhost'], -1), authority.ca],
    ['self-signed', { cert: stranger.ca, key: stranger.ca.replace('.pem', '-key.pem') }, authority.ca],
  ]
  const before = process.env['NODE_TLS_REJECT_UNAUTHORIZED']
  t.teardown(() => {
    if (before === undefined) delete process.env['NODE_TLS_REJECT_UNAUTHORIZED']
    else process.env['NODE_TLS_REJECT_UNAUTHORIZED'] = before
  })
  for (const [name, server, caPath] of cases) {
    const { port, asked } = await anUpstream(t, server)
    for (const variable of ['1', '0']) {
      process.env['NODE_TLS_REJECT_UNAUTHORIZED'] = variable
      const result = await transportTo(t, `https://localhost:${port}`, caPath).forward(request)
      t.match(result, { kind: 'broken', sent: false, reason: 'tls' }, `${name}, environment says ${variable}`)
    }
    t.strictSame(asked, [], name)
  }
})

void t.test('a server that speaks no TLS is sent nothing either', async (t) => {
  const plain = tls.createServer()
  plain.removeAllListeners('connection')
  plain.on('connection', (socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'))
  await new Promise<void>((resolve) => plain.listen(0, '127.0.0.1', resolve))
  t.teardown(() => plain.close())
  const { port } = plain.address() as AddressInfo
  t.match(await transportTo(t, `https://localhost:${port}`, null).forward(request), { kind: 'broken', sent: false })
})

void t.test(
  'a question to an upstream that is not who it says costs nothing and is UPSTREAM_UNREACHABLE',
  async (t) => {
    const authority = anAuthority(t)
    const { port, asked } = await anUpstream(t, authority.issue('elsewhere', ['DNS:elsewhere.example']))
    const proxy = await aProxy(t, `upstream: { url: "https://localhost:${port}", ca: "${authority.ca}" }`)
    const answer = await proxy.ask('q')
    t.match(answer, { status: 504, headers: { 'x-proxy-code': 'UPSTREAM_UNREACHABLE', 'x-proxy-credits': '0' } })
    t.notMatch(answer.text, /elsewhere|certificate|CERT|localhost/i)
    t.match(await proxy.metric('upstream_failures_total'), { 'scraper="chatgpt",class="unreachable"': 4 })
    t.equal((await proxy.metric('ambiguous_attempts_total'))['scraper="chatgpt"'], 0)
    t.strictSame(asked, [])
  },
)

void t.test(
  'a CA of your own is read again with each reload, and one that cannot be read changes nothing',
  async (t) => {
    const [first, second] = [anAuthority(t), anAuthority(t)]
    const { port, asked } = await anUpstream(t, second.issue('localhost', ['DNS:localhost']))
    const settings = (ca: string) =>
      `upstream: { url: "https://localhost:${port}", ca: "${ca}" }\nretry: { attempts: 1 }`
    const proxy = await aProxy(t, settings(first.ca))
    t.match(await proxy.ask('q'), { status: 504 })
    writeFileSync(first.ca, 'no certificate')
    t.match(proxy.app.reload('test'), {
      result: 'invalid',
      mistakes: [/^upstream\.ca: .* holds no certificate/],
    })
    proxy.write(settings('/nowhere/ca.pem'))
    t.match(proxy.app.reload('test'), {
      result: 'invalid',
      mistakes: [/^upstream\.ca: /],
    })
    t.equal(proxy.lines().filter(({ msg }) => msg === 'bug').length, 0)
    writeFileSync(first.ca, readFileSync(second.ca))
    proxy.write(settings(first.ca))
    t.match(proxy.app.reload('test'), { result: 'applied', changed: [] })
    await proxy.ask('q')
    t.equal(asked.length, 1)
  },
)

void t.test(
  'a CA of your own that changes is followed without a reload, and one that is no good changes nothing',
  async (t) => {
    const [first, second] = [anAuthority(t), anAuthority(t, 'second')]
    const server = await anUpstream(t, second.issue('localhost', ['DNS:localhost']))
    const proxy = await aProxy(
      t,
      `upstream: { url: "https://localhost:${server.port}", ca: "${first.ca}" }\nretry: { attempts: 1 }`,
    )
    t.match(await proxy.ask('q'), { status: 504 })
    writeFileSync(first.ca, 'no certificate')
    proxy.clock.skip(5_000)
    t.match(proxy.lines().at(-1), {
      level: 'warn',
      msg: 'certificate kept',
      port: 'upstream',
      because: /^upstream\.ca: /,
    })
    writeFileSync(first.ca, second.pem)
    proxy.clock.skip(5_000)
    t.match(proxy.lines().at(-1), { msg: 'certificate replaced', port: 'upstream' })
    await proxy.ask('q')
    t.equal(server.asked.length, 1)
    writeFileSync(first.ca, first.pem)
    proxy.clock.skip(5_000)
    await proxy.ask('another')
    t.equal(server.asked.length, 1, 'a connection that was trusted before is not used again')
  },
)

async function aSecureRedis(t: Test, { cert, key }: Issued, ca: string) {
  const port = await freePort()
  const files = ['--tls-cert-file', cert, '--tls-key-file', key, '--tls-ca-cert-file', ca]
  await startRedis(t, ['--tls-port', String(port), '--tls-auth-clients', 'no', ...files])
  return port
}

function storeAt(t: Test, url: string, caPath: string | null) {
  const world = fakeWorld()
  const access = { place: { kind: 'single', url }, username: null, password: null, database: 0, caPath } as const
  const store = createRedis({ ...access, timeoutMs: 2_000, prefix: 't:' }, createClock(), world.random, world.emit)
  t.teardown(() => store.close())
  return { store, told: world.told }
}

void t.test('Redis over TLS: with its CA it is up and heard, without it is never asked', async (t) => {
  const authority = anAuthority(t)
  const port = await aSecureRedis(t, authority.issue('redis'), authority.ca)
  const { store } = storeAt(t, `rediss://localhost:${port}`, authority.ca)
  await until(() => store.state === 'up')
  t.same(await store.set('a', 'text', 60_000), { kind: 'known', value: null })
  t.match(await store.get('a'), { kind: 'known', value: Buffer.from('text') })
  const heard = Promise.withResolvers<string>()
  store.subscribe('news', { onMessage: heard.resolve, onSubscribed: () => void store.publish('news', 'hello') })
  t.equal(await heard.promise, 'hello')

  const { store: unbelieving, told } = storeAt(t, `rediss://localhost:${port}`, null)
  await until(() => told('redis-failed').length > 1)
  t.equal(unbelieving.state, 'down')
  t.match(await unbelieving.get('a'), { kind: 'away', sent: false })
})

void t.test('a new CA of Redis is believed without a restart', async (t) => {
  const before = anAuthority(t)
  const authority = anAuthority(t)
  const port = await aSecureRedis(t, authority.issue('redis'), authority.ca)
  const { store } = storeAt(t, `rediss://localhost:${port}`, before.ca)
  await until(() => store.trouble !== null)
  t.equal(store.state, 'down')
  t.equal(store.trust(readFileSync(authority.ca, 'utf8')), true)
  await until(() => store.state === 'up')
  t.equal(store.trust(readFileSync(authority.ca, 'utf8')), false)
})

void t.test('Redis of another host is not believed', async (t) => {
  const authority = anAuthority(t)
  const port = await aSecureRedis(t, authority.issue('redis', ['DNS:elsewhere.example']), authority.ca)
  const { store, told } = storeAt(t, `rediss://localhost:${port}`, authority.ca)
  await until(() => told('redis-failed').length > 1)
  t.equal(store.state, 'down')
})

/** HTTPS to clients, over real sockets: who is served, what is refused as it is without TLS, and certificates that change. */
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import tls from 'node:tls'
import t, { type Test } from 'tap'
import { runTrace } from '../../src/cli/trace.ts'
import { type Authority, anAuthority } from '../support/certificates.ts'
import { aProxy, type Proxy } from '../support/proxy.ts'

interface Peer {
  readonly socket: tls.TLSSocket
  readonly text: () => string
  readonly closed: Promise<void>
  readonly serial: string
  until(condition: (text: string) => boolean): Promise<void>
}

async function aSecureProxy(t: Test, settings = '') {
  const authority = anAuthority(t)
  const files = authority.issue('proxy')
  const pair = `{ cert: "${files.cert}", key: "${files.key}" }`
  const proxy = await aProxy(t, `listen: { tls: ${pair} }\nadmin: { tls: ${pair} }\n${settings}`)
  return { proxy, authority, files }
}

async function open(
  proxy: Proxy,
  { pem }: Authority,
  url = proxy.url,
  options: tls.ConnectionOptions = {},
): Promise<Peer> {
  const port = Number(new URL(url).port)
  const socket = tls.connect({ port, host: '127.0.0.1', servername: 'localhost', ca: pem, ...options })
  let text = ''
  socket.on('data', (chunk) => (text += chunk.toString('latin1')))
  socket.on('error', () => undefined)
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
  await Promise.race([new Promise((resolve) => socket.once('secureConnect', resolve)), closed])
  return {
    socket,
    text: () => text,
    closed,
    // Nothing where no handshake came to its end.
    serial: socket.destroyed ? '' : socket.getPeerCertificate().serialNumber,
    async until(condition) {
      while (!condition(text)) {
        if (socket.destroyed) throw new Error(`The connection was closed after: ${text}`)
        await Promise.race([new Promise((resolve) => socket.once('data', resolve)), closed])
      }
    },
  }
}

const get = (target: string, headers = ''): string => `GET ${target} HTTP/1.1\r\nHost: localhost\r\n${headers}\r\n`
const ask = (prompt: string): string => get(`/scrapers/chatgpt?prompt=${prompt}`)

void t.test('questions are answered over TLS 1.2 and 1.3, and not over anything older or in clear', async (t) => {
  const { proxy, authority } = await aSecureProxy(t)
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    const peer = await open(proxy, authority, proxy.url, { minVersion: version, maxVersion: version })
    peer.socket.write(ask('q'))
    await peer.until((text) => text.endsWith('}'))
    t.match(peer.text(), /^HTTP\/1\.1 200 /, version)
    peer.socket.destroy()
  }
  const old = await open(proxy, authority, proxy.url, {
    minVersion: 'TLSv1',
    maxVersion: 'TLSv1.1',
    ciphers: 'DEFAULT:@SECLEVEL=0',
  })
  await old.closed
  t.equal(old.text(), '')

  for (const url of [proxy.url, proxy.adminUrl]) {
    const plain = net.connect(Number(new URL(url).port), '127.0.0.1', () => plain.write(ask('in-clear')))
    let text = ''
    for await (const chunk of plain) text += String(chunk)
    t.match(text, /^HTTP\/1\.1 400 Bad Request\r\n[^]*This port requires HTTPS/)
  }
  t.match(
    proxy.lines().filter(({ msg }) => msg === 'HTTP without TLS refused'),
    [{ port: 'listen' }, { port: 'admin' }],
  )
  t.equal(proxy.sim.requests.length, 1, 'asked once, then from the cache')

  const admin = await open(proxy, authority, proxy.adminUrl)
  admin.socket.write(get('/healthz', 'Connection: close\r\n'))
  await admin.closed
  t.match(admin.text(), /"status":"ok"/)
})

void t.test('what could be read in two ways is refused over TLS as it is without', async (t) => {
  const { proxy, authority } = await aSecureProxy(t)
  const attacks: [name: string, bytes: string, status: number][] = [
    ['A1', 'POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n', 400],
    ['A10', 'GET /x HTTP/1.1\nHost: a\n\n', 400],
    ['A11', 'GET /x\r\n\r\n', 400],
    ['A14 target', get(`/scrapers/chatgpt?prompt=${'x'.repeat(100_000)}`), 414],
    ['A14 header', get('/x', `A: ${'x'.repeat(100_000)}\r\n`), 431],
    ['A16', `GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n${ask('smuggled')}`, 400],
    ['A17', get('//evil') + ask('behind'), 400],
    ['A19', 'CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n', 405],
  ]
  for (const [name, bytes, status] of attacks) {
    const peer = await open(proxy, authority)
    peer.socket.write(Buffer.from(bytes, 'latin1'))
    await peer.closed
    t.match(peer.text(), new RegExp(`^HTTP/1\\.1 ${status} [^]*application/problem\\+json`), name)
    t.equal(peer.text().match(/HTTP\/1\.1 \d/g)?.length, 1, `${name}: one answer`)
  }
  t.equal(proxy.sim.requests.length, 0)
})

void t.test(
  'a certificate is replaced while a question is open: its asker is answered, the next sees the new one',
  async (t) => {
    const { proxy, authority, files } = await aSecureProxy(t)
    proxy.sim.script({ prompt: 'long' }, ['hold'])
    const before = await open(proxy, authority)
    before.socket.write(ask('long'))
    await proxy.sim.received(1)

    const next = authority.issue('next', ['DNS:localhost'], 60)
    copyFileSync(next.cert, files.cert)
    copyFileSync(next.key, files.key)
    proxy.clock.skip(5_000)
    const after = await open(proxy, authority)
    t.not(after.serial, before.serial)
    after.socket.write(ask('short'))
    await after.until((text) => text.endsWith('}'))

    proxy.sim.release()
    await before.until((text) => text.endsWith('}'))
    t.match(before.text(), /^HTTP\/1\.1 200 /)
    before.socket.write(ask('again'))
    await before.until((text) => text.split('HTTP/1.1 200').length === 3)
    t.match(
      proxy.lines().filter(({ msg }) => msg === 'certificate replaced'),
      [{ port: 'listen' }, { port: 'admin' }],
    )
    const expiry = (await scrape(proxy, authority)).match(/tls_certificate_expiry_timestamp_seconds (\d+)/)?.[1]
    t.ok(Number(expiry) > Date.now() / 1000 + 59 * 86_400)
  },
)

async function scrape(proxy: Proxy, authority: Authority): Promise<string> {
  const peer = await open(proxy, authority, proxy.adminUrl)
  peer.socket.write(get('/metrics', 'Connection: close\r\n'))
  await peer.closed
  return peer.text()
}

void t.test('a bad new certificate changes nothing but a line in the log', async (t) => {
  const { proxy, authority, files } = await aSecureProxy(t)
  const before = await open(proxy, authority)
  writeFileSync(files.cert, 'half a certif')
  proxy.clock.skip(5_000)
  proxy.clock.skip(15_000)
  const after = await open(proxy, authority)
  t.equal(after.serial, before.serial)
  t.match(
    proxy.lines().filter(({ msg }) => msg === 'certificate kept'),
    [{ level: 'warn', port: 'listen', because: /holds no certificate/ }, { port: 'admin' }],
  )
  t.notMatch(proxy.output(), /BEGIN|PRIVATE/)
})

void t.test('a drain ends although somebody is in the middle of a handshake', async (t) => {
  const { proxy, authority } = await aSecureProxy(t, 'shutdown: { grace: 30s }')
  const idle = await open(proxy, authority)
  const half = net.connect(Number(new URL(proxy.url).port), '127.0.0.1')
  half.on('error', () => undefined)
  half.resume()
  await new Promise((resolve) => half.once('connect', resolve))
  const cut = new Promise((resolve) => half.once('close', resolve))
  const drained = proxy.app.drain()
  await idle.closed
  await cut
  t.equal(await drained, 'clean', 'nobody had asked anything, and no grace had to pass')
})

void t.test('a command asks the admin port over TLS, whoever has signed its certificate', async (t) => {
  const { proxy, files, authority } = await aSecureProxy(t)
  let text = ''
  const write = (more: string): void => void (text += more)
  const io = {
    stdout: write,
    stderr: write,
    environment: {},
    readFile: (path: string) => readFileSync(path, 'utf8'),
    cwd: '/',
    randomBytes: () => new Uint8Array(),
  }
  const port = new URL(proxy.adminUrl).port
  const trace = ({ cert, key }: typeof files) => {
    const sets = [`admin={ port: ${port}, tls: { cert: "${cert}", key: "${key}" } }`]
    return runTrace({ id: 'unknown', configs: [], sets }, io)
  }
  t.equal(await trace(files), 1)
  t.match(text, /^There is no trail/)
  t.equal(await trace(authority.issue('other')), 1)
  t.match(text, /No proxy answers at [^\n]*$/m)
})

/**
 * The program in a network of its own, with a name server, certificates and an outbound proxy that go wrong one after the other: how
 * each ends, and that trail, audit file, metric and log say why. The proxy on the way is tinyproxy.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import http, { type RequestListener } from 'node:http'
import https from 'node:https'
import { createServer, type AddressInfo, type Server } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { type Authority, anAuthority, type Issued } from '../support/certificates.ts'
import { startNameServer, type NameServer } from '../support/dns.ts'
import { aNetwork, type Network } from '../support/network.ts'
import { outboundProxyAt, startOutboundProxy } from '../support/outbound-proxy.ts'
import { type Program, root, start } from '../support/process.ts'
import { type Answer, request } from '../support/proxy.ts'
import { freePort, until } from '../support/redis.ts'
import { answerOf } from '../support/siege.ts'

const ADMIN = 'admin-token-of-the-tests'
const TEAM = 'team-token-of-the-tests'

const asRoot = { skip: process.getuid?.() === 0 ? false : 'network namespaces need root' }

interface Ended extends Answer {
  /** Of its only attempt, as the trail has it. */
  readonly attempt: { readonly reason: string | null; readonly error_code: string | null; readonly class: string }
  readonly page: string
}

interface Scene {
  readonly network: Network
  readonly dns: NameServer
  readonly authority: Authority
  readonly program: Program
  /** Puts these settings of upstream in force. */
  readonly use: (upstream: Readonly<Record<string, unknown>>) => Promise<void>
  /** A question that nobody has asked before. */
  readonly ask: () => Promise<Ended>
  readonly metric: (name: string, labels: string) => Promise<number>
  /** The line of a request, once it has been written. */
  readonly auditLine: (id: string) => Promise<unknown>
}

interface SceneOptions {
  readonly breaker?: Readonly<Record<string, unknown>>
  readonly environment?: (network: Network) => Readonly<Record<string, string>>
}

/** A circuit that never opens, unless `breaker` says otherwise. */
async function aScene(
  t: Test,
  { breaker = { minimum: 1_000, window: 1_000, consecutive: 10_000 }, environment = () => ({}) }: SceneOptions = {},
): Promise<Scene> {
  const network = aNetwork(t)
  const dns = await startNameServer(t, network.near)
  const authority = anAuthority(t)
  const folder = t.testdir()
  const file = join(folder, 'settings.yaml')
  const auditFile = join(folder, 'audit.ndjson')
  const write = (upstream: Readonly<Record<string, unknown>>): void =>
    writeFileSync(
      file,
      JSON.stringify({
        listen: { host: network.far, port: 0 },
        admin: { host: network.far, port: 0, token: ADMIN },
        clients: { team: { token: TEAM } },
        cache: { disk: false },
        audit: { path: auditFile },
        retry: { attempts: 1 },
        breaker,
        upstream: {
          keys: [{ name: 'main', secret: 'upstream-key-of-the-tests' }],
          allowInsecure: true,
          connectionMaxAge: '1s',
          ca: authority.ca,
          ...upstream,
        },
      }),
    )
  write({ url: 'http://nowhere.test' })
  const [command, ...args] = network.inside([process.execPath, join(root, 'src/main.ts'), 'serve', '--config', file])
  const program = start(t, command, args, { environment: environment(network) })
  const [line] = await program.saw(/^.*"msg":"listening".*$/m)
  const { url, admin_url: adminUrl } = JSON.parse(line) as { url: string; admin_url: string }
  const admin = (path: string, more: object = {}): Promise<Answer> =>
    request(undefined, adminUrl + path, { ...more, headers: { authorization: `Bearer ${ADMIN}`, accept: '*/*' } })
  const page = (path: string): Promise<Answer> =>
    request(undefined, adminUrl + path, { headers: { authorization: `Bearer ${ADMIN}`, accept: 'text/html' } })
  let asked = 0

  return {
    network,
    dns,
    authority,
    program,
    async use(upstream) {
      write(upstream)
      t.match(await admin('/reload', { method: 'POST' }), { status: 200 })
    },
    async ask() {
      asked += 1
      const answer = await request(undefined, `${url}/scrapers/chatgpt?prompt=${asked}`, {
        headers: { 'x-api-key': TEAM },
      })
      const path = `/requests/${String(answer.headers['x-request-id'])}`
      const { attempts } = (await admin(path)).json as { attempts: Ended['attempt'][] }
      const [attempt = { reason: 'never asked', error_code: null, class: 'none' }] = attempts
      return { ...answer, json: answer.json, attempt, page: (await page(path)).text }
    },
    async metric(name, labels) {
      const { text } = await admin('/metrics')
      const found = new RegExp(`^scrapellm_proxy_${name}\\{${labels}\\} (\\S+)$`, 'm').exec(text)
      return Number(found?.[1] ?? 0)
    },
    async auditLine(id) {
      const line = (): string | undefined => {
        const text = existsSync(auditFile) ? readFileSync(auditFile, 'utf8') : ''
        return text.split('\n').find((one) => one.includes(`"id":"${id}"`) && one.endsWith('}'))
      }
      await until(() => line() !== undefined)
      return JSON.parse(line() ?? '') as unknown
    },
  }
}

/** Answers every question, with the addresses at both ends of the connection. */
const answering: RequestListener = ({ url = '', socket }, response) => {
  const prompt = new URL(url, 'http://upstream').searchParams.get('prompt') ?? ''
  response.setHeader('content-type', 'application/json')
  response.end(answerOf(prompt, { result: `at ${String(socket.localAddress)} from ${String(socket.remoteAddress)}` }))
}

/** On all addresses. Returns its port. */
async function listening(t: Test, server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '0.0.0.0', resolve))
  t.teardown(() => {
    server.close()
    if (server instanceof http.Server || server instanceof https.Server) server.closeAllConnections()
  })
  return (server.address() as AddressInfo).port
}

function secure({ cert, key }: Issued): https.Server {
  const server = https.createServer({ cert: readFileSync(cert), key: readFileSync(key) }, answering)
  server.on('tlsClientError', () => undefined)
  return server
}

void t.test('each trouble on the way to upstream ends as its trail says', asRoot, async (t) => {
  const scene = await aScene(t)
  const { network, dns, authority, program } = scene
  const { near } = network
  const plain = await listening(t, http.createServer(answering))
  const closed = createServer()
  const closedPort = await listening(t, closed)
  await new Promise((resolve) => closed.close(resolve))
  const resetting = await listening(
    t,
    createServer((socket) => socket.on('error', () => undefined).once('data', () => socket.resetAndDestroy())),
  )
  for (const name of ['upstream', 'gateway']) dns.names.set(`${name}.test`, [near])
  dns.names.set('broken.test', 'servfail')
  dns.names.set('silent.test', 'silent')
  dns.names.set('away.test', ['203.0.113.1'])
  dns.names.set('mute.test', [network.address(77)])
  dns.names.set('forbidden.test', ['203.0.113.7'])
  network.forbid('prohibit', '203.0.113.7')
  const names = ['DNS:gateway.test']
  const self = anAuthority(t, 'self')
  const tls = {
    good: await listening(t, secure(authority.issue('good', names))),
    expired: await listening(t, secure(authority.issue('expired', names, -1))),
    elsewhere: await listening(t, secure(authority.issue('elsewhere', ['DNS:elsewhere.test']))),
    foreign: await listening(t, secure(anAuthority(t, 'stranger').issue('foreign', names))),
    self: await listening(t, secure({ cert: self.ca, key: self.ca.replace('.pem', '-key.pem') })),
  }

  const rows: readonly (readonly [url: string, reason: string, code: string | RegExp, page: RegExp])[] = [
    ['http://nothing.test', 'name-not-found', 'ENOTFOUND', /name does not exist/],
    ['http://broken.test', 'name-server', 'EAI_AGAIN', /name servers/],
    ['http://silent.test', 'name-server', 'EAI_AGAIN', /name servers/],
    [`http://upstream.test:${closedPort}`, 'refused', 'ECONNREFUSED', /refused the connection/],
    ['http://away.test', 'no-route', 'ENETUNREACH', /no route/],
    ['http://mute.test', 'connect-timeout', 'ETIMEDOUT', /no connection within/],
    ['http://forbidden.test', 'local', 'EACCES', /trouble of this machine/],
    [`http://upstream.test:${resetting}`, 'reset', 'ECONNRESET', /connection broke/],
    [`https://gateway.test:${tls.expired}`, 'tls-expired', 'CERT_HAS_EXPIRED', /has expired/],
    [`https://gateway.test:${tls.self}`, 'tls-self-signed', 'DEPTH_ZERO_SELF_SIGNED_CERT', /signed by itself/],
    [`https://gateway.test:${tls.elsewhere}`, 'tls-wrong-host', 'ERR_TLS_CERT_ALTNAME_INVALID', /another host/],
    [`https://gateway.test:${tls.foreign}`, 'tls-unknown-ca', /^UNABLE_TO_/, /not trusted/],
    [`https://upstream.test:${plain}`, 'tls', /SSL|EPROTO/, /TLS with upstream failed/],
  ]
  for (const [url, reason, code, text] of rows) {
    await scene.use({ url, connectTimeout: reason === 'connect-timeout' ? '500ms' : '30s' })
    const { status, headers, attempt, page, json } = await scene.ask()
    t.match(
      { status, headers, attempt },
      {
        status: 504,
        headers: { 'x-proxy-code': 'UPSTREAM_UNREACHABLE' },
        attempt: { reason, error_code: code, class: reason === 'reset' ? 'ambiguous' : 'unreachable' },
      },
      url,
    )
    t.ok(text.test(page), `${url}: the page of the trail`)
    t.notMatch(
      JSON.stringify(json),
      /\.test|CERT|ECONN|203\.0|198\.18/,
      `${url}: the caller is told no host and no code`,
    )
    t.match(
      await scene.auditLine(String(headers['x-request-id'])),
      { attempts: [{ reason, error_code: code }] },
      `${url}: the audit line`,
    )
    t.equal(
      await scene.metric('upstream_unreachable_total', `scraper="chatgpt",reason="${reason}"`),
      reason === 'name-server' && url.includes('silent') ? 2 : 1,
    )
    const kind = reason === 'local' ? 'no connection to upstream: trouble of this machine' : 'upstream unreachable'
    const lines = program.lines().filter((one) => one['msg'] === kind && one['reason'] === reason)
    t.match(lines, [{ level: reason === 'local' ? 'error' : 'warn', error_code: code }], `${url}: one line in the log`)
  }

  await scene.use({ url: `https://gateway.test:${tls.good}` })
  t.match(
    await scene.ask(),
    { status: 200, attempt: { reason: null, class: 'ok' } },
    'and where all is well, it is answered',
  )
})

void t.test('an address without a route beside one that answers slowly costs no call', asRoot, async (t) => {
  const { network, dns, use, ask } = await aScene(t)
  const port = await listening(t, http.createServer(answering))
  const slow = network.address(10)
  dns.names.set('dual.test', ['2001:db8::1', slow])
  await use({ url: `http://dual.test:${port}`, connectTimeout: '20s' })
  const answer = ask()
  // The kernel asks again after a second: so long, and longer than Node's 250 ms, the connection takes.
  await until(() => network.isSought(slow))
  network.add(slow)
  t.match(await answer, { status: 200, attempt: { reason: null, class: 'ok' } })
})

void t.test('an address that moves is followed while calls go on', asRoot, async (t) => {
  const { network, dns, use, ask } = await aScene(t)
  const port = await listening(t, http.createServer(answering))
  const [before, after] = [network.near, network.address(11)]
  network.add(after)
  dns.names.set('moving.test', [before])
  await use({ url: `http://moving.test:${port}` })
  t.match(await ask(), { status: 200, json: { result: new RegExp(`^at ${before} `) } })
  dns.names.set('moving.test', [after])
  await until(async () => String((await ask()).json['result']).startsWith(`at ${after} `))
  for (let call = 0; call < 5; call += 1)
    t.match(await ask(), { status: 200, json: { result: new RegExp(`^at ${after} `) } })
})

void t.test('trouble of this machine opens no circuit, trouble of upstream does', asRoot, async (t) => {
  const { network, dns, use, ask, metric } = await aScene(t, {
    breaker: { minimum: 5, window: 5, consecutive: 5, openFor: '1h', openForMax: '1h', hold: '0s' },
  })
  const port = await listening(t, http.createServer(answering))
  dns.names.set('upstream.test', ['203.0.113.7'])
  network.forbid('prohibit', '203.0.113.7')
  await use({ url: `http://upstream.test:${port}` })
  for (let call = 0; call < 20; call += 1) t.match(await ask(), { status: 504, attempt: { reason: 'local' } })
  t.equal(await metric('breaker_state', 'scraper="chatgpt"'), 0)
  dns.names.set('upstream.test', [network.near])
  t.match(await ask(), { status: 200 }, 'the first call that can be made is made')

  await use({ url: 'http://nowhere.test' })
  await until(async () => (await ask()).headers['x-proxy-code'] === 'CIRCUIT_OPEN')
  t.equal(await metric('breaker_state', 'scraper="chatgpt"'), 2)
})

void t.test('through an outbound proxy, upstream is verified as it is without', asRoot, async (t) => {
  const { network, authority, program, use, ask, metric } = await aScene(t)
  const { near } = network
  const outbound = await startOutboundProxy(t, near)
  const good = await listening(t, secure(authority.issue('good', [`IP:${near}`])))
  const elsewhere = await listening(t, secure(authority.issue('elsewhere', ['DNS:elsewhere.test'])))
  const plain = await listening(t, http.createServer(answering))
  // Neither name nor address of upstream can be reached from the program's network but through the proxy.
  const proxy = outbound.withCredentials

  await use({ url: `https://${near}:${good}`, proxy })
  for (let call = 0; call < 3; call += 1) t.match(await ask(), { status: 200 })
  await use({ url: `http://${near}:${plain}`, proxy })
  for (let call = 0; call < 3; call += 1) t.match(await ask(), { status: 200 })
  await use({ url: `https://${near}:${elsewhere}`, proxy })
  t.match(await ask(), {
    status: 504,
    attempt: { reason: 'tls-wrong-host', error_code: 'ERR_TLS_CERT_ALTNAME_INVALID' },
  })

  const rows: readonly (readonly [upstream: object, code: string])[] = [
    [{ url: `https://${near}:${good}`, proxy: outbound.url }, '407'],
    [{ url: `http://${near}:${plain}`, proxy: outbound.url }, '407'],
    [{ url: `https://${near}:${good}`, proxy: `http://${near}:1` }, 'ECONNREFUSED'],
    [{ url: `https://${near}:${good}`, proxy: 'http://nowhere.test:3128' }, 'ENOTFOUND'],
    [{ url: `https://${near}:1`, proxy }, '500'],
  ]
  for (const [upstream, code] of rows) {
    await use({ ...upstream })
    const { attempt, headers } = await ask()
    t.match(attempt, { class: 'unreachable', reason: 'outbound-proxy', error_code: code }, JSON.stringify(upstream))
    t.equal(headers['x-proxy-credits'], '0')
  }
  t.equal(await metric('upstream_unreachable_total', 'scraper="chatgpt",reason="outbound-proxy"'), rows.length)
  t.notMatch(program.stdout() + program.stderr(), /canary|operator/, 'nothing of it is in the log')
})

void t.test('the proxy of the environment is used, but for what it excepts', asRoot, async (t) => {
  const port = await freePort()
  const { network, dns, authority, program, use, ask } = await aScene(t, {
    environment({ near }) {
      const { withCredentials } = outboundProxyAt(near, port)
      return { HTTPS_PROXY: withCredentials, http_proxy: withCredentials, NO_PROXY: 'localhost, .upstream.test' }
    },
  })
  const { near, far } = network
  await startOutboundProxy(t, near, port)
  const plain = await listening(t, http.createServer(answering))
  const good = await listening(t, secure(authority.issue('good', [`IP:${near}`])))
  dns.names.set('api.upstream.test', [near])
  t.match(program.lines().at(-1), { msg: 'listening', upstream: `through http://${near}:${port} (http_proxy)` })

  const rows: readonly (readonly [upstream: object, from: string])[] = [
    [{ url: `http://${near}:${plain}` }, near],
    [{ url: `https://${near}:${good}` }, near],
    [{ url: `http://api.upstream.test:${plain}` }, far],
    [{ url: `http://${near}:${plain}`, proxy: false }, far],
  ]
  for (const [upstream, from] of rows) {
    await use({ ...upstream })
    const { status, json } = await ask()
    t.match({ status, json }, { status: 200, json: { result: new RegExp(`from ${from}$`) } }, JSON.stringify(upstream))
  }
  t.notMatch(program.stdout() + program.stderr(), /canary|operator/, 'nothing of its password is in the log')
})

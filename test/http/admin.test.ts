/** The admin port: probes, metrics, status, who may see them, and rows added by others. */
import { request } from 'node:http'
import { connect } from 'node:net'
import t, { type Test } from 'tap'
import { ProxyError } from '../../src/errors.ts'
import {
  type Admin,
  type AdminOptions,
  type AdminParts,
  type AdminRoute,
  createAdmin,
  json,
} from '../../src/http/admin.ts'
import { problemPage } from '../../src/http/html.ts'
import { type FakeWorld, fakeWorld } from '../support/world.ts'

interface Answer {
  readonly status: number
  readonly headers: NodeJS.Dict<string | string[]>
  readonly body: string
}

interface Asked {
  readonly method?: string
  readonly headers?: Record<string, string>
  readonly body?: string
}

interface Stage {
  readonly admin: Admin
  readonly world: FakeWorld
  readonly ask: (path: string, asked?: Asked) => Promise<Answer>
}

async function stage(t: Test, options: Partial<AdminOptions> = {}, parts: Partial<AdminParts> = {}): Promise<Stage> {
  const world = fakeWorld()
  const admin = createAdmin(
    { host: '127.0.0.1', port: 0, token: null, ...options },
    {
      ...world,
      ready: () => true,
      metrics: async () => ({ contentType: 'text/plain; version=0.0.4', body: 'up 1\n' }),
      status: () => ({ version: '1' }),
      problemPage,
      ...parts,
    },
  )
  await admin.listen()
  t.teardown(() => admin.close())

  const ask = (path: string, { method = 'GET', headers = {}, body }: Asked = {}): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const outgoing = request({ host: '127.0.0.1', port: admin.port, path, method, headers, agent: false })
      outgoing.on('error', reject)
      outgoing.on('response', (incoming) => {
        let text = ''
        incoming.setEncoding('utf8')
        incoming.on('data', (chunk: string) => (text += chunk))
        incoming.on('end', () => resolve({ status: incoming.statusCode ?? 0, headers: incoming.headers, body: text }))
      })
      outgoing.end(body)
    })

  return { admin, world, ask }
}

void t.test('probes, metrics and status', async (t) => {
  let isReady = true
  const { ask } = await stage(t, {}, { ready: () => isReady })
  t.has(await ask('/healthz'), { status: 200, body: '{"status":"ok"}' })
  t.has(await ask('/readyz'), { status: 200, body: '{"status":"ready"}' })
  isReady = false
  t.has(await ask('/readyz'), { status: 503, body: '{"status":"not ready"}' })
  t.has(await ask('/healthz'), { status: 200 }, 'alive all the same')
  const metrics = await ask('/metrics?name=x')
  t.has(metrics, { status: 200, body: 'up 1\n' })
  t.has(metrics.headers, {
    'content-type': 'text/plain; version=0.0.4',
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
  })
  t.has(await ask('/status'), { status: 200, body: '{"version":"1"}' })
  const head = await ask('/status', { method: 'HEAD' })
  t.has(head, { status: 200, body: '' })
  t.equal(head.headers['content-length'], '15')
})

void t.test('everything else is a problem document', async (t) => {
  const { ask } = await stage(t)
  for (const path of ['/nothing', '/metrics/', '/Metrics', '/scrapers/x']) {
    const answer = await ask(path)
    t.equal(answer.status, 404, path)
    t.has(answer.headers, { 'content-type': 'application/problem+json', 'cache-control': 'no-store' })
    t.has(JSON.parse(answer.body), { code: 'ENDPOINT_UNKNOWN', status: 404 })
  }
  const posted = await ask('/metrics', { method: 'POST' })
  t.equal(posted.status, 405)
  t.equal(posted.headers['allow'], 'GET, HEAD')
  t.equal((await ask('//evil/metrics')).status, 400)
})

void t.test('with a token set, only the probes do without', async (t) => {
  const { ask } = await stage(t, { token: 'secret' })
  for (const path of ['/healthz', '/readyz']) t.equal((await ask(path)).status, 200, path)
  for (const authorization of ['', 'Bearer', 'Bearer wrong', 'Basic secret', 'secret', 'Bearer secre']) {
    for (const path of ['/metrics', '/status', '/nothing']) {
      const answer = await ask(path, { headers: { authorization } })
      t.equal(answer.status, 401, `${path} ${authorization}`)
      t.equal(answer.headers['www-authenticate'], 'Bearer')
      t.notMatch(answer.body, /secre/)
    }
  }
  t.equal((await ask('/metrics', { headers: { authorization: 'Bearer secret' } })).status, 200)
  t.equal((await ask('/nothing', { headers: { authorization: 'bearer  secret' } })).status, 404)
})

void t.test('a browser is asked for the token as a password, of whatever user', async (t) => {
  const { ask } = await stage(t, { token: 'sécret:1' })
  const page = { accept: 'text/html,application/xhtml+xml;q=0.9' }
  const refused = await ask('/status', { headers: page })
  t.equal(refused.status, 401)
  t.match(refused.headers['www-authenticate'], /^Basic realm="[^"]+", charset="UTF-8"$/)
  const basic = (pair: string) => ({ ...page, authorization: `Basic ${Buffer.from(pair).toString('base64')}` })
  for (const pair of [':sécret:1', 'anybody:sécret:1'])
    t.equal((await ask('/status', { headers: basic(pair) })).status, 200, pair)
  for (const pair of ['', 'sécret:1', ':', ':wrong', ':sécret:1 ', 'sécret:1:'])
    t.equal((await ask('/status', { headers: basic(pair) })).status, 401, pair)
  for (const authorization of ['Basic', 'Basic ?', 'Basic a b'])
    t.equal((await ask('/status', { headers: { ...page, authorization } })).status, 401, authorization)
  const crossOrigin = { ...basic(':sécret:1'), origin: 'http://evil.example' }
  t.equal((await ask('/status', { headers: crossOrigin })).status, 403, 'a password the browser knows is not enough')
})

/** What comes back for these bytes, until the connection ends. */
async function raw(port: number, host: string, bytes: string): Promise<string> {
  const socket = connect({ port, host })
  socket.write(bytes.replace('HTTP/1.1\r\n', 'HTTP/1.1\r\nConnection: close\r\n'))
  let text = ''
  for await (const chunk of socket) text += String(chunk)
  return text
}

void t.test('a probe in HTTP/1.0 needs no Host, and two are one too many', async (t) => {
  const { admin } = await stage(t)
  for (const path of ['/healthz', '/readyz'])
    t.match(await raw(admin.port, '127.0.0.1', `GET ${path} HTTP/1.0\r\n\r\n`), /^HTTP\/1\.1 200 OK/)
  const twice = 'GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n'
  t.match(await raw(admin.port, '127.0.0.1', twice), /^HTTP\/1\.1 400 [^]*repeated/)
})

void t.test("a web page on the operator's machine gets nothing", async (t) => {
  const { ask, admin } = await stage(t)
  for (const host of ['evil.example', `evil.example:${admin.port}`, '127.0.0.1.evil.example', 'localhost.evil'])
    t.equal((await ask('/status', { headers: { host } })).status, 421, host)
  for (const host of [
    'localhost',
    'LOCALHOST:1',
    '127.0.0.1',
    '127.1.2.3:9464',
    '[::1]',
    '[::1]:9464',
    '[::ffff:127.0.0.1]:1',
  ])
    t.equal((await ask('/status', { headers: { host } })).status, 200, host)
  const own = `127.0.0.1:${admin.port}`
  t.equal((await ask('/status', { headers: { origin: 'http://evil.example' } })).status, 403)
  t.equal((await ask('/status', { headers: { origin: 'null' } })).status, 403)
  t.equal((await ask('/status', { headers: { host: own, origin: `http://${own}` } })).status, 200)

  for (const host of ['::ffff:127.0.0.1', 'localhost', '0:0:0:0:0:0:0:1']) {
    const other = await stage(t, { host })
    const answer = await raw(other.admin.port, host, 'GET /status HTTP/1.1\r\nHost: evil.example\r\n\r\n')
    t.match(answer, /^HTTP\/1\.1 421 /, `listening on ${host}`)
  }

  const open = await stage(t, { host: '0.0.0.0' })
  t.equal(
    (await open.ask('/status', { headers: { host: 'proxy.internal' } })).status,
    200,
    'off loopback names are free',
  )
})

void t.test('a form of the page leads back to it; a page of others can press no button', async (t) => {
  const acted = { action: 'key-try', what: { key: 'main' } } as const
  const tried: string[] = []
  const run: AdminRoute['run'] = ({ segment }) => {
    if (segment !== 'main') throw new ProxyError('ENDPOINT_UNKNOWN', 'No upstream key has <this> name.')
    tried.push(segment)
    return { ...json({ name: segment }), acted }
  }
  const { ask, admin, world } = await stage(
    t,
    { token: 'secret' },
    { routes: [{ method: 'POST', path: '/keys/{name}/try', run }] },
  )
  const page = {
    accept: 'text/html',
    authorization: `Basic ${Buffer.from('alice:secret').toString('base64')}`,
    'content-type': 'application/x-www-form-urlencoded',
  }
  const own = { ...page, origin: `http://127.0.0.1:${admin.port}`, 'sec-fetch-site': 'same-origin' }
  const post = (path: string, headers: Record<string, string>) => ask(path, { method: 'POST', headers })
  t.match(await post('/keys/main/try', own), { status: 303, headers: { location: '/#standing' } })
  t.match(world.events.at(-1), { kind: 'operator-acted', ...acted, from: '127.0.0.1', by: 'alice' })
  t.match(await post('/keys/main/try', { authorization: 'Bearer secret' }), { status: 200, body: '{"name":"main"}' })
  t.match(world.events.at(-1), { kind: 'operator-acted', from: '127.0.0.1', by: null })
  const refused = await post('/keys/other/try', own)
  t.match(refused, { status: 404, headers: { 'content-type': /^text\/html/ }, body: /Not done[^]*&lt;this&gt; name/ })
  for (const headers of [
    { ...page, origin: 'null' },
    { ...page, origin: 'http://evil.example' },
    { ...page, 'sec-fetch-site': 'cross-site' },
    { ...own, 'sec-fetch-site': 'same-site' },
  ])
    t.equal((await post('/keys/main/try', headers)).status, 403)
  t.equal((await post('/keys/main/try', { accept: 'text/html' })).status, 401)
  t.equal(tried.length, 2)
  const link = { authorization: 'Bearer secret', 'sec-fetch-site': 'cross-site' }
  t.equal((await ask('/status', { headers: link })).status, 200, 'a link from elsewhere leads to the page')
})

void t.test('more rows: a segment of the path, parameters, a body', async (t) => {
  const { ask, world } = await stage(
    t,
    { token: null },
    {
      routes: [
        { method: 'GET', path: '/requests/{id}', run: ({ segment, params }) => json({ segment, x: params.get('x') }) },
        { method: 'POST', path: '/cache/purge', run: async ({ body }) => json({ body }, 202) },
        {
          method: 'GET',
          path: '/',
          run: () => ({ status: 200, contentType: 'text/html', body: Buffer.from('<p>'), headers: ['X-A', 'b'] }),
        },
        {
          method: 'POST',
          path: '/reload',
          run: () => {
            throw new ProxyError('OVERLOADED', 'Not now.', { status: 409 })
          },
        },
        {
          method: 'GET',
          path: '/bug',
          run: () => {
            throw new Error('canary')
          },
        },
      ],
    },
  )
  t.has(await ask('/requests/a%20b?x=1'), { status: 200, body: '{"segment":"a b","x":"1"}' })
  for (const path of ['/requests/', '/requests', '/requests/a/b', '/requests/%zz'])
    t.equal((await ask(path)).status, 404)
  t.has(await ask('/cache/purge', { method: 'POST', body: '{"a":1}' }), { status: 202, body: '{"body":"{\\"a\\":1}"}' })
  t.has(await ask('/cache/purge', { method: 'POST' }), { status: 202, body: '{"body":""}' })
  t.equal((await ask('/cache/purge')).headers['allow'], 'POST')
  t.equal((await ask('/cache/purge', { method: 'POST', body: 'x'.repeat(65_537) })).status, 413)
  const page = await ask('/')
  t.has(page, { status: 200, body: '<p>' })
  t.equal(page.headers['x-a'], 'b')
  t.equal((await ask('/reload', { method: 'POST' })).status, 409)
  const bug = await ask('/bug')
  t.equal(bug.status, 500)
  t.notMatch(bug.body, /canary/)
  t.match(world.told('broke'), [{ where: 'admin', error: { message: 'canary' } }])
})

void t.test('a port that is taken is told', async (t) => {
  const { admin } = await stage(t)
  const parts = {
    ...fakeWorld(),
    ready: () => true,
    metrics: async () => ({ contentType: '', body: '' }),
    status: () => ({}),
  }
  const second = createAdmin({ host: '127.0.0.1', port: admin.port, token: null }, parts)
  await t.rejects(second.listen(), { code: 'EADDRINUSE' })
})

/** A57–A62: tokens, the admin port, what is logged and labelled, and what errors say. */
import crypto, { hash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import t from 'tap'
import { root, runProgram, startProxy } from '../support/process.ts'
import { request } from '../support/proxy.ts'
import { get, getOnce, httpOf, siege, TARGET } from '../support/siege.ts'

const TOKEN = 'token-of-team-one-0123456789'
const sha = (text: string): string => hash('sha256', text, 'hex')

void t.test('A57: tokens are compared by digest, in constant time, whatever their length', async (t) => {
  const { send } = await siege(
    t,
    `clients: { one: { tokenSha256: "${sha(TOKEN)}" } }\nadmin: { token: admin-token-0123456789 }`,
  )
  for (const token of ['', 'x', TOKEN.slice(0, -1), `${TOKEN}x`, TOKEN.toUpperCase(), 'x'.repeat(20_000), sha(TOKEN)]) {
    const peer = await send(getOnce(TARGET, `X-API-Key: ${token}\r\n`))
    t.same(peer.statuses(), [401], `A57 ${token.slice(0, 30)}`)
  }
  // How it is done is what can be checked without a stopwatch; `node test/attacks/token-timing.ts` has one.
  for (const file of ['src/http/clients.ts', 'src/http/admin.ts']) {
    const source = readFileSync(`${root}${file}`, 'utf8')
    t.match(source, /hash\('sha256', token/, `A57 ${file}: the digest first`)
    t.match(source, /timingSafeEqual\(/, `A57 ${file}: then a comparison in constant time`)
    t.notMatch(source, /token\s*===?\s*(?:options|config|secret)/, `A57 ${file}: and no other one`)
  }
  t.throws(
    () => crypto.timingSafeEqual(Buffer.from('a'), Buffer.from('ab')),
    'A57 which is why digests: lengths that differ throw',
  )
})

void t.test('A59: nothing of the admin port is on the public one', async (t) => {
  const { send, upstream, proxy } = await siege(t, 'admin: { token: admin-token-0123456789 }')
  for (const path of [
    '/metrics',
    '/admin',
    '/ready',
    '/readyz',
    '/healthz',
    '/status',
    '/requests/x',
    '/cache/purge',
    '/reload',
    '/debug',
    '/.env',
    '/robots.txt',
    '/favicon.ico',
  ])
    for (const method of ['GET', 'POST'])
      t.same(
        (
          await send(
            `${method} ${path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer admin-token-0123456789\r\nConnection: close\r\n\r\n`,
          )
        ).statuses(),
        [404],
        `A59 ${method} ${path}`,
      )
  for (const path of ['/metrics', '/status', '/', '/requests/x', '/cache/purge', '/reload'])
    for (const headers of [
      {},
      { authorization: 'Bearer wrong' },
      { authorization: 'Basic eDp5' },
      { authorization: `Bearer ${sha('admin-token-0123456789')}` },
    ])
      t.equal(
        (await proxy.admin(path, { headers, method: /purge|reload/.test(path) ? 'POST' : 'GET' })).status,
        401,
        `A59 ${path} without the token`,
      )
  t.equal(
    (
      await proxy.admin('/status', {
        headers: { host: 'evil.example', authorization: 'Bearer admin-token-0123456789' },
      })
    ).status,
    421,
    'A59 DNS rebinding',
  )
  t.equal(
    (
      await proxy.admin('/status', {
        headers: { origin: 'http://evil.example', authorization: 'Bearer admin-token-0123456789' },
      })
    ).status,
    403,
    'A59 a page of another origin',
  )
  t.equal(upstream.heard.length, 0)
})

void t.test('A60: labels stay few and lines stay lines, whatever is asked', async (t) => {
  const { send, proxy, upstream } = await siege(t, 'clients: { anonymous: {} }')
  const seriesOf = async (): Promise<number> =>
    (await proxy.admin('/metrics')).text.split('\n').filter((line) => line.startsWith('scrapellm_proxy_')).length
  const nasty = ['%0d%0a{"level":"fake"}', '%1b[31m', '%e2%80%a8', '%22%7d%0a', '%5c%22', '%f0%9f%92%a9', '%7f']
  const requests = nasty.flatMap((text) => [
    getOnce(
      `${TARGET}?prompt=${text}&${text}=${text}`,
      `X-Request-Id: a"b\\c'{}\r\nUser-Agent: \x1b[31m\r\n`.replace('\x1b', 'x'),
    ),
    getOnce(`${TARGET}?prompt=x&country=${text}`),
    `POST ${TARGET}/jobs?prompt=${text} HTTP/1.1\r\nHost: a\r\nIdempotency-Key: "${text}"\r\nConnection: close\r\n\r\n`,
  ])
  for (const bytes of requests) await send(bytes)
  const before = await seriesOf()
  for (let at = 0; at < 400; at++) {
    const five = [
      `/path-${at}`,
      `/scrapers/s-${at}?prompt=x`,
      `/jobs/job-${at}`,
      `${TARGET}?prompt=p-${at}&p-${at}=1`,
      `${TARGET}?prompt=x&country=c-${at}`,
    ]
    await Promise.all(five.map((target) => proxy.ask(target)))
  }
  t.ok(
    (await seriesOf()) - before <= 60,
    'A60 2 000 distinct paths, scrapers, jobs and countries make no series of their own',
  )
  const lines = proxy.output().split('\n').filter(Boolean)
  for (const line of lines) if (!/^\{[\x20-\x7e\x80-\uffff]*\}$/.test(line)) t.fail(`A60 ${JSON.stringify(line)}`)
  t.notOk(
    lines.some((line) => (JSON.parse(line) as { level?: string }).level === 'fake'),
    'A60 no line of a caller',
  )
  const page = (await proxy.admin('/', { headers: { accept: 'text/html' } })).text
  t.notMatch(page, /a"b\\c|<script[^>]*>[^<]*fake|\p{Cc}(?<![\n\r\t])/u, 'A60 and the page escapes what it shows')
  t.ok(upstream.heard.length > 0)
})

void t.test('A61: errors tell a code, and no host, stack, key or prompt', async (t) => {
  const secret = 'canary-key-0123456789'
  const hosts = ['https://canary-host.invalid', 'https://127.0.0.1:1', 'http://127.0.0.1:1']
  for (const url of hosts) {
    const proxy = await startProxy(t, url, ['retry.attempts=1', 'cache.disk=false'], { SCRAPELLM_API_KEY: secret })
    const { status, text, headers } = await request(undefined, `${proxy.url}${TARGET}?prompt=canary-prompt`)
    t.equal(status, 504, `A61 ${url}`)
    t.match(headers['content-type'], /problem\+json/)
    t.notMatch(
      text + JSON.stringify(headers),
      /canary|ENOTFOUND|ECONNREFUSED|ssl|127\.0\.0\.1|\.ts:|node:|\bat\b.*\(/i,
      `A61 ${url}: nothing of it is told`,
    )
    t.notMatch(proxy.stdout() + proxy.stderr(), /canary-(?:key|prompt)/)
  }
  const port = new URL(
    (await startProxy(t, 'http://127.0.0.1:1', ['cache.disk=false'], { SCRAPELLM_API_KEY: secret })).url,
  ).port
  const tls = await startProxy(t, `https://127.0.0.1:${port}`, ['retry.attempts=1', 'cache.disk=false'], {
    SCRAPELLM_API_KEY: secret,
  })
  const failed = await request(undefined, `${tls.url}${TARGET}?prompt=canary-prompt`)
  t.equal(failed.status, 504, 'A61 TLS to a port that speaks plain HTTP')
  t.notMatch(failed.text, /canary|ssl|EPROTO|wrong version/i)
  const bad = await runProgram(
    t,
    ['check', '--set', `upstream.url=https://user:${secret}@x/y`, '--set', 'cache.ttl=never'],
    { environment: { SCRAPELLM_API_KEY: secret } },
  )
  t.equal(bad.code, 78, 'A61 wrong settings')
  t.notMatch(bad.stdout + bad.stderr, /canary|\bat .*\.ts/)
})

void t.test('A62: a job is its owner’s', async (t) => {
  const two = 'token-of-team-two-0123456789'
  const { proxy, upstream, send } = await siege(
    t,
    `clients: { one: { tokenSha256: "${sha(TOKEN)}" }, two: { tokenSha256: "${sha(two)}" } }`,
  )
  const id = '5c0d9c1e-8d57-4b6e-9a55-0f3a6f1f2b10'
  upstream.answer(({ method }) =>
    method === 'POST'
      ? httpOf(`{"job_id":"${id}","status":"pending"}`, { status: '202 Accepted' })
      : httpOf(`{"job_id":"${id}","status":"pending","prompt":"canary-prompt"}`),
  )
  const submitted = await proxy.ask(`${TARGET}/jobs?prompt=x`, { method: 'POST', headers: { 'x-api-key': TOKEN } })
  t.equal(submitted.status, 202)
  for (const spelled of [id, id.toUpperCase(), id.replaceAll('-', ''), id.replaceAll('-', '_')]) {
    t.equal(
      (await proxy.ask(`/jobs/${spelled}`, { headers: { 'x-api-key': two } })).status,
      404,
      `A62 ${spelled} of another client`,
    )
    t.equal((await proxy.ask(`/jobs/${spelled}`)).status, 401, `A62 ${spelled} without a token`)
  }
  t.notOk(
    upstream.heard.some(({ target }) => target.replaceAll(/[-_]/g, '').includes(id.replaceAll('-', ''))),
    'A62 and upstream is not asked for it',
  )
  const own = await proxy.ask(`/jobs/${id}`, { headers: { 'x-api-key': TOKEN } })
  t.equal(own.status, 200)
  t.match(own.headers['cache-control'], /no-store/, 'A62 not for keeping while it is pending')
  t.notOk(
    upstream.heard.some(
      ({ target, headers }) => target.startsWith('/jobs/') && headers.some(([name]) => name === 'x-api-key'),
    ),
    'A62 a poll carries no key',
  )
  for (const guess of ['0', 'x'.repeat(128), '../x', 'x%2f..', 'x?y#z', '*'])
    await send(get(`/jobs/${guess}`, `X-API-Key: ${two}\r\nConnection: close\r\n`))
  t.notOk(proxy.output().includes(id), 'A62 no whole id in a log')
  t.notMatch(proxy.output(), /canary-prompt/)
})

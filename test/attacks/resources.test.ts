/** A63–A72: input that is dear to read, names that are traps, callers who leave at the worst moment. */
import t from 'tap'
import { loadConfig } from '../../src/config/load.ts'
import { request } from '../support/proxy.ts'
import { answerOf, deviations, get, getOnce, httpOf, openPeer, siege, TARGET } from '../support/siege.ts'

void t.test('A63: long runs of one character are read in one go', async (t) => {
  const { send, upstream } = await siege(t, 'clients: { anonymous: {} }')
  const long = (text: string): string => text.repeat(Math.floor(50_000 / text.length))
  const headers = [
    'Cache-Control',
    'Prefer',
    'If-None-Match',
    'Authorization',
    'X-Request-Id',
    'Idempotency-Key',
    'traceparent',
    'Host2',
    'X-Request-Timeout',
    'Pragma',
  ]
  const runs = [' ', '/', ',', '=', '"', ';', '\t', 'a', 'W/"', 'max-age=1,', 'Bearer ', '\\"', '1']
  const rows = [
    ...headers.flatMap((name) => runs.map((run) => get(TARGET, `${name}: x${long(run)}y\r\nConnection: close\r\n`))),
    ...['/', '%2e', '.', ';', '%41', 'a/', '/./'].map((run) => getOnce(`/${long(run)}`)),
    ...['&', '=', '+', '%41', 'a=&', ';', '%20'].map((run) => getOnce(`${TARGET}?${long(run)}`)),
    ...[':', '.', '-', '[', 'a.'].map(
      (run) => `GET ${TARGET} HTTP/1.1\r\nHost: ${long(run)}\r\nConnection: close\r\n\r\n`,
    ),
  ]
  const startedAt = process.cpuUsage()
  for (const row of rows) t.match((await send(row)).statuses().join(), /^(?:200|4\d\d)$/, `A63 ${row.slice(0, 40)}`)
  const { user } = process.cpuUsage(startedAt)
  // Quadratic reading of one such run takes seconds; no threshold for machines that are merely slow.
  t.comment(
    `A63: ${rows.length} runs of 50 kB, ${(user / 1000 / rows.length).toFixed(1)} ms of CPU each, client and server`,
  )
  t.same(
    upstream.heard.flatMap((one) => deviations(one, upstream.host)),
    [],
  )
})

void t.test('A64: JSON that is deep, wide, or made to collide', async (t) => {
  const { proxy, upstream } = await siege(
    t,
    'retry: { attempts: 1 }\nbreaker: { hold: 0s, consecutive: 10000, window: 1000, minimum: 1000, failureRate: 1 }',
  )
  const integers = Array.from({ length: 100_000 }, (_, at) => `"${at * 65_536}":0`).join(',')
  const rows: readonly (readonly [id: string, body: string, status: number])[] = [
    ['100 000 deep', `{"status":"done","result":"x","deep":${'['.repeat(100_000)}${']'.repeat(100_000)}}`, 200],
    ['100 000 objects deep', `${'{"a":'.repeat(100_000)}1${'}'.repeat(100_000)}`, 200],
    ['never closed', '['.repeat(1_000_000), 502],
    ['a million elements', `{"status":"done","result":"x","list":[${'0,'.repeat(999_999)}0]}`, 200],
    ['integer keys', `{"status":"done","result":"x",${integers}}`, 200],
    ['a key of 1 MB', `{"status":"done","result":"x","${'k'.repeat(1_000_000)}":1}`, 200],
    ['deep detail', `{"detail":${'['.repeat(50_000)}"credit"${']'.repeat(50_000)}}`, 200],
    ['beyond 16 MiB', `{"status":"done","result":"${'x'.repeat(17 * 1_048_576)}"}`, 502],
  ]
  for (const [id, body, status] of rows) {
    upstream.answer((_, socket) => {
      socket.on('error', () => undefined)
      return httpOf(body)
    })
    for (const turn of ['from upstream', 'again'])
      t.equal((await proxy.ask(`A64 ${id}`)).status, status, `A64 ${id}, ${turn}`)
  }
  const purges = [
    '['.repeat(60_000),
    '{"a":'.repeat(10_000),
    '{"scraper":{"a":1}}',
    '{"olderThan":[[]]}',
    '[]',
    'null',
    '1',
    `{"prompt":${JSON.stringify('x'.repeat(60_000))}}`,
  ]
  for (const body of purges) {
    const { status } = await proxy.admin('/cache/purge', { method: 'POST', body })
    t.ok(status === 200 || status === 400, `A64 purge ${body.slice(0, 20)}: ${status}`)
  }
  t.equal(
    (await proxy.admin('/cache/purge', { method: 'POST', body: 'x'.repeat(70_000) })).status,
    413,
    'A64 a body beyond 64 KiB',
  )
  t.notMatch(proxy.output(), /"level":"error"/)
})

void t.test('A70: upstream is never a place by mistake', async (t) => {
  const load = (url: string, environment: Record<string, string> = {}): unknown =>
    loadConfig(
      [{ name: 'a.yaml', text: `upstream: { url: "${url}" }` }],
      [],
      { SCRAPELLM_API_KEY: 'key', ...environment },
      () => '',
    )
  const urls = [
    'http://192.0.2.1',
    'http://169.254.169.254',
    'https://169.254.169.254',
    'http://[fd00:ec2::254]',
    'http://metadata.google.internal',
    'http://2852039166',
    'http://0xa9fea9fe',
    'http://169.254.169.254.',
    'https://[::ffff:169.254.169.254]',
    'ftp://x',
    'https://user:pw@x',
    'https://x/path',
    'file:///etc/passwd',
    'javascript:1',
  ]
  for (const url of urls) t.throws(() => load(url), { name: 'ConfigError', message: /^upstream\.url: / }, `A70 ${url}`)
  for (const url of ['https://x', 'http://127.0.0.1:1', 'http://localhost:1'])
    t.doesNotThrow(() => load(url), `A70 ${url} is one`)
  const insecure = { NODE_TLS_REJECT_UNAUTHORIZED: '0' }
  t.throws(() => load('https://x', insecure), /NODE_TLS_REJECT_UNAUTHORIZED/, 'A70 the check of certificates stays on')
})

void t.test('A71: headers named like members of prototypes', async (t) => {
  const { send, upstream, proxy } = await siege(t)
  for (const name of [
    '__proto__',
    'constructor',
    'prototype',
    'toString',
    'hasOwnProperty',
    'valueOf',
    '__defineSetter__',
  ]) {
    t.same((await send(getOnce(TARGET, `${name}: x\r\n${name}: y\r\n`))).statuses(), [200], `A71 ${name}`)
    const admin = await openPeer(Number(new URL(proxy.adminUrl).port))
    admin.socket.write(
      `GET /healthz HTTP/1.1\r\nHost: localhost\r\n${name}: x\r\n${name}: y\r\nConnection: close\r\n\r\n`,
    )
    await admin.closed
    t.same(admin.statuses(), [200], `A71 ${name} on the admin port`)
    upstream.answer(() => httpOf(answerOf(''), { headers: `${name}: x\r\n${name}: y\r\n` }))
  }
  t.same(
    upstream.heard.flatMap((one) => deviations(one, upstream.host)),
    [],
  )
})

void t.test(
  'A72: whoever leaves, whenever: one charge at most, the answer is kept, nothing is left over',
  async (t) => {
    const at = await siege(t, 'clients: { anonymous: { credits: { perDay: 1000, perMonth: 1000 }, concurrency: 50 } }')
    const { proxy, upstream, open } = at
    const gauge = async (name: string): Promise<number> =>
      Object.values(await proxy.metric(name)).reduce((all, one) => all + one, 0)
    const phases = [
      'at once',
      'half a request',
      'as upstream hears of it',
      'half an answer of upstream',
      'as it answers',
    ] as const
    for (const [index, phase] of phases.entries()) {
      const prompt = `A72-${index}`
      const arrived = Promise.withResolvers<void>()
      const finish = Promise.withResolvers<void>()
      const whole = httpOf(answerOf(prompt))
      upstream.answer((_, socket) => {
        if (phase === 'half an answer of upstream') socket.write(whole.subarray(0, 120))
        arrived.resolve()
        void finish.promise.then(() =>
          socket.write(phase === 'half an answer of upstream' ? whole.subarray(120) : whole),
        )
        return null
      })
      const peer = await open()
      const bytes = get(`${TARGET}?prompt=${prompt}`)
      peer.socket.write(phase === 'half a request' ? bytes.slice(0, 30) : bytes)
      if (index >= 2) await arrived.promise
      if (phase === 'as it answers') finish.resolve()
      peer.socket.resetAndDestroy()
      await peer.closed
      finish.resolve()
      // Whatever has become of it, the same question is answered now, and paid for once in all.
      const again = await proxy.ask(prompt)
      t.match(again.text, new RegExp(`answer to ${prompt}"`), `A72 ${phase}`)
      t.equal(upstream.heard.filter(({ target }) => target.endsWith(prompt)).length, 1, `A72 ${phase}: asked once`)
      if (index >= 2) t.match(again.headers['x-proxy-credits'], /^0$/, `A72 ${phase}: paid for before`)
    }
    t.equal(await gauge('credits_spent_total'), 3 * phases.length)
    for (const name of ['upstream_in_flight', 'ledger_imbalance_credits']) t.equal(await gauge(name), 0, `A72 ${name}`)
    const status = (await proxy.admin('/status')).json as {
      open_requests: number
      flights: unknown[]
      budgets: { held: number }[]
      clients: { open_questions: number }[]
    }
    t.same(
      [
        status.open_requests,
        status.flights.length,
        ...status.budgets.map(({ held }) => held),
        ...status.clients.map(({ open_questions: n }) => n),
      ],
      [0, 0, 0, 0, 0],
      'A72 nothing open, nothing held',
    )
    t.equal((await request(undefined, `${proxy.adminUrl}/readyz`)).status, 200)
  },
)

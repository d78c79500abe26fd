/**
 * Money for the office: the account as a whole, top-ups, corrections, tokens that expire, webhooks, and a report whose sum is that of
 * an independent ledger, the vendor's.
 */
import { createHmac, hash } from 'node:crypto'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createSimulator, instant } from '../../src/simulator/simulator.ts'
import { aFleet } from '../support/fleet.ts'
import { runProgram, startProxy, type Running } from '../support/process.ts'
import { type Answer, aProxy, request } from '../support/proxy.ts'
import { startRedis, until } from '../support/redis.ts'

const TEAM = { headers: { 'x-api-key': 'team-token-0123456789' } }
const BOSS = { headers: { 'x-api-key': 'boss-token-0123456789' } }

function people(team: string, more = ''): string {
  return `
clients:
  anonymous: {}
  team: { token: team-token-0123456789, ${team} }
  boss: { token: boss-token-0123456789, mayUseReserve: true }
${more}`
}

void t.test(
  'upstream.credits limits all clients together; the reserve is for clients with mayUseReserve',
  async (t) => {
    const { ask, admin, sim, metric } = await aProxy(
      t,
      people('', 'upstream: { credits: { perDay: 12, perMonth: 100, reserve: 6 } }'),
    )
    t.equal((await ask('one', TEAM)).status, 200)
    t.equal((await ask('two')).status, 200)
    t.match(await ask('three', TEAM), {
      status: 429,
      json: { code: 'BUDGET_EXHAUSTED', detail: /all clients together/ },
    })
    t.equal((await ask('one', TEAM)).headers['x-proxy-credits'], '0', 'cached answers are still served')
    t.equal((await ask('three', BOSS)).status, 200)
    t.match((await admin('/status')).json, {
      account: [
        { period: 'day', limit: 12, spent: 9, left: 3 },
        { period: 'month', limit: 100, spent: 9, left: 91 },
      ],
      budgets: [],
    })
    t.same(await metric('credits_account_remaining'), { 'period="day"': 3, 'period="month"': 91 })
    t.equal((await ask('four', BOSS)).status, 200)
    t.match(await ask('five', BOSS), { status: 429, json: { code: 'BUDGET_EXHAUSTED' } })
    t.equal(sim.ledger.total(), 12)
  },
)

void t.test(
  'over Redis, upstream.credits limits all replicas together, also after Redis has lost everything',
  async (t) => {
    const redis = await startRedis(t)
    const { ask, sim, replicas } = await aFleet(t, 2, [
      `redis.url=${redis.url}`,
      // On a busy machine a reply may take longer than the 250 ms that are usual: that is not what is asked here.
      'redis.timeout=3s',
      'upstream.credits={ perDay: 60, reserve: 15 }',
      'clients.boss={ token: boss-token-0123456789, mayUseReserve: true }',
      'retry.attempts=1',
    ])
    let question = 0
    const work = async (worker: number, headers: Record<string, string>, most: number): Promise<void> => {
      for (let refused = 0, asked = 0; refused < 3 && asked < most; asked += 1) {
        const { status, json } = await ask(worker, `question ${(question += 1)}`, headers)
        if (json['code'] === 'BUDGET_UNAVAILABLE') continue
        refused = status === 429 ? refused + 1 : 0
      }
    }
    const workAll = async (headers: Record<string, string>, most = Number.POSITIVE_INFINITY): Promise<void> => {
      await Promise.all([0, 1, 2, 3].map((worker) => work(worker, headers, most)))
      // What was held for the last calls, when others were refused, is there again.
      if (most === Number.POSITIVE_INFINITY) await work(0, headers, most)
    }
    await workAll(TEAM.headers, 2)
    t.equal(sim.ledger.total(), 24)
    await redis.kill()
    await Promise.all(replicas.map((replica) => replica.saw(/redis lost/)))
    await redis.restart()
    await Promise.all(replicas.map((replica) => replica.saw(/redis lost[^]*redis is up/)))
    await workAll(TEAM.headers)
    t.equal(sim.ledger.total(), 45, 'the reserve is left')
    t.match(await ask(1, 'one more', TEAM.headers), { json: { detail: /all clients together/ } })
    await workAll(BOSS.headers)
    t.equal(sim.ledger.total(), 60)
    t.match((await request(undefined, `${replicas[0]?.adminUrl}/status`)).json, {
      account: [{ period: 'day', limit: 60, left: 0, held: 0, spent: 60 }],
    })
  },
)

void t.test('a top-up counts until its date, and takes effect on reload', async (t) => {
  const proxy = await aProxy(t, people('credits: { perMonth: 3 }'))
  t.equal((await proxy.ask('one', TEAM)).status, 200)
  t.match(await proxy.ask('two', TEAM), { status: 429, json: { code: 'BUDGET_EXHAUSTED' } })
  const tomorrow = new Date(proxy.clock.wall() + 86_400_000).toISOString().slice(0, 10)
  proxy.write(people(`credits: { perMonth: 3 }, topUp: { credits: 5, until: ${tomorrow} }`))
  t.equal((await proxy.admin('/reload', { method: 'POST' })).status, 200)
  t.equal((await proxy.ask('two', TEAM)).status, 200)
  t.match((await proxy.admin('/status')).json, { budgets: [{ client: 'team', limit: 8, spent: 6 }] })
})

void t.test('an operator corrects a budget, and the audit file records it', async (t) => {
  const path = join(t.testdir({}), 'audit.ndjson')
  const { ask, admin, lines } = await aProxy(t, people('credits: { perMonth: 6 }', `audit: { path: ${path} }`))
  await ask('one', TEAM)
  await ask('two', TEAM)
  t.equal((await ask('three', TEAM)).status, 429)
  const correct = (client: string, body: string) => admin(`/clients/${client}/credits`, { method: 'POST', body })
  t.match((await correct('team', '{"spent": 3}')).json, { client: 'team', before: 6, spent: 3 })
  t.equal((await ask('three', TEAM)).status, 200)
  t.equal((await ask('four', TEAM)).status, 429)
  for (const body of ['', '{}', '{"spent":-1}', '{"spent":1.5}', '{"spent":"1"}', '{"spent":1,"x":2}', 'null'])
    t.match(await correct('team', body), { status: 400, json: { code: 'REQUEST_INVALID' } }, body)
  t.equal((await correct('nobody', '{"spent": 3}')).status, 404)
  t.match(
    lines().filter(({ msg }) => msg === 'credits of a client corrected'),
    [{ client: 'team', before: 6, spent: 3 }],
  )
  t.match((await admin('/report')).json, { total: { spent: 9, corrected: -3 } })
})

void t.test('tokens can expire; /status shows when each was last used', async (t) => {
  const sha256 = (token: string): string => hash('sha256', token)
  const { ask, admin, metric, clock } = await aProxy(
    t,
    `clients:
  team:
    tokenSha256:
      - { sha256: ${sha256('old-token-0123456789')}, expires: 2020-01-31 }
      - { sha256: ${sha256('new-token-0123456789')}, expires: 2999-01-31 }
      - ${sha256('idle-token-0123456789')}`,
  )
  const by = (token: string) => ask('one', { headers: { 'x-api-key': token } })
  t.match(await by('old-token-0123456789'), { status: 401, json: { code: 'CLIENT_UNKNOWN', detail: /expired/ } })
  t.equal((await by('new-token-0123456789')).status, 200)
  const [first, second, third] = ['old', 'new', 'idle'].map((name) => sha256(`${name}-token-0123456789`).slice(0, 6))
  const { clients } = (await admin('/status')).json as { clients: [{ tokens: { last_used_at: string }[] }] }
  t.match(clients[0].tokens, [
    { token: `1 ${first}`, last_used_at: null, expires_at: '2020-01-31T00:00:00.000Z' },
    { token: `2 ${second}`, last_used_at: String, expires_at: '2999-01-31T00:00:00.000Z' },
    { token: `3 ${third}`, last_used_at: null, expires_at: null },
  ])
  const seconds = await metric('client_token_last_used_timestamp_seconds')
  t.equal(seconds[`client="team",token="1 ${first}"`], 0)
  t.ok(Math.abs((seconds[`client="team",token="2 ${second}"`] ?? 0) - clock.wall() / 1000) < 60)
  const page = await admin('/', { headers: { accept: 'text/html' } })
  t.match(page.text, new RegExp(`2 ${second}: used`))
  t.match(page.text, /expired 2020-01-31/)
})

// Webhooks

interface Received {
  readonly headers: IncomingMessage['headers']
  readonly body: string
}

async function aHook(t: Test, statuses: readonly number[] = []) {
  const received: Received[] = []
  const waiting: (() => void)[] = []
  const server = createServer((incoming, outgoing) => {
    let body = ''
    incoming.on('data', (chunk: Buffer) => (body += chunk.toString()))
    incoming.on('end', () => {
      const status = statuses[received.length] ?? 200
      received.push({ headers: incoming.headers, body })
      outgoing.writeHead(status, status === 302 ? { location: 'http://127.0.0.1:1/' } : {}).end('ok')
      for (const look of waiting.splice(0)) look()
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => new Promise((resolve) => server.close(resolve)))
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}/hook`,
    received,
    count: async (wanted: number) => {
      while (received.length < wanted) await new Promise<void>((resolve) => waiting.push(resolve))
      return received.map(({ body }) => JSON.parse(body) as Record<string, unknown>)
    },
  }
}

void t.test('budget notifications at 50, 80, 95 and 100 %: signed, once each', async (t) => {
  const hook = await aHook(t)
  const settings = people(
    'credits: { perDay: 30 }',
    `notify: [{ url: "${hook.url}", secret: secret-of-the-hook, on: [budget] }]`,
  )
  const { ask } = await aProxy(t, settings)
  for (let i = 0; i < 10; i += 1) t.equal((await ask(`q${i}`, TEAM)).status, 200)
  const told = await hook.count(4)
  t.match(
    told.toSorted((a, b) => Number(a['percent']) - Number(b['percent'])),
    [50, 80, 95, 100].map((percent) => ({
      id: String,
      event: 'budget',
      at: /^\d{4}-\d\d-\d\dT/,
      text: new RegExp(`Client team has spent ${percent} % of its credits`),
      client: 'team',
      period: 'day',
      percent,
      limit: 30,
    })),
  )
  for (const { headers, body } of hook.received) {
    t.equal(
      headers['x-proxy-signature'],
      `sha256=${createHmac('sha256', 'secret-of-the-hook').update(body).digest('hex')}`,
    )
    t.equal(headers['content-type'], 'application/json; charset=utf-8')
  }
  t.equal(new Set(told.map(({ id }) => id)).size, 4)
  t.equal(hook.received.length, 4)
})

void t.test(
  'a hook that fails, or sends elsewhere, is tried again with back-off and not followed; nobody waits for it',
  async (t) => {
    const hook = await aHook(t, [500, 302])
    const { admin, clock, write, metric } = await aProxy(t, `notify: [{ url: "${hook.url}", on: [reload] }]\n`)
    write(`notify: [{ url: "${hook.url}", on: [reload] }]\nbreaker: { window: 60 }\n`)
    t.equal((await admin('/reload', { method: 'POST' })).status, 200)
    await hook.count(1)
    t.equal(hook.received[0]?.headers['x-proxy-signature'], undefined, 'nothing to sign with')
    for (let count = 2; count <= 3; count += 1) {
      // The answer is here before the pause has begun.
      while (clock.timers < 1 || hook.received.length < count) {
        clock.skip(5_000)
        await new Promise(setImmediate)
      }
    }
    const [first, second, third] = await hook.count(3)
    t.equal(first?.['id'], third?.['id'])
    t.equal(first?.['id'], second?.['id'])
    while ((await metric('notifications_total'))['outcome="delivered"'] !== 1) await new Promise(setImmediate)
    t.equal(hook.received.length, 3)
  },
)

void t.test('undelivered notifications are sent after a restart, delivered ones are not repeated', async (t) => {
  const sim = createSimulator({ latency: instant })
  const { url } = await sim.start()
  t.teardown(() => sim.close())
  const hook = await aHook(t, [500])
  const sets = [
    `cache.disk.path=${join(t.testdir({}), 'cache.db')}`,
    'clients.team={ token: team-token-0123456789, credits: { perDay: 6 } }',
    `notify=[{ url: "${hook.url}", on: [budget] }]`,
  ]
  const askOf = (proxy: Running, prompt: string) =>
    request(undefined, `${proxy.url}/scrapers/chatgpt?prompt=${prompt}`, TEAM)
  const first = await startProxy(t, url, sets)
  await askOf(first, 'one')
  const [told] = await hook.count(1)
  first.signal('SIGKILL')
  await first.ended
  const second = await startProxy(t, url, sets)
  const [, again] = await hook.count(2)
  t.match(again, { id: told?.['id'], percent: 50 })
  await askOf(second, 'two')
  t.same(
    (await hook.count(5))
      .slice(2)
      .map(({ percent }) => percent)
      .toSorted((a, b) => Number(a) - Number(b)),
    [80, 95, 100],
  )
})

void t.test('a webhook URL must be https or loopback', async (t) => {
  for (const url of ['http://example.com/hook', 'http://169.254.169.254/latest', 'ftp://127.0.0.1/', 'nonsense']) {
    const checked = await runProgram(t, ['check', '--set', `notify=[{ url: "${url}" }]`], {
      environment: { SCRAPELLM_API_KEY: 'k' },
    })
    t.equal(checked.code, 78, url)
    t.match(checked.stderr, /notify.*https/)
  }
  const fine = await runProgram(t, ['check', '--set', 'notify=[{ url: "https://hooks.example.com/T0/secret-path" }]'], {
    environment: { SCRAPELLM_API_KEY: 'k' },
  })
  t.equal(fine.code, 0, fine.stderr)
  t.notMatch(fine.stdout, /secret-path/)
})

// The report

type Row = Readonly<Record<string, string>>

function rowsIn(csv: string): Row[] {
  const [header = '', ...lines] = csv.trimEnd().split('\r\n')
  const names = header.split(',')
  return lines.map((line) => Object.fromEntries(line.split(',').map((cell, at) => [names[at] ?? '', cell])))
}

const sumOf = (rows: readonly Row[], name: string): number => rows.reduce((sum, row) => sum + Number(row[name]), 0)

void t.test(
  'the report of a month balances with the ledger of upstream, after kills, refunds and a correction',
  async (t) => {
    const sim = createSimulator({ latency: instant })
    const { url } = await sim.start()
    t.teardown(() => sim.close())
    const settings = [
      `cache.disk.path=${join(t.testdir({}), 'cache.db')}`,
      'clients.anonymous={}',
      'clients.team={ token: team-token-0123456789, credits: { perMonth: 1000 } }',
      'price={ credit: 0.5, currency: EUR }',
      'retry.attempts=1',
    ]
    const ask = (proxy: Running, path: string, asking = {}): Promise<Answer | null> =>
      request(undefined, proxy.url + path, asking).catch(() => null)
    let cut = 0
    for (let life = 0; life < 3; life += 1) {
      const proxy = await startProxy(t, url, settings)
      for (let i = 0; i < 4; i += 1) {
        await ask(proxy, `/scrapers/chatgpt?prompt=${life}-${i}`, TEAM)
        await ask(proxy, `/scrapers/chatgpt?prompt=${life}-${i}`)
      }
      sim.script({ prompt: `unclear-${life}` }, ['reset-after-charge'])
      await ask(proxy, `/scrapers/grok?prompt=unclear-${life}`, TEAM)
      sim.script({ prompt: `job-${life}`, call: 'submit' }, ['failed'])
      const submitted = await ask(proxy, `/scrapers/gemini/jobs?prompt=job-${life}`, { method: 'POST', ...TEAM })
      t.match(await ask(proxy, `/jobs/${String(submitted?.json['job_id'])}`, TEAM), { json: { status: 'failed' } })
      sim.script({ prompt: `cut-${life}` }, ['hold'])
      const held = sim.requests.length + 1
      const lost = ask(proxy, `/scrapers/chatgpt?prompt=cut-${life}`, TEAM)
      await sim.received(held)
      proxy.signal('SIGKILL')
      await proxy.ended
      t.equal(await lost, null)
      cut += 1
    }
    sim.release()
    const last = await startProxy(t, url, settings)
    await ask(last, '/scrapers/chatgpt?prompt=0-0')
    const month = new Date().toISOString().slice(0, 7)
    const { text } = await request(undefined, `${last.adminUrl}/report?month=${month}&format=csv`)
    const rows = rowsIn(text)
    const charged = sim.ledger.entries
      .filter(({ state }) => state === 'charged')
      .reduce((sum, { credits }) => sum + credits, 0)
    const refunded = sim.ledger.entries
      .filter(({ state }) => state === 'refunded')
      .reduce((sum, { credits }) => sum + credits, 0)
    t.equal(sumOf(rows, 'spent') - sumOf(rows, 'refunded') + 0, 3 * 4 * 3, 'what was certainly charged')
    t.equal(sumOf(rows, 'refunded'), 3 * 3)
    t.equal(sumOf(rows, 'uncertain'), (3 + cut) * 3, 'what was cut off, on the wire or by a kill')
    t.ok(charged + refunded >= sumOf(rows, 'spent'))
    t.ok(charged + refunded <= sumOf(rows, 'spent') + sumOf(rows, 'uncertain'))
    t.equal(sumOf(rows, 'cost'), (sumOf(rows, 'spent') + sumOf(rows, 'uncertain') - sumOf(rows, 'refunded')) / 2)
    t.equal(
      sumOf(rows, 'saved_hit') <= (3 * 4 + 1) * 3 && sumOf(rows, 'saved_hit') >= 3,
      true,
      'hits of the last seconds of a life may be missing',
    )
    t.match(
      rows.find(({ client, scraper }) => client === 'team' && scraper === 'gemini'),
      { key: 'main', spent: '9', refunded: '9' },
    )
    const { json } = await request(undefined, `${last.adminUrl}/status`)
    const budgets = json['budgets'] as readonly { readonly spent: number }[]
    const own = rows.filter(({ client }) => client === 'team')
    t.equal(
      budgets[0]?.spent,
      sumOf(own, 'spent') + sumOf(own, 'uncertain') - sumOf(own, 'refunded'),
      'the budget is the same sum',
    )

    const environment = { SCRAPELLM_API_KEY: 'upstream-key-of-the-tests' }
    const args = ['report', '--month', month, ...settings.flatMap((one) => ['--set', one])]
    const adminPort = new URL(last.adminUrl).port
    const asked = await runProgram(t, [...args, '--set', `admin.port=${adminPort}`], { environment })
    t.equal(asked.code, 0, asked.stderr)
    t.same(rowsIn(asked.stdout), rows, 'the command asks the proxy that runs')
    last.signal('SIGTERM')
    await last.ended
    const read = await runProgram(t, [...args, '--format', 'json', '--set', `admin.port=${adminPort}`], { environment })
    t.equal(read.code, 0, read.stderr)
    t.match(JSON.parse(read.stdout), {
      month,
      price: { credit: 0.5, currency: 'EUR' },
      total: { spent: sumOf(rows, 'spent') },
    })
  },
)

void t.test('report rejects wrong parameters with a reason', async (t) => {
  const { admin, ask } = await aProxy(t, people(''))
  for (const query of ['month=2026-13', 'month=x', 'format=xml'])
    t.match(await admin(`/report?${query}`), { status: 400, json: { code: 'REQUEST_INVALID' } }, query)
  await ask('one', TEAM)
  await ask('one', TEAM)
  t.match((await admin('/report')).json, {
    price: null,
    rows: [
      { client: 'team', scraper: 'chatgpt', key: 'main', requests: 1, spent: 3 },
      { client: 'team', scraper: 'chatgpt', key: 'none', requests: 1, saved_hit: 3 },
    ],
    total: { requests: 2, spent: 3, saved_hit: 3 },
  })
  t.equal((await admin('/report?month=2020-01&format=csv')).text.split('\r\n').length, 2, 'only the header')
})

void t.test(
  'over Redis, the report of all replicas balances with the ledger of upstream, after a kill, refunds and a failure on the wire',
  async (t) => {
    const redis = await startRedis(t)
    const { ask, sim, replicas } = await aFleet(t, 2, [
      `redis.url=${redis.url}`,
      'redis.timeout=3s',
      'clients.team.credits={ perMonth: 1000 }',
      'retry.attempts=1',
    ])
    const [first, second] = replicas as [Running, Running]
    for (const replica of [0, 1]) {
      for (let i = 0; i < 4; i += 1) {
        await ask(replica, `question ${replica}-${i}`, TEAM.headers)
        await ask(1 - replica, `question ${replica}-${i}`)
      }
      sim.script({ prompt: `unclear ${replica}` }, ['reset-after-charge'])
      await ask(replica, `unclear ${replica}`, TEAM.headers)
      const { url } = replica === 0 ? first : second
      sim.script({ prompt: `job ${replica}`, call: 'submit' }, ['failed'])
      const submitted = await request(undefined, `${url}/scrapers/gemini/jobs?prompt=job%20${replica}`, {
        method: 'POST',
        ...TEAM,
      })
      const poll = await request(undefined, `${url}/jobs/${String(submitted.json['job_id'])}`, TEAM)
      t.match(poll, { json: { status: 'failed' } })
    }
    const report = async (): Promise<Row[]> =>
      rowsIn((await request(undefined, `${second.adminUrl}/report?format=csv`)).text)
    // Sums are written once a second: what the first has not written when it is killed would count as perhaps charged, too.
    await until(async () => sumOf(await report(), 'spent') === 30 && sumOf(await report(), 'refunded') === 6)
    sim.script({ prompt: 'cut' }, ['hold'])
    const lost = ask(0, 'cut', TEAM.headers).catch(() => null)
    await sim.received(1, { prompt: 'cut' })
    first.signal('SIGKILL')
    await first.ended
    t.equal(await lost, null)
    sim.release()
    await sim.idle()

    // What was under way when a replica was killed counts as perhaps charged once its session has ended.
    await until(async () => sumOf(await report(), 'uncertain') === 9)
    const rows = await report()
    const creditsOf = (wanted: string): number =>
      sim.ledger.entries.filter(({ state }) => state === wanted).reduce((sum, { credits }) => sum + credits, 0)
    t.equal(sumOf(rows, 'spent'), 2 * 4 * 3 + 2 * 3, 'answers and jobs')
    t.equal(sumOf(rows, 'refunded'), 2 * 3)
    t.equal(creditsOf('refunded'), 2 * 3)
    t.ok(creditsOf('charged') >= sumOf(rows, 'spent') - sumOf(rows, 'refunded'))
    t.ok(creditsOf('charged') <= sumOf(rows, 'spent') - sumOf(rows, 'refunded') + sumOf(rows, 'uncertain'))
    const { json } = await request(undefined, `${second.adminUrl}/status`)
    const spent = sumOf(rows, 'spent') + sumOf(rows, 'uncertain') - sumOf(rows, 'refunded')
    t.match(json, { budgets: [{ client: 'team', period: 'month', spent }] })
  },
)

/** Settings that change while the proxy runs: what is new for whom, what stays, and what a mistake does. */
import t from 'tap'
import { createSimulator, instant } from '../../src/simulator/simulator.ts'
import { aProxy, UPSTREAM_KEY, type Answer, type Proxy } from '../support/proxy.ts'

const ALICE = { headers: { 'x-api-key': 'alice-token-0123456789' } }
const BOB = { headers: { 'x-api-key': 'bob-token-0123456789' } }
const alice = 'alice: { token: alice-token-0123456789 }'
const bob = 'bob: { token: bob-token-0123456789 }'

function reload({ admin }: Proxy): Promise<Answer> {
  return admin('/reload', { method: 'POST' })
}

function linesOf({ lines }: Proxy, msg: string): Record<string, unknown>[] {
  return lines().filter((line) => line['msg'] === msg)
}

void t.test('a typo in the settings changes nothing, and is logged and counted', async (t) => {
  const proxy = await aProxy(t, `clients: { ${alice} }\ncache: { ttl: 1h }`)
  const secret = 'canary-token-0123456789'
  proxy.write(`clients: { bob: { tokenn: ${secret} } }\ncache: { ttl: 5 }\nretry: { attempts: 1 }`)
  const refused = await reload(proxy)
  t.match(refused, { status: 422, headers: { 'content-type': 'application/problem+json' } })
  t.match(refused.json, { status: 422, code: 'CONFIG_INVALID', detail: String, request_id: String })
  const mistakes = refused.json['mistakes'] as string[]
  t.match(
    mistakes,
    [/clients\.bob\.tokenn: unknown key; did you mean "token"\?/, /cache\.ttl/].map(() => String),
  )
  for (const name of [/clients\.bob\.tokenn/, /cache\.ttl/])
    t.ok(
      mistakes.some((one) => name.test(one)),
      String(name),
    )

  const [line, ...more] = linesOf(proxy, 'settings not reloaded')
  t.strictSame(more, [], 'one line')
  t.match(line, { level: 'error', because: 'POST /reload', generation: 1, mistakes })
  t.notMatch(proxy.output() + refused.text, /canary/)
  t.match(await proxy.metric('config_reloads_total'), {
    'result="applied"': 0,
    'result="invalid"': 1,
    'result="restart"': 0,
  })
  t.strictSame(await proxy.metric('config_generation'), { '': 1 })
  t.match(await proxy.ask('q', ALICE), { status: 200, headers: { 'cache-control': 'private, max-age=3600' } })
  t.match(await proxy.ask('q', BOB), { status: 401 })
})

void t.test('clients are added and removed; counters of removed clients stay', async (t) => {
  const proxy = await aProxy(t, `clients: { ${alice} }`)
  t.match(await proxy.ask('q', ALICE), { status: 200 })
  t.match(await proxy.ask('q', BOB), { status: 401 })
  proxy.write(`clients: { ${bob} }`)
  t.match(await reload(proxy), { status: 200, json: { generation: 2 } })
  t.match(await proxy.ask('q', ALICE), { status: 401 })
  t.match(await proxy.ask('other', BOB), { status: 200 })
  const spent = await proxy.metric('credits_spent_total')
  t.match(spent, {
    'client="alice",scraper="chatgpt",key="main"': 3,
    'client="bob",scraper="chatgpt",key="main"': 3,
  })
  const [line] = linesOf(proxy, 'settings reloaded')
  t.match(line, { because: 'POST /reload', generation: 2, changed: ['clients.alice', 'clients.bob'] })
  const status = (await proxy.admin('/status')).json
  t.match(status, { config_generation: 2, clients: [{ name: 'bob' }] })
  t.strictSame(await proxy.metric('config_generation'), { '': 2 })
})

void t.test('requests before a reload keep the old settings, requests after it use the new ones', async (t) => {
  const proxy = await aProxy(t, 'retry: { attempts: 3 }\ncache: { ttl: 1h }')
  const { sim, ask, write } = proxy
  sim.script({ prompt: 'held' }, [{ kind: 'hold', next: '503' }, '503', '200'])
  const held = ask('held')
  await sim.received(1)
  write('retry: { attempts: 1 }\ncache: { ttl: 2h }')
  t.match(await reload(proxy), { status: 200 })
  sim.script({ prompt: 'new' }, ['503', '200'])
  t.match(await ask('new'), { status: 503, headers: { 'x-proxy-attempts': '1' } })
  sim.release()
  t.match(await held, {
    status: 200,
    headers: { 'x-proxy-attempts': '3', 'cache-control': 'private, max-age=3600' },
  })
  t.match(await ask('fresh'), { headers: { 'cache-control': 'private, max-age=7200' } })
})

void t.test('requests before and after a reload share calls and cache', async (t) => {
  const proxy = await aProxy(t)
  const { sim, ask, write } = proxy
  sim.script({ prompt: 'together' }, ['hold'])
  const before = ask('together')
  await sim.received(1)
  write('breaker: { consecutive: 7 }')
  await reload(proxy)
  const after = ask('together')
  sim.release()
  t.match(await before, { status: 200, headers: { 'x-proxy-credits': '3' } })
  t.match(await after, { status: 200, headers: { 'x-proxy-credits': '0' } })
  await reload(proxy)
  t.match(await ask('together'), { headers: { 'cache-status': /hit.*detail=memory/ } })
  t.equal(sim.requests.length, 1)
})

void t.test('settings that need a restart are named at each reload; all others change', async (t) => {
  const proxy = await aProxy(t, `clients: { ${alice}, ${bob} }`)
  const fixed = 'listen: { reusePort: true }\nredis: { url: "redis://127.0.0.1:1" }'
  const waiting = ['listen.reusePort', 'redis']
  proxy.write(`${fixed}\nclients: { ${alice} }`)
  t.match(await reload(proxy), {
    status: 200,
    json: { generation: 2, changed: ['clients.bob'], waiting_for_restart: waiting },
  })
  t.match(await proxy.ask('q', BOB), { status: 401 }, 'a revoked token is refused')
  t.match(linesOf(proxy, 'settings reloaded'), [{ changed: ['clients.bob'] }])

  proxy.write(`${fixed}\nclients: { ${alice} }\ncache: { ttl: 2h }`)
  proxy.look()
  proxy.clock.skip(1_000)
  t.match(await proxy.ask('q', ALICE), { headers: { 'cache-control': 'private, max-age=7200' } })
  const lines = linesOf(proxy, 'settings wait for a restart')
  t.match(lines, [
    { level: 'warn', because: 'POST /reload', generation: 2, waiting },
    { level: 'warn', because: 'file', generation: 3, waiting },
  ])
  t.match(await proxy.metric('config_reloads_total'), { 'result="restart"': 2 })
  t.match((await proxy.admin('/status')).json, {
    health: { state: 'ok' },
    settings: { mistakes: [], waiting_for_restart: waiting },
  })
  t.match((await proxy.admin('/')).text, /only in force after a restart: listen\.reusePort, redis/)

  proxy.write(`clients: { ${alice} }\ncache: { ttl: 2h }`)
  proxy.look()
  proxy.clock.skip(1_000)
  t.match((await proxy.admin('/status')).json, { settings: { mistakes: [], waiting_for_restart: [] } })
})

void t.test(
  'a setting that waits for a restart, and new ones that are wrong without it: nothing changes',
  async (t) => {
    const proxy = await aProxy(t, 'cache: { disk: false }')
    proxy.write('cache: { disk: { path: cache.db } }\njobs: { execution: durable }')
    const refused = await reload(proxy)
    t.match(refused, { status: 422 })
    t.match(refused.json['mistakes'], [
      /^jobs\.execution: durable needs cache\.disk or redis/,
      'cache.disk: changes only with a restart',
    ])
    t.match(await proxy.admin('/status'), { json: { config_generation: 1 } })
  },
)

void t.test('rejected settings are shown on the page and in /status until a reload succeeds', async (t) => {
  const proxy = await aProxy(t, 'cache: { ttl: 1h }')
  proxy.write('cache: { ttll: 1h }')
  await reload(proxy)
  t.match((await proxy.admin('/status')).json, {
    health: {
      state: 'degraded',
      because: ['the changed settings were refused: the proxy would not start with them'],
      since: String,
    },
    settings: { mistakes: [/^cache\.ttll: unknown key; did you mean "ttl"\?/] },
  })
  t.match((await proxy.admin('/')).text, /cache\.ttll: unknown key/)
  proxy.write('cache: { ttl: 1h }')
  proxy.look()
  proxy.clock.skip(1_000)
  t.match((await proxy.admin('/status')).json, { health: { state: 'ok', since: null }, settings: { mistakes: [] } })
})

void t.test('upstream.url changes live: open requests finish at the old URL, new ones use the new URL', async (t) => {
  const other = createSimulator({ latency: instant })
  const { url } = await other.start()
  t.teardown(() => other.close())
  const proxy = await aProxy(t)
  const { sim, ask, write } = proxy
  sim.script({ prompt: 'old' }, ['hold'])
  const old = ask('old')
  await sim.received(1)
  write(
    `upstream: { url: "${url}", keys: [{ name: main, secret: another-secret }, { name: spare, secret: spare-secret }] }`,
  )
  t.match(await reload(proxy), { status: 200 })
  for (const prompt of ['a', 'b']) t.match(await ask(prompt), { status: 200 })
  t.strictSame(new Set(other.requests.map(({ key }) => key)), new Set(['another-secret', 'spare-secret']))
  t.notMatch(proxy.output(), /another-secret|spare-secret/)
  sim.release()
  t.match(await old, { status: 200 })
  t.strictSame(
    sim.requests.map(({ key }) => key),
    [UPSTREAM_KEY],
  )
  t.match((await proxy.admin('/status')).json, { keys: [{ name: 'main' }, { name: 'spare' }] })
})

void t.test('a request under way is retried with the key and URL it began with', async (t) => {
  const other = createSimulator({ latency: instant })
  const { url } = await other.start()
  t.teardown(() => other.close())
  const proxy = await aProxy(t)
  proxy.sim.script({ prompt: 'old' }, [{ kind: 'hold', next: '503' }, '200'])
  const old = proxy.ask('old')
  await proxy.sim.received(1)
  proxy.write(`upstream: { url: "${url}", keys: [{ name: main, secret: another-secret }] }`)
  await reload(proxy)
  proxy.sim.release()
  t.match(await old, { status: 200, headers: { 'x-proxy-attempts': '2' } })
  t.strictSame(other.requests, [], 'the new key never goes to the old place, nor the old question to the new one')
  t.ok(proxy.sim.requests.every(({ key }) => key === UPSTREAM_KEY))
})

void t.test('circuits, resting keys, limits and budgets survive a reload', async (t) => {
  const base = `
breaker: { consecutive: 2, openFor: 1m, openForMax: 1m, hold: 0s }
retry: { attempts: 1 }
upstream: { keys: [{ name: main, secret: ${UPSTREAM_KEY} }, { name: dry, secret: dry-secret }] }
`
  const clients = (perDay: number) => `
clients: { anonymous: {}, bob: { token: bob-token-0123456789, rate: { limit: 2, per: 1h }, credits: { perDay: ${perDay} } } }
`
  // At noon, so that an hour later is the same day.
  const aheadMs = (36 * 3_600_000 - (Date.now() % 86_400_000)) % 86_400_000
  const proxy = await aProxy(t, base + clients(6), { aheadMs })
  const { sim, ask, write, metric } = proxy
  sim.script({ key: 'dry-secret' }, ['429-credits'])
  for (const prompt of ['a', 'b', 'c']) await ask(`/scrapers/grok?prompt=${prompt}`)
  t.match(await metric('key_state'), { 'key="main"': 0, 'key="dry"': 2 })
  for (const prompt of ['d', 'e']) {
    sim.script({ prompt }, ['500'])
    await ask(prompt)
  }
  t.match(await ask('f'), { status: 503, headers: { 'x-proxy-code': 'CIRCUIT_OPEN' } })
  for (const prompt of ['g', 'h']) t.match(await ask(`/scrapers/grok?prompt=${prompt}`, BOB), { status: 200 })
  write(`${base}${clients(6)}cache: { ttl: 3h }`)
  t.match(await reload(proxy), { status: 200 })
  t.match(await ask('f'), { status: 503, headers: { 'x-proxy-code': 'CIRCUIT_OPEN' } })
  t.match(await metric('key_state'), { 'key="main"': 0, 'key="dry"': 2 })
  t.match(await ask('/scrapers/grok?prompt=i', BOB), { headers: { 'x-proxy-code': 'RATE_LIMITED' } })
  proxy.clock.skip(3_600_000)
  t.match(await ask('/scrapers/grok?prompt=i', BOB), { headers: { 'x-proxy-code': 'BUDGET_EXHAUSTED' } })
  write(`${base}${clients(9)}`)
  t.match(await reload(proxy), { status: 200 })
  t.match(await ask('/scrapers/grok?prompt=i', BOB), { status: 200 }, 'more credits count at once')
  t.match(await ask('/scrapers/grok?prompt=j', BOB), { headers: { 'x-proxy-code': /RATE_LIMITED|BUDGET_EXHAUSTED/ } })
})

void t.test('a reload after which nobody would need a token any more is rejected', async (t) => {
  const proxy = await aProxy(t, `clients: { ${alice} }`)
  for (const text of ['cache: { ttl: 2h }', 'clients: { anonymous: {} }']) {
    proxy.write(text)
    t.match(await reload(proxy), { status: 422, json: { mistakes: [/^clients: no client with a token is left/] } })
    t.match(await proxy.ask('q'), { status: 401 })
  }
  proxy.write(`clients: { ${alice}, anonymous: {} }`)
  t.match(await reload(proxy), { status: 200, json: { changed: ['clients.anonymous'] } })
  t.match(await proxy.ask('q'), { status: 200 })
})

void t.test('a changed settings file is reloaded shortly after; an incomplete one is rejected', async (t) => {
  const proxy = await aProxy(t, 'cache: { ttl: 1h }')
  const { clock, look, write } = proxy
  clock.skip(1_000)
  t.strictSame(linesOf(proxy, 'settings reloaded'), [], 'nothing has changed since the start')
  write('cache: { ttl: 2h, stal')
  look()
  clock.skip(999)
  t.strictSame(linesOf(proxy, 'settings not reloaded'), [])
  clock.skip(1)
  t.match(linesOf(proxy, 'settings not reloaded'), [{ because: 'file' }])
  write('cache: { ttl: 2h, staleI')
  look()
  clock.skip(1_000)
  t.equal(linesOf(proxy, 'settings not reloaded').length, 2, 'each change is told about')
  t.match(await proxy.ask('one'), { headers: { 'cache-control': 'private, max-age=3600' } })
  write('cache: { ttl: 2h, staleIfError: 1h }')
  look()
  clock.skip(500)
  look()
  clock.skip(999)
  t.strictSame(linesOf(proxy, 'settings reloaded'), [], 'whoever writes is given time')
  clock.skip(1)
  t.match(linesOf(proxy, 'settings reloaded'), [
    { because: 'file', generation: 2, changed: ['cache.ttl', 'cache.staleIfError'] },
  ])
  t.match(await proxy.ask('two'), { headers: { 'cache-control': 'private, max-age=7200' } })
  look()
  clock.skip(1_000)
  t.equal(linesOf(proxy, 'settings reloaded').length, 1, 'a comment is no change')
  t.match(await reload(proxy), { json: { generation: 3 } }, 'who asks for it gets it')
})

void t.test('the admin token and a token in a file change live', async (t) => {
  const files: Record<string, string> = { '/run/secrets/alice': 'alice-token-0123456789\n' }
  const settings = 'admin: { token: admin-token-0123456789 }\nclients: { alice: { token: file:/run/secrets/alice } }'
  const proxy = await aProxy(t, settings, { files })
  const as = (token: string) => ({ headers: { authorization: `Bearer ${token}` } })
  t.match(await proxy.ask('q', ALICE), { status: 200 })
  files['/run/secrets/alice'] = 'bob-token-0123456789'
  proxy.look('/run/secrets/alice')
  proxy.clock.skip(1_000)
  t.match(await proxy.ask('q', ALICE), { status: 401 })
  t.match(await proxy.ask('q', BOB), { status: 200 })
  proxy.write(settings.replace('admin-token', 'other-token'))
  const { status } = await proxy.admin('/reload', { method: 'POST', ...as('admin-token-0123456789') })
  t.equal(status, 200)
  t.match(await proxy.admin('/status', as('admin-token-0123456789')), { status: 401 })
  t.match(await proxy.admin('/status', as('other-token-0123456789')), { status: 200 })
  t.match(await proxy.admin('/reload', { method: 'POST' }), { status: 401 })
  t.notMatch(proxy.output(), /(?:alice|bob|admin|other)-token/)
})

void t.test('log level, prompts in the log, and the size of the memory change live', async (t) => {
  const proxy = await aProxy(t, 'log: { level: info, prompts: true }')
  const { ask, write, lines, clock, metric } = proxy
  const accessLines = (): number => (clock.skip(1_000), lines().filter(({ msg }) => msg === 'request').length)
  await ask('canary-one')
  t.equal(accessLines(), 1)
  t.match(proxy.output(), /canary-one/)
  write('log: { level: error }\ncache: { memory: { maxSize: 1MiB } }')
  t.match(await reload(proxy), { status: 200 })
  await ask('canary-two')
  t.equal(accessLines(), 1)
  write('log: { level: info }')
  await reload(proxy)
  await ask('canary-three')
  t.equal(accessLines(), 2)
  t.notMatch(proxy.output(), /canary-(?:two|three)/)
  t.match(await metric('cache_entries'), { 'tier="memory"': 3 })
})

void t.test('A69: a thousand reloads under load lose no request and leak nothing', async (t) => {
  const other = createSimulator({ latency: instant })
  const { url } = await other.start()
  t.teardown(() => other.close())
  const proxy = await aProxy(t, `clients: { anonymous: {}, ${alice} }`)
  const { ask, write, clock, sim, metric } = proxy
  const variants = [
    `clients: { anonymous: {}, ${alice} }`,
    `clients: { anonymous: {}, ${alice}, ${bob} }\nbreaker: { window: 30 }\nretry: { budget: { capacity: 50 } }`,
    `clients: { anonymous: {}, ${alice} }\nupstream: { url: "${url}", keys: [{ name: main, secret: other-secret }, { name: spare, secret: spare }] }`,
    `clients: { anonymous: {}, ${alice} }\nupstream: { maxConcurrent: 300, keys: [{ name: main, secret: ${UPSTREAM_KEY}, weight: 3 }] }\ncache: { ttl: 1h }`,
  ]
  const broken = ['clients: {', 'cache: { ttl: 5 }', 'listen: { host: "::1" }', '- a', '"', '&a [*a]', '\u0000', '']
  const end = new AbortController()
  let asked = 0
  const failures: string[] = []
  sim.script({ prompt: 'long' }, ['hold'])
  const long = ask('long', ALICE)
  await sim.received(1)
  await ask('warm')
  const timers = clock.timers
  const resources = counted(process.getActiveResourcesInfo())

  async function service(name: number): Promise<void> {
    while (!end.signal.aborted) {
      asked += 1
      const answer = await ask(asked % 3 === 0 ? 'warm' : `${name}-${asked}`, asked % 2 === 0 ? ALICE : {})
      if (answer.status !== 200) failures.push(`${answer.status} ${answer.text}`)
    }
  }

  const services = Array.from({ length: 8 }, (_, name) => service(name))
  for (let turn = 1; turn <= 1_000; turn += 1) {
    const isBroken = turn % 10 === 0
    write(isBroken ? (broken[(turn / 10) % broken.length] ?? '') : (variants[turn % variants.length] ?? ''))
    const { result } = proxy.app.reload('test')
    if (broken[(turn / 10) % broken.length] !== '' && (result === 'applied') === isBroken)
      failures.push(`${turn}: ${result}`)
    await new Promise(setImmediate)
  }
  end.abort()
  await Promise.all(services)
  t.strictSame(failures, [])
  t.ok(asked > 100, `${asked} requests meanwhile`)
  t.match(
    (await proxy.admin('/status')).json,
    { generations_in_use: 2, open_requests: 1 },
    'the long one keeps its own',
  )
  sim.release()
  t.match(await long, { status: 200 })
  t.match((await proxy.admin('/status')).json, { generations_in_use: 1, flights: [], credits: { imbalance: 0 } })
  for (const gauge of ['in_flight_requests', 'upstream_in_flight', 'ledger_imbalance_credits'])
    t.ok(
      Object.values(await metric(gauge)).every((value) => value === 0),
      gauge,
    )
  clock.skip(5_000)
  t.ok(clock.timers <= timers, `timers: ${timers} before, ${clock.timers} after`)
  const left = counted(process.getActiveResourcesInfo())
  for (const [name, count] of left) t.ok(count <= (resources.get(name) ?? 0) + slack(name), `${name}: ${count}`)
})

function counted(names: readonly string[]): ReadonlyMap<string, number> {
  const counts = new Map<string, number>()
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1)
  return counts
}

/** Connections that are kept for the next question: one for each of those who asked at the same time, at both ends, on both ways. */
function slack(name: string): number {
  return name === 'TCPSocketWrap' || name === 'Timeout' ? 4 * 10 * 2 : 0
}

void t.test(
  'A69: however a file is cut off or spoilt, the settings are whole: the old ones or those it says',
  async (t) => {
    const whole = `clients:
  anonymous: {}
  alice: { token: canary-token-0123456789 }
cache: { ttl: 2h, staleIfError: 1h }
upstream: { keys: [{ name: main, secret: canary-secret }] }
retry: { attempts: 2 }
`
    const proxy = await aProxy(t, 'cache: { ttl: 1h }')
    const { write, lines, app } = proxy
    const spoilt = [
      ...Array.from(whole, (_, index) => whole.slice(0, index)),
      ...Array.from(whole, (_, index) => whole.slice(0, index) + '\u0000' + whole.slice(index + 1)),
      ...Array.from(whole, (_, index) => whole.slice(0, index) + '{' + whole.slice(index)),
      '? '.repeat(5_000),
      '['.repeat(5_000),
      'a: &a [*a, *a]',
      '__proto__: { polluted: true }',
      `cache: { ttl: "${'9'.repeat(5_000)}h" }`,
      'cache: { ttl: !!js/function "x" }',
      '\uFEFF',
      '---\n---\n',
    ]
    let refused = 0
    for (const text of spoilt) {
      write(text)
      const { result } = app.reload('test')
      if (result !== 'applied') refused += 1
    }
    t.ok(refused > 500, `${refused} of ${spoilt.length} were refused`)
    t.strictSame(
      lines().filter(({ msg }) => msg === 'bug'),
      [],
      'none of them is a surprise',
    )
    t.notMatch(proxy.output(), /canary/)
    t.equal(({} as { polluted?: boolean }).polluted, undefined)
    write(whole)
    t.match(app.reload('test'), { result: 'applied' })
    proxy.sim.setKey('canary-secret', {})
    t.match(await proxy.ask('q'), { status: 200, headers: { 'cache-control': 'private, max-age=7200' } })
  },
)

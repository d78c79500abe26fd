/** What an operator sees: starting, mistakes, ports, metrics, logs, stopping. The real program, real signals. */
import { readFileSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { createServer, type AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { createSimulator, instant, type Simulator } from '../../src/simulator/simulator.ts'
import { labelLists } from '../../src/telemetry/labels.ts'
import { root, runProgram, shell, start, startDemo, startProgram, startProxy } from '../support/process.ts'
import { request, type Answer } from '../support/proxy.ts'

const PROMPT = 'canary-prompt-0123456789'
const KEY = 'canary-key-0123456789'
const TOKEN = 'canary-token-0123456789'
const ADMIN_TOKEN = 'canary-admin-0123456789'
const canary = /canary/

const SEARCH_TEAM = ['clients={ anonymous: {}, search-team: { token: "${SEARCH_TEAM_TOKEN}" } }']
const ENVIRONMENT = { SCRAPELLM_API_KEY: KEY, SEARCH_TEAM_TOKEN: TOKEN }
const QUICK = ['retry.backoff={ base: 1ms, max: 1ms }', 'retry.classes.warmingUp.backoff={ base: 1ms, max: 1ms }']

async function aSimulator(t: Test): Promise<Simulator & { readonly url: string }> {
  const sim = createSimulator({ latency: instant })
  const { url } = await sim.start()
  t.teardown(() => sim.close())
  return Object.assign(sim, { url })
}

function get(url: string, headers: Record<string, string> = {}, method = 'GET'): Promise<Answer> {
  return request(undefined, url, { headers, method })
}

function question(prompt: string, scraper = 'chatgpt'): string {
  return `/scrapers/${scraper}?${new URLSearchParams({ prompt }).toString()}`
}

// Starting

void t.test('npm start without a key: exit code 78 and a message that says what to do', async (t) => {
  // npm has a Node of its own, which coverage cannot be collected from.
  const surroundings = { cwd: root, environment: { NODE_OPTIONS: '' } }
  const { code, stderr } = await start(t, 'npm', ['start', '--silent'], surroundings).ended
  t.equal(code, 78)
  const [message = '', ...more] = stderr.split('\n').filter((line) => line !== '' && !line.startsWith('npm '))
  t.strictSame(more, [])
  for (const part of ['SCRAPELLM_API_KEY', 'export SCRAPELLM_API_KEY=', 'npm run demo']) t.match(message, part)
})

void t.test('invalid settings: exit code 78 and every mistake with its position', async (t) => {
  const wrong = ['upstream.urll=https://x', 'cache.ttl=5', 'retry.atempts=3']
  const { code, stdout, stderr } = await runProgram(
    t,
    wrong.flatMap((one) => ['--set', one]),
  )
  t.equal(code, 78)
  t.equal(stdout, '')
  t.match(stderr, /upstream\.urll: unknown key; did you mean "url"\?/)
  t.match(stderr, /cache\.ttl: "5" is not a duration/)
  t.match(stderr, /retry\.atempts: unknown key; did you mean "attempts"\?/)
  t.match(stderr, /upstream\.keys\.0\.secret: the environment variable SCRAPELLM_API_KEY is not set/)
  t.equal(stderr.trim().split('\n').length, 4)
})

void t.test('dangerous settings are refused at the start', async (t) => {
  const rows: readonly (readonly [setting: string, message: RegExp])[] = [
    ['listen.host=0.0.0.0', /^listen\.host: .*allowAnonymousOnNetwork/],
    ['admin.host=0.0.0.0', /^admin\.host: .*admin\.token/],
    ['admin.token=short', /^admin\.token: .*16 characters/],
    ['upstream.url=https://api.scrapellm.com/v1', /^upstream\.url: .*path/],
    ['upstream.url=http://192.0.2.1', /^upstream\.url: .*plain http/],
  ]
  for (const [setting, message] of rows) {
    const { code, stderr } = await runProgram(t, ['--set', setting], { environment: { SCRAPELLM_API_KEY: KEY } })
    t.equal(code, 78, setting)
    t.match(stderr, message)
    t.notMatch(stderr, canary)
  }
})

void t.test('check prints ok and the settings in effect, secrets masked', async (t) => {
  const { code, stdout, stderr } = await runProgram(
    t,
    ['check', '--set', `admin.token=${ADMIN_TOKEN}`, '--set', 'cache.ttl=2h'],
    { environment: ENVIRONMENT },
  )
  t.strictSame({ code, stderr }, { code: 0, stderr: '' })
  t.match(stdout, /^ok\n/)
  t.match(stdout, /ttl: 2h/)
  t.match(stdout, /secret: "\*{4}\w{0,4}"\n/)
  t.notMatch(stdout, canary)
})

void t.test('schema prints the JSON Schema; token prints a token and its settings line', async (t) => {
  const schema = await runProgram(t, ['schema'])
  t.equal(schema.stdout, readFileSync(`${root}config/schema.json`, 'utf8'))
  const token = await runProgram(t, ['token', 'my-service'])
  t.match(token.stdout, /slp_[\w-]{32}\n[^]*my-service:\n +tokenSha256: "[\da-f]{64}"/)
  t.equal((await runProgram(t, ['token', 'anonymous'])).code, 1)
})

void t.test('help, and a suggestion for an unknown command or flag', async (t) => {
  const help = await runProgram(t, ['--help'])
  t.equal(help.code, 0)
  for (const word of ['serve', 'check', 'schema', 'token NAME', 'simulator', 'demo']) t.match(help.stdout, word)
  const { version } = JSON.parse(readFileSync(`${root}package.json`, 'utf8')) as { version: string }
  t.match(await runProgram(t, ['--version']), { code: 0, stdout: `${version}\n` })
  const typo = await runProgram(t, ['chekc'])
  t.match(typo, { code: 1, stdout: '', stderr: /^unknown command "chekc"; did you mean "check"\?\n.*--help/ })
})

void t.test('a port in use: exit code 1 and one sentence', async (t) => {
  const sim = await aSimulator(t)
  const other = createServer()
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
  t.teardown(() => other.close())
  const { port } = other.address() as AddressInfo
  const sets = [`upstream.url=${sim.url}`, 'admin.port=0', `listen.port=${port}`]
  const { code, stderr } = await runProgram(
    t,
    sets.flatMap((one) => ['--set', one]),
    { environment: ENVIRONMENT },
  )
  t.equal(code, 1)
  t.match(stderr, `Port ${port} on 127.0.0.1 is in use`)
  t.equal(stderr.trim().split('\n').length, 1, 'no stack')
})

void t.test('the log line "listening" has the ports in use', async (t) => {
  const sim = await aSimulator(t)
  const proxy = await startProxy(t, sim.url)
  const line = proxy.lines().find(({ msg }) => msg === 'listening')
  t.match(line, { level: 'info', url: proxy.url, admin_url: proxy.adminUrl, version: String })
  t.equal(new URL(proxy.url).port, String(line?.['port']))
  t.equal(new URL(proxy.adminUrl).port, String(line?.['admin_port']))
  t.not(line?.['port'], 0)
  t.match(await get(`${proxy.adminUrl}/healthz`), { status: 200 })
  t.match(await get(`${proxy.adminUrl}/readyz`), { status: 200 })
  t.match(await get(proxy.url + question('q')), { status: 200 })
})

// Stopping

void t.test('SIGTERM: not ready at once, open requests are answered, exit code 0', async (t) => {
  const sim = await aSimulator(t)
  const proxy = await startProxy(t, sim.url)
  sim.script({ prompt: 'open' }, ['hold'])
  const open = get(proxy.url + question('open'))
  await sim.received(1)
  proxy.signal('SIGTERM')
  await proxy.saw(/"msg":"draining"/)
  t.match(await get(`${proxy.adminUrl}/readyz`), { status: 503 })
  t.match((await get(`${proxy.adminUrl}/status`)).json, { draining: true, open_requests: 1 })
  await t.rejects(get(proxy.url + question('new')), { code: 'ECONNREFUSED' })
  sim.release()
  t.match(await open, { status: 200, headers: { connection: 'close' } })
  t.match(await proxy.ended, { code: 0, stderr: '' })
  t.match(
    proxy.lines().find(({ msg }) => msg === 'stopped'),
    { how: 'clean' },
  )
  t.ok(
    proxy.lines().some(({ msg, status }) => msg === 'request' && status === 200),
    'the last access line was written, too',
  )
})

void t.test('a second signal ends the drain at once', async (t) => {
  const sim = await aSimulator(t)
  const proxy = await startProxy(t, sim.url)
  sim.script({ prompt: 'open' }, ['hold'])
  const open = get(proxy.url + question('open'))
  await sim.received(1)
  proxy.signal('SIGINT')
  await proxy.saw(/"msg":"draining"/)
  proxy.signal('SIGTERM')
  t.match(await open, {
    status: 503,
    headers: { 'x-proxy-code': 'SHUTTING_DOWN', 'retry-after': '1', connection: 'close' },
  })
  t.match(await proxy.ended, { code: 0 })
  t.match(
    proxy.lines().find(({ msg }) => msg === 'stopped'),
    { how: 'forced' },
  )
})

void t.test(
  'what is open when the grace ends: whoever waits is told, what was sent counts as charged, for the next process too',
  async (t) => {
    const sim = await aSimulator(t)
    const folder = t.testdir({})
    const sets = [
      'shutdown.grace=0s',
      `cache.disk={ path: ${folder}/cache.db }`,
      `audit={ path: ${folder}/audit.ndjson }`,
      'clients={ anonymous: { credits: { perDay: 30 } } }',
      'retry.attempts=3',
    ]
    const proxy = await startProxy(t, sim.url, sets)
    sim.script({ prompt: 'waits' }, ['hold'])
    sim.script({ prompt: 'left' }, ['hold'])
    const waits = get(proxy.url + question('waits'), { 'x-request-id': 'the-waiting-one' })
    const goes = new AbortController()
    const left = request(undefined, proxy.url + question('left', 'grok'), {
      headers: { 'x-request-id': 'the-one-that-left' },
      signal: goes.signal,
    }).catch(() => null)
    await sim.received(2)
    goes.abort()
    await left
    proxy.signal('SIGTERM')
    t.match(await waits, { status: 503, headers: { 'x-proxy-code': 'SHUTTING_DOWN', 'retry-after': '1' } })
    t.match(await proxy.ended, { code: 0, stderr: '' })
    const cut = proxy.lines().filter(({ msg }) => msg === 'call cut, may have been charged')
    t.strictSame(new Set(cut.map(({ id }) => id)), new Set(['the-waiting-one', 'the-one-that-left']))
    for (const line of cut) t.match(line, { level: 'warn', client: 'anonymous', key_name: 'main', credits: 3 })
    t.equal(sim.requests.length, 2, 'nothing was tried again')
    const trails = readFileSync(`${folder}/audit.ndjson`, 'utf8').trim().split('\n')
    t.equal(trails.filter((line) => line.includes('"unknown"')).length, 2, 'in the audit file, too')
    const next = await startProxy(t, sim.url, sets)
    t.match((await get(`${next.adminUrl}/status`)).json, { budgets: [{ left: 24, held: 0, spent: 6 }] })
    t.notOk(
      next.lines().some(({ msg }) => msg === 'credits of an earlier run counted as spent'),
      'it was settled, not swept',
    )
  },
)

void t.test(
  'durable: what is open when the grace ends goes on, and the next process gives its answer for no second charge',
  async (t) => {
    const sim = await aSimulator(t)
    const folder = t.testdir({})
    const sets = [
      'shutdown.grace=0s',
      'jobs.execution=durable',
      `cache.disk={ path: ${folder}/cache.db }`,
      'clients={ anonymous: { credits: { perDay: 30 } } }',
    ]
    const proxy = await startProxy(t, sim.url, sets)
    sim.script({ call: 'submit' }, [{ kind: 'pending', times: 2 }])
    const open = get(proxy.url + question('long'), { 'x-request-id': 'the-long-one' })
    const promised = await get(proxy.url + question('promised', 'grok'), {
      'x-request-id': 'the-promised-one',
      prefer: 'respond-async',
    })
    t.equal(promised.status, 202)
    const { location = '' } = promised.headers
    // A job that is polled is written down.
    await sim.until(() => new Set(sim.requests.map(({ jobId }) => jobId).filter((id) => id !== null)).size === 2)
    proxy.signal('SIGTERM')
    t.match(await open, { status: 503, headers: { 'x-proxy-code': 'SHUTTING_DOWN' } })
    t.match(await proxy.ended, { code: 0, stderr: '' })
    const left = proxy.lines().filter(({ msg }) => msg === 'job left for another process to resume')
    t.strictSame(new Set(left.map(({ id }) => id)), new Set(['the-long-one', 'the-promised-one']))
    for (const line of left) t.match(line, { client: 'anonymous', credits: 3 })
    t.notOk(proxy.lines().some(({ msg }) => msg === 'call cut, may have been charged'))
    const charged = sim.ledger.total()
    sim.release()
    const next = await startProxy(t, sim.url, sets)
    t.match(await get(next.url + question('long')), { status: 200 })
    t.equal(sim.ledger.total(), charged, 'one bill')
    let kept = await get(next.url + location)
    while (kept.json['status'] === 'pending') kept = await get(next.url + location)
    t.match(kept, { status: 200, json: { status: 'done' } })
    t.match((await get(`${next.adminUrl}/status`)).json, { budgets: [{ left: 24, held: 0, spent: 6 }] })
  },
)

void t.test(
  'a fault that nobody catches: told without a secret, drained, and the end with 1, however often it comes',
  async (t) => {
    const sim = await aSimulator(t)
    const proxy = startProgram(
      t,
      ['listen.port=0', 'admin.port=0', `upstream.url=${sim.url}`, 'shutdown.grace=1h'].flatMap((one) => [
        '--set',
        one,
      ]),
      {
        environment: {
          ...ENVIRONMENT,
          NODE_OPTIONS: `--import=${new URL('../support/sabotage.ts', import.meta.url).href}`,
        },
      },
    )
    const [line] = await proxy.saw(/^.*"msg":"listening".*$/m)
    const { url, admin_url: adminUrl } = JSON.parse(line) as { url: string; admin_url: string }
    sim.script({ prompt: PROMPT }, ['hold'])
    const open = get(url + question(PROMPT))
    await sim.received(1)
    proxy.signal('SIGUSR2')
    await proxy.saw(/"msg":"draining"/)
    t.match(await get(`${adminUrl}/readyz`), { status: 503 })
    sim.release()
    t.match(await open, { status: 200 }, 'a paid call is finished all the same')
    const { code, stdout, stderr } = await proxy.ended
    t.strictSame({ code, stderr }, { code: 1, stderr: '' })
    const told = proxy.lines().filter(({ msg }) => msg === 'uncaught')
    t.ok(told.length >= 1)
    t.match(told[0], { level: 'error', error: { message: /^sabotage: / } })
    t.notMatch(stdout, canary)
  },
)

void t.test(
  'a second fault ends the drain of the first, and a promise that nobody caught is one as well',
  async (t) => {
    const sim = await aSimulator(t)
    const sets = ['listen.port=0', 'admin.port=0', `upstream.url=${sim.url}`, 'shutdown.grace=1h']
    const program = startProgram(
      t,
      sets.flatMap((one) => ['--set', one]),
      {
        environment: {
          ...ENVIRONMENT,
          NODE_OPTIONS: `--import=${new URL('../support/sabotage.ts', import.meta.url).href}`,
        },
      },
    )
    const [line] = await program.saw(/^.*"msg":"listening".*$/m)
    const { url } = JSON.parse(line) as { url: string }
    sim.script({ prompt: PROMPT }, ['hold'])
    const open = get(url + question(PROMPT))
    await sim.received(1)
    program.signal('SIGUSR2')
    await program.saw(/"msg":"draining"/)
    program.signal('SIGUSR2')
    t.match(await open, { status: 503, headers: { 'x-proxy-code': 'SHUTTING_DOWN' } })
    t.match(await program.ended, { code: 1, stderr: '' })
    t.equal(program.lines().filter(({ msg }) => msg === 'uncaught').length, 2)
    t.notMatch(program.stdout(), canary)
  },
)

void t.test('a signal to npm reaches the proxy; no process is left', async (t) => {
  const { scripts } = JSON.parse(readFileSync(`${root}package.json`, 'utf8')) as { scripts: Record<string, string> }
  // npm tells its shell, and a shell that is still there tells nobody.
  for (const name of ['start', 'demo', 'dev']) t.match(scripts[name], /^exec node /, `npm run ${name}`)
  if (!t.passing()) return
  const npm = start(t, 'npm', ['start', '--', '--set', 'listen.port=0', '--set', 'admin.port=0'], {
    cwd: root,
    environment: { SCRAPELLM_API_KEY: KEY, NODE_OPTIONS: '' },
  })
  await npm.saw(/"msg":"listening"/)
  npm.signal('SIGTERM')
  await npm.saw(/"msg":"stopped"/)
  t.match(await npm.ended, { code: 0 })
})

// Reloading

void t.test('SIGHUP reloads the settings files; a mistake in them changes nothing', async (t) => {
  const sim = await aSimulator(t)
  const folder = t.testdir({ 'my.yaml': 'cache: { ttl: 1h }\n' })
  const sets = ['listen.port=0', 'admin.port=0', `upstream.url=${sim.url}`].flatMap((one) => ['--set', one])
  const proxy = startProgram(t, ['--config', 'my.yaml', ...sets], { cwd: folder, environment: ENVIRONMENT })
  const [line] = await proxy.saw(/^.*"msg":"listening".*$/m)
  const { url } = JSON.parse(line) as { url: string }
  const maxAge = async (prompt: string) => (await get(url + question(prompt))).headers['cache-control']
  t.equal(await maxAge('one'), 'private, max-age=3600')
  writeFileSync(
    `${folder}/my.yaml`,
    'cache: { ttl: 2h }\nclients: { anonymous: {}, team: { token: "${SEARCH_TEAM_TOKEN}" } }\n',
  )
  proxy.signal('SIGHUP')
  await proxy.saw(/"msg":"settings reloaded"/)
  t.match(
    proxy.lines().find(({ msg }) => msg === 'settings reloaded'),
    { level: 'info', because: 'SIGHUP', generation: 2, changed: ['clients.team', 'cache.ttl'] },
  )
  t.equal(await maxAge('two'), 'private, max-age=7200')
  writeFileSync(`${folder}/my.yaml`, `cache: { ttl: 3h }\nadmin: { tokken: ${TOKEN} }\n`)
  proxy.signal('SIGHUP')
  await proxy.saw(/"msg":"settings not reloaded"/)
  const refused = proxy.lines().find(({ msg }) => msg === 'settings not reloaded')
  t.match(refused, { level: 'error', generation: 2, mistakes: [String] })
  t.match(String(refused?.['mistakes']), /^admin\.tokken: unknown key; did you mean "token"\? \(my\.yaml:2:\d+\)$/)
  t.equal(await maxAge('three'), 'private, max-age=7200')
  proxy.signal('SIGTERM')
  const { code, stdout, stderr } = await proxy.ended
  t.strictSame({ code, stderr }, { code: 0, stderr: '' })
  t.notMatch(stdout, canary)
})

// Watching

const SCRAPERS = [
  'chatgpt',
  'perplexity',
  'grok',
  'copilot',
  'gemini',
  'google_ai_mode',
  'amazon_rufus',
  'none',
] as const

/** What the contract wants to be counted, each with exactly these labels. */
const METRICS: Readonly<Record<string, readonly string[]>> = {
  requests_total: ['client', 'scraper', 'status', 'cache'],
  request_duration_seconds: ['scraper', 'cache'],
  overhead_seconds: [],
  in_flight_requests: [],
  upstream_responses_total: ['scraper', 'status'],
  upstream_failures_total: ['scraper', 'class'],
  upstream_attempt_duration_seconds: ['scraper'],
  upstream_in_flight: ['scraper'],
  retries_total: ['scraper', 'class'],
  retries_refused_total: ['reason'],
  retry_budget_tokens: ['scraper'],
  ambiguous_attempts_total: ['scraper'],
  breaker_state: ['scraper'],
  breaker_transitions_total: ['scraper', 'to'],
  cache_lookups_total: ['tier', 'result'],
  cache_entries: ['tier'],
  cache_bytes: ['tier'],
  cache_evictions_total: ['tier'],
  joined_requests_total: ['scraper'],
  refusals_total: ['client', 'code'],
  credits_spent_total: ['client', 'scraper', 'key'],
  credits_saved_total: ['client', 'scraper', 'how'],
  key_state: ['key'],
  jobs_total: ['scraper', 'outcome'],
  config_generation: [],
  build_info: ['version', 'node'],
}

/** The rest of it, there only where the settings ask for what it tells about. */
const METRICS_OF_SETTINGS: Readonly<Record<string, readonly string[]>> = {
  credits_budget_remaining: ['client', 'period'],
  redis_up: [],
  redis_errors_total: ['operation'],
  config_reloads_total: ['result'],
}

/** What a label may say in this test, whatever is asked and answered; for the others there are the lists of the code. */
const LABELS: Readonly<Record<string, readonly string[] | RegExp>> = {
  client: ['anonymous', 'search-team', 'unknown'],
  // Its place in the settings, and the first digits of its hash.
  token: /^\d+ [0-9a-f]{6}$/,
  scraper: SCRAPERS,
  key: ['main', 'none'],
  status: /^(?:[1-5]\d\d|[1-5]xx|other|gone|none)$/,
  version: /^\d+\.\d+\.\d+$/,
  node: /^\d+\.\d+\.\d+$/,
  le: /^(?:[\d.]+|\+Inf)$/,
}

interface Series {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
}

/** The proxy's own series; the lines of a histogram under its name. */
function seriesIn(text: string): Series[] {
  return text
    .split('\n')
    .filter((line) => line.startsWith('scrapellm_proxy_'))
    .map((line) => {
      const [, name = '', labels = ''] = /^scrapellm_proxy_(\w+)(?:\{(.*)\})? \S+$/.exec(line) ?? []
      const pairs = [...labels.matchAll(/(\w+)="([^"]*)"/g)].map(
        ([, label = '', value = '']) => [label, value] as const,
      )
      const isPart = pairs.some(([label]) => label === 'le') || /_seconds_(?:sum|count)$/.test(name)
      return { name: isPart ? name.replace(/_(?:bucket|sum|count)$/, '') : name, labels: Object.fromEntries(pairs) }
    })
}

/** Everything that can be asked, with the prompt, the key and the token of this test in every place where they may go. */
async function askEverything(url: string, sim: Simulator): Promise<readonly Answer[]> {
  const mine = { 'x-api-key': TOKEN }
  const steps = ['503', '500-empty', '400', '422-list', '429-rate', '429-credits', '401'] as const
  for (const kind of steps) sim.script({ prompt: `${PROMPT} ${kind}` }, [kind])
  sim.script({ prompt: `${PROMPT} echo` }, [{ kind: 'echo-key', times: 'forever' }])
  sim.script({ prompt: `${PROMPT} reset` }, ['reset-after-charge', 'reset-after-charge'])
  sim.script({ prompt: `${PROMPT} html` }, ['not-json', 'not-json'])
  sim.script({ prompt: `${PROMPT} teapot` }, [{ kind: 'answer', status: 418, body: { detail: 'short and stout' } }])
  const answers = [
    await get(url + question(PROMPT), mine),
    await get(url + question(PROMPT), { authorization: `Bearer ${TOKEN}` }),
    await get(`${url}${question(PROMPT)}&api_key=${TOKEN}`),
    await get(`${url}${question(PROMPT)}&bypass_cache=true`, { 'x-api-key': 'canary-stranger-0123456789' }),
    await get(url + question(`${PROMPT} not kept`), { ...mine, 'cache-control': 'only-if-cached' }),
    await get(url + question(PROMPT), { ...mine, authorization: 'Bearer canary-other-0123456789' }),
    await get(`${url}${question(PROMPT)}&prompt=${PROMPT}`, mine),
    await get(`${url}/canary/${PROMPT}?api_key=${TOKEN}`),
    await get(url + question(PROMPT, 'canary-scraper'), mine),
    await get(`${url}/scrapers/%2e%2e/${PROMPT}`, mine),
    await get(url + question(PROMPT), mine, 'DELETE'),
    await get(url + question(`${PROMPT} unknown`), mine, 'HEAD'),
    await get(url + question(PROMPT + 'x'.repeat(66_000)), mine),
    await get(url + question(PROMPT, 'gemini/jobs'), { ...mine, 'idempotency-key': 'canary-idempotency' }, 'POST'),
    await get(`${url}/jobs/canary-job`, mine),
  ]
  // Each on a scraper of its own, so that no circuit opens.
  const kinds = [...steps.slice(0, 5), 'echo', 'reset', 'html', 'teapot', '429-credits', '401']
  for (const [index, kind] of kinds.entries()) {
    answers.push(await get(url + question(`${PROMPT} ${kind}`, SCRAPERS[index % 7]), mine))
  }
  return answers
}

void t.test('metrics are complete, their labels are closed lists, and no output holds a secret', async (t) => {
  const sim = await aSimulator(t)
  const proxy = await startProxy(t, sim.url, [...SEARCH_TEAM, ...QUICK, `admin.token=${ADMIN_TOKEN}`], ENVIRONMENT)
  const asAdmin = { authorization: `Bearer ${ADMIN_TOKEN}` }
  const answers = await askEverything(proxy.url, sim)
  const statuses = new Set(answers.map(({ status }) => status))
  for (const status of [200, 202, 400, 404, 405, 414, 418, 422, 429, 500, 502, 504])
    t.ok(statuses.has(status), `a ${status} is among them`)

  const metrics = await get(`${proxy.adminUrl}/metrics`, asAdmin)
  const series = seriesIn(metrics.text)
  for (const name of Object.keys(METRICS))
    t.ok(
      series.some((one) => one.name === name),
      `${name} is there`,
    )
  for (const { name, labels } of series) {
    const names = Object.keys(labels).filter((label) => label !== 'le')
    const wanted = METRICS[name] ?? METRICS_OF_SETTINGS[name] ?? names
    if (names.toString() !== wanted.toString()) t.strictSame(names, wanted, name)
  }
  const others: Readonly<Record<string, readonly (string | number)[]>> = {
    ...labelLists,
    result: [...labelLists.result, ...labelLists.reload],
    reason: [...labelLists.reason, ...labelLists.wire, ...labelLists.cause],
    outcome: [...labelLists.outcome, ...labelLists.notified, ...labelLists.ended],
  }
  for (const { name, labels } of series) {
    for (const [label, value] of Object.entries(labels)) {
      const list = LABELS[label] ?? others[label]
      const isListed = list instanceof RegExp ? list.test(value) : (list?.includes(value) ?? false)
      if (!isListed) t.fail(`${name} has ${label}="${value}"`)
    }
  }
  for (const name of ['process_cpu_seconds_total', 'nodejs_eventloop_lag_seconds']) t.match(metrics.text, name)

  const before = series.length
  for (let turn = 0; turn < 20; turn++) {
    const strange = `canary-${turn}`
    sim.script({ prompt: strange }, [{ kind: 'answer', status: 430 + turn, body: { detail: 'no' } }])
    await get(proxy.url + question(strange), { 'x-api-key': `${strange}-0123456789` })
    await get(proxy.url + question(PROMPT, strange), { 'x-request-id': `${turn}` })
  }
  const after = seriesIn((await get(`${proxy.adminUrl}/metrics`, asAdmin)).text).length
  t.ok(after - before < 20, `20 strange callers, scrapers and statuses made ${after - before} new series`)

  const status = await get(`${proxy.adminUrl}/status`, asAdmin)
  t.match(status.json, { version: String, keys: [{ name: 'main' }], clients: Array, breakers: Array })
  const refusals = answers.filter(({ status }) => status >= 400)
  const refused = [
    ...refusals,
    await get(`${proxy.adminUrl}/${PROMPT}`, asAdmin),
    await get(`${proxy.adminUrl}/status`),
  ]
  proxy.signal('SIGTERM')
  const { stdout, stderr } = await proxy.ended
  t.equal(stderr, '')
  for (const [place, text] of Object.entries({ metrics: metrics.text, status: status.text, log: stdout }))
    t.notMatch(text, canary, `no canary in ${place}`)
  for (const { status, text, headers } of refused)
    t.notMatch(text + JSON.stringify(headers), canary, `no canary in a ${status}`)
  for (const { text, headers } of answers) t.notMatch(text + JSON.stringify(headers), /canary-(?:key|token)/)

  const access = proxy.lines().filter(({ msg }) => msg === 'request')
  t.equal(access.length, answers.length + 40, 'one access line for each request')
  const [line = {}] = access
  t.strictSame(Object.keys(line), Object.keys(documentedLine()), 'with the fields that the page tells')
  for (const one of access) t.strictSame(Object.keys(one), Object.keys(line))
  t.match(line, { client: 'search-team', scraper: 'chatgpt', status: 200, cache: 'miss', attempts: 1, credits: 3 })
})

function documentedLine(): object {
  const [, line = '{}'] =
    /<!-- example:access-line -->\n+```json\n([^]*?)```/.exec(
      readFileSync(`${root}docs/dashboards-and-alerts.md`, 'utf8'),
    ) ?? []
  return JSON.parse(line) as object
}

void t.test('prompts are logged only if log.prompts is set', async (t) => {
  const sim = await aSimulator(t)
  const proxy = await startProxy(t, sim.url, ['log.prompts=true'], ENVIRONMENT)
  const { status } = await get(proxy.url + question(PROMPT))
  t.equal(status, 200)
  await proxy.saw(/"msg":"request"/)
  t.match(
    proxy.lines().find(({ msg }) => msg === 'request'),
    { prompt: PROMPT, prompt_hash: /^[\da-f]{12}$/ },
  )
})

void t.test('the admin token is required for everything but the probes', async (t) => {
  const sim = await aSimulator(t)
  const proxy = await startProxy(t, sim.url, [`admin.token=${ADMIN_TOKEN}`])
  for (const path of ['/healthz', '/readyz']) t.match(await get(proxy.adminUrl + path), { status: 200 }, path)
  for (const path of ['/metrics', '/status']) {
    t.match(await get(proxy.adminUrl + path), { status: 401, headers: { 'www-authenticate': 'Bearer' } }, path)
    t.match(await get(proxy.adminUrl + path, { authorization: 'Bearer wrong-token-0123456789' }), { status: 401 }, path)
    t.match(await get(proxy.adminUrl + path, { authorization: `Bearer ${ADMIN_TOKEN}` }), { status: 200 }, path)
  }
  t.match(await get(`${proxy.adminUrl}/nowhere`, { authorization: `Bearer ${ADMIN_TOKEN}` }), { status: 404 })
})

// Without a key

void t.test('the shell lines that the demo prints do what it says', async (t) => {
  const demo = await startDemo(t)
  const [again = '', flaky = '', crowd = '', ...more] = demo
    .stdout()
    .split('\n')
    .filter((line) => /^ {2}(?:curl|seq) /.test(line))
  t.strictSame(more, [])
  const first = await shell(t, again)
  t.match(first.stdout, /^HTTP\/1\.1 200 OK\r\n/)
  t.match(first.stdout, /Cache-Status: scrapellm-proxy; fwd=miss; fwd-status=200; stored\r\n/)
  t.match(first.stdout, /X-Proxy-Credits: 3\r\n/)
  const second = await shell(t, again)
  t.match(second.stdout, /Cache-Status: scrapellm-proxy; hit; ttl=\d+; detail=memory\r\n/)
  t.match(second.stdout, /X-Proxy-Credits: 0\r\n/)
  const third = await shell(t, flaky)
  t.match(third.stdout, /^HTTP\/1\.1 200 OK\r\n/)
  t.match(third.stdout, /X-Proxy-Attempts: 3\r\n/)
  const credits = (await shell(t, crowd)).stdout.trim().split(' ')
  t.strictSame(credits.toSorted(), [...Array<string>(19).fill('0'), '3'])
  demo.signal('SIGINT')
  t.match(await demo.ended, { code: 0, stderr: '' })
})

void t.test('the demo makes traffic of its own, unless --quiet', async (t) => {
  const demo = await startDemo(t, ['--set', 'log.level=info'])
  await demo.saw(/"msg":"request".*"status":200/)
  demo.signal('SIGTERM')
  t.match(await demo.ended, { code: 0, stderr: '' })
})

void t.test('the demo makes no traffic where clients need a token, and says so', async (t) => {
  const demo = await startDemo(t, [
    '--set',
    'log.level=info',
    '--set',
    'clients={team: {token: team-token-0123456789}}',
  ])
  t.match(demo.stdout(), "add -H 'X-API-Key: <token>' to each line. No traffic of its own.")
  t.match(await get(demo.url + question('mine'), { 'x-api-key': 'team-token-0123456789' }), { status: 200 })
  await demo.saw(/"msg":"request".*"status":200/)
  t.notMatch(demo.stdout(), /"status":401/)
  demo.signal('SIGTERM')
  t.match(await demo.ended, { code: 0 })
})

void t.test('the demo says what it waits for when it is stopped', async (t) => {
  const demo = await startDemo(t)
  const asked = get(demo.url + question('sim:hang')).catch(() => null)
  for (let open = 0; open === 0;) {
    const { text } = await get(`${demo.adminUrl}/status`)
    open = (JSON.parse(text) as { open_requests: number }).open_requests
  }
  demo.signal('SIGINT')
  await demo.saw(/Stopping: open requests are finished first \(1\)\. Ctrl-C again stops at once\./)
  demo.signal('SIGINT')
  t.match(await demo.ended, { code: 0 })
  await asked
})

void t.test('the simulator runs on its own', async (t) => {
  const program = startProgram(t, ['simulator', '--port', '0'])
  const [, url = ''] = await program.saw(/listens on (http:\S+?)\. [^]*README\.md/)
  t.match(await get(`${url}/__sim/ledger`), { status: 200 })
  t.match(await get(url + question('sim:503')), { status: 401 })
  t.match(await get(url + question('sim:503'), { 'x-api-key': 'any' }), { status: 503 })
  program.signal('SIGTERM')
  t.match(await program.ended, { code: 0, stderr: '' })
})

void t.test('simulator: a port in use is one sentence, too', async (t) => {
  const other = http.createServer()
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
  t.teardown(() => other.close())
  const { port } = other.address() as AddressInfo
  const { code, stderr } = await runProgram(t, ['simulator', '--port', String(port)])
  t.equal(code, 1)
  t.match(stderr, `Port ${port} on 127.0.0.1 is in use`)
})

/**
 * Dashboards and alerts against reality: a real Prometheus scrapes the real program, with a real Redis and with traffic and
 * failures of every class from the simulator. Every query of every panel and rule is asked.
 */
import t, { type Test } from 'tap'
import { createSimulator, instant, type Simulator } from '../src/simulator/simulator.ts'
import { labelLists } from '../src/telemetry/labels.ts'
import { metricCatalogue } from '../src/telemetry/metrics.ts'
import { anAuthority } from './support/certificates.ts'
import { dashboards, expressionsOf, rules, usesIn } from './support/grafana.ts'
import { startProxy, type Running } from './support/process.ts'
import { startPrometheus, type Prometheus, type Sample } from './support/prometheus.ts'
import { request, type Asking } from './support/proxy.ts'
import { startRedis } from './support/redis.ts'

const settings = [
  'upstream.keys=[{ name: main, secret: upstream-key-one }, { name: reserve, secret: upstream-key-two }]',
  'clients={ anonymous: {}, team: { token: team-token-0123456789, rate: { limit: 3, per: 1h } } }',
  'clients.poor={ token: poor-token-0123456789, credits: { perDay: 10 } }',
  'retry.backoff={ base: 1ms, max: 1ms }',
  'retry.classes.rateLimited.backoff.base=1ms',
  'retry.classes.queueFull.backoff.base=1ms',
  'retry.classes.warmingUp.backoff.base=1ms',
  'retry.classes.creditsExhausted.keyRest=0s',
  'retry.classes.unauthorized.keyRest=0s',
  'retry.classes.blocked.keyRest=0s',
  'retry.classes.rateLimited.keyRest=0s',
  'retry.budget.capacity=1000',
  // Only the circuit of the scraper that always fails opens.
  'breaker={ consecutive: 5, failureRate: 1, window: 1000, minimum: 1000, openFor: 20s, hold: 0s }',
  'cache.disk=false',
  'upstream.perScraper={ copilot: 1 }',
]

/** What each step is to the proxy: one for every class of failure. */
const failing = [
  ['408', 'timeout'],
  ['429-rate', 'rateLimited'],
  ['429-queue', 'queueFull'],
  ['429-credits', 'creditsExhausted'],
  ['401', 'unauthorized'],
  ['500-empty', 'emptyResult'],
  ['500', 'serverError'],
  ['503', 'warmingUp'],
  ['504', 'gatewayTimeout'],
  ['403-html', 'blocked'],
  ['reset-after-charge', 'ambiguous'],
  ['400', 'rejected'],
] as const

/** Queries without data here, by panel, and why that is right. */
const mayBeEmpty: Readonly<Record<string, string>> = {
  'Compared with last week': 'there was no last week',
  'Latency of misses, p50': 'there was no yesterday',
  'Latency of misses, p95': 'there was no yesterday',
}

interface Stage {
  readonly sim: Simulator
  readonly proxy: Running
  readonly prometheus: Prometheus
}

async function aStage(t: Test): Promise<Stage> {
  const sim = createSimulator({ latency: instant })
  const { url } = await sim.start()
  t.teardown(() => sim.close())
  const redis = await startRedis(t)
  const proxy = await startProxy(t, url, [...settings, `redis.url=${redis.url}`], {})
  // Whatever is there only with TLS, with files, or without Redis: a second one, which is never asked.
  const { cert, key } = anAuthority(t).issue('proxy')
  const ofFiles = ['cache.disk={ path: cache.db }', 'audit={ path: audit.ndjson }', 'upstream.credits={ perDay: 1000 }']
  const tls = `listen.tls={ cert: '${cert}', key: '${key}' }`
  const secure = await startProxy(t, url, [...settings, ...ofFiles, tls], {})
  const targets = [proxy, secure].map(({ adminUrl }) => new URL(adminUrl).host)
  const prometheus = await startPrometheus(t, targets, ['--enable-feature=exemplar-storage'])
  return { sim, proxy, prometheus }
}

/** Everything that can happen to a request, once. */
async function aRound({ sim, proxy }: Stage, round: number): Promise<void> {
  const send = (path: string, asking: Asking = {}) => request(undefined, proxy.url + path, asking)
  const ask = (scraper: string, prompt: string, asking: Asking = {}) =>
    send(`/scrapers/${scraper}?${new URLSearchParams({ prompt: `${prompt} (round ${round})` }).toString()}`, asking)
  const as = (token: string): Asking => ({ headers: { 'x-api-key': token } })

  for (let question = 0; question < 4; question += 1) await ask('chatgpt', `question ${question % 2}`)
  for (const [step] of failing) await ask('perplexity', `sim:${step},200 please`)

  // Nobody is there, and then it is back on the same port.
  await sim.close()
  await ask('gemini', 'is anybody there')
  await sim.start()

  // It always fails: the circuit opens and questions are refused.
  for (let question = 0; question < 3; question += 1) await ask('grok', `sim:503,503,503,503 ${question}`)

  const prompt = `together (round ${round})`
  sim.script({ prompt }, ['hold'])
  const both = [ask('copilot', 'together'), ask('copilot', 'together')]
  await sim.received(1, { prompt })
  // There is one place for this scraper, and it is taken.
  const waiting = ask('copilot', 'wait')
  await shown(proxy, /^scrapellm_proxy_upstream_queue_length\{scraper="copilot"\} (\d+)/m, 1)
  sim.release({ prompt })
  await Promise.all([...both, waiting])

  // Its only caller hangs up, and the call is finished all the same.
  const left = `left (round ${round})`
  sim.script({ prompt: left }, ['hold'])
  const hangUp = new AbortController()
  const gone = ask('copilot', 'left', { signal: hangUp.signal }).catch(() => null)
  await sim.received(1, { prompt: left })
  hangUp.abort()
  await gone
  // The proxy must have noticed before the answer comes.
  await shown(proxy, /^scrapellm_proxy_requests_total\{[^}]*status="gone"[^}]*\} (\d+)/m, round)
  sim.release({ prompt: left })
  await sim.idle()

  for (let question = 0; question < 4; question += 1)
    await ask('chatgpt', `team ${question}`, as('team-token-0123456789'))
  for (let question = 0; question < 12; question += 1)
    await ask('chatgpt', `poor ${question}`, as('poor-token-0123456789'))
  await ask('chatgpt', 'who am I', as('unknown-token-0123456789'))
  await send('/nowhere')
  await ask('chatgpt', 'kept?', { headers: { 'cache-control': 'only-if-cached' } })

  for (const steps of [['done'], ['failed']] as const) {
    const prompt = `job ${steps[0]} ${round}`
    sim.script({ prompt, call: 'submit' }, [...steps])
    const body = JSON.stringify({ prompt })
    const headers = { 'content-type': 'application/json' }
    const { json } = await send('/scrapers/chatgpt/jobs', { method: 'POST', headers, body })
    await send(`/jobs/${String(json['job_id'])}`)
  }
}

/** Once its metrics say so: it tells nobody, so they are read until then. */
async function shown({ adminUrl }: Running, value: RegExp, atLeast: number): Promise<void> {
  for (;;) {
    const { text } = await request(undefined, `${adminUrl}/metrics`)
    if (Number(value.exec(text)?.[1] ?? 0) >= atLeast) return
  }
}

/** With the choices of somebody who has just opened the dashboard. */
function asked(expression: string): string {
  return (
    expression
      .replaceAll(/\$(?:instance|client|scraper)\b/g, '.*')
      .replaceAll('$__rate_interval', '1m')
      // A stack leaves out what is zero.
      .replace(/^\((.*)\) > 0$/s, '$1')
      .replaceAll('$__range', '1h')
  )
}

async function firing({ api }: Prometheus): Promise<readonly string[]> {
  const { alerts } = (await api('alerts')) as {
    readonly alerts: readonly { readonly state: string; readonly labels: Readonly<Record<string, string>> }[]
  }
  return [...new Set(alerts.filter(({ state }) => state === 'firing').map(({ labels }) => labels['alertname'] ?? ''))]
}

/** A query that cannot be read has no data, and says why. */
function dataOf(prometheus: Prometheus, expression: string): Promise<readonly Sample[] | Error> {
  return prometheus.query(asked(expression)).catch((error: Error) => error)
}

void t.test('what a real Prometheus says of the dashboards and alerts', async (t) => {
  const stage = await aStage(t)
  const { prometheus } = stage
  await prometheus.scraped(1)
  t.strictSame(await firing(prometheus), [], 'no alert without traffic')
  await aRound(stage, 1)
  // A series that appears has not increased yet.
  await prometheus.scraped(2)
  await aRound(stage, 2)
  await prometheus.scraped(2)

  await t.test('failures of every class have happened', async (t) => {
    const found = await prometheus.query('sum by (class) (scrapellm_proxy_upstream_failures_total) > 0')
    const classes = new Set(found.map(({ metric }) => metric['class']))
    for (const one of labelLists.class) t.ok(classes.has(one), one)
  })

  await t.test('every query of every panel, mark and variable can be read, and has data', async (t) => {
    for (const [file, dashboard] of dashboards) {
      const bare = new Set(expressionsOf(dashboard))
      for (const { title, targets = [] } of dashboard.panels) {
        for (const { expr } of targets) {
          bare.delete(expr)
          const data = await dataOf(prometheus, expr)
          const why = data instanceof Error ? data.message : `${data.length} series`
          t.ok(Array.isArray(data) && (data.length > 0 || title in mayBeEmpty), `${file}: ${title}: ${why}: ${expr}`)
        }
      }
      for (const expr of bare) t.notOk((await dataOf(prometheus, expr)) instanceof Error, `${file}: ${expr}`)
    }
  })

  await t.test('every rule is evaluated without a fault', async (t) => {
    const { groups } = (await prometheus.api('rules')) as {
      readonly groups: readonly {
        readonly rules: readonly { readonly name: string; readonly health: string; readonly lastError?: string }[]
      }[]
    }
    const evaluated = groups.flatMap((group) => group.rules)
    t.equal(evaluated.length, rules.length)
    for (const { name, health, lastError = '' } of evaluated) t.equal(health, 'ok', `${name} ${lastError}`)
  })

  await t.test('every metric and label that an alert looks at is there', async (t) => {
    for (const { alert = '', record = '', expr } of rules) {
      for (const { name, matchers } of usesIn(expr)) {
        const series = (await prometheus.api('series', { 'match[]': name })) as readonly Record<string, string>[]
        t.ok(series.length > 0, `${alert}${record}: ${name} is there`)
        for (const { label } of matchers)
          t.ok(
            series.some((one) => label in one),
            `${name} has ${label}`,
          )
      }
    }
  })

  await t.test('every metric of the catalogue is scraped', async (t) => {
    const known = new Set((await prometheus.api('label/__name__/values')) as readonly string[])
    for (const { name, type } of metricCatalogue) t.ok(known.has(type === 'histogram' ? `${name}_bucket` : name), name)
  })

  await t.test('single requests can be found by their ids', async (t) => {
    const { headers } = await request(undefined, `${stage.proxy.url}/scrapers/chatgpt?prompt=whose`)
    await prometheus.scraped(2)
    const found = await prometheus.api('query_exemplars', {
      query: 'scrapellm_proxy_request_duration_seconds_bucket{cache="miss"}',
      start: '0',
      end: '9999999999',
    })
    t.match(JSON.stringify(found), `"request_id":"${String(headers['x-request-id'])}"`)
  })

  await t.test('the alerts that such a time deserves fire', async (t) => {
    const names = await firing(prometheus)
    for (const name of ['BudgetSpent', 'BudgetNearlySpent'])
      t.ok(names.includes(`ScrapellmProxy${name}`), `${name} among ${names.join(', ')}`)
    for (const name of ['Bug', 'LedgerImbalance', 'Down', 'RedisDown', 'ForeignEntries', 'TooManySeries'])
      t.notOk(names.includes(`ScrapellmProxy${name}`), `${name} is quiet`)
  })
})

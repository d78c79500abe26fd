/** What a scripted day leaves behind: the scraped text, the access lines and the log, all through the real parts. */
import t from 'tap'
import { noDirectives } from '../../src/http/cache-directives.ts'
import { ProxyError, refusals } from '../../src/errors.ts'
import { matches } from '../../src/http/respond.ts'
import { createLinkedList } from '../../src/linked-list.ts'
import type { Attempt, Call, Client, Entry, Exchange, Landing, Outcome, Tier, Verdict } from '../../src/model.ts'
import type { BreakerStatus, KeyStatus } from '../../src/fetch-parts.ts'
import type { BudgetStatus } from '../../src/parts.ts'
import { createAccessLog } from '../../src/telemetry/access-log.ts'
import { createLog } from '../../src/telemetry/log.ts'
import { createMetrics, metricCatalogue } from '../../src/telemetry/metrics.ts'
import { createRecorder } from '../../src/telemetry/recorder.ts'

const start = Date.UTC(2026, 0, 2, 3, 4, 5, 67)
const canary = { prompt: 'CANARY-prompt', token: 'CANARY-token-1234', key: 'CANARY-upstream-key' }

function createScene(
  names: { clients?: string[]; scrapers?: string[]; tiers?: Tier[]; budgets?: BudgetStatus[] } = {},
) {
  let now = start
  const lines: string[] = []
  const live = {
    breakers: [] as BreakerStatus[],
    keys: [{ name: 'main', state: 'ready', problem: null, untilAt: null, tryAt: null }] as KeyStatus[],
    generation: 1,
  }
  const clock = { now: () => now, wall: () => now, after: () => ({ cancel() {} }) }
  const sink = (text: string) => void lines.push(...text.trimEnd().split('\n'))
  const metrics = createMetrics({
    clients: names.clients ?? ['search-team', 'batch'],
    scrapers: names.scrapers ?? ['chatgpt', 'gemini'],
    keys: ['main', 'spare'],
    tiers: names.tiers ?? ['memory'],
    version: '1.2.3',
  })
  const open = createLinkedList<Exchange>()
  metrics.showGauges({
    openRequests: () => open.size,
    breakers: () => live.breakers,
    keys: () => live.keys,
    budgets: () => names.budgets ?? [budget, { ...budget, client: '' }],
    tokens: () => (names.clients ?? ['batch']).map((client) => ({ client, name: '1 abcdef', lastUsedAt: 1 })),
    disk: () => ({ answers: 'up', records: 'up' }),
    redis: () => 'up',
    auditFile: () => 'down',
    limits: { upstream: () => 40, maxConcurrent: () => 1_000, queueSize: () => 1_000 },
    retryTokens: (scraper) => (scraper === 'chatgpt' ? 95 : 100),
    cache: () => [{ tier: 'memory', entries: 2, bytes: 8192, maxBytes: 65_536 }],
    configGeneration: () => live.generation,
    wallMs: () => 1_700_000_000_000,
    certificateUntil: () => start + 86_400_000,
    overload: () => ({ state: 'shedding', memory: 0.9 }),
  })
  const access = createAccessLog({ level: 'info', prompts: false }, { clock, sink })
  const log = createLog({ level: 'debug', sink, secrets: [canary.key] })
  const recorder = createRecorder({ metrics, access, log, clock, matches, open })

  return {
    metrics,
    live,
    emit: recorder.emit,
    refused: (error: ProxyError, id?: string) => recorder.refused(error, id),
    begin: (exchange: Exchange) => recorder.begin(exchange),
    pass: (ms: number) => void (now += ms),
    now: () => now,
    /** One exchange from arrival to outcome, `ms` later. */
    end(exchange: Exchange, outcome: Outcome, ms = 0) {
      const place = recorder.begin(exchange)
      now += ms
      place.leave()
      recorder.record(exchange, outcome)
    },
    exchange(change: { client?: string | null; call?: Partial<Call> | null; ifNoneMatch?: string } = {}): Exchange {
      return {
        request: {
          id: 'req-1',
          method: 'GET',
          target: { path: '/scrapers/chatgpt', params: [['prompt', canary.prompt]], token: canary.token },
          token: canary.token,
          cacheDirectives: noDirectives,
          ifNoneMatch: change.ifNoneMatch ?? null,
          patienceMs: null,
          idempotencyKey: null,
          respondAsyncAfterMs: null,
          traceparent: null,
          source: { host: null, origin: null, fetchSite: null },
          arrivedAt: now,
          onGone: () => () => {},
        },
        client: change.client === null ? null : clientNamed(change.client ?? 'search-team'),
        call: change.call === null ? null : { ...question, ...change.call },
        limits: null,
        credits: [],
        flight: null,
      }
    },
    async scrape() {
      const { body } = await metrics.text()
      return (series: string) => valueIn(body, `scrapellm_proxy_${series}`)
    },
    lines() {
      access.flush()
      return lines.map((line): Record<string, unknown> => JSON.parse(line))
    },
    raw() {
      access.flush()
      return lines.join('\n')
    },
  }
}

function valueIn(text: string, series: string): number | null {
  const line = text.split('\n').find((line) => line.startsWith(`${series} `))
  return line === undefined ? null : Number(line.slice(series.length + 1))
}

/** Labels of every line of our own, by metric name without a histogram's suffix. */
function seriesIn(text: string) {
  return text
    .split('\n')
    .filter((line) => line.startsWith('scrapellm_proxy_'))
    .map((line) => {
      const [, name = '', labels = ''] = /^(\w+)(?:\{(.*)\})? /.exec(line) ?? []
      const pairs = [...labels.matchAll(/(\w+)="([^"]*)"/g)].map(
        ([, label = '', value = '']) => [label, value] as const,
      )
      return { name: name.replace(/_(bucket|sum|count)$/, ''), labels: new Map(pairs) }
    })
}

const question: Call = {
  endpoint: 'answer',
  method: 'GET',
  scraper: 'chatgpt',
  path: '/scrapers/chatgpt',
  params: [['prompt', canary.prompt]],
  key: 'k1',
  bypass: false,
  timeoutMs: null,
  country: 'US',
  priceCredits: 3,
  promptHash: 'abc123',
}

function clientNamed(name: string): Client {
  return {
    name,
    rate: null,
    concurrency: null,
    weight: 1,
    priority: 'interactive',
    retry: { attempts: 4, deadline: 600_000, classes: {} as Client['retry']['classes'] },
    cache: { ttl: 1, staleIfError: 1, staleWhileRevalidate: 0, emptyResultTtl: 1, scope: 'shared' },
    credits: { perDay: null, perMonth: null },
    scrapers: null,
  }
}

const entry: Entry = {
  status: 200,
  contentType: 'application/json',
  body: Buffer.from('{}'),
  etag: 'W/"e1"',
  storedAt: start,
  keptUntil: start + 2,
  scraper: 'chatgpt',
  promptHash: 'abc123',
  country: 'US',
  priceCredits: 3,
  unclaimed: false,
}

const budget: BudgetStatus = {
  client: 'search-team',
  period: 'day',
  limitCredits: 3000,
  leftCredits: 591,
  heldCredits: 9,
  spentCredits: 2400,
  resetAt: start + 1,
}

const hit: Outcome = { kind: 'hit', entry, tier: 'memory' }

function attempt(change: Partial<Attempt> = {}): Attempt {
  const charge = { state: 'charged', credits: 3 } as const
  const first = { number: 1, startedAt: start, durationMs: 8000, waitedMs: 0, keyName: 'main', status: 200 }
  return { ...first, class: 'ok', charge, trouble: null, ...change }
}

function reply(status: number) {
  return { status, contentType: 'application/json', retryAfter: null, location: null, body: Buffer.from('{}') }
}

const answered: Verdict = {
  kind: 'answered',
  reply: reply(200),
  charge: { state: 'charged', credits: 3 },
  health: 'up',
  keepable: true,
}

const failed: Extract<Verdict, { kind: 'failed' }> = {
  kind: 'failed',
  class: 'warmingUp',
  fault: 'upstream',
  reply: reply(503),
  refusal: null,
  charge: { state: 'free', credits: 0 },
  health: 'down',
  retryAfterMs: null,
}

function landing(verdict: Verdict, change: Partial<Landing> = {}): Landing {
  return { verdict, attempts: [], stoppedBy: null, chargedCredits: 0, entry: null, ...change }
}

function fetched(verdict: Verdict, change: Partial<Extract<Outcome, { kind: 'fetched' }>> = {}): Outcome {
  return { kind: 'fetched', landing: landing(verdict), role: 'leader', forwardedBecause: 'miss', ...change }
}

void t.test('a miss, then a hit: one bill, and the same amount saved', async (t) => {
  const scene = createScene()
  const miss = scene.exchange()
  const paid = attempt({ startedAt: start + 10 })
  scene.begin(miss)
  scene.emit({ kind: 'attempt-started', flight: 1, number: 1, waitedMs: 0, keyName: 'main', scraper: 'chatgpt' })
  const during = await scene.scrape()
  t.equal(during('in_flight_requests'), 1)
  t.equal(during('upstream_in_flight{scraper="chatgpt"}'), 1)

  scene.emit({
    kind: 'attempt-ended',
    flight: 1,
    retryAfterMs: null,
    id: 'r1',
    scraper: 'chatgpt',
    payer: 'search-team',
    attempt: paid,
  })
  scene.end(miss, fetched(answered, { landing: landing(answered, { attempts: [paid], chargedCredits: 3 }) }), 8020)
  scene.end(scene.exchange(), hit, 2)

  const value = await scene.scrape()
  t.equal(value('requests_total{client="search-team",scraper="chatgpt",status="200",cache="miss"}'), 1)
  t.equal(value('requests_total{client="search-team",scraper="chatgpt",status="200",cache="hit"}'), 1)
  t.equal(value('credits_spent_total{client="search-team",scraper="chatgpt",key="main"}'), 3)
  t.equal(value('credits_saved_total{client="search-team",scraper="chatgpt",how="hit"}'), 3)
  t.equal(value('upstream_responses_total{scraper="chatgpt",status="200"}'), 1)
  t.equal(value('upstream_attempt_duration_seconds_sum{scraper="chatgpt"}'), 8)
  t.equal(value('upstream_in_flight{scraper="chatgpt"}'), 0)
  t.equal(value('in_flight_requests'), 1, 'the first begin was on top of the one of its end')
  t.equal(value('ambiguous_attempts_total{scraper="chatgpt"}'), 0)

  t.strictSame(scene.lines(), [
    {
      level: 'info',
      time: '2026-01-02T03:04:13.087Z',
      msg: 'request',
      id: 'req-1',
      client: 'search-team',
      scraper: 'chatgpt',
      endpoint: 'answer',
      status: 200,
      cache: 'miss',
      tier: null,
      code: null,
      attempts: 1,
      credits: 3,
      duration_ms: 8020,
      prompt_hash: 'abc123',
    },
    {
      level: 'info',
      time: '2026-01-02T03:04:13.089Z',
      msg: 'request',
      id: 'req-1',
      client: 'search-team',
      scraper: 'chatgpt',
      endpoint: 'answer',
      status: 200,
      cache: 'hit',
      tier: 'memory',
      code: null,
      attempts: 0,
      credits: 0,
      duration_ms: 2,
      prompt_hash: 'abc123',
    },
  ])
})

void t.test('histograms add up: buckets rise to the count, the sum is the sum', async (t) => {
  const scene = createScene()
  for (const ms of [0.5, 1, 2, 90_000, 700_000]) scene.end(scene.exchange(), hit, ms)
  const value = await scene.scrape()
  const bucket = (le: string) => value(`request_duration_seconds_bucket{scraper="chatgpt",cache="hit",le="${le}"}`)
  t.strictSame(['0.001', '0.005', '60', '120', '600', '+Inf'].map(bucket), [2, 3, 3, 4, 4, 5])
  t.equal(value('request_duration_seconds_count{scraper="chatgpt",cache="hit"}'), 5)
  t.ok(Math.abs((value('request_duration_seconds_sum{scraper="chatgpt",cache="hit"}') ?? 0) - 790.0035) < 1e-6)
})

void t.test('whoever prefers OpenMetrics gets it, with the latest request of each bucket by its id', async (t) => {
  const scene = createScene()
  const named = (id: string) => {
    const exchange = scene.exchange()
    return { ...exchange, request: { ...exchange.request, id } }
  }
  for (const id of ['slow-one', 'slow-two']) scene.end(named(id), hit, 90_000)
  scene.end(named('quote"and\\'), hit, 2)
  scene.end(named('x'.repeat(101)), hit, 700_000)

  const { contentType, body } = await scene.metrics.text('application/openmetrics-text;version=1.0.0,text/plain;q=0.5')
  t.match(contentType, /^application\/openmetrics-text; version=1\.0\.0/)
  t.ok(body.endsWith('\n# EOF\n'))
  t.notMatch(body, /\n\n/)
  t.match(body, '# TYPE scrapellm_proxy_requests counter\n')
  t.match(body, /^scrapellm_proxy_requests_total\{.* 4$/m)
  const bucket = (le: string) =>
    new RegExp(
      `^scrapellm_proxy_request_duration_seconds_bucket\\{.*le="${le.replace('+', '\\+')}"\\} (.*)$`,
      'm',
    ).exec(body)?.[1]
  t.equal(bucket('120'), '3 # {request_id="slow-two"} 90')
  t.equal(bucket('0.005'), '1 # {request_id="quote\\"and\\\\"} 0.002')
  t.equal(bucket('60'), '1', 'nobody in between')
  t.equal(bucket('+Inf'), '4', 'an id too long for the format is left out')

  const plain = await scene.metrics.text('text/plain, application/openmetrics-text')
  t.match(plain.contentType, /^text\/plain/)
  t.match(plain.body, '# TYPE scrapellm_proxy_requests_total counter\n')
  t.notMatch(plain.body, /request_id|EOF/)
})

void t.test(
  'overhead is what is left of a request without attempts and pauses, also for one who joined midway',
  async (t) => {
    const scene = createScene()
    const attempts = [
      attempt({ startedAt: start + 10, durationMs: 1000, class: 'warmingUp', status: 503 }),
      attempt({ number: 2, startedAt: start + 2010, durationMs: 5000, waitedMs: 1000 }),
    ]
    const flight = landing(answered, { attempts, chargedCredits: 3 })
    const leader = scene.exchange()
    scene.pass(4000)
    const joiner = scene.exchange()
    scene.pass(3012)
    scene.end(leader, fetched(answered, { landing: flight }))
    const first = await scene.scrape()
    t.ok(
      Math.abs((first('overhead_seconds_sum') ?? 0) - 0.012) < 1e-9,
      'ten before the first attempt, two after the last',
    )
    scene.end(joiner, fetched(answered, { landing: flight, role: 'joined' }))
    const both = await scene.scrape()
    t.ok(Math.abs((both('overhead_seconds_sum') ?? 0) - 0.014) < 1e-9)
    t.equal(both('overhead_seconds_count'), 2)

    scene.end(scene.exchange(), { kind: 'refused', error: new ProxyError('DEADLINE_EXCEEDED', 'Late.') }, 50)
    scene.end(scene.exchange(), { kind: 'gone' }, 50)
    t.equal((await scene.scrape())('overhead_seconds_count'), 2, 'not where the wait for upstream is not known')
    scene.end(scene.exchange(), { kind: 'refused', error: new ProxyError('RATE_LIMITED', 'Slow.') }, 1)
    t.equal((await scene.scrape())('overhead_seconds_count'), 3)
  },
)

void t.test('what joined calls and stale answers save is counted apart, and costs nothing', async (t) => {
  const scene = createScene()
  const flight = landing(answered, { attempts: [attempt()], chargedCredits: 3 })
  scene.end(scene.exchange({ client: 'batch' }), fetched(answered, { landing: flight, role: 'joined' }))
  scene.end(scene.exchange({ client: 'batch' }), fetched(failed, { role: 'joined' }))
  const free: Verdict = { ...answered, charge: { state: 'free', credits: 0 } }
  scene.end(scene.exchange({ client: 'batch' }), fetched(free, { role: 'joined' }))
  scene.end(scene.exchange({ client: 'batch' }), {
    kind: 'stale',
    entry,
    tier: 'memory',
    landing: landing(failed),
    because: 'error',
  })

  const value = await scene.scrape()
  t.equal(value('credits_saved_total{client="batch",scraper="chatgpt",how="joined"}'), 3)
  t.equal(value('credits_saved_total{client="batch",scraper="chatgpt",how="stale"}'), 3)
  t.equal(value('credits_spent_total{client="batch",scraper="chatgpt",key="main"}'), 0)
  t.equal(value('joined_requests_total{scraper="chatgpt"}'), 3)
  t.equal(value('requests_total{client="batch",scraper="chatgpt",status="503",cache="joined"}'), 1)
  t.equal(value('requests_total{client="batch",scraper="chatgpt",status="200",cache="stale"}'), 1)
  t.match(scene.lines(), [{ cache: 'joined', attempts: 1, credits: 0 }, {}, {}, { cache: 'stale', tier: 'memory' }])
})

void t.test('every way to end has its status, cache label and code', async (t) => {
  const scene = createScene()
  const unanswered = { ...failed, reply: null, class: 'unreachable' } as const
  const rows: [string, Exchange, Outcome, { status: unknown; cache: string; code: string | null }][] = [
    [
      'nobody was identified',
      scene.exchange({ client: null, call: null }),
      { kind: 'refused', error: new ProxyError('CLIENT_UNKNOWN', 'Who?') },
      { status: 401, cache: 'none', code: 'CLIENT_UNKNOWN' },
    ],
    [
      'a refusal with a status of its own',
      scene.exchange({ call: null }),
      { kind: 'refused', error: new ProxyError('REQUEST_INVALID', 'Long.', { status: 414 }) },
      { status: 414, cache: 'none', code: 'REQUEST_INVALID' },
    ],
    ['the caller hung up', scene.exchange(), { kind: 'gone' }, { status: 'gone', cache: 'none', code: null }],
    ['upstream failed', scene.exchange(), fetched(failed), { status: 503, cache: 'miss', code: null }],
    [
      'upstream was not there',
      scene.exchange(),
      fetched({ ...unanswered, refusal: 'UPSTREAM_UNREACHABLE' }),
      { status: 504, cache: 'miss', code: 'UPSTREAM_UNREACHABLE' },
    ],
    [
      'upstream talked rubbish',
      scene.exchange(),
      fetched({ ...unanswered, refusal: 'UPSTREAM_INVALID' }),
      { status: 502, cache: 'miss', code: 'UPSTREAM_INVALID' },
    ],
    [
      'no reply and no word why',
      scene.exchange(),
      fetched(unanswered),
      { status: 504, cache: 'miss', code: 'UPSTREAM_UNREACHABLE' },
    ],
    [
      'a fresh answer was wanted',
      scene.exchange(),
      fetched(answered, { forwardedBecause: 'bypass' }),
      { status: 200, cache: 'bypass', code: null },
    ],
    [
      'the caller forbade what is kept',
      scene.exchange(),
      fetched(answered, { forwardedBecause: 'request' }),
      { status: 200, cache: 'bypass', code: null },
    ],
    [
      'an expired answer was asked for again',
      scene.exchange(),
      fetched(answered, { forwardedBecause: 'stale' }),
      { status: 200, cache: 'miss', code: null },
    ],
    [
      'a poll',
      scene.exchange({ call: { endpoint: 'status', scraper: 'none' } }),
      fetched(answered, { forwardedBecause: 'bypass' }),
      { status: 200, cache: 'none', code: null },
    ],
    [
      'the caller has it already',
      scene.exchange({ ifNoneMatch: '"e0", "e1"' }),
      hit,
      { status: 304, cache: 'hit', code: null },
    ],
    [
      'what is remembered is a failure',
      scene.exchange({ ifNoneMatch: '*' }),
      { ...hit, entry: { ...entry, status: 500 } },
      { status: 500, cache: 'hit', code: null },
    ],
    [
      'the caller has another one',
      scene.exchange({ ifNoneMatch: '"e0"' }),
      hit,
      { status: 200, cache: 'hit', code: null },
    ],
    [
      'the caller has any',
      scene.exchange({ ifNoneMatch: '*' }),
      fetched(answered, { landing: landing(answered, { entry }) }),
      { status: 304, cache: 'miss', code: null },
    ],
  ]
  for (const [, exchange, outcome] of rows) scene.end(exchange, outcome)
  const lines = scene.lines()
  for (const [index, [name, , , expected]] of rows.entries()) t.match(lines[index], expected, name)

  const value = await scene.scrape()
  t.equal(value('requests_total{client="unknown",scraper="none",status="401",cache="none"}'), 1)
  t.equal(value('requests_total{client="search-team",scraper="chatgpt",status="gone",cache="none"}'), 1)
  t.equal(value('refusals_total{client="unknown",code="CLIENT_UNKNOWN"}'), 1)
  t.equal(value('refusals_total{client="search-team",code="UPSTREAM_UNREACHABLE"}'), 2)
  t.equal(value('refusals_total{client="search-team",code="RATE_LIMITED"}'), 0, 'shown before it happened')
  t.equal(value('in_flight_requests'), 0)
})

void t.test('each request is good, bad, or not part of the promise of availability', async (t) => {
  const scene = createScene()
  for (const code of ['RATE_LIMITED', 'BUDGET_EXHAUSTED', 'CACHE_MISS', 'SCRAPER_NOT_ALLOWED'] as const)
    scene.end(scene.exchange(), { kind: 'refused', error: new ProxyError(code, 'No.') })
  scene.end(scene.exchange(), fetched({ ...failed, class: 'rejected', fault: 'client', reply: reply(400) }))
  for (const code of ['CIRCUIT_OPEN', 'BUDGET_UNAVAILABLE', 'NO_KEY_AVAILABLE'] as const)
    scene.end(scene.exchange(), { kind: 'refused', error: new ProxyError(code, 'No.') })
  scene.end(scene.exchange(), fetched({ ...failed, class: 'blocked', fault: 'key', reply: reply(403) }))
  scene.end(scene.exchange(), fetched({ ...failed, class: 'queueFull', fault: 'upstream', reply: reply(429) }))
  scene.end(scene.exchange(), fetched(answered))
  scene.end(scene.exchange(), fetched(answered, { role: 'joined' }))
  scene.end(scene.exchange(), hit)
  scene.end(scene.exchange(), { kind: 'gone' })
  scene.refused(new ProxyError('REQUEST_INVALID', 'Too long.', { status: 431 }))
  scene.refused(new ProxyError('OVERLOADED', 'Too many connections.', { reason: 'connections' }))
  const value = await scene.scrape()
  const count = (outcome: string) => value(`request_outcomes_total{outcome="${outcome}"}`)
  t.strictSame(['refused', 'failed', 'fetched', 'cached', 'stale'].map(count), [6, 6, 1, 2, 0])
})

void t.test('what was refused before it could be called a request is counted and written down too', async (t) => {
  const scene = createScene()
  scene.refused(new ProxyError('REQUEST_INVALID', 'Too long.', { status: 431 }))
  scene.refused(new ProxyError('REQUEST_INVALID', 'No.'), 'req-2')
  const value = await scene.scrape()
  t.equal(value('requests_total{client="unknown",scraper="none",status="431",cache="none"}'), 1)
  t.equal(value('refusals_total{client="unknown",code="REQUEST_INVALID"}'), 2)
  t.equal(value('in_flight_requests'), 0)
  t.match(scene.lines(), [
    { id: null, client: 'unknown', endpoint: null, status: 431, code: 'REQUEST_INVALID' },
    { id: 'req-2', status: 400 },
  ])
})

void t.test('job calls are counted by how they ended', async (t) => {
  const scene = createScene()
  const submit = () => scene.exchange({ call: { endpoint: 'submit', method: 'POST', key: null } })
  scene.end(submit(), fetched({ ...answered, reply: reply(202) }, { forwardedBecause: 'method' }))
  scene.end(submit(), fetched({ ...failed, class: 'rejected', reply: reply(400) }, { forwardedBecause: 'method' }))
  scene.end(submit(), fetched(failed, { forwardedBecause: 'method' }))
  scene.end(submit(), { kind: 'refused', error: new ProxyError('RATE_LIMITED', 'Slow.') })
  scene.end(submit(), { kind: 'gone' })
  scene.end(scene.exchange({ call: { endpoint: 'status', scraper: 'none' } }), fetched(answered))
  const value = await scene.scrape()
  for (const outcome of ['submitted', 'rejected', 'failed', 'refused', 'gone']) {
    t.equal(value(`jobs_total{scraper="chatgpt",outcome="${outcome}"}`), 1, outcome)
  }
  t.equal(value('jobs_total{scraper="none",outcome="polled"}'), 1)
  t.equal(value('requests_total{client="search-team",scraper="chatgpt",status="202",cache="none"}'), 1)
})

void t.test('events beside the outcomes are counted, and those an operator must know are logged', async (t) => {
  const scene = createScene()
  const end = (change: Partial<Attempt>) =>
    scene.emit({
      kind: 'attempt-ended',
      flight: 1,
      retryAfterMs: null,
      id: 'r1',
      scraper: 'gemini',
      payer: 'batch',
      attempt: attempt(change),
    })
  end({ status: 503, class: 'warmingUp', charge: { state: 'free', credits: 0 } })
  end({ status: null, class: 'ambiguous', charge: { state: 'unknown', credits: 3 } })
  end({ status: 418, class: 'rejected', charge: { state: 'free', credits: 0 } })
  scene.emit({ kind: 'retried', scraper: 'gemini', class: 'warmingUp', waitMs: 1000 })
  scene.emit({ kind: 'retry-refused', scraper: 'gemini', reason: 'budget' })
  scene.emit({ kind: 'retry-refused', scraper: 'gemini', reason: 'final' })
  scene.emit({ kind: 'cache-looked-up', tier: 'memory', result: 'miss' })
  scene.emit({ kind: 'cache-evicted', tier: 'memory' })
  scene.emit({ kind: 'flight-orphaned', scraper: 'gemini' })
  scene.emit({ kind: 'breaker-changed', scraper: 'gemini', to: 'open', openForMs: 30_000, isStillOpen: false })
  scene.emit({ kind: 'breaker-changed', scraper: 'gemini', to: 'half-open', openForMs: null, isStillOpen: false })
  scene.emit({ kind: 'breaker-changed', scraper: 'gemini', to: 'closed', openForMs: null, isStillOpen: false })
  const key = { kind: 'key-changed', key: 'main' } as const
  scene.emit({ ...key, to: 'resting', because: 'unauthorized', untilAt: start + 60_000 })
  scene.emit({ ...key, to: 'spent', because: 'creditsExhausted', untilAt: Number.POSITIVE_INFINITY })
  scene.emit({ ...key, to: 'ready', because: null, untilAt: null })
  scene.emit({ kind: 'disk-changed', file: 'answers', to: 'down', because: 'full' })
  scene.emit({ kind: 'disk-changed', file: 'answers', to: 'up', because: 'full' })
  scene.emit({ kind: 'audit-changed', to: 'up', because: 'full', lostLines: 72 })
  const { client, period, spentCredits, limitCredits } = budget
  scene.emit({
    kind: 'budget-used',
    client,
    period: { kind: period, id: '' },
    percent: 80,
    spentCredits,
    limitCredits,
    usedUpAt: null,
  })
  scene.emit({ kind: 'holds-swept', holds: 2, credits: 6 })
  scene.emit({ kind: 'broke', where: 'flights', error: new TypeError('x of undefined') })
  scene.live.breakers = [{ scraper: 'gemini', state: 'half-open', openUntil: null, held: 0 }]
  scene.live.keys = [
    { name: 'main', state: 'spent', problem: null, untilAt: null, tryAt: null },
    { name: 'spare', state: 'resting', problem: null, untilAt: null, tryAt: null },
  ]
  scene.live.generation = 2

  const value = await scene.scrape()
  const expected: Record<string, number> = {
    'upstream_responses_total{scraper="gemini",status="503"}': 1,
    'upstream_responses_total{scraper="gemini",status="none"}': 1,
    'upstream_responses_total{scraper="gemini",status="4xx"}': 1,
    'upstream_failures_total{scraper="gemini",class="warmingUp"}': 1,
    'upstream_failures_total{scraper="gemini",class="ambiguous"}': 1,
    'upstream_failures_total{scraper="gemini",class="rejected"}': 1,
    'upstream_failures_total{scraper="chatgpt",class="rejected"}': 0,
    'ambiguous_attempts_total{scraper="gemini"}': 1,
    'credits_spent_total{client="batch",scraper="gemini",key="main"}': 0,
    'credits_budget_remaining{client="search-team",period="day"}': 591,
    'credits_budget_held{client="search-team",period="day"}': 9,
    ledger_imbalance_credits: 0,
    'retries_total{scraper="gemini",class="warmingUp"}': 1,
    'retries_refused_total{reason="budget"}': 1,
    'retries_refused_total{reason="attempts"}': 0,
    'cache_lookups_total{tier="memory",result="miss"}': 1,
    'cache_evictions_total{tier="memory"}': 1,
    'orphaned_flights_total{scraper="gemini"}': 1,
    'breaker_transitions_total{scraper="gemini",to="open"}': 1,
    'breaker_transitions_total{scraper="gemini",to="closed"}': 1,
    bugs_total: 1,
    'breaker_state{scraper="chatgpt"}': 0,
    overload_state: 1,
    memory_used_ratio: 0.9,
    'breaker_state{scraper="gemini"}': 1,
    'key_state{key="main"}': 2,
    'key_state{key="spare"}': 1,
    'retry_budget_tokens{scraper="chatgpt"}': 95,
    'cache_entries{tier="memory"}': 2,
    'cache_bytes{tier="memory"}': 8192,
    audit_up: 0,
    audit_lines_lost_total: 72,
    config_generation: 2,
    [`build_info{version="1.2.3",node="${process.versions.node}"}`]: 1,
  }
  for (const [series, count] of Object.entries(expected)) t.equal(value(series), count, series)

  t.match(scene.lines(), [
    { level: 'warn', msg: 'circuit opened', scraper: 'gemini', next_trial_ms: 30_000 },
    { level: 'info', msg: 'circuit half-open' },
    { level: 'info', msg: 'circuit closed' },
    { level: 'warn', msg: 'upstream key rests', key_name: 'main', until: '2026-01-02T03:05:05.067Z' },
    { level: 'error', msg: 'upstream key spent', because: 'creditsExhausted', until: null },
    { level: 'info', msg: 'upstream key ready' },
    { level: 'warn', msg: 'disk cache lost', because: 'full' },
    { level: 'info', msg: 'disk cache is back' },
    { level: 'info', msg: 'audit file is back', lost_lines: 72 },
    { level: 'warn', msg: 'credit budget nearly spent', client: 'search-team', spent: 2400, limit: 3000 },
    { level: 'warn', msg: 'credits of an earlier run counted as spent', holds: 2, credits: 6 },
    { level: 'error', msg: 'bug', where: 'flights', error: { message: 'x of undefined', stack: /TypeError/ } },
  ])
  t.equal(scene.lines().length, 12, 'nothing is logged for the rest')
  scene.emit({ kind: 'breaker-changed', scraper: 'gemini', to: 'open', openForMs: 9_000, isStillOpen: true })
  t.equal((await scene.scrape())('breaker_transitions_total{scraper="gemini",to="open"}'), 1, 'a trial failed')
})

void t.test('a bug behind a refusal is in the log with its stack, under the request id', async (t) => {
  const scene = createScene()
  const error = ProxyError.from(new Error('broken invariant'))
  scene.end(scene.exchange(), { kind: 'refused', error })
  t.match(scene.lines()[0], { level: 'error', msg: 'bug', id: 'req-1', error: { message: 'broken invariant' } })
  t.match(scene.lines()[1], { msg: 'request', status: 500, code: 'INTERNAL' })
  t.equal((await scene.scrape())('bugs_total'), 1)
})

void t.test('nothing secret and no prompt gets into metrics, access lines or the log', async (t) => {
  const scene = createScene()
  scene.end(scene.exchange(), hit)
  scene.end(scene.exchange({ client: null }), { kind: 'gone' })
  scene.emit({ kind: 'broke', where: 'transport', error: new Error(`key ${canary.key} was refused`) })
  const everything = scene.raw() + (await scene.metrics.text()).body
  t.notMatch(everything, /CANARY/)
  t.match(everything, /abc123/, 'the hash of the prompt is there')
})

void t.test('a label value that is on no list is counted under its stand-in', async (t) => {
  const scene = createScene()
  scene.end(
    scene.exchange({ client: 'intruder', call: { scraper: 'evil"} 1\n' } }),
    fetched({ ...failed, reply: reply(451) }),
  )
  scene.end(scene.exchange({ client: 'intruder' }), fetched({ ...failed, reply: reply(799) }))
  const stranger = attempt({ keyName: 'stranger', status: 599, class: 'gatewayTimeout' })
  scene.emit({
    kind: 'attempt-ended',
    flight: 1,
    retryAfterMs: null,
    id: 'r1',
    scraper: 'other',
    payer: 'intruder',
    attempt: stranger,
  })
  scene.emit({ kind: 'cache-evicted', tier: 'redis' })
  const value = await scene.scrape()
  t.equal(value('requests_total{client="unknown",scraper="none",status="4xx",cache="miss"}'), 1)
  t.equal(value('requests_total{client="unknown",scraper="chatgpt",status="other",cache="miss"}'), 1)
  t.equal(value('credits_spent_total{client="unknown",scraper="none",key="none"}'), 3)
  t.equal(value('upstream_responses_total{scraper="none",status="5xx"}'), 1)
  t.equal(value('cache_evictions_total{tier="none"}'), 1)
})

void t.test('what is scraped is what the catalogue describes, default process metrics besides', async (t) => {
  const scene = createScene()
  scene.end(scene.exchange(), hit)
  scene.end(scene.exchange(), { kind: 'refused', error: new ProxyError('RATE_LIMITED', 'Slow.') })
  scene.emit({
    kind: 'attempt-ended',
    flight: 1,
    retryAfterMs: null,
    id: 'r1',
    scraper: 'chatgpt',
    payer: 'batch',
    attempt: attempt(),
  })
  scene.emit({ kind: 'queue-left', scraper: 'chatgpt', waitedMs: 300 })
  const { contentType, body } = await scene.metrics.text()
  t.equal(contentType, 'text/plain; version=0.0.4; charset=utf-8')

  const described = new Map(metricCatalogue.map((metric) => [metric.name, metric]))
  const seen = new Set<string>()
  for (const { name, labels } of seriesIn(body)) {
    seen.add(name)
    const names = [...labels.keys()].filter((label) => label !== 'le')
    t.strictSame(names, described.get(name)?.labels, name)
  }
  t.strictSame([...seen].toSorted(), [...described.keys()], 'every metric has a series by now')
  for (const { name, type, help } of metricCatalogue) {
    t.ok(body.includes(`# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`), `${name} is described`)
    t.match(name, /^scrapellm_proxy_[a-z_]+$/)
    t.equal(type === 'counter', name.endsWith('_total'), `${name} is named like a ${type}`)
  }
  t.match(body, /\nprocess_resident_memory_bytes \d/)
  t.match(body, /\nnodejs_eventloop_lag_p99_seconds /)
})

void t.test('a day of fifty clients with a budget and two scrapers each stays within 2,000 series', async (t) => {
  const scrapers = ['perplexity', 'chatgpt', 'gemini', 'grok', 'copilot', 'google_ai_mode', 'amazon_rufus']
  const clients = Array.from({ length: 50 }, (_, i) => `team-${i}`)
  const budgets = clients.map((client): BudgetStatus => ({ ...budget, client }))
  const scene = createScene({ clients, scrapers, budgets, tiers: ['memory', 'disk', 'redis'] })
  for (const [i, client] of clients.entries()) {
    for (const offset of [0, 1]) {
      const scraper = scrapers[(i + offset) % scrapers.length] ?? ''
      const end = (outcome: Outcome) => scene.end(scene.exchange({ client, call: { scraper } }), outcome)
      const ended = (change: Partial<Attempt>) =>
        scene.emit({
          kind: 'attempt-ended',
          flight: 1,
          retryAfterMs: null,
          id: 'r1',
          scraper,
          payer: client,
          attempt: attempt(change),
        })
      end(hit)
      ended({})
      const paid = landing(answered, { attempts: [attempt()], chargedCredits: 3 })
      scene.emit({ kind: 'flight-landed', flight: 1, payer: client, scraper, landing: paid, claimed: true })
      end(fetched(answered))
      // One in five has a bad day.
      if (i % 5 > 0) continue
      end(fetched(answered, { role: 'joined' }))
      end(fetched(failed))
      end({ kind: 'gone' })
      ended({ class: 'ambiguous', status: null, charge: { state: 'unknown', credits: 3 } })
      for (const status of [401, 408, 429, 500, 503, 504])
        ended({ class: 'serverError', status, charge: { state: 'free', credits: 0 } })
    }
    const error = new ProxyError('RATE_LIMITED', 'Slow.')
    scene.end(scene.exchange({ client, call: null }), { kind: 'refused', error })
  }
  const { body } = await scene.metrics.text()
  const series = body.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  t.ok(series.length <= 2000, `${series.length} series`)
})

void t.test('every code of the table is a label value', async (t) => {
  const scene = createScene()
  for (const code of Object.keys(refusals) as (keyof typeof refusals)[]) {
    scene.end(scene.exchange(), { kind: 'refused', error: new ProxyError(code, 'No.') })
  }
  const value = await scene.scrape()
  for (const code of Object.keys(refusals)) t.equal(value(`refusals_total{client="search-team",code="${code}"}`), 1)
})

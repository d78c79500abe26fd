/** The page of the admin port and the pages of trails, as text: what they say, and that nothing a caller says becomes markup. */
import { hash } from 'node:crypto'
import t, { type Test } from 'tap'
import { html, trailHref } from '../../src/http/html.ts'
import type { AdminAnswer, AdminRoute } from '../../src/http/admin.ts'
import type { Exchange, Outcome } from '../../src/model.ts'
import { createRequestRoutes } from '../../src/http/requests.ts'
import { createStatusPage } from '../../src/http/status-page.ts'
import { observed, type Observation } from '../support/observed.ts'
import { aCall, aClient, answered, failed } from '../support/verdicts.ts'

function setUp(observation: Observation = {}) {
  const o = observed(observation)
  const page = createStatusPage({ status: o.status, history: o.history, trails: o.audit })
  const [byId, byQuery] = createRequestRoutes({ trails: o.audit, clock: o.clock })
  if (!byId || !byQuery) throw new Error('there are two routes')
  return { ...o, page, byId, byQuery }
}

function run(
  route: AdminRoute,
  segment = '',
  query = '',
  accept = 'text/html',
): AdminAnswer & { readonly body: string } {
  const wantsPage = accept === 'text/html'
  const answer = route.run({ segment, params: new URLSearchParams(query), wantsPage, accept, body: '' })
  if (answer instanceof Promise) throw new Error('pages are made at once')
  return { ...answer, body: String(answer.body) }
}

/** What a reader sees, one space between words. */
function textOf(page: string): string {
  return page
    .replaceAll(/<(style|script)>[^]*?<\/\1>/g, ' ')
    .replaceAll(/<[^>]*>/g, ' ')
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&#39;', "'")
    .replaceAll(/\s+/g, ' ')
}

void t.test('the page says in one line how things are, and why', async (t) => {
  const { page, status, finish, clock } = setUp({
    breaker: { consecutive: 2, questions: 1, hold: 0 },
    says: () => failed('serverError'),
  })
  t.match(textOf(run(page).body), /✓ OK – answered · .* 0 open requests · up 0 ms/)
  t.match(run(page).body, '<title>ok: scrapellm-proxy</title>')
  await finish()
  t.match(textOf(run(page).body), /✕ Degraded: upstream fails for alpha \(circuit open\), since 12:00:0\d \(\d s\)/)
  t.match(textOf(run(page).body), /alpha open in \d+ s Close 0/)
  t.match(status().health, { state: 'degraded', level: 'outage', because: [/alpha/] })
  await clock.advance(60_000)
  t.match(
    status().health,
    { level: 'limit', because: [/circuit of alpha is open and idle: the next request/] },
    'it may be back',
  )
  t.match(textOf(run(page).body), /alpha open with the next request Close 0/)
})

void t.test('each way of being unwell has words', async (t) => {
  const imbalance = { ...observed().status().credits, imbalance: 3 }
  const { status, finish, clock } = setUp({
    clients: [aClient({ credits: { perDay: 3, perMonth: null } })],
    says: (n) => (n === 1 ? answered() : failed('unauthorized')),
    gauges: {
      disk: () => ({ answers: 'down', records: 'down' }),
      redis: () => 'down',
      auditFile: () => 'down',
      credits: () => imbalance,
    },
  })
  t.equal(status().health.because.length, 5)
  await finish({ prompt: 'one' })
  t.match(
    status().health.because.join('; '),
    /Redis is unavailable: not connected yet; the disk cache is unavailable; budgets and jobs cannot be saved.*; .*audit file.*; 3 credits .*; client team has used up .* day/,
  )
  await clock.advance(1)
  const keyless = setUp({ keys: ['main', 'spare'], says: (n) => (n === 1 ? failed('unauthorized') : answered()) })
  await keyless.finish({ prompt: 'one' })
  t.match(keyless.status().health, {
    level: 'limit',
    because: [/^upstream key (main|spare) was refused by upstream \(401\); others are ready$/],
  })
  t.match(textOf(run(keyless.page).body), /! Degraded: upstream key .*, since .* 1 circuit closed, 1 key ready/)
  const none = setUp({ says: () => failed('creditsExhausted') })
  await none.finish()
  t.match(none.status().health, { level: 'outage', because: ['no upstream key is ready: main is out of credits'] })
  t.equal(setUp({ gauges: { draining: () => true } }).status().health.state, 'draining')
  t.match(textOf(run(setUp({ gauges: { ready: () => false } }).page).body), '… Starting')
})

void t.test('each cause says since when, for itself', async (t) => {
  let isAuditLost = false
  const { page, status, recorder, clock, finish } = setUp({
    keys: ['main', 'spare'],
    clients: [aClient({ credits: { perDay: 3, perMonth: null } })],
    gauges: { auditFile: () => (isAuditLost ? 'down' : 'up'), redis: () => 'down' },
    says: () => answered(),
  })
  const at = async (ms: number) => {
    await clock.advance(ms)
    return new Date(clock.wall()).toISOString()
  }
  const since = () => status().health.causes.map(({ since }) => since)
  const redisAt = await at(10_000)
  recorder.emit({ kind: 'redis-changed', to: 'down', because: 'timeout', word: null })
  const auditAt = await at(60_000)
  isAuditLost = true
  recorder.emit({ kind: 'audit-changed', to: 'down', because: 'full', lostLines: 0 })
  await at(60_000)
  t.strictSame(since(), [redisAt, auditAt])
  await finish()
  const spentAt = await at(0)
  t.strictSame(since(), [redisAt, auditAt, spentAt])
  t.match(status().health, { since: redisAt, level: 'outage', causes: [{}, {}, { level: 'limit' }] })
  await at(60_000)
  t.strictSame(since(), [redisAt, auditAt, spentAt], 'what nothing tells of began when it was seen first')
  t.match(
    textOf(run(page).body),
    /✕ Degraded: Redis is unavailable.*, since 12:00:10 \(3\.0 min\) the audit file cannot be written, since 12:01:10 \(2\.0 min\) client team has used up its credits for the day, since 12:0\d/,
  )
  isAuditLost = false
  recorder.emit({ kind: 'audit-changed', to: 'up', because: 'full', lostLines: 0 })
  t.strictSame(since(), [redisAt, spentAt])
})

void t.test('a slow upstream is told with since when, until it is over', async (t) => {
  let takesMs = 15_000
  const { page, status, recorder, clock } = setUp({ scrapers: ['alpha', 'beta'] })
  const minute = async () => {
    for (let n = 0; n < 4; n += 1) {
      const attempt = { durationMs: takesMs, status: 200, class: 'ok', charge: { state: 'charged', credits: 3 } }
      const event = { kind: 'attempt-ended', id: 'x', payer: 'team', attempt } as const
      recorder.emit({ ...event, scraper: 'alpha' } as never)
      recorder.emit({ ...event, scraper: 'beta', attempt: { ...attempt, durationMs: 15_000 } } as never)
    }
    await clock.advance(60_000)
  }
  for (let n = 0; n < 30; n += 1) await minute()
  t.equal(status().health.state, 'ok')
  takesMs += 60_000
  const beganAt = new Date(clock.wall()).toISOString()
  for (let n = 0; n < 8; n += 1) {
    await minute()
    t.match(status().health, {
      state: 'degraded',
      level: 'limit',
      causes: [{ text: /^alpha is slow: 1 in 20 answers takes \d\d s or longer \(usually 1\d s\)$/, since: beganAt }],
    })
  }
  t.match(textOf(run(page).body), /! Degraded: alpha is slow: .*, since 12:30:00 \(8\.0 min\)/)
  takesMs -= 60_000
  for (let n = 0; n < 5; n += 1) await minute()
  t.equal(status().health.state, 'ok')
  takesMs = 200_000
  for (let n = 0; n < 24 * 60; n += 1) await minute()
  t.equal(status().health.state, 'ok', 'what lasts for a day is usual')
})

void t.test('everything that /status says is on the page', async (t) => {
  const { page, finish, ask, clock, status } = setUp({
    keys: ['main', 'spare'],
    clients: [aClient({ name: 'rich' }), aClient({ name: 'poor', credits: { perDay: 10, perMonth: 1_000 } })],
    says: (n) => (n === 2 ? failed('timeout') : n === 1 ? failed('creditsExhausted') : answered()),
    gauges: { disk: () => ({ answers: 'up', records: 'up' }) },
  })
  await finish({ id: 'one', client: 'poor' })
  await finish({ id: 'two', client: 'poor' })
  for (let n = 0; n < 14; n += 1) void ask({ id: `way-${n}`, prompt: `${n}`, client: 'rich' }).outcome
  await clock.advance(500)
  const text = textOf(run(page).body)
  t.match(
    text,
    /main spent is out of credits\. Add credits, then run POST \/keys\/main\/try \. 12:1\d:\d\d , in 15 min/,
  )
  t.match(text, /poor 3 of 10 .*3 of 1,000/)
  t.match(text, /rich 0 no limit/)
  t.match(text, /3 spent, 3 saved|3 spent , 3 saved/)
  t.match(text, /memory 1 [\d.]+ KiB of 9.5 MiB Disk: up Records: up/)
  t.match(text, 'and 2 younger ones')
  t.match(text, /timeout upstream, last alpha poor poor 1 12:00/)
  t.match(text, /two poor · alpha poor alpha hit 200 0 0 0 ms/)
  t.match(text, /way-3 rich · alpha rich alpha under way 1 0/)
  const report = status()
  t.match(report, {
    version: '0.0.0-test',
    budgets: [{ client: 'poor', period: 'day', limit: 10, spent: 3 }, { period: 'month' }],
    clients: [
      { name: 'rich', open_questions: 14 },
      { credits_today: 3, credits_this_month: 3 },
    ],
    errors: [{ name: 'timeout' }, { name: 'creditsExhausted' }],
    recent: [{ id: 'way-13', status: null, duration_ms: null }],
  })
  t.equal(report.recent.length, 16)
  t.same(JSON.parse(JSON.stringify(report)), report, 'it is JSON')
  await clock.advance(60_000)
})

void t.test('of very many clients those who spend most are shown', async (t) => {
  const names = Array.from({ length: 103 }, (_, number) => `client-${number}`)
  const { page, finish } = setUp({ clients: names.map((name) => aClient({ name })), says: () => answered() })
  await finish({ client: 'client-102' })
  const text = textOf(run(page).body)
  t.match(text, /client-102 3 no limit/)
  t.match(text, 'client-98 0 ')
  t.notMatch(text, 'client-99 0 ')
  t.match(text, 'and 3 who have spent less this month')
})

void t.test('budgets near their end, and tiers of every size', async (t) => {
  const tiers = [1_023, 2_048, 300 * 1024 ** 2, 5 * 1024 ** 3].map((bytes, n) => ({
    tier: `tier-${n}`,
    entries: n,
    bytes,
    maxBytes: 2 * bytes,
  }))
  const { page, finish } = setUp({
    clients: [aClient({ credits: { perDay: 4, perMonth: 3 } })],
    says: () => answered(),
    gauges: { cache: () => tiers, redis: () => 'up' },
  })
  await finish()
  const { body } = run(page)
  t.match(body, /class="bar good"|class="bar warn"/)
  t.match(body, 'class="bar bad"')
  const text = textOf(body)
  for (const size of ['1023 B', '2.0 KiB', '300 MiB', '5.0 GiB', 'Redis: up']) t.match(text, size)
  const empty = setUp({ clients: [], scrapers: [], gauges: { keys: () => [], cache: () => [], breakers: () => [] } })
  t.match(textOf(run(empty.page).body), /Circuits and keys .* no cache.* no clients/i)
})

void t.test('nothing that a caller says becomes markup', async (t) => {
  const canary = '"\'><script>alert(1)</script><img/src=x>&amp;'
  const { page, byId, byQuery, finish } = setUp({
    clients: [aClient({ name: canary })],
    says: () => failed('serverError'),
    audit: { prompts: true },
  })
  await finish({ id: canary, prompt: canary })
  for (const { body } of [
    run(page),
    run(byId, canary),
    run(byId, `${canary}?`),
    run(byQuery, '', 'id=%3Cscript%3E1'),
  ]) {
    t.notMatch(body, /<img|<script>alert|<script>1|"'>/)
    t.equal(body.match(/<script/g)?.length ?? 0, body.includes('id="pause"') ? 1 : 0)
  }
  t.match(textOf(run(page).body), '<script>alert(1)</script>')
  t.match(run(page).body, `href="/requests/${encodeURIComponent(canary).replaceAll("'", '&#39;')}"`)
  t.equal(
    html`<b title="${canary}">${null}${7}${[html`<i></i>`]}</b>`.markup,
    `<b title="&quot;&#39;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&lt;img/src=x&gt;&amp;amp;">7<i></i></b>`,
  )
  t.equal(trailHref('..'), '/requests?id=..')
  t.equal(trailHref('a/b?c'), '/requests/a%2Fb%3Fc')
})

function policyOf({ headers = [] }: AdminAnswer): string {
  return headers[headers.indexOf('Content-Security-Policy') + 1] ?? ''
}

void t.test('requests can be filtered, and trouble names those who met it', async (t) => {
  const { page, byQuery, finish, ask, clock, status } = setUp({
    clients: ['one', 'two', 'three', 'four', 'five'].map((name) => aClient({ name })),
    scrapers: ['alpha', 'beta'],
    takesMs: 20_000,
    says: (_n, { call }) => (call.scraper === 'beta' ? failed('serverError') : answered()),
    breaker: { consecutive: 1_000, failureRate: 2 },
  })
  await finish({ id: 'well', client: 'one' })
  for (const client of ['two', 'three', 'three', 'four', 'five'])
    await finish({ id: `bad-${client}`, client, prompt: client, question: '/scrapers/beta' })
  await finish({ id: 'bad-two', client: 'two', prompt: 'more', question: '/scrapers/beta' })
  void ask({ id: 'slow', client: 'one', prompt: 'other' }).outcome
  await clock.advance(5_000)
  const shown = (query: string) =>
    [...run(page, '', query).body.matchAll(/<a class="id" href="\/requests\/([\w-]+)"/g)].map(([, id]) => id)
  t.match(run(page).body, 'href="/?show=failed#recent"')
  t.strictSame(new Set(shown('show=failed')), new Set(['bad-two', 'bad-three', 'bad-four', 'bad-five']))
  t.strictSame(shown('show=failed&client=four&scraper=beta'), ['bad-four'])
  t.strictSame(shown('client=nobody'), [])
  t.equal(shown('show=nonsense&client=').length, 8)
  t.strictSame(shown('show=slow'), shown('show=failed'), 'who fails has waited for many attempts')
  const { body } = run(page, '', 'show=failed&client=one&span=day')
  t.match(body, /<option value="failed" selected>/)
  t.match(body, /<option value="one" selected>/)
  t.match(body, '<input type="hidden" name="span" value="day" />')
  t.match(body, 'href="/?show=failed&amp;client=one&amp;span=hour"')
  t.match(
    textOf(run(page).body),
    /serverError upstream, last beta (two, three|three, two), (four|five) and 1 more .* \d+ 12:/,
  )
  t.match(status().errors, [{ clients: Array }])
  const listed = byQuery.run({ segment: '', params: new URLSearchParams('client=one'), body: '' })
  t.match(JSON.parse(String((listed as AdminAnswer).body)), { requests: [{ id: 'slow' }, { id: 'well' }] })
  await clock.advance(60_000)
})

void t.test('the policy lets in our own style and script, and nothing else', async (t: Test) => {
  const { page, byId } = setUp()
  const answer = run(page)
  const policy = policyOf(answer)
  for (const tag of ['style', 'script']) {
    const inside = new RegExp(`<${tag}>([^]*?)</${tag}>`).exec(answer.body)?.[1] ?? ''
    t.match(policy, `${tag}-src 'sha256-${hash('sha256', inside, 'base64')}'`)
  }
  t.match(policy, /default-src 'none'.*form-action 'self'; base-uri 'none'; frame-ancestors 'none'/)
  t.notMatch(policy, 'unsafe')
  t.notMatch(
    answer.body,
    / on[a-z]+=| style=|(?:src|href)="(?:https?:)?\/\//,
    'no handler, no inline style, no other origin',
  )
  t.match(answer.headers, ['Content-Security-Policy', policy, 'Referrer-Policy', 'same-origin', 'Vary', 'Accept'])
  t.match(answer.body, '<noscript><meta http-equiv="refresh" content="15"></noscript>')
  t.equal(policyOf(run(byId, 'unknown')), policy)
})

void t.test('the fragment is what changes, and no more', async (t) => {
  const { page } = setUp()
  const { body } = run(page, '', 'fragment')
  t.notMatch(body, /<html|<script|<style|role="search"/)
  const ids = [...body.matchAll(/id="([\w-]+)" data-live/g)].map(([, id]) => id)
  t.same(
    new Set(ids),
    new Set(
      'health settings hour yesterday vitals acts pictures cache standing credits errors flights places recent'.split(
        ' ',
      ),
    ),
  )
})

void t.test('pictures have a name, a table behind them, and marks for what changed', async (t) => {
  const { page, finish } = setUp({
    breaker: { consecutive: 2, questions: 1, hold: 0 },
    says: (n) => (n === 1 ? answered() : failed('serverError')),
  })
  await finish({ prompt: 'one' })
  await finish({ prompt: 'one' })
  await finish({ prompt: 'two' })
  const { body } = run(page)
  for (const title of ['Requests by outcome', 'Latency of misses', 'Credits', 'Open requests']) {
    t.match(body, new RegExp(`<svg[^>]*role="img"[^>]*aria-label="${title}, up to [^"]+"`))
    t.match(body, `${title} as a table`)
  }
  t.match(body, /circuit of alpha opened<\/title>/)
  t.match(body, /<path class="area c1" d="M[\d. VHZM]+"/, 'the hit is drawn')
  t.notMatch(body, /style="|NaN|Infinity/)
  t.match(run(page, '', 'span=day').body, /<strong>last day<\/strong>, in steps of 5.0 min/)
})

void t.test('the page of a trail says what happened, attempt by attempt', async (t) => {
  const { byId, byQuery, finish, ask, clock } = setUp({
    says: (n) =>
      n === 1 ? failed('rateLimited', { retryAfterMs: 2_000 }) : n === 2 ? failed('ambiguous') : answered(),
  })
  await finish({ id: 'hard', traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' })
  const { status, body } = run(byId, 'hard')
  t.equal(status, 200)
  const text = textOf(body)
  t.match(text, /Came 12:00:00 , took \d/)
  t.match(text, /Asked by team For alpha, answer Answer 200 Cache miss Credits 6 Flight its own/)
  t.match(text, 'Trace 0af7651916cd43dd8448eb211c80319c')
  t.match(text, /rateLimited 429 main 0 repeated after 2.\d\d s; upstream asked for 2.00 s/)
  t.match(text, /ambiguous no complete answer main 3, perhaps repeated after/)
  t.match(text, /ok 200 main 3 answered/)
  t.match(text, /key main rested after rateLimited/)
  t.notMatch(body, 'id="pause"', 'what is over does not change')

  const asked = ask({ id: 'leader', prompt: 'other' })
  const late = ask({ id: 'late', prompt: 'other', patienceMs: 100 })
  await clock.advance(200)
  await late.outcome
  t.match(textOf(run(byId, 'leader').body), /under way .*Attempt 1 1 .*200 ms so far under way/)
  t.match(run(byId, 'leader').body, 'id="pause"')
  t.match(run(byId, 'leader', 'fragment').body, /^<div class="stack" id="trails" data-live/)
  const joined = textOf(run(byQuery, '', 'id=late').body)
  t.match(joined, /DEADLINE_EXCEEDED It was told The time limit of this request passed/)
  t.match(joined, /shared, for nothing, with leader/)
  await clock.finish(asked.outcome)

  await finish({ id: 'hit', prompt: 'other' })
  t.notMatch(textOf(run(byId, 'hit').body), /Attempt|Flight/)
  t.match(textOf(run(byId, 'hit').body), /Cache hit, memory/)
  const gone = ask({ id: 'gone', prompt: 'third' })
  gone.hangUp()
  await clock.settle()
  gone.hangUp()
  await gone.outcome
  t.match(textOf(run(byId, 'gone').body), 'hung up')
  await clock.advance(5_000)
})

void t.test('a terminal gets every fact of the page as text, and nothing that moves its cursor', async (t) => {
  const { byId, finish, ask, clock } = setUp({
    says: (n) =>
      n === 1 ? failed('rateLimited', { retryAfterMs: 2_000 }) : n === 2 ? failed('ambiguous') : answered(),
    audit: { prompts: true },
  })
  await finish({
    id: 'hard',
    prompt: 'best\u001B[31m crm',
    traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
  })
  const leader = ask({ id: 'leader', prompt: 'other' })
  const late = ask({ id: 'late', prompt: 'other', patienceMs: 100 })
  await clock.advance(200)
  await late.outcome
  for (const id of ['hard', 'leader', 'late']) {
    const { contentType, body } = run(byId, id, '', 'text/plain')
    t.match(contentType, /^text\/plain/)
    const names = [...run(byId, id).body.matchAll(/<dt>(.*?)<\/dt>/g)].map(([, name = '']) => name)
    for (const name of names) t.match(body, new RegExp(`^  ${name} +\\S`, 'm'), `${id}: ${name}`)
  }
  const { body } = run(byId, 'hard', '', 'text/plain')
  t.match(body, /^1 +12:00:00 \+0 ms +– .* rateLimited 429 +main +0 +repeated after 2\.\d\d s; upstream asked for/m)
  t.match(body, /^2 .* ambiguous no complete answer +main +3, perhaps +repeated after/m)
  t.match(body, 'best\\u{1b}[31m crm')
  t.match(run(byId, 'leader', '', 'text/plain').body, /^1 .* so far +under way +main +– +–$/m)
  t.match(run(byId, 'late', '', 'text/plain').body, /Flight +shared, for nothing, with leader/)
  await clock.finish(leader.outcome)
})

void t.test('what another replica asked for has no attempts here', async (t) => {
  const { byId, finish, recorder, clock } = setUp({ says: () => answered() })
  await finish({ id: 'here' })
  const request = { id: 'far', arrivedAt: clock.now(), cacheDirectives: {}, traceparent: null }
  const landing = { verdict: answered(), attempts: [], stoppedBy: null, chargedCredits: 0, entry: null }
  const exchange = {
    request: { ...request, ifNoneMatch: null },
    client: aClient(),
    call: aCall(),
    limits: null,
    credits: [],
  }
  const outcome: Outcome = { kind: 'fetched', landing, role: 'joined', forwardedBecause: 'miss' }
  recorder.record(exchange as unknown as Exchange, outcome)
  t.match(textOf(run(byId, 'far').body), /shared, for nothing, with a request that another replica asked for/)
})

void t.test('a request that left a flight early says so; one that never flew has no attempts', async (t) => {
  const { byId, ask, clock, finish, recorder, audit } = setUp({ takesMs: 1_000, says: () => failed('gatewayTimeout') })
  const patient = ask({ id: 'patient' })
  await clock.settle()
  const late = ask({ id: 'late', patienceMs: 1_001 })
  await clock.finish(late.outcome)
  t.match(textOf(run(byId, 'late').body), /It was not waited for to its end: the request's time was up/)
  await clock.finish(patient.outcome)
  audit.note({ kind: 'key-changed', key: 'main', to: 'resting', because: null, untilAt: null })
  await finish({ id: 'next', prompt: 'next' })
  t.match(textOf(run(byId, 'next').body), 'key main rested')
  recorder.begin({
    request: { id: 'young', arrivedAt: clock.now(), cacheDirectives: {}, traceparent: null },
    flight: null,
  } as never)
  t.match(textOf(run(byId, 'young').body), /Asked by unknown For none/)
})

void t.test('there is no trail: 404, and a page that says how long there would be one', async (t) => {
  const { byId } = setUp()
  const { status, body } = run(byId, 'never')
  t.equal(status, 404)
  t.match(textOf(body), /No trail There is no trail of such a request.* latest 2000 that asked upstream/)
})

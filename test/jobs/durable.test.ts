/**
 * Attempts backed by a job: what is submitted, written down, polled and answered, and what the next process makes of it. A
 * process ends here by having its upstream closed; what its store holds is all that the next one gets.
 */
import t, { type Test } from 'tap'
import {
  createDurableUpstream,
  type DurablePolicy,
  type DurablePorts,
  type DurableUpstream,
} from '../../src/jobs/durable.ts'
import { createPlainUpstream } from '../../src/jobs/plain.ts'
import { createLocalJobStore, createMemoryStore, type JobStore } from '../../src/jobs/store.ts'
import type { Call, Reply } from '../../src/model.ts'
import type { Hold, Upstream } from '../../src/fetch-parts.ts'
import type { Clock } from '../../src/ports.ts'
import { soloSession } from '../../src/session.ts'
import { createSimulator, instant } from '../../src/simulator/simulator.ts'
import { createTransport } from '../../src/world/transport.ts'
import { fakeWorld, seededRandom } from '../support/world.ts'
import { elasticClock } from '../support/proxy.ts'
import { aHold, aQuestion, json, others, profile, questionOf, submissionOf, team, upstreamOf, UUID } from './desk.ts'

const minute = 60_000

type Says = Reply | 'cut' | 'down'

const accepted = json(202, { job_id: UUID, status: 'pending' })
const pending = json(200, { job_id: UUID, status: 'pending' })
const result = { scraper: 'grok', status: 'done', result: 'Yes.', credits_used: 3 }
const done = json(200, { job_id: UUID, status: 'done', result })
const failedJob = json(200, { job_id: UUID, status: 'failed', error: 'execution failed' })
const notFound = json(404, { detail: 'Job not found.' })

function durable(
  clock: Clock,
  plain: Upstream,
  store: JobStore,
  processId = 'first',
  changes: Partial<DurablePorts & DurablePolicy> = {},
): DurableUpstream & Upstream {
  const random = seededRandom(processId.length)
  const adoptHold = (): null => null
  const made = createDurableUpstream({
    profile,
    store,
    clock,
    random,
    session: soloSession(processId, clock),
    adoptHold,
    ...changes,
  })
  return { ...made, ...made.under({ plain, execution: changes.execution ?? 'durable' }) }
}

/** Time is ours; `polls` are what polls are told in turn, the last one again and again. */
function withPolls(polls: readonly Says[], submits: readonly Says[] = [accepted]) {
  const world = fakeWorld()
  const { clock } = world
  const asked: { readonly call: Call; readonly at: number }[] = []
  const { upstream: plain } = upstreamOf((call) => {
    asked.push({ call, at: clock.now() })
    const kind = call.endpoint === 'submit' ? submits : polls
    const n = asked.filter((one) => one.call.endpoint === call.endpoint).length
    return kind[Math.min(n, kind.length) - 1] ?? 'down'
  })
  const store = createLocalJobStore(createMemoryStore(clock))
  const upstream = durable(clock, plain, store)
  const calls = (endpoint: Call['endpoint']) => asked.filter(({ call }) => call.endpoint === endpoint)
  return { ...world, plain, store, asked, upstream, calls, written: () => writtenIn(store) }
}

async function writtenIn(store: JobStore): Promise<readonly unknown[]> {
  return (await store.list('durable')).map(([, value]) => value)
}

const question = questionOf('prompt=x&country=DE&timeout=60')

void t.test('a question is submitted with the same parameters, polled, and answered as if asked at once', async (t) => {
  const { clock, upstream, asked } = withPolls([pending, pending, done])
  const { verdict, status } = await clock.finish(upstream.ask(aQuestion(question)))
  t.equal(status, 200)
  t.match(verdict, { kind: 'answered', keepable: true, health: 'up', charge: { state: 'charged', credits: 3 } })
  t.strictSame(JSON.parse(String(verdict.reply?.body)), {
    ...result,
    job_id: UUID,
    prompt: 'x',
    country: 'DE',
    result_markdown: result.result,
  })
  t.strictSame(
    asked.map(({ call }) => `${call.method} ${call.path}`),
    ['POST /scrapers/grok/jobs', ...Array.from({ length: 3 }, () => `GET /jobs/${UUID}`)],
  )
  t.strictSame(asked[0]?.call, submissionOf('prompt=x&country=DE&timeout=60'))
})

void t.test('what is no question goes its plain way', async (t) => {
  const { upstream, asked, written } = withPolls([done])
  await upstream.ask(aQuestion(submissionOf('prompt=x')))
  t.equal(asked.length, 1)
  t.same(await written(), [])
})

void t.test('it is polled after a second, then less and less often, every five seconds in the end', async (t) => {
  const polls = 40
  const { clock, upstream, calls } = withPolls([...Array.from({ length: polls }, () => pending), done])
  await clock.finish(upstream.ask(aQuestion(question)))
  const [submitted] = calls('submit')
  const times = calls('status').map(({ at }) => at)
  const pauses = times.map((at, n) => at - (n === 0 ? (submitted?.at ?? 0) : (times[n - 1] ?? 0)))
  t.equal(pauses[0], 1_000)
  for (const [n, wanted] of [1_500, 2_250, 3_375].entries()) {
    const pause = pauses[n + 1] ?? 0
    t.ok(pause >= wanted * 0.8 && pause <= wanted * 1.2, `${pause} about ${wanted}`)
  }
  const late = pauses.slice(4)
  t.ok(late.every((pause) => pause >= 4_000 && pause <= 6_000))
  t.ok(new Set(late).size > 10, 'spread')
  t.equal(pauses.length, polls + 1)
})

void t.test('a poll that fails is repeated patiently, and says nothing about the job', async (t) => {
  const wait = { ...json(429, { detail: 'Rate limit' }), retryAfter: '90' }
  const unsure = [notFound, notFound, json(403, {}), notFound]
  const outage = Array.from({ length: 20 }, () => 'down' as const)
  const polls = [
    'down',
    'cut',
    json(503, {}),
    json(200, 'garbage'),
    ...unsure,
    pending,
    'down',
    wait,
    ...outage,
    done,
  ] as const
  const { clock, upstream, calls } = withPolls(polls)
  const { verdict } = await clock.finish(upstream.ask(aQuestion(question)))
  t.equal(verdict.kind, 'answered')
  t.equal(calls('submit').length, 1)
  const times = calls('status').map(({ at }) => at)
  const pauses = times.slice(1).map((at, n) => at - (times[n] ?? 0))
  const pauseAfter = (poll: (typeof polls)[number]): number => pauses[polls.lastIndexOf(poll)] ?? 0
  const again = pauses[polls.indexOf(pending) + 1] ?? 0
  t.ok(again >= 1_200 && again <= 1_800, 'one failure after an answer is the first one')
  t.ok(pauseAfter(wait) >= 30_000 && pauseAfter(wait) < 40_000, 'as upstream wishes, and no longer than half a minute')
  t.ok(pauses.slice(polls.indexOf(wait) + 10).every((pause) => pause >= 24_000 && pause <= 36_000))
})

void t.test('how a job ends, and what that is for the question', async (t) => {
  const rows: readonly (readonly [string, Says[], object])[] = [
    [
      'failed',
      [failedJob],
      { class: 'serverError', reply: { status: 500 }, charge: { state: 'free' }, health: 'down', repeatable: 'once' },
    ],
    [
      'failed, empty',
      [json(200, { status: 'failed', error: 'Scraper returned an empty result.' })],
      { class: 'emptyResult', charge: { state: 'free' }, repeatable: 'once' },
    ],
    [
      'unknown, said three times',
      [notFound],
      { class: 'ambiguous', refusal: 'UPSTREAM_UNREACHABLE', reply: null, charge: { state: 'unknown', credits: 3 } },
    ],
  ]
  for (const [name, polls, expected] of rows) {
    const { clock, upstream, written, calls } = withPolls(polls)
    const { verdict, status } = await clock.finish(upstream.ask(aQuestion(question)))
    t.match(verdict, { kind: 'failed', ...expected }, name)
    t.equal(status, verdict.reply?.status ?? null)
    t.same(await written(), [], 'nothing is left of it')
    t.equal(calls('status').length, name.includes('three') ? 3 : 1)
  }
})

void t.test('whatever a job brings that was paid for is handed on', async (t) => {
  const rows = [
    [json(200, { status: 'done', result: {} }), 'emptyAnswer'],
    [json(200, { status: 'completed', result: { text: 'x' } }), 'unknownShape'],
    [json(200, { status: 'done', result: [{ text: 'x' }] }), 'unknownShape'],
  ] as const
  for (const [document, anomaly] of rows) {
    const { clock, upstream, calls } = withPolls([pending, document])
    const { verdict } = await clock.finish(upstream.ask(aQuestion(question)))
    t.match(verdict, {
      kind: 'answered',
      keepable: false,
      anomalies: [anomaly],
      charge: { state: 'charged', credits: 3 },
    })
    t.equal(calls('status').length, 2)
  }
  const never = json(200, { state: 'finished', output: 'x' })
  const forever = withPolls([never])
  const { verdict } = await forever.clock.finish(forever.upstream.ask(aQuestion(question)))
  t.match(verdict, { kind: 'answered', reply: { body: never.body }, anomalies: ['unknownShape'] }, 'after 40 minutes')
})

void t.test('a submission of whatever shape is handed on, and asked for once', async (t) => {
  for (const says of [json(202, {}), json(200, { id: UUID }), json(202, '[]')]) {
    const { upstream, written, asked } = withPolls([done], [says])
    const { verdict } = await upstream.ask(aQuestion(question))
    t.match(verdict, { kind: 'answered', keepable: false, charge: { state: 'charged', credits: 3 } })
    t.equal(asked.length, 1)
    t.same(await written(), [])
  }
})

void t.test('an answer costs what it says', async (t) => {
  const { clock, upstream } = withPolls([json(200, { status: 'done', result: { ...result, credits_used: 5 } })])
  const { verdict } = await clock.finish(upstream.ask(aQuestion(question)))
  t.strictSame(verdict.charge, { state: 'charged', credits: 5 })
})

void t.test('pending for 40 minutes is lost; silence is not, for a day', async (t) => {
  const forever = withPolls([pending])
  const lost = await forever.clock.finish(forever.upstream.ask(aQuestion(question)))
  t.match(lost.verdict, { kind: 'failed', class: 'ambiguous', charge: { state: 'unknown', credits: 3 } })
  const lastedMs = (forever.asked.at(-1)?.at ?? 0) - (forever.asked[0]?.at ?? 0)
  t.ok(lastedMs >= 40 * minute && lastedMs < 41 * minute)

  const silent = withPolls(['down'])
  const given = await silent.clock.finish(silent.upstream.ask(aQuestion(question)))
  t.match(given.verdict, { kind: 'failed', class: 'ambiguous' })
  const silentMs = (silent.asked.at(-1)?.at ?? 0) - (silent.asked[0]?.at ?? 0)
  t.ok(silentMs >= 24 * 60 * minute && silentMs < 25 * 60 * minute)
})

void t.test('a submission that fails is a failure like any other, and leaves nothing behind', async (t) => {
  const rows: readonly (readonly [Says, string, string])[] = [
    [json(503, {}), 'warmingUp', 'free'],
    [json(429, { detail: 'Credit limit reached.' }), 'creditsExhausted', 'free'],
    [json(400, { detail: 'Bad prompt' }), 'rejected', 'free'],
    ['down', 'unreachable', 'free'],
    ['cut', 'ambiguous', 'unknown'],
    [json(202, { error: 'x' }), 'ambiguous', 'unknown'],
  ]
  for (const [says, expected, charge] of rows) {
    const { upstream, written, calls } = withPolls([done], [says])
    const { verdict } = await upstream.ask(aQuestion(question))
    t.match(verdict, { kind: 'failed', class: expected, charge: { state: charge } })
    t.equal(calls('status').length, 0)
    t.same(await written(), [])
  }
})

void t.test('it is written down before it is submitted, and by its id as soon as that is known', async (t) => {
  const world = fakeWorld()
  const { clock } = world
  const store = createLocalJobStore(createMemoryStore(clock))
  const written = () => writtenIn(store)
  const seen: unknown[] = []
  const { upstream: plain } = upstreamOf(async ({ endpoint }) => {
    seen.push(...(await written()))
    return endpoint === 'submit' ? accepted : done
  })
  const hold = aHold('hold-1')
  await clock.finish(durable(clock, plain, store).ask(aQuestion(question, { hold, cacheKey: 'team/key' })))
  const record = {
    cacheKey: 'team/key',
    call: question,
    client: 'team',
    keyName: 'main',
    holdId: 'hold-1',
    submittedAt: Date.UTC(2026, 0, 15, 12),
    isSettled: false,
    processId: 'first',
  }
  t.strictSame(seen, [
    { ...record, jobId: null },
    { ...record, jobId: UUID },
  ])
  t.strictSame(await written(), [{ ...record, jobId: UUID, isSettled: true }], 'until the answer is safe')
  await clock.advance(5_000)
  t.same(await written(), [])
})

// The next process

void t.test('what a process left behind is taken up by whoever asks the same, and submitted by nobody', async (t) => {
  const { clock, plain, store, upstream, calls } = withPolls([pending, pending, pending, done])
  void upstream.ask(aQuestion(question, { hold: aHold('old') }))
  await clock.advance(2_000)
  upstream.close()
  await clock.advance(minute)
  t.equal(calls('status').length, 1, 'the dead do not poll')

  const abandoned = aHold('old')
  const adopted: string[] = []
  const adoptHold = (id: string) => (adopted.push(id), abandoned)
  const next = durable(clock, plain, store, 'second', { adoptHold })
  t.match(await next.orphaned(), {
    submitted: [{ jobId: UUID, client: 'team', keyName: 'main', holdId: 'old', call: question }],
    lost: [],
  })
  const takenUpAt = clock.now()
  const answer = next.ask(aQuestion(question, { client: others, hold: aHold('new') }))
  t.strictSame((await durable(clock, plain, store, 'second').orphaned()).submitted, [], 'by one only')
  const { verdict } = await clock.finish(answer)
  t.match(verdict, { kind: 'answered', charge: { state: 'charged', credits: 3 } })
  t.equal(calls('submit').length, 1)
  t.ok((calls('status')[1]?.at ?? 0) <= takenUpAt + 1_000, 'polled soon')
  t.strictSame(adopted, ['old'])
  t.ok(abandoned.settled(), 'who asks now pays, and the first hold is given back')
  await clock.advance(5_000)
  t.same(await writtenIn(store), [])

  void next.ask(aQuestion(question))
  await clock.settle()
  t.equal(calls('submit').length, 2, 'taken up once')
})

void t.test('taken up under its own hold, that one pays', async (t) => {
  const { clock, plain, store, upstream } = withPolls([pending, done])
  void upstream.ask(aQuestion(question, { hold: aHold('old') }))
  await clock.advance(1_000)
  upstream.close()
  const adoptHold = () => t.fail('it is adopted already') as never
  const next = durable(clock, plain, store, 'second', { adoptHold })
  const hold = aHold('old')
  const { verdict } = await clock.finish(next.ask(aQuestion(question, { hold })))
  t.equal(verdict.kind, 'answered')
  t.notOk(hold.settled(), 'by whoever flies')
})

void t.test('only the same question takes a job up', async (t) => {
  const bypassing = questionOf('prompt=x&bypass_cache=true')
  const uncacheable = questionOf('prompt=x&timeout=never')
  const reordered = questionOf('timeout=never&prompt=x')
  t.equal(uncacheable.key, null)
  const rows = [
    ['another question', question, {}, questionOf('prompt=y'), {}, 2],
    ['another place to keep it', question, { cacheKey: 'a' }, question, { cacheKey: 'b' }, 2],
    ['kept nowhere, the same client', uncacheable, {}, reordered, {}, 1],
    ['kept nowhere, another client', uncacheable, {}, reordered, { client: others }, 2],
    ['a fresh answer is wanted', questionOf('prompt=x'), {}, bypassing, {}, 2],
    ['a fresh answer was wanted', bypassing, {}, questionOf('prompt=x'), {}, 1],
    ['a fresh answer is and was wanted', bypassing, {}, bypassing, { client: team }, 1],
  ] as const
  for (const [name, before, beforeAs, now, nowAs, submits] of rows) {
    const { clock, plain, store, upstream, calls } = withPolls([pending, done])
    void upstream.ask(aQuestion(before, beforeAs))
    await clock.advance(1_000)
    upstream.close()
    const next = durable(clock, plain, store, 'second')
    await clock.finish(next.ask(aQuestion(now, nowAs)))
    t.equal(calls('submit').length, submits, name)
  }
})

void t.test('a neighbour in the same process leaves alone what is being followed', async (t) => {
  const { clock, plain, store, upstream, calls } = withPolls([pending, done])
  const first = upstream.ask(aQuestion(question))
  await clock.settle()
  const reloaded = durable(clock, plain, store)
  t.strictSame(await reloaded.orphaned(), { submitted: [], lost: [] })
  await clock.finish(Promise.all([first, reloaded.ask(aQuestion(question))]))
  t.equal(calls('submit').length, 2)
})

void t.test('a submission that a crash cut off is known as lost, once, and never polled', async (t) => {
  const { clock, store } = withPolls([])
  const { upstream: deaf } = upstreamOf(() => new Promise(() => {}))
  void durable(clock, deaf, store).ask(aQuestion(question, { hold: aHold('old') }))
  await clock.settle()
  const { upstream: plain, calls } = upstreamOf(({ endpoint }) => (endpoint === 'submit' ? accepted : done))
  const next = durable(clock, plain, store, 'second')
  await clock.finish(next.ask(aQuestion(question)))
  t.strictSame(
    calls.map(({ endpoint }) => endpoint),
    ['submit', 'status'],
  )
  t.match(await next.orphaned(), { submitted: [], lost: [{ jobId: null, holdId: 'old', client: 'team' }] })
  t.strictSame(await next.orphaned(), { submitted: [], lost: [] })
  await clock.advance(5_000)
  t.strictSame(await durable(clock, plain, store, 'third').orphaned(), { submitted: [], lost: [] })
})

void t.test('an answer that a crash took before it was safe comes again, and is paid once', async (t) => {
  for (const [query, isComingAgain, isHeld] of [
    ['prompt=x', true, false],
    // The crash came before the hold was settled, so nobody has counted the charge yet.
    ['prompt=x', true, true],
    ['prompt=x&bypass_cache=true', false, false],
  ] as const) {
    const { clock, plain, store, upstream, calls } = withPolls([done])
    const call = questionOf(query)
    await clock.finish(upstream.ask(aQuestion(call)))
    const left = aHold()
    const adoptHold = (): Hold | null => (isHeld ? left : null)
    const next = durable(clock, plain, store, 'second', { adoptHold })
    const { submitted } = await next.orphaned()
    t.match(submitted, isComingAgain ? [{ isSettled: true }] : [], 'who wanted a fresh answer has got it')
    const { verdict } = await clock.finish(next.ask(aQuestion(call, { hold: aHold('another') })))
    t.match(verdict, { kind: 'answered', charge: { state: isComingAgain && !isHeld ? 'free' : 'charged' } })
    t.equal(left.settled(), isHeld)
    t.equal(calls('submit').length, isComingAgain ? 1 : 2)
  }
})

void t.test(
  'where jobs are not wanted any more, those left behind are taken up, and nothing is submitted',
  async (t) => {
    const { clock, plain, store, upstream, asked, calls } = withPolls([pending, done])
    void upstream.ask(aQuestion(question))
    await clock.advance(1_000)
    upstream.close()
    const next = durable(clock, plain, store, 'second', { execution: 'sync' })
    t.match((await clock.finish(next.ask(aQuestion(question)))).verdict, { kind: 'answered' })
    void next.ask(aQuestion(question))
    await clock.settle()
    t.equal(calls('submit').length, 1)
    t.strictSame(asked.at(-1)?.call, question)
  },
)

void t.test('a closed upstream starts no pause', async (t) => {
  const { clock, upstream, calls } = withPolls([done])
  upstream.close()
  void upstream.ask(aQuestion(question))
  await clock.advance(minute)
  t.equal(calls('submit').length, 1)
  t.equal(calls('status').length, 0)
})

// In front of the simulator

async function withSimulator(t: Test) {
  const clock = elasticClock()
  const sim = createSimulator({ latency: instant, now: clock.wall })
  const { url } = await sim.start()
  const transport = createTransport(
    { url, connectTimeoutMs: 5_000, connectionMaxAgeMs: 30_000, maxResponseBytes: 1_000_000 },
    clock,
  )
  t.teardown(async () => {
    transport.close()
    await sim.close()
  })
  const plain = createPlainUpstream({ profile, transport, emit: () => {} })
  return { sim, clock: hasty(clock), plain, store: createLocalJobStore(createMemoryStore(clock)) }
}

/** Pauses are over at once. */
function hasty(clock: Clock): Clock {
  return { ...clock, after: (_ms, job) => clock.after(0, job) }
}

void t.test('one job, one charge, one answer, without a key in any poll', async (t) => {
  const { sim, clock, plain, store } = await withSimulator(t)
  sim.script({ call: 'submit' }, [{ kind: 'done', polls: 3 }])
  const { verdict } = await durable(clock, plain, store).ask(aQuestion(question))
  const body = JSON.parse(String(verdict.reply?.body)) as Record<string, unknown>
  t.match(body, { scraper: 'grok', status: 'done', prompt: 'x', country: 'DE', credits_used: 3 })
  t.equal(body['job_id'], sim.ledger.entries[0]?.jobId)
  t.strictSame(
    sim.requests.map(({ call, key }) => [call, key]),
    [['submit', 'key-one'], ...Array.from({ length: 4 }, () => ['poll', null])],
  )
  t.equal(sim.ledger.total(), 3)
})

void t.test('a job that failed is refunded, and asking again is another job', async (t) => {
  const { sim, clock, plain, store } = await withSimulator(t)
  sim.script({ call: 'submit' }, [{ kind: 'failed', polls: 1 }])
  const upstream = durable(clock, plain, store)
  t.match((await upstream.ask(aQuestion(question))).verdict, { class: 'serverError', charge: { state: 'free' } })
  t.equal(sim.ledger.total(), 0)
  t.match((await upstream.ask(aQuestion(question))).verdict, { kind: 'answered' })
  t.equal(sim.ledger.total(), 3)
  t.equal(sim.ledger.entries.length, 2)
})

void t.test(
  'a process dies while the job goes on: the next one brings the answer home, at no second charge',
  async (t) => {
    const { sim, clock, plain, store } = await withSimulator(t)
    sim.script({ call: 'submit' }, ['pending'])
    const first = durable(clock, plain, store)
    void first.ask(aQuestion(question))
    await sim.received(2, { call: 'poll' })
    first.close()
    const next = durable(clock, plain, store, 'second')
    const answer = next.ask(aQuestion(question))
    await sim.received(4, { call: 'poll' })
    sim.release()
    t.match((await answer).verdict, { kind: 'answered', charge: { state: 'charged', credits: 3 } })
    t.equal(sim.ledger.entries.length, 1)
  },
)

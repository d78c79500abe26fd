/**
 * The real parts in the real order of the pipeline, in front of an upstream that says what a test tells it to: retry ×
 * breaker × keys × joining × places, under a clock that the tests move. Long, because all share one setting.
 */
import { noDirectives } from '../../src/http/cache-directives.ts'
import { failureClasses } from '../../src/failures.ts'
import t from 'tap'
import { createKeys } from '../../src/keys/pool.ts'
import { Secret } from '../../src/keys/secret.ts'
import { createAdmission } from '../../src/limits/admission.ts'
import type { Client, Entry, Exchange, Outcome, ProxyRequest, Verdict } from '../../src/model.ts'
import type { Asked, Hold } from '../../src/fetch-parts.ts'
import type { Profile } from '../../src/parts.ts'
import { createPipeline } from '../../src/pipeline.ts'
import { createBreakers } from '../../src/resilience/breaker.ts'
import { createBulkhead } from '../../src/resilience/bulkhead.ts'
import { createFlights } from '../../src/resilience/coalesce.ts'
import { neverOverloaded } from '../../src/resilience/overload.ts'
import { createRetryBudget } from '../../src/resilience/retry-budget.ts'
import { createRetry } from '../../src/resilience/retry.ts'
import { loneFlights } from '../../src/resilience/shared-flight.ts'
import { fakeWorld } from '../support/world.ts'
import {
  aCall,
  aClient,
  answered,
  breakerDefaults,
  budgetDefaults,
  failed,
  keyRestDefaults,
} from '../support/verdicts.ts'

interface Setting {
  readonly seed?: number
  readonly keys?: readonly string[]
  readonly client?: Client
  readonly breaker?: Partial<typeof breakerDefaults>
  readonly maxConcurrent?: number
  readonly queue?: { readonly size: number; readonly maxWait: number }
  /** How long upstream takes over each answer. */
  readonly takesMs?: number
  /** What upstream says to its n-th call, which came with this key. */
  readonly says: (n: number, secret: string) => Verdict
}

interface AskOptions {
  readonly patienceMs?: number
  readonly question?: string
  readonly bypass?: boolean
}

/** A whole proxy without its edges: no sockets, no cache, no vendor. */
function setUp(setting: Setting) {
  const { seed = 1, keys: names = ['main'], client = aClient(), takesMs = 1_000, says } = setting
  const world = fakeWorld(seed)
  const { clock, random, emit } = world
  const flights = createFlights({ clock, emit, random })
  const { maxConcurrent = 200, queue = { size: 0, maxWait: 0 } } = setting
  const bulkhead = createBulkhead({ maxConcurrent, perScraper: null, adaptive: false, queue }, world)
  const admission = createAdmission({ clock })
  const breakers = createBreakers({
    policy: { ...breakerDefaults, ...setting.breaker },
    scrapers: ['alpha'],
    clock,
    random,
    emit,
  })
  const budget = createRetryBudget({ ...budgetDefaults, clock, isWell: breakers.isWell })
  const keys = createKeys({
    clock,
    random,
    emit,
    keys: names.map((name) => ({ name, secret: new Secret(`secret-of-${name}`), weight: 1 })),
    keyRest: keyRestDefaults,
  })

  const upstream = { calls: [] as string[], inFlight: 0, mostInFlight: 0, charged: 0 }
  const stored: Verdict[] = []
  const outcomes: Outcome[] = []

  const { handle } = createPipeline({
    clock,
    emit,
    flights,
    bulkhead,
    overload: neverOverloaded,
    admission,
    breakers,
    keys,
    traces: { within: (_flight, _request, ask) => ask(null) },
    sharedFlights: loneFlights,
    retry: createRetry({ clock, random, emit, budget }),
    clients: { identify: () => client },
    profile: {
      vendor: 'the vendor',
      scrapers: ['alpha'],
      read: ({ target }) => aCall({ key: target.path, bypass: target.params.length > 0 }),
      sign: () => {
        throw new Error('the upstream of this test is asked without a wire')
      },
      classify: () => failed('ambiguous'),
      jobs: {} as Profile['jobs'],
      replay: (body) => body,
    },
    cache: {
      keyOf: (call) => call.key,
      lookup: () => ({ kind: 'missing', bypassed: false }),
      store(_key, _call, verdict): Entry | null {
        stored.push(verdict)
        return null
      },
      claim() {},
      purge: () => 0,
    },
    budget: {
      hold: async () => noHold,
      none: noHold,
      adopt: () => null,
      refund: () => {},
      hasRoom: () => true,
      limits: () => [],
      states: () => [],
    },
    jobs: {
      follow: () => Promise.reject(new Error('no jobs here')),
      promise: () => Promise.reject(new Error('no jobs here')),
      interrupted: () => [],
      resume: () => {},
    },
    upstream: {
      async ask({ key }): Promise<Asked> {
        upstream.calls.push(key.secret ?? '')
        upstream.inFlight += 1
        upstream.mostInFlight = Math.max(upstream.mostInFlight, upstream.inFlight)
        const verdict = says(upstream.calls.length, key.secret ?? '')
        await new Promise<void>((resolve) => clock.after(takesMs, resolve))
        upstream.inFlight -= 1
        if (verdict.charge.state === 'charged') upstream.charged += verdict.charge.credits
        return { verdict, status: verdict.reply?.status ?? 200, trouble: null }
      },
    },
    recorder: { begin: () => ({ leave() {} }), record: (_exchange, outcome) => void outcomes.push(outcome) },
  })

  function ask({ patienceMs = 600_000, question = '/scrapers/alpha', bypass = false }: AskOptions = {}) {
    const listeners = new Set<() => void>()
    const request: ProxyRequest = {
      id: random.id(),
      method: 'GET',
      target: { path: question, params: bypass ? [['bypass_cache', 'true']] : [], token: null },
      token: null,
      cacheDirectives: noDirectives,
      ifNoneMatch: null,
      patienceMs,
      idempotencyKey: null,
      respondAsyncAfterMs: null,
      traceparent: null,
      source: { host: null, origin: null, fetchSite: null },
      arrivedAt: clock.now(),
      onGone(listener) {
        listeners.add(listener)
        return () => void listeners.delete(listener)
      },
    }
    const exchange: Exchange = { request, client: null, call: null, limits: null, credits: [], flight: null }
    const hangUp = (): void => [...listeners].forEach((listener) => listener())
    return { outcome: Promise.resolve(handle(exchange)), hangUp, listeners }
  }

  /** What must be nothing when nobody asks any more. */
  const left = () => ({
    timers: clock.timers,
    flights: flights.size,
    places: bulkhead.inFlight(),
    openQuestions: admission.open(client.name),
    upstream: upstream.inFlight,
  })

  return { ...world, ask, upstream, stored, outcomes, keys, breakers, budget, left }
}

const noHold: Hold = { id: 'none', secure: async () => {}, spend() {}, settle() {} }

const nothingLeft = { timers: 0, flights: 0, places: 0, openQuestions: 0, upstream: 0 }
const yes = (): Verdict => answered()

void t.test('Fifty ask the same at once: one call, one bill', async (t) => {
  const { ask, clock, upstream, left, stored } = setUp({ says: yes })
  const waiters = Array.from({ length: 50 }, () => ask())
  const outcomes = await clock.finish(Promise.all(waiters.map(({ outcome }) => outcome)))
  t.equal(upstream.calls.length, 1)
  t.equal(upstream.charged, 3)
  t.equal(stored.length, 1)
  t.equal(outcomes.filter((outcome) => outcome.kind === 'fetched' && outcome.role === 'leader').length, 1)
  t.ok(outcomes.every((outcome) => outcome.kind === 'fetched' && outcome.landing.verdict.kind === 'answered'))
  t.strictSame(left(), nothingLeft)
})

void t.test('Who wants a fresh answer neither joins nor is joined', async (t) => {
  const { ask, clock, upstream } = setUp({ says: yes })
  const waiters = [ask(), ask({ bypass: true }), ask({ bypass: true }), ask()]
  await clock.finish(Promise.all(waiters.map(({ outcome }) => outcome)))
  t.equal(upstream.calls.length, 3)
})

void t.test('The leader hangs up during a pause; the others’ question is repeated and answered', async (t) => {
  const { ask, clock, upstream, left } = setUp({
    says: (n) => (n === 1 ? failed('serverError', { retryAfterMs: 10_000 }) : answered()),
  })
  const leader = ask()
  const joiner = ask()
  await clock.advance(2_000)
  leader.hangUp()
  t.match(await leader.outcome, { kind: 'gone' })
  t.match(await clock.finish(joiner.outcome), { role: 'joined', landing: { attempts: { length: 2 } } })
  t.equal(upstream.calls.length, 2)
  t.strictSame(left(), nothingLeft)
})

void t.test('All hang up during a pause: nothing more is asked, nothing is left', async (t) => {
  const { ask, clock, upstream, left } = setUp({ says: () => failed('serverError', { retryAfterMs: 10_000 }) })
  const waiters = [ask(), ask()]
  await clock.advance(2_000)
  for (const { hangUp } of waiters) hangUp()
  await clock.settle()
  t.strictSame(left(), nothingLeft)
  t.equal(upstream.calls.length, 1)
})

void t.test('All hang up during a call: it is finished and kept, and who asks again boards it', async (t) => {
  const { ask, clock, upstream, stored, left, told } = setUp({ says: yes })
  const first = ask()
  await clock.advance(500)
  first.hangUp()
  t.match(await first.outcome, { kind: 'gone' })
  const again = ask()
  t.match(await clock.finish(again.outcome), { kind: 'fetched', role: 'joined' })
  t.equal(told('flight-orphaned').length, 1)

  const alone = ask()
  await clock.advance(500)
  alone.hangUp()
  await clock.advance(500)
  t.equal(upstream.calls.length, 2)
  t.equal(stored.length, 2)
  t.strictSame(left(), nothingLeft)
})

void t.test(
  'Each asker has their own deadline: the brief one gets the last real answer, the patient one the good one',
  async (t) => {
    const { ask, clock } = setUp({
      says: (n) => (n < 3 ? failed('serverError', { retryAfterMs: 8_000 }) : answered()),
    })
    const brief = ask({ patienceMs: 5_000 })
    const patient = ask()
    const startedAt = clock.now()
    t.match(await clock.finish(brief.outcome), {
      landing: { verdict: { class: 'serverError' }, stoppedBy: 'deadline', attempts: { length: 1 } },
    })
    t.equal(clock.now() - startedAt, 5_000)
    t.match(await clock.finish(patient.outcome), {
      landing: { verdict: { kind: 'answered' }, attempts: { length: 3 } },
    })
  },
)

void t.test('A joiner with more time is not cut off by the deadline of the leader', async (t) => {
  const { ask, clock } = setUp({ takesMs: 4_000, says: (n) => (n === 1 ? failed('serverError') : answered()) })
  const leader = ask({ patienceMs: 3_000 })
  await clock.advance(3_000)
  t.match(await leader.outcome, { kind: 'refused', error: { code: 'DEADLINE_EXCEEDED' } })
  const joiner = ask()
  t.match(await clock.finish(joiner.outcome), { role: 'joined', landing: { verdict: { kind: 'answered' } } })
})

void t.test('The circuit opens between two attempts: the last real answer is given, not ours', async (t) => {
  const { ask, clock, upstream, breakers, told } = setUp({
    breaker: { consecutive: 2, questions: 1, hold: 0 },
    says: () => failed('serverError'),
  })
  t.match(await clock.finish(ask().outcome), {
    kind: 'fetched',
    landing: { verdict: { class: 'serverError' }, stoppedBy: 'breaker', attempts: { length: 2 } },
  })
  t.equal(upstream.calls.length, 2)
  t.match(breakers.states(), [{ state: 'open' }])
  t.match(told('retry-refused'), [{ reason: 'breaker' }])

  t.match(await clock.finish(ask().outcome), { kind: 'refused', error: { code: 'CIRCUIT_OPEN' } })
  t.equal(upstream.calls.length, 2, 'and while it is open nobody is asked')
})

void t.test('An open circuit holds questions, and those who have an expired answer do not wait', async (t) => {
  const outage = { isOver: false }
  const { ask, clock, upstream, breakers, left } = setUp({
    says: () => (outage.isOver ? answered() : failed('serverError')),
  })
  const early = Array.from({ length: 10 }, (_, n) => ask({ question: `/early/${n}` }))
  await clock.advance(8_000)
  t.match(breakers.states(), [{ state: 'open' }])
  const held = ask({ question: '/held' })
  await clock.advance(100)
  const calls = upstream.calls.length
  t.match(breakers.states(), [{ held: Number }])
  outage.isOver = true
  const outcome = await clock.finish(held.outcome)
  t.match(outcome, { kind: 'fetched', landing: { verdict: { kind: 'answered' }, attempts: [{ class: 'ok' }] } })
  t.ok(outcome.kind === 'fetched' && (outcome.landing.attempts[0]?.waitedMs ?? 0) > 0, 'the wait is in the trail')
  t.ok(upstream.calls.length > calls)
  await clock.finish(Promise.all(early.map(({ outcome }) => outcome)))
  t.strictSame(left(), nothingLeft)
})

void t.test('A key runs dry; you do not notice, and neither does the breaker', async (t) => {
  const { ask, clock, upstream, keys, breakers, budget } = setUp({
    keys: ['dry', 'full'],
    says: (_n, secret) => (secret === 'secret-of-dry' ? failed('creditsExhausted') : answered()),
  })
  t.match(await clock.finish(ask().outcome), { landing: { verdict: { kind: 'answered' }, attempts: { length: 2 } } })
  t.match(keys.states(), [{ name: 'dry', state: 'spent' }, { state: 'ready' }])
  for (let i = 0; i < 3; i += 1) {
    t.match(await clock.finish(ask().outcome), { landing: { attempts: { length: 1 } } })
  }
  t.strictSame(upstream.calls, ['secret-of-dry', ...Array.from({ length: 4 }, () => 'secret-of-full')])
  t.match(breakers.states(), [{ state: 'closed' }])
  t.equal(budget.tokens('alpha'), 100)
})

void t.test('All keys run dry: upstream’s own words first, then NO_KEY_AVAILABLE without asking', async (t) => {
  const { ask, clock, upstream, breakers, left } = setUp({
    keys: ['one', 'two'],
    says: () => failed('creditsExhausted'),
  })
  t.match(await clock.finish(ask().outcome), {
    landing: { verdict: { class: 'creditsExhausted' }, stoppedBy: 'key', attempts: { length: 2 } },
  })
  const refused = await clock.finish(ask().outcome)
  t.match(refused, { kind: 'refused', error: { code: 'NO_KEY_AVAILABLE' } })
  t.equal(upstream.calls.length, 2)
  for (let i = 0; i < 50; i += 1) await clock.finish(ask().outcome)
  t.match(breakers.states(), [{ state: 'closed' }], 'C5: our own refusals say nothing about upstream')
  t.strictSame(left(), nothingLeft)
})

void t.test('A limited key comes back within moments: the question waits for it', async (t) => {
  const { ask, clock, upstream, left } = setUp({
    says: (n) => (n === 1 ? failed('rateLimited', { retryAfterMs: 10_000 }) : answered()),
  })
  const first = ask({ question: '/one' })
  await clock.advance(2_000)
  const second = ask({ question: '/two' })
  const outcomes = await clock.finish(Promise.all([first.outcome, second.outcome]))
  t.match(outcomes, [
    { landing: { verdict: { kind: 'answered' }, attempts: { length: 2 } } },
    { landing: { verdict: { kind: 'answered' }, attempts: { length: 1 } } },
  ])
  t.equal(upstream.calls.length, 3)
  t.strictSame(left(), nothingLeft)
})

void t.test('R9: repetitions need a place like everybody else; a pause takes none', async (t) => {
  const { ask, clock, upstream } = setUp({
    maxConcurrent: 1,
    says: (n) => (n === 1 ? failed('serverError', { retryAfterMs: 10_000 }) : answered()),
  })
  const first = ask({ question: '/one' })
  const full = ask({ question: '/two' })
  t.match(await clock.finish(full.outcome), { kind: 'refused', error: { code: 'OVERLOADED' } })
  await clock.advance(2_000)
  const meanwhile = ask({ question: '/three' })
  t.match(await clock.finish(meanwhile.outcome), { landing: { verdict: { kind: 'answered' } } })
  t.match(await clock.finish(first.outcome), { landing: { verdict: { kind: 'answered' }, attempts: { length: 2 } } })
  t.equal(upstream.mostInFlight, 1)
})

void t.test('R9: who finds no place waits a little for one, repetitions too', async (t) => {
  const { ask, clock, upstream, left } = setUp({
    maxConcurrent: 1,
    queue: { size: 10, maxWait: 1_500 },
    says: (n) => (n === 1 ? failed('serverError', { retryAfterMs: 500 }) : answered()),
  })
  const first = ask({ question: '/one' })
  const second = ask({ question: '/two' })
  const third = ask({ question: '/three' })
  t.match(await clock.finish(third.outcome), { kind: 'refused', error: { code: 'OVERLOADED', status: 503 } })
  const outcomes = await clock.finish(Promise.all([first.outcome, second.outcome]))
  t.match(outcomes, [{ landing: { attempts: { length: 2 } } }, { landing: { attempts: { length: 1 } } }])
  t.equal(upstream.mostInFlight, 1)
  t.strictSame(left(), nothingLeft)
})

void t.test('Who leaves the queue has asked nothing: no call, no bill, no orphan', async (t) => {
  const { ask, clock, upstream, left, told } = setUp({
    maxConcurrent: 1,
    queue: { size: 10, maxWait: 5_000 },
    takesMs: 3_000,
    says: yes,
  })
  const first = ask({ question: '/one' })
  const gone = ask({ question: '/two' })
  const late = ask({ question: '/three', patienceMs: 1_000 })
  await clock.advance(500)
  gone.hangUp()
  t.match(await gone.outcome, { kind: 'gone' })
  t.match(await clock.finish(late.outcome), { kind: 'refused', error: { code: 'DEADLINE_EXCEEDED' } })
  t.match(await clock.finish(first.outcome), { landing: { verdict: { kind: 'answered' } } })
  await clock.advance(10_000)
  t.equal(upstream.calls.length, 1)
  t.strictSame(told('flight-orphaned'), [])
  t.strictSame(left(), nothingLeft)
})

void t.test('R1: in a total outage the breaker and the budget together keep upstream quiet', async (t) => {
  const { ask, clock, upstream } = setUp({ says: () => failed('warmingUp') })
  for (let i = 0; i < 600; i += 1) {
    void ask({ question: `/${i}` })
    await clock.advance(1_000)
  }
  // Some before it opens, and a trial or two every 20 s.
  t.ok(
    upstream.calls.length < 20 + 2 * (600 / 16) + 20,
    `${upstream.calls.length} calls for 600 questions in ten minutes`,
  )
})

void t.test('R13: after an outage the service is back within the open time and the ramp, for good', async (t) => {
  const outage = { isOver: false }
  const { ask, clock, told, outcomes } = setUp({ says: () => (outage.isOver ? answered() : failed('serverError')) })
  for (let second = 0; second < 60; second += 1) {
    void ask({ question: `/outage/${second}` })
    await clock.advance(1_000)
  }
  outage.isOver = true
  for (let second = 0; second < 90; second += 1) {
    void ask({ question: `/ramp/${second}` })
    await clock.advance(1_000)
  }
  const before = outcomes.length
  for (let second = 0; second < 300; second += 1) {
    void ask({ question: `/after/${second}` })
    await clock.advance(1_000)
  }
  const after = outcomes.slice(before)
  t.ok(after.length >= 299)
  t.ok(after.every((outcome) => outcome.kind === 'fetched' && outcome.landing.verdict.kind === 'answered'))
  t.equal(told('breaker-changed').at(-1)?.to, 'closed', 'no second trip')
})

void t.test(
  'R10, S3, S7: any weather, any hang-ups: the ledger is right, everybody is told, nothing is left',
  async (t) => {
    for (let seed = 1; seed <= 20; seed += 1) {
      const { ask, clock, random, upstream, outcomes, left, told, budget } = setUp({
        seed,
        keys: ['one', 'two', 'three'],
        client: aClient({ concurrency: 60 }),
        maxConcurrent: 20,
        takesMs: 3_000,
        says: () => weather(),
      })
      const pick = (n: number): number => Math.floor(random.next() * n)
      function weather(): Verdict {
        if (random.next() < 0.5) return answered()
        const failure = failureClasses[pick(failureClasses.length)] ?? 'serverError'
        return failed(failure, { retryAfterMs: random.next() < 0.3 ? pick(20_000) : null })
      }

      const asked: Promise<Outcome>[] = []
      for (let i = 0; i < 200; i += 1) {
        const patienceMs = 1_000 + pick(60_000)
        const askedAt = clock.now()
        const one = ask({ question: `/${pick(20)}`, patienceMs, bypass: random.next() < 0.1 })
        asked.push(one.outcome)
        void one.outcome.then(() => t.ok(clock.now() - askedAt <= patienceMs, 'nobody waits beyond their deadline'))
        if (random.next() < 0.2) clock.after(pick(10_000), one.hangUp)
        await clock.advance(pick(2_000))
      }
      await clock.finish(Promise.all(asked))
      // Orphans and keys that were waited for.
      await clock.advance(60_000)

      const charged = told('attempt-ended').reduce(
        (sum, { attempt: { charge } }) => sum + (charge.state === 'charged' ? charge.credits : 0),
        0,
      )
      t.equal(charged, upstream.charged, `seed ${seed}: every charge is accounted for`)
      t.equal(told('attempt-ended').length, upstream.calls.length)
      t.equal(outcomes.length, 200)
      t.ok(outcomes.every((outcome) => outcome.kind !== 'refused' || outcome.error.code !== 'INTERNAL'))
      t.ok(upstream.mostInFlight <= 20, 'R9')
      t.ok(budget.tokens('alpha') >= 0 && budget.tokens('alpha') <= 100, 'R8')
      t.strictSame(left(), nothingLeft)
    }
  },
)

void t.test('R12: the same seed makes the same history, all parts together', async (t) => {
  async function history(seed: number): Promise<string> {
    const { ask, clock, random, events } = setUp({
      seed,
      keys: ['one', 'two'],
      says: () => (random.next() < 0.5 ? failed('serverError') : answered()),
    })
    for (let i = 0; i < 100; i += 1) {
      void ask({ question: `/${i % 7}`, patienceMs: 20_000 })
      await clock.advance(random.next() * 2_000)
    }
    await clock.advance(60_000)
    return JSON.stringify(events)
  }
  t.equal(await history(12), await history(12))
  t.not(await history(12), await history(13))
})

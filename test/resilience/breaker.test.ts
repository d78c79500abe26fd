/** The circuit breaker: its states, whom it holds and for how long, its trials, and the invariants C1, C3 to C5 and C7 to C9. */
import fc from 'fast-check'
import t from 'tap'
import { ProxyError } from '../../src/errors.ts'
import type { Health } from '../../src/model.ts'
import type { Attempted, BreakerEntry, Pass } from '../../src/fetch-parts.ts'
import { createBreakers } from '../../src/resilience/breaker.ts'
import { answered, attempted, breakerDefaults, failed } from '../support/verdicts.ts'
import { epoch, fakeWorld, seededRandom } from '../support/world.ts'

const minute = 60_000
const healthy = { up: answered(), down: failed('serverError'), slow: failed('timeout'), neutral: failed('rateLimited') }

type End = Health | Error

/** Questions are different ones unless the test says otherwise. */
function setUp(seed = 1, changes: Partial<typeof breakerDefaults> = {}) {
  const world = fakeWorld(seed)
  const policy = { ...breakerDefaults, ...changes }
  const breakers = createBreakers({ ...world, policy, scrapers: ['alpha', 'beta'] })
  let asked = 0
  let questions = 0

  function call(entry: Partial<BreakerEntry> = {}) {
    const listeners = new Set<() => void>()
    const state = { isAsked: false, heldMs: -1, isHeld: false, patience: Number.POSITIVE_INFINITY }
    const ending = Promise.withResolvers<End>()
    const work = async (pass: Pass): Promise<Attempted | null> => {
      if (pass.isVoid()) return null
      asked += 1
      state.isAsked = true
      state.heldMs = pass.heldMs
      pass.start()
      const end = await ending.promise
      if (end instanceof Error) throw end
      return attempted(healthy[end])
    }
    const flight = {
      patienceUntil: () => state.patience,
      held: () => void (state.isHeld = true),
      onAbandoned(listener: () => void) {
        listeners.add(listener)
        return () => void listeners.delete(listener)
      },
    }
    const question = `question ${(questions += 1)}`
    const whole = { scraper: 'alpha', question, flight, isLast: false, isOverBudget: false, ...entry }
    const outcome = breakers
      .run(whole, work)
      .catch((error: unknown) => (error instanceof ProxyError ? error : Promise.reject(error)))
    outcome.catch(() => {})
    return {
      outcome,
      state,
      listeners,
      async ends(end: End): Promise<void> {
        ending.resolve(end)
        await world.clock.settle()
      },
      async leaves(): Promise<void> {
        state.patience = 0
        for (const listener of listeners) listener()
        await world.clock.settle()
      },
    }
  }

  async function calls(count: number, entry: Partial<BreakerEntry> = {}) {
    const all = Array.from({ length: count }, () => call(entry))
    await world.clock.settle()
    return all
  }

  /** One after the other, each within `ms`. */
  async function happens(count: number, end: Health, ms = 10, entry: Partial<BreakerEntry> = {}): Promise<void> {
    for (let n = 0; n < count; n += 1) {
      const one = call(entry)
      await world.clock.advance(ms)
      await one.ends(end)
    }
  }

  const stateOf = (scraper = 'alpha') => breakers.states().find((status) => status.scraper === scraper)
  const state = () => stateOf()?.state
  const openLeft = () => (stateOf()?.openUntil ?? 0) - world.clock.now()
  const trip = () => happens(20, 'down')
  const asks = () => asked
  return { ...world, breakers, call, calls, happens, state, stateOf, openLeft, trip, asks }
}

// States

void t.test('It starts closed, for every scraper of the list', async (t) => {
  const { breakers, clock, events, call } = setUp()
  t.strictSame(breakers.states(), [
    { scraper: 'alpha', state: 'closed', openUntil: null, held: 0 },
    { scraper: 'beta', state: 'closed', openUntil: null, held: 0 },
  ])
  const one = call()
  await one.ends('up')
  t.match(await one.outcome, { verdict: { kind: 'answered' } })
  t.equal(clock.timers, 0)
  t.strictSame(events, [])
})

void t.test('Twenty failures in a row open it, for a second less a fifth at most', async (t) => {
  const { happens, state, openLeft, told } = setUp()
  await happens(19, 'down')
  t.equal(state(), 'closed')
  await happens(1, 'down')
  t.equal(state(), 'open')
  t.ok(openLeft() >= 800 && openLeft() <= 1_000)
  t.match(told('breaker-changed'), [{ scraper: 'alpha', to: 'open', openForMs: Number, isStillOpen: false }])
})

void t.test('C5: storms of what is not upstream’s fault never open it', async (t) => {
  const { happens, call, state, events } = setUp()
  await happens(500, 'neutral', 0)
  for (let i = 0; i < 50; i += 1) {
    const refused = call()
    await refused.ends(new ProxyError('NO_KEY_AVAILABLE', 'no'))
    t.match(await refused.outcome, { code: 'NO_KEY_AVAILABLE' }, 'our own refusals pass through')
  }
  const bug = call()
  await bug.ends(new TypeError('a bug'))
  await t.rejects(bug.outcome, TypeError)
  t.equal(state(), 'closed')
  t.strictSame(events, [])
})

void t.test(
  'C7: one failing scraper leaves the others alone, and what names no scraper is never guarded',
  async (t) => {
    const { trip, call, clock, stateOf, breakers } = setUp()
    await trip()
    t.equal(stateOf('alpha')?.state, 'open')
    t.equal(stateOf('beta')?.state, 'closed')
    const other = call({ scraper: 'beta' })
    const none = call({ scraper: 'none' })
    await clock.settle()
    t.ok(other.state.isAsked && none.state.isAsked)
    t.equal(breakers.states().length, 2)
  },
)

void t.test('C3: what was begun in an earlier state changes nothing in a later one', async (t) => {
  const { calls, trip, clock, openLeft, state, told } = setUp()
  const old = await calls(12)
  await trip()
  await old[0]?.ends('up')
  t.equal(state(), 'open', 'a late answer does not close it')
  await clock.advance(openLeft())
  const [trial] = await calls(1)
  t.equal(state(), 'half-open')
  await old[1]?.ends('up')
  await old[2]?.ends('down')
  t.equal(state(), 'half-open', 'nor does it decide a trial')
  await trial?.ends('up')
  for (const one of old.slice(3)) await one.ends('down')
  t.equal(state(), 'closed', 'late failures do not open it')
  t.equal(told('breaker-changed').length, 3)
})

void t.test('C1: only legal transitions, whatever happens in whatever order', async (t) => {
  const legal = new Set(['closed open', 'open half-open', 'half-open closed', 'half-open open'])
  const healths: readonly Health[] = ['up', 'down', 'down', 'down', 'down', 'down', 'slow', 'neutral']
  const random = seededRandom(1)
  const pick = (n: number): number => Math.floor(random.next() * n)
  for (let round = 0; round < 5; round += 1) {
    const { breakers, call, clock, told } = setUp(round, { consecutive: 4, questions: 2 })
    let underWay: ReturnType<typeof call>[] = []
    for (let step = 0; step < 1_000; step += 1) {
      const one = underWay.length > 0 ? underWay[pick(underWay.length)] : undefined
      if (random.next() < 0.5 || !one)
        underWay.push(call({ isLast: random.next() < 0.3, isOverBudget: random.next() < 0.1 }))
      else {
        await one.ends(healths[pick(healths.length)] ?? 'up')
        underWay = underWay.filter((other) => other !== one)
      }
      if (random.next() < 0.3) await clock.advance(random.next() * 10_000)
    }
    const states = ['closed', ...told('breaker-changed').map(({ to }) => to)]
    const steps = states.slice(1).map((to, i) => `${states[i]} ${to}`)
    t.ok(steps.length > 10, `round ${round} makes ${steps.length} transitions`)
    t.ok(steps.every((step) => legal.has(step)))
    breakers.close()
    await clock.settle()
    t.equal(clock.timers, 0)
  }
})

void t.test('The wall clock has no say in it', async (t) => {
  const { trip, clock, state } = setUp()
  await trip()
  clock.stepWall(24 * 60 * minute)
  t.equal(state(), 'open')
  t.equal(clock.now(), epoch + 200)
})

void t.test('Under another policy the circuits are the same, and each call is judged by its own', async (t) => {
  const { breakers, trip, happens, state } = setUp()
  const strict = breakers.under({ ...breakerDefaults, consecutive: 4 })
  await happens(10, 'down')
  t.equal(state(), 'closed', 'the old calls may fail twenty times')
  const flight = { patienceUntil: () => 1, held() {}, onAbandoned: () => () => {} }
  const entry = { scraper: 'alpha', question: 'new', flight, isLast: false, isOverBudget: false }
  await strict.run(entry, async (pass) => {
    pass.start()
    return attempted(failed('serverError'))
  })
  t.equal(state(), 'open')
  t.strictSame(breakers.states(), strict.states())
  await trip()
})

void t.test('After it has been shut down it refuses, changes no more, and lets what is under way end', async (t) => {
  const { breakers, call, trip, clock, told } = setUp()
  const old = call()
  await trip()
  const held = call()
  await clock.settle()
  breakers.close()
  t.match(await held.outcome, { code: 'SHUTTING_DOWN' })
  await clock.advance(minute)
  t.match(await call().outcome, { code: 'SHUTTING_DOWN' })
  await old.ends('down')
  t.match(await old.outcome, { verdict: { kind: 'failed' } })
  t.match(breakers.states()[0], { scraper: 'alpha', state: 'closed', held: 0 })
  t.equal(told('breaker-changed').length, 1)
  t.equal(clock.timers, 0)
})

// Holding

void t.test('Closed by hand it lets those in whom it held, and opens again only for new failures', async (t) => {
  const { breakers, calls, happens, told } = setUp()
  t.equal(breakers.closeNow('gamma'), null)
  t.match(breakers.closeNow('alpha'), { scraper: 'alpha', state: 'closed' })
  t.equal(told('breaker-changed').length, 0)
  await happens(20, 'down')
  const held = await calls(2)
  t.match(breakers.states()[0], { state: 'open', held: 2 })
  t.match(breakers.closeNow('alpha'), { state: 'closed', held: 0 })
  await held[0]?.ends('up')
  t.match(await held[0]?.outcome, { verdict: { kind: 'answered' } })
  await held[1]?.ends('down')
  t.match(breakers.states()[0], { state: 'closed' })
  await happens(20, 'down')
  t.match(breakers.states()[0], { state: 'open' })
})

void t.test('An open circuit holds callers, and lets them in when a trial has been answered', async (t) => {
  const { trip, calls, clock, state, stateOf, told, asks } = setUp()
  await trip()
  const before = asks()
  const held = await calls(50)
  t.equal(stateOf()?.held, 50)
  t.ok(held.every(({ state }) => state.isHeld && !state.isAsked))
  await clock.advance(1_000)
  t.equal(asks() - before, 1, 'one is the trial')
  await held[0]?.ends('up')
  t.equal(state(), 'closed')
  t.equal(asks() - before, 1 + 4, 'a few at a time')
  const late = (await calls(1))[0]
  t.equal(late?.state.isAsked, false, 'who comes now is behind them')
  await clock.advance(1_000)
  t.equal(asks() - before, 1 + 4 + 8)
  await clock.advance(3_000)
  t.equal(asks() - before, 51)
  t.equal(stateOf()?.held, 0)
  t.ok(late?.state.isAsked && late.state.heldMs >= 3_000 && late.state.heldMs < 4_000)
  t.equal(told('hold-ended').filter(({ end }) => end === 'passed').length, 51)
  t.equal(clock.timers, 0)
})

void t.test(
  'After `hold` those who wait are refused, and who comes later at once; upstream is not asked (C9)',
  async (t) => {
    const { trip, calls, clock, stateOf, told, asks } = setUp(1, { openFor: 60_000, openForMax: 60_000 })
    await trip()
    const held = await calls(3)
    await clock.advance(29_990)
    t.equal(stateOf()?.held, 3)
    await clock.advance(10)
    t.equal(stateOf()?.held, 0)
    const refusal = await held[1]?.outcome
    t.match(refusal, { code: 'CIRCUIT_OPEN', status: 503 })
    t.ok(refusal instanceof ProxyError && refusal.retryAfterMs !== null && refusal.retryAfterMs <= 30_000)
    const before = asks()
    for (const { outcome, state } of await calls(100)) {
      t.match(await outcome, { code: 'CIRCUIT_OPEN' })
      t.equal(state.isHeld, false)
    }
    t.equal(asks(), before)
    t.equal(told('hold-ended').filter(({ end }) => end === 'refused').length, 3)
    t.equal(clock.timers, 0)
  },
)

void t.test('With `hold: 0s` an open circuit refuses at once', async (t) => {
  const { trip, calls, clock } = setUp(1, { hold: 0 })
  await trip()
  const [one] = await calls(1)
  t.match(await one?.outcome, { code: 'CIRCUIT_OPEN', retryAfterMs: 1_000 })
  t.equal(clock.timers, 0)
})

void t.test('Nobody is held beyond their patience, or who has gone already', async (t) => {
  const { trip, call, clock, stateOf, told } = setUp()
  await trip()
  const one = call()
  const gone = call()
  await clock.settle()
  await gone.leaves()
  t.match(await gone.outcome, { code: 'CIRCUIT_OPEN' })
  t.equal(stateOf()?.held, 1)
  t.match(told('hold-ended'), [{ end: 'left' }])
  await one.leaves()
  t.equal(clock.timers + one.listeners.size + gone.listeners.size, 0)
})

void t.test('The queue is bounded', async (t) => {
  const { trip, calls, stateOf } = setUp()
  await trip()
  await calls(10_000)
  const [one] = await calls(1)
  t.match(await one?.outcome, { code: 'CIRCUIT_OPEN' })
  t.equal(stateOf()?.held, 10_000)
})

void t.test('The circuit knows how an attempt ended before its place goes on', async (t) => {
  const { breakers, trip, clock, stateOf } = setUp()
  const flight = { patienceUntil: () => Number.POSITIVE_INFINITY, held() {}, onAbandoned: () => () => {} }
  await trip()
  let stateAtTheEnd: string | undefined
  const entry = { scraper: 'alpha', question: 'trial', flight, isLast: false, isOverBudget: false }
  const outcome = breakers.run(entry, async (pass) => {
    pass.start()
    pass.ended('up')
    stateAtTheEnd = stateOf()?.state
    return attempted(answered())
  })
  await clock.advance(1_000)
  await outcome
  t.equal(stateAtTheEnd, 'closed')
})

void t.test('An outage of less than the hold costs nobody an answer, whenever in the hold it ends', async (t) => {
  for (const outageMs of [5_000, 14_500, 22_000, 26_000, 29_000, 29_900]) {
    const { trip, clock, calls, state } = setUp()
    await trip()
    const openedAt = clock.now()
    const all = await calls(40)
    // Failures come after 0.5 s, answers after 8 s.
    const endsAt = new Map<(typeof all)[number], number>()
    for (let ms = 0; ms < 120_000; ms += 250) {
      for (const one of all) {
        const isDown = clock.now() - openedAt < outageMs
        if (one.state.isAsked && !endsAt.has(one)) endsAt.set(one, clock.now() + (isDown ? 500 : 8_000))
        const at = endsAt.get(one)
        if (at !== undefined && clock.now() >= at) await one.ends(at - openedAt < outageMs + 500 ? 'down' : 'up')
      }
      await clock.advance(250)
    }
    const refused = await Promise.all(all.map(async ({ outcome }) => (await outcome) instanceof ProxyError))
    t.equal(refused.filter(Boolean).length, 0, `an outage of ${outageMs} ms`)
    t.equal(state(), 'closed')
  }
})

void t.test(
  'While a trial waits for its place there is no other, and the next comes a pause after its start',
  async (t) => {
    const { breakers, trip, clock, call } = setUp()
    const place = Promise.withResolvers<void>()
    let startedAt = 0
    const flight = { patienceUntil: () => Number.POSITIVE_INFINITY, held() {}, onAbandoned: () => () => {} }
    await trip()
    const entry = { scraper: 'alpha', question: 'trial', flight, isLast: false, isOverBudget: false }
    void breakers.run(entry, async (pass) => {
      await place.promise
      startedAt = clock.now()
      pass.start()
      return new Promise<never>(() => {})
    })
    const other = call()
    await clock.advance(20_000)
    t.notOk(other.state.isAsked)
    place.resolve()
    await clock.settle()
    await clock.advance(500)
    t.notOk(other.state.isAsked, 'not at once')
    await clock.advance(2_000)
    t.ok(other.state.isAsked)
    t.ok(startedAt > 0)
  },
)

void t.test('An attempt whose circuit opened while it waited for its place is held, not made', async (t) => {
  const { breakers, trip, clock, stateOf } = setUp()
  const place = Promise.withResolvers<void>()
  let asked = 0
  const flight = { patienceUntil: () => Number.POSITIVE_INFINITY, held() {}, onAbandoned: () => () => {} }
  const entry = { scraper: 'alpha', question: 'late', flight, isLast: false, isOverBudget: false }
  const outcome = breakers.run(entry, async (pass) => {
    await place.promise
    if (pass.isVoid()) return null
    asked += 1
    pass.start()
    return attempted(answered())
  })
  await clock.settle()
  await trip()
  place.resolve()
  await clock.settle()
  t.equal(asked, 0)
  t.equal(stateOf()?.held, 1)
  await clock.advance(1_000)
  t.match(await outcome, { verdict: { kind: 'answered' } }, 'it is the trial')
  t.equal(stateOf()?.state, 'closed')
})

// Doubt

void t.test('A last attempt is not made while the circuit may open; then it is held like the others', async (t) => {
  const { happens, call, clock, state, stateOf } = setUp()
  await happens(10, 'down')
  const last = call({ isLast: true })
  await clock.settle()
  t.ok(!last.state.isAsked && last.state.isHeld)
  t.equal(stateOf()?.held, 1)
  await happens(10, 'down')
  t.equal(state(), 'open')
  t.equal(stateOf()?.held, 1)
  const other = call()
  await clock.advance(1_000)
  t.ok(other.state.isAsked && !last.state.isAsked, 'the trial is one that has more attempts left')
  await other.ends('up')
  t.ok(last.state.isAsked)
})

void t.test('It is made as soon as some call is known to be well, and after `hold` at the latest', async (t) => {
  const { happens, call, clock } = setUp()
  await happens(10, 'down')
  const last = call({ isLast: true })
  await clock.advance(1_000)
  t.notOk(last.state.isAsked)
  call()
  await clock.advance(1_000)
  t.ok(last.state.isAsked, 'the other one outlives failures')

  const lonely = setUp()
  await lonely.happens(10, 'down')
  const one = lonely.call({ isLast: true })
  await lonely.clock.advance(29_000)
  t.notOk(one.state.isAsked)
  await lonely.clock.advance(2_000)
  t.ok(one.state.isAsked)
  t.equal(lonely.clock.timers, 0)
})

void t.test('Failures of one question are no reason to wait', async (t) => {
  const { happens, call, clock } = setUp()
  await happens(10, 'down', 10, { question: 'the same' })
  const last = call({ question: 'the same', isLast: true })
  await clock.settle()
  t.ok(last.state.isAsked)
})

void t.test(
  'What the retry budget forbids is not made in a closed circuit, and is let in by an open one',
  async (t) => {
    const { happens, call, clock, trip } = setUp()
    const forbidden = call({ isOverBudget: true })
    t.equal(await forbidden.outcome, null)
    await happens(10, 'down')
    const doubtful = call({ isOverBudget: true })
    await clock.settle()
    t.ok(doubtful.state.isHeld && !doubtful.state.isAsked)
    await trip()
    await clock.advance(1_000)
    t.ok(doubtful.state.isAsked, 'a trial is free')

    const lonely = setUp()
    await lonely.happens(10, 'down')
    const one = lonely.call({ isOverBudget: true })
    await lonely.clock.advance(31_000)
    t.equal(await one.outcome, null, 'it is still not known')

    const recovering = setUp()
    await recovering.happens(10, 'down')
    const other = recovering.call({ isOverBudget: true })
    await recovering.happens(1, 'up', 5_000)
    t.ok(other.state.isAsked, 'the trouble is over')
  },
)

// Trials

void t.test('Trials come after 1, 2, 4 … 20 s; a closed circuit soon forgets that', async (t) => {
  const { trip, calls, clock, openLeft, happens } = setUp(3, { hold: 0 })
  await trip()
  for (const bound of [1_000, 2_000, 4_000, 8_000]) {
    t.ok(openLeft() > 0.8 * bound - 200 && openLeft() <= bound, `${openLeft()} of ${bound}`)
    await clock.advance(openLeft())
    const [trial] = await calls(1)
    t.ok(trial?.state.isAsked)
    await trial?.ends('down')
  }
  t.ok(openLeft() <= 16_000)
  await clock.advance(openLeft())
  const [answer] = await calls(1)
  await answer?.ends('up')
  await happens(20, 'down')
  t.ok(openLeft() > 2_000, 'not when it opens again at once')
  await clock.advance(20_000)
  const [again] = await calls(1)
  await again?.ends('up')
  await clock.advance(20_000)
  await happens(20, 'down')
  t.ok(openLeft() <= 1_000, 'when it stayed closed for 20 s')
})

void t.test('Where trials are rare, a second one follows the first soon', async (t) => {
  const { trip, calls, clock, openLeft } = setUp(1, { hold: 0, openFor: 1_000, openForMax: 20_000 })
  await trip()
  let left = openLeft()
  while (left < 10_000) {
    await clock.advance(left)
    await (await calls(1))[0]?.ends('down')
    const next = openLeft()
    if (next <= 1_000 && left > 1_000) break
    left = next
  }
  t.ok(openLeft() <= 1_000, 'one call may fail in fair weather')
  await clock.advance(openLeft())
  await (await calls(1))[0]?.ends('down')
  t.ok(openLeft() > 10_000, 'then the next two')
})

void t.test('C4, C8: a trial that outlives failures lets two more in, then four, without an answer', async (t) => {
  const { trip, calls, clock, asks, state } = setUp()
  await trip()
  const before = asks()
  const held = await calls(40)
  await clock.advance(1_000)
  t.equal(asks() - before, 1)
  await clock.advance(1_000)
  t.equal(asks() - before, 3, 'failures took 10 ms; a second is much longer')
  await clock.advance(1_000)
  t.equal(asks() - before, 7)
  await clock.advance(1_000)
  t.equal(asks() - before, 15)
  t.equal(state(), 'half-open')
  await clock.advance(3_000)
  t.equal(asks() - before, 40)
  await held[0]?.ends('up')
  t.equal(state(), 'closed')
})

void t.test('While a trial looks well nobody is refused, though `hold` is over', async (t) => {
  const { trip, calls, clock, state } = setUp(1, { openFor: 20_000 })
  await trip()
  const [trial] = await calls(1)
  await clock.advance(28_000)
  t.ok(trial?.state.isAsked)
  const late = await calls(20)
  await clock.advance(4_000)
  t.ok(
    late.every(({ state }) => state.isAsked),
    'hold was over after 30 s',
  )
  await trial?.ends('up')
  t.equal(state(), 'closed')
})

void t.test('A failure among trials that live on ends nothing; failures of nearly all do', async (t) => {
  const { trip, calls, clock, state } = setUp()
  await trip()
  const held = await calls(40)
  await clock.advance(3_000)
  const asked = held.filter(({ state }) => state.isAsked)
  await asked[1]?.ends('down')
  t.equal(state(), 'half-open')
  for (const one of asked) await one.ends('down')
  for (const one of held.filter(({ state }) => state.isAsked)) await one.ends('down')
  t.equal(state(), 'open')
})

void t.test('C8: a trial that hangs does not keep the next ones from their time', async (t) => {
  const { happens, calls, clock, asks, state } = setUp(1, { hold: 0 })
  // Failures take minutes, so a trial of a minute is no sign yet.
  const hanging = await calls(20)
  await clock.advance(315_000)
  for (const one of hanging) await one.ends('down')
  t.equal(state(), 'open')
  const before = asks()
  for (let second = 0; second < 120; second += 1) {
    await calls(1)
    await clock.advance(1_000)
  }
  t.ok(asks() - before >= 8, `${asks() - before} trials in two minutes`)
  t.ok(asks() - before <= 13)
  t.equal(state(), 'half-open')
  await happens(1, 'neutral', 0)
})

void t.test('A trial that says nothing about upstream leaves its place to the next one', async (t) => {
  const { trip, calls, clock, state, openLeft } = setUp(1, { hold: 0 })
  await trip()
  await clock.advance(1_000)
  await (await calls(1))[0]?.ends('neutral')
  t.equal(state(), 'open')
  t.ok(openLeft() <= 1_000)
  await clock.advance(1_000)
  await (await calls(1))[0]?.ends(new ProxyError('NO_KEY_AVAILABLE', 'no'))
  t.ok(openLeft() <= 1_000)
  await clock.advance(1_000)
  await (await calls(1))[0]?.ends('up')
  t.equal(state(), 'closed')
})

void t.test('The time until a trial is spread downwards, for any policy', async (t) => {
  const policies = fc.record({ openFor: fc.integer({ min: 1_000, max: 20_000 }), seed: fc.nat() })
  await fc.assert(
    fc.asyncProperty(policies, async ({ openFor, seed }) => {
      const { trip, openLeft } = setUp(seed, { openFor })
      await trip()
      return openLeft() >= 0.8 * openFor - 1 && openLeft() <= openFor
    }),
    { seed: 5, numRuns: 30 },
  )
  t.pass()
})

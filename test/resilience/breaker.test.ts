/** The circuit breaker: its rules, and the invariants C1 and C3 to C9. Long, because each rule is one sentence here. */
import fc from 'fast-check'
import t from 'tap'
import { ProxyError } from '../../src/errors.ts'
import type { Health } from '../../src/model.ts'
import type { Breakers } from '../../src/parts.ts'
import { createBreakers } from '../../src/resilience/breaker.ts'
import { epoch, fakeWorld, seededRandom } from '../support/world.ts'
import { breakerDefaults } from '../support/verdicts.ts'

const minute = 60_000

function setUp(seed = 1, changes: Partial<typeof breakerDefaults> = {}) {
  const world = fakeWorld(seed)
  const policy = { ...breakerDefaults, ...changes }
  const breakers = createBreakers({ ...world, policy, scrapers: ['alpha', 'beta'] })
  let calls = 0

  /** A call that ends when the test says how. */
  function call(scraper = 'alpha') {
    let end = (_health: Health | Error): void => {}
    const work = (): Promise<Health> => {
      calls += 1
      return new Promise((resolve, reject) => {
        end = (health) => (health instanceof Error ? reject(health) : resolve(health))
      })
    }
    const outcome = breakers
      .run(scraper, work, (health) => health)
      .catch((error: unknown) => (error instanceof ProxyError ? error : Promise.reject(error)))
    outcome.catch(() => {})
    return {
      outcome,
      async ends(health: Health | Error): Promise<void> {
        end(health)
        await world.clock.settle()
      },
    }
  }

  async function happens(...healths: readonly Health[]): Promise<void> {
    for (const health of healths) await call().ends(health)
  }

  async function isRefused(scraper = 'alpha'): Promise<boolean> {
    const before = calls
    const one = call(scraper)
    await world.clock.settle()
    const wasLetIn = calls > before
    await one.ends('neutral')
    const refusal = await one.outcome
    return !wasLetIn && refusal instanceof ProxyError && refusal.code === 'CIRCUIT_OPEN'
  }

  const stateOf = (scraper = 'alpha') => breakers.states().find((status) => status.scraper === scraper)
  const state = () => stateOf()?.state
  const openLeft = () => (stateOf()?.openUntil ?? 0) - world.clock.now()

  async function trip(): Promise<void> {
    await happens(...times(5, 'down'))
  }

  /** Trips it and waits until its time is over. */
  async function onTrial(): Promise<void> {
    await trip()
    await world.clock.advance(openLeft())
  }

  const calledTimes = () => calls
  return { ...world, breakers, call, happens, isRefused, state, stateOf, openLeft, trip, onTrial, calledTimes }
}

function times(n: number, health: Health): Health[] {
  return Array.from({ length: n }, () => health)
}

void t.test('It starts closed, for every scraper of the list', async (t) => {
  const { breakers, clock, events } = setUp()
  t.strictSame(breakers.states(), [
    { scraper: 'alpha', state: 'closed', openUntil: null },
    { scraper: 'beta', state: 'closed', openUntil: null },
  ])
  t.equal(
    await breakers.run(
      'alpha',
      async () => 7,
      () => 'up',
    ),
    7,
  )
  t.equal(clock.timers, 0)
  t.strictSame(events, [])
})

void t.test('Five failures in a row open it; one answer between them begins anew', async (t) => {
  const { happens, state, openLeft, told } = setUp()
  await happens(...times(4, 'down'), 'up', ...times(4, 'down'), 'neutral')
  t.equal(state(), 'closed')
  await happens('down')
  t.equal(state(), 'open')
  const openForMs = openLeft()
  t.ok(openForMs >= 24_000 && openForMs <= 36_000)
  t.strictSame(told('breaker-changed'), [{ kind: 'breaker-changed', scraper: 'alpha', to: 'open', openForMs }])
})

void t.test('Half of the last twenty opens it, not of fewer than ten, and not a smaller part', async (t) => {
  const few = setUp()
  for (let i = 0; i < 4; i += 1) await few.happens('up', 'down')
  await few.happens('down')
  t.equal(few.state(), 'closed', 'five of nine')
  await few.happens('up')
  t.equal(few.state(), 'open', 'five of ten')

  const rare = setUp()
  for (let i = 0; i < 30; i += 1) await rare.happens('up', 'down', 'up')
  t.equal(rare.state(), 'closed', 'a third')

  const late = setUp()
  await late.happens(...times(1_000, 'up'))
  for (let i = 0; i < 4; i += 1) await late.happens('down', 'down', 'up')
  t.equal(late.state(), 'closed', 'eight of the last twenty')
  await late.happens('down', 'down')
  t.equal(late.state(), 'open', 'ten: old successes do not hide it')
})

void t.test('A slow failure counts half', async (t) => {
  const { happens, state } = setUp()
  await happens(...times(9, 'slow'))
  t.equal(state(), 'closed')
  await happens('slow')
  t.equal(state(), 'open')

  const mixed = setUp()
  for (let i = 0; i < 20; i += 1) await mixed.happens('slow', 'up')
  t.equal(mixed.state(), 'closed', 'a quarter')
})

void t.test('What happened more than ten minutes ago is forgotten', async (t) => {
  const { happens, state, clock } = setUp()
  await happens(...times(4, 'down'))
  await clock.advance(10 * minute)
  await happens(...times(4, 'down'))
  t.equal(state(), 'closed')
  await happens('down')
  t.equal(state(), 'open')
})

void t.test('C5: storms of what is not upstream’s fault never open it', async (t) => {
  const { happens, call, state, events } = setUp()
  await happens(...times(500, 'neutral'))
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

void t.test('C6: fifty slow calls that all fail open it within twenty completions', async (t) => {
  const { call, clock, state } = setUp()
  const calls = Array.from({ length: 50 }, () => call())
  await clock.advance(2 * minute)
  let completions = 0
  for (const one of calls) {
    if (state() !== 'closed') break
    await one.ends('down')
    completions += 1
  }
  t.equal(completions, 5)
})

void t.test(
  'C7: one failing scraper leaves the others alone, and what names no scraper is never guarded',
  async (t) => {
    const { trip, call, isRefused, stateOf, breakers } = setUp()
    await trip()
    t.equal(await isRefused('alpha'), true)
    t.equal(await isRefused('beta'), false)
    t.match(stateOf('beta'), { state: 'closed' })
    for (let i = 0; i < 20; i += 1) await call('none').ends('down')
    t.equal(await isRefused('none'), false)
    t.equal(breakers.states().length, 2)
  },
)

void t.test('C9: while it is open upstream is not asked, and callers are told how long', async (t) => {
  const { trip, call, calledTimes, openLeft, clock } = setUp()
  await trip()
  const left = openLeft()
  for (let i = 0; i < 100; i += 1) {
    t.match(await call().outcome, { code: 'CIRCUIT_OPEN', status: 503, retryAfterMs: left })
  }
  t.equal(calledTimes(), 5)
  t.equal(clock.timers, 0)
  await clock.advance(left - 10)
  t.match(await call().outcome, { retryAfterMs: 1_000 }, 'at least a second')
})

void t.test('After its time one probe is let through; its answer closes the circuit', async (t) => {
  const { onTrial, call, isRefused, state, stateOf, calledTimes, told } = setUp()
  await onTrial()
  t.match(stateOf(), { state: 'half-open', openUntil: null }, 'noticed by whoever looks')
  const probe = call()
  for (let i = 0; i < 10; i += 1) t.equal(await isRefused(), true)
  t.equal(calledTimes(), 6)
  await probe.ends('up')
  t.equal(state(), 'closed')
  t.equal(await isRefused(), false)
  t.strictSame(
    told('breaker-changed').map(({ to }) => to),
    ['open', 'half-open', 'closed'],
  )
})

void t.test('The next call notices that its time is over, without anybody looking', async (t) => {
  const { onTrial, call, calledTimes } = setUp()
  await onTrial()
  call()
  t.equal(calledTimes(), 6)
})

void t.test('A probe that fails, even slowly, opens it again for longer, and the time is bounded', async (t) => {
  const { onTrial, call, state, openLeft, clock } = setUp()
  await onTrial()
  const bounds = [60_000, 120_000, 240_000, 300_000, 300_000, 300_000]
  for (const [i, bound] of bounds.entries()) {
    await call().ends(i % 2 === 0 ? 'down' : 'slow')
    t.equal(state(), 'open')
    const left = openLeft()
    t.ok(left >= 0.8 * bound && left <= 1.2 * bound, `${left} of ${bound}`)
    await clock.advance(left)
  }
})

void t.test('Ten healthy minutes forgive one doubling', async (t) => {
  const { onTrial, call, trip, openLeft, clock, state } = setUp()
  await onTrial()
  await call().ends('down')
  await clock.advance(openLeft())
  await call().ends('up')
  t.equal(state(), 'closed')

  await clock.advance(9 * minute)
  await trip()
  const third = openLeft()
  t.ok(third >= 96_000 && third <= 144_000, 'not yet: the third time in a row')
  await clock.advance(third)
  await call().ends('up')
  await clock.advance(21 * minute)
  await trip()
  const later = openLeft()
  t.ok(later >= 48_000 && later <= 72_000, 'two of three are forgiven')
  await clock.advance(later)
  await call().ends('up')
  await clock.advance(24 * 60 * minute)
  await trip()
  t.ok(openLeft() <= 36_000, 'all are')
})

void t.test('A probe that says nothing about upstream leaves its place to the next one', async (t) => {
  const { onTrial, call, state, isRefused, calledTimes, clock, told } = setUp()
  await onTrial()
  await call().ends('neutral')
  t.equal(state(), 'half-open')
  await call().ends(new ProxyError('NO_KEY_AVAILABLE', 'no'))
  t.equal(state(), 'half-open')
  t.equal(calledTimes(), 7)
  await clock.advance(20_000)
  const probe = call()
  t.equal(await isRefused(), true, 'only time that a probe survives counts')
  await probe.ends('up')
  t.equal(state(), 'closed')
  t.equal(told('breaker-changed').length, 3)
})

void t.test('C3: what was begun in an earlier state changes nothing in a later one', async (t) => {
  const { call, trip, clock, openLeft, state, told } = setUp()
  const old = Array.from({ length: 12 }, () => call())
  await trip()
  await old[0]?.ends('up')
  t.equal(state(), 'open', 'a late answer does not close it')
  await clock.advance(openLeft())
  t.equal(state(), 'half-open')
  const probe = call()
  await old[1]?.ends('up')
  t.equal(state(), 'half-open', 'nor does it decide a trial')
  await old[2]?.ends('down')
  t.equal(state(), 'half-open')
  await probe.ends('up')
  for (const one of old.slice(3)) await one.ends('down')
  t.equal(state(), 'closed', 'late failures do not open it')
  t.equal(told('breaker-changed').length, 3)
})

void t.test('C4, C8: a probe that hangs but does not fail lets more follow, twice as many every 15 s', async (t) => {
  const { onTrial, call, isRefused, clock, calledTimes, state } = setUp()
  await onTrial()
  const before = calledTimes()
  const probe = call()
  t.match(await call().outcome, { code: 'CIRCUIT_OPEN', retryAfterMs: 15_000 })
  await clock.advance(14_000)
  t.match(await call().outcome, { retryAfterMs: 1_000 })

  for (const allowed of [2, 4, 8, 16]) {
    await clock.advance(allowed === 2 ? 1_000 : 15_000)
    while (calledTimes() - before < allowed) {
      const inFlight = calledTimes()
      call()
      await clock.settle()
      if (calledTimes() === inFlight) break
    }
    t.equal(calledTimes() - before, allowed)
    t.equal(await isRefused(), true, `${allowed} at a time`)
  }
  await clock.advance(600_000)
  t.equal(await isRefused(), false, 'a probe that hangs for ever blocks nobody')
  t.equal(state(), 'half-open')
  await probe.ends('up')
  t.equal(state(), 'closed')
})

void t.test('C4: three answers double what is allowed, too; one failure ends the trial', async (t) => {
  const { onTrial, call, isRefused, clock, state } = setUp()
  await onTrial()
  const probe = call()
  await clock.advance(29_000)
  for (let i = 0; i < 2; i += 1) await call().ends('up')
  const second = call()
  t.equal(await isRefused(), true, 'two at a time')
  await second.ends('up')
  t.equal(state(), 'half-open', 'the probe itself has not answered')
  await clock.advance(14_000)
  const followers = [call(), call(), call()]
  t.equal(await isRefused(), true, 'four at a time, and the next doubling is 15 s later')
  await followers[0]?.ends('neutral')
  t.equal(state(), 'half-open')
  await followers[1]?.ends('down')
  t.equal(state(), 'open')
  await probe.ends('up')
  await followers[2]?.ends('up')
  t.equal(state(), 'open', 'too late')
})

void t.test('When the probe is gone, an answer of those who followed it decides', async (t) => {
  const { onTrial, call, clock, state } = setUp()
  await onTrial()
  const probe = call()
  await clock.advance(15_000)
  const follower = call()
  await probe.ends('neutral')
  await follower.ends('up')
  t.equal(state(), 'closed')
})

void t.test('C1: only legal transitions, whatever happens in whatever order', async (t) => {
  const legal = new Set(['closed open', 'open half-open', 'half-open closed', 'half-open open'])
  const healths: readonly Health[] = ['up', 'down', 'down', 'slow', 'neutral']
  const random = seededRandom(1)
  const pick = (n: number): number => Math.floor(random.next() * n)
  for (let round = 0; round < 10; round += 1) {
    const { breakers, call, clock, told } = setUp(round)
    let underWay: ReturnType<typeof call>[] = []
    for (let step = 0; step < 1_000; step += 1) {
      const one = underWay.length > 0 ? underWay[pick(underWay.length)] : undefined
      if (random.next() < 0.5 || !one) underWay.push(call())
      else {
        await one.ends(healths[pick(healths.length)] ?? 'up')
        underWay = underWay.filter((other) => other !== one)
      }
      if (random.next() < 0.2) await clock.advance(random.next() * 200_000)
      if (random.next() < 0.2) breakers.states()
    }
    const states = [
      'closed',
      ...told('breaker-changed')
        .filter(({ scraper }) => scraper === 'alpha')
        .map(({ to }) => to),
    ]
    const steps = states.slice(1).map((to, i) => `${states[i]} ${to}`)
    t.ok(steps.length > 20, `round ${round} makes ${steps.length} transitions`)
    t.ok(steps.every((step) => legal.has(step)))
  }
})

void t.test('The open time is jittered, but within a fifth, for any policy', async (t) => {
  const policies = fc.record({ openFor: fc.integer({ min: 1_000, max: 60_000 }), seed: fc.nat() })
  await fc.assert(
    fc.asyncProperty(policies, async ({ openFor, seed }) => {
      const { trip, openLeft } = setUp(seed, { openFor })
      await trip()
      return openLeft() >= 0.8 * openFor - 1 && openLeft() <= 1.2 * openFor + 1
    }),
    { seed: 5, numRuns: 50 },
  )
  t.pass()
})

void t.test('After it has been shut down it refuses, changes no more, and lets what is under way end', async (t) => {
  const { breakers, call, trip, clock, calledTimes, told } = setUp()
  const old = call()
  await trip()
  breakers.close()
  await clock.advance(minute)
  t.match(await call().outcome, { code: 'SHUTTING_DOWN' })
  t.equal(calledTimes(), 6)
  await old.ends('down')
  t.equal(await old.outcome, 'down')
  t.strictSame(breakers.states()[0], { scraper: 'alpha', state: 'closed', openUntil: null })
  t.equal(told('breaker-changed').length, 1)
})

void t.test('The wall clock has no say in it', async (t) => {
  const { trip, clock, state } = setUp()
  await trip()
  clock.stepWall(24 * 60 * minute)
  t.equal(state(), 'open')
  t.equal(clock.now(), epoch)
})

void t.test('Under another policy the circuits are the same, and each call is judged by its own', async (t) => {
  const world = fakeWorld()
  const breakers = createBreakers({ ...world, policy: breakerDefaults, scrapers: ['alpha'] })
  const strict = breakers.under({ ...breakerDefaults, consecutive: 2, openFor: 1_000 })
  const fail = (some: Breakers) =>
    some.run(
      'alpha',
      async () => 'down',
      () => 'down',
    )
  await fail(breakers)
  await fail(breakers)
  t.notOk(breakers.isOpen('alpha'), 'the old calls may fail five times')
  await fail(strict)
  t.ok(breakers.isOpen('alpha'), 'three in a row are too many for the new ones')
  await t.rejects(fail(breakers), { code: 'CIRCUIT_OPEN' })
  t.strictSame(breakers.states(), strict.states())
})

import t from 'tap'
import { ProxyError } from '../../src/errors.ts'
import type { Landing, RetryPolicy } from '../../src/model.ts'
import type { Waiter, Flight } from '../../src/flights.ts'
import { createFlights } from '../../src/resilience/coalesce.ts'
import { fakeWorld } from '../support/world.ts'
import { answered, failed, retryDefaults } from '../support/verdicts.ts'

const hour = 3_600_000
const landed: Landing = { verdict: answered(), attempts: [], stoppedBy: null, chargedCredits: 3, entry: null }
const halfway: Landing = { ...landed, verdict: failed('serverError'), stoppedBy: 'deadline', chargedCredits: 0 }

/** A flight that lands when the test says so. */
function aFlight() {
  const flown = {
    times: 0,
    flight: null as Flight | null,
    land: (_landing: Landing) => {},
    fail: (_error: unknown) => {},
  }
  function fly(flight: Flight): Promise<Landing> {
    flown.times += 1
    flown.flight = flight
    return new Promise((resolve, reject) => Object.assign(flown, { land: resolve, fail: reject }))
  }
  return Object.assign(flown, { fly })
}

const team = { name: 'team', weight: 1, priority: 'interactive' } as const

function anAsker(
  deadlineAt: number,
  askedAt: number,
  policy: RetryPolicy,
): Waiter & { hangUp: () => void; readonly listeners: number } {
  const listeners = new Set<() => void>()
  return {
    scraper: 'alpha',
    deadlineAt,
    askedAt,
    policy,
    client: team,
    hasFallback: false,
    onGone(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    hangUp: () => [...listeners].forEach((listener) => listener()),
    get listeners() {
      return listeners.size
    },
  }
}

function setUp(maxWaiters?: number) {
  const world = fakeWorld()
  const flights = createFlights({ ...world, ...(maxWaiters === undefined ? {} : { maxWaiters }) })
  const inMs = (ms: number, policy = retryDefaults) => anAsker(world.clock.now() + ms, world.clock.now(), policy)
  return { ...world, flights, inMs, flown: aFlight() }
}

const codeOf = (error: unknown): string | null => (error instanceof ProxyError ? error.code : null)

void t.test('Fifty ask the same at once: one flight, one landing for all', async (t) => {
  const { flights, flown, inMs, clock } = setUp()
  const waiters = Array.from({ length: 50 }, () => inMs(hour))
  const joined = waiters.map((waiter) => flights.join('key', waiter, flown.fly))
  t.equal(flown.times, 1)
  t.equal(flights.size, 1)
  t.strictSame(
    joined.map(({ role }) => role),
    ['leader', ...Array.from({ length: 49 }, () => 'joined')],
  )
  flown.flight?.onAbandoned(() => t.fail('nobody has left'))
  flown.land(landed)
  for (const { landing } of joined) t.equal(await landing, landed)
  t.equal(flights.size, 0)
  t.equal(clock.timers, 0)
  t.equal(
    waiters.reduce((sum, { listeners }) => sum + listeners, 0),
    0,
    'nobody is listened to any more',
  )
})

void t.test('A flight may take as long, and try as often, as the most generous client that still waits', async (t) => {
  const { flights, flown, inMs, clock } = setUp()
  const startedAt = clock.now()
  const brief = { ...retryDefaults, deadline: 60_000 }
  flights.join('key', inMs(5_000, brief), flown.fly)
  const { flight } = flown
  t.equal(flight?.patienceUntil(), startedAt + 5_000)
  t.equal(flight?.endsAt(), startedAt + 60_000, 'patience ends a wait, not the flight')
  t.strictSame([...(flight?.policies() ?? [])], [brief])
  await clock.advance(1_000)
  const patient = inMs(hour)
  flights.join('key', patient, flown.fly)
  flights.join('key', inMs(hour, brief), flown.fly)
  t.equal(flight?.endsAt(), startedAt + 601_000)
  t.strictSame([...(flight?.policies() ?? [])], [brief, retryDefaults])
  patient.hangUp()
  t.equal(flight?.endsAt(), startedAt + 61_000)
  t.strictSame([...(flight?.policies() ?? [])], [brief])
  flown.land(landed)
})

void t.test('Different keys, and none, fly on their own', async (t) => {
  const { flights, flown, inMs } = setUp()
  const roles = ['one', 'two', null, null].map((key) => flights.join(key, inMs(hour), flown.fly).role)
  t.strictSame(roles, ['leader', 'leader', 'leader', 'leader'])
  t.equal(flights.size, 4)
})

void t.test('The leader hangs up; the others still get their answer', async (t) => {
  const { flights, flown, inMs } = setUp()
  const leader = inMs(hour)
  const first = flights.join('key', leader, flown.fly)
  const second = flights.join('key', inMs(hour), flown.fly)
  leader.hangUp()
  t.equal(await first.landing, null)
  flown.land(landed)
  t.equal(await second.landing, landed)
})

void t.test('S8: however many of them leave, the rest are served', async (t) => {
  const { flights, flown, inMs, clock } = setUp()
  const waiters = Array.from({ length: 40 }, () => inMs(hour))
  const joined = waiters.map((waiter) => flights.join('key', waiter, flown.fly))
  waiters.forEach((waiter, i) => i % 3 === 0 && waiter.hangUp())
  flown.land(landed)
  const landings = await Promise.all(joined.map(({ landing }) => landing))
  landings.forEach((landing, i) => t.equal(landing, i % 3 === 0 ? null : landed))
  t.equal(clock.timers, 0)
})

void t.test('All leave: the flight hears of it once, flies on, and whoever asks again boards it', async (t) => {
  const { flights, flown, inMs, clock } = setUp()
  const waiter = inMs(hour)
  const { landing } = flights.join('key', waiter, flown.fly)
  let abandoned = 0
  flown.flight?.onAbandoned(() => (abandoned += 1))
  const stopListening = flown.flight?.onAbandoned(() => t.fail('it stopped listening'))
  stopListening?.()
  t.equal(flown.flight?.patienceUntil(), waiter.deadlineAt)
  waiter.hangUp()
  waiter.hangUp()
  t.equal(await landing, null)
  t.equal(abandoned, 1)
  t.equal(flown.flight?.patienceUntil(), 0)
  t.equal(flights.size, 1)

  await clock.advance(1_000)
  const late = inMs(hour)
  const boarded = flights.join('key', late, flown.fly)
  t.equal(boarded.role, 'joined')
  t.equal(flown.flight?.patienceUntil(), late.deadlineAt, 'its patience is now that of the late one')
  flown.land(landed)
  t.equal(await boarded.landing, landed)
  t.equal(flown.times, 1)
})

void t.test('An orphan lands with nobody there, and leaves nothing behind', async (t) => {
  const { flights, flown, inMs, clock, events } = setUp()
  const waiter = inMs(hour)
  flights.join('key', waiter, flown.fly)
  waiter.hangUp()
  flown.land(landed)
  await clock.settle()
  t.equal(flights.size, 0)
  t.equal(clock.timers, 0)
  t.equal(flights.join('key', inMs(hour), flown.fly).role, 'leader', 'the next question is a new flight')
  t.strictSame(events, [])
})

void t.test('Patience is that of the most patient who is still there', async (t) => {
  const { flights, flown, inMs } = setUp()
  const [brief, patient] = [inMs(1_000), inMs(hour)]
  void flights.join('key', brief, flown.fly)
  t.equal(flown.flight?.patienceUntil(), brief.deadlineAt)
  void flights.join('key', patient, flown.fly)
  t.equal(flown.flight?.patienceUntil(), patient.deadlineAt)
  patient.hangUp()
  t.equal(flown.flight?.patienceUntil(), brief.deadlineAt)
})

void t.test('Whose time is up gets the last real answer, or DEADLINE_EXCEEDED where there is none', async (t) => {
  const { flights, flown, inMs, clock } = setUp()
  const first = flights.join('key', inMs(1_000), flown.fly)
  const second = flights.join('key', inMs(2_000), flown.fly)
  const third = flights.join('key', inMs(hour), flown.fly)
  const refused = first.landing.catch(codeOf)
  await clock.advance(1_000)
  t.equal(await refused, 'DEADLINE_EXCEEDED')

  flown.flight?.report(halfway)
  await clock.advance(1_000)
  t.equal(await second.landing, halfway)
  flown.land(landed)
  t.equal(await third.landing, landed)
  t.equal(clock.timers, 0)
})

void t.test('A flight that throws fails for everybody, and never as an unhandled rejection', async (t) => {
  const { flights, flown, inMs, clock, events } = setUp()
  const joined = [1, 2, 3].map(() => flights.join('key', inMs(hour), flown.fly))
  flown.fail(new ProxyError('CIRCUIT_OPEN', 'open'))
  await clock.settle()
  for (const { landing } of joined) t.equal(await landing.catch(codeOf), 'CIRCUIT_OPEN')
  t.equal(flights.size, 0)
  t.strictSame(events, [])

  const sync = flights.join('key', inMs(hour), () => {
    throw new TypeError('a bug before the first await')
  })
  await t.rejects(sync.landing, TypeError)
  t.equal(clock.timers, 0)
})

void t.test('A bug in a flight that nobody waits for is told to the log', async (t) => {
  const { flights, flown, inMs, clock, told } = setUp()
  const waiter = inMs(hour)
  flights.join('key', waiter, flown.fly)
  waiter.hangUp()
  const bug = new TypeError('a bug')
  flown.fail(bug)
  await clock.settle()
  t.strictSame(told('broke'), [{ kind: 'broke', where: 'flight', error: bug }])
})

void t.test('Who is gone before they board gets nothing and holds nothing', async (t) => {
  const { flights, flown, clock } = setUp()
  let stopped = 0
  const gone: Waiter = {
    scraper: 'alpha',
    deadlineAt: clock.now() + hour,
    askedAt: clock.now(),
    policy: retryDefaults,
    client: team,
    hasFallback: false,
    onGone(listener) {
      listener()
      return () => void (stopped += 1)
    },
  }
  const { landing } = flights.join('key', gone, flown.fly)
  t.equal(await landing, null)
  t.equal(flown.flight?.patienceUntil(), 0)
  t.equal(stopped, 1)
  t.equal(clock.timers, 0)
})

void t.test('Only so many wait for one flight', async (t) => {
  const { flights, flown, inMs } = setUp(2)
  flights.join('key', inMs(hour), flown.fly)
  flights.join('key', inMs(hour), flown.fly)
  t.throws(() => flights.join('key', inMs(hour), flown.fly), { code: 'OVERLOADED', status: 503 })
  t.equal(flights.join('other', inMs(hour), flown.fly).role, 'leader')
})

void t.test('Grounded, everybody who waits is told, nobody boards any more, and the flights go on', async (t) => {
  const { flights, flown, inMs, clock } = setUp()
  const first = flights.join('key', inMs(hour), flown.fly)
  const second = flights.join('key', inMs(hour), flown.fly)
  const told = new ProxyError('SHUTTING_DOWN', 'We close.')
  flights.ground(told)
  await t.rejects(first.landing, told)
  await t.rejects(second.landing, told)
  t.throws(() => flights.join('key', inMs(hour), flown.fly), told)
  t.throws(() => flights.join('other', inMs(hour), flown.fly), told)
  t.equal(flights.size, 1)
  t.equal(flown.flight?.patienceUntil(), 0, 'nobody waits')
  flown.land(landed)
  await flights.idle()
  t.equal(clock.timers, 0)
})

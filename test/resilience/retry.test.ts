/** Retry, backoff and retry budget: the class table and the invariants R1 to R8, R11, R12. Long, because each invariant is one sentence here. */
import fc from 'fast-check'
import t from 'tap'
import { ProxyError, type Code } from '../../src/errors.ts'
import { type FailureClass, failureClasses } from '../../src/failures.ts'
import type { Call, Landing, RetryPolicy, Verdict } from '../../src/model.ts'
import type { Attempted, Turn } from '../../src/fetch-parts.ts'
import type { Flight } from '../../src/flights.ts'
import { backoffMs } from '../../src/resilience/backoff.ts'
import { createRetryBudget } from '../../src/resilience/retry-budget.ts'
import { createRetry } from '../../src/resilience/retry.ts'
import { mostGenerous } from '../../src/resilience/retry-policy.ts'
import { epoch, fakeClock, fakeWorld, seededRandom } from '../support/world.ts'
import { aCall, answered, attempted, budgetDefaults, failed, reply, retryDefaults } from '../support/verdicts.ts'

/** What the fake upstream says, attempt by attempt; the last one for ever. `lasts` = how long an attempt takes. */
interface Weather {
  readonly says: readonly (Verdict | Error | Attempted)[]
  readonly lasts?: number
  readonly call?: Call
  readonly policy?: RetryPolicy
  readonly patienceMs?: number
  readonly isDraining?: () => boolean
}

function isAttempted(said: Verdict | Attempted): said is Attempted {
  return 'verdict' in said
}

/** Another question each time. */
let questions = 0
const someone = () => ({ client: 'tests', question: `question ${(questions += 1)}` })

function setUp(seed = 1) {
  const world = fakeWorld(seed)
  const { clock } = world
  const budget = createRetryBudget({ ...budgetDefaults, clock, isWell: () => false })

  function fly({ says, lasts = 0, call = aCall(), policy = retryDefaults, patienceMs = 600_000, ...rest }: Weather) {
    const retry = createRetry({ ...world, budget, ...rest })
    const listeners = new Set<() => void>()
    const state = {
      patienceUntil: clock.now() + patienceMs,
      endsAt: clock.now() + policy.deadline,
      policies: new Set([policy]),
      reports: [] as (Landing | null)[],
    }
    const turns: (Omit<Turn, 'leftMs' | 'startableMs'> & { at: number; leftMs: number; startableMs: number })[] = []
    const flight: Flight = {
      id: 1,
      leaderWaits: () => true,
      mostUrgent: () => null,
      onJoined: () => () => {},
      patienceUntil: () => state.patienceUntil,
      endsAt: () => state.endsAt,
      policies: () => state.policies,
      made: { attempts: 0, credits: 0 },
      onAbandoned(listener) {
        listeners.add(listener)
        return () => void listeners.delete(listener)
      },
      report: (progress) => void state.reports.push(progress),
      held() {},
    }
    async function attempt(turn: Turn): Promise<Attempted | null> {
      // As a closed circuit does it.
      if (turn.isOverBudget) return null
      // What is left of the time now: it is asked anew each time.
      turns.push({ ...turn, leftMs: turn.leftMs(), startableMs: turn.startableMs(), at: clock.now() })
      const said = says[Math.min(turns.length, says.length) - 1]
      if (said === undefined) throw new Error('The weather says nothing.')
      if (said instanceof Error) throw said
      if (lasts > 0) await new Promise<void>((resolve) => clock.after(lasts, resolve))
      return isAttempted(said) ? said : attempted(said, { number: turn.number, waitedMs: turn.waitedMs })
    }
    const landing = retry.run(call, someone(), flight, attempt)
    landing.catch(() => {})
    function abandon(): void {
      state.patienceUntil = 0
      state.policies = new Set()
      for (const listener of listeners) listener()
    }
    return { landing, turns, state, abandon, listeners }
  }

  return { ...world, budget, fly }
}

const codeOf = (error: unknown): string | null => (error instanceof ProxyError ? error.code : null)

void t.test('An answer at the first try is simply handed on', async (t) => {
  const { fly, clock, events } = setUp()
  const { landing, turns, listeners } = fly({ says: [answered()] })
  const landed = await clock.finish(landing)
  t.match(landed, { verdict: { kind: 'answered' }, stoppedBy: null, chargedCredits: 3, entry: null })
  t.equal(landed.attempts.length, 1)
  t.match(turns, [{ number: 1, waitedMs: 0, bypassCache: false, leftMs: 600_000 }])
  t.strictSame(events, [])
  t.equal(listeners.size, 0)
})

void t.test('A failure is repeated until it is none; every attempt is accounted for', async (t) => {
  const { fly, clock, told } = setUp()
  const { landing, turns, state } = fly({ says: [failed('serverError'), failed('warmingUp'), answered()] })
  const landed = await clock.finish(landing)
  t.match(landed, { verdict: { kind: 'answered' }, stoppedBy: null, chargedCredits: 3 })
  t.strictSame(
    landed.attempts.map((attempt) => [attempt.number, attempt.class]),
    [
      [1, 'serverError'],
      [2, 'warmingUp'],
      [3, 'ok'],
    ],
  )
  t.strictSame(
    landed.attempts.map(({ waitedMs }) => waitedMs),
    turns.map(({ at }, i) => at - (turns[i - 1]?.at ?? at)),
    'pauses are told as they were',
  )
  t.strictSame(
    told('retried').map((event) => event.class),
    ['serverError', 'warmingUp'],
  )
  t.match(
    state.reports,
    [
      { stoppedBy: 'deadline', attempts: { length: 1 }, verdict: { class: 'serverError' } },
      { stoppedBy: 'deadline', attempts: { length: 2 }, verdict: { class: 'warmingUp' } },
    ],
    'those whose time is up get the last real answer',
  )
})

void t.test('R3, R4: each class has its own number of attempts, and what is the caller’s fault has one', async (t) => {
  const expected: Record<FailureClass, [attempts: number, stoppedBy: string]> = {
    timeout: [2, 'attempts'],
    rateLimited: [4, 'attempts'],
    queueFull: [4, 'attempts'],
    creditsExhausted: [1, 'key'],
    unauthorized: [1, 'key'],
    emptyResult: [2, 'attempts'],
    serverError: [4, 'attempts'],
    warmingUp: [4, 'attempts'],
    gatewayTimeout: [4, 'attempts'],
    unreachable: [4, 'attempts'],
    blocked: [1, 'key'],
    ambiguous: [2, 'attempts'],
  }
  for (const failure of failureClasses) {
    const { fly, clock, told } = setUp()
    const landed = await clock.finish(fly({ says: [failed(failure)] }).landing)
    const [attempts, stoppedBy] = expected[failure]
    t.equal(landed.attempts.length, attempts, failure)
    t.equal(landed.stoppedBy, stoppedBy, failure)
    t.match(landed.verdict, { kind: 'failed', class: failure })
    t.strictSame(
      told('retry-refused').map(({ reason }) => reason),
      [stoppedBy],
    )
  }

  const { fly, clock, events } = setUp()
  const { landing, turns } = fly({ says: [failed('rejected')] })
  t.match(await clock.finish(landing), { stoppedBy: 'final', attempts: { length: 1 } })
  t.equal(turns.length, 1)
  t.strictSame(events, [], 'nothing was refused: there is nothing to repeat')
})

void t.test('R3: whatever mixture of failures there is, there are never more than four attempts', async (t) => {
  const mixtures = fc.array(fc.constantFrom(...failureClasses), { minLength: 6, maxLength: 6 })
  await fc.assert(
    fc.asyncProperty(mixtures, fc.integer({ min: 0, max: 30_000 }), async (mixture, patienceMs) => {
      const { fly, clock } = setUp()
      const until = clock.now() + patienceMs + 1
      const { landing, turns } = fly({
        says: mixture.map((failure) => failed(failure)),
        lasts: 700,
        patienceMs: patienceMs + 1,
      })
      const landed = await clock.finish(landing)
      const isInTime = turns.every(({ at, leftMs }) => at < until && leftMs > 0)
      return landed.attempts.length <= 4 && isInTime && landed.stoppedBy !== null && clock.timers === 0
    }),
    { seed: 3 },
  )
  t.pass()
})

void t.test('R3: no attempt starts at or after the deadline, the first one included', async (t) => {
  const { fly, clock, told } = setUp()
  const late = fly({ says: [answered()], patienceMs: 0 })
  t.equal(await late.landing.catch(codeOf), 'DEADLINE_EXCEEDED')
  t.equal(late.turns.length, 0)

  const { landing, turns } = fly({ says: [failed('serverError')], lasts: 9_900, patienceMs: 10_000 })
  t.match(await clock.finish(landing), { stoppedBy: 'deadline', verdict: { class: 'serverError' } })
  t.equal(turns.length, 1)
  t.match(told('retry-refused'), [{ reason: 'deadline', scraper: 'alpha' }])
})

void t.test(
  'The time of an attempt is what retry.deadline leaves, never less than 10 s; patience does not shorten it',
  async (t) => {
    const { fly, clock } = setUp()
    const policy = { ...retryDefaults, deadline: 30_000 }
    const hasty = fly({ says: [answered()], policy, patienceMs: 2_000 })
    await clock.finish(hasty.landing)
    t.match(hasty.turns, [{ leftMs: 30_000, startableMs: 2_000 }])

    const slow = fly({ says: [failed('timeout'), answered()], policy, lasts: 15_000 })
    await clock.finish(slow.landing)
    t.equal(slow.turns.length, 2)
    t.equal(slow.turns[1]?.leftMs, 15_000 - (slow.turns[1]?.waitedMs ?? 0))

    const tooLate = fly({ says: [failed('timeout'), answered()], policy, lasts: 20_001 })
    t.match(await clock.finish(tooLate.landing), { stoppedBy: 'deadline', attempts: { length: 1 } })

    for (const deadline of [1_000, 10_000, 11_000]) {
      const short = fly({ says: [failed('serverError')], policy: { ...retryDefaults, deadline }, lasts: 1_500 })
      await clock.finish(short.landing)
      t.match(short.turns, [{ leftMs: Math.max(deadline, 10_000) }], `one attempt with a deadline of ${deadline} ms`)
    }
    const queued = fly({ says: [answered()], policy: { ...retryDefaults, deadline: 11_000 } })
    t.equal(queued.turns[0]?.startableMs, 1_100)
  },
)

void t.test('Where several clients wait, the most attempts that one of them allows are made', async (t) => {
  const { fly, clock } = setUp()
  const brief: RetryPolicy = {
    ...retryDefaults,
    attempts: 1,
    classes: { ...retryDefaults.classes, emptyResult: { ...retryDefaults.classes.emptyResult, attempts: 1 } },
  }
  for (const [failure, attempts] of [
    ['serverError', 4],
    ['emptyResult', 2],
  ] as const) {
    const shared = fly({ says: [failed(failure)], policy: brief, lasts: 1_000 })
    await clock.advance(500)
    shared.state.policies = new Set([brief, retryDefaults])
    t.match(await clock.finish(shared.landing), { stoppedBy: 'attempts', attempts: { length: attempts } }, failure)
  }
  const left = fly({ says: [failed('serverError')], policy: retryDefaults, lasts: 1_000 })
  await clock.advance(500)
  left.state.policies = new Set([brief])
  t.match(
    await clock.finish(left.landing),
    { stoppedBy: 'attempts', attempts: { length: 1 } },
    'the patient client left',
  )
  t.equal(mostGenerous(new Set()), null)
  t.equal(mostGenerous(new Set([brief])), brief)
})

void t.test('A pause that outlasts its asker ends in what upstream said', async (t) => {
  const { fly, clock } = setUp()
  const { landing, state, turns } = fly({ says: [failed('serverError', { retryAfterMs: 60_000 })] })
  await clock.advance(1_000)
  // The patient one left, somebody with less time stayed.
  state.patienceUntil = clock.now() + 5_000
  t.match(await clock.finish(landing), { stoppedBy: 'deadline', attempts: { length: 1 } })
  t.equal(turns.length, 1)
})

void t.test('R5: a job is submitted again only where nothing can have been submitted', async (t) => {
  const submit = aCall({ endpoint: 'submit', method: 'POST', key: null })
  const once: FailureClass[] = ['ambiguous']
  const repeated: FailureClass[] = ['unreachable', 'serverError', 'warmingUp', 'queueFull', 'gatewayTimeout', 'timeout']
  for (const failure of [...once, ...repeated]) {
    const { fly, clock } = setUp()
    const { landing, turns } = fly({ says: [failed(failure)], call: submit })
    const landed = await clock.finish(landing)
    t.equal(turns.length > 1, repeated.includes(failure), failure)
    t.equal(landed.stoppedBy, once.includes(failure) ? 'final' : 'attempts', failure)
  }
  const { fly, clock } = setUp()
  const cutOff = failed('serverError', { reply: null, refusal: 'UPSTREAM_INVALID' })
  t.match(await clock.finish(fly({ says: [cutOff], call: submit }).landing), { stoppedBy: 'final' }, 'no status seen')
  const unsure = failed('ambiguous', { reply: reply(200) })
  t.match(await clock.finish(fly({ says: [unsure], call: submit }).landing), { stoppedBy: 'final' }, 'a status seen')
})

void t.test('What was charged, or can only fail again, is not asked again, not even with another key', async (t) => {
  const charge = { state: 'charged', credits: 3 } as const
  for (const verdict of [
    failed('ambiguous', { charge }),
    failed('serverError', { charge }),
    failed('ambiguous', { repeatable: 'never' }),
  ]) {
    const { fly, clock } = setUp()
    t.match(await clock.finish(fly({ says: [verdict] }).landing), { stoppedBy: 'final', attempts: { length: 1 } })
  }
  const { fly, clock } = setUp()
  const limited = attempted(failed('rateLimited', { charge }), { keyName: 'a', otherKeyReady: true })
  t.match(await clock.finish(fly({ says: [limited] }).landing), { stoppedBy: 'final', attempts: { length: 1 } })
})

void t.test('What may be repeated once is repeated once, whatever its class and other failures', async (t) => {
  const once = (name: FailureClass) => failed(name, { repeatable: 'once' })
  const { fly, clock } = setUp()
  const same = fly({ says: [once('serverError'), once('serverError'), answered()] })
  t.match(await clock.finish(same.landing), { stoppedBy: 'final', attempts: { length: 2 } })
  const mixed = fly({ says: [once('serverError'), failed('warmingUp'), once('emptyResult'), answered()] })
  t.match(await clock.finish(mixed.landing), { stoppedBy: 'final', attempts: { length: 3 } })
  const good = fly({ says: [once('serverError'), failed('warmingUp'), failed('warmingUp'), answered()] })
  t.match(await clock.finish(good.landing), { verdict: { kind: 'answered' }, attempts: { length: 4 } })
})

void t.test('After a timeout the next attempt bypasses upstream’s cache, and only that one', async (t) => {
  const { fly, clock } = setUp()
  const { landing, turns } = fly({ says: [failed('timeout'), failed('serverError'), answered()] })
  await clock.finish(landing)
  t.strictSame(
    turns.map(({ bypassCache }) => bypassCache),
    [false, true, false],
  )
})

void t.test('A spent key is replaced at once, free of charge, and as often as there are keys', async (t) => {
  const { fly, clock, budget } = setUp()
  const spent = (keyName: string, otherKeyReady: boolean) =>
    attempted(failed('creditsExhausted'), { keyName, otherKeyReady })
  const says = [spent('a', true), spent('b', true), spent('c', true), spent('d', true), spent('e', true), answered()]
  const { landing, turns } = fly({ says })
  const landed = await clock.finish(landing)
  t.match(landed.verdict, { kind: 'answered' })
  t.equal(turns.length, 6, 'more than four attempts: none of them said anything about upstream')
  t.strictSame([...(turns[5]?.spentKeys ?? [])], ['a', 'b', 'c', 'd', 'e'])
  t.ok(turns.every(({ waitedMs }) => waitedMs === 0))
  t.equal(budget.tokens('alpha'), 100)

  const lastKey = fly({ says: [spent('a', true), spent('b', false)] })
  t.match(await clock.finish(lastKey.landing), { stoppedBy: 'key', attempts: { length: 2 } })

  const liar = fly({ says: [spent('a', true)] })
  t.match(
    await clock.finish(liar.landing),
    { stoppedBy: 'key', attempts: { length: 2 } },
    'the same key twice: no loop',
  )
})

void t.test('A limited key uses up no attempt while another is free; after a pause it may be used again', async (t) => {
  const { fly, clock, budget } = setUp()
  const limited = (keyName: string, otherKeyReady: boolean) =>
    attempted(failed('rateLimited'), { keyName, otherKeyReady })
  const { landing, turns } = fly({
    says: [limited('a', true), limited('b', false), limited('a', true), limited('b', false), answered()],
  })
  t.match(await clock.finish(landing), { verdict: { kind: 'answered' }, attempts: { length: 5 } })
  t.strictSame(
    turns.map(({ spentKeys }) => [...spentKeys]),
    [[], ['a'], [], ['a'], []],
  )
  t.strictSame(
    turns.map(({ waitedMs }) => waitedMs > 0),
    [false, false, true, false, true],
  )
  t.equal(Math.floor(budget.tokens('alpha')), 95, 'the pauses were paid, and the last one given back; no failover')

  const many = fly({ says: [...['a', 'b', 'c', 'd', 'e', 'f'].map((key) => limited(key, true)), answered()] })
  t.match(await clock.finish(many.landing), { verdict: { kind: 'answered' }, attempts: { length: 7 } })

  const rounds = fly({ says: Array.from({ length: 20 }, (_, i) => limited(i % 2 === 0 ? 'a' : 'b', i % 2 === 0)) })
  t.match(await clock.finish(rounds.landing), { stoppedBy: 'attempts', attempts: { length: 8 } }, 'bounded by keys')
})

void t.test(
  'A call that upstream sent back as one too many uses up no attempt and no token, and pauses longer each time',
  async (t) => {
    const { fly, clock, budget, told } = setUp()
    const tooMany = attempted(failed('queueFull'), { wasTooMany: true })
    const says = [...Array<Attempted>(6).fill(tooMany), failed('serverError'), failed('queueFull'), failed('queueFull')]
    const { landing, turns } = fly({ says: [...says, answered()] })
    t.match(await clock.finish(landing), { verdict: { kind: 'answered' }, stoppedBy: null })
    t.equal(turns.length, 10, 'six that were sent back, and four attempts')
    t.equal(told('retried').length, 9)
    t.equal(Math.floor(budget.tokens('alpha')), 90, 'three repetitions paid for, the last one refunded')
    for (const [index, { waitMs }] of told('retried').slice(0, 6).entries()) t.ok(waitMs <= 1_000 * 2 ** index)
  },
)

void t.test('Whoever allows one attempt gets one, even where the proxy offered too many', async (t) => {
  const { fly, clock } = setUp()
  const says = [attempted(failed('queueFull'), { wasTooMany: true })]
  const policy = { ...retryDefaults, attempts: 1 }
  const { landing, turns } = fly({ says, policy })
  t.match(await clock.finish(landing), { stoppedBy: 'attempts' })
  t.equal(turns.length, 1)
})

void t.test(
  'Calls that are sent back again and again end with the deadline; a Retry-After is waited for',
  async (t) => {
    const { fly, clock } = setUp()
    const said = attempted(failed('rateLimited', { retryAfterMs: 60_000 }), { wasTooMany: true })
    const { landing, turns } = fly({ says: [said], patienceMs: 300_000 })
    t.match(await clock.finish(landing), { verdict: { class: 'rateLimited' }, stoppedBy: 'deadline' })
    t.ok(turns.length > 3 && turns.length < 6)
  },
)

void t.test('What was not paid for is not given back when no place is found for a repetition', async (t) => {
  const { fly, clock, budget } = setUp()
  const says = [
    failed('serverError'),
    attempted(failed('queueFull'), { wasTooMany: true }),
    new ProxyError('OVERLOADED', ''),
  ]
  const { landing } = fly({ says })
  t.match(await clock.finish(landing), { verdict: { class: 'queueFull' }, stoppedBy: 'places' })
  t.equal(Math.floor(budget.tokens('alpha')), 95, 'the one repetition that was made')
})

void t.test('Failing over keeps what the failure before it asked for, and the deadline', async (t) => {
  const { fly, clock } = setUp()
  const spent = attempted(failed('unauthorized'), { keyName: 'a', otherKeyReady: true })
  const { landing, turns } = fly({ says: [failed('timeout'), spent, answered()] })
  await clock.finish(landing)
  t.strictSame(
    turns.map(({ bypassCache }) => bypassCache),
    [false, true, true],
  )
  const late = fly({ says: [spent], lasts: 1_000, patienceMs: 1_000 })
  t.match(await clock.finish(late.landing), { stoppedBy: 'deadline', attempts: { length: 1 } })
})

void t.test('R7: Retry-After is waited for, with a little spread; beyond the deadline we answer now', async (t) => {
  const { fly, clock } = setUp()
  const asked = failed('rateLimited', { retryAfterMs: 20_000 })
  const patient = fly({ says: [asked, answered()] })
  await clock.finish(patient.landing)
  const waited = patient.turns[1]?.waitedMs ?? 0
  t.ok(waited >= 20_000 && waited <= 22_000, `${waited} ms`)

  const startedAt = clock.now()
  const hasty = fly({ says: [asked], patienceMs: 20_000 })
  t.match(await clock.finish(hasty.landing), { stoppedBy: 'deadline', verdict: { retryAfterMs: 20_000 } })
  t.equal(clock.now(), startedAt)
})

void t.test('What upstream said beats why we stopped asking', async (t) => {
  const reasons: Partial<Record<Code, string>> = {
    CIRCUIT_OPEN: 'breaker',
    OVERLOADED: 'places',
    NO_KEY_AVAILABLE: 'key',
    DEADLINE_EXCEEDED: 'deadline',
    SHUTTING_DOWN: 'shutdown',
  }
  for (const [code, reason] of Object.entries(reasons)) {
    const { fly, clock, budget, told } = setUp()
    const refusal = new ProxyError(code as Code, 'no')
    const { landing } = fly({ says: [failed('serverError'), failed('warmingUp'), refusal] })
    const landed = await clock.finish(landing)
    t.match(landed, { stoppedBy: reason, verdict: { class: 'warmingUp' }, attempts: { length: 2 } }, code)
    t.equal(told('retried').length, 1, 'the third attempt was none')
    t.match(told('retry-refused'), [{ reason }])
    t.equal(Math.floor(budget.tokens('alpha')), 95, 'and is not paid for')

    const nothingSaid = fly({ says: [refusal] })
    t.equal(await nothingSaid.landing.catch(codeOf), code, 'a refusal is thrown where upstream has said nothing')
  }
})

void t.test('A bug is not hidden behind an earlier answer', async (t) => {
  const { fly, clock } = setUp()
  const { landing } = fly({ says: [failed('serverError'), new TypeError('a bug')] })
  await t.rejects(clock.finish(landing), TypeError)
})

void t.test('R11: all hang up during a pause: it is cancelled, and nothing more is sent', async (t) => {
  const { fly, clock, told, budget } = setUp()
  const { landing, turns, abandon, listeners } = fly({ says: [failed('serverError', { retryAfterMs: 60_000 })] })
  await clock.advance(1_000)
  t.equal(clock.timers, 1)
  const before = clock.now()
  abandon()
  t.match(await landing, { stoppedBy: 'abandoned', verdict: { class: 'serverError' }, attempts: { length: 1 } })
  t.equal(clock.now(), before, 'at once')
  t.equal(turns.length, 1)
  t.equal(clock.timers, 0)
  t.equal(listeners.size, 0)
  t.match(told('retry-refused'), [{ reason: 'abandoned' }])
  t.equal(budget.tokens('alpha'), 100, 'what was not repeated costs nothing')
  t.strictSame(told('flight-orphaned'), [], 'nothing was under way')
})

void t.test('All hang up during an attempt: it is an orphan, is finished, and is not repeated', async (t) => {
  const { fly, clock, told } = setUp()
  const { landing, abandon, turns } = fly({ says: [failed('serverError')], lasts: 5_000 })
  await clock.advance(1_000)
  abandon()
  t.match(await clock.finish(landing), { stoppedBy: 'abandoned', attempts: { length: 1 } })
  t.equal(turns.length, 1)
  t.strictSame(told('flight-orphaned'), [{ kind: 'flight-orphaned', scraper: 'alpha' }])

  const paid = fly({ says: [answered()], lasts: 5_000 })
  paid.abandon()
  t.match(await clock.finish(paid.landing), { stoppedBy: null, chargedCredits: 3 }, 'a paid answer is kept')
})

void t.test(
  'Somebody boards before the flight has noticed that all had left: the pause goes on to its end',
  async (t) => {
    const { fly, clock } = setUp()
    const { landing, abandon, state, turns } = fly({
      says: [failed('serverError', { retryAfterMs: 60_000 }), answered()],
    })
    await clock.advance(1_000)
    abandon()
    state.patienceUntil = clock.now() + 600_000
    t.match(await clock.finish(landing), { verdict: { kind: 'answered' } })
    t.ok((turns[1]?.waitedMs ?? 0) >= 60_000)
  },
)

void t.test('While shutting down nothing is repeated, but the first attempt is made', async (t) => {
  const { fly, clock } = setUp()
  let isDraining = true
  const refused = fly({ says: [failed('serverError')], isDraining: () => isDraining })
  t.match(await clock.finish(refused.landing), { stoppedBy: 'shutdown', attempts: { length: 1 } })

  isDraining = false
  const cut = fly({ says: [failed('serverError', { retryAfterMs: 5_000 })], isDraining: () => isDraining })
  await clock.advance(1_000)
  isDraining = true
  t.match(await clock.finish(cut.landing), { stoppedBy: 'shutdown', attempts: { length: 1 } })
})

void t.test('What may have been charged is summed, too', async (t) => {
  const { fly, clock } = setUp()
  const landed = await clock.finish(fly({ says: [failed('ambiguous'), answered()] }).landing)
  t.equal(landed.chargedCredits, 6)
  t.match(landed.attempts[0]?.charge, { state: 'unknown', credits: 3 })
})

void t.test('R1: in a total outage a thousand requests make hardly more than a thousand attempts', async (t) => {
  const { fly, clock, told } = setUp()
  const flights = Array.from({ length: 1_000 }, () => fly({ says: [failed('serverError')] }))
  const startedAt = clock.now()
  await clock.finish(Promise.all(flights.map(({ landing }) => landing)))
  const attempts = flights.reduce((sum, { turns }) => sum + turns.length, 0)
  const bound = 1_000 + 100 / 5 + (clock.now() - startedAt) / 12_000
  t.ok(attempts <= bound && attempts <= 1_030, `${attempts} attempts`)
  t.ok(attempts >= 1_020, 'the budget is used, though')
  t.ok(told('retry-refused').some(({ reason }) => reason === 'budget'))
})

void t.test('R2: with a fifth of all attempts failing, 99.84 % of the requests are answered', async (t) => {
  const { fly, clock, random } = setUp(20)
  const n = 20_000
  let answers = 0
  let attempts = 0
  for (let i = 0; i < n; i += 1) {
    const says = Array.from({ length: 4 }, () => (random.next() < 0.2 ? failed('serverError') : answered()))
    const landed = await clock.finish(fly({ says }).landing)
    if (landed.verdict.kind === 'answered') answers += 1
    attempts += landed.attempts.length
  }
  t.ok(Math.abs(answers / n - 0.9984) < 0.0014, `${answers / n} answered`)
  t.ok(Math.abs(attempts / n - 1.248) < 0.02, `${attempts / n} attempts each`)
})

void t.test('R6: pauses are spread evenly from 0 to their bound, which doubles up to a maximum', async (t) => {
  const random = seededRandom(6)
  const backoff = { base: 500, max: 30_000 }
  for (const [repeat, bound] of [
    [1, 500],
    [2, 1_000],
    [3, 2_000],
    [7, 30_000],
    [2_000, 30_000],
  ] as const) {
    const pauses = Array.from({ length: 1_000 }, () => backoffMs(backoff, repeat, null, random.next())).toSorted(
      (a, b) => a - b,
    )
    // Kolmogorov-Smirnov: the greatest distance from the uniform distribution, with 1.95 for one in a thousand.
    const distance = Math.max(...pauses.map((pause, i) => Math.abs(pause / bound - (i + 0.5) / pauses.length)))
    t.ok(distance < 1.95 / Math.sqrt(pauses.length), `repeat ${repeat}: ${distance}`)
    t.ok((pauses[0] ?? -1) >= 0 && (pauses.at(-1) ?? bound) < bound)
  }
})

void t.test('R6: a thousand who fail together do not come back together', async (t) => {
  const random = seededRandom(66)
  const bins = new Map<number, number>()
  for (let i = 0; i < 1_000; i += 1) {
    const bin = Math.floor(backoffMs({ base: 1_000, max: 30_000 }, 1, null, random.next()) / 100)
    bins.set(bin, (bins.get(bin) ?? 0) + 1)
  }
  t.equal(bins.size, 10)
  t.ok(Math.max(...bins.values()) < 300)
})

void t.test('R7: the spread over Retry-After is a tenth of it and at most five seconds', async (t) => {
  const backoff = { base: 500, max: 30_000 }
  t.equal(backoffMs(backoff, 1, 10_000, 0), 10_000)
  t.equal(backoffMs(backoff, 3, 10_000, 0.5), 10_500)
  t.equal(backoffMs(backoff, 1, 600_000, 0.5), 602_500)
  t.equal(backoffMs(backoff, 1, 0, 0.5), 250, 'the jitter stays')
  t.equal(backoffMs(backoff, 7, 1_000, 0.9), 27_000, 'it never shortens a pause')
})

void t.test('R8: the budget is never negative, never above capacity, and refunds once per request', async (t) => {
  const events = fc.constantFrom('pay', 'pay-slow', 'succeeded', 'unused', 'wait', 'new')
  const steps = fc.array(fc.record({ request: fc.nat(5), does: events }), { maxLength: 300 })
  const property = fc.property(steps, (steps) => {
    let now = epoch
    let tokens = 100
    const budget = createRetryBudget({
      ...budgetDefaults,
      clock: { ...fakeClock(), now: () => now },
      isWell: () => false,
    })
    const fresh = () => ({ allowance: budget.open('alpha', someone()), lastCost: 0, isSettled: false })
    const requests = Array.from({ length: 6 }, fresh)
    return steps.every(({ request, does }) => {
      const one = (requests[request] ??= fresh())
      let isPaid = true
      if (does === 'new') requests[request] = fresh()
      else if (does === 'wait') {
        now += 24_000
        tokens = Math.min(100, tokens + 2)
      } else if (does === 'pay' || does === 'pay-slow') {
        const cost = does === 'pay' ? 5 : 10
        const isPayable = !one.isSettled && tokens >= cost
        isPaid = one.allowance.pay(does === 'pay-slow') === isPayable
        if (isPayable) Object.assign(one, { lastCost: cost })
        if (isPayable) tokens -= cost
      } else {
        one.allowance[does]()
        const back = does === 'succeeded' ? one.lastCost || 1 : one.lastCost
        if (!one.isSettled) tokens = Math.min(100, tokens + back)
        one.isSettled = true
      }
      const have = budget.tokens('alpha')
      return isPaid && have === tokens && have >= 0 && have <= 100
    })
  })
  t.doesNotThrow(() => fc.assert(property, { seed: 8, numRuns: 300 }))
})

void t.test('R8: what each event does to the bucket', async (t) => {
  const clock = fakeClock()
  const budget = createRetryBudget({ ...budgetDefaults, clock, isWell: () => false })
  const drain = budget.open('alpha', someone())
  for (let i = 0; i < 10; i += 1) t.equal(drain.pay(true), true)
  t.equal(drain.pay(false), false)
  t.equal(budget.tokens('alpha'), 0)
  t.equal(budget.tokens('beta'), 100, 'a bucket per scraper')

  await clock.advance(12_000)
  t.equal(budget.tokens('alpha'), 1, 'a quiet route may repeat again, later')
  budget.open('alpha', someone()).succeeded()
  t.equal(budget.tokens('alpha'), 2, 'one token per answer at the first try')
  drain.succeeded()
  drain.succeeded()
  t.equal(budget.tokens('alpha'), 12, 'the last cost comes back, once')
  t.equal(drain.pay(false), false, 'a settled request repeats nothing')

  const spared = budget.open('alpha', someone())
  spared.pay(false)
  t.equal(budget.tokens('alpha'), 7)
  spared.unused()
  spared.unused()
  t.equal(budget.tokens('alpha'), 12)
})

void t.test('A question that always fails takes a part of the bucket at most, in all its flights', async (t) => {
  const clock = fakeClock()
  const budget = createRetryBudget({ ...budgetDefaults, clock, isWell: () => false })
  const bad = { client: 'flood', question: 'bad' }
  let paid = 0
  for (let flight = 0; flight < 100; flight += 1) {
    const allowance = budget.open('alpha', bad)
    for (let retry = 0; retry < 3; retry += 1) paid += allowance.pay(false) ? 1 : 0
  }
  t.ok(paid >= 5 && paid <= 9, `${paid} of 300 were paid for`)
  t.ok(budget.tokens('alpha') >= 50)
  t.equal(budget.open('alpha', someone()).pay(true), true)
  await clock.advance(10 * 60_000)
  t.equal(budget.open('alpha', bad).pay(false), true, 'in time it may again')
})

void t.test('One client among several leaves half of the bucket to the others; a single one does not', async (t) => {
  const drained = (others: boolean): number => {
    const budget = createRetryBudget({ ...budgetDefaults, clock: fakeClock(), isWell: () => false })
    if (others) budget.open('alpha', { client: 'other', question: 'x' })
    for (let n = 0; n < 100; n += 1) budget.open('alpha', { client: 'flood', question: `bad ${n}` }).pay(false)
    return budget.tokens('alpha')
  }
  t.equal(drained(true), 50)
  t.equal(drained(false), 0)
})

void t.test('While most calls are well the budget forbids nothing, and takes nothing', async (t) => {
  const budget = createRetryBudget({ ...budgetDefaults, clock: fakeClock(), isWell: () => true })
  for (let n = 0; n < 100; n += 1) t.equal(budget.open('alpha', someone()).pay(true), true)
  t.equal(budget.tokens('alpha'), 100)
})

void t.test('Slow failures and those that may have been charged cost more to repeat', async (t) => {
  const costs: Partial<Record<FailureClass, number>> = {
    timeout: 10,
    gatewayTimeout: 10,
    ambiguous: 10,
    serverError: 5,
  }
  for (const [failure, cost] of Object.entries(costs)) {
    const { fly, clock, budget } = setUp()
    const policy = { ...retryDefaults, attempts: 2 }
    await clock.finish(fly({ says: [failed(failure as FailureClass)], policy }).landing)
    t.equal(Math.round(budget.tokens('alpha')), 100 - cost, failure)
  }
})

void t.test('R12: the same seed makes the same trace', async (t) => {
  async function trace(seed: number): Promise<string> {
    const { fly, clock, events, random } = setUp(seed)
    const flights = Array.from({ length: 50 }, () =>
      fly({
        says: Array.from({ length: 4 }, () =>
          failed(failureClasses[Math.floor(random.next() * failureClasses.length)] ?? 'serverError'),
        ),
        lasts: 1_000,
      }),
    )
    await clock.finish(Promise.all(flights.map(({ landing }) => landing)))
    return JSON.stringify([events, flights.map(({ turns }) => turns.map(({ at }) => at))])
  }
  t.equal(await trace(12), await trace(12))
  t.not(await trace(12), await trace(13))
})

void t.test('R8: a long outage of a quiet route leaves one repetition a minute', async (t) => {
  const { fly, clock } = setUp()
  let attempts = 0
  for (let i = 0; i < 200; i += 1) {
    const { landing, turns } = fly({ says: [failed('serverError')] })
    await clock.finish(landing)
    await clock.advance(60_000)
    if (i >= 100) attempts += turns.length
  }
  t.ok(attempts >= 195 && attempts <= 210, `${attempts} attempts for 100 requests, one a minute`)
})

void t.test(
  'Under another policy the buckets are the same: what is missing is missing, and what is full is full',
  async (t) => {
    const { clock } = fakeWorld()
    const small = createRetryBudget({ capacity: 10, cost: 5, costSlow: 5, refill: 1_000, clock, isWell: () => false })
    const large = small.under({ capacity: 100, cost: 20, costSlow: 20, refill: 1_000 })
    t.equal(large.tokens('alpha'), 100)
    const old = small.open('alpha', someone())
    t.ok(old.pay(false))
    t.equal(large.tokens('alpha'), 95)
    t.ok(large.open('alpha', someone()).pay(false))
    t.equal(large.tokens('alpha'), 75)
    t.notOk(small.open('alpha', someone()).pay(false), 'more is missing than fits in')
    t.equal(small.tokens('alpha'), 0)
    await clock.advance(5_000)
    t.equal(small.tokens('alpha'), 5, 'it fills up from there')
    old.succeeded()
    t.equal(small.tokens('alpha'), 10)
    t.equal(large.tokens('alpha'), 100)
  },
)

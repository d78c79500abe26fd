import fc from 'fast-check'
import t, { type Test } from 'tap'
import { ProxyError } from '../../src/errors.ts'
import { isOpen, isTriable, judged, type KeyCondition, ready, refreshed, used } from '../../src/keys/key-state.ts'
import { createKeys } from '../../src/keys/pool.ts'
import { Secret } from '../../src/keys/secret.ts'
import type { FailureClass } from '../../src/failures.ts'
import type { Call, Verdict } from '../../src/model.ts'
import type { KeyLease, Keys, Turn } from '../../src/fetch-parts.ts'
import { epoch, fakeWorld } from '../support/world.ts'
import { aCall, answered, failed, keyRestDefaults } from '../support/verdicts.ts'

const minute = 60_000

function turn(spentKeys: readonly string[] = [], startableMs = 600_000): Turn {
  return {
    number: 1,
    waitedMs: 0,
    bypassCache: false,
    isLast: false,
    isOverBudget: false,
    leftMs: () => 600_000,
    startableMs: () => startableMs,
    spentKeys: new Set(spentKeys),
  }
}

function someKeys(weights: Record<string, number>) {
  const world = fakeWorld()
  const keys = createKeys({
    ...world,
    keys: Object.entries(weights).map(([name, weight]) => ({ name, weight, secret: new Secret(`secret-of-${name}`) })),
    keyRest: keyRestDefaults,
  })
  return { ...world, keys }
}

/** NO_KEY_AVAILABLE, to come back after so long, with a tenth of spread on top. */
async function refusedFor(t: Test, work: Promise<unknown>, ms: number, leastMs = ms): Promise<void> {
  const { code, retryAfterMs } = await refusalOf(work)
  t.equal(code, 'NO_KEY_AVAILABLE')
  t.ok(retryAfterMs !== null && retryAfterMs >= leastMs && retryAfterMs <= 1.1 * ms, `${retryAfterMs} ms`)
}

async function refusalOf(work: Promise<unknown>): Promise<ProxyError> {
  const error = await work.then(
    () => null,
    (error: unknown) => error,
  )
  if (error instanceof ProxyError) return error
  throw new Error('Nothing was refused.')
}

async function useOnce(keys: Keys, verdict: Verdict): Promise<string> {
  const lease = await keys.lease(aCall(), turn())
  lease.report(verdict)
  return lease.name
}

void t.test('Keys are lent by their weight, smoothly', async (t) => {
  const { keys } = someKeys({ heavy: 5, mid: 1, light: 1 })
  const names: string[] = []
  for (let i = 0; i < 14; i += 1) names.push(await useOnce(keys, answered()))
  const round = ['heavy', 'heavy', 'mid', 'heavy', 'light', 'heavy', 'heavy']
  t.strictSame(names, [...round, ...round])
})

void t.test('A lease carries the secret; asking for the state of a job takes none', async (t) => {
  const { keys, events } = someKeys({ main: 1 })
  t.match(await keys.lease(aCall(), turn()), { name: 'main', secret: 'secret-of-main' })
  const free = await keys.lease(aCall({ endpoint: 'status' }), turn(['main']))
  t.match(free, { name: 'none', secret: null })
  free.report(failed('unauthorized'))
  t.strictSame(keys.states(), [{ name: 'main', state: 'ready', problem: null, untilAt: null, tryAt: null }])
  t.strictSame(events, [])
})

void t.test('A key that this flight has used up is not lent to it again', async (t) => {
  const { keys } = someKeys({ one: 1, two: 1 })
  t.match(await keys.lease(aCall(), turn(['one'])), { name: 'two' })
  t.equal(keys.hasOther(new Set(['one'])), true)
  t.equal(keys.hasOther(new Set(['one', 'two'])), false)
  await refusedFor(t, keys.lease(aCall(), turn(['one', 'two'])), 1_000)
})

void t.test('No key is lent to a call that nobody waits for any more', async (t) => {
  const { keys, clock } = someKeys({ one: 1 })
  t.match(await refusalOf(keys.lease(aCall(), turn([], 0))), { code: 'DEADLINE_EXCEEDED' })
  t.match(await refusalOf(keys.lease(aCall(), turn([], -clock.now()))), { code: 'DEADLINE_EXCEEDED' }, 'all have left')
  t.match(await keys.lease(aCall(), turn([], 1)), { name: 'one' })
})

void t.test('A spent key rests, the others carry on; its return is a trial of one request', async (t) => {
  const { keys, clock, told } = someKeys({ one: 1, two: 1 })
  const lease = await keys.lease(aCall(), turn())
  lease.report(failed('creditsExhausted'))
  const until = epoch + 15 * minute
  t.match(keys.states()[0], { name: 'one', state: 'spent', untilAt: until, tryAt: until })
  for (let i = 0; i < 5; i += 1) t.equal(await useOnce(keys, answered()), 'two')
  await clock.advance(minute)
  for (let i = 0; i < 5; i += 1) t.equal(await useOnce(keys, answered()), 'two', 'not tried while another one is ready')

  await clock.advance(14 * minute)
  const trial = await keys.lease(aCall(), turn(['two']))
  t.equal(trial.name, 'one')
  t.match(keys.states()[0], { name: 'one', state: 'spent', untilAt: null }, 'not trusted yet')
  t.equal(keys.hasOther(new Set(['two'])), false, 'one request at a time')
  trial.report(failed('creditsExhausted'))
  t.match(keys.states()[0], { name: 'one', state: 'spent', untilAt: until + 15 * minute }, 'rests again')

  await clock.advance(15 * minute)
  const second = await keys.lease(aCall(), turn(['two']))
  second.report(answered())
  t.match(keys.states()[0], { name: 'one', state: 'ready', problem: null, untilAt: null })
  t.strictSame(
    told('key-changed').map(({ key, to, because, untilAt }) => [key, to, because, untilAt]),
    [
      ['one', 'spent', 'creditsExhausted', until],
      ['one', 'spent', 'creditsExhausted', until + 15 * minute],
      ['one', 'ready', null, null],
    ],
  )
})

void t.test('While no key is ready, each is tried every 30 s, and its rest is not reported again', async (t) => {
  const { keys, clock, told } = someKeys({ one: 1, two: 1 })
  await useOnce(keys, failed('creditsExhausted'))
  await useOnce(keys, failed('unauthorized'))
  const tried: Record<string, number[]> = { one: [0], two: [0] }
  for (let second = 0; second < 120; second += 1) {
    for (let lease = await tryOne(); lease; lease = await tryOne()) {
      tried[lease.name]?.push(second)
      lease.report(failed(lease.name === 'one' ? 'creditsExhausted' : 'unauthorized'))
    }
    await clock.advance(1_000)
  }
  for (const times of Object.values(tried)) {
    const gaps = times.slice(1).map((at, index) => at - (times[index] ?? 0))
    t.equal(gaps.length, 4)
    t.ok(
      gaps.every((gap) => gap >= 27 && gap <= 31),
      `${gaps.join()} s`,
    )
  }
  t.equal(told('key-changed').length, 2)
  t.match(keys.states(), [{ untilAt: epoch + 15 * minute }, { untilAt: epoch + 5 * minute }])

  function tryOne(): Promise<KeyLease | null> {
    return keys.lease(aCall(), turn()).catch((error: unknown) => {
      t.match(error, { code: 'NO_KEY_AVAILABLE' })
      return null
    })
  }
})

void t.test('A key gets credits: the next trial is answered, and all use it again', async (t) => {
  const { keys, clock } = someKeys({ main: 1 })
  await useOnce(keys, failed('creditsExhausted'))
  await clock.advance(31_000)
  const trial = await keys.lease(aCall(), turn())
  const waiting = Array.from({ length: 10 }, () => keys.lease(aCall(), turn()))
  await clock.advance(2_000)
  trial.report(answered())
  for (const lease of waiting) t.match(await lease, { name: 'main' })
  t.match(keys.states(), [{ state: 'ready' }])
  t.equal(clock.timers, 0)
})

void t.test('A trial that is not refused within 5 s lets the others use the key; a refusal ends that', async (t) => {
  const { keys, clock } = someKeys({ main: 1 })
  await useOnce(keys, failed('creditsExhausted'))
  await clock.advance(31_000)
  const trial = await keys.lease(aCall(), turn())
  let used = 0
  const waiting = Array.from({ length: 20 }, () => keys.lease(aCall(), turn()).then((lease) => ((used += 1), lease)))
  await clock.advance(4_999)
  t.equal(used, 0)
  await clock.advance(100)
  t.ok(used > 0 && used < 20, 'not all at once')
  await clock.advance(401)
  t.equal(used, 20)
  t.match(keys.states(), [{ state: 'spent' }], 'it is reported as ready when it has answered')
  const [first, second] = await Promise.all(waiting)
  first?.report(failed('serverError'))
  t.match(await keys.lease(aCall(), turn()), { name: 'main' }, 'a failure that is not of the key changes nothing')
  second?.report(failed('creditsExhausted'))
  t.match(await refusalOf(keys.lease(aCall(), turn())), { code: 'NO_KEY_AVAILABLE' })
  trial.report(answered())
  t.match(keys.states(), [{ state: 'ready' }])
})

void t.test('A refused trial: those who waited for it are told at once', async (t) => {
  const { keys, clock } = someKeys({ main: 1 })
  await useOnce(keys, failed('creditsExhausted'))
  await clock.advance(31_000)
  const trial = await keys.lease(aCall(), turn())
  const waiting = refusalOf(keys.lease(aCall(), turn()))
  const impatient = await refusalOf(keys.lease(aCall(), turn([], 4_000)))
  t.match(impatient, { code: 'NO_KEY_AVAILABLE' }, 'there is no time to wait for the trial')
  trial.report(failed('creditsExhausted'))
  t.equal((await waiting).code, 'NO_KEY_AVAILABLE')
  await refusedFor(t, keys.lease(aCall(), turn()), 30_000, 27_000)
  t.equal(clock.timers, 0)
})

void t.test('An operator has a key tried: the next request does, whatever its rest', async (t) => {
  const { keys, clock, told } = someKeys({ main: 1, spare: 1 })
  t.equal(keys.tryNow('nobody'), null)
  t.match(keys.tryNow('main'), { name: 'main', state: 'ready', problem: null })
  await useOnce(keys, failed('creditsExhausted'))
  t.match(keys.tryNow('main'), { name: 'main', state: 'spent', untilAt: null, tryAt: null })
  const names = [await useOnce(keys, answered()), await useOnce(keys, answered())]
  t.strictSame(names.toSorted(), ['main', 'spare'], 'although another key is ready')
  t.match(keys.states(), [{ state: 'ready' }, { state: 'ready' }])
  t.strictSame(
    told('key-changed').map(({ key, to }) => [key, to]),
    [
      ['main', 'spent'],
      ['main', 'ready'],
    ],
  )

  ;(await keys.lease(aCall(), turn(['spare']))).report(failed('unauthorized'))
  ;(await keys.lease(aCall(), turn(['main']))).report(failed('unauthorized'))
  const sent = await refusalOf(keys.lease(aCall(), turn()))
  t.match(sent, { code: 'NO_KEY_AVAILABLE' })
  keys.tryNow('spare')
  t.match(await keys.lease(aCall(), turn()), { name: 'spare' })
  await clock.settle()
})

void t.test('The refusal says which key is out, why, until when, and what ends it', async (t) => {
  const { keys, clock } = someKeys({ main: 1 })
  await useOnce(keys, failed('creditsExhausted'))
  const said = async () => (await refusalOf(keys.lease(aCall(), turn()))).message
  t.equal(
    await said(),
    'No upstream API key is usable right now: `main` is out of credits until 12:15 UTC. Add credits, then run `POST /keys/main/try`.',
  )
  await clock.advance(11 * 60 * minute + 50 * minute)
  await useOnce(keys, failed('creditsExhausted'))
  t.match(await said(), /until 2026-01-16 00:05 UTC\. Add credits/)

  const several = someKeys({ a: 1, b: 1, c: 1, d: 1, e: 1 })
  for (const failure of ['rateLimited', 'unauthorized', 'blocked', 'creditsExhausted', 'creditsExhausted'] as const)
    await useOnce(several.keys, failed(failure, { retryAfterMs: 50 * minute }))
  t.equal(
    (await refusalOf(several.keys.lease(aCall(), turn()))).message,
    'No upstream API key is usable right now: `d` is out of credits until 12:15 UTC, `e` is out of credits until 12:15 UTC, ' +
      '`b` was refused by upstream (401) until 12:05 UTC, 2 more cannot be used either. Add credits, then run `POST /keys/d/try`.',
  )
  t.match(await refusalOf(several.keys.lease(aCall(), turn(['a', 'b', 'c', 'd', 'e']))), { code: 'NO_KEY_AVAILABLE' })

  const limited = someKeys({ main: 1 })
  await useOnce(limited.keys, failed('rateLimited', { retryAfterMs: 2 * minute }))
  t.match(
    (await refusalOf(limited.keys.lease(aCall(), turn()))).message,
    /: `main` is rate limited until 12:02 UTC\. Retry later\.$/,
  )
})

void t.test('A blocked key rests, and is tried with one request', async (t) => {
  const { keys, clock } = someKeys({ one: 1, two: 1 })
  t.equal(await useOnce(keys, failed('blocked')), 'one')
  t.match(keys.states()[0], { name: 'one', state: 'resting', untilAt: epoch + minute })
  t.equal(await useOnce(keys, answered()), 'two')
  await clock.advance(minute)
  const trial = await keys.lease(aCall(), turn(['two']))
  t.equal(trial.name, 'one')
  t.equal(keys.hasOther(new Set(['two'])), false, 'one request at a time')
})

void t.test('One question that is blocked does not take the last key from all others', async (t) => {
  const { keys } = someKeys({ main: 1 })
  const [odd, other] = [aCall({ promptHash: 'odd' }), aCall({ promptHash: 'other' })]
  const use = async (call: Call, verdict: Verdict) => (await keys.lease(call, turn())).report(verdict)
  for (let i = 0; i < 5; i += 1) await use(odd, failed('blocked'))
  t.match(keys.states(), [{ state: 'ready' }])
  await use(other, answered())
  await use(other, failed('blocked'))
  t.match(keys.states(), [{ state: 'ready' }], 'an answer in between')
  await use(odd, failed('blocked'))
  t.match(keys.states(), [{ state: 'resting', untilAt: epoch + minute }], 'two different ones in a row')
})

void t.test('A trial that says nothing about the key leaves the trial to the next request', async (t) => {
  const { keys, clock } = someKeys({ main: 1 })
  await useOnce(keys, failed('unauthorized'))
  t.match(keys.states(), [{ state: 'resting', untilAt: epoch + 5 * minute }])
  await refusedFor(t, keys.lease(aCall(), turn()), 30_000, 27_000)

  await clock.advance(5 * minute)
  for (const verdict of [failed('serverError'), failed('rejected'), failed('rateLimited')]) {
    const trial = await keys.lease(aCall(), turn())
    t.equal(keys.hasOther(new Set()), false, 'the trial is taken')
    trial.report(verdict)
  }
  t.match(keys.states(), [{ state: 'resting', untilAt: null }])

  await keys.lease(aCall(), turn())
  await clock.advance(minute)
  const next = await keys.lease(aCall(), turn())
  t.equal(next.name, 'main', 'a trial that never reported does not block for ever')
})

void t.test('A request waits for the key that is being tried, not for the one that returns later', async (t) => {
  const { keys, clock } = someKeys({ soon: 1, late: 1 })
  const [one, two] = [await keys.lease(aCall(), turn(['late'])), await keys.lease(aCall(), turn(['soon']))]
  one.report(failed('unauthorized'))
  two.report(failed('creditsExhausted'))
  await clock.advance(31_000)
  const trial = await keys.lease(aCall(), turn(['late']))
  t.equal(trial.name, 'soon')
  const second = await keys.lease(aCall(), turn())
  t.equal(second.name, 'late')
  const waiting = keys.lease(aCall(), turn(['late']))
  trial.report(answered())
  t.match(await waiting, { name: 'soon' })
})

void t.test('A late answer from before the rest shortens nothing', async (t) => {
  const { keys, clock } = someKeys({ main: 1 })
  const early = await keys.lease(aCall(), turn())
  await useOnce(keys, failed('creditsExhausted'))
  early.report(answered())
  t.match(keys.states(), [{ state: 'spent', untilAt: epoch + 15 * minute }])

  await clock.advance(15 * minute)
  const trial = await keys.lease(aCall(), turn())
  early.report(answered())
  t.match(keys.states(), [{ state: 'spent' }], 'only the trial itself decides')
  trial.report(answered())
  t.match(keys.states(), [{ state: 'ready' }])
})

void t.test(
  'A limited key rests as long as upstream asked for, and not at all where it asked for nothing',
  async (t) => {
    const { keys, clock, told } = someKeys({ main: 1 })
    await useOnce(keys, failed('rateLimited'))
    t.match(keys.states(), [{ state: 'ready' }])

    await useOnce(keys, failed('rateLimited', { retryAfterMs: 40_000 }))
    t.match(keys.states(), [{ state: 'resting', untilAt: epoch + 40_000 }])
    await refusedFor(t, keys.lease(aCall(), turn()), 30_000, 27_000)
    await clock.advance(40_000)
    t.match(keys.states(), [{ state: 'ready', untilAt: null }], 'no trial: nothing is wrong with it')
    t.strictSame(
      told('key-changed').map(({ to, because }) => [to, because]),
      [
        ['resting', 'rateLimited'],
        ['ready', null],
      ],
    )
  },
)

void t.test('A limited key that returns within moments is waited for', async (t) => {
  const { keys, clock } = someKeys({ main: 1 })
  await useOnce(keys, failed('rateLimited', { retryAfterMs: 10_000 }))
  const waiting = Array.from({ length: 20 }, () => keys.lease(aCall(), turn()))
  let lent = 0
  for (const lease of waiting) void lease.then(() => (lent += 1))
  await clock.advance(9_999)
  t.equal(lent, 0)
  await clock.advance(200)
  t.ok(lent > 0 && lent < 20, 'not all at once')
  await clock.advance(801)
  t.equal(lent, 20, 'a tenth later, all have it')
  t.equal(clock.timers, 0)
})

void t.test('Nobody waits for a key longer than somebody waits for them', async (t) => {
  const { keys, clock } = someKeys({ main: 1, tired: 1 })
  const other = await keys.lease(aCall(), turn(['main']))
  other.report(failed('creditsExhausted'))
  await useOnce(keys, failed('rateLimited', { retryAfterMs: 10_000 }))
  await refusedFor(t, keys.lease(aCall(), turn([], 9_000)), 10_000)

  let startableMs = 60_000
  const impatient = { ...turn(), startableMs: () => startableMs }
  const waiting = refusalOf(keys.lease(aCall(), impatient))
  startableMs = 0
  t.match(await clock.finish(waiting), { code: 'DEADLINE_EXCEEDED' }, 'all have left meanwhile')
})

void t.test('Rests are only ever extended, and the graver reason holds', async (t) => {
  const { keys, clock } = someKeys({ main: 1, spare: 1 })
  const [first, second, third] = [
    await keys.lease(aCall(), turn(['spare'])),
    await keys.lease(aCall(), turn(['spare'])),
    await keys.lease(aCall(), turn(['spare'])),
  ]
  first.report(failed('creditsExhausted'))
  second.report(failed('unauthorized'))
  t.match(keys.states()[0], { state: 'spent', untilAt: epoch + 15 * minute })
  third.report(failed('rateLimited', { retryAfterMs: 20 * minute }))
  t.match(keys.states()[0], { state: 'spent', untilAt: epoch + 20 * minute })
  await clock.advance(20 * minute)
  t.match(keys.states()[0], { state: 'spent', untilAt: null }, 'and so is the trial')
})

void t.test('Whatever happens to a key, it is used without a trial only when it was not refused', async (t) => {
  const classes: FailureClass[] = ['creditsExhausted', 'unauthorized', 'rateLimited', 'serverError']
  const verdicts = fc.oneof(
    fc.constant<Verdict>(answered()),
    fc
      .tuple(fc.constantFrom(...classes), fc.option(fc.integer({ min: 0, max: 10 ** 7 })))
      .map(([failure, retryAfterMs]) => failed(failure, { retryAfterMs })),
  )
  const step = fc.record({ verdict: verdicts, waitMs: fc.nat(10 ** 5), isUsed: fc.boolean(), isLast: fc.boolean() })
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(fc.array(step, { maxLength: 50 }), (steps) => {
        let condition: KeyCondition = ready
        let now = epoch
        for (const { verdict, waitMs, isUsed, isLast } of steps) {
          now += waitMs
          condition = refreshed(condition, now)
          const mayUse = isOpen(condition, now) || isTriable(condition, isLast, now)
          const isTrial = isUsed && mayUse && condition.kind === 'resting'
          if (isTrial) condition = used(condition, now)
          const next = judged(condition, verdict, { isTrial, isLast, now, chance: () => 0.5, rest: keyRestDefaults })
          const isRefusal = verdict.kind === 'failed' && verdict.class in keyRestDefaults
          if (isRefusal && isOpen(next, now)) return false
          if (condition.kind === 'resting' && next.kind === 'ready' && !(isTrial && verdict.kind === 'answered'))
            return false
          if (condition.kind === 'resting' && next.kind === 'resting' && !isTrial && next.untilAt < condition.untilAt)
            return false
          condition = next
        }
        return true
      }),
      { seed: 9, numRuns: 1_000 },
    ),
  )
})

void t.test('What Retry-After makes the last ready key rest is 5 minutes at most', async (t) => {
  const { keys, clock } = someKeys({ one: 1, two: 1 })
  const hour = failed('rateLimited', { retryAfterMs: 60 * minute })
  await useOnce(keys, hour)
  await useOnce(keys, hour)
  t.match(keys.states(), [{ untilAt: epoch + 60 * minute }, { untilAt: epoch + 5 * minute }])
  await clock.advance(31_000)
  const trial = await keys.lease(aCall(), turn(['one']))
  trial.report(hour)
  t.match(keys.states()[1], { untilAt: epoch + 31_000 + 5 * minute })
})

void t.test('With other settings the rests of its keys are over, and another secret is another key', async (t) => {
  const { keys, clock, told } = someKeys({ dry: 1, gone: 1, new: 1 })
  for (let turn = 0; turn < 3; turn += 1) await useOnce(keys, failed('creditsExhausted'))
  const held = someOf(['dry', 'secret-of-dry'], ['new', 'another-secret'], ['late', 'secret-of-late'])
  const next = keys.under({ keys: held, keyRest: keyRestDefaults })
  t.match(keys.states()[0], { untilAt: epoch + 15 * minute }, 'nothing has changed so far')
  next.inForce()
  t.match(next.states(), [
    { name: 'dry', state: 'spent', untilAt: null, tryAt: null },
    { name: 'new', state: 'ready' },
    { name: 'late', state: 'ready' },
  ])
  const trial = await next.lease(aCall(), turn(['new', 'late']))
  t.match(trial, { name: 'dry' }, 'credits may have been added: one request finds out')
  trial.report(answered())
  t.match(await next.lease(aCall(), turn(['dry', 'late'])), { name: 'new', secret: 'another-secret' })
  await clock.advance(15 * minute)
  const events = told('key-changed').length
  const old = await keys.lease(aCall(), turn(['dry', 'gone']))
  t.match(old, { name: 'new', secret: 'secret-of-new' }, 'a flight that began with the old secret keeps it')
  old.report(failed('creditsExhausted'))
  t.match(next.states()[1], { name: 'new', state: 'ready' }, 'what is said of it is dropped')
  t.equal(told('key-changed').length, events)
})

void t.test('A file brings another secret: it is used at once, and nothing of the old one is left', async (t) => {
  const { keys } = someKeys({ main: 1 })
  const early = await keys.lease(aCall(), turn())
  await useOnce(keys, failed('creditsExhausted'))
  t.equal(keys.replace('main', new Secret('another-secret')), true)
  t.match(keys.states(), [{ state: 'ready' }])
  early.report(failed('creditsExhausted'))
  t.match(await Promise.all([keys.lease(aCall(), turn()), keys.lease(aCall(), turn())]), [
    { secret: 'another-secret' },
    { secret: 'another-secret' },
  ])
})

void t.test(
  'Another replica says that a key rests: one request finds out here, if no other key is ready',
  async (t) => {
    const { keys, clock } = someKeys({ main: 1, spare: 1 })
    keys.applyRemoteCooldown('main', 'creditsExhausted', epoch + 10 * minute)
    t.match(keys.states(), [{ state: 'spent', untilAt: epoch + 10 * minute }, { state: 'ready' }])
    for (let i = 0; i < 3; i += 1) t.equal(await useOnce(keys, answered()), 'spare')
    keys.applyRemoteCooldown('spare', 'creditsExhausted', epoch + 10 * minute)
    keys.applyRemoteCooldown('spare', 'creditsExhausted', epoch + 5 * minute)
    t.match(keys.states()[1], { untilAt: epoch + 10 * minute }, 'never shorter')
    const trial = await keys.lease(aCall(), turn(['spare']))
    keys.applyRemoteCooldown('main', 'creditsExhausted', epoch + 20 * minute)
    trial.report(answered())
    t.match(keys.states(), [{ state: 'ready' }, { state: 'spent' }], 'what a trial finds out here is newer')
    await clock.settle()
  },
)

function someOf(...pairs: readonly (readonly [name: string, secret: string])[]) {
  return pairs.map(([name, secret]) => ({ name, secret: new Secret(secret), weight: 1 }))
}

import fc from 'fast-check'
import t from 'tap'
import { ProxyError } from '../../src/errors.ts'
import { awaken, isLendable, judge, lend, ready, untilOf, type KeyCondition } from '../../src/keys/key-state.ts'
import { createKeys } from '../../src/keys/pool.ts'
import { Secret } from '../../src/keys/secret.ts'
import type { FailureClass } from '../../src/failures.ts'
import type { Call, Verdict } from '../../src/model.ts'
import type { Keys, Turn } from '../../src/parts.ts'
import { epoch, fakeWorld } from '../support/world.ts'
import { aCall, answered, failed, keyRestDefaults } from '../support/verdicts.ts'

const minute = 60_000

function turn(spentKeys: readonly string[] = [], startableMs = 600_000): Turn {
  return {
    number: 1,
    waitedMs: 0,
    bypassCache: false,
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
  t.strictSame(keys.states(), [{ name: 'main', state: 'ready', untilAt: null }])
  t.strictSame(events, [])
})

void t.test('A key that this flight has used up is not lent to it again', async (t) => {
  const { keys } = someKeys({ one: 1, two: 1 })
  t.match(await keys.lease(aCall(), turn(['one'])), { name: 'two' })
  t.equal(keys.hasOther(new Set(['one'])), true)
  t.equal(keys.hasOther(new Set(['one', 'two'])), false)
  t.match(await refusalOf(keys.lease(aCall(), turn(['one', 'two']))), {
    code: 'NO_KEY_AVAILABLE',
    status: 503,
    retryAfterMs: 1_000,
  })
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
  t.strictSame(keys.states()[0], { name: 'one', state: 'spent', untilAt: until })
  for (let i = 0; i < 5; i += 1) t.equal(await useOnce(keys, answered()), 'two')

  await clock.advance(15 * minute)
  const trial = await keys.lease(aCall(), turn(['two']))
  t.equal(trial.name, 'one')
  t.strictSame(keys.states()[0], { name: 'one', state: 'spent', untilAt: null }, 'not trusted yet')
  t.equal(keys.hasOther(new Set(['two'])), false, 'one request at a time')
  trial.report(failed('creditsExhausted'))
  t.strictSame(keys.states()[0], { name: 'one', state: 'spent', untilAt: until + 15 * minute }, 'rests again')

  await clock.advance(15 * minute)
  const second = await keys.lease(aCall(), turn(['two']))
  second.report(answered())
  t.strictSame(keys.states()[0], { name: 'one', state: 'ready', untilAt: null })
  t.strictSame(
    told('key-changed').map(({ key, to, because, untilAt }) => [key, to, because, untilAt]),
    [
      ['one', 'spent', 'creditsExhausted', until],
      ['one', 'spent', 'creditsExhausted', until + 15 * minute],
      ['one', 'ready', null, null],
    ],
  )
})

void t.test('A blocked key rests, and is tried with one request', async (t) => {
  const { keys, clock } = someKeys({ one: 1, two: 1 })
  t.equal(await useOnce(keys, failed('blocked')), 'one')
  t.strictSame(keys.states()[0], { name: 'one', state: 'resting', untilAt: epoch + minute })
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
  t.match(await refusalOf(keys.lease(aCall(), turn())), { code: 'NO_KEY_AVAILABLE', retryAfterMs: 5 * minute })

  await clock.advance(5 * minute)
  for (const verdict of [failed('serverError'), failed('rejected'), failed('rateLimited')]) {
    const trial = await keys.lease(aCall(), turn())
    t.match(await refusalOf(keys.lease(aCall(), turn())), { retryAfterMs: 1_000 }, 'the trial is taken')
    trial.report(verdict)
  }
  t.match(keys.states(), [{ state: 'resting', untilAt: null }])

  await keys.lease(aCall(), turn())
  await clock.advance(minute)
  const next = await keys.lease(aCall(), turn())
  t.equal(next.name, 'main', 'a trial that never reported does not block for ever')
})

void t.test('While one key is tried, nobody is sent away until another one returns', async (t) => {
  const { keys, clock } = someKeys({ soon: 1, late: 1 })
  const [one, two] = [await keys.lease(aCall(), turn(['late'])), await keys.lease(aCall(), turn(['soon']))]
  one.report(failed('unauthorized'))
  two.report(failed('creditsExhausted'))
  t.match(await refusalOf(keys.lease(aCall(), turn())), { code: 'NO_KEY_AVAILABLE', retryAfterMs: 5 * minute })
  await clock.advance(5 * minute)
  t.match(await keys.lease(aCall(), turn()), { name: 'soon' })
  t.match(await refusalOf(keys.lease(aCall(), turn())), { retryAfterMs: 1_000 }, 'the trial may end at any moment')
  t.match(await refusalOf(keys.lease(aCall(), turn(['soon']))), { retryAfterMs: 10 * minute })
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
    t.match(await refusalOf(keys.lease(aCall(), turn())), { retryAfterMs: 40_000 }, 'too long to wait for')
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
  t.match(await refusalOf(keys.lease(aCall(), turn([], 9_000))), { code: 'NO_KEY_AVAILABLE', retryAfterMs: 10_000 })

  let startableMs = 60_000
  const impatient = { ...turn(), startableMs: () => startableMs }
  const waiting = refusalOf(keys.lease(aCall(), impatient))
  startableMs = 0
  t.match(await clock.finish(waiting), { code: 'DEADLINE_EXCEEDED' }, 'all have left meanwhile')
})

void t.test('Rests are only ever extended, and the graver reason holds', async (t) => {
  const { keys, clock } = someKeys({ main: 1 })
  const [first, second, third] = [
    await keys.lease(aCall(), turn()),
    await keys.lease(aCall(), turn()),
    await keys.lease(aCall(), turn()),
  ]
  first.report(failed('creditsExhausted'))
  second.report(failed('unauthorized'))
  t.match(keys.states(), [{ state: 'spent', untilAt: epoch + 15 * minute }])
  third.report(failed('rateLimited', { retryAfterMs: 20 * minute }))
  t.match(keys.states(), [{ state: 'spent', untilAt: epoch + 20 * minute }])
  await clock.advance(20 * minute)
  t.match(keys.states(), [{ state: 'spent', untilAt: null }], 'and so is the trial')
})

void t.test('Whatever happens to a key, a rest never ends early and only a trial ends distrust', async (t) => {
  const classes: FailureClass[] = ['creditsExhausted', 'unauthorized', 'rateLimited', 'serverError']
  const verdicts = fc.oneof(
    fc.constant<Verdict>(answered()),
    fc
      .tuple(fc.constantFrom(...classes), fc.option(fc.integer({ min: 0, max: 10 ** 7 })))
      .map(([failure, retryAfterMs]) => failed(failure, { retryAfterMs })),
  )
  const steps = fc.array(fc.record({ verdict: verdicts, waitMs: fc.nat(10 ** 6), lend: fc.boolean() }), {
    maxLength: 50,
  })
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(steps, (steps) => {
        let condition: KeyCondition = ready
        let now = epoch
        for (const step of steps) {
          now += step.waitMs
          condition = awaken(condition, now)
          const isTrial = condition.kind === 'trial' && step.lend && isLendable(condition, now)
          if (isTrial) condition = lend(condition, now)
          const next = judge(condition, step.verdict, isTrial, now, keyRestDefaults)
          if ((untilOf(next) ?? Infinity) < (untilOf(condition) ?? 0)) return false
          if (condition.kind !== 'ready' && next.kind === 'ready' && !(isTrial && step.verdict.kind === 'answered'))
            return false
          condition = next
        }
        return true
      }),
      { seed: 9, numRuns: 1_000 },
    ),
  )
})

void t.test('With other keys, those that stay are as they were, and another secret is tried at once', async (t) => {
  const { keys, clock, told } = someKeys({ dry: 1, gone: 1, new: 1 })
  for (let turn = 0; turn < 3; turn += 1) await useOnce(keys, failed('creditsExhausted'))
  const held = someOf(['dry', 'secret-of-dry'], ['new', 'another-secret'], ['late', 'secret-of-late'])
  const next = keys.under({ keys: held, keyRest: keyRestDefaults })
  t.strictSame(
    next.states().map(({ name, state }) => [name, state]),
    [
      ['dry', 'spent'],
      ['new', 'spent'],
      ['late', 'ready'],
    ],
  )
  next.inForce()
  const trial = await next.lease(aCall(), turn(['late']))
  t.match(trial, { name: 'new', secret: 'another-secret' }, 'nobody knows yet what another secret is worth')
  trial.report(answered())
  await clock.advance(15 * minute)
  const events = told('key-changed').length
  const old = await keys.lease(aCall(), turn(['dry', 'gone']))
  t.match(old, { name: 'new', secret: 'secret-of-new' }, 'who began with the old one keeps it')
  old.report(failed('creditsExhausted'))
  t.match(next.states(), [{}, { name: 'new', state: 'ready' }, {}], 'what is said of it is said of nobody')
  t.strictSame(
    told('key-changed')
      .slice(events)
      .filter(({ key }) => key !== 'dry'),
    [],
  )
})

function someOf(...pairs: readonly (readonly [name: string, secret: string])[]) {
  return pairs.map(([name, secret]) => ({ name, secret: new Secret(secret), weight: 1 }))
}

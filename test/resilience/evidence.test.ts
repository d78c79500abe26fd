/** When the calls of a circuit say that hardly anything succeeds: by the order in which they began, not in which they end. */
import t from 'tap'
import type { Health } from '../../src/model.ts'
import { createEvidence } from '../../src/resilience/evidence.ts'
import { breakerDefaults } from '../support/verdicts.ts'
import { seededRandom } from '../support/world.ts'

const policy = breakerDefaults

/** Calls that begin `everyMs` apart, each with its question, end and duration, up to `untilMs`: is it ever damning, and when first? */
function firstDamning(
  calls: Iterable<{ readonly at: number; readonly question: string; readonly health: Health; readonly ms: number }>,
): number | null {
  const evidence = createEvidence()
  const steps = [...calls].flatMap(({ at, question, health, ms }) => {
    const call = { seen: null as ReturnType<typeof evidence.started> | null }
    return [
      { at, run: (now: number) => void (call.seen = evidence.started(question, now, policy)) },
      {
        at: at + ms,
        run(now: number) {
          if (call.seen) evidence.ended(call.seen, health, now)
          return (health === 'down' || health === 'slow') && evidence.isDamning(policy, now)
        },
      },
    ]
  })
  for (const { at, run } of steps.toSorted((a, b) => a.at - b.at)) if (run(at)) return at
  return null
}

function times(count: number, everyMs: number, health: Health, ms: number, from = 0, questions = count) {
  return Array.from({ length: count }, (_, n) => ({
    at: from + n * everyMs,
    question: `question ${n % questions}`,
    health,
    ms,
  }))
}

void t.test('Twenty failures in a row are damning, nineteen are not', async (t) => {
  t.equal(firstDamning(times(19, 100, 'down', 10)), null)
  t.equal(firstDamning(times(20, 100, 'down', 10)), 1_910)
})

void t.test('A call that is answered ends the row, by its start', async (t) => {
  const between = [...times(10, 100, 'down', 10), { at: 1_000, question: 'x', health: 'up' as const, ms: 500 }]
  t.equal(firstDamning([...between, ...times(19, 100, 'down', 10, 1_100)]), null)
  const late = { at: 0, question: 'x', health: 'up' as const, ms: 1_950 }
  t.equal(firstDamning([late, ...times(20, 100, 'down', 10, 1)]), 1_911, 'an answer to a call from before says nothing')
})

void t.test('Failures that come at once among slow answers are not damning, whatever their order', async (t) => {
  for (const seed of [1, 2])
    for (const failMs of [5, 500, 12_000, null])
      for (const rate of [0.3, 0.5]) {
        const random = seededRandom(seed)
        const calls = Array.from({ length: 1_500 }, (_, n) => {
          const isFailure = random.next() < rate
          const answerMs = 5_000 + 25_000 * random.next()
          const ms = isFailure ? (failMs ?? answerMs) : answerMs
          return { at: n * 50, question: `question ${n}`, health: isFailure ? ('down' as const) : ('up' as const), ms }
        })
        t.equal(firstDamning(calls), null, `${rate} after ${failMs} ms, seed ${seed}`)
      }
})

void t.test('An outage is noticed although hundreds of calls from before are under way', async (t) => {
  const before = times(400, 50, 'up', 60_000)
  const at = firstDamning([...before, ...times(100, 50, 'down', 100, 20_000)])
  t.ok(at !== null && at <= 20_000 + 20 * 50 + 100, `at ${at}`)
})

void t.test('An outage with failures as slow as answers is noticed, too', async (t) => {
  const random = seededRandom(5)
  const calls = Array.from({ length: 2_000 }, (_, n) => ({
    at: n * 50,
    question: `question ${n}`,
    health: 'down' as const,
    ms: 5_000 + 25_000 * random.next(),
  }))
  const at = firstDamning(calls)
  t.ok(at !== null && at < 40_000, `at ${at}`)
})

void t.test('In a hang the first time-outs are damning, though younger calls are under way', async (t) => {
  const before = times(100, 1_000, 'up', 12_000)
  const hanging = times(500, 1_000, 'down', 315_000, 100_000)
  const at = firstDamning([...before, ...hanging])
  t.ok(at !== null && at <= 100_000 + 315_000 + 60_000, `at ${at}`)
})

void t.test('In a hang with different time limits, calls that outlived answers say nothing', async (t) => {
  const before = times(100, 1_000, 'up', 12_000)
  const hanging = times(600, 1_000, 'down', 0, 100_000).map((call, n) => ({ ...call, ms: n % 2 ? 75_000 : 315_000 }))
  const at = firstDamning([...before, ...hanging])
  t.ok(at !== null && at <= 100_000 + 75_000 + 60_000, `at ${at}`)
})

void t.test('One question, or two, never open it; three do', async (t) => {
  t.equal(firstDamning(times(2_000, 25, 'down', 10, 0, 1)), null)
  t.equal(firstDamning(times(2_000, 25, 'down', 10, 0, 2)), null)
  t.not(firstDamning(times(60, 25, 'down', 10, 0, 3)), null)
})

void t.test('A question that always fails does not outvote others that are well', async (t) => {
  const bad = times(8_000, 25, 'down', 10, 0, 1)
  const random = seededRandom(3)
  const others = Array.from({ length: 200 }, (_, n) => {
    const isFailure = random.next() < 0.1
    return {
      at: n * 1_000,
      question: `other ${n}`,
      health: isFailure ? ('down' as const) : ('up' as const),
      ms: isFailure ? 500 : 12_000,
    }
  })
  t.equal(firstDamning([...bad, ...others]), null)
})

void t.test('Nine of ten among fifty open it, though there is an answer now and then', async (t) => {
  const mixed = times(200, 100, 'down', 10).map((call, n) => (n % 12 === 0 ? { ...call, health: 'up' as const } : call))
  t.not(firstDamning(mixed), null)
  const half = times(200, 100, 'down', 10).map((call, n) => (n % 2 === 0 ? { ...call, health: 'up' as const } : call))
  t.equal(firstDamning(half), null)
})

void t.test('A slow failure counts half, and neutral ends do not count', async (t) => {
  t.equal(firstDamning(times(39, 100, 'slow', 10)), null)
  t.not(firstDamning(times(40, 100, 'slow', 10)), null)
  const neutral = times(38, 100, 'down', 10).map((call, n) => (n % 2 ? { ...call, health: 'neutral' as const } : call))
  t.equal(firstDamning(neutral), null)
})

void t.test('It is doubtful when only failures of three questions are known since a call was well', async (t) => {
  const evidence = createEvidence()
  const fail = (question: string, at: number): void =>
    evidence.ended(evidence.started(question, at, policy), 'down', at + 10)
  fail('a', 0)
  fail('a', 100)
  fail('b', 200)
  t.equal(evidence.isDoubtful(policy, 300), false)
  fail('c', 300)
  t.equal(evidence.isDoubtful(policy, 400), true)
  evidence.started('d', 400, policy)
  t.equal(evidence.isDoubtful(policy, 405), true, 'too young to tell')
  t.equal(evidence.isDoubtful(policy, 450), false, 'it has outlived failures')
})

void t.test('Upstream is well while the latest attempts at most questions are', async (t) => {
  const evidence = createEvidence()
  t.equal(evidence.isMostlyWell(0), false, 'nothing is known')
  for (let n = 0; n < 10; n += 1) {
    const call = evidence.started(`question ${n}`, n, policy)
    if (n < 3) evidence.ended(call, 'down', n + 1)
  }
  t.equal(evidence.isMostlyWell(1_000), true)
  for (let n = 0; n < 20; n += 1) evidence.ended(evidence.started(`later ${n}`, 2_000, policy), 'down', 2_001)
  t.equal(evidence.isMostlyWell(2_010), false)
})

void t.test('What it remembers is bounded, however long all goes well', async (t) => {
  const evidence = createEvidence()
  for (let n = 0; n < 100_000; n += 1) evidence.ended(evidence.started(`question ${n}`, n, policy), 'up', n + 1)
  t.ok(evidence.size < 1_000)
})

/** A few seconds of mixed traffic: what it took is given back. Whether anything grows takes longer to tell: `npm run soak`. */
import t from 'tap'
import { createScope } from '../support/scope.ts'
import { isGrowing, medians, slopeOf } from './slope.ts'
import { counted, soak } from './soak.ts'

void t.test(
  'after mixed traffic, descriptors, timers, sockets, flights and credits held are what they were',
  { timeout: 120_000 },
  async (t) => {
    const scope = createScope()
    t.teardown(() => scope.end())
    const { before, after, samples, traffic, stderr } = await soak(scope, {
      forMs: 4_000,
      perSecond: 60,
      seed: 1,
      everyMs: 500,
      patienceMs: 1_000,
    })
    const left = counted.filter((name) => after[name] > before[name])
    t.strictSame(left, [], JSON.stringify({ before, after }))
    t.equal(after.inFlight + after.upstreamInFlight + after.flights + after.heldCredits, 0)
    t.equal(after.bugs, 0)
    t.equal(after.imbalance, 0)
    t.equal(stderr, '')
    t.ok(
      samples.some(({ sample }) => sample.flights > before.flights && sample.timers > before.timers),
      'there was something to give back',
    )
    t.ok(traffic.answered['200'])
    t.ok(Object.keys(traffic.asked).length > 5, `asked: ${Object.keys(traffic.asked).join(', ')}`)
  },
)

void t.test('what grows is told from what only moves', (t) => {
  const noise = [3, -2, 5, -4, 1, 0, -3, 2, 4, -5, 2, -1]
  const points = (perHour: number) =>
    noise.map((off, index) => ({ atMs: index * 60_000, value: 100 + off + (perHour * index) / 60 }))
  t.equal(isGrowing(slopeOf(points(0)), 5), false)
  t.equal(isGrowing(slopeOf(points(100)), 5), true)
  t.equal(isGrowing(slopeOf(points(0).slice(0, 2)), 5), false, 'two points are no line')
  const { perHour, error } = slopeOf(points(60).map((point, index) => ({ ...point, value: 100 + index })))
  t.equal(Math.round(perHour), 60)
  t.ok(error < 0.001)
  const spiky = [1, 1, 90, 1, 1, 1].map((value, index) => ({ atMs: index * 1_000, value }))
  t.strictSame(
    medians(spiky, 3_000).map(({ value }) => value),
    [1, 1],
    'a moment is not seen in a median',
  )
  t.end()
})

/** What the limit makes of refusals, call by call, with times that the test gives. */
import t from 'tap'
import { type CallUnderWay, createAdaptiveLimit } from '../../src/resilience/adaptive-limit.ts'

const MOST = 1_000

/** An upstream that takes so many calls at once, and the limit before it. */
function setUp(takes: number) {
  const limit = createAdaptiveLimit()
  const taken: CallUnderWay[] = []
  let refused = 0
  /** Offers so many calls, as far as the limit lets them in; those that upstream does not take come back at once. */
  function offer(count: number, now: number): void {
    const sent: CallUnderWay[] = []
    for (let i = 0; i < count && limit.underWay < limit.current; i += 1) sent.push(limit.letIn(now))
    const surplus = sent.slice(Math.max(0, takes - taken.length))
    taken.push(...sent.filter((call) => !surplus.includes(call)))
    for (const call of surplus) {
      refused += 1
      t.ok(limit.refused(call, now), 'there were others')
      limit.left(call, now)
    }
  }
  function answer(count: number, now: number): void {
    for (const call of taken.splice(0, count)) {
      limit.answered(MOST, now)
      limit.left(call, now)
    }
  }
  return { limit, offer, answer, refused: () => refused, takes: (count: number) => void (takes = count) }
}

void t.test('There is no limit until calls are refused', async (t) => {
  const { limit, offer, answer } = setUp(500)
  offer(500, 0)
  answer(500, 100_000)
  t.equal(limit.current, Number.POSITIVE_INFINITY)
  t.equal(limit.underWay, 0)
})

void t.test(
  'A burst of twice what upstream takes: each surplus call is refused once, and the limit is right',
  async (t) => {
    const { limit, offer, refused } = setUp(20)
    offer(16, 0)
    offer(40, 10)
    t.equal(refused(), 36)
    offer(40, 200)
    offer(40, 400)
    t.equal(limit.current, 19, '97 % of 20')
    t.ok(refused() < 40)
    t.equal(limit.underWay, 20)
  },
)

void t.test('One cut for a round of calls, by half at most', async (t) => {
  const { limit, offer } = setUp(1)
  offer(100, 0)
  t.equal(limit.current, 26, 'half of those that were under way when as many had been refused')
  offer(100, 1)
  t.equal(limit.current, 7)
  for (let now = 2; now < 10; now += 1) offer(100, now)
  t.equal(limit.current, 1)
})

void t.test('After a cut the limit holds for 30 s, then grows by one, and faster with each 3 s', async (t) => {
  const { limit, offer, answer, takes } = setUp(40)
  offer(80, 0)
  offer(80, 0)
  t.equal(limit.current, 39)
  takes(1_000)
  const grown: number[] = []
  answer(1, 0)
  for (let now = 0; now <= 60_000; now += 100) {
    answer(1, now)
    offer(50, now)
    if (limit.current !== grown.at(-1)) grown.push(limit.current)
  }
  t.strictSame(grown.slice(0, 6), [39, 40, 41, 43, 47, 55])
  t.ok(limit.current >= 100, 'found again within 60 s')
})

void t.test('It grows only in times in which it is used up, and while calls are answered', async (t) => {
  const { limit, offer, answer } = setUp(40)
  offer(80, 0)
  offer(80, 0)
  answer(10, 0)
  for (let now = 0; now < 600_000; now += 1_000) {
    answer(1, now)
    offer(1, now)
  }
  t.equal(limit.current, 39, 'nobody needs more')
  offer(40, 600_000)
  offer(0, 1_200_000)
  t.equal(limit.current, 39, 'nothing is answered')
  answer(1, 1_200_000)
  t.equal(limit.current, 40)
})

void t.test('A limit that has grown to what is allowed anyhow is none', async (t) => {
  const { limit, offer, answer, takes } = setUp(900)
  offer(1_000, 0)
  t.ok(limit.current < 900)
  takes(100_000)
  for (let now = 0; now < 90_000; now += 50) {
    answer(5, now)
    offer(10, now)
  }
  t.equal(limit.current, Number.POSITIVE_INFINITY)
})

void t.test('Refusals beside as many calls that were taken do not lower it, however many they are', async (t) => {
  const limit = createAdaptiveLimit()
  const taken: CallUnderWay[] = []
  for (let i = 0; i < 5_000; i += 1) {
    const call = limit.letIn(i * 50)
    if (i % 4 === 3) {
      t.ok(limit.refused(call, i * 50))
      limit.left(call, i * 50)
    } else taken.push(call)
    const oldest = taken.length > 200 ? taken.shift() : undefined
    if (oldest) {
      limit.answered(MOST, i * 50)
      limit.left(oldest, i * 50)
    }
  }
  t.equal(limit.current, Number.POSITIVE_INFINITY)
})

void t.test('Calls let in while a refused one was on its way are not mistaken for a sign of room', async (t) => {
  const limit = createAdaptiveLimit()
  const taken = Array.from({ length: 500 }, () => limit.letIn(0))
  // One call too many is always on its way, while others end and the next are taken.
  for (let round = 0; round < 8; round += 1) {
    const surplus = limit.letIn(round * 100)
    for (let i = 0; i < 4; i += 1) {
      const done = taken.shift()
      if (done) limit.left(done, round * 100)
      taken.push(limit.letIn(round * 100))
    }
    limit.refused(surplus, round * 100 + 90)
    limit.left(surplus, round * 100 + 90)
  }
  t.equal(limit.current, 485)
})

void t.test('A call that was alone was not refused because of others', async (t) => {
  const limit = createAdaptiveLimit()
  for (let i = 0; i < 20; i += 1) {
    const call = limit.letIn(i)
    t.notOk(limit.refused(call, i))
    limit.left(call, i)
  }
  t.equal(limit.current, Number.POSITIVE_INFINITY)
})

void t.test('reset forgets everything', async (t) => {
  const { limit, offer } = setUp(10)
  offer(100, 0)
  limit.reset()
  t.equal(limit.current, Number.POSITIVE_INFINITY)
})

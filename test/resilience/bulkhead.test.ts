import fc from 'fast-check'
import t from 'tap'
import type { Place } from '../../src/parts.ts'
import { type BulkheadPolicy, createBulkhead } from '../../src/resilience/bulkhead.ts'
import { fakeWorld } from '../support/world.ts'

const overloaded = { code: 'OVERLOADED', status: 503 }
const noQueue = { size: 0, maxWait: 0 }

function setUp(policy: Partial<BulkheadPolicy> = {}) {
  const world = fakeWorld()
  const bulkhead = createBulkhead({ maxConcurrent: 200, perScraper: null, queue: noQueue, ...policy }, world)
  /** Somebody who waits, as long as they are not told to leave. */
  function arrive(scraper: string) {
    const listeners = new Set<() => void>()
    const flight = {
      patienceUntil: () => Number.POSITIVE_INFINITY,
      onAbandoned(listener: () => void) {
        listeners.add(listener)
        return () => void listeners.delete(listener)
      },
    }
    const story = { scraper, place: null as Place | null, error: null as unknown, waited: false }
    try {
      const entered = bulkhead.enter(scraper, flight)
      if (entered instanceof Promise) {
        story.waited = true
        entered.then(
          (place) => void (story.place = place),
          (error: unknown) => void (story.error = error),
        )
      } else story.place = entered
    } catch (error) {
      story.error = error
    }
    return Object.assign(story, { listeners, abandon: () => [...listeners].forEach((listener) => listener()) })
  }
  return { ...world, ...bulkhead, arrive }
}

void t.test('So many in all, so many for each scraper, and a place is free again once left', async (t) => {
  const { arrive, inFlight } = setUp({ maxConcurrent: 3, perScraper: 2 })
  const first = arrive('alpha')
  arrive('alpha')
  t.match(arrive('alpha').error, overloaded, 'the scraper is full')
  arrive('beta')
  t.match(arrive('beta').error, overloaded, 'all is full')

  first.place?.leave()
  first.place?.leave()
  t.equal(inFlight('alpha'), 1)
  t.equal(inFlight(), 2)
  t.ok(arrive('beta').place)
  t.match(arrive('alpha').error, overloaded)
  t.equal(inFlight('gamma'), 0)
})

void t.test('Without a limit per scraper one may take all places', async (t) => {
  const { arrive } = setUp({ maxConcurrent: 5 })
  for (let i = 0; i < 5; i += 1) t.ok(arrive('alpha').place)
  t.match(arrive('beta').error, overloaded)
})

void t.test('Who finds no place waits for one, in order, and needs no promise where there is one', async (t) => {
  const { arrive, clock, queued, inFlight, told } = setUp({ maxConcurrent: 1, queue: { size: 2, maxWait: 1_000 } })
  const inside = arrive('alpha')
  t.notOk(inside.waited)
  const [first, second, third] = [arrive('alpha'), arrive('alpha'), arrive('alpha')]
  t.match(third?.error, overloaded, 'the queue is full')
  t.equal(queued('alpha'), 2)
  await clock.advance(300)
  inside.place?.leave()
  t.equal(inFlight(), 1, 'the place is taken before anybody else can have it')
  t.match(arrive('beta'), { place: null, waited: true }, 'nobody overtakes')
  await clock.settle()
  t.ok(first?.place)
  t.notOk(second?.place)
  t.equal(queued(), 2)
  t.match(told('queue-left'), [{ scraper: 'alpha', waitedMs: 300 }])
})

void t.test(
  'Who has waited long enough is refused, and told to come back at another time than the others',
  async (t) => {
    const { arrive, clock, queued } = setUp({ maxConcurrent: 1, queue: { size: 50, maxWait: 1_000 } })
    const inside = arrive('alpha')
    const waiting = Array.from({ length: 50 }, () => arrive('alpha'))
    await clock.advance(999)
    t.equal(queued(), 50)
    await clock.advance(1)
    t.equal(queued(), 0)
    const pauses = waiting.map(({ error }) => (error as { retryAfterMs: number }).retryAfterMs)
    t.strictSame(
      [...new Set(pauses)].toSorted((a, b) => a - b),
      [1_000, 2_000, 3_000, 4_000, 5_000],
    )
    inside.place?.leave()
    t.ok(arrive('alpha').place, 'nobody who left gets the place')
    t.equal(clock.timers, 0)
  },
)

void t.test('Whom nobody waits for any more leaves the queue', async (t) => {
  const { arrive, clock, queued, inFlight } = setUp({ maxConcurrent: 1, queue: { size: 5, maxWait: 1_000 } })
  const inside = arrive('alpha')
  const [left, stays] = [arrive('alpha'), arrive('alpha')]
  left?.abandon()
  await clock.settle()
  t.match(left?.error, overloaded)
  t.equal(queued(), 1)
  inside.place?.leave()
  await clock.settle()
  t.ok(stays?.place)
  stays?.place?.leave()
  t.equal(inFlight(), 0)
  t.equal(clock.timers, 0)
  t.equal((left?.listeners.size ?? 0) + (stays?.listeners.size ?? 0), 0)
})

void t.test('A full scraper and a long queue keep no other scraper from its place', async (t) => {
  const queue = { size: 3, maxWait: 1_000 }
  const { arrive, clock, queued } = setUp({ maxConcurrent: 4, perScraper: { alpha: 2 }, queue })
  const alphas = Array.from({ length: 6 }, () => arrive('alpha'))
  t.match(alphas[5]?.error, overloaded, 'its own queue is full')
  t.equal(queued('alpha'), 3)
  const [beta, gamma, later] = [arrive('beta'), arrive('gamma'), arrive('beta')]
  t.notOk(beta?.waited, 'the others have their places')
  t.ok(later?.waited, 'and a queue of their own')

  gamma?.place?.leave()
  await clock.settle()
  t.ok(later?.place, 'alpha came first and is full')
  const more = [arrive('beta'), arrive('beta')]
  alphas[0]?.place?.leave()
  await clock.settle()
  t.ok(alphas[2]?.place)
  alphas[1]?.place?.leave()
  await clock.settle()
  t.ok(more[0]?.place, 'it is the turn of the others')
  t.notOk(alphas[3]?.place)
})

void t.test('R9: whatever comes, waits, leaves and gives up, no limit is exceeded and nothing is lost', async (t) => {
  const step = fc.record({
    act: fc.constantFrom('come', 'come', 'come', 'leave', 'leave', 'abandon', 'pass'),
    scraper: fc.constantFrom('a', 'b', 'c'),
    which: fc.nat(20),
  })
  const property = fc.asyncProperty(fc.array(step, { maxLength: 120 }), async (steps) => {
    const { arrive, clock, inFlight, queued } = setUp({
      maxConcurrent: 7,
      perScraper: 4,
      queue: { size: 5, maxWait: 100 },
    })
    let all: ReturnType<typeof arrive>[] = []
    const inside = (scraper?: string) =>
      all.filter((one) => one.place !== null && (scraper === undefined || one.scraper === scraper))
    const outside = () => all.filter(({ place, error }) => place === null && error === null)
    for (const { act, scraper, which } of steps) {
      if (act === 'come') all.push(arrive(scraper))
      if (act === 'leave') {
        const [one] = inside().slice(which, which + 1)
        one?.place?.leave()
        all = all.filter((other) => other !== one)
      }
      if (act === 'abandon') outside()[which]?.abandon()
      // At once, before any promise has had its turn.
      if (inFlight() > 7 || ['a', 'b', 'c'].some((name) => inFlight(name) > 4 || queued(name) > 5)) return false
      if (act === 'pass') await clock.advance(40)
      await clock.settle()
      if (inFlight() !== inside().length || queued() !== outside().length) return false
      const hasRoom = outside().some(({ scraper: name }) => inFlight() < 7 && inFlight(name) < 4)
      if (hasRoom) return false
    }
    return true
  })
  await t.resolves(fc.assert(property, { seed: 9, numRuns: 60 }))
})

void t.test('Other limits hold at once: more places for those who wait, and none for those who come', async (t) => {
  const queue = { size: 5, maxWait: 1_000 }
  const { arrive, adopt, clock, inFlight, queued } = setUp({ maxConcurrent: 1, queue })
  const first = arrive('alpha')
  const waiting = [arrive('alpha'), arrive('alpha'), arrive('beta')]
  adopt({ maxConcurrent: 3, perScraper: null, queue })
  await clock.settle()
  t.equal(waiting.filter(({ place }) => place !== null).length, 2)
  t.equal(inFlight(), 3)
  t.equal(queued(), 1)
  adopt({ maxConcurrent: 1, perScraper: null, queue: noQueue })
  first.place?.leave()
  await clock.settle()
  t.equal(inFlight(), 2, 'who is in stays, and nobody follows')
  t.match(arrive('gamma').error, overloaded)
  t.equal(queued(), 1)
})

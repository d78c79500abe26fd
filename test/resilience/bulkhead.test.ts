import fc from 'fast-check'
import t from 'tap'
import type { Permit } from '../../src/fetch-parts.ts'
import type { Joined, QueuedClient, Waiter } from '../../src/flights.ts'
import { type BulkheadPolicy, createBulkhead } from '../../src/resilience/bulkhead.ts'
import { createFlights } from '../../src/resilience/coalesce.ts'
import { answered, failed, retryDefaults } from '../support/verdicts.ts'
import { fakeWorld } from '../support/world.ts'

const overloaded = { code: 'OVERLOADED', status: 503, reason: 'places' }
const queueIsFull = { ...overloaded, reason: 'queue' }
const team: QueuedClient = { name: 'team', weight: 1, priority: 'interactive' }
const noQueue = { size: 0, maxWait: 0 }

interface Story {
  readonly client: string
  place: Permit | null
  hasLeft: boolean
}

function setUp(policy: Partial<BulkheadPolicy> = {}) {
  const world = fakeWorld()
  const bulkhead = createBulkhead(
    { maxConcurrent: 200, perScraper: null, adaptive: false, queue: noQueue, ...policy },
    world,
  )
  const stories: Story[] = []
  /** Somebody who waits, as long as they are not told to leave. */
  function arrive(scraper: string, client: QueuedClient = team, isRepeat = false) {
    const listeners = new Set<() => void>()
    const flight = {
      mostUrgent: () => client,
      onJoined: () => () => {},
      onAbandoned(listener: () => void) {
        listeners.add(listener)
        return () => void listeners.delete(listener)
      },
    }
    const story = {
      scraper,
      client: client.name,
      place: null as Permit | null,
      error: null as unknown,
      waited: false,
      hasLeft: false,
    }
    try {
      const entered = bulkhead.enter(scraper, flight, client, isRepeat)
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
    stories.push(story)
    return Object.assign(story, { listeners, abandon: () => [...listeners].forEach((listener) => listener()) })
  }
  return { ...world, ...bulkhead, arrive, stories }
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
  t.match(third?.error, queueIsFull)
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
  t.match(alphas[5]?.error, queueIsFull, 'its own queue')
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
  adopt({ maxConcurrent: 3, perScraper: null, adaptive: false, queue })
  await clock.settle()
  t.equal(waiting.filter(({ place }) => place !== null).length, 2)
  t.equal(inFlight(), 3)
  t.equal(queued(), 1)
  adopt({ maxConcurrent: 1, perScraper: null, adaptive: false, queue: noQueue })
  first.place?.leave()
  await clock.settle()
  t.equal(inFlight(), 2, 'who is in stays, and nobody follows')
  t.match(arrive('gamma').error, overloaded)
  t.equal(queued(), 1)
})

const queue = { size: 1_000, maxWait: 60_000 }

/** The place that was given last becomes free, `times` times in a row; says who got it. */
async function passOn(world: ReturnType<typeof setUp>, times: number): Promise<string[]> {
  const names: string[] = []
  for (let i = 0; i < times; i += 1) {
    const inside = world.stories.find(({ place, hasLeft }) => place && !hasLeft)
    if (inside) inside.hasLeft = true
    inside?.place?.leave()
    await world.clock.settle()
    const next = world.stories.find(({ place, hasLeft }) => place && !hasLeft)
    if (next) names.push(next.client)
  }
  return names
}

function count(names: readonly string[], name: string): number {
  return names.filter((one) => one === name).length
}

void t.test('Clients take turns by weight, however many questions each has', async (t) => {
  const world = setUp({ maxConcurrent: 1, queue })
  world.arrive('alpha')
  const heavy: QueuedClient = { name: 'heavy', weight: 3, priority: 'interactive' }
  for (let i = 0; i < 200; i += 1) world.arrive('alpha', team)
  for (let i = 0; i < 30; i += 1) world.arrive('alpha', heavy)
  const names = await passOn(world, 40)
  t.equal(count(names, 'heavy'), 30)
  t.ok(names.slice(0, 3).includes('team'))
})

void t.test(
  'A client with one question at a time waits for one turn of the others, and gains nothing by its pauses',
  async (t) => {
    const world = setUp({ maxConcurrent: 1, queue })
    world.arrive('alpha')
    const flood: QueuedClient = { name: 'flood', weight: 2, priority: 'interactive' }
    for (let i = 0; i < 500; i += 1) world.arrive('alpha', flood)
    const names: string[] = []
    let ask = world.arrive('alpha')
    for (let i = 0; i < 90; i += 1) {
      const [name] = await passOn(world, 1)
      names.push(name ?? 'nobody')
      if (ask.place) ask = world.arrive('alpha')
    }
    t.equal(count(names, 'team'), 30, 'a third, as its weight says')
  },
)

void t.test('In a full queue the client that waits with most gives way, by its newest question', async (t) => {
  const world = setUp({ maxConcurrent: 1, queue: { size: 10, maxWait: 60_000 } })
  world.arrive('alpha')
  const flood: QueuedClient = { name: 'flood', weight: 1, priority: 'interactive' }
  const flooded = Array.from({ length: 12 }, () => world.arrive('alpha', flood))
  t.strictSame(
    flooded.map(({ error }) => error !== null),
    [...Array<boolean>(10).fill(false), true, true],
    'its own newest are refused',
  )
  t.match(flooded[11]?.error, queueIsFull)
  const other = world.arrive('alpha')
  await world.clock.settle()
  t.equal(other.error, null)
  t.match(flooded[9]?.error, queueIsFull, 'the newest of the flood made room')
  t.strictSame(await passOn(world, 2), ['flood', 'team'])
})

void t.test('A heavier client may wait with more before it gives way; batch gives way first', async (t) => {
  const world = setUp({ maxConcurrent: 1, queue: { size: 4, maxWait: 60_000 } })
  world.arrive('alpha')
  const heavy: QueuedClient = { name: 'heavy', weight: 3, priority: 'interactive' }
  const nightly: QueuedClient = { name: 'nightly', weight: 100, priority: 'batch' }
  const batch = world.arrive('alpha', nightly)
  for (let i = 0; i < 3; i += 1) world.arrive('alpha', heavy)
  const first = world.arrive('alpha', team)
  await world.clock.settle()
  t.match(batch.error, queueIsFull)
  t.match(world.arrive('alpha', nightly).error, queueIsFull)
  t.match(world.arrive('alpha', team).error, queueIsFull, 'it would have 2 for a weight of 1, the other has 3 for 3')
  t.equal(first.error, null)
})

void t.test('Batch is let in when nobody interactive waits, for this scraper or another one', async (t) => {
  const world = setUp({ maxConcurrent: 1, queue })
  world.arrive('alpha')
  const nightly: QueuedClient = { name: 'nightly', weight: 10, priority: 'batch' }
  for (let i = 0; i < 3; i += 1) world.arrive('alpha', nightly)
  for (let i = 0; i < 2; i += 1) world.arrive('alpha')
  for (let i = 0; i < 2; i += 1) world.arrive('beta')
  const names = await passOn(world, 7)
  t.strictSame(names, ['team', 'team', 'team', 'team', 'nightly', 'nightly', 'nightly'])
})

void t.test('A batch question that somebody interactive joins takes a turn of theirs', async (t) => {
  const world = setUp({ maxConcurrent: 1, queue })
  const inside = world.arrive('alpha')
  const flights = createFlights(world)
  const [nightly, website]: QueuedClient[] = [
    { name: 'nightly', weight: 1, priority: 'batch' },
    { name: 'website', weight: 1, priority: 'interactive' },
  ] as const
  const asked: string[] = []
  let leave = (): void => inside.place?.leave()
  function ask(question: string, client: QueuedClient | undefined): Joined {
    const askedAt = world.clock.now()
    const waiter: Waiter = {
      scraper: 'alpha',
      deadlineAt: askedAt + 600_000,
      askedAt,
      policy: retryDefaults,
      client: client ?? team,
      hasFallback: false,
      onGone: () => () => {},
    }
    return flights.join(question, waiter, async (flight) => {
      const place = await world.enter('alpha', flight, client ?? team, false)
      asked.push(question)
      leave = () => place.leave()
      return { verdict: answered(), attempts: [], stoppedBy: null, chargedCredits: 0, entry: null }
    })
  }
  const batch = ['batch 1', 'batch 2', 'batch 3'].map((question) => ask(question, nightly))
  ask('interactive', team)
  t.equal(ask('batch 2', nightly).role, 'joined', 'another batch request changes nothing')
  t.equal(ask('batch 3', website).role, 'joined')
  for (let turn = 0; turn < 4; turn += 1) {
    leave()
    await world.clock.settle()
  }
  t.strictSame(asked, ['interactive', 'batch 3', 'batch 1', 'batch 2'])
  leave()
  t.equal(world.queued(), 0)
  await Promise.all(batch.map(({ landing }) => landing))
})

void t.test(
  'Another priority and weight of a client hold for its next question, and for those that wait',
  async (t) => {
    const world = setUp({ maxConcurrent: 1, queue })
    world.arrive('alpha')
    const nightly: QueuedClient = { name: 'nightly', weight: 1, priority: 'batch' }
    for (let i = 0; i < 2; i += 1) world.arrive('alpha', nightly)
    for (let i = 0; i < 6; i += 1) world.arrive('alpha')
    world.arrive('alpha', { ...nightly, priority: 'interactive', weight: 2 })
    const names = await passOn(world, 4)
    t.equal(count(names, 'nightly'), 3)
    t.strictSame(await passOn(world, 9), Array(5).fill('team'))
  },
)

void t.test('A repetition comes before the other questions of its client, and into a full queue as well', async (t) => {
  const world = setUp({ maxConcurrent: 1, queue: { size: 2, maxWait: 60_000 } })
  const inside = world.arrive('alpha')
  const [first, second] = [world.arrive('alpha'), world.arrive('alpha')]
  const repeated = world.arrive('alpha', team, true)
  t.match(world.arrive('alpha').error, queueIsFull)
  t.equal(repeated.error, null)
  inside.place?.leave()
  await world.clock.settle()
  t.ok(repeated.place)
  t.notOk(first?.place ?? second?.place)
})

void t.test(
  'Just before its turn nobody is refused, for a quarter of maxWait; without progress everybody is',
  async (t) => {
    const world = setUp({ maxConcurrent: 1, queue: { size: 100, maxWait: 60_000 } })
    let inside = world.arrive('alpha').place
    const waiting = Array.from({ length: 20 }, () => world.arrive('alpha'))
    for (let i = 0; i < 18; i += 1) {
      await world.clock.advance(3_300)
      inside?.leave()
      await world.clock.settle()
      inside = waiting[i]?.place ?? null
    }
    await world.clock.advance(1_000)
    t.equal(world.queued(), 2, 'after 60.4 s')
    inside?.leave()
    await world.clock.settle()
    t.ok(waiting[18]?.place)
    await world.clock.advance(13_000)
    t.equal(world.queued(), 1)
    await world.clock.advance(2_000)
    t.match(waiting[19]?.error, overloaded)
    t.equal(world.clock.timers, 0)
  },
)

void t.test(
  'The limit is lowered to what upstream takes, and only by 429 for a rate limit or a full queue',
  async (t) => {
    const refuse = (
      verdict: Parameters<Permit['ended']>[0],
      options: Partial<BulkheadPolicy> = {},
      otherKey = false,
    ) => {
      const { arrive, limit } = setUp({ adaptive: true, queue, ...options })
      const places = Array.from({ length: 30 }, () => arrive('alpha').place)
      const wasTooMany = places.slice(20).map((place) => {
        const is = place?.ended(verdict, otherKey)
        place?.leave()
        return is
      })
      return { limit: limit('alpha'), others: limit('beta'), wasTooMany: wasTooMany.every(Boolean) }
    }
    t.strictSame(refuse(failed('queueFull')), { limit: 19, others: 200, wasTooMany: true })
    t.strictSame(refuse(failed('rateLimited')), { limit: 19, others: 200, wasTooMany: true })
    t.equal(refuse(failed('rateLimited'), {}, true).limit, 200, 'another key takes over')
    for (const other of ['serverError', 'warmingUp', 'timeout', 'emptyResult', 'creditsExhausted', 'rejected'] as const)
      t.strictSame(refuse(failed(other)), { limit: 200, others: 200, wasTooMany: false }, other)
    t.strictSame(refuse(failed('queueFull'), { adaptive: false }), { limit: 200, others: 200, wasTooMany: false })
    t.equal(refuse(failed('queueFull'), { perScraper: { alpha: 12 } }).limit, 12)
    t.equal(refuse(answered()).limit, 200)
  },
)

void t.test('adaptive: false forgets what was found, and those who wait are let in', async (t) => {
  const policy = { maxConcurrent: 200, perScraper: null, queue }
  const { arrive, adopt, limit, queued, clock } = setUp({ adaptive: true, queue })
  const places = Array.from({ length: 30 }, () => arrive('alpha').place)
  for (const place of places.slice(20)) {
    place?.ended(failed('queueFull'), false)
    place?.leave()
  }
  arrive('alpha')
  t.equal(queued('alpha'), 1)
  adopt({ ...policy, adaptive: false })
  await clock.settle()
  t.equal(limit('alpha'), 200)
  t.equal(queued('alpha'), 0)
})

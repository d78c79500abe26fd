/** When the process is overloaded and when it is not, look by look, on a clock that the test moves. */
import t from 'tap'
import type { Pressure } from '../../src/ports.ts'
import { createOverload, type OverloadPolicy } from '../../src/resilience/overload.ts'
import { fakeWorld } from '../support/world.ts'

const calm: Pressure = { eventLoopDelayMs: 5, eventLoopBusy: 0.3, memory: 0.4 }
const late: Pressure = { ...calm, eventLoopDelayMs: 250, eventLoopBusy: 1 }
const full: Pressure = { ...calm, memory: 0.88 }

const MIB = 1_048_576

/** The cache is empty at first: it has nothing to give. */
function setUp(policy: Partial<OverloadPolicy> = {}) {
  const world = fakeWorld()
  let now = calm
  let isClosed = false
  let collections = 0
  const cache = {
    bytes: 0,
    maxBytes: 400 * MIB,
    fullBytes: 400 * MIB,
    resize(maxBytes: number) {
      cache.maxBytes = maxBytes
      cache.bytes = Math.min(cache.bytes, maxBytes)
    },
  }
  const gauge = {
    limitBytes: 1_000 * MIB,
    read: () => now,
    reclaim: () => void (collections += 1),
    close: () => void (isClosed = true),
  }
  const monitor = createOverload(
    { eventLoopDelay: 200, memory: 0.85, memoryCritical: 0.95, ...policy },
    { ...world, gauge, cache },
  )
  async function looks(count: number, pressure: Pressure): Promise<string> {
    now = pressure
    await world.clock.advance(500 * count)
    return monitor.state
  }
  return { ...world, monitor, looks, cache, collections: () => collections, isClosed: () => isClosed }
}

void t.test('Calm as long as nothing is wrong, and misses may ask', async (t) => {
  const { monitor, looks, told } = setUp()
  t.equal(await looks(100, calm), 'calm')
  t.doesNotThrow(() => monitor.mayAsk())
  t.strictSame(told('overload-changed'), [])
})

void t.test('Two seconds of a late event loop: misses are refused; five good ones: no more', async (t) => {
  const { monitor, looks, told } = setUp()
  t.equal(await looks(3, late), 'calm')
  t.equal(await looks(1, late), 'shedding')
  t.throws(() => monitor.mayAsk(), { code: 'OVERLOADED', status: 503 })
  t.equal(await looks(9, calm), 'shedding')
  t.equal(await looks(1, calm), 'calm')
  t.doesNotThrow(() => monitor.mayAsk())
  t.match(told('overload-changed'), [
    { to: 'shedding', because: 'event-loop', eventLoopDelayMs: 250 },
    { to: 'calm', because: null },
  ])
})

void t.test('One bad moment is none: a collection of garbage, a start, a stopped process', async (t) => {
  const { looks, told } = setUp()
  for (let i = 0; i < 20; i += 1) {
    await looks(3, { ...late, eventLoopDelayMs: 60_000 })
    await looks(1, calm)
  }
  t.strictSame(told('overload-changed'), [])
})

void t.test(
  'A machine that is busy with something else makes the loop late, and yet there is nothing to shed',
  async (t) => {
    const { looks } = setUp()
    t.equal(await looks(100, { ...late, eventLoopDelayMs: 900, eventLoopBusy: 0.5 }), 'calm')
  },
)

void t.test('Memory: misses first, then everything, and back one step after the other', async (t) => {
  const { looks, told, monitor } = setUp()
  t.equal(await looks(4, full), 'shedding')
  t.equal(monitor.because, 'memory')
  t.equal(await looks(4, { ...calm, memory: 0.96 }), 'critical')
  t.equal(await looks(100, { ...calm, memory: 0.94 }), 'critical', 'hardly better is not better')
  t.equal(await looks(10, full), 'shedding')
  t.equal(await looks(100, { ...calm, memory: 0.84 }), 'shedding')
  t.equal(await looks(10, { ...calm, memory: 0.8 }), 'calm')
  t.equal(monitor.memory, 0.8)
  t.strictSame(
    told('overload-changed').map(({ to }) => to),
    ['shedding', 'critical', 'shedding', 'calm'],
  )
})

void t.test('A loop that is five times as late is critical, by steps', async (t) => {
  const { looks, monitor } = setUp()
  const stuck = { ...late, eventLoopDelayMs: 1_000 }
  t.equal(await looks(4, stuck), 'shedding')
  t.equal(await looks(4, stuck), 'critical')
  t.equal(await looks(10, late), 'shedding')
  t.equal(monitor.because, 'event-loop')
})

void t.test('What is switched off is not looked at', async (t) => {
  const { looks } = setUp({ eventLoopDelay: 0, memory: 1, memoryCritical: 1 })
  t.equal(await looks(10, { ...late, eventLoopDelayMs: 60_000, memory: 0.99 }), 'calm')
})

void t.test('A closed monitor leaves no timer and no gauge', async (t) => {
  const { monitor, clock, isClosed } = setUp()
  monitor.close()
  t.equal(clock.timers, 0)
  t.ok(isClosed())
})

void t.test(
  'Short of memory, the cache gives way first, and misses are not refused as long as it has something',
  async (t) => {
    const { monitor, looks, cache, told, collections } = setUp()
    cache.bytes = 300 * MIB
    t.equal(await looks(1, { ...calm, memory: 0.9076 }), 'calm')
    // As much as is missing to 95 % of 0.85: (0.9076 - 0.8075) x 1000 MiB.
    t.equal(Math.round(cache.bytes / MIB), 200)
    t.equal(collections(), 1, 'what it gave is free now')
    t.equal(await looks(3, { ...calm, memory: 0.8576 }), 'calm')
    t.equal(Math.round(cache.bytes / MIB), 50)
    t.doesNotThrow(() => monitor.mayAsk())
    t.equal(await looks(10, { ...calm, memory: 0.8 }), 'calm')
    t.equal(Math.round(cache.maxBytes / MIB), 50, 'it does not grow at once')
    t.strictSame(
      told('cache-gives-way').map(({ isOver }) => isOver),
      [false],
      'told once',
    )
  },
)

void t.test(
  'When the cache has given all, misses are refused, and the reason is the memory though the loop is late, too',
  async (t) => {
    const { monitor, looks, cache } = setUp()
    cache.bytes = 30 * MIB
    t.equal(await looks(4, { ...late, memory: 0.96 }), 'shedding')
    t.equal(cache.bytes, MIB)
    t.equal(monitor.because, 'memory')
    t.throws(() => monitor.mayAsk(), { code: 'OVERLOADED', reason: 'memory' })
    t.equal(await looks(10, { ...late, memory: 0.5 }), 'shedding')
    t.equal(monitor.because, 'event-loop', 'what is left of it')
    t.throws(() => monitor.mayAsk(), { code: 'OVERLOADED', reason: 'event-loop' })
  },
)

void t.test('When memory is free again, the cache gets its size back, little by little', async (t) => {
  const { looks, cache, told } = setUp()
  cache.bytes = 300 * MIB
  await looks(4, { ...calm, memory: 0.95 })
  t.equal(cache.maxBytes, MIB)
  await looks(10, calm)
  t.equal(cache.maxBytes / MIB, 41)
  await looks(100, calm)
  t.equal(cache.maxBytes, cache.fullBytes)
  t.match(told('cache-gives-way'), [{ isOver: false }, { isOver: true, maxBytes: 400 * MIB }])
})

void t.test('Garbage is collected at the first look, and while memory stays short every five seconds', async (t) => {
  const { looks, collections } = setUp()
  await looks(1, full)
  t.equal(collections(), 1)
  await looks(9, full)
  t.equal(collections(), 1)
  await looks(1, full)
  t.equal(collections(), 2)
  await looks(50, calm)
  t.equal(collections(), 2)
})

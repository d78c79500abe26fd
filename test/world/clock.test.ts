import { once, EventEmitter } from 'node:events'
import { mock } from 'node:test'
import t from 'tap'
import { createClock } from '../../src/world/clock.ts'
import { createRandom } from '../../src/world/random.ts'

void t.test('The clock tells the epoch, and never runs backwards', async (t) => {
  const clock = createClock()
  const wall = clock.wall()
  t.ok(Number.isInteger(wall) && wall > Date.UTC(2025))
  const readings = Array.from({ length: 1_000 }, () => clock.now())
  t.ok(readings.every((reading, i) => reading >= (readings[i - 1] ?? Date.UTC(2025))))
})

void t.test('A job runs once, unless it is cancelled', async (t) => {
  const clock = createClock()
  const bell = new EventEmitter()
  // A timer of the clock does not keep the process alive, so something else must.
  const alive = setInterval(() => {}, 1_000)
  clock.after(0, () => t.fail('it was cancelled')).cancel()
  clock.after(-5, () => bell.emit('rang'))
  await once(bell, 'rang')
  await new Promise((resolve) => clock.after(0, () => resolve(null)))
  clearInterval(alive)
})

void t.test('A delay longer than a timer of Node can be is waited for to its end', async (t) => {
  mock.timers.enable({ apis: ['setTimeout'] })
  t.teardown(() => mock.timers.reset())
  const clock = createClock()
  const longest = 2 ** 31 - 1
  let rang = 0
  clock.after(2 * longest + 5, () => (rang += 1))
  const cancelled = clock.after(longest + 1, () => t.fail('it was cancelled on its last leg'))
  mock.timers.tick(longest)
  cancelled.cancel()
  mock.timers.tick(longest)
  mock.timers.tick(4)
  t.equal(rang, 0)
  mock.timers.tick(1)
  t.equal(rang, 1)
})

void t.test('Chance is uniform in [0, 1), and no two request ids are the same', async (t) => {
  const random = createRandom()
  const draws = Array.from({ length: 1_000 }, () => random.next())
  t.ok(draws.every((draw) => draw >= 0 && draw < 1))
  const ids = new Set(Array.from({ length: 1_000 }, () => random.id()))
  t.equal(ids.size, 1_000)
  t.ok([...ids].every((id) => /^[!-~]{36}$/.test(id)))
})

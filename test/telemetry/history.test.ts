/** What the pictures of the status page are made of, with real requests through the real pipeline and a clock that is turned. */
import t from 'tap'
import { createHistory } from '../../src/telemetry/history.ts'
import { createMemoryStore } from '../../src/jobs/store.ts'
import { observed } from '../support/observed.ts'
import { answered, failed } from '../support/verdicts.ts'
import { fakeWorld } from '../support/world.ts'

const hour = 3_600_000

void t.test('each request is counted once, by how it ended', async (t) => {
  const { history, finish, clock } = observed({
    says: (n) => (n === 3 ? failed('rejected') : answered()),
    takesMs: 8_000,
  })
  await finish({ prompt: 'one' })
  await finish({ prompt: 'one' })
  await finish({ prompt: 'two' })
  await finish({ prompt: 'three' })
  const steps = history.steps('hour')
  const sum = (name: 'cached' | 'fetched' | 'refused') => steps.reduce((all, { requests }) => all + requests[name], 0)
  t.strictSame([sum('cached'), sum('fetched'), sum('refused')], [1, 2, 1])
  t.equal(
    steps.reduce((all, { spentCredits }) => all + spentCredits, 0),
    6,
  )
  t.equal(
    steps.reduce((all, { savedCredits }) => all + savedCredits, 0),
    3,
  )
  t.match(history.hours(), {
    now: { requests: 4, refused: 1, success: 1, spentCredits: 6, savedCredits: 3 },
    dayAgo: null,
  })
  const { p50Ms } = history.hours().now
  t.ok(p50Ms !== null && p50Ms > 6_000 && p50Ms <= 10_000, `p50 of misses that took 8 s: ${p50Ms}`)
  await clock.advance(2 * hour)
  t.match(history.hours(), { now: { requests: 0, success: null, p50Ms: null } }, 'an hour later nothing is left of it')
  t.equal(
    history.steps('day').reduce((all, { requests }) => all + requests.fetched, 0),
    2,
    'the day remembers',
  )
})

void t.test('a request that ends in a step was open in it', async (t) => {
  const { history, ask, finish, clock } = observed({ takesMs: 12_000, says: () => answered() })
  const asked = ask()
  await clock.finish(asked.outcome)
  const open = () => history.steps('hour').map(({ openQuestions }) => openQuestions)
  t.strictSame(open(), [1, 1])
  await finish()
  await finish()
  await clock.advance(10_000)
  await finish({ prompt: 'other' })
  t.strictSame(open().at(-1), 1, 'a hit is not open')
})

void t.test('what is wrong is remembered with its beginning, until it is over', async (t) => {
  const { clock } = fakeWorld()
  const history = createHistory({ clock, credits: () => ({ spent: 0, saved: 0 }), open: () => 0 })
  const began = clock.wall()
  history.note({ kind: 'breaker-changed', scraper: 'grok', to: 'open', openForMs: 1_000, isStillOpen: false })
  await clock.advance(1_000)
  history.note({ kind: 'breaker-changed', scraper: 'grok', to: 'half-open', openForMs: null, isStillOpen: false })
  history.note({ kind: 'breaker-changed', scraper: 'grok', to: 'open', openForMs: 2_000, isStillOpen: true })
  t.strictSame(history.troubles(), [{ at: began, text: 'circuit of grok' }])
  history.note({ kind: 'breaker-changed', scraper: 'grok', to: 'closed', openForMs: null, isStillOpen: false })
  t.strictSame(history.troubles(), [])
  t.strictSame(
    history.marks('hour').map(({ text }) => text),
    ['started', 'circuit of grok opened', 'circuit of grok closed'],
    'openings within a step are one mark',
  )
})

void t.test('steps of the day survive a restart, and are compared with today', async (t) => {
  const { clock } = fakeWorld()
  const store = createMemoryStore(clock)
  const first = createHistory({ clock, credits: () => ({ spent: 0, saved: 0 }), open: () => 0 })
  first.keepIn(store)
  for (let minute = 0; minute < 60; minute += 1) {
    first.begin()
    await clock.advance(60_000)
  }
  await clock.advance(23 * hour)
  first.steps('day')
  const second = createHistory({ clock, credits: () => ({ spent: 0, saved: 0 }), open: () => 0 })
  second.keepIn(store)
  t.ok(second.steps('day').length > 10)
  t.ok(second.hours().dayAgo, 'the same hour of yesterday is known')
  await clock.advance(27 * hour)
  t.equal(second.hours().dayAgo, null, 'what is older than a day and two hours is gone')
})

void t.test('memory is bounded, and steps of the future go when the clock is set back', async (t) => {
  const world = fakeWorld()
  const { clock } = world
  const history = createHistory({ clock, credits: () => ({ spent: 0, saved: 0 }), open: () => 0 })
  for (let count = 0; count < 2_000; count += 1) {
    history.begin()
    history.note({ kind: 'key-changed', key: `k${count}`, to: 'ready', because: null, untilAt: null })
    await clock.advance(30_000)
  }
  t.ok(history.steps('hour').length <= 360)
  t.ok(history.steps('day').length <= 288)
  t.ok(history.marks('day').length <= 200)
  clock.stepWall(-6 * hour)
  history.begin()
  t.ok(history.steps('day').every(({ at }) => at <= clock.wall()))
})

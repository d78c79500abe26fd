/** Budgets: what they grant, what they give back and what they remember, under any interleaving and any crash. */
import fc from 'fast-check'
import t from 'tap'
import { ProxyError } from '../../src/errors.ts'
import type { BudgetStore } from '../../src/limits/accounts.ts'
import { type Budgets, createBudget } from '../../src/limits/budget.ts'
import { rowsOf } from '../../src/limits/day-sums.ts'
import { dayOf, monthOf, periodNamed } from '../../src/limits/period.ts'
import type { Charge, Client } from '../../src/model.ts'
import type { Hold } from '../../src/fetch-parts.ts'
import type { Clock, DiskRecord, DiskSum } from '../../src/ports.ts'
import { epoch, fakeClock, fakeWorld, seededRandom } from '../support/world.ts'
import { aCall, aClient } from '../support/verdicts.ts'

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS
const charged: Charge = { state: 'charged', credits: 3 }
const unknown: Charge = { state: 'unknown', credits: 3 }
const free: Charge = { state: 'free', credits: 0 }

function withCredits(perDay: number | null, perMonth: number | null = null, name = 'team'): Client {
  return aClient({ name, credits: { perDay, perMonth } })
}

/** What survives a crash: records as JSON, with the puts that led to them. `away`: it can be neither read nor written. */
function createStore(clock: Clock) {
  const records = new Map<string, { readonly text: string; readonly expiresAt: number | null }>()
  const puts: (readonly (DiskRecord | DiskSum)[])[] = []
  const state = { isRead: true, isSafe: true, readAgain: [] as (() => void)[] }
  const isGood = ({ expiresAt }: { readonly expiresAt: number | null }) =>
    expiresAt === null || expiresAt > clock.wall()
  const store: NonNullable<BudgetStore> = {
    put(list) {
      puts.push(list)
      for (const record of list) {
        const { space, key, expiresAt } = record
        const value = 'add' in record ? together(`${space}:${key}`, record.add) : record.value
        if (value === null) records.delete(`${space}:${key}`)
        else records.set(`${space}:${key}`, { text: JSON.stringify(value), expiresAt })
      }
    },
    get(space, key) {
      const record = records.get(`${space}:${key}`)
      return record && isGood(record) ? JSON.parse(record.text) : null
    },
    list: (space) =>
      [...records]
        .filter(([name, record]) => name.startsWith(`${space}:`) && isGood(record))
        .map(([name, { text }]) => [name.slice(space.length + 1), JSON.parse(text)] as const),
    secure: async () => state.isSafe,
    onRead: (listener) => void state.readAgain.push(listener),
    get isRead() {
      return state.isRead
    },
  }
  function together(name: string, add: DiskSum['add']): DiskSum['add'] {
    const sums = JSON.parse(records.get(name)?.text ?? '{}') as DiskSum['add']
    const added = Object.entries(add).map(([field, value]) => [field, (sums[field] ?? 0) + value] as const)
    return { ...sums, ...Object.fromEntries(added) }
  }
  const names = () => [...records.keys()].filter((name) => !name.startsWith('day-sums')).toSorted()
  const rows = () => rowsOf(store, '2026-01')
  return { store, puts, names, state, rows, clear: () => records.clear() }
}

/** One process after another on one store; `crash` is the end of one and the start of the next. */
function createScene(...clients: Client[]) {
  const world = fakeWorld()
  const disk = createStore(world.clock)
  const start = () => createBudget({ ...world, store: disk.store, clients: () => clients })
  let budget = start()
  return {
    ...world,
    ...disk,
    get budget() {
      return budget
    },
    crash: () => void (budget = start()),
  }
}

async function refusalOf(work: Promise<unknown>): Promise<ProxyError> {
  const error: unknown = await work.then(
    () => null,
    (error: unknown) => error,
  )
  if (error instanceof ProxyError) return error
  throw new Error('Nothing was refused.', { cause: error })
}

function stateOf(budget: Budgets, period: 'day' | 'month' = 'day') {
  const state = budget.states().find((state) => state.period === period)
  if (!state) throw new Error(`There is no budget for the ${period}.`)
  const { leftCredits, heldCredits, spentCredits } = state
  return [leftCredits, heldCredits, spentCredits]
}

async function pay(budget: Budgets, client: Client, charge: Charge = charged): Promise<Hold> {
  const hold = await budget.hold(client, aCall())
  await hold.secure(3)
  hold.spend(charge)
  hold.settle()
  return hold
}

void t.test('Credits are held, spent and given back, and always add up to the limit', async (t) => {
  const client = withCredits(10)
  const { budget } = createScene(client)
  t.strictSame(stateOf(budget), [10, 0, 0])
  const first = await budget.hold(client, aCall())
  const second = await budget.hold(client, aCall())
  t.strictSame(stateOf(budget), [4, 6, 0])

  await first.secure(3)
  first.spend(charged)
  t.strictSame(stateOf(budget), [4, 3, 3], 'spent at once, not only when it is settled')
  first.settle()
  t.strictSame(stateOf(budget), [4, 3, 3])

  await second.secure(3)
  second.spend(free)
  second.settle()
  second.settle()
  t.strictSame(stateOf(budget), [7, 0, 3], 'what was free is given back, and once')

  await pay(budget, client, unknown)
  t.strictSame(stateOf(budget), [4, 0, 6], 'what may have been charged counts as charged')
  await pay(budget, client, { state: 'charged', credits: 1 })
  t.strictSame(stateOf(budget), [3, 0, 7], 'what upstream says beats the price')
})

void t.test('An answer that costs more than its price is counted in full, even below nothing', async (t) => {
  const client = withCredits(4)
  const scene = createScene(client)
  const hold = await scene.budget.hold(client, aCall())
  await hold.secure(3)
  hold.spend({ state: 'charged', credits: 7 })
  t.strictSame(stateOf(scene.budget), [-3, 0, 7])
  t.match(scene.budget.limits(client), [{ remaining: 0 }], 'nobody is told of less than nothing')
  t.match(await refusalOf(scene.budget.hold(client, aCall())), { code: 'BUDGET_EXHAUSTED' })

  scene.crash()
  t.strictSame(stateOf(scene.budget), [-3, 0, 7], 'nor is it forgotten before it is settled')
  scene.budget.sweep()
  t.strictSame(stateOf(scene.budget), [-3, 0, 7])

  const late = await createScene(client).budget.hold(client, aCall())
  late.settle()
  await t.rejects(late.secure(3), { message: 'This hold is settled.' })
})

void t.test('What is spent after the hold was settled is not lost', async (t) => {
  const client = withCredits(10)
  const scene = createScene(client)
  const hold = await scene.budget.hold(client, aCall())
  hold.settle()
  hold.spend(charged)
  t.strictSame(stateOf(scene.budget), [7, 0, 3])
  scene.crash()
  t.strictSame(stateOf(scene.budget), [7, 0, 3])
})

/** What was spent: by the client, and by all together. */
const ownAndWhole = ['spent:2026-01-15/', 'spent:2026-01-15/team', 'spent:2026-01/', 'spent:2026-01/team']

void t.test('A further attempt needs credits of its own once an earlier one has used up what was held', async (t) => {
  const client = withCredits(8)
  const scene = createScene(client)
  const hold = await scene.budget.hold(client, aCall())
  await hold.secure(3)
  hold.spend(free)
  await hold.secure(3)
  t.strictSame(stateOf(scene.budget), [5, 3, 0], 'a free attempt used up nothing')
  hold.spend(unknown)
  await hold.secure(3)
  t.strictSame(stateOf(scene.budget), [2, 3, 3])
  hold.spend(unknown)
  t.match(await refusalOf(hold.secure(3)), { code: 'BUDGET_EXHAUSTED', status: 429 })
  t.strictSame(stateOf(scene.budget), [2, 0, 6], 'a refusal holds nothing')
  hold.settle()
  t.strictSame(stateOf(scene.budget), [2, 0, 6])
  t.strictSame(scene.names(), ownAndWhole)
})

void t.test('A correction may be more than what was spent today', async (t) => {
  const client = withCredits(20, 100)
  const { budget, clock } = createScene(client)
  await pay(budget, client, { state: 'charged', credits: 15 })
  await clock.advance(DAY_MS)
  await pay(budget, client)
  t.strictSame(budget.correct('team', 6), { beforeCredits: 18, spentCredits: 6 })
  t.strictSame(
    [stateOf(budget), stateOf(budget, 'month')],
    [
      [20, 0, 0],
      [94, 0, 6],
    ],
  )
})

void t.test('What was told before a restart is not told again', async (t) => {
  const client = withCredits(15)
  const scene = createScene(client)
  for (let i = 0; i < 4; i += 1) await pay(scene.budget, client)
  t.strictSame(
    scene.told('budget-used').map(({ percent }) => percent),
    [50, 80],
  )
  scene.crash()
  await pay(scene.budget, client)
  t.strictSame(
    scene.told('budget-used').map(({ percent }) => percent),
    [50, 80, 95, 100],
  )
})

void t.test('Shares of the account as a whole are of its limit, the reserve included', async (t) => {
  const client = withCredits(null)
  const { clock, world } = { clock: fakeClock(), world: fakeWorld() }
  const account = () => ({ perDay: 12, perMonth: null, reserveCredits: 6 })
  const budget = createBudget({
    clock,
    emit: world.emit,
    random: world.random,
    store: null,
    clients: () => [client],
    account,
  })
  await pay(budget, client)
  t.strictSame(world.told('budget-used'), [], '3 of 12')
  await pay(budget, client)
  t.match(world.told('budget-used'), [{ client: '', percent: 50, limitCredits: 12 }])
})

void t.test('A budget that is only held is worth asking again soon', async (t) => {
  const client = withCredits(6, null)
  const { budget } = createScene(client)
  const held = [await budget.hold(client, aCall()), await budget.hold(client, aCall())]
  const refusal = await refusalOf(budget.hold(client, aCall()))
  t.match(refusal, { code: 'BUDGET_EXHAUSTED', status: 429, retryAfterMs: 10_000 })
  t.match(refusal.message, 'set aside for requests under way')
  for (const hold of held) hold.settle()
  await pay(budget, client)
})

void t.test('A refusal says which period is used up and when it ends; of both, the later one', async (t) => {
  const day = withCredits(3, 9)
  const { budget, clock } = createScene(day)
  await pay(budget, day)
  const refusal = await refusalOf(budget.hold(day, aCall()))
  t.match(refusal, { code: 'BUDGET_EXHAUSTED', status: 429, retryAfterMs: 12 * HOUR_MS })
  t.match(refusal.message, 'for the day')
  t.match(refusal.message, 'resets at 2026-01-16T00:00:00Z')

  await clock.advance(12 * HOUR_MS)
  await pay(budget, day)
  await clock.advance(DAY_MS)
  await pay(budget, day)
  const both = await refusalOf(budget.hold(day, aCall()))
  t.match(both, { retryAfterMs: 15 * DAY_MS })
  t.match(both.message, 'for the month')
  t.match(both.message, '2026-02-01T00:00:00Z')

  await clock.advance(DAY_MS)
  t.match(await refusalOf(budget.hold(day, aCall())), { message: /for the month/, retryAfterMs: 14 * DAY_MS })
  await clock.advance(14 * DAY_MS)
  t.strictSame(
    [stateOf(budget), stateOf(budget, 'month')],
    [
      [3, 0, 0],
      [9, 0, 0],
    ],
  )
  await pay(budget, day)
})

void t.test('Questions that cost nothing hold nothing', async (t) => {
  const client = withCredits(0)
  const { budget, puts } = createScene(client)
  const hold = await budget.hold(client, aCall({ endpoint: 'status', priceCredits: 0 }))
  t.equal(hold, budget.none)
  await hold.secure(3)
  hold.spend(free)
  hold.settle()
  t.strictSame([stateOf(budget), puts], [[0, 0, 0], []])
})

void t.test('Without limits everything is granted, counted all the same, and nothing is said in headers', async (t) => {
  const client = withCredits(null)
  const scene = createScene(client, withCredits(null, null, 'idle'))
  for (let i = 0; i < 100; i += 1) await pay(scene.budget, client)
  await scene.budget.hold(client, aCall())
  t.strictSame(scene.budget.states(), [])
  t.strictSame(scene.budget.limits(client), [])
  t.ok(scene.budget.hasRoom(client))
  t.strictSame(scene.budget.spending(), [
    { client: 'team', dayCredits: 300, monthCredits: 300, heldCredits: 3 },
    { client: 'idle', dayCredits: 0, monthCredits: 0, heldCredits: 0 },
  ])
  await scene.clock.advance(DAY_MS)
  t.match(scene.budget.spending()[0], { dayCredits: 0, monthCredits: 300, heldCredits: 3 })
  scene.crash()
  t.match(scene.budget.spending()[0], { monthCredits: 300 })
})

void t.test('A client is told its limits in the form of the RateLimit headers', async (t) => {
  const client = withCredits(3000, 60_000)
  const { budget } = createScene(client)
  await pay(budget, client)
  await budget.hold(client, aCall())
  t.strictSame(budget.limits(client), [
    { policy: '"credits-day";q=3000;w=86400', remaining: 2994, resetMs: 12 * HOUR_MS },
    { policy: '"credits-month";q=60000;w=2678400', remaining: 59_994, resetMs: 16.5 * DAY_MS },
  ])
  t.match(budget.states(), [{ resetAt: Date.UTC(2026, 0, 16) }, { resetAt: Date.UTC(2026, 1) }])
})

void t.test('There is room while a fifth of every limited period is neither spent nor held', async (t) => {
  const [day, month] = [withCredits(15), withCredits(null, 15, 'other')]
  const { budget } = createScene(day, month)
  for (const client of [day, month]) {
    const hold = await budget.hold(client, aCall({ priceCredits: 12 }))
    t.ok(budget.hasRoom(client), 'just a fifth')
    await budget.hold(client, aCall({ priceCredits: 1 }))
    t.notOk(budget.hasRoom(client))
    hold.settle()
    t.ok(budget.hasRoom(client))
  }
})

void t.test(
  'At 50, 80, 95 and 100 % of a period it is told once, with the forecast, and in the next period again',
  async (t) => {
    const client = withCredits(15, 300)
    const { budget, clock, told } = createScene(client)
    const percents = (kind: 'day' | 'month') =>
      told('budget-used').flatMap(({ period, percent }) => (period.kind === kind ? [percent] : []))
    for (let i = 0; i < 2; i += 1) await pay(budget, client)
    const held = await budget.hold(client, aCall())
    t.strictSame(told('budget-used'), [], 'what is held is not spent')
    held.settle()
    await pay(budget, client)
    t.strictSame(told('budget-used'), [
      {
        kind: 'budget-used',
        client: 'team',
        period: dayOf(clock.wall()),
        percent: 50,
        spentCredits: 9,
        limitCredits: 15,
        // Nine in twelve hours are fifteen in twenty.
        usedUpAt: Date.UTC(2026, 0, 15, 20),
      },
    ])
    for (let i = 0; i < 2; i += 1) await pay(budget, client)
    t.strictSame(percents('day'), [50, 80, 95, 100])
    t.strictSame(percents('month'), [])
    for (let day = 0; day < 9; day += 1) {
      await clock.advance(DAY_MS)
      for (let i = 0; i < 5; i += 1) await pay(budget, client)
    }
    t.equal(percents('day').length, 40)
    t.strictSame(percents('month'), [50])
    t.equal(told('budget-used').at(-1)?.usedUpAt !== undefined, true)
  },
)

void t.test('A hold belongs to the day it was made on, whatever the clock does meanwhile', async (t) => {
  const client = withCredits(10, 20)
  const { budget, clock } = createScene(client)
  await clock.advance(12 * HOUR_MS - 1)
  const hold = await budget.hold(client, aCall())
  await clock.advance(1)
  t.strictSame(stateOf(budget), [10, 0, 0], 'a new day')
  t.strictSame(stateOf(budget, 'month'), [17, 3, 0], 'the same month')
  await hold.secure(3)
  hold.spend(charged)
  hold.spend(charged)
  hold.settle()
  t.strictSame(stateOf(budget), [10, 0, 0])
  t.strictSame(stateOf(budget, 'month'), [14, 0, 6])

  clock.stepWall(-1)
  t.strictSame(stateOf(budget), [4, 0, 6], 'the clock was stepped back over midnight: yesterday is known')
  const late = await budget.hold(client, aCall())
  clock.stepWall(HOUR_MS)
  late.spend(unknown)
  await late.secure(1)
  t.match(
    await refusalOf(late.secure(9)),
    { retryAfterMs: 0, message: /2026-01-16T00:00:00Z/ },
    'a day that is over refuses, and a new hold need not wait for it',
  )
})

void t.test('However far the wall clock is stepped, what was spent is not granted again', async (t) => {
  const client = withCredits(6)
  const { budget, clock } = createScene(client)
  await pay(budget, client)
  clock.stepWall(400 * DAY_MS)
  await pay(budget, client)
  await clock.advance(DAY_MS)
  clock.stepWall(-401 * DAY_MS)
  t.strictSame(stateOf(budget), [3, 0, 3])
  await pay(budget, client)
  t.match(await refusalOf(budget.hold(client, aCall())), { code: 'BUDGET_EXHAUSTED' })
})

void t.test('Accounts of periods long gone are forgotten, but not while credits are held in them', async (t) => {
  const client = withCredits(null)
  const { clock, emit, random } = fakeWorld()
  const budget = createBudget({ clock, emit, random, store: null, clients: () => [client] })
  await pay(budget, client)
  await clock.advance(DAY_MS)
  const hold = await budget.hold(client, aCall())
  await clock.advance(40 * DAY_MS)
  t.match(budget.spending(), [{ dayCredits: 0, monthCredits: 0, heldCredits: 3 }])
  clock.stepWall(-40 * DAY_MS)
  t.match(budget.spending(), [{ dayCredits: 0, monthCredits: 3, heldCredits: 3 }], 'the month still holds some')
  clock.stepWall(-DAY_MS)
  t.match(budget.spending(), [{ dayCredits: 0 }], 'the first day is forgotten')
  hold.settle()
  t.match(budget.spending(), [{ heldCredits: 0 }])
})

void t.test('What was sent before a crash counts as held at once, and as spent when nobody takes it up', async (t) => {
  const client = withCredits(30, 300)
  const scene = createScene(client)
  await pay(scene.budget, client)
  const [sent, resumed] = [await scene.budget.hold(client, aCall()), await scene.budget.hold(client, aCall())]
  await scene.budget.hold(client, aCall())
  await sent.secure(3)
  await resumed.secure(3)
  resumed.spend(unknown)
  await resumed.secure(3)
  t.strictSame(stateOf(scene.budget), [15, 9, 6])

  scene.crash()
  t.strictSame(stateOf(scene.budget), [18, 6, 6], 'what was only held, and never sent, is free again')
  const adopted = scene.budget.adopt(resumed.id)
  t.equal(adopted?.id, resumed.id)
  t.equal(scene.budget.adopt(resumed.id), null, 'once')
  t.equal(scene.budget.adopt('somebody else’s'), null)
  scene.budget.sweep()
  t.strictSame(stateOf(scene.budget), [18, 3, 9])
  t.strictSame(scene.told('holds-swept'), [{ kind: 'holds-swept', holds: 1, credits: 3 }])
  scene.budget.sweep()
  t.equal(scene.told('holds-swept').length, 1)

  await adopted?.secure(3)
  adopted?.spend(free)
  adopted?.settle()
  t.strictSame(stateOf(scene.budget), [21, 0, 9])
  t.strictSame(stateOf(scene.budget, 'month'), [291, 0, 9])
  scene.crash()
  scene.budget.sweep()
  t.strictSame(stateOf(scene.budget), [21, 0, 9])
  t.strictSame(scene.names(), ownAndWhole)
})

void t.test('A hold is in the store before the attempt, and leaves it together with what it spent', async (t) => {
  const client = withCredits(30)
  const { budget, puts } = createScene(client)
  const hold = await budget.hold(client, aCall())
  t.equal(puts.length, 0, 'nothing is written for a flight that somebody else pays')
  const securing = hold.secure(3)
  t.equal(puts.length, 1, 'written before anything can come in between')
  await securing
  await hold.secure(3)
  t.equal(puts.length, 1, 'nothing new, nothing written')
  hold.spend(charged)
  hold.settle()
  const resetAt = { day: Date.UTC(2026, 0, 16), month: Date.UTC(2026, 1) }
  const periods = ['2026-01-15', '2026-01']
  t.strictSame(puts, [
    [
      {
        space: 'hold',
        key: hold.id,
        value: { client: 'team', scraper: 'alpha', periods, credits: 3, spentCredits: 0, uses: [] },
        expiresAt: null,
      },
    ],
    [
      { space: 'spent', key: '2026-01-15/team', add: { credits: 3 }, expiresAt: resetAt.day + DAY_MS },
      { space: 'spent', key: '2026-01-15/', add: { credits: 3 }, expiresAt: resetAt.day + DAY_MS },
      { space: 'spent', key: '2026-01/team', add: { credits: 3 }, expiresAt: resetAt.month + DAY_MS },
      { space: 'spent', key: '2026-01/', add: { credits: 3 }, expiresAt: resetAt.month + DAY_MS },
      {
        space: 'day-sums/2026-01',
        key: '2026-01-15/team/alpha/none',
        add: { spent: 3 },
        expiresAt: resetAt.day + 400 * DAY_MS,
      },
      { space: 'hold', key: hold.id, value: null, expiresAt: null },
    ],
  ])
})

void t.test('Records that are no such records are worth nothing, and a client that is gone has no limit', async (t) => {
  const clock = fakeClock()
  const { store } = createStore(clock)
  const good = { client: 'gone', periods: ['2026-01-15', '2026-01'], credits: 3, spentCredits: 0 }
  const bad = [
    7,
    { ...good, client: 1 },
    { ...good, credits: -1 },
    { ...good, spentCredits: 4 },
    { ...good, spentCredits: 0.5 },
    { ...good, periods: 'day' },
    { ...good, periods: [] },
    { ...good, periods: ['2026-01-15', '2026-13'] },
  ]
  store?.put([
    ...bad.map((value, i) => ({ space: 'hold', key: `bad-${i}`, value, expiresAt: null })),
    { space: 'hold', key: 'good', value: good, expiresAt: null },
    { space: 'spent', key: '2026-01-15/team', value: { credits: 'many' }, expiresAt: null },
  ])
  const { emit, random } = fakeWorld()
  const budget = createBudget({ clock, emit, random, store, clients: () => [withCredits(10)] })
  for (const [i] of bad.entries()) t.equal(budget.adopt(`bad-${i}`), null)
  t.strictSame(stateOf(budget), [10, 0, 0])
  const hold = budget.adopt('good')
  await hold?.secure(1_000)
  hold?.settle()
})

// Periods

void t.test('Days and months begin and end in UTC, whatever their length', async (t) => {
  const months: [at: string, days: number, next: string][] = [
    ['2026-01-31T23:59:59.999Z', 31, '2026-02-01'],
    ['2026-02-28T12:00:00Z', 28, '2026-03-01'],
    ['2024-02-29T00:00:00Z', 29, '2024-03-01'],
    ['2026-04-30T23:59:59Z', 30, '2026-05-01'],
    ['2026-12-31T23:59:59.999Z', 31, '2027-01-01'],
  ]
  for (const [at, days, next] of months) {
    const { startsAt, resetAt } = monthOf(Date.parse(at))
    t.equal((resetAt - startsAt) / DAY_MS, days, at)
    t.equal(resetAt, Date.parse(next), at)
  }
  fc.assert(
    fc.property(fc.date({ min: new Date(0), max: new Date('2400-01-01'), noInvalidDate: true }), (date) => {
      const at = date.getTime()
      for (const period of [dayOf(at), monthOf(at)]) {
        const { id, startsAt, resetAt } = period
        const sameAt = period.kind === 'day' ? dayOf : monthOf
        t.ok(startsAt <= at && at < resetAt && date.toISOString().startsWith(id))
        t.strictSame([sameAt(startsAt), sameAt(resetAt - 1), periodNamed(id)], [period, period, period])
        t.equal(sameAt(resetAt).startsAt, resetAt, 'no gap')
      }
      t.equal(dayOf(at).resetAt - dayOf(at).startsAt, DAY_MS)
    }),
  )
  for (const name of ['', '2026', '2026-13', '2026-02-30', '2026-00-01', '2026-1', 'today', '2026-01-15T00']) {
    t.equal(periodNamed(name), null, name)
  }
})

// Any interleaving, any crash

type Command =
  | { readonly kind: 'hold'; readonly price: number; readonly limited: boolean }
  | { readonly kind: 'secure' | 'answer' | 'settle'; readonly which: number; readonly charge: Charge }
  | { readonly kind: 'crash'; readonly adopts: number }
  | { readonly kind: 'sweep' }
  | { readonly kind: 'pass'; readonly ms: number; readonly steps: boolean }

const which = fc.nat(20)
const anyCharge = fc.record({ state: fc.constantFrom('charged', 'unknown', 'free'), credits: fc.nat(5) })
const commands: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({ kind: fc.constant('hold'), price: fc.integer({ min: 1, max: 5 }), limited: fc.boolean() }),
  },
  {
    weight: 24,
    arbitrary: fc.record({ kind: fc.constantFrom('secure', 'answer', 'settle'), which, charge: anyCharge }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('crash'), adopts: fc.nat(7) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('sweep') }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('pass'),
      ms: fc.integer({ min: -20 * HOUR_MS, max: 20 * HOUR_MS }),
      steps: fc.boolean(),
    }),
  },
)

/** A hold as whoever holds it knows it. */
interface Known {
  hold: Hold
  readonly client: Client
  readonly price: number
  readonly periods: readonly string[]
  restCredits: number
  toldCredits: number
  /** As it was at the last attempt; null = never sent. A crash takes the hold back to this. */
  written: { readonly restCredits: number; readonly toldCredits: number } | null
  /** What upstream has charged since then. */
  billedCredits: number
  state: 'idle' | 'underway' | 'resumed'
}

void t.test('No interleaving and no crash spends more than a limit, and every hold ends exactly once', async (t) => {
  const tight = withCredits(20, 45, 'tight')
  const loose = withCredits(null, null, 'loose')
  const limits: Readonly<Record<string, number>> = { day: 20, month: 45 }
  const seen = { refused: 0, swept: 0, resumed: 0, ended: 0 }

  await fc.assert(fc.asyncProperty(fc.array(commands, { minLength: 30, maxLength: 120, size: 'max' }), run), {
    numRuns: 400,
  })
  t.ok(
    Object.values(seen).every((count) => count > 100),
    `all ways were gone: ${JSON.stringify(seen)}`,
  )

  async function run(script: readonly Command[]): Promise<void> {
    const scene = createScene(tight, loose)
    let open: Known[] = []
    let orphans: Known[] = []
    /** By period and client: what settled holds have spent, and what upstream was really paid. */
    const settled = new Map<string, number>()
    const real = new Map<string, number>()

    for (const command of script) {
      await obey(command)
      verify()
    }
    for (const known of open) finish(known)
    open = []
    sweep()
    verify()
    assertEqual(
      scene.budget.spending().map(({ heldCredits }) => heldCredits),
      [0, 0],
    )
    assertEqual(
      scene.names().filter((name) => name.startsWith('hold:')),
      [],
    )
    const records = scene.puts.flat().filter(({ space }) => space === 'hold')
    const removed = records.filter((record) => 'value' in record && record.value === null).map(({ key }) => key)
    assertEqual(removed.toSorted(), [...new Set(records.map(({ key }) => key))].toSorted())

    async function obey(command: Command): Promise<void> {
      if (command.kind === 'hold') return begin(command.limited ? tight : loose, command.price)
      if (command.kind === 'crash') return crash(command.adopts)
      if (command.kind === 'sweep') return sweep()
      if (command.kind === 'pass') {
        return command.steps ? scene.clock.stepWall(command.ms) : scene.clock.advance(Math.abs(command.ms))
      }
      const known = open[command.which % Math.max(1, open.length)]
      if (!known) return
      if (command.kind === 'secure' && known.state === 'idle') return secure(known)
      if (command.kind === 'answer' && known.state !== 'idle') return answer(known, command.charge)
      if (command.kind === 'settle' && known.state === 'idle') {
        finish(known)
        open = open.filter((other) => other !== known)
      }
    }

    async function begin(client: Client, price: number): Promise<void> {
      const wallMs = scene.clock.wall()
      const hold = await unlessRefused(scene.budget.hold(client, aCall({ priceCredits: price })))
      const periods = [dayOf(wallMs).id, monthOf(wallMs).id]
      const blank = { toldCredits: 0, billedCredits: 0, written: null, state: 'idle' } as const
      if (hold) open.push({ ...blank, hold, client, price, periods, restCredits: price })
    }

    async function secure(known: Known): Promise<void> {
      const isGranted = await unlessRefused(known.hold.secure(known.price).then(() => true))
      if (!isGranted) return
      known.restCredits = Math.max(known.restCredits, known.price)
      known.written = { restCredits: known.restCredits, toldCredits: known.toldCredits }
      known.billedCredits = 0
      known.state = 'underway'
    }

    /** A flight that was taken up again learns what the first one was charged. */
    function answer(known: Known, charge: Charge): void {
      let told: Charge = { state: 'charged', credits: known.billedCredits }
      if (known.state === 'underway') {
        told = { ...charge, credits: charge.state === 'free' ? 0 : Math.min(charge.credits, known.price) }
        if (told.state === 'charged' || told.credits % 2 === 0) bill(known, told.credits)
      }
      known.hold.spend(told)
      known.restCredits -= told.credits
      known.toldCredits += told.credits
      known.state = 'idle'
    }

    function bill(known: Known, credits: number): void {
      known.billedCredits += credits
      for (const period of known.periods) add(real, `${period}/${known.client.name}`, credits)
    }

    function finish(known: Known): void {
      known.hold.settle()
      known.hold.settle()
      book(known, known.toldCredits)
      seen.ended += 1
    }

    function book({ periods, client }: Known, credits: number): void {
      for (const period of periods) add(settled, `${period}/${client.name}`, credits)
    }

    /** Whatever is under way is charged all the same. */
    function crash(adopts: number): void {
      for (const known of open) if (known.state === 'underway') bill(known, known.price)
      scene.crash()
      orphans = [...orphans, ...open.filter(({ written }) => written !== null)]
      for (const orphan of orphans) Object.assign(orphan, orphan.written)
      open = orphans.slice(0, adopts)
      orphans = orphans.slice(adopts)
      for (const known of open) {
        const adopted = scene.budget.adopt(known.hold.id)
        if (!adopted) throw new Error('A hold that was sent is not known any more.')
        known.hold = adopted
        known.state = 'resumed'
        seen.resumed += 1
      }
    }

    function sweep(): void {
      scene.budget.sweep()
      for (const known of orphans) book(known, known.restCredits + known.toldCredits)
      seen.swept += orphans.length
      orphans = []
    }

    function verify(): void {
      const wallMs = scene.clock.wall()
      for (const { client, period, limitCredits, leftCredits, heldCredits, spentCredits } of scene.budget.states()) {
        const name = period === 'day' ? dayOf(wallMs).id : monthOf(wallMs).id
        const holds = [...open, ...orphans].filter(
          (known) => known.client.name === client && known.periods.includes(name),
        )
        const held = holds.reduce((sum, { restCredits }) => sum + restCredits, 0)
        const spent = holds.reduce((sum, { toldCredits }) => sum + toldCredits, settled.get(`${name}/${client}`) ?? 0)
        assertEqual([heldCredits, spentCredits], [held, spent])
        assertEqual([leftCredits, limitCredits], [limits[period]! - held - spent, limits[period]])
        if (leftCredits < 0) throw new Error(`${leftCredits} credits left of the ${period}`)
      }
      for (const [name, credits] of real) {
        const limit = name.endsWith('/loose') ? Number.POSITIVE_INFINITY : limits[name.length > 13 ? 'day' : 'month']!
        if (credits > limit) throw new Error(`${credits} credits were charged for ${name}`)
      }
    }
  }

  async function unlessRefused<T>(work: Promise<T>): Promise<T | null> {
    try {
      return await work
    } catch (error) {
      if (!(error instanceof ProxyError) || error.code !== 'BUDGET_EXHAUSTED') throw error
      seen.refused += 1
      return null
    }
  }

  function add(sums: Map<string, number>, name: string, credits: number): void {
    sums.set(name, (sums.get(name) ?? 0) + credits)
  }

  function assertEqual(found: unknown, wanted: unknown): void {
    const [foundText, wantedText] = [JSON.stringify(found), JSON.stringify(wanted)]
    if (foundText !== wantedText) throw new Error(`${foundText} instead of ${wantedText}`)
  }
})

interface Rush {
  readonly spentCredits: number
  readonly realCredits: number
  readonly attempts: number
}

/** 64 workers that ask until nothing is left, hang up, try again and fail as `fate` has it. */
async function rush(seed: number, fate: readonly (Charge | 'unanswered')[]): Promise<Rush> {
  const random = seededRandom(seed)
  const client = withCredits(1_000)
  const { budget } = createScene(client)
  const upstream = { realCredits: 0, attempts: 0, underway: 0 }
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random.next() * from.length)] as T

  async function attempt(hold: Hold): Promise<boolean> {
    await hold.secure(3)
    upstream.attempts += 1
    for (let turns = Math.floor(random.next() * 4); turns > 0; turns -= 1) await new Promise(setImmediate)
    const end = pick(fate)
    if (end === 'unanswered') {
      // Charged or not: the proxy cannot know.
      if (random.next() < 0.5) upstream.realCredits += 3
      hold.spend(unknown)
      return false
    }
    upstream.realCredits += end.credits
    hold.spend(end)
    return end.state === 'charged'
  }

  async function question(): Promise<void> {
    const hold = await budget.hold(client, aCall())
    upstream.underway += 1
    try {
      for (let tries = 0; tries < 3; tries += 1) if (await attempt(hold)) return
    } finally {
      hold.settle()
      upstream.underway -= 1
    }
  }

  async function worker(): Promise<void> {
    for (;;) {
      const refused = await question().catch((error: unknown) => error)
      // Others may still give back what they hold.
      if (refused && upstream.underway === 0) return
      if (refused) await new Promise(setImmediate)
    }
  }

  await Promise.all(Array.from({ length: 64 }, worker))
  const [left = 0, held = 0, spent = 0] = stateOf(budget)
  if (held !== 0 || left + spent !== 1_000) throw new Error(`left ${left}, held ${held}, spent ${spent}`)
  return { ...upstream, spentCredits: spent }
}

void t.test('64 workers against 1,000 credits spend exactly 999 when every failure is free', async (t) => {
  for (const seed of [1, 2, 3]) {
    const { spentCredits, realCredits, attempts } = await rush(seed, [charged, free, free])
    t.strictSame([spentCredits, realCredits], [999, 999])
    t.ok(attempts > 500, 'many of them failed')
  }
})

void t.test('64 workers never spend more than 1,000 credits when what failed may have been charged', async (t) => {
  for (const seed of [4, 5, 6]) {
    const { spentCredits, realCredits } = await rush(seed, [charged, free, 'unanswered'])
    t.ok(realCredits < spentCredits && spentCredits <= 1_000, `${realCredits} charged, ${spentCredits} counted`)
  }
})

void t.test('The account as a whole has limits of its own, and a reserve for those who may use it', async (t) => {
  const [usual, urgent] = [
    withCredits(null, null, 'usual'),
    { ...withCredits(null, null, 'urgent'), mayUseReserve: true },
  ]
  const world = fakeWorld()
  const account = { perDay: 12, perMonth: null, reserveCredits: 5 }
  const { store } = createStore(world.clock)
  const start = () => createBudget({ ...world, store, clients: () => [usual, urgent], account: () => account })
  const budget = start()
  await pay(budget, usual)
  await pay(budget, urgent)
  t.match(await refusalOf(budget.hold(usual, aCall())), { code: 'BUDGET_EXHAUSTED', message: /all clients together/ })
  t.equal(budget.hasRoom(usual), false)
  t.strictSame(budget.limits(usual), [], 'it is nobody’s own limit')
  await pay(budget, urgent)
  await pay(budget, urgent)
  t.match(await refusalOf(budget.hold(urgent, aCall())), { code: 'BUDGET_EXHAUSTED' })
  t.match(budget.states(), [{ client: '', period: 'day', limitCredits: 12, leftCredits: 0, spentCredits: 12 }])
  t.match(await refusalOf(start().hold(urgent, aCall())), { code: 'BUDGET_EXHAUSTED' }, 'after a restart, too')
  budget.refund('urgent', 3, world.clock.wall())
  t.match(budget.states(), [{ leftCredits: 3 }])
})

void t.test('A top-up is on top of the month, for as long as it lasts', async (t) => {
  const until = epoch + HOUR_MS
  const client = { ...withCredits(null, 4), credits: { perDay: null, perMonth: 4, topUp: { credits: 5, until } } }
  const { budget, clock } = createScene(client)
  t.match(budget.limits(client), [{ remaining: 9 }])
  await pay(budget, client)
  await pay(budget, client)
  t.match(budget.states(), [{ period: 'month', limitCredits: 9, spentCredits: 6 }])
  await clock.advance(HOUR_MS)
  t.match(budget.states(), [{ period: 'month', limitCredits: 4, leftCredits: -2 }])
  t.match(await refusalOf(budget.hold(client, aCall())), { code: 'BUDGET_EXHAUSTED' })
})

void t.test(
  'An operator can say what was really spent; the difference is taken from the day and the whole as well',
  async (t) => {
    const client = withCredits(20, 100)
    const scene = createScene(client)
    await pay(scene.budget, client, { state: 'charged', credits: 15 })
    t.strictSame(scene.budget.correct('team', 3), { beforeCredits: 15, spentCredits: 3 })
    t.strictSame(
      [stateOf(scene.budget), stateOf(scene.budget, 'month')],
      [
        [17, 0, 3],
        [97, 0, 3],
      ],
    )
    scene.crash()
    t.strictSame(
      [stateOf(scene.budget), stateOf(scene.budget, 'month')],
      [
        [17, 0, 3],
        [97, 0, 3],
      ],
    )
    t.strictSame(scene.budget.correct('team', 50), { beforeCredits: 3, spentCredits: 50 })
    t.match(await refusalOf(scene.budget.hold(client, aCall())), { code: 'BUDGET_EXHAUSTED' })
  },
)

void t.test('What is not known is not granted, and what cannot be written down is not sent', async (t) => {
  const client = withCredits(60)
  const free = withCredits(null, null, 'free')
  const scene = createScene(client, free)
  await pay(scene.budget, client)
  scene.state.isRead = false
  scene.crash()
  const { budget } = scene
  t.match(await refusalOf(budget.hold(client, aCall())), { code: 'BUDGET_UNAVAILABLE', status: 503 })
  t.strictSame([budget.limits(client), budget.states(), budget.hasRoom(client)], [[], [], false])
  await pay(budget, free)
  scene.state.isRead = true
  for (const listener of scene.state.readAgain) listener()
  t.strictSame(stateOf(budget), [57, 0, 3])

  const hold = await budget.hold(client, aCall())
  scene.state.isSafe = false
  t.match(await refusalOf(hold.secure(3)), { code: 'BUDGET_UNAVAILABLE' })
  hold.settle()
  t.strictSame(stateOf(budget), [57, 0, 3])
  await pay(budget, free)
  scene.state.isSafe = true
  await pay(budget, client)
  t.strictSame(stateOf(budget), [54, 0, 6])
})

void t.test(
  'A store that was lost gets back what this process knows; one in which others have spent is believed',
  async (t) => {
    const client = withCredits(60)
    const scene = createScene(client)
    await pay(scene.budget, client)
    const hold = await scene.budget.hold(client, aCall())
    await hold.secure(3)
    scene.clear()
    for (const listener of scene.state.readAgain) listener()
    t.strictSame(stateOf(scene.budget), [54, 3, 3])
    scene.crash()
    t.strictSame(stateOf(scene.budget), [54, 3, 3], 'the sum and the hold are there again')
    scene.store.put([{ space: 'spent', key: '2026-01-15/team', add: { credits: 30 }, expiresAt: null }])
    for (const listener of scene.state.readAgain) listener()
    t.strictSame(stateOf(scene.budget), [24, 3, 33])
  },
)

void t.test(
  'What was spent and perhaps spent is in the sums of the day, by scraper and key, together with the books',
  async (t) => {
    const client = withCredits(60)
    const scene = createScene(client)
    const call = aCall()
    const hold = await scene.budget.hold(client, call)
    await hold.secure(3)
    hold.spend(unknown, 'main')
    await hold.secure(3)
    hold.spend(charged, 'spare')
    t.strictSame(scene.rows(), [])
    hold.settle()
    const row = { day: '2026-01-15', client: 'team', scraper: call.scraper }
    t.match(scene.rows(), [
      { ...row, key: 'main', spent: 0, uncertain: 3 },
      { ...row, key: 'spare', spent: 3, uncertain: 0 },
    ])
    const cut = await scene.budget.hold(client, call)
    await cut.secure(3)
    scene.crash()
    scene.budget.sweep()
    t.match(scene.rows()[1], { key: 'none', uncertain: 3 })
    scene.budget.refund('team', 3, scene.clock.wall(), { scraper: call.scraper, key: 'spare' })
    t.match(scene.rows().at(-1), { key: 'spare', refunded: 3 })
    const sum = scene.rows().reduce((all, one) => all + one.spent + one.uncertain - one.refunded, 0)
    t.equal(sum, stateOf(scene.budget)[2])
  },
)

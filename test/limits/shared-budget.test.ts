/**
 * Credits that several replicas spend together. On a real Redis, where the wall clock of a replica is the test's; and on the model of
 * Redis, where data can be lost in any order. Replicas are sets of our parts, each with a connection of its own.
 */
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { ProxyError } from '../../src/errors.ts'
import { createSharedBudget, type SharedBudgetPorts, type SharedBudgets } from '../../src/limits/shared-budget.ts'
import type { AwayNews } from '../../src/limits/shared-slot.ts'
import type { AccountLimits, Charge, Client } from '../../src/model.ts'
import type { Hold } from '../../src/fetch-parts.ts'
import type { SharedState, SharedStore } from '../../src/ports.ts'
import { createClock } from '../../src/world/clock.ts'
import { createRandom } from '../../src/world/random.ts'
import { createRedis } from '../../src/world/redis.ts'
import { createRedisServer, type RedisServer } from '../simulation/redis-server.ts'
import { type RedisProcess, startRedis, until } from '../support/redis.ts'
import { aSession, type FakeSession } from '../support/session.ts'
import { aCall, aClient } from '../support/verdicts.ts'
import { type FakeWorld, fakeWorld } from '../support/world.ts'

const three: Charge = { state: 'charged', credits: 3 }
const free: Charge = { state: 'free', credits: 0 }
const DAY = '2026-01-15'
const NOON = Date.parse(`${DAY}T12:00:00Z`)

/** What the replicas of a fleet have in common. */
interface Fleet {
  readonly clients: readonly Client[]
  readonly gone: Set<string>
  wallMs: number
  /** Of the account as a whole. */
  whole: AccountLimits | null
  /** Null = it is not known who lives. */
  alive: string[] | null
  size: number
}

interface Replica {
  readonly budget: SharedBudgets
  readonly world: FakeWorld
  readonly session: FakeSession
  readonly news: readonly AwayNews[]
}

function aFleet(...clients: readonly Client[]): Fleet {
  return { clients, gone: new Set(), wallMs: NOON, whole: null, alive: [], size: 1 }
}

let replicas = 0

/** The parts stand still unless the clock of their world is moved. */
function aReplica(
  fleet: Fleet,
  store: Pick<SharedStore, 'run' | 'state'>,
  options: Partial<SharedBudgetPorts> = {},
): Replica {
  const world = fakeWorld()
  const news: AwayNews[] = []
  replicas += 1
  const id = `replica-${replicas}`
  fleet.alive?.push(id)
  const session: FakeSession = {
    ...aSession(id, fleet.gone),
    size: () => fleet.size,
    others: () => fleet.alive?.filter((one) => one !== id && !fleet.gone.has(one)) ?? null,
    wallMs: () => fleet.wallMs,
  }
  const budget = createSharedBudget({
    store,
    clock: world.clock,
    random: createRandom(),
    emit: world.emit,
    session,
    clients: () => fleet.clients,
    whole: () => fleet.whole,
    daySums: { put: () => {} },
    whenAway: () => 'closed',
    tell: (one) => void news.push(one),
    ...options,
  })
  return { budget, world, session, news }
}

interface Connected extends Replica {
  readonly store: SharedStore
}

async function upReplica(t: Test, url: string, fleet: Fleet, options: Partial<SharedBudgetPorts> = {}) {
  const place = { kind: 'single', url } as const
  const access = { username: null, password: null, database: 0, timeoutMs: 5_000, prefix: 't:' }
  const store = createRedis({ place, ...access }, createClock(), createRandom(), () => {})
  t.teardown(() => store.close())
  await until(() => store.state === 'up')
  const replica: Connected = { ...aReplica(fleet, store, options), store }
  await replica.budget.flush()
  return replica
}

function limited(perDay: number | null, perMonth: number | null = null, name = 'team'): Client {
  return aClient({ name, credits: { perDay, perMonth } })
}

/** One flight: held, marked, asked once, settled. */
async function fly({ budget }: Replica, client: Client, charge: Charge = three): Promise<void> {
  const hold = await budget.hold(client, aCall())
  try {
    await hold.secure(3)
    hold.spend(charge)
  } finally {
    hold.settle()
  }
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'granted',
    (error: unknown) => {
      if (error instanceof ProxyError) return error.code
      throw error
    },
  )
}

/** How many flights are paid for until one is refused, and why. */
async function flyAll(replica: Replica, client: Client, most = Number.POSITIVE_INFINITY): Promise<[number, string]> {
  for (let flights = 0; flights < most; flights += 1) {
    const code = await codeOf(fly(replica, client))
    if (code !== 'granted') return [flights, code]
  }
  return [most, 'granted']
}

function standing({ budget }: Replica, period: 'day' | 'month' = 'day') {
  const found = budget.states().find((one) => one.period === period)
  return found && { left: found.leftCredits, held: found.heldCredits, spent: found.spentCredits }
}

async function inRedis(redis: RedisProcess, name = 'team', day = DAY) {
  const reply = await redis.ask('HGETALL', `t:limits:{${name}}:credits:${day.slice(0, 7)}`)
  const texts = [...reply.matchAll(/\$\d+\r\n([^\r]*)\r\n/g)].map(([, text]) => text ?? '')
  const book = new Map(texts.flatMap((text, index) => (index % 2 === 0 ? [[text, texts[index + 1] ?? '']] : [])))
  const sum = (field: string): number => Number(book.get(field) ?? 0)
  const spent = sum(`spent:${day}`)
  return {
    spent,
    monthSpent: sum('spent'),
    held: sum(`risk:${day}`) - spent,
    leased: sum(`used:${day}`) - sum(`risk:${day}`),
  }
}

async function commands(redis: RedisProcess): Promise<number> {
  return Number(/cmdstat_evalsha:calls=(\d+)/.exec(await redis.ask('INFO', 'commandstats'))?.[1] ?? '0')
}

void t.test('A67, L2: 200 workers on 4 replicas spend exactly 999 of 1,000 credits', async (t) => {
  const redis = await startRedis(t)
  const client = limited(1_000)
  const fleet = { ...aFleet(client), size: 4 }
  const all = await Promise.all(Array.from({ length: 4 }, () => upReplica(t, redis.url, fleet)))
  const ends = await Promise.all(Array.from({ length: 200 }, (_, worker) => flyAll(all[worker % 4] as Replica, client)))
  for (const { budget } of [...all, ...all]) await budget.flush()
  t.equal(
    ends.reduce((sum, [flights]) => sum + flights, 0),
    333,
  )
  t.strictSame([...new Set(ends.map(([, code]) => code))], ['BUDGET_EXHAUSTED'])
  t.match(await inRedis(redis), { spent: 999, monthSpent: 999, held: 0 })
  for (const replica of all) t.strictSame(standing(replica), { left: 1, held: 0, spent: 999 })
})

void t.test('What is refused says until when, and the smaller of day and month counts', async (t) => {
  const redis = await startRedis(t)
  const client = limited(100, 9)
  const replica = await upReplica(t, redis.url, aFleet(client))
  t.match(replica.budget.limits(client), [
    { policy: '"credits-day";q=100;w=86400', remaining: 100 },
    { policy: '"credits-month";q=9;w=2678400', remaining: 9 },
  ])
  t.ok(replica.budget.hasRoom(client))
  t.strictSame(await flyAll(replica, client), [3, 'BUDGET_EXHAUSTED'])
  const refusal = await replica.budget.hold(client, aCall()).catch((error: unknown) => error)
  t.match(refusal, {
    status: 429,
    message: /for the month .* resets at 2026-02-01T00:00:00Z/,
    retryAfterMs: Date.parse('2026-02-01') - NOON,
  })
  t.notOk(replica.budget.hasRoom(client))
  t.match(replica.budget.states(), [
    { client: 'team', period: 'day', limitCredits: 100, leftCredits: 91, heldCredits: 0, spentCredits: 9 },
    { client: 'team', period: 'month', limitCredits: 9, leftCredits: 0, heldCredits: 0, spentCredits: 9 },
  ])
  t.strictSame(
    replica.world.told('budget-used').map(({ period, percent }) => [period.kind, percent]),
    [50, 80, 95, 100].map((percent) => ['month', percent]),
  )
  t.strictSame(replica.budget.spending(), [{ client: 'team', dayCredits: 9, monthCredits: 9, heldCredits: 0 }])
})

void t.test('A flight pays for what its attempts cost, and gives back the rest', async (t) => {
  const redis = await startRedis(t)
  const client = limited(20)
  const replica = await upReplica(t, redis.url, aFleet(client))
  const { budget } = replica

  const hold = await budget.hold(client, aCall())
  t.strictSame(standing(replica), { left: 17, held: 3, spent: 0 })
  await hold.secure(3)
  t.match(await inRedis(redis), { held: 3, spent: 0 })
  hold.spend(free)
  const before = await commands(redis)
  await hold.secure(3)
  t.equal(await commands(redis), before, 'what is marked already needs no asking')
  hold.spend({ state: 'unknown', credits: 3 })
  await hold.secure(3)
  t.match(await inRedis(redis), { held: 3, spent: 3 }, 'another attempt takes more')
  hold.spend({ state: 'charged', credits: 5 })
  hold.settle()
  hold.settle()
  await budget.flush()
  t.match(await inRedis(redis), { held: 0, spent: 8 }, 'more than expected is paid, too')
  await t.rejects(hold.secure(3), /settled/)
  hold.spend(three)
  await budget.flush()
  t.match(await inRedis(redis), { held: 0, spent: 11 }, 'late news counts')

  const last = await budget.hold(client, aCall())
  await last.secure(3)
  last.spend({ state: 'charged', credits: 7 })
  t.equal(await codeOf(last.secure(3)), 'BUDGET_EXHAUSTED', 'an attempt too many')
  last.settle()
  await budget.flush()
  t.match(await inRedis(redis), { held: 0, spent: 18 })

  t.equal(await budget.hold(client, aCall({ priceCredits: 0 })), budget.none)
  await budget.none.secure(3)
  budget.none.spend(three)
  budget.none.settle()
  t.match(await inRedis(redis), { held: 0, spent: 18 })
})

void t.test('A slice pays for many flights: one command to lease it, and one for each attempt', async (t) => {
  const redis = await startRedis(t)
  const client = limited(1_000)
  const replica = await upReplica(t, redis.url, aFleet(client))
  const before = await commands(redis)
  for (let i = 0; i < 10; i += 1) await fly(replica, client)
  t.equal((await commands(redis)) - before, 11)
  t.strictSame(standing(replica), { left: 970, held: 0, spent: 30 })
  await replica.world.clock.advance(1_000)
  await until(async () => (await inRedis(redis)).spent === 30)
  t.match(await inRedis(redis), { held: 0, leased: 20 })
})

void t.test('M10: what a killed replica held comes back, but for what was marked', async (t) => {
  const redis = await startRedis(t)
  const client = limited(100)
  const fleet = aFleet(client)
  const dead = await upReplica(t, redis.url, fleet)
  await dead.budget.hold(client, aCall())
  await (await dead.budget.hold(client, aCall())).secure(3)
  const spent = await dead.budget.hold(client, aCall())
  await spent.secure(3)
  spent.spend(three)
  t.match(await inRedis(redis), { held: 6, spent: 0, leased: 44 })
  dead.store.close()

  const living = await upReplica(t, redis.url, fleet)
  t.strictSame(standing(living), { left: 94, held: 6, spent: 0 }, 'what is not marked is there for all')
  fleet.gone.add(dead.session.id)
  await living.budget.flush()
  t.match(await inRedis(redis), { held: 0, spent: 6, leased: 0 })
  t.match(living.world.told('holds-swept'), [{ holds: 1, credits: 6 }])
  t.strictSame(await flyAll(living, client), [31, 'BUDGET_EXHAUSTED'])
  t.strictSame(standing(living), { left: 1, held: 0, spent: 99 })
})

void t.test('A replica that was only slow asks again for what was taken back, and pays no second time', async (t) => {
  const redis = await startRedis(t)
  const client = limited(60)
  const fleet = aFleet(client)
  const slow = await upReplica(t, redis.url, fleet)
  const marked = await slow.budget.hold(client, aCall())
  await marked.secure(3)
  const unmarked = await slow.budget.hold(client, aCall())
  const late = await slow.budget.hold(client, aCall())
  const other = await upReplica(t, redis.url, fleet)
  fleet.gone.add(slow.session.id)
  await other.budget.flush()
  t.match(await inRedis(redis), { spent: 3, held: 0, leased: 0 })
  fleet.gone.delete(slow.session.id)
  for (let i = 0; i < 18; i += 1) await fly(other, client)

  marked.spend(three)
  marked.settle()
  await unmarked.secure(3)
  unmarked.spend(three)
  unmarked.settle()
  t.equal(await codeOf(late.secure(3)), 'BUDGET_EXHAUSTED')
  late.settle()
  await slow.budget.flush()
  await other.budget.flush()
  t.match(await inRedis(redis), { spent: 60, held: 0 })
})

void t.test('Another replica takes over a call by the id of its hold, and it is paid once', async (t) => {
  const redis = await startRedis(t)
  const client = limited(100)
  const fleet = aFleet(client)
  const first = await upReplica(t, redis.url, fleet)
  const [resumed, released] = [await first.budget.hold(client, aCall()), await first.budget.hold(client, aCall())]
  await resumed.secure(3)
  await released.secure(3)
  first.store.close()
  const next = await upReplica(t, redis.url, fleet)
  t.equal(next.budget.adopt('unheard'), null)
  t.equal(next.budget.adopt('id@nobody@2026-01-15/x@3'), null)

  const adopted = next.budget.adopt(resumed.id)
  await adopted?.secure(3)
  adopted?.spend(three)
  adopted?.settle()
  await until(async () => (await inRedis(redis)).held === 3)
  t.match(await inRedis(redis), { spent: 3 })
  // Paid by another hold; and its replica is taken for gone before that is known.
  fleet.gone.add(first.session.id)
  await next.budget.flush()
  t.match(await inRedis(redis), { held: 0, spent: 6 })
  await fly(next, client)
  next.budget.adopt(released.id)?.settle()
  await until(async () => (await inRedis(redis)).spent === 6)
  await next.budget.flush()
  t.strictSame(standing(next), { left: 94, held: 0, spent: 6 })
})

void t.test('A refund is given once, in the period it was spent in, and never more than was spent', async (t) => {
  const redis = await startRedis(t)
  const client = limited(100)
  const replica = await upReplica(t, redis.url, aFleet(client))
  await fly(replica, client)
  await fly(replica, client)
  replica.budget.refund('team', 3, NOON)
  await replica.budget.flush()
  t.match(await inRedis(redis), { spent: 3, monthSpent: 3 })
  t.strictSame(standing(replica), { left: 97, held: 0, spent: 3 })
  replica.budget.refund('team', 50, NOON)
  replica.budget.refund('nobody', 50, NOON)
  replica.budget.refund('team', 3, NOON - 400 * 86_400_000)
  await replica.budget.flush()
  t.match(await inRedis(redis), { spent: 0, monthSpent: 0 })
})

void t.test('A correction says what was spent this month, for all replicas', async (t) => {
  const redis = await startRedis(t)
  const client = limited(30, 300)
  const fleet = aFleet(client)
  const [one, two] = [await upReplica(t, redis.url, fleet), await upReplica(t, redis.url, fleet)]
  for (let i = 0; i < 5; i += 1) await fly(one, client)
  await one.budget.flush()
  fleet.wallMs += 86_400_000
  await fly(one, client)
  await one.budget.flush()
  t.strictSame(await two.budget.correct('team', 12), { beforeCredits: 18, spentCredits: 12 })
  t.match(await inRedis(redis), { spent: 12, monthSpent: 12 }, 'more than was spent today')
  t.match(await inRedis(redis, 'team', '2026-01-16'), { spent: 0 })
  t.strictSame(await two.budget.correct('team', 40), { beforeCredits: 12, spentCredits: 40 })
  await one.budget.flush()
  t.strictSame(standing(one), { left: 2, held: 0, spent: 28 })
  t.strictSame(standing(one, 'month'), { left: 260, held: 0, spent: 40 })
  t.strictSame(await flyAll(one, client), [0, 'BUDGET_EXHAUSTED'])
  await redis.kill()
  await until(() => two.store.state === 'down')
  t.equal(await codeOf(two.budget.correct('team', 3)), 'BUDGET_UNAVAILABLE')
})

void t.test('A hold belongs to the day and month it was made in', async (t) => {
  const redis = await startRedis(t)
  const client = limited(30, 300)
  const fleet = aFleet(client)
  const replica = await upReplica(t, redis.url, fleet)
  await fly(replica, client)
  const hold = await replica.budget.hold(client, aCall())
  fleet.wallMs = Date.parse('2026-01-31T00:00:01Z')
  t.strictSame(standing(replica), { left: 30, held: 0, spent: 0 }, 'the next day begins by itself')
  await hold.secure(3)
  hold.spend(three)
  hold.settle()
  await fly(replica, client)
  await replica.budget.flush()
  t.match(await inRedis(redis), { spent: 6, monthSpent: 9 })
  t.match(await inRedis(redis, 'team', '2026-01-31'), { spent: 3 })
  t.strictSame(standing(replica, 'month'), { left: 291, held: 0, spent: 9 })

  const late = await replica.budget.hold(client, aCall())
  fleet.wallMs = Date.parse('2026-02-01T00:00:01Z')
  await late.secure(3)
  late.spend(three)
  late.settle()
  await replica.budget.flush()
  t.match(await inRedis(redis, 'team', '2026-01-31'), { spent: 6, monthSpent: 12 })
  t.strictSame(standing(replica, 'month'), { left: 300, held: 0, spent: 0 })
})

void t.test('While Redis is away only what was marked in advance is spent', async (t) => {
  const redis = await startRedis(t)
  const client = limited(1_000)
  const fleet = aFleet(client)
  const replica = await upReplica(t, redis.url, fleet)
  await replica.world.clock.advance(20_000)
  await fly(replica, client)
  const before = await replica.budget.hold(client, aCall())
  const marked = await replica.budget.hold(client, aCall())
  await marked.secure(3)
  await replica.budget.flush()
  t.match(await inRedis(redis), { spent: 3, held: 23 }, 'two of a hundred, while the client is busy')

  redis.pause()
  const refusal = codeOf(before.secure(23))
  await until(() => replica.store.state === 'down')
  t.equal(await refusal, 'BUDGET_UNAVAILABLE', 'what cannot be marked may not be used')
  t.strictSame(await flyAll(replica, client), [6, 'BUDGET_UNAVAILABLE'])
  t.match(await replica.budget.hold(client, aCall()).catch((error: unknown) => error), {
    status: 503,
    retryAfterMs: 5_000,
    message: /Redis is unavailable/,
  })
  t.match(replica.news.at(-1), { kind: 'refused', client: 'team', credits: 3 })
  t.equal(replica.news.filter(({ kind }) => kind === 'allowance').length, 6)
  marked.spend(three)
  marked.settle()
  before.settle()

  redis.resume()
  await until(() => replica.store.state === 'up')
  await replica.budget.flush()
  t.match(await inRedis(redis), { spent: 24, held: 20 }, 'told, and marked anew')
  for (let beat = 0; beat < 5; beat += 1) replica.session.beats(false)
  await until(async () => (await inRedis(redis)).held === 0)
  t.strictSame(standing(replica), { left: 976, held: 0, spent: 24 }, 'not for a client that asks nothing')
  await fly(replica, client)
  await replica.budget.flush()
  await replica.budget.close()
  t.match(await inRedis(redis), { spent: 27, held: 0 }, 'nor when it stops')
})

void t.test('Open while away: this replica counts by itself, tells it loudly, and pays later', async (t) => {
  const server = createRedisServer(() => NOON * 1_000)
  const client = limited(30)
  const { store, cut } = storeOf(server)
  const replica = aReplica(aFleet(client), store, { whenAway: () => 'open' })
  await fly(replica, client)
  await replica.budget.flush()
  cut(true)
  t.strictSame(await flyAll(replica, client), [9, 'BUDGET_EXHAUSTED'], 'what was left when it was last heard of')
  t.equal(replica.news.filter(({ kind }) => kind === 'open').length, 9)
  t.strictSame(standing(replica), { left: 0, held: 0, spent: 30 })
  cut(false)
  await replica.budget.flush()
  t.strictSame(await flyAll(replica, client), [0, 'BUDGET_EXHAUSTED'])
})

void t.test('A client without a limit is only written up', async (t) => {
  const redis = await startRedis(t)
  const client = aClient()
  const replica = await upReplica(t, redis.url, aFleet(client))
  const before = await commands(redis)
  const hold = await replica.budget.hold(client, aCall())
  await hold.secure(3)
  hold.spend(three)
  await hold.secure(3)
  t.strictSame(replica.budget.spending(), [{ client: 'team', dayCredits: 3, monthCredits: 3, heldCredits: 3 }])
  hold.spend(three)
  hold.settle()
  t.equal(await commands(redis), before, 'nobody was asked')
  t.strictSame(replica.budget.limits(client), [])
  t.ok(replica.budget.hasRoom(client))
  await replica.budget.flush()
  t.match(await inRedis(redis), { spent: 6, held: 0 })
  t.strictSame(replica.budget.spending(), [{ client: 'team', dayCredits: 6, monthCredits: 6, heldCredits: 0 }])
})

void t.test('Redis comes back empty: nothing is leased before all that live have told what they know', async (t) => {
  const redis = await startRedis(t)
  const client = limited(100)
  const fleet = aFleet(client)
  const [one, two, dead] = [
    await upReplica(t, redis.url, fleet),
    await upReplica(t, redis.url, fleet),
    await upReplica(t, redis.url, fleet),
  ]
  for (let i = 0; i < 5; i += 1) await fly(one, client)
  await fly(dead, client)
  await dead.budget.flush()
  fleet.gone.add(dead.session.id)
  for (const { budget } of [one, two, one]) await budget.flush()
  t.match(await inRedis(redis), { spent: 18 })
  const held = await two.budget.hold(client, aCall())
  await held.secure(3)
  await two.budget.flush()

  await redis.ask('FLUSHALL')
  const newcomer = { ...fleet, alive: null }
  await one.budget.flush()
  t.match(await inRedis(redis), { spent: 18, leased: 35 }, 'what one was told of a dead one, too')
  const third = await upReplica(t, redis.url, newcomer)
  t.equal(await codeOf(fly(third, client)), 'BUDGET_UNAVAILABLE')
  t.match(await third.budget.hold(client, aCall()).catch((error: unknown) => error), { message: /lost data/ })
  t.equal(await codeOf(fly(one, client)), 'granted', 'of the slice it has')
  await two.budget.flush()
  t.match(await inRedis(redis), { spent: 18, held: 6 })
  await one.budget.flush()
  held.spend(three)
  held.settle()
  const more = (await flyAll(one, client))[0] + (await flyAll(two, client))[0]
  for (const { budget } of [one, two, one]) await budget.flush()
  t.equal(more, 25)
  t.strictSame(standing(one), { left: 1, held: 0, spent: 99 })
})

void t.test('A68: what comes twice, late or garbled does no harm', async (t) => {
  const server = createRedisServer(() => NOON * 1_000)
  const client = limited(100)
  const real = storeOf(server)
  let mode: 'lost' | 'garbled' | 'fine' = 'fine'
  const replica = aReplica(aFleet(client), {
    state: 'up',
    async run(...args) {
      const reply = await real.store.run(...args)
      if (mode === 'lost') return { kind: 'away', sent: true }
      return mode === 'garbled' ? { kind: 'known', value: ['?'] } : reply
    },
  })
  await replica.budget.flush()
  const hold = await replica.budget.hold(client, aCall())
  for (mode of ['lost', 'garbled'] as const) {
    t.equal(await codeOf(hold.secure(3)), 'BUDGET_UNAVAILABLE')
    t.equal(await codeOf(replica.budget.hold(client, aCall({ priceCredits: 60 }))), 'BUDGET_UNAVAILABLE')
  }
  mode = 'fine'
  await hold.secure(3)
  hold.spend(three)
  mode = 'lost'
  hold.settle()
  await replica.budget.flush()
  mode = 'fine'
  await replica.budget.flush()
  t.strictSame(standing(replica), { left: 97, held: 0, spent: 3 })
  t.strictSame(await flyAll(replica, client), [32, 'BUDGET_EXHAUSTED'])
})

/** A connection to the model of Redis that can be cut, before or after a command has arrived. */
function storeOf(server: RedisServer) {
  let isCut = false
  let losesReplies = false
  const store = {
    get state(): SharedState {
      return isCut ? 'down' : 'up'
    },
    async run(
      { lua, numberOfKeys }: Parameters<SharedStore['run']>[0],
      keys: readonly string[],
      args: readonly unknown[],
    ) {
      await Promise.resolve()
      if (isCut) return { kind: 'away', sent: false } as const
      const value: unknown = server.command('eval', [lua, String(numberOfKeys), ...keys, ...args.map(String)])
      return losesReplies ? ({ kind: 'away', sent: true } as const) : ({ kind: 'known', value } as const)
    },
  }
  return { store, cut: (is: boolean) => void (isCut = is), lose: (is: boolean) => void (losesReplies = is) }
}

/** Credits of a day, and what is marked of them in advance. */
const [LIMIT, FLOAT, RESERVE] = [150, 3, 30]

void t.test('M1, L1, L2: whatever a standby forgot, and in whatever order replicas come back', async (t) => {
  await playAnything(t, [limited(LIMIT)], null)
})

void t.test('The same of the account as a whole: others leave the reserve to those who may use it', async (t) => {
  const [team, boss] = [limited(null), { ...limited(null, null, 'boss'), mayUseReserve: true }]
  await playAnything(t, [team, boss], { perDay: LIMIT, perMonth: null, reserveCredits: RESERVE }, 40)
})

/** Any client may fly; the last of them spends what the others have left. */
async function playAnything(
  t: Test,
  clients: readonly Client[],
  whole: AccountLimits | null,
  numRuns = 100,
): Promise<void> {
  const step = fc.record({
    replica: fc.integer({ min: 0, max: 2 }),
    what: fc.constantFrom(
      ...(['fly', 'fly', 'fly', 'hold', 'secure', 'spend', 'settle', 'flush', 'cut', 'heal'] as const),
      ...(['lose replies', 'find replies', 'failover', 'empty', 'silence'] as const),
    ),
    pick: fc.nat(30),
  })
  let runs = 0
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      runs += 1
      const server = createRedisServer(() => NOON * 1_000, true)
      const fleet = { ...aFleet(...clients), whole, size: 3 }
      let charged = 0
      /** By those who may not use the reserve. */
      let chargedOthers = 0
      const charge = (credits: number, { mayUseReserve = false }: Client): void => {
        charged += credits
        if (!mayUseReserve) chargedOthers += credits
      }
      // What a replica alone knew is lost with it.
      const hasSilence = steps.some(({ what }) => what === 'silence')
      const all = [0, 1, 2].map(() => {
        const link = storeOf(server)
        return {
          ...aReplica(fleet, link.store),
          link,
          holds: [] as { hold: Hold; client: Client; isSecure: boolean }[],
        }
      })
      for (const { budget, world } of all) {
        await budget.flush()
        await world.clock.advance(20_000)
      }
      for (const { replica, what, pick } of steps) {
        const one = all[replica] as (typeof all)[0]
        const open = one.holds[pick % Math.max(1, one.holds.length)]
        const client = clients[pick % clients.length] as Client
        if (what === 'fly') charge(3 * (await flyAll(one, client, pick))[0], client)
        if (what === 'hold')
          await one.budget
            .hold(client, aCall())
            .then((hold) => one.holds.push({ hold, client, isSecure: false }), refusal)
        if (what === 'secure' && open) await open.hold.secure(3).then(() => void (open.isSecure = true), refusal)
        if (what === 'spend' && open?.isSecure) {
          open.isSecure = false
          charge(3, open.client)
          open.hold.spend(three)
        }
        if (what === 'settle' && open) {
          open.hold.settle()
          one.holds = one.holds.filter((each) => each !== open)
        }
        if (what === 'flush') await one.budget.flush()
        if (what === 'cut' || what === 'heal') one.link.cut(what === 'cut')
        if (what === 'lose replies' || what === 'find replies') one.link.lose(what === 'lose replies')
        if (what === 'failover' && !hasSilence) server.loseLast(pick)
        if (what === 'empty' && !hasSilence) server.forgetAll()
        // Taken for gone by the others for a while, though it lives.
        if (what === 'silence' && !fleet.gone.delete(one.session.id)) fleet.gone.add(one.session.id)
        if (charged > LIMIT) throw new Error(`${charged} of ${LIMIT} were spent`)
        if (whole && chargedOthers > LIMIT - RESERVE) throw new Error(`${chargedOthers} were spent by others`)
      }
      for (const { link, holds } of all) {
        link.cut(false)
        link.lose(false)
        for (const { hold } of holds) hold.settle()
      }
      for (const { budget } of [...all, ...all, ...all]) await budget.flush()
      fleet.gone.clear()
      for (const one of all) {
        const { left = 0, spent = 0, held = 0 } = standing(one) ?? {}
        if (left + spent + held !== LIMIT || held > 3 * (whole ? 2 : 1) * FLOAT)
          throw new Error(`${left} + ${spent} + ${held} credits`)
        if (spent < charged || (spent > charged && !hasSilence))
          throw new Error(`${charged} were spent, ${spent} are known`)
      }
      // Twice: what is marked in advance is there for all when little is left.
      for (const client of clients) {
        for (const one of [...all, ...all]) {
          charge(3 * (await flyAll(one, client))[0], client)
          for (const { budget } of all) await budget.flush()
        }
        if (whole && chargedOthers > LIMIT - RESERVE) throw new Error(`${chargedOthers} were spent by others`)
      }
      if (charged > LIMIT || (charged < LIMIT && !hasSilence)) throw new Error(`${charged} of ${LIMIT} could be spent`)
    }),
    { numRuns, seed: 7 },
  )
  t.pass(`${runs} runs`)
}

function refusal(error: unknown): void {
  if (!(error instanceof ProxyError)) throw error
}

/**
 * Credits that several replicas spend together, on a real Redis. Time passes by itself only in Redis; what has to wait for it asks
 * until it is so. Replicas are sets of our parts, each with a connection of its own.
 */
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { ProxyError } from '../../src/errors.ts'
import {
  type AwayNews,
  createSharedBudget,
  type SharedBudgetPorts,
  type SharedBudgets,
} from '../../src/limits/shared-budget.ts'
import { creditsScript } from '../../src/limits/scripts.ts'
import type { Charge, Client } from '../../src/model.ts'
import type { Shared, SharedStore } from '../../src/ports.ts'
import { createClock } from '../../src/world/clock.ts'
import { createRandom } from '../../src/world/random.ts'
import { createRedis } from '../../src/world/redis.ts'
import { type RedisProcess, startRedis, until } from '../support/redis.ts'
import { aCall, aClient } from '../support/verdicts.ts'
import { type FakeWorld, fakeWorld } from '../support/world.ts'

const three: Charge = { state: 'charged', credits: 3 }
const free: Charge = { state: 'free', credits: 0 }

interface Replica {
  readonly budget: SharedBudgets
  readonly store: SharedStore
  readonly world: FakeWorld
  readonly news: readonly AwayNews[]
}

type Options = Partial<SharedBudgetPorts> & { readonly timeoutMs?: number }

/** The parts stand still unless the clock of the world is moved; the store keeps its time by itself. */
function openReplica(t: Test, url: string, clients: readonly Client[], options: Options = {}): Replica {
  const store = createRedis(
    {
      place: { kind: 'single', url },
      username: null,
      password: null,
      database: 0,
      timeoutMs: options.timeoutMs ?? 5_000,
      prefix: 't:',
    },
    createClock(),
    createRandom(),
    () => {},
  )
  t.teardown(() => store.close())
  return withStore(options.store ?? store, clients, options)
}

function withStore(store: SharedStore, clients: readonly Client[], options: Options = {}): Replica {
  const world = fakeWorld()
  const news: AwayNews[] = []
  const budget = createSharedBudget({
    store,
    clock: world.clock,
    random: createRandom(),
    emit: world.emit,
    clients: () => clients,
    whenAway: () => 'closed',
    tell: (one) => void news.push(one),
    ...options,
  })
  return { budget, store, world, news }
}

async function upReplica(t: Test, url: string, clients: readonly Client[], options: Options = {}): Promise<Replica> {
  const replica = openReplica(t, url, clients, options)
  await until(() => replica.store.state === 'up')
  await replica.budget.flush()
  // What the change of state set off may have come in between.
  await replica.budget.flush()
  return replica
}

function limited(perDay: number | null, perMonth: number | null = null, name = 'team'): Client {
  return aClient({ name, credits: { perDay, perMonth } })
}

/** One flight: held, marked, asked once, settled. */
async function fly({ budget }: Replica, client: Client, charge: Charge = three): Promise<void> {
  const hold = await budget.hold(client, aCall())
  await hold.secure(3)
  hold.spend(charge)
  hold.settle()
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'granted',
    (error: unknown) => (error instanceof ProxyError ? error.code : 'thrown'),
  )
}

function standing({ budget }: Replica, period: 'day' | 'month' = 'day') {
  const found = budget.states().find((one) => one.period === period)
  return found && { left: found.leftCredits, held: found.heldCredits, spent: found.spentCredits }
}

/** As Redis has it; checks L1 on the way: what is held is the sum of what the records hold. */
async function inRedis(redis: RedisProcess, t: Test, name = 'team') {
  const totals = hash(await redis.ask('HGETALL', `t:limits:{${name}}:credits:totals`))
  const records = [...hash(await redis.ask('HGETALL', `t:limits:{${name}}:credits:records`)).values()].map((text) => {
    const [day = '', month = '', kind, sent, held, spent] = text.split(' ')
    return { day, month, kind, isSent: sent === '1', held: Number(held), spent: Number(spent) }
  })
  const day = totals.get('day') ?? ''
  const number = (field: string) => Number(totals.get(field) ?? 0)
  const sum = (list: typeof records) => list.reduce((sum, { held }) => sum + held, 0)
  t.equal(number(`${day}:held`), sum(records.filter((one) => one.day === day)), 'L1: held is what the records hold')
  t.equal(number('leased'), sum(records.filter(({ kind }) => kind === 'lease')), 'and so are the allowances')
  const leased = sum(records.filter(({ kind }) => kind === 'lease'))
  return {
    day,
    records: records.length,
    leased,
    held: number(`${day}:held`) - leased,
    spent: number(`${day}:spent`) - number(`${day}:refunded`),
    monthSpent: number(`${day.slice(0, 7)}:spent`) - number(`${day.slice(0, 7)}:refunded`),
  }
}

function hash(reply: string): ReadonlyMap<string, string> {
  const texts = [...reply.matchAll(/\$\d+\r\n([^\r]*)\r\n/g)].map(([, text]) => text ?? '')
  return new Map(texts.flatMap((text, index) => (index % 2 === 0 ? [[text, texts[index + 1] ?? ''] as const] : [])))
}

void t.test('A67, L1, L2: 200 workers on 4 replicas spend exactly 999 of 1,000 credits', async (t) => {
  const redis = await startRedis(t)
  const client = limited(1_000)
  const replicas = await Promise.all(Array.from({ length: 4 }, () => upReplica(t, redis.url, [client])))
  t.equal((await inRedis(redis, t)).leased, 80, 'each replica has leased its allowance')

  let flights = 0
  const codes = new Set<string>()
  await Promise.all(
    Array.from({ length: 200 }, async (_, worker) => {
      const replica = replicas[worker % 4]
      for (;;) {
        const code = replica ? await codeOf(fly(replica, client)) : 'none'
        if (code !== 'granted') return void codes.add(code)
        flights += 1
      }
    }),
  )
  for (const { budget } of replicas) await budget.flush()
  t.equal(flights, 333)
  t.strictSame([...codes], ['BUDGET_EXHAUSTED'])
  t.match(await inRedis(redis, t), { spent: 999, monthSpent: 999, held: 0, leased: 0 })
  for (const replica of replicas) t.strictSame(standing(replica), { left: 1, held: 0, spent: 999 })
})

void t.test('What is refused says until when, and the smaller of day and month counts', async (t) => {
  const redis = await startRedis(t)
  const client = limited(100, 9)
  const replica = await upReplica(t, redis.url, [client])
  const before = replica.budget.limits(client)
  t.match(before[0]?.policy, /^"credits-day";q=100;w=86400$/)
  t.match(before[1]?.policy, /^"credits-month";q=9;w=2\d{6}$/)
  t.equal(before[1]?.remaining, 9)
  t.ok(replica.budget.hasRoom(client))

  for (let i = 0; i < 3; i += 1) await fly(replica, client)
  const refusal = await replica.budget.hold(client, aCall()).catch((error: unknown) => error)
  t.match(refusal, {
    code: 'BUDGET_EXHAUSTED',
    status: 429,
    message: /for the month .* resets at 20\d\d-\d\d-01T00:00:00Z/,
  })
  const resetMs = replica.budget.limits(client)[1]?.resetMs ?? 0
  const { retryAfterMs } = refusal as ProxyError
  t.equal(retryAfterMs, resetMs, 'by the clock of Redis')
  t.notOk(replica.budget.hasRoom(client))
  t.match(replica.budget.states(), [
    { client: 'team', period: 'day', limitCredits: 100, leftCredits: 91, heldCredits: 0, spentCredits: 9 },
    { client: 'team', period: 'month', limitCredits: 9, leftCredits: 0, heldCredits: 0, spentCredits: 9 },
  ])
  const day = new Date(replica.budget.states()[0]?.resetAt ?? 0)
  t.equal(day.getTime() % 86_400_000, 0, 'a day ends at midnight in UTC')
  t.strictSame(
    replica.world.told('budget-used').map(({ period, percent }) => [period.kind, percent]),
    [50, 80, 95, 100].map((percent) => ['month', percent]),
  )
  t.strictSame(replica.budget.spending(), [{ client: 'team', dayCredits: 9, monthCredits: 9, heldCredits: 0 }])
})

void t.test('A flight pays for what its attempts cost, and gives back the rest', async (t) => {
  const redis = await startRedis(t)
  const client = limited(20)
  const replica = await upReplica(t, redis.url, [client])
  const { budget } = replica

  const hold = await budget.hold(client, aCall())
  t.match(await inRedis(redis, t), { held: 3, spent: 0 })
  await hold.secure(3)
  hold.spend(free)
  const runs = await commands(redis)
  await hold.secure(3)
  t.equal(await commands(redis), runs, 'what is marked already needs no asking')
  hold.spend({ state: 'unknown', credits: 3 })
  await hold.secure(3)
  t.match(await inRedis(redis, t), { held: 3, spent: 3 }, 'another attempt takes more')
  hold.spend({ state: 'charged', credits: 5 })
  hold.settle()
  hold.settle()
  await budget.flush()
  t.match(await inRedis(redis, t), { held: 0, spent: 8, records: 0 }, 'more than expected is paid, too')
  await t.rejects(hold.secure(3), /settled/)

  hold.spend(three)
  await budget.flush()
  t.match(await inRedis(redis, t), { held: 0, spent: 11 }, 'late news counts')

  const last = await budget.hold(client, aCall())
  await last.secure(3)
  last.spend({ state: 'charged', credits: 7 })
  t.equal(await codeOf(last.secure(3)), 'BUDGET_EXHAUSTED', 'an attempt too many')
  last.settle()
  await budget.flush()
  t.match(await inRedis(redis, t), { held: 0, spent: 18, records: 0 })

  t.equal(await budget.hold(client, aCall({ priceCredits: 0 })), budget.none)
  await budget.none.secure(3)
  budget.none.spend(three)
  budget.none.settle()
  t.match(await inRedis(redis, t), { held: 0, spent: 18 })
})

async function commands(redis: RedisProcess): Promise<string> {
  return /cmdstat_evalsha:calls=(\d+)/.exec(await redis.ask('INFO', 'commandstats'))?.[1] ?? '0'
}

void t.test('L7: one round trip to set aside, one to mark, one to settle', async (t) => {
  const redis = await startRedis(t)
  const client = limited(1_000)
  const replica = await upReplica(t, redis.url, [client])
  const before = Number(await commands(redis))
  for (let i = 0; i < 10; i += 1) await fly(replica, client)
  await until(async () => (await inRedis(redis, t)).spent === 30)
  t.equal(Number(await commands(redis)) - before, 30)
})

void t.test('L3: what a dead replica held is spent where it was marked, else given back', async (t) => {
  const redis = await startRedis(t)
  const client = limited(100)
  const options = { holdTtlMs: 400, allowanceTtlMs: 800 }
  const dead = await upReplica(t, redis.url, [client], options)
  await dead.budget.hold(client, aCall())
  const marked = await dead.budget.hold(client, aCall())
  await marked.secure(3)
  const spent = await dead.budget.hold(client, aCall())
  await spent.secure(3)
  spent.spend(three)
  t.match(await inRedis(redis, t), { held: 9, spent: 0, leased: 2 })
  dead.store.close()

  const living = await upReplica(t, redis.url, [client], options)
  await until(async () => {
    await living.budget.flush()
    return (await inRedis(redis, t)).held === 0
  })
  t.match(await inRedis(redis, t), { held: 0, spent: 6 })
  // In one sweep, or one by one where a busy machine lets one of them expire earlier.
  const swept = living.world.told('holds-swept')
  t.equal(
    swept.reduce((sum, { holds }) => sum + holds, 0),
    2,
  )
  t.equal(
    swept.reduce((sum, { credits }) => sum + credits, 0),
    6,
  )
  await until(async () => {
    await living.budget.flush()
    return (await inRedis(redis, t)).spent === 8
  })
  t.match(
    await inRedis(redis, t),
    { spent: 8, leased: 2, records: 1 },
    'its allowance may have been used, so it is spent as well; that of the living one is not',
  )
  t.equal(standing(living)?.left, 90)
})

void t.test('A replica that was only slow finds its hold swept, and pays no second time', async (t) => {
  const redis = await startRedis(t)
  const client = limited(100)
  const options = { holdTtlMs: 200 }
  const slow = await upReplica(t, redis.url, [client], options)
  const marked = await slow.budget.hold(client, aCall())
  await marked.secure(3)
  const unmarked = await slow.budget.hold(client, aCall())
  const other = await upReplica(t, redis.url, [client], options)
  await until(async () => {
    await other.budget.flush()
    return (await inRedis(redis, t)).held === 0
  })
  t.match(await inRedis(redis, t), { spent: 3 })

  await slow.budget.flush()
  t.match(await inRedis(redis, t), { held: 0, spent: 3 }, 'nothing is held anew by a sign of life')
  await marked.secure(3)
  marked.spend(three)
  marked.settle()
  await unmarked.secure(3)
  t.match(await inRedis(redis, t), { held: 3, spent: 3 }, 'what was given back is taken again before it is used')
  unmarked.spend(three)
  unmarked.settle()
  await slow.budget.flush()
  t.match(await inRedis(redis, t), { held: 0, spent: 6 })
})

void t.test('Signs of life keep holds and allowances alive', async (t) => {
  const redis = await startRedis(t)
  const client = limited(1_000)
  const replica = await upReplica(t, redis.url, [client], { holdTtlMs: 1_000 })
  const hold = await replica.budget.hold(client, aCall())
  await hold.secure(3)
  const key = 't:limits:{team}:credits:due'
  const dueAt = async () =>
    Number(
      /\d+(?=\r\n\$\d+\r\n\d+\r\n$)|\d+(?=\r\n$)/.exec(await redis.ask('ZRANGE', key, '0', '0', 'WITHSCORES'))?.[0],
    )
  const first = await dueAt()
  await until(async () => {
    await replica.world.clock.advance(250)
    return (await dueAt()) > first + 100
  })
  t.match(await inRedis(redis, t), { held: 3, spent: 0 })
})

void t.test('Another process takes a hold up by its id', async (t) => {
  const redis = await startRedis(t)
  const client = limited(100)
  const first = await upReplica(t, redis.url, [client])
  const hold = await first.budget.hold(client, aCall())
  await hold.secure(3)
  hold.spend(three)
  await hold.secure(3)
  const forgotten = await first.budget.hold(client, aCall())
  first.store.close()

  const next = await upReplica(t, redis.url, [client])
  t.equal(next.budget.adopt('unheard'), null)
  t.equal(next.budget.adopt('id@nobody'), null)
  next.budget.adopt(forgotten.id)?.settle()
  const adopted = next.budget.adopt(hold.id)
  await adopted?.secure(3)
  t.match(await inRedis(redis, t), { held: 3, spent: 3 }, 'what is in it is enough')
  adopted?.spend(three)
  adopted?.settle()
  const unknown = next.budget.adopt('00000000-0000-4000-8000-000000000000@team')
  await unknown?.secure(3)
  unknown?.spend(three)
  unknown?.settle()
  await next.budget.flush()
  t.match(await inRedis(redis, t), { held: 0, spent: 9 })
})

void t.test('A refund is given once, in the period it was spent in, and never more than was spent', async (t) => {
  const redis = await startRedis(t)
  const client = limited(100)
  const replica = await upReplica(t, redis.url, [client])
  await fly(replica, client)
  await fly(replica, client)
  const nowMs = () => (replica.budget.states()[0]?.resetAt ?? 0) - 1
  replica.budget.refund('team', 3, nowMs())
  await replica.budget.flush()
  t.match(await inRedis(redis, t), { spent: 3, monthSpent: 3 })
  t.equal(standing(replica)?.spent, 3)
  replica.budget.refund('team', 50, nowMs())
  replica.budget.refund('nobody', 50, nowMs())
  replica.budget.refund('team', 3, nowMs() - 400 * 86_400_000)
  await replica.budget.flush()
  t.match(await inRedis(redis, t), { spent: 0, monthSpent: 0 })
})

void t.test('A hold belongs to the day it was made in, and old days are forgotten', async (t) => {
  const redis = await startRedis(t)
  const client = limited(1_000)
  const replica = await upReplica(t, redis.url, [client])
  const hold = await replica.budget.hold(client, aCall())
  await hold.secure(3)
  hold.spend(three)
  const { day } = await inRedis(redis, t)
  const yesterday = new Date(Date.parse(day) - 86_400_000).toISOString().slice(0, 10)
  // As if all that had happened the day before.
  const key = (kind: string) => `t:limits:{team}:credits:${kind}`
  for (const kind of ['totals', 'records']) {
    const moved = [...hash(await redis.ask('HGETALL', key(kind)))].map(([name, value]) => {
      return [name.replace(day, yesterday), value.replaceAll(day, yesterday)]
    })
    await redis.ask('DEL', key(kind))
    await redis.ask('HSET', key(kind), ...moved.flat(), ...(kind === 'totals' ? ['2020-01-01:spent', '5'] : []))
  }
  hold.settle()
  await replica.budget.flush()
  const totals = hash(await redis.ask('HGETALL', key('totals')))
  t.equal(totals.get(`${yesterday}:spent`), '3')
  t.equal(totals.get(`${yesterday}:held`), '20', 'the allowance')
  t.equal(totals.get('day'), day)
  t.notOk(totals.has('2020-01-01:spent'))
  t.strictSame(standing(replica), { left: 1_000, held: 0, spent: 0 })

  await fly(replica, client)
  await replica.budget.flush()
  const resetAt = replica.budget.states()[0]?.resetAt ?? 0
  replica.world.clock.stepWall(86_400_000)
  t.strictSame(standing(replica), { left: 1_000, held: 0, spent: 0 }, 'the next day begins by itself')
  t.equal(replica.budget.states()[0]?.resetAt, resetAt + 86_400_000)
  await replica.budget.flush()
  await replica.budget.flush()
  t.match(await inRedis(redis, t), { spent: 3, leased: 20 }, 'with an allowance of its own')
})

void t.test('Redis knows the calendar', async (t) => {
  const redis = await startRedis(t)
  const { store } = await upReplica(t, redis.url, [])
  const keys = ['totals', 'records', 'due'].map((kind) => `{c}${kind}`)
  const random = fakeWorld(5).random
  const days = [0, 59, 365, 789, 11_016, 19_782, 19_783, 20_453, 20_819, 47_540, 47_541]
  for (let i = 0; i < 200; i += 1) days.push(Math.floor(random.next() * 60_000))
  await store.run(creditsScript, keys, creditsArguments([]))
  for (const day of days) {
    const at = day * 86_400_000
    const date = new Date(at).toISOString().slice(0, 10)
    await redis.ask('HSET', 't:{c}totals', `${date}:spent`, '5', `${date}:refunded`, '0')
    const refund = [`refund-${day}`, 'refund', 0, 4, at + 86_399_999, 0, 0, 0, '', 1, 1]
    await store.run(creditsScript, keys, creditsArguments(refund))
    t.equal(await redis.ask('HGET', 't:{c}totals', `${date}:refunded`), '$1\r\n4\r\n', date)
    await redis.ask('DEL', 't:{c}records')
  }
})

/** Without limits and knowledge. */
function creditsArguments(change: readonly (string | number)[]): readonly (string | number)[] {
  return [-1, -1, '', 0, 'epoch', '', '', '', '', 1_000, 1_000, ...change]
}

void t.test('The script keeps its promises to replicas that come late, twice or from another time', async (t) => {
  const redis = await startRedis(t)
  const { store } = await upReplica(t, redis.url, [])
  const ask = async (name: string, head: Partial<Head>, ...change: readonly (string | number)[]) => {
    const { limit, epoch, runs, patienceMs, waryMs } = { ...defaultHead, ...head }
    const keys = ['totals', 'records', 'due'].map((kind) => `{${name}}${kind}`)
    const all = [limit, -1, epoch, runs, 'fresh', '', '', '', '', patienceMs, waryMs, ...change]
    const reply = await store.run(creditsScript, keys, all)
    const value = reply.kind === 'known' && Array.isArray(reply.value) ? reply.value : []
    return { spent: Number(value[4]), held: Number(value[6]), became: value[15], record: value[16], swept: value[11] }
  }
  const change = (id: string, step: string, held: number, number = 1, ttlMs = 60_000) =>
    [id, step, 1, 0, held, 0, 0, 0, '', number, ttlMs] as const

  await ask('order', {}, ...change('a', 'reserve', 9, 5))
  t.match(await ask('order', {}, ...change('a', 'keep', 3, 4)), { held: 9, record: 9 }, 'an older word is not heard')
  t.match(await ask('order', {}, ...change('a', 'keep', 3, 6)), { held: 3 })
  t.match(await ask('order', {}, ...change('a', 'end', 0, 1)), { held: 0 }, 'the end is always the last')

  await ask('fifth', { limit: 100 }, ...change('a', 'reserve', 76))
  t.match(
    await ask('fifth', { limit: 100 }, ...change('b', 'lease', 5)),
    { became: 1, held: 76 },
    'not from the last fifth',
  )
  t.match(await ask('fifth', { limit: 100 }, ...change('b', 'lease', 4)), { became: 0, held: 80 })
  t.match(
    await ask('fifth', { limit: 100 }, ...change('b', 'lease', 5)),
    { became: 1, record: 4 },
    'what is leased stays',
  )
  t.match(await ask('fifth', { limit: 100 }, ...change('c', 'reserve', 20)), { became: 0, held: 100 }, 'others may')

  await ask('silence', { patienceMs: 0 }, ...change('a', 'reserve', 3, 1, 1))
  const since = Number(/:(\d+)/.exec(await redis.ask('PTTL', 't:{silence}due'))?.[1])
  await until(async () => Number(/:(\d+)/.exec(await redis.ask('PTTL', 't:{silence}due'))?.[1]) < since - 20)
  await redis.ask('HSET', 't:{silence}totals', 'seenAt', '1')
  t.match(await ask('silence', { patienceMs: 60_000 }), { held: 3, swept: 0 }, 'Redis was away, not the replica')
  await redis.ask('HSET', 't:{silence}totals', 'sweepFrom', '1')
  t.match(await ask('silence', { patienceMs: 60_000 }), { held: 0, spent: 3, swept: 1 })

  await ask('newcomer', {}, ...change('a', 'reserve', 3))
  t.match(
    await ask('newcomer', { epoch: 'lost' }, ...change('b', 'reserve', 3)),
    { became: 2 },
    'something was forgotten',
  )
  t.match(await ask('newcomer', { epoch: 'lost' }, 'old', 'keep', 1, 2, 3, 2, 5, 1, 'lost', 7, 1), {
    held: 6,
    spent: 0,
  })
  t.match(await redis.ask('HGET', 't:{newcomer}records', 'old'), / hold 1 3 2 7\r/, 'and is told again, its mark too')
  t.match(
    await ask('newcomer', { epoch: 'lost' }, 'old', 'reserve', 1, 2, 4, 2, 5, 1, 'lost', 8, 60_000),
    { became: 2, held: 6 },
    'but no more than it was',
  )
  t.match(
    await ask('newcomer', { epoch: 'lost' }, 'older', 'reserve', 1, 2, 4, 2, 5, 1, 'lost', 8, 60_000),
    { became: 2, record: 3, held: 9 },
    'even when it comes with a wish for more',
  )
  t.match(await redis.ask('HGET', 't:{newcomer}records', 'older'), / hold 1 3 2 8\r/, 'and it is marked as it was')
})

interface Head {
  readonly limit: number
  readonly epoch: string
  readonly runs: number
  readonly patienceMs: number
  readonly waryMs: number
}

const defaultHead: Head = { limit: -1, epoch: '', runs: 0, patienceMs: 60_000, waryMs: 60_000 }

void t.test('What is being given back is not taken, and what is being taken is not given back', async (t) => {
  const redis = await startRedis(t)
  const client = limited(1_000)
  const real = openReplica(t, redis.url, [])
  await until(() => real.store.state === 'up')
  let answers = Number.POSITIVE_INFINITY
  const store: SharedStore = {
    ...real.store,
    state: 'up',
    onState: () => () => {},
    async run(...args): Promise<Shared<unknown>> {
      const reply = await real.store.run(...args)
      answers -= 1
      return answers >= 0 ? reply : { kind: 'away', sent: true }
    },
  }
  const other = withStore(real.store, [client])
  const replica = withStore(store, [client])
  await replica.budget.flush()
  await replica.budget.flush()
  const hold = await replica.budget.hold(client, aCall())
  await Promise.all([hold.secure(6), replica.budget.flush()])
  t.match(await inRedis(redis, t), { held: 6 }, 'a sign of life does not undo what is under way')

  hold.spend({ state: 'charged', credits: 8 })
  await until(async () => (await inRedis(redis, t)).spent === 8)
  t.pass('what cost too much is told at once')

  const big = await other.budget.hold(client, aCall({ priceCredits: 950 }))
  await replica.budget.flush()
  answers = 0
  await replica.budget.flush()
  t.equal(
    await codeOf(replica.budget.hold(client, aCall())),
    'BUDGET_UNAVAILABLE',
    'the allowance has gone back, or may have',
  )
  answers = Number.POSITIVE_INFINITY
  big.settle()
  for (const { budget } of [other, replica, other, replica]) await budget.flush()
  t.equal((await inRedis(redis, t)).leased, 40)

  await other.budget.hold(client, aCall({ priceCredits: 951 }))
  answers = 1
  t.equal(await codeOf(replica.budget.hold(client, aCall())), 'BUDGET_UNAVAILABLE')
  t.equal(
    await codeOf(replica.budget.hold(client, aCall())),
    'BUDGET_UNAVAILABLE',
    'so it is when it was wanted for this',
  )
})

void t.test(
  'L6: while Redis is stopped, only allowances are spent; what was used is told when it is back',
  async (t) => {
    const redis = await startRedis(t)
    const client = limited(1_000)
    const replicas = [
      await upReplica(t, redis.url, [client], { timeoutMs: 300 }),
      await upReplica(t, redis.url, [client], { timeoutMs: 300 }),
    ] as const
    const [first] = replicas
    const before = await first.budget.hold(client, aCall())
    const marked = await first.budget.hold(client, aCall())
    await marked.secure(3)

    redis.pause()
    const granted = await Promise.all(
      replicas.map(async (replica) => {
        let flights = 0
        for (;;) {
          const code = await codeOf(fly(replica, client))
          if (code !== 'granted') {
            t.equal(code, 'BUDGET_UNAVAILABLE')
            return flights
          }
          flights += 1
        }
      }),
    )
    t.strictSame(granted, [6, 6], 'twenty credits each')
    const refusal = await first.budget.hold(client, aCall()).catch((error: unknown) => error)
    t.match(refusal, {
      code: 'BUDGET_UNAVAILABLE',
      status: 503,
      retryAfterMs: 5_000,
      message: /^Redis is unavailable, and the credits .* are used up/,
    })
    t.match(first.news.at(-1), { kind: 'refused', client: 'team', credits: 3 })
    t.equal(first.news.filter(({ kind }) => kind === 'allowance').length, 6)
    t.equal(await codeOf(before.secure(3)), 'BUDGET_UNAVAILABLE', 'what cannot be marked may not be used')
    await marked.secure(3)
    marked.spend(three)
    marked.settle()
    before.settle()
    t.equal(first.store.state, 'down')

    redis.resume()
    for (const { store, budget } of replicas) {
      await until(() => store.state === 'up')
      await budget.flush()
      await budget.flush()
    }
    t.match(await inRedis(redis, t), { spent: 39, held: 0, leased: 40 }, 'told, and leased anew')
    await fly(first, client)
    await first.budget.flush()
    t.strictSame(standing(first), { left: 918, held: 40, spent: 42 })
  },
)

void t.test('Open while away: this replica counts by itself, tells it loudly, and pays later', async (t) => {
  const redis = await startRedis(t)
  const client = limited(30)
  const replica = await upReplica(t, redis.url, [client], { whenAway: () => 'open', timeoutMs: 300 })
  await fly(replica, client)
  await replica.budget.flush()
  redis.pause()
  let flights = 0
  while ((await codeOf(fly(replica, client))) === 'granted') flights += 1
  t.equal(flights, 9, 'what was left when it was last heard of')
  t.equal(replica.news.filter(({ kind }) => kind === 'open').length, 9)
  t.strictSame(standing(replica), { left: 0, held: 0, spent: 30 })
  redis.resume()
  await until(() => replica.store.state === 'up')
  await replica.budget.flush()
  await replica.budget.flush()
  t.match(await inRedis(redis, t), { spent: 30, held: 0 })
  t.strictSame(standing(replica), { left: 0, held: 0, spent: 30 })
})

void t.test('Redis comes back empty: it is told what was spent and held, and grants nothing before that', async (t) => {
  const redis = await startRedis(t)
  const client = limited(100)
  const options = { waryMs: 60_000 }
  const one = await upReplica(t, redis.url, [client], options)
  const two = await upReplica(t, redis.url, [client], options)
  for (let i = 0; i < 5; i += 1) await fly(one, client)
  const held = await two.budget.hold(client, aCall())
  await held.secure(3)
  await one.budget.flush()

  await redis.kill()
  await until(() => one.store.state === 'down' && two.store.state === 'down')
  await redis.restart()
  for (const { store } of [one, two]) await until(() => store.state === 'up')
  for (const { budget } of [one, two, one]) await budget.flush()
  t.match(await inRedis(redis, t), { spent: 15, held: 3, leased: 4 })
  t.strictSame(standing(one), { left: 78, held: 7, spent: 15 })
  t.equal(await codeOf(fly(one, client)), 'BUDGET_UNAVAILABLE', 'two credits are leased, and no more is granted yet')
  held.spend(three)
  held.settle()
  await two.budget.flush()
  t.match(await inRedis(redis, t), { spent: 18, held: 0 })
})

void t.test('Redis comes back empty, and after the wait all goes on', async (t) => {
  const redis = await startRedis(t)
  const client = limited(100)
  const replica = await upReplica(t, redis.url, [client], { waryMs: 200 })
  await fly(replica, client)
  await replica.budget.flush()
  await redis.ask('FLUSHALL')
  t.equal(await codeOf(fly(replica, client)), 'BUDGET_UNAVAILABLE')
  await until(async () => (await codeOf(fly(replica, client))) === 'granted')
  await replica.budget.flush()
  t.match(await inRedis(redis, t), { spent: 6 })
})

void t.test(
  'Redis comes back empty: what a replica spends before another one has told what it knows adds up',
  async (t) => {
    const redis = await startRedis(t)
    const client = limited(30)
    const one = await upReplica(t, redis.url, [client])
    const two = await upReplica(t, redis.url, [client])
    const flight = await one.budget.hold(client, aCall())
    await flight.secure(3)
    const longFlight = await one.budget.hold(client, aCall())
    await longFlight.secure(3)
    await fly(two, client)
    await two.budget.flush()

    await redis.ask('FLUSHALL')
    flight.spend(three)
    flight.settle()
    await one.budget.flush()
    t.match(
      await inRedis(redis, t),
      { spent: 3, held: 3 },
      'of the first it knows that it is in the air, of the other nothing',
    )
    // Once more, before the other has said a word.
    await redis.ask('FLUSHALL')
    longFlight.spend(three)
    longFlight.settle()
    for (const { budget } of [one, two, one, two]) await budget.flush()
    t.match(await inRedis(redis, t), { spent: 9, monthSpent: 9, held: 0 })
    for (const replica of [one, two]) t.strictSame(standing(replica), { left: 21, held: 0, spent: 9 })
  },
)

void t.test('Redis comes back empty: a replica that was stopped for a minute is waited for', async (t) => {
  const redis = await startRedis(t)
  const client = limited(30)
  const totals = 't:limits:{team}:credits:totals'
  const prompt = await upReplica(t, redis.url, [client])
  const stopped = await upReplica(t, redis.url, [client])
  await stopped.budget.hold(client, aCall({ priceCredits: 27 }))
  const newcomer = await upReplica(t, redis.url, [])
  for (const first of [prompt, withStore(newcomer.store, [client])]) {
    await redis.ask('FLUSHALL')
    await first.budget.flush()
    await passInRedis(59_000)
    t.equal(await codeOf(fly(prompt, client)), 'BUDGET_UNAVAILABLE')
    t.equal(await codeOf(fly(prompt, client)), 'BUDGET_UNAVAILABLE')
  }
  await stopped.budget.flush()
  await passInRedis(17_000)
  t.equal(await codeOf(fly(prompt, client)), 'granted')
  t.equal(await codeOf(fly(prompt, client)), 'BUDGET_EXHAUSTED')

  /** As if it had happened so long ago. */
  async function passInRedis(ms: number): Promise<void> {
    const known = hash(await redis.ask('HGETALL', totals))
    for (const field of ['bornAt', 'waryUntil']) {
      if (known.has(field)) await redis.ask('HINCRBY', totals, field, `${-ms}`)
    }
  }
})

void t.test('Who comes too late gets nothing before it has told what it knows', async (t) => {
  const redis = await startRedis(t)
  const client = limited(30)
  const late = await upReplica(t, redis.url, [client], { waryMs: 1 })
  await late.budget.hold(client, aCall({ priceCredits: 15 }))
  await redis.ask('FLUSHALL')
  const newcomer = await upReplica(t, redis.url, [client], { waryMs: 1 })
  t.equal(await codeOf(fly(newcomer, client)), 'granted')
  t.equal(await codeOf(late.budget.hold(client, aCall({ priceCredits: 15 }))), 'BUDGET_UNAVAILABLE')
  t.equal(await codeOf(late.budget.hold(client, aCall({ priceCredits: 15 }))), 'BUDGET_EXHAUSTED')
})

void t.test('A Redis that has lost its latest writes is told them', async (t) => {
  const redis = await startRedis(t)
  const client = limited(100)
  const replica = await upReplica(t, redis.url, [client], { waryMs: 1 })
  await fly(replica, client)
  await replica.budget.flush()
  const { day } = await inRedis(redis, t)
  const totals = 't:limits:{team}:credits:totals'
  const backup = await redis.ask('HGETALL', totals)
  const hold = await replica.budget.hold(client, aCall())
  await hold.secure(3)
  await fly(replica, client)
  await replica.budget.flush()
  await redis.ask('DEL', 't:limits:{team}:credits:records', 't:limits:{team}:credits:due')
  await redis.ask('HSET', totals, ...[...hash(backup)].flat(), 'runs', '2', `${day}:held`, '0', 'leased', '0')
  await replica.budget.flush()
  await replica.budget.flush()
  t.match(await inRedis(redis, t), { spent: 6, held: 3 })
})

void t.test('A clean stop gives the allowance back', async (t) => {
  const redis = await startRedis(t)
  const client = limited(1_000)
  const free = aClient({ name: 'free' })
  const replica = await upReplica(t, redis.url, [client, free])
  await fly(replica, client)
  await fly(replica, free)
  t.equal((await inRedis(redis, t)).leased, 20)
  await replica.budget.close()
  t.match(await inRedis(redis, t), { leased: 0, held: 0, spent: 3, records: 0 })
  t.match(await inRedis(redis, t, 'free'), { spent: 3 })
})

void t.test('Allowances never take the last fifth, and lost ones are not replaced for ever', async (t) => {
  const redis = await startRedis(t)
  const client = limited(1_000)
  for (let crash = 0; crash < 14; crash += 1) (await upReplica(t, redis.url, [client])).store.close()
  t.equal((await inRedis(redis, t)).leased, 200)

  const small = limited(30, null, 'small')
  const replica = await upReplica(t, redis.url, [small])
  t.equal((await inRedis(redis, t, 'small')).leased, 0, 'two of a hundred of thirty is nothing')
  replica.store.close()
})

void t.test('A client without a limit is only written up', async (t) => {
  const redis = await startRedis(t)
  const client = aClient()
  const replica = await upReplica(t, redis.url, [client])
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
  await replica.budget.flush()
  t.match(await inRedis(redis, t), { spent: 6, held: 0 })
  t.strictSame(replica.budget.spending(), [{ client: 'team', dayCredits: 6, monthCredits: 6, heldCredits: 0 }])
  const adopted = replica.budget.adopt(hold.id)
  await adopted?.secure(3)
  adopted?.settle()
  hold.spend(three)
  await replica.budget.flush()
  t.match(await inRedis(redis, t), { spent: 9, held: 0 }, 'late news counts')
})

void t.test('A68: what comes twice, late or garbled does no harm', async (t) => {
  const redis = await startRedis(t)
  const client = limited(100)
  const real = openReplica(t, redis.url, [])
  await until(() => real.store.state === 'up')
  let mode: 'lost' | 'garbled' | 'fine' = 'fine'
  const unsure = { kind: 'away', sent: true } as const
  const store: SharedStore = {
    ...real.store,
    state: 'up',
    onState: () => () => {},
    async run(...args): Promise<Shared<unknown>> {
      const reply = await real.store.run(...args)
      if (mode === 'lost') return unsure
      return mode === 'garbled' ? { kind: 'known', value: ['?'] } : reply
    },
  }
  const replica = withStore(store, [client])
  await replica.budget.flush()
  t.equal((await inRedis(redis, t)).leased, 2)
  const hold = await replica.budget.hold(client, aCall())
  for (mode of ['lost', 'garbled'] as const) {
    t.equal(await codeOf(replica.budget.hold(client, aCall())), 'BUDGET_UNAVAILABLE')
    t.equal(await codeOf(hold.secure(3)), 'BUDGET_UNAVAILABLE')
  }
  t.match(await inRedis(redis, t), { held: 9, leased: 2 }, 'it was applied all the same')
  mode = 'fine'
  await replica.budget.flush()
  t.match(await inRedis(redis, t), { held: 3 }, 'what nobody wants is given back')
  await hold.secure(3)
  hold.spend(three)
  mode = 'lost'
  hold.settle()
  await replica.budget.flush()
  mode = 'fine'
  await replica.budget.flush()
  await replica.budget.flush()
  t.match(await inRedis(redis, t), { held: 0, spent: 3, leased: 2 })
})

void t.test('L1, L2: any interleaving of two replicas whose replies get lost', async (t) => {
  const redis = await startRedis(t)
  const client = limited(60)
  const real = openReplica(t, redis.url, [])
  await until(() => real.store.state === 'up')
  const step = fc.record({
    replica: fc.integer({ min: 0, max: 1 }),
    what: fc.constantFrom('hold', 'secure', 'spend', 'settle', 'flush', 'lose', 'find', 'forget'),
    pick: fc.nat(5),
  })
  let run = 0
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      run += 1
      const prefix = `run${run}:`
      let charged = 0
      let isForgotten = false
      const both = [0, 1].map(() => {
        let isLosing = false
        const store: SharedStore = {
          ...real.store,
          state: 'up',
          onState: () => () => {},
          async run(script, keys, args) {
            const reply = await real.store.run(
              script,
              keys.map((key) => prefix + key),
              args,
            )
            return isLosing ? { kind: 'away', sent: true } : reply
          },
        }
        return {
          ...withStore(store, [client]),
          holds: [] as { hold: Awaited<ReturnType<SharedBudgets['hold']>>; secured: boolean }[],
          lose: (is: boolean) => void (isLosing = is),
        }
      })
      for (const { replica, what, pick } of steps) {
        const one = both[replica]
        const open = one?.holds[pick % Math.max(1, one.holds.length)]
        if (!one) continue
        if (what === 'hold')
          await one.budget.hold(client, aCall()).then((hold) => one.holds.push({ hold, secured: false }), refusal)
        if (what === 'flush') await one.budget.flush()
        if (what === 'lose' || what === 'find') one.lose(what === 'lose')
        if (what === 'forget') {
          isForgotten = true
          await redis.ask(
            'DEL',
            ...['totals', 'records', 'due'].map((kind) => `t:${prefix}limits:{team}:credits:${kind}`),
          )
        }
        if (!open) continue
        if (what === 'secure') await open.hold.secure(3).then(() => void (open.secured = true), refusal)
        if (what === 'spend' && open.secured) {
          open.secured = false
          charged += 3
          open.hold.spend(three)
        }
        if (what === 'settle') {
          open.hold.settle()
          one.holds = one.holds.filter((each) => each !== open)
        }
      }
      for (const { lose, holds } of both) {
        lose(false)
        for (const { hold } of holds) hold.settle()
      }
      for (const { budget } of [...both, ...both]) await budget.flush()
      const [state] = both[0]?.budget.states() ?? []
      const leased = state?.heldCredits ?? 0
      if (charged > 60) throw new Error(`${charged} of 60 were spent`)
      const known = state?.spentCredits ?? 0
      // What was told, the reply to that lost, and then forgotten, may count twice.
      if (known < charged || (known > charged && !isForgotten))
        throw new Error(`${charged} were spent, ${known} are known`)
      if (leased > 2) throw new Error(`${leased} are held by nobody`)
    }),
    { numRuns: 150, seed: 7 },
  )
  t.pass(`${run} runs`)
})

function refusal(error: unknown): void {
  if (!(error instanceof ProxyError)) throw error
}

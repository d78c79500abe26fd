/** The report of several replicas, on a real Redis: what each has written, and what a replica that was killed could not write. */
import t, { type Test } from 'tap'
import { createTraffic, type DayRow, netOf } from '../../src/limits/day-sums.ts'
import { createSharedBudget } from '../../src/limits/shared-budget.ts'
import { createSharedDaySums } from '../../src/limits/shared-day-sums.ts'
import type { Charge, Client } from '../../src/model.ts'
import { createClock } from '../../src/world/clock.ts'
import { createRandom } from '../../src/world/random.ts'
import { createRedis } from '../../src/world/redis.ts'
import { startRedis, until } from '../support/redis.ts'
import { aSession } from '../support/session.ts'
import { aCall, aClient } from '../support/verdicts.ts'
import { fakeWorld } from '../support/world.ts'

const NOON = Date.parse('2026-01-15T12:00:00Z')
const MONTH = '2026-01'
const TEAM = aClient({ name: 'team', credits: { perDay: 1_000, perMonth: null } })
const FREE = aClient({ name: 'free' })
const charged: Charge = { state: 'charged', credits: 3 }

async function aReplica(t: Test, url: string, id: string, gone: Set<string>) {
  const place = { kind: 'single', url } as const
  const access = { username: null, password: null, database: 0, timeoutMs: 5_000, prefix: 't:' }
  const store = createRedis({ place, ...access }, createClock(), createRandom(), () => {})
  t.teardown(() => store.close())
  await until(() => store.state === 'up')
  const { clock, emit } = fakeWorld()
  const session = { ...aSession(id, gone, 2), wallMs: () => NOON }
  const daySums = createSharedDaySums({ store, clock, session })
  const clients = () => [TEAM, FREE]
  const ports = { store, clock, random: createRandom(), emit, session, clients, whole: () => null, daySums }
  const budget = createSharedBudget({ ...ports, whenAway: () => 'closed', tell: () => {} })
  await budget.flush()

  /** One call, as far as it gets before the replica is killed. */
  async function call(client: Client, upTo: 'sent' | Charge, key = 'main'): Promise<void> {
    const hold = await budget.hold(client, aCall())
    await hold.secure(3)
    if (upTo === 'sent') return
    hold.spend(upTo, key)
    hold.settle()
  }
  return { store, session, clock, daySums, budget, call, report: () => daySums.rowsOf(MONTH, ['team', 'free']) }
}

const totalOf = (rows: readonly DayRow[]): number => rows.reduce((sum, row) => sum + netOf(row), 0)

void t.test('The rows of all replicas are one report, whose sum is that of the budgets', async (t) => {
  const redis = await startRedis(t)
  const gone = new Set<string>()
  const [one, two] = [await aReplica(t, redis.url, 'one', gone), await aReplica(t, redis.url, 'two', gone)]
  const traffic = createTraffic(one.daySums, { ...one.clock, wall: () => NOON })
  traffic.add({ client: 'team', scraper: 'alpha', key: 'main' }, null, 0)
  traffic.add({ client: 'team', scraper: 'alpha', key: 'none' }, 'hit', 3)
  traffic.flush()
  await one.call(TEAM, charged)
  await one.call(TEAM, { state: 'unknown', credits: 3 })
  await one.call(TEAM, { state: 'free', credits: 0 })
  await two.call(TEAM, charged)
  await two.call(FREE, charged, 'other')
  two.budget.refund('team', 3, NOON, { scraper: 'alpha', key: 'main' })
  await two.daySums.close()
  const rows = await one.report()
  const row = { day: '2026-01-15', scraper: 'alpha' }
  t.match(rows, [
    { ...row, client: 'free', key: 'other', spent: 3, uncertain: 0 },
    { ...row, client: 'team', key: 'main', requests: 1, spent: 6, uncertain: 3, refunded: 3 },
    { ...row, client: 'team', key: 'none', requests: 1, spent: 0, hit: 3 },
  ])
  t.equal(rows.length, 3)
  t.strictSame(await two.report(), rows)

  await two.budget.correct('team', 1)
  t.match((await two.report()).slice(-1), [{ client: 'team', key: 'none', scraper: 'none', corrected: -5 }])
  t.strictSame(await one.daySums.rowsOf('2026-02', ['team']), [])
})

void t.test(
  'What a replica had spent or sent when it was killed counts as uncertain, once its session has ended',
  async (t) => {
    const redis = await startRedis(t)
    const gone = new Set<string>()
    const [dead, one] = [await aReplica(t, redis.url, 'dead', gone), await aReplica(t, redis.url, 'one', gone)]
    await dead.call(TEAM, charged)
    await dead.clock.advance(1_000)
    await until(async () => totalOf(await one.report()) === 3)
    // The budget knows of these, the report does not yet.
    await dead.call(TEAM, charged)
    await dead.budget.flush()
    await dead.call(TEAM, 'sent')
    dead.store.close()
    await one.call(TEAM, charged)
    t.equal(totalOf(await one.report()), 6, 'it may still live')

    gone.add('dead')
    await one.budget.flush()
    await one.budget.flush()
    const rows = await one.report()
    t.match(rows, [
      { client: 'team', scraper: 'alpha', key: 'main', spent: 6, uncertain: 0 },
      { client: 'team', scraper: 'none', key: 'none', spent: 0, uncertain: 6 },
    ])
    t.match(one.budget.spending(), [{ client: 'team', monthCredits: totalOf(rows) }, {}])
  },
)

void t.test(
  'Redis comes back empty: each replica writes its rows again; while it is away there is no report',
  async (t) => {
    const redis = await startRedis(t)
    const one = await aReplica(t, redis.url, 'one', new Set())
    await one.call(TEAM, charged)
    t.equal(totalOf(await one.report()), 3)
    await redis.kill()
    await until(() => one.store.state === 'down')
    await t.rejects(one.report(), { code: 'STORE_UNAVAILABLE', status: 503 })
    await redis.restart()
    await until(() => one.store.state === 'up')
    one.session.beats(true)
    t.equal(totalOf(await one.report()), 3)
  },
)

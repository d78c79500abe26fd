/** Records of all replicas, on a real Redis: what is claimed twice is claimed once. */
import t, { type Test } from 'tap'
import { createSharedRecords } from '../../src/jobs/shared-records.ts'
import type { DiskRecord, Shared, SharedStore } from '../../src/ports.ts'
import { createClock } from '../../src/world/clock.ts'
import { createRandom } from '../../src/world/random.ts'
import { createRedis } from '../../src/world/redis.ts'
import { type RedisProcess, startRedis, until } from '../support/redis.ts'
import { epoch, fakeClock } from '../support/world.ts'

async function openStore(t: Test, redis: RedisProcess): Promise<SharedStore> {
  const place = { kind: 'single', url: redis.url } as const
  const access = { place, username: null, password: null, database: 0, timeoutMs: 5_000, prefix: 't:' }
  const store = createRedis(access, createClock(), createRandom(), () => {})
  t.teardown(() => store.close())
  await until(() => store.state === 'up')
  return store
}

function record(key: string, value: unknown, expiresAt: number | null = null, space = 'idempotency'): DiskRecord {
  return { space, key, value, expiresAt }
}

function known<T>(shared: Shared<T>): T {
  if (shared.kind === 'known') return shared.value
  throw new Error('The store is away.')
}

void t.test('What one replica puts another gets, all or nothing, until it expires', async (t) => {
  const redis = await startRedis(t)
  const one = createSharedRecords(await openStore(t, redis), fakeClock())
  const two = createSharedRecords(await openStore(t, redis), fakeClock())
  t.strictSame(await one.put([]), { kind: 'known', value: null })
  await one.put([
    record('a', { deep: [1, 'zwei', null] }),
    record('b', 'text', epoch + 60_000),
    record('a', 1, null, 'job'),
  ])
  t.strictSame(known(await two.get('idempotency', 'a'))?.value, { deep: [1, 'zwei', null] })
  t.strictSame(known(await two.get('idempotency', 'b'))?.value, 'text')
  t.strictSame(known(await two.get('idempotency', 'c')), null)
  t.strictSame(
    new Map(known(await two.list('idempotency'))),
    new Map<string, unknown>([
      ['a', { deep: [1, 'zwei', null] }],
      ['b', 'text'],
    ]),
  )

  await two.put([record('a', null), record('b', 'soon over', epoch + 50), record('never', 1, epoch - 1)])
  t.equal(known(await one.get('idempotency', 'a')), null)
  t.equal(known(await one.get('idempotency', 'never')), null)
  await until(async () => known(await one.get('idempotency', 'b')) === null)
  t.strictSame(known(await one.list('idempotency')), [])
  t.strictSame(known(await one.list('job')), [['a', 1]], 'spaces are apart')
  await one.put([record('z', 1)])
  t.match(await redis.ask('HLEN', 't:records:{jobs}'), ':2', 'what has expired is swept')
})

void t.test('Long lists come in pages, and names of spaces are no patterns', async (t) => {
  const redis = await startRedis(t)
  const records = createSharedRecords(await openStore(t, redis), fakeClock())
  const all = Array.from({ length: 1_000 }, (_, number) => record(`key-${number}`, { number, padding: 'x'.repeat(80) }))
  await records.put(all)
  await records.put([record('other', 1, null, 'i*'), record('odd', 2, null, 'i[d]')])
  t.equal(known(await records.list('idempotency')).length, 1_000)
  t.strictSame(known(await records.list('i*')), [['other', 1]])
  t.strictSame(known(await records.list('i[d]')), [['odd', 2]])
})

void t.test('Of 40 claims on four replicas one succeeds, and the others learn whose it is', async (t) => {
  const redis = await startRedis(t)
  const replicas = await Promise.all(
    Array.from({ length: 4 }, async () => createSharedRecords(await openStore(t, redis), fakeClock())),
  )
  const outcomes = await Promise.all(
    Array.from({ length: 40 }, async (_, claimer) => {
      const swapped = await replicas[claimer % 4]?.swap(record('key', { claimer }, epoch + 60_000), null)
      return { claimer, swapped: swapped && known(swapped) }
    }),
  )
  const winners = outcomes.filter(({ swapped }) => swapped?.kind === 'written')
  t.equal(winners.length, 1)
  const others = outcomes.filter(({ swapped }) => swapped?.kind === 'other')
  t.equal(others.length, 39)
  for (const { swapped } of others) t.match(swapped, { there: { value: { claimer: winners[0]?.claimer } } })
})

void t.test('A swap needs the revision that it has read, and writes what belongs to it in one step', async (t) => {
  const redis = await startRedis(t)
  const records = createSharedRecords(await openStore(t, redis), fakeClock())
  const first = record('key', { state: 'submitting' })
  t.strictSame(known(await records.swap(first, null)), { kind: 'written' })
  t.strictSame(known(await records.swap(first, null)), { kind: 'written' }, 'a repetition of the same has been written')
  const read = known(await records.get('idempotency', 'key'))
  const job = record('job-1', { owner: 'team' }, null, 'job')
  t.strictSame(known(await records.swap(record('key', { state: 'submitted' }), read?.revision ?? '', [job])), {
    kind: 'written',
  })
  t.strictSame(known(await records.get('job', 'job-1'))?.value, { owner: 'team' })

  const late = known(
    await records.swap(record('key', { state: 'unknown' }), read?.revision ?? '', [record('job-1', null, null, 'job')]),
  )
  t.match(late, { kind: 'other', there: { value: { state: 'submitted' } } })
  t.ok(known(await records.get('job', 'job-1')), 'all or nothing')

  const newest = known(await records.get('idempotency', 'key'))
  t.strictSame(known(await records.swap(record('key', null), newest?.revision ?? '')), { kind: 'written' })
  t.strictSame(known(await records.swap(record('key', { state: 'again' }), newest?.revision ?? '')), {
    kind: 'other',
    there: null,
  })
  t.strictSame(known(await records.swap(record('key', { state: 'again' }), null)), { kind: 'written' })
  t.not(known(await records.get('idempotency', 'key'))?.revision, newest?.revision, 'no revision comes twice')
})

void t.test('Foreign bytes are nothing, and a store that is away says so', async (t) => {
  const redis = await startRedis(t)
  const store = await openStore(t, redis)
  const records = createSharedRecords(store, fakeClock())
  await redis.ask('HSET', 't:records:{jobs}', 'job/a', 'rubbish', 'job/b', '12 {"cut', 'job/c', '12 7')
  t.equal(known(await records.get('job', 'a')), null)
  t.strictSame(known(await records.list('job')), [['c', 7]])
  await redis.kill()
  await until(() => store.state === 'down')
  const away = { kind: 'away', sent: false }
  t.strictSame(await records.get('job', 'a'), away)
  t.strictSame(await records.list('job'), away)
  t.strictSame(await records.put([record('a', 1)]), away)
  t.strictSame(await records.swap(record('a', 1), null), away)
})

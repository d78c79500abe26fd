/** Rests over a restart: another pool over the same records. */
import t from 'tap'
import { createKeyMemory } from '../../src/keys/key-memory.ts'
import { createKeys } from '../../src/keys/pool.ts'
import { Secret } from '../../src/keys/secret.ts'
import type { Turn } from '../../src/fetch-parts.ts'
import type { DiskRecord } from '../../src/ports.ts'
import { fakeWorld } from '../support/world.ts'
import { aCall, answered, failed, keyRestDefaults } from '../support/verdicts.ts'

const minute = 60_000
const turn: Turn = {
  number: 1,
  waitedMs: 0,
  bypassCache: false,
  isLast: false,
  isOverBudget: false,
  leftMs: () => 600_000,
  startableMs: () => 590_000,
  spentKeys: new Set(),
}

function stage() {
  const world = fakeWorld()
  const kept = new Map<string, unknown>()
  const written: DiskRecord[] = []
  const disk = {
    get: (space: string, key: string): unknown => kept.get(`${space}/${key}`) ?? null,
    put(records: readonly DiskRecord[]) {
      written.push(...records)
      // As JSON, as a disk would have it.
      for (const { space, key, value } of records) kept.set(`${space}/${key}`, JSON.parse(JSON.stringify(value)))
    },
  }
  const start = (secret = 'a-secret') =>
    createKeys({
      ...world,
      keys: [{ name: 'main', weight: 1, secret: new Secret(secret) }],
      keyRest: keyRestDefaults,
      memory: createKeyMemory(disk, world.clock),
    })
  return { ...world, kept, written, start }
}

void t.test('A key that was refused before a restart is tried with one request after it', async (t) => {
  for (const awayMs of [5 * minute, 60 * minute]) {
    const { clock, start } = stage()
    const lease = await start().lease(aCall(), turn)
    lease.report(failed('creditsExhausted'))
    await clock.advance(awayMs)
    const keys = start()
    t.match(keys.states(), [{ name: 'main', state: 'spent', untilAt: null, tryAt: null }])
    const trial = await keys.lease(aCall(), turn)
    let others = 0
    const waiting = keys.lease(aCall(), turn).then(() => (others += 1))
    await clock.settle()
    t.equal(others, 0, 'one request at a time')
    trial.report(answered())
    await waiting
    t.match(start().states(), [{ state: 'ready' }], 'and that is remembered, too')
  }
})

void t.test('A limited key is tried after a restart, and used once its limit is over', async (t) => {
  const { clock, start } = stage()
  const other = await start().lease(aCall(), turn)
  other.report(failed('rateLimited', { retryAfterMs: 2 * minute }))
  t.match(await start().lease(aCall(), turn), { name: 'main' })
  await clock.advance(2 * minute)
  t.match(start().states(), [{ state: 'ready' }])
})

void t.test('Another secret under the same name is another key', async (t) => {
  const { start, written } = stage()
  const lease = await start('old-secret').lease(aCall(), turn)
  lease.report(failed('unauthorized'))
  t.match(start('new-secret').states(), [{ state: 'ready' }])
  t.notMatch(JSON.stringify(written), 'old-secret', 'and no secret is kept')
})

void t.test('Only what matters is written: no short rests, no moments more', async (t) => {
  const { clock, start, written } = stage()
  const keys = start()
  const leases = await Promise.all(Array.from({ length: 50 }, () => keys.lease(aCall(), turn)))
  leases[0]?.report(failed('rateLimited', { retryAfterMs: 20_000 }))
  t.equal(written.length, 0)
  for (const lease of leases) {
    await clock.advance(10)
    lease.report(failed('creditsExhausted'))
  }
  t.equal(written.length, 1)
  await clock.advance(24 * 60 * minute)
  const trial = await keys.lease(aCall(), turn)
  trial.report(failed('creditsExhausted'))
  t.equal(written.length, 2, 'it is kept as long as the key is not trusted')
})

void t.test('What is not a rest is not taken for one', async (t) => {
  const { start, kept } = stage()
  const lease = await start().lease(aCall(), turn)
  lease.report(failed('creditsExhausted'))
  const good = kept.get('key-rest/main') as Record<string, unknown>
  for (const value of [
    1,
    'x',
    [],
    {},
    { ...good, because: 'boredom' },
    { ...good, because: 7 },
    { ...good, mark: 1 },
  ]) {
    kept.set('key-rest/main', value)
    t.match(start().states(), [{ state: 'ready' }], JSON.stringify(value))
  }
  kept.set('key-rest/main', good)
  t.match(start().states(), [{ state: 'spent' }])
})

/** Rests over a restart: another pool over the same records. */
import t from 'tap'
import { createKeyMemory } from '../../src/keys/key-memory.ts'
import { createKeys } from '../../src/keys/pool.ts'
import { Secret } from '../../src/keys/secret.ts'
import type { Turn } from '../../src/parts.ts'
import type { DiskRecord } from '../../src/ports.ts'
import { epoch, fakeWorld } from '../support/world.ts'
import { aCall, answered, failed, keyRestDefaults } from '../support/verdicts.ts'

const minute = 60_000
const turn: Turn = {
  number: 1,
  waitedMs: 0,
  bypassCache: false,
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

void t.test('A spent key is still spent after a restart, and its return is a trial', async (t) => {
  const { clock, start } = stage()
  const lease = await start().lease(aCall(), turn)
  lease.report(failed('creditsExhausted'))
  await clock.advance(5 * minute)

  const keys = start()
  t.strictSame(keys.states(), [{ name: 'main', state: 'spent', untilAt: epoch + 15 * minute }])
  await t.rejects(keys.lease(aCall(), turn), { code: 'NO_KEY_AVAILABLE', retryAfterMs: 10 * minute })
  await clock.advance(10 * minute)
  const trial = await keys.lease(aCall(), turn)
  await t.rejects(keys.lease(aCall(), turn), { code: 'NO_KEY_AVAILABLE' }, 'one request at a time')
  trial.report(answered())
  t.match(start().states(), [{ state: 'ready' }], 'and that is remembered, too')
})

void t.test('A rest that ended while we were away leaves a trial behind; a limit leaves nothing', async (t) => {
  const refused = stage()
  const lease = await refused.start().lease(aCall(), turn)
  lease.report(failed('unauthorized'))
  await refused.clock.advance(60 * minute)
  const keys = refused.start()
  t.match(keys.states(), [{ state: 'resting', untilAt: null }])
  await keys.lease(aCall(), turn)
  await t.rejects(keys.lease(aCall(), turn), { code: 'NO_KEY_AVAILABLE' })

  const limited = stage()
  const other = await limited.start().lease(aCall(), turn)
  other.report(failed('rateLimited', { retryAfterMs: 2 * minute }))
  t.match(limited.start().states(), [{ state: 'resting', untilAt: epoch + 2 * minute }])
  await limited.clock.advance(2 * minute)
  t.match(limited.start().states(), [{ state: 'ready' }])
})

void t.test('Another secret under the same name starts afresh', async (t) => {
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
  await clock.advance(minute)
  leases[1]?.report(failed('creditsExhausted'))
  t.equal(written.length, 2)
})

void t.test('However the wall clock was put meanwhile, a rest is not longer than it was', async (t) => {
  const { clock, start } = stage()
  const lease = await start().lease(aCall(), turn)
  lease.report(failed('creditsExhausted'))
  clock.stepWall(-365 * 24 * 60 * minute)
  t.match(start().states(), [{ state: 'spent', untilAt: epoch + 15 * minute }])
})

void t.test('What is not a rest is not taken for one', async (t) => {
  const { start, kept } = stage()
  const lease = await start().lease(aCall(), turn)
  lease.report(failed('creditsExhausted'))
  const good = kept.get('key-rest/main') as Record<string, unknown>
  const wrong = [1, 'x', [], {}, { ...good, because: 'boredom' }, { ...good, untilWallAt: 'x' }, { ...good, mark: 1 }]
  for (const value of wrong) {
    kept.set('key-rest/main', value)
    t.match(start().states(), [{ state: 'ready' }], JSON.stringify(value))
  }
  kept.set('key-rest/main', good)
  t.match(start().states(), [{ state: 'spent' }])
})

/**
 * A start on a volume that is full, read-only or locked, over real processes: what can be read is read, no budget is begun anew, and
 * what is spent meanwhile is added.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import t from 'tap'
import { admin, aScene, aVolume, becomesReady, ended, refused, spend, spentOn, TEAM } from '../support/data-folder.ts'
import type { Running } from '../support/process.ts'
import { request } from '../support/proxy.ts'

for (const trouble of ['full', 'read-only', 'locked'] as const) {
  void t.test(
    `a restart while the volume is ${trouble}: the budget is not begun anew, and nothing is forgotten`,
    async (t) => {
      const volume = aVolume(t, '8m')
      if (!volume && trouble !== 'locked') {
        t.pass('no volume can be mounted here')
        return
      }
      const folder = join(volume ?? t.testdir({}), 'data')
      mkdirSync(folder)
      const scene = await aScene(t, folder)
      const { sim, ask } = scene
      const first = await scene.start()
      for (let i = 0; i < 9; i++) t.equal((await ask(first)).status, 200)
      await ended(first, 'SIGTERM')
      const heal = hurt(trouble, volume ?? folder, folder)
      const second = await scene.start()
      const isReadable = trouble !== 'locked'
      for (let i = 0; i < 3; i++) t.match(await ask(second), refused)
      if (isReadable) t.equal(await spentOn(second), 27, 'what can be read is read')
      t.equal((await ask(second, {}, 'for-nobody')).status, 200)
      t.equal((await ask(second, TEAM, 'for-nobody')).headers['x-proxy-credits'], '0')
      t.match(
        second.stdout(),
        isReadable ? /records file lost: budgets and jobs cannot be saved/ : /held by another process/,
      )
      t.match((await admin(second, '/metrics')).text, /disk_up\{file="records"\} 0/)
      const keyed = { ...TEAM, 'idempotency-key': 'k' }
      const submit = (proxy: Running) =>
        request(undefined, `${proxy.url}/scrapers/chatgpt/jobs?prompt=j`, { method: 'POST', headers: keyed })
      t.match(await submit(second), { status: 503, headers: { 'retry-after': /^\d+$/ } })

      heal()
      await becomesReady(second)
      t.same([await spentOn(second), await spentOn(second, 'anonymous')], [27, 3])
      t.equal((await submit(second)).status, 202)
      const [answered, refusal] = await spend(scene, second)
      t.equal(answered, 10)
      t.match(refusal, { status: 429 })
      t.equal(sim.ledger.total(), 63)
      await ended(second, 'SIGKILL')
      const third = await scene.start()
      t.same([await spentOn(third), await spentOn(third, 'anonymous')], [60, 3])
    },
  )
}

function hurt(trouble: 'full' | 'read-only' | 'locked', volume: string, folder: string): () => void {
  if (trouble === 'read-only') {
    execFileSync('mount', ['-o', 'remount,ro', volume])
    return () => execFileSync('mount', ['-o', 'remount,rw', volume])
  }
  if (trouble === 'full') {
    const filler = join(volume, 'filler')
    try {
      for (;;) writeFileSync(filler, Buffer.alloc(4_096), { flag: 'a' })
    } catch {
      return () => rmSync(filler)
    }
  }
  const holder = new DatabaseSync(join(folder, 'records.db'))
  holder.exec('BEGIN EXCLUSIVE')
  return () => holder.close()
}

void t.test(
  'durable questions are refused while the data folder cannot be written: they could be paid twice',
  async (t) => {
    const volume = aVolume(t, '8m')
    if (!volume) {
      t.pass('no volume can be mounted here')
      return
    }
    const folder = join(volume, 'data')
    mkdirSync(folder)
    const scene = await aScene(t, folder, ['jobs.execution=durable'])
    await ended(await scene.start(), 'SIGTERM')
    const heal = hurt('read-only', volume, folder)
    const proxy = await scene.start()
    t.match(await scene.ask(proxy, {}, 'long'), {
      status: 503,
      headers: { 'retry-after': /^\d+$/ },
      json: { code: 'STORE_UNAVAILABLE' },
    })
    t.match(await scene.ask(proxy), refused)
    t.equal(scene.sim.requests.length, 0)
    heal()
    await becomesReady(proxy)
    t.equal((await scene.ask(proxy, {}, 'long')).status, 200)
    t.equal(scene.sim.ledger.total(), 3)
  },
)

/**
 * The data folder over real processes: two of them on one folder, a kill in a submission, a power cut. However it goes, a budget is
 * never overspent, nothing is charged twice, and what is spent is never forgotten.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { admin, aScene, becomesReady, ended, refused, spend, spentOn, TEAM } from '../support/data-folder.ts'
import type { Running } from '../support/process.ts'
import { request } from '../support/proxy.ts'

void t.test(
  'start before stop on one folder: the second waits, not ready, and spends no budget until it has the folder',
  async (t) => {
    const scene = await aScene(t, t.testdir({}))
    const { sim, ask } = scene
    const first = await scene.start()
    for (let i = 0; i < 19; i++) t.equal((await ask(first, TEAM, `same-${i}`)).status, 200)
    const second = await scene.start()
    t.equal((await admin(second, '/readyz')).status, 503)
    t.match((await admin(second, '/status')).json, {
      records: 'held',
      health: { state: 'starting', because: [/another process/] },
      budgets: [],
    })
    t.match(await ask(second), refused)
    t.equal((await ask(second, {}, 'for-nobody')).status, 200, 'a client without a budget is served')
    t.equal((await ask(second, TEAM, 'for-nobody')).status, 200, 'and what is known then comes for a client with one')
    t.match(second.lines(), [{ level: 'warn', msg: /held by another process/ }])
    t.match((await admin(second, '/metrics')).text, /disk_up\{file="records"\} 0/)

    await ended(first, 'SIGTERM')
    await becomesReady(second)
    t.equal(await spentOn(second), 57)
    t.equal(await spentOn(second, 'anonymous'), 3, 'what it spent meanwhile is added')
    t.equal((await ask(second, TEAM, 'same-0')).headers['x-proxy-credits'], '0')
    const [answered, refusal] = await spend(scene, second)
    t.equal(answered, 1)
    t.match(refusal, { status: 429, json: { code: 'BUDGET_EXHAUSTED' } })
    t.equal(sim.ledger.total(), 63)
    await ended(second, 'SIGKILL')
    const third = await scene.start()
    t.same([await spentOn(third), await spentOn(third, 'anonymous')], [60, 3])
  },
)

void t.test('two processes on one data folder: only one spends the budget, whichever is killed', async (t) => {
  const scene = await aScene(t, t.testdir({}))
  const running = [await scene.start(), await scene.start()]
  for (let round = 0; round < 3; round += 1) {
    const [owner, other] = running as [Running, Running]
    for (let i = 0; i < 5; i++) {
      const answers = await Promise.all([scene.ask(owner), scene.ask(other)])
      t.same(answers.map(({ status }) => String(status)).toSorted(), ['200', '503'])
    }
    await ended(owner, 'SIGKILL')
    await becomesReady(other)
    running.splice(0, 2, other, await scene.start())
  }
  const [last] = running as [Running]
  t.equal(await spentOn(last), 45)
  const [answered] = await spend(scene, last)
  t.equal(answered, 5)
  t.equal(scene.sim.ledger.total(), 60)
})

void t.test('kill -9 during a submission: its Idempotency-Key stays IDEMPOTENCY_UNRESOLVED', async (t) => {
  const scene = await aScene(t, t.testdir({}))
  const { sim } = scene
  const submit = (proxy: Running, key: string, patience = '100') =>
    request(undefined, `${proxy.url}/scrapers/chatgpt/jobs?prompt=j`, {
      method: 'POST',
      headers: { ...TEAM, 'idempotency-key': key, 'x-request-timeout': patience },
    })
  sim.script({ call: 'submit' }, ['hold'])
  const first = await scene.start()
  const cut = submit(first, 'one').catch(() => 'cut')
  await sim.received(1)
  t.match(await submit(first, 'one', '1'), {
    status: 409,
    headers: { 'retry-after': /^\d+$/ },
    json: { code: 'IDEMPOTENCY_CONFLICT' },
  })
  await ended(first, 'SIGKILL')
  t.equal(await cut, 'cut')
  sim.release()
  const second = await scene.start()
  for (let i = 0; i < 2; i++) {
    const answer = await submit(second, 'one')
    t.match(answer, { status: 409, json: { code: 'IDEMPOTENCY_UNRESOLVED', detail: /new key/ } })
    t.equal(answer.headers['retry-after'], undefined, 'waiting does not help')
  }
  t.equal((await submit(second, 'two')).status, 202)
  t.equal(sim.requests.filter(({ call }) => call === 'submit').length, 2)
})

void t.test('a power cut during a call does not lose its credit hold', async (t) => {
  const folder = t.testdir({})
  const scene = await aScene(t, join(folder, 'data'))
  const { sim, ask } = scene
  sim.script({}, ['200', '200', 'hold'])
  // What the disk has for certain at any moment: the files as they were when the log was synced last.
  const hook = join(folder, 'hook.mjs')
  const copies = join(folder, 'copies')
  mkdirSync(copies)
  writeFileSync(
    hook,
    `import fs from 'node:fs'
     import { open } from 'node:fs/promises'
     const probe = await open(import.meta.filename)
     const handles = Object.getPrototypeOf(probe)
     await probe.close()
     const { datasync } = handles
     handles.datasync = async function () {
       await datasync.call(this)
       const log = fs.readlinkSync('/proc/self/fd/' + this.fd)
       for (const path of [log, log.replace('-wal', '')]) fs.copyFileSync(path, ${JSON.stringify(copies)} + '/' + path.split('/').at(-1))
     }`,
  )
  const first = await scene.start({ SCRAPELLM_API_KEY: 'upstream-key', NODE_OPTIONS: `--import ${hook}` })
  for (let i = 0; i < 2; i++) t.equal((await ask(first)).status, 200)
  const cut = ask(first).catch(() => 'cut')
  await sim.received(3)
  t.same(readdirSync(copies).toSorted(), ['records.db', 'records.db-wal'])
  const [file, log] = ['records.db', 'records.db-wal'].map((name) => readFileSync(join(copies, name)))
  await ended(first, 'SIGKILL')
  t.equal(await cut, 'cut')
  sim.release()
  rmSync(join(folder, 'data'), { recursive: true })
  mkdirSync(join(folder, 'data'))
  writeFileSync(join(folder, 'data', 'records.db'), file ?? '')
  writeFileSync(join(folder, 'data', 'records.db-wal'), log ?? '')
  const second = await scene.start()
  t.equal(await spentOn(second), 9)
  t.match(second.stdout(), /credits of an earlier run counted as spent/)
})

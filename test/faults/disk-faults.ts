/** What happens to the data folder of a single replica: a kill in the middle of writing, no room, damage, a lock, a volume that cannot be written to. */
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import type { Scope } from '../support/scope.ts'
import type { Dice } from './dice.ts'
import type { Fleet, FleetOptions, Life } from './fleet.ts'
import { isBroken } from './load.ts'
import { dismiss } from './replica-faults.ts'
import type { Fault, Stage } from './stage.ts'

/** With a budget, unless files are damaged: that alone may forget what was spent. */
export function owner(dice: Dice, scope: Scope): FleetOptions {
  const isSound = dice.chance(0.7)
  const isDurable = dice.chance(0.5)
  const folder = mkdtempSync(join(tmpdir(), 'slp-disk-'))
  scope.teardown(() => rmSync(folder, { recursive: true, force: true }))
  mount(scope, folder)
  return {
    size: 1,
    store: { diskPath: join(folder, 'cache.db') },
    isDurable,
    latency: isDurable ? { minMs: 100, maxMs: 1_000 } : { minMs: 2, maxMs: 150 },
    ...(isSound ? { teamCredits: dice.pick([300, 3_000, 100_000]) } : {}),
  }
}

/** A small volume, so that it can be full; where this user may not mount one, the faults that need it are made otherwise. */
function mount(scope: Scope, folder: string): void {
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=6m', 'tmpfs', folder], { stdio: 'ignore' })
  } catch {
    return
  }
  scope.teardown(() => execFileSync('umount', ['-l', folder]))
}

function isVolume(folder: string): boolean {
  return statSync(folder).dev !== statSync(dirname(folder)).dev
}

export const disk: Fault = async (stage) => {
  const { fleet, dice } = stage
  const isSound = fleet.options.teamCredits !== undefined
  const trouble = dice.pick(isSound ? [killed, killed, full, locked, unwritable] : [killed, damaged])
  const traffic = stage.load()
  await traffic.moves(dice.whole(20, 60))
  await dice.moment(100)
  await trouble(stage, pathOf(fleet), only(fleet))
  await traffic.moves(dice.whole(10, 30))
  await traffic.stop()
}

async function killed(stage: Stage, _path: string, life: Life): Promise<void> {
  const { fleet, dice } = stage
  stage.expose(life)
  await fleet.kill(life)
  stage.count('kill -9 of the owner of a file')
  const next = await fleet.begin()
  // Whoever was cut off asks again: the answer is there, or on its way, or asked for now.
  const cut = stage.asked().filter((one) => one.life === life && isBroken(one))
  const again = cut.map(({ prompt }) => stage.ask(next, prompt))
  await dice.moment(50)
  await Promise.all(again.map(({ done }) => done))
}

async function full(stage: Stage, path: string, life: Life): Promise<void> {
  stage.apart()
  mayRefuse(stage)
  const filler = join(dirname(path), 'filler')
  const hasVolume = isVolume(dirname(path))
  // A limit of the process looks like a fault of the disk, for which the answers are thrown away.
  if (!hasVolume) stage.forget()
  const free = hasVolume ? fill(filler) : limitFiles(life)
  stage.count('no room on the disk')
  await life.program.saw(/"msg":"disk cache lost"/)
  await stage.dice.moment(500)
  free()
  if (stage.isShort) return restart(stage, life)
  await life.program.saw(/disk cache lost[^]*disk cache is back/)
  await restart(stage, life)
}

/** While nothing can be written down, nothing is spent that must not be forgotten. */
function mayRefuse(stage: Stage): void {
  stage.mayAnswer(
    ({ headers }) =>
      ['BUDGET_UNAVAILABLE', 'STORE_UNAVAILABLE'].includes(String(headers['x-proxy-code'])) &&
      headers['retry-after'] !== undefined,
  )
}

function fill(path: string): () => void {
  try {
    for (;;) writeFileSync(path, Buffer.alloc(4_096), { flag: 'a' })
  } catch {
    return () => rmSync(path)
  }
}

/** No file of this process may grow any more: the same for anybody, without a volume. */
function limitFiles({ program }: Life): () => void {
  const pid = String(program.pid())
  execFileSync('prlimit', ['--pid', pid, '--fsize=4096:'])
  return () => execFileSync('prlimit', ['--pid', pid, '--fsize=unlimited:'])
}

async function damaged(stage: Stage, path: string, life: Life): Promise<void> {
  const { fleet, dice } = stage
  stage.apart()
  stage.expose(life)
  stage.forget()
  await fleet.kill(life)
  const pages = Math.floor(statSync(path).size / 4_096)
  const file = openSync(path, 'r+')
  for (let turn = dice.whole(1, 5); turn > 0; turn--) {
    writeSync(file, Buffer.alloc(4_096, dice.whole(1, 255)), 0, 4_096, 4_096 * dice.whole(0, Math.max(0, pages - 1)))
  }
  closeSync(file)
  stage.count('damage to the file')
  await fleet.begin()
}

async function locked(stage: Stage, path: string, life: Life): Promise<void> {
  stage.apart()
  // Who waits for the folder does not read the answers in it; nor can they be read on a volume that cannot be written to.
  stage.forget()
  mayRefuse(stage)
  await dismiss(stage, life)
  const holder = new DatabaseSync(join(dirname(path), 'records.db'))
  holder.exec('BEGIN EXCLUSIVE')
  stage.count('a lock on the file')
  const meanwhile = await stage.fleet.begin()
  await meanwhile.program.saw(/"msg":"data folder is held by another process/)
  await stage.dice.moment(500)
  holder.close()
  await restart(stage, meanwhile)
}

async function unwritable(stage: Stage, path: string, life: Life): Promise<void> {
  stage.apart()
  stage.forget()
  mayRefuse(stage)
  await dismiss(stage, life)
  const restore = forbidWriting(path)
  stage.count('a file that cannot be written to')
  const meanwhile = await stage.fleet.begin()
  await meanwhile.program.saw(/"msg":"records file lost/)
  await stage.dice.moment(500)
  await dismiss(stage, meanwhile)
  restore()
  await stage.fleet.begin()
}

function forbidWriting(path: string): () => void {
  const folder = dirname(path)
  if (isVolume(folder)) {
    execFileSync('mount', ['-o', 'remount,ro', folder])
    return () => execFileSync('mount', ['-o', 'remount,rw', folder])
  }
  for (const name of readdirSync(folder)) chmodSync(join(folder, name), 0o400)
  chmodSync(folder, 0o500)
  return () => {
    chmodSync(folder, 0o700)
    for (const name of readdirSync(folder)) chmodSync(join(folder, name), 0o600)
  }
}

async function restart(stage: Stage, life: Life): Promise<void> {
  await dismiss(stage, life)
  await stage.fleet.begin()
}

export function pathOf({ options }: Fleet): string {
  if (options.store === 'redis') throw new Error('There is no file in this fleet')
  return options.store.diskPath
}

export function only(fleet: Fleet): Life {
  const [life] = fleet.up()
  if (!life) throw new Error('Nobody is up')
  return life
}

/**
 * Power cuts: the process is gone, and with it what it had written and not synced. How much of that reached the disk is drawn; the least is
 * what was synced, which the process itself writes down (`sync-watch.ts`).
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { Scope } from '../support/scope.ts'
import type { Dice } from './dice.ts'
import { only, pathOf } from './disk-faults.ts'
import type { FleetOptions } from './fleet.ts'
import { isBroken } from './load.ts'
import type { Fault } from './stage.ts'
import { cutLog, readLog } from './write-ahead-log.ts'

/** From so many frames on the library moves the log into the file, and syncs it before. */
const RECORDS_LOG_FRAMES = 256
const ANSWERS_LOG_FRAMES = 1_000

export function machine(dice: Dice, scope: Scope): FleetOptions {
  const folder = mkdtempSync(join(tmpdir(), 'slp-power-'))
  scope.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const isDurable = dice.chance(0.3)
  return {
    size: 1,
    store: { diskPath: join(folder, 'cache.db') },
    isDurable,
    latency: isDurable ? { minMs: 100, maxMs: 1_000 } : { minMs: 2, maxMs: 150 },
    teamCredits: dice.pick([300, 1_000, 3_000]),
    preload: new URL('sync-watch.ts', import.meta.url).href,
    environment: { SYNCED_FILE: syncedFile(folder) },
  }
}

function syncedFile(folder: string): string {
  return join(folder, 'synced')
}

export const power: Fault = async (stage) => {
  const { fleet, dice } = stage
  const life = only(fleet)
  const folder = dirname(pathOf(fleet))
  const traffic = stage.load({ team: 0.7 })
  await traffic.moves(dice.whole(20, 60))
  await dice.moment(100)
  stage.expose(life)
  // Answers are not synced. The id of a job is not, either: it may be submitted anew, and its price counts as spent.
  stage.forget()
  if (fleet.options.isDurable) stage.ambiguous()
  await fleet.kill(life)
  stage.count('power cut')
  stage.count('commits lost in a power cut, records', cut(join(folder, 'records.db-wal'), folder, dice))
  stage.count('commits lost in a power cut, answers', cut(join(folder, 'cache.db-wal'), null, dice))
  const next = await fleet.begin()
  const again = stage.asked().filter((one) => one.life === life && isBroken(one))
  await Promise.all(again.map(({ prompt }) => stage.ask(next, prompt).done))
  await traffic.moves(dice.whole(10, 30))
  await traffic.stop()
}

/** How many transactions never reached the disk. `folder` null = this log is never synced on purpose. */
function cut(path: string, folder: string | null, dice: Dice): number {
  const { generation, frames, commits } = readLog(path)
  const most = folder === null ? ANSWERS_LOG_FRAMES : RECORDS_LOG_FRAMES
  if (frames === 0 || frames >= most) return 0
  const synced = folder === null ? 0 : syncedFrames(folder, generation)
  const unsafe = commits.filter((end) => end > synced)
  const kept = dice.whole(0, unsafe.length)
  cutLog(path, unsafe[kept - 1] ?? synced)
  return unsafe.length - kept
}

function syncedFrames(folder: string, generation: string): number {
  const path = syncedFile(folder)
  if (!existsSync(path)) return 0
  const synced = JSON.parse(readFileSync(path, 'utf8')) as { readonly generation: string; readonly frames: number }
  return synced.generation === generation ? synced.frames : 0
}

/**
 * Where jobs are written down: on the disk, or in memory where there is none. Then all of it is forgotten with the process.
 */
import type { Clock, Disk, DiskRecord } from '../ports.ts'

export type JobStore = Pick<Disk, 'put' | 'get' | 'list'>

/** As long as jobs and their keys are kept: as long as upstream does. */
export const KEPT_MS = 24 * 60 * 60 * 1_000

export function createMemoryStore(clock: Clock): JobStore {
  const records = new Map<string, DiskRecord>()

  function put(list: readonly DiskRecord[]): void {
    for (const { space, key, value, expiresAt } of list) {
      const name = `${space}/${key}`
      // What is written again is youngest again, so that the oldest are in front.
      records.delete(name)
      if (value !== null) records.set(name, { space, key, value: structuredClone(value), expiresAt })
    }
    for (const [name, kept] of records) {
      if (isGood(kept)) break
      records.delete(name)
    }
  }

  function isGood({ expiresAt }: DiskRecord): boolean {
    return expiresAt === null || expiresAt > clock.wall()
  }

  return {
    put,
    get(space, key) {
      const kept = records.get(`${space}/${key}`)
      return kept && isGood(kept) ? kept.value : null
    },
    *list(space) {
      for (const kept of records.values()) if (kept.space === space && isGood(kept)) yield [kept.key, kept.value]
    },
  }
}

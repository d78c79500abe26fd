/**
 * Where jobs are written down. For one process: on the disk, or in memory where there is none, and then it is all forgotten with
 * the process. For several, see shared-store.ts. Nothing here rejects.
 */
import type { Clock, Disk, DiskRecord, DiskSum } from '../ports.ts'

export interface JobStore {
  /** Other processes write here at the same time. */
  readonly isShared: boolean
  /** All or nothing. Acknowledged when it resolves. */
  put(records: readonly DiskRecord[]): Promise<void>
  /** Null = nothing is known. */
  get(space: string, key: string): Promise<Written | null>
  list(space: string): Promise<readonly (readonly [key: string, value: unknown])[]>
  /**
   * Writes all, if the first record is still of this revision (null = is not there). Where the reply to that may get lost, the
   * very same record counts as written: two that must be told apart are different.
   */
  swap(record: DiskRecord, revision: string | null, others?: readonly DiskRecord[]): Promise<Swap>
  /**
   * Writes all, if the first record is not there in any process. Unlike `swap` it never decides alone: `away` = the shared store
   * cannot tell, and nothing was written, or what was written is deleted as soon as the store is back.
   */
  claim(record: DiskRecord, others?: readonly DiskRecord[]): Promise<Swap | { readonly kind: 'away' }>
}

export interface Written {
  readonly value: unknown
  /** Another one for another value. */
  readonly revision: string
}

export type Swap = { readonly kind: 'written' } | { readonly kind: 'other'; readonly there: Written | null }

export type Records = Pick<Disk, 'put' | 'secure' | 'get' | 'list' | 'onRead' | 'isRead'>

/** As long as jobs and their keys are kept: as long as upstream does. */
export const KEPT_MS = 24 * 60 * 60 * 1_000

/** What one process has for itself: no step of it can be interrupted. */
export function createLocalJobStore(records: Records): JobStore {
  return {
    isShared: false,
    put: async (list) => records.put(list),
    get: async (space, key) => written(space, key),
    list: async (space) => [...records.list(space)],
    swap,
    claim,
  }

  async function swap(record: DiskRecord, revision: string | null, others: readonly DiskRecord[] = []): Promise<Swap> {
    const there = written(record.space, record.key)
    if ((there?.revision ?? null) !== revision) return { kind: 'other', there }
    records.put([record, ...others])
    return { kind: 'written' }
  }

  /** The claim is what a crash must not forget: it is safe, or it is not made. */
  async function claim(record: DiskRecord, others?: readonly DiskRecord[]): Promise<Swap | { readonly kind: 'away' }> {
    if (!records.isRead) return { kind: 'away' }
    const claimed = await swap(record, null, others)
    if (claimed.kind === 'other' || (await records.secure())) return claimed
    records.put([{ ...record, value: null }])
    return { kind: 'away' }
  }

  function written(space: string, key: string): Written | null {
    const value = records.get(space, key) ?? null
    return value === null ? null : { value, revision: revisionOf(value) }
  }
}

function sumOf(known: unknown, add: DiskSum['add']): DiskSum['add'] {
  const sums = (known ?? {}) as DiskSum['add']
  return {
    ...sums,
    ...Object.fromEntries(Object.entries(add).map(([name, value]) => [name, (sums[name] ?? 0) + value])),
  }
}

function revisionOf(value: unknown): string {
  return JSON.stringify(value)
}

/** Where nothing survives the process, nothing needs to be remembered without end: the oldest go first. */
const MAX_RECORDS = 20_000

export function createMemoryStore(clock: Clock, maxRecords = MAX_RECORDS): Records {
  const records = new Map<string, DiskRecord>()

  function put(list: readonly (DiskRecord | DiskSum)[]): void {
    for (const record of list) {
      const { space, key, expiresAt } = record
      const name = `${space}/${key}`
      const value = 'add' in record ? sumOf(records.get(name)?.value, record.add) : record.value
      // What is written again is youngest again, so that the oldest are in front.
      records.delete(name)
      if (value !== null) records.set(name, { space, key, value: structuredClone(value), expiresAt })
    }
    for (const [name, kept] of records) {
      if (isGood(kept) && records.size <= maxRecords) break
      records.delete(name)
    }
  }

  function isGood({ expiresAt }: DiskRecord): boolean {
    return expiresAt === null || expiresAt > clock.wall()
  }

  return {
    put,
    secure: async () => true,
    isRead: true,
    onRead() {},
    get(space, key) {
      const kept = records.get(`${space}/${key}`)
      return kept && isGood(kept) ? kept.value : null
    },
    *list(space) {
      for (const kept of records.values()) if (kept.space === space && isGood(kept)) yield [kept.key, kept.value]
    },
  }
}

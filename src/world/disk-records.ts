/**
 * The records on the disk: money, jobs and what else must survive a restart, written through. What cannot be written now waits in
 * memory, is read from there, and is added to the file when it can be: a sum to the sum that is found, a value under its name.
 */
import { copyFileSync, existsSync, mkdtempSync, renameSync, rmSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { DatabaseSync } from 'node:sqlite'
import type { Clock, Disk, DiskRecord, Emit, Timer } from '../ports.ts'
import type { DiskTrouble } from '../telemetry/events.ts'
import { closeQuietly, connect, createFile, troubleOf } from './disk-file.ts'
import {
  createRecordTable,
  nameOf,
  type Pending,
  recordLayout,
  recordsIn,
  type RecordTable,
  together,
  withPending,
} from './disk-record-table.ts'

export interface RecordFile extends Pick<Disk, 'put' | 'secure' | 'get' | 'list' | 'onRead' | 'records' | 'isRead'> {
  open(): void
  close(): void
}

export interface RecordOptions {
  readonly path: string
  /** A store of an earlier version, in which records and answers were one file. */
  readonly importFrom: string
  /** Resolves when all that was written to the file is safe from a power cut. */
  readonly sync: (path: string) => Promise<void>
  /** The folder is not another process's. */
  readonly onOwned: () => void
}

const SWEEP_MS = 60_000
/** More than the log ever needs: so much is taken in advance, so that money can be written on a volume that has become full. */
const BALLAST_BYTES = 1_310_720
const imported: DiskRecord = { space: 'file', key: 'imported', value: true, expiresAt: null }

export function createRecordFile(options: RecordOptions, clock: Clock, emit: Emit): RecordFile {
  const { path, importFrom, sync, onOwned } = options
  const unsaved = new Map<string, Pending>()
  const listeners: (() => void)[] = []
  const file = createFile(
    {
      path,
      name: 'records',
      applicationId: 0x53715263,
      format: 1,
      layout: recordLayout,
      retryMs: 1_000,
      prepare,
      onTry,
      onTrouble,
    },
    clock,
    emit,
  )
  /** What a volume holds that cannot be written to. */
  let copy: RecordTable | null = null
  let isRead = false
  let isImported = false
  let isFresh = false
  let isOwned = false
  let syncing: Promise<boolean> = Promise.resolve(true)
  let next: Promise<boolean> | null = null
  let sweepTimer: Timer = clock.after(SWEEP_MS, sweep)

  return {
    open: file.open,
    put,
    secure,
    get: (space, key) => withPending(stored(space, key), unsaved.get(nameOf({ space, key })), clock.wall()),
    list,
    close,
    onRead: (listener) => void listeners.push(listener),
    get records() {
      if (file.isOpen && file.trouble === null) return 'up'
      return file.trouble === 'locked' ? 'held' : 'down'
    },
    get isRead() {
      return isRead
    },
  }

  function list(space: string): Iterable<readonly [string, unknown]> {
    const found = new Map(attempt((table) => table.list(space, clock.wall()), []))
    for (const pending of unsaved.values()) {
      if (pending.space === space) found.set(pending.key, withPending(found.get(pending.key), pending, clock.wall()))
    }
    return [...found].filter(([, value]) => value !== null)
  }

  function stored(space: string, key: string): unknown {
    return attempt((table) => table.get(space, key, clock.wall()), null)
  }

  function attempt<R>(job: (table: RecordTable) => R, otherwise: R): R {
    if (file.isOpen || !copy) return file.read(job, otherwise)
    try {
      return job(copy)
    } catch {
      return otherwise
    }
  }

  function put(records: readonly Pending[]): void {
    for (const record of records) {
      const name = nameOf(record)
      const before = unsaved.get(name)
      // What was never in the file need not be deleted there.
      if ('value' in record && record.value === null && before && stored(record.space, record.key) === null)
        unsaved.delete(name)
      else unsaved.set(name, together(record, before))
    }
    if (unsaved.size > 0) save()
  }

  /** All that waits. */
  function save(): void {
    const isSaved = file.write((table) => {
      for (const record of unsaved.values()) table.put(record, clock.wall())
    })
    if (isSaved) unsaved.clear()
  }

  /**
   * A commit is safe from a kill, but not from a power cut until the log is synced. That takes milliseconds on a good disk and
   * seconds on a bad one, so it is not done on the event loop; all who ask while one sync runs share the next one.
   */
  function secure(): Promise<boolean> {
    if (!file.isOpen || unsaved.size > 0) return Promise.resolve(false)
    return (next ??= syncing.then(() => {
      next = null
      return (syncing = syncLog())
    }))
  }

  async function syncLog(): Promise<boolean> {
    try {
      await sync(`${path}-wal`)
    } catch (error) {
      file.lost(error)
    }
    return file.isOpen && unsaved.size === 0
  }

  function sweep(): void {
    file.write((table) => table.sweep(clock.wall()))
    sweepTimer = clock.after(SWEEP_MS, sweep)
  }

  function close(): void {
    sweepTimer.cancel()
    file.close()
    closeQuietly(copy?.db ?? null)
  }

  // Up and down

  function prepare(db: DatabaseSync) {
    const table = createRecordTable(db)
    // Later the other file is the answers'.
    if (!isOwned && table.get(imported.space, imported.key, 0) === null) isImported ||= takeIn(importFrom)
    if (isImported) unsaved.set(nameOf(imported), imported)
    takeRoom(db)
    closeQuietly(copy?.db ?? null)
    copy = null
    isFresh = true
    return table
  }

  function onTry(): void {
    save()
    if (isImported && unsaved.size === 0) for (const tail of ['-wal', '']) rmSync(importFrom + tail, { force: true })
    isImported = false
    if (isFresh) known()
    isFresh = false
  }

  function known(): void {
    if (!isOwned) onOwned()
    isOwned = true
    isRead = true
    for (const listener of listeners) listener()
  }

  function onTrouble(because: DiskTrouble): boolean {
    if (because === 'locked' || because === 'full') return false
    if (because === 'corrupt') {
      for (const tail of ['-wal', '']) if (existsSync(path + tail)) renameSync(path + tail, `${path}.corrupt${tail}`)
      takeIn(`${path}.corrupt`)
      return true
    }
    if (because === 'read-only' && !copy) openCopy()
    if (!isOwned) onOwned()
    isOwned = true
    return false
  }

  /** A volume that cannot be written to is read in a copy: even reading takes a lock, and a lock is a write. */
  function openCopy(): void {
    const folder = mkdtempSync(join(tmpdir(), 'slp-records-'))
    try {
      const place = join(folder, 'records.db')
      for (const tail of ['', '-wal']) if (existsSync(path + tail)) copyFileSync(path + tail, place + tail)
      copy = createRecordTable(connect(place))
      known()
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  }

  /** Adds what another file has and nobody has written meanwhile, as far as it can be read. False: it has no records. */
  function takeIn(from: string): boolean {
    if (!existsSync(from)) return false
    const db = connect(from)
    try {
      // A process that still uses it holds a lock as long as it lives.
      db.exec('PRAGMA locking_mode = EXCLUSIVE')
      for (const record of recordsIn(db)) {
        const newer = unsaved.get(nameOf(record))
        if (!newer || 'add' in record) unsaved.set(nameOf(record), together(record, newer))
      }
      return true
    } catch (error) {
      if (troubleOf(error) === 'locked') throw error
      return false
    } finally {
      closeQuietly(db)
    }
  }
}

/** Grows file and log by more than they need, so that money can still be written when the volume is full. */
function takeRoom(db: DatabaseSync): void {
  db.exec('PRAGMA wal_autocheckpoint = 256')
  try {
    db.exec(`INSERT INTO ballast VALUES (zeroblob(${BALLAST_BYTES}))`)
    db.exec('DELETE FROM ballast; PRAGMA wal_checkpoint(RESTART)')
  } catch (error) {
    if (troubleOf(error) !== 'full') throw error
  }
}

export async function syncFile(path: string): Promise<void> {
  const handle = await open(path)
  try {
    await handle.datasync()
  } finally {
    await handle.close()
  }
}

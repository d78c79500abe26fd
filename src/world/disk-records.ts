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
import { closeQuietly, connect, createFile, type OwnedFile, troubleOf } from './disk-file.ts'
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

class SqliteRecords implements RecordFile {
  readonly #clock: Clock
  readonly #path: string
  readonly #importFrom: string
  readonly #sync: (path: string) => Promise<void>
  readonly #onOwned: () => void
  readonly #unsaved = new Map<string, Pending>()
  readonly #listeners: (() => void)[] = []
  readonly #file: OwnedFile<RecordTable>
  /** What a volume holds that cannot be written to. */
  #copy: RecordTable | null = null
  #isRead = false
  #isImported = false
  #isFresh = false
  #isOwned = false
  #syncing: Promise<boolean> = Promise.resolve(true)
  #next: Promise<boolean> | null = null
  #sweepTimer: Timer
  readonly open: RecordFile['open']

  constructor(options: RecordOptions, clock: Clock, emit: Emit) {
    this.#clock = clock
    const { path, importFrom, sync, onOwned } = options
    this.#path = path
    this.#importFrom = importFrom
    this.#sync = sync
    this.#onOwned = onOwned
    this.#file = createFile(
      {
        path,
        name: 'records',
        applicationId: 0x53715263,
        format: 1,
        layout: recordLayout,
        retryMs: 1_000,
        prepare: this.#prepare,
        onTry: this.#onTry,
        onTrouble: this.#onTrouble,
      },
      clock,
      emit,
    )
    this.#sweepTimer = clock.after(SWEEP_MS, this.#sweep)
    this.open = this.#file.open
  }

  readonly put = (records: readonly Pending[]): void => {
    for (const record of records) {
      const name = nameOf(record)
      const before = this.#unsaved.get(name)
      // What was never in the file need not be deleted there.
      if ('value' in record && record.value === null && before && this.#stored(record.space, record.key) === null)
        this.#unsaved.delete(name)
      else this.#unsaved.set(name, together(record, before))
    }
    if (this.#unsaved.size > 0) this.#save()
  }

  /**
   * A commit is safe from a kill, but not from a power cut until the log is synced. That takes milliseconds on a good disk and
   * seconds on a bad one, so it is not done on the event loop; all who ask while one sync runs share the next one.
   */
  readonly secure = (): Promise<boolean> => {
    if (!this.#file.isOpen || this.#unsaved.size > 0) return Promise.resolve(false)
    return (this.#next ??= this.#syncing.then(() => {
      this.#next = null
      return (this.#syncing = this.#syncLog())
    }))
  }

  readonly get: RecordFile['get'] = (space, key) =>
    withPending(this.#stored(space, key), this.#unsaved.get(nameOf({ space, key })), this.#clock.wall())

  readonly list = (space: string): Iterable<readonly [string, unknown]> => {
    const found = new Map(this.#attempt((table) => table.list(space, this.#clock.wall()), []))
    for (const pending of this.#unsaved.values()) {
      if (pending.space === space)
        found.set(pending.key, withPending(found.get(pending.key), pending, this.#clock.wall()))
    }
    return [...found].filter(([, value]) => value !== null)
  }

  readonly close = (): void => {
    this.#sweepTimer.cancel()
    this.#file.close()
    closeQuietly(this.#copy?.db ?? null)
  }

  readonly onRead: RecordFile['onRead'] = (listener) => void this.#listeners.push(listener)

  get records(): 'up' | 'held' | 'down' {
    if (this.#file.isOpen && this.#file.trouble === null) return 'up'
    return this.#file.trouble === 'locked' ? 'held' : 'down'
  }

  get isRead(): boolean {
    return this.#isRead
  }

  #stored(space: string, key: string): unknown {
    return this.#attempt((table) => table.get(space, key, this.#clock.wall()), null)
  }

  #attempt<R>(job: (table: RecordTable) => R, otherwise: R): R {
    if (this.#file.isOpen || !this.#copy) return this.#file.read(job, otherwise)
    try {
      return job(this.#copy)
    } catch {
      return otherwise
    }
  }

  /** All that waits. */
  #save(): void {
    const isSaved = this.#file.write((table) => {
      for (const record of this.#unsaved.values()) table.put(record, this.#clock.wall())
    })
    if (isSaved) this.#unsaved.clear()
  }

  async #syncLog(): Promise<boolean> {
    try {
      await this.#sync(`${this.#path}-wal`)
    } catch (error) {
      this.#file.lost(error)
    }
    return this.#file.isOpen && this.#unsaved.size === 0
  }

  readonly #sweep = (): void => {
    this.#file.write((table) => table.sweep(this.#clock.wall()))
    this.#sweepTimer = this.#clock.after(SWEEP_MS, this.#sweep)
  }

  // Up and down

  readonly #prepare = (db: DatabaseSync) => {
    const table = createRecordTable(db)
    // Later the other file is the answers'.
    if (!this.#isOwned && table.get(imported.space, imported.key, 0) === null)
      this.#isImported ||= this.#takeIn(this.#importFrom)
    if (this.#isImported) this.#unsaved.set(nameOf(imported), imported)
    takeRoom(db)
    closeQuietly(this.#copy?.db ?? null)
    this.#copy = null
    this.#isFresh = true
    return table
  }

  readonly #onTry = (): void => {
    this.#save()
    if (this.#isImported && this.#unsaved.size === 0)
      for (const tail of ['-wal', '']) rmSync(this.#importFrom + tail, { force: true })
    this.#isImported = false
    if (this.#isFresh) this.#known()
    this.#isFresh = false
  }

  #known(): void {
    if (!this.#isOwned) this.#onOwned()
    this.#isOwned = true
    this.#isRead = true
    for (const listener of this.#listeners) listener()
  }

  readonly #onTrouble = (because: DiskTrouble): boolean => {
    if (because === 'locked' || because === 'full') return false
    if (because === 'corrupt') {
      for (const tail of ['-wal', ''])
        if (existsSync(this.#path + tail)) renameSync(this.#path + tail, `${this.#path}.corrupt${tail}`)
      this.#takeIn(`${this.#path}.corrupt`)
      return true
    }
    if (because === 'read-only' && !this.#copy) this.#openCopy()
    if (!this.#isOwned) this.#onOwned()
    this.#isOwned = true
    return false
  }

  /** A volume that cannot be written to is read in a copy: even reading takes a lock, and a lock is a write. */
  #openCopy(): void {
    const folder = mkdtempSync(join(tmpdir(), 'slp-records-'))
    try {
      const place = join(folder, 'records.db')
      for (const tail of ['', '-wal']) if (existsSync(this.#path + tail)) copyFileSync(this.#path + tail, place + tail)
      this.#copy = createRecordTable(connect(place))
      this.#known()
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  }

  /** Adds what another file has and nobody has written meanwhile, as far as it can be read. False: it has no records. */
  #takeIn(from: string): boolean {
    if (!existsSync(from)) return false
    const db = connect(from)
    try {
      // A process that still uses it holds a lock as long as it lives.
      db.exec('PRAGMA locking_mode = EXCLUSIVE')
      for (const record of recordsIn(db)) {
        const newer = this.#unsaved.get(nameOf(record))
        if (!newer || 'add' in record) this.#unsaved.set(nameOf(record), together(record, newer))
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

export function createRecordFile(options: RecordOptions, clock: Clock, emit: Emit): RecordFile {
  return new SqliteRecords(options, clock, emit)
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

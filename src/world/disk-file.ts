/**
 * An SQLite file: opened as its only owner, lost when something is wrong with it, and tried again. The only file that opens a
 * connection.
 *
 * The owner holds an exclusive lock as long as the connection is open. POSIX drops all locks of a process on a file as soon as it
 * closes any descriptor of it, so nothing else may open the main file of an open connection.
 */
import { closeSync, existsSync, mkdirSync, openSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import type { DatabaseSync } from 'node:sqlite'
import type { Clock, Emit, Timer } from '../ports.ts'
import type { DiskFile, DiskTrouble } from '../telemetry/events.ts'

export const PAGE_BYTES = 4096

export interface FileOptions<T> {
  readonly path: string
  readonly name: DiskFile
  /** Marks a file as ours in its header. */
  readonly applicationId: number
  readonly format: number
  readonly layout: string
  readonly retryMs: number
  /** It may be lost: nothing waits for the device while it is begun. */
  readonly isCache?: boolean
  /** The statements of a connection that has just been opened. May throw. */
  readonly prepare: (db: DatabaseSync) => T
  /** After each opening, and when a full file is tried again: to be followed by a write. */
  readonly onTry: () => void
  /** It cannot be used; unless it is `full`, it is closed. True: it was put out of the way, and is begun anew at once. */
  readonly onTrouble: (because: DiskTrouble) => boolean
}

export interface OwnedFile<T> {
  open(): void
  /** Gives `otherwise` where the file cannot be read now. */
  read<R>(job: (parts: T) => R, otherwise: R): R
  /** In one transaction. False: nothing was written. */
  write(job: (parts: T) => void): boolean
  lost(error: unknown): void
  close(): void
  readonly isOpen: boolean
  /** Null = it can be written to, as far as is known. */
  readonly trouble: DiskTrouble | null
}

export function createFile<T>(options: FileOptions<T>, clock: Clock, emit: Emit): OwnedFile<T> {
  const { path, name, format, retryMs, prepare, onTry, onTrouble } = options
  let opened: { readonly db: DatabaseSync; readonly parts: T; readonly check: () => void } | null = null
  let trouble: DiskTrouble | null = null
  let isProven = false
  let isBegunAnew = false
  let retry: Timer | null = null

  return {
    open,
    read,
    write,
    lost,
    close,
    get isOpen() {
      return opened !== null
    },
    get trouble() {
      return trouble
    },
  }

  function open(): void {
    if (opened) return
    let db: DatabaseSync | null = null
    try {
      mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
      if (!existsSync(path)) closeSync(openSync(path, 'wx', 0o600))
      db = connect(path)
      configure(db, options)
      opened = { db, parts: prepare(db), check: checkOf(path) }
    } catch (error) {
      closeQuietly(db)
      return lost(withoutDisguise(error, path))
    }
    isProven = false
    onTry()
  }

  function read<R>(job: (parts: T) => R, otherwise: R): R {
    if (!opened) return otherwise
    try {
      return job(opened.parts)
    } catch (error) {
      lost(error)
      return otherwise
    }
  }

  function write(job: (parts: T) => void): boolean {
    if (!opened) return false
    const { db, parts, check } = opened
    try {
      check()
      db.exec('BEGIN IMMEDIATE')
      // A file that cannot be written to shall show it now, even when there is nothing to write.
      if (!isProven) db.exec(`PRAGMA user_version = ${format}`)
      job(parts)
      db.exec('COMMIT')
    } catch (error) {
      // The library may have rolled back by itself, as it does when the disk is full.
      if (db.isTransaction) db.exec('ROLLBACK')
      lost(error)
      return false
    }
    isProven = true
    if (trouble) emit({ kind: 'disk-changed', file: name, to: 'up', because: trouble })
    trouble = null
    return true
  }

  function lost(error: unknown): void {
    const because = troubleOf(error)
    isProven = false
    if (because !== 'full') shut()
    if (trouble !== because) emit({ kind: 'disk-changed', file: name, to: 'down', because })
    trouble = because
    retry?.cancel()
    retry = clock.after(retryMs, () => (opened ? onTry() : open()))
    if (isBegunAnew) return
    try {
      isBegunAnew = onTrouble(because)
      if (isBegunAnew) open()
    } catch {
      // It could not even be put out of the way: it is tried again like any other.
    }
    isBegunAnew = false
  }

  function close(): void {
    retry?.cancel()
    shut()
  }

  function shut(): void {
    closeQuietly(opened?.db ?? null)
    opened = null
  }
}

/** Without any preparation: for files of another format, and copies. */
export function connect(path: string): DatabaseSync {
  const { emitWarning } = process
  // Node 22 warns that the module is experimental, which is of no use to an operator.
  process.emitWarning = () => undefined
  try {
    const { DatabaseSync: Connection } = process.getBuiltinModule('node:sqlite')
    return new Connection(path, { timeout: 0 })
  } finally {
    process.emitWarning = emitWarning
  }
}

function configure(db: DatabaseSync, options: FileOptions<unknown>): void {
  const { applicationId, format, layout, isCache } = options
  db.exec('PRAGMA locking_mode = EXCLUSIVE')
  const isNew = db.prepare('SELECT 1 FROM sqlite_schema').get() === undefined
  if (!isNew && pragma(db, 'application_id') !== applicationId) throw new FileTrouble('corrupt')
  if (!isNew && pragma(db, 'user_version') !== format) throw new FileTrouble('format')
  // Has to come before anything is written, and is a write itself. Lets the file shrink in steps.
  if (isNew) db.exec('PRAGMA auto_vacuum = INCREMENTAL')
  // A commit is one append to the log. It survives a kill, because the kernel has it; `secure` of the records adds the sync that a
  // power cut asks for. With NORMAL the library itself syncs before it moves the log into the file, so the file is never torn.
  db.exec(`PRAGMA synchronous = ${isNew && isCache ? 'OFF' : 'NORMAL'}; PRAGMA journal_mode = WAL`)
  if (!isNew) return
  db.exec(`BEGIN; ${layout} PRAGMA application_id = ${applicationId}; PRAGMA user_version = ${format}; COMMIT`)
  db.exec('PRAGMA wal_checkpoint(TRUNCATE); PRAGMA synchronous = NORMAL')
}

/** The path may lead to another file by now, or to none; the library itself would not notice for long. */
function checkOf(path: string): () => void {
  const { ino, dev } = statSync(path)
  return () => {
    const found = statSync(path, { throwIfNoEntry: false })
    if (found?.ino !== ino || found.dev !== dev) throw new FileTrouble('io')
    if (found.size === 0 || found.size % PAGE_BYTES !== 0) throw new FileTrouble('corrupt')
  }
}

/** A read-only volume does not even give a lock; a damaged header may claim a version that only later libraries can write. */
function withoutDisguise(error: unknown, path: string): unknown {
  const because = troubleOf(error)
  if (because !== 'io' && because !== 'read-only') return error
  try {
    closeSync(openSync(path, 'r+'))
    return because === 'read-only' ? new FileTrouble('corrupt') : error
  } catch (cause) {
    return because === 'io' ? cause : error
  }
}

export function pragma(db: DatabaseSync, name: string): number {
  return Number(Object.values(db.prepare(`PRAGMA ${name}`).get() ?? {})[0])
}

export function closeQuietly(db: DatabaseSync | null): void {
  try {
    db?.close()
  } catch {
    // Too damaged to be closed: the process does not use it any more.
  }
}

class FileTrouble extends Error {
  readonly because: DiskTrouble

  constructor(because: DiskTrouble) {
    super(`the file is not usable: ${because}`)
    this.because = because
  }
}

/**
 * Result codes of the library, https://sqlite.org/rescode.html, and of the system. 1 can only be a table that is missing or not
 * ours; 19 and 20 are rows that this program cannot have written.
 */
const troubles: readonly (readonly [DiskTrouble, readonly unknown[]])[] = [
  ['corrupt', [1, 11, 19, 20, 26]],
  ['locked', [5, 6]],
  ['read-only', [3, 8, 'EACCES', 'EPERM', 'EROFS']],
  ['full', [13, 'ENOSPC', 'EDQUOT']],
]

export function troubleOf(error: unknown): DiskTrouble {
  if (error instanceof FileTrouble) return error.because
  const { errcode, code } = Object(error) as { readonly errcode?: number; readonly code?: string }
  const wanted = errcode === undefined ? code : errcode & 0xff
  return troubles.find(([, codes]) => codes.includes(wanted))?.[0] ?? 'io'
}

/**
 * The file under the disk store: opening it as its only owner, its layout and format version, putting a sick one aside,
 * and what an error of the library or the file system means. The one place that makes a connection.
 *
 * The owner is found out by an exclusive lock that is held as long as the connection lives; nothing ever waits for it.
 * No other descriptor of the file may be opened and closed meanwhile: that would silently give the lock away.
 */
import {
  chmodSync,
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import type { DatabaseSync } from 'node:sqlite'
import type { DiskTrouble } from '../telemetry/events.ts'

export const PAGE_BYTES = 4096

/** Marks a file as ours in its header ("SqDk"). */
const APPLICATION_ID = 0x5371446b
const FORMAT = 2
const ASIDES_KEPT = 2

/**
 * Bodies apart from the rest, so that noting a use does not rewrite a body. `gone_at` 0 is purged: a miss at once, its room taken
 * back in small steps. `meta` holds the running total, so that nothing is counted at start.
 */
const LAYOUT = `
  CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  INSERT INTO meta VALUES ('entries', 0), ('opened', 0);
  CREATE TABLE entries (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, gone_at INTEGER NOT NULL, rank INTEGER NOT NULL,
    bonus INTEGER NOT NULL, status INTEGER NOT NULL, content_type TEXT NOT NULL, etag TEXT NOT NULL,
    stored_at INTEGER NOT NULL, scraper TEXT NOT NULL, prompt_hash TEXT, country TEXT, price_credits INTEGER NOT NULL,
    unclaimed INTEGER NOT NULL, checksum INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX entries_gone ON entries (gone_at);
  CREATE INDEX entries_rank ON entries (rank);
  CREATE INDEX entries_prompt ON entries (prompt_hash) WHERE prompt_hash IS NOT NULL;
  CREATE TABLE bodies (id INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
  CREATE TABLE records (
    space TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, expires_at INTEGER, checksum INTEGER NOT NULL,
    PRIMARY KEY (space, key)
  ) STRICT, WITHOUT ROWID;
`

export interface OpenFile {
  readonly db: DatabaseSync
  /** Of an earlier format: only its records are of use. */
  readonly outdated: boolean
  /** Throws when the path no longer leads to this file, or to something else in it; the library itself may not notice for long. */
  readonly check: () => void
}

/** Throws; `troubleOf` says what it means. */
export function openFile(path: string, walPages: number): OpenFile {
  create(path)
  const { DatabaseSync } = sqlite()
  const db = new DatabaseSync(path, { timeout: 0 })
  try {
    const outdated = prepare(db, walPages)
    return { db, outdated, check: checkOf(path) }
  } catch (error) {
    db.close()
    // A damaged header may claim a version that only later libraries write to.
    throw isReadOnly(error) && mayWrite(path) ? new FileTrouble('corrupt') : error
  }
}

function isReadOnly(error: unknown): boolean {
  return error instanceof Error && 'errcode' in error && error.errcode === 8
}

function mayWrite(path: string): boolean {
  try {
    closeSync(openSync(path, 'r+'))
    return true
  } catch {
    return false
  }
}

/** Node 22 says at the first use that it is experimental: news of Node, with nothing to do for whoever runs the proxy. */
function sqlite(): typeof import('node:sqlite') {
  const { emitWarning } = process
  process.emitWarning = () => undefined
  try {
    return process.getBuiltinModule('node:sqlite')
  } finally {
    process.emitWarning = emitWarning
  }
}

/** What the volume has for the file at most: what is free, and what the file has already. Makes the folder. */
export function roomFor(path: string): number {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  const { bavail, bsize } = statfsSync(dirname(path))
  const own = ['', '-wal'].map((tail) => statSync(path + tail, { throwIfNoEntry: false })?.size ?? 0)
  return own.reduce((sum, size) => sum + size, bavail * bsize)
}

function checkOf(path: string): () => void {
  const { ino, dev } = statSync(path)
  return () => {
    const found = statSync(path, { throwIfNoEntry: false })
    if (found?.ino !== ino || found.dev !== dev) throw new FileTrouble('io')
    if (found.size === 0 || found.size % PAGE_BYTES !== 0) throw new FileTrouble('corrupt')
  }
}

/** Owner only. The log beside it gets the same mode from the library. */
function create(path: string): void {
  try {
    closeSync(openSync(path, 'wx', 0o600))
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error
    try {
      chmodSync(path, 0o600)
    } catch {
      // Somebody else's file on a shared volume: still of use when we may write to it.
    }
  }
}

function prepare(db: DatabaseSync, walPages: number): boolean {
  db.exec('PRAGMA locking_mode = EXCLUSIVE')
  const id = pragma(db, 'application_id')
  const format = pragma(db, 'user_version')
  const fresh = db.prepare('SELECT 1 FROM sqlite_schema').get() === undefined
  if (!fresh && id !== APPLICATION_ID) throw new FileTrouble('corrupt')
  if (format > FORMAT) throw new FileTrouble('format')
  // Must come before anything is written. Lets the file shrink in steps when the limit has become smaller.
  db.exec('PRAGMA auto_vacuum = INCREMENTAL')
  // With the log a commit is one append; NORMAL leaves out its fsync. What was appended belongs to the kernel, so it survives a
  // kill -9; a power cut may take the last commits, but never the file's consistency.
  db.exec('PRAGMA journal_mode = WAL')
  db.exec('PRAGMA synchronous = NORMAL')
  db.exec(`PRAGMA wal_autocheckpoint = ${walPages}`)
  db.exec(`PRAGMA journal_size_limit = ${walPages * PAGE_BYTES}`)
  db.exec('PRAGMA cache_size = -16384')
  transaction(db, () => {
    if (fresh) db.exec(`${LAYOUT} PRAGMA application_id = ${APPLICATION_ID}; PRAGMA user_version = ${FORMAT}`)
    // A disk that cannot be written to shall show it now, and not with the first paid answer.
    else if (format === FORMAT) db.exec("UPDATE meta SET value = value + 1 WHERE name = 'opened'")
  })
  return !fresh && format < FORMAT
}

export function pragma(db: DatabaseSync, name: string): number {
  return Number(Object.values(db.prepare(`PRAGMA ${name}`).get() ?? {})[0])
}

export function transaction(db: DatabaseSync, job: () => void): void {
  db.exec('BEGIN IMMEDIATE')
  try {
    job()
    db.exec('COMMIT')
  } catch (error) {
    try {
      db.exec('ROLLBACK')
    } catch {
      // The library has rolled back by itself, as it does when the disk is full.
    }
    throw error
  }
}

/** Puts a sick file out of the way, for whoever wants to look at it; the oldest of those make room. */
export function setAside(path: string, wallMs: number): void {
  try {
    for (const tail of ['-wal', '']) {
      if (statSync(path + tail, { throwIfNoEntry: false })) renameSync(path + tail, `${path}.corrupt-${wallMs}${tail}`)
    }
    const prefix = `${basename(path)}.corrupt-`
    const asides = readdirSync(dirname(path)).filter((name) => name.startsWith(prefix) && !name.endsWith('-wal'))
    for (const name of asides.toSorted().slice(0, -ASIDES_KEPT)) {
      for (const tail of ['-wal', '']) rmSync(join(dirname(path), name + tail), { force: true })
    }
  } catch {
    // Then opening it fails again, and that is what is told.
  }
}

export function removeFile(path: string): void {
  for (const tail of ['-wal', '']) rmSync(path + tail, { force: true })
}

export function closeQuietly(file: OpenFile | null): void {
  try {
    file?.db.close()
  } catch {
    // Closed already, or too sick to be: the process has no further use for it.
  }
}

export class FileTrouble extends Error {
  readonly because: DiskTrouble

  constructor(because: DiskTrouble) {
    super(`the disk store is not usable: ${because}`)
    this.because = because
  }
}

/**
 * Result codes of the library, https://sqlite.org/rescode.html; 1 can only be a table that is missing or not ours, and 19 and 20 rows
 * that nobody wrote so.
 */
const TROUBLE_OF_RESULT: Readonly<Record<number, DiskTrouble>> = {
  1: 'corrupt',
  3: 'read-only',
  5: 'locked',
  6: 'locked',
  8: 'read-only',
  11: 'corrupt',
  13: 'full',
  19: 'corrupt',
  20: 'corrupt',
  26: 'corrupt',
}
const TROUBLE_OF_CODE: Readonly<Record<string, DiskTrouble>> = {
  EACCES: 'read-only',
  EPERM: 'read-only',
  EROFS: 'read-only',
  ENOSPC: 'full',
  EDQUOT: 'full',
}

export function troubleOf(error: unknown): DiskTrouble {
  if (error instanceof FileTrouble) return error.because
  if (error instanceof Error && 'errcode' in error) return TROUBLE_OF_RESULT[Number(error.errcode) & 0xff] ?? 'io'
  return TROUBLE_OF_CODE[codeOf(error)] ?? 'io'
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : ''
}

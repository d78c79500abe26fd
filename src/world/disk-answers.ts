/**
 * The answers on the disk: a cache in a file of its own, in which the least recently used goes first. A file that is damaged or of
 * another format is thrown away and begun anew; one that has no room is still read. Pages that become free are used again, so the
 * file stops growing at its limit.
 */
import { renameSync, rm, rmSync, statfsSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import type { DatabaseSync } from 'node:sqlite'
import { crc32 } from 'node:zlib'
import type { Entry, PurgeFilter } from '../model.ts'
import type { Clock, Disk, DiskOptions, Emit } from '../ports.ts'
import { createFile, PAGE_BYTES, pragma } from './disk-file.ts'

export interface AnswerFile extends Pick<Disk, 'readEntry' | 'writeEntry' | 'purge' | 'entries' | 'bytes' | 'answers'> {
  /** The folder is ours from now on. */
  open(): void
  close(): void
}

/** Noting a use costs more than a read: once in so long is exact enough. */
const USE_NOTED_MS = 300_000
const MAX_USES = 1_000
/** What one write does towards a limit that was lowered: more would hold up the event loop. */
const ROWS_AT_ONCE = 32
const VACUUM_PAGES = 256
/**
 * Bodies apart from the rest, so that noting a use does not rewrite a body. `kept_until` 0 is purged: a miss at once, whose room
 * is taken back with the next writes.
 */
const layout = `
  CREATE TABLE entries (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, kept_until INTEGER NOT NULL, used_at INTEGER NOT NULL,
    stored_at INTEGER NOT NULL, scraper TEXT NOT NULL, prompt_hash TEXT, country TEXT
  ) STRICT;
  CREATE INDEX entries_kept ON entries (kept_until);
  CREATE INDEX entries_used ON entries (used_at);
  CREATE TABLE bodies (id INTEGER PRIMARY KEY, meta TEXT NOT NULL, checksum INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
  CREATE TRIGGER entries_dropped AFTER DELETE ON entries BEGIN DELETE FROM bodies WHERE id = old.id; END;`

export function createAnswerFile({ path, maxBytes }: DiskOptions, clock: Clock, emit: Emit): AnswerFile {
  const used = new Map<number, number>()
  let bounds = boundsOf(maxBytes)
  /** Something was purged while the file could not be told. */
  let isOutdated = false
  const file = createFile(
    {
      path,
      name: 'answers',
      applicationId: 0x5371446b,
      format: 3,
      layout,
      retryMs: 30_000,
      isCache: true,
      prepare,
      onTry: () => (isOutdated ? beginAnew() : file.write(() => undefined)),
      onTrouble: (because) => !['full', 'locked', 'read-only'].includes(because) && remove(),
    },
    clock,
    emit,
  )

  return {
    open: file.open,
    readEntry,
    writeEntry,
    purge,
    close: file.close,
    get answers() {
      return file.isOpen && file.trouble === null ? 'up' : 'down'
    },
    get entries() {
      return file.read((table) => table.count(), 0)
    },
    get bytes() {
      return file.read((table) => table.usedPages() * PAGE_BYTES, 0)
    },
  }

  function readEntry(key: string): Entry | null {
    const wallMs = clock.wall()
    const found = file.read((table) => table.read(key, wallMs), null)
    if (found && wallMs - found.usedAt >= USE_NOTED_MS && used.size < MAX_USES) used.set(found.id, wallMs)
    return found?.entry ?? null
  }

  function writeEntry(key: string, entry: Entry): void {
    if (file.trouble || entry.body.length > bounds.entryBytes) return
    const isWritten = file.write((table) => {
      for (const [id, usedAt] of used) table.use(id, usedAt)
      table.write(key, entry, bounds.pages, clock.wall())
    })
    // What was taken back was counted.
    if (!isWritten) file.read((table) => table.countAnew(), undefined)
    used.clear()
  }

  function purge(filter: PurgeFilter): number {
    const isAll = Object.values(filter).every((value) => value === undefined)
    const all = file.read((table) => table.count(), 0)
    let purged = 0
    isOutdated = isAll || !file.write((table) => void (purged = table.purge(filter, clock.wall())))
    if (!isOutdated) return purged
    // What is thrown away need not survive a power cut: the syncs at its end would hold up the event loop.
    file.read((table) => table.doNotSync(), undefined)
    if (file.isOpen) beginAnew()
    return all
  }

  function beginAnew(): void {
    file.close()
    if (remove()) file.open()
  }

  /** Out of the way at once; the room of a large file is given back in the background, because that takes long. */
  function remove(): boolean {
    used.clear()
    isOutdated = false
    const found = statSync(path, { throwIfNoEntry: false })
    if (found && !found.isFile()) return false
    rmSync(`${path}-wal`, { force: true })
    if (found) renameSync(path, `${path}.gone`)
    rm(`${path}.gone`, { force: true }, () => undefined)
    return true
  }

  function prepare(db: DatabaseSync) {
    // A volume that is smaller than the limit would be full again and again.
    const { bavail, bsize } = statfsSync(dirname(path))
    bounds = boundsOf(Math.min(maxBytes, statSync(path).size + bavail * bsize))
    const { walPages } = bounds
    db.exec(`PRAGMA wal_autocheckpoint = ${walPages}; PRAGMA journal_size_limit = ${walPages * PAGE_BYTES}`)
    db.exec('PRAGMA cache_size = -16384')
    return createTable(db, () => emit({ kind: 'cache-evicted', tier: 'disk' }))
  }
}

/** How the limit is shared out between the file and its log, which holds one transaction more than it is emptied at. */
function boundsOf(wantedBytes: number) {
  const limitBytes = Math.max(wantedBytes, 1_048_576)
  const walPages = Math.min(1_000, Math.floor(limitBytes / 16 / PAGE_BYTES))
  const entryBytes = Math.min(33_554_432, Math.floor(limitBytes / 16))
  // Every page in the log has a header, and the pages above a changed one change as well.
  const logBytes = 1.25 * (walPages * PAGE_BYTES + entryBytes)
  return { pages: Math.floor((limitBytes - logBytes) / PAGE_BYTES), walPages, entryBytes }
}

function createTable(db: DatabaseSync, onEvicted: () => void) {
  const select = db.prepare(
    'SELECT b.*, used_at FROM entries e LEFT JOIN bodies b ON b.id = e.id WHERE key = ? AND kept_until > ?',
  )
  // A damaged number may be too big for a double, which would be an error instead of a failed checksum.
  select.setReadBigInts(true)
  const insert = db.prepare('INSERT INTO entries VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)')
  const insertBody = db.prepare('INSERT INTO bodies VALUES (?, ?, ?, ?)')
  const drop = db.prepare('DELETE FROM entries WHERE key = ? RETURNING kept_until')
  const dropDead = db.prepare(
    `DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE kept_until <= ? LIMIT ${ROWS_AT_ONCE}) RETURNING kept_until`,
  )
  const dropOldest = db.prepare(
    'DELETE FROM entries WHERE id = (SELECT id FROM entries ORDER BY used_at LIMIT 1) RETURNING kept_until',
  )
  const markUsed = db.prepare('UPDATE entries SET used_at = ? WHERE id = ?')
  const markPurged = db.prepare(
    `UPDATE entries SET kept_until = 0 WHERE +kept_until > ?1 AND (?2 IS NULL OR scraper = ?2)
       AND (?3 IS NULL OR prompt_hash = ?3) AND (?4 IS NULL OR country = ?4) AND (?5 IS NULL OR stored_at < ?5)`,
  )
  const counted = db.prepare('SELECT count(*) AS n FROM entries WHERE kept_until > 0')
  /** Kept up to date, because counting a full file takes tens of milliseconds. Null = not counted yet. */
  let entries: number | null = null

  return {
    read,
    write,
    use: (id: number, usedAt: number) => void markUsed.run(usedAt, id),
    purge,
    count: (): number => (entries ??= Number(counted.get()?.['n'])),
    countAnew: () => void (entries = null),
    doNotSync: () => db.exec('PRAGMA synchronous = OFF'),
    usedPages,
  }

  function purge({ scraper, promptHash, country, storedBefore }: PurgeFilter, wallMs: number): number {
    const values = [scraper ?? null, promptHash ?? null, country ?? null, storedBefore ?? null]
    const purged = Number(markPurged.run(wallMs, ...values).changes)
    add(-purged)
    return purged
  }

  function add(more: number): void {
    if (entries !== null) entries += more
  }

  /** How many rows went; those that were purged before are not counted any more. */
  function gone(rows: readonly Record<string, unknown>[]): number {
    add(-rows.filter((row) => Number(row['kept_until']) > 0).length)
    return rows.length
  }

  function read(key: string, wallMs: number) {
    const row = select.get(key, wallMs)
    if (!row) return null
    const [meta, body] = [String(row['meta']), row['body']]
    if (body instanceof Uint8Array && checksumOf(key, meta, body) === Number(row['checksum'])) {
      const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength)
      const entry = { ...(JSON.parse(meta) as Omit<Entry, 'body'>), body: bytes }
      return { id: Number(row['id']), usedAt: Number(row['used_at']), entry }
    }
    gone(drop.all(key))
    return null
  }

  function write(key: string, { body, ...rest }: Entry, limitPages: number, wallMs: number): void {
    gone(drop.all(key))
    gone(dropDead.all(wallMs))
    const meta = JSON.stringify(rest)
    makeRoom(Math.ceil((body.length + meta.length + key.length) / PAGE_BYTES) + 1, limitPages)
    const { storedAt, keptUntil, scraper, promptHash, country } = rest
    const { lastInsertRowid } = insert.run(key, keptUntil, wallMs, storedAt, scraper, promptHash, country)
    insertBody.run(lastInsertRowid, meta, checksumOf(key, meta, body), body)
    add(1)
  }

  /** Where the limit was lowered, the file shrinks by a step with each write; it never grows beyond it. */
  function makeRoom(pages: number, limitPages: number): void {
    const filePages = pragma(db, 'page_count')
    for (
      let rows = 0;
      usedPages() + pages > (rows < ROWS_AT_ONCE ? limitPages : Math.max(limitPages, filePages));
      rows += 1
    ) {
      if (gone(dropOldest.all()) === 0) return
      onEvicted()
    }
    if (filePages > limitPages) db.exec(`PRAGMA incremental_vacuum(${VACUUM_PAGES})`)
  }

  function usedPages(): number {
    return pragma(db, 'page_count') - pragma(db, 'freelist_count')
  }
}

function checksumOf(key: string, meta: string, body: Uint8Array): number {
  return crc32(body, crc32(`${key}\n${meta}`))
}

/**
 * The answers in the file: reading, writing, purging, and giving up the least valuable to stay within so many pages.
 * Knows nothing of queues, timers and outages: every function works on the open file and throws what the library throws.
 *
 * Pages set free are used again, so the file stops growing at its limit; it is only shrunk when that limit was lowered.
 */
import type { DatabaseSync, SQLOutputValue } from 'node:sqlite'
import { crc32 } from 'node:zlib'
import type { Entry, PurgeFilter } from '../model.ts'
import { PAGE_BYTES } from './disk-file.ts'
import { ROW_BYTES } from './disk-queue.ts'

/** `staleUseId` is the row when it has not been noted for long that it is used. `damaged`: there is one, but it is not what was written. */
export type Found =
  | { readonly kind: 'found'; readonly staleUseId: number | null; readonly entry: Entry }
  | { readonly kind: 'damaged' }
  | { readonly kind: 'missing' }

export interface Answers {
  read(key: string, wallMs: number): Found
  /** Makes the room it needs first. Part of the caller's transaction, as all that follows. */
  write(key: string, entry: Entry, wallMs: number): void
  remove(key: string): void
  markUsed(id: number, usedAt: number): void
  /** The purged are misses at once; their room is taken back by `tidy`. */
  purge(filter: PurgeFilter, wallMs: number): number
  /** One small step towards the limit and away from what is gone; true when there is more to do. */
  tidy(wallMs: number): boolean
  saveCount(): void
  readonly count: number
  readonly usedPages: number
}

const DAY_MS = 86_400_000
/** A use counts as this much later for each credit per KiB that asking again would cost … */
const BONUS_MS = DAY_MS
/** … up to this: even the dearest answer is given up when nobody asked for it for so long. */
const MAX_BONUS_MS = 7 * DAY_MS
/** As exact as the order of use has to be: noting one costs more than a read. */
const USE_NOTED_MS = 300_000
const STEP_ENTRIES = 8
const TIDY_STEPS = 8
const VACUUM_PAGES = 256

export function createAnswers(db: DatabaseSync, limitPages: number, onEvicted: () => void): Answers {
  const select = db.prepare(
    `SELECT e.id, status, content_type, body, etag, stored_at, gone_at, scraper, prompt_hash, country,
       price_credits, unclaimed, checksum, rank - bonus AS used_at
     FROM entries e LEFT JOIN bodies b ON b.id = e.id WHERE key = ? AND gone_at > ?`,
  )
  // A damaged number may be too big for a double, which would be an error and not a value that fails the checksum.
  select.setReadBigInts(true)
  const insert = db.prepare(
    `INSERT INTO entries (key, gone_at, rank, bonus, status, content_type, etag, stored_at, scraper, prompt_hash,
       country, price_credits, unclaimed, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
  )
  const insertBody = db.prepare('INSERT INTO bodies VALUES (?, ?)')
  const find = db.prepare('SELECT id FROM entries WHERE key = ?')
  const dropEntry = db.prepare('DELETE FROM entries WHERE id = ? RETURNING gone_at')
  const dropBody = db.prepare('DELETE FROM bodies WHERE id = ?')
  const use = db.prepare('UPDATE entries SET rank = ? + bonus WHERE id = ? AND rank < ? + bonus')
  const goneFirst = db.prepare('SELECT id FROM entries WHERE gone_at <= ? ORDER BY gone_at LIMIT ?')
  const cheapestFirst = db.prepare('SELECT id FROM entries ORDER BY rank LIMIT ?')
  const setCount = db.prepare("UPDATE meta SET value = ? WHERE name = 'entries'")
  const pageCount = db.prepare('PRAGMA page_count')
  const freePages = db.prepare('PRAGMA freelist_count')
  let count = Number(db.prepare("SELECT value FROM meta WHERE name = 'entries'").get()?.['value'])
  let savedCount = count

  return {
    read,
    write,
    remove,
    markUsed: (id, usedAt) => void use.run(usedAt, id, usedAt),
    purge,
    tidy,
    saveCount,
    get count() {
      return count
    },
    get usedPages() {
      return usedPages()
    },
  }

  function read(key: string, wallMs: number): Found {
    const row = select.get(key, wallMs)
    if (!row) return { kind: 'missing' }
    const entry = entryOf(row)
    if (!entry || checksumOf(key, entry) !== Number(row['checksum'])) return { kind: 'damaged' }
    const isNoted = wallMs - Number(row['used_at']) < USE_NOTED_MS
    return { kind: 'found', staleUseId: isNoted ? null : Number(row['id']), entry }
  }

  function write(key: string, entry: Entry, wallMs: number): void {
    remove(key)
    makeRoom(Math.ceil((entry.body.length + ROW_BYTES) / PAGE_BYTES) + 1, wallMs)
    const bonus = bonusOf(entry)
    const { lastInsertRowid } = insert.run(
      key,
      entry.keptUntil,
      wallMs + bonus,
      bonus,
      entry.status,
      entry.contentType,
      entry.etag,
      entry.storedAt,
      entry.scraper,
      entry.promptHash,
      entry.country,
      entry.priceCredits,
      Number(entry.unclaimed),
      checksumOf(key, entry),
    )
    insertBody.run(lastInsertRowid, entry.body)
    count++
  }

  function remove(key: string): void {
    const row = find.get(key)
    if (row) drop(row['id'] ?? null)
  }

  function drop(id: SQLOutputValue): void {
    const dropped = dropEntry.get(id)
    dropBody.run(id)
    if (dropped?.['gone_at'] !== 0) count--
  }

  function purge(filter: PurgeFilter, wallMs: number): number {
    const wanted: [condition: string, value: string | number | undefined][] = [
      ['scraper = ?', filter.scraper],
      ['prompt_hash = ?', filter.promptHash],
      ['country = ?', filter.country],
      ['stored_at < ?', filter.storedBefore],
    ]
    const given = wanted.filter(([, value]) => value !== undefined)
    // The plus keeps the planner off the index that this statement changes.
    const where = ['+gone_at > ?', ...given.map(([condition]) => condition)].join(' AND ')
    const values = given.map(([, value]) => value ?? null)
    const { changes } = db.prepare(`UPDATE entries SET gone_at = 0 WHERE ${where}`).run(wallMs, ...values)
    count -= Number(changes)
    return Number(changes)
  }

  function saveCount(): void {
    if (count !== savedCount) setCount.run(count)
    savedCount = count
  }

  function makeRoom(pages: number, wallMs: number): void {
    while (usedPages() + pages > limitPages) {
      if (dropGone(wallMs) === 0 && dropCheapest() === 0) return
    }
  }

  function tidy(wallMs: number): boolean {
    let dropped = STEP_ENTRIES
    for (let step = 0; step < TIDY_STEPS && dropped === STEP_ENTRIES; step++) dropped = dropGone(wallMs)
    const crowded = usedPages() > limitPages && dropCheapest() > 0
    const tooLong = filePages() > limitPages && usedPages() < filePages()
    if (tooLong) db.exec(`PRAGMA incremental_vacuum(${VACUUM_PAGES})`)
    return dropped === STEP_ENTRIES || crowded || tooLong
  }

  function dropGone(wallMs: number): number {
    const rows = goneFirst.all(wallMs, STEP_ENTRIES)
    for (const row of rows) drop(row['id'] ?? null)
    return rows.length
  }

  function dropCheapest(): number {
    const rows = cheapestFirst.all(STEP_ENTRIES)
    for (const row of rows) {
      drop(row['id'] ?? null)
      onEvicted()
    }
    return rows.length
  }

  function filePages(): number {
    return Number(pageCount.get()?.['page_count'])
  }

  function usedPages(): number {
    return filePages() - Number(freePages.get()?.['freelist_count'])
  }
}

function bonusOf(entry: Entry): number {
  const kib = (entry.body.length + ROW_BYTES) / 1024
  return Math.round(Math.min(MAX_BONUS_MS, (BONUS_MS * entry.priceCredits) / kib))
}

function entryOf(row: Record<string, SQLOutputValue>): Entry | null {
  const body = row['body']
  if (!(body instanceof Uint8Array)) return null
  return {
    status: Number(row['status']),
    contentType: String(row['content_type']),
    body: Buffer.from(body.buffer, body.byteOffset, body.byteLength),
    etag: String(row['etag']),
    storedAt: Number(row['stored_at']),
    keptUntil: Number(row['gone_at']),
    scraper: String(row['scraper']),
    promptHash: textOrNull(row['prompt_hash']),
    country: textOrNull(row['country']),
    priceCredits: Number(row['price_credits']),
    unclaimed: Number(row['unclaimed']) === 1,
  }
}

function textOrNull(value: SQLOutputValue | undefined): string | null {
  return typeof value === 'string' ? value : null
}

function checksumOf(key: string, entry: Entry): number {
  const { body, ...rest } = entry
  const told = [
    key,
    rest.status,
    rest.contentType,
    rest.etag,
    rest.storedAt,
    rest.keptUntil,
    rest.scraper,
    rest.promptHash,
    rest.country,
    rest.priceCredits,
    rest.unclaimed,
  ]
  return crc32(body, crc32(told.join('\n')))
}

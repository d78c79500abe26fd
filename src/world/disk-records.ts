/**
 * The records: all of them in memory, the file is their durable copy. So they can be read while the disk is down, and
 * are written again, whole, when it is back or had to be started anew. Where both know a record, memory is right.
 */
import type { DatabaseSync, StatementSync } from 'node:sqlite'
import { crc32 } from 'node:zlib'
import type { DiskRecord } from '../ports.ts'
import { transaction } from './disk-file.ts'

export interface Records {
  /** Adds what only the file knows; a damaged one is dropped from it. What was read before an error stays. */
  load(db: DatabaseSync, wallMs: number): void
  /** Writes to the loaded file what it lacks, and from now on what `save` is given. */
  attach(db: DatabaseSync): void
  detach(): void
  /** Changes memory; `save` brings the same to the file. */
  remember(records: readonly DiskRecord[]): void
  /** In one transaction; nothing without a file. */
  save(records: readonly Name[]): void
  get(space: string, key: string, wallMs: number): unknown
  list(space: string, wallMs: number): Iterable<readonly [string, unknown]>
  /** Forgets some of what has expired. */
  sweep(wallMs: number): void
}

interface Name {
  readonly space: string
  readonly key: string
}

interface Kept {
  /** JSON, so that nobody can change it from outside; null = deleted, but perhaps still in the file. */
  readonly text: string | null
  readonly expiresAt: number | null
  /** The file has this name, perhaps with something else under it. */
  inFile: boolean
  /** The file has just this under it. */
  isSaved: boolean
}

const SWEEP_RECORDS = 1_000

export function createRecords(): Records {
  const spaces = new Map<string, Map<string, Kept>>()
  let file: { readonly db: DatabaseSync; readonly upsert: StatementSync; readonly remove: StatementSync } | null = null

  return { load, attach, detach: () => void (file = null), remember, save, get, list, sweep }

  function attach(db: DatabaseSync): void {
    file = {
      db,
      upsert: db.prepare(
        'INSERT OR REPLACE INTO records (space, key, value, expires_at, checksum) VALUES (?, ?, ?, ?, ?)',
      ),
      remove: db.prepare('DELETE FROM records WHERE space = ? AND key = ?'),
    }
    const unsaved = [...spaces].flatMap(([space, kept]) =>
      [...kept].filter(([, { isSaved }]) => !isSaved).map(([key]) => ({ space, key })),
    )
    save(unsaved)
  }

  function remember(records: readonly DiskRecord[]): void {
    const texts = records.map(({ value }) => (value === null ? null : JSON.stringify(value)))
    for (const [index, { space, key, expiresAt }] of records.entries()) {
      const kept = spaceOf(space)
      const inFile = kept.get(key)?.inFile ?? false
      const text = texts[index] ?? null
      if (text === null && !inFile) kept.delete(key)
      else kept.set(key, { text, expiresAt, inFile, isSaved: false })
    }
  }

  function save(names: readonly Name[]): void {
    if (!file) return
    const { db, upsert, remove } = file
    transaction(db, () => {
      for (const { space, key } of names) {
        const kept = spaceOf(space).get(key)
        if (kept && kept.text !== null) {
          upsert.run(space, key, kept.text, kept.expiresAt, checksumOf(space, key, kept.text, kept.expiresAt))
          kept.inFile = true
          kept.isSaved = true
        } else remove.run(space, key)
      }
    })
    for (const { space, key } of names) {
      if (spaceOf(space).get(key)?.text === null) spaceOf(space).delete(key)
    }
  }

  function get(space: string, key: string, wallMs: number): unknown {
    const kept = spaces.get(space)?.get(key)
    return kept && isGood(kept, wallMs) ? JSON.parse(kept.text) : null
  }

  function* list(space: string, wallMs: number): Iterable<readonly [string, unknown]> {
    for (const [key, kept] of spaces.get(space) ?? []) {
      if (isGood(kept, wallMs)) yield [key, JSON.parse(kept.text)]
    }
  }

  function load(db: DatabaseSync, wallMs: number): void {
    for (const kept of spaces.values()) for (const record of kept.values()) record.isSaved = false
    const damaged: (readonly [string, string])[] = []
    const rows = db.prepare('SELECT space, key, value, expires_at, checksum FROM records')
    rows.setReadBigInts(true)
    for (const row of rows.iterate()) {
      const [space, key, text] = [String(row['space']), String(row['key']), String(row['value'])]
      const expiresAt = row['expires_at'] === null ? null : Number(row['expires_at'])
      if (checksumOf(space, key, text, expiresAt) !== Number(row['checksum'])) damaged.push([space, key])
      else if (expiresAt === null || expiresAt > wallMs) adopt(space, key, text, expiresAt)
    }
    const remove = db.prepare('DELETE FROM records WHERE space = ? AND key = ?')
    for (const [space, key] of damaged) remove.run(space, key)
    db.prepare('DELETE FROM records WHERE expires_at <= ?').run(wallMs)
  }

  function adopt(space: string, key: string, text: string, expiresAt: number | null): void {
    const known = spaceOf(space).get(key)
    if (!known) return void spaceOf(space).set(key, { text, expiresAt, inFile: true, isSaved: true })
    known.inFile = true
    known.isSaved = known.text === text && known.expiresAt === expiresAt
  }

  function sweep(wallMs: number): void {
    const expired: Name[] = []
    for (const [space, kept] of spaces) {
      for (const [key, { expiresAt }] of kept) {
        if (expiresAt !== null && expiresAt <= wallMs && expired.length < SWEEP_RECORDS) expired.push({ space, key })
      }
    }
    for (const { space, key } of expired) spaces.get(space)?.delete(key)
    save(expired)
  }

  function spaceOf(name: string): Map<string, Kept> {
    const known = spaces.get(name)
    if (known) return known
    const made = new Map<string, Kept>()
    spaces.set(name, made)
    return made
  }
}

function isGood(kept: Kept, wallMs: number): kept is Kept & { readonly text: string } {
  return kept.text !== null && (kept.expiresAt === null || kept.expiresAt > wallMs)
}

function checksumOf(space: string, key: string, text: string, expiresAt: number | null): number {
  return crc32(`${space}\n${key}\n${expiresAt}\n${text}`)
}

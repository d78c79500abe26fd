/** The table of the records: its statements, and what a row means. A row whose checksum fails is as if it were not there. */
import type { DatabaseSync, SQLOutputValue } from 'node:sqlite'
import { crc32 } from 'node:zlib'
import type { DiskRecord, DiskSum } from '../ports.ts'

export type Pending = DiskRecord | DiskSum
export type RecordTable = ReturnType<typeof createRecordTable>
type Sum = DiskSum['add']
type Row = Readonly<Record<string, SQLOutputValue>>

export const recordLayout = `
  CREATE TABLE records (
    space TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, is_sum INTEGER NOT NULL, expires_at INTEGER,
    checksum INTEGER NOT NULL, PRIMARY KEY (space, key)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX records_expiry ON records (expires_at) WHERE expires_at IS NOT NULL;
  CREATE TABLE ballast (bytes BLOB NOT NULL) STRICT;`

export function createRecordTable(db: DatabaseSync) {
  const good = 'SELECT * FROM records WHERE space = ? AND (expires_at IS NULL OR expires_at > ?)'
  const all = db.prepare(good)
  const one = db.prepare(`${good} AND key = ?`)
  // A damaged number may be too big for a double, which would be an error instead of a failed checksum.
  for (const statement of [all, one]) statement.setReadBigInts(true)
  const upsert = db.prepare('INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?)')
  const remove = db.prepare('DELETE FROM records WHERE space = ? AND key = ?')
  const removeOld = db.prepare('DELETE FROM records WHERE expires_at <= ?')

  return { db, get, list, put, sweep: (wallMs: number) => void removeOld.run(wallMs) }

  /** Null = there is none. */
  function get(space: string, key: string, wallMs: number): unknown {
    const row = one.get(space, wallMs, key)
    return row && isWhole(row) ? valueOf(row) : null
  }

  function list(space: string, wallMs: number): [key: string, value: unknown][] {
    const rows = all.all(space, wallMs).filter(isWhole)
    return rows.map((row) => [String(row['key']), valueOf(row)])
  }

  function put(record: Pending, wallMs: number): void {
    const { space, key, expiresAt } = record
    const value = 'add' in record ? withPending(get(space, key, wallMs), record, wallMs) : record.value
    if (value === null) return void remove.run(space, key)
    const text = JSON.stringify(value)
    upsert.run(space, key, text, Number('add' in record), expiresAt, checksumOf(space, key, text, expiresAt))
  }
}

/** All that can be read in a file of this or the earlier version; throws where no more can be. */
export function* recordsIn(db: DatabaseSync): Iterable<Pending> {
  const rows = db.prepare('SELECT * FROM records')
  rows.setReadBigInts(true)
  for (const row of rows.iterate()) {
    if (!isWhole(row)) continue
    const [value, isSum] = [valueOf(row), row['is_sum']]
    const name = { space: String(row['space']), key: String(row['key']), expiresAt: expiryOf(row) }
    // In the earlier version what was spent was a bare number.
    if (isSum === undefined && typeof value === 'number') yield { ...name, add: { credits: value } }
    else yield isSum === 1n ? { ...name, add: value as Sum } : { ...name, value }
  }
}

/** What is known under a name when this is added to it. */
export function withPending(found: unknown, pending: Pending | undefined, wallMs: number): unknown {
  if (!pending) return found
  if ('add' in pending) return plus((found ?? {}) as Sum, pending.add)
  return pending.expiresAt === null || pending.expiresAt > wallMs ? pending.value : null
}

/** Sums add up; of values the first is meant. */
export function together(record: Pending, other: Pending | undefined): Pending {
  return 'add' in record && other && 'add' in other ? { ...record, add: plus(record.add, other.add) } : record
}

export function nameOf({ space, key }: { readonly space: string; readonly key: string }): string {
  return `${space}\n${key}`
}

function plus(one: Sum, other: Sum): Sum {
  const names = Object.keys({ ...one, ...other })
  return Object.fromEntries(names.map((name) => [name, (one[name] ?? 0) + (other[name] ?? 0)]))
}

function isWhole(row: Row): boolean {
  const checksum = checksumOf(String(row['space']), String(row['key']), String(row['value']), expiryOf(row))
  return checksum === Number(row['checksum'])
}

function checksumOf(space: string, key: string, text: string, expiresAt: number | null): number {
  return crc32(`${space}\n${key}\n${expiresAt}\n${text}`)
}

function valueOf(row: Row): unknown {
  return JSON.parse(String(row['value']))
}

function expiryOf(row: Row): number | null {
  return row['expires_at'] === null ? null : Number(row['expires_at'])
}

/** What waits to be written to the disk: the last word on each key, in the order of arrival, and how much that is. */
import type { Entry } from '../model.ts'
import type { PurgeFilter } from '../model.ts'

/** Null = to be deleted. */
export type Waiting = Entry | null

export interface DiskQueue {
  get(key: string): Waiting | undefined
  set(key: string, waiting: Waiting): void
  /** The oldest, until they are `bytes`; they stay until `done`. */
  batch(bytes: number): readonly (readonly [key: string, waiting: Waiting])[]
  done(keys: readonly (readonly [key: string, waiting: Waiting])[]): void
  matching(filter: PurgeFilter): readonly string[]
  /** Lets go of the oldest until it fits; true when deletions were among them. */
  shorten(): boolean
  readonly size: number
  readonly isFull: boolean
}

/** What an entry takes on the disk beside its body and key: its row, its share of four indexes (measured, rounded up). */
export const ROW_BYTES = 512

export function weightOf(key: string, waiting: Waiting): number {
  return key.length + ROW_BYTES + (waiting?.body.length ?? 0)
}

export function createDiskQueue(maxBytes: number): DiskQueue {
  const waiting = new Map<string, Waiting>()
  let bytes = 0

  return {
    get: (key) => waiting.get(key),
    set,
    batch,
    done: (keys) => {
      for (const [key] of keys) drop(key)
    },
    matching: (filter) => [...waiting].filter(([, entry]) => entry && matches(entry, filter)).map(([key]) => key),
    shorten,
    get size() {
      return waiting.size
    },
    get isFull() {
      return bytes > maxBytes
    },
  }

  function set(key: string, entry: Waiting): void {
    drop(key)
    waiting.set(key, entry)
    bytes += weightOf(key, entry)
  }

  function drop(key: string): void {
    const entry = waiting.get(key)
    if (entry === undefined) return
    bytes -= weightOf(key, entry)
    waiting.delete(key)
  }

  function batch(wantedBytes: number): (readonly [string, Waiting])[] {
    const taken: (readonly [string, Waiting])[] = []
    let takenBytes = 0
    for (const [key, entry] of waiting) {
      if (takenBytes >= wantedBytes) break
      takenBytes += weightOf(key, entry)
      taken.push([key, entry])
    }
    return taken
  }

  /** An answer lost is a miss; a deletion lost would bring an answer back. */
  function shorten(): boolean {
    for (const [key, entry] of waiting) {
      if (bytes <= maxBytes) return false
      if (entry) drop(key)
    }
    if (bytes <= maxBytes) return false
    waiting.clear()
    bytes = 0
    return true
  }
}

function matches(entry: Entry, filter: PurgeFilter): boolean {
  return (
    (filter.scraper === undefined || filter.scraper === entry.scraper) &&
    (filter.promptHash === undefined || filter.promptHash === entry.promptHash) &&
    (filter.country === undefined || filter.country === entry.country) &&
    (filter.storedBefore === undefined || entry.storedAt < filter.storedBefore)
  )
}

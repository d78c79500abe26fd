/** How the one limit that was given is shared out between the file, its log, and one transaction. */
import { PAGE_BYTES } from './disk-file.ts'

export interface Bounds {
  /** For the file itself; the rest of the limit is for its log. */
  readonly pages: number
  readonly walPages: number
  readonly entryBytes: number
  /** One transaction: what the event loop can spare at a time. */
  readonly batchBytes: number
}

const MIB = 1_048_576
const BATCH_BYTES = MIB
const MAX_ENTRY_BYTES = 32 * MIB
const MAX_WAL_PAGES = 1_000

export function boundsOf(wantedBytes: number): Bounds {
  const maxBytes = Math.max(wantedBytes, MIB)
  const share = Math.floor(maxBytes / 16)
  const walPages = Math.min(MAX_WAL_PAGES, Math.floor(share / PAGE_BYTES))
  const entryBytes = Math.min(MAX_ENTRY_BYTES, share)
  // The log is emptied once it is longer than `walPages`: then it holds those and the transaction that was too much, in which
  // every page has a header and the pages above it change as well.
  const logBytes = 1.25 * (walPages * PAGE_BYTES + Math.max(entryBytes, Math.min(BATCH_BYTES, share) + entryBytes))
  return {
    pages: Math.floor((maxBytes - logBytes) / PAGE_BYTES),
    walPages,
    entryBytes,
    batchBytes: Math.min(BATCH_BYTES, share),
  }
}

/** The write-ahead log of an SQLite file, as far as a power cut asks for it: https://sqlite.org/fileformat2.html#walformat. */
import { existsSync, readFileSync, truncateSync } from 'node:fs'

export interface Log {
  /** Another one each time the log begins anew: what the one before it held is in the file by then, and synced. */
  readonly generation: string
  readonly frames: number
  /** After so many frames a transaction is complete. */
  readonly commits: readonly number[]
}

const HEADER_BYTES = 32
const FRAME_HEADER_BYTES = 24
const PAGE_BYTES = 4_096
const FRAME_BYTES = FRAME_HEADER_BYTES + PAGE_BYTES

export function readLog(path: string): Log {
  const bytes = existsSync(path) ? readFileSync(path) : Buffer.alloc(0)
  const generation = bytes.subarray(16, 24).toString('hex')
  const commits: number[] = []
  let frames = 0
  for (let at = HEADER_BYTES; at + FRAME_BYTES <= bytes.length; at += FRAME_BYTES) {
    if (bytes.subarray(at + 8, at + 16).toString('hex') !== generation) break
    frames += 1
    if (bytes.readUInt32BE(at + 4) !== 0) commits.push(frames)
  }
  return { generation, frames, commits }
}

/** What is left when everything after so many frames never reached the disk. */
export function cutLog(path: string, frames: number): void {
  truncateSync(path, HEADER_BYTES + frames * FRAME_BYTES)
}

/**
 * Takes interim answers 100 out of what a socket reads. RFC 9110 section 15.2.1 lets a client discard one that it did not ask
 * for; undici ends the connection instead, and the call on it may have been charged.
 */
import type { Socket } from 'node:net'

/** `true` from the moment a request is written until the first bytes of its answer that are no interim 100. */
export interface AwaitsHead {
  awaitsHead: boolean
}

const interim = 'HTTP/1.1 100'
const MAX_HELD = 16 * 1024

export function discardContinue(socket: Socket, line: AwaitsHead): void {
  const read = socket.read.bind(socket)
  /** The beginning of an answer of which it cannot be said yet. */
  let held: Buffer | null = null
  socket.read = (size?: number): unknown => {
    const chunk: unknown = read(size)
    if (!line.awaitsHead || !(chunk instanceof Buffer)) return chunk
    const bytes = held ? Buffer.concat([held, chunk]) : chunk
    const from = endOfInterim(bytes)
    if (from === null) {
      held = bytes
      return null
    }
    held = null
    if (from === bytes.length) return null
    line.awaitsHead = false
    return from === 0 ? bytes : bytes.subarray(from)
  }
}

/** Where the answer behind all interim ones begins; null = that will be known with more bytes. */
function endOfInterim(bytes: Buffer): number | null {
  let from = 0
  for (;;) {
    const head = bytes.toString('latin1', from, from + interim.length)
    if (head !== interim)
      return head.length < interim.length && interim.startsWith(head) && from < bytes.length ? null : from
    const end = bytes.indexOf('\r\n\r\n', from)
    if (end === -1) return bytes.length > MAX_HELD ? from : null
    from = end + 4
  }
}

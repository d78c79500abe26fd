/**
 * What Node could not read as a request: each gets one problem document and a closed connection, never a reset and never
 * a word of what was sent. Here the answer is written to the socket itself, since no response object exists.
 */
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { ProxyError } from '../errors.ts'
import type { Clock, Random, Timer } from '../ports.ts'
import { refuse } from './respond.ts'

/** A client that is still sending gets this long to read its answer before the connection is cut. */
const lingerMs = 1_000

export interface BadRequestParts {
  readonly clock: Clock
  readonly random: Random
  readonly refused: (error: ProxyError, id?: string) => void
  /** Status to reason phrase. */
  readonly reasons: Readonly<Record<number, string | undefined>>
}

/** What is known about a connection. */
export interface ConnectionState {
  open: number
  /** Nothing more is read from it. */
  closing: boolean
  /** What follows the open requests is not HTTP. */
  broken: boolean
}

export interface BadRequests {
  /** Open requests are answered first, and by themselves. */
  readonly unreadable: (error: Unreadable, socket: Duplex, connection: ConnectionState) => void
  /** CONNECT: no tunnels here. */
  readonly connect: (incoming: IncomingMessage, socket: Duplex) => void
}

/** An error of Node's parser, with the bytes it was given last. */
export interface Unreadable extends Error {
  readonly code?: string
  readonly rawPacket?: Buffer
}

export function createBadRequests({ clock, random, refused, reasons }: BadRequestParts): BadRequests {
  const overflows = new Map<Duplex, { tail: string; readonly timer: Timer }>()

  return {
    unreadable(error, socket, connection) {
      const overflow = overflows.get(socket)
      if (overflow) return readOn(socket, overflow, error.rawPacket)
      // The parser reports every further packet of a connection it has given up.
      if (connection.closing) return
      const refusal = refusalOf(error)
      if (!refusal || !socket.writable) {
        socket.destroy()
        return
      }
      connection.closing = true
      if (connection.open > 0) {
        connection.broken = true
        refused(refusal)
      } else if (error.code === 'HPE_HEADER_OVERFLOW') {
        const timer = clock.after(lingerMs, () => overflown(socket, 414))
        socket.once('close', () => forget(socket))
        const begun = { tail: '', timer }
        overflows.set(socket, begun)
        readOn(socket, begun, error.rawPacket)
      } else {
        write(socket, refusal)
      }
    },

    connect(_incoming, socket) {
      socket.on('error', () => socket.destroy())
      socket.resume()
      write(socket, new ProxyError('METHOD_NOT_ALLOWED', 'There are no tunnels here.', { allow: 'GET, HEAD, POST' }))
    },
  }

  /**
   * Was it the target or a header that ran over? Only the end of the line tells: a request line ends with the version.
   * The beginning of the line is in none of these packets, since one packet (64 KiB) is shorter than what is allowed.
   */
  function readOn(socket: Duplex, overflow: { tail: string }, packet: Buffer | undefined): void {
    if (!packet) return overflown(socket, 414)
    const text = overflow.tail + packet.toString('latin1')
    const end = text.indexOf('\n')
    overflow.tail = text.slice(-16)
    if (end !== -1) overflown(socket, / HTTP\/\d\.\d\r?$/.test(text.slice(Math.max(0, end - 16), end)) ? 414 : 431)
  }

  function overflown(socket: Duplex, status: 414 | 431): void {
    forget(socket)
    const detail = status === 414 ? 'The request target is longer than 64 KiB.' : 'The headers are too large.'
    write(socket, new ProxyError('REQUEST_INVALID', detail, { status }))
  }

  function forget(socket: Duplex): void {
    overflows.get(socket)?.timer.cancel()
    overflows.delete(socket)
  }

  function write(socket: Duplex, refusal: ProxyError): void {
    const id = random.id()
    refused(refusal, id)
    if (!socket.writable) return
    const { status, headers, body } = refuse(id, refusal)
    const lines = [`HTTP/1.1 ${status} ${reasons[status] ?? ''}`, `Date: ${new Date(clock.wall()).toUTCString()}`]
    for (let i = 0; i < headers.length; i += 2) lines.push(`${headers[i]}: ${headers[i + 1]}`)
    lines.push('Connection: close', '', '')
    socket.write(Buffer.concat([Buffer.from(lines.join('\r\n'), 'latin1'), body ?? Buffer.alloc(0)]))
    linger(socket, clock)
  }
}

/** Ends our side and lets the other side finish: closing at once with bytes unread would reset the connection. */
export function linger(socket: Duplex, clock: Clock): void {
  socket.end()
  const timer = clock.after(lingerMs, () => socket.destroy())
  socket.once('close', () => timer.cancel())
}

/** Null = the connection itself broke, and nobody can be answered. */
function refusalOf({ code, rawPacket }: Unreadable): ProxyError | null {
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT')
    return new ProxyError('REQUEST_INVALID', 'The request did not arrive in time.', { status: 408 })
  if (code === 'HPE_INVALID_METHOD' && rawPacket && /^[A-Z][A-Z-]* \//.test(rawPacket.toString('latin1', 0, 64)))
    return new ProxyError('METHOD_NOT_ALLOWED', 'This method is not known.', { allow: 'GET, HEAD, POST' })
  return code?.startsWith('HPE_') ? new ProxyError('REQUEST_INVALID', 'This is not an HTTP/1.1 request.') : null
}

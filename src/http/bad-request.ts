/**
 * What Node could not read as a request: each gets one problem document and a closed connection, never a reset and never
 * a word of what was sent. Here the answer is written to the socket itself, since no response object exists.
 */
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { ProxyError } from '../errors.ts'
import type { Clock, Random, Timer } from '../ports.ts'
import type { Connection } from './connection.ts'
import { refuse } from './respond.ts'
import { encodeHint } from './target.ts'

const NO_TUNNELS =
  'This is a reverse proxy and opens no tunnels: use its address as the base URL, not as HTTP_PROXY or HTTPS_PROXY.'

/** A client that is still sending gets this long to read its answer before the connection is cut. */
const lingerMs = 1_000

export interface BadRequestParts {
  readonly clock: Clock
  readonly random: Random
  readonly refused: (error: ProxyError, id?: string) => void
  /** Status to reason phrase. */
  readonly reasons: Readonly<Record<number, string | undefined>>
}

export interface BadRequests {
  /** Open requests are answered first, and by themselves. */
  readonly unreadable: (error: Unreadable, socket: Duplex, connection: Connection) => void
  /** HTTP without TLS on a port that speaks TLS. */
  readonly plain: (socket: Duplex) => void
  /** CONNECT: no tunnels here. */
  readonly connect: (incoming: IncomingMessage, socket: Duplex) => void
}

/** An error of Node's parser, with the bytes it was given last, and how many of them it had read. */
export interface Unreadable extends Error {
  readonly code?: string
  readonly rawPacket?: Buffer
  readonly bytesParsed?: number
}

export function createBadRequests({ clock, random, refused, reasons }: BadRequestParts): BadRequests {
  const overflows = new Map<Duplex, { tail: string; readonly timer: Timer }>()

  return {
    unreadable(error, socket, connection) {
      const overflow = overflows.get(socket)
      if (overflow) return readOn(socket, overflow, error.rawPacket)
      const refusal = refusalOf(error)
      if (connection.failBody && refusal) return connection.failBody(closing(refusal))
      // The parser reports every further packet of a connection it has given up.
      if (connection.closing) return
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

    plain(socket) {
      socket.on('error', () => socket.destroy())
      socket.resume()
      write(socket, new ProxyError('REQUEST_INVALID', 'This port requires HTTPS. Use https:// in the URL.'))
    },

    connect(_incoming, socket) {
      socket.on('error', () => socket.destroy())
      socket.resume()
      write(socket, new ProxyError('METHOD_NOT_ALLOWED', NO_TUNNELS, { allow: 'GET, HEAD, POST' }))
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
    const detail =
      status === 414 ? 'The request target is longer than 64 KiB: shorten it.' : 'The headers are too large.'
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
function refusalOf(error: Unreadable): ProxyError | null {
  const { code } = error
  if (code === undefined) return null
  switch (code) {
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new ProxyError('REQUEST_INVALID', 'The request did not arrive in time.', { status: 408 })
    case 'HPE_INVALID_URL':
      return new ProxyError('REQUEST_INVALID', `The request target contains ${encodeHint}`)
    case 'HPE_INVALID_CONSTANT':
      return new ProxyError(
        'REQUEST_INVALID',
        `The request line has no HTTP version after the target. The target may contain ${encodeHint}`,
      )
    case 'HPE_INVALID_METHOD':
      if (isRequestLine(lineOf(error)))
        return new ProxyError('METHOD_NOT_ALLOWED', 'Unknown method. Use GET, HEAD or POST.', {
          allow: 'GET, HEAD, POST',
        })
  }
  return code.startsWith('HPE_') ? new ProxyError('REQUEST_INVALID', 'Not a valid HTTP/1.1 request.') : null
}

function closing({ code, message, status }: ProxyError): ProxyError {
  return new ProxyError(code, message, { status, close: true })
}

function isRequestLine(line: string): boolean {
  return /^[A-Z][A-Z-]* \//.test(line)
}

/** In which the parser gave up: the same packet may hold good requests before it. */
function lineOf({ rawPacket, bytesParsed = 0 }: Unreadable): string {
  if (!rawPacket) return ''
  const start = bytesParsed === 0 ? 0 : rawPacket.lastIndexOf('\n', bytesParsed - 1) + 1
  return rawPacket.toString('latin1', start, start + 256)
}

/**
 * One request and what came back for it, gathered from the events of undici's dispatch. Settles exactly once, and then the
 * connection is either kept for another request or closed.
 */
import type { IncomingHttpHeaders } from 'node:http'
import type { Reply, UpstreamRequest, WireReason, WireResult } from '../model.ts'
import type { Clock } from '../ports.ts'
import { DialError } from './dial.ts'
import type { AwaitsHead } from './interim.ts'
import { unpack } from './unpack.ts'
import { exchangeTrouble } from './wire-reason.ts'

/** A connection to upstream, opened with the first request on it. */
export interface Line extends AwaitsHead {
  /** Requests that were answered on the connection as it stands now. */
  readonly served: number
  ask(request: Asked, exchange: Exchange): void
  close(): void
}

export interface Asked {
  readonly method: 'GET' | 'POST'
  readonly path: string
  readonly headers: Record<string, string>
}

export interface Lines {
  /** An idle connection, or else a new one. */
  take(): Line
  open(): Line
  /** The request on it was answered. */
  keep(line: Line): void
}

export interface ExchangeParts {
  readonly lines: Lines
  readonly clock: Clock
  /** Plain HTTP through an outbound proxy, which may answer for itself. */
  readonly isRelayed: boolean
  readonly maxBytes: number
}

/** What is not answered within this was not refused because its connection had been closed. */
const CLOSED_IDLE_MS = 1_000

export class Exchange {
  readonly #parts: ExchangeParts
  readonly #request: UpstreamRequest
  readonly #headers: Record<string, string>
  readonly #settle: (result: WireResult) => void
  readonly #chunks: Buffer[] = []
  #bytes = 0
  #path = ''
  #line: Line | null = null
  /** Null = no byte of it has left. */
  #sentAt: number | null = null
  #isAnswering = false
  #head: Head | null = null
  #isRepeated = false
  #isSettled = false

  constructor(
    parts: ExchangeParts,
    request: UpstreamRequest,
    headers: Record<string, string>,
    settle: (result: WireResult) => void,
  ) {
    this.#parts = parts
    this.#request = request
    this.#headers = headers
    this.#settle = settle
  }

  start(path: string): void {
    this.#path = path
    this.#ask(this.#parts.lines.take())
  }

  fail(reason: WireReason, code: string | null = null): void {
    this.#end({ kind: 'broken', sent: this.#sentAt !== null, reason, code })
  }

  /** Something went wrong before, during or after the request was written. */
  break(error: unknown): void {
    if (this.#isSettled) return
    if (error instanceof DialError) return this.fail(error.reason, error.code)
    const trouble = exchangeTrouble(error, this.#head ? 'head' : this.#isAnswering ? 'begun' : 'nothing')
    // The kernel refused the last bytes of the request, so upstream cannot have read it to its end.
    if (isWriteError(error)) this.#sentAt = null
    const wasKept = this.#line !== null && this.#line.served > 0 && trouble.reason === 'reset'
    if (wasKept && this.#sentAt === null && !this.#isRepeated) return this.#askAgain()
    this.fail(wasKept && this.#isYoung() ? 'idle-closed' : trouble.reason, trouble.code)
  }

  // Events of undici, in their order

  onRequestStart(): void {
    this.#sentAt = this.#parts.clock.now()
    if (this.#line) this.#line.awaitsHead = true
  }

  onResponseStarted(): void {
    this.#isAnswering = true
  }

  onResponseStart(_controller: unknown, status: number, headers: IncomingHttpHeaders): void {
    // Interim: 103 and its like.
    if (status < 200) return
    if (status === 407 && this.#parts.isRelayed) {
      this.#sentAt = null
      return this.fail('outbound-proxy', '407')
    }
    if (Number(headers['content-length'] ?? 0) > this.#parts.maxBytes) return this.fail('too-big')
    this.#head = { status, headers }
  }

  onResponseData(_controller: unknown, chunk: Buffer): void {
    this.#bytes += chunk.length
    if (this.#bytes > this.#parts.maxBytes) this.fail('too-big')
    else this.#chunks.push(chunk)
  }

  onResponseEnd(): void {
    if (this.#isSettled || this.#head === null) return
    const line = this.#line
    this.#line = null
    if (line) this.#parts.lines.keep(line)
    const [first] = this.#chunks
    const body = first && this.#chunks.length === 1 ? first : Buffer.concat(this.#chunks, this.#bytes)
    const encoding = textOf(this.#head.headers['content-encoding'])
    if (encoding === null || body.length === 0) this.#end({ kind: 'reply', reply: replyOf(this.#head, body) })
    else void this.#unpack(this.#head, encoding, body)
  }

  onResponseError(_controller: unknown, error: Error): void {
    this.break(error)
  }

  async #unpack(head: Head, encoding: string, body: Buffer): Promise<void> {
    const unpacked = await unpack(encoding, body, this.#parts.maxBytes)
    if (unpacked.kind === 'too-big') return this.fail('too-big')
    if (unpacked.kind === 'damaged') return this.fail('malformed')
    this.#end({ kind: 'reply', reply: replyOf(head, unpacked.kind === 'body' ? unpacked.body : body) })
  }

  #ask(line: Line): void {
    this.#line = line
    const asked = { method: this.#request.method, path: this.#path, headers: this.#headers }
    // The end of a kept connection may have arrived unread: so it is read before anything is written.
    if (line.served > 0) setImmediate(() => this.#line === line && line.ask(asked, this))
    else line.ask(asked, this)
  }

  /** On a new connection, at once: upstream closed the kept one before it could take anything. */
  #askAgain(): void {
    this.#isRepeated = true
    this.#line?.close()
    this.#ask(this.#parts.lines.open())
  }

  /** No answer has begun, and it was sent so recently that the connection may have been closed before it arrived. */
  #isYoung(): boolean {
    if (this.#isAnswering) return false
    return this.#sentAt === null || this.#parts.clock.now() - this.#sentAt < CLOSED_IDLE_MS
  }

  #end(result: WireResult): void {
    if (this.#isSettled) return
    this.#isSettled = true
    // What is still on it belongs to nobody.
    this.#line?.close()
    this.#line = null
    this.#settle(result)
  }
}

interface Head {
  readonly status: number
  readonly headers: IncomingHttpHeaders
}

/** Node sets `syscall` on errors of the system. */
function isWriteError(error: unknown): boolean {
  return error instanceof Error && 'syscall' in error && error.syscall === 'write'
}

function replyOf({ status, headers }: Head, body: Buffer): Reply {
  return {
    status,
    contentType: firstOf(headers['content-type']),
    retryAfter: firstOf(headers['retry-after']),
    location: firstOf(headers.location),
    body,
  }
}

function firstOf(value: string | readonly string[] | undefined): string | null {
  return (typeof value === 'string' ? value : value?.[0]) ?? null
}

function textOf(value: string | readonly string[] | undefined): string | null {
  return (typeof value === 'string' ? value : value?.join(', ')) ?? null
}

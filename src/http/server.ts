/**
 * The proxy port: sockets on one side, exchanges on the other. Promises that every request gets exactly one answer, that
 * nothing behind a refused request on the same connection is ever executed, and that a drain loses nobody.
 * Knows neither routes nor why an answer is what it is.
 */
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { overloaded, ProxyError, type Reason } from '../errors.ts'
import type { Exchange, Outcome } from '../model.ts'
import type { OverloadState } from '../telemetry/events.ts'
import type { Handle } from '../parts.ts'
import type { Clock, Emit, Random } from '../ports.ts'
import { createBadRequests, linger } from './bad-request.ts'
import { readBody } from './body.ts'
import { type Connection, newConnection, watch } from './connection.ts'
import { type Drainer, createDrainer, type Drained, type DrainTimes } from './drain.ts'
import { type CertificateSource, createNodeServer, type NodeServer } from './node-server.ts'
import { hasBody, losesBytes, readFields, readId, readRequest } from './request.ts'
import { published, refuse, type Respond, type Response } from './respond.ts'
import { createTargets } from './target.ts'

export interface ServerOptions {
  readonly host: string
  /** 0 = any free port. */
  readonly port: number
  /** Other processes may listen on it as well. */
  readonly reusePort?: boolean
  /** The next one is answered 503 and closed. */
  readonly maxConnections?: number
  /** An idle connection is closed after so many milliseconds. */
  readonly keepAlive?: number
  readonly timeouts?: Partial<Timeouts>
}

export interface Timeouts {
  /** From the first byte of a request to the end of its headers. */
  readonly headersMs: number
  /** From the first byte of a request to its end. */
  readonly requestMs: number
  /** How often the two first ones are looked at. */
  readonly checkMs: number
  /** A reader that takes no byte of its answer for so long is cut. */
  readonly slowReaderMs: number
}

/** The settings of the day; taken once per request, so a reload changes nothing for requests under way. */
export interface Serving {
  readonly handle: Handle
  readonly respond: Respond
}

export interface ServerParts {
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
  /** Null = without TLS. */
  readonly certificate?: CertificateSource | null
  readonly generations: { readonly current: Serving }
  /** By path, what anybody may read without a token. */
  readonly published?: ReadonlyMap<string, Buffer>
  /** While it is critical, every new request is refused. */
  readonly overload?: { readonly state: OverloadState; readonly because: Reason | null }
  /** Told of every refusal that no exchange exists for, and that therefore nobody records. */
  readonly refused: (error: ProxyError, id?: string) => void
}

export interface Server {
  /** Rejects when the port cannot be had. */
  listen(): Promise<void>
  readonly port: number
  /** Requests that have not been answered. */
  readonly openRequests: number
  /** True from the first call of `drain` on: not ready any more. */
  readonly draining: boolean
  /** Resolves when the last connection is gone; `forced` = the grace ended before. Another call sets the times anew. */
  drain(times: DrainTimes): Promise<Drained>
}

const defaults: Timeouts = {
  headersMs: 10_000,
  requestMs: 30_000,
  checkMs: 2_000,
  slowReaderMs: 60_000,
}

/** A target of 64 KiB must get through to us to be answered properly. */
const maxHeaderSize = 72 * 1024
/** So many are told so at a time; more are dropped. */
const mostExcess = 1_000
const excessMs = 2_000
/** Between TCP probes of a caller that waits; each at a pace of its own, for the reason that `transport.ts` gives. */
const probeMs = 30_000
const probePaces = 30
/** Requests without an answer on one connection: nobody sends more ahead but to do harm. */
const mostPipelined = 100

const TOO_MANY_CONNECTIONS = 'Too many connections, or too many pipelined requests on this connection. Use fewer.'

class ProxyServer implements Server {
  readonly #parts: ServerParts
  readonly #host: string
  readonly #port: number
  readonly #reusePort: boolean
  readonly #clock: Clock
  readonly #random: Random
  readonly #emit: Emit
  readonly #generations: ServerParts['generations']
  readonly #overload: ServerParts['overload']
  readonly #documents: ReadonlyMap<string, Buffer> | undefined
  readonly #slowReaderMs: number
  readonly #server: NodeServer['server']
  readonly #target = createTargets()
  readonly #connections = new Map<Socket, Connection>()
  #openRequests = 0
  #accepted = 0
  #chosenPort: number
  readonly #drainer: Drainer

  constructor(options: ServerOptions, parts: ServerParts) {
    this.#parts = parts
    const { host, port, reusePort = false, maxConnections = 20_000, keepAlive = 75_000, timeouts } = options
    this.#host = host
    this.#port = port
    this.#reusePort = reusePort
    const { clock, random, emit, generations, overload, certificate = null, published: documents } = parts
    this.#clock = clock
    this.#random = random
    this.#emit = emit
    this.#generations = generations
    this.#overload = overload
    this.#documents = documents
    const { headersMs, requestMs, checkMs, slowReaderMs } = { ...defaults, ...timeouts }
    this.#slowReaderMs = slowReaderMs
    this.#chosenPort = port
    const nodeOptions = {
      maxHeaderSize,
      headersTimeout: headersMs,
      requestTimeout: requestMs,
      keepAliveTimeout: keepAlive,
      connectionsCheckingInterval: checkMs,
      noDelay: true,
      // Nobody reads a body here, so a request without one need not have a stream that ends.
      optimizeEmptyRequests: true,
      // Ours is stricter and answers with a problem document: see request.ts.
      requireHostHeader: false,
    }
    const badRequests = createBadRequests({ ...parts, reasons: STATUS_CODES })
    const { server, onConnection, cutHandshakes, cut } = createNodeServer(nodeOptions, certificate, (socket) => {
      emit({ kind: 'plain-http', port: 'listen' })
      badRequests.plain(socket)
    })
    this.#server = server
    // Node hides headers beyond its limit from us but frames by them (CVE-2026-58044): let all be seen, and count.
    server.maxHeadersCount = 0
    server.timeout = 0
    server.maxConnections = maxConnections + mostExcess
    this.#drainer = createDrainer(server, this.#connections, clock, { cutHandshakes, cut })
    onConnection((socket) => {
      socket.setKeepAlive(true, probeMs + (this.#accepted++ % probePaces) * 1_000)
      const isExcess = this.#connections.size >= maxConnections
      const connection = newConnection(isExcess)
      this.#connections.set(socket, connection)
      const timer = isExcess ? clock.after(excessMs, () => socket.destroy()) : null
      socket.once('close', () => {
        timer?.cancel()
        this.#connections.delete(socket)
        for (const tell of connection.waiting ?? []) tell()
      })
    })
    server.on('request', this.#receive)
    server.on('checkContinue', this.#receive)
    server.on('checkExpectation', (incoming, outgoing) => {
      this.#receive(
        incoming,
        outgoing,
        new ProxyError('REQUEST_INVALID', 'The only supported Expect value is 100-continue.', {
          status: 417,
          close: true,
        }),
      )
    })
    server.on('connect', badRequests.connect)
    server.on('clientError', (error, socket) => {
      const connection = this.#connections.get(socket as Socket)
      if (connection) badRequests.unreadable(error, socket, connection)
      else socket.destroy()
    })
  }

  readonly listen: Server['listen'] = () =>
    new Promise((resolve, reject) => {
      this.#server.once('error', reject)
      this.#server.listen({ host: this.#host, port: this.#port, reusePort: this.#reusePort }, () => {
        this.#server.off('error', reject)
        this.#chosenPort = (this.#server.address() as AddressInfo).port
        resolve()
      })
    })

  get port(): number {
    return this.#chosenPort
  }

  get openRequests(): number {
    return this.#openRequests
  }

  get draining(): boolean {
    return this.#drainer.draining
  }

  readonly drain: Server['drain'] = (times) => this.#drainer.drain(times)

  /** Runs without a pause until the request is understood: a refusal closes the connection before the next one is read. */
  readonly #receive = (
    incoming: IncomingMessage,
    outgoing: ServerResponse,
    refusal: ProxyError | null = null,
  ): void => {
    const connection = this.#connections.get(incoming.socket)
    if (!connection || connection.closing) return
    connection.open++
    connection.last = outgoing
    const newBytes = incoming.socket.bytesRead - connection.seenBytes
    connection.seenBytes += newBytes
    this.#openRequests++
    const fields = readFields(incoming.rawHeaders)
    const id = readId(fields, this.#random)
    const reject = (error: unknown): void => {
      const refusal = ProxyError.from(error)
      this.#parts.refused(refusal, id)
      this.#settle(incoming, outgoing, connection, refuse(id, refusal))
    }
    try {
      if (refusal) throw refusal
      if (this.#drainer.stopped)
        throw new ProxyError('SHUTTING_DOWN', 'This proxy is shutting down: retry on a new connection.', {
          close: true,
        })
      if (connection.isExcess || connection.open > mostPipelined)
        throw overloaded('connections', TOO_MANY_CONNECTIONS, this.#random.next(), { close: true })
      if (this.#overload?.state === 'critical' && this.#overload.because)
        throw overloaded(this.#overload.because, 'The proxy is overloaded.', this.#random.next(), { close: true })
      const onGone = watch(incoming.socket, connection, outgoing)
      const request = readRequest(incoming, fields, { id, arrivedAt: this.#clock.now(), onGone, target: this.#target })
      const document =
        request.method === 'GET' || request.method === 'HEAD' ? this.#documents?.get(request.target.path) : null
      const withBody = hasBody(fields)
      if (document && !withBody) return this.#settle(incoming, outgoing, connection, published(id, document))
      // Nothing behind it may be executed: Node closes after such an answer, or what follows comes before the body has been judged.
      if (fields.expect !== null || withBody || (fields.upgrade !== null && losesBytes(incoming, newBytes)))
        connection.closing = connection.broken = true
      const exchange = { request, client: null, call: null, limits: null, credits: [], flight: null }
      if (!withBody) return this.#serve(exchange, incoming, outgoing, connection)
      const body = readBody(incoming, request.target.path, this.#clock)
      connection.failBody = body.fail
      void body.isEmpty
        .finally(() => (connection.failBody = null))
        .then(() => this.#serve(exchange, incoming, outgoing, connection), reject)
    } catch (error) {
      reject(error)
    }
  }

  #serve(exchange: Exchange, incoming: IncomingMessage, outgoing: ServerResponse, connection: Connection): void {
    const { handle, respond } = this.#generations.current
    const fail = (error: unknown): void => {
      this.#emit({ kind: 'broke', where: 'http', error, request: exchange.request })
      this.#settle(incoming, outgoing, connection, refuse(exchange.request.id, ProxyError.from(error)))
    }
    const finish = (outcome: Outcome): void => {
      let response: Response | null
      try {
        response = respond(exchange, outcome, this.#clock.wall())
      } catch (error) {
        return fail(error)
      }
      this.#settle(incoming, outgoing, connection, response)
    }
    const outcome = handle(exchange)
    // A hit leaves within the turn of the loop in which it came.
    if (outcome instanceof Promise) void outcome.then(finish, fail)
    else finish(outcome)
  }

  /** Never throws. */
  #settle(
    incoming: IncomingMessage,
    outgoing: ServerResponse,
    connection: Connection,
    response: Response | null,
  ): void {
    connection.open--
    this.#openRequests--
    try {
      if (response) this.#answer(incoming, outgoing, connection, response)
      else outgoing.destroy()
    } catch (error) {
      // Node refuses to send a header that upstream, or a caller, has managed to spoil.
      this.#emit({ kind: 'broke', where: 'http', error })
      outgoing.destroy()
    }
  }

  #answer(
    incoming: IncomingMessage,
    outgoing: ServerResponse,
    connection: Connection,
    { status, headers, body, close }: Response,
  ): void {
    if (close) {
      connection.closing = true
      // What the caller is still sending would turn a plain close into a reset that swallows the answer.
      incoming.socket.destroySoon = () => linger(incoming.socket, this.#clock)
    }
    if (close || ((this.#drainer.draining || connection.broken) && connection.last === outgoing))
      headers.push('Connection', 'close')
    outgoing.writeHead(status, headers)
    outgoing.end(incoming.method === 'HEAD' ? null : body)
    if (outgoing.socket && outgoing.socket.writableLength > 0) outgoing.socket.setTimeout(this.#slowReaderMs)
  }
}

export function createServer(options: ServerOptions, parts: ServerParts): Server {
  return new ProxyServer(options, parts)
}

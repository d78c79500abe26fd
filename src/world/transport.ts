/**
 * The one door to http-proxy-3: a buffered exchange with upstream over its native path, on warm keep-alive connections.
 *
 * The library is driven by a request and a response that we make up ourselves, never by a client's. Its streaming path
 * ends the upstream call when the client hangs up, stays silent when an answer breaks off half-way, and forwards whatever
 * framing the client sent; a paid call must be finished, inspected as a whole, and framed by us.
 *
 * Wire failures are values. `sent` is true as soon as a byte of the request may have left: then it may have been charged.
 */
import { EventEmitter } from 'node:events'
import http from 'node:http'
import https from 'node:https'
import type { Socket } from 'node:net'
import { Stream } from 'node:stream'
import { createProxyServer } from 'http-proxy-3'
import type { Reply, UpstreamRequest, WireResult } from '../model.ts'
import type { Clock, Transport, UpstreamOptions } from '../ports.ts'
import { createRoster } from '../roster.ts'
import { believing } from './authority.ts'

/** Idle connections are closed before a usual server would: a reused socket that upstream just closed may have cost money. */
const IDLE_SOCKET_MS = 4_000
/**
 * TCP probes of calls that wait, in whole seconds, at a pace of each connection's own: of thousands at the same moment the kernel
 * drops a part, again each second, and after ten such seconds it ends the calls (measured: 1,741 of 9,750, perhaps charged).
 */
const KEEP_ALIVE_PROBE_MS = 30_000
const PROBE_PACES = 30
const MAX_IDLE_SOCKETS = 64

type BrokenReason = Extract<WireResult, { kind: 'broken' }>['reason']

export function createTransport(options: UpstreamOptions, clock: Clock): Transport {
  const target = new URL(options.url)
  const secure = target.protocol === 'https:'
  const agent = new (secure ? https : http).Agent({
    keepAlive: true,
    maxSockets: Number.POSITIVE_INFINITY,
    maxFreeSockets: MAX_IDLE_SOCKETS,
    scheduling: 'lifo',
    timeout: IDLE_SOCKET_MS,
    ...(secure && options.caPath ? { secureContext: believing(options.caPath) } : {}),
  })
  let connections = 0
  // Node asks for it whenever a connection is made or becomes idle.
  Object.defineProperty(agent, 'keepAliveMsecs', {
    get: () => KEEP_ALIVE_PROBE_MS + (connections++ % PROBE_PACES) * 1_000,
  })
  const proxy = createProxyServer({
    target,
    agent,
    changeOrigin: true,
    selfHandleResponse: true,
    // Our own path, byte for byte: no second normalisation of what was authorised and hashed, no `new URL` that may throw.
    toProxy: true,
    prependPath: false,
    connectTimeout: options.connectTimeoutMs,
  })
  const open = createRoster<SyntheticResponse>()

  // Without a listener the library throws. Every call has its own callback, which is where errors really arrive.
  proxy.on('error', () => undefined)
  proxy.on('proxyReq', (proxyReq, _request, response, _options, socket) => {
    const exchange = synthetic(response)
    exchange.connection(proxyReq, socket)
    if (!secure || !socket.connecting) return
    // The library's limit ends with TCP, and a TLS handshake that hangs would last as long as an attempt may.
    const timer = clock.after(options.connectTimeoutMs, () => exchange.fail('connect-timeout'))
    for (const event of ['secureConnect', 'close']) socket.once(event, () => timer.cancel())
  })
  proxy.on('proxyRes', (incoming, _request, response) => synthetic(response).receive(incoming))

  function forward(request: UpstreamRequest): Promise<WireResult> {
    return new Promise((resolve) => {
      const response = new SyntheticResponse(secure, options.maxResponseBytes)
      const timer = clock.after(request.limitMs, () => response.fail('timeout'))
      const place = open.add(response)
      response.settle = (result) => {
        timer.cancel()
        place.leave()
        resolve(result)
      }
      try {
        proxy.web(new SyntheticRequest(request) as never, response as never, {}, (error: Error & { code?: string }) =>
          response.fail(reasonOf(error.code ?? '', response.sent)),
        )
      } catch {
        // A header or a path that node refuses to write: nothing has left.
        response.fail('refused')
      }
    })
  }

  return {
    forward,
    close: () => {
      for (const { fail } of open) fail('aborted')
      agent.destroy()
    },
  }
}

const NAME_ERRORS = new Set(['ENOTFOUND', 'EAI_AGAIN', 'EAI_FAIL', 'EAI_NODATA', 'EAI_NONAME'])
const REFUSED_ERRORS = new Set([
  'ECONNREFUSED',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EADDRNOTAVAIL',
  'EMFILE',
  'EACCES',
  'EPERM',
])

/** Of OpenSSL, without CERT in their names. */
const TLS_ERRORS = new Set([
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'HOSTNAME_MISMATCH',
  'INVALID_CA',
  'INVALID_PURPOSE',
  'EPROTO',
])

function reasonOf(code: string, sent: boolean): BrokenReason {
  if (code === 'ECONNECT_TIMEOUT' || (code === 'ETIMEDOUT' && !sent)) return 'connect-timeout'
  if (NAME_ERRORS.has(code)) return 'name'
  if (REFUSED_ERRORS.has(code)) return 'refused'
  if (code.startsWith('ERR_TLS') || code.startsWith('ERR_SSL') || code.includes('CERT') || TLS_ERRORS.has(code))
    return 'tls'
  return code.startsWith('HPE_') ? 'malformed' : 'reset'
}

function synthetic(response: unknown): SyntheticResponse {
  if (response instanceof SyntheticResponse) return response
  throw new TypeError('http-proxy-3 handed back a response that is not ours')
}

/** What the library reads of a client's socket. */
const NO_SOCKET = Object.freeze({ destroyed: false, setTimeout: () => undefined })

/** What the library reads of a request: it has no body, and its framing is ours. */
class SyntheticRequest extends Stream {
  readonly httpVersion = '1.1'
  readonly httpVersionMajor = 1
  readonly httpVersionMinor = 1
  readonly socket = NO_SOCKET
  readonly connection = NO_SOCKET
  readonly method: string
  readonly url: string
  readonly headers: Record<string, string>

  constructor(request: UpstreamRequest) {
    super()
    this.method = request.method
    this.url = request.target
    this.headers = request.method === 'GET' ? { ...request.headers } : { ...request.headers, 'content-length': '0' }
  }

  override pipe<T extends NodeJS.WritableStream>(destination: T): T {
    destination.end()
    return destination
  }
}

/** What the library reads of a response, and where the exchange is gathered. Settles exactly once. */
class SyntheticResponse extends EventEmitter {
  headersSent = false
  finished = false
  writableEnded = false
  /** The library aborts the upstream request on `close` while this is false. */
  writableFinished = false
  sent = false
  settle: (result: WireResult) => void = () => undefined
  readonly #secure: boolean
  readonly #maxBytes: number
  #settled = false

  constructor(secure: boolean, maxBytes: number) {
    super()
    this.#secure = secure
    this.#maxBytes = maxBytes
  }

  connection(request: http.ClientRequest, socket: Socket): void {
    if (request.reusedSocket || !socket.connecting) this.sent = true
    else socket.once(this.#secure ? 'secureConnect' : 'connect', () => (this.sent = true))
    // After a 101 that nobody asked for, Node ends the request without an answer and without an error.
    request.once('close', () => this.fail('malformed'))
  }

  receive(incoming: http.IncomingMessage): void {
    this.sent = true
    const chunks: Buffer[] = []
    let bytes = 0
    if (Number(incoming.headers['content-length'] ?? 0) > this.#maxBytes) return this.fail('too-big')
    incoming.on('data', (chunk: Buffer) => {
      bytes += chunk.length
      if (bytes > this.#maxBytes) this.fail('too-big')
      else chunks.push(chunk)
    })
    incoming.on('end', () => {
      if (!incoming.complete) return this.fail('truncated')
      this.#finish({ kind: 'reply', reply: replyOf(incoming, chunks, bytes) })
    })
    // Without these, an answer that breaks off half-way is silent: no event, no callback.
    incoming.on('error', () => this.fail('truncated'))
    incoming.on('aborted', () => this.fail('truncated'))
  }

  readonly fail = (reason: BrokenReason): void => {
    if (!this.#finish({ kind: 'broken', sent: this.sent, reason })) return
    this.writableFinished = false
    this.emit('close')
  }

  #finish(result: WireResult): boolean {
    if (this.#settled) return false
    this.#settled = true
    this.writableFinished = true
    this.settle(result)
    return true
  }
}

function replyOf(incoming: http.IncomingMessage, chunks: readonly Buffer[], bytes: number): Reply {
  const [first] = chunks
  return {
    status: incoming.statusCode ?? 0,
    contentType: incoming.headers['content-type'] ?? null,
    retryAfter: incoming.headers['retry-after'] ?? null,
    location: incoming.headers.location ?? null,
    body: first && chunks.length === 1 ? first : Buffer.concat(chunks, bytes),
  }
}

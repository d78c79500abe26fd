/**
 * The one door to http-proxy-3 and undici: buffered exchanges with upstream, each on a connection of its own until it ends.
 *
 * http-proxy-3 makes method, target and URL, and hands the exchange to its `fetch` option; undici's dispatch carries it from there,
 * without streams and `fetch` objects. The library is given a request and a response of ours, never a client's: a paid call must be
 * finished, inspected as a whole, and framed by us.
 *
 * Connections are kept here and not in undici's `Pool`, which looks at all of them for each request (with 4,000 open calls half of
 * the CPU time of an exchange), knows no clock but the system's, and does not say whether a connection had been used before: only
 * one that had may have been closed by upstream while it was idle.
 *
 * Wire failures are values. `sent` is true as soon as upstream may have taken the request: then it may have been charged.
 */
import { readFileSync } from 'node:fs'
import { IncomingMessage, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import type { SecureContext } from 'node:tls'
import { createProxyServer } from 'http-proxy-3'
import { Client } from 'undici'
import type { UpstreamRequest, WireResult } from '../model.ts'
import type { Clock, Transport, UpstreamOptions } from '../ports.ts'
import { createLinkedList } from '../linked-list.ts'
import { trusting } from './authority.ts'
import { createDial, type Dial } from './dial.ts'
import { type Asked, Exchange, type Line, type Lines } from './exchange.ts'
import { discardContinue } from './interim.ts'

/** Idle connections are closed before a usual server would: a reused one that upstream just closed may have cost money. */
const IDLE_MS = 4_000
/** So much sooner than a server announces with `Keep-Alive: timeout=N`. */
const IDLE_THRESHOLD_MS = 1_000
const MAX_IDLE = 64
/** Of an answer; more than any other server accepts, and less than a flood. */
const MAX_HEADER_BYTES = 80 * 1024

/** Throws when the file of certificates cannot be read. */
export function createTransport(options: UpstreamOptions, clock: Clock): Transport {
  const { connectTimeoutMs, proxy: outbound = null } = options
  const target = new URL(options.url)
  let pem = options.caPath ? readFileSync(options.caPath, 'utf8') : null
  let context: SecureContext | null = null
  const trusted = (): SecureContext => (context ??= trusting(pem))
  const dial = createDial({ target, proxy: outbound, connectTimeoutMs, trusted }, clock)
  /** A plain upstream is asked through the proxy itself (RFC 9112 section 3.2.2); for TLS there is a tunnel. */
  const relay = target.protocol === 'http:' ? outbound : null
  const lines = createLines(
    { origin: new URL(relay?.url ?? target), dial, maxAgeMs: options.connectionMaxAgeMs },
    clock,
  )
  const parts = { lines, clock, isRelayed: relay !== null, maxBytes: options.maxResponseBytes }
  const ownHeaders = {
    host: target.host,
    ...(relay?.authorization ? { 'proxy-authorization': relay.authorization } : {}),
  }
  const proxy = createProxyServer({
    target,
    // Our target byte for byte: no second normalisation of what was authorised and hashed.
    toProxy: true,
    prependPath: false,
    // Headers are handed to undici, so the library need not copy them.
    fetchOptions: { requestOptions: { headers: {} } },
  })
  const open = createLinkedList<Exchange>()

  function forward(request: UpstreamRequest): Promise<WireResult> {
    return new Promise((resolve) => {
      const exchange = new Exchange(parts, request, { ...ownHeaders, ...request.headers }, (result) => {
        timer.cancel()
        place.leave()
        resolve(result)
      })
      const timer = clock.after(request.limitMs, () => exchange.fail('timeout'))
      const place = open.add(exchange)
      const fetch = (url: string | URL | Request): Promise<Response> => {
        const text = url instanceof Request ? url.url : url.toString()
        exchange.start(relay ? text : text.slice(target.origin.length))
        return nothing
      }
      proxy.web(new Question(request), answered, { fetch }, (error) => exchange.break(error))
    })
  }

  return {
    forward,
    trust(next) {
      if (next === pem) return false
      context = trusting(next)
      pem = next
      lines.renew()
      return true
    },
    close() {
      for (const exchange of open) exchange.fail('aborted')
      lines.close()
    },
  }
}

/** What http-proxy-3 gets back: an answer without content, for a response that has ended. The exchange goes on without it. */
const nothing = Promise.resolve(new Response())
const noSocket = new Socket()
const answered = new ServerResponse(new IncomingMessage(noSocket)).end()

/** What http-proxy-3 reads of a request: it has no body, and its headers are ours. */
class Question extends IncomingMessage {
  constructor({ method, target }: UpstreamRequest) {
    super(noSocket)
    this.method = method
    this.url = target
  }
}

interface LineOptions {
  /** Who is spoken to: upstream, or the proxy that relays to it. */
  readonly origin: URL
  readonly dial: Dial
  /** An older connection is not used again, so that an address that moves is followed. */
  readonly maxAgeMs: number
}

interface KeptLines extends Lines {
  /** No connection that stands now is used for another request. */
  renew(): void
  close(): void
}

/** The last one that became idle is taken first, so that those there are too many of grow old and go. */
function createLines(options: LineOptions, clock: Clock): KeptLines {
  const idle: OpenLine[] = []
  let generation = 0
  let isClosed = false

  const open = (): OpenLine => new OpenLine(options, clock, generation, forget)

  /** Closed by upstream, or idle for too long. */
  function forget(line: OpenLine): void {
    const at = idle.indexOf(line)
    if (at === -1) return
    idle.splice(at, 1)
    line.close()
  }

  function isGood(line: OpenLine): boolean {
    return line.generation === generation && clock.now() - line.openedAt < options.maxAgeMs
  }

  function closeIdle(): void {
    for (const line of idle.splice(0)) line.close()
  }

  return {
    open,
    take() {
      for (let line = idle.pop(); line; line = idle.pop()) {
        if (isGood(line)) return line
        line.close()
      }
      return open()
    },
    keep(line) {
      if (!(line instanceof OpenLine)) return
      line.served += 1
      if (!isClosed && idle.length < MAX_IDLE && isGood(line)) idle.push(line)
      else line.close()
    },
    renew() {
      generation += 1
      closeIdle()
    },
    close() {
      isClosed = true
      closeIdle()
    },
  }
}

/** One connection: an undici client of its own, that opens it with the first request and again where upstream had closed it. */
class OpenLine implements Line {
  served = 0
  awaitsHead = false
  openedAt: number
  readonly generation: number
  readonly #client: Client
  #giveUp: () => void = () => undefined

  constructor(
    { origin, dial, maxAgeMs }: LineOptions,
    clock: Clock,
    generation: number,
    gone: (line: OpenLine) => void,
  ) {
    this.generation = generation
    this.openedAt = clock.now()
    this.#client = new Client(origin, {
      pipelining: 1,
      allowH2: false,
      useMilo: false,
      // How long an attempt may take is the exchange's to say.
      headersTimeout: 0,
      bodyTimeout: 0,
      keepAliveTimeout: IDLE_MS,
      keepAliveTimeoutThreshold: IDLE_THRESHOLD_MS,
      keepAliveMaxTimeout: maxAgeMs,
      maxHeaderSize: MAX_HEADER_BYTES,
      connect: (_options, done) => {
        this.#giveUp = dial((error, socket) => {
          if (error) return done(error, null)
          this.served = 0
          this.openedAt = clock.now()
          discardContinue(socket, this)
          done(null, socket)
        })
      },
    })
    this.#client.on('disconnect', () => gone(this))
  }

  ask(request: Asked, exchange: Exchange): void {
    this.#client.dispatch(request, exchange)
  }

  close(): void {
    this.#giveUp()
    void this.#client.destroy()
  }
}

/**
 * Opens connections to upstream: TCP, through an outbound proxy where there is one, and TLS. Each connection has one limit
 * for all of it, and TCP keep-alive probes.
 */
import { lookup, type LookupAddress } from 'node:dns'
import { request } from 'node:http'
import { connect, isIP, type LookupFunction, type Socket } from 'node:net'
import { connect as connectTls, type SecureContext } from 'node:tls'
import type { WireReason, WireTrouble } from '../model.ts'
import type { Clock, OutboundProxy } from '../ports.ts'
import { connectTrouble } from './wire-reason.ts'

/**
 * Keep-alive probes of calls that wait, in whole seconds, at another interval for each connection: of thousands at the same moment
 * the kernel drops a part, again each second, and after ten such seconds it ends the calls (measured: 1,741 of 9,750, perhaps charged).
 */
const KEEP_ALIVE_PROBE_MS = 30_000
const PROBE_INTERVALS = 30

/** Node's smallest `autoSelectFamilyAttemptTimeout`. */
const SHORTEST_ATTEMPT_MS = 10

export interface DialOptions {
  readonly target: URL
  /** Null = upstream is connected to directly. */
  readonly proxy: OutboundProxy | null
  /** For all of it: name, TCP, proxy and TLS. */
  readonly connectTimeoutMs: number
  /** The certificate authorities that are trusted, asked for each connection. */
  readonly trusted: () => SecureContext
}

/** No connection: nothing has been sent. */
export class DialError extends Error {
  override readonly name = 'DialError'
  readonly reason: WireReason
  readonly code: string | null

  constructor({ reason, code }: WireTrouble) {
    super(`no connection to upstream: ${reason} (${code ?? 'no code'})`)
    this.reason = reason
    this.code = code
  }
}

/** Called once, with a socket that requests can be written to, or the reason why there is none. */
export type Dialed = (...result: [error: null, socket: Socket] | [error: DialError, socket: null]) => void

/** Returns how to give up; `done` is called then as well. */
export type Dial = (done: Dialed) => () => void

export function createDial({ target, proxy, connectTimeoutMs, trusted }: DialOptions, clock: Clock): Dial {
  const secure = target.protocol === 'https:'
  const proxyUrl = proxy && new URL(proxy.url)
  const attemptMs = Math.max(SHORTEST_ATTEMPT_MS, Math.ceil(connectTimeoutMs / 2))
  let dialed = 0
  /** Of the address that answered last: it is tried first, so that one that does not answer costs its time once. */
  let family = 0
  let session: { readonly ticket: Buffer; readonly of: SecureContext } | null = null

  return (done) => {
    const opening = createOpening(proxy ? 'outbound-proxy' : 'connect-timeout')
    const timer = clock.after(connectTimeoutMs, opening.overdue)
    Promise.race([open(opening), opening.failed]).then(
      (socket) => {
        timer.cancel()
        done(null, socket)
      },
      (error: unknown) => {
        timer.cancel()
        for (const socket of opening.sockets) socket.destroy()
        done(error instanceof DialError ? error : new DialError(connectTrouble(error)), null)
      },
    )
    return opening.giveUp
  }

  async function open(opening: Opening): Promise<Socket> {
    const through = proxyUrl ? await openProxy(proxyUrl, opening) : await openTcp(target, opening)
    opening.late = 'connect-timeout'
    return secure ? openTls(through, target, opening) : through
  }

  /** For a plain upstream the transport asks the proxy itself, in absolute form; for TLS the proxy is asked for a tunnel. */
  async function openProxy(url: URL, opening: Opening): Promise<Socket> {
    try {
      const tcp = await openTcp(url, opening)
      const socket = url.protocol === 'https:' ? await openTls(tcp, url, opening) : tcp
      return secure ? await openTunnel(socket, target, proxy?.authorization ?? null) : socket
    } catch (error) {
      const trouble = error instanceof DialError ? error : connectTrouble(error)
      throw new DialError({ ...trouble, reason: trouble.reason === 'local' ? 'local' : 'outbound-proxy' })
    }
  }

  function openTcp(url: URL, opening: Opening): Promise<Socket> {
    const socket = connect({
      host: hostOf(url),
      port: portOf(url),
      noDelay: true,
      autoSelectFamily: true,
      // Node's 250 ms for each address would end every attempt where connecting takes longer.
      autoSelectFamilyAttemptTimeout: attemptMs,
      lookup: lastFamilyFirst,
    })
    return opened(socket, 'connect', opening).then(() => {
      family = socket.remoteFamily === 'IPv6' ? 6 : 4
      return socket.setKeepAlive(true, KEEP_ALIVE_PROBE_MS + (dialed++ % PROBE_INTERVALS) * 1_000)
    })
  }

  async function openTls(tcp: Socket, url: URL, opening: Opening): Promise<Socket> {
    const host = hostOf(url)
    const secureContext = trusted()
    // A session stands for the check of a certificate: it is good for one peer and one list of authorities.
    const resumable = session?.of === secureContext && url === target ? { session: session.ticket } : {}
    const socket = connectTls({
      socket: tcp,
      host,
      ...(isIP(host) === 0 ? { servername: host } : {}),
      ALPNProtocols: ['http/1.1'],
      secureContext,
      // Whatever NODE_TLS_REJECT_UNAUTHORIZED says.
      rejectUnauthorized: true,
      ...resumable,
    })
    if (url === target) socket.on('session', (ticket) => (session = { ticket, of: secureContext }))
    try {
      return await opened(socket, 'secureConnect', opening)
    } catch (error) {
      session = null
      throw error
    }
  }

  function lastFamilyFirst(...[host, options, done]: Parameters<LookupFunction>): void {
    lookup(host, { ...options, all: true }, (error, addresses) => {
      const ordered = error ? [] : addresses.toSorted((a, b) => rank(a) - rank(b))
      done(error, ordered)
    })
  }

  function rank(address: LookupAddress): number {
    return address.family === family ? 0 : 1
  }
}

interface Opening {
  /** All that belong to it: they are destroyed when it fails. */
  readonly sockets: Socket[]
  /** Rejects when there is no more time, or nobody wants the connection any more. */
  readonly failed: Promise<never>
  /** What it means when the time is up now. */
  late: WireReason
  readonly overdue: () => void
  readonly giveUp: () => void
}

function createOpening(late: WireReason): Opening {
  const { promise: failed, reject } = Promise.withResolvers<never>()
  const opening: Opening = {
    sockets: [],
    failed,
    late,
    overdue: () => reject(new DialError({ reason: opening.late, code: 'ETIMEDOUT' })),
    giveUp: () => reject(new DialError({ reason: 'aborted', code: null })),
  }
  return opening
}

function opened<S extends Socket>(socket: S, event: 'connect' | 'secureConnect', { sockets }: Opening): Promise<S> {
  sockets.push(socket)
  return new Promise((resolve, reject) => {
    // Stays: it may break between two steps, when nobody else listens.
    socket.on('error', reject)
    socket.once('close', () => reject(new DialError({ reason: 'reset', code: null })))
    socket.once(event, () => resolve(socket))
  })
}

/** RFC 9110 section 9.3.6. */
function openTunnel(through: Socket, target: URL, authorization: string | null): Promise<Socket> {
  const authority = `${target.hostname}:${portOf(target)}`
  return new Promise((resolve, reject) => {
    const asking = request({
      method: 'CONNECT',
      path: authority,
      headers: {
        host: authority,
        connection: 'keep-alive',
        ...(authorization === null ? {} : { 'proxy-authorization': authorization }),
      },
      createConnection: () => through,
    })
    asking.once('error', reject)
    asking.once('connect', ({ statusCode = 0 }, _socket, head) => {
      if (statusCode < 200 || statusCode > 299)
        return reject(new DialError({ reason: 'outbound-proxy', code: String(statusCode) }))
      if (head.length > 0) through.unshift(head)
      resolve(through)
    })
    asking.end()
  })
}

/** An IPv6 address is in brackets only in a URL. */
function hostOf({ hostname }: URL): string {
  return hostname.replace(/^\[(.*)\]$/, '$1')
}

function portOf({ port, protocol }: URL): number {
  return port === '' ? (protocol === 'https:' ? 443 : 80) : Number(port)
}

/**
 * Node's HTTP server, plain or over TLS with a certificate that may change while it runs: open connections stay as they are, new
 * ones get the new certificate. Knows nothing of requests.
 */
import { createServer as createPlainServer, type Server, type ServerOptions } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { Socket } from 'node:net'

/** As PEM. */
export interface CertificateSource {
  readonly now: { readonly cert: string; readonly key: string }
  onChange(listener: (certificate: { readonly cert: string; readonly key: string }) => void): void
}

export interface NodeServer {
  readonly server: Server
  /** Calls back with the socket that requests come over, once it can be talked over. */
  onConnection(listener: (socket: Socket) => void): void
  /** Cuts the connections that are in the middle of a handshake: nothing has been asked over them. */
  cutHandshakes(): void
  /** Cuts every connection. */
  cut(): void
}

const handshakeMs = 10_000
/** The first byte of a TLS record with a ClientHello (RFC 8446 section 5.1). */
const HANDSHAKE = 22

/** `onPlainHttp`: somebody speaks without TLS where TLS is spoken; nothing of what was said has been taken from the socket. */
export function createNodeServer(
  options: ServerOptions,
  certificate: CertificateSource | null,
  onPlainHttp: (socket: Socket) => void,
): NodeServer {
  /** Below TLS, where there is TLS. */
  const sockets = new Set<Socket>()
  const shakingHands = new Map<string, Socket>()
  const server = certificate ? secured(options, certificate) : createPlainServer(options)
  if (certificate) {
    lookFirst(server, onPlainHttp)
    server.on('connection', (socket: Socket) => {
      const name = nameOf(socket)
      shakingHands.set(name, socket)
      socket.once('close', () => shakingHands.get(name) === socket && shakingHands.delete(name))
    })
    server.on('secureConnection', (socket: Socket) => shakingHands.delete(nameOf(socket)))
  }
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  return {
    server,
    onConnection: (listener) => void server.on(certificate ? 'secureConnection' : 'connection', listener),
    cutHandshakes() {
      for (const socket of shakingHands.values()) socket.destroy()
    },
    cut() {
      for (const socket of sockets) socket.destroy()
    },
  }
}

/** The same for a connection and for the TLS over it, and of no other open one. */
function nameOf({ remoteAddress, remotePort, localAddress, localPort }: Socket): string {
  return `${remoteAddress} ${remotePort} ${localAddress} ${localPort}`
}

function secured(options: ServerOptions, certificate: CertificateSource): Server {
  const { cert, key } = certificate.now
  const server = createTlsServer({ ...options, cert, key, minVersion: 'TLSv1.2', handshakeTimeout: handshakeMs })
  certificate.onChange((next) => {
    server.setSecureContext({ cert: next.cert, key: next.key, minVersion: 'TLSv1.2' })
  })
  return server
}

/** Looks at the first byte of a connection before TLS takes it over. */
function lookFirst(server: Server, onPlainHttp: (socket: Socket) => void): void {
  const shakeHands = server.listeners('connection') as ((socket: Socket) => void)[]
  server.removeAllListeners('connection')
  server.on('connection', (socket: Socket) => {
    const fail = (): void => void socket.destroy()
    socket.on('error', fail)
    socket.setTimeout(handshakeMs, fail)
    socket.once('readable', () => {
      const bytes = socket.read() as Buffer | null
      if (bytes === null) return fail()
      socket.unshift(bytes)
      socket.off('error', fail)
      socket.setTimeout(0)
      socket.off('timeout', fail)
      if (bytes[0] !== HANDSHAKE) return onPlainHttp(socket)
      for (const listener of shakeHands) listener.call(server, socket)
    })
  })
}

/**
 * Node's HTTP server, plain or over TLS with a certificate that may change while it runs: who is connected stays so, whoever
 * comes next gets the new one. Knows nothing of requests.
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
  /** Cuts every connection, those in the middle of a handshake as well. */
  cut(): void
}

const handshakeMs = 10_000

export function createNodeServer(options: ServerOptions, certificate: CertificateSource | null): NodeServer {
  /** Below TLS, where there is TLS. */
  const sockets = new Set<Socket>()
  const server = certificate ? secured(options, certificate) : createPlainServer(options)
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  return {
    server,
    onConnection: (listener) => void server.on(certificate ? 'secureConnection' : 'connection', listener),
    cut() {
      for (const socket of sockets) socket.destroy()
    },
  }
}

function secured(options: ServerOptions, certificate: CertificateSource): Server {
  const { cert, key } = certificate.now
  const server = createTlsServer({ ...options, cert, key, minVersion: 'TLSv1.2', handshakeTimeout: handshakeMs })
  certificate.onChange((next) => {
    server.setSecureContext({ cert: next.cert, key: next.key, minVersion: 'TLSv1.2' })
  })
  return server
}

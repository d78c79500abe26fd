/** Who is believed over TLS: those whom Node believes anyway, and those in a file of the operator. */
import { readFileSync } from 'node:fs'
import { createSecureContext, getCACertificates, type SecureContext } from 'node:tls'

/** Made once for all connections: there are many certificates to be read. */
export function believing(caPath: string): SecureContext {
  return createSecureContext({ ca: [...getCACertificates('default'), readFileSync(caPath, 'utf8')] })
}

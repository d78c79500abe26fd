/** Who is trusted over TLS: the authorities that Node trusts anyway, and those in a file of the operator. */
import { createSecureContext, getCACertificates, type SecureContext } from 'node:tls'

/** Made once for many connections: there are many certificates to be read. `pem` null = none of the operator's. */
export function trusting(pem: string | null): SecureContext {
  return createSecureContext(pem === null ? {} : { ca: [...getCACertificates('default'), pem] })
}

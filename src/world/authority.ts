/** Who is trusted over TLS: the authorities that Node trusts anyway, and those in a file of the operator. */
import { readFileSync } from 'node:fs'
import { createSecureContext, getCACertificates, type SecureContext } from 'node:tls'

/** Made once for many connections: there are many certificates to be read. `pem` null = none of the operator's. */
export function trusting(pem: string | null): SecureContext {
  return createSecureContext(pem === null ? {} : { ca: [...getCACertificates('default'), pem] })
}

export function believing(caPath: string): SecureContext {
  return trusting(readFileSync(caPath, 'utf8'))
}

/**
 * Identify: the presented token → the client it belongs to. Only digests are kept and compared; a token is looked up by
 * its digest, so neither a prefix nor the length of a right one shows in the time it takes.
 */
import { hash, timingSafeEqual } from 'node:crypto'
import { ProxyError } from '../errors.ts'
import type { Client } from '../model.ts'
import type { Clients } from '../parts.ts'

export interface ClientsOptions {
  /** `tokenHashes` are SHA-256 in hexadecimal. */
  readonly clients: readonly { readonly client: Client; readonly tokenHashes: readonly string[] }[]
  /** Who a caller without a known token is; null = nobody. */
  readonly anonymous: Client | null
}

export function createClients({ clients, anonymous }: ClientsOptions): Clients {
  const byDigest = new Map<string, { readonly digest: Buffer; readonly client: Client }>()
  for (const { client, tokenHashes } of clients) {
    for (const tokenHash of tokenHashes) {
      const digest = Buffer.from(tokenHash, 'hex')
      byDigest.set(digest.toString('latin1'), { digest, client })
    }
  }

  return {
    identify({ token }) {
      const client = (token === null ? null : find(token)) ?? anonymous
      if (client) return client
      throw new ProxyError(
        'CLIENT_UNKNOWN',
        token === null ? 'A client token is needed.' : 'This client token is not known.',
      )
    },
  }

  function find(token: string): Client | null {
    const digest = hash('sha256', token, 'buffer')
    const found = byDigest.get(digest.toString('latin1'))
    return found && timingSafeEqual(found.digest, digest) ? found.client : null
  }
}

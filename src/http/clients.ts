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
  // Digests stay in hexadecimal: Node makes that one four times as fast as a buffer.
  const byDigest = new Map<string, { readonly digest: Buffer; readonly client: Client }>()
  for (const { client, tokenHashes } of clients) {
    for (const tokenHash of tokenHashes) {
      const digest = tokenHash.toLowerCase()
      byDigest.set(digest, { digest: Buffer.from(digest, 'latin1'), client })
    }
  }
  const presented = Buffer.alloc(64)

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
    const digest = hash('sha256', token, 'hex')
    const found = byDigest.get(digest)
    presented.write(digest, 'latin1')
    return found && timingSafeEqual(found.digest, presented) ? found.client : null
  }
}

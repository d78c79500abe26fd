/**
 * Identify: the presented token → the client it belongs to. Only digests are kept and compared; a token is looked up by
 * its digest, so neither a prefix nor the length of a right one shows in the time it takes. A caller without a known token is
 * `anonymous`, unless it is a web page: any page that a user opens could spend credits otherwise.
 */
import { hash, timingSafeEqual } from 'node:crypto'
import { hostOf, isLoopback } from '../addresses.ts'
import { ProxyError } from '../errors.ts'
import type { Client, KnownToken, RequestSource } from '../model.ts'
import type { Clients } from '../parts.ts'
import type { TokenUses } from './token-uses.ts'

export interface ClientsOptions {
  readonly clients: readonly { readonly client: Client; readonly tokens: readonly KnownToken[] }[]
  readonly uses: TokenUses
  readonly wall: () => number
  /** What upstream is called: callers take its keys for tokens of ours. */
  readonly vendor: string
  /** What a caller without a known token counts as; null = such callers are refused. */
  readonly anonymous: Client | null
  /**
   * The host names, in lower case, that callers without a token may use beside loopback names; null = any. A page can make its
   * own name lead to loopback (DNS rebinding), and reads the answers then.
   */
  readonly hosts: ReadonlySet<string> | null
}

export function createClients({ vendor, clients, uses, wall, anonymous, hosts }: ClientsOptions): Clients {
  // Digests stay in hexadecimal: Node makes that one four times as fast as a buffer.
  const byDigest = new Map<string, { readonly digest: Buffer; readonly client: Client; readonly token: KnownToken }>()
  for (const { client, tokens } of clients) {
    for (const token of tokens) byDigest.set(token.hash, { digest: Buffer.from(token.hash, 'latin1'), client, token })
  }
  const presented = Buffer.alloc(64)

  return {
    identify({ token, source }) {
      const client = token === null ? null : find(token)
      if (client) return client
      if (!anonymous)
        throw new ProxyError('CLIENT_UNKNOWN', `${token === null ? missing : unknownOr(token)} ${tokenAdvice(vendor)}`)
      mustBeNoPage(source, hosts)
      return anonymous
    },
  }

  function find(token: string): Client | null {
    const digest = hash('sha256', token, 'hex')
    const found = byDigest.get(digest)
    presented.write(digest, 'latin1')
    if (!found || !timingSafeEqual(found.digest, presented)) return null
    const { expiresAt } = found.token
    if (expiresAt !== null && wall() >= expiresAt) return null
    uses.used(found.token)
    return found.client
  }

  function unknownOr(token: string): string {
    const expiresAt = byDigest.get(hash('sha256', token, 'hex'))?.token.expiresAt ?? null
    return expiresAt === null ? unknown : `The client token expired at ${new Date(expiresAt).toISOString()}.`
  }
}

const missing = 'The request has no client token.'
const unknown = 'The client token is not valid.'

function tokenAdvice(vendor: string): string {
  return (
    `Send a token of this proxy, not a key of ${vendor}, as "Authorization: Bearer TOKEN", "X-API-Key: TOKEN" or "?api_key=TOKEN". ` +
    'The operator of the proxy creates tokens with "scrapellm-proxy token NAME".'
  )
}

/** Browsers send these headers and no page can change them (Fetch, "forbidden request-header"). */
function mustBeNoPage({ host, origin, fetchSite }: RequestSource, hosts: ReadonlySet<string> | null): void {
  if (fetchSite === 'cross-site' || fetchSite === 'same-site' || (origin !== null && !isOwn(origin, host)))
    throw new ProxyError(
      'ORIGIN_REFUSED',
      'Requests from web pages of other origins need a client token, because they spend credits. Send the request from a server: pages cannot read the answers (no CORS).',
    )
  if (hosts === null || host === null || isLoopback(hostOf(host)) || hosts.has(hostOf(host))) return
  throw new ProxyError(
    'ORIGIN_REFUSED',
    'Without a client token, the Host header must be a loopback name such as 127.0.0.1 or localhost. ' +
      'Use a loopback name, send a token, or have the operator add the name to listen.hosts.',
  )
}

/** Ports that go without saying are the same whether they are written or not. */
function isOwn(origin: string, host: string | null): boolean {
  const page = URL.parse(origin)
  return page !== null && host !== null && page.host === URL.parse(`${page.protocol}//${host}`)?.host
}

/**
 * The admin port: for operators, probes and Prometheus, never for callers of the proxy. A table of routes; whoever starts
 * it adds more rows. Promises that no answer is cached, and that a web page opened on the operator's machine gets none.
 */
import { hash, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { hostOf, isLoopback } from '../addresses.ts'
import { ProxyError } from '../errors.ts'
import type { Emit, Random } from '../ports.ts'
import type { OperatorAct, OperatorAction } from '../telemetry/events.ts'
import { type CertificateSource, createNodeServer } from './node-server.ts'
import { credentialsIn, placesOnPage } from './operator.ts'
import { problemOf } from './respond.ts'

export interface AdminOptions {
  readonly host: string
  /** 0 = any free port. */
  readonly port: number
  /** Required as a bearer token, or as a password, of everything but the probes; null = not. */
  readonly token: string | null
}

export interface AdminParts {
  readonly random: Random
  readonly emit: Emit
  /** Null = without TLS. */
  readonly certificate?: CertificateSource | null
  readonly ready: () => boolean
  /** In the format that the header Accept prefers. */
  readonly metrics: (accept: string | undefined) => Promise<{ readonly contentType: string; readonly body: string }>
  /** Goes out as JSON: no secret in it. */
  readonly status: () => object
  /** Why nothing came of a form, for people; without it they get a problem document, too. */
  readonly problemPage?: (status: number, detail: string, headers: readonly string[]) => AdminAnswer
  readonly routes?: readonly AdminRoute[]
}

export interface AdminRoute {
  readonly method: 'GET' | 'POST'
  /** A segment `{…}` takes any one segment, which is handed to `run`. */
  readonly path: string
  /** Needs no token. */
  readonly open?: boolean
  /** May throw a ProxyError. */
  run(asked: AdminRequest): AdminAnswer | Promise<AdminAnswer>
}

export interface AdminRequest {
  /** What stood in the place of `{…}`, decoded. */
  readonly segment: string
  readonly params: URLSearchParams
  /** Whoever asks is a person with a browser. */
  readonly wantsPage?: boolean
  /** The header. */
  readonly accept?: string | undefined
  /** Of a POST; empty when none came. */
  readonly body: string
}

/** What an operator has done: who did it is known here. */
type Acted = Pick<OperatorAct, 'action' | 'what'>

export interface AdminAnswer {
  readonly status: number
  readonly contentType: string
  readonly body: string | Buffer
  /** More headers: name, value, name, value … */
  readonly headers?: readonly string[]
  /** Of a POST that has changed something. */
  readonly acted?: Acted
}

export interface Admin {
  /** Rejects when the port cannot be had. */
  listen(): Promise<void>
  readonly port: number
  /** Required from now on; null = none is. */
  setToken(token: string | null): void
  /** Cuts what is open: nothing here is worth waiting for. */
  close(): Promise<void>
}

const maxBodyBytes = 64 * 1024
const maxConnections = 1_000

export function createAdmin(options: AdminOptions, parts: AdminParts): Admin {
  const routes = [...builtIn(parts), ...(parts.routes ?? [])]
  let tokenDigest = digestOf(options.token)
  let chosenPort = options.port
  const onlyLoopback = isLoopback(options.host)

  const timeouts = { headersTimeout: 10_000, requestTimeout: 30_000 }
  const { server, cut } = createNodeServer(timeouts, parts.certificate ?? null, (socket) => {
    parts.emit({ kind: 'plain-http', port: 'admin' })
    tellHttps(socket)
  })
  server.maxConnections = maxConnections
  server.on('request', (incoming, outgoing) => {
    void answer(incoming)
      .catch((error: unknown) => {
        if (!(error instanceof ProxyError)) parts.emit({ kind: 'broke', where: 'admin', error })
        return refusal(ProxyError.from(error), incoming)
      })
      .then((answer) => write(incoming, outgoing, answer))
  })

  async function answer(incoming: IncomingMessage): Promise<AdminAnswer> {
    mustBeMeant(incoming)
    const { pathname, searchParams } = readUrl(incoming.url ?? '')
    const found = routes.filter((route) => segmentOf(route.path, pathname) !== null)
    const route = found.find(({ method }) => method === (incoming.method === 'HEAD' ? 'GET' : incoming.method))
    if (!route?.open) mustKnowToken(incoming)
    if (found.length === 0) throw new ProxyError('ENDPOINT_UNKNOWN', 'No such page on the admin port.')
    if (!route) throw notAllowed(found)
    const body = route.method === 'POST' ? await readBody(incoming) : ''
    const segment = segmentOf(route.path, pathname) ?? ''
    const { accept } = incoming.headers
    const from = incoming.socket.remoteAddress ?? 'unknown'
    const isPage = wantsPage(incoming)
    const answer = await route.run({ segment, params: searchParams, wantsPage: isPage, accept, body })
    if (!answer.acted) return answer
    const { user: by } = credentialsIn(incoming.headers.authorization)
    parts.emit({ kind: 'operator-acted', ...answer.acted, from, by })
    return isPage ? backToPage(answer.acted.action) : answer
  }

  /**
   * A page in the operator's browser can reach loopback: under a name of its own (DNS rebinding) or with a form (CSRF). No browser
   * leaves Host out; probes in HTTP/1.0 do. A link from elsewhere may lead to a page, but may do nothing.
   */
  function mustBeMeant({ method, headers, rawHeaders }: IncomingMessage): void {
    const { host, origin } = headers
    const site = headers['sec-fetch-site']
    if (rawHeaders.filter((name, index) => index % 2 === 0 && name.toLowerCase() === 'host').length > 1)
      throw new ProxyError('REQUEST_INVALID', 'The Host header is repeated.', { close: true })
    if (onlyLoopback && host !== undefined && !isLoopback(hostOf(host))) {
      const detail = 'The admin port accepts loopback names only, such as 127.0.0.1 and localhost.'
      throw new ProxyError('REQUEST_INVALID', detail, { status: 421 })
    }
    const isOfOthers = method === 'POST' && (site === 'cross-site' || site === 'same-site')
    if (isOfOthers || (origin !== undefined && origin !== `http://${host}` && origin !== `https://${host}`))
      throw new ProxyError('REQUEST_INVALID', 'The admin port does not accept requests from pages of other origins.', {
        status: 403,
      })
  }

  function mustKnowToken({ headers }: IncomingMessage): void {
    if (!tokenDigest) return
    const { token } = credentialsIn(headers.authorization)
    if (token === null || !timingSafeEqual(hash('sha256', token, 'buffer'), tokenDigest))
      throw new ProxyError('CLIENT_UNKNOWN', 'The admin token is missing or wrong.')
  }

  function refusal(error: ProxyError, incoming: IncomingMessage): AdminAnswer {
    const isPage = wantsPage(incoming)
    const headers = error.allow === null ? [] : ['Allow', error.allow]
    // A browser cannot be told to send a bearer token, but asks its user for a password.
    if (error.status === 401) headers.push('WWW-Authenticate', isPage ? basicChallenge : 'Bearer')
    if (error.close) headers.push('Connection', 'close')
    // Whoever has pressed a button must be able to read why nothing came of it, and go back.
    if (isPage && incoming.method === 'POST' && parts.problemPage)
      return parts.problemPage(error.status, error.message, headers)
    const body = problemOf(parts.random.id(), error)
    return { status: error.status, contentType: 'application/problem+json', headers, body }
  }

  return {
    listen: () =>
      new Promise((resolve, reject) => {
        server.once('error', reject)
        server.listen({ host: options.host, port: options.port }, () => {
          server.off('error', reject)
          chosenPort = (server.address() as AddressInfo).port
          resolve()
        })
      }),
    get port() {
      return chosenPort
    },
    setToken: (token) => void (tokenDigest = digestOf(token)),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        cut()
      }),
  }
}

/** A client that speaks HTTP to a port of TLS would otherwise see a reset. */
function tellHttps(socket: Socket): void {
  const body = 'This port requires HTTPS. Use https:// in the URL.\n'
  const head = `HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: ${body.length}\r\nConnection: close`
  socket.on('error', () => socket.destroy())
  socket.resume()
  socket.end(`${head}\r\n\r\n${body}`)
}

function digestOf(token: string | null): Buffer | null {
  return token === null ? null : hash('sha256', token, 'buffer')
}

export function json(value: object, status = 200): AdminAnswer {
  return { status, contentType: 'application/json', body: JSON.stringify(value) }
}

function builtIn({ ready, metrics, status }: AdminParts): AdminRoute[] {
  return [
    { method: 'GET', path: '/healthz', open: true, run: () => json({ status: 'ok' }) },
    {
      method: 'GET',
      path: '/readyz',
      open: true,
      run: () => (ready() ? json({ status: 'ready' }) : json({ status: 'not ready' }, 503)),
    },
    { method: 'GET', path: '/metrics', run: async ({ accept }) => ({ status: 200, ...(await metrics(accept)) }) },
    { method: 'GET', path: '/status', run: () => json(status()) },
  ]
}

const basicChallenge = 'Basic realm="scrapellm-proxy admin port: the token is the password", charset="UTF-8"'

/** After a form, so that a page that is loaded again does nothing again. */
function backToPage(action: OperatorAction): AdminAnswer {
  return { status: 303, contentType: 'text/plain', headers: ['Location', `/#${placesOnPage[action]}`], body: '' }
}

function wantsPage({ headers }: IncomingMessage): boolean {
  return /\btext\/html\b/i.test(headers.accept ?? '')
}

/** Null = another path. */
function segmentOf(pattern: string, path: string): string | null {
  const [wanted, given] = [pattern.split('/'), path.split('/')]
  if (wanted.length !== given.length) return null
  let segment = ''
  for (const [at, part] of wanted.entries()) {
    const found = given[at] ?? ''
    if (part.startsWith('{')) segment = found
    else if (part !== found) return null
  }
  if (segment === '' && pattern.includes('{')) return null
  try {
    return decodeURIComponent(segment)
  } catch {
    return null
  }
}

function readUrl(url: string): URL {
  const read = url.startsWith('/') && !url.startsWith('//') ? URL.parse(url, 'http://admin') : null
  if (!read) throw new ProxyError('REQUEST_INVALID', 'The request target must be a path.')
  return read
}

async function readBody(incoming: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  let size = 0
  // The default would destroy the socket together with the answer.
  for await (const chunk of incoming.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size > maxBodyBytes)
      throw new ProxyError('REQUEST_INVALID', 'The body is larger than 64 KiB.', { status: 413, close: true })
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString()
}

function notAllowed(routes: readonly AdminRoute[]): ProxyError {
  const allow = routes.map(({ method }) => (method === 'GET' ? 'GET, HEAD' : method)).join(', ')
  return new ProxyError('METHOD_NOT_ALLOWED', `This page takes ${allow}.`, { allow })
}

function write(
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  { status, contentType, body, headers = [] }: AdminAnswer,
): void {
  const bytes = typeof body === 'string' ? Buffer.from(body) : body
  outgoing.writeHead(status, [
    'Content-Type',
    contentType,
    'Content-Length',
    String(bytes.length),
    'Cache-Control',
    'no-store',
    'X-Content-Type-Options',
    'nosniff',
    ...headers,
  ])
  outgoing.end(incoming.method === 'HEAD' ? null : bytes)
}

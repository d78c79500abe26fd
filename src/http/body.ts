/**
 * The body of a POST: parameters go into the query string, so an empty body is let through (some libraries send `{}` or an empty
 * chunked body by themselves) and any other is refused with the call to make instead. Nothing of a body gets any further.
 */
import type { IncomingMessage } from 'node:http'
import { ProxyError } from '../errors.ts'
import type { Clock } from '../ports.ts'

const MAX_BODY_BYTES = 65_536
const LONGEST_MS = 10_000
/** Of the names that a body carries, so many are repeated in the refusal; longer or odd ones are nobody's parameters. */
const MAX_NAMES = 8
const parameterName = /^[a-z_]{1,32}$/

export interface Body {
  /** Resolves when the body has ended and was empty; rejects with REQUEST_INVALID, after which the connection must close. */
  readonly isEmpty: Promise<void>
  /** What the connection brings is not HTTP. It matters while the body is not complete. */
  readonly fail: (refusal: ProxyError) => void
}

export function readBody(incoming: IncomingMessage, path: string, clock: Clock): Body {
  const { promise, resolve, reject } = Promise.withResolvers<string | null>()
  const late = clock.after(LONGEST_MS, () => reject(broken('The request body did not arrive in time.', 408)))
  const chunks: Buffer[] = []
  let bytes = 0
  incoming.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    if (bytes > MAX_BODY_BYTES) resolve(null)
    else chunks.push(chunk)
  })
  incoming.once('end', () => {
    if (incoming.rawTrailers.length > 0) reject(broken('Trailers are not supported.', 400))
    else resolve(Buffer.concat(chunks).toString())
  })
  incoming.once('close', () => reject(broken('The request body is incomplete.', 400)))
  const isEmpty = promise
    .then((text) => {
      if (text === null || !isNothing(text)) throw misplaced('POST', path, text === null ? [] : namesIn(text))
    })
    .finally(() => late.cancel())
  return { isEmpty, fail: (refusal) => void (incoming.complete || reject(refusal)) }
}

/** For a body that is not even looked at. */
export function bodyOnGet(): ProxyError {
  return misplaced('GET', '/scrapers/chatgpt', [])
}

function isNothing(text: string): boolean {
  return /^\s*(?:\{\s*\}|null)?\s*$/.test(text)
}

function namesIn(text: string): string[] {
  return [...jsonNames(text), ...new URLSearchParams(text).keys()]
    .filter((name) => parameterName.test(name))
    .slice(0, MAX_NAMES)
}

function jsonNames(text: string): string[] {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? Object.keys(value) : []
  } catch {
    return []
  }
}

/** Names only: what the values say is nobody else's business. */
function misplaced(method: 'GET' | 'POST', path: string, names: readonly string[]): ProxyError {
  const known = /^\/[\w/-]{1,100}$/.test(path) ? path : '/scrapers/chatgpt/jobs'
  const isSubmission = known.endsWith('/jobs')
  const data = (names.length > 0 ? names : ['prompt']).map((name) => ` --data-urlencode '${name}=...'`).join('')
  const call = `curl -G${isSubmission ? ' -X POST' : ''} 'http://PROXY${known}'${data}`
  const detail = `Parameters go into the query string, and a ${method} takes no body here: ${call} (Python requests: params=..., not json=... or data=...).`
  return new ProxyError('REQUEST_INVALID', detail, { close: true })
}

function broken(detail: string, status: number): ProxyError {
  return new ProxyError('REQUEST_INVALID', detail, { status, close: true })
}

/**
 * Raw request → ProxyRequest (pure). Refuses every request whose framing, host or identity could be read in two ways,
 * and takes from the headers only what this closed list names: nothing else of a caller's headers gets any further.
 */
import { ProxyError } from '../errors.ts'
import type { ProxyRequest, Target } from '../model.ts'
import type { Random } from '../ports.ts'
import { bodyOnGet } from './body.ts'
import { readOwnTarget } from './target.ts'
import { readRespondAsync, readDirectives } from './cache-directives.ts'

const maxHeaders = 100

type Field =
  | 'host'
  | 'authorization'
  | 'apiKey'
  | 'contentLength'
  | 'transferEncoding'
  | 'disguisedFraming'
  | 'cacheControl'
  | 'pragma'
  | 'ifNoneMatch'
  | 'prefer'
  | 'requestId'
  | 'requestTimeout'
  | 'sample'
  | 'idempotencyKey'
  | 'traceparent'
  | 'expect'
  | 'upgrade'
  | 'origin'
  | 'fetchSite'

/** Header names we look at. `headersDistinct` of Node is never touched: `__proto__` crashes it (CVE-2026-21710). */
const names: ReadonlyMap<string, Field> = new Map([
  ['host', 'host'],
  ['authorization', 'authorization'],
  ['x-api-key', 'apiKey'],
  ['content-length', 'contentLength'],
  ['transfer-encoding', 'transferEncoding'],
  // Some servers read an underscore as a hyphen: framing that one hop sees and the next does not.
  ['transfer_encoding', 'disguisedFraming'],
  ['content_length', 'disguisedFraming'],
  ['cache-control', 'cacheControl'],
  ['pragma', 'pragma'],
  ['if-none-match', 'ifNoneMatch'],
  ['prefer', 'prefer'],
  ['x-request-id', 'requestId'],
  ['x-request-timeout', 'requestTimeout'],
  ['x-sample', 'sample'],
  ['idempotency-key', 'idempotencyKey'],
  ['traceparent', 'traceparent'],
  ['expect', 'expect'],
  ['upgrade', 'upgrade'],
  ['origin', 'origin'],
  ['sec-fetch-site', 'fetchSite'],
])

/** The headers of interest; those that came several times are joined with `, `. */
export interface Fields extends Record<Field, string | null> {
  count: number
  repeated: Set<Field> | null
}

/** What of `IncomingMessage` is read. */
export interface RawRequest {
  readonly method?: string | undefined
  readonly url?: string | undefined
  readonly httpVersion: string
}

interface RawHead extends RawRequest {
  readonly rawHeaders: readonly string[]
}

export interface Arrival {
  readonly id: string
  readonly arrivedAt: number
  readonly onGone: ProxyRequest['onGone']
  readonly target: (raw: string) => Target
}

/** Throws REQUEST_INVALID. */
export function readRequest(raw: RawRequest, fields: Fields, arrival: Arrival): ProxyRequest {
  mustBeFramed(raw, fields)
  const { origin, target: written } = readOwnTarget(raw.url ?? '')
  const host = oneHost(raw.httpVersion, fields.host, origin)
  const target = arrival.target(written)
  const { requestTimeout, sample, idempotencyKey, prefer, traceparent } = fields
  return {
    id: arrival.id,
    method: raw.method ?? '',
    target,
    token: readToken(fields, target.token),
    cacheDirectives: readDirectives(fields.cacheControl, fields.pragma),
    ifNoneMatch: fields.ifNoneMatch,
    patienceMs: requestTimeout === null ? null : readPatience(requestTimeout),
    sample: sample === null ? null : readSample(sample),
    idempotencyKey: idempotencyKey === null ? null : readIdempotencyKey(idempotencyKey, fields),
    respondAsyncAfterMs: prefer === null ? null : readRespondAsync(prefer),
    traceparent: traceparent !== null && w3cTraceparent.test(traceparent) ? traceparent : null,
    arrivedAt: arrival.arrivedAt,
    source: { host, origin: fields.origin, fetchSite: fields.fetchSite },
    onGone: arrival.onGone,
  }
}

/** Never throws. `rawHeaders` is Node's flat list of names and values. */
export function readFields(rawHeaders: readonly string[]): Fields {
  const fields: Fields = {
    count: rawHeaders.length / 2,
    repeated: null,
    host: null,
    authorization: null,
    apiKey: null,
    contentLength: null,
    transferEncoding: null,
    disguisedFraming: null,
    cacheControl: null,
    pragma: null,
    ifNoneMatch: null,
    prefer: null,
    requestId: null,
    requestTimeout: null,
    sample: null,
    idempotencyKey: null,
    traceparent: null,
    expect: null,
    upgrade: null,
    origin: null,
    fetchSite: null,
  }
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const field = fieldOf(rawHeaders[i] ?? '')
    if (field === null) continue
    const value = rawHeaders[i + 1] ?? ''
    const before = fields[field]
    if (before !== null) (fields.repeated ??= new Set()).add(field)
    fields[field] = before === null ? value : `${before}, ${value}`
  }
  return fields
}

/** Spellings that came lately, so that the usual ones are not folded each time. */
const spellings = new Map<string, Field | null>()
const maxSpellings = 512

function fieldOf(name: string): Field | null {
  const known = spellings.get(name)
  if (known !== undefined) return known
  const field = names.get(name.toLowerCase()) ?? null
  if (spellings.size < maxSpellings && name.length < 32) spellings.set(name, field)
  return field
}

const saneId = /^[\x21-\x7e]{1,128}$/

/** The caller's own id if it is one, else a new one. */
export function readId(fields: Fields, random: Random): string {
  return fields.requestId !== null && saneId.test(fields.requestId) ? fields.requestId : random.id()
}

function mustBeFramed({ method, httpVersion }: RawRequest, fields: Fields): void {
  if (fields.count > maxHeaders) throw untrusted(`More than ${maxHeaders} headers.`, 431)
  // llhttp lets `GET /x` without a version through as HTTP/0.9: https://github.com/nodejs/llhttp/issues/877
  if (httpVersion !== '1.1' && httpVersion !== '1.0') throw untrusted('Only HTTP/1.0 and HTTP/1.1 are supported.')
  if (fields.disguisedFraming !== null) throw untrusted('Framing headers must be spelled with a hyphen.')
  if (!hasBody(fields)) return
  if (method !== 'POST') throw bodyOnGet()
  if (!isPlainlyFramed(httpVersion, fields))
    throw untrusted('A body needs either one Content-Length header or the transfer coding "chunked" alone.')
  if (fields.expect !== null)
    throw untrusted('Bodies with Expect: 100-continue are not accepted. Put the parameters into the query string.')
}

/** A body follows, though it may be empty. */
export function hasBody({ transferEncoding, contentLength }: Fields): boolean {
  return transferEncoding !== null || (contentLength !== null && contentLength !== '0')
}

function isPlainlyFramed(httpVersion: string, { transferEncoding, contentLength, repeated }: Fields): boolean {
  if (repeated?.has('transferEncoding') || repeated?.has('contentLength')) return false
  if (transferEncoding === null) return /^[1-9]\d{0,14}$/.test(contentLength ?? '')
  return contentLength === null && httpVersion === '1.1' && /^chunked$/i.test(transferEncoding)
}

/**
 * An offer to change the protocol is ignored (RFC 9110 section 7.8), as Java's client makes one with every request. But Node drops
 * what follows it in the same packet; so the connection can only go on where the packet was this request alone, as its length tells.
 */
export function losesBytes({ method, url, rawHeaders }: RawHead, newBytes: number): boolean {
  const lines = rawHeaders.reduce((sum, text) => sum + text.length + ': '.length, 0)
  return newBytes !== `${method} ${url} HTTP/1.1\r\n`.length + lines + '\r\n'.length
}

const hostForm = /^(?:[\w.~-]+|\[[\da-f:.]+\])(?::\d{1,5})?$/i

/**
 * RFC 9112 section 3.2: HTTP/1.1 needs exactly one. A target in absolute form names the host once more, and a client sends the
 * same in both places (3.2.2); which of two would count is nothing to guess at.
 */
function oneHost(httpVersion: string, given: string | null, origin: string | null): string | null {
  const host = given ?? (httpVersion === '1.0' ? origin : null)
  if (host === null && httpVersion === '1.0') return null
  if (host === null || !hostForm.test(host)) throw untrusted('Exactly one Host header with one host name is required.')
  if (origin !== null && origin.toLowerCase() !== host.toLowerCase())
    throw untrusted('The host in the target differs from the Host header.')
  return host
}

/** Visible ASCII without commas: `Bearer a, Bearer b` is not one token. */
const bearerForm = /^bearer +([\x21-\x2b\x2d-\x7e]+)$/i

function readToken(fields: Fields, fromQuery: string | null): string | null {
  if (fields.repeated?.has('authorization')) throw untrusted('The header Authorization is given twice: send it once.')
  if (fields.repeated?.has('apiKey')) throw untrusted('The header X-API-Key is given twice: send it once.')
  let token = fromQuery
  const bearer = fields.authorization === null ? null : readBearer(fields.authorization)
  for (const other of [fields.apiKey, bearer]) {
    if (other === null || other === '') continue
    if (token !== null && token !== other) throw untrusted('Two different tokens are given: send one, in one place.')
    token = other
  }
  return token
}

/** Other schemes are not ours to judge: they carry no token. */
function readBearer(authorization: string): string | null {
  if (!/^bearer\b/i.test(authorization)) return null
  const token = bearerForm.exec(authorization)?.[1]
  if (token === undefined) throw untrusted('The Authorization header must have exactly one token after "Bearer".')
  return token
}

function readPatience(seconds: string): number {
  const patience = /^\d{1,9}(?:\.\d{1,9})?$/.test(seconds) ? Number(seconds) * 1000 : 0
  if (patience <= 0)
    throw invalid(
      'The X-Request-Timeout header must be seconds above 0 in decimal digits, at most 9 before the point and 9 after it, such as 30 or 2.5.',
    )
  return patience
}

function readSample(text: string): number {
  const sample = /^[1-9]\d{0,2}$/.test(text) ? Number(text) : 0
  if (sample < 1 || sample > 100) throw invalid('The X-Sample header must be an integer from 1 to 100.')
  return sample
}

const quoted = /^"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"$/
const unquoted = /^[\x21\x23-\x7e][\x20-\x7e]*$/

/** The draft's quoted string, or the bare text that most clients send. */
function readIdempotencyKey(text: string, fields: Fields): string {
  const inside = quoted.exec(text)?.[1]?.replaceAll(/\\(["\\])/g, '$1')
  const key = inside ?? (unquoted.test(text) ? text : '')
  if (key === '' || key.length > 255 || fields.repeated?.has('idempotencyKey'))
    throw invalid('The Idempotency-Key header must be 1 to 255 visible ASCII characters.')
  return key
}

const w3cTraceparent = /^(?!ff)[\da-f]{2}-(?!0{32})[\da-f]{32}-(?!0{16})[\da-f]{16}-[\da-f]{2}$/

function invalid(detail: string): ProxyError {
  return new ProxyError('REQUEST_INVALID', detail)
}

/** Nothing that follows on this connection can be trusted to be a request. */
function untrusted(detail: string, status = 400): ProxyError {
  return new ProxyError('REQUEST_INVALID', detail, { status, close: true })
}

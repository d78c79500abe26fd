/**
 * The request as upstream sees it, with the leased key in it, and the reply without any trace of that key. Built from an
 * allow-list: nothing of the caller gets in but the route, the parameters and the two ids that are named here.
 */
import { LONGEST_TIMEOUT_MS } from './params.ts'
import type { Call, Param, Reply, RequestIdentity, UpstreamRequest } from '../model.ts'
import type { KeyLease, Turn } from '../fetch-parts.ts'

/** How long upstream tries when no `timeout` is given: docs/vendor-api.md, "Parameters". */
const DEFAULT_TIMEOUT_MS = 300_000
/** Upstream answers when its timeout is up; only then is its silence a broken wire (docs/vendor-api.md, "Timing and limits"). */
const GRACE_MS = 15_000
const SUBMIT_LIMIT_MS = 60_000
const STATUS_LIMIT_MS = 30_000

export function sign(
  call: Call,
  turn: Turn,
  key: KeyLease,
  identity: RequestIdentity,
  userAgent: string,
): UpstreamRequest {
  return {
    method: call.method,
    target: targetOf(call.path, paramsOf(call, turn)),
    headers: headersOf(call, key, identity, userAgent),
    limitMs: limitOf(call, turn),
  }
}

function targetOf(path: string, params: readonly Param[]): string {
  const query = params.map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`).join('&')
  return query === '' ? path : `${path}?${query}`
}

function paramsOf(call: Call, turn: Turn): readonly Param[] {
  if (call.endpoint === 'status') return call.params
  // The vendor's own cache would give the first sample again.
  const isFurtherSample = (call.sample ?? 1) > 1
  const params = turn.bypassCache || isFurtherSample ? withParam(call.params, 'bypass_cache', 'true') : call.params
  // A job's timeout is the job's: it runs on when the request that submitted it is over. One that is too long is not ours to correct.
  if (call.endpoint === 'submit' || timeoutOf(call) > LONGEST_TIMEOUT_MS || turn.leftMs() >= timeoutOf(call))
    return params
  return withParam(params, 'timeout', secondsOf(turn.leftMs()))
}

function withParam(params: readonly Param[], name: string, value: string): readonly Param[] {
  const param: Param = [name, value]
  const isGiven = params.some(([given]) => given === name)
  return isGiven ? params.map((given) => (given[0] === name ? param : given)) : [...params, param]
}

function secondsOf(ms: number): string {
  return String(Math.floor(ms) / 1000)
}

function timeoutOf(call: Call): number {
  return call.timeoutMs ?? DEFAULT_TIMEOUT_MS
}

function limitOf(call: Call, turn: Turn): number {
  if (call.endpoint === 'status') return STATUS_LIMIT_MS
  if (call.endpoint === 'submit') return Math.min(SUBMIT_LIMIT_MS, turn.leftMs() + GRACE_MS)
  return Math.min(timeoutOf(call), turn.leftMs()) + GRACE_MS
}

function headersOf(
  call: Call,
  key: KeyLease,
  identity: RequestIdentity,
  userAgent: string,
): Readonly<Record<string, string>> {
  // Whoever knows a job's id may poll it; a key there would be exposed for nothing.
  const isKeyed = call.endpoint !== 'status' && key.secret !== null
  return {
    ...(isKeyed && { 'x-api-key': key.secret }),
    accept: 'application/json',
    // Bodies are read, bounded and kept as they are: nothing to unpack, no bomb to defuse.
    'accept-encoding': 'identity',
    'user-agent': userAgent,
    'x-request-id': identity.id,
    ...(identity.traceparent !== null && { traceparent: identity.traceparent }),
  }
}

const REDACTED = '[redacted]'

/** Upstream may echo the key it was given, in an error above all: whoever reads the reply must not learn it. */
export function redact(reply: Reply, secret: string | null): Reply {
  if (secret === null || secret === '') return reply
  const trace = traceOf(secret)
  return {
    status: reply.status,
    contentType: reply.contentType?.replaceAll(trace.pattern, REDACTED) ?? null,
    retryAfter: reply.retryAfter,
    location: reply.location?.replaceAll(trace.pattern, REDACTED) ?? null,
    body: bodyWithout(reply.body, trace),
  }
}

/** How a secret is found in text whose bytes are read as Latin-1. */
interface Trace {
  /** Its longest run of letters and digits, which no encoding changes: a body without it does not hold the secret. */
  readonly anchor: string
  /** The secret, each character in any spelling that JSON, URLs and HTML have for it. */
  readonly pattern: RegExp
}

/** One for each upstream key; those of keys that were replaced are few. */
const traces = new Map<string, Trace>()
const MOST_TRACES = 1_000

function traceOf(secret: string): Trace {
  const known = traces.get(secret)
  if (known) return known
  const runs = secret.match(/[a-z0-9]+/gi) ?? ['']
  const anchor = runs.reduce((longest, run) => (run.length > longest.length ? run : longest), '')
  const spellings = Array.from(secret, (character) => `(?:${spellingsOf(character).join('|')})`)
  const trace = { anchor, pattern: new RegExp(spellings.join(''), 'g') }
  if (traces.size < MOST_TRACES) traces.set(secret, trace)
  return trace
}

const named: Readonly<Record<string, string>> = { '"': 'quot', '&': 'amp', "'": 'apos', '<': 'lt', '>': 'gt' }

/** A pattern that matches just this text, with and without the flag `u`. `RegExp.escape` is not in Node 22. */
export function patternOf(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, String.raw`\$&`)
}

/** Once, or twice in JSON that was put into JSON as text. */
const escaped = String.raw`\\{1,3}`

function spellingsOf(character: string): readonly string[] {
  const bytes = Buffer.from(character.toWellFormed())
  const raw = patternOf(bytes.toString('latin1'))
  if (/[a-z0-9]/i.test(character)) return [raw]
  const hex = (value: number, digits: number): string => anyCase(value.toString(16).padStart(digits, '0'))
  const units = Array.from({ length: character.length }, (_, at) => character.charCodeAt(at))
  const point = character.codePointAt(0) ?? 0
  const spellings = [
    units.map((unit) => `${escaped}[uU]${hex(unit, 4)}`).join(''),
    Array.from(bytes, (byte) => `%${hex(byte, 2)}`).join(''),
    `&#0*${point};`,
    `&#[xX]0*${hex(point, 1)};`,
    `${escaped}${raw}`,
    raw,
  ]
  const name = named[character]
  return name === undefined ? spellings : [`&${name};`, ...spellings]
}

function anyCase(digits: string): string {
  return digits.replaceAll(/[a-f]/g, (digit) => `[${digit}${digit.toUpperCase()}]`)
}

function bodyWithout(body: Buffer, { anchor, pattern }: Trace): Buffer {
  if (anchor !== '' && !body.includes(anchor)) return body
  // Latin-1 gives every byte its own character and back, so bytes that are no text survive.
  const text = body.toString('latin1')
  const clean = text.replaceAll(pattern, REDACTED)
  return clean === text ? body : Buffer.from(clean, 'latin1')
}

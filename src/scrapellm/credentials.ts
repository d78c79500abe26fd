/**
 * The request as upstream sees it, with the leased key in it, and the reply without any trace of that key. Built from an
 * allow-list: nothing of the caller gets in but the route, the parameters and the two ids that are named here.
 */
import type { Call, Param, Reply, UpstreamRequest } from '../model.ts'
import type { KeyLease, RequestIdentity, Turn } from '../parts.ts'

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
  const params = turn.bypassCache ? withParam(call.params, 'bypass_cache', 'true') : call.params
  // A job's timeout is the job's: it runs on when the request that submitted it is over.
  if (call.endpoint === 'submit' || turn.leftMs() >= timeoutOf(call)) return params
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
  const traces = spellingsOf(secret)
  return {
    status: reply.status,
    contentType: withoutTraces(reply.contentType, traces),
    retryAfter: withoutTraces(reply.retryAfter, traces),
    location: withoutTraces(reply.location, traces),
    body: bodyWithoutTraces(reply.body, traces),
  }
}

/** As it is, inside a JSON string, and inside a URL. */
function spellingsOf(secret: string): ReadonlySet<string> {
  return new Set([secret, JSON.stringify(secret).slice(1, -1), encodeURIComponent(secret.toWellFormed())])
}

function withoutTraces(text: string | null, traces: ReadonlySet<string>): string | null {
  let clean = text
  for (const trace of traces) clean = clean?.replaceAll(trace, REDACTED) ?? null
  return clean
}

function bodyWithoutTraces(body: Buffer, traces: ReadonlySet<string>): Buffer {
  let clean = body
  for (const trace of traces) {
    if (!clean.includes(trace)) continue
    // Latin-1 gives every byte its own character and back, so bytes that are no text survive.
    const bytes = Buffer.from(trace).toString('latin1')
    clean = Buffer.from(clean.toString('latin1').replaceAll(bytes, REDACTED), 'latin1')
  }
  return clean
}

/**
 * Outcome → status, headers and body (pure): the one place that renders `Cache-Status`, `Age`, `ETag`, `Retry-After`, the
 * `RateLimit` headers and problem documents. Bodies are handed on as they are, never copied. Knows no socket.
 */
import { ageSeconds, lifetimeMs } from '../cache/entry.ts'
import { ProxyError, type Unanswered, unanswered } from '../errors.ts'
import type { Client, Entry, Exchange, Landing, LimitState, Made, Outcome, Reply, StaleUse } from '../model.ts'

export interface Response {
  readonly status: number
  /** Name, value, name, value … as `writeHead` takes them. */
  readonly headers: string[]
  readonly body: Buffer | null
  /** The connection ends with this answer. */
  readonly close: boolean
}

/** Null = nobody is there to be answered. `wallAt` is the time of the wall: entries are dated by it. */
export type Respond = (exchange: Exchange, outcome: Outcome, wallAt: number) => Response | null

export interface ResponderOptions {
  readonly markReplays: boolean
  /** The body as those get it who did not pay for it. */
  readonly replay: (body: Buffer) => Buffer
}

type Kind<K extends Outcome['kind']> = Extract<Outcome, { readonly kind: K }>

const cacheName = 'scrapellm-proxy'

export function createResponder({ markReplays, replay }: ResponderOptions): Respond {
  /** However many joined a flight, its answer is rewritten once. */
  const replays = new WeakMap<Buffer, Buffer>()

  return function respond(exchange, outcome, wallAt) {
    switch (outcome.kind) {
      case 'hit':
        return hit(exchange, outcome, wallAt)
      case 'stale':
        return stale(exchange, outcome, wallAt)
      case 'fetched':
        return fetched(exchange, outcome, wallAt)
      case 'refused':
        return refused(exchange, outcome.error, outcome.made)
      case 'job':
        return job(exchange, outcome)
      case 'gone':
        return null
      default:
        return outcome satisfies never
    }
  }

  function fetched(exchange: Exchange, outcome: Kind<'fetched'>, wallAt: number): Response {
    const { landing, role, forwardedBecause } = outcome
    const { verdict, entry } = landing
    const { attempts, credits } = madeOf(outcome)
    if (verdict.kind === 'failed' && verdict.reply === null)
      return withoutAnswer(exchange, outcome, verdict.refusal ?? 'UPSTREAM_UNREACHABLE')

    const reply = verdict.reply as Reply
    const cacheStatus =
      role === 'joined'
        ? `${cacheName}; fwd=${forwardedBecause}; collapsed`
        : `${cacheName}; fwd=${forwardedBecause}; fwd-status=${reply.status}${entry ? '; stored' : ''}${unknownValueIn(exchange)}`
    const headers = start(exchange, cacheStatus, attempts, credits)
    const body = role === 'joined' ? sharedBody(landing, reply) : reply.body
    if (reply.retryAfter !== null) headers.push('Retry-After', reply.retryAfter)
    if (entry) return known(exchange, entry, headers, timesOf(exchange, entry, wallAt), body, reply.contentType)
    headers.push('Cache-Control', 'no-store')
    return content(reply.status, headers, reply.contentType, body)
  }

  function sharedBody(landing: Landing, reply: Reply): Buffer {
    if (landing.entry) return landing.entry.body
    const { verdict } = landing
    // Nobody knows what a mark would mean in a shape that is not documented.
    const isUnknown = verdict.anomalies?.includes('unknownShape')
    if (!markReplays || verdict.kind === 'failed' || isUnknown) return reply.body
    let body = replays.get(reply.body)
    if (!body) replays.set(reply.body, (body = replay(reply.body)))
    return body
  }
}

/** A document of the proxy itself that anybody may read. It costs nothing, and counts against no limit. */
export function published(id: string, body: Buffer): Response {
  const headers = ['X-Request-Id', id, 'X-Content-Type-Options', 'nosniff', 'Cache-Control', 'max-age=300']
  return content(200, headers, 'application/json', body)
}

/** A refusal before there was a request that could be called one. */
export function refuse(id: string, error: ProxyError): Response {
  return problem(id, error, begin(id, `${cacheName}; detail=${error.code}`, 0, 0))
}

/** The refusal as a body alone; its `detail` member is what the vendor's clients read as well. */
export function problemOf(id: string, error: ProxyError): Buffer {
  const { code, title, status, message: detail } = error
  const type = `urn:scrapellm-proxy:error:${code}`
  const reason = error.reason ?? undefined
  return Buffer.from(JSON.stringify({ type, title, status, detail, code, reason, request_id: id }))
}

/** A member of the list, whole: what is written in another way (`w/"…"`) is no entity tag. */
const entityTag = /(?:^|,)[ \t]*((?:W\/)?"[\x21\x23-\x7e\x80-\xff]*")(?=[ \t]*(?:,|$))/g

/** RFC 9110 section 13.1.2: `*` or a list, compared weakly. */
export function matches(condition: string, etag: string): boolean {
  if (condition.trim() === '*') return true
  const opaque = opaqueOf(etag)
  return Array.from(condition.matchAll(entityTag), ([, tag = '']) => opaqueOf(tag)).includes(opaque)
}

function opaqueOf(etag: string): string {
  return etag.startsWith('W/') ? etag.slice(2) : etag
}

function hit(exchange: Exchange, { entry, tier }: Kind<'hit'>, wallAt: number): Response {
  const times = timesOf(exchange, entry, wallAt)
  const cacheStatus = `${cacheName}; hit; ttl=${Math.max(0, times.lifetime - times.age)}; detail=${tier}`
  return known(exchange, entry, start(exchange, cacheStatus, 0, 0), times, entry.body, entry.contentType)
}

const staleDetails: Readonly<Record<StaleUse, string>> = {
  error: 'stale-if-error',
  revalidating: 'stale-while-revalidate',
  'max-stale': 'max-stale',
}

function stale(exchange: Exchange, outcome: Kind<'stale'>, wallAt: number): Response {
  const { entry, because } = outcome
  const { attempts, credits } = madeOf(outcome)
  const times = timesOf(exchange, entry, wallAt)
  const left = Math.min(-1, times.lifetime - times.age)
  const cacheStatus = `${cacheName}; hit; ttl=${left}; detail=${staleDetails[because]}`
  const headers = start(exchange, cacheStatus, attempts, credits)
  return known(exchange, entry, headers, times, entry.body, entry.contentType)
}

/** In seconds; the lifetime is that for the client that asks. */
interface Times {
  readonly age: number
  readonly lifetime: number
}

function timesOf({ client }: Exchange, entry: Entry, wallAt: number): Times {
  return { age: ageSeconds(entry, wallAt), lifetime: client ? toSeconds(lifetimeMs(entry, client.cache)) : 0 }
}

/** What is known about a job; only our own `Location` goes out, and only with a promise. */
function job(exchange: Exchange, { reply, idempotentReplay, promised }: Kind<'job'>): Response {
  const { made = { attempts: 0, credits: 0 } } = promised ?? {}
  const way = promised ? `fwd=${forwardedBecause(exchange)}${promised.role === 'joined' ? '; collapsed' : ''}` : 'hit'
  const headers = start(exchange, `${cacheName}; ${way}; detail=jobs`, made.attempts, made.credits)
  if (idempotentReplay) headers.push('Idempotent-Replayed', 'true')
  if (reply.location !== null) headers.push('Location', reply.location)
  if (promised) headers.push('Preference-Applied', preferenceOf(exchange))
  headers.push('Cache-Control', 'no-store')
  return content(reply.status, headers, reply.contentType, reply.body)
}

/** RFC 7240 section 3. */
function preferenceOf({ request: { respondAsyncAfterMs } }: Exchange): string {
  return respondAsyncAfterMs ? `respond-async, wait=${toSeconds(respondAsyncAfterMs)}` : 'respond-async'
}

/**
 * An answer that is kept: its caller may keep it, too. `max-age` is the whole lifetime, of which `Age` is gone (RFC 9111 section
 * 4.2): a cache downstream subtracts one from the other. It must not give one sample for another, although the URL is the same.
 */
function known(
  exchange: Exchange,
  entry: Entry,
  headers: string[],
  { age, lifetime }: Times,
  body: Buffer,
  contentType: string | null,
): Response {
  const { ifNoneMatch } = exchange.request
  headers.push('Age', String(age), 'ETag', entry.etag)
  headers.push('Cache-Control', `private, max-age=${lifetime}`, 'Vary', 'X-Sample')
  if (ifNoneMatch !== null && entry.status === 200 && matches(ifNoneMatch, entry.etag))
    return { status: 304, headers, body: null, close: false }
  return content(entry.status, headers, contentType, body)
}

function content(status: number, headers: string[], contentType: string | null, body: Buffer): Response {
  if (contentType !== null) headers.push('Content-Type', contentType)
  headers.push('Content-Length', String(body.length))
  return { status, headers, body, close: false }
}

function refused(exchange: Exchange, error: ProxyError, made: Kind<'refused'>['made']): Response {
  const attempts = made?.attempts ?? 0
  const forwarded = attempts > 0 ? `; fwd=${forwardedBecause(exchange)}` : ''
  const cacheStatus = `${cacheName}${forwarded}; detail=${error.code}`
  const limits = exchange.limits ?? spent(exchange.client, error)
  return problem(exchange.request.id, error, start({ ...exchange, limits }, cacheStatus, attempts, made?.credits ?? 0))
}

/** A flight that brought home no answer at all. */
function withoutAnswer(exchange: Exchange, outcome: Kind<'fetched'>, code: Unanswered): Response {
  const collapsed = outcome.role === 'joined' ? '; collapsed' : ''
  const cacheStatus = `${cacheName}; fwd=${outcome.forwardedBecause}${collapsed}; detail=${code}`
  const { attempts, credits } = madeOf(outcome)
  const headers = start(exchange, cacheStatus, attempts, credits)
  return problem(exchange.request.id, unanswered(code), headers)
}

function problem(id: string, error: ProxyError, headers: string[]): Response {
  headers.push('X-Proxy-Code', error.code, 'Cache-Control', 'no-store')
  if (error.retryAfterMs !== null || error.status === 429 || error.status === 503)
    headers.push('Retry-After', String(Math.max(1, Math.ceil((error.retryAfterMs ?? 0) / 1000))))
  if (error.allow !== null) headers.push('Allow', error.allow)
  if (error.status === 401) headers.push('WWW-Authenticate', 'Bearer')
  const { status, body } = content(error.status, headers, 'application/problem+json', problemOf(id, error))
  return { status, headers, body, close: error.close }
}

function rateLimit({ policy, remaining, resetMs }: LimitState): string {
  return `${nameOf(policy)};r=${remaining};t=${Math.ceil(resetMs / 1000)}`
}

/** There are as many policies as the settings name. */
const policyNames = new Map<string, string>()

function nameOf(policy: string): string {
  const known = policyNames.get(policy)
  if (known !== undefined) return known
  const name = policy.slice(0, policy.indexOf(';'))
  if (policyNames.size < 10_000) policyNames.set(policy, name)
  return name
}

/** Why nothing was kept, where the caller can do something about it. */
function unknownValueIn({ call }: Exchange): string {
  return call?.unknownValue && call.endpoint === 'answer' ? '; detail=unknown-value' : ''
}

/** What every answer carries. */
function start(exchange: Exchange, cacheStatus: string, attempts: number, credits: number): string[] {
  const headers = begin(exchange.request.id, cacheStatus, attempts, credits)
  if (exchange.call?.sample !== undefined) headers.push('X-Proxy-Sample', String(exchange.call.sample))
  const { client, limits, credits: budgets } = exchange
  if (client) headers.push('X-Proxy-Client', client.name)
  let policies = limits ? limits.policy : ''
  let states = limits ? rateLimit(limits) : ''
  for (const budget of budgets) {
    policies = policies === '' ? budget.policy : `${policies}, ${budget.policy}`
    states = states === '' ? rateLimit(budget) : `${states}, ${rateLimit(budget)}`
  }
  if (states !== '') headers.push('RateLimit-Policy', policies, 'RateLimit', states)
  return headers
}

function begin(id: string, cacheStatus: string, attempts: number, credits: number): string[] {
  return [
    'X-Request-Id',
    id,
    'Cache-Status',
    cacheStatus,
    'X-Proxy-Attempts',
    String(attempts),
    'X-Proxy-Credits',
    String(credits),
    'X-Content-Type-Options',
    'nosniff',
  ]
}

/**
 * A client that asks too often is refused before its limits are noted: nothing is left. As in every other answer, `t` is the time until the
 * bucket is full; the time until the next request is `Retry-After`.
 */
function spent(client: Client | null, error: ProxyError): LimitState | null {
  if (error.code !== 'RATE_LIMITED' || !client?.rate) return null
  const { limit, per, burst } = client.rate
  return {
    policy: `"requests";q=${limit};w=${Math.ceil(per / 1000)}`,
    remaining: 0,
    resetMs: (error.retryAfterMs ?? 0) + ((burst - 1) * per) / limit,
  }
}

/** What was tried for this answer. A flight is paid for once, by the client that began it. */
function madeOf(outcome: Kind<'fetched' | 'stale'>): Readonly<Made> {
  const { made, landing } = outcome
  if (made) return made
  const isPayer = outcome.kind === 'stale' || outcome.role === 'leader'
  return { attempts: landing?.attempts.length ?? 0, credits: isPayer ? (landing?.chargedCredits ?? 0) : 0 }
}

function forwardedBecause({ call }: Exchange): string {
  if (call?.endpoint === 'submit') return 'method'
  return call?.bypass || call?.endpoint === 'status' ? 'bypass' : 'miss'
}

function toSeconds(ms: number): number {
  return Math.floor(ms / 1000)
}

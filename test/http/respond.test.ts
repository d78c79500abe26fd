/** Every outcome as a caller sees it: status, headers and body to the letter of the contract. */
import t from 'tap'
import { ProxyError } from '../../src/errors.ts'
import { createResponder, matches, refuse, type Response } from '../../src/http/respond.ts'
import type {
  Attempt,
  Call,
  Client,
  Entry,
  Exchange,
  Landing,
  Outcome,
  ProxyRequest,
  Reply,
  Verdict,
} from '../../src/model.ts'
import { epoch } from '../support/world.ts'

const body = Buffer.from('{"credits_used":2}')
const kept = Buffer.from('{"credits_used":0,"cached":true}')
const reply: Reply = { status: 200, contentType: 'application/json', retryAfter: null, location: null, body }
const charge = { state: 'charged', credits: 2 } as const
const answered: Verdict = { kind: 'answered', reply, charge, health: 'up', keepable: true }

const entry: Entry = {
  status: 200,
  contentType: 'application/json',
  body: kept,
  etag: '"abc"',
  storedAt: epoch,
  keptUntil: epoch + 800_000,
  scraper: 'x',
  promptHash: null,
  country: null,
  priceCredits: 2,
  unclaimed: false,
}

const client = {
  name: 'one',
  rate: null,
  cache: { ttl: 400_000, staleIfError: 400_000, staleWhileRevalidate: 0, emptyResultTtl: 60_000, scope: 'shared' },
} as Client

function failed(status: number | null, refusal: 'UPSTREAM_UNREACHABLE' | 'UPSTREAM_INVALID' | null = null): Verdict {
  return {
    kind: 'failed',
    class: 'serverError',
    fault: 'upstream',
    reply: status === null ? null : { ...reply, status, contentType: 'text/html', body: Buffer.from('<oops>') },
    refusal,
    charge: { state: 'free', credits: 0 },
    health: 'down',
    retryAfterMs: null,
  }
}

function landing(verdict: Verdict, more: Partial<Landing> = {}): Landing {
  const attempt = {} as Attempt
  return { verdict, attempts: [attempt, attempt], stoppedBy: null, chargedCredits: 2, entry: null, ...more }
}

function exchange(request: Partial<ProxyRequest> = {}, more: Partial<Exchange> = {}): Exchange {
  return {
    request: { id: 'id-1', method: 'GET', ifNoneMatch: null, ...request } as ProxyRequest,
    client,
    call: null,
    limits: null,
    credits: [],
    flight: null,
    ...more,
  }
}

const marking = createResponder({ markReplays: true, replay: () => Buffer.from('replayed') })

function respond(outcome: Outcome, asked = exchange(), wallAt = epoch + 24_000): Response {
  const response = marking(asked, outcome, wallAt)
  if (!response) throw new Error('There is no answer.')
  return response
}

function headersOf({ headers }: Response): Record<string, string> {
  const pairs: Record<string, string> = {}
  for (let i = 0; i < headers.length; i += 2) {
    const name = (headers[i] ?? '').toLowerCase()
    if (name in pairs) throw new Error(`${name} is there twice.`)
    pairs[name] = headers[i + 1] ?? ''
  }
  return pairs
}

void t.test('a hit: nothing was asked, nothing was paid', async (t) => {
  const response = respond({ kind: 'hit', entry, tier: 'memory' })
  t.equal(response.status, 200)
  t.equal(response.body, kept)
  t.same(headersOf(response), {
    'x-request-id': 'id-1',
    'cache-status': 'scrapellm-proxy; hit; ttl=376; detail=memory',
    'x-proxy-attempts': '0',
    'x-proxy-credits': '0',
    'x-proxy-client': 'one',
    'x-content-type-options': 'nosniff',
    age: '24',
    etag: '"abc"',
    'cache-control': 'private, max-age=400',
    'content-type': 'application/json',
    'content-length': String(kept.length),
    vary: 'X-Sample',
  })
  const edges = headersOf(respond({ kind: 'hit', entry, tier: 'disk' }, exchange(), epoch - 5000))
  t.equal(edges['age'], '0', 'a clock that stepped back makes no negative age')
})

void t.test('a stale answer says so, and what was tried before', async (t) => {
  const late = epoch + 411_500
  const tried = headersOf(
    respond(
      { kind: 'stale', entry, tier: 'memory', landing: landing(failed(500)), because: 'error' },
      exchange(),
      late,
    ),
  )
  t.has(tried, {
    'cache-status': 'scrapellm-proxy; hit; ttl=-11; detail=stale-if-error',
    'cache-control': 'private, max-age=400',
    age: '411',
    'x-proxy-attempts': '2',
  })
  const untried = headersOf(
    respond({ kind: 'stale', entry, tier: 'memory', landing: null, because: 'error' }, exchange(), epoch + 400_000),
  )
  t.match(untried, { 'cache-status': /ttl=-1;/, 'x-proxy-attempts': '0', 'x-proxy-credits': '0' })
})

void t.test('Cache-Status of everything that was forwarded', async (t) => {
  const stored = landing(answered, { entry })
  const rows: [Outcome, string][] = [
    [
      { kind: 'fetched', landing: stored, role: 'leader', forwardedBecause: 'miss' },
      'fwd=miss; fwd-status=200; stored',
    ],
    [{ kind: 'fetched', landing: stored, role: 'joined', forwardedBecause: 'miss' }, 'fwd=miss; collapsed'],
    [
      { kind: 'fetched', landing: stored, role: 'leader', forwardedBecause: 'bypass' },
      'fwd=bypass; fwd-status=200; stored',
    ],
    [
      { kind: 'fetched', landing: landing(answered), role: 'leader', forwardedBecause: 'stale' },
      'fwd=stale; fwd-status=200',
    ],
    [
      { kind: 'fetched', landing: landing(answered), role: 'leader', forwardedBecause: 'request' },
      'fwd=request; fwd-status=200',
    ],
    [
      { kind: 'fetched', landing: landing(answered), role: 'leader', forwardedBecause: 'method' },
      'fwd=method; fwd-status=200',
    ],
    [
      { kind: 'fetched', landing: landing(failed(503)), role: 'leader', forwardedBecause: 'miss' },
      'fwd=miss; fwd-status=503',
    ],
    [
      { kind: 'fetched', landing: landing(failed(null, 'UPSTREAM_INVALID')), role: 'leader', forwardedBecause: 'miss' },
      'fwd=miss; detail=UPSTREAM_INVALID',
    ],
    [
      { kind: 'fetched', landing: landing(failed(null)), role: 'joined', forwardedBecause: 'miss' },
      'fwd=miss; collapsed; detail=UPSTREAM_UNREACHABLE',
    ],
    [{ kind: 'refused', error: new ProxyError('RATE_LIMITED', 'x') }, 'detail=RATE_LIMITED'],
    [
      { kind: 'refused', error: new ProxyError('DEADLINE_EXCEEDED', 'x'), made: { attempts: 1, credits: 3 } },
      'fwd=miss; detail=DEADLINE_EXCEEDED',
    ],
  ]
  for (const [outcome, expected] of rows)
    t.equal(headersOf(respond(outcome))['cache-status'], `scrapellm-proxy; ${expected}`)

  const error = new ProxyError('CIRCUIT_OPEN', 'x')
  const calls: [Partial<Call>, string][] = [
    [{ endpoint: 'submit' }, 'method'],
    [{ endpoint: 'status' }, 'bypass'],
    [{ bypass: true }, 'bypass'],
  ]
  for (const [call, because] of calls) {
    const asked = exchange({}, { call: { endpoint: 'answer', bypass: false, ...call } as Call })
    const response = respond({ kind: 'refused', error, made: { attempts: 1, credits: 0 } }, asked)
    t.match(headersOf(response)['cache-status'], `fwd=${because}; detail=CIRCUIT_OPEN`)
  }
})

void t.test('the leader gets what upstream said, and pays; who joined gets the replay, free', async (t) => {
  const stored = landing(answered, { entry })
  const fetched = { kind: 'fetched', landing: stored, forwardedBecause: 'miss' } as const
  const leader = respond({ ...fetched, role: 'leader' }, exchange(), epoch)
  t.equal(leader.body, body)
  t.has(headersOf(leader), {
    'x-proxy-attempts': '2',
    'x-proxy-credits': '2',
    age: '0',
    etag: '"abc"',
    'cache-control': 'private, max-age=400',
    'content-length': String(body.length),
  })
  const joined = respond({ ...fetched, role: 'joined' }, exchange(), epoch)
  t.equal(joined.body, kept)
  t.has(headersOf(joined), { 'x-proxy-attempts': '2', 'x-proxy-credits': '0', age: '0', etag: '"abc"' })
})

void t.test('when nothing was kept, who joined gets a replay all the same, made once', async (t) => {
  let made = 0
  const replay = (): Buffer => Buffer.from(`replay ${(made += 1)}`)
  const outcome: Outcome = { kind: 'fetched', landing: landing(answered), role: 'joined', forwardedBecause: 'miss' }
  const marked = createResponder({ markReplays: true, replay })
  const bodies = [1, 2, 3].map(() => String(marked(exchange(), outcome, epoch)?.body))
  t.same(bodies, ['replay 1', 'replay 1', 'replay 1'])
  t.equal(createResponder({ markReplays: false, replay })(exchange(), outcome, epoch)?.body, body)
  t.has(headersOf(respond(outcome)), { 'cache-control': 'no-store', 'x-proxy-credits': '0' })

  const sad: Outcome = { kind: 'fetched', landing: landing(failed(500)), role: 'joined', forwardedBecause: 'miss' }
  t.equal(String(respond(sad).body), '<oops>', 'an error is nothing to rewrite')
})

void t.test('the last real answer of upstream passes as it is, its Retry-After too', async (t) => {
  const verdict = failed(429)
  const limited = { ...verdict, reply: { ...reply, status: 429, retryAfter: '17', contentType: null } } as Verdict
  const response = respond({ kind: 'fetched', landing: landing(limited), role: 'leader', forwardedBecause: 'miss' })
  t.equal(response.status, 429)
  const headers = headersOf(response)
  t.has(headers, { 'retry-after': '17', 'cache-control': 'no-store' })
  t.notOk('x-proxy-code' in headers)
  t.notOk('content-type' in headers)

  const page = respond({ kind: 'fetched', landing: landing(failed(502)), role: 'leader', forwardedBecause: 'miss' })
  t.has(headersOf(page), { 'content-type': 'text/html' })
  t.has([page.status, String(page.body)], [502, '<oops>'])

  const empty = landing(failed(500), { entry: { ...entry, status: 500 } })
  const remembered = respond(
    { kind: 'fetched', landing: empty, role: 'leader', forwardedBecause: 'miss' },
    exchange({ ifNoneMatch: '*' }),
  )
  t.equal(remembered.status, 500, 'an error that is kept is never a 304')
  t.has(headersOf(remembered), { 'cache-control': 'private, max-age=60' })
})

void t.test('a flight without any answer ends in a problem document', async (t) => {
  for (const [code, status] of [
    ['UPSTREAM_UNREACHABLE', 504],
    ['UPSTREAM_INVALID', 502],
  ] as const) {
    const fate = landing(failed(null, code), { stoppedBy: 'attempts' })
    const response = respond({ kind: 'fetched', landing: fate, role: 'leader', forwardedBecause: 'miss' })
    t.equal(response.status, status)
    t.has(headersOf(response), { 'x-proxy-code': code, 'x-proxy-attempts': '2', 'x-proxy-credits': '2' })
    t.has(JSON.parse(String(response.body)), { code, status })
  }
})

void t.test('refusals are problem documents', async (t) => {
  const error = new ProxyError('NO_KEY_AVAILABLE', 'Every key rests.', { retryAfterMs: 1001 })
  const response = respond({ kind: 'refused', error })
  t.same(JSON.parse(String(response.body)), {
    type: 'urn:scrapellm-proxy:error:NO_KEY_AVAILABLE',
    title: 'No upstream key available',
    status: 503,
    detail: 'Every key rests.',
    code: 'NO_KEY_AVAILABLE',
    request_id: 'id-1',
  })
  t.equal(response.status, 503)
  t.same(headersOf(response), {
    'x-request-id': 'id-1',
    'cache-status': 'scrapellm-proxy; detail=NO_KEY_AVAILABLE',
    'x-proxy-attempts': '0',
    'x-proxy-credits': '0',
    'x-proxy-client': 'one',
    'x-content-type-options': 'nosniff',
    'x-proxy-code': 'NO_KEY_AVAILABLE',
    'cache-control': 'no-store',
    'retry-after': '2',
    'content-type': 'application/problem+json',
    'content-length': String(response.body?.length),
  })
})

void t.test('Retry-After is whole seconds, at least one, on every 429 and 503 of ours', async (t) => {
  const after = (error: ProxyError): string | undefined => headersOf(refuse('id', error))['retry-after']
  t.equal(after(new ProxyError('RATE_LIMITED', 'x', { retryAfterMs: 1 })), '1')
  t.equal(after(new ProxyError('RATE_LIMITED', 'x', { retryAfterMs: 31_000 })), '31')
  t.equal(after(new ProxyError('OVERLOADED', 'x')), '1')
  t.equal(after(new ProxyError('INTERNAL', 'x')), undefined)
  t.equal(after(new ProxyError('IDEMPOTENCY_CONFLICT', 'x', { retryAfterMs: 900 })), '1')
})

void t.test('Allow, WWW-Authenticate and the end of the connection', async (t) => {
  t.has(headersOf(refuse('id', new ProxyError('METHOD_NOT_ALLOWED', 'x', { allow: 'GET, HEAD' }))), {
    allow: 'GET, HEAD',
  })
  t.has(headersOf(refuse('id', new ProxyError('CLIENT_UNKNOWN', 'x'))), { 'www-authenticate': 'Bearer' })
  const invalid = refuse('id', new ProxyError('REQUEST_INVALID', 'x', { status: 414, close: true }))
  t.has(invalid, { status: 414, close: true })
})

void t.test('RateLimit says where the client stands', async (t) => {
  const limits = { policy: '"requests";q=60;w=60', remaining: 12, resetMs: 30_001 }
  t.has(headersOf(respond({ kind: 'hit', entry, tier: 'memory' }, exchange({}, { limits }))), {
    'ratelimit-policy': '"requests";q=60;w=60',
    ratelimit: '"requests";r=12;t=31',
  })
  const error = new ProxyError('RATE_LIMITED', 'x', { retryAfterMs: 2500 })
  const client = { rate: { limit: 60, per: 60_000, burst: 20 } } as Client
  t.has(headersOf(respond({ kind: 'refused', error }, exchange({}, { client }))), {
    'ratelimit-policy': '"requests";q=60;w=60',
    ratelimit: '"requests";r=0;t=22',
    'retry-after': '3',
  })
  const unlimited = exchange({}, { client: { rate: null } as Client })
  t.notOk('ratelimit' in headersOf(respond({ kind: 'refused', error }, unlimited)))
})

void t.test('If-None-Match: lists, *, weak comparison', async (t) => {
  const rows: [string, string, boolean][] = [
    ['"a"', '"a"', true],
    ['W/"a"', '"a"', true],
    ['"a"', 'W/"a"', true],
    ['"x", W/"a" , "y"', '"a"', true],
    ['"x,a"', '"a"', false],
    ['"x,y"', '"x,y"', true],
    [' * ', '"a"', true],
    ['a', '"a"', false],
    ['w/"a"', '"a"', false],
    ['"x" "a"', '"a"', false],
    ['"A"', '"a"', false],
    ['', '"a"', false],
  ]
  for (const [condition, etag, expected] of rows) t.equal(matches(condition, etag), expected, `${condition} ${etag}`)
})

void t.test('304 has no body, but says all about the one that the caller has', async (t) => {
  for (const method of ['GET', 'HEAD']) {
    const response = respond({ kind: 'hit', entry, tier: 'redis' }, exchange({ method, ifNoneMatch: '"x", "abc"' }))
    t.has(response, { status: 304, body: null })
    const headers = headersOf(response)
    t.match(headers, {
      etag: '"abc"',
      age: '24',
      'cache-control': 'private, max-age=400',
      'cache-status': /detail=redis/,
    })
    t.notOk('content-length' in headers)
    t.notOk('content-type' in headers)
  }
  t.equal(respond({ kind: 'hit', entry, tier: 'memory' }, exchange({ ifNoneMatch: '"x"' })).status, 200)
})

void t.test('nobody is answered who has gone', async (t) => {
  t.equal(marking(exchange(), { kind: 'gone' }, epoch), null)
})

void t.test('what is known about a job is answered without asking, a replayed submission says so', async (t) => {
  const known = { ...reply, status: 202, location: '/jobs/1' }
  const replayed = headersOf(respond({ kind: 'job', reply: known, idempotentReplay: true }))
  t.has(replayed, { 'idempotent-replayed': 'true', location: '/jobs/1', 'cache-control': 'no-store' })
  t.has(replayed, { 'x-proxy-attempts': '0', 'x-proxy-credits': '0' })
  const state = respond({ kind: 'job', reply, idempotentReplay: false })
  t.has(state, { status: 200, body })
  t.notOk('idempotent-replayed' in headersOf(state))
  t.notOk('location' in headersOf(state))
})

void t.test('a stale answer that is being refreshed says so', async (t) => {
  const outcome = { kind: 'stale', entry, tier: 'memory', landing: null, because: 'revalidating' } as const
  t.equal(
    headersOf(respond(outcome, exchange(), epoch + 401_000))['cache-status'],
    'scrapellm-proxy; hit; ttl=-1; detail=stale-while-revalidate',
  )
})

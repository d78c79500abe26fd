/**
 * Every setting: its type, default, meaning, limits and reload class. The `Config` type, validation, the JSON Schema
 * and the README table are projections of this file; a setting is added here and nowhere else.
 *
 * Durations become milliseconds, sizes bytes, secrets `Secret`. In messages `{found}` stands for what the file says;
 * the loader fills it in, because only it knows whether that may be shown.
 * Longer than other files because every setting has its row here.
 */
import * as z from 'zod'
import { isLoopback } from '../addresses.ts'
import { type FailureClass, failureClasses, failures } from '../failures.ts'
import { Secret, sendable } from '../keys/secret.ts'
import {
  durationHint,
  durationPattern,
  formatDuration,
  formatSize,
  parseDuration,
  parseSize,
  sizeHint,
  sizePattern,
} from './units.ts'

/** What printing a value needs to know beyond its type; kept out of the JSON Schema. `limits` are as people write them. */
export const nature = z.registry<{
  kind: 'duration' | 'size' | 'secret' | 'digest' | 'access' | 'webhook'
  limits?: readonly [least: string, most: string]
}>()

/** What `upstream.keys` is when no file says anything: the one setting that has no default of its own. */
export const defaultKeys = [{ name: 'main', secret: '${SCRAPELLM_API_KEY}' }]

const namePattern = /^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$/
const nameRule = 'use letters, digits, "-" and "_", at most 63 in all, the first a letter or digit'
const day = 86_400_000
/** Node's timers end at 2^31 ms. */
const longestTimer = 24 * day

/** Null when a client may be called so; `anonymous` has no token. */
export function wrongClientName(written: string): string | null {
  if (!namePattern.test(written)) return `${JSON.stringify(written)} cannot be a client's name; ${nameRule}`
  return written === 'anonymous' ? '"anonymous" stands for callers without a token; choose another name' : null
}

// Kinds of values

function live<T extends z.ZodType>(schema: T, description: string): T {
  return schema.meta({ description, reload: 'live' })
}

function restart<T extends z.ZodType>(schema: T, description: string): T {
  return schema.meta({ description, reload: 'restart' })
}

function map<T extends z.ZodRawShape>(shape: T) {
  return z.strictObject(shape, { error: 'expected a map, found {found}' })
}

function list<T extends z.ZodType>(item: T) {
  const error = 'expected a list with at least one item, found {found}'
  return z.array(item, { error }).min(1, { error })
}

function text(what: string) {
  const error = `expected ${what}, found {found}`
  return z.string({ error }).min(1, { error }).max(2000, { error })
}

function name(what: string) {
  const error = `{found} cannot be ${what}; ${nameRule}`
  return z.string({ error: `expected ${what}, found {found}` }).regex(namePattern, { error })
}

function hostName() {
  const error = 'expected a host name without a port, such as proxy.example.com, found {found}'
  const schema = z.string({ error }).regex(/^[\w.-]+$/, { error })
  return schema.transform((written) => written.toLowerCase())
}

/** Scheme, host and port; never shown in messages, because it may carry credentials. */
function origin() {
  const example = 'expected a URL such as https://api.example.com'
  return z.string({ error: example }).transform((written, context) => {
    const url = URL.parse(written)
    if (url === null || !/^https?:$/.test(url.protocol) || url.hostname === '') return refuse(context, example)
    const surplus = surplusOf(url)
    if (surplus === null) return url.origin
    return refuse(context, `takes scheme, host and port only; take ${surplus} out of it`)
  })
}

function surplusOf(url: URL): string | null {
  if (url.username !== '' || url.password !== '') return 'the user name and password'
  if (url.pathname !== '/') return 'the path'
  if (url.search !== '' || url.href.includes('?')) return 'the query'
  return url.hash !== '' || url.href.includes('#') ? 'the fragment' : null
}

function flag() {
  return z.boolean({ error: 'expected true or false, found {found}' })
}

function count(min: number, max: number) {
  const error = `expected a whole number from ${min} to ${max}, found {found}`
  return z.int({ error }).min(min, { error }).max(max, { error })
}

function duration(min: number = 1, max: number = longestTimer) {
  const schema = z
    .string({ error: 'expected a duration such as 30s, found {found}' })
    .meta({ pattern: durationPattern.source })
    .transform((written, context) => {
      const ms = parseDuration(written)
      if (ms === null) return refuse(context, `{found} is not a duration; ${durationHint(written)}`)
      if (ms >= min && ms <= max) return ms
      return refuse(context, `expected a duration from ${formatDuration(min)} to ${formatDuration(max)}, found {found}`)
    })
  return schema.register(nature, { kind: 'duration', limits: [formatDuration(min), formatDuration(max)] })
}

function size(min: number, max: number) {
  const schema = z
    .string({ error: 'expected a size such as 64MiB, found {found}' })
    .meta({ pattern: sizePattern.source })
    .transform((written, context) => {
      const bytes = parseSize(written)
      if (bytes === null) return refuse(context, `{found} is not a size; ${sizeHint(written)}`)
      if (bytes >= min && bytes <= max) return bytes
      return refuse(context, `expected a size from ${formatSize(min)} to ${formatSize(max)}, found {found}`)
    })
  return schema.register(nature, { kind: 'size', limits: [formatSize(min), formatSize(max)] })
}

function refuse(context: z.RefinementCtx, message: string): never {
  context.addIssue({ code: 'custom', message })
  return z.NEVER
}

function secret(minLength: number) {
  const schema = z
    .string({ error: 'expected text, such as "${NAME}" or file:/path' })
    .regex(sendable, {
      error: 'is empty or has spaces, line ends or characters beyond ASCII; check for a stray newline',
    })
    .min(minLength, { error: `is shorter than ${minLength} characters; make one with "scrapellm-proxy token NAME"` })
    .transform((written) => new Secret(written))
  return schema.register(nature, { kind: 'secret' })
}

function digest() {
  const error = 'expected 64 hexadecimal digits, as "scrapellm-proxy token NAME" prints them'
  const schema = z
    .string({ error })
    .regex(/^[0-9a-fA-F]{64}$/, { error })
    .transform((written) => written.toLowerCase())
  return schema.register(nature, { kind: 'digest' })
}

/** Of the calendar in UTC; a day means its first moment. */
function date() {
  const error = 'expected a day such as 2027-01-31, or a time such as 2027-01-31T12:00Z, found {found}'
  return z
    .string({ error })
    .regex(/^\d{4}-\d\d-\d\d(T\d\d:\d\dZ)?$/, { error })
    .refine((written) => !Number.isNaN(Date.parse(written)), { error })
}

/** One or several, for rotation; always a list afterwards, empty when absent. */
function oneOrMore<T extends z.ZodType>(item: T) {
  return z
    .union([item, list(item)])
    .optional()
    .transform((given) => (given === undefined ? [] : Array.isArray(given) ? given : [given]) as z.output<T>[])
}

// Settings

/** PEM; looked at again every few seconds. */
function tls() {
  const files = map({
    cert: restart(
      text('the path of a file'),
      'Path of the PEM file with the certificate followed by its chain; reloaded when it changes.',
    ),
    key: restart(
      text('the path of a file'),
      'Path of the PEM file with the private key, without a passphrase; reloaded when it changes.',
    ),
  })
  return restart(files.optional(), 'Serves HTTPS instead of HTTP, with TLS 1.2 or later.')
}

const listen = map({
  host: restart(text('a host name or address').prefault('127.0.0.1'), 'Address on which the proxy listens.'),
  port: restart(
    count(0, 65_535).prefault(8080),
    'Port on which the proxy listens; 0 = any free port, named in the log line "listening".',
  ),
  reusePort: restart(
    flag().prefault(false),
    'Lets several processes on this machine listen on the same port. Each needs its own admin port.',
  ),
  hosts: live(
    z.array(hostName(), { error: 'expected a list of host names, found {found}' }).prefault([]),
    'Additional names that callers without a token may use in the `Host` header when `host` is a loopback address: for a load balancer on the same machine that passes the name on.',
  ),
  maxConnections: restart(
    count(1, 1_000_000).prefault(20_000),
    'Maximum number of client connections. Further connections get 503 OVERLOADED and are closed.',
  ),
  keepAlive: restart(
    duration(1_000, 86_400_000).prefault('75s'),
    'How long an idle client connection is kept open. Must be longer than the idle timeout of the load balancer in front (table in docs/several-replicas.md).',
  ),
  tls: tls(),
})

const admin = map({
  host: restart(
    text('a host name or address').prefault('127.0.0.1'),
    'Address of the admin port (metrics, health, status).',
  ),
  port: restart(count(0, 65_535).prefault(9464), 'Admin port; 0 = any free port.'),
  token: live(
    secret(16).optional(),
    'Bearer token for the admin port, at least 16 characters. Required unless the admin port listens on loopback.',
  ),
  tls: tls(),
})

const key = map({
  name: live(name("a key's name"), 'Name of the key in metrics and logs.'),
  secret: live(secret(1), 'The key itself: `${NAME}` from the environment or `file:/path`.'),
  weight: live(count(1, 1000).prefault(1), 'Share of calls that use this key, relative to the other keys.'),
})

const upstream = map({
  url: live(origin().prefault('https://api.scrapellm.com'), 'URL of the upstream API: scheme, host and port only.'),
  allowInsecure: live(
    flag().prefault(false),
    'Allows plain http in `url` for other hosts than loopback. Keys and prompts are then readable on the network.',
  ),
  ca: live(
    text('the path of a file').optional(),
    'Path of a PEM file with additional trusted CA certificates, for example of a gateway; the usual CAs stay trusted. Reloaded when it changes.',
  ),
  keys: live(
    list(key).prefault(defaultKeys),
    'Upstream API keys, at least one. While a key is out of credits or rate limited, the others are used.',
  ),
  maxConcurrent: live(
    count(1, 100_000).prefault(1000),
    'Maximum number of concurrent upstream calls, for all scrapers together.',
  ),
  perScraper: live(
    z
      .union([count(1, 100_000), z.record(name("a scraper's name"), count(1, 100_000))], {
        error: 'expected a whole number, or a map of scraper names to whole numbers, found {found}',
      })
      .optional(),
    'Maximum number of concurrent upstream calls per scraper: one number for all, or a map of scraper names to numbers.',
  ),
  adaptive: live(
    flag().prefault(true),
    'Adapts the limit of each scraper below these maxima: a 429 for a rate limit or a full queue lowers it, answers raise it. `false` = fixed limits.',
  ),
  queue: live(
    map({
      size: live(
        count(0, 10_000).prefault(1000),
        'Maximum number of calls waiting per scraper. When the queue is full, the client with the most waiting calls for its weight loses one. 0 = no queue.',
      ),
      maxWait: live(
        duration(0, 600_000).prefault('60s'),
        'Maximum wait in the queue before 503 OVERLOADED. Calls whose callers disconnect leave the queue earlier.',
      ),
    }).prefault({}),
    'Queue for calls beyond the limits; clients are served in turns.',
  ),
  credits: live(
    map({
      perDay: live(credits().optional(), 'Credits of all clients together per UTC day. Default: unlimited.'),
      perMonth: live(credits().optional(), 'Credits of all clients together per UTC month. Default: unlimited.'),
      reserve: live(
        credits().prefault(0),
        'Number of credits at the end of each period that only clients with `mayUseReserve: true` may spend.',
      ),
    }).optional(),
    'Credit budget of all clients together. When it is used up, cached answers are still served.',
  ),
  connectTimeout: live(duration(10, 600_000).prefault('5s'), 'Time limit for opening a connection to upstream.'),
  connectionMaxAge: live(
    duration(1_000, day).prefault('30s'),
    'Maximum age of a reused connection to upstream, so that DNS changes take effect.',
  ),
  proxy: live(
    outboundProxy().optional(),
    'Outbound proxy for upstream calls, `http://` or `https://`, optionally with user name and password; `false` = none. Default: from `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.',
  ),
  maxResponseSize: live(
    size(1024, 1024 ** 3).prefault('16MiB'),
    'Maximum size of an upstream answer. Larger answers count as invalid.',
  ),
})

const rate = map({
  limit: live(count(1, 1_000_000_000), 'Requests allowed per `per`.'),
  per: live(duration(1, 30 * day), 'Period in which `limit` requests are allowed.'),
  burst: live(count(1, 1_000_000_000).optional(), 'Requests allowed at once after a quiet period. Default: `limit`.'),
}).transform((given) => ({ ...given, burst: given.burst ?? given.limit }))

function keeping() {
  return duration(0, 365 * day)
}

function scope() {
  return z.enum(['shared', 'client'], { error: 'expected shared or client, found {found}' })
}

const disk = map({
  path: restart(
    text('the path of a file')
      .regex(/^(?!(?:.*\/)?records\.db$)/, { error: 'expected another name: records.db is the file of money and jobs' })
      .prefault('data/cache.db'),
    'Path of the cache file. Budgets, jobs and key cooldowns are in `records.db` in the same folder. The folder is created if missing, and is used by one process only.',
  ),
  maxSize: restart(
    size(1024 ** 2, 1024 ** 4).prefault('2GiB'),
    'Maximum size of the cache file; the least recently used answers are evicted first. `records.db` is small and not included.',
  ),
})

const cache = map({
  ttl: live(keeping().prefault('12h'), 'How long an answer is fresh.'),
  staleIfError: live(keeping().prefault('12h'), 'How much longer an expired answer may be served instead of an error.'),
  staleWhileRevalidate: live(
    keeping().prefault('0s'),
    'How much longer an expired answer is served at once while a fresh answer is fetched in the background.',
  ),
  emptyResultTtl: live(keeping().prefault('60s'), 'How long an "empty result" answer is cached; 0s = never.'),
  scope: live(
    scope().prefault('shared'),
    '`shared`: all clients share cached answers; `client`: each client has its own.',
  ),
  markReplays: live(
    flag().prefault(true),
    'Sets `"cached": true` and `"credits_used": 0` in the body of a cached answer.',
  ),
  memory: live(
    map({
      maxSize: live(
        size(1024 ** 2, 1024 ** 4).optional(),
        'Memory for cached answers; the least recently used are evicted first. Default: 256MiB or a quarter of the memory available to the process, whichever is less. Smaller while memory is low (`overload.memory`).',
      ),
    }).prefault({}),
    'Answers cached in memory.',
  ),
  disk: restart(
    z
      .union([disk, z.literal(false)], { error: 'expected false, or a map with path and maxSize, found {found}' })
      .prefault({}),
    'Answers, jobs and budgets that survive a restart; `false` = nothing survives a restart.',
  ),
})

export const notifiedEvents = ['budget', 'key', 'circuit', 'store', 'reload'] as const

/** May hold a password or a secret path, which is not printed. */
function webhook() {
  const error = 'expected an https URL, or an http URL of this machine such as http://127.0.0.1:9000/hook'
  const schema = z.string({ error }).refine(isWebhook, { error })
  return schema.register(nature, { kind: 'webhook' })
}

function isWebhook(written: string): boolean {
  const url = URL.parse(written)
  return url !== null && (url.protocol === 'https:' || (url.protocol === 'http:' && isLoopback(url.hostname)))
}

function attempts() {
  return count(1, 20)
}

function deadline() {
  return duration(1000, day)
}

const pause = () => duration(0, day)
const baseMeaning =
  'Upper limit of the first pause, doubled for each further pause. The actual pause is random between 0 and that limit.'
const maxMeaning = 'Maximum pause.'

const backoff = map({
  base: live(pause().prefault('500ms'), baseMeaning),
  max: live(pause().prefault('30s'), maxMeaning),
})

function classBackoff(base: string | undefined) {
  return map({
    base: live(base === undefined ? pause().optional() : pause().prefault(base).optional(), baseMeaning),
    max: live(pause().optional(), maxMeaning),
  })
}

function failureClass(name: FailureClass) {
  const { defaults, meaning } = failures[name]
  const rest = duration(0, longestTimer)
  return live(
    map({
      // No prefault: a default above `retry.attempts` must not outlive someone's `retry.attempts: 1`.
      attempts: live(
        attempts().optional(),
        'Total attempts for failures of this class. Default: `retry.attempts`.',
      ).meta(defaults.attempts === undefined ? {} : { default: defaults.attempts }),
      backoff: live(
        classBackoff(defaults.base).prefault({}),
        'Pause before the next attempt; missing values come from `retry.backoff`.',
      ),
      bypassCache: live(
        flag().prefault(defaults.bypassCache ?? false),
        "Sends the next attempt with `bypass_cache=true`, past upstream's own cache.",
      ),
      keyRest: live(
        defaults.keyRest === undefined ? rest.optional() : rest.prefault(defaults.keyRest),
        'How long the key is not used after a failure of this class; 0s = keep using it. While no key is ready, each is tried every 30 s.',
      ),
    }).prefault({}),
    meaning,
  )
}

const retry = map({
  attempts: live(attempts().prefault(4), 'Total attempts per request, including the first.'),
  deadline: live(
    deadline().prefault('600s'),
    "Time limit for a request to upstream including all attempts and pauses. No attempt starts with less than 10 s left. `X-Request-Timeout` of a caller ends only that caller's wait.",
  ),
  backoff: live(backoff.prefault({}), 'Pauses between attempts (exponential back-off with full jitter).'),
  budget: live(
    map({
      capacity: live(count(1, 1_000_000).prefault(100), 'Capacity of the retry budget of each scraper, in tokens.'),
      cost: live(count(0, 1_000_000).prefault(5), 'Tokens that a retry takes.'),
      costSlow: live(count(0, 1_000_000).prefault(10), 'Tokens that a retry after a timeout takes.'),
      refill: live(duration(1, day).prefault('12s'), 'Time in which one token is refilled.'),
    }).prefault({}),
    'Limits retries while upstream is failing.',
  ),
  classes: live(
    map(
      Object.fromEntries(failureClasses.map((name) => [name, failureClass(name)])) as Record<
        FailureClass,
        ReturnType<typeof failureClass>
      >,
    ).prefault({}),
    'Overrides for each failure class.',
  ),
})

const clientCache = map({
  ttl: live(keeping().optional(), 'Overrides `cache.ttl`.'),
  staleIfError: live(keeping().optional(), 'Overrides `cache.staleIfError`.'),
  staleWhileRevalidate: live(keeping().optional(), 'Overrides `cache.staleWhileRevalidate`.'),
  emptyResultTtl: live(keeping().optional(), 'Overrides `cache.emptyResultTtl`.'),
  scope: live(scope().optional(), 'Overrides `cache.scope`.'),
})

/** Without `keyRest`: keys are everybody's. */
const clientRetry = map({
  attempts: live(attempts().optional(), 'Overrides `retry.attempts`.'),
  deadline: live(deadline().optional(), 'Overrides `retry.deadline`.'),
  backoff: live(classBackoff(undefined).optional(), 'Overrides `retry.backoff`.'),
  classes: live(
    map(
      Object.fromEntries(
        failureClasses.map((name) => [name, live(clientClass().optional(), `In place of \`retry.classes.${name}\`.`)]),
      ) as Record<FailureClass, z.ZodOptional<ReturnType<typeof clientClass>>>,
    ).optional(),
    'Overrides for each failure class; missing values come from `retry.classes`.',
  ),
})

function clientClass() {
  return map({
    attempts: live(attempts().optional(), 'Overrides `retry.classes.CLASS.attempts`.'),
    backoff: live(classBackoff(undefined).optional(), 'Overrides `retry.classes.CLASS.backoff`.'),
    bypassCache: live(flag().optional(), 'Overrides `retry.classes.CLASS.bypassCache`.'),
  })
}

function credits() {
  return count(0, 1_000_000_000)
}

const datedToken = map({
  sha256: live(digest(), 'SHA-256 of the token in hexadecimal.'),
  expires: live(date().optional(), 'Day or time (UTC) from which the token is no longer accepted.'),
})

const client = map({
  token: live(oneOrMore(secret(16)), 'Token of the client, at least 16 characters, or a list of tokens.'),
  tokenSha256: live(
    oneOrMore(
      z.union([digest(), datedToken], { error: 'expected 64 hexadecimal digits, or a map with sha256 and expires' }),
    ),
    'SHA-256 of the token in hexadecimal, a map with `sha256` and `expires`, or a list of either. `scrapellm-proxy token NAME` prints the lines.',
  ),
  rate: live(rate.optional(), 'Rate limit of the client. Default: unlimited.'),
  concurrency: live(count(1, 100_000).optional(), 'Maximum number of open requests of the client. Default: unlimited.'),
  weight: live(count(1, 1000).prefault(1), 'Share of upstream calls relative to other clients in the queue.'),
  priority: live(
    z.enum(['interactive', 'batch'], { error: 'expected interactive or batch, found {found}' }).prefault('interactive'),
    '`batch`: requests wait until no `interactive` request is in the queue.',
  ),
  credits: live(
    map({
      perDay: live(credits().optional(), 'Credits per UTC day. Default: unlimited.'),
      perMonth: live(credits().optional(), 'Credits per UTC month. Default: unlimited.'),
    }).optional(),
    'Credit budget of the client. When it is used up, cached answers are still served.',
  ),
  topUp: live(
    map({
      credits: live(credits(), 'Credits added to `credits.perMonth`.'),
      until: live(date(), 'Day or time (UTC) at which the top-up ends. Each month until then includes it.'),
    }).optional(),
    'Additional credits for a limited time.',
  ),
  mayUseReserve: live(flag().optional(), 'Lets the client spend `upstream.credits.reserve`.'),
  scrapers: live(list(name("a scraper's name")).optional(), 'Scrapers that the client may use. Default: all.'),
  retry: live(clientRetry.optional(), 'Overrides of `retry` for requests of this client.'),
  cache: live(clientCache.optional(), 'Overrides of `cache` for requests of this client.'),
  allowAnonymousOnNetwork: live(
    flag().optional(),
    'Only for `anonymous`: also accepts callers without a token from the network.',
  ),
})

function share(what: string) {
  const error = `expected ${what}, a number above 0, up to 1, found {found}`
  return z.number({ error }).gt(0, { error }).max(1, { error })
}

const breaker = map({
  failureRate: live(
    share('a share of failures').prefault(0.9),
    'The circuit of a scraper opens when at least this share of its calls fails. Calls in progress count as successful once they have run longer than failures take.',
  ),
  window: live(count(1, 10_000).prefault(50), 'Number of recent requests from which the failure rate is calculated.'),
  minimum: live(
    count(1, 10_000).prefault(30),
    'Minimum number of results before the failure rate counts; at most `window`.',
  ),
  consecutive: live(count(1, 10_000).prefault(20), 'Number of failures in a row that also opens the circuit.'),
  questions: live(
    count(1, 10_000).prefault(3),
    'Minimum number of different requests that must have failed before the circuit opens; at most `consecutive`.',
  ),
  openFor: live(duration(1, day).prefault('1s'), 'Time from opening to the first trial call.'),
  openForMax: live(
    duration(1, day).prefault('20s'),
    'Maximum time between trial calls; each failed trial doubles the time until the next.',
  ),
  hold: live(
    duration(0, day).prefault('30s'),
    'How long after opening requests wait for the circuit to close instead of failing with 503 CIRCUIT_OPEN, within their own deadline. 0s = requests fail at once.',
  ),
})

const jobs = map({
  execution: live(
    z.enum(['sync', 'durable'], { error: 'expected sync or durable, found {found}' }).prefault('sync'),
    '`durable`: each request runs as an upstream job, which is resumed after a restart.',
  ),
})

const audit = map({
  path: restart(
    text('the path of a file').prefault('data/audit.ndjson'),
    'Path of the audit file; its folder is created if missing.',
  ),
  maxSize: restart(
    size(1024 ** 2, 1024 ** 4).prefault('100MiB'),
    'Maximum size. A full file is renamed to `.1`, replacing the previous `.1`.',
  ),
})

const notify = z.array(
  map({
    url: live(webhook(), 'URL that receives a POST for each event: https, or http on this machine.'),
    secret: live(
      secret(16).optional(),
      'Key for `X-Proxy-Signature: sha256=…`, the HMAC-SHA256 of the body in hexadecimal. Default: no signature.',
    ),
    on: live(
      list(z.enum(notifiedEvents, { error: 'expected budget, key, circuit, store or reload, found {found}' })).prefault(
        [...notifiedEvents],
      ),
      'Events to send.',
    ),
  }),
  { error: 'expected a list, found {found}' },
)

const price = map({
  credit: live(
    z
      .number({ error: 'expected a number, found {found}' })
      .min(0, { error: 'expected a number from 0 on, found {found}' }),
    'Price of one credit.',
  ),
  currency: live(
    z
      .string({ error: 'expected three letters such as USD, found {found}' })
      .regex(/^[A-Z]{3}$/, { error: 'expected three letters such as USD, found {found}' }),
    'Currency of the price, three letters (ISO 4217).',
  ),
})

const overload = map({
  eventLoopDelay: live(
    duration(0, 60_000).prefault('200ms'),
    'Event loop delay that, sustained for two seconds, makes the proxy serve cached answers only; at five times this delay it refuses all new requests. 0s = off.',
  ),
  memory: live(
    share('a share of memory').prefault(0.85),
    'Share of the available memory (container, machine or heap) from which the memory cache shrinks and, if that is not enough, only cached answers are served.',
  ),
  memoryCritical: live(
    share('a share of memory').prefault(0.95),
    'Share of the available memory from which every new request is refused; the admin port still answers.',
  ),
})

const log = map({
  level: live(
    z
      .enum(['debug', 'info', 'warn', 'error'], { error: 'expected debug, info, warn or error, found {found}' })
      .prefault('info'),
    'Lowest level that is written.',
  ),
  prompts: live(flag().prefault(false), 'Logs prompts, which are sensitive, instead of their hash.'),
})

const shutdown = map({
  readinessDelay: live(
    duration(0, 3_600_000).prefault('0s'),
    'Time between `/readyz` turning 503 and the proxy refusing new connections.',
  ),
  grace: live(duration(0, day).prefault('660s'), 'Time for open requests to finish before they are cut.'),
})

/** May hold a password, which is not printed. */
function outboundProxy() {
  const error = 'expected a URL such as http://proxy.example:3128, or false'
  const url = z
    .string({ error })
    .refine((written) => /^https?:\/\/[^\s/]+\/?$/.test(written) && URL.canParse(written), { error })
  return z.union([url, z.literal(false)], { error }).register(nature, { kind: 'access' })
}

/** May hold a password, which is not printed. */
function redisUrl() {
  const error = 'expected a URL such as redis://127.0.0.1:6379'
  const schema = z.string({ error }).regex(/^rediss?:\/\/[^\s/]+(\/\d{0,4})?$/, { error })
  return schema.register(nature, { kind: 'access' })
}

const redis = map({
  url: restart(
    redisUrl().optional(),
    'URL of a single server; `rediss://` for TLS. Alternatives: `sentinel`, `cluster`.',
  ),
  sentinel: restart(
    map({
      urls: restart(list(redisUrl()), 'Addresses of the Sentinels.'),
      name: restart(text('a name'), "Name of the master in the Sentinels' configuration."),
    }).optional(),
    'A Redis master monitored by Sentinels.',
  ),
  cluster: restart(list(redisUrl()).optional(), 'Some nodes of a Redis Cluster; the others are discovered.'),
  ca: restart(text('the path of a file').optional(), 'Like `upstream.ca`, for `rediss://`. Reloaded when it changes.'),
  username: restart(text('a name').optional(), 'User name, if it is not in the URL.'),
  password: restart(secret(1).optional(), 'Password, if it is not in the URL; with Sentinel always here.'),
  database: restart(count(0, 9_999).prefault(0), 'Database number; 0 in a cluster.'),
  timeout: restart(
    duration(10, 10_000).prefault('250ms'),
    'Time limit per command. After it, the proxy continues without Redis.',
  ),
  prefix: restart(text('a prefix').prefault('slp:'), 'Prefix of all keys and channels.'),
  signingKey: live(
    oneOrMore(secret(16)),
    'Key that signs shared values, so that foreign values are rejected; a list allows rotation. Default: derived from the upstream keys.',
  ),
  whenAway: live(
    z.enum(['closed', 'open'], { error: 'expected closed or open, found {found}' }).prefault('closed'),
    'How budgets work while Redis is unavailable: `closed` = only a small allowance marked in advance may be spent, `open` = each replica counts alone.',
  ),
})

export const schema = map({
  listen: restart(listen.prefault({}), 'The proxy port, for clients.'),
  admin: restart(admin.prefault({}), 'The admin port, for operators.'),
  upstream: live(upstream.prefault({}), 'The paid API behind the proxy.'),
  clients: live(
    z
      .record(name("a client's name"), client, {
        error: 'expected a map of client names, found {found}',
      })
      .prefault({ anonymous: {} }),
    'Clients and their limits. The name is the metric label; `anonymous` = callers without a token. Without `clients`, anonymous callers on loopback are accepted without limits.',
  ),
  cache: live(cache.prefault({}), 'Cached answers, so that nothing is paid twice.'),
  retry: live(retry.prefault({}), 'Retries of failed calls.'),
  breaker: live(breaker.prefault({}), 'The circuit breaker of each scraper.'),
  redis: restart(
    redis.optional(),
    'Redis, for state shared by replicas: answers, calls in flight, limits, budgets. Omit it on a single machine.',
  ),
  jobs: live(jobs.prefault({}), 'How requests are executed upstream.'),
  notify: live(
    notify.prefault([]),
    'Webhooks: one POST per event (budgets at 50, 80, 95 and 100 %, keys, circuits, stores, reloads), retried for an hour.',
  ),
  price: live(price.optional(), 'Price of credits, to show money in the report.'),
  audit: restart(audit.optional(), 'File with one line per request and all its attempts, as read by `replay`.'),
  overload: live(overload.prefault({}), 'Limits beyond which the process refuses requests with 503 OVERLOADED.'),
  log: live(log.prefault({}), 'Log on standard output.'),
  shutdown: live(shutdown.prefault({}), 'Graceful shutdown on SIGTERM.'),
})

type Frozen<T> = T extends Secret | string | number | boolean | undefined
  ? T
  : T extends readonly (infer Item)[]
    ? readonly Frozen<Item>[]
    : { readonly [Name in keyof T]: Frozen<T[Name]> }

export type Config = Frozen<z.output<typeof schema>>

// Projections

type ClientRetry = NonNullable<Config['clients'][string]['retry']>

/**
 * Every class in full: what the client says of it, what was said of it for all, else its own default, else what holds for
 * every class. `keyRest` null = none.
 */
export function resolveRetry(settings: Config['retry'], own: ClientRetry = {}) {
  const general = {
    attempts: own.attempts ?? settings.attempts,
    deadline: own.deadline ?? settings.deadline,
    backoff: {
      base: own.backoff?.base ?? settings.backoff.base,
      max: own.backoff?.max ?? settings.backoff.max,
    },
  }
  const classes = failureClasses.map(
    (name) => [name, resolveClass(general, name, settings.classes[name], own.classes?.[name])] as const,
  )
  return {
    attempts: general.attempts,
    deadline: general.deadline,
    classes: Object.fromEntries(classes) as Record<FailureClass, ReturnType<typeof resolveClass>>,
  }
}

function resolveClass(
  general: Pick<Config['retry'], 'attempts' | 'backoff'>,
  name: FailureClass,
  given: Config['retry']['classes'][FailureClass],
  own: NonNullable<ClientRetry['classes']>[FailureClass],
) {
  const { defaults } = failures[name]
  const usual = Math.min(defaults.attempts ?? general.attempts, general.attempts)
  const base = own?.backoff?.base ?? given.backoff.base ?? general.backoff.base
  return {
    attempts: own?.attempts ?? given.attempts ?? usual,
    backoff: { base, max: Math.max(base, own?.backoff?.max ?? given.backoff.max ?? general.backoff.max) },
    bypassCache: own?.bypassCache ?? given.bypassCache,
    keyRest: given.keyRest === undefined || given.keyRest === 0 ? null : given.keyRest,
  }
}

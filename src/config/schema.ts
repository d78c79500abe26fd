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
      'The certificate, its chain after it, as PEM; read anew when it changes.',
    ),
    key: restart(
      text('the path of a file'),
      'Its private key, as PEM, without a passphrase; read anew when it changes.',
    ),
  })
  return restart(files.optional(), 'HTTPS instead of HTTP, from TLS 1.2 on.')
}

const listen = map({
  host: restart(text('a host name or address').prefault('127.0.0.1'), 'Address on which the proxy listens.'),
  port: restart(
    count(0, 65_535).prefault(8080),
    'Port on which the proxy listens; 0 = any free port, named in the log line "listening".',
  ),
  reusePort: restart(
    flag().prefault(false),
    'Lets several processes of this machine listen on the same port, each with an admin port of its own.',
  ),
  hosts: live(
    z.array(hostName(), { error: 'expected a list of host names, found {found}' }).prefault([]),
    'Names in `Host` that callers without a token may use beside loopback names, when `host` is a loopback address: for a balancer on the same machine that passes the name on.',
  ),
  maxConnections: restart(
    count(1, 1_000_000).prefault(20_000),
    'Connections of clients at the same time; who comes beyond that is answered 503 OVERLOADED and disconnected.',
  ),
  keepAlive: restart(
    duration(1_000, 86_400_000).prefault('75s'),
    'How long an idle connection of a caller is kept; longer than the balancer in front keeps its own (table in docs/several-replicas.md).',
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
    'Bearer token that the admin port demands, at least 16 characters; obligatory off loopback.',
  ),
  tls: tls(),
})

const key = map({
  name: live(name("a key's name"), 'Name of the key in metrics and logs.'),
  secret: live(secret(1), 'The key itself: `${NAME}` from the environment or `file:/path`.'),
  weight: live(count(1, 1000).prefault(1), 'Share of the calls that this key gets, relative to the others.'),
})

const upstream = map({
  url: live(origin().prefault('https://api.scrapellm.com'), 'Where upstream is: scheme, host and port only.'),
  allowInsecure: live(
    flag().prefault(false),
    'Lets `url` be plain http beyond loopback, where anyone on the way can read keys and prompts.',
  ),
  ca: live(
    text('the path of a file').optional(),
    'Certificates of a CA of your own, as PEM, for a gateway that has one; the usual CAs are trusted as well. Read again when it changes.',
  ),
  keys: live(
    list(key).prefault(defaultKeys),
    'Upstream keys, one or more; a spent or limited key rests, the others carry on.',
  ),
  maxConcurrent: live(
    count(1, 100_000).prefault(1000),
    'The most upstream calls under way at the same time, over all scrapers.',
  ),
  perScraper: live(
    z
      .union([count(1, 100_000), z.record(name("a scraper's name"), count(1, 100_000))], {
        error: 'expected a whole number, or a map of scraper names to whole numbers, found {found}',
      })
      .optional(),
    'The most upstream calls under way at the same time for one scraper: a number for each, or a map of scraper names to numbers.',
  ),
  adaptive: live(
    flag().prefault(true),
    'Within these limits, find for each scraper how many calls upstream takes at once: 429 for a rate limit or a full queue lowers the limit, answers raise it. `false` = the limits are fixed.',
  ),
  queue: live(
    map({
      size: live(
        count(0, 10_000).prefault(1000),
        'Calls that may wait for each scraper. In a full queue the client that waits with most for its weight gives way. 0 = no call waits.',
      ),
      maxWait: live(
        duration(0, 600_000).prefault('60s'),
        'Maximum wait before 503 OVERLOADED; a caller that waits less leaves the queue earlier.',
      ),
    }).prefault({}),
    'Where calls wait for a place; clients take turns.',
  ),
  credits: live(
    map({
      perDay: live(credits().optional(), 'Credits of all clients together per UTC day; without it, any number.'),
      perMonth: live(credits().optional(), 'Credits of all clients together per UTC month; without it, any number.'),
      reserve: live(credits().prefault(0), 'The last credits of each are kept for clients with `mayUseReserve: true`.'),
    }).optional(),
    'What the account as a whole may spend, whoever asks. Known answers still come.',
  ),
  connectTimeout: live(duration(10, 600_000).prefault('5s'), 'How long a connection to upstream may take to open.'),
  connectionMaxAge: live(
    duration(1_000, day).prefault('30s'),
    'An older connection to upstream is not used for another call, so that a change of its address in DNS is followed.',
  ),
  proxy: live(
    outboundProxy().optional(),
    'Outbound proxy for calls to upstream, `http://` or `https://`, with user name and password where it wants them; `false` = none. Left out: as `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say.',
  ),
  maxResponseSize: live(
    size(1024, 1024 ** 3).prefault('16MiB'),
    'The longest answer taken from upstream; a longer one is an invalid answer.',
  ),
})

const rate = map({
  limit: live(count(1, 1_000_000_000), 'Requests let in per `per`.'),
  per: live(duration(1, 30 * day), 'The time in which `limit` requests are let in.'),
  burst: live(
    count(1, 1_000_000_000).optional(),
    'Requests let in at once after a quiet time; the same as `limit` when left out.',
  ),
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
    'The file of the answers. Money, jobs and key rests are in `records.db` beside it. The folder is made when missing, and belongs to one process.',
  ),
  maxSize: restart(
    size(1024 ** 2, 1024 ** 4).prefault('2GiB'),
    'All that the answers may take on the disk; the least recently used go first. `records.db` is small, and not in it.',
  ),
})

const cache = map({
  ttl: live(keeping().prefault('12h'), 'How long an answer is fresh.'),
  staleIfError: live(keeping().prefault('12h'), 'How long after that it may still be given instead of an error.'),
  staleWhileRevalidate: live(
    keeping().prefault('0s'),
    'How long after that it is given at once, while one fresh answer is asked for in the background.',
  ),
  emptyResultTtl: live(keeping().prefault('60s'), 'How long an "empty result" answer is remembered; 0s = never.'),
  scope: live(
    scope().prefault('shared'),
    '`shared`: all clients share answers; `client`: no answer crosses from one client to another.',
  ),
  markReplays: live(flag().prefault(true), 'A replayed body says `"cached": true` and `"credits_used": 0`.'),
  memory: live(
    map({
      maxSize: live(
        size(1024 ** 2, 1024 ** 4).optional(),
        'Memory for kept answers; the least recently used go first. Left out: 256MiB, or a quarter of what the process may take, whichever is less. While memory is short it is less (`overload.memory`).',
      ),
    }).prefault({}),
    'Answers kept in memory.',
  ),
  disk: restart(
    z
      .union([disk, z.literal(false)], { error: 'expected false, or a map with path and maxSize, found {found}' })
      .prefault({}),
    'Answers, jobs and budgets that survive a restart; `false` = none of them does.',
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
const baseMeaning = 'Upper limit of the first pause, doubled for each further one; the pause is random below it.'
const maxMeaning = 'No pause is longer.'

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
        'Attempts in all when this is what failed; `retry.attempts` when neither is set.',
      ).meta(defaults.attempts === undefined ? {} : { default: defaults.attempts }),
      backoff: live(
        classBackoff(defaults.base).prefault({}),
        'Pause before the next attempt; what is left out comes from `retry.backoff`.',
      ),
      bypassCache: live(
        flag().prefault(defaults.bypassCache ?? false),
        "The next attempt goes past upstream's own cache.",
      ),
      keyRest: live(
        defaults.keyRest === undefined ? rest.optional() : rest.prefault(defaults.keyRest),
        'How long a key that met this rests; 0s = not at all. While no key is ready, each is tried every 30 s.',
      ),
    }).prefault({}),
    meaning,
  )
}

const retry = map({
  attempts: live(attempts().prefault(4), 'Attempts for one request in all, the first included.'),
  deadline: live(
    deadline().prefault('600s'),
    'Time for a whole upstream question, all attempts and pauses. No attempt starts with less than 10 s left. A caller that waits less (`X-Request-Timeout`) ends its own wait only.',
  ),
  backoff: live(backoff.prefault({}), 'Pauses between attempts: full jitter.'),
  budget: live(
    map({
      capacity: live(count(1, 1_000_000).prefault(100), 'Tokens in the retry budget of each scraper when it is full.'),
      cost: live(count(0, 1_000_000).prefault(5), 'Tokens that one repetition takes.'),
      costSlow: live(count(0, 1_000_000).prefault(10), 'Tokens that a repetition takes after a timeout.'),
      refill: live(duration(1, day).prefault('12s'), 'One token comes back in this time.'),
    }).prefault({}),
    'Limits repetitions when upstream is in trouble.',
  ),
  classes: live(
    map(
      Object.fromEntries(failureClasses.map((name) => [name, failureClass(name)])) as Record<
        FailureClass,
        ReturnType<typeof failureClass>
      >,
    ).prefault({}),
    'What differs for each class of failure.',
  ),
})

const clientCache = map({
  ttl: live(keeping().optional(), 'In place of `cache.ttl`.'),
  staleIfError: live(keeping().optional(), 'In place of `cache.staleIfError`.'),
  staleWhileRevalidate: live(keeping().optional(), 'In place of `cache.staleWhileRevalidate`.'),
  emptyResultTtl: live(keeping().optional(), 'In place of `cache.emptyResultTtl`.'),
  scope: live(scope().optional(), 'In place of `cache.scope`.'),
})

/** Without `keyRest`: keys are everybody's. */
const clientRetry = map({
  attempts: live(attempts().optional(), 'In place of `retry.attempts`.'),
  deadline: live(deadline().optional(), 'In place of `retry.deadline`.'),
  backoff: live(classBackoff(undefined).optional(), 'In place of `retry.backoff`.'),
  classes: live(
    map(
      Object.fromEntries(
        failureClasses.map((name) => [name, live(clientClass().optional(), `In place of \`retry.classes.${name}\`.`)]),
      ) as Record<FailureClass, z.ZodOptional<ReturnType<typeof clientClass>>>,
    ).optional(),
    'What differs for each class of failure; what is left out comes from `retry.classes`.',
  ),
})

function clientClass() {
  return map({
    attempts: live(attempts().optional(), 'In place of `retry.classes.CLASS.attempts`.'),
    backoff: live(classBackoff(undefined).optional(), 'In place of `retry.classes.CLASS.backoff`.'),
    bypassCache: live(flag().optional(), 'In place of `retry.classes.CLASS.bypassCache`.'),
  })
}

function credits() {
  return count(0, 1_000_000_000)
}

const datedToken = map({
  sha256: live(digest(), 'SHA-256 of the token in hexadecimal.'),
  expires: live(date().optional(), 'From this day or time (UTC) on the token is no longer accepted.'),
})

const client = map({
  token: live(oneOrMore(secret(16)), 'Its token, at least 16 characters, or a list of tokens.'),
  tokenSha256: live(
    oneOrMore(
      z.union([digest(), datedToken], { error: 'expected 64 hexadecimal digits, or a map with sha256 and expires' }),
    ),
    'SHA-256 of its token in hexadecimal, or a map with `sha256` and `expires`, or a list of them: what `scrapellm-proxy token NAME` prints.',
  ),
  rate: live(rate.optional(), 'How often it may ask; without it, as often as it likes.'),
  concurrency: live(
    count(1, 100_000).optional(),
    'Questions it may have open at the same time; without it, any number.',
  ),
  weight: live(
    count(1, 1000).prefault(1),
    'Its share of the places for upstream calls, relative to other clients that wait.',
  ),
  priority: live(
    z.enum(['interactive', 'batch'], { error: 'expected interactive or batch, found {found}' }).prefault('interactive'),
    '`batch`: its questions are asked when no `interactive` one waits.',
  ),
  credits: live(
    map({
      perDay: live(credits().optional(), 'Credits per UTC day; without it, any number.'),
      perMonth: live(credits().optional(), 'Credits per UTC month; without it, any number.'),
    }).optional(),
    'What it may spend. When that is gone, known answers still come.',
  ),
  topUp: live(
    map({
      credits: live(credits(), 'Credits on top of `credits.perMonth`.'),
      until: live(date(), 'They are gone from this day or time (UTC) on. Each month until then has them.'),
    }).optional(),
    'More credits for a while.',
  ),
  mayUseReserve: live(flag().optional(), 'It may also spend `upstream.credits.reserve`.'),
  scrapers: live(list(name("a scraper's name")).optional(), 'The scrapers it may ask; without it, all.'),
  retry: live(clientRetry.optional(), 'What differs from `retry` for its requests.'),
  cache: live(clientCache.optional(), 'What differs from `cache` for its requests.'),
  allowAnonymousOnNetwork: live(
    flag().optional(),
    'Only for `anonymous`: lets callers without a token in from the network, too.',
  ),
})

function share(what: string) {
  const error = `expected ${what}, a number above 0, up to 1, found {found}`
  return z.number({ error }).gt(0, { error }).max(1, { error })
}

const breaker = map({
  failureRate: live(
    share('a share of failures').prefault(0.9),
    'The circuit of a scraper opens when at least this share of its calls fails; calls under way count as not failed once failures would have shown.',
  ),
  window: live(count(1, 10_000).prefault(50), 'How many of the latest questions the share is taken of.'),
  minimum: live(count(1, 10_000).prefault(30), 'Outcomes needed before the share counts; at most `window`.'),
  consecutive: live(count(1, 10_000).prefault(20), 'So many failures since the last answer open it as well.'),
  questions: live(
    count(1, 10_000).prefault(3),
    'Failures of at least so many different questions are needed to open it; no more than `consecutive`.',
  ),
  openFor: live(
    duration(1, day).prefault('1s'),
    'Time from the opening to the first trial: one call that is let through.',
  ),
  openForMax: live(duration(1, day).prefault('20s'), 'Each failed trial doubles the time to the next one, up to this.'),
  hold: live(
    duration(0, day).prefault('30s'),
    'For so long after the opening, questions wait for it to close instead of failing with 503 CIRCUIT_OPEN; never beyond their own deadline. 0s = they fail at once.',
  ),
})

const jobs = map({
  execution: live(
    z.enum(['sync', 'durable'], { error: 'expected sync or durable, found {found}' }).prefault('sync'),
    '`durable`: a question is backed by a job upstream, which is taken up again after a restart.',
  ),
})

const audit = map({
  path: restart(text('the path of a file').prefault('data/audit.ndjson'), 'The file; its folder is made when missing.'),
  maxSize: restart(
    size(1024 ** 2, 1024 ** 4).prefault('100MiB'),
    'When it is full, it is set aside as `.1`, in place of the one before.',
  ),
})

const notify = z.array(
  map({
    url: live(webhook(), 'Where a POST goes for each event: https, or http on this machine.'),
    secret: live(
      secret(16).optional(),
      'Signs the body: `X-Proxy-Signature: sha256=…`, HMAC-SHA256 in hexadecimal. Without it nothing is signed.',
    ),
    on: live(
      list(z.enum(notifiedEvents, { error: 'expected budget, key, circuit, store or reload, found {found}' })).prefault(
        [...notifiedEvents],
      ),
      'Which events.',
    ),
  }),
  { error: 'expected a list, found {found}' },
)

const price = map({
  credit: live(
    z
      .number({ error: 'expected a number, found {found}' })
      .min(0, { error: 'expected a number from 0 on, found {found}' }),
    'What one credit costs.',
  ),
  currency: live(
    z
      .string({ error: 'expected three letters such as USD, found {found}' })
      .regex(/^[A-Z]{3}$/, { error: 'expected three letters such as USD, found {found}' }),
    'Its currency, three letters (ISO 4217).',
  ),
})

const overload = map({
  eventLoopDelay: live(
    duration(0, 60_000).prefault('200ms'),
    'When the event loop is late by this for two seconds on end, only known answers are given; five times as late, none. 0s = it is not looked at.',
  ),
  memory: live(
    share('a share of memory').prefault(0.85),
    'From this share of the memory that the process may take (container, machine or heap) on, the memory cache gives way, and if that is not enough, only known answers are given.',
  ),
  memoryCritical: live(
    share('a share of memory').prefault(0.95),
    'From this share on, every new request is refused; the admin port still answers.',
  ),
})

const log = map({
  level: live(
    z
      .enum(['debug', 'info', 'warn', 'error'], { error: 'expected debug, info, warn or error, found {found}' })
      .prefault('info'),
    'The least important lines that are still written.',
  ),
  prompts: live(flag().prefault(false), 'Writes prompts, which are sensitive, instead of their hash.'),
})

const shutdown = map({
  readinessDelay: live(
    duration(0, 3_600_000).prefault('0s'),
    'Between `/readyz` turning 503 and the last new connection.',
  ),
  grace: live(duration(0, day).prefault('660s'), 'How long open requests may take to finish.'),
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
  url: restart(redisUrl().optional(), 'One server; `rediss://` for TLS. Or else `sentinel`, or `cluster`.'),
  sentinel: restart(
    map({
      urls: restart(list(redisUrl()), 'Where the Sentinels are.'),
      name: restart(text('a name'), 'Under which name they watch over the master.'),
    }).optional(),
    'A master that Sentinels watch over.',
  ),
  cluster: restart(list(redisUrl()).optional(), 'Some servers of a cluster; it names the others.'),
  ca: restart(
    text('the path of a file').optional(),
    'The same as `upstream.ca`, for `rediss://`; read anew when it changes.',
  ),
  username: restart(text('a name').optional(), 'Who we are, where it is not in the URL.'),
  password: restart(secret(1).optional(), 'Where it is not in the URL; for Sentinel always.'),
  database: restart(count(0, 9_999).prefault(0), 'Number of the database; 0 in a cluster.'),
  timeout: restart(duration(10, 10_000).prefault('250ms'), 'The longest that any command takes before we do without.'),
  prefix: restart(text('a prefix').prefault('slp:'), 'Before every key and channel of ours.'),
  signingKey: live(
    oneOrMore(secret(16)),
    'Signs what is shared, so that a foreign value is not believed; a list is for rotation. Made from the upstream keys when left out.',
  ),
  whenAway: live(
    z.enum(['closed', 'open'], { error: 'expected closed or open, found {found}' }).prefault('closed'),
    'What budgets do without Redis: `closed` = only a small allowance that was taken in advance, `open` = each replica counts for itself.',
  ),
})

export const schema = map({
  listen: restart(listen.prefault({}), 'The port for clients.'),
  admin: restart(admin.prefault({}), 'The port for operators.'),
  upstream: live(upstream.prefault({}), 'The paid API behind the proxy.'),
  clients: live(
    z
      .record(name("a client's name"), client, {
        error: 'expected a map of client names, found {found}',
      })
      .prefault({ anonymous: {} }),
    'Who may ask. The name is the metric label; `anonymous` = callers without a token. Without `clients`, anonymous callers on loopback are let in without limits.',
  ),
  cache: live(cache.prefault({}), 'Answers kept so that they need not be paid for twice.'),
  retry: live(retry.prefault({}), 'When and how a failed call is repeated.'),
  breaker: live(breaker.prefault({}), 'The circuit breaker of each scraper.'),
  redis: restart(
    redis.optional(),
    'What replicas share: answers, flights, limits, budgets. Leave it out on a single machine.',
  ),
  jobs: live(jobs.prefault({}), 'How questions are carried out.'),
  notify: live(
    notify.prefault([]),
    'Webhooks: one POST per event (budgets at 50, 80, 95 and 100 %, keys, circuits, stores, reloads), repeated for an hour.',
  ),
  price: live(price.optional(), 'Adds money to the report.'),
  audit: restart(audit.optional(), 'One line for each request with all its attempts, as a file: what `replay` reads.'),
  overload: live(
    overload.prefault({}),
    'When the process has more to do than it can: what is refused then gets 503 OVERLOADED.',
  ),
  log: live(log.prefault({}), 'What is written to standard output.'),
  shutdown: live(shutdown.prefault({}), 'What SIGTERM does.'),
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

/** `upstream`: the paid API, its keys, and how many calls it takes. */
import * as z from 'zod'
import {
  count,
  credits,
  day,
  duration,
  flag,
  list,
  live,
  map,
  name,
  fieldMetadata,
  origin,
  secret,
  size,
  text,
} from '../field.ts'

/** What `upstream.keys` is when no file says anything: the one setting that has no default of its own. */
export const defaultKeys = [{ name: 'main', secret: '${SCRAPELLM_API_KEY}' }]

const key = map({
  name: live(name("a key's name"), 'Name of the key in metrics and logs.'),
  secret: live(secret(1), 'The key itself: `${NAME}` from the environment or `file:/path`.'),
  weight: live(count(1, 1000).prefault(1), 'Share of calls that use this key, relative to the other keys.'),
})

/** May hold a password, which is not printed. */
function outboundProxy() {
  const error = 'expected a URL such as http://proxy.example:3128, or false'
  const url = z
    .string({ error })
    .refine((written) => /^https?:\/\/[^\s/]+\/?$/.test(written) && URL.canParse(written), { error })
  return z.union([url, z.literal(false)], { error }).register(fieldMetadata, { kind: 'access' })
}

export const upstream = map({
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

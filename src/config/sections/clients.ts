/** `clients.NAME`: who a client is, and what it may do. */
import * as z from 'zod'
import { type FailureClass, failureClasses } from '../../failures.ts'
import {
  count,
  credits,
  date,
  day,
  digest,
  duration,
  flag,
  list,
  live,
  map,
  name,
  oneOrMore,
  secret,
} from '../field.ts'
import { keeping, scope } from './cache.ts'
import { attempts, classBackoff, deadline } from './retry.ts'

const rate = map({
  limit: live(count(1, 1_000_000_000), 'Requests allowed per `per`.'),
  per: live(duration(1, 30 * day), 'Period in which `limit` requests are allowed.'),
  burst: live(count(1, 1_000_000_000).optional(), 'Requests allowed at once after a quiet period. Default: `limit`.'),
}).transform((given) => ({ ...given, burst: given.burst ?? given.limit }))

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

const datedToken = map({
  sha256: live(digest(), 'SHA-256 of the token in hexadecimal.'),
  expires: live(date().optional(), 'Day or time (UTC) from which the token is no longer accepted.'),
})

export const client = map({
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

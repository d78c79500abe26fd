/**
 * Every setting: its type, default, meaning, limits and reload class, one file in `sections/` for each top-level name. The
 * `Config` type, validation, the JSON Schema and the page of all settings are projections of this file.
 *
 * Durations become milliseconds, sizes bytes, secrets `Secret`.
 */
import * as z from 'zod'
import { Secret } from '../keys/secret.ts'
import { live, map, name, restart } from './field.ts'
import { admin } from './sections/admin.ts'
import { audit } from './sections/audit.ts'
import { breaker } from './sections/breaker.ts'
import { cache } from './sections/cache.ts'
import { client } from './sections/clients.ts'
import { jobs } from './sections/jobs.ts'
import { listen } from './sections/listen.ts'
import { log } from './sections/log.ts'
import { notify } from './sections/notify.ts'
import { overload } from './sections/overload.ts'
import { price } from './sections/price.ts'
import { redis } from './sections/redis.ts'
import { retry } from './sections/retry.ts'
import { shutdown } from './sections/shutdown.ts'
import { upstream } from './sections/upstream.ts'

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

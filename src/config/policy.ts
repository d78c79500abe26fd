/**
 * What holds for the requests of one client: its own settings over those for all. Pure, and in the units of the settings:
 * milliseconds and credits. `null` = no limit.
 */
import { failureClasses, failures, type FailureClass } from '../failures.ts'
import type { Config } from './schema.ts'

const MOST_CACHE_BYTES = 256 * 1_048_576
const CACHE_SHARE = 0.25

/** What the memory cache may take, in bytes. `limitBytes` = what the process may take. */
export function cacheBytesOf({ cache }: Config, limitBytes: number): number {
  return cache.memory.maxSize ?? Math.min(MOST_CACHE_BYTES, Math.floor(CACHE_SHARE * limitBytes))
}

/** Throws for a name that is not in the settings. */
export function resolveClient(config: Config, name: string) {
  const given = config.clients[name]
  if (given === undefined) throw new RangeError(`There is no client named ${name}.`)
  return {
    rate: given.rate ?? null,
    concurrency: given.concurrency ?? null,
    weight: given.weight,
    priority: given.priority,
    retry: resolveRetry(config.retry, given.retry),
    cache: resolveCache(config.cache, given.cache),
    credits: {
      perDay: given.credits?.perDay ?? null,
      perMonth: given.credits?.perMonth ?? null,
      topUp: given.topUp ? { credits: given.topUp.credits, until: Date.parse(given.topUp.until) } : null,
    },
    mayUseReserve: given.mayUseReserve ?? false,
    scrapers: given.scrapers === undefined ? null : new Set(given.scrapers),
  }
}

function resolveCache(settings: Config['cache'], own: Config['clients'][string]['cache'] = {}) {
  return {
    ttl: own.ttl ?? settings.ttl,
    staleIfError: own.staleIfError ?? settings.staleIfError,
    staleWhileRevalidate: own.staleWhileRevalidate ?? settings.staleWhileRevalidate,
    emptyResultTtl: own.emptyResultTtl ?? settings.emptyResultTtl,
    scope: own.scope ?? settings.scope,
  }
}

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

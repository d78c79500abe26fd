/**
 * What holds for the requests of one client: its own settings over those for all. Pure, and in the units of the settings:
 * milliseconds and credits. `null` = no limit.
 */
import { resolveRetry, type Config } from './schema.ts'

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

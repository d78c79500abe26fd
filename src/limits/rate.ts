/**
 * How often a client may ask: GCRA, which is an exact token bucket in a single number, the time at which the bucket will
 * be full again. Counted in whole microseconds, so that nothing is lost to rounding over the years.
 */
import { ProxyError } from '../errors.ts'
import type { Client, LimitState, RatePolicy } from '../model.ts'
import type { Clock } from '../ports.ts'
import { requestsPolicy } from './policy.ts'

export interface RateLimits {
  /** Throws RATE_LIMITED with the time to wait. Null = this client has no limit. */
  admit(client: Client): LimitState | null
  /**
   * One request that was let in did not count after all. The bucket will be full `leftMs` after now as far as that request and those
   * before it go: what it has refilled meanwhile is not given back a second time.
   */
  giveBack(client: Client, leftMs: number): void
}

interface Bucket {
  fullAtUs: number
  perRequestUs: number
}

export function createRateLimits({ clock }: { readonly clock: Clock }): RateLimits {
  /** Per client: when its bucket is full again (the "theoretical arrival time"), at so much per request. */
  const buckets = new Map<string, Bucket>()
  const policies = new WeakMap<RatePolicy, string>()

  function admit({ name, rate }: Client): LimitState | null {
    if (!rate) return null
    const nowUs = Math.floor(clock.now() * 1_000)
    // Rounded up: never more than the limit, by less than a microsecond per request.
    const perRequestUs = Math.ceil((rate.per * 1_000) / rate.limit)
    const toleranceUs = perRequestUs * (rate.burst - 1)

    const bucket = bucketOf(name, nowUs, perRequestUs)
    const aheadUs = Math.max(0, bucket.fullAtUs - nowUs)
    if (aheadUs > toleranceUs) {
      throw rateLimited(rate, Math.ceil((aheadUs - toleranceUs) / 1_000))
    }
    const nextUs = aheadUs + perRequestUs
    bucket.fullAtUs = nowUs + nextUs
    return {
      policy: policies.get(rate) ?? remembered(rate),
      remaining: Math.floor((toleranceUs - nextUs) / perRequestUs) + 1,
      resetMs: Math.ceil(nextUs / 1_000),
    }
  }

  /** The same text for every request of a client. */
  function remembered(rate: RatePolicy): string {
    const policy = requestsPolicy(rate)
    policies.set(rate, policy)
    return policy
  }

  /** Where the limit has changed meanwhile, what was used is counted in requests: half of the old bucket is as many of the new one. */
  function bucketOf(name: string, nowUs: number, perRequestUs: number): Bucket {
    const bucket = buckets.get(name) ?? { fullAtUs: nowUs, perRequestUs }
    buckets.set(name, bucket)
    if (bucket.perRequestUs !== perRequestUs) {
      const usedRequests = Math.max(0, bucket.fullAtUs - nowUs) / bucket.perRequestUs
      bucket.fullAtUs = nowUs + Math.ceil(usedRequests * perRequestUs)
      bucket.perRequestUs = perRequestUs
    }
    return bucket
  }

  function giveBack({ name, rate }: Client, leftMs: number): void {
    const bucket = buckets.get(name)
    if (rate && bucket) bucket.fullAtUs -= Math.min(bucket.perRequestUs, Math.floor(leftMs * 1_000))
  }

  return { admit, giveBack }
}

const PERIODS: ReadonlyMap<number, string> = new Map([
  [1_000, 'second'],
  [60_000, 'minute'],
  [3_600_000, 'hour'],
  [86_400_000, 'day'],
])

export function rateLimited({ limit, per }: RatePolicy, retryAfterMs: number): ProxyError {
  const requests = Math.max(1, Math.round(limit))
  const period = PERIODS.get(per) ?? `${per / 1_000} s`
  const seconds = Math.max(1, Math.ceil(retryAfterMs / 1_000))
  const detail = `Rate limit exceeded: ${requests} ${requests === 1 ? 'request' : 'requests'} per ${period}. Retry in ${seconds} s.`
  return new ProxyError('RATE_LIMITED', detail, { retryAfterMs })
}

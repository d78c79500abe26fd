/**
 * How often a client may ask, counted by all replicas together in the store and by its clock; the same GCRA as in `rate.ts`. While
 * the store is away, each replica grants its share. It starts with a full bucket then, so around such a moment a client
 * may get up to a second burst.
 */
import { luaScript } from '../lua.ts'
import type { Client, LimitState, RatePolicy } from '../model.ts'
import type { Clock, SharedStore } from '../ports.ts'
import type { Session } from '../session.ts'
import { requestsPolicy, withOneMore } from './policy.ts'
import type { ComingPermits } from './shared-concurrency.ts'
import { createRateLimits, rateLimited } from './rate.ts'
import { keyOf, shareOf } from './shares.ts'

export interface SharedRateLimits {
  /**
   * Null = this client has no limit, which takes no asking. Rejects with RATE_LIMITED and the time to wait. `permits` are asked for in the
   * same command.
   */
  admit(client: Client, permits?: () => ComingPermits | null): LimitState | null | Promise<LimitState>
  /** One request that was let in did not count after all. Does not wait for the store. */
  giveBack(client: Client, limits: LimitState, leftMs: number): LimitState
}

interface RatePorts {
  readonly store: SharedStore
  readonly clock: Clock
  readonly session: Pick<Session, 'size'>
}

const rateScript = luaScript('rate.lua', import.meta.url, 1)
const rateAndPermitsScript = luaScript('rate.lua', import.meta.url, 2)
const giveBackScript = luaScript('rate-back.lua', import.meta.url, 1)

export function createSharedRateLimits({ store, clock, session }: RatePorts): SharedRateLimits {
  const alone = createRateLimits({ clock })

  function admit(
    client: Client,
    permits: () => ComingPermits | null = () => null,
  ): LimitState | null | Promise<LimitState> {
    return client.rate ? together(client, client.rate, permits()) : null
  }

  async function together(client: Client, rate: RatePolicy, permits: ComingPermits | null): Promise<LimitState> {
    const perRequestUs = perRequest(rate)
    const toleranceUs = perRequestUs * (rate.burst - 1)
    const key = keyOf('rate', client.name)
    const reply = permits
      ? await store.run(rateAndPermitsScript, [key, permits.key], [perRequestUs, toleranceUs, ...permits.args])
      : await store.run(rateScript, [key], [perRequestUs, toleranceUs])
    const told = reply.kind === 'known' ? readReply(reply.value) : null
    permits?.ended(told ? told.hasPermits : null)
    if (!told) return byItself(client, rate)
    const { isAdmitted, us } = told
    if (!isAdmitted) {
      throw rateLimited(rate, Math.ceil(us / 1_000))
    }
    return {
      policy: requestsPolicy(rate),
      remaining: Math.floor((toleranceUs - us) / perRequestUs) + 1,
      resetMs: Math.ceil(us / 1_000),
    }
  }

  function byItself(client: Client, rate: RatePolicy): LimitState {
    // Not rounded: a bucket takes a broken rate as well, but must hold a whole request.
    const share = { limit: rate.limit / session.size(), per: rate.per, burst: shareOf(rate.burst, session.size()) }
    const { remaining, resetMs } = alone.admit({ ...client, rate: share }) ?? { remaining: 0, resetMs: 0 }
    return { policy: requestsPolicy(rate), remaining, resetMs }
  }

  function giveBack(client: Client, limits: LimitState, leftMs: number): LimitState {
    if (!client.rate) return limits
    void giveBackShared(client, client.rate, leftMs)
    return withOneMore(limits, client.rate)
  }

  async function giveBackShared(client: Client, rate: RatePolicy, leftMs: number): Promise<void> {
    const us = Math.min(perRequest(rate), Math.floor(leftMs * 1_000))
    const reply = await store.run(giveBackScript, [keyOf('rate', client.name)], [us])
    if (reply.kind === 'away') alone.giveBack(client, leftMs)
  }

  return { admit, giveBack }
}

/** In microseconds. */
function perRequest({ per, limit }: RatePolicy): number {
  return Math.ceil((per * 1_000) / limit)
}

/** Null = not a reply of the script. */
function readReply(value: unknown) {
  if (!Array.isArray(value)) return null
  const [isAdmitted, us = -1, hasPermits] = value.map(Number)
  return us >= 0 ? { isAdmitted: isAdmitted === 1, us, hasPermits: hasPermits === 1 } : null
}

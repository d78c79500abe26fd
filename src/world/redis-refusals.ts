/**
 * Whether Redis refuses what it is asked to write: it answers, and yet nothing is kept. Noticed with the first refusal, over when the same
 * kind of command is accepted again, which is tried once a second. Commands are not held back meanwhile: a refusal comes at once.
 */
import type { Clock, Random, Timer } from '../ports.ts'
import type { RedisOperation } from '../telemetry/events.ts'
import type { RedisFailure } from './redis-failure.ts'

export interface RedisRefusals {
  /** The refusal in force; null = Redis takes what it is given. */
  readonly current: RedisFailure | null
  /** `key` says which server of a cluster is tried again. */
  refused(failure: RedisFailure, operation: RedisOperation, key: string): void
  /** Tries again at once: a connection stands again. */
  probeNow(): void
  close(): void
}

export interface RedisRefusalsPorts {
  readonly clock: Clock
  readonly random: Random
  /** Sends a harmless command of this kind. Never rejects. */
  readonly probe: (operation: RedisOperation, key: string) => Promise<'accepted' | 'refused' | 'away'>
  readonly changed: () => void
}

interface Refusal {
  readonly failure: RedisFailure
  readonly operation: RedisOperation
  readonly key: string
  timer: Timer
  isProbed: boolean
}

const PROBE_MS = 1_000

/** Tries what our scripts do, in one slot and in one channel. */
export const PROBE_SCRIPT = `
redis.call('SET', KEYS[1], '', 'PX', 1000)
redis.call('HSET', KEYS[2], 'a', '1')
redis.call('ZADD', KEYS[3], 1, 'a')
redis.call('PUBLISH', ARGV[1], '')
return redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])`

export function createRedisRefusals({ clock, random, probe, changed }: RedisRefusalsPorts): RedisRefusals {
  let refusal: Refusal | null = null
  let isClosed = false

  function refused(failure: RedisFailure, operation: RedisOperation, key: string): void {
    if (refusal || isClosed) return
    refusal = { failure, operation, key, timer: probeLater(), isProbed: false }
    changed()
  }

  function probeLater(): Timer {
    // Not all replicas at the same moment.
    return clock.after(PROBE_MS * (0.75 + random.next() / 2), probeNow)
  }

  function probeNow(): void {
    const tried = refusal
    if (!tried || tried.isProbed || isClosed) return
    tried.timer.cancel()
    tried.isProbed = true
    void probe(tried.operation, tried.key).then((said) => {
      tried.isProbed = false
      if (isClosed) return
      if (said !== 'accepted') {
        tried.timer = probeLater()
        return
      }
      refusal = null
      changed()
    })
  }

  return {
    get current() {
      return refusal?.failure ?? null
    },
    refused,
    probeNow,
    close() {
      isClosed = true
      refusal?.timer.cancel()
    },
  }
}

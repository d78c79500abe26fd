/**
 * Which parts of Redis are asked and which are left alone. One silent timeout, or three failures in a row, and a part is down:
 * nobody waits for it any more but a probe in the background. A single Redis is one part, in a Cluster each server is one.
 */
import type { Clock, Random, Timer } from '../ports.ts'
import type { RedisTrouble } from '../telemetry/events.ts'

export interface RedisBreaker {
  readonly downParts: number
  isDown(part: string): boolean
  /** To be kept with each call, and given back with its failure: what has come in since tells silence from bad luck. */
  answers(part: string): number
  answered(part: string): void
  /** `key` is one of that part, for the probe. */
  failed(part: string, because: RedisTrouble, answersAtStart: number, key: string): void
  /** Asks all parts that are down at once: a connection stands again. */
  probeNow(): void
  close(): void
}

export interface RedisBreakerPorts {
  readonly clock: Clock
  readonly random: Random
  /** Does this part answer now? Never rejects. */
  readonly probe: (key: string) => Promise<boolean>
  readonly changed: (because: RedisTrouble | null) => void
}

interface Part {
  answers: number
  failures: number
  down: { readonly key: string; timer: Timer; isAsked: boolean } | null
}

const FAILURES_TO_TRIP = 3
const PROBE_MS = 1_000

export function createRedisBreaker({ clock, random, probe, changed }: RedisBreakerPorts): RedisBreaker {
  const parts = new Map<string, Part>()
  let downParts = 0
  let closed = false

  return {
    get downParts() {
      return downParts
    },
    isDown: (part) => parts.get(part)?.down != null,
    answers: (part) => partAt(part).answers,
    answered,
    failed,
    probeNow: () => {
      for (const name of parts.keys()) ask(name)
    },
    close,
  }

  function partAt(name: string): Part {
    const known = parts.get(name)
    if (known) return known
    const part: Part = { answers: 0, failures: 0, down: null }
    parts.set(name, part)
    return part
  }

  function answered(name: string): void {
    const part = partAt(name)
    part.answers += 1
    part.failures = 0
  }

  function failed(name: string, because: RedisTrouble, answersAtStart: number, key: string): void {
    const part = partAt(name)
    if (part.down || closed) return
    part.failures += 1
    const isSilent = because === 'timeout' && part.answers === answersAtStart
    if (!isSilent && part.failures < FAILURES_TO_TRIP) return
    part.down = { key, timer: askLater(name), isAsked: false }
    downParts += 1
    changed(because)
  }

  function askLater(name: string): Timer {
    // Not all replicas at the same moment.
    return clock.after(PROBE_MS * (0.75 + random.next() / 2), () => ask(name))
  }

  function ask(name: string): void {
    const down = parts.get(name)?.down
    if (!down || down.isAsked || closed) return
    down.timer.cancel()
    down.isAsked = true
    void probe(down.key).then((isThere) => {
      down.isAsked = false
      if (closed) return
      if (!isThere) {
        down.timer = askLater(name)
        return
      }
      // Its history is gone with it, and with its name: in a Cluster another server may have taken its place.
      parts.delete(name)
      downParts -= 1
      changed(null)
    })
  }

  function close(): void {
    closed = true
    for (const { down } of parts.values()) down?.timer.cancel()
  }
}

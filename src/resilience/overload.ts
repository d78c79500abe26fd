/**
 * Notices when the process has more to do than it can, and sheds load before it falls. Short of memory, kept answers give way first:
 * they can be had again, and misses are refused only if that was not enough. Then known answers are still given, and only in the
 * last stage every new request is refused.
 *
 * The signals are the event loop (late, and hardly ever idle: a machine busy with something else makes it late, too) and
 * memory. One bad moment is none: a pause for garbage, a start or a stopped process lasts for one look, an overload for
 * several in a row; and it is over only when things are clearly better for a while.
 */
import { overloaded } from '../errors.ts'
import type { Overload } from '../parts.ts'
import type { Clock, Emit, Pressure, PressureGauge, Random, Timer } from '../ports.ts'
import type { OverloadCause, OverloadState } from '../telemetry/events.ts'

export interface OverloadPolicy {
  /** 0 = the event loop is not looked at. */
  readonly eventLoopDelay: number
  /** Shares of the limit: from the first on the cache gives way, then misses are refused; from the second on all requests. */
  readonly memory: number
  readonly memoryCritical: number
}

/** Kept answers in memory, which give way. */
export interface YieldingCache {
  readonly bytes: number
  /** What it may take now. */
  readonly maxBytes: number
  /** What it may take by the settings. */
  readonly fullBytes: number
  resize(maxBytes: number): void
}

interface OverloadPorts {
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
  readonly gauge: PressureGauge
  readonly cache: YieldingCache
}

export interface OverloadMonitor extends Overload {
  readonly state: OverloadState
  /** Null while calm. */
  readonly because: OverloadCause | null
  /** As it was found last. */
  readonly memory: number
  /** Other limits from now on. */
  adopt(policy: OverloadPolicy): void
  close(): void
}

const lookEveryMs = 500
const looksToRaise = 4
const looksToEase = 10
const looksToReclaim = 10
/** What is better than so much of a limit is clearly better. */
const clearly = 0.95
const busy = 0.8
const criticalDelays = 5
/** A cache that has given way grows again below this share of `overload.memory`, by this share of its full size with each look. */
const regrowBelow = 0.9
const regrowBy = 0.01
/** Less is not worth giving. */
const leastCacheBytes = 1_048_576

const states = ['calm', 'shedding', 'critical'] as const
const details = {
  'event-loop': 'The CPU is overloaded, so only cached answers are served.',
  memory: 'Memory is low, so only cached answers are served.',
} as const satisfies Record<OverloadCause, string>

export const neverOverloaded: Overload = { state: 'calm', mayAsk() {} }

export function createOverload(first: OverloadPolicy, ports: OverloadPorts): OverloadMonitor {
  let policy = first
  const { clock, random, emit, gauge, cache } = ports
  let level = 0
  let because: OverloadCause | null = null
  let worse = 0
  let better = 0
  let memory = 0
  let sinceReclaim = looksToReclaim
  let timer: Timer = clock.after(lookEveryMs, look)

  return {
    get state() {
      return states[level] ?? 'calm'
    },
    get because() {
      return because
    },
    get memory() {
      return memory
    },
    mayAsk() {
      if (because) throw overloaded(because, details[because], random.next())
    },
    adopt: (next) => void (policy = next),
    close() {
      timer.cancel()
      gauge.close()
    },
  }

  function look(): void {
    timer = clock.after(lookEveryMs, look)
    const pressure = gauge.read()
    memory = pressure.memory
    relieve()
    worse = levelOf(pressure, 1) > level ? worse + 1 : 0
    better = levelOf(pressure, clearly) < level ? better + 1 : 0
    if (worse >= looksToRaise) move(level + 1, pressure)
    else if (better >= looksToEase) move(level - 1, pressure)
    // The other cause may be what is left of an overload.
    else if (level > 0) because = causeOf(pressure) ?? because
  }

  /** Takes from the cache what is missing, or gives some of it back. */
  function relieve(): void {
    sinceReclaim += 1
    if (memory >= policy.memory) {
      const isYielding = !hasGivenWay()
      const missing = (memory - clearly * policy.memory) * gauge.limitBytes
      if (isYielding) resizeCache(Math.max(leastCacheBytes, cache.bytes - missing))
      // Garbage is no reason to refuse anything, and what the cache gave is garbage so far.
      if (isYielding || sinceReclaim >= looksToReclaim) {
        gauge.reclaim()
        sinceReclaim = 0
      }
    } else if (memory < regrowBelow * policy.memory && cache.maxBytes < cache.fullBytes) {
      resizeCache(Math.min(cache.fullBytes, cache.maxBytes + regrowBy * cache.fullBytes))
    }
  }

  /** Tells the beginning and the end. */
  function resizeCache(bytes: number): void {
    const wasFull = cache.maxBytes >= cache.fullBytes
    cache.resize(Math.floor(bytes))
    const isFull = cache.maxBytes >= cache.fullBytes
    if (isFull !== wasFull) emit({ kind: 'cache-gives-way', isOver: isFull, maxBytes: cache.maxBytes, memory })
  }

  function hasGivenWay(): boolean {
    return cache.bytes <= leastCacheBytes
  }

  function move(to: number, pressure: Pressure): void {
    because = to === 0 ? null : (causeOf(pressure) ?? because)
    level = to
    worse = 0
    better = 0
    const { eventLoopDelayMs } = pressure
    emit({ kind: 'overload-changed', to: states[to] ?? 'calm', because, eventLoopDelayMs, memory: pressure.memory })
  }

  /** The one that is worse; null = neither is bad now. */
  function causeOf(pressure: Pressure): OverloadCause | null {
    const [byMemory, byLoop] = [memoryLevel(pressure, clearly), loopLevel(pressure, clearly)]
    if (byMemory === 0 && byLoop === 0) return null
    return byMemory >= byLoop ? 'memory' : 'event-loop'
  }

  function levelOf(pressure: Pressure, factor: number): number {
    return Math.max(loopLevel(pressure, factor), memoryLevel(pressure, factor))
  }

  function loopLevel({ eventLoopDelayMs, eventLoopBusy }: Pressure, factor: number): number {
    const limitMs = policy.eventLoopDelay * factor
    if (limitMs === 0 || eventLoopBusy < busy * factor || eventLoopDelayMs < limitMs) return 0
    return eventLoopDelayMs < criticalDelays * limitMs ? 1 : 2
  }

  function memoryLevel({ memory: share }: Pressure, factor: number): number {
    if (share >= policy.memoryCritical * factor) return 2
    return share >= policy.memory * factor && hasGivenWay() ? 1 : 0
  }
}

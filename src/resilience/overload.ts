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

class PressureMonitor implements OverloadMonitor {
  readonly #clock: Clock
  readonly #random: Random
  readonly #emit: Emit
  readonly #gauge: PressureGauge
  readonly #cache: YieldingCache
  #policy: OverloadPolicy
  #level = 0
  // Read with every request: values, not getters.
  state: OverloadState = 'calm'
  because: OverloadCause | null = null
  memory = 0
  #worse = 0
  #better = 0
  #sinceReclaim = looksToReclaim
  #timer: Timer

  constructor(first: OverloadPolicy, ports: OverloadPorts) {
    this.#policy = first
    const { clock, random, emit, gauge, cache } = ports
    this.#clock = clock
    this.#random = random
    this.#emit = emit
    this.#gauge = gauge
    this.#cache = cache
    this.#timer = clock.after(lookEveryMs, this.#look)
  }

  readonly mayAsk: OverloadMonitor['mayAsk'] = () => {
    if (this.because) throw overloaded(this.because, details[this.because], this.#random.next())
  }

  readonly adopt: OverloadMonitor['adopt'] = (next) => void (this.#policy = next)

  readonly close: OverloadMonitor['close'] = () => {
    this.#timer.cancel()
    this.#gauge.close()
  }

  readonly #look = (): void => {
    this.#timer = this.#clock.after(lookEveryMs, this.#look)
    const pressure = this.#gauge.read()
    this.memory = pressure.memory
    this.#relieve()
    this.#worse = this.#levelOf(pressure, 1) > this.#level ? this.#worse + 1 : 0
    this.#better = this.#levelOf(pressure, clearly) < this.#level ? this.#better + 1 : 0
    if (this.#worse >= looksToRaise) this.#move(this.#level + 1, pressure)
    else if (this.#better >= looksToEase) this.#move(this.#level - 1, pressure)
    // The other cause may be what is left of an overload.
    else if (this.#level > 0) this.because = this.#causeOf(pressure) ?? this.because
  }

  /** Takes from the cache what is missing, or gives some of it back. */
  #relieve(): void {
    this.#sinceReclaim += 1
    if (this.memory >= this.#policy.memory) {
      const isYielding = !this.#hasGivenWay()
      const missing = (this.memory - clearly * this.#policy.memory) * this.#gauge.limitBytes
      if (isYielding) this.#resizeCache(Math.max(leastCacheBytes, this.#cache.bytes - missing))
      // Garbage is no reason to refuse anything, and what the cache gave is garbage so far.
      if (isYielding || this.#sinceReclaim >= looksToReclaim) {
        this.#gauge.reclaim()
        this.#sinceReclaim = 0
      }
    } else if (this.memory < regrowBelow * this.#policy.memory && this.#cache.maxBytes < this.#cache.fullBytes) {
      this.#resizeCache(Math.min(this.#cache.fullBytes, this.#cache.maxBytes + regrowBy * this.#cache.fullBytes))
    }
  }

  /** Tells the beginning and the end. */
  #resizeCache(bytes: number): void {
    const wasFull = this.#cache.maxBytes >= this.#cache.fullBytes
    this.#cache.resize(Math.floor(bytes))
    const isFull = this.#cache.maxBytes >= this.#cache.fullBytes
    if (isFull !== wasFull)
      this.#emit({ kind: 'cache-gives-way', isOver: isFull, maxBytes: this.#cache.maxBytes, memory: this.memory })
  }

  #hasGivenWay(): boolean {
    return this.#cache.bytes <= leastCacheBytes
  }

  #move(to: number, pressure: Pressure): void {
    this.because = to === 0 ? null : (this.#causeOf(pressure) ?? this.because)
    this.#level = to
    this.state = states[to] ?? 'calm'
    this.#worse = 0
    this.#better = 0
    const { eventLoopDelayMs } = pressure
    this.#emit({
      kind: 'overload-changed',
      to: this.state,
      because: this.because,
      eventLoopDelayMs,
      memory: pressure.memory,
    })
  }

  /** The one that is worse; null = neither is bad now. */
  #causeOf(pressure: Pressure): OverloadCause | null {
    const [byMemory, byLoop] = [this.#memoryLevel(pressure, clearly), this.#loopLevel(pressure, clearly)]
    if (byMemory === 0 && byLoop === 0) return null
    return byMemory >= byLoop ? 'memory' : 'event-loop'
  }

  #levelOf(pressure: Pressure, factor: number): number {
    return Math.max(this.#loopLevel(pressure, factor), this.#memoryLevel(pressure, factor))
  }

  #loopLevel({ eventLoopDelayMs, eventLoopBusy }: Pressure, factor: number): number {
    const limitMs = this.#policy.eventLoopDelay * factor
    if (limitMs === 0 || eventLoopBusy < busy * factor || eventLoopDelayMs < limitMs) return 0
    return eventLoopDelayMs < criticalDelays * limitMs ? 1 : 2
  }

  #memoryLevel({ memory: share }: Pressure, factor: number): number {
    if (share >= this.#policy.memoryCritical * factor) return 2
    return share >= this.#policy.memory * factor && this.#hasGivenWay() ? 1 : 0
  }
}

export function createOverload(first: OverloadPolicy, ports: OverloadPorts): OverloadMonitor {
  return new PressureMonitor(first, ports)
}

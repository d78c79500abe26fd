/**
 * Notices when the process has more to do than it can, and sheds load before it falls: first what would ask upstream, while
 * known answers are still given, then every new request.
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
  /** Shares of the limit, from which on misses, or all requests, are refused. */
  readonly memory: number
  readonly memoryCritical: number
}

interface OverloadPorts {
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
  readonly gauge: PressureGauge
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
/** What is better than so much of a limit is clearly better. */
const clearly = 0.95
const busy = 0.8
const criticalDelays = 5

const states = ['calm', 'shedding', 'critical'] as const

export const neverOverloaded: Overload = { state: 'calm', mayAsk() {} }

export function createOverload(first: OverloadPolicy, ports: OverloadPorts): OverloadMonitor {
  let policy = first
  const { clock, random, emit, gauge } = ports
  let level = 0
  let because: OverloadCause | null = null
  let worse = 0
  let better = 0
  let memory = 0
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
      if (level > 0) throw overloaded('This proxy is overloaded: only known answers are given.', random.next())
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
    worse = levelOf(pressure, 1) > level ? worse + 1 : 0
    better = levelOf(pressure, clearly) < level ? better + 1 : 0
    if (worse >= looksToRaise) move(level + 1, pressure)
    else if (better >= looksToEase) move(level - 1, pressure)
  }

  function move(to: number, pressure: Pressure): void {
    if (to === 0) because = null
    else if (to > level) because = memoryLevel(pressure, 1) > level ? 'memory' : 'event-loop'
    level = to
    worse = 0
    better = 0
    const { eventLoopDelayMs } = pressure
    emit({ kind: 'overload-changed', to: states[to] ?? 'calm', because, eventLoopDelayMs, memory: pressure.memory })
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
    return share >= policy.memory * factor ? 1 : 0
  }
}

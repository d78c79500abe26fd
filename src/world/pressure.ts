/**
 * How hard this process is pressed, as Node and the system tell it: the event loop, its memory against the limit of its
 * container or machine, its heap against the limit of V8.
 *
 * Resident memory alone would never say that memory is free again: what glibc's `malloc` gets back it hardly ever returns to the system
 * (measured: 140 MiB of answers of 20 KB were freed, 1 MiB was returned), and uses for the next allocations. So memory that the
 * allocator keeps unused does not count. Its amount is not told: it is what is left beside heap, buffers and native memory, whose
 * growth shows in new maxima. That is an estimate, so near the limit it is believed only while resident memory does not grow.
 */
import { totalmem } from 'node:os'
import { monitorEventLoopDelay, performance } from 'node:perf_hooks'
import { getHeapStatistics, setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { PressureGauge } from '../ports.ts'

/** Node's histogram holds the time from one of its ticks to the next, lateness and this included. */
const tickMs = 50
/** Of the limit: a new maximum by less is no evidence, because the heap touches its pages one by one. */
const NOISE = 0.02
/** Of the limit: above, resident memory must not have grown for so many looks (five seconds). */
const NEARLY_ALL = 0.95
const LOOKS_TO_TRUST = 10

type Usage = Pick<NodeJS.MemoryUsage, 'rss' | 'heapTotal' | 'arrayBuffers'>

export function createPressureGauge({ limitBytes = memoryLimit(), usage = process.memoryUsage } = {}): PressureGauge {
  const delay = monitorEventLoopDelay({ resolution: tickMs })
  const inUse = memoryInUse(limitBytes)
  let utilization = performance.eventLoopUtilization()
  let readAt = performance.now()
  delay.enable()

  return {
    limitBytes,
    read() {
      const before = { utilization, readAt }
      utilization = performance.eventLoopUtilization()
      readAt = performance.now()
      // Not one tick: the loop was blocked all the time.
      const longestMs = delay.count === 0 ? readAt - before.readAt : delay.percentile(99) / 1e6
      delay.reset()
      const { used_heap_size: heapBytes, heap_size_limit: heapLimitBytes } = getHeapStatistics()
      return {
        eventLoopDelayMs: Math.max(0, longestMs - tickMs),
        eventLoopBusy: performance.eventLoopUtilization(utilization, before.utilization).utilization,
        memory: Math.max(inUse(usage()) / limitBytes, heapBytes / heapLimitBytes),
      }
    },
    reclaim: () => collectGarbage(),
    close: () => void delay.disable(),
  }
}

/** Of the container, where there is one: without a limit it is 0, or more than any machine has. */
export function memoryLimit(): number {
  const constrained = process.constrainedMemory()
  return constrained > 0 && constrained < totalmem() ? constrained : totalmem()
}

/** From one look to the next, in bytes. Never more than what is resident. */
export function memoryInUse(limitBytes: number): (usage: Usage) => number {
  let highest = 0
  /** Neither heap nor buffers: code, stacks, sockets. At most; the rest is unused. */
  let native = 0
  let looksWithoutGrowth = 0
  return ({ rss, heapTotal, arrayBuffers }) => {
    // The heap does not come from `malloc`, and its pages are returned.
    const allocated = rss - heapTotal
    const grown = allocated - highest
    looksWithoutGrowth += 1
    if (highest === 0 || grown > NOISE * limitBytes) {
      highest = allocated
      native += grown
      looksWithoutGrowth = 0
    }
    native = Math.min(native, allocated - arrayBuffers)
    if (rss > NEARLY_ALL * limitBytes && looksWithoutGrowth < LOOKS_TO_TRUST) return rss
    return heapTotal + Math.min(allocated, arrayBuffers + native)
  }
}

/** Made at the first need: V8 has it only with a flag, which may be set at any time. */
let collect: (() => void) | null = null

function collectGarbage(): void {
  if (!collect) {
    setFlagsFromString('--expose-gc')
    collect = runInNewContext('gc') as () => void
  }
  collect()
}

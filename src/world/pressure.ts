/**
 * How hard this process is pressed, as Node and the system tell it: the event loop, its memory against the limit of its
 * container or machine, its heap against the limit of V8.
 */
import { totalmem } from 'node:os'
import { monitorEventLoopDelay, performance } from 'node:perf_hooks'
import { getHeapStatistics } from 'node:v8'
import type { PressureGauge } from '../ports.ts'

/** Node's histogram holds the time from one of its ticks to the next, lateness and this included. */
const tickMs = 50

export function createPressureGauge(): PressureGauge {
  const delay = monitorEventLoopDelay({ resolution: tickMs })
  const limitBytes = memoryLimit()
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
        memory: Math.max(process.memoryUsage.rss() / limitBytes, heapBytes / heapLimitBytes),
      }
    },
    close: () => void delay.disable(),
  }
}

/** Of the container, where there is one: without a limit it is 0, or more than any machine has. */
export function memoryLimit(): number {
  const constrained = process.constrainedMemory()
  return constrained > 0 && constrained < totalmem() ? constrained : totalmem()
}

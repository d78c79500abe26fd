/**
 * The real clock. `now` is the monotonic clock with the epoch of the process start added, so that it never runs
 * backwards; `wall` follows the steps of the system clock. Timers do not keep the process alive.
 */
import type { Clock, Timer } from '../ports.ts'

/** Node fires longer timers at once, so they are cut into legs of this length. */
const longestTimerMs = 2 ** 31 - 1

export function createClock(): Clock {
  return {
    now: () => performance.timeOrigin + performance.now(),
    wall: () => Date.now(),
    after,
  }
}

function after(ms: number, job: () => void): Timer {
  let timer = leg(ms)
  return { cancel: () => clearTimeout(timer) }

  function leg(leftMs: number): NodeJS.Timeout {
    const isLast = leftMs <= longestTimerMs
    const next = isLast ? job : () => void (timer = leg(leftMs - longestTimerMs))
    return setTimeout(next, Math.max(0, isLast ? leftMs : longestTimerMs)).unref()
  }
}

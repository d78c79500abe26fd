/** Does something again and again, one at a time, and at once when asked to: how a replica shows that it lives. */
import type { Clock, Timer } from '../ports.ts'

export interface Heartbeat {
  /** Beats now, or rides along with the beat under way. */
  now(): Promise<void>
  stop(): void
}

export function createHeartbeat(clock: Clock, everyMs: number, beat: () => Promise<void>): Heartbeat {
  let underWay: Promise<void> | null = null
  let isStopped = false
  let timer: Timer = clock.after(everyMs, tick)

  function tick(): void {
    void now()
  }

  function now(): Promise<void> {
    underWay ??= once()
    return underWay
  }

  async function once(): Promise<void> {
    timer.cancel()
    try {
      await beat()
    } finally {
      underWay = null
      if (!isStopped) timer = clock.after(everyMs, tick)
    }
  }

  return {
    now,
    stop() {
      isStopped = true
      timer.cancel()
    },
  }
}

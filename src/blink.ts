/**
 * Tells a shared store that blinks from one that is away. A dropped connection, a restart or a stall is over within a second or two,
 * and an answer takes longer than that: it is worth the wait to learn whether it is paid for already. Once the store has been away
 * for longer, nobody waits.
 */
import type { Clock, SharedStore } from './ports.ts'

export interface Blink {
  /**
   * For a caller that was just told `away`. True: the store is up, ask again. False: go on without it. Takes at most what is left of
   * `blinkMs` since the store went away, and not longer than until `until`, by the clock. Never rejects.
   */
  isOver(until?: number): Promise<boolean>
  /** Everybody who waits goes on without the store. */
  close(): void
}

const BLINK_MS = 2_000

export function createBlink(store: Pick<SharedStore, 'state' | 'onState'>, clock: Clock, blinkMs = BLINK_MS): Blink {
  const waiting = new Set<() => void>()
  // Right after a start, too, the store has this time to connect.
  let wentAt = clock.now()
  const stop = store.onState((state) => {
    if (state === 'down') wentAt = clock.now()
    else wakeAll()
  })

  return {
    async isOver(until = Number.POSITIVE_INFINITY) {
      const leftMs = Math.min(wentAt + blinkMs, until) - clock.now()
      if (store.state === 'down' && leftMs > 0) await pause(leftMs)
      return store.state === 'up'
    },
    close() {
      stop()
      wentAt = Number.NEGATIVE_INFINITY
      wakeAll()
    },
  }

  function pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        timer.cancel()
        waiting.delete(wake)
        resolve()
      }
      const timer = clock.after(ms, wake)
      waiting.add(wake)
    })
  }

  function wakeAll(): void {
    for (const wake of waiting) wake()
  }
}

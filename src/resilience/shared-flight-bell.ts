/** Somebody rests until it rings. What rings before they lie down is heard, too. */
import type { Clock } from '../ports.ts'

export interface Bell {
  readonly ring: () => void
  readonly rest: (ms: number) => Promise<void>
}

export function createBell(clock: Clock): Bell {
  let hasRung = false
  let wake = (): void => {}

  return {
    ring() {
      hasRung = true
      wake()
    },
    async rest(ms) {
      if (!hasRung) {
        await new Promise<void>((resolve) => {
          const timer = clock.after(ms, resolve)
          wake = () => {
            timer.cancel()
            resolve()
          }
        })
      }
      hasRung = false
    },
  }
}

/** A pause that can be cut short. A notification that comes before the pause counts, too. */
import type { Clock } from '../ports.ts'

export interface Notifier {
  readonly notify: () => void
  readonly pause: (ms: number) => Promise<void>
}

export function createNotifier(clock: Clock): Notifier {
  let isNotified = false
  let wake = (): void => {}

  return {
    notify() {
      isNotified = true
      wake()
    },
    async pause(ms) {
      if (!isNotified) {
        await new Promise<void>((resolve) => {
          const timer = clock.after(ms, resolve)
          wake = () => {
            timer.cancel()
            resolve()
          }
        })
      }
      isNotified = false
    },
  }
}

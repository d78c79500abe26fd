/**
 * Attempts that wait for what becomes of a circuit that is closed and may open soon. In the first moments of an outage questions
 * would use up their attempts, and the retry budget of all, before the circuit opens and holds them.
 */
import type { Clock, Timer } from '../ports.ts'
import type { Waiter } from './held.ts'

export interface Doubts {
  readonly size: number
  /** Resolves when the circuit opens, or does not look as if it would; after so long it is still not known. */
  wait(isDoubtful: () => boolean, longestMs: number, waiter: Waiter): Promise<'known' | 'unknown'>
  /** Some call has ended. */
  review(): void
  /** The circuit has opened, or the process ends. */
  endAll(): void
}

interface Doubt {
  readonly isDoubtful: () => boolean
  readonly until: number
  end(how: 'known' | 'unknown'): void
}

const LOOK_EVERY_MS = 500

export function createDoubts(clock: Clock): Doubts {
  const doubts = new Set<Doubt>()
  let timer: Timer | null = null

  function wait(isDoubtful: () => boolean, longestMs: number, waiter: Waiter): Promise<'known' | 'unknown'> {
    return new Promise((resolve) => {
      let stopListening = (): void => {}
      const doubt: Doubt = {
        isDoubtful,
        until: clock.now() + longestMs,
        end(how) {
          if (!doubts.delete(doubt)) return
          stopListening()
          resolve(how)
        },
      }
      doubts.add(doubt)
      stopListening = waiter.onAbandoned(() => doubt.end('unknown'))
      waiter.held()
      if (waiter.patienceUntil() === 0) doubt.end('unknown')
      review()
    })
  }

  function review(): void {
    timer?.cancel()
    const now = clock.now()
    for (const doubt of doubts) {
      if (!doubt.isDoubtful()) doubt.end('known')
      else if (doubt.until <= now) doubt.end('unknown')
    }
    timer = doubts.size > 0 ? clock.after(LOOK_EVERY_MS, review) : null
  }

  function endAll(): void {
    timer?.cancel()
    timer = null
    for (const doubt of doubts) doubt.end('known')
  }

  return {
    wait,
    review,
    endAll,
    get size() {
      return doubts.size
    },
  }
}

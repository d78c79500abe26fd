/** Attempts that wait while a circuit is open, first come first served: a bounded queue, which nobody is in beyond their patience. */
import type { ProxyError } from '../errors.ts'
import type { Flight } from '../flights.ts'
import type { Clock } from '../ports.ts'
import type { HeldEnd } from '../telemetry/events.ts'

/** What an attempt waits with. `held`: waiters who have an expired answer to fall back on need not wait. */
export type Waiter = Pick<Flight, 'patienceUntil' | 'onAbandoned' | 'held'>

export interface HeldQueue<Grant> {
  readonly size: number
  /** Resolves with what `letIn` grants; rejects with `refuse`, or with `left()` when nobody waits for it any more. */
  wait(waiter: Waiter, isLast: boolean, left: () => ProxyError): Promise<Grant>
  /** The first of the queue, which must not be empty; of those that have more attempts left, for `trial`, if there are any. */
  letIn(grant: Grant, how: 'trial' | 'free'): void
  refuse(error: ProxyError): void
}

interface Held<Grant> {
  readonly isLast: boolean
  readonly end: (how: HeldEnd) => void
  readonly resolve: (grant: Grant) => void
  readonly reject: (error: ProxyError) => void
}

export function createHeldQueue<Grant>(clock: Clock, ended: (how: HeldEnd, heldMs: number) => void): HeldQueue<Grant> {
  const queue = new Set<Held<Grant>>()

  function wait(waiter: Waiter, isLast: boolean, left: () => ProxyError): Promise<Grant> {
    return new Promise((resolve, reject) => {
      const since = clock.now()
      let stopListening = (): void => {}
      const held: Held<Grant> = {
        isLast,
        resolve,
        reject,
        end(how) {
          queue.delete(held)
          stopListening()
          ended(how, clock.now() - since)
        },
      }
      const leave = (): void => {
        if (!queue.has(held)) return
        held.end('left')
        reject(left())
      }
      queue.add(held)
      stopListening = waiter.onAbandoned(leave)
      waiter.held()
      // Nobody may have waited for it in the first place.
      if (waiter.patienceUntil() === 0) leave()
    })
  }

  function letIn(grant: Grant, how: 'trial' | 'free'): void {
    let [first] = queue
    if (how === 'trial' && first?.isLast) first = queue.values().find(({ isLast }) => !isLast) ?? first
    if (!first) throw new TypeError('The queue is empty')
    first.end('passed')
    first.resolve(grant)
  }

  function refuse(error: ProxyError): void {
    for (const held of queue) {
      held.end('refused')
      held.reject(error)
    }
  }

  return {
    wait,
    letIn,
    refuse,
    get size() {
      return queue.size
    },
  }
}

/**
 * The requests that have begun and not ended, in the order they came. Most end before the next one begins, and those cost
 * nothing but a pointer.
 */
import type { Exchange } from '../model.ts'
import type { RequestIdentity } from '../parts.ts'
import { createRoster, type Present } from '../roster.ts'

export interface OpenRequests {
  add(exchange: Exchange): void
  delete(exchange: Exchange): void
  has(request: RequestIdentity): boolean
  all(): Iterable<Exchange>
}

export function createOpenRequests(): OpenRequests {
  const waiting = createRoster<Exchange>()
  const places = new WeakMap<RequestIdentity, Present<Exchange>>()
  let latest: Exchange | null = null

  return {
    add(exchange) {
      if (latest) places.set(latest.request, waiting.add(latest))
      latest = exchange
    },
    delete(exchange) {
      if (latest === exchange) latest = null
      else places.get(exchange.request)?.leave()
    },
    has(request) {
      const member = places.get(request)?.member ?? null
      return latest?.request === request || member !== null
    },
    *all() {
      yield* waiting
      if (latest) yield latest
    },
  }
}

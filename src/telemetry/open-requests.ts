/**
 * The requests that have begun and not ended, in the order they came. Most end before the next one begins, and those never get
 * into the map: of a map that things come into and leave all the time, V8 makes a new table every few requests, each old one
 * points to its successor, and one of them that has grown old keeps all later ones alive until the next full collection, with
 * the requests and sockets in them (measured: 4.6 KB for each hit, copied by every collection of young objects).
 */
import type { Exchange } from '../model.ts'
import type { RequestIdentity } from '../parts.ts'

export interface OpenRequests {
  add(exchange: Exchange): void
  delete(exchange: Exchange): void
  has(request: RequestIdentity): boolean
  all(): Iterable<Exchange>
}

export function createOpenRequests(): OpenRequests {
  const waiting = new Map<RequestIdentity, Exchange>()
  let latest: Exchange | null = null

  return {
    add(exchange) {
      if (latest) waiting.set(latest.request, latest)
      latest = exchange
    },
    delete(exchange) {
      if (latest === exchange) latest = null
      else waiting.delete(exchange.request)
    },
    has: (request) => latest?.request === request || waiting.has(request),
    *all() {
      yield* waiting.values()
      if (latest) yield latest
    },
  }
}

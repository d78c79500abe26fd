/** The requests that have begun and not ended, in the order they came. */
import type { Exchange } from '../model.ts'
import type { RequestIdentity } from '../fetch-parts.ts'
import { createLinkedList, type ListEntry } from '../linked-list.ts'
import type { RecordedFlight } from './recorded-flight.ts'

/** What is marked on each of them. */
export class OpenRequest {
  /** The flight that was begun for it. */
  begun: RecordedFlight | null = null
  readonly place: ListEntry<Exchange>

  constructor(place: ListEntry<Exchange>) {
    this.place = place
  }
}

export interface OpenRequests {
  add(exchange: Exchange): void
  delete(exchange: Exchange): void
  has(request: RequestIdentity): boolean
  all(): Iterable<Exchange>
}

export function createOpenRequests(): OpenRequests {
  const open = createLinkedList<Exchange>()

  return {
    add: (exchange) => void (exchange.request.trail = new OpenRequest(open.add(exchange))),
    delete: ({ request }) => markOf(request)?.place.leave(),
    has: (request) => markOf(request)?.place.member != null,
    all: () => open,
  }
}

/** Null = it is not a caller's request. */
export function markOf({ trail }: RequestIdentity): OpenRequest | null {
  return trail instanceof OpenRequest ? trail : null
}

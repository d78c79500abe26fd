/** How many questions of a client may be open at a time: for calls of minutes this limit matters more than the rate. */
import { ProxyError } from '../errors.ts'
import type { Client } from '../model.ts'
import type { Place } from '../fetch-parts.ts'

export interface ConcurrencyLimits {
  /** Throws CONCURRENCY_LIMITED. A client without a limit is counted all the same. */
  enter(client: Client): Place
  open(clientName: string): number
}

/** Nobody knows when one of the open questions is answered. */
const retryAfterMs = 1_000

export function createConcurrencyLimits(): ConcurrencyLimits {
  const taken = new Map<string, number>()

  function enter({ name, concurrency }: Client): Place {
    const before = open(name)
    if (concurrency !== null && before >= concurrency) {
      throw new ProxyError(
        'CONCURRENCY_LIMITED',
        'This client has as many open requests as it may have. Wait until one is answered.',
        { retryAfterMs },
      )
    }
    taken.set(name, before + 1)

    let isTaken = true
    return {
      leave() {
        if (!isTaken) return
        isTaken = false
        taken.set(name, open(name) - 1)
      },
    }
  }

  function open(clientName: string): number {
    return taken.get(clientName) ?? 0
  }

  return { enter, open }
}

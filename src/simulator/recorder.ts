// Everything that was asked of the simulator, and the barriers that tests wait at instead of sleeping.
// A change is announced after the simulator has dealt with it: who was woken by received() finds a held request held.

import { matches, type Match } from './match.ts'
import type { RecordedRequest, RequestFacts } from './request.ts'

export interface Recorder {
  readonly requests: readonly RecordedRequest[]
  /** Requests that are not finished. */
  readonly open: ReadonlySet<RecordedRequest>
  readonly add: (facts: RequestFacts) => RecordedRequest
  readonly finish: (request: RecordedRequest) => void
  readonly changed: () => void
  readonly until: (condition: () => boolean) => Promise<void>
  readonly received: (count: number, match: Match) => Promise<void>
  readonly clear: () => void
}

interface Waiter {
  readonly condition: () => boolean
  readonly resolve: () => void
}

export function createRecorder(keepLast: number): Recorder {
  let seen = 0
  const requests: RecordedRequest[] = []
  const unfinished = new Set<RecordedRequest>()
  const waiters = new Set<Waiter>()

  function add(facts: RequestFacts): RecordedRequest {
    seen += 1
    const request = {
      index: seen,
      ...facts,
      step: null,
      status: null,
      held: false,
      closedEarly: false,
      finished: false,
    }
    requests.push(request)
    if (requests.length > keepLast) requests.shift()
    unfinished.add(request)
    return request
  }

  function changed(): void {
    for (const waiter of waiters) {
      if (!waiter.condition()) continue
      waiters.delete(waiter)
      waiter.resolve()
    }
  }

  async function until(condition: () => boolean): Promise<void> {
    if (condition()) return
    const { promise, resolve } = Promise.withResolvers<void>()
    waiters.add({ condition, resolve })
    await promise
  }

  function countOf(match: Match): number {
    if (Object.keys(match).length === 0) return seen
    return requests.reduce((count, request) => count + (matches(request, match) ? 1 : 0), 0)
  }

  return {
    requests,
    open: unfinished,
    add,
    finish: (request) => {
      if (request.finished) return
      request.finished = true
      request.held = false
      unfinished.delete(request)
      changed()
    },
    changed,
    until,
    received: (count, match) => until(() => countOf(match) >= count),
    clear: () => {
      seen = 0
      requests.length = 0
    },
  }
}

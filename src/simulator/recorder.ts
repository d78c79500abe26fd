// Everything that was asked of the simulator, and the barriers that tests wait at instead of sleeping.
// A change is announced after the simulator has dealt with it: who was woken by received() finds a held request held.

import { matches, type Match } from './script.ts'
import type { StepKind } from './step.ts'

export interface RecordedRequest {
  readonly index: number
  readonly call: 'sync' | 'submit' | 'poll' | 'other'
  readonly method: string
  /** The request target exactly as it was on the wire. */
  readonly target: string
  readonly path: string
  readonly params: readonly (readonly [string, string])[]
  readonly headers: Readonly<Record<string, string>>
  readonly rawHeaders: readonly string[]
  readonly body: string
  readonly scraper: string | null
  readonly prompt: string | null
  readonly country: string | null
  readonly jobId: string | null
  readonly key: string | null
  readonly bypassCache: boolean
  readonly receivedAt: number
  /** The step that was played; null for what was refused before a step was chosen. */
  step: StepKind | null
  /** The status sent; null for none yet or none at all. */
  status: number | null
  held: boolean
  /** The client left before the end of the answer. */
  closedEarly: boolean
  finished: boolean
}

export type RequestFacts = Omit<RecordedRequest, 'index' | 'step' | 'status' | 'held' | 'closedEarly' | 'finished'>

export interface Recorder {
  readonly requests: readonly RecordedRequest[]
  readonly open: number
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
    get open() {
      return unfinished.size
    },
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

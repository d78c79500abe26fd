// One request as the simulator saw it, and what became of it.
// The facts never change; the fields below them follow the answer.

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
  /** The step that was played: the scripted one, or the refusal or success that the call earned. */
  step: StepKind | null
  /** The status sent; null for none yet or none at all. */
  status: number | null
  held: boolean
  /** The client left before the end of the answer. */
  closedEarly: boolean
  finished: boolean
}

export type RequestFacts = Omit<RecordedRequest, 'index' | 'step' | 'status' | 'held' | 'closedEarly' | 'finished'>

/** What is recorded of a flight, and the marks by which it is found again. */
import type { Attempt, Call, Client, Refused } from '../model.ts'
import type { RequestIdentity, Turn } from '../fetch-parts.ts'
import type { AttemptTrail, AttemptUnderWay, FlightTrail, TrailEvent } from './trail.ts'

/** A flight as it is being recorded; it changes until it has landed. Its turns and attempts are marked with it. */
export class RecordedFlight implements FlightTrail {
  id: string | null = null
  readonly startedAt: number
  landedAt: number | null = null
  stoppedBy: Refused | null = null
  readonly attempts: AttemptTrail[] = []
  underWay: AttemptUnderWay | null = null
  readonly events: TrailEvent[] = []
  readonly call: Call
  /** Who pays; null = it has not asked yet. */
  client: Client | null = null
  /** The very object that identifies the request it was begun for. */
  owner: RequestIdentity | null = null
  cacheKey: string | null = null
  lastStatus: number | null = null

  constructor(call: Call, startedAt: number) {
    this.call = call
    this.startedAt = startedAt
  }
}

export function flightOf({ trail }: Turn | Attempt): RecordedFlight | null {
  return trail instanceof RecordedFlight ? trail : null
}

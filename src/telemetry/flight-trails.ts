/**
 * What is told of flights, as a fold over events: each is known by its id, from its first event until its last one and until every
 * request that waited for it has been recorded.
 */
import type { Call, Exchange, Refused } from '../model.ts'
import type { Clock } from '../ports.ts'
import type { EventOf } from './events.ts'
import type { AttemptTrail, AttemptUnderWay, FlightTrail, TrailEvent } from './trail.ts'

/** A flight as it is being recorded; it changes until it has landed. */
export class RecordedFlight implements FlightTrail {
  id: string | null = null
  readonly startedAt: number
  landedAt: number | null = null
  stoppedBy: Refused | null = null
  readonly attempts: AttemptTrail[] = []
  underWay: AttemptUnderWay | null = null
  readonly events: TrailEvent[] = []
  readonly call: Call
  /** Who pays, by name. */
  readonly payer: string
  /** That of the request it was begun for. */
  readonly requestId: string
  readonly traceparent: string | null
  /** The request it was begun for waits for it, and has not been recorded. */
  isLeaderOpen: boolean
  /** Requests that wait for it, or will be recorded in a moment. */
  waiting: number
  lastStatus: number | null = null

  constructor({ call, payer, request, on }: EventOf<'flight-started'>, startedAt: number) {
    this.call = call
    this.payer = payer
    this.requestId = request.id
    this.traceparent = request.traceparent
    this.startedAt = startedAt
    this.isLeaderOpen = on === 'request'
    this.waiting = this.isLeaderOpen ? 1 : 0
  }
}

/** More than a flight of a sane policy ever has; so that one of an insane policy stays small. */
const mostAttempts = 64

export class FlightTrails {
  readonly #clock: Clock
  readonly #known = new Map<number, RecordedFlight>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  started(event: EventOf<'flight-started'>): RecordedFlight {
    const flight = new RecordedFlight(event, this.#clock.wall())
    this.#known.set(event.flight, flight)
    return flight
  }

  note(event: EventOf<'flight-joined' | 'attempt-started' | 'attempt-ended' | 'flight-landed'>): void {
    const flight = this.#known.get(event.flight)
    if (!flight) return
    if (event.kind === 'flight-joined') flight.waiting += 1
    else if (event.kind === 'attempt-started') {
      const { number, waitedMs, keyName } = event
      flight.id = flight.requestId
      flight.underWay = { number, startedAt: this.#clock.wall(), waitedMs, keyName }
    } else if (event.kind === 'attempt-ended') this.#attempted(flight, event)
    else {
      flight.stoppedBy = event.landing.stoppedBy
      flight.lastStatus = event.landing.verdict.reply?.status ?? null
    }
  }

  /** Null = it has not asked upstream. */
  ended({ flight: id }: EventOf<'flight-ended'>): RecordedFlight | null {
    const flight = this.#known.get(id)
    if (!flight) return null
    flight.landedAt = this.#clock.wall()
    if (flight.waiting === 0) this.#known.delete(id)
    return flight.id === null ? null : flight
  }

  /** The flight that a request waits, or has waited, for; null = none, or it has not asked upstream. */
  of({ flight: joined }: Pick<Exchange, 'flight'>): RecordedFlight | null {
    const flight = joined && this.#known.get(joined.id)
    return flight && flight.id !== null ? flight : null
  }

  /** A request that waited for one has been recorded. */
  left({ flight: joined }: Exchange): void {
    const flight = joined && this.#known.get(joined.id)
    if (!flight) return
    flight.waiting -= 1
    if (joined.role === 'leader') flight.isLeaderOpen = false
    if (flight.waiting === 0 && flight.landedAt !== null) this.#known.delete(joined.id)
  }

  *aloft(): Generator<RecordedFlight> {
    for (const flight of this.#known.values()) if (flight.landedAt === null) yield flight
  }

  #attempted(flight: RecordedFlight, { attempt, retryAfterMs }: EventOf<'attempt-ended'>): void {
    const { number, durationMs, waitedMs, keyName, status, class: ended, charge, trouble, anomalies = [] } = attempt
    const startedAt = flight.underWay?.startedAt ?? this.#clock.wall() - durationMs
    flight.underWay = null
    if (flight.attempts.length >= mostAttempts) return
    flight.attempts.push({
      number,
      startedAt,
      durationMs,
      waitedMs,
      keyName,
      status,
      class: ended,
      charge,
      retryAfterMs,
      anomalies,
      trouble,
    })
  }
}

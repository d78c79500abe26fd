/**
 * Follows flights from the outside: wrapped around the parts that fly them, it notes every attempt as it begins and ends. A
 * flight is known by its attempts, so whoever has a landing finds the flight it came from, though waiters share landings.
 * Never changes what it is wrapped around, and never fails it.
 */
import type { Attempt, Landing, Outcome } from '../model.ts'
import type { Question, RequestIdentity, Retry, Upstream } from '../fetch-parts.ts'
import type { Clock } from '../ports.ts'
import { createLinkedList } from '../linked-list.ts'
import { markOf } from './open-requests.ts'
import { flightOf, RecordedFlight } from './recorded-flight.ts'

export interface FlightRecorder {
  retry(retry: Retry): Retry
  upstream(upstream: Upstream): Upstream
  /** The flight that an outcome came from. */
  ofOutcome(outcome: Outcome): RecordedFlight | null
  /** The flight that was begun for this request. */
  begunFor(request: RequestIdentity): RecordedFlight | null
  readonly aloft: Iterable<RecordedFlight>
}

/** More than a flight of a sane policy ever has; so that one of an insane policy stays small. */
const mostAttempts = 64

interface FlightRecorderPorts {
  readonly clock: Clock
  readonly tookOff: (flight: RecordedFlight) => void
  readonly landed: (flight: RecordedFlight) => void
}

export function createFlightRecorder({ clock, tookOff, landed }: FlightRecorderPorts): FlightRecorder {
  const aloft = createLinkedList<RecordedFlight>()

  return { retry, upstream, ofOutcome, begunFor: (request) => markOf(request)?.begun ?? null, aloft }

  function retry(inner: Retry): Retry {
    return {
      async run(call, spender, flight, attempt) {
        const recorded = new RecordedFlight(call, clock.wall())
        const place = aloft.add(recorded)
        tookOff(recorded)
        try {
          const landing = await inner.run(call, spender, flight, async (turn) => {
            turn.trail = recorded
            try {
              const tried = await attempt(turn)
              if (tried) {
                const { verdict } = tried
                note(recorded, tried.attempt, verdict.kind === 'failed' ? verdict.retryAfterMs : null)
              }
              return tried
            } finally {
              recorded.underWay = null
            }
          })
          recorded.stoppedBy = landing.stoppedBy
          recorded.lastStatus = landing.verdict.reply?.status ?? null
          return landing
        } finally {
          recorded.landedAt = clock.wall()
          place.leave()
          landed(recorded)
        }
      },
    }
  }

  function upstream(inner: Upstream): Upstream {
    return {
      ask(question) {
        begin(question)
        return inner.ask(question)
      },
    }
  }

  function begin({ turn, identity, client, cacheKey, key }: Question): void {
    const recorded = flightOf(turn)
    if (!recorded) return
    const mark = markOf(identity)
    if (mark && !recorded.owner) mark.begun = recorded
    recorded.id = identity.id
    recorded.owner = identity
    recorded.client = client
    recorded.cacheKey = cacheKey
    recorded.underWay = { number: turn.number, startedAt: clock.wall(), waitedMs: turn.waitedMs, keyName: key.name }
  }

  function note(recorded: RecordedFlight, attempt: Attempt, retryAfterMs: number | null): void {
    attempt.trail = recorded
    if (recorded.attempts.length >= mostAttempts) return
    const { number, durationMs, waitedMs, keyName, status, class: ended, charge, trouble, anomalies = [] } = attempt
    const startedAt = recorded.underWay?.startedAt ?? clock.wall() - durationMs
    recorded.attempts.push({
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

  function ofOutcome(outcome: Outcome): RecordedFlight | null {
    const landing: Landing | null = 'landing' in outcome ? outcome.landing : null
    const first = landing?.attempts[0]
    return first ? flightOf(first) : null
  }
}

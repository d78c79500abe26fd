/**
 * `GET /requests/{id}` of the admin port: the trail of a request by the `X-Request-Id` of its answer, as JSON, or for
 * who asks for it as a page (text/html) or for a terminal (text/plain). `GET /requests?id=` is the same, for forms and for ids that a path cannot hold; without an id, the latest,
 * or those of them that a filter wants.
 */
import { ProxyError } from '../errors.ts'
import { type FlightTrail, type Kept, type Trail, type Trails, whyOf } from '../telemetry/trail.ts'
import { type AdminAnswer, type AdminRequest, type AdminRoute, json } from './admin.ts'
import { filterIn, passes } from './request-filter.ts'
import { noTrailAnswer, trailAnswer } from './trail-page.ts'
import { trailTextAnswer } from './trail-text.ts'

interface RequestsPorts {
  readonly trails: Trails
  readonly clock: { wall(): number }
}

const listed = 100

export function createRequestRoutes({ trails, clock }: RequestsPorts): readonly AdminRoute[] {
  return [
    { method: 'GET', path: '/requests/{id}', run: (asked) => answer(asked.segment, asked) },
    {
      method: 'GET',
      path: '/requests',
      run(asked) {
        const id = asked.params.get('id')?.trim() ?? ''
        return id === ''
          ? json({ requests: trails.recent(listed, passes(filterIn(asked.params), clock.wall())).map(reportOf) })
          : answer(id, asked)
      },
    },
  ]

  function answer(id: string, { params, accept, wantsPage = false }: AdminRequest): AdminAnswer {
    const found = trails.find(id)
    const [newest, ...earlier] = found
    if (!newest) {
      const why = absence(trails.kept())
      if (wantsPage) return noTrailAnswer(why)
      throw new ProxyError('ENDPOINT_UNKNOWN', why)
    }
    if (wantsPage) return trailAnswer(id, found, clock.wall(), params.has('fragment'))
    if (/\btext\/plain\b/i.test(accept ?? '')) return trailTextAnswer(found, clock.wall())
    return { ...json({ ...reportOf(newest), earlier: earlier.map(reportOf) }), headers: ['Vary', 'Accept'] }
  }
}

/** Why there may be none, and how long there would be one. */
function absence({ asked, others }: Kept): string {
  const since = (at: number | null) => (at === null ? 'none yet' : `the oldest is of ${new Date(at).toISOString()}`)
  return (
    'There is no trail of such a request: it never came, or it is too long ago. Kept are the latest ' +
    `${asked.most} that asked upstream or failed (${since(asked.since)}) ` +
    `and the latest ${others.most} others (${since(others.since)}), until the process ends.`
  )
}

function reportOf(trail: Trail): object {
  const { flight, prompt } = trail
  return {
    id: trail.id,
    trace_id: trail.traceId,
    at: iso(trail.at),
    duration_ms: trail.durationMs,
    is_under_way: trail.status === null,
    client: trail.client,
    scraper: trail.scraper,
    endpoint: trail.endpoint,
    prompt_hash: trail.promptHash,
    ...(prompt !== null && { prompt }),
    status: trail.status,
    code: trail.code,
    ...(trail.reason !== null && { reason: trail.reason }),
    detail: trail.detail,
    cache: trail.cache,
    tier: trail.tier,
    credits: trail.credits,
    role: trail.role,
    flight: flight?.id ?? null,
    stopped_by: trail.stoppedBy ?? flight?.stoppedBy ?? null,
    attempts: flight ? attemptsOf(flight) : [],
    events: [...trail.events, ...(flight?.events ?? [])].map(({ at, text }) => ({ at: iso(at), text })),
    ...(flight && { flight_started_at: iso(flight.startedAt), flight_landed_at: iso(flight.landedAt) }),
  }
}

function attemptsOf(flight: FlightTrail): object[] {
  const ended = flight.attempts.map((attempt, index) => ({
    number: attempt.number,
    at: iso(attempt.startedAt),
    after_ms: attempt.startedAt - flight.startedAt,
    duration_ms: attempt.durationMs,
    waited_ms: attempt.waitedMs,
    class: attempt.class,
    status: attempt.status,
    reason: attempt.trouble?.reason ?? null,
    error_code: attempt.trouble?.code ?? null,
    key: attempt.keyName,
    charge: attempt.charge.state,
    credits: attempt.charge.credits,
    retry_after_ms: attempt.retryAfterMs,
    ...(attempt.anomalies.length > 0 && { anomalies: attempt.anomalies }),
    why: whyOf(flight, index),
  }))
  if (!flight.underWay) return ended
  const { number, startedAt, waitedMs, keyName } = flight.underWay
  return [
    ...ended,
    {
      number,
      at: iso(startedAt),
      after_ms: startedAt - flight.startedAt,
      waited_ms: waitedMs,
      key: keyName,
      why: 'under way',
    },
  ]
}

function iso(at: number | null): string | null {
  return at === null ? null : new Date(at).toISOString()
}

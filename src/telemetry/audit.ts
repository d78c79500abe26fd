/**
 * The audit trail: what became of each request, attempt by attempt, in memory for `GET /requests/{id}` and, where the operator
 * wants it, as a line in a file. Memory is bounded by count and bytes; requests that asked upstream have room of their own, so
 * that a thousand hits a second do not push out the failure somebody asks about. A hit costs an object and a string.
 *
 * A line is written when its request has ended and the flight it paid for has landed, so that it has all attempts. Longer than
 * other files: when a line may be written is one rule, read in one go.
 */
import type { ProxyError } from '../errors.ts'
import type { Call, Client, Exchange, Outcome, ProxyRequest } from '../model.ts'
import type { RequestIdentity } from '../fetch-parts.ts'
import type { Clock } from '../ports.ts'
import type { Access } from './access-log.ts'
import { flightLine, hitLine, operatorLine, requestLine, type LineFacts } from './audit-line.ts'
import { type Circumstances, createCircumstances } from './circumstances.ts'
import type { TelemetryEvent } from './events.ts'
import { createFlightRecorder, type FlightRecorder } from './flight-recorder.ts'
import { createOpenRequests } from './open-requests.ts'
import type { RecordedFlight } from './recorded-flight.ts'
import { traceIdOf } from './traceparent.ts'
import { promptsIn, type Role, type Trail, type TrailEvent, type Trails } from './trail.ts'
import { createTrailRing, type TrailRing } from './trail-ring.ts'
import { troublesIn } from './troubles.ts'

export interface AuditOptions {
  /** Prompts are sensitive: only their hash is kept unless this is true. */
  readonly prompts: boolean
  /** Trails of requests that asked upstream. */
  readonly mostAsked?: number
  /** Trails of all other requests. */
  readonly mostOthers?: number
  /** Of each of the two. */
  readonly mostBytes?: number
}

export interface AuditPorts {
  readonly clock: Clock
  /** Where the answer of a client's call is kept: who asks for the same shares a flight. */
  readonly keyOf: (call: Call, client: Client) => string | null
  /** Takes one line; null = no file is wanted. */
  readonly append: ((line: string) => void) | null
}

export interface Audit extends Trails, Pick<FlightRecorder, 'retry' | 'upstream'> {
  begin(exchange: Exchange): void
  ended(exchange: Exchange, outcome: Outcome, access: Access): void
  refused(access: Access, error: ProxyError): void
  note(event: TelemetryEvent): void
  /** Whether prompts are kept from now on. */
  keepPrompts(prompts: boolean): void
  /** Of all that is under way; empty where prompts are no secret. */
  openPrompts(): Iterable<string>
  /** Writes the lines of requests whose flight will not land any more. */
  close(): void
}

interface Remembered extends Trail {
  readonly bytes: number
}

/** A request that has ended before its flight: its line waits. */
interface Unwritten {
  readonly trail: Trail
  readonly facts: LineFacts
}

const MiB = 1024 * 1024
const noEvents: readonly TrailEvent[] = []

class AuditTrail implements Audit {
  readonly #mostAsked: number
  readonly #mostOthers: number
  readonly #clock: Clock
  readonly #keyOf: (call: Call, client: Client) => string | null
  readonly #append: ((line: string) => void) | null
  readonly #asked: TrailRing<Remembered>
  readonly #others: TrailRing<Remembered>
  readonly #open = createOpenRequests()
  readonly #unwritten = new Map<RecordedFlight, Unwritten>()
  readonly #circumstances: Circumstances
  readonly #flights: FlightRecorder
  #prompts: boolean
  #isClosed = false
  readonly begin: Audit['begin']
  readonly retry: Audit['retry']
  readonly upstream: Audit['upstream']

  constructor(
    { prompts: promptsAtFirst, mostAsked = 2_000, mostOthers = 1_000, mostBytes = 8 * MiB }: AuditOptions,
    { clock, keyOf, append }: AuditPorts,
  ) {
    this.#mostAsked = mostAsked
    this.#mostOthers = mostOthers
    this.#clock = clock
    this.#keyOf = keyOf
    this.#append = append
    this.#asked = createTrailRing<Remembered>(mostAsked, mostBytes)
    this.#others = createTrailRing<Remembered>(mostOthers, mostBytes)
    this.#circumstances = createCircumstances(clock)
    this.#flights = createFlightRecorder({
      clock,
      tookOff: ({ call, events }) => void events.push(...this.#circumstances.standing(call.scraper)),
      landed: this.#landed,
    })
    this.#prompts = promptsAtFirst
    this.begin = this.#open.add
    this.retry = this.#flights.retry
    this.upstream = this.#flights.upstream
  }

  readonly ended = (exchange: Exchange, outcome: Outcome, access: Access): void => {
    const { request, call } = exchange
    this.#open.delete(exchange)
    if (outcome.kind === 'hit' && call) {
      const trail = this.#trailOf(access, null, null, null)
      this.#others.push(trail)
      if (this.#append && !this.#isClosed) this.#append(hitLine(trail, call, outcome.entry))
      return
    }
    const flight = this.#flightOf(exchange, outcome)
    const trail = this.#trailOf(access, outcome, flight, roleOf(request, outcome, flight))
    const isAsked = trail.role !== null || (outcome.kind === 'refused' && outcome.error.fault !== 'client')
    const ring = isAsked ? this.#asked : this.#others
    ring.push(trail)
    this.#write(trail, flight, factsOf(exchange, outcome, trail.at))
    if (flight?.owner === request && flight.landedAt !== null) flight.owner = null
  }

  /** A refusal so early that there was no exchange. */
  readonly refused = (access: Access, error: ProxyError): void => {
    const trail = { ...this.#trailOf(access, null, null, null), detail: error.message }
    this.#others.push(trail)
    this.#write(trail, null, { call: null, patienceMs: null, stored: null, ageMs: null })
  }

  readonly note = (event: TelemetryEvent): void => {
    this.#circumstances.note(event, this.#flights.aloft)
    if (event.kind === 'operator-acted' && this.#append && !this.#isClosed)
      this.#append(operatorLine(this.#clock.wall(), event))
  }

  readonly keepPrompts: Audit['keepPrompts'] = (wanted) => void (this.#prompts = wanted)

  readonly openPrompts = (): readonly string[] => {
    if (this.#prompts) return []
    const calls = Array.from(this.#flights.aloft, ({ call }) => call)
    return [...Array.from(this.#open.all(), ({ request }) => request.target), ...calls].flatMap(({ params }) =>
      promptsIn(params),
    )
  }

  readonly find: Audit['find'] = (id) =>
    [...this.#everything((trail) => trail.id === id)].toSorted((a, b) => b.at - a.at)

  readonly recent = (count: number, isWanted: (trail: Trail) => boolean = () => true): readonly Trail[] => {
    const begun = [...this.#open.all()].toReversed().map(this.#waiting).filter(isWanted).slice(0, count)
    const over = [this.#asked, this.#others].flatMap((ring) => [...ring.newestFirst().filter(isWanted).take(count)])
    return [...begun, ...over.toSorted((a, b) => endOf(b) - endOf(a))].slice(0, count)
  }

  readonly troubles: Audit['troubles'] = () => troublesIn(this.#everything(() => true))

  readonly kept: Audit['kept'] = () => ({
    asked: fillOf(this.#asked, this.#mostAsked),
    others: fillOf(this.#others, this.#mostOthers),
  })

  readonly close = (): void => {
    for (const [flight, { trail, facts }] of this.#unwritten) this.#append?.(requestLine(trail, flight, facts))
    this.#unwritten.clear()
    this.#isClosed = true
  }

  #write(trail: Trail, flight: RecordedFlight | null, facts: LineFacts): void {
    if (flight && trail.role === 'leader' && flight.landedAt === null) this.#unwritten.set(flight, { trail, facts })
    else if (this.#append && !this.#isClosed) this.#append(requestLine(trail, flight, facts))
  }

  readonly #landed = (flight: RecordedFlight): void => {
    const waiting = this.#unwritten.get(flight)
    this.#unwritten.delete(flight)
    const { owner } = flight
    // Its request is about to be recorded; or else nobody waits for it, and it is told by itself.
    if (owner && this.#open.has(owner)) return
    // A trail is kept for long, and must not keep the request, with its sockets and headers, as well.
    flight.owner = null
    // By now it is known what its call has cost.
    if (waiting) return this.#write({ ...waiting.trail, credits: creditsOf(flight) }, flight, waiting.facts)
    if (!owner) return
    const trail = this.#unattended(flight, owner)
    this.#asked.push(trail)
    if (this.#append && !this.#isClosed) this.#append(flightLine(trail, flight))
  }

  #flightOf({ request, client, call }: Exchange, outcome: Outcome): RecordedFlight | null {
    // The caller got what was known; whatever is asked for it afterwards is asked for nobody.
    if (outcome.kind === 'stale' && outcome.because === 'revalidating') return null
    const known = this.#flights.ofOutcome(outcome) ?? this.#flights.begunFor(request)
    if (known) return known
    const leftEarly =
      outcome.kind === 'gone' || (outcome.kind === 'refused' && outcome.error.code === 'DEADLINE_EXCEEDED')
    return leftEarly ? this.#joinedBy(request, client, call) : null
  }

  /** The flight under way that somebody who waits, or has waited, must have joined. */
  #joinedBy({ cacheDirectives }: ProxyRequest, client: Client | null, call: Call | null): RecordedFlight | null {
    if (!client || !call || call.bypass || cacheDirectives.noCache || cacheDirectives.noStore) return null
    const key = this.#keyOf(call, client)
    if (key === null) return null
    for (const flight of this.#flights.aloft) if (flight.cacheKey === key) return flight
    return null
  }

  #trailOf(access: Access, outcome: Outcome | null, flight: RecordedFlight | null, role: Role | null): Remembered {
    const { call, code, reason = null, durationMs } = access
    const id = access.id ?? ''
    const prompt = this.#prompts ? promptOf(call) : null
    const landing = outcome && 'landing' in outcome ? outcome.landing : null
    const detail = outcome?.kind === 'refused' ? outcome.error.message : null
    return {
      bytes: 400 + 2 * (id.length + (prompt?.length ?? 0)) + (role === 'joined' ? 0 : 250 * access.attempts),
      id,
      traceId: access.traceId ?? null,
      // The wall has whole milliseconds, rounded down.
      at: Math.ceil(this.#clock.wall() - durationMs),
      durationMs,
      client: access.client,
      scraper: call?.scraper ?? 'none',
      endpoint: call?.endpoint ?? null,
      promptHash: call?.promptHash ?? null,
      prompt,
      status: access.status,
      cache: access.cache,
      tier: access.tier,
      code,
      reason,
      detail,
      credits: access.credits,
      role,
      flight,
      stoppedBy: landing?.stoppedBy ?? null,
      events: code === 'CIRCUIT_OPEN' || code === 'NO_KEY_AVAILABLE' ? this.#standingFor(call) : noEvents,
    }
  }

  #standingFor(call: Call | null): readonly TrailEvent[] {
    return call ? this.#circumstances.standing(call.scraper) : noEvents
  }

  #unattended(flight: RecordedFlight, owner: RequestIdentity): Remembered {
    const { call, client, attempts, startedAt } = flight
    const wall = this.#clock.wall()
    return {
      ...this.#underWay({ request: owner, client, call }, startedAt),
      bytes: 400 + 2 * owner.id.length + 250 * attempts.length,
      durationMs: wall - startedAt,
      status: flight.lastStatus,
      cache: 'none',
      credits: creditsOf(flight),
      role: 'unattended',
      flight,
      stoppedBy: flight.stoppedBy,
    }
  }

  /** What is known of a request that has not ended. */
  #underWay(
    { request, client, call }: { readonly request: RequestIdentity } & Pick<Exchange, 'client' | 'call'>,
    at: number,
  ): Trail {
    return {
      id: request.id,
      traceId: traceIdOf(request.traceparent),
      at: Math.ceil(at),
      durationMs: null,
      client: client?.name ?? 'unknown',
      scraper: call?.scraper ?? 'none',
      endpoint: call?.endpoint ?? null,
      promptHash: call?.promptHash ?? null,
      prompt: this.#prompts ? promptOf(call) : null,
      status: null,
      cache: null,
      tier: null,
      code: null,
      reason: null,
      detail: null,
      credits: 0,
      role: null,
      flight: null,
      stoppedBy: null,
      events: noEvents,
    }
  }

  readonly #waiting = ({ request, client, call }: Exchange): Trail => {
    const begun = this.#flights.begunFor(request)
    const flight = begun ?? this.#joinedBy(request, client, call)
    const at = this.#clock.wall() - (this.#clock.now() - request.arrivedAt)
    const role = begun ? 'leader' : flight ? 'joined' : null
    return { ...this.#underWay({ request, client, call }, at), role, flight }
  };

  *#everything(isWanted: (trail: Pick<Trail, 'id'>) => boolean): Generator<Trail> {
    for (const exchange of this.#open.all()) if (isWanted(exchange.request)) yield this.#waiting(exchange)
    for (const trail of this.#asked.newestFirst()) if (isWanted(trail)) yield trail
    for (const trail of this.#others.newestFirst()) if (isWanted(trail)) yield trail
  }
}

export function createAudit(options: AuditOptions, ports: AuditPorts): Audit {
  return new AuditTrail(options, ports)
}

function roleOf(request: ProxyRequest, outcome: Outcome, flight: RecordedFlight | null): Role | null {
  if (outcome.kind === 'fetched') return outcome.role
  if (!flight) return null
  return flight.owner === request ? 'leader' : 'joined'
}

function factsOf({ request, client, call }: Exchange, outcome: Outcome, at: number): LineFacts {
  const entry = 'entry' in outcome ? outcome.entry : null
  const landing = 'landing' in outcome ? outcome.landing : null
  const patienceMs = Math.min(client?.retry.deadline ?? Number.POSITIVE_INFINITY, request.patienceMs ?? Infinity)
  return {
    call,
    patienceMs: Number.isFinite(patienceMs) ? patienceMs : null,
    stored: landing && outcome.kind === 'fetched' ? landing.entry !== null : null,
    ageMs: entry ? Math.max(0, at - entry.storedAt) : null,
  }
}

function creditsOf({ attempts }: RecordedFlight): number {
  return attempts.reduce((sum, { charge }) => sum + (charge.state === 'charged' ? charge.credits : 0), 0)
}

function promptOf(call: Call | null): string | null {
  return promptsIn(call?.params ?? [])[0] ?? null
}

function endOf({ at, durationMs }: Trail): number {
  return at + (durationMs ?? 0)
}

function fillOf(ring: TrailRing<Remembered>, most: number) {
  return { most, now: ring.count, since: ring.oldest?.at ?? null }
}

/**
 * The audit trail: what became of each request, attempt by attempt, in memory for `GET /requests/{id}` and, where the operator
 * wants it, as a line in a file. Memory is bounded by count and bytes; requests that asked upstream have room of their own, so
 * that a thousand hits a second do not push out the failure somebody asks about. A hit costs an object and a string.
 *
 * A line is written when its request has ended and the flight it paid for has landed, so that it has all attempts.
 */
import type { ProxyError } from '../errors.ts'
import type { Call, Exchange, Outcome, RequestIdentity } from '../model.ts'
import type { Clock } from '../ports.ts'
import type { Access } from './access-log.ts'
import { flightLine, hitLine, operatorLine, requestLine, type LineFacts } from './audit-line.ts'
import { type Circumstances, createCircumstances } from './circumstances.ts'
import type { EventOf } from './events.ts'
import { FlightTrails, type RecordedFlight } from './flight-trails.ts'
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
  /** The requests that have begun and not ended, in the order they came. */
  readonly open: Iterable<Exchange>
  /** Takes one line; null = no file is wanted. */
  readonly append: ((line: string) => void) | null
}

/** The events that trails are made of. */
const kinds = [
  'flight-started',
  'flight-joined',
  'attempt-started',
  'attempt-ended',
  'flight-landed',
  'flight-ended',
  'breaker-changed',
  'key-changed',
  'reloaded',
  'operator-acted',
] as const
type Noted = EventOf<(typeof kinds)[number]>

export interface Audit extends Trails {
  readonly kinds: typeof kinds
  ended(exchange: Exchange, outcome: Outcome, access: Access): void
  refused(access: Access, error: ProxyError): void
  note(event: Noted): void
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
  readonly #append: ((line: string) => void) | null
  readonly #asked: TrailRing<Remembered>
  readonly #others: TrailRing<Remembered>
  readonly #open: Iterable<Exchange>
  readonly #unwritten = new Map<RecordedFlight, Unwritten>()
  readonly #circumstances: Circumstances
  readonly #flights: FlightTrails
  readonly kinds = kinds
  #prompts: boolean
  #isClosed = false

  constructor(
    { prompts: promptsAtFirst, mostAsked = 2_000, mostOthers = 1_000, mostBytes = 8 * MiB }: AuditOptions,
    { clock, open, append }: AuditPorts,
  ) {
    this.#mostAsked = mostAsked
    this.#mostOthers = mostOthers
    this.#clock = clock
    this.#open = open
    this.#append = append
    this.#asked = createTrailRing<Remembered>(mostAsked, mostBytes)
    this.#others = createTrailRing<Remembered>(mostOthers, mostBytes)
    this.#circumstances = createCircumstances(clock)
    this.#flights = new FlightTrails(clock)
    this.#prompts = promptsAtFirst
  }

  readonly ended = (exchange: Exchange, outcome: Outcome, access: Access): void => {
    const { call } = exchange
    if (outcome.kind === 'hit' && call) {
      const trail = this.#trailOf(access, null, null, null)
      this.#others.push(trail)
      if (this.#append && !this.#isClosed) this.#append(hitLine(trail, call, outcome.entry))
      return
    }
    const flight = this.#flights.of(exchange)
    const role = outcome.kind === 'fetched' ? outcome.role : flight && exchange.flight ? exchange.flight.role : null
    const trail = this.#trailOf(access, outcome, flight, role)
    const isAsked = trail.role !== null || (outcome.kind === 'refused' && outcome.error.fault !== 'client')
    const ring = isAsked ? this.#asked : this.#others
    ring.push(trail)
    this.#write(trail, flight, factsOf(exchange, outcome, trail.at))
    this.#flights.left(exchange)
  }

  /** A refusal so early that there was no exchange. */
  readonly refused = (access: Access, error: ProxyError): void => {
    const trail = { ...this.#trailOf(access, null, null, null), detail: error.message }
    this.#others.push(trail)
    this.#write(trail, null, { call: null, patienceMs: null, stored: null, ageMs: null })
  }

  readonly note = (event: Noted): void => {
    switch (event.kind) {
      case 'flight-started': {
        const { call, events } = this.#flights.started(event)
        return void events.push(...this.#circumstances.standing(call.scraper))
      }
      case 'flight-ended': {
        const flight = this.#flights.ended(event)
        return flight ? this.#landed(flight) : undefined
      }
      case 'operator-acted':
        if (this.#append && !this.#isClosed) this.#append(operatorLine(this.#clock.wall(), event))
        return undefined
      case 'breaker-changed':
      case 'key-changed':
      case 'reloaded':
        return this.#circumstances.note(event, this.#flights.aloft())
      case 'flight-joined':
      case 'attempt-started':
      case 'attempt-ended':
      case 'flight-landed':
        return this.#flights.note(event)
    }
  }

  readonly keepPrompts: Audit['keepPrompts'] = (wanted) => void (this.#prompts = wanted)

  readonly openPrompts = (): readonly string[] => {
    if (this.#prompts) return []
    const calls = Array.from(this.#flights.aloft(), ({ call }) => call)
    return [...Array.from(this.#open, ({ request }) => request.target), ...calls].flatMap(({ params }) =>
      promptsIn(params),
    )
  }

  readonly find: Audit['find'] = (id) =>
    [...this.#everything((trail) => trail.id === id)].toSorted((a, b) => b.at - a.at)

  readonly recent = (count: number, isWanted: (trail: Trail) => boolean = () => true): readonly Trail[] => {
    const begun = [...this.#open].toReversed().map(this.#waiting).filter(isWanted).slice(0, count)
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

  #landed(flight: RecordedFlight): void {
    const waiting = this.#unwritten.get(flight)
    this.#unwritten.delete(flight)
    // By now it is known what its call has cost.
    if (waiting) return this.#write({ ...waiting.trail, credits: creditsOf(flight) }, flight, waiting.facts)
    // Its request is about to be recorded; or else nobody waits for it, and it is told by itself.
    if (flight.isLeaderOpen) return
    const trail = this.#unattended(flight)
    this.#asked.push(trail)
    if (this.#append && !this.#isClosed) this.#append(flightLine(trail, flight))
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

  #unattended(flight: RecordedFlight): Remembered {
    const { requestId, traceparent, call, payer, attempts, startedAt } = flight
    const wall = this.#clock.wall()
    return {
      ...this.#underWay({ id: requestId, traceparent }, payer, call, startedAt),
      bytes: 400 + 2 * requestId.length + 250 * attempts.length,
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
  #underWay(request: RequestIdentity, client: string | undefined, call: Call | null, at: number): Trail {
    return {
      id: request.id,
      traceId: traceIdOf(request),
      at: Math.ceil(at),
      durationMs: null,
      client: client ?? 'unknown',
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

  readonly #waiting = (exchange: Exchange): Trail => {
    const { request, client, call } = exchange
    const flight = this.#flights.of(exchange)
    const at = this.#clock.wall() - (this.#clock.now() - request.arrivedAt)
    const role = flight && exchange.flight ? exchange.flight.role : null
    return { ...this.#underWay(request, client?.name, call, at), role, flight }
  };

  *#everything(isWanted: (trail: Pick<Trail, 'id'>) => boolean): Generator<Trail> {
    for (const exchange of this.#open) if (isWanted(exchange.request)) yield this.#waiting(exchange)
    for (const trail of this.#asked.newestFirst()) if (isWanted(trail)) yield trail
    for (const trail of this.#others.newestFirst()) if (isWanted(trail)) yield trail
  }
}

export function createAudit(options: AuditOptions, ports: AuditPorts): Audit {
  return new AuditTrail(options, ports)
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

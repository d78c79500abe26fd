/**
 * Traces: a caller's `traceparent` is continued with a parent of our own per attempt; and where the operator has loaded an
 * OpenTelemetry SDK, spans say what happened: `request`, below that of the leader its `flight`, below it each `attempt`. Who
 * joined a flight has a link to it. The one door to the API; without an SDK nothing is wrapped and no span is made.
 *
 * Spans are tied together by the ids in events and by the request they are about, not by an ambient context: a flight belongs to no
 * caller's.
 */
import {
  context,
  type Context,
  ProxyTracerProvider,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  trace,
  type Tracer,
} from '@opentelemetry/api'
import type { Exchange, Outcome, ProxyRequest, RequestIdentity } from '../model.ts'
import type { Traces } from '../fetch-parts.ts'
import type { Clock, Random } from '../ports.ts'
import type { Access } from './access-log.ts'
import type { EventOf } from './events.ts'
import { continueTrace, traceIdOf } from './traceparent.ts'

/** The events that spans are made of; none where nothing is traced. */
const kinds = [
  'flight-started',
  'flight-joined',
  'attempt-started',
  'attempt-ended',
  'flight-landed',
  'flight-ended',
] as const
type Noted = EventOf<(typeof kinds)[number]>

export interface Tracing extends Traces {
  /** Whoever must know how exchanges begin and end; empty where nothing is traced. */
  readonly watchers: readonly {
    begin(exchange: Exchange): void
    ended(exchange: Exchange, outcome: Outcome, access: Access): void
  }[]
  readonly kinds: readonly Noted['kind'][]
  note(event: Noted): void
  traceIdOf(request: ProxyRequest): string | null
}

interface TracingPorts {
  readonly clock: Clock
  readonly random: Random
  readonly version: string
}

/** To be called when the SDK has been loaded, which `node --import` does before anything else. */
export function createTracing({ clock, random, version }: TracingPorts): Tracing {
  const tracer = loadedTracer(version)
  return tracer ? new Spans(tracer, clock) : withoutSpans(random)
}

const NAME = 'scrapellm-proxy'

/** Null where no SDK has registered itself. */
function loadedTracer(version: string): Tracer | null {
  const provider = trace.getTracerProvider()
  if (provider instanceof ProxyTracerProvider) return provider.getDelegateTracer(NAME, version) ?? null
  return provider.getTracer(NAME, version)
}

function withoutSpans(random: Random): Tracing {
  return {
    watchers: [],
    kinds: [],
    note: () => {},
    within: (_flight, { traceparent }, ask) =>
      ask(traceparent === null ? null : continueTrace(traceparent, spanId(random))),
    traceIdOf,
  }
}

/** The end of an id: there even a version 4 UUID is all chance but for two bits. Never all zeros. */
function spanId(random: Random): string {
  return random.id().replaceAll('-', '').slice(-16)
}

interface TracedFlight {
  readonly startedAt: number
  readonly about: EventOf<'flight-started'>
  /** Null = upstream has not been asked. */
  span: Span | null
  /** Of the attempt under way. */
  attempt: Span | null
  /** Requests that joined before upstream was asked. */
  readonly joiners: Span[]
  isAnswered: boolean
}

class Spans implements Tracing {
  readonly #tracer: Tracer
  readonly #clock: Clock
  readonly #requests = new WeakMap<RequestIdentity, Span>()
  readonly #flights = new Map<number, TracedFlight>()
  readonly watchers: Tracing['watchers']
  readonly kinds = kinds

  constructor(tracer: Tracer, clock: Clock) {
    this.#tracer = tracer
    this.#clock = clock
    this.watchers = [{ begin: ({ request }) => void this.#spanOf(request), ended: this.#ended }]
  }

  readonly note = (event: Noted): void => {
    if (event.kind === 'flight-started') {
      const startedAt = this.#clock.wall()
      const nothing = { span: null, attempt: null, isAnswered: false }
      this.#flights.set(event.flight, { startedAt, about: event, joiners: [], ...nothing })
      return
    }
    const flight = this.#flights.get(event.flight)
    if (!flight) return
    if (event.kind === 'attempt-started') this.#attemptStarted(flight, event)
    else if (event.kind === 'attempt-ended') attemptEnded(flight, event)
    else if (event.kind === 'flight-joined') this.#joined(flight, event.request)
    else if (event.kind === 'flight-landed') landed(flight, event)
    else {
      this.#flights.delete(event.flight)
      ended(flight)
    }
  }

  readonly within: Traces['within'] = (id, request, ask) => {
    const span = this.#flights.get(id)?.attempt
    if (!span) return ask(request.traceparent)
    return context.with(trace.setSpan(ROOT_CONTEXT, span), () => ask(traceparentOf(span) ?? request.traceparent))
  }

  readonly traceIdOf: Tracing['traceIdOf'] = (request) => {
    const own = this.#spanOf(request).spanContext()
    return trace.isSpanContextValid(own) ? own.traceId : traceIdOf(request)
  }

  readonly #ended = ({ request, client, call }: Exchange, _outcome: Outcome, access: Access): void => {
    const span = this.#spanOf(request)
    span.setAttributes({
      'proxy.request_id': request.id,
      'proxy.client': client?.name ?? 'unknown',
      'proxy.scraper': call?.scraper ?? 'none',
      'proxy.cache': access.cache,
      'proxy.attempts': access.attempts,
      'proxy.credits': access.credits,
      ...(access.code && { 'proxy.code': access.code }),
      ...(access.status !== 'gone' && { 'http.response.status_code': access.status }),
    })
    if (access.status !== 'gone' && access.status >= 500) span.setStatus({ code: SpanStatusCode.ERROR })
    span.end()
  }

  /** Begun with hindsight where the request was answered at once. */
  #spanOf(request: ProxyRequest): Span {
    const known = this.#requests.get(request)
    if (known) return known
    const startTime = this.#clock.wall() - (this.#clock.now() - request.arrivedAt)
    const options = { kind: SpanKind.SERVER, startTime }
    const span = this.#tracer.startSpan('request', options, remoteParent(request.traceparent))
    this.#requests.set(request, span)
    return span
  }

  #joined(flight: TracedFlight, request: RequestIdentity): void {
    const joiner = this.#requests.get(request)
    if (!joiner) return
    if (flight.span) joiner.addLink({ context: flight.span.spanContext() })
    else flight.joiners.push(joiner)
  }

  #attemptStarted(flight: TracedFlight, { number, keyName, waitedMs }: EventOf<'attempt-started'>): void {
    flight.span ??= this.#startFlight(flight)
    const attributes = { 'proxy.attempt': number, 'proxy.key': keyName, 'proxy.waited_ms': waitedMs }
    const parent = trace.setSpan(ROOT_CONTEXT, flight.span)
    flight.attempt = this.#tracer.startSpan('attempt', { kind: SpanKind.CLIENT, attributes }, parent)
  }

  /** Only now upstream is asked, so it is begun with hindsight. */
  #startFlight({ about: { request, call, payer }, startedAt: startTime, joiners }: TracedFlight): Span {
    const attributes = { 'proxy.request_id': request.id, 'proxy.scraper': call.scraper, 'proxy.payer': payer }
    const leader = this.#requests.get(request)
    const parent = leader ? trace.setSpan(ROOT_CONTEXT, leader) : remoteParent(request.traceparent)
    const span = this.#tracer.startSpan('flight', { kind: SpanKind.INTERNAL, startTime, attributes }, parent)
    for (const joiner of joiners.splice(0)) joiner.addLink({ context: span.spanContext() })
    return span
  }
}

function attemptEnded(flight: TracedFlight, { attempt }: EventOf<'attempt-ended'>): void {
  const { attempt: span } = flight
  flight.attempt = null
  span?.setAttributes({
    'proxy.class': attempt.class,
    'proxy.charge': attempt.charge.state,
    'proxy.credits': attempt.charge.credits,
    ...(attempt.status !== null && { 'http.response.status_code': attempt.status }),
  })
  if (attempt.class !== 'ok') span?.setStatus({ code: SpanStatusCode.ERROR })
  span?.end()
}

function landed(flight: TracedFlight, { landing }: EventOf<'flight-landed'>): void {
  const { attempts, chargedCredits, stoppedBy, verdict } = landing
  flight.span?.setAttributes({ 'proxy.attempts': attempts.length, 'proxy.credits': chargedCredits })
  if (stoppedBy) flight.span?.setAttribute('proxy.stopped_by', stoppedBy)
  flight.isAnswered = verdict.kind === 'answered'
}

function ended({ span, isAnswered }: TracedFlight): void {
  if (!isAnswered) span?.setStatus({ code: SpanStatusCode.ERROR })
  span?.end()
}

function remoteParent(traceparent: string | null): Context {
  if (traceparent === null) return ROOT_CONTEXT
  const traceFlags = Number.parseInt(traceparent.slice(53, 55), 16)
  return trace.setSpanContext(ROOT_CONTEXT, {
    traceId: traceparent.slice(3, 35),
    spanId: traceparent.slice(36, 52),
    traceFlags,
    isRemote: true,
  })
}

function traceparentOf(span: Span): string | null {
  const { traceId, spanId, traceFlags } = span.spanContext()
  if (!trace.isSpanContextValid(span.spanContext())) return null
  return `00-${traceId}-${spanId}-0${traceFlags & 0b11}`
}

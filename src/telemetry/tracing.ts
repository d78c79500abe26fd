/**
 * Traces: a caller's `traceparent` is continued with a parent of our own per attempt; and where the operator has loaded an
 * OpenTelemetry SDK, spans say what happened: `request`, below that of the leader its `flight`, below it each `attempt`. Who
 * joined a flight has a link to it. The one door to the API; without an SDK nothing is wrapped and no span is made.
 *
 * Spans are tied together by the objects they are about, not by an ambient context: a flight belongs to no caller's.
 */
import {
  type Attributes,
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
import type { Attempt, Exchange, Landing, Outcome } from '../model.ts'
import type { RequestIdentity, Retry, Turn, Upstream } from '../fetch-parts.ts'
import type { Clock, Random } from '../ports.ts'
import type { Access } from './access-log.ts'
import { continueTrace, traceIdOf } from './traceparent.ts'

export interface Tracing {
  /** Whoever must know how exchanges begin and end; empty where nothing is traced. */
  readonly watchers: readonly {
    begin(exchange: Exchange): void
    ended(exchange: Exchange, outcome: Outcome, access: Access): void
  }[]
  retry(retry: Retry): Retry
  upstream(upstream: Upstream): Upstream
  traceIdOf(request: RequestIdentity): string | null
}

interface TracingPorts {
  readonly clock: Clock
  readonly random: Random
  readonly version: string
}

/** To be called when the SDK has been loaded, which `node --import` does before anything else. */
export function createTracing({ clock, random, version }: TracingPorts): Tracing {
  const tracer = loadedTracer(version)
  return tracer ? createSpans(tracer, clock) : withoutSpans(random)
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
    retry: (retry) => retry,
    upstream: ({ ask }) => ({
      ask: (question) => {
        const { id, traceparent } = question.identity
        if (traceparent === null) return ask(question)
        return ask({ ...question, identity: { id, traceparent: continueTrace(traceparent, spanId(random)) } })
      },
    }),
    traceIdOf: ({ traceparent }) => traceIdOf(traceparent),
  }
}

/** The end of an id: there even a version 4 UUID is all chance but for two bits. Never all zeros. */
function spanId(random: Random): string {
  return random.id().replaceAll('-', '').slice(-16)
}

function createSpans(tracer: Tracer, clock: Clock): Tracing {
  const requests = new WeakMap<RequestIdentity, Span>()
  const flights = new WeakMap<Turn, TracedFlight>()
  const landed = new WeakMap<Attempt, Span>()

  return { watchers: [{ begin, ended }], retry, upstream, traceIdOf: idOf }

  function begin({ request }: Exchange): void {
    const span = tracer.startSpan('request', { kind: SpanKind.SERVER }, remoteParent(request.traceparent))
    requests.set(request, span)
  }

  function ended({ request, client, call }: Exchange, outcome: Outcome, access: Access): void {
    const span = requests.get(request)
    if (!span) return
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
    const first = outcome.kind === 'fetched' && outcome.role === 'joined' ? outcome.landing.attempts[0] : undefined
    const flight = first && landed.get(first)
    if (flight) span.addLink({ context: flight.spanContext() })
    if (access.status !== 'gone' && access.status >= 500) span.setStatus({ code: SpanStatusCode.ERROR })
    span.end()
  }

  function retry(inner: Retry): Retry {
    return {
      async run(call, spender, flight, attempt) {
        const traced: TracedFlight = { startedAt: clock.wall(), span: null }
        let landing: Landing | null = null
        try {
          landing = await inner.run(call, spender, flight, async (turn) => {
            flights.set(turn, traced)
            const tried = await attempt(turn)
            if (tried && traced.span) landed.set(tried.attempt, traced.span)
            return tried
          })
          return landing
        } finally {
          endFlight(traced, landing)
        }
      },
    }
  }

  function upstream(inner: Upstream): Upstream {
    return {
      async ask(question) {
        const { call, turn, identity, key, client } = question
        const flight = flights.get(turn) ?? { startedAt: clock.wall(), span: null }
        flight.span ??= startFlight(identity, flight.startedAt, {
          'proxy.request_id': identity.id,
          'proxy.scraper': call.scraper,
          'proxy.payer': client.name,
        })
        const attributes = { 'proxy.attempt': turn.number, 'proxy.key': key.name, 'proxy.waited_ms': turn.waitedMs }
        const parent = trace.setSpan(ROOT_CONTEXT, flight.span)
        const span = tracer.startSpan('attempt', { kind: SpanKind.CLIENT, attributes }, parent)
        try {
          const traceparent = traceparentOf(span) ?? identity.traceparent
          const asked = await context.with(trace.setSpan(parent, span), () =>
            inner.ask({ ...question, identity: { id: identity.id, traceparent } }),
          )
          const { verdict, status } = asked
          span.setAttributes({
            'proxy.class': verdict.kind === 'answered' ? 'ok' : verdict.class,
            'proxy.charge': verdict.charge.state,
            'proxy.credits': verdict.charge.credits,
            ...(status !== null && { 'http.response.status_code': status }),
          })
          if (verdict.kind === 'failed') span.setStatus({ code: SpanStatusCode.ERROR })
          return asked
        } finally {
          span.end()
        }
      },
    }
  }

  /** Only now it is known whose it is, so it is begun with hindsight. */
  function startFlight(identity: RequestIdentity, startTime: number, attributes: Attributes): Span {
    const request = requests.get(identity)
    const parent = request ? trace.setSpan(ROOT_CONTEXT, request) : remoteParent(identity.traceparent)
    return tracer.startSpan('flight', { kind: SpanKind.INTERNAL, startTime, attributes }, parent)
  }

  function idOf(request: RequestIdentity): string | null {
    const own = requests.get(request)?.spanContext()
    return own && trace.isSpanContextValid(own) ? own.traceId : traceIdOf(request.traceparent)
  }
}

interface TracedFlight {
  readonly startedAt: number
  /** Null = upstream has not been asked. */
  span: Span | null
}

function endFlight({ span }: TracedFlight, landing: Landing | null): void {
  if (!span) return
  if (landing)
    span.setAttributes({ 'proxy.attempts': landing.attempts.length, 'proxy.credits': landing.chargedCredits })
  if (landing?.stoppedBy) span.setAttribute('proxy.stopped_by', landing.stoppedBy)
  if (landing?.verdict.kind !== 'answered') span.setStatus({ code: SpanStatusCode.ERROR })
  span.end()
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

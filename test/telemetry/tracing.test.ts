/** Spans, where an SDK is there: a provider of our own that keeps what it is told, registered before the proxy is made. */
import {
  type Attributes,
  type Context,
  type Link,
  type Span,
  type SpanContext,
  type SpanOptions,
  trace,
} from '@opentelemetry/api'
import t from 'tap'
import { observed } from '../support/observed.ts'
import { aClient, answered, failed } from '../support/verdicts.ts'

interface Kept {
  readonly name: string
  readonly kind: number | undefined
  readonly context: SpanContext
  readonly parent: SpanContext | null
  readonly attributes: Attributes
  readonly links: Link[]
  readonly startTime: unknown
  status: number
  ends: number
}

const kept: Kept[] = []
/** What a sampler decides. */
let flags = 1

/** No more of a tracer than the interface asks for. */
function startSpan(name: string, { kind, attributes = {}, startTime }: SpanOptions = {}, context?: Context): Span {
  const parent = context ? (trace.getSpanContext(context) ?? null) : null
  const number = String(kept.length + 1)
  const one: Kept = {
    name,
    kind,
    context: {
      traceId: parent?.traceId ?? number.padStart(32, 'a'),
      spanId: number.padStart(16, 'b'),
      traceFlags: flags,
    },
    parent,
    attributes: { ...attributes },
    links: [],
    startTime,
    status: 0,
    ends: 0,
  }
  kept.push(one)
  const span: Span = {
    spanContext: () => one.context,
    setAttribute(key, value) {
      one.attributes[key] = value
      return span
    },
    setAttributes(more) {
      Object.assign(one.attributes, more)
      return span
    },
    addEvent: () => span,
    addLink(link) {
      one.links.push(link)
      return span
    },
    addLinks: () => span,
    setStatus({ code }) {
      one.status = code
      return span
    },
    updateName: () => span,
    end: () => void (one.ends += 1),
    isRecording: () => true,
    recordException: () => undefined,
  }
  return span
}

const tracer = {
  startSpan,
  startActiveSpan: () => {
    throw new Error('spans are not tied to what happens to be active')
  },
}
const SERVER = 1
const CLIENT = 2
const ERROR = 2

function spansOf(name: string): Kept[] {
  return kept.filter((span) => span.name === name)
}

void t.test('without an SDK nothing is wrapped', async (t) => {
  const { finish, calls } = observed({ says: () => answered() })
  await finish({ id: 'plain' })
  t.equal(calls[0]?.identity.traceparent, null)
  t.equal(kept.length, 0)
})

void t.test('with one', async (t) => {
  trace.setGlobalTracerProvider({ getTracer: () => tracer })
  t.teardown(() => trace.disable())
  t.beforeEach(() => void kept.splice(0))

  await t.test('request, flight and attempts are one trace, and upstream hears of the attempt', async (t) => {
    const { finish, calls, lines } = observed({ says: (n) => (n === 1 ? failed('warmingUp') : answered()) })
    await finish({ id: 'traced', traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' })
    const [request] = spansOf('request')
    const [flight] = spansOf('flight')
    const attempts = spansOf('attempt')
    t.match(request, {
      kind: SERVER,
      parent: {
        traceId: '0af7651916cd43dd8448eb211c80319c',
        spanId: 'b7ad6b7169203331',
        isRemote: true,
        traceFlags: 1,
      },
      attributes: {
        'proxy.request_id': 'traced',
        'proxy.client': 'team',
        'proxy.scraper': 'alpha',
        'proxy.cache': 'miss',
        'proxy.attempts': 2,
        'proxy.credits': 3,
        'http.response.status_code': 200,
      },
      status: 0,
      ends: 1,
    })
    t.match(flight, {
      parent: request?.context,
      attributes: { 'proxy.payer': 'team', 'proxy.attempts': 2 },
      ends: 1,
      status: 0,
    })
    t.type(flight?.startTime, 'number')
    t.match(attempts, [
      {
        kind: CLIENT,
        parent: flight?.context,
        status: ERROR,
        ends: 1,
        attributes: { 'proxy.attempt': 1, 'proxy.class': 'warmingUp' },
      },
      {
        parent: flight?.context,
        status: 0,
        ends: 1,
        attributes: { 'proxy.class': 'ok', 'proxy.credits': 3, 'proxy.key': 'main' },
      },
    ])
    t.strictSame(
      calls.map(({ identity }) => identity.traceparent),
      attempts.map(({ context }) => `00-${context.traceId}-${context.spanId}-01`),
    )
    t.equal(lines()[0]?.['trace_id'], '0af7651916cd43dd8448eb211c80319c')
    t.notMatch(JSON.stringify(kept), 'CANARY')
  })

  await t.test('a request without a trace gets one, sampled or not', async (t) => {
    flags = 0
    t.teardown(() => (flags = 1))
    const { finish, calls, audit } = observed({ says: () => answered() })
    await finish({ id: 'own' })
    const [request] = spansOf('request')
    t.equal(request?.parent, null)
    t.match(calls[0]?.identity.traceparent, new RegExp(`^00-${request?.context.traceId}-[\\db]{16}-00$`))
    t.equal(audit.find('own')[0]?.traceId, request?.context.traceId)
  })

  await t.test('who joins has a link to the flight, in a trace of its own', async (t) => {
    const { ask, clock } = observed({ says: () => answered() })
    await clock.finish(Promise.all([ask({ id: 'first' }).outcome, ask({ id: 'second' }).outcome]))
    const [flight, ...others] = spansOf('flight')
    t.equal(others.length, 0)
    const [first, second] = spansOf('request')
    t.match([first?.links, second?.links], [[], [{ context: flight?.context }]])
    t.not(second?.context.traceId, flight?.context.traceId)
  })

  await t.test('what fails is an error; what is refused before upstream is asked has no flight', async (t) => {
    const { finish, ask, clock } = observed({
      breaker: { consecutive: 2, questions: 1, hold: 0 },
      says: () => failed('unreachable'),
    })
    await finish({ id: 'breaks' })
    t.match(spansOf('flight'), [{ status: ERROR, ends: 1, attributes: { 'proxy.stopped_by': 'breaker' } }])
    t.match(spansOf('request'), [{ status: ERROR, attributes: { 'proxy.code': 'UPSTREAM_UNREACHABLE' } }])
    await finish({ id: 'refused' })
    t.equal(spansOf('flight').length, 1)
    t.match(spansOf('request')[1], { status: ERROR, attributes: { 'proxy.code': 'CIRCUIT_OPEN' }, ends: 1 })
    await clock.advance(60_000)
    const gone = ask({ id: 'gone' })
    await clock.settle()
    gone.hangUp()
    await gone.outcome
    t.match(spansOf('request')[2], { status: 0, ends: 1 })
    t.notOk('http.response.status_code' in (spansOf('request')[2]?.attributes ?? {}))
    await clock.advance(10_000)
    t.ok(
      kept.every(({ ends }) => ends === 1),
      'each span ends once',
    )
  })

  await t.test('a refresh belongs to the trace of the request that set it off', async (t) => {
    const client = aClient({ cache: { ...aClient().cache, ttl: 1_000, staleWhileRevalidate: 60_000 } })
    const { finish, clock } = observed({ clients: [client], says: () => answered() })
    await finish({ id: 'miss' })
    await clock.advance(2_000)
    await finish({ id: 'stale' })
    await clock.advance(2_000)
    const [, flight] = spansOf('flight')
    t.equal(flight?.parent?.spanId, spansOf('request')[1]?.context.spanId)
    t.equal(spansOf('request')[1]?.attributes['proxy.cache'], 'stale')
  })
})

/**
 * The way of a request, in the order it happens:
 *
 *   identify → read → admit → look up ─ fresh ────────────────────────────────────┐
 *                               └─ miss → enter → join a flight                   │
 *                                         retry( breaker( lease a key → forward → classify ))
 *                                         store ── stale instead of an error? ────┤
 *                                                                                 └→ record → respond
 *
 * This file decides order and nothing else. Each line hands on the proof the next one needs: there is no forwarding
 * without a key, no storing without a verdict. What throws ends the exchange (a ProxyError); what returns continues it.
 */
import { ProxyError } from './errors.ts'
import type { Attempt, Call, Client, Exchange, Landing, Lookup, Outcome, ProxyRequest } from './model.ts'
import type {
  Admission,
  Attempted,
  Breakers,
  Bulkhead,
  Cache,
  Clients,
  Flight,
  Flights,
  Handle,
  Keys,
  Profile,
  Recorder,
  Retry,
  Turn,
} from './parts.ts'
import type { Clock, Emit, Transport } from './ports.ts'

export interface Parts {
  readonly clock: Clock
  readonly emit: Emit
  readonly clients: Clients
  readonly profile: Profile
  readonly admission: Admission
  readonly cache: Cache
  readonly flights: Flights
  readonly retry: Retry
  readonly breakers: Breakers
  readonly bulkhead: Bulkhead
  readonly keys: Keys
  readonly transport: Transport
  readonly recorder: Recorder
}

export function createPipeline(parts: Parts): Handle {
  const {
    clock,
    emit,
    clients,
    profile,
    admission,
    cache,
    flights,
    retry,
    breakers,
    bulkhead,
    keys,
    transport,
    recorder,
  } = parts

  /** Every exchange ends here, whatever happened: one outcome, recorded once. */
  return async function handle(exchange) {
    recorder.begin(exchange)
    const outcome = await decide(exchange).catch((error: unknown) => refused(error))
    recorder.record(exchange, outcome)
    return outcome
  }

  async function decide(exchange: Exchange): Promise<Outcome> {
    const { request } = exchange
    const client = (exchange.client = clients.identify(request))
    const call = (exchange.call = profile.read(request))
    exchange.limits = admission.admit(client, call)

    const key = cache.keyOf(call, client)
    const known = cache.lookup(key, call, request.wishes, client.cache)
    if (known.kind === 'fresh') return { kind: 'hit', entry: known.entry, tier: known.tier }
    mayForward(request)

    try {
      const landed = await ask(request, client, call, key, known)
      return staleInstead(known, landed) ?? landed
    } catch (error) {
      const fallback = staleInstead(known, refused(error))
      if (fallback) return fallback
      throw error
    }
  }

  async function ask(
    request: ProxyRequest,
    client: Client,
    call: Call,
    key: string | null,
    known: Lookup,
  ): Promise<Outcome> {
    const place = admission.enter(client)
    try {
      const patience = Math.min(client.retry.deadline, request.patienceMs ?? Number.POSITIVE_INFINITY)
      const asker = { deadlineAt: request.arrivedAt + patience, onGone: request.onGone, scraper: call.scraper }
      const flight = flights.join(mayJoin(call, request) ? key : null, asker, (flight) =>
        fly(request, client, call, key, flight),
      )
      const landing = await flight.landing
      if (!landing) return { kind: 'gone' }
      return { kind: 'fetched', landing, role: flight.role, forwardedBecause: because(call, known) }
    } finally {
      place.leave()
    }
  }

  /** One flight: asked and paid for once, however many wait for it. It outlives the askers who leave. */
  async function fly(
    request: ProxyRequest,
    client: Client,
    call: Call,
    key: string | null,
    flight: Flight,
  ): Promise<Landing> {
    const landing = await retry.run(call, client.retry, flight, (turn) =>
      breakers.run(
        call.scraper,
        () => attempt(request, client, call, turn),
        (tried) => tried.verdict.health,
      ),
    )
    const isUnclaimed = flight.patienceUntil() === 0
    const entry = request.wishes.noStore ? null : cache.store(key, call, landing.verdict, client.cache, isUnclaimed)
    return { ...landing, entry }
  }

  async function attempt(request: ProxyRequest, client: Client, call: Call, turn: Turn): Promise<Attempted> {
    const place = bulkhead.enter(call.scraper)
    try {
      const lease = await keys.lease(call, turn)
      const startedAt = clock.now()
      emit({ kind: 'attempt-started', scraper: call.scraper })
      const result = await transport.forward(profile.sign(call, turn, lease, request))
      const verdict = profile.classify(call, result, lease)
      lease.report(verdict)
      const attempt: Attempt = {
        number: turn.number,
        startedAt,
        durationMs: clock.now() - startedAt,
        waitedMs: turn.waitedMs,
        keyName: lease.name,
        status: result.kind === 'reply' ? result.reply.status : null,
        class: verdict.kind === 'answered' ? 'ok' : verdict.class,
        charge: verdict.charge,
      }
      emit({ kind: 'attempt-ended', scraper: call.scraper, payer: client.name, attempt })
      return { attempt, verdict, otherKeyReady: keys.hasOther(new Set([...turn.spentKeys, lease.name])) }
    } finally {
      place.leave()
    }
  }
}

/** A question that only the cache may answer ends here. */
function mayForward(request: ProxyRequest): void {
  if (request.wishes.onlyIfCached)
    throw new ProxyError('CACHE_MISS', 'No answer is kept, and only-if-cached forbids asking for one.')
  if (request.method === 'HEAD') {
    throw new ProxyError('METHOD_NOT_ALLOWED', 'HEAD is answered from the cache only, and nothing is kept for it.', {
      allow: 'GET',
    })
  }
}

function mayJoin(call: Call, request: ProxyRequest): boolean {
  return !call.bypass && !request.wishes.noCache && !request.wishes.noStore
}

function because(call: Call, known: Lookup): 'miss' | 'stale' | 'request' | 'bypass' | 'method' {
  if (call.endpoint === 'submit') return 'method'
  if (call.bypass || call.endpoint === 'status') return 'bypass'
  if (known.kind === 'stale') return 'stale'
  return known.kind === 'missing' && known.unwanted ? 'request' : 'miss'
}

function refused(error: unknown): Outcome {
  return { kind: 'refused', error: ProxyError.from(error), landing: null }
}

/** An expired answer beats an error, unless the error is the caller's own. */
function staleInstead(known: Lookup, instead: Outcome): Outcome | null {
  if (known.kind !== 'stale' || !isTroubleNotOfTheCaller(instead)) return null
  return {
    kind: 'stale',
    entry: known.entry,
    tier: known.tier,
    landing: instead.kind === 'fetched' && instead.role === 'leader' ? instead.landing : null,
    because: 'error',
  }
}

function isTroubleNotOfTheCaller(outcome: Outcome): boolean {
  if (outcome.kind === 'refused') return outcome.error.fault !== 'client' && outcome.error.code !== 'SHUTTING_DOWN'
  return (
    outcome.kind === 'fetched' &&
    outcome.landing.verdict.kind === 'failed' &&
    outcome.landing.verdict.fault !== 'client'
  )
}

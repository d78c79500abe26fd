/**
 * The life of a fetch: one question asked upstream and paid for once, however many requests wait for the result, on whichever
 * replica.
 *
 *   join ─ one is under way ─────────────────────────────────────── wait for its result
 *     └─ hold credits → lease among replicas ─ another one fetches ─ wait for its result
 *                          └─ lead: retry( breaker( permit → secure credits → begin the lease → lease a key → ask upstream ))
 *                               store → settle
 *
 * A fetch outlives the requests that stop waiting for it. `pipeline.ts` is the life of a request.
 */
import { ProxyError } from './errors.ts'
import type { Attempt, Call, Charge, Client, Landing, ProxyRequest } from './model.ts'
import type {
  Asked,
  Attempted,
  Breakers,
  Bulkhead,
  Hold,
  Keys,
  Pass,
  Retry,
  Traces,
  Turn,
  Upstream,
} from './fetch-parts.ts'
import type { Waiter, Flight, FlightLease, Flights, Joined, SharedFlights } from './flights.ts'
import type { Budget, Cache, Overload, Through } from './parts.ts'
import type { Clock, Emit } from './ports.ts'
import type { EventOf } from './telemetry/events.ts'

export interface FetchParts {
  readonly clock: Clock
  readonly emit: Emit
  readonly cache: Cache
  readonly budget: Budget
  readonly flights: Pick<Flights, 'join' | 'has'>
  readonly retry: Retry
  readonly breakers: Breakers
  readonly bulkhead: Bulkhead
  readonly overload: Overload
  readonly keys: Keys
  readonly traces: Traces
  readonly upstream: Upstream
  /** Other replicas may be fetching the same answer. */
  readonly sharedFlights: SharedFlights
}

/** What is asked upstream, for which client, and where the answer goes. */
export interface Fetch {
  readonly request: Pick<ProxyRequest, 'id' | 'traceparent' | 'cacheDirectives'>
  readonly client: Client
  readonly call: Call
  /** Where the answer is kept; null = nowhere. */
  readonly key: string | null
  readonly askedAt: number
  /** Equal = the same question. Breakers and the retry budget limit what a single question may do. */
  readonly question: string
  /** Started for a caller, to replace an answer that is getting old, or because an earlier process did not finish it. */
  readonly on: 'request' | 'refresh' | 'resume'
  /** Sees the result before any waiter does. */
  readonly through: Through
  /** Key under which other requests may join, here and on other replicas; null = nobody may. */
  readonly joinKey: string | null
}

/** What an earlier process has left of a fetch. */
export type UnfinishedFetch = Omit<Fetch, 'on' | 'through' | 'joinKey' | 'question'>

/** A fetch that this process leads, as its attempts see it. */
interface LedFetch {
  readonly fetch: Fetch
  readonly hold: Hold
  readonly flight: Flight
  readonly lease: FlightLease
  /** In order; grows with each attempt. */
  readonly attempts: Attempt[]
}

export class Fetcher {
  readonly #parts: FetchParts

  constructor(parts: FetchParts) {
    this.#parts = parts
  }

  /** Joins the fetch that is under way, at no cost, or starts one, for which credits are set aside first. Rejects with BUDGET_EXHAUSTED. */
  async join(fetch: Fetch, waiter: Waiter): Promise<Joined> {
    const { budget, flights, emit } = this.#parts
    const { joinKey } = fetch
    const hold = flights.has(joinKey) ? budget.none : await budget.hold(fetch.client, fetch.call)
    let isLeader = false
    try {
      const joined = flights.join(joinKey, waiter, (flight) => {
        isLeader = true
        return fetch.through(this.#run(fetch, hold, flight))
      })
      if (!isLeader && fetch.on === 'request')
        emit({ kind: 'flight-joined', flight: joined.id, request: fetch.request })
      return joined
    } finally {
      if (!isLeader) hold.settle()
    }
  }

  /** Fetches a fresh answer in the background, unless that would hurt: upstream is failing, the client is short of credits, or the proxy is overloaded. */
  refresh(fetch: Fetch): void {
    const { flights, breakers, budget, overload, clock } = this.#parts
    const { client, call, key } = fetch
    if (flights.has(key) || breakers.isOpen(call.scraper) || !budget.hasRoom(client)) return
    if (overload.state !== 'calm') return
    const waiter = patientWaiter(call, client, true, clock.now())
    void this.#unattended(this.join({ ...fetch, on: 'refresh', askedAt: clock.now() }, waiter))
  }

  /** Finishes what an earlier process has begun and paid for. Null = there is no result. Never rejects. */
  resume(unfinished: UnfinishedFetch, hold: Hold): Promise<Landing | null> {
    const { call, client } = unfinished
    const joinKey = call.bypass ? null : unfinished.key
    const question = questionOf(call, unfinished.request.id)
    const fetch: Fetch = { ...unfinished, question, on: 'resume', through: unchanged, joinKey }
    // Nobody waits for it: the attempt that was begun is finished, and no other is made.
    const waiter = patientWaiter(
      call,
      { ...client, retry: { ...client.retry, attempts: 1 } },
      false,
      this.#parts.clock.now(),
    )
    const joined = this.#parts.flights.join(joinKey, waiter, (flight) => this.#run(fetch, hold, flight))
    if (joined.role === 'joined') hold.settle()
    return this.#unattended(Promise.resolve(joined))
  }

  /** Nobody waits for the result. Refusals are reported by the attempts themselves, bugs here. */
  async #unattended(joining: Promise<Joined>): Promise<Landing | null> {
    try {
      const joined = await joining
      return await joined.landing
    } catch (error) {
      if (!(error instanceof ProxyError)) this.#parts.emit({ kind: 'broke', where: 'flight', error })
      return null
    }
  }

  /** As the leader in this process: leads among the replicas, too, or waits for the replica that does. */
  async #run(fetch: Fetch, hold: Hold, flight: Flight): Promise<Landing> {
    const { emit } = this.#parts
    const { request, client, call, joinKey, askedAt, on } = fetch
    const key = call.endpoint === 'answer' ? joinKey : null
    emit({ kind: 'flight-started', flight: flight.id, call, payer: client.name, request, on })
    try {
      const question = { key, scraper: call.scraper, askedAt }
      const landing = await this.#parts.sharedFlights.fly(question, flight, (lease) =>
        this.#lead({ fetch, hold, flight, lease, attempts: [] }, key !== null),
      )
      if (key !== null && landing.attempts.length === 0 && landing.entry?.unclaimed)
        this.#parts.cache.claim(key, landing.entry)
      return landing
    } finally {
      hold.settle()
      emit({ kind: 'flight-ended', flight: flight.id })
    }
  }

  async #lead(led: LedFetch, isPassedOn: boolean): Promise<Landing> {
    const { emit, cache } = this.#parts
    const { fetch, flight, attempts } = led
    const { request, client, call, key } = fetch
    const about = { flight: flight.id, payer: client.name, scraper: call.scraper }
    let landing: Landing
    try {
      landing = await this.#retried(led)
    } catch (error) {
      if (attempts.length > 0) emit({ kind: 'flight-lost', ...about, attempts })
      throw error
    }
    emit({
      kind: 'flight-landed',
      ...about,
      landing,
      claimed: fetch.on === 'request' && flight.leaderWaits(),
    })
    const unclaimed = fetch.on === 'resume' || flight.patienceUntil() === 0
    const kept = { unclaimed, ageMs: 0, isPassedOn }
    const entry = request.cacheDirectives.noStore ? null : cache.store(key, call, landing.verdict, client.cache, kept)
    return { ...landing, entry }
  }

  #retried(led: LedFetch): Promise<Landing> {
    const { retry, breakers } = this.#parts
    const { call, client, question } = led.fetch
    const { scraper } = call
    return retry.run(call, { client: client.name, question }, led.flight, (turn) =>
      breakers.run(
        { scraper, question, flight: led.flight, isLast: turn.isLast, isOverBudget: turn.isOverBudget },
        (pass) => this.#attempt(led, turn, pass),
      ),
    )
  }

  /** Null = the circuit has opened while the attempt waited for a permit or for a key: nothing was asked. */
  async #attempt(led: LedFetch, turn: Turn, pass: Pass): Promise<Attempted | null> {
    const { bulkhead, keys, clock, emit, traces, upstream } = this.#parts
    const { hold, flight, lease } = led
    const { request, client, call, key } = led.fetch
    const permit = await bulkhead.enter(call.scraper, flight, client, turn.number > 1)
    try {
      if (pass.isVoid()) return null
      await hold.secure(call.priceCredits)
      const takeover = await lease.begin()
      const keyLease = await keys.lease(call, turn)
      if (pass.isVoid()) return null
      pass.start()
      const waitedMs = turn.waitedMs + pass.heldMs
      const started = { number: turn.number, startedAt: clock.now(), waitedMs, keyName: keyLease.name }
      flight.made.attempts += 1
      flight.made.credits += call.priceCredits
      const { number, keyName } = started
      emit({ kind: 'attempt-started', flight: flight.id, scraper: call.scraper, number, waitedMs, keyName })
      const cacheKey = request.cacheDirectives.noStore ? null : key
      let asked: Asked
      try {
        asked = await traces.within(flight.id, request, (traceparent) => {
          const identity = { id: request.id, traceparent }
          return upstream.ask({ call, turn, key: keyLease, identity, client, hold, cacheKey, lease, takeover })
        })
      } catch (error) {
        // A bug: nobody knows how far the attempt got. What may have been charged counts as charged.
        const charge: Charge = { state: 'unknown', credits: call.priceCredits }
        this.#ended(led, started, { ...NO_ANSWER, charge })
        throw error
      }
      const { verdict } = asked
      const attempt = this.#ended(led, started, endOf(asked))
      // Before the key and the permit go on to others: no call slips through a circuit that opens.
      pass.ended(verdict.health)
      keyLease.report(verdict)
      const otherKeyReady = keys.hasOther(new Set([...turn.spentKeys, keyLease.name]))
      return { attempt, verdict, otherKeyReady, wasTooMany: permit.ended(verdict, otherKeyReady) }
    } finally {
      permit.leave()
    }
  }

  /** What the attempt cost is counted before anything else can go wrong. */
  #ended({ fetch, hold, flight, attempts }: LedFetch, started: AttemptStart, end: AttemptEnd): Attempt {
    const { clock, emit } = this.#parts
    const { request, client, call } = fetch
    const { retryAfterMs, ...told } = end
    const attempt: Attempt = { ...started, ...told, durationMs: clock.now() - started.startedAt }
    attempts.push(attempt)
    flight.made.credits += end.charge.credits - call.priceCredits
    const about = { flight: flight.id, scraper: call.scraper, payer: client.name, id: request.id }
    emit({ kind: 'attempt-ended', ...about, attempt, retryAfterMs })
    hold.spend(end.charge, started.keyName)
    return attempt
  }
}

type AttemptStart = Pick<Attempt, 'number' | 'startedAt' | 'waitedMs' | 'keyName'>
type AttemptEnd = Required<Pick<Attempt, 'status' | 'class' | 'charge' | 'trouble' | 'anomalies'>> &
  Pick<EventOf<'attempt-ended'>, 'retryAfterMs'>

function endOf({ verdict, status, trouble }: Asked): AttemptEnd {
  const { charge, anomalies = [] } = verdict
  const failed = verdict.kind === 'failed' ? verdict : null
  const retryAfterMs = failed?.retryAfterMs ?? null
  return { status, class: failed?.class ?? 'ok', charge, trouble, anomalies, retryAfterMs }
}

const NO_ANSWER = { status: null, class: 'ambiguous', trouble: null, anomalies: [], retryAfterMs: null } as const

export const unchanged: Through = (flight) => flight

export function questionOf({ key, promptHash }: Call, requestId: string): string {
  return key ?? promptHash ?? requestId
}

/** Waits as long as the fetch may take. */
export function patientWaiter({ scraper }: Call, client: Client, hasFallback: boolean, now: number): Waiter {
  const { retry: policy } = client
  return {
    scraper,
    deadlineAt: now + policy.deadline,
    askedAt: now,
    policy,
    client,
    hasFallback,
    onGone: () => () => {},
  }
}

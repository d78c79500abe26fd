/**
 * The life of a request, in the order it happens:
 *
 *   identify → read → admit → look up ─ fresh ─────────────────────────────────────┐
 *                               ├─ stale, but good enough now ─────────────────────┤
 *                               └─ miss → not overloaded → enter                   │
 *                                     join a fetch (`fetch.ts`) or start one       │
 *                                     stale instead of error? ─────────────────────┴→ record → respond
 *
 * This file decides the order and nothing else. Each step hands on the proof that the next one needs. What throws ends the
 * exchange (a ProxyError); what returns continues it.
 */
import { type Code, ProxyError } from './errors.ts'
import { type Fetch, Fetcher, type FetchParts, patientWaiter, questionOf, unchanged } from './fetch.ts'
import type { Call, Client, Exchange, Landing, Lookup, Made, Outcome, ProxyRequest } from './model.ts'
import type { Waiter, Joined } from './flights.ts'
import type { Admission, Clients, Handle, Jobs, Profile, Recorder } from './parts.ts'

export interface Parts extends FetchParts {
  readonly clients: Clients
  readonly profile: Profile
  readonly admission: Admission
  readonly jobs: Jobs
  readonly recorder: Recorder
}

export interface Pipeline {
  readonly handle: Handle
  readonly resume: Fetcher['resume']
}

export function createPipeline(parts: Parts): Pipeline {
  const fetcher = new Fetcher(parts)
  const pipeline = new RequestPipeline(parts, fetcher)
  return {
    handle: pipeline.handle,
    resume: (unfinished, hold) => fetcher.resume(unfinished, hold),
  }
}

class RequestPipeline {
  readonly #parts: Parts
  readonly #fetcher: Fetcher

  constructor(parts: Parts, fetcher: Fetcher) {
    this.#parts = parts
    this.#fetcher = fetcher
  }

  /** Every exchange ends here, whatever happened: one outcome, recorded once. */
  readonly handle: Handle = (exchange) => {
    const outcome = this.#decideOrRefuse(exchange)
    return outcome instanceof Promise ? this.#wait(exchange, outcome) : this.#end(exchange, outcome)
  }

  async #wait(exchange: Exchange, deciding: Promise<Outcome>): Promise<Outcome> {
    const place = this.#parts.recorder.begin(exchange)
    const outcome = await deciding
    place.leave()
    return this.#end(exchange, outcome)
  }

  #end(exchange: Exchange, decided: Outcome): Outcome {
    const outcome = this.#standing(exchange, decided)
    if (outcome.kind === 'refused' && isWithoutPlaceOrCredits(outcome)) this.#giveBackRate(exchange)
    this.#parts.recorder.record(exchange, outcome)
    return outcome
  }

  /** What time alone has not given back yet. */
  #giveBackRate(exchange: Exchange): void {
    const { client, limits, request } = exchange
    if (!client || !limits) return
    const leftMs = limits.resetMs - (this.#parts.clock.now() - request.arrivedAt)
    if (leftMs > 0) exchange.limits = this.#parts.admission.giveBack(client, limits, leftMs)
  }

  #standing(exchange: Exchange, outcome: Outcome): Outcome {
    try {
      if (exchange.client) exchange.credits = this.#parts.budget.limits(exchange.client)
      return outcome
    } catch (error) {
      return refused(error)
    }
  }

  #decideOrRefuse(exchange: Exchange): Outcome | Promise<Outcome> {
    try {
      const outcome = this.#decide(exchange)
      return outcome instanceof Promise ? outcome.catch(refused) : outcome
    } catch (error) {
      return refused(error)
    }
  }

  /** Goes straight on where nothing has to be waited for: a hit costs no promise and no turn of the loop. */
  #decide(exchange: Exchange): Outcome | Promise<Outcome> {
    const { request } = exchange
    const client = (exchange.client = this.#parts.clients.identify(request))
    const call = (exchange.call = this.#parts.profile.read(request))
    const admitted = this.#parts.admission.admit(client, call)
    const key = this.#parts.cache.keyOf(call, client)
    const lookUp = (): Lookup | Promise<Lookup> =>
      this.#parts.cache.lookup(key, call, request.cacheDirectives, client.cache, deadlineOf(request, client))
    // What takes a round trip to the shared store takes the same one.
    const ahead = admitted instanceof Promise && call.endpoint === 'answer' ? lookUp() : null
    return after(admitted, (limits) => {
      exchange.limits = limits
      if (call.endpoint !== 'answer') return this.#follow(exchange, this.#fetchOf(request, client, call, key))
      return after(ahead ?? lookUp(), (known) => {
        if (known.kind === 'fresh') return this.#given(key, known)
        const fetch = this.#fetchOf(request, client, call, key)
        if (known.kind === 'stale' && known.because !== 'error') return this.#expired(fetch, request, known)
        return this.#forward(exchange, fetch, known)
      })
    })
  }

  #fetchOf(request: ProxyRequest, client: Client, call: Call, key: string | null): Fetch {
    const joinKey = mayJoin(call, request) ? key : null
    const question = questionOf(call, request.id)
    const askedAt = request.arrivedAt
    return { request, client, call, key, question, askedAt, on: 'request', through: unchanged, joinKey }
  }

  #follow(exchange: Exchange, fetch: Fetch): Promise<Outcome> {
    return this.#parts.jobs.follow(exchange.request, fetch.client, fetch.call, (call, joinKey, through) =>
      this.#ask(exchange, { ...fetch, call, through, joinKey }, NOTHING_KNOWN),
    )
  }

  async #forward(exchange: Exchange, fetch: Fetch, known: Lookup): Promise<Outcome> {
    mayForward(exchange.request)
    try {
      const outcome = await this.#ask(exchange, fetch, known)
      return staleInstead(known, outcome) ?? outcome
    } catch (error) {
      const fallback = staleInstead(known, refused(error))
      if (fallback) return fallback
      throw error
    }
  }

  async #ask(exchange: Exchange, fetch: Fetch, known: Lookup): Promise<Outcome> {
    const { request } = exchange
    const { client, call } = fetch
    const promisedAt = promiseAt(request, call)
    if (promisedAt !== null) this.#parts.profile.jobs.mayPromise(call)
    this.#parts.overload.mayAsk()
    const place = await this.#parts.admission.enter(client)
    try {
      const joined = await this.#fetcher.join(fetch, this.#waiterOf(request, client, call, known.kind === 'stale'))
      exchange.flight = joined
      const answered = joined.landing.then((landing) => this.#keyRefused(landing))
      const inTime = promisedAt === null ? answered : this.#orLater(answered, promisedAt)
      const landing = await inTime.catch((error: unknown) => refused(error, madeBy(joined)))
      if (landing === 'later')
        return { ...(await this.#parts.jobs.promise(client, call, answered)), promised: promisedBy(joined, call) }
      if (!landing) return { kind: 'gone' }
      if ('kind' in landing) return landing
      // Another replica asked and paid: its answer was joined, whoever began to wait for it here.
      const role = landing.attempts.length === 0 ? 'joined' : joined.role
      const isUnderWay = joined.made.attempts > landing.attempts.length
      const made = isUnderWay ? madeBy(joined) : undefined
      return { kind: 'fetched', landing, role, made, forwardedBecause: because(call, known) }
    } finally {
      place.leave()
    }
  }

  #keyRefused(landing: Landing | null): Landing | null {
    if (landing?.verdict.kind === 'failed' && landing.verdict.class === 'unauthorized') throw this.#parts.keys.refusal()
    return landing
  }

  #given(key: string | null, { entry, tier }: Extract<Lookup, { kind: 'fresh' }>): Outcome {
    if (entry.unclaimed && key !== null) this.#parts.cache.claim(key, entry)
    return { kind: 'hit', entry, tier }
  }

  /** An expired answer that is good enough now. What only the cache may answer costs nothing, in the background neither. */
  #expired(fetch: Fetch, request: ProxyRequest, known: Extract<Lookup, { kind: 'stale' }>): Outcome {
    const mayRefresh = !request.cacheDirectives.onlyIfCached && request.method !== 'HEAD'
    if (known.because === 'revalidating' && mayRefresh) this.#fetcher.refresh(fetch)
    return { ...known, landing: null }
  }

  #waiterOf(request: ProxyRequest, client: Client, call: Call, hasFallback: boolean): Waiter {
    const { retry: policy } = client
    // Its caller takes a job id in place of the answer, and may hang up with it.
    if (promiseAt(request, call) !== null) return patientWaiter(call, client, hasFallback, this.#parts.clock.now())
    const { arrivedAt: askedAt, onGone } = request
    const deadlineAt = deadlineOf(request, client)
    return { scraper: call.scraper, deadlineAt, askedAt, policy, client, hasFallback, onGone }
  }

  /** The landing, or `later` when it has not come by then. */
  #orLater<T>(landing: Promise<T>, at: number): Promise<T | 'later'> {
    return new Promise((resolve, reject) => {
      const timer = this.#parts.clock.after(at - this.#parts.clock.now(), () => resolve('later'))
      landing.then(resolve, reject).finally(() => timer.cancel())
    })
  }
}

/** At once where the value is there already, else when it comes. */
function after<T, U>(value: T | Promise<T>, next: (value: T) => U | Promise<U>): U | Promise<U> {
  return value instanceof Promise ? value.then(next) : next(value)
}

/** By the clock: the caller's own patience, or what its client may take. */
function deadlineOf({ arrivedAt, patienceMs }: ProxyRequest, { retry }: Client): number {
  return arrivedAt + Math.min(retry.deadline, patienceMs ?? Number.POSITIVE_INFINITY)
}

const NOTHING_KNOWN: Lookup = { kind: 'missing', bypassed: false }

/** A question that only the cache may answer ends here. */
function mayForward(request: ProxyRequest): void {
  if (request.cacheDirectives.onlyIfCached)
    throw new ProxyError('CACHE_MISS', 'No answer is kept, and only-if-cached forbids asking for one: leave it out.')
  if (request.method === 'HEAD') {
    throw new ProxyError(
      'METHOD_NOT_ALLOWED',
      'HEAD is answered from the cache only, and no answer is cached. Use GET.',
      {
        allow: 'GET',
      },
    )
  }
}

/**
 * When the caller gets a job id in place of the answer: after RFC 7240 `wait`, or at the end of its own patience. Null = it has not asked
 * for that, or for a job, which is asynchronous already.
 */
function promiseAt({ arrivedAt, respondAsyncAfterMs, patienceMs }: ProxyRequest, call: Call): number | null {
  if (respondAsyncAfterMs === null || call.endpoint !== 'answer') return null
  return arrivedAt + Math.min(respondAsyncAfterMs, patienceMs ?? Number.POSITIVE_INFINITY)
}

function mayJoin(call: Call, request: ProxyRequest): boolean {
  return !call.bypass && !request.cacheDirectives.noCache && !request.cacheDirectives.noStore
}

function because(call: Call, known: Lookup): 'miss' | 'stale' | 'request' | 'bypass' | 'method' {
  if (call.endpoint === 'submit') return 'method'
  if (call.bypass || call.endpoint === 'status') return 'bypass'
  if (known.kind === 'stale') return 'stale'
  return known.kind === 'missing' && known.bypassed ? 'request' : 'miss'
}

function refused(error: unknown, made?: Made): Extract<Outcome, { kind: 'refused' }> {
  return { kind: 'refused', error: ProxyError.from(error), made }
}

/** Who joined pays for nothing. */
function madeBy({ role, made: { attempts, credits } }: Joined): Made {
  return { attempts, credits: role === 'leader' ? credits : 0 }
}

/** A promise says its price, also when no attempt has begun yet. */
function promisedBy(joined: Joined, { priceCredits }: Call): Extract<Outcome, { kind: 'job' }>['promised'] {
  const { role } = joined
  const { attempts, credits } = madeBy(joined)
  return { role, made: { attempts, credits: role === 'leader' ? Math.max(credits, priceCredits) : 0 } }
}

/** An expired answer beats an error, unless the error is the caller's own. */
function staleInstead(known: Lookup, instead: Outcome): Outcome | null {
  if (known.kind !== 'stale' || !isTroubleNotOfTheCaller(instead)) return null
  return {
    kind: 'stale',
    entry: known.entry,
    tier: known.tier,
    landing: instead.kind === 'fetched' && instead.role === 'leader' ? instead.landing : null,
    made: 'made' in instead ? instead.made : undefined,
    because: 'error',
  }
}

/** Upstream was not asked, for want of a place or of credits. */
function isWithoutPlaceOrCredits({ error, made }: Extract<Outcome, { kind: 'refused' }>): boolean {
  return scarce.has(error.code) && (made?.attempts ?? 0) === 0
}

const scarce: ReadonlySet<Code> = new Set<Code>([
  'OVERLOADED',
  'CONCURRENCY_LIMITED',
  'BUDGET_EXHAUSTED',
  'BUDGET_UNAVAILABLE',
])

function isTroubleNotOfTheCaller(outcome: Outcome): boolean {
  if (outcome.kind === 'refused') {
    const { fault, code } = outcome.error
    return isWithoutPlaceOrCredits(outcome) || (fault !== 'client' && code !== 'SHUTTING_DOWN')
  }
  return (
    outcome.kind === 'fetched' &&
    outcome.landing.verdict.kind === 'failed' &&
    outcome.landing.verdict.fault !== 'client'
  )
}

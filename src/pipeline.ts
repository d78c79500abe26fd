/**
 * The way of a request, in the order it happens:
 *
 *   identify → read → admit → look up ─ fresh ────────────────────────────────────┐
 *                               ├─ stale, but it does at once ────────────────────┤
 *                               └─ miss → not overloaded → enter → hold credits   │
 *                                     join a flight                               │
 *                                     retry( breaker( secure → lease a key → ask upstream ))
 *                                     store → settle ── stale instead of error? ──┤
 *                                                                                 └→ record → respond
 *
 * This file decides order and nothing else. Each line hands on the proof the next one needs: there is no asking
 * without a key, no storing without a verdict. What throws ends the exchange (a ProxyError); what returns continues it.
 * Longer than other files, because the whole way is read in one go.
 */
import { type Code, ProxyError } from './errors.ts'
import type {
  Attempt,
  Call,
  Charge,
  Client,
  Exchange,
  Landing,
  Lookup,
  Made,
  Outcome,
  ProxyRequest,
  RetryPolicy,
} from './model.ts'
import type {
  Admission,
  Asked,
  Asker,
  Attempted,
  Breakers,
  Budget,
  Bulkhead,
  Cache,
  Clients,
  Flight,
  FlightLease,
  Flights,
  Handle,
  Hold,
  Jobs,
  Joined,
  Keys,
  Overload,
  Pass,
  Profile,
  Recorder,
  Retry,
  SharedFlights,
  Through,
  Turn,
  Upstream,
} from './parts.ts'
import type { Clock, Emit } from './ports.ts'

export interface Parts {
  readonly clock: Clock
  readonly emit: Emit
  readonly clients: Clients
  readonly profile: Profile
  readonly admission: Admission
  readonly cache: Cache
  readonly budget: Budget
  readonly flights: Pick<Flights, 'join' | 'has'>
  readonly retry: Retry
  readonly breakers: Breakers
  readonly bulkhead: Bulkhead
  readonly overload: Overload
  readonly keys: Keys
  readonly upstream: Upstream
  /** Other replicas may fly the same question. */
  readonly sharedFlights: SharedFlights
  readonly jobs: Jobs
  readonly recorder: Recorder
}

/** What one flight is about: whose question, what for, and where its answer goes. */
export interface Errand {
  readonly request: Pick<ProxyRequest, 'id' | 'traceparent' | 'wishes'>
  readonly client: Client
  readonly call: Call
  readonly key: string | null
  readonly askedAt: number
  /** Equal = the same question, for whoever must not let one question count as many. */
  readonly question: string
  /** A caller waits; or an answer grows old while it is used; or an earlier process left it unfinished. */
  readonly on: 'request' | 'refresh' | 'resume'
  /** What its flight must go through before anybody gets the landing. */
  readonly through: Through
  /** Under which others may join it, here and on other replicas; null = nobody may. */
  readonly joinKey: string | null
}

/** What an earlier process has left of an errand. */
export type Begun = Omit<Errand, 'on' | 'through' | 'joinKey' | 'question'>

export interface Pipeline {
  readonly handle: Handle
  /** Flies an errand that an earlier process has begun and paid for. Null = it came to nothing. Never rejects. */
  resume(errand: Begun, hold: Hold): Promise<Landing | null>
}

export function createPipeline(parts: Parts): Pipeline {
  const { clock, emit, clients, profile, admission, cache, budget, flights } = parts
  const { retry, breakers, bulkhead, overload, keys, upstream, sharedFlights, jobs, recorder } = parts

  /** Every exchange ends here, whatever happened: one outcome, recorded once. */
  function handle(exchange: Exchange): Outcome | Promise<Outcome> {
    recorder.begin(exchange)
    const outcome = decideOrRefuse(exchange)
    return outcome instanceof Promise ? outcome.then((known) => end(exchange, known)) : end(exchange, outcome)
  }

  function end(exchange: Exchange, decided: Outcome): Outcome {
    const outcome = standing(exchange, decided)
    if (isWithoutPlaceOrCredits(outcome)) giveBackRate(exchange)
    recorder.record(exchange, outcome)
    return outcome
  }

  /** Unless time alone may have given it back. */
  function giveBackRate(exchange: Exchange): void {
    const { client, limits, request } = exchange
    if (client && limits && clock.now() - request.arrivedAt < limits.resetMs)
      exchange.limits = admission.giveBack(client, limits)
  }

  function standing(exchange: Exchange, outcome: Outcome): Outcome {
    try {
      if (exchange.client) exchange.credits = budget.limits(exchange.client)
      return outcome
    } catch (error) {
      return refused(error)
    }
  }

  function decideOrRefuse(exchange: Exchange): Outcome | Promise<Outcome> {
    try {
      const outcome = decide(exchange)
      return outcome instanceof Promise ? outcome.catch(refused) : outcome
    } catch (error) {
      return refused(error)
    }
  }

  /** Goes straight on where nothing has to be waited for: a hit costs no promise and no turn of the loop. */
  function decide(exchange: Exchange): Outcome | Promise<Outcome> {
    const { request } = exchange
    const client = (exchange.client = clients.identify(request))
    const call = (exchange.call = profile.read(request))
    return after(admission.admit(client, call), (limits) => {
      exchange.limits = limits
      const key = cache.keyOf(call, client)
      if (call.endpoint !== 'answer') return follow(errandOf(request, client, call, key), request)
      return after(cache.lookup(key, call, request.wishes, client.cache), (known) => {
        if (known.kind === 'fresh') return given(key, known)
        const errand = errandOf(request, client, call, key)
        if (known.kind === 'stale' && known.because !== 'error') return expired(errand, request, known)
        return forward(errand, request, known)
      })
    })
  }

  function errandOf(request: ProxyRequest, client: Client, call: Call, key: string | null): Errand {
    const joinKey = mayJoin(call, request) ? key : null
    const question = questionOf(call, request.id)
    const askedAt = request.arrivedAt
    return { request, client, call, key, question, askedAt, on: 'request', through: straight, joinKey }
  }

  function follow(errand: Errand, request: ProxyRequest): Promise<Outcome> {
    return jobs.follow(request, errand.client, errand.call, (joinKey, through) =>
      ask(request, { ...errand, through, joinKey }, NOTHING_KNOWN),
    )
  }

  async function forward(errand: Errand, request: ProxyRequest, known: Lookup): Promise<Outcome> {
    mayForward(request)
    try {
      const landed = await ask(request, errand, known)
      return staleInstead(known, landed) ?? landed
    } catch (error) {
      const fallback = staleInstead(known, refused(error))
      if (fallback) return fallback
      throw error
    }
  }

  async function ask(request: ProxyRequest, errand: Errand, known: Lookup): Promise<Outcome> {
    const { client, call } = errand
    overload.mayAsk()
    const place = await admission.enter(client)
    try {
      const joined = await board(errand, askerOf(request, client, call, known.kind === 'stale'))
      const answered = joined.landing.then(keyRefused)
      const landing = await orLater(answered, promiseAt(request, call)).catch((error: unknown) =>
        refused(error, madeBy(joined)),
      )
      if (landing === 'later')
        return { ...(await jobs.promise(client, call, answered)), promised: promisedBy(joined, call) }
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

  function keyRefused(landing: Landing | null): Landing | null {
    if (landing?.verdict.kind === 'failed' && landing.verdict.class === 'unauthorized') throw keys.refusal()
    return landing
  }

  /** Who finds a flight under way rides along for nothing; who starts one has credits set aside first. */
  async function board(errand: Errand, asker: Asker): Promise<Joined> {
    const { joinKey } = errand
    const hold = flights.has(joinKey) ? budget.none : await budget.hold(errand.client, errand.call)
    let isLeader = false
    try {
      return flights.join(joinKey, asker, (flight) => {
        isLeader = true
        return errand.through(fly(errand, hold, flight))
      })
    } finally {
      if (!isLeader) hold.settle()
    }
  }

  /** One flight: asked and paid for once, however many wait for it, on whichever replica. It outlives the askers who leave. */
  async function fly(errand: Errand, hold: Hold, flight: Flight): Promise<Landing> {
    const { call, joinKey, askedAt } = errand
    const key = call.endpoint === 'answer' ? joinKey : null
    try {
      const question = { key, scraper: call.scraper, askedAt }
      const landing = await sharedFlights.fly(question, flight, (lease) =>
        lead(errand, hold, flight, lease, key !== null),
      )
      if (key !== null && landing.attempts.length === 0 && landing.entry?.unclaimed) cache.claim(key, landing.entry)
      return landing
    } finally {
      hold.settle()
    }
  }

  async function lead(
    errand: Errand,
    hold: Hold,
    flight: Flight,
    lease: FlightLease,
    isPassedOn: boolean,
  ): Promise<Landing> {
    const { request, client, call, key } = errand
    const attempts: Attempt[] = []
    let landing: Landing
    try {
      const { scraper } = call
      const { question } = errand
      landing = await retry.run(call, { client: client.name, question }, flight, (turn) =>
        breakers.run({ scraper, question, flight, isLast: turn.isLast, isOverBudget: turn.isOverBudget }, (pass) =>
          attempt(errand, hold, flight, turn, pass, lease, attempts),
        ),
      )
    } catch (error) {
      if (attempts.length > 0) emit({ kind: 'flight-lost', payer: client.name, scraper: call.scraper, attempts })
      throw error
    }
    emit({
      kind: 'flight-landed',
      payer: client.name,
      scraper: call.scraper,
      landing,
      claimed: errand.on === 'request' && flight.leaderWaits(),
    })
    const unclaimed = errand.on === 'resume' || flight.patienceUntil() === 0
    const kept = { unclaimed, ageMs: 0, isPassedOn }
    const entry = request.wishes.noStore ? null : cache.store(key, call, landing.verdict, client.cache, kept)
    return { ...landing, entry }
  }

  async function attempt(
    errand: Errand,
    hold: Hold,
    flight: Flight,
    turn: Turn,
    pass: Pass,
    lease: FlightLease,
    attempts: Attempt[],
  ): Promise<Attempted | null> {
    const { request, client, call, key } = errand
    const permit = await bulkhead.enter(call.scraper, flight, client, turn.number > 1)
    try {
      if (pass.isVoid()) return null
      await hold.secure(call.priceCredits)
      const takeover = await lease.begin()
      const keyLease = await keys.lease(call, turn)
      pass.start()
      const startedAt = clock.now()
      const tally = (
        status: number | null,
        ended: Attempt['class'],
        charge: Charge,
        trouble: Attempt['trouble'],
        anomalies: Attempt['anomalies'] = [],
      ): Attempt => {
        const durationMs = clock.now() - startedAt
        const tried: Attempt = {
          number: turn.number,
          startedAt,
          durationMs,
          waitedMs: turn.waitedMs + pass.heldMs,
          keyName: keyLease.name,
          status,
          class: ended,
          charge,
          trouble,
          anomalies,
        }
        attempts.push(tried)
        flight.made.credits += charge.credits - call.priceCredits
        emit({ kind: 'attempt-ended', scraper: call.scraper, payer: client.name, id: request.id, attempt: tried })
        hold.spend(charge, keyLease.name)
        return tried
      }
      flight.made.attempts += 1
      flight.made.credits += call.priceCredits
      emit({ kind: 'attempt-started', scraper: call.scraper })
      const cacheKey = request.wishes.noStore ? null : key
      let asked: Asked
      try {
        asked = await upstream.ask({
          call,
          turn,
          key: keyLease,
          identity: request,
          client,
          hold,
          cacheKey,
          lease,
          takeover,
        })
      } catch (error) {
        // A bug, and nobody knows how far it got: what may have been charged counts as charged.
        tally(null, 'ambiguous', { state: 'unknown', credits: call.priceCredits }, null)
        throw error
      }
      const { verdict, status, trouble } = asked
      const ended = verdict.kind === 'answered' ? 'ok' : verdict.class
      const tried = tally(status, ended, verdict.charge, trouble, verdict.anomalies)
      keyLease.report(verdict)
      const otherKeyReady = keys.hasOther(new Set([...turn.spentKeys, keyLease.name]))
      return { attempt: tried, verdict, otherKeyReady, wasTooMany: permit.ended(verdict, otherKeyReady) }
    } finally {
      permit.leave()
    }
  }

  function given(key: string | null, { entry, tier }: Extract<Lookup, { kind: 'fresh' }>): Outcome {
    if (entry.unclaimed && key !== null) cache.claim(key, entry)
    return { kind: 'hit', entry, tier }
  }

  /** An expired answer that does at once. What only the cache may answer costs nothing, in the background neither. */
  function expired(errand: Errand, request: ProxyRequest, known: Extract<Lookup, { kind: 'stale' }>): Outcome {
    const mayRefresh = !request.wishes.onlyIfCached && request.method !== 'HEAD'
    if (known.because === 'revalidating' && mayRefresh) refresh(errand)
    return { ...known, landing: null }
  }

  /** Asks for a fresh answer that nobody waits for, unless that would hurt: a sick upstream, a client short of credits, or too much to do. */
  function refresh(errand: Errand): void {
    const { client, call, key } = errand
    if (flights.has(key) || breakers.isOpen(call.scraper) || !budget.hasRoom(client)) return
    if (overload.state !== 'calm') return
    void unattended(board({ ...errand, on: 'refresh', askedAt: clock.now() }, patient(call, client.retry, true)))
  }

  function resume(begun: Begun, hold: Hold): Promise<Landing | null> {
    const joinKey = begun.call.bypass ? null : begun.key
    const question = questionOf(begun.call, begun.request.id)
    const errand: Errand = { ...begun, question, on: 'resume', through: straight, joinKey }
    // Nobody waits for it, so what was begun is finished, and not begun anew.
    const asker = patient(errand.call, { ...errand.client.retry, attempts: 1 }, false)
    const joined = flights.join(joinKey, asker, (flight) => fly(errand, hold, flight))
    if (joined.role === 'joined') hold.settle()
    return unattended(Promise.resolve(joined))
  }

  /** A flight for nobody in particular: its refusals are told by its attempts, its bugs are not. */
  async function unattended(boarding: Promise<Joined>): Promise<Landing | null> {
    try {
      return await (
        await boarding
      ).landing
    } catch (error) {
      if (!(error instanceof ProxyError)) emit({ kind: 'broke', where: 'flight', error })
      return null
    }
  }

  /** Waits as long as the flight may take. */
  function patient({ scraper }: Call, policy: RetryPolicy, hasFallback: boolean): Asker {
    const askedAt = clock.now()
    return { scraper, deadlineAt: askedAt + policy.deadline, askedAt, policy, hasFallback, onGone: () => () => {} }
  }

  function askerOf(request: ProxyRequest, { retry: policy }: Client, call: Call, hasFallback: boolean): Asker {
    // Its caller takes a job id in place of the answer, and may hang up with it.
    if (promiseAt(request, call) !== null) return patient(call, policy, hasFallback)
    const { arrivedAt: askedAt, onGone } = request
    const deadlineAt = askedAt + Math.min(policy.deadline, request.patienceMs ?? Number.POSITIVE_INFINITY)
    return { scraper: call.scraper, deadlineAt, askedAt, policy, hasFallback, onGone }
  }

  /** The landing, or `later` when it has not come by then. */
  function orLater<T>(landing: Promise<T>, at: number | null): Promise<T | 'later'> {
    if (at === null) return landing
    return new Promise((resolve, reject) => {
      const timer = clock.after(at - clock.now(), () => resolve('later'))
      landing.then(resolve, reject).finally(() => timer.cancel())
    })
  }

  return { handle, resume }
}

/** At once where the value is there already, else when it comes. */
function after<T, U>(value: T | Promise<T>, next: (value: T) => U | Promise<U>): U | Promise<U> {
  return value instanceof Promise ? value.then(next) : next(value)
}

const NOTHING_KNOWN: Lookup = { kind: 'missing', unwanted: false }
const straight: Through = (flight) => flight

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

/**
 * When the caller gets a job id in place of the answer: after RFC 7240 `wait`, or at the end of its own patience. Null = it has not asked
 * for that, or for a job, which is asynchronous already.
 */
function promiseAt({ arrivedAt, respondAsyncAfterMs, patienceMs }: ProxyRequest, call: Call): number | null {
  if (respondAsyncAfterMs === null || call.endpoint !== 'answer') return null
  return arrivedAt + Math.min(respondAsyncAfterMs, patienceMs ?? Number.POSITIVE_INFINITY)
}

function questionOf({ key, promptHash }: Call, requestId: string): string {
  return key ?? promptHash ?? requestId
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
function isWithoutPlaceOrCredits(outcome: Outcome): boolean {
  return outcome.kind === 'refused' && scarce.has(outcome.error.code) && (outcome.made?.attempts ?? 0) === 0
}

const scarce: ReadonlySet<Code> = new Set<Code>([
  'OVERLOADED',
  'CONCURRENCY_LIMITED',
  'BUDGET_EXHAUSTED',
  'BUDGET_UNAVAILABLE',
])

function isTroubleNotOfTheCaller(outcome: Outcome): boolean {
  if (isWithoutPlaceOrCredits(outcome)) return true
  if (outcome.kind === 'refused') return outcome.error.fault !== 'client' && outcome.error.code !== 'SHUTTING_DOWN'
  return (
    outcome.kind === 'fetched' &&
    outcome.landing.verdict.kind === 'failed' &&
    outcome.landing.verdict.fault !== 'client'
  )
}

/**
 * One policy against one traffic: the real pipeline with its real parts, in virtual time; only upstream is played. One process
 * with empty circuits, full retry budgets and rested keys, whose memory holds what disk and Redis would. The same settings, traffic, weather
 * and seed make the same figures.
 */
import { createLocalTier } from '../cache/local-tier.ts'
import { createCache } from '../cache/tiered.ts'
import { cacheBytesOf, resolveClient, resolveRetry } from '../config/policy.ts'
import type { Config } from '../config/schema.ts'
import { ProxyError, type Code } from '../errors.ts'
import { restsIn } from '../keys/key-state.ts'
import { createKeys } from '../keys/pool.ts'
import { createAdmission } from '../limits/admission.ts'
import { createBudget } from '../limits/budget.ts'
import type { Client, Exchange, Outcome, ProxyRequest } from '../model.ts'
import { createPipeline } from '../pipeline.ts'
import type { Clock, Emit } from '../ports.ts'
import { createBreakers } from '../resilience/breaker.ts'
import { createBulkhead } from '../resilience/bulkhead.ts'
import { createFlights } from '../resilience/coalesce.ts'
import { neverOverloaded } from '../resilience/overload.ts'
import { createRetryBudget } from '../resilience/retry-budget.ts'
import { createRetry } from '../resilience/retry.ts'
import { loneFlights } from '../resilience/shared-flight.ts'
import { noDirectives } from '../http/cache-directives.ts'
import { createLedger, type Ledger, savedBy } from '../telemetry/ledger.ts'
import { statusOf } from '../telemetry/outcome-status.ts'
import { createSeededHash, createSeededRandom } from './chance.ts'
import { createTally, type Figures, type Tally } from './figures.ts'
import type { Kept, Question, Traffic } from './traffic.ts'
import { callOf, jobs, noVendor, questionOf, read, refused } from './stand-ins.ts'
import { createReplayedUpstream, type ReplayedRequest } from './upstream.ts'
import { replyOf } from './verdict.ts'
import { createVirtualClock } from './virtual-clock.ts'
import { createFaultInjector, type Weather } from './faults.ts'

export interface ReplayOptions {
  readonly config: Config
  readonly traffic: Traffic
  readonly weather: Weather
  readonly seed: number
  readonly scrapers: readonly string[]
  /** How long requests of this client could take when they were recorded; what is shorter is the caller's own patience. */
  readonly recordedDeadlineMs: (client: string) => number
}

export interface ReplayPorts {
  readonly soon: (job: () => void) => void
  /** So many questions have been asked. */
  readonly onProgress: (asked: number) => void
}

const REPORT_EVERY = 10_000
/** What replicas share has no limit of its own that we know. */
const SHARED_BYTES = 2 * 1024 ** 3
const silent = { add: () => {}, samples: () => [] }

export async function replay(options: ReplayOptions, { soon, onProgress }: ReplayPorts): Promise<Figures> {
  const { config, traffic, weather, seed, scrapers, recordedDeadlineMs } = options
  const clock = createVirtualClock(traffic.from, soon)
  const random = createSeededRandom(seed)
  const tally = createTally()
  let bug: unknown = null
  const ledger = silentLedger((error) => void (bug = error))
  const clients = new Map(
    Object.keys(config.clients).map((name): [string, Client] => [name, { name, ...resolveClient(config, name) }]),
  )
  const everybody = [...clients.values()]
  const local = createLocalTier({ maxBytes: cacheBytes(config), onEvicted: () => {} })
  const cache = createCache(
    { replay: (body) => body, policies: Array.from(clients.values(), ({ cache }) => cache) },
    { local, durable: null, shared: null },
    clock,
    emit,
  )
  const { maxConcurrent, perScraper = null, adaptive, queue } = config.upstream
  const breakers = createBreakers({ policy: config.breaker, scrapers, clock, random, emit })
  const budget = createRetryBudget({ ...config.retry.budget, clock, isWell: breakers.isWell })

  const { handle } = createPipeline({
    clock,
    emit,
    clients: { identify },
    profile: { ...noVendor, scrapers, read },
    admission: createAdmission({ clock }),
    cache,
    budget: createBudget({ clock, emit, random, store: null, clients: () => everybody }),
    flights: createFlights({ clock, emit, random }),
    retry: createRetry({ clock, random, emit, budget }),
    breakers,
    bulkhead: createBulkhead({ maxConcurrent, perScraper, adaptive, queue }, { clock, random, emit }),
    overload: neverOverloaded,
    keys: createKeys({ clock, random, emit, keys: config.upstream.keys, keyRest: restsIn(resolveRetry(config.retry)) }),
    ...createReplayedUpstream({
      clock,
      responses: traffic.responses,
      faults: createFaultInjector(weather, traffic, createSeededHash(seed)),
      onGuess: tally.guessed,
    }),
    sharedFlights: loneFlights,
    jobs,
    recorder: { begin: () => ({ leave() {} }), record },
  })

  inTurn(traffic.kept, clock, keep)
  inTurn(traffic.questions(), clock, ask)
  await clock.run()
  if (bug !== null) throw bug
  const { spent, uncertain, saved } = ledger.status().total
  const credits = { spent, uncertain, saved: saved.hit + saved.joined + saved.stale + saved.rescued }
  return { ...tally.figures(), credits }

  function ask(question: Question): void {
    if (question.number % REPORT_EVERY === 0) onProgress(question.number)
    const exchange: Exchange = {
      request: requestOf(question, recordedDeadlineMs(question.client), clock),
      client: null,
      call: null,
      limits: null,
      credits: [],
      flight: null,
    }
    void handle(exchange)
  }

  /** As the proxy does it: who has no place in the settings is anonymous, where that is allowed. */
  function identify(request: ProxyRequest): Client {
    const { refusal, client: name } = questionOf(request)
    const client = clients.get(name) ?? clients.get('anonymous')
    if (client) return client
    if (refusal) throw refused(refusal)
    throw new ProxyError('CLIENT_UNKNOWN', 'This client is not in the settings.')
  }

  function keep({ storedAt, key, scraper, priceCredits, client: name }: Kept): void {
    const client = clients.get(name) ?? clients.get('anonymous')
    if (!client) return
    const call = callOf({ endpoint: 'answer', key, scraper, priceCredits, timeoutMs: null, wish: null })
    const verdict = { kind: 'answered', reply: replyOf(200), charge: free, health: 'up', keepable: true } as const
    const ageMs = clock.wall() - storedAt
    cache.store(cache.keyOf(call, client), call, verdict, client.cache, { unclaimed: false, ageMs, isPassedOn: false })
  }

  function record({ request, client, call }: Exchange, outcome: Outcome): void {
    if (outcome.kind === 'refused' && outcome.error.code === 'INTERNAL') bug = outcome.error.cause
    const code = codeOf(outcome)
    tally.answered({ status: statusOf(outcome, code), code, durationMs: clock.now() - request.arrivedAt })
    const saved = savedBy(outcome)
    if (client && saved) ledger.saved(client.name, call?.scraper ?? 'none', saved)
  }

  function emit(event: Parameters<Emit>[0]): void {
    if (event.kind === 'broke') bug = event.error
    else count(event, ledger, tally)
  }
}

const free = { state: 'free', credits: 0 } as const
const stays: ProxyRequest['onGone'] = () => () => {}

/** Each one at its time. */
function inTurn<T extends { readonly at: number }>(items: Iterable<T>, clock: Clock, act: (item: T) => void): void {
  const left = items[Symbol.iterator]()
  next()

  function next(): void {
    const { done, value } = left.next()
    if (done) return
    clock.after(value.at - clock.now(), () => {
      act(value)
      next()
    })
  }
}

function requestOf(question: Question, recordedDeadlineMs: number, clock: Clock): ReplayedRequest {
  const { number, patienceMs, wish, goneAfterMs, laterAfterMs } = question
  const isOwnPatience = patienceMs !== null && patienceMs < recordedDeadlineMs
  return {
    question,
    lastFailure: null,
    id: String(number),
    method: wish === 'head' ? 'HEAD' : 'GET',
    target: { path: '', params: [], token: null },
    token: null,
    source: { host: null, origin: null, fetchSite: null },
    cacheDirectives: wish === 'only-if-cached' ? { ...noDirectives, onlyIfCached: true } : noDirectives,
    ifNoneMatch: null,
    patienceMs: isOwnPatience ? patienceMs : null,
    idempotencyKey: null,
    respondAsyncAfterMs: laterAfterMs,
    traceparent: null,
    arrivedAt: clock.now(),
    onGone: goneAfterMs === null ? stays : leavesAfter(goneAfterMs, clock),
  }
}

function leavesAfter(ms: number, clock: Clock): ProxyRequest['onGone'] {
  const leavesAt = clock.now() + ms
  return (listener) => {
    const timer = clock.after(leavesAt - clock.now(), listener)
    return () => timer.cancel()
  }
}

function count(event: Parameters<Emit>[0], ledger: Ledger, tally: Tally): void {
  const { kind } = event
  if (kind === 'attempt-started') ledger.started()
  else if (kind === 'flight-landed') ledger.landed(event.payer, event.scraper, event.landing, event.claimed)
  else if (kind === 'retried') tally.retried(1)
  else if (kind === 'retry-refused') tally.stopped(event.reason)
  else if (kind === 'breaker-changed' && event.to === 'open' && !event.isStillOpen) tally.opened()
  else if (kind === 'attempt-ended') {
    tally.attempted(event.attempt.charge)
    ledger.ended(event.payer, event.scraper, event.attempt)
  }
}

/** Its sums are read at the end; its metrics go nowhere. */
function silentLedger(broke: (error: unknown) => void): Ledger {
  return createLedger({
    metrics: {
      creditsSpent: silent,
      creditsUncertain: silent,
      creditsWasted: silent,
      creditsSaved: silent,
      creditsDelivered: silent,
      creditsUnclaimed: silent,
      creditsRefunded: silent,
      ledgerImbalance: silent,
    },
    broke,
  })
}

function codeOf(outcome: Outcome): Code | null {
  if (outcome.kind === 'refused') return outcome.error.code
  if (outcome.kind !== 'fetched') return null
  const { verdict } = outcome.landing
  return verdict.kind === 'failed' ? verdict.refusal : null
}

function cacheBytes(config: Config): number {
  const { cache, redis } = config
  const beside = redis ? SHARED_BYTES : cache.disk ? cache.disk.maxSize : 0
  return cacheBytesOf(config, Number.POSITIVE_INFINITY) + beside
}

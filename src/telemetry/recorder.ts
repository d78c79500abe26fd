/**
 * What happened, as numbers and lines: each exchange ends as counts and one access line, each event as counts and, where an
 * operator must know, a line in the log. Never throws for what it is given, and decides nothing.
 * What became of credits is the ledger's to say.
 */
import type { Code, ProxyError, Reason } from '../errors.ts'
import type { Anomaly, Attempt, CacheLabel, Call, Entry, Exchange, Landing, Made, Outcome, Tier } from '../model.ts'
import type { LinkedList } from '../linked-list.ts'
import type { Place } from '../fetch-parts.ts'
import type { Recorder } from '../parts.ts'
import type { Clock, Emit } from '../ports.ts'
import type { Access, AccessLog } from './access-log.ts'
import type { EventKind, EventOf, OperatorAct, OperatorAction, TelemetryEvent } from './events.ts'
import type { JobOutcome, SampleGroup } from './labels.ts'
import { type Ledger, createLedger, type LedgerStatus, savedBy } from './ledger.ts'
import type { Log } from './log.ts'
import type { Metrics } from './metrics.ts'
import { type Reachability, createReachability } from './reachability.ts'
import { traceIdOf } from './traceparent.ts'
import { outcomeNameOf, statusOf } from './outcome-status.ts'
import { promptsIn } from './trail.ts'

/** Somebody else who must know how each exchange went: the audit trail, the tracer. Never throws. */
export interface Watcher {
  /** It waits for something; one that is answered at once only ends. */
  begin?(exchange: Exchange): void
  ended?(exchange: Exchange, outcome: Outcome, access: Access): void
  refused?(access: Access, error: ProxyError): void
}

/** Somebody else who must know of some kinds of events. Never throws. */
export interface EventWatcher<Kind extends EventKind> {
  readonly kinds: readonly Kind[]
  note(event: EventOf<Kind>): void
}

type Noter = Pick<EventWatcher<EventKind>, 'note'>

export interface RecorderPorts {
  readonly metrics: Metrics
  readonly access: AccessLog
  readonly log: Log
  readonly clock: Clock
  /** Does the caller's `If-None-Match` name this answer? */
  readonly matches: (ifNoneMatch: string, etag: string) => boolean
  readonly watchers?: readonly Watcher[]
  /** The requests that have begun and not ended. */
  readonly open: LinkedList<Exchange>
  /** Prompts of all that is under way; left out, there are none to be kept from the log. */
  readonly openPrompts?: () => Iterable<string>
  /** Where a tracer is at work, the trace may be one of its own. */
  readonly traceIdOf?: (request: Exchange['request']) => string | null
}

export interface Telemetry extends Recorder {
  readonly emit: Emit
  /** From now on it is told of its kinds of events. */
  watch<Kind extends EventKind>(watcher: EventWatcher<Kind>): void
  /** A refusal before there was an exchange that could be recorded. */
  readonly refused: (error: ProxyError, id?: string) => void
  /** What nobody has caught. */
  readonly uncaught: (error: unknown) => void
  /** What became of every credit since the start. */
  readonly credits: () => LedgerStatus
  /** Of all clients, since the start. */
  readonly totals: () => { readonly spent: number; readonly saved: number }
}

const actMessages: Readonly<Record<OperatorAction, string | null>> = {
  'key-try': 'upstream key will be tried with the next request',
  'circuit-close': 'circuit closed by an operator',
  purge: 'kept answers purged',
  reload: null,
  credits: null,
}

class ExchangeRecorder implements Telemetry {
  readonly #metrics: Metrics
  readonly #access: AccessLog
  readonly #log: Log
  readonly #clock: Clock
  readonly #matches: (ifNoneMatch: string, etag: string) => boolean
  readonly #watchers: readonly Watcher[]
  readonly #eventWatchers = new Map<EventKind, Noter[]>()
  readonly #open: LinkedList<Exchange>
  readonly #openPrompts: () => Iterable<string>
  readonly #traceOf: (request: Exchange['request']) => string | null
  readonly #nextAnomalyLogAt = new Map<string, number>()
  readonly #reachability: Reachability
  readonly #ledger: Ledger
  readonly credits: Telemetry['credits']
  readonly totals: Telemetry['totals']

  constructor(ports: RecorderPorts) {
    const { metrics, access, log, clock, matches, watchers = [], openPrompts = () => [] } = ports
    this.#metrics = metrics
    this.#access = access
    this.#log = log
    this.#clock = clock
    this.#matches = matches
    this.#watchers = watchers
    this.#open = ports.open
    this.#openPrompts = openPrompts
    this.#traceOf = ports.traceIdOf ?? traceIdOf
    this.#reachability = createReachability({ clock, log })
    this.#ledger = createLedger({ metrics, broke: (error) => this.#logBug('ledger', error, null) })
    this.credits = this.#ledger.status
    this.totals = this.#ledger.totals
  }

  readonly begin = (exchange: Exchange): Place => {
    const place = this.#open.add(exchange)
    for (const watcher of this.#watchers) watcher.begin?.(exchange)
    return place
  }

  readonly watch = <Kind extends EventKind>(watcher: EventWatcher<Kind>): void => {
    for (const kind of watcher.kinds) this.#eventWatchers.set(kind, [...(this.#eventWatchers.get(kind) ?? []), watcher])
  }

  readonly record = (exchange: Exchange, outcome: Outcome): void => {
    const { request, call } = exchange
    const endedAt = this.#clock.now()
    const durationMs = endedAt - request.arrivedAt
    const client = exchange.client?.name ?? 'unknown'
    const scraper = call?.scraper ?? 'none'
    const { landing, entry, tier, made, cache, code, reason } = factsOf(outcome, call)
    const isNotModified = request.ifNoneMatch !== null && this.#isNotModified(request.ifNoneMatch, entry)
    const status = isNotModified ? 304 : statusOf(outcome, code)
    const saved = savedBy(outcome)

    this.#metrics.requests.add(1, client, scraper, status, cache)
    const ended = outcomeNameOf(outcome, status)
    if (ended !== null) this.#metrics.requestOutcomes.add(1, ended)
    this.#metrics.requestDuration.observeAs(request.id, durationMs / 1000, scraper, cache)
    const overhead = overheadMs(outcome, request.arrivedAt, endedAt, landing?.attempts ?? [])
    if (overhead !== null) this.#metrics.overhead.observe(overhead / 1000)
    if (call?.endpoint === 'answer') this.#metrics.samples.add(1, scraper, sampleGroupOf(call.sample ?? 1))
    if (code) this.#metrics.refusals.add(1, client, code)
    if (reason) this.#metrics.overloaded.add(1, reason)
    if (cache === 'joined') this.#metrics.joinedRequests.add(1, scraper)
    if (saved) this.#ledger.saved(client, scraper, saved)
    if (call && call.endpoint !== 'answer') this.#metrics.jobs.add(1, scraper, jobOutcomeOf(outcome, call))
    if (outcome.kind === 'refused' && code === 'INTERNAL') this.#logBug('request', outcome.error.cause, request)

    const line: Access = {
      id: request.id,
      client,
      call,
      status,
      cache,
      tier,
      code,
      reason,
      attempts: made?.attempts ?? landing?.attempts.length ?? 0,
      credits: made?.credits ?? (cache === 'joined' ? 0 : (landing?.chargedCredits ?? 0)),
      durationMs,
      traceId: this.#traceOf(request),
      outcome: ended,
      saved,
    }
    this.#access.write(line)
    for (const watcher of this.#watchers) watcher.ended?.(exchange, outcome, line)
  }

  readonly refused = (error: ProxyError, id: string | null = null): void => {
    this.#metrics.requests.add(1, 'unknown', 'none', error.status, 'none')
    const outcome = error.fault === 'client' ? 'refused' : 'failed'
    this.#metrics.requestOutcomes.add(1, outcome)
    this.#metrics.refusals.add(1, 'unknown', error.code)
    const { status, code, reason } = error
    if (reason) this.#metrics.overloaded.add(1, reason)
    const early = { call: null, tier: null, attempts: 0, credits: 0, durationMs: 0, saved: null }
    const line: Access = { ...early, id, client: 'unknown', status, cache: 'none', code, reason, outcome }
    this.#access.write(line)
    for (const watcher of this.#watchers) watcher.refused?.(line, error)
    if (code === 'INTERNAL') this.#logBug('http', error.cause, id === null ? null : { id, target: nowhere })
  }

  readonly uncaught = (error: unknown): void => {
    this.#metrics.bugs.add(1)
    this.#log.error('uncaught', { error }, [...this.#openPrompts()])
  }

  readonly emit = (event: TelemetryEvent): void => {
    for (const watcher of this.#eventWatchers.get(event.kind) ?? nobody) watcher.note(event)
    switch (event.kind) {
      case 'attempt-started':
        this.#ledger.started()
        return this.#metrics.upstreamInFlight.add(1, event.scraper)
      case 'attempt-ended':
        this.#metrics.upstreamInFlight.add(-1, event.scraper)
        this.#ledger.ended(event.payer, event.scraper, event.attempt)
        return this.#countAttempt(event)
      case 'wire-ended':
        if (event.trouble) this.#metrics.upstreamUnreachable.add(1, event.scraper, event.trouble.reason)
        return this.#reachability.note(event.trouble)
      case 'flight-landed':
        return this.#ledger.landed(event.payer, event.scraper, event.landing, event.claimed)
      case 'flight-lost':
        return this.#ledger.lost(event.payer, event.scraper, event.attempts)
      case 'credits-away':
        return this.#metrics.creditsAway.add(event.credits, event.client, event.how)
      case 'flight-started':
      case 'flight-joined':
      case 'flight-ended':
        return undefined
      case 'flight-followed':
        return this.#metrics.sharedFlights.add(1, event.end)
      case 'flight-taken-over':
        return this.#metrics.sharedFlights.add(1, event.from)
      case 'lease-lost':
        return this.#metrics.sharedFlights.add(1, 'lost')
      case 'budget-used':
        if (event.percent !== 80 || event.client === '') return undefined
        return this.#log.warn('credit budget nearly spent', {
          client: event.client,
          period: event.period.kind,
          spent: event.spentCredits,
          limit: event.limitCredits,
        })
      case 'credits-corrected':
        return this.#log.info('credits of a client corrected', {
          client: event.client,
          before: event.beforeCredits,
          spent: event.spentCredits,
        })
      case 'holds-swept':
        return this.#log.warn('credits of an earlier run counted as spent', {
          holds: event.holds,
          credits: event.credits,
        })
      case 'overload-changed':
        return this.#logOverload(event)
      case 'cache-gives-way':
        return this.#logCache(event)
      case 'queue-left':
        return this.#metrics.queueWait.observe(event.waitedMs / 1000)
      case 'retried':
        return this.#metrics.retries.add(1, event.scraper, event.class)
      case 'retry-refused':
        // A failure that is never repeated was refused nothing.
        return event.reason === 'final' ? undefined : this.#metrics.retriesRefused.add(1, event.reason)
      case 'breaker-changed':
        // A trial that failed ends no opening, and begins none.
        if (!event.isStillOpen) this.#metrics.breakerTransitions.add(1, event.scraper, event.to)
        return this.#logBreaker(event)
      case 'hold-ended':
        return this.#metrics.breakerHolds.add(1, event.end)
      case 'key-changed':
        return this.#logKey(event)
      case 'operator-acted':
        return this.#logAct(event)
      case 'cache-looked-up':
        return this.#metrics.cacheLookups.add(1, event.tier, event.result)
      case 'cache-evicted':
        return this.#metrics.cacheEvictions.add(1, event.tier)
      case 'job-refunded':
        return this.#ledger.refunded(event.payer, event.scraper, event.key, event.credits)
      case 'disk-changed':
        return this.#logDisk(event)
      case 'audit-changed':
        this.#metrics.auditLinesLost.add(event.lostLines)
        return event.to === 'up'
          ? this.#log.info('audit file is back', { lost_lines: event.lostLines })
          : this.#log.warn('audit file lost', { because: event.because })
      case 'cache-rejected':
        return this.#metrics.cacheRejections.add(1, event.tier, event.because)
      case 'redis-changed':
        if (event.to === 'up') return this.#log.info('redis is up')
        if (event.to === 'down') return this.#log.warn('redis lost', { because: event.because })
        return this.#log.warn('redis refuses writes', { because: event.because, word: event.word })
      case 'redis-cause-changed':
        return this.#log.warn('redis is still away', { state: event.state, because: event.because, word: event.word })
      case 'redis-failed':
        return this.#metrics.redisErrors.add(1, event.operation)
      case 'flight-orphaned':
        return this.#metrics.orphanedFlights.add(1, event.scraper)
      case 'reloaded':
        this.#metrics.configReloads.add(1, event.result)
        return this.#logReload(event)
      case 'plain-http':
        return this.#log.warn('HTTP without TLS refused', { port: event.port })
      case 'broke':
        return this.#logBug(event.where, event.error, event.request ?? null)
    }
  }

  #isNotModified(ifNoneMatch: string, entry: Entry | null): boolean {
    return entry?.status === 200 && this.#matches(ifNoneMatch, entry.etag)
  }

  #countAttempt({ scraper, id, attempt }: EventOf<'attempt-ended'>): void {
    this.#metrics.upstreamResponses.add(1, scraper, attempt.status ?? 'none')
    this.#metrics.attemptDuration.observe(attempt.durationMs / 1000, scraper)
    if (attempt.class !== 'ok') this.#metrics.upstreamFailures.add(1, scraper, attempt.class)
    if (attempt.charge.state === 'unknown') this.#metrics.ambiguousAttempts.add(1, scraper)
    for (const anomaly of attempt.anomalies ?? []) {
      this.#metrics.upstreamAnomalies.add(1, scraper, anomaly)
      this.#logAnomaly(scraper, anomaly, id, attempt.status)
    }
  }

  /** Reloads and corrections have lines of their own. */
  #logAct({ action, what: { key, ...what }, from, by }: OperatorAct): void {
    const message = actMessages[action]
    if (message === null) return
    this.#log.info(message, {
      ...(key === undefined ? {} : { key_name: key }),
      ...what,
      from,
      ...(by === null ? {} : { by }),
    })
  }

  /** Once an hour for each kind and scraper: a member that upstream has renamed is in every answer. */
  #logAnomaly(scraper: string, anomaly: Anomaly, id: string, status: number | null): void {
    const name = `${scraper} ${anomaly}`
    const now = this.#clock.now()
    if (now < (this.#nextAnomalyLogAt.get(name) ?? 0)) return
    this.#nextAnomalyLogAt.set(name, now + ANOMALY_LOG_MS)
    this.#log.warn('unexpected upstream answer', { scraper, anomaly, status, id })
  }

  #logBreaker(event: EventOf<'breaker-changed'>): void {
    const { scraper, to, openForMs, isStillOpen } = event
    if (isStillOpen) return this.#log.info('circuit stays open: a trial failed', { scraper, next_trial_ms: openForMs })
    if (to === 'open') return this.#log.warn('circuit opened', { scraper, next_trial_ms: openForMs })
    this.#log.info(to === 'closed' ? 'circuit closed' : 'circuit half-open', { scraper })
  }

  #logOverload(event: EventOf<'overload-changed'>): void {
    const { to, because, eventLoopDelayMs, memory } = event
    const fields = { because, event_loop_delay_ms: Math.round(eventLoopDelayMs), memory: Number(memory.toFixed(2)) }
    if (to === 'calm') return this.#log.info('overload is over', fields)
    if (to === 'shedding') return this.#log.warn('overload: misses are refused', fields)
    this.#log.error('overload: all new requests are refused', fields)
  }

  #logCache({ isOver, maxBytes, memory }: EventOf<'cache-gives-way'>): void {
    const fields = { max_bytes: maxBytes, memory: Number(memory.toFixed(2)) }
    if (isOver) return this.#log.info('memory is free again: the memory cache is at its full size', fields)
    this.#log.warn('memory is low: the memory cache shrinks', fields)
  }

  #logKey({ key, to, because, untilAt }: EventOf<'key-changed'>): void {
    const fields = { key_name: key, because, until: isoTime(untilAt) }
    if (to === 'ready') return this.#log.info('upstream key ready', fields)
    if (to === 'resting') return this.#log.warn('upstream key rests', fields)
    this.#log.error('upstream key spent', fields)
  }

  #logDisk({ file, to, because }: EventOf<'disk-changed'>): void {
    if (file === 'answers') {
      return to === 'up' ? this.#log.info('disk cache is back') : this.#log.warn('disk cache lost', { because })
    }
    if (to === 'up') return this.#log.info('records file is back: budgets and jobs are saved again')
    if (because === 'locked')
      return this.#log.warn('data folder is held by another process: waiting until it ends', { because })
    this.#log.error('records file lost: budgets and jobs cannot be saved', { because })
  }

  #logReload(event: EventOf<'reloaded'>): void {
    const { result, because, generation, changed, waiting, mistakes } = event
    if (result === 'invalid') return this.#log.error('settings not reloaded', { because, generation, mistakes })
    this.#log.info('settings reloaded', { because, generation, changed })
    if (waiting.length > 0) this.#log.warn('settings wait for a restart', { because, generation, waiting })
  }

  /** An error may quote what it was about: no prompt that is being asked, and none of this request, is shown. */
  #logBug(where: string, error: unknown, request: Pick<Exchange['request'], 'id' | 'target'> | null): void {
    this.#metrics.bugs.add(1)
    const prompts = [...(request ? promptsIn(request.target.params) : []), ...this.#openPrompts()]
    this.#log.error('bug', { where, id: request?.id ?? null, error }, prompts)
  }
}

export function createRecorder(ports: RecorderPorts): Telemetry {
  return new ExchangeRecorder(ports)
}

const nobody: readonly Noter[] = []
const ANOMALY_LOG_MS = 3_600_000

function sampleGroupOf(sample: number): SampleGroup {
  if (sample === 1) return '1'
  return sample <= 10 ? '2-10' : '11-100'
}

const nowhere = { path: '', params: [], token: null }

function isoTime(at: number | null): string | null {
  return at !== null && Number.isFinite(at) ? new Date(at).toISOString() : null
}

/** What lines and counts say of an outcome. */
interface Facts {
  readonly landing: Landing | null
  readonly entry: Entry | null
  readonly tier: Tier | null
  /** What had been tried for a request that stopped waiting before its flight ended, or took a promise. */
  readonly made: Readonly<Made> | undefined
  /** `none` where the cache had no say: job calls, refusals, callers that hung up. */
  readonly cache: CacheLabel
  /** Of our own refusal, if the answer is one. */
  readonly code: Code | null
  readonly reason: Reason | null
}

const nothing: Facts = {
  landing: null,
  entry: null,
  tier: null,
  made: undefined,
  cache: 'none',
  code: null,
  reason: null,
}

function factsOf(outcome: Outcome, call: Call | null): Facts {
  switch (outcome.kind) {
    case 'hit':
      return { ...nothing, entry: outcome.entry, tier: outcome.tier, cache: 'hit' }
    case 'stale': {
      const { landing, entry, tier, made } = outcome
      return { ...nothing, landing, entry, tier, made, cache: 'stale' }
    }
    case 'fetched': {
      const { landing, made } = outcome
      const cache = call?.endpoint === 'answer' ? cacheLabelOf(outcome) : 'none'
      return { ...nothing, landing, entry: landing.entry, made, cache, code: codeOf(landing) }
    }
    case 'refused': {
      const { made, error } = outcome
      return { ...nothing, made, code: error.code, reason: error.reason }
    }
    case 'job':
      return { ...nothing, made: outcome.promised?.made }
    case 'gone':
      return nothing
    default:
      return outcome satisfies never
  }
}

function cacheLabelOf({ role, forwardedBecause }: Extract<Outcome, { kind: 'fetched' }>): CacheLabel {
  if (role === 'joined') return 'joined'
  return forwardedBecause === 'bypass' || forwardedBecause === 'request' ? 'bypass' : 'miss'
}

/** Null = upstream has answered, with whatever status. */
function codeOf({ verdict }: Landing): Code | null {
  if (verdict.kind === 'answered' || verdict.reply) return null
  return verdict.refusal ?? 'UPSTREAM_UNREACHABLE'
}

/**
 * The attempts and the pauses before them, as far as this request was there to wait for them, are not ours. Null = not known: the caller
 * may have waited for a flight whose attempts the outcome does not tell.
 */
function overheadMs(outcome: Outcome, arrivedAt: number, endedAt: number, attempts: readonly Attempt[]): number | null {
  const isTold = outcome.kind === 'hit' || ('landing' in outcome && outcome.landing !== null)
  if (!isTold && !(outcome.kind === 'refused' && outcome.error.fault === 'client')) return null
  let ours = endedAt - arrivedAt
  for (const { startedAt, durationMs, waitedMs } of attempts) {
    const from = Math.max(arrivedAt, startedAt - waitedMs)
    const to = Math.min(endedAt, startedAt + durationMs)
    ours -= Math.max(0, to - from)
  }
  return Math.max(0, ours)
}

function jobOutcomeOf(outcome: Outcome, call: Call): JobOutcome {
  if (outcome.kind === 'gone' || outcome.kind === 'refused') return outcome.kind
  const verdict = outcome.kind === 'fetched' ? outcome.landing.verdict : null
  if (verdict?.kind === 'failed') return verdict.class === 'rejected' ? 'rejected' : 'failed'
  return call.endpoint === 'submit' ? 'submitted' : 'polled'
}

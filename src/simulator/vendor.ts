// What ScrapeLLM does with a request, without its wire: which step it gets, how long it takes, what it costs, what it says.
// Order: route, key and balance, parameters, script, limits, weather, the vendor's cache, success.

import { createAccounts, type Accounts, type Account } from './accounts.ts'
import { answerOf, isoOf, jobResultOf, type Body } from './answers.ts'
import { flagOf, refuseParameters, refuseRoute, timeoutSeconds } from './call.ts'
import type { Chance } from './chance.ts'
import { createJobs, type Ending, type Jobs, type NewJob } from './jobs.ts'
import type { Books, LedgerEntry } from './ledger.ts'
import { replyTo, type Reply, type Success } from './replies.ts'
import type { RecordedRequest } from './request.ts'
import type { Scripts } from './script.ts'
import { isCharged, type StepDetail } from './step.ts'
import type { Switches } from './switches.ts'
import { drawOf, type FaultInjector } from './faults.ts'

export interface Latency {
  readonly minMs: number
  readonly maxMs: number
}

export interface VendorParts {
  readonly now: () => number
  readonly chance: Chance
  readonly latency: Latency
  readonly speedUp: number
  readonly keys: Readonly<Record<string, Account>> | undefined
  readonly ledger: Books
  readonly scripts: Scripts
  readonly faults: FaultInjector
  readonly open: ReadonlySet<RecordedRequest>
  readonly switches: () => Switches
}

/** One request with what was decided about it when it arrived. */
export interface Work {
  readonly request: RecordedRequest
  readonly step: StepDetail
  readonly callNumber: number
  /** How long the vendor works on it in its own time, before speedUp. */
  readonly durationMs: number
}

export interface Vendor {
  readonly accounts: Accounts
  readonly jobs: Jobs
  readonly decide: (request: RecordedRequest) => Work
  /** Real milliseconds until the answer to a step. */
  readonly delayMs: (work: Work, step: StepDetail) => number
  /** Does the work: charges, creates the job, writes the answer. */
  readonly perform: (work: Work, step: StepDetail) => Reply
  readonly clear: () => void
}

const PRICE_CREDITS = 3
const NOTHING: Success = { status: 200, body: {} }
const MAX_REMEMBERED = 100_000

class SimulatedVendor implements Vendor {
  readonly #parts: VendorParts
  readonly #now: () => number
  readonly #chance: Chance
  readonly #ledger: Books
  readonly #scripts: Scripts
  readonly #faults: FaultInjector
  readonly #switches: () => Switches
  readonly accounts: Accounts
  readonly jobs: Jobs
  readonly #calls = new Map<string, number>()
  readonly #cache = new Map<string, { readonly body: Body; readonly storedAt: number }>()

  constructor(parts: VendorParts) {
    this.#parts = parts
    const { now, chance, ledger, scripts, faults, switches } = parts
    this.#now = now
    this.#chance = chance
    this.#ledger = ledger
    this.#scripts = scripts
    this.#faults = faults
    this.#switches = switches
    this.accounts = createAccounts(parts.keys, ledger, now)
    this.jobs = createJobs(now, ledger, switches)
  }

  readonly decide = (request: RecordedRequest): Work => {
    const refusal = this.#refuse(request)
    if (refusal !== null) return { request, step: refusal, callNumber: 0, durationMs: 0 }
    const callNumber = this.#countCall(request)
    const durationMs = this.#drawDuration(request, callNumber)
    const step =
      this.#scripts.next(request, this.#switches().promptScripts) ?? this.#unscripted(request, callNumber, durationMs)
    return { request, step, callNumber, durationMs }
  }

  readonly delayMs = ({ request, durationMs }: Work, step: StepDetail): number => {
    if (step.delayMs !== undefined) return step.delayMs
    if (request.call !== 'sync') return 0
    if (step.kind === '408' && this.#switches().timeout408 === 'at-timeout') return this.#scaled(timeoutMs(request))
    return isCharged(step) && step.kind !== 'cached' ? this.#scaled(durationMs) : 0
  }

  readonly perform = (work: Work, step: StepDetail): Reply => {
    return replyTo(step, this.#success(work, step), work.request.key, this.#switches())
  }

  readonly clear: Vendor['clear'] = () => {
    this.accounts.clear()
    this.jobs.clear()
    this.#calls.clear()
    this.#cache.clear()
  }

  #refuse(request: RecordedRequest): StepDetail | null {
    const wrongRoute = refuseRoute(request, this.#switches())
    if (wrongRoute !== null) return wrongRoute
    if (request.call === 'poll') return this.jobs.known(request.jobId ?? '') ? null : { kind: '404' }
    return (
      this.accounts.refuse(request.key, PRICE_CREDITS, this.#switches()) ?? refuseParameters(request, this.#switches())
    )
  }

  #unscripted(request: RecordedRequest, callNumber: number, durationMs: number): StepDetail {
    if (request.call !== 'sync' && request.call !== 'submit') return { kind: '200' }
    const limited = this.accounts.limit(request, this.#parts.open, this.#switches())
    if (limited !== null) return limited
    const draw = drawOf(this.#chance, scraperOf(request), promptOf(request), callNumber)
    const failure = this.#faults.failureOf(scraperOf(request), request.call, draw)
    if (failure !== null) return failure
    if (request.call === 'submit') return { kind: '200' }
    if (!request.bypassCache && this.#cached(request) !== null) return { kind: 'cached' }
    return durationMs > timeoutMs(request)
      ? { kind: '408', delayMs: this.#scaled(timeoutMs(request)) }
      : { kind: '200' }
  }

  #success(work: Work, step: StepDetail): Success {
    if (work.request.call === 'poll') return this.#poll(work.request, step)
    if (!isCharged(step)) {
      if (step.kind === '500' && work.request.call === 'sync') this.#reserve(work)
      return NOTHING
    }
    return work.request.call === 'submit' ? this.#submit(work, step) : { status: 200, body: this.#answer(work, step) }
  }

  #answer(work: Work, step: StepDetail): Body {
    const { request } = work
    const isCached = step.kind === 'cached'
    const credits = step.credits ?? (isCached && this.#switches().cachedCharge === 'free' ? 0 : PRICE_CREDITS)
    const kept = isCached ? this.#cached(request) : null
    const body = kept?.body ?? this.#freshAnswer(work, credits, this.#syncJobId(work))
    const stored = kept?.storedAt ?? this.#now()
    const repeated = kept !== null && this.#switches().cachedJobId === 'same'
    const jobId = repeated ? String(body['job_id']) : this.#syncJobId(work)
    this.#charge(work, 'sync', jobId, credits)
    if (isCached) {
      const cachedAt = this.#switches().cachedAt ? { cached_at: isoOf(stored) } : {}
      return { ...body, job_id: jobId, credits_used: credits, cached: true, ...cachedAt }
    }
    if (step.kind === '200') this.#store(request, body)
    return step.kind === 'failed' ? { ...body, status: 'failed', error: 'execution failed' } : body
  }

  #submit(work: Work, step: StepDetail): Success {
    const { request } = work
    const id = this.#chance.uuid('job', scraperOf(request), promptOf(request), work.callNumber)
    const credits = step.credits ?? PRICE_CREDITS
    const fate = this.#fateOf(work, step)
    this.jobs.create({
      id,
      key: request.key ?? '',
      scraper: scraperOf(request),
      prompt: promptOf(request),
      country: request.country ?? 'US',
      result: jobResultOf(this.#freshAnswer(work, credits, id), this.#switches()),
      entry: this.#charge(work, 'job', id, credits),
      ...fate,
    })
    const createdAt = { created_at: isoOf(this.#now()) }
    const more = { status: 'pending', scraper: request.scraper }
    const { submitBody } = this.#switches()
    if (submitBody === 'job-id') return { status: 202, body: { job_id: id } }
    return { status: 202, body: { job_id: id, ...more, ...(submitBody === 'created-at' ? createdAt : {}) } }
  }

  #fateOf(work: Work, step: StepDetail): Pick<NewJob, 'ending' | 'outcome'> {
    if (step.kind === 'pending') return { ending: { kind: 'release' }, outcome: step.outcome ?? 'done' }
    const { attempts, outcome } = this.#vendorAttempts(work)
    const inTime: Ending = { kind: 'at', at: this.#now() + this.#scaled(work.durationMs) * attempts }
    if (step.kind !== 'done' && step.kind !== 'failed') return { ending: inTime, outcome }
    return { ending: step.polls === undefined ? inTime : { kind: 'polls', polls: step.polls }, outcome: step.kind }
  }

  #vendorAttempts({ request, callNumber }: Work): { attempts: number; outcome: 'done' | 'failed' } {
    const rate = this.#faults.failureRate(scraperOf(request))
    for (let attempt = 1; attempt <= this.#switches().jobAttempts; attempt += 1) {
      const draw = this.#chance.number('attempt', attempt, scraperOf(request), promptOf(request), callNumber)
      if (draw >= rate) return { attempts: attempt, outcome: 'done' }
    }
    return { attempts: this.#switches().jobAttempts, outcome: 'failed' }
  }

  #poll(request: RecordedRequest, step: StepDetail): Success {
    const says = step.kind === 'done' || step.kind === 'failed' || step.kind === 'pending' ? step.kind : undefined
    const body = isCharged(step) ? this.jobs.poll(request.jobId ?? '', says) : null
    return { status: 200, body: body ?? {} }
  }

  #reserve(work: Work): void {
    if (this.#switches().sync500 === 'free') return
    const entry = this.#charge(work, 'sync', this.#syncJobId(work), PRICE_CREDITS)
    this.#ledger.refundAt(entry, this.#now() + this.#switches().refundDelayMs)
  }

  #charge({ request }: Work, kind: 'sync' | 'job', jobId: string, credits: number): LedgerEntry {
    const { key } = request
    return this.#ledger.charge({
      key: key ?? '',
      scraper: scraperOf(request),
      prompt: promptOf(request),
      kind,
      jobId,
      credits,
    })
  }

  #freshAnswer({ request, callNumber, durationMs }: Work, credits: number, jobId: string): Body {
    return answerOf(
      { request, callNumber, jobId, credits, elapsedMs: durationMs, answeredAt: this.#now() },
      this.#switches(),
    )
  }

  #cached(request: RecordedRequest): { readonly body: Body; readonly storedAt: number } | null {
    const entry = this.#cache.get(cacheKey(request))
    if (entry === undefined || this.#now() - entry.storedAt >= this.#switches().vendorCacheTtlMs) return null
    return entry
  }

  #store(request: RecordedRequest, body: Body): void {
    if (this.#switches().vendorCacheTtlMs === 0 || (request.bypassCache && !this.#switches().bypassRefreshes)) return
    remember(this.#cache, cacheKey(request), { body, storedAt: this.#now() })
  }

  #countCall(request: RecordedRequest): number {
    if (request.call === 'poll') return 0
    const question = `${scraperOf(request)} ${promptOf(request)}`
    const callNumber = (this.#calls.get(question) ?? 0) + 1
    remember(this.#calls, question, callNumber)
    return callNumber
  }

  #drawDuration(request: RecordedRequest, callNumber: number): number {
    const { minMs, maxMs } = this.#parts.latency
    const about = [scraperOf(request), promptOf(request), callNumber]
    const { latencyShape } = this.#switches()
    if (latencyShape === 'log-normal' && minMs > 0) return this.#chance.logNormal(minMs, maxMs, ...about)
    const draw = this.#chance.number('latency', ...about)
    const isTail = latencyShape === 'tail' && this.#chance.number('tail', ...about) < 0.1
    const longestMs = isTail ? Math.max(maxMs, timeoutMs(request)) : maxMs
    return Math.round((minMs + draw * (longestMs - minMs)) * 10) / 10
  }

  #syncJobId({ request, callNumber }: Work): string {
    return `job_${this.#chance.hex('sync', scraperOf(request), promptOf(request), callNumber)}`
  }

  #scaled(ms: number): number {
    return ms / this.#parts.speedUp
  }
}

export function createVendor(parts: VendorParts): Vendor {
  return new SimulatedVendor(parts)
}

function cacheKey(request: RecordedRequest): string {
  const flags = [flagOf(request, 'web_search', true), flagOf(request, 'markdown_json', false)]
  return JSON.stringify([request.scraper, request.prompt, (request.country ?? 'US').toUpperCase(), ...flags])
}

// Long load tests ask millions of different questions: the oldest are forgotten.
function remember<T>(map: Map<string, T>, key: string, value: T): void {
  map.set(key, value)
  if (map.size <= MAX_REMEMBERED) return
  for (const oldest of map.keys()) return void map.delete(oldest)
}

function scraperOf(request: RecordedRequest): string {
  return request.scraper ?? ''
}

function promptOf(request: RecordedRequest): string {
  return request.prompt ?? ''
}

function timeoutMs(request: RecordedRequest): number {
  return timeoutSeconds(request) * 1000
}

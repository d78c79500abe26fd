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
import { luckOf, type Skies } from './weather.ts'

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
  readonly skies: Skies
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

export function createVendor(parts: VendorParts): Vendor {
  const { now, chance, ledger, scripts, skies, switches } = parts
  const accounts = createAccounts(parts.keys, ledger, now)
  const jobs = createJobs(now, ledger, switches)
  const calls = new Map<string, number>()
  const cache = new Map<string, { readonly body: Body; readonly storedAt: number }>()

  function decide(request: RecordedRequest): Work {
    const refusal = refuse(request)
    if (refusal !== null) return { request, step: refusal, callNumber: 0, durationMs: 0 }
    const callNumber = countCall(request)
    const durationMs = drawDuration(request, callNumber)
    const step = scripts.next(request, switches().promptScripts) ?? unscripted(request, callNumber, durationMs)
    return { request, step, callNumber, durationMs }
  }

  function refuse(request: RecordedRequest): StepDetail | null {
    const wrongRoute = refuseRoute(request, switches())
    if (wrongRoute !== null) return wrongRoute
    if (request.call === 'poll') return jobs.known(request.jobId ?? '') ? null : { kind: '404' }
    return accounts.refuse(request.key, PRICE_CREDITS, switches()) ?? refuseParameters(request, switches())
  }

  function unscripted(request: RecordedRequest, callNumber: number, durationMs: number): StepDetail {
    if (request.call !== 'sync' && request.call !== 'submit') return { kind: '200' }
    const limited = accounts.limit(request, parts.open, switches())
    if (limited !== null) return limited
    const luck = luckOf(chance, scraperOf(request), promptOf(request), callNumber)
    const failure = skies.meet(scraperOf(request), request.call, luck)
    if (failure !== null) return failure
    if (request.call === 'submit') return { kind: '200' }
    if (!request.bypassCache && cached(request) !== null) return { kind: 'cached' }
    return durationMs > timeoutMs(request) ? { kind: '408', delayMs: scaled(timeoutMs(request)) } : { kind: '200' }
  }

  function delayMs({ request, durationMs }: Work, step: StepDetail): number {
    if (step.delayMs !== undefined) return step.delayMs
    if (request.call !== 'sync') return 0
    if (step.kind === '408' && switches().timeout408 === 'at-timeout') return scaled(timeoutMs(request))
    return isCharged(step) && step.kind !== 'cached' ? scaled(durationMs) : 0
  }

  function perform(work: Work, step: StepDetail): Reply {
    return replyTo(step, success(work, step), work.request.key, switches())
  }

  function success(work: Work, step: StepDetail): Success {
    if (work.request.call === 'poll') return poll(work.request, step)
    if (!isCharged(step)) {
      if (step.kind === '500' && work.request.call === 'sync') reserve(work)
      return NOTHING
    }
    return work.request.call === 'submit' ? submit(work, step) : { status: 200, body: answer(work, step) }
  }

  function answer(work: Work, step: StepDetail): Body {
    const { request } = work
    const isCached = step.kind === 'cached'
    const credits = step.credits ?? (isCached && switches().cachedCharge === 'free' ? 0 : PRICE_CREDITS)
    const kept = isCached ? cached(request) : null
    const body = kept?.body ?? freshAnswer(work, credits, syncJobId(work))
    const stored = kept?.storedAt ?? now()
    const repeated = kept !== null && switches().cachedJobId === 'same'
    const jobId = repeated ? String(body['job_id']) : syncJobId(work)
    charge(work, 'sync', jobId, credits)
    if (isCached) {
      const cachedAt = switches().cachedAt ? { cached_at: isoOf(stored) } : {}
      return { ...body, job_id: jobId, credits_used: credits, cached: true, ...cachedAt }
    }
    if (step.kind === '200') store(request, body)
    return step.kind === 'failed' ? { ...body, status: 'failed', error: 'execution failed' } : body
  }

  function submit(work: Work, step: StepDetail): Success {
    const { request } = work
    const id = chance.uuid('job', scraperOf(request), promptOf(request), work.callNumber)
    const credits = step.credits ?? PRICE_CREDITS
    const fate = fateOf(work, step)
    jobs.create({
      id,
      key: request.key ?? '',
      scraper: scraperOf(request),
      prompt: promptOf(request),
      country: request.country ?? 'US',
      result: jobResultOf(freshAnswer(work, credits, id), switches()),
      entry: charge(work, 'job', id, credits),
      ...fate,
    })
    const createdAt = { created_at: isoOf(now()) }
    const more = { status: 'pending', scraper: request.scraper }
    const { submitBody } = switches()
    if (submitBody === 'job-id') return { status: 202, body: { job_id: id } }
    return { status: 202, body: { job_id: id, ...more, ...(submitBody === 'created-at' ? createdAt : {}) } }
  }

  function fateOf(work: Work, step: StepDetail): Pick<NewJob, 'ending' | 'outcome'> {
    if (step.kind === 'pending') return { ending: { kind: 'release' }, outcome: step.outcome ?? 'done' }
    const { attempts, outcome } = vendorAttempts(work)
    const inTime: Ending = { kind: 'at', at: now() + scaled(work.durationMs) * attempts }
    if (step.kind !== 'done' && step.kind !== 'failed') return { ending: inTime, outcome }
    return { ending: step.polls === undefined ? inTime : { kind: 'polls', polls: step.polls }, outcome: step.kind }
  }

  function vendorAttempts({ request, callNumber }: Work): { attempts: number; outcome: 'done' | 'failed' } {
    const rate = skies.failureRate(scraperOf(request))
    for (let attempt = 1; attempt <= switches().jobAttempts; attempt += 1) {
      const luck = chance.number('attempt', attempt, scraperOf(request), promptOf(request), callNumber)
      if (luck >= rate) return { attempts: attempt, outcome: 'done' }
    }
    return { attempts: switches().jobAttempts, outcome: 'failed' }
  }

  function poll(request: RecordedRequest, step: StepDetail): Success {
    const says = step.kind === 'done' || step.kind === 'failed' || step.kind === 'pending' ? step.kind : undefined
    const body = isCharged(step) ? jobs.poll(request.jobId ?? '', says) : null
    return { status: 200, body: body ?? {} }
  }

  function reserve(work: Work): void {
    if (switches().sync500 === 'free') return
    const entry = charge(work, 'sync', syncJobId(work), PRICE_CREDITS)
    ledger.refundAt(entry, now() + switches().refundDelayMs)
  }

  function charge({ request }: Work, kind: 'sync' | 'job', jobId: string, credits: number): LedgerEntry {
    const { key } = request
    return ledger.charge({
      key: key ?? '',
      scraper: scraperOf(request),
      prompt: promptOf(request),
      kind,
      jobId,
      credits,
    })
  }

  function freshAnswer({ request, callNumber, durationMs }: Work, credits: number, jobId: string): Body {
    return answerOf({ request, callNumber, jobId, credits, elapsedMs: durationMs, answeredAt: now() }, switches())
  }

  function cached(request: RecordedRequest): { readonly body: Body; readonly storedAt: number } | null {
    const entry = cache.get(cacheKey(request))
    if (entry === undefined || now() - entry.storedAt >= switches().vendorCacheTtlMs) return null
    return entry
  }

  function store(request: RecordedRequest, body: Body): void {
    if (switches().vendorCacheTtlMs === 0 || (request.bypassCache && !switches().bypassRefreshes)) return
    remember(cache, cacheKey(request), { body, storedAt: now() })
  }

  function countCall(request: RecordedRequest): number {
    if (request.call === 'poll') return 0
    const question = `${scraperOf(request)} ${promptOf(request)}`
    const callNumber = (calls.get(question) ?? 0) + 1
    remember(calls, question, callNumber)
    return callNumber
  }

  function drawDuration(request: RecordedRequest, callNumber: number): number {
    const { minMs, maxMs } = parts.latency
    const about = [scraperOf(request), promptOf(request), callNumber]
    const luck = chance.number('latency', ...about)
    const isTail = switches().latencyShape === 'tail' && chance.number('tail', ...about) < 0.1
    const longestMs = isTail ? Math.max(maxMs, timeoutMs(request)) : maxMs
    return Math.round((minMs + luck * (longestMs - minMs)) * 10) / 10
  }

  function syncJobId({ request, callNumber }: Work): string {
    return `job_${chance.hex('sync', scraperOf(request), promptOf(request), callNumber)}`
  }

  function scaled(ms: number): number {
    return ms / parts.speedUp
  }

  return {
    accounts,
    jobs,
    decide,
    delayMs,
    perform,
    clear: () => {
      accounts.clear()
      jobs.clear()
      calls.clear()
      cache.clear()
    },
  }
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

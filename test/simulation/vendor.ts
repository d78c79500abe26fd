/**
 * The vendor and the wire to it, in virtual time: slow, failing in every way there is, with keys that run out. It keeps the ledger
 * that everything is compared with: what was charged, when, and for which question.
 */
import type { UpstreamRequest, WireResult } from '../../src/model.ts'
import type { Transport } from '../../src/ports.ts'
import type { Chance } from './chance.ts'
import type { Process } from './process.ts'

/** How a call ends, and the failure class that it is for the proxy by the vendor's documentation. */
export const fates = {
  ok: 'ok',
  '400': 'rejected',
  '404': 'rejected',
  '401': 'unauthorized',
  '403': 'blocked',
  '408': 'timeout',
  '429-rate': 'rateLimited',
  '429-queue': 'queueFull',
  '429-credits': 'creditsExhausted',
  '500': 'serverError',
  'echo-key': 'serverError',
  '500-empty': 'emptyResult',
  '503': 'warmingUp',
  '504': 'gatewayTimeout',
  '502-html': 'gatewayTimeout',
  'not-json': 'ambiguous',
  'failed-200': 'ambiguous',
  /** Complete, charged, and of a shape that nobody knows. */
  'odd-200': 'ok',
  truncated: 'ambiguous',
  'reset-before': 'ambiguous',
  'reset-after': 'ambiguous',
  hang: 'ambiguous',
  refused: 'unreachable',
  'connect-timeout': 'unreachable',
} as const

export type Fate = keyof typeof fates
export type CallClass = (typeof fates)[Fate] | 'aborted'

/** One call as it arrived, and how it ended for the process that made it. */
export interface UpstreamCall {
  readonly number: number
  readonly replica: number
  readonly life: number
  readonly requestId: string
  readonly endpoint: 'answer' | 'submit' | 'status'
  readonly scraper: string
  /** What was asked: scraper, prompt, country. */
  readonly question: string
  readonly key: string | null
  readonly startedAt: number
  readonly limitMs: number
  /** When the vendor answered. */
  toldAt: number
  /** It said what it cost. */
  isBilled: boolean
  /** Answered in a shape that nobody knows, which is not kept. */
  isOdd: boolean
  /** Null = under way, or the process has died. */
  ended: {
    readonly at: number
    readonly class: CallClass
    readonly retryAfterMs: number | null
    readonly serial: number | null
  } | null
}

/** A bill: `serial` is in the answer. */
export interface Charge {
  readonly serial: number
  readonly call: UpstreamCall
  readonly at: number
  readonly credits: number
  refundedAt: number | null
}

export interface VendorWeather {
  /** In thousandths: how often each fate but `ok` meets a call. */
  fates: Partial<Record<Fate, number>>
  /** While it lasts, this is the fate of all calls of a scraper. */
  readonly outages: Map<string, Fate>
  /** Keys that are refused now. */
  readonly revoked: Set<string>
  /** Credits left; none is named = no end to them. */
  readonly credits: Map<string, number>
  leastMs: number
  mostMs: number
  /** What fails without thinking takes so long, whatever answers take. */
  failureMs: readonly [leastMs: number, mostMs: number]
  /** Questions that are worked on at a time; beyond, 429. */
  capacity: number | null
  /** The question that always fails. */
  badPrompt: string | null
  /** The form of Retry-After with limits. */
  retryAfter: 'none' | 'seconds' | 'date' | 'garbage'
}

export interface Vendor {
  readonly weather: VendorWeather
  readonly ledger: readonly Charge[]
  readonly calls: number
  connect(process: Process, replica: number, life: number): Transport
}

export interface VendorHooks {
  readonly started: (call: UpstreamCall) => void
  /** In the process that made it. */
  readonly ended: (call: UpstreamCall) => void
  readonly charged: (charge: Charge) => void
}

const PRICE = 3
const NOT_SENT: ReadonlySet<Fate> = new Set(['refused', 'connect-timeout'])
/** Ends after as long as an answer takes. */
const THOUGHT: ReadonlySet<Fate> = new Set([
  '408',
  '500-empty',
  'truncated',
  'failed-200',
  'not-json',
  'hang',
  'reset-after',
])
const details: Partial<Record<Fate, readonly [status: number, detail: string]>> = {
  '400': [400, 'The request failed validation.'],
  '404': [404, 'Not found.'],
  '401': [401, 'Invalid or revoked API key.'],
  '403': [403, 'Forbidden.'],
  '408': [408, 'The AI provider did not respond in time.'],
  '429-rate': [429, 'Rate limit exceeded. Retry after a moment.'],
  '429-queue': [429, 'The scraper queue is full. Try again in a few seconds.'],
  '429-credits': [429, 'Credit limit reached. Upgrade your plan or wait for your billing cycle to reset.'],
  '500': [500, 'Unexpected scraper error.'],
  '500-empty': [500, 'Scraper returned an empty result.'],
  '503': [503, 'The scraper pool is warming up.'],
  '504': [504, 'Network timeout while reaching the scraper.'],
}

interface Job {
  readonly id: string
  readonly charge: Charge
  readonly createdAt: number
  readonly endsAt: number
  readonly fails: boolean
  readonly prompt: string
  readonly country: string
}

export function createVendor(
  time: { now(): number; after(ms: number, job: () => void): unknown },
  chance: Chance,
  hooks: VendorHooks,
): Vendor {
  const weather: VendorWeather = {
    fates: {},
    outages: new Map(),
    revoked: new Set(),
    credits: new Map(),
    leastMs: 500,
    mostMs: 20_000,
    failureMs: [5, 300],
    capacity: null,
    badPrompt: null,
    retryAfter: 'none',
  }
  const ledger: Charge[] = []
  const jobs = new Map<string, Job>()
  let calls = 0
  /** Questions that it works on. */
  let working = 0

  return {
    weather,
    ledger,
    get calls() {
      return calls
    },
    connect,
  }

  function connect(process: Process, replica: number, life: number): Transport {
    const open = new Set<() => void>()
    return { forward, trust: () => false, close: () => open.forEach((abort) => abort()) }

    function forward(request: UpstreamRequest): Promise<WireResult> {
      return new Promise((resolve) => {
        if (!process.act()) return
        const call = begin(request, replica, life)
        const { prompt, country, timeoutMs } = asked(request)
        hooks.started(call)
        const abort = (): void =>
          settle({ kind: 'broken', sent: true, reason: 'aborted', code: null }, 'aborted', null, null)
        const limit = process.clock.after(request.limitMs, () =>
          settle({ kind: 'broken', sent: true, reason: 'timeout', code: null }, 'ambiguous', null, null),
        )
        open.add(abort)

        function settle(result: WireResult, as: CallClass, retryAfterMs: number | null, serial: number | null): void {
          if (!open.delete(abort)) return
          limit.cancel()
          // A date is the same date for a process that was stopped when it came.
          const leftMs =
            retryAfterMs !== null && weather.retryAfter === 'date'
              ? retryAfterMs - (time.now() - call.toldAt)
              : retryAfterMs
          call.ended = { at: time.now(), class: as, retryAfterMs: leftMs, serial }
          hooks.ended(call)
          resolve(result)
        }

        const plannedMs = weather.leastMs + chance.next() ** 3 * (weather.mostMs - weather.leastMs)
        const isLate = call.endpoint === 'answer' && plannedMs > timeoutMs
        const fate = isLate ? '408' : fateOf(call, prompt)
        const quickMs = chance.between(5, 300)
        const failureMs = chance.between(...weather.failureMs)
        const ms = isLate ? timeoutMs : durationOf(call, fate, { plannedMs, quickMs, failureMs })
        const isWorking = call.endpoint === 'answer' && (fate === 'ok' || fate === 'odd-200')
        if (isWorking) working += 1
        time.after(ms, () => {
          if (isWorking) working -= 1
          call.toldAt = time.now()
          const { result, retryAfterMs, serial } = perform(call, fate, prompt, country, ms)
          if (result) process.deliver(0, () => settle(result, classOf(call, fate), retryAfterMs, serial))
        })
      })
    }
  }

  /** A job is accepted whatever becomes of it. */
  function classOf({ endpoint }: UpstreamCall, fate: Fate): CallClass {
    return endpoint === 'submit' && fate === 'failed-200' ? 'ok' : fates[fate]
  }

  function begin({ target, headers, limitMs }: UpstreamRequest, replica: number, life: number): UpstreamCall {
    const { path, prompt, country } = readTarget(target)
    const [, first = '', name = '', tail] = path.split('/')
    const endpoint = first === 'jobs' ? 'status' : tail === 'jobs' ? 'submit' : 'answer'
    calls += 1
    return {
      number: calls,
      replica,
      life,
      requestId: headers['x-request-id'] ?? '',
      endpoint,
      scraper: name,
      question: questionOf(name, prompt, country),
      key: headers['x-api-key'] ?? null,
      startedAt: time.now(),
      limitMs,
      toldAt: 0,
      isBilled: false,
      isOdd: false,
      ended: null,
    }
  }

  function fateOf({ endpoint, scraper, key }: UpstreamCall, prompt: string): Fate {
    const outage = weather.outages.get(scraper)
    if (outage !== undefined && NOT_SENT.has(outage)) return outage
    if (endpoint !== 'status') {
      if (key === null || weather.revoked.has(key)) return '401'
      if ((weather.credits.get(key) ?? PRICE) < PRICE) return '429-credits'
    }
    if (outage !== undefined && endpoint !== 'status') return outage
    if (endpoint === 'answer' && weather.capacity !== null && working >= weather.capacity) return '429-queue'
    if (endpoint === 'answer' && prompt === weather.badPrompt) return '500'
    let luck = chance.next() * 1000
    for (const [fate, share] of Object.entries(weather.fates)) {
      luck -= share
      if (luck >= 0) continue
      // Of a poll only those that any server has.
      if (endpoint === 'status' && !['503', '504', 'reset-before', 'refused'].includes(fate)) return 'ok'
      return fate as Fate
    }
    return 'ok'
  }

  function perform(
    call: UpstreamCall,
    fate: Fate,
    prompt: string,
    country: string,
    elapsedMs: number,
  ): { readonly result: WireResult | null; readonly retryAfterMs: number | null; readonly serial: number | null } {
    const broken = (
      sent: boolean,
      reason: Extract<WireResult, { kind: 'broken' }>['reason'],
      serial: number | null = null,
    ) => ({
      result: { kind: 'broken', sent, reason, code: null } as const,
      retryAfterMs: null,
      serial,
    })
    const [status, detail] = details[fate] ?? []
    if (status !== undefined) {
      const { retryAfter, retryAfterMs } =
        status === 429 || status === 503 ? retryAfterNow() : { retryAfter: null, retryAfterMs: null }
      return { result: reply(status, JSON.stringify({ detail }), retryAfter), retryAfterMs, serial: null }
    }
    if (fate === 'refused' || fate === 'connect-timeout') return broken(false, fate)
    if (fate === 'reset-before') return broken(true, 'reset')
    if (fate === 'reset-after') return broken(true, 'reset', charge(call).serial)
    if (fate === 'truncated') return broken(true, 'truncated', charge(call).serial)
    if (fate === 'hang') {
      if (chance.happens(0.5)) charge(call)
      return { result: null, retryAfterMs: null, serial: null }
    }
    const plain = (status: number, text: string, contentType?: string) => ({
      result: reply(status, text, null, contentType),
      retryAfterMs: null,
      serial: null,
    })
    if (fate === 'echo-key') return plain(500, JSON.stringify({ detail: `Error while using API key ${call.key}` }))
    if (fate === '502-html') return plain(502, '<html>Bad Gateway</html>', 'text/html')
    if (fate === 'not-json') return plain(200, 'Please verify you are human', 'text/html')
    return success(call, fate, prompt, country, elapsedMs)
  }

  function success(call: UpstreamCall, fate: Fate, prompt: string, country: string, elapsedMs: number) {
    if (call.endpoint === 'status') return { result: poll(call), retryAfterMs: null, serial: null }
    const bill = charge(call)
    call.isBilled = true
    const { serial } = bill
    const id = jobId(serial)
    if (call.endpoint === 'submit') {
      const durationMs = weather.leastMs + chance.next() * (weather.mostMs - weather.leastMs)
      const endsAt = time.now() + durationMs
      const job: Job = {
        id,
        charge: bill,
        createdAt: time.now(),
        endsAt,
        fails: chance.happens((weather.fates['500'] ?? 0) / 1000),
        prompt,
        country,
      }
      if (job.fails) time.after(durationMs, () => void (bill.refundedAt = time.now()))
      jobs.set(id, job)
      const body = { job_id: id, scraper: call.scraper, status: 'pending' }
      return { result: reply(202, JSON.stringify(body), null), retryAfterMs: null, serial }
    }
    const body = {
      ...answer(call.scraper, prompt, country, serial),
      job_id: id,
      elapsed_ms: elapsedMs,
      credits_used: PRICE,
    }
    const text = JSON.stringify(fate === 'failed-200' ? failedBody(body) : body)
    return { result: reply(200, text, null), retryAfterMs: null, serial }
  }

  function poll({ scraper: id }: UpstreamCall): WireResult {
    const job = jobs.get(id)
    if (!job)
      return reply(
        404,
        JSON.stringify({
          detail: 'Job not found. It may have expired (jobs are retained for 24 hours) or the ID is invalid.',
        }),
        null,
      )
    const { scraper } = job.charge.call
    const head = { job_id: id, scraper, created_at: isoOf(job.createdAt) }
    if (time.now() < job.endsAt)
      return reply(200, JSON.stringify({ ...head, status: 'pending', prompt: job.prompt, country: job.country }), null)
    const ended = { ...head, completed_at: isoOf(job.endsAt) }
    if (job.fails) return reply(200, JSON.stringify({ ...ended, status: 'failed', error: 'execution failed' }), null)
    const result = {
      ...answer(scraper, job.prompt, job.country, job.charge.serial),
      credits_used: PRICE,
      elapsed_ms: 1,
    }
    return reply(
      200,
      JSON.stringify({ ...ended, status: 'done', prompt: job.prompt, country: job.country, result }),
      null,
    )
  }

  function charge(call: UpstreamCall): Charge {
    const bill: Charge = { serial: ledger.length + 1, call, at: time.now(), credits: PRICE, refundedAt: null }
    ledger.push(bill)
    hooks.charged(bill)
    const { key } = call
    const left = key === null ? undefined : weather.credits.get(key)
    if (key !== null && left !== undefined) weather.credits.set(key, left - PRICE)
    return bill
  }

  function retryAfterNow(): { readonly retryAfter: string | null; readonly retryAfterMs: number | null } {
    const seconds = chance.whole(1, 20)
    switch (weather.retryAfter) {
      case 'none':
        return { retryAfter: null, retryAfterMs: null }
      case 'seconds':
        return { retryAfter: String(seconds), retryAfterMs: seconds * 1000 }
      case 'date': {
        const at = Math.ceil(time.now() / 1000 + seconds) * 1000
        return { retryAfter: new Date(at).toUTCString(), retryAfterMs: at - Math.ceil(time.now()) }
      }
      case 'garbage':
        return { retryAfter: chance.pick(['-5', 'soon', '1e3', '']), retryAfterMs: null }
      default:
        return weather.retryAfter satisfies never
    }
  }
}

/** Answers, and what an AI says after thinking, take their time; everything else fails in a time of its own. */
function durationOf(
  { endpoint }: UpstreamCall,
  fate: Fate,
  {
    plannedMs,
    quickMs,
    failureMs,
  }: { readonly plannedMs: number; readonly quickMs: number; readonly failureMs: number },
): number {
  if (endpoint !== 'answer' || NOT_SENT.has(fate)) return quickMs
  if (fates[fate] === 'ok' || THOUGHT.has(fate)) return plannedMs
  return fate.startsWith('4') ? quickMs : failureMs
}

export function questionOf(scraper: string, prompt: string, country: string): string {
  return `${scraper}|${prompt}|${country}`
}

export function jobId(serial: number): string {
  return `00000000-0000-4000-9000-${String(serial).padStart(12, '0')}`
}

function answer(scraper: string, prompt: string, country: string, serial: number) {
  const products = scraper === 'amazon_rufus' ? { products: [{ asin: 'B000000001', title: prompt }] } : {}
  return { scraper, status: 'done', prompt, country, serial, result: `Answer ${serial}`, ...products, cached: false }
}

function reply(status: number, text: string, retryAfter: string | null, contentType = 'application/json'): WireResult {
  return { kind: 'reply', reply: { status, contentType, retryAfter, location: null, body: Buffer.from(text) } }
}

function readTarget(target: string): { readonly path: string; readonly prompt: string; readonly country: string } {
  const [path = '', query = ''] = target.split('?')
  const params = new URLSearchParams(query)
  return { path, prompt: params.get('prompt') ?? '', country: params.get('country') ?? 'US' }
}

function asked({ target }: UpstreamRequest): {
  readonly prompt: string
  readonly country: string
  readonly timeoutMs: number
} {
  const { prompt, country } = readTarget(target)
  const timeout = new URLSearchParams(target.split('?')[1] ?? '').get('timeout')
  return { prompt, country, timeoutMs: Number(timeout ?? '300') * 1000 }
}

function isoOf(at: number): string {
  return new Date(at).toISOString().replace(/\.\d+Z$/, '+00:00')
}

function failedBody(body: object): object {
  return { ...body, status: 'failed', error: 'execution failed', result: '', result_markdown: '' }
}

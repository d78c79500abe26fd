/**
 * A client for programs, as `scrapellm-proxy/client`: a thin layer over `fetch` that keeps answers, the proxy's refusals and ScrapeLLM's
 * errors apart. Repeats nothing, because the proxy does that, and sets no time-out of its own: pass a `signal`, or `patienceSeconds`.
 * Imports nothing, so that it can be copied.
 */

export interface ClientOptions {
  /** Of the proxy, such as `http://127.0.0.1:8080`. */
  readonly baseUrl: string
  /** The client's token of the proxy; left out where callers without one are let in. */
  readonly token?: string
  /** Instead of the global one. */
  readonly fetch?: typeof fetch
}

export type Scraper = keyof OwnMembers

/** One question. What a scraper does not know is a parameter all the same: it is forwarded. */
export interface Question {
  /** 1 to 4,000 characters. */
  readonly prompt: string
  /** ISO 3166-1 alpha-2; `US` when left out. */
  readonly country?: string
  /** Seconds that one attempt may take: 10 to 600. */
  readonly timeout?: number
  readonly bypassCache?: boolean
  /** One of 100 independent answers to the same question; each is paid for once. */
  readonly sample?: number
  /** perplexity */
  readonly webSearch?: boolean
  /** chatgpt */
  readonly markdownJson?: boolean
}

export interface Asking {
  /** Hangs up. The call goes on, and its answer is kept. */
  readonly signal?: AbortSignal
  /** How long the proxy lets this caller wait before it answers DEADLINE_EXCEEDED. */
  readonly patienceSeconds?: number
  /** Of the caller, for logs and trails: at most 128 visible ASCII characters. */
  readonly requestId?: string
}

export interface Submitting extends Asking {
  /** The same key and question give the first job again, without a second charge. */
  readonly idempotencyKey?: string
}

/** What the proxy says beside every answer. */
export interface Received {
  readonly status: number
  /** Quote it to the operator. */
  readonly requestId: string | null
  /** RFC 9211, such as `scrapellm-proxy; hit; ttl=43196; detail=memory`. */
  readonly cacheStatus: string | null
  /** Took no call of its own: kept, or shared with others who asked at the same time. */
  readonly isCached: boolean
  readonly attempts: number
  /** What this answer took from the client's budget, what may have been charged included. */
  readonly credits: number
  /** The name of the client as it was recognised. */
  readonly client: string | null
  /** Seconds; null = nothing was said. Of budgets it may be hours: do not sleep on it without a bound. */
  readonly retryAfter: number | null
}

/** The proxy refused. */
export interface Refusal extends Received {
  readonly kind: 'refusal'
  /** Such as `RATE_LIMITED`, `BUDGET_EXHAUSTED`, `CIRCUIT_OPEN`: docs/troubleshooting.md. */
  readonly code: string
  readonly detail: string
}

/** ScrapeLLM's error, as it came, after all attempts. */
export interface UpstreamError extends Received {
  readonly kind: 'error'
  /** Its words; empty when there are none. */
  readonly detail: string
  /** Null = it is not JSON. */
  readonly body: unknown
}

export interface Answered<S extends Scraper> extends Received {
  readonly kind: 'answer'
  readonly body: Answer<S>
}

/** Poll it with `job`. */
export interface Promised extends Received {
  readonly kind: 'promise'
  readonly jobId: string
}

export interface JobState extends Received {
  readonly kind: 'job'
  readonly job: Job
}

export interface Client {
  /** Resolves when the answer is there. Rejects only when there is no HTTP answer at all, as `fetch` does. */
  ask<S extends Scraper>(
    scraper: S,
    question: Question,
    asking?: Asking,
  ): Promise<Answered<S> | Refusal | UpstreamError>
  /** Resolves with the answer if it comes within `waitSeconds`, else with a promise. */
  askLater<S extends Scraper>(
    scraper: S,
    question: Question,
    asking?: Asking & { readonly waitSeconds?: number },
  ): Promise<Answered<S> | Promised | Refusal | UpstreamError>
  submit(scraper: Scraper, question: Question, submitting?: Submitting): Promise<Promised | Refusal | UpstreamError>
  job(jobId: string, asking?: Asking): Promise<JobState | Refusal | UpstreamError>
}

/** Members that every answer has, as far as is documented: any of them may be missing in an answer of another shape. */
export interface CommonMembers {
  readonly scraper: Scraper
  readonly status: 'done'
  readonly job_id?: string
  readonly prompt?: string
  readonly country?: string
  readonly result?: string
  readonly result_markdown?: string
  readonly credits_used?: number
  readonly elapsed_ms?: number
  readonly cached?: boolean
  readonly markdown_url?: string
}

interface Page {
  readonly title?: string
  readonly url?: string
  readonly snippet?: string
  readonly website_name?: string
}

interface Citation extends Page {
  readonly highlights?: readonly string[]
  readonly favicon?: string | null
}

interface Post {
  readonly title?: string
  readonly url?: string
  readonly preview?: string
}

interface Link {
  readonly text?: string
  readonly url?: string
}

interface Product {
  readonly asin?: string
  readonly title?: string
  readonly url?: string
  readonly rating?: string
  readonly reviews?: string
}

/** What each scraper adds. */
export interface OwnMembers {
  readonly chatgpt: {
    readonly links?: readonly Link[]
    readonly search_queries?: readonly string[]
    readonly llm_model?: string
  }
  readonly perplexity: { readonly sources?: readonly Page[]; readonly related_questions?: readonly string[] }
  readonly grok: { readonly web_sources?: readonly Post[]; readonly x_results?: readonly Post[] }
  readonly copilot: { readonly citations?: readonly Citation[]; readonly links?: readonly (string | Link)[] }
  readonly gemini: { readonly citations?: readonly Citation[]; readonly llm_model?: string }
  readonly google_ai_mode: { readonly citations?: readonly Citation[]; readonly search_results?: readonly Page[] }
  readonly amazon_rufus: { readonly products?: readonly Product[]; readonly related_questions?: readonly string[] }
}

export type Answer<S extends Scraper = Scraper> = CommonMembers & OwnMembers[S] & { readonly [member: string]: unknown }

export interface Job {
  readonly job_id: string
  readonly status: 'pending' | 'done' | 'failed'
  readonly scraper?: Scraper
  readonly prompt?: string
  readonly country?: string
  /** Once it is done. */
  readonly result?: Answer
  /** Why it failed. */
  readonly error?: string
  readonly created_at?: string
  readonly completed_at?: string | null
}

export function createClient({ baseUrl, token, fetch: send = fetch }: ClientOptions): Client {
  const root = baseUrl.replace(/\/+$/, '')

  async function call(
    path: string,
    method: 'GET' | 'POST',
    headers: Record<string, string>,
    { signal, patienceSeconds, requestId }: Asking,
  ) {
    if (token !== undefined) headers['X-API-Key'] = token
    if (patienceSeconds !== undefined) headers['X-Request-Timeout'] = String(patienceSeconds)
    if (requestId !== undefined) headers['X-Request-Id'] = requestId
    const response = await send(root + path, { method, headers, ...(signal ? { signal } : {}) })
    const text = await response.text()
    const received = receivedOf(response)
    return {
      received,
      body: parse(text),
      failure: response.ok ? null : failureOf(received, response.headers, parse(text)),
    }
  }

  return {
    async ask<S extends Scraper>(scraper: S, question: Question, asking: Asking = {}) {
      const { received, body, failure } = await call(pathOf(scraper, question), 'GET', {}, asking)
      return failure ?? { kind: 'answer' as const, ...received, body: body as Answer<S> }
    },
    async askLater<S extends Scraper>(
      scraper: S,
      question: Question,
      asking: Asking & { readonly waitSeconds?: number } = {},
    ) {
      const prefer = `respond-async, wait=${asking.waitSeconds ?? 0}`
      const { received, body, failure } = await call(pathOf(scraper, question), 'GET', { Prefer: prefer }, asking)
      if (failure) return failure
      if (received.status === 202) return promiseOf(received, body)
      return { kind: 'answer' as const, ...received, body: body as Answer<S> }
    },
    async submit(scraper, question, submitting = {}) {
      const { idempotencyKey } = submitting
      const headers: Record<string, string> = idempotencyKey === undefined ? {} : { 'Idempotency-Key': idempotencyKey }
      const { received, body, failure } = await call(pathOf(scraper, question, '/jobs'), 'POST', headers, submitting)
      return failure ?? promiseOf(received, body)
    },
    async job(jobId, asking = {}) {
      const { received, body, failure } = await call(`/jobs/${encodeURIComponent(jobId)}`, 'GET', {}, asking)
      return failure ?? { kind: 'job' as const, ...received, job: body as Job }
    },
  }
}

function pathOf(scraper: Scraper, question: Question, suffix = ''): string {
  const params = new URLSearchParams({ prompt: question.prompt })
  const named = {
    country: question.country,
    timeout: question.timeout,
    bypass_cache: question.bypassCache,
    sample: question.sample,
    web_search: question.webSearch,
    markdown_json: question.markdownJson,
  }
  for (const [name, value] of Object.entries(named)) if (value !== undefined) params.set(name, String(value))
  return `/scrapers/${scraper}${suffix}?${params.toString()}`
}

function receivedOf({ status, headers }: Response): Received {
  const cacheStatus = headers.get('Cache-Status')
  const retryAfter = headers.get('Retry-After')
  return {
    status,
    requestId: headers.get('X-Request-Id'),
    cacheStatus,
    isCached: /; (?:hit|collapsed)\b/.test(cacheStatus ?? ''),
    attempts: Number(headers.get('X-Proxy-Attempts') ?? 0),
    credits: Number(headers.get('X-Proxy-Credits') ?? 0),
    client: headers.get('X-Proxy-Client'),
    retryAfter: retryAfter !== null && /^\d+$/.test(retryAfter) ? Number(retryAfter) : null,
  }
}

function failureOf(received: Received, headers: Headers, body: unknown): Refusal | UpstreamError {
  const code = headers.get('X-Proxy-Code')
  const said = isRecord(body) ? body['detail'] : undefined
  const detail = said === undefined ? '' : typeof said === 'string' ? said : JSON.stringify(said)
  return code === null ? { kind: 'error', ...received, detail, body } : { kind: 'refusal', ...received, code, detail }
}

function promiseOf(received: Received, body: unknown): Promised {
  return { kind: 'promise', ...received, jobId: isRecord(body) ? String(body['job_id']) : '' }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null
}

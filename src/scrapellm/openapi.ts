/**
 * The API as OpenAPI 3.1: everything that a client may send and get, from the tables of the code. Served as `/openapi.json` on the proxy
 * port and committed as docs/openapi.json.
 */
import { codes, reasons, refusals } from '../errors.ts'
import { scrapers } from './endpoints.ts'
import { MOST_SAMPLES, parameters } from './params.ts'
import { answerSchema, errorSchema, jobSchema, type Schema, type Scraper, submissionSchema } from './schemas.ts'

interface Header {
  readonly says: string
  readonly schema: Schema
}

const whole: Schema = { type: 'integer', minimum: 0 }
const text: Schema = { type: 'string' }

/** What answers carry. */
export const answerHeaders = {
  'X-Request-Id': {
    says: "The caller's, if it is at most 128 visible ASCII characters, else a new one.",
    schema: text,
  },
  'Cache-Status': { says: 'RFC 9211: `hit` with its `ttl`, or `fwd` with the reason, and `detail`.', schema: text },
  'X-Proxy-Attempts': { says: 'Attempts upstream for this answer; 0 = none.', schema: whole },
  'X-Proxy-Credits': {
    says: "Credits that this answer took from the client's budget, those that may have been charged included.",
    schema: whole,
  },
  'X-Proxy-Client': { says: 'The name of the client as it was recognised.', schema: text },
  'X-Proxy-Sample': { says: 'Which of several independent answers this is.', schema: whole },
  'X-Proxy-Code': { says: "Only on the proxy's own refusals.", schema: { $ref: '#/components/schemas/Code' } },
  'Retry-After': { says: 'Seconds. On every 429 and 503 of the proxy.', schema: text },
  'RateLimit-Policy': { says: "The client's limits (draft-ietf-httpapi-ratelimit-headers).", schema: text },
  RateLimit: { says: 'What is left of them, and the seconds until they are reset.', schema: text },
  Age: { says: 'Seconds since the answer was stored.', schema: whole },
  ETag: { says: 'For `If-None-Match`.', schema: text },
  Vary: { says: 'A cache of the caller must not give one sample for another.', schema: text },
  'Cache-Control': { says: '`private, max-age` with the whole lifetime, or `no-store`.', schema: text },
  Location: { says: 'Where a promised answer can be polled.', schema: text },
  'Preference-Applied': { says: 'What was done of `Prefer` (RFC 7240).', schema: text },
  'Idempotent-Replayed': {
    says: 'The job was submitted earlier with the same key.',
    schema: { type: 'string', const: 'true' },
  },
} as const satisfies Readonly<Record<string, Header>>

type HeaderName = keyof typeof answerHeaders

const always: readonly HeaderName[] = [
  'X-Request-Id',
  'Cache-Status',
  'X-Proxy-Attempts',
  'X-Proxy-Credits',
  'X-Proxy-Client',
  'RateLimit-Policy',
  'RateLimit',
]
const promised: readonly HeaderName[] = [...always, 'X-Proxy-Sample']
const kept: readonly HeaderName[] = [...promised, 'Age', 'ETag', 'Cache-Control', 'Vary']

interface Parameter {
  readonly name: string
  readonly in: 'query' | 'header' | 'path'
  readonly description: string
  readonly required?: boolean
  readonly schema: Schema
}

const sample: Parameter = {
  name: 'sample',
  in: 'query',
  description: 'One of several independent answers to the same question; each is asked and paid for once.',
  schema: { type: 'integer', minimum: 1, maximum: MOST_SAMPLES, default: 1 },
}
const requestId = header('X-Request-Id', 'An id of your own for logs and trails.', text)
const patience = header(
  'X-Request-Timeout',
  'Seconds that the caller waits. The call goes on, and its answer is kept.',
  { type: 'number', exclusiveMinimum: 0 },
)
const prefer = header('Prefer', '`respond-async`: a job at once, or with `wait=N` after N seconds (RFC 7240).', {
  type: 'string',
  examples: ['respond-async, wait=20'],
})
const cacheControl = header(
  'Cache-Control',
  '`no-cache`, `no-store`, `max-age`, `max-stale`, `min-fresh`, `only-if-cached` (RFC 9111 5.2.1).',
  text,
)
const ifNoneMatch = header('If-None-Match', 'An `ETag` of before: 304 when it still holds.', text)
const sampleHeader = header('X-Sample', 'As the parameter `sample`, for clients that cannot add one.', {
  type: 'integer',
  minimum: 1,
  maximum: MOST_SAMPLES,
})
const traceparent = header('traceparent', 'W3C trace context, continued upstream.', text)
const idempotencyKey = header(
  'Idempotency-Key',
  'The same key and question give the first job again, for 24 hours and without a second charge.',
  { type: 'string', maxLength: 255 },
)
const jobId: Parameter = {
  name: 'job_id',
  in: 'path',
  required: true,
  description: 'From a submission, or from the `Location` of a promise.',
  schema: { type: 'string', pattern: '^[A-Za-z0-9_-]{1,128}$' },
}

const failures = failuresByStatus()
const failureRefs = Object.fromEntries(
  Object.keys(failures).map((name) => [
    name.slice('Error'.length) || 'default',
    { $ref: `#/components/responses/${name}` },
  ]),
)

export function openApi(version: string): object {
  const names = scrapers.map((scraper) => `#/components/schemas/${nameOf(scraper)}`)
  return {
    openapi: '3.1.0',
    info: {
      title: 'scrapellm-proxy',
      version,
      summary: 'ScrapeLLM behind a proxy that keeps and shares answers, repeats what failed, and limits who asks.',
      description:
        'The API of ScrapeLLM with another base URL and a token of the proxy. Its answers and errors pass through; `X-Proxy-Code` marks refusals of the proxy itself.',
    },
    servers: [{ url: '/' }],
    security: [{ header: [] }, { bearer: [] }, { query: [] }, {}],
    paths: {
      ...Object.fromEntries(scrapers.flatMap((scraper) => [answering(scraper), submitting(scraper)])),
      '/jobs/{job_id}': { get: polling() },
    },
    components: {
      securitySchemes: {
        header: {
          type: 'apiKey',
          in: 'header',
          name: 'X-API-Key',
          description: "The client's token of the proxy, not the key of ScrapeLLM.",
        },
        bearer: { type: 'http', scheme: 'bearer' },
        query: { type: 'apiKey', in: 'query', name: 'api_key' },
      },
      headers: Object.fromEntries(
        Object.entries(answerHeaders).map(([name, { says, schema }]) => [name, { description: says, schema }]),
      ),
      responses: failures,
      schemas: {
        ...Object.fromEntries(scrapers.map((scraper) => [nameOf(scraper), answerSchema(scraper)])),
        Submission: submissionSchema,
        Answer: { anyOf: names.map((name) => ({ $ref: name })) },
        Job: jobSchema,
        Failure: failureSchema,
        UpstreamError: errorSchema,
        Code: { type: 'string', enum: codes },
        Refusal: refusalSchema,
      },
    },
  }
}

/** In both media types, because some generators know one type for each status, the first. */
const failureSchema: Schema = {
  anyOf: [{ $ref: '#/components/schemas/Refusal' }, { $ref: '#/components/schemas/UpstreamError' }],
  description: 'A refusal of the proxy in `application/problem+json`, an error of ScrapeLLM in `application/json`.',
}

/** RFC 9457. */
const refusalSchema: Schema = {
  type: 'object',
  description: 'A refusal of the proxy itself.',
  properties: {
    type: { type: 'string', format: 'uri' },
    title: text,
    status: { type: 'integer' },
    detail: { type: 'string', description: 'What is wrong and what to do.' },
    code: { $ref: '#/components/schemas/Code' },
    request_id: text,
    reason: { type: 'string', enum: reasons, description: 'Which of several causes, where a code has them.' },
  },
  required: ['type', 'title', 'status', 'detail', 'code', 'request_id'],
}

function answering(scraper: Scraper): [path: string, item: object] {
  const answer = jsonOf('An answer: fresh, kept or shared.', nameOf(scraper), kept)
  const operation = {
    operationId: `ask_${scraper}`,
    summary: `Ask ${scraper}, and wait for the answer`,
    parameters: [
      ...questionOf(scraper),
      sampleHeader,
      requestId,
      patience,
      prefer,
      cacheControl,
      ifNoneMatch,
      traceparent,
    ],
    responses: {
      200: answer,
      202: jsonOf('A promise: poll its `Location`.', 'Submission', [...promised, 'Location', 'Preference-Applied']),
      304: { description: 'What the caller has still holds.', headers: refs(kept) },
      ...failureRefs,
    },
  }
  return [`/scrapers/${scraper}`, { get: operation }]
}

function submitting(scraper: Scraper): [path: string, item: object] {
  const operation = {
    operationId: `submit_${scraper}`,
    summary: `Submit a question to ${scraper} as a job`,
    parameters: [...questionOf(scraper), sampleHeader, requestId, idempotencyKey, traceparent],
    responses: {
      202: jsonOf('Submitted, and charged.', 'Submission', [...promised, 'Idempotent-Replayed']),
      ...failureRefs,
    },
  }
  return [`/scrapers/${scraper}/jobs`, { post: operation }]
}

function polling(): object {
  return {
    operationId: 'get_job',
    summary: 'How a job is doing; its result once it is done',
    parameters: [jobId, requestId],
    responses: { 200: jsonOf('Pending, done or failed.', 'Job', always), ...failureRefs },
  }
}

function header(name: string, description: string, schema: Schema): Parameter {
  return { name, in: 'header', description, schema }
}

function questionOf(scraper: Scraper): readonly Parameter[] {
  const own = parameters.filter(({ only }) => only === null || only === scraper)
  const described = own.map(({ name, absent, schema, says }): Parameter => {
    return { name, in: 'query', description: says, required: absent === null, schema }
  })
  return [...described, sample]
}

/** By status: the codes that have it, beside what ScrapeLLM says with it. */
function failuresByStatus(): Readonly<Record<string, object>> {
  const byStatus = new Map<number, string[]>()
  for (const code of codes) {
    for (const status of refusals[code].statuses) byStatus.set(status, [...(byStatus.get(status) ?? []), code])
  }
  const rows = Array.from(byStatus, ([status, names]) => {
    return [`Error${status}`, failureOf(`\`${names.join('`, `')}\`, or an error of ScrapeLLM.`)] as const
  })
  return {
    ...Object.fromEntries(rows),
    Error: failureOf("An error of ScrapeLLM, as it came, after the proxy's attempts."),
  }
}

function failureOf(what: string): object {
  return {
    description: what,
    headers: refs([...always, 'X-Proxy-Code', 'Retry-After']),
    content: {
      'application/problem+json': { schema: { $ref: '#/components/schemas/Failure' } },
      'application/json': { schema: { $ref: '#/components/schemas/Failure' } },
    },
  }
}

function jsonOf(description: string, schema: string, names: readonly HeaderName[]): object {
  return {
    description,
    headers: refs(names),
    content: { 'application/json': { schema: { $ref: `#/components/schemas/${schema}` } } },
  }
}

function refs(names: readonly HeaderName[]): object {
  return Object.fromEntries(names.map((name) => [name, { $ref: `#/components/headers/${name}` }]))
}

/** `a_b` → `ABAnswer`. */
function nameOf(scraper: Scraper): string {
  return `${scraper.replaceAll(/(?:^|_)([a-z])/g, (_all, letter: string) => letter.toUpperCase())}Answer`
}

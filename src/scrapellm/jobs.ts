/**
 * Jobs in the vendor's words (docs/vendor-api.md, "Jobs"): what its documents mean, and documents of our own that read like its own.
 * What upstream wrote is cut out and handed on byte for byte; only members that a job's result lacks are added. Pure.
 */
import type { Call, Reply } from '../model.ts'
import type { JobDialect, JobState, OwnJob } from '../parts.ts'
import { complete, isObject, type JsonObject, memberOf, parseObject, withoutMark } from './answers.ts'
import { assertPrompt, readQuestion } from './params.ts'
import { hasResult, isFilled, isJobStatus, saysItFailed } from './shape.ts'

const POLL_PATH = '/jobs/'
const SUBMIT_SUFFIX = '/jobs'
const FAILED = 'execution failed'
const NOT_FOUND = 'Job not found. It may have expired (jobs are retained for 24 hours) or the ID is invalid.'

// Without a zone it would be read as local time: not the documented form, so not believed.
const ISO_WITH_ZONE = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/

export const jobs: JobDialect = {
  idOf: ({ path }) => canonicalId(path.slice(POLL_PATH.length)),
  submittedId({ body }) {
    const id = parseObject(body)?.['job_id']
    return typeof id === 'string' && id !== '' ? id : null
  },
  canonicalId,
  read,
  toSubmission: (question) => ({
    ...question,
    endpoint: 'submit',
    method: 'POST',
    path: question.path + SUBMIT_SUFFIX,
    key: null,
  }),
  toQuestion: (submission) => ({
    ...submission,
    endpoint: 'answer',
    method: 'GET',
    path: submission.path.slice(0, -SUBMIT_SUFFIX.length),
    key: readQuestion(submission.scraper, submission.params, submission.sample ?? null).key,
  }),
  toPoll: (id, question) => ({
    endpoint: 'status',
    method: 'GET',
    scraper: question.scraper,
    path: POLL_PATH + encodeURIComponent(id),
    params: [],
    key: null,
    bypass: false,
    timeoutMs: null,
    priceCredits: 0,
    promptHash: null,
    country: null,
  }),
  mayPromise: ({ params }) => assertPrompt(params),
  toAnswer,
  errorOf,
  write: (job) => json(job.state.kind === 'accepted' ? 202 : 200, documentOf(job), locationOf(job)),
  unknown: json(404, Buffer.from(JSON.stringify({ detail: NOT_FOUND })), null),
}

/** An id is a UUID, and who reads one takes it in capitals and without its dashes as well: the owner of a job must not depend on that. */
function canonicalId(id: string): string {
  return id.toLowerCase().replaceAll(/[-_]/g, '')
}

/** Only what is documented: a document that is remembered as ended is not asked for again. */
function read(reply: Reply): JobState | null {
  const document = documentIn(reply)
  const state = document?.['status']
  if (!isJobStatus(state)) return null
  return { status: state, createdAt: timeOf(document?.['created_at']), completedAt: timeOf(document?.['completed_at']) }
}

/** Upstream's texts are short; whatever else is there is not a text for people. */
const LONGEST_ERROR = 2_000

function errorOf({ body }: Reply): string | null {
  const said = parseObject(body)?.['detail']
  if (said === undefined || said === null || said === '') return null
  return (typeof said === 'string' ? said : JSON.stringify(said)).slice(0, LONGEST_ERROR)
}

function documentIn({ status, body }: Reply): JsonObject | null {
  return status >= 200 && status < 300 ? parseObject(body) : null
}

function timeOf(value: unknown): number | null {
  const at = typeof value === 'string' && ISO_WITH_ZONE.test(value) ? Date.parse(value) : Number.NaN
  return Number.isNaN(at) ? null : at
}

/** Words for "done" that other services use. */
const doneWords: ReadonlySet<unknown> = new Set([
  'done',
  'complete',
  'completed',
  'finished',
  'success',
  'succeeded',
  'ok',
])

/**
 * Whether the job has ended, from a document of whatever shape; null = not yet, as far as anybody can tell. A result counts only where
 * the document does not say that more is to come.
 */
function endOf(document: JsonObject): 'done' | 'failed' | null {
  const { status } = document
  if (status === 'pending') return null
  if (status === 'done') return 'done'
  if (status === 'failed' || saysItFailed(document)) return 'failed'
  if (!hasResult(document)) return null
  const isOver = status === undefined || doneWords.has(lowerCase(status)) || isFilled(document['completed_at'])
  return isOver ? 'done' : null
}

function lowerCase(value: unknown): unknown {
  return typeof value === 'string' ? value.toLowerCase() : value
}

/** The error of a failed job is read like one of a question asked at once: by its words. */
function toAnswer(question: Call, reply: Reply): Reply | null {
  const document = documentIn(reply)
  const end = document && endOf(document)
  if (!document || !end) return null
  if (end === 'failed') {
    const error = document['error'] ?? document['detail']
    const detail = isFilled(error) ? error : FAILED
    return json(500, Buffer.from(JSON.stringify({ detail })), null)
  }
  // A result that is a text or a list is no answer by itself: the document around it reads like one.
  const result = isObject(document['result']) && !Array.isArray(document['result'])
  const answer = (result && memberOf(reply.body, 'result')) || reply.body
  // Only a document of the documented shape is completed: nobody knows what another one lacks.
  if (document['status'] !== 'done') return json(200, answer, null)
  return json(200, complete(answer, missingIn(question, document, answer)), null)
}

/**
 * What the documented example of a result leaves out though a sync answer has it, as far as it is known. The plain text stands in for
 * the Markdown: who gets this answer from the cache finds the members that every answer has.
 */
function missingIn(
  question: Call,
  document: JsonObject,
  answer: Buffer,
): readonly (readonly [name: string, value: string])[] {
  const text = parseObject(answer)?.['result']
  const known: readonly (readonly [string, unknown])[] = [
    ['scraper', question.scraper],
    ['status', 'done'],
    ['job_id', document['job_id']],
    ['prompt', isFilled(document['prompt']) ? document['prompt'] : promptOf(question)],
    ['country', isFilled(document['country']) ? document['country'] : question.country],
    ['result_markdown', text],
  ]
  return known.filter(([, value]) => isFilled(value)).map(([name, value]) => [name, JSON.stringify(value)])
}

function documentOf({ id, question, createdAt, state }: OwnJob): Buffer {
  const head = { job_id: id, status: state.kind === 'accepted' ? 'pending' : state.kind, scraper: question.scraper }
  if (state.kind === 'accepted') return Buffer.from(JSON.stringify(head))
  const created = { created_at: isoOf(createdAt) }
  if (state.kind === 'failed') {
    const completed = { completed_at: isoOf(state.completedAt) }
    return Buffer.from(JSON.stringify({ ...head, error: state.error ?? FAILED, ...created, ...completed }))
  }
  const asked = { prompt: promptOf(question), country: question.country ?? undefined }
  const document = Buffer.from(JSON.stringify({ ...head, ...asked, ...created }))
  if (state.kind === 'pending') return document
  const tail = `,"completed_at":"${isoOf(state.completedAt)}"}`
  const answer = withoutMark(state.answer)
  return Buffer.concat([document.subarray(0, -1), Buffer.from(',"result":'), answer, Buffer.from(tail)])
}

function locationOf({ id, state }: OwnJob): string | null {
  return state.kind === 'accepted' ? POLL_PATH + id : null
}

function promptOf({ params }: Call): string | undefined {
  return params.find(([name]) => name === 'prompt')?.[1]
}

/** As the vendor writes it: whole seconds, with an offset. */
function isoOf(at: number): string {
  return new Date(at).toISOString().replace(/\.\d+Z$/, '+00:00')
}

function json(status: number, body: Buffer, location: string | null): Reply {
  return { status, contentType: 'application/json', retryAfter: null, location, body }
}

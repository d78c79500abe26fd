/** What a replay puts in the place of the vendor and of its jobs: what was recorded of them is all that is known. */
import { ProxyError } from '../errors.ts'
import type { Call, ProxyRequest } from '../model.ts'
import type { Jobs, Profile } from '../parts.ts'
import type { Question } from './traffic.ts'
import { isReplayed } from './upstream.ts'
import { replyOf } from './verdict.ts'

/** Calls are read and verdicts are made without the vendor. */
export const noVendor: Pick<Profile, 'vendor' | 'sign' | 'classify' | 'replay' | 'jobs'> = {
  vendor: 'upstream',
  sign: unwired,
  classify: unwired,
  replay: (body) => body,
  jobs: {
    idOf: unwired,
    canonicalId: unwired,
    submittedId: unwired,
    read: unwired,
    toSubmission: unwired,
    toQuestion: unwired,
    mayPromise: () => undefined,
    toPoll: unwired,
    toAnswer: unwired,
    write: unwired,
    errorOf: unwired,
    unknown: replyOf(404),
  },
}

function unwired(): never {
  throw new TypeError('a replay has no wire')
}

export const jobs: Jobs = {
  async follow(request, _client, call, forward) {
    const { refusal, known } = questionOf(request)
    if (refusal) throw refused(refusal)
    if (known !== null) return { kind: 'job', reply: replyOf(known), idempotentReplay: false }
    return forward(call, null, (flight) => flight)
  },
  promise: () => ({ kind: 'job', reply: replyOf(202), idempotentReplay: false }),
  interrupted: () => [],
  resume: () => {},
}

export function read(request: ProxyRequest): Call {
  const question = questionOf(request)
  const { endpoint, refusal } = question
  if (endpoint === null) throw refused(refusal ?? { code: 'REQUEST_INVALID', status: 400 })
  return callOf({ ...question, endpoint })
}

type Asked = Pick<Question, 'key' | 'scraper' | 'priceCredits' | 'timeoutMs' | 'wish'> & Pick<Call, 'endpoint'>

export function callOf({ endpoint, key, scraper, priceCredits, timeoutMs, wish }: Asked): Call {
  return {
    endpoint,
    method: endpoint === 'submit' ? 'POST' : 'GET',
    scraper,
    path: '',
    params: [],
    key,
    bypass: wish === 'bypass',
    timeoutMs,
    priceCredits,
    promptHash: null,
    country: null,
  }
}

export function questionOf(request: ProxyRequest): Question {
  if (!isReplayed(request)) throw new TypeError('a request that nobody replays')
  return request.question
}

export function refused({ code, status }: NonNullable<Question['refusal']>): ProxyError {
  return new ProxyError(code, 'As it was recorded.', { status })
}

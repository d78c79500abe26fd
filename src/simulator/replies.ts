// Steps as HTTP answers: status, headers and text, with the vendor's literal texts where they are known (docs/vendor-api.md, "Errors").
// Texts that are not documented are the simulator's own and avoid the words by which known ones are told apart.

import type { Body } from './answers.ts'
import { emptied, isShape, type ShapedReply, shapes } from './shapes.ts'
import type { StepDetail, StepKind } from './step.ts'
import type { Switches } from './switches.ts'

export interface Reply {
  readonly status: number
  readonly headers: Readonly<Record<string, string | readonly string[]>>
  readonly body: string
}

/** What success would be for this call: the answer, the 202 or the job document. */
export interface Success {
  readonly status: number
  readonly body: Body
}

interface Plain {
  readonly status: number
  readonly detail: unknown
}

const REFUSALS: Partial<Record<StepKind, Plain>> = {
  '400': { status: 400, detail: 'The request failed validation.' },
  '422-list': { status: 422, detail: [{ type: 'value_error', loc: ['query', 'prompt'], msg: 'Invalid value.' }] },
  '401': { status: 401, detail: 'Invalid or revoked API key.' },
  '401-missing': {
    status: 401,
    detail: 'Missing API key. Pass your key in the X-API-Key header or as ?api_key= in the URL.',
  },
  '401-no-credits': { status: 401, detail: 'This account has no credits.' },
  '402': { status: 402, detail: 'Payment required.' },
  '403': { status: 403, detail: 'Forbidden.' },
  '404': {
    status: 404,
    detail: 'Job not found. It may have expired (jobs are retained for 24 hours) or the ID is invalid.',
  },
  '408': { status: 408, detail: 'The AI provider did not respond in time.' },
  '429-rate': { status: 429, detail: 'Rate limit exceeded. Retry after a moment.' },
  '429-queue': { status: 429, detail: 'The scraper queue is full. Try again in a few seconds.' },
  '429-credits': {
    status: 429,
    detail: 'Credit limit reached. Upgrade your plan or wait for your billing cycle to reset.',
  },
  '500': { status: 500, detail: 'Unexpected scraper error.' },
  '500-empty': { status: 500, detail: 'Scraper returned an empty result.' },
  '501': { status: 501, detail: 'Not implemented.' },
  '503': { status: 503, detail: 'The scraper pool is warming up.' },
  '504': { status: 504, detail: 'Network timeout while reaching the scraper.' },
}

const JSON_TYPE = { 'Content-Type': 'application/json' }
const HTML_TYPE = { 'Content-Type': 'text/html' }
const COOKIES = ['session=simulated; Path=/; HttpOnly', 'lb=2']

const PAGES: Partial<Record<StepKind, Reply>> = {
  '403-html': page(403, 'Access denied'),
  '405-html': page(405, 'Not Allowed'),
  '502-html': page(502, 'Bad Gateway'),
  '504-html': page(504, 'Gateway Time-out'),
  'not-json': page(200, 'Please verify you are human'),
}

export function replyTo(step: StepDetail, success: Success, key: string | null, switches: Switches): Reply {
  const reply = plainReply(step, success, key, switches)
  return {
    status: reply.status,
    headers: {
      ...(typeof step.body === 'object' ? JSON_TYPE : reply.headers),
      ...(step.retryAfter === undefined ? {} : { 'Retry-After': String(step.retryAfter) }),
      ...step.headers,
    },
    body: step.body === undefined ? reply.body : typeof step.body === 'string' ? step.body : JSON.stringify(step.body),
  }
}

function plainReply(step: StepDetail, success: Success, key: string | null, switches: Switches): Reply {
  const refusal = REFUSALS[step.kind]
  if (step.kind === '429-queue' && switches.queueFull !== 'plain') return queueFull(switches)
  if (refusal !== undefined) return json(refusal.status, { detail: refusal.detail })
  if (isShape(step.kind)) return shaped(shapes[step.kind](success.status, success.body))
  if (step.kind === 'answer') return { status: step.status, headers: JSON_TYPE, body: '' }
  if (step.kind === 'redirect') return redirect(step.status ?? 302, step.location ?? 'https://elsewhere.example/login')
  if (step.kind === 'echo-key') {
    return json(step.status ?? 500, { detail: `Unexpected error while using API key ${key ?? ''}` })
  }
  return PAGES[step.kind] ?? success200(step.kind, success)
}

function shaped({ status, contentType, body }: ShapedReply): Reply {
  return { status, headers: contentType === null ? {} : { 'Content-Type': contentType }, body }
}

function success200(kind: StepKind, { status, body }: Success): Reply {
  if (kind === 'empty-200') return { status: 200, headers: {}, body: '' }
  if (kind === 'empty-result-200') return json(status, emptied(body))
  if (kind === 'status-failed-200')
    return json(status, { ...emptied(body), status: 'failed', error: 'execution failed' })
  const reply = json(status, body)
  return kind === 'set-cookie' ? { ...reply, headers: { ...reply.headers, 'Set-Cookie': COOKIES } } : reply
}

function queueFull(switches: Switches): Reply {
  if (switches.queueFull === 'html') return page(429, 'Too Many Requests')
  const reply = json(429, { detail: REFUSALS['429-queue']?.detail })
  return { ...reply, headers: { ...reply.headers, 'Retry-After': '3' } }
}

function redirect(status: number, location: string): Reply {
  return { status, headers: { Location: location }, body: '' }
}

function json(status: number, body: Body): Reply {
  return { status, headers: JSON_TYPE, body: JSON.stringify(body) }
}

function page(status: number, title: string): Reply {
  return {
    status,
    headers: HTML_TYPE,
    body: `<html><head><title>${title}</title></head><body><h1>${title}</h1><hr>gateway</body></html>\n`,
  }
}

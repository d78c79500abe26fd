/**
 * What a complete answer with a status of success is, by its members (docs/vendor-api.md, "Answers"). A shape that is not documented is still
 * an answer: it was paid for, so the caller gets it. It is only not kept, because nobody knows what it means.
 */
import type { Call } from '../model.ts'
import { isObject, type JsonObject } from './answers.ts'

/**
 * `known`: as documented. `empty`: as documented, without any content. `otherQuestion`: as documented, but it names another prompt or
 * scraper. `failed`: it says itself that it failed. `unknown`: anything else.
 */
export type Shape = 'known' | 'empty' | 'otherQuestion' | 'failed' | 'unknown'

/** `value` is the parsed body, any JSON value. */
export function shapeOf(call: Call, status: number, value: unknown): Shape {
  if (!isObject(value) || Array.isArray(value)) return 'unknown'
  // A failed job is an answer to a poll.
  if (call.endpoint === 'status') return status === 200 && isJobStatus(value['status']) ? 'known' : 'unknown'
  if (saysItFailed(value)) return 'failed'
  if (call.endpoint === 'submit') return isFilled(value['job_id']) ? 'known' : 'unknown'
  if (status !== 200 || value['status'] !== 'done') return 'unknown'
  if (!hasContent(call.scraper, value)) return isEmpty(value) ? 'empty' : 'unknown'
  return namesOtherQuestion(call, value) ? 'otherQuestion' : 'known'
}

export function isFilled(value: unknown): value is string {
  return typeof value === 'string' && value !== ''
}

export function isJobStatus(status: unknown): status is 'pending' | 'done' | 'failed' {
  return status === 'pending' || status === 'done' || status === 'failed'
}

/** An empty list of citations is a legitimate answer, an empty text is not. */
function hasContent(scraper: string, body: JsonObject): boolean {
  if (isVisible(body['result']) || isVisible(body['result_markdown'])) return true
  const products = body['products']
  // Rufus answers with products and, as far as is known, without a text.
  return scraper === 'amazon_rufus' && Array.isArray(products) && products.length > 0
}

/** White space, in any script, and characters without a width. */
const invisible = /^[\s\p{Cf}\p{Zs}\u115f\u1160\u2800\u3164\uffa0]*$/u

function isVisible(value: unknown): boolean {
  return typeof value === 'string' && !invisible.test(value)
}

/** Nothing in it that a caller could use: blank texts, empty lists, and the members that every answer has. */
function isEmpty(body: JsonObject): boolean {
  return Object.entries(body).every(([name, value]) => {
    if (isObject(value)) return Object.keys(value).length === 0
    return typeof value === 'string' || value === null || (name !== 'result' && name !== 'result_markdown')
  })
}

const failedWords: ReadonlySet<unknown> = new Set(['failed', 'error'])
/** What an error may be accompanied by and still be nothing but an error. */
const errorMembers: ReadonlySet<string> = new Set(['detail', 'error', 'message', 'code', 'credits_used'])

/** A failed or error status without a result, or nothing but `detail` or `error`. */
export function saysItFailed(body: JsonObject): boolean {
  const status = body['status']
  if (typeof status === 'string' && failedWords.has(status.toLowerCase())) return !hasResult(body)
  const isError = isGiven(body['detail']) || isGiven(body['error'])
  return isError && Object.keys(body).every((name) => errorMembers.has(name))
}

export function hasResult(body: JsonObject): boolean {
  return ['result', 'result_markdown', 'products'].some((name) => {
    const value = body[name]
    return isVisible(value) || (isObject(value) && Object.keys(value).length > 0)
  })
}

function isGiven(value: unknown): boolean {
  return value !== undefined && value !== null && value !== '' && value !== false
}

function namesOtherQuestion(call: Call, body: JsonObject): boolean {
  const prompt = call.params.find(([name]) => name === 'prompt')?.[1] ?? ''
  return (
    isOther(body['scraper'], call.scraper, (name) => name.toLowerCase().replaceAll(/[\s-]/g, '_')) ||
    isOther(body['prompt'], prompt, folded)
  )
}

/** An echo may be trimmed or normalised on the way; two questions that differ only in that are not confused with each other. */
function folded(text: string): string {
  return text.normalize('NFKC').replaceAll(/\s+/g, ' ').trim().toLowerCase()
}

/** Not given, or not a text, names nothing. */
function isOther(named: unknown, asked: string, fold: (text: string) => string): boolean {
  return isFilled(named) && named !== asked && fold(named) !== fold(asked)
}

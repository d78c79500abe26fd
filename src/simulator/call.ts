// Reads a request the way the vendor would: route, key, parameters. Decides nothing about scripts or money.
// Validation follows docs/vendor-api.md, "Parameters"; what is not documented is a switch.

import type { IncomingMessage } from 'node:http'
import type { RecordedRequest, RequestFacts } from './request.ts'
import type { StepDetail } from './step.ts'
import type { Switches } from './switches.ts'

export const scrapers = [
  'chatgpt',
  'perplexity',
  'grok',
  'copilot',
  'gemini',
  'google_ai_mode',
  'amazon_rufus',
] as const

const UNAVAILABLE: Readonly<Record<string, readonly string[]>> = {
  gemini: ['JP', 'TW'],
  google_ai_mode: ['JP', 'TW'],
  grok: ['JP', 'TW'],
}
const MAX_PROMPT_CHARACTERS = 4000
const DEFAULT_TIMEOUT_S = 300
const BOOLEAN = /^(?:true|false|1|0|yes|no|on|off)$/i

export function readCall(req: IncomingMessage, body: string, receivedAt: number, switches: Switches): RequestFacts {
  const target = req.url ?? '/'
  const [path, query] = splitOnce(target, '?')
  const params = [...new URLSearchParams(query)]
  const headers = flatten(req)
  return {
    ...routeOf(path),
    method: req.method ?? 'GET',
    target,
    path,
    params,
    headers,
    rawHeaders: req.rawHeaders,
    body,
    prompt: last(params, 'prompt'),
    country: last(params, 'country'),
    key: keyOf(headers['x-api-key'], last(params, 'api_key'), switches.keyPrecedence),
    bypassCache: isTrue(last(params, 'bypass_cache')),
    receivedAt,
  }
}

/** The refusal of a wrong route, scraper or method; null when the vendor has such an endpoint. */
export function refuseRoute(request: RecordedRequest, switches: Switches): StepDetail | null {
  if (request.call === 'other') return { kind: 'answer', status: 404, body: { detail: 'Not Found' } }
  const allow = request.call === 'submit' ? 'POST' : 'GET'
  if (request.method !== allow) {
    return { kind: 'answer', status: 405, body: { detail: 'Method Not Allowed' }, headers: { Allow: allow } }
  }
  if (request.scraper === null || scrapers.some((name) => name === request.scraper)) return null
  return switches.unknownScraper === '404'
    ? { kind: 'answer', status: 404, body: { detail: 'Not Found' } }
    : invalid('scraper', 'Unknown scraper.', switches)
}

/** The refusal of wrong parameters; null when they are fine. */
export function refuseParameters(request: RecordedRequest, switches: Switches): StepDetail | null {
  const { prompt, scraper, country } = request
  // Counted in code points; the vendor does not say what a character is.
  const characters = Array.from(prompt ?? '').length
  if (characters < 1 || characters > MAX_PROMPT_CHARACTERS) {
    return invalid('prompt', `prompt must have 1 to ${MAX_PROMPT_CHARACTERS} characters.`, switches)
  }
  const timeout = timeoutSeconds(request)
  if (!(timeout >= 10 && timeout <= 600)) return invalid('timeout', 'timeout must be between 10 and 600.', switches)
  for (const name of ['bypass_cache', 'web_search', 'markdown_json']) {
    const value = last(request.params, name)
    if (value !== null && !BOOLEAN.test(value)) return invalid(name, `${name} must be a boolean.`, switches)
  }
  if (country !== null && !/^[a-z]{2}$/i.test(country)) {
    return invalid('country', 'country must be an ISO 3166-1 alpha-2 code.', switches)
  }
  const unavailable = UNAVAILABLE[scraper ?? '']?.includes((country ?? 'US').toUpperCase()) === true
  if (unavailable && switches.unsupportedCountry === '400') {
    return invalid('country', `${scraper} is not available in ${country}.`, switches)
  }
  return null
}

export function timeoutSeconds(request: Pick<RecordedRequest, 'params'>): number {
  const value = last(request.params, 'timeout')
  return value === null ? DEFAULT_TIMEOUT_S : value.trim() === '' ? Number.NaN : Number(value)
}

/** A boolean parameter as the vendor reads it. */
export function flagOf(request: Pick<RecordedRequest, 'params'>, name: string, initial: boolean): boolean {
  const value = last(request.params, name)
  return value === null ? initial : isTrue(value)
}

function routeOf(path: string): Pick<RequestFacts, 'call' | 'scraper' | 'jobId'> {
  const [root, name = '', tail, ...rest] = path.split('/').slice(1)
  const known = name !== '' && rest.length === 0
  if (known && root === 'scrapers' && tail === undefined) return { call: 'sync', scraper: name, jobId: null }
  if (known && root === 'scrapers' && tail === 'jobs') return { call: 'submit', scraper: name, jobId: null }
  if (known && root === 'jobs' && tail === undefined) return { call: 'poll', scraper: null, jobId: name }
  return { call: 'other', scraper: null, jobId: null }
}

function invalid(field: string, text: string, switches: Switches): StepDetail {
  if (switches.validation === '400-string') return { kind: '400', body: { detail: text } }
  return { kind: '422-list', body: { detail: [{ type: 'value_error', loc: ['query', field], msg: text }] } }
}

function keyOf(header: string | undefined, query: string | null, precedence: 'header' | 'query'): string | null {
  const both = precedence === 'header' ? [header, query] : [query, header]
  return both.find((key) => key !== undefined && key !== null && key !== '') ?? null
}

// Repeated parameters: the last one counts, as in the frameworks that answer with "detail".
function last(params: RequestFacts['params'], name: string): string | null {
  return params.findLast(([key]) => key === name)?.[1] ?? null
}

function isTrue(value: string | null): boolean {
  return value !== null && /^(?:true|1|yes|on)$/i.test(value)
}

function flatten(req: IncomingMessage): Record<string, string> {
  const entries = Object.entries(req.headers)
  return Object.fromEntries(
    entries.map(([name, value]) => [name, Array.isArray(value) ? value.join(', ') : `${value}`]),
  )
}

function splitOnce(text: string, mark: string): [string, string] {
  const at = text.indexOf(mark)
  return at === -1 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)]
}

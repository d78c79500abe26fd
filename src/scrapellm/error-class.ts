/**
 * The failure class of an error answer, by its status and, where one status has several meanings, by its text (docs/vendor-api.md, "Errors").
 * First match wins. A text that is not documented gets the meaning that does the least harm: no key rests because of it.
 */
import type { VerdictClass } from '../failures.ts'
import type { Param, Reply } from '../model.ts'
import { isObject, type JsonObject } from './answers.ts'
import { patternOf } from './credentials.ts'

/** Statuses from … to, what the answer says (null = anything), and its class. */
type Rule = readonly [from: number, to: number, says: RegExp | 'html' | null, verdictClass: VerdictClass]

// Whole words: a prompt about accreditation is not about credits. `credit_limit` is two words.
const rateLimit = /(?<![a-z])rate[\s_-]?limit(?:s|ed|ing)?(?![a-z])/i
const credit = /(?<![a-z])credits?(?![a-z])/i
const emptyResult = /(?<![a-z])empty[\s_-]results?(?![a-z])/i

const rules: readonly Rule[] = [
  [408, 408, null, 'timeout'],
  [402, 402, null, 'creditsExhausted'],
  // Before credits: "rate limit exceeded, upgrade for more credits" passes by itself, and must not put the key to rest.
  [429, 429, rateLimit, 'rateLimited'],
  [429, 429, credit, 'creditsExhausted'],
  [429, 429, null, 'queueFull'],
  [401, 401, null, 'unauthorized'],
  [403, 403, null, 'blocked'],
  [407, 407, null, 'blocked'],
  [451, 451, null, 'blocked'],
  // A firewall's page. The vendor's own 405 is JSON, and would be a mistake of ours.
  [405, 405, 'html', 'blocked'],
  [500, 500, emptyResult, 'emptyResult'],
  [500, 500, null, 'serverError'],
  // Not implemented, HTTP version not supported: the same request fails again.
  [501, 501, null, 'rejected'],
  [505, 505, null, 'rejected'],
  [503, 503, null, 'warmingUp'],
  // 504, and what gateways answer instead: 502, 520 to 527.
  [500, 599, null, 'gatewayTimeout'],
  [400, 499, null, 'rejected'],
]

/** Null = not an error status. `params` are the question's: words that it echoes are not upstream's. */
export function errorClassOf(reply: Reply, body: JsonObject | null, params: readonly Param[]): VerdictClass | null {
  const { status } = reply
  if (status < 400 || status > 599) return null
  const text = withoutEcho(textOf(body?.['detail']), params)
  const rule = rules.find(
    ([from, to, says]) =>
      status >= from && status <= to && (says === null || (says === 'html' ? isHtml(reply) : says.test(text))),
  )
  return rule?.[3] ?? null
}

/** Members that repeat the request, in the lists of validation errors. */
const echoes: ReadonlySet<string> = new Set(['input', 'ctx', 'loc', 'prompt', 'url'])

/** A string as documented, or the lists and objects that frameworks put there: the strings two levels down. */
function textOf(detail: unknown): string {
  if (typeof detail === 'string') return detail
  if (!isObject(detail)) return ''
  return ownWords(detail)
    .flatMap((item) => (isObject(item) ? ownWords(item) : [item]))
    .filter((item) => typeof item === 'string')
    .join('\n')
}

function ownWords(value: JsonObject): unknown[] {
  return Object.entries(value)
    .filter(([name]) => !echoes.has(name))
    .map(([, item]) => item)
}

/** Word for word as documented (docs/vendor-api.md, "Errors"): nothing in them is an echo. */
const documented: ReadonlySet<string> = new Set([
  'Credit limit reached. Upgrade your plan or wait for your billing cycle to reset.',
  'Rate limit exceeded. Retry after a moment.',
  'Scraper returned an empty result.',
])

function withoutEcho(text: string, params: readonly Param[]): string {
  if (documented.has(text)) return text
  const prompt = params.find(([name]) => name === 'prompt')?.[1].trim() ?? ''
  if (prompt === '' || !text.includes(prompt)) return text
  // As a whole: the prompt "e" is not in the word "credit".
  return text.replaceAll(new RegExp(`(?<![\\p{L}\\p{N}])${patternOf(prompt)}(?![\\p{L}\\p{N}])`, 'gu'), ' ')
}

function isHtml({ contentType, body }: Reply): boolean {
  return /\bhtml\b/i.test(contentType ?? '') || /^\s*</.test(body.toString('latin1', 0, 64))
}

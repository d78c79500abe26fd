/**
 * What the parameters of a question mean: which of them change the answer and so are part of its key, which select behaviour.
 * Reads and never rewrites; the caller's own spelling is what is forwarded. When the meaning of a value is not documented the
 * question gets no key: its answer is neither kept nor shared.
 */
import { hash } from 'node:crypto'
import { ProxyError } from '../errors.ts'
import type { Param } from '../model.ts'

/** Raised when the same question gets another key than before: what was kept under the old one is then not found. */
const KEY_VERSION = '1'

export interface Question {
  readonly key: string | null
  readonly bypass: boolean
  readonly timeoutMs: number | null
  readonly promptHash: string | null
  readonly country: string
}

interface Parameter {
  readonly name: string
  /** Null = every scraper has it; for the others it is an unknown parameter. */
  readonly only: string | null
  readonly inKey: boolean
  /** What absence means; null = undocumented or impossible, so no key. */
  readonly absent: string | null
  /** The value as the key knows it; null = not a documented value, so no key. */
  readonly canonical: (value: string) => string | null
}

const DEFAULT_COUNTRY = 'US'

/** In the order of their names, which is that of the key. The facts are in docs/vendor-api.md, "Parameters". */
const parameters: readonly Parameter[] = [
  { name: 'bypass_cache', only: null, inKey: false, absent: 'false', canonical: boolean },
  { name: 'country', only: null, inKey: true, absent: DEFAULT_COUNTRY, canonical: upperCase },
  { name: 'markdown_json', only: 'chatgpt', inKey: true, absent: 'false', canonical: boolean },
  { name: 'prompt', only: null, inKey: true, absent: null, canonical: exact },
  { name: 'timeout', only: null, inKey: false, absent: '300', canonical: duration },
  { name: 'web_search', only: 'perplexity', inKey: true, absent: 'true', canonical: boolean },
]

const parameterNames: ReadonlySet<string> = new Set(parameters.map((parameter) => parameter.name))

export function readQuestion(scraper: string, params: readonly Param[]): Question {
  const given = readParams(params)
  const prompt = given.get('prompt')
  return {
    key: keyOf(scraper, given),
    bypass: given.get('bypass_cache') === 'true',
    timeoutMs: millisecondsOf(given.get('timeout') ?? ''),
    promptHash: prompt === undefined ? null : promptHash(prompt),
    country: upperCase(given.get('country') ?? DEFAULT_COUNTRY),
  }
}

/** Throws REQUEST_INVALID when it is not certain what upstream would read. */
export function readParams(params: readonly Param[]): ReadonlyMap<string, string> {
  const given = new Map<string, string>()
  for (const [name, value] of params) {
    // Nobody documents whether upstream takes the first or the last.
    if (given.has(name)) throw new ProxyError('REQUEST_INVALID', `${nameOf(name)} is given more than once.`)
    // Half a surrogate pair has no UTF-8: it could be neither forwarded nor hashed as it is.
    if (!name.isWellFormed() || !value.isWellFormed()) {
      throw new ProxyError('REQUEST_INVALID', `${nameOf(name)} is not valid Unicode.`)
    }
    given.set(name, value)
  }
  return given
}

function keyOf(scraper: string, given: ReadonlyMap<string, string>): string | null {
  const fields: Param[] = []
  let unknown = given.size
  for (const { name, only, inKey, absent, canonical } of parameters) {
    if (only !== null && only !== scraper) continue
    if (given.has(name)) unknown -= 1
    const value = given.get(name) ?? absent
    const canonicalValue = value === null ? null : canonical(value)
    if (canonicalValue === null) return null
    if (inKey) fields.push([name, canonicalValue])
  }
  const all = unknown > 0 ? inOrder([...fields, ...unknownIn(scraper, given)]) : fields
  let text = prefixed(KEY_VERSION) + prefixed(scraper)
  for (const [name, value] of all) text += prefixed(name) + prefixed(value)
  return hash('sha256', text, 'hex')
}

/** Nobody documents that they change nothing. */
function unknownIn(scraper: string, given: ReadonlyMap<string, string>): readonly Param[] {
  const known = parameters.filter(({ only }) => only === null || only === scraper).map(({ name }) => name)
  return [...given].filter(([name]) => !known.includes(name))
}

function inOrder(fields: readonly Param[]): readonly Param[] {
  return fields.toSorted(([a], [b]) => (a < b ? -1 : 1))
}

/** With its length in front, no field can be mistaken for two, or two for one. */
function prefixed(field: string): string {
  return `${field.length}:${field}`
}

function nameOf(name: string): string {
  return parameterNames.has(name) ? `The parameter ${name}` : 'A parameter'
}

function exact(value: string): string {
  return value
}

const isUpperCase = /^[A-Z]*$/

/** ASCII only: `toUpperCase` makes `SS`, a country, of `ß`, which is none. */
function upperCase(value: string): string {
  return isUpperCase.test(value) ? value : value.replace(/[a-z]/g, (letter) => letter.toUpperCase())
}

function boolean(value: string): string | null {
  return value === 'true' || value === 'false' ? value : null
}

/** A timeout that is no duration is upstream's to refuse, and that refusal must not reach those who ask the same properly. */
function duration(value: string): string | null {
  return millisecondsOf(value) === null ? null : value
}

const SECONDS = /^\+?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?$/i

/** Null for what is not a positive, finite number of seconds. */
function millisecondsOf(seconds: string): number | null {
  const ms = SECONDS.test(seconds) ? Math.round(Number(seconds) * 1000) : 0
  return ms > 0 && Number.isFinite(ms) ? ms : null
}

/** As logs, kept answers and the purge name a prompt. */
export function promptHash(prompt: string): string {
  return hash('sha256', prompt, 'hex').slice(0, 12)
}

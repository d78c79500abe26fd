/**
 * What the parameters of a question mean: which of them change the answer and so are part of its key, which select behaviour.
 * Values are forwarded as the caller wrote them, but for booleans in another case, which become `true` or `false`. When the meaning of a
 * value is not documented the question gets no key: its answer is neither kept nor shared.
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
  /** As they are forwarded. */
  readonly params: readonly Param[]
  /** Which of several independent answers; 1 when left out. */
  readonly sample: number
  /** A value has no documented meaning, so that nothing is kept or shared. */
  readonly unknownValue: boolean
}

export interface Parameter {
  readonly name: string
  /** Null = every scraper has it; for the others it is an unknown parameter. */
  readonly only: string | null
  readonly inKey: boolean
  /** What absence means; null = undocumented or impossible, so no key. */
  readonly absent: string | null
  /** The value as the key knows it; null = not a documented value, so no key. */
  readonly canonical: (value: string) => string | null
  /** For the API description: JSON Schema of the value, and what it does. */
  readonly schema: Readonly<Record<string, unknown>>
  readonly says: string
}

const DEFAULT_COUNTRY = 'US'
const MOST_CHARACTERS = 4_000

const flag = { type: 'boolean' }

/** In the order of their names, which is that of the key. The facts are in docs/vendor-api.md, "Parameters". */
export const parameters: readonly Parameter[] = [
  {
    name: 'bypass_cache',
    only: null,
    inKey: false,
    absent: 'false',
    canonical: boolean,
    schema: { ...flag, default: false },
    says: "A fresh answer: neither the proxy's cache nor ScrapeLLM's is read. It is kept for those who ask later.",
  },
  {
    name: 'country',
    only: null,
    inKey: true,
    absent: DEFAULT_COUNTRY,
    canonical: upperCase,
    schema: { type: 'string', default: DEFAULT_COUNTRY, examples: ['DE'] },
    says: 'Where the question is asked from: ISO 3166-1 alpha-2.',
  },
  {
    name: 'markdown_json',
    only: 'chatgpt',
    inKey: true,
    absent: 'false',
    canonical: boolean,
    schema: { ...flag, default: false },
    says: 'Adds the Markdown as a tree of tokens.',
  },
  {
    name: 'prompt',
    only: null,
    inKey: true,
    absent: null,
    canonical: exact,
    schema: { type: 'string', minLength: 1, maxLength: MOST_CHARACTERS, examples: ['Which CRM suits a small team?'] },
    says: 'The question.',
  },
  {
    name: 'timeout',
    only: null,
    inKey: false,
    absent: '300',
    canonical: duration,
    schema: { type: 'number', minimum: 10, maximum: 600, default: 300 },
    says: 'Seconds that one attempt may take. How long the caller waits is `X-Request-Timeout`.',
  },
  {
    name: 'web_search',
    only: 'perplexity',
    inKey: true,
    absent: 'true',
    canonical: boolean,
    schema: { ...flag, default: true },
    says: 'False = quicker, without live citations.',
  },
]

const parameterNames: ReadonlySet<string> = new Set(parameters.map((parameter) => parameter.name))

/** `sample` is that of the header, or null. Throws REQUEST_INVALID. */
export function readQuestion(scraper: string, asked: readonly Param[], sampleHeader: number | null = null): Question {
  const sample = sampleOf(readParams(asked).get(SAMPLE), sampleHeader)
  const params = forwarded(scraper, asked)
  const given = new Map(params)
  const prompt = given.get('prompt')
  return {
    params,
    sample,
    unknownValue: known(scraper).some(
      ({ name, canonical }) => canonical(given.get(name) ?? '') === null && given.has(name),
    ),
    key: keyOf(scraper, given, sample),
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
    if (given.has(name))
      throw new ProxyError('REQUEST_INVALID', `${nameOf(name)} is given more than once: give it once.`)
    // Half a surrogate pair has no UTF-8: it could be neither forwarded nor hashed as it is.
    if (!name.isWellFormed() || !value.isWellFormed()) {
      throw new ProxyError('REQUEST_INVALID', `${nameOf(name)} is not valid Unicode.`)
    }
    given.set(name, value)
  }
  return given
}

/** In code points: whatever upstream counts, it finds as many or more. */
const possiblePrompt = new RegExp(`^.{1,${MOST_CHARACTERS}}$`, 'su')

export function assertPrompt(params: readonly Param[]): void {
  const prompt = params.find(([name]) => name === 'prompt')?.[1] ?? ''
  if (!possiblePrompt.test(prompt))
    throw new ProxyError('REQUEST_INVALID', `The parameter prompt must have 1 to ${MOST_CHARACTERS} characters.`)
}

const SAMPLE = 'sample'
export const MOST_SAMPLES = 100

/** A whole number from 1 to 100; null = it is none. */
export function readSample(text: string): number | null {
  const sample = /^[1-9]\d{0,2}$/.test(text) ? Number(text) : 0
  return sample >= 1 && sample <= MOST_SAMPLES ? sample : null
}

function sampleOf(value: string | undefined, header: number | null): number {
  if (value === undefined) return header ?? 1
  const sample = readSample(value)
  if (sample === null)
    throw new ProxyError('REQUEST_INVALID', `The parameter sample must be an integer from 1 to ${MOST_SAMPLES}.`)
  if (header !== null && header !== sample)
    throw new ProxyError('REQUEST_INVALID', 'The parameter sample and the X-Sample header have different values.')
  return sample
}

/** Without the sample, which is ours, and with booleans as upstream documents them. The same list when nothing changes. */
function forwarded(scraper: string, asked: readonly Param[]): readonly Param[] {
  const changed = asked.flatMap((param): Param[] => {
    const [name, value] = param
    if (name === SAMPLE) return []
    const isBoolean = known(scraper).some((one) => one.name === name && one.canonical === boolean)
    const canonical = isBoolean ? boolean(value) : null
    return canonical === null || canonical === value ? [param] : [[name, canonical]]
  })
  return changed.length === asked.length && changed.every((param, at) => param === asked[at]) ? asked : changed
}

function known(scraper: string): readonly Parameter[] {
  return parameters.filter(({ only }) => only === null || only === scraper)
}

function keyOf(scraper: string, given: ReadonlyMap<string, string>, sample: number): string | null {
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
  if (sample > 1) text += prefixed(SAMPLE) + prefixed(String(sample))
  return hash('sha256', text, 'hex')
}

/** Nobody documents that they change nothing. */
function unknownIn(scraper: string, given: ReadonlyMap<string, string>): readonly Param[] {
  const names = known(scraper).map(({ name }) => name)
  return [...given].filter(([name]) => !names.includes(name))
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

/** `True` is what Python writes, and can mean nothing else. `1` and `yes` are not documented. */
function boolean(value: string): string | null {
  const folded = value.toLowerCase()
  return folded === 'true' || folded === 'false' ? folded : null
}

export const LONGEST_TIMEOUT_MS = 600_000
const SHORTEST_TIMEOUT_MS = 10_000

/** A timeout that is no duration or out of bounds is upstream's to refuse, and that refusal must not reach those who ask the same properly. */
function duration(value: string): string | null {
  const ms = millisecondsOf(value)
  return ms !== null && ms >= SHORTEST_TIMEOUT_MS && ms <= LONGEST_TIMEOUT_MS ? value : null
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

// The steps a script can play: one closed union, readable from code, from JSON and from a prompt.
// Says which steps exist, what they may carry, and whether they are paid for; how they look on the wire is in replies.ts and wire.ts.

import { validateHeaderName, validateHeaderValue } from 'node:http'
import { check, checkOptional, readFields, SimulatorInputError } from './input.ts'
import { isShape, shapeKinds, type ShapeKind } from './shapes.ts'

const plainKinds = [
  '200',
  'cached',
  'set-cookie',
  'gzip',
  'huge',
  'drip',
  'stall',
  'truncated',
  'truncated-chunked',
  'not-json',
  'empty-200',
  'empty-result-200',
  'status-failed-200',
  'reset-before-charge',
  'reset-after-charge',
  'garbage',
  'redirect',
  'echo-key',
  'answer',
  'hold',
  'hang',
  '400',
  '422-list',
  '401',
  '401-missing',
  '401-no-credits',
  '402',
  '403',
  '403-html',
  '404',
  '405-html',
  '408',
  '429-rate',
  '429-queue',
  '429-credits',
  '500',
  '500-empty',
  '501',
  '503',
  '504',
  '504-html',
  '502-html',
  'done',
  'failed',
  'pending',
] as const

export type StepKind = (typeof plainKinds)[number] | ShapeKind

export const stepKinds: readonly StepKind[] = [...plainKinds, ...shapeKinds]

export interface StepDelivery {
  /** How many calls get this step; 1 when left out. */
  readonly times?: number | 'forever'
  /** Real milliseconds before anything is sent; replaces the simulated latency. */
  readonly delayMs?: number
  readonly headers?: Readonly<Record<string, string | readonly string[]>>
  /** Seconds, or an HTTP date as text. */
  readonly retryAfter?: number | string
  /** Replaces the body: text as it is, an object as JSON. */
  readonly body?: string | object
  /** Credits charged and named in credits_used; 3 when left out. */
  readonly credits?: number
}

type Special = 'answer' | 'hold' | 'hang' | 'huge' | 'drip' | 'redirect' | 'echo-key' | 'done' | 'failed' | 'pending'

export type StepDetail = StepDelivery &
  (
    | { readonly kind: 'answer'; readonly status: number }
    | { readonly kind: 'hold' | 'hang'; readonly next?: Step }
    | { readonly kind: 'huge'; readonly bytes?: number }
    | { readonly kind: 'drip'; readonly everyMs?: number }
    | { readonly kind: 'redirect'; readonly status?: number; readonly location?: string }
    | { readonly kind: 'echo-key'; readonly status?: number }
    | { readonly kind: 'done' | 'failed'; readonly polls?: number }
    | { readonly kind: 'pending'; readonly outcome?: 'done' | 'failed' }
    | { readonly kind: Exclude<StepKind, Special> }
  )

export type Step = Exclude<StepKind, 'answer'> | StepDetail

const DELIVERY = ['kind', 'times', 'delayMs', 'headers', 'retryAfter', 'body', 'credits'] as const

const OWN_FIELDS: Partial<Record<StepKind, readonly string[]>> = {
  answer: ['status'],
  hold: ['next'],
  hang: ['next'],
  huge: ['bytes'],
  drip: ['everyMs'],
  redirect: ['status', 'location'],
  'echo-key': ['status'],
  done: ['polls'],
  failed: ['polls'],
  pending: ['outcome'],
}

const CHARGED: ReadonlySet<StepKind> = new Set([
  '200',
  'cached',
  'set-cookie',
  'gzip',
  'huge',
  'drip',
  'stall',
  'truncated',
  'truncated-chunked',
  'not-json',
  'empty-200',
  'empty-result-200',
  'status-failed-200',
  'reset-after-charge',
  'done',
  'failed',
  'pending',
])

/** Charged steps are those for which the vendor has done the work: they also take its time. */
export function isCharged(step: StepDetail): boolean {
  return CHARGED.has(step.kind) || isShape(step.kind) || (step.kind === 'answer' && (step.credits ?? 0) > 0)
}

export function detailOf(step: Step): StepDetail {
  // TypeScript does not see that a union of names makes the union of objects with one name each.
  return typeof step === 'string' ? ({ kind: step } as StepDetail) : step
}

/** Throws a SimulatorInputError that says what is wrong with the step. */
export function readStep(value: unknown): StepDetail {
  const given = typeof value === 'string' ? { kind: value } : value
  const kind = readKind(given)
  const fields = readFields(given, `step "${kind}"`, [...DELIVERY, ...(OWN_FIELDS[kind] ?? [])])
  checkOptional(fields, { delayMs: 'number', credits: 'number', bytes: 'number', everyMs: 'number', polls: 'number' })
  checkOptional(fields, { location: 'string' })
  checkTimes(fields['times'])
  checkDelivery(fields['retryAfter'], fields['body'], fields['headers'])
  checkStatus(kind, fields['status'])
  const outcome = fields['outcome']
  check(outcome === undefined || outcome === 'done' || outcome === 'failed', 'outcome must be done or failed')
  if (fields['next'] !== undefined) readStep(fields['next'])
  return fields as unknown as StepDetail
}

export function readSteps(value: unknown): readonly StepDetail[] {
  check(Array.isArray(value), 'steps must be a list of step names or objects')
  return value.map(readStep)
}

/** The steps that a prompt such as "sim:503,500,200 which note app" asks for; null for any other prompt. */
export function stepsInPrompt(prompt: string): readonly StepDetail[] | null {
  const names = /^sim:(\S+)/.exec(prompt)?.[1]
  if (names === undefined) return null
  try {
    return names.split(',').map(readStep)
  } catch (error) {
    if (!(error instanceof SimulatorInputError)) throw error
    return null
  }
}

function readKind(given: unknown): StepKind {
  const name = typeof given === 'object' && given !== null && 'kind' in given ? given.kind : undefined
  const kind = stepKinds.find((known) => known === name)
  check(kind !== undefined, `there is no step ${JSON.stringify(name ?? given)}; steps are ${stepKinds.join(', ')}`)
  return kind
}

function checkTimes(times: unknown): void {
  const whole = typeof times === 'number' && Number.isInteger(times) && times >= 1
  check(times === undefined || times === 'forever' || whole, 'times must be a whole number from 1, or "forever"')
}

function checkDelivery(retryAfter: unknown, body: unknown, headers: unknown): void {
  check(['undefined', 'number', 'string'].includes(typeof retryAfter), 'retryAfter must be seconds or an HTTP date')
  check(['undefined', 'string', 'object'].includes(typeof body), 'body must be a text or an object')
  check(headers === undefined || (typeof headers === 'object' && headers !== null), 'headers must be an object')
  for (const [name, value] of Object.entries({ ...headers, 'Retry-After': retryAfter ?? '' })) checkHeader(name, value)
}

// Node would throw only when the answer is written, which would end the simulator instead of the curl that was wrong.
function checkHeader(name: string, value: unknown): void {
  try {
    validateHeaderName(name)
    for (const part of Array.isArray(value) ? value : [value]) validateHeaderValue(name, String(part))
  } catch {
    throw new SimulatorInputError(`header ${JSON.stringify(name)} or its value cannot be sent`)
  }
}

function checkStatus(kind: StepKind, status: unknown): void {
  if (status === undefined) return check(kind !== 'answer', 'step "answer" needs a status')
  const valid = typeof status === 'number' && Number.isInteger(status) && status >= 200 && status <= 599
  check(valid, 'status must be a whole number from 200 to 599')
}

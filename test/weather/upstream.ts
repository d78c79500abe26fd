/**
 * The modelled upstream of the weather table: answers take 5 to 30 s (log-normal, nine of ten within), and what fails takes as
 * long as the row says, apart from answers. Durations and chance are looked up by question and attempt, so that the same question
 * has the same luck under every policy.
 */
import type { UpstreamRequest, WireResult } from '../../src/model.ts'
import type { Clock, Transport } from '../../src/ports.ts'
import { answerTime, createSeededHash } from '../../src/replay/chance.ts'

/** One call as upstream sees it. */
export interface Incoming {
  /** The number in the prompt. */
  readonly question: number
  readonly prompt: string
  /** Counts the calls for this request, from 1. */
  readonly attempt: number
  readonly key: string
  /** Since the start of the run. */
  readonly atMs: number
  /** Calls that upstream works on, this one not included. */
  readonly working: number
  /** How long this call takes if it is answered. */
  readonly answerMs: number
  /** Uniform in [0, 1); the same for the same question, attempt and purpose. */
  readonly chance: (purpose: number) => number
}

export type Treatment =
  | { readonly kind: 'answer'; readonly afterMs?: number; readonly reply?: AnswerShape }
  | {
      readonly kind: 'failure'
      readonly afterMs: number
      readonly status: number
      readonly detail?: string
      readonly retryAfter?: string
      readonly html?: boolean
    }
  | { readonly kind: 'refused'; readonly afterMs: number }
  | { readonly kind: 'hang' }

/** A complete 2xx that differs from the usual one. */
export interface AnswerShape {
  readonly status: number
  readonly body: string
}

export type Behaviour = (call: Incoming) => Treatment

/** One call, as it was seen at upstream. */
export interface SeenCall {
  readonly question: number
  readonly prompt: string
  readonly attempt: number
  readonly startedAt: number
  endedAt: number
  end: 'answered' | 'failed' | 'timeout'
  readonly credits: number
}

export interface ModelledUpstream {
  readonly calls: SeenCall[]
  connect(): Transport
}

const PRICE = 3
const FAST_MS = 5_000
const SLOW_MS = 30_000
/** Of the normal distribution, 5 % are beyond so many deviations on either side. */
const NINETY_PERCENT = 1.6449
export const MEDIAN_MS = Math.sqrt(FAST_MS * SLOW_MS)
const DEVIATION = Math.log(SLOW_MS / FAST_MS) / (2 * NINETY_PERCENT)
export const MEAN_MS = MEDIAN_MS * Math.exp(DEVIATION ** 2 / 2)

export function createModelledUpstream(
  clock: Pick<Clock, 'now' | 'after'>,
  startsAt: number,
  seed: number,
  behaviour: Behaviour,
): ModelledUpstream {
  const luck = createSeededHash(seed)
  const attempts = new Map<string, number>()
  const calls: SeenCall[] = []
  let working = 0

  function forward(request: UpstreamRequest): Promise<WireResult> {
    const { question, prompt, timeoutMs } = readTarget(request.target)
    const id = request.headers['x-request-id'] ?? request.headers['X-Request-Id'] ?? ''
    const attempt = (attempts.get(id) ?? 0) + 1
    attempts.set(id, attempt)
    const answerMs = answerTime(luck, question, attempt, FAST_MS, SLOW_MS)
    const now = clock.now()
    const treatment = behaviour({
      question,
      prompt,
      attempt,
      key: request.headers['x-api-key'] ?? request.headers['X-API-Key'] ?? '',
      atMs: now - startsAt,
      working,
      answerMs,
      chance: (purpose) => luck(question, attempt, purpose),
    })
    const isAnswer = treatment.kind === 'answer'
    const call: SeenCall = {
      question,
      prompt,
      attempt,
      startedAt: now,
      endedAt: Number.POSITIVE_INFINITY,
      end: isAnswer ? 'answered' : 'failed',
      credits: isAnswer ? PRICE : 0,
    }
    calls.push(call)
    if (isAnswer || treatment.kind === 'hang') working += 1
    return new Promise((resolve) => {
      const [afterMs, result] = resultOf(treatment, answerMs, timeoutMs, prompt)
      const timer = clock.after(Math.min(afterMs, request.limitMs), () => {
        call.endedAt = clock.now()
        if (isAnswer || treatment.kind === 'hang') working -= 1
        const isTooLate = afterMs > request.limitMs
        if (isTooLate) call.end = 'timeout'
        resolve(isTooLate ? { kind: 'broken', sent: true, reason: 'timeout', code: null } : result)
      })
      void timer
    })
  }

  return { calls, connect: () => ({ forward, trust: () => false, close() {} }) }
}

function resultOf(
  treatment: Treatment,
  answerMs: number,
  timeoutMs: number,
  prompt: string,
): readonly [afterMs: number, result: WireResult] {
  switch (treatment.kind) {
    case 'hang':
      return [Number.POSITIVE_INFINITY, { kind: 'broken', sent: true, reason: 'timeout', code: null }]
    case 'refused':
      return [treatment.afterMs, { kind: 'broken', sent: false, reason: 'refused', code: 'ECONNREFUSED' }]
    case 'failure': {
      const { afterMs, status, detail = 'Unexpected scraper error.', retryAfter = null, html = false } = treatment
      const body = html ? '<html>Bad Gateway</html>' : JSON.stringify({ detail })
      return [afterMs, replyOf(status, body, html ? 'text/html' : 'application/json', retryAfter)]
    }
    case 'answer': {
      const afterMs = treatment.afterMs ?? answerMs
      if (afterMs > timeoutMs) {
        const body = JSON.stringify({ detail: 'The AI provider did not respond in time.' })
        return [timeoutMs, replyOf(408, body)]
      }
      const { status, body } = treatment.reply ?? { status: 200, body: usualAnswer(prompt) }
      return [afterMs, replyOf(status, body)]
    }
    default:
      return treatment satisfies never
  }
}

export function usualAnswer(prompt: string): string {
  return JSON.stringify({
    scraper: 'chatgpt',
    status: 'done',
    job_id: '00000000-0000-4000-9000-000000000001',
    prompt,
    country: 'US',
    result: 'An answer.',
    credits_used: PRICE,
    cached: false,
  })
}

function replyOf(status: number, body: string, contentType = 'application/json', retryAfter: string | null = null) {
  const reply = { status, contentType, retryAfter, location: null, body: Buffer.from(body) }
  return { kind: 'reply', reply } as const
}

function readTarget(target: string): {
  readonly question: number
  readonly prompt: string
  readonly timeoutMs: number
} {
  const params = new URLSearchParams(target.slice(target.indexOf('?') + 1))
  const prompt = params.get('prompt') ?? ''
  return {
    question: Number(/\d+/.exec(prompt)?.[0] ?? '0'),
    prompt,
    timeoutMs: Number(params.get('timeout') ?? '300') * 1_000,
  }
}

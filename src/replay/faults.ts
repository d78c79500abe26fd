/** Trouble that is laid over what upstream would do: an outage, failures at random, its own rate limit, slowness. */
import { type FailureClass, failureClasses } from '../failures.ts'
import { answerTime, type SeededHash } from './chance.ts'
import { FREE, type AttemptOutcome, type Traffic } from './traffic.ts'

export interface Weather {
  /** Every attempt in that time fails. `afterMs` = since the first question; null = a third of the way. */
  readonly outage: { readonly forMs: number; readonly afterMs: number | null } | null
  /** So many of the attempts fail, the others are answered: whatever was recorded of them. */
  readonly failureRate: number | null
  /** Of the failures of this weather; null = warmingUp (503) in an outage, else serverError (500). */
  readonly failureClass: FailureClass | null
  /** How long every failure takes; null = as recorded, those of this weather a second. */
  readonly failureMs: number | null
  /** How long nine of ten answers take; null = as recorded. */
  readonly latency: { readonly fastMs: number; readonly slowMs: number } | null
  /** So many attempts with one key in each such time; beyond, 429 until the next begins. */
  readonly rateLimit: { readonly limit: number; readonly perMs: number } | null
  /** Everything takes so many times as long. */
  readonly slow: number
}

export const fairWeather: Weather = {
  outage: null,
  failureRate: null,
  failureClass: null,
  failureMs: null,
  latency: null,
  rateLimit: null,
  slow: 1,
}

/** One attempt, as upstream would meet it. */
export interface Moment {
  readonly question: number
  readonly attempt: number
  readonly key: string
  readonly at: number
  readonly play: () => AttemptOutcome
  readonly playOk: () => AttemptOutcome
}

const FAILURE = 21
/** Failures come at once: they need no thought. */
const FAILED_MS = 1_000
const LIMITED_MS = 100
/** Null = no complete answer came. */
const statuses: Readonly<Record<FailureClass, number | null>> = {
  timeout: 408,
  rateLimited: 429,
  queueFull: 429,
  creditsExhausted: 402,
  unauthorized: 401,
  emptyResult: 500,
  serverError: 500,
  warmingUp: 503,
  gatewayTimeout: 504,
  unreachable: null,
  blocked: 403,
  ambiguous: null,
}

/** How failures of this weather may end. */
export const failureNames: readonly string[] = failureClasses

export function failureNamed(name: string | null): FailureClass | null {
  return failureClasses.find((one) => one === name) ?? null
}

export function createFaultInjector(
  { outage, failureRate, failureClass, failureMs, latency, rateLimit, slow }: Weather,
  { from, until }: Pick<Traffic, 'from' | 'until'>,
  hash: SeededHash,
): (moment: Moment) => AttemptOutcome {
  const outageFrom = outage ? from + (outage.afterMs ?? (until - from) / 3) : 0
  const used = new Map<string, { readonly since: number; count: number }>()

  return (moment) => {
    const { at } = moment
    if (outage && at >= outageFrom && at < outageFrom + outage.forMs)
      return failed(failureClass ?? 'warmingUp', moment.playOk())
    const retryAfterMs = overLimit(moment)
    if (retryAfterMs !== null)
      return { class: 'rateLimited', status: 429, durationMs: LIMITED_MS, charge: FREE, retryAfterMs }
    const play = timed(moment, failing(moment))
    return slow === 1 ? play : { ...play, durationMs: play.durationMs * slow }
  }

  function failing({ question, attempt, play, playOk }: Moment): AttemptOutcome {
    if (failureRate === null) return play()
    const answer = playOk()
    return hash(question, attempt, FAILURE) < failureRate ? failed(failureClass ?? 'serverError', answer) : answer
  }

  /** `answer` is what would have come instead. */
  function failed(ended: FailureClass, answer: AttemptOutcome): AttemptOutcome {
    const charge = ended === 'ambiguous' ? ({ state: 'unknown', credits: answer.charge.credits } as const) : FREE
    const durationMs = failureMs ?? FAILED_MS
    return { class: ended, status: statuses[ended], durationMs, charge, retryAfterMs: null }
  }

  function timed({ question, attempt }: Moment, play: AttemptOutcome): AttemptOutcome {
    if (play.class !== 'ok') return failureMs === null ? play : { ...play, durationMs: failureMs }
    if (!latency) return play
    return { ...play, durationMs: answerTime(hash, question, attempt, latency.fastMs, latency.slowMs) }
  }

  /** How long until the key may be used again; null = now. */
  function overLimit({ key, at }: Moment): number | null {
    if (!rateLimit) return null
    const { limit, perMs } = rateLimit
    const since = at - ((at - from) % perMs)
    const known = used.get(key)
    const window = known?.since === since ? known : { since, count: 0 }
    used.set(key, window)
    window.count += 1
    // A header tells whole seconds.
    return window.count <= limit ? null : Math.ceil((since + perMs - at) / 1_000) * 1_000
  }
}

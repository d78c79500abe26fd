/** Trouble that is laid over what upstream would do: an outage, failures at random, its own rate limit, slowness. */
import type { Luck } from './chance.ts'
import { FREE, type Play, type Traffic } from './traffic.ts'

export interface Weather {
  /** Every attempt in that time is answered 503. `afterMs` = since the first question; null = a third of the way. */
  readonly outage: { readonly forMs: number; readonly afterMs: number | null } | null
  /** So many of the attempts fail with a 500, the others are answered: whatever was recorded of them. */
  readonly failureRate: number | null
  /** So many attempts with one key in each such time; beyond, 429 until the next begins. */
  readonly rateLimit: { readonly limit: number; readonly perMs: number } | null
  /** Everything takes so many times as long. */
  readonly slow: number
}

export const fairWeather: Weather = { outage: null, failureRate: null, rateLimit: null, slow: 1 }

/** One attempt, as upstream would meet it. */
export interface Moment {
  readonly question: number
  readonly attempt: number
  readonly key: string
  readonly at: number
  readonly play: () => Play
  readonly playOk: () => Play
}

const FAILURE = 21
/** Refusals need no thought. */
const OUTAGE_MS = 1_000
const LIMITED_MS = 100

export function createSky(
  { outage, failureRate, rateLimit, slow }: Weather,
  { from, until }: Pick<Traffic, 'from' | 'until'>,
  luck: Luck,
): (moment: Moment) => Play {
  const outageFrom = outage ? from + (outage.afterMs ?? (until - from) / 3) : 0
  const used = new Map<string, { readonly since: number; count: number }>()

  return (moment) => {
    const { at } = moment
    if (outage && at >= outageFrom && at < outageFrom + outage.forMs)
      return { class: 'warmingUp', status: 503, durationMs: OUTAGE_MS, charge: FREE, retryAfterMs: null }
    const retryAfterMs = overLimit(moment)
    if (retryAfterMs !== null)
      return { class: 'rateLimited', status: 429, durationMs: LIMITED_MS, charge: FREE, retryAfterMs }
    const play = failing(moment)
    return slow === 1 ? play : { ...play, durationMs: play.durationMs * slow }
  }

  function failing({ question, attempt, play, playOk }: Moment): Play {
    if (failureRate === null) return play()
    const answer = playOk()
    if (luck(question, attempt, FAILURE) >= failureRate) return answer
    return { ...answer, class: 'serverError', status: 500, charge: FREE }
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

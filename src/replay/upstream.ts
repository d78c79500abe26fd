/** In the place of upstream: every attempt ends as the recording and the weather have it, after as long as they have it. */
import type { VerdictClass } from '../failures.ts'
import type { ProxyRequest, RequestIdentity } from '../model.ts'
import type { Question as Asking, Traces, Upstream } from '../fetch-parts.ts'
import type { Clock } from '../ports.ts'
import { FREE, type ResponseModel, type AttemptOutcome, type Question } from './traffic.ts'
import { verdictOf } from './verdict.ts'
import type { Moment } from './faults.ts'

/** A request of the replay, which remembers the question that it asks. */
export interface ReplayedRequest extends ProxyRequest {
  readonly question: Question
  lastFailure: VerdictClass | null
}

interface UpstreamPorts {
  readonly clock: Clock
  readonly responses: ResponseModel
  readonly faults: (moment: Moment) => AttemptOutcome
  /** An attempt whose end the recording does not tell. */
  readonly onGuess: () => void
}

/** What upstream takes for `timeout` where none is given. */
const DEFAULT_TIMEOUT_MS = 300_000
/** It is not to the millisecond; and so much longer we wait for its own 408. */
const PUNCTUAL_MS = 1_000
const GRACE_MS = 15_000

/** `traces` tell whose question is asked: upstream itself is told no more than an id. */
export function createReplayedUpstream({ clock, responses, faults, onGuess }: UpstreamPorts): {
  readonly upstream: Upstream
  readonly traces: Traces
} {
  let asker: RequestIdentity | null = null
  return {
    traces: {
      within(_flight, request, ask) {
        asker = request
        return ask(null)
      },
    },
    upstream: { ask },
  }

  async function ask(asking: Asking): ReturnType<Upstream['ask']> {
    const { call } = asking
    const play = withinLimit(playOf(asking), asking)
    if (play.isGuess) onGuess()
    await new Promise<void>((resolve) => clock.after(play.durationMs, resolve))
    return { verdict: verdictOf(play, call.endpoint === 'answer'), status: play.status, trouble: null }
  }

  function playOf({ turn, key }: Asking): AttemptOutcome {
    const request = asker
    if (!request || !isReplayed(request)) throw new TypeError('a question that nobody replays')
    const { question } = request
    const at = clock.wall()
    const attempt = turn.number
    const after = attempt === 1 ? null : request.lastFailure
    const play = faults({
      question: question.number,
      attempt,
      key: key.name,
      at,
      play: () => responses.draw(question, attempt, after, at),
      playOk: () => responses.drawOk(question, attempt, at),
    })
    request.lastFailure = play.class === 'ok' ? null : play.class
    return play
  }
}

/** No attempt takes longer than the caller's `timeout`, or than what is left of the flight's deadline: then it is a 408, free of charge. */
function withinLimit(play: AttemptOutcome, { call, turn }: Asking): AttemptOutcome {
  if (call.endpoint !== 'answer') return play
  const limitMs = Math.min(call.timeoutMs ?? DEFAULT_TIMEOUT_MS, turn.leftMs())
  const longestMs = limitMs + (play.class === 'ambiguous' ? GRACE_MS : PUNCTUAL_MS)
  if (play.durationMs <= longestMs) return play
  if (play.class === 'ambiguous') return { ...play, durationMs: longestMs }
  return { class: 'timeout', status: 408, durationMs: limitMs, charge: FREE, retryAfterMs: null }
}

export function isReplayed(request: object): request is ReplayedRequest {
  return 'question' in request
}

/** What an attempt means that was played: the same verdict as when upstream itself had said it. Bodies are all the same. */
import { traitsOf } from '../failures.ts'
import type { Reply, Verdict } from '../model.ts'
import type { AttemptOutcome } from './traffic.ts'

/** Not out of Node's shared pool, so that all kept answers are this one buffer; its length is what each is taken to have. */
const body = Buffer.allocUnsafeSlow(4_096).fill(0x20)

export function replyOf(status: number): Reply {
  return { status, contentType: 'application/json', retryAfter: null, location: null, body }
}

export function verdictOf(play: AttemptOutcome, isAnswer: boolean): Verdict {
  const { class: ended, status, charge, retryAfterMs } = play
  if (ended === 'ok') {
    return { kind: 'answered', reply: replyOf(status ?? 200), charge, health: 'up', keepable: isAnswer }
  }
  const { fault, health } = traitsOf(ended)
  const failure = { kind: 'failed', class: ended, fault, charge, health, retryAfterMs } as const
  if (ended === 'unreachable' || ended === 'ambiguous') {
    const isInvalid = ended === 'ambiguous' && status !== null
    return { ...failure, reply: null, refusal: isInvalid ? 'UPSTREAM_INVALID' : 'UPSTREAM_UNREACHABLE' }
  }
  return { ...failure, reply: replyOf(status ?? 500), refusal: null }
}

/** What an attempt means that was played: the same verdict as when upstream itself had said it. Bodies are all the same. */
import type { Fault } from '../errors.ts'
import type { Health, Reply, Verdict, VerdictClass } from '../model.ts'
import type { Play } from './traffic.ts'

type Trait = readonly [fault: Fault, health: Health]

/** Who must act, and what a circuit breaker learns. */
const traits: Readonly<Record<VerdictClass, Trait>> = {
  timeout: ['upstream', 'slow'],
  rateLimited: ['key', 'neutral'],
  queueFull: ['upstream', 'neutral'],
  creditsExhausted: ['key', 'neutral'],
  unauthorized: ['key', 'neutral'],
  emptyResult: ['upstream', 'neutral'],
  serverError: ['upstream', 'down'],
  warmingUp: ['upstream', 'down'],
  gatewayTimeout: ['upstream', 'down'],
  unreachable: ['upstream', 'down'],
  ambiguous: ['upstream', 'down'],
  rejected: ['client', 'neutral'],
}

/** Not out of Node's shared pool, so that all kept answers are this one buffer; its length is what each is taken to have. */
const body = Buffer.allocUnsafeSlow(4_096).fill(0x20)

export function replyOf(status: number): Reply {
  return { status, contentType: 'application/json', retryAfter: null, location: null, body }
}

export function healthOf(ended: Play['class']): Health {
  return ended === 'ok' ? 'up' : traits[ended][1]
}

export function verdictOf(play: Play, isAnswer: boolean): Verdict {
  const { class: ended, status, charge, retryAfterMs } = play
  if (ended === 'ok') {
    return { kind: 'answered', reply: replyOf(status ?? 200), charge, health: 'up', keepable: isAnswer }
  }
  const [fault, health] = traits[ended]
  const failure = { kind: 'failed', class: ended, fault, charge, health, retryAfterMs } as const
  if (ended === 'unreachable' || ended === 'ambiguous') {
    const isInvalid = ended === 'ambiguous' && status !== null
    return { ...failure, reply: null, refusal: isInvalid ? 'UPSTREAM_INVALID' : 'UPSTREAM_UNREACHABLE' }
  }
  return { ...failure, reply: replyOf(status ?? 500), refusal: null }
}

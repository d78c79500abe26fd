/**
 * A client without the proxy, in front of the same modelled upstream: four attempts with the proxy's pauses, and a circuit breaker
 * of somebody else's design, or none. Without one it says what was possible.
 */
import type { WireResult } from '../../src/model.ts'
import { createSeededHash } from '../../src/replay/chance.ts'
import { createVirtualClock } from '../../src/replay/virtual-clock.ts'
import type { Ask } from './run.ts'
import { type Behaviour, createModelledUpstream } from './upstream.ts'

/** Judges each attempt; what it refuses is not sent and not repeated. */
export interface PeerBreaker {
  mayPass(now: number): boolean
  /** Of a call that was let through at `startedAt`. */
  ended(isFailure: boolean, now: number, startedAt: number): void
}

export interface BareOptions {
  readonly asks: Iterable<Ask>
  readonly behaviour: Behaviour
  readonly seed: number
  readonly breaker?: PeerBreaker
  /** The requests that the figures are about. */
  readonly about?: (ask: Ask) => boolean
}

export interface BareFigures {
  readonly asked: number
  readonly answered: number
  readonly refused: number
}

const ATTEMPTS = 4
const LIMIT_MS = 315_000
const DEADLINE_MS = 600_000
const PAUSE = 41
const noBreaker: PeerBreaker = { mayPass: () => true, ended: () => {} }

export async function runBare({
  asks,
  behaviour,
  seed,
  breaker = noBreaker,
  about = () => true,
}: BareOptions): Promise<BareFigures> {
  const clock = createVirtualClock(0, setImmediate)
  const transport = createModelledUpstream(clock, 0, seed, behaviour).connect()
  const luck = createSeededHash(seed)
  const figures = { asked: 0, answered: 0, refused: 0 }
  const left = asks[Symbol.iterator]()
  let number = 0
  next()
  await clock.run()
  return figures

  function next(): void {
    const { done, value } = left.next()
    if (done) return
    clock.after(value.atMs - clock.now(), () => {
      void ask(value, (number += 1))
      next()
    })
  }

  async function ask(one: Ask, number: number): Promise<void> {
    const { prompt, patienceSeconds = 600 } = one
    const counted = about(one) ? 1 : 0
    figures.asked += counted
    const startedAt = clock.now()
    const deadlineAt = startedAt + Math.min(DEADLINE_MS, patienceSeconds * 1_000)
    for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
      const triedAt = clock.now()
      if (!breaker.mayPass(triedAt)) {
        figures.refused += counted
        return
      }
      const target = `/scrapers/chatgpt?prompt=${encodeURIComponent(prompt)}`
      const headers = { 'x-request-id': String(number), 'x-api-key': 'main' }
      const result = await transport.forward({ method: 'GET', target, headers, limitMs: LIMIT_MS })
      const isAnswered = result.kind === 'reply' && result.reply.status < 300
      breaker.ended(isFailure(result), clock.now(), triedAt)
      if (isAnswered) {
        if (clock.now() <= deadlineAt) figures.answered += counted
        return
      }
      if (attempt >= attemptsAfter(result)) return
      const pauseMs = pauseAfter(result, attempt, luck(number, attempt, PAUSE))
      if (clock.now() + pauseMs >= deadlineAt) return
      await new Promise<void>((resolve) => clock.after(pauseMs, resolve))
    }
  }
}

/** Of upstream's health: too many requests are none. */
function isFailure(result: WireResult): boolean {
  return result.kind === 'broken' || result.reply.status === 408 || result.reply.status >= 500
}

function attemptsAfter(result: WireResult): number {
  const isShort = result.kind === 'reply' ? result.reply.status === 408 : result.sent
  return isShort ? 2 : ATTEMPTS
}

function pauseAfter(result: WireResult, attempt: number, chance: number): number {
  const status = result.kind === 'reply' ? result.reply.status : 0
  const baseMs = status === 429 || status === 503 ? 1_000 : 500
  const saysMs = result.kind === 'reply' ? Number(result.reply.retryAfter ?? '0') * 1_000 : 0
  return Math.max(chance * Math.min(30_000, baseMs * 2 ** (attempt - 1)), Number.isFinite(saysMs) ? saysMs : 0)
}

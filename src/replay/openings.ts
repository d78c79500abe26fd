/**
 * How often circuits opened in a recording. No line says so, but the attempts do: they are led past the real breaker of the
 * policy that was in force, at the times and with the ends that they had. What was let through then is let through now,
 * because trials are taken to have come as early as they can have, and what the breaker would hold is left out.
 */
import { ProxyError } from '../errors.ts'
import type { Attempted, BreakerEntry } from '../fetch-parts.ts'
import { type BreakerPolicy, createBreakers } from '../resilience/breaker.ts'
import type { RecordedAttempt } from './traffic.ts'
import { verdictOf } from './verdict.ts'
import { createVirtualClock } from './virtual-clock.ts'

export interface AttemptMade extends RecordedAttempt {
  readonly scraper: string
  /** Equal = the same question. */
  readonly question: string
}

interface Recorded {
  readonly attempts: readonly AttemptMade[]
  readonly scrapers: readonly string[]
  readonly policy: BreakerPolicy
}

const earliest = { next: () => 1, id: () => '' }
/** Nobody waits for what is held. */
const nobody: BreakerEntry['flight'] = { patienceUntil: () => 0, onAbandoned: () => () => {}, held() {} }

export async function countOpenings(
  { attempts, scrapers, policy }: Recorded,
  soon: (job: () => void) => void,
): Promise<number> {
  const clock = createVirtualClock(attempts[0]?.at ?? 0, soon)
  let openings = 0
  const breakers = createBreakers({
    policy,
    scrapers,
    clock,
    random: earliest,
    emit(event) {
      if (event.kind === 'breaker-changed' && event.to === 'open' && !event.isStillOpen) openings += 1
    },
  })
  const left = attempts[Symbol.iterator]()
  next()
  await clock.run()
  return openings

  function next(): void {
    const { done, value } = left.next()
    if (done) return
    clock.after(value.at - clock.now(), () => {
      void meet(value)
      next()
    })
  }

  async function meet(made: AttemptMade): Promise<void> {
    const { scraper, question } = made
    try {
      await breakers.run({ scraper, question, flight: nobody, isLast: false, isOverBudget: false }, async (pass) => {
        pass.start()
        await new Promise<void>((resolve) => clock.after(made.durationMs, resolve))
        return attemptedOf(made)
      })
    } catch (error) {
      // Another policy than the recorded one would have refused it.
      if (!(error instanceof ProxyError)) throw error
    }
  }
}

function attemptedOf(made: AttemptMade): Attempted {
  const { at, durationMs, status, class: ended, charge } = made
  const shared = { number: 1, startedAt: at, waitedMs: 0, keyName: '', trouble: null }
  const attempt = { ...shared, durationMs, status, class: ended, charge }
  return { attempt, verdict: verdictOf(made, true), otherKeyReady: false, wasTooMany: false }
}

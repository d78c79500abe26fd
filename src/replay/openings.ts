/**
 * How often circuits opened in a recording. No line says so, but the attempts do: they are led past the real breaker of the
 * policy that was in force, at the times and with the ends that they had. What was let through then is let through now,
 * because the open time is taken as short as it can have been.
 */
import { ProxyError } from '../errors.ts'
import { type BreakerPolicy, createBreakers } from '../resilience/breaker.ts'
import type { RecordedAttempt } from './audit-line.ts'
import { healthOf } from './verdict.ts'
import { createVirtualClock } from './virtual-clock.ts'

interface Recorded {
  readonly attempts: readonly (RecordedAttempt & { readonly scraper: string })[]
  readonly scrapers: readonly string[]
  readonly policy: BreakerPolicy
}

const shortest = { next: () => 0, id: () => '' }

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
    random: shortest,
    emit(event) {
      if (event.kind === 'breaker-changed' && event.to === 'open') openings += 1
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

  async function meet({ scraper, durationMs, class: ended }: Recorded['attempts'][number]): Promise<void> {
    const work = () => new Promise<void>((resolve) => clock.after(durationMs, resolve))
    try {
      await breakers.run(scraper, work, () => healthOf(ended))
    } catch (error) {
      // Another policy than the recorded one would have refused it.
      if (!(error instanceof ProxyError)) throw error
    }
  }
}

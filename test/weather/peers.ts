/**
 * Circuit breakers of others with their default settings, as their manuals describe them, for the same rows. Each stands in front of a client that
 * makes as many attempts, with the same pauses, as the proxy (`bare-client.ts`); what a breaker refuses fails at once.
 */
import type { PeerBreaker } from './bare-client.ts'

export const peers: Readonly<Record<string, () => PeerBreaker>> = {
  resilience4j,
  Polly: polly,
  Envoy: envoy,
}

/** https://resilience4j.readme.io/docs/circuitbreaker: half of the last 100 calls fail; open for 60 s; then 10 trials. */
function resilience4j(): PeerBreaker {
  let state: 'closed' | 'open' | 'half-open' = 'closed'
  let outcomes: boolean[] = []
  let openUntil = 0
  let permits = 0

  function enter(next: typeof state, now: number): void {
    state = next
    outcomes = []
    openUntil = now + 60_000
    permits = 10
  }

  return {
    mayPass(now) {
      if (state === 'open' && now >= openUntil) enter('half-open', now)
      if (state === 'closed') return true
      if (state === 'open' || permits === 0) return false
      permits -= 1
      return true
    },
    ended(isFailure, now) {
      if (state === 'open') return
      const window = state === 'closed' ? 100 : 10
      outcomes.push(isFailure)
      if (outcomes.length > window) outcomes.shift()
      if (outcomes.length < window) return
      const hasFailed = outcomes.filter((failed) => failed).length >= 0.5 * window
      if (hasFailed) enter('open', now)
      else if (state === 'half-open') enter('closed', now)
    },
  }
}

/** https://www.pollydocs.org/strategies/circuit-breaker.html: a tenth of at least 100 calls within 30 s fails; open for 5 s; then one trial. */
function polly(): PeerBreaker {
  let state: 'closed' | 'open' | 'half-open' = 'closed'
  let outcomes: { readonly at: number; readonly isFailure: boolean }[] = []
  let blockedUntil = 0

  function open(now: number): void {
    state = 'open'
    blockedUntil = now + 5_000
  }

  return {
    mayPass(now) {
      if (state === 'closed') return true
      if (now < blockedUntil) return false
      state = 'half-open'
      // Another trial when this one has not ended by then.
      blockedUntil = now + 5_000
      return true
    },
    ended(isFailure, now) {
      if (state === 'half-open') {
        if (isFailure) return open(now)
        state = 'closed'
        outcomes = []
        return
      }
      if (state === 'open') return
      outcomes.push({ at: now, isFailure })
      if (!isFailure) return
      outcomes = outcomes.filter(({ at }) => at > now - 30_000)
      const failures = outcomes.filter((outcome) => outcome.isFailure).length
      if (outcomes.length >= 100 && failures >= 0.1 * outcomes.length) open(now)
    },
  }
}

/**
 * https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier: a host that fails 5 times in a row is ejected for 30 s, longer each
 * time. It is meant for many hosts; here there is one, and no panic routing to ejected hosts.
 */
function envoy(): PeerBreaker {
  let row = 0
  let ejections = 0
  let ejectedUntil = 0
  const intervalMs = 10_000

  return {
    mayPass: (now) => now >= ejectedUntil,
    ended(isFailure, now) {
      row = isFailure ? row + 1 : 0
      if (row < 5 || now < ejectedUntil) return
      row = 0
      // One ejection is forgotten with each interval without one.
      ejections = Math.max(0, ejections - Math.floor(Math.max(0, now - ejectedUntil) / intervalMs)) + 1
      const until = now + Math.min(300_000, 30_000 * ejections)
      ejectedUntil = Math.ceil(until / intervalMs) * intervalMs
    },
  }
}

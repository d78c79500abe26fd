/** What went wrong lately, by class of failure and by code of our own refusals, out of the trails that are remembered. */
import type { Trail, Trouble } from './trail.ts'

/** The latest first. A flight that several rode on is counted once. */
export function troublesIn(trails: Iterable<Trail>): readonly Trouble[] {
  const found = new Map<string, Trouble>()
  for (const trail of trails) for (const one of troublesOf(trail)) count(found, one)
  return [...found.values()].toSorted((a, b) => b.lastAt - a.lastAt)
}

function count(found: Map<string, Trouble>, one: Trouble): void {
  const known = found.get(one.name)
  const latest = known && known.lastAt >= one.lastAt ? known : one
  found.set(one.name, { ...latest, count: (known?.count ?? 0) + 1 })
}

function troublesOf(trail: Trail): Trouble[] {
  const { id: requestId, scraper, flight, role, code, status } = trail
  const attempts = flight && role !== 'joined' ? flight.attempts : []
  const failures = attempts.flatMap((attempt): Trouble[] => {
    if (attempt.class === 'ok') return []
    const lastAt = attempt.startedAt + attempt.durationMs
    return [{ name: attempt.class, kind: 'attempt', count: 1, lastAt, scraper, status: attempt.status, requestId }]
  })
  if (!code) return failures
  const lastAt = trail.at + (trail.durationMs ?? 0)
  const refusal = { name: code, count: 1, lastAt, scraper, status: status === 'gone' ? null : status, requestId }
  return [...failures, { ...refusal, kind: 'refusal' }]
}

/** What went wrong lately, by class of failure and by code of our own refusals, out of the trails that are remembered. */
import type { Trail, Trouble } from './trail.ts'

type Met = Omit<Trouble, 'count' | 'clients'>

interface Found {
  readonly latest: Met
  readonly count: number
  /** How often each client met it. */
  readonly byClient: Map<string, number>
}

/** The latest first. A flight that several rode on is counted once. */
export function troublesIn(trails: Iterable<Trail>): readonly Trouble[] {
  const found = new Map<string, Found>()
  for (const trail of trails) for (const one of troublesOf(trail)) count(found, one, trail.client)
  return Array.from(found.values(), ({ latest, count, byClient }) => {
    const clients = [...byClient].toSorted(([, a], [, b]) => b - a).map(([name]) => name)
    return { ...latest, count, clients }
  }).toSorted((a, b) => b.lastAt - a.lastAt)
}

function count(found: Map<string, Found>, one: Met, client: string): void {
  const known = found.get(one.name)
  const byClient = known?.byClient ?? new Map<string, number>()
  byClient.set(client, (byClient.get(client) ?? 0) + 1)
  const latest = known && known.latest.lastAt >= one.lastAt ? known.latest : one
  found.set(one.name, { latest, count: (known?.count ?? 0) + 1, byClient })
}

function troublesOf(trail: Trail): Met[] {
  const { id: requestId, scraper, flight, role, code, status } = trail
  const attempts = flight && role !== 'joined' ? flight.attempts : []
  const failures = attempts.flatMap((attempt): Met[] => {
    if (attempt.class === 'ok') return []
    const lastAt = attempt.startedAt + attempt.durationMs
    return [{ name: attempt.class, kind: 'attempt', lastAt, scraper, status: attempt.status, requestId }]
  })
  if (!code) return failures
  const lastAt = trail.at + (trail.durationMs ?? 0)
  const refusal = { name: code, lastAt, scraper, status: status === 'gone' ? null : status, requestId }
  return [...failures, { ...refusal, kind: 'refusal' }]
}

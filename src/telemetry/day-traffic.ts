/** Each request that has ended, for the report: how many there were, and what they saved. */
import type { Exchange, Outcome } from '../model.ts'
import type { Access } from './access-log.ts'

interface Traffic {
  add(
    subject: { readonly client: string; readonly scraper: string; readonly key: string },
    how: 'hit' | 'joined' | 'stale' | 'rescued' | null,
    credits: number,
  ): void
}

/** Callers that are nobody have no row. */
export function watchTraffic(traffic: Traffic) {
  return {
    ended({ client, call }: Exchange, outcome: Outcome, { saved }: Pick<Access, 'saved'>): void {
      if (!client) return
      const attempts = outcome.kind === 'fetched' && outcome.role === 'leader' ? outcome.landing.attempts : []
      const subject = { client: client.name, scraper: call?.scraper ?? 'none', key: attempts.at(-1)?.keyName ?? 'none' }
      traffic.add(subject, saved?.how ?? null, saved?.credits ?? 0)
    },
  }
}

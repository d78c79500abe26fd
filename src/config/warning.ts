/** What the proxy starts with, but is most likely not meant: one sentence each, for the log and for `check`. */
import { resolveClient } from './policy.ts'
import { resolveRetry } from './policy.ts'
import type { Config } from './schema.ts'
import { formatDuration } from './units.ts'

/** `priceCredits`: what the cheapest call costs; null = not known here. */
export function warnings(config: Config, priceCredits: number | null): string[] {
  const clients = Object.entries(config.clients)
  return [
    ...keptTooLong('cache', config.cache),
    ...unreachableAttempts('retry', config.retry, resolveRetry(config.retry).attempts),
    ...clients.flatMap(([name, client]) => {
      const path = `clients.${name}`
      const { cache, retry } = resolveClient(config, name)
      return [
        ...(client.cache === undefined ? [] : keptTooLong(`${path}.cache`, cache)),
        ...unreachableAttempts(`${path}.retry`, client.retry, retry.attempts),
        ...oddCredits(`${path}.credits`, client.credits, priceCredits),
      ]
    }),
  ]
}

type Kept = Pick<Config['cache'], 'ttl' | 'staleIfError' | 'staleWhileRevalidate'>

function keptTooLong(path: string, { ttl, staleIfError, staleWhileRevalidate }: Kept): string[] {
  const stale = Math.max(staleIfError, staleWhileRevalidate)
  if (ttl + stale <= 86_400_000) return []
  const longer = staleIfError >= staleWhileRevalidate ? 'staleIfError' : 'staleWhileRevalidate'
  return [
    `${path}.ttl and ${path}.${longer} together are ${formatDuration(ttl + stale)}; links in answers, such as markdown_url, are dead after 24h`,
  ]
}

type Retry = Config['retry'] | Config['clients'][string]['retry']

function unreachableAttempts(path: string, retry: Retry, inAll: number): string[] {
  return Object.entries(retry?.classes ?? {}).flatMap(([name, one]) => {
    const attempts = one?.attempts
    if (attempts === undefined || attempts <= inAll) return []
    return [
      `${path}.classes.${name}.attempts is ${attempts}, but ${path}.attempts ends every request after ${inAll}; raise ${path}.attempts`,
    ]
  })
}

function oddCredits(
  path: string,
  credits: Config['clients'][string]['credits'],
  priceCredits: number | null,
): string[] {
  const { perDay, perMonth } = credits ?? {}
  const found: string[] = []
  if (perDay !== undefined && perMonth !== undefined && perDay > perMonth)
    found.push(`${path}.perDay is ${perDay}, but ${path}.perMonth ends the month after ${perMonth}; lower perDay`)
  for (const [name, limit] of Object.entries({ perDay, perMonth })) {
    if (limit === undefined || priceCredits === null || limit >= priceCredits) continue
    found.push(
      `${path}.${name} is ${limit}, but the cheapest call costs ${priceCredits}; nothing but known answers will come`,
    )
  }
  return found
}

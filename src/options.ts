/**
 * What each part takes of the settings, in its own words: parts know nothing of other parts' settings. Pure; secrets come out of
 * their wrapping here, and nowhere before.
 */
import { hash } from 'node:crypto'
import { isLoopback } from './addresses.ts'
import { resolveClient, resolveRetry } from './config/policy.ts'
import { routeTo } from './config/route.ts'
import type { Config } from './config/schema.ts'
import { restsIn } from './keys/key-state.ts'
import type { AccountLimits, Client, KnownToken, Tier } from './model.ts'
import type { SharedOptions } from './ports.ts'
import type { BulkheadPolicy } from './resilience/bulkhead.ts'

export function clientOf(config: Config, name: string): Client {
  return { name, ...resolveClient(config, name) }
}

export function keyNamesOf({ upstream }: Config): readonly string[] {
  return upstream.keys.map(({ name }) => name)
}

export function placesOf({ upstream }: Config): BulkheadPolicy {
  const { maxConcurrent, perScraper = null, adaptive, queue } = upstream
  return { maxConcurrent, perScraper, adaptive, queue }
}

export function longestRestOf(config: Config): number {
  const { keyRest } = keysOf(config)
  return Math.max(...Object.values(keyRest).map((restMs) => restMs ?? 0), LONGEST_LIMIT_MS)
}

export function adminTokenOf({ admin }: Config): string | null {
  return admin.token?.reveal() ?? null
}

export function secretsOf({ upstream, clients, admin, redis, notify }: Config): readonly string[] {
  const tokens = Object.values(clients).flatMap(({ token }) => token)
  const hooks = notify.map(({ secret }) => secret)
  const others = [admin.token, redis?.password, ...(redis?.signingKey ?? []), ...hooks].filter(
    (one) => one !== undefined,
  )
  return [...upstream.keys.map(({ secret }) => secret), ...tokens, ...others].map((secret) => secret.reveal())
}

export function tiersOf({ cache, redis }: Config): Tier[] {
  if (redis) return ['memory', 'redis']
  return cache.disk ? ['memory', 'disk'] : ['memory']
}

export function sharedOptions(redis: NonNullable<Config['redis']>): SharedOptions {
  const { username = null, password, database, timeout: timeoutMs, prefix, ca: caPath = null } = redis
  return { place: placeOf(redis), username, password: password?.reveal() ?? null, database, timeoutMs, prefix, caPath }
}

function placeOf({ url = '', sentinel, cluster }: NonNullable<Config['redis']>): SharedOptions['place'] {
  if (sentinel) return { kind: 'sentinel', ...sentinel }
  return cluster ? { kind: 'cluster', urls: cluster } : { kind: 'single', url }
}

/** Replicas with the same upstream keys believe each other without a secret of its own. */
export function signingSecretsOf({ redis, upstream }: Config): readonly string[] {
  const given = redis?.signingKey ?? []
  return (given.length > 0 ? given : upstream.keys.map(({ secret }) => secret)).map((secret) => secret.reveal())
}

export function auditOptions({ path, maxSize }: NonNullable<Config['audit']>) {
  return { path, maxBytes: maxSize }
}

export function diskOptions({ path, maxSize }: Exclude<Config['cache']['disk'], false>) {
  return { path, maxBytes: maxSize }
}

/** The upstream keys as the settings have them, and how long they rest. */
export function keysOf({ upstream, retry }: Config) {
  return { keys: upstream.keys, keyRest: restsIn(resolveRetry(retry)) }
}

/** Where events are told, each with the way there. */
export function targetsOf({ notify }: Config, environment: Readonly<Record<string, string | undefined>>) {
  return notify.map(({ url, secret, on }) => ({
    id: hash('sha256', url).slice(0, 12),
    url,
    secret: secret?.reveal() ?? null,
    on: new Set(on),
    proxy: isLoopback(new URL(url).hostname) ? null : routeTo({ url }, environment).proxy,
  }))
}

/** The account as a whole; null = without limits. */
export function accountLimitsOf({ upstream: { credits } }: Config): AccountLimits | null {
  if (!credits) return null
  return { perDay: credits.perDay ?? null, perMonth: credits.perMonth ?? null, reserveCredits: credits.reserve }
}

export interface KnownClient {
  readonly client: Client
  readonly tokens: readonly KnownToken[]
}

export function clientsOf(config: Config): readonly KnownClient[] {
  return Object.entries(config.clients).map(([name, { tokenSha256, token }]) => ({
    client: clientOf(config, name),
    tokens: [
      ...tokenSha256.map((one) =>
        typeof one === 'string' ? { hash: one, expiresAt: null } : { hash: one.sha256, expiresAt: timeOf(one.expires) },
      ),
      ...token.map((secret) => ({ hash: hash('sha256', secret.reveal()), expiresAt: null })),
    ],
  }))
}

function timeOf(written: string | undefined): number | null {
  return written === undefined ? null : Date.parse(written)
}

/** As long as a rate limit of upstream is believed. */
const LONGEST_LIMIT_MS = 3_600_000

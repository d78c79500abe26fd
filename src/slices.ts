/**
 * What each part takes of the settings, in its own words: parts know nothing of other parts' settings. Pure; secrets come out of
 * their wrapping here, and nowhere before.
 */
import { createHash } from 'node:crypto'
import { resolveClient } from './config/policy.ts'
import { resolveRetry, type Config } from './config/schema.ts'
import { restsIn } from './keys/key-state.ts'
import type { Client, Tier } from './model.ts'
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

export function secretsOf({ upstream, clients, admin, redis }: Config): readonly string[] {
  const tokens = Object.values(clients).flatMap(({ token }) => token)
  const others = [admin.token, redis?.password, ...(redis?.signingKey ?? [])].filter((one) => one !== undefined)
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

export interface KnownClient {
  readonly client: Client
  readonly tokenHashes: readonly string[]
}

export function clientsOf(config: Config): readonly KnownClient[] {
  return Object.entries(config.clients).map(([name, { tokenSha256, token }]) => ({
    client: clientOf(config, name),
    tokenHashes: [...tokenSha256, ...token.map((secret) => createHash('sha256').update(secret.reveal()).digest('hex'))],
  }))
}

/** As long as a rate limit of upstream is believed. */
const LONGEST_LIMIT_MS = 3_600_000

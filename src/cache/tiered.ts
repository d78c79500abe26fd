/**
 * Keeping answers: what may be kept, for how long, for whom, and in which tiers. Memory is asked first, then the disk, then what
 * all replicas share; what is found there moves up. Knows nothing of HTTP; a sick tier is a miss.
 */
import { hash } from 'node:crypto'
import type { CachePolicy, Call, Client, Entry, Lookup, PurgeFilter, Reply, Tier, Verdict, Wishes } from '../model.ts'
import type { Cache } from '../parts.ts'
import type { Clock, Disk, Emit } from '../ports.ts'
import { isFreshEnough, isGone, mayReplaceError } from './entry.ts'
import type { LocalTier } from './local-tier.ts'
import type { SharedTier } from './shared-tier.ts'

export interface CacheOptions {
  /** How a body is given to those who did not pay for it; the identity where replays are not marked. */
  readonly replay: (body: Buffer) => Buffer
}

const NOTHING: Lookup = { kind: 'missing', unwanted: false }
const UNWANTED: Lookup = { kind: 'missing', unwanted: true }

/** None of them ever throws. */
export interface Tiers {
  readonly local: LocalTier
  /** Outlives the process; null = there is none. */
  readonly durable: Pick<Disk, 'readEntry' | 'writeEntry' | 'purge'> | null
  /** What all replicas share; null = there is none. */
  readonly shared: Pick<SharedTier, 'read' | 'write' | 'purge' | 'isTrusted'> | null
}

export function createCache(options: CacheOptions, { local, durable, shared }: Tiers, clock: Clock, emit: Emit): Cache {
  return { keyOf, lookup, store, claim, purge }

  function keyOf(call: Call, client: Client): string | null {
    if (call.key === null) return null
    return client.cache.scope === 'shared' ? call.key : `${client.name}/${call.key}`
  }

  function lookup(key: string | null, call: Call, wishes: Wishes, policy: CachePolicy): Lookup | Promise<Lookup> {
    if (key === null) return NOTHING
    if (call.bypass) return UNWANTED
    const near = lookNear(key, wishes, policy)
    if (!shared || (near.kind === 'fresh' && shared.isTrusted(near.entry))) return near
    return lookFar(key, near, shared, wishes, policy)
  }

  function lookNear(key: string, wishes: Wishes, policy: CachePolicy): Lookup {
    const found = judge(local.get(key), 'memory', wishes, policy)
    if (found.kind !== 'missing' || found.unwanted) return found
    local.delete(key)
    if (!durable) return found
    const onDisk = judge(durable.readEntry(key), 'disk', wishes, policy)
    if (onDisk.kind !== 'missing') local.set(key, onDisk.entry)
    return onDisk
  }

  /** What the others do not have either, or cannot be asked for now, is as it is here: it was paid for. */
  async function lookFar(
    key: string,
    near: Lookup,
    tier: NonNullable<Tiers['shared']>,
    wishes: Wishes,
    policy: CachePolicy,
  ): Promise<Lookup> {
    const entry = await tier.read(key)
    if (entry === 'away') return near
    const far = judge(entry, 'redis', wishes, policy)
    if (!entry) return near
    local.set(key, entry)
    return far
  }

  function judge(entry: Entry | undefined | null, tier: Tier, wishes: Wishes, policy: CachePolicy): Lookup {
    const found = entry ? judgeKept(entry, tier, wishes, policy, clock.wall()) : NOTHING
    emit({ kind: 'cache-looked-up', tier, result: resultOf(found) })
    return found
  }

  function store(
    key: string | null,
    call: Call,
    verdict: Verdict,
    policy: CachePolicy,
    kept: Parameters<Cache['store']>[4],
  ): Entry | null {
    if (key === null) return null
    const entry = toEntry(call, verdict, policy, kept)
    if (!entry || (entry.status !== 200 && hidesAnAnswer(key))) return null
    if (kept.ageMs > 0 && isOutdated(key, entry)) return null
    keep(key, entry, kept.isPassedOn)
    return entry
  }

  function keep(key: string, entry: Entry, isPassedOn: boolean): void {
    local.set(key, entry)
    durable?.writeEntry(key, entry)
    if (!isPassedOn) shared?.write(key, entry)
  }

  /** "Empty result" is remembered only where no real answer is kept: an expired answer still beats an error. */
  function hidesAnAnswer(key: string): boolean {
    const known = local.get(key) ?? durable?.readEntry(key)
    return known?.status === 200 && !isGone(known, clock.wall())
  }

  /** The answer of a job is as old as the job: meanwhile somebody may have paid for a newer one. */
  function isOutdated(key: string, { storedAt }: Entry): boolean {
    const known = local.get(key) ?? durable?.readEntry(key)
    return known?.status === 200 && known.storedAt > storedAt && !isGone(known, clock.wall())
  }

  function toEntry(
    call: Call,
    verdict: Verdict,
    policy: CachePolicy,
    { unclaimed, ageMs }: Parameters<Cache['store']>[4],
  ): Entry | null {
    const { reply } = verdict
    if (verdict.kind === 'answered') {
      const keptMs = Math.max(policy.staleIfError, policy.staleWhileRevalidate)
      if (!verdict.keepable || policy.ttl + keptMs <= 0) return null
      const entry = entryOf(call, verdict.reply, options.replay(verdict.reply.body), ageMs, policy.ttl, keptMs)
      return { ...entry, unclaimed }
    }
    if (verdict.class !== 'emptyResult' || !reply || policy.emptyResultTtl <= 0) return null
    return { ...entryOf(call, reply, reply.body, ageMs, policy.emptyResultTtl, 0), priceCredits: 0 }
  }

  function entryOf(call: Call, reply: Reply, body: Buffer, ageMs: number, ttlMs: number, staleMs: number): Entry {
    const storedAt = clock.wall() - ageMs
    // The answer and its replay are the same answer told twice: one validator for both, hence weak where they differ.
    const weak = body === reply.body ? '' : 'W/'
    return {
      status: reply.status,
      contentType: reply.contentType ?? 'application/json',
      body: unpooled(body),
      etag: `${weak}"${hash('sha256', reply.body, 'base64url').slice(0, 27)}"`,
      storedAt,
      freshUntil: storedAt + ttlMs,
      staleUntil: storedAt + ttlMs + staleMs,
      scraper: call.scraper,
      promptHash: call.promptHash,
      country: call.country,
      priceCredits: call.priceCredits,
      unclaimed: false,
    }
  }

  function claim(key: string, entry: Entry): void {
    keep(key, { ...entry, unclaimed: false }, false)
  }

  function purge(filter: PurgeFilter): number {
    shared?.purge(filter)
    // What is in memory is on the disk as well, where there is one; what others keep cannot be counted.
    return Math.max(local.purge(filter), durable?.purge(filter) ?? 0)
  }
}

function judgeKept(entry: Entry, tier: Tier, wishes: Wishes, policy: CachePolicy, wallMs: number): Lookup {
  if (isGone(entry, wallMs)) return NOTHING
  if (isFreshEnough(entry, wishes, wallMs)) return { kind: 'fresh', entry, tier }
  const refresh = wallMs < entry.freshUntil + policy.staleWhileRevalidate
  if (mayReplaceError(entry, wishes, wallMs)) return { kind: 'stale', entry, tier, refresh }
  return UNWANTED
}

function resultOf({ kind }: Lookup): 'hit' | 'stale' | 'miss' {
  if (kind === 'fresh') return 'hit'
  return kind === 'stale' ? 'stale' : 'miss'
}

/** A small buffer may be a window into a shared 8 KiB pool, which it would keep alive as long as it is cached. */
function unpooled(body: Buffer): Buffer {
  if (body.buffer.byteLength === body.length) return body
  const copy = Buffer.allocUnsafeSlow(body.length)
  body.copy(copy)
  return copy
}

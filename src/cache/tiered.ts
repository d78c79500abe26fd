/**
 * Keeping answers: which ones, under which key, and in which tiers. Memory is asked first, then the disk, then what all replicas
 * share; what is found there moves up. An entry is kept as long as any client may use it, and judged by the policy of the client
 * that asks. Knows nothing of HTTP; a sick tier is a miss.
 */
import { hash } from 'node:crypto'
import type { CachePolicy, Call, Client, Entry, Lookup, PurgeFilter, Reply, Tier, Verdict, Wishes } from '../model.ts'
import type { Cache } from '../parts.ts'
import type { Clock, Disk, Emit } from '../ports.ts'
import { isAnswer, isDead, judge, usableMs } from './entry.ts'
import type { LocalTier } from './local-tier.ts'
import type { SharedTier } from './shared-tier.ts'

export interface CacheOptions {
  /** How a body is given to those who did not pay for it; the identity where replays are not marked. */
  readonly replay: (body: Buffer) => Buffer
  /** Of every client: an answer that is shared is kept for the one that may use it longest. */
  readonly policies: readonly CachePolicy[]
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
  const sharing = options.policies.filter(({ scope }) => scope === 'shared')

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
    const kept = local.get(key)
    if (kept && !isDead(kept, clock.wall())) return look(kept, 'memory', wishes, policy)
    const nothing = look(null, 'memory', wishes, policy)
    if (kept) local.delete(key)
    if (!durable) return nothing
    const written = durable.readEntry(key)
    const onDisk = look(written, 'disk', wishes, policy)
    if (onDisk.kind !== 'missing' && written) local.set(key, written)
    return onDisk
  }

  /** An entry that is not in the shared tier, or cannot be looked up there now, counts as it is here: it was paid for. */
  async function lookFar(
    key: string,
    near: Lookup,
    tier: NonNullable<Tiers['shared']>,
    wishes: Wishes,
    policy: CachePolicy,
  ): Promise<Lookup> {
    const entry = await tier.read(key)
    if (entry === 'away') return near
    const far = look(entry, 'redis', wishes, policy)
    if (!entry) return near
    local.set(key, entry)
    return far
  }

  function look(entry: Entry | null, tier: Tier, wishes: Wishes, policy: CachePolicy): Lookup {
    const found = entry ? judged(entry, tier, wishes, policy, clock.wall()) : NOTHING
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
    if (!entry || (!isAnswer(entry) && hidesAnAnswer(key))) return null
    if (kept.ageMs > 0 && isOutdated(key, entry)) return null
    keep(key, entry, kept.isPassedOn)
    return entry
  }

  function keep(key: string, entry: Entry, isPassedOn: boolean): void {
    local.set(key, entry)
    durable?.writeEntry(key, entry)
    if (!isPassedOn) shared?.write(key, entry)
  }

  /** "Empty result" is kept only where no answer is: an expired answer is better than an error. */
  function hidesAnAnswer(key: string): boolean {
    const known = local.get(key) ?? durable?.readEntry(key)
    return !!known && isAnswer(known) && !isDead(known, clock.wall())
  }

  /** The answer of a job is as old as the job: meanwhile somebody may have paid for a newer one. */
  function isOutdated(key: string, { storedAt }: Entry): boolean {
    const known = local.get(key) ?? durable?.readEntry(key)
    return !!known && isAnswer(known) && known.storedAt > storedAt && !isDead(known, clock.wall())
  }

  function toEntry(
    call: Call,
    verdict: Verdict,
    policy: CachePolicy,
    { unclaimed, ageMs }: Parameters<Cache['store']>[4],
  ): Entry | null {
    const { reply } = verdict
    if (verdict.kind === 'answered') {
      const keptMs = verdict.keepable ? keptMsOf(verdict.reply, policy) : 0
      if (keptMs <= 0) return null
      return { ...entryOf(call, verdict.reply, options.replay(verdict.reply.body), ageMs, keptMs), unclaimed }
    }
    const keptMs = verdict.class === 'emptyResult' && reply ? keptMsOf(reply, policy) : 0
    if (!reply || keptMs <= 0) return null
    return { ...entryOf(call, reply, reply.body, ageMs, keptMs), priceCredits: 0 }
  }

  function keptMsOf(reply: Reply, policy: CachePolicy): number {
    const using = policy.scope === 'shared' ? [policy, ...sharing] : [policy]
    return Math.max(...using.map((one) => usableMs(reply, one)))
  }

  function entryOf(call: Call, reply: Reply, body: Buffer, ageMs: number, keptMs: number): Entry {
    const storedAt = clock.wall() - ageMs
    // The answer and its replay are the same answer in two forms: one validator for both, hence weak where they differ.
    const weak = body === reply.body ? '' : 'W/'
    return {
      status: reply.status,
      contentType: reply.contentType ?? 'application/json',
      body: unpooled(body),
      etag: `${weak}"${hash('sha256', reply.body, 'base64url').slice(0, 27)}"`,
      storedAt,
      keptUntil: storedAt + keptMs,
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

function judged(entry: Entry, tier: Tier, wishes: Wishes, policy: CachePolicy, wallMs: number): Lookup {
  const freshness = judge(entry, wishes, policy, wallMs)
  if (freshness === 'fresh') return { kind: 'fresh', entry, tier }
  if (freshness === 'gone') return NOTHING
  return freshness === 'unwanted' ? UNWANTED : { kind: 'stale', entry, tier, because: freshness }
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

/**
 * Keeping answers: which ones, under which key, and in which tiers. Memory is asked first, then the disk, then what all replicas
 * share; what is found there moves up. An entry is kept as long as any client may use it, and judged by the policy of the client
 * that asks. Knows nothing of HTTP; a sick tier is a miss.
 */
import { hash } from 'node:crypto'
import type {
  CachePolicy,
  Call,
  Client,
  Entry,
  Lookup,
  PurgeFilter,
  Reply,
  Tier,
  Verdict,
  CacheDirectives,
} from '../model.ts'
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

const NOTHING: Lookup = { kind: 'missing', bypassed: false }
const UNWANTED: Lookup = { kind: 'missing', bypassed: true }

/** None of them ever throws. */
export interface Tiers {
  readonly local: LocalTier
  /** Outlives the process; null = there is none. */
  readonly durable: Pick<Disk, 'readEntry' | 'writeEntry' | 'purge'> | null
  /** What all replicas share; null = there is none. */
  readonly shared: Pick<SharedTier, 'read' | 'write' | 'purge' | 'isTrusted'> | null
}

class TieredCache implements Cache {
  readonly #options: CacheOptions
  readonly #local: LocalTier
  readonly #durable: Pick<Disk, 'readEntry' | 'writeEntry' | 'purge'> | null
  readonly #shared: Pick<SharedTier, 'read' | 'write' | 'purge' | 'isTrusted'> | null
  readonly #clock: Clock
  readonly #emit: Emit
  readonly #sharing: CachePolicy[]

  constructor(options: CacheOptions, { local, durable, shared }: Tiers, clock: Clock, emit: Emit) {
    this.#options = options
    this.#local = local
    this.#durable = durable
    this.#shared = shared
    this.#clock = clock
    this.#emit = emit
    this.#sharing = options.policies.filter(({ scope }) => scope === 'shared')
  }

  readonly keyOf = (call: Call, client: Client): string | null => {
    if (call.key === null) return null
    return client.cache.scope === 'shared' ? call.key : `${client.name}/${call.key}`
  }

  readonly lookup: Cache['lookup'] = (key, call, cacheDirectives, policy, until) => {
    if (key === null) return NOTHING
    if (call.bypass) return UNWANTED
    const near = this.#lookNear(key, cacheDirectives, policy)
    if (!this.#shared || (near.kind === 'fresh' && this.#shared.isTrusted(near.entry))) return near
    return this.#lookFar(key, near, this.#shared, cacheDirectives, policy, near.kind === 'fresh' ? 0 : until)
  }

  readonly store = (
    key: string | null,
    call: Call,
    verdict: Verdict,
    policy: CachePolicy,
    kept: Parameters<Cache['store']>[4],
  ): Entry | null => {
    if (key === null) return null
    const entry = this.#toEntry(call, verdict, policy, kept)
    if (!entry || (!isAnswer(entry) && this.#hidesAnAnswer(key))) return null
    if (kept.ageMs > 0 && this.#isOutdated(key, entry)) return null
    this.#keep(key, entry, kept.isPassedOn)
    return entry
  }

  readonly claim = (key: string, entry: Entry): void => {
    this.#keep(key, { ...entry, unclaimed: false }, false)
  }

  readonly purge = (filter: PurgeFilter): number => {
    this.#shared?.purge(filter)
    // What is in memory is on the disk as well, where there is one; what others keep cannot be counted.
    return Math.max(this.#local.purge(filter), this.#durable?.purge(filter) ?? 0)
  }

  #lookNear(key: string, cacheDirectives: CacheDirectives, policy: CachePolicy): Lookup {
    const kept = this.#local.get(key)
    const near = this.#look(kept ?? null, 'memory', cacheDirectives, policy)
    if (kept && (near.kind !== 'missing' || !isDead(kept, this.#clock.wall()))) return near
    if (kept) this.#local.delete(key)
    if (!this.#durable) return near
    const written = this.#durable.readEntry(key)
    const onDisk = this.#look(written, 'disk', cacheDirectives, policy)
    if (onDisk.kind !== 'missing' && written) this.#local.set(key, written)
    return onDisk
  }

  /** An entry that is not in the shared tier, or cannot be looked up there now, counts as it is here: it was paid for. */
  async #lookFar(
    key: string,
    near: Lookup,
    tier: NonNullable<Tiers['shared']>,
    cacheDirectives: CacheDirectives,
    policy: CachePolicy,
    until: number,
  ): Promise<Lookup> {
    const entry = await tier.read(key, until)
    if (entry === 'away') return near
    const far = this.#look(entry, 'redis', cacheDirectives, policy)
    if (!entry) return near
    this.#local.set(key, entry)
    return far
  }

  #look(entry: Entry | null, tier: Tier, cacheDirectives: CacheDirectives, policy: CachePolicy): Lookup {
    const found = entry ? judged(entry, tier, cacheDirectives, policy, this.#clock.wall()) : NOTHING
    this.#emit({ kind: 'cache-looked-up', tier, result: results[found.kind] })
    return found
  }

  #keep(key: string, entry: Entry, isPassedOn: boolean): void {
    this.#local.set(key, entry)
    this.#durable?.writeEntry(key, entry)
    if (!isPassedOn) this.#shared?.write(key, entry)
  }

  /** "Empty result" is kept only where no answer is: an expired answer is better than an error. */
  #hidesAnAnswer(key: string): boolean {
    const known = this.#local.get(key) ?? this.#durable?.readEntry(key)
    return !!known && isAnswer(known) && !isDead(known, this.#clock.wall())
  }

  /** The answer of a job is as old as the job: meanwhile somebody may have paid for a newer one. */
  #isOutdated(key: string, { storedAt }: Entry): boolean {
    const known = this.#local.get(key) ?? this.#durable?.readEntry(key)
    return !!known && isAnswer(known) && known.storedAt > storedAt && !isDead(known, this.#clock.wall())
  }

  #toEntry(
    call: Call,
    verdict: Verdict,
    policy: CachePolicy,
    { unclaimed, ageMs }: Parameters<Cache['store']>[4],
  ): Entry | null {
    const { reply } = verdict
    if (verdict.kind === 'answered') {
      const keptMs = verdict.keepable ? this.#keptMsOf(verdict.reply, policy) : 0
      if (keptMs <= 0) return null
      return {
        ...this.#entryOf(call, verdict.reply, this.#options.replay(verdict.reply.body), ageMs, keptMs),
        unclaimed,
      }
    }
    const keptMs = verdict.class === 'emptyResult' && reply ? this.#keptMsOf(reply, policy) : 0
    if (!reply || keptMs <= 0) return null
    return { ...this.#entryOf(call, reply, reply.body, ageMs, keptMs), priceCredits: 0 }
  }

  #keptMsOf(reply: Reply, policy: CachePolicy): number {
    const using = policy.scope === 'shared' ? [policy, ...this.#sharing] : [policy]
    return Math.max(...using.map((one) => usableMs(reply, one)))
  }

  #entryOf(call: Call, reply: Reply, body: Buffer, ageMs: number, keptMs: number): Entry {
    const storedAt = this.#clock.wall() - ageMs
    // The answer and its replay are the same answer in two forms: one validator for both, hence weak where they differ.
    const weak = body === reply.body ? '' : 'W/'
    return {
      status: reply.status,
      contentType: reply.contentType ?? 'application/json',
      body: unpooled(body),
      etag: flat(`${weak}"${hash('sha256', reply.body, 'base64url').slice(0, 27)}"`),
      storedAt,
      keptUntil: storedAt + keptMs,
      scraper: call.scraper,
      promptHash: call.promptHash,
      country: call.country,
      priceCredits: call.priceCredits,
      unclaimed: false,
    }
  }
}

export function createCache(options: CacheOptions, given1: Tiers, clock: Clock, emit: Emit): Cache {
  return new TieredCache(options, given1, clock, emit)
}

function judged(
  entry: Entry,
  tier: Tier,
  cacheDirectives: CacheDirectives,
  policy: CachePolicy,
  wallMs: number,
): Lookup {
  const freshness = judge(entry, cacheDirectives, policy, wallMs)
  if (freshness === 'fresh') return { kind: 'fresh', entry, tier }
  if (freshness === 'gone') return NOTHING
  return freshness === 'unwanted' ? UNWANTED : { kind: 'stale', entry, tier, because: freshness }
}

const results = { fresh: 'hit', stale: 'stale', missing: 'miss' } as const

/** A text that was put together keeps its parts, which take three times as much as it does. */
function flat(text: string): string {
  return Buffer.from(text, 'latin1').toString('latin1')
}

/** A small buffer may be a window into a shared 8 KiB pool, which it would keep alive as long as it is cached. */
function unpooled(body: Buffer): Buffer {
  if (body.buffer.byteLength === body.length) return body
  const copy = Buffer.allocUnsafeSlow(body.length)
  body.copy(copy)
  return copy
}

/**
 * The shared store on Redis: it can only help. Every call ends within the time limit, whatever Redis does; while it is known
 * not to answer, calls end at once and only a probe in the background asks. Keys and channels get the prefix here.
 */
import { createHash } from 'node:crypto'
import type { Clock, Emit, Random, Shared, SharedScript, SharedState, SharedStore } from '../ports.ts'
import type { RedisOperation, RedisTrouble } from '../telemetry/events.ts'
import { type RedisBreaker, createRedisBreaker } from './redis-breaker.ts'
import { type Argument, createRedisClient, type RedisAccess, type RedisClient } from './redis-client.ts'
import { type RedisSubscriber, createRedisSubscriber } from './redis-subscriber.ts'
import { failureOf, isOtherType, type RedisFailure, TIMED_OUT } from './redis-failure.ts'
import { type RedisRefusals, createRedisRefusals, PROBE_SCRIPT } from './redis-refusals.ts'

export interface RedisOptions extends RedisAccess {
  /** The longest that any call takes. */
  readonly timeoutMs: number
  readonly prefix: string
}

/** Commands that Redis owes an answer: beyond that it is far behind, and what waits here takes memory. */
const MAX_OPEN = 1_000
const SILENCE_MS = 1_000
const MAX_PAUSE_MS = 1_000
/** Between connections given up because the server only reads: it may stay so, and reading is better than nothing. */
const MOVE_MS = 10_000
/** Between two log lines about another cause of the same trouble: causes may alternate. */
const CAUSE_MS = 10_000
const AWAY = { kind: 'away', sent: false } as const
const UNSURE = { kind: 'away', sent: true } as const

type Settled = { readonly value: unknown } | { readonly failure: RedisFailure }

class RedisStore implements SharedStore {
  readonly #clock: Clock
  readonly #random: Random
  readonly #emit: Emit
  readonly #prefix: string
  readonly #timeoutMs: number
  readonly #digests = new WeakMap<SharedScript, string>()
  readonly #listeners = new Set<(state: SharedState) => void>()
  /** Ends the calls that somebody waits for. */
  readonly #waiting = new Set<() => void>()
  #open = 0
  #told: SharedState | null = null
  #trouble: RedisTrouble | null = null
  #toldTrouble: RedisTrouble | null = null
  #toldTroubleAt = Number.NEGATIVE_INFINITY
  #closed = false
  #movedAt = Number.NEGATIVE_INFINITY
  readonly #breaker: RedisBreaker
  readonly #refusals: RedisRefusals
  readonly #client: RedisClient
  readonly #subscriber: RedisSubscriber
  readonly trust: SharedStore['trust']

  constructor(
    options: RedisOptions,
    clock: Clock,
    random: Random,
    emit: Emit,
    connect: typeof createRedisClient = createRedisClient,
  ) {
    this.#clock = clock
    this.#random = random
    this.#emit = emit
    const { prefix, timeoutMs } = options
    this.#prefix = prefix
    this.#timeoutMs = timeoutMs
    this.#breaker = createRedisBreaker({ clock, random, probe: this.#probe, changed: this.#review })
    this.#refusals = createRedisRefusals({ clock, random, probe: this.#probeWrite, changed: () => this.#review(null) })
    this.#client = connect(
      options,
      { silenceMs: Math.max(SILENCE_MS, 4 * timeoutMs), pauseMs: this.#pauseMs, mayMove: this.#mayMove },
      {
        ready: () => {
          this.#breaker.probeNow()
          this.#refusals.probeNow()
          this.#review(null)
        },
        lost: () => this.#review(this.#trouble ?? 'unreachable'),
        failed: (error) => {
          this.#trouble = failureOf(error).because
          emit({ kind: 'redis-failed', operation: 'connect' })
          this.#review(this.#trouble)
        },
      },
    )
    this.#subscriber = createRedisSubscriber({ clock, emit, listen: this.#client.listen, pauseMs: this.#pauseMs })
    this.trust = this.#client.trust
  }

  // Operations

  readonly get = async (key: string): Promise<Shared<Buffer | null>> => {
    const found = await this.#ask(
      'get',
      this.#prefix + key,
      () => this.#client.call('get', [this.#prefix + key], true),
      isOtherType,
    )
    return known(found, (value) => (Buffer.isBuffer(value) ? value : null))
  }

  readonly set = async (key: string, value: Buffer | string, ttlMs: number): Promise<Shared<null>> => {
    const args = [this.#prefix + key, value, 'PX', Math.max(1, Math.ceil(ttlMs))]
    return known(await this.#ask('set', this.#prefix + key, () => this.#client.call('set', args, false)), () => null)
  }

  readonly delete = async (keys: readonly string[]): Promise<Shared<number>> => {
    const bySlot = Map.groupBy(
      keys.map((key) => this.#prefix + key),
      (key) => this.#client.slotOf(key),
    )
    const all = await Promise.all(
      Array.from(bySlot.values(), (names) =>
        this.#ask('delete', names[0] ?? '', () => this.#client.call('unlink', names, false)),
      ),
    )
    const away = all.find((one) => one.kind === 'away')
    if (away) return all.some((one) => one.kind === 'known' || one.sent) ? UNSURE : AWAY
    return { kind: 'known', value: all.reduce((sum, one) => sum + (one.kind === 'known' ? Number(one.value) : 0), 0) }
  }

  readonly run = (
    script: SharedScript,
    keys: readonly string[],
    args: readonly Argument[],
  ): Promise<Shared<unknown>> => {
    const names = keys.map((key) => this.#prefix + key)
    const rest = [script.numberOfKeys, ...names, ...args]
    const isBytes = script.replies === 'bytes'
    return this.#ask('script', names[0] ?? this.#prefix, async () => {
      try {
        return await this.#client.call('evalsha', [this.#digestOf(script), ...rest], isBytes)
      } catch (error) {
        if (failureOf(error).word !== 'NOSCRIPT') throw error
        return this.#client.call('eval', [script.lua, ...rest], isBytes)
      }
    })
  }

  readonly publish = async (channel: string, message: string): Promise<Shared<null>> => {
    const name = this.#prefix + channel
    return known(
      await this.#ask('publish', name, () => this.#client.call('publish', [name, message], false)),
      () => null,
    )
  }

  readonly channelName: SharedStore['channelName'] = (channel) => this.#prefix + channel

  readonly subscribe: SharedStore['subscribe'] = (channel, listener) =>
    this.#subscriber.subscribe(this.#prefix + channel, listener)

  get state(): SharedState {
    return this.#stateNow()
  }

  get trouble(): RedisTrouble | null {
    return this.#stateNow() === 'up' ? null : this.#trouble
  }

  readonly onState: SharedStore['onState'] = (listener) => {
    this.#listeners.add(listener)
    return () => void this.#listeners.delete(listener)
  }

  readonly close = (): void => {
    this.#closed = true
    this.#breaker.close()
    this.#refusals.close()
    this.#subscriber.close()
    this.#client.close()
    for (const giveUp of this.#waiting) giveUp()
    this.#listeners.clear()
  }

  #digestOf(script: SharedScript): string {
    const known = this.#digests.get(script)
    if (known !== undefined) return known
    const digest = createHash('sha1').update(script.lua).digest('hex')
    this.#digests.set(script, digest)
    return digest
  }

  // One call

  /** `isNothing`: a refusal that stands for "there is nothing". */
  async #ask(
    operation: RedisOperation,
    key: string,
    command: () => Promise<unknown>,
    isNothing: (failure: RedisFailure) => boolean = () => false,
  ): Promise<Shared<unknown>> {
    const part = this.#client.partOf(this.#client.slotOf(key))
    if (this.#closed || !this.#client.isReady || this.#breaker.isDown(part)) return AWAY
    if (this.#open >= MAX_OPEN) {
      this.#emit({ kind: 'redis-failed', operation })
      return AWAY
    }
    const answersAtStart = this.#breaker.answers(part)
    const settled = await this.#within(command)
    if ('value' in settled) {
      this.#breaker.answered(part)
      return { kind: 'known', value: settled.value }
    }
    const { failure } = settled
    this.#emit({ kind: 'redis-failed', operation })
    if (failure.refusesWrites) this.#refusals.refused(failure, operation, key)
    if (failure.isRefusal) this.#breaker.answered(part)
    else this.#breaker.failed(part, failure.because, answersAtStart, key)
    return isNothing(failure) ? { kind: 'known', value: null } : UNSURE
  }

  /** Never rejects, and takes no longer than the time limit; the command counts as open until it has really ended. */
  #within(command: () => Promise<unknown>): Promise<Settled> {
    this.#open += 1
    return new Promise((resolve) => {
      const giveUp = (): void => end({ failure: TIMED_OUT })
      const end = (settled: Settled): void => {
        this.#waiting.delete(giveUp)
        timer.cancel()
        resolve(settled)
      }
      let timer = this.#clock.after(this.#timeoutMs, () => {
        // What came in while this process was busy with something else is read first.
        timer = this.#clock.after(0, giveUp)
      })
      this.#waiting.add(giveUp)
      command()
        .then(
          (value) => end({ value }),
          (error: unknown) => end({ failure: failureOf(error) }),
        )
        .finally(() => (this.#open -= 1))
    })
  }

  /** A write, because a server that only reads is of no use to those who were refused; in the slot of the key that failed. */
  readonly #probe = async (key: string): Promise<boolean> => {
    if (!this.#client.isReady) return false
    const settled = await this.#within(() => this.#client.call('set', [this.#probeKey(key), '', 'PX', 1_000], false))
    const isThere = 'value' in settled || settled.failure.isRefusal
    if ('value' in settled || isThere) return true
    this.#emit({ kind: 'redis-failed', operation: 'probe' })
    this.#review(settled.failure.because)
    return false
  }

  #probeKey(key: string, name = ''): string {
    const tag = /\{([^}]+)\}/.exec(key)?.[1] ?? key
    return `${this.#prefix}probe${name}:{${tag}}`
  }

  readonly #probeWrite = async (operation: RedisOperation, key: string): Promise<'accepted' | 'refused' | 'away'> => {
    if (!this.#client.isReady || this.#breaker.isDown(this.#client.partOf(this.#client.slotOf(key)))) return 'away'
    const settled = await this.#within(() => {
      if (operation === 'script') {
        const names = ['', '-hash', '-set'].map((name) => this.#probeKey(key, name))
        return this.#client.call('eval', [PROBE_SCRIPT, names.length, ...names, `${this.#prefix}probe`], false)
      }
      if (operation === 'publish') return this.#client.call('publish', [`${this.#prefix}probe`, ''], false)
      if (operation === 'delete') return this.#client.call('unlink', [this.#probeKey(key)], false)
      if (operation === 'get') return this.#client.call('get', [this.#probeKey(key)], false)
      return this.#client.call('set', [this.#probeKey(key), '', 'PX', 1_000], false)
    })
    if ('value' in settled) return 'accepted'
    return settled.failure.refusesWrites ? 'refused' : 'away'
  }

  // Up and down

  #stateNow(): SharedState {
    if (this.#closed || !this.#client.isReady || this.#breaker.downParts > 0) return 'down'
    return this.#refusals.current ? 'refusing' : 'up'
  }

  readonly #review = (because: RedisTrouble | null): void => {
    const now = this.#stateNow()
    if (this.#closed || (now === this.#told && now === 'up')) return
    const refusal = now === 'refusing' ? this.#refusals.current : null
    const reason = refusal?.because ?? because
    if (reason !== null) this.#trouble = reason
    if (now === this.#told && now !== 'up') return this.#reviewCause(now, refusal?.word ?? null)
    const isFirstTime = now === 'up' && this.#told === null
    this.#emit({
      kind: 'redis-changed',
      to: now,
      because: isFirstTime ? null : (this.#trouble ?? 'unreachable'),
      word: refusal?.word ?? null,
    })
    this.#toldTrouble = this.#trouble
    this.#toldTroubleAt = this.#clock.now()
    const isFirst = this.#told === null && now === 'down'
    this.#told = now
    if (now === 'up') this.#trouble = null
    if (!isFirst) for (const listener of this.#listeners) listener(now)
  }

  /** What is said about a trouble is its present cause, not the first. */
  #reviewCause(state: 'down' | 'refusing', word: string | null): void {
    if (
      this.#trouble === null ||
      this.#trouble === this.#toldTrouble ||
      this.#clock.now() - this.#toldTroubleAt < CAUSE_MS
    )
      return
    this.#toldTrouble = this.#trouble
    this.#toldTroubleAt = this.#clock.now()
    this.#emit({ kind: 'redis-cause-changed', state, because: this.#trouble, word })
  }

  /** Grows to a second, and is never the same for all replicas. */
  readonly #pauseMs = (attempt: number): number => {
    return Math.min(MAX_PAUSE_MS, 50 * 2 ** Math.min(attempt, 10)) * (0.5 + this.#random.next() / 2)
  }

  readonly #mayMove = (): boolean => {
    if (this.#clock.now() - this.#movedAt < MOVE_MS) return false
    this.#movedAt = this.#clock.now()
    return true
  }
}

export function createRedis(
  options: RedisOptions,
  clock: Clock,
  random: Random,
  emit: Emit,
  connect: typeof createRedisClient = createRedisClient,
): SharedStore {
  return new RedisStore(options, clock, random, emit, connect)
}

function known<T>(shared: Shared<unknown>, take: (value: unknown) => T): Shared<T> {
  return shared.kind === 'known' ? { kind: 'known', value: take(shared.value) } : shared
}

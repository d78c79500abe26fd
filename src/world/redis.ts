/**
 * The shared store on Redis: it can only help. Every call ends within the time limit, whatever Redis does; while it is known
 * not to answer, calls end at once and only a probe in the background asks. Keys and channels get the prefix here.
 */
import { createHash } from 'node:crypto'
import type { Clock, Emit, Random, Shared, SharedScript, SharedState, SharedStore } from '../ports.ts'
import type { RedisOperation, RedisTrouble } from '../telemetry/events.ts'
import { createRedisBreaker } from './redis-breaker.ts'
import { type Argument, createRedisClient, type RedisAccess } from './redis-client.ts'
import { createRedisEars } from './redis-ears.ts'
import { failureOf, isOtherType, type RedisFailure, TIMED_OUT } from './redis-failure.ts'
import { createRedisRefusals, PROBE_SCRIPT } from './redis-refusals.ts'

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

export function createRedis(
  options: RedisOptions,
  clock: Clock,
  random: Random,
  emit: Emit,
  connect: typeof createRedisClient = createRedisClient,
): SharedStore {
  const { prefix, timeoutMs } = options
  const digests = new WeakMap<SharedScript, string>()
  const listeners = new Set<(state: SharedState) => void>()
  /** Ends the calls that somebody waits for. */
  const waiting = new Set<() => void>()
  let open = 0
  let told: SharedState | null = null
  let trouble: RedisTrouble | null = null
  let toldTrouble: RedisTrouble | null = null
  let toldTroubleAt = Number.NEGATIVE_INFINITY
  let closed = false
  let movedAt = Number.NEGATIVE_INFINITY

  const breaker = createRedisBreaker({ clock, random, probe, changed: review })
  const refusals = createRedisRefusals({ clock, random, probe: probeWrite, changed: () => review(null) })
  const client = connect(
    options,
    { silenceMs: Math.max(SILENCE_MS, 4 * timeoutMs), pauseMs, mayMove },
    {
      ready: () => {
        breaker.probeNow()
        refusals.probeNow()
        review(null)
      },
      lost: () => review(trouble ?? 'unreachable'),
      failed: (error) => {
        trouble = failureOf(error).because
        emit({ kind: 'redis-failed', operation: 'connect' })
        review(trouble)
      },
    },
  )
  const ears = createRedisEars({ clock, emit, listen: client.listen, pauseMs })

  return {
    get,
    set,
    delete: remove,
    run,
    publish,
    channelName: (channel) => prefix + channel,
    subscribe: (channel, listener) => ears.subscribe(prefix + channel, listener),
    get state() {
      return stateNow()
    },
    get trouble() {
      return stateNow() === 'up' ? null : trouble
    },
    trust: client.trust,
    onState(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    close,
  }

  // Operations

  async function get(key: string): Promise<Shared<Buffer | null>> {
    const found = await ask('get', prefix + key, () => client.call('get', [prefix + key], true), isOtherType)
    return known(found, (value) => (Buffer.isBuffer(value) ? value : null))
  }

  async function set(key: string, value: Buffer | string, ttlMs: number): Promise<Shared<null>> {
    const args = [prefix + key, value, 'PX', Math.max(1, Math.ceil(ttlMs))]
    return known(await ask('set', prefix + key, () => client.call('set', args, false)), () => null)
  }

  async function remove(keys: readonly string[]): Promise<Shared<number>> {
    const bySlot = Map.groupBy(
      keys.map((key) => prefix + key),
      (key) => client.slotOf(key),
    )
    const all = await Promise.all(
      Array.from(bySlot.values(), (names) => ask('delete', names[0] ?? '', () => client.call('unlink', names, false))),
    )
    const away = all.find((one) => one.kind === 'away')
    if (away) return all.some((one) => one.kind === 'known' || one.sent) ? UNSURE : AWAY
    return { kind: 'known', value: all.reduce((sum, one) => sum + (one.kind === 'known' ? Number(one.value) : 0), 0) }
  }

  function run(script: SharedScript, keys: readonly string[], args: readonly Argument[]): Promise<Shared<unknown>> {
    const names = keys.map((key) => prefix + key)
    const rest = [script.numberOfKeys, ...names, ...args]
    const isBytes = script.replies === 'bytes'
    return ask('script', names[0] ?? prefix, async () => {
      try {
        return await client.call('evalsha', [digestOf(script), ...rest], isBytes)
      } catch (error) {
        if (failureOf(error).word !== 'NOSCRIPT') throw error
        return client.call('eval', [script.lua, ...rest], isBytes)
      }
    })
  }

  async function publish(channel: string, message: string): Promise<Shared<null>> {
    const name = prefix + channel
    return known(await ask('publish', name, () => client.call('publish', [name, message], false)), () => null)
  }

  function digestOf(script: SharedScript): string {
    const known = digests.get(script)
    if (known !== undefined) return known
    const digest = createHash('sha1').update(script.lua).digest('hex')
    digests.set(script, digest)
    return digest
  }

  // One call

  /** `isNothing`: a refusal that stands for "there is nothing". */
  async function ask(
    operation: RedisOperation,
    key: string,
    command: () => Promise<unknown>,
    isNothing: (failure: RedisFailure) => boolean = () => false,
  ): Promise<Shared<unknown>> {
    const part = client.partOf(client.slotOf(key))
    if (closed || !client.isReady || breaker.isDown(part)) return AWAY
    if (open >= MAX_OPEN) {
      emit({ kind: 'redis-failed', operation })
      return AWAY
    }
    const answersAtStart = breaker.answers(part)
    const settled = await within(command)
    if ('value' in settled) {
      breaker.answered(part)
      return { kind: 'known', value: settled.value }
    }
    const { failure } = settled
    emit({ kind: 'redis-failed', operation })
    if (failure.refusesWrites) refusals.refused(failure, operation, key)
    if (failure.isRefusal) breaker.answered(part)
    else breaker.failed(part, failure.because, answersAtStart, key)
    return isNothing(failure) ? { kind: 'known', value: null } : UNSURE
  }

  /** Never rejects, and takes no longer than the time limit; the command counts as open until it has really ended. */
  function within(command: () => Promise<unknown>): Promise<Settled> {
    open += 1
    return new Promise((resolve) => {
      let timer = clock.after(timeoutMs, () => {
        // What came in while this process was busy with something else is read first.
        timer = clock.after(0, giveUp)
      })
      waiting.add(giveUp)

      function giveUp(): void {
        end({ failure: TIMED_OUT })
      }
      function end(settled: Settled): void {
        waiting.delete(giveUp)
        timer.cancel()
        resolve(settled)
      }
      command()
        .then(
          (value) => end({ value }),
          (error: unknown) => end({ failure: failureOf(error) }),
        )
        .finally(() => (open -= 1))
    })
  }

  /** A write, because a server that only reads is of no use to those who were refused; in the slot of the key that failed. */
  async function probe(key: string): Promise<boolean> {
    if (!client.isReady) return false
    const settled = await within(() => client.call('set', [probeKey(key), '', 'PX', 1_000], false))
    const isThere = 'value' in settled || settled.failure.isRefusal
    if ('value' in settled || isThere) return true
    emit({ kind: 'redis-failed', operation: 'probe' })
    review(settled.failure.because)
    return false
  }

  function probeKey(key: string, name = ''): string {
    const tag = /\{([^}]+)\}/.exec(key)?.[1] ?? key
    return `${prefix}probe${name}:{${tag}}`
  }

  async function probeWrite(operation: RedisOperation, key: string): Promise<'accepted' | 'refused' | 'away'> {
    if (!client.isReady || breaker.isDown(client.partOf(client.slotOf(key)))) return 'away'
    const settled = await within(() => {
      if (operation === 'script') {
        const names = ['', '-hash', '-set'].map((name) => probeKey(key, name))
        return client.call('eval', [PROBE_SCRIPT, names.length, ...names, `${prefix}probe`], false)
      }
      if (operation === 'publish') return client.call('publish', [`${prefix}probe`, ''], false)
      if (operation === 'delete') return client.call('unlink', [probeKey(key)], false)
      if (operation === 'get') return client.call('get', [probeKey(key)], false)
      return client.call('set', [probeKey(key), '', 'PX', 1_000], false)
    })
    if ('value' in settled) return 'accepted'
    return settled.failure.refusesWrites ? 'refused' : 'away'
  }

  // Up and down

  function stateNow(): SharedState {
    if (closed || !client.isReady || breaker.downParts > 0) return 'down'
    return refusals.current ? 'refusing' : 'up'
  }

  function review(because: RedisTrouble | null): void {
    const now = stateNow()
    if (closed || (now === told && now === 'up')) return
    const refusal = now === 'refusing' ? refusals.current : null
    const reason = refusal?.because ?? because
    if (reason !== null) trouble = reason
    if (now === told && now !== 'up') return reviewCause(now, refusal?.word ?? null)
    const isFirstTime = now === 'up' && told === null
    emit({
      kind: 'redis-changed',
      to: now,
      because: isFirstTime ? null : (trouble ?? 'unreachable'),
      word: refusal?.word ?? null,
    })
    toldTrouble = trouble
    toldTroubleAt = clock.now()
    const isFirst = told === null && now === 'down'
    told = now
    if (now === 'up') trouble = null
    if (!isFirst) for (const listener of listeners) listener(now)
  }

  /** What is said about a trouble is its present cause, not the first. */
  function reviewCause(state: 'down' | 'refusing', word: string | null): void {
    if (trouble === null || trouble === toldTrouble || clock.now() - toldTroubleAt < CAUSE_MS) return
    toldTrouble = trouble
    toldTroubleAt = clock.now()
    emit({ kind: 'redis-cause-changed', state, because: trouble, word })
  }

  /** Grows to a second, and is never the same for all replicas. */
  function pauseMs(attempt: number): number {
    return Math.min(MAX_PAUSE_MS, 50 * 2 ** Math.min(attempt, 10)) * (0.5 + random.next() / 2)
  }

  function mayMove(): boolean {
    if (clock.now() - movedAt < MOVE_MS) return false
    movedAt = clock.now()
    return true
  }

  function close(): void {
    closed = true
    breaker.close()
    refusals.close()
    ears.close()
    client.close()
    for (const giveUp of waiting) giveUp()
    listeners.clear()
  }
}

function known<T>(shared: Shared<unknown>, take: (value: unknown) => T): Shared<T> {
  return shared.kind === 'known' ? { kind: 'known', value: take(shared.value) } : shared
}

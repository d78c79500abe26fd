/**
 * The tier that all replicas share, on the shared store. It can only help: reads end within the store's time limit, writes
 * wait for nobody, and what cannot be written now is written when the store is back. An older entry never takes the place of
 * a newer one, and "empty result" never that of an answer. Ages are measured by the store's clock, because those of the replicas
 * may differ by hours.
 */
import { type Blink, createBlink } from '../blink.ts'
import type { Entry, PurgeFilter } from '../model.ts'
import { argumentsInOne, inOne } from '../lua.ts'
import type { Clock, Emit, Random, SharedScript, SharedStep, SharedStore, Timer } from '../ports.ts'
import { type CacheBus, createCacheBus, purgedMessage, replacedMessage } from './bus.ts'
import { type Codec, FORMAT, STAMP_CHARS } from './codec.ts'
import { matches } from './entry.ts'
import { type Purges, createPurges } from './purges.ts'

export interface SharedTier {
  /** Null = there is none; `away` = nobody can tell now. Never rejects. */
  read(key: string, until?: number): Promise<Entry | null | 'away'>
  /** Returns at once. */
  write(key: string, entry: Entry): void
  /**
   * True = this entry is kept, or a newer one, or one of a greater fence. Fences are texts that sort; null is the newest. False =
   * it can never be kept. `ended`: it is kept, and `end` was run in the same command. Its keys share the slot of the entry's.
   */
  keep(key: string, entry: Entry, fence: string | null, end?: SharedStep | null): Promise<boolean | 'ended' | 'away'>
  /** For all replicas; where the store is away, as soon as it is back. */
  purge(filter: PurgeFilter): void
  /** An entry in memory needs no look at this tier now. */
  isTrusted(entry: Entry): boolean
  /** All writes and purges have ended, or have to wait for the store. */
  settled(): Promise<void>
  close(): void
}

/** The memory of this process, as other replicas change it. */
export interface SharedTierMemory {
  /** There is a newer entry in the shared tier: drop what is older than that. */
  outdated(key: string, storedAt: number): void
  purge(filter: PurgeFilter): void
}

export interface SharedTierPorts {
  readonly codec: Codec
  readonly store: SharedStore
  readonly memory: SharedTierMemory
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
}

const CHANNEL = 'cache'
/** What is being written or waits to be, in all. */
const MAX_WAITING_BYTES = 33_554_432
const WAIT_MS = 60_000
const RETRY_MS = 5_000
const MAX_WAITING_PURGES = 64

/** The value and the time it has left in ms; -1 = no end. Another type than a string is no value. */
const readScript: SharedScript = {
  numberOfKeys: 1,
  replies: 'bytes',
  lua: `local value = redis.pcall('GET', KEYS[1])
if type(value) ~= 'string' then return false end
return {value, redis.call('PTTL', KEYS[1])}`,
}

/**
 * Keeps the value that is there when it is newer, or when it is an answer and the new one is not. Their ages are how long they
 * are kept minus how long they have left. The announcement goes out with the entry, so that it is there for every listener.
 */
const writeScript: SharedScript = {
  numberOfKeys: 2,
  replies: 'text',
  lua: `local fence = redis.call('GET', KEYS[2])
if fence and ARGV[5] ~= '' and fence > ARGV[5] then return 0 end
local old = redis.pcall('GETRANGE', KEYS[1], 0, ${STAMP_CHARS - 1})
local left = redis.call('PTTL', KEYS[1])
if type(old) == 'string' and #old == ${STAMP_CHARS} and string.sub(old, 1, 1) == '${FORMAT}' and left > 0 then
  local oldKept, newKept = tonumber(string.sub(old, 3)), tonumber(string.sub(ARGV[1], 3, ${STAMP_CHARS}))
  if oldKept and oldKept >= left then
    if oldKept - left < newKept - ARGV[2] then return 0 end
    if string.sub(old, 2, 2) > string.sub(ARGV[1], 2, 2) then return 0 end
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if ARGV[5] ~= '' then redis.call('SET', KEYS[2], ARGV[5], 'PX', ARGV[2]) end
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1`,
}

/** Each with the script that ends the flight of the entry. */
const writeAndEndScripts = new WeakMap<SharedScript, SharedScript>()

interface Waiting {
  readonly entry: Entry
  readonly until: number
}

class RedisTier implements SharedTier {
  readonly #codec: Codec
  readonly #store: SharedStore
  readonly #memory: SharedTierMemory
  readonly #clock: Clock
  readonly #emit: Emit
  readonly #id: string
  readonly #channelName: string
  readonly #waiting = new Map<string, Waiting>()
  readonly #underWay = new Set<Promise<unknown>>()
  #waitingBytes = 0
  #writingBytes = 0
  #waitingPurges: PurgeFilter[] = []
  #isCatchingUp = false
  #timer: Timer | null = null
  readonly #purges: Purges
  readonly #bus: CacheBus
  readonly #blink: Blink
  readonly #stopWatching: () => void
  readonly isTrusted: SharedTier['isTrusted']

  constructor({ codec, store, memory, clock, random, emit }: SharedTierPorts) {
    this.#codec = codec
    this.#store = store
    this.#memory = memory
    this.#clock = clock
    this.#emit = emit
    this.#id = random.id()
    this.#channelName = store.channelName(CHANNEL)
    this.#purges = createPurges(
      { channelName: this.#channelName, message: purgedMessage(this.#id), onPurged: this.#forget },
      store,
      clock,
      random,
    )
    this.#bus = createCacheBus(
      {
        channel: CHANNEL,
        id: this.#id,
        onReplaced: memory.outdated,
        // Who says so may lie: the store says what was purged.
        onPurged: () => {
          this.#purges.forget()
          this.#keepTrack(this.#purges.refresh())
        },
        onGap: () => this.#keepTrack(this.#purges.refresh()),
      },
      store,
      clock,
    )
    this.#blink = createBlink(store, clock)
    this.#stopWatching = store.onState((state) => {
      if (state === 'up') this.#keepTrack(this.#catchUp())
    })
    this.isTrusted = this.#bus.isTrusted
  }

  readonly read = async (key: string, until = 0): Promise<Entry | null | 'away'> => {
    const first = await this.#readNow(key)
    return first === 'away' && (await this.#blink.isOver(until)) ? this.#readNow(key) : first
  }

  readonly write = (key: string, entry: Entry): void => {
    const bytes = entry.body.length
    if (this.#waitingBytes + this.#writingBytes + bytes > MAX_WAITING_BYTES) {
      this.#emit({ kind: 'redis-failed', operation: 'set' })
      return
    }
    this.#writingBytes += bytes
    const done = this.#send(key, entry, null).then((sent) => {
      this.#writingBytes -= bytes
      if (sent === 'away') this.#waitFor(key, { entry, until: this.#clock.now() + WAIT_MS })
    })
    this.#keepTrack(done)
  }

  readonly keep: SharedTier['keep'] = async (key, entry, fence, end = null) => {
    const sent = await this.#send(key, entry, fence, end)
    if (sent === 'away') return 'away'
    return sent === 'kept' && end ? 'ended' : sent === 'kept'
  }

  readonly purge = (filter: PurgeFilter): void => {
    this.#dropWaiting(filter)
    // What is stored from now on is not meant, should it take a while.
    const before = Math.min(filter.storedBefore ?? Number.POSITIVE_INFINITY, this.#clock.wall() + 1)
    this.#keepTrack(
      this.#purges.add(filter).then((isDone) => {
        if (!isDone) this.#purgeLater({ ...filter, storedBefore: before })
      }),
    )
  }

  readonly settled: SharedTier['settled'] = async () => {
    while (this.#underWay.size > 0) await Promise.all(this.#underWay)
  }

  readonly close: SharedTier['close'] = () => {
    this.#blink.close()
    this.#stopWatching()
    this.#timer?.cancel()
    this.#bus.close()
  }

  async #readNow(key: string): Promise<Entry | null | 'away'> {
    const [found, mark] = await Promise.all([this.#store.run(readScript, [nameOf(key)], []), this.#purges.known()])
    if (found.kind === 'away' || mark === null) return 'away'
    const [value, leftMs] = Array.isArray(found.value) ? (found.value as unknown[]) : []
    if (!Buffer.isBuffer(value) || typeof leftMs !== 'number') return null
    const stored = this.#codec.decode(key, value)
    if (typeof stored === 'string') {
      this.#emit({ kind: 'cache-rejected', tier: 'redis', because: stored })
      return null
    }
    if (await this.#purges.isPurged(stored.entry, stored.mark)) return null
    if (this.#waitingPurges.some((filter) => matches(stored.entry, filter))) return null
    const entry = dated(stored.entry, leftMs, this.#clock.wall())
    this.#bus.trust(entry)
    return entry
  }

  #purgeLater(filter: PurgeFilter): void {
    if (this.#waitingPurges.length < MAX_WAITING_PURGES) this.#waitingPurges.push(filter)
    else this.#waitingPurges = [{ storedBefore: this.#clock.wall() + 1 }]
    this.#retryLater()
  }

  /** `away`: it may be tried again. */
  async #send(
    key: string,
    entry: Entry,
    fence: string | null,
    end: SharedStep | null = null,
  ): Promise<'kept' | 'useless' | 'away'> {
    // Never more than the whole: a clock that was set back meanwhile would make the entry younger than new.
    const leftMs = Math.ceil(entry.keptUntil - Math.max(this.#clock.wall(), entry.storedAt))
    if (leftMs <= 0) return 'useless'
    const mark = await this.#purges.known()
    if (!mark) return 'away'
    const bytes = this.#codec.encode(key, { entry, mark })
    if (!bytes) {
      this.#emit({ kind: 'cache-rejected', tier: 'redis', because: 'too-big' })
      return 'useless'
    }
    const message = replacedMessage(this.#id, key, entry.storedAt)
    const args = [bytes, leftMs, this.#channelName, message, fence ?? '']
    const isWritten = await this.#write([nameOf(key), `${nameOf(key)}:fence`], args, end)
    if (isWritten === 'away') return 'away'
    if (isWritten) this.#bus.trust(entry)
    // A newer one is there: ours is not to be given here either.
    else if (fence !== null) this.#memory.outdated(key, entry.storedAt + 1)
    return 'kept'
  }

  async #write(keys: readonly string[], args: SharedStep['args'], end: SharedStep | null): Promise<boolean | 'away'> {
    const written = end
      ? await this.#store.run(writeAndEnd(end.script), [...keys, ...end.keys], argumentsInOne(args, end.args))
      : await this.#store.run(writeScript, keys, args)
    if (written.kind === 'away') return 'away'
    return (Array.isArray(written.value) ? written.value[0] : written.value) === 1
  }

  // While the store is away

  #waitFor(key: string, one: Waiting): void {
    this.#takeWaiting(key)
    this.#waiting.set(key, one)
    this.#waitingBytes += one.entry.body.length
    this.#retryLater()
  }

  /** For what was refused while the store is up, and to let go of what has waited too long. */
  #retryLater(): void {
    this.#timer ??= this.#clock.after(RETRY_MS, () => {
      this.#timer = null
      for (const [key, { until }] of this.#waiting) if (until <= this.#clock.now()) this.#takeWaiting(key)
      if (this.#store.state === 'up') this.#keepTrack(this.#catchUp())
      if (this.#waiting.size + this.#waitingPurges.length > 0) this.#retryLater()
    })
  }

  #takeWaiting(key: string): Waiting | null {
    const one = this.#waiting.get(key)
    if (!one) return null
    this.#waiting.delete(key)
    this.#waitingBytes -= one.entry.body.length
    return one
  }

  #dropWaiting(filter: PurgeFilter): void {
    for (const [key, { entry }] of this.#waiting) if (matches(entry, filter)) this.#takeWaiting(key)
  }

  readonly #forget = (filter: PurgeFilter): void => {
    this.#dropWaiting(filter)
    this.#memory.purge(filter)
  }

  /** One after the other: everybody comes back at the same moment. */
  async #catchUp(): Promise<void> {
    if (this.#isCatchingUp) return
    this.#isCatchingUp = true
    let isAway = false
    while (!isAway && this.#waitingPurges[0]) {
      const [filter] = this.#waitingPurges
      isAway = !(await this.#purges.add(filter))
      if (!isAway) this.#waitingPurges = this.#waitingPurges.filter((one) => one !== filter)
    }
    for (const [key, one] of this.#waiting) {
      if (isAway) break
      this.#takeWaiting(key)
      isAway = (await this.#send(key, one.entry, null)) === 'away'
      if (isAway && !this.#waiting.has(key)) this.#waitFor(key, one)
    }
    this.#isCatchingUp = false
  }

  #keepTrack(work: Promise<unknown>): void {
    this.#underWay.add(work)
    void work.finally(() => this.#underWay.delete(work))
  }
}

export function createSharedTier(ports: SharedTierPorts): SharedTier {
  return new RedisTier(ports)
}

function writeAndEnd(endScript: SharedScript): SharedScript {
  const known = writeAndEndScripts.get(endScript)
  if (known) return known
  const made = inOne(writeScript, endScript)
  writeAndEndScripts.set(endScript, made)
  return made
}

/**
 * An entry as this replica's clock has it. `storedAt` is the writer's clock, which may be wrong in either direction; the time that
 * the entry has left is the store's. The older of the two counts, so that no clock makes an entry fresh for longer.
 */
function dated(entry: Entry, leftMs: number, wallMs: number): Entry {
  const keptMs = entry.keptUntil - entry.storedAt
  const storedAt = leftMs < 0 ? entry.storedAt : Math.min(entry.storedAt, wallMs - Math.max(0, keptMs - leftMs))
  return { ...entry, storedAt, keptUntil: leftMs < 0 ? entry.keptUntil : wallMs + leftMs }
}

/** The format is in the name: replicas of two versions do not take turns in overwriting each other. */
function nameOf(key: string): string {
  return `c${FORMAT}:{${key}}`
}

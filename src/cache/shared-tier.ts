/**
 * The tier that all replicas share, on the shared store. It can only help: reads end within the store's time limit, writes
 * wait for nobody, and what cannot be written now is written when the store is back. An older entry never takes the place of
 * a newer one, and "empty result" never that of an answer. Ages are measured by the store's clock, because those of the replicas
 * may differ by hours.
 */
import { createBlink } from '../blink.ts'
import type { Entry, PurgeFilter } from '../model.ts'
import type { Clock, Emit, Random, SharedScript, SharedStore, Timer } from '../ports.ts'
import { createCacheBus, purgedMessage, replacedMessage } from './bus.ts'
import { type Codec, FORMAT, STAMP_CHARS } from './codec.ts'
import { matches } from './entry.ts'
import { createPurges } from './purges.ts'

export interface SharedTier {
  /** Null = there is none; `away` = nobody can tell now. Never rejects. */
  read(key: string): Promise<Entry | null | 'away'>
  /** Returns at once. */
  write(key: string, entry: Entry): void
  /**
   * True = this entry is kept, or a newer one, or one of a greater fence. Fences are texts that sort; null is the newest. False =
   * it can never be kept.
   */
  keep(key: string, entry: Entry, fence: string | null): Promise<boolean | 'away'>
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

interface Waiting {
  readonly entry: Entry
  readonly until: number
}

export function createSharedTier({ codec, store, memory, clock, random, emit }: SharedTierPorts): SharedTier {
  const id = random.id()
  const channelName = store.channelName(CHANNEL)
  const waiting = new Map<string, Waiting>()
  const underWay = new Set<Promise<unknown>>()
  let waitingBytes = 0
  let writingBytes = 0
  let waitingPurges: PurgeFilter[] = []
  let isCatchingUp = false
  let timer: Timer | null = null

  const purges = createPurges({ channelName, message: purgedMessage(id), onPurged: forget }, store, clock, random)
  const bus = createCacheBus(
    {
      channel: CHANNEL,
      id,
      onReplaced: memory.outdated,
      // Who says so may lie: the store says what was purged.
      onPurged: () => {
        purges.forget()
        keepTrack(purges.refresh())
      },
      onGap: () => keepTrack(purges.refresh()),
    },
    store,
    clock,
  )
  const blink = createBlink(store, clock)
  const stopWatching = store.onState((state) => {
    if (state === 'up') keepTrack(catchUp())
  })

  return {
    read,
    write,
    async keep(key, entry, fence) {
      const sent = await send(key, entry, fence)
      return sent === 'away' ? 'away' : sent === 'kept'
    },
    purge,
    isTrusted: bus.isTrusted,
    async settled() {
      while (underWay.size > 0) await Promise.all(underWay)
    },
    close() {
      blink.close()
      stopWatching()
      timer?.cancel()
      bus.close()
    },
  }

  async function read(key: string): Promise<Entry | null | 'away'> {
    const first = await readNow(key)
    return first === 'away' && (await blink.isOver()) ? readNow(key) : first
  }

  async function readNow(key: string): Promise<Entry | null | 'away'> {
    const [found, mark] = await Promise.all([store.run(readScript, [nameOf(key)], []), purges.known()])
    if (found.kind === 'away' || mark === null) return 'away'
    const [value, leftMs] = Array.isArray(found.value) ? (found.value as unknown[]) : []
    if (!Buffer.isBuffer(value) || typeof leftMs !== 'number') return null
    const stored = codec.decode(key, value)
    if (typeof stored === 'string') {
      emit({ kind: 'cache-rejected', tier: 'redis', because: stored })
      return null
    }
    if (await purges.isPurged(stored.entry, stored.mark)) return null
    if (waitingPurges.some((filter) => matches(stored.entry, filter))) return null
    const entry = dated(stored.entry, leftMs, clock.wall())
    bus.trust(entry)
    return entry
  }

  function write(key: string, entry: Entry): void {
    const bytes = entry.body.length
    if (waitingBytes + writingBytes + bytes > MAX_WAITING_BYTES) {
      emit({ kind: 'redis-failed', operation: 'set' })
      return
    }
    writingBytes += bytes
    const done = send(key, entry, null).then((sent) => {
      writingBytes -= bytes
      if (sent === 'away') waitFor(key, { entry, until: clock.now() + WAIT_MS })
    })
    keepTrack(done)
  }

  function purge(filter: PurgeFilter): void {
    dropWaiting(filter)
    // What is stored from now on is not meant, should it take a while.
    const before = Math.min(filter.storedBefore ?? Number.POSITIVE_INFINITY, clock.wall() + 1)
    keepTrack(
      purges.add(filter).then((isDone) => {
        if (!isDone) purgeLater({ ...filter, storedBefore: before })
      }),
    )
  }

  function purgeLater(filter: PurgeFilter): void {
    if (waitingPurges.length < MAX_WAITING_PURGES) waitingPurges.push(filter)
    else waitingPurges = [{ storedBefore: clock.wall() + 1 }]
    retryLater()
  }

  /** `away`: it may be tried again. */
  async function send(key: string, entry: Entry, fence: string | null): Promise<'kept' | 'useless' | 'away'> {
    // Never more than the whole: a clock that was set back meanwhile would make the entry younger than new.
    const leftMs = Math.ceil(entry.keptUntil - Math.max(clock.wall(), entry.storedAt))
    if (leftMs <= 0) return 'useless'
    const mark = await purges.known()
    if (!mark) return 'away'
    const bytes = codec.encode(key, { entry, mark })
    if (!bytes) {
      emit({ kind: 'cache-rejected', tier: 'redis', because: 'too-big' })
      return 'useless'
    }
    const message = replacedMessage(id, key, entry.storedAt)
    const args = [bytes, leftMs, channelName, message, fence ?? '']
    const written = await store.run(writeScript, [nameOf(key), `${nameOf(key)}:fence`], args)
    // A newer one is there: ours is not to be given here either.
    if (fence !== null && written.kind === 'known' && written.value === 0) memory.outdated(key, entry.storedAt + 1)
    if (written.kind === 'known' && written.value === 1) bus.trust(entry)
    return written.kind === 'away' ? 'away' : 'kept'
  }

  // While the store is away

  function waitFor(key: string, one: Waiting): void {
    takeWaiting(key)
    waiting.set(key, one)
    waitingBytes += one.entry.body.length
    retryLater()
  }

  /** For what was refused while the store is up, and to let go of what has waited too long. */
  function retryLater(): void {
    timer ??= clock.after(RETRY_MS, () => {
      timer = null
      for (const [key, { until }] of waiting) if (until <= clock.now()) takeWaiting(key)
      if (store.state === 'up') keepTrack(catchUp())
      if (waiting.size + waitingPurges.length > 0) retryLater()
    })
  }

  function takeWaiting(key: string): Waiting | null {
    const one = waiting.get(key)
    if (!one) return null
    waiting.delete(key)
    waitingBytes -= one.entry.body.length
    return one
  }

  function dropWaiting(filter: PurgeFilter): void {
    for (const [key, { entry }] of waiting) if (matches(entry, filter)) takeWaiting(key)
  }

  function forget(filter: PurgeFilter): void {
    dropWaiting(filter)
    memory.purge(filter)
  }

  /** One after the other: everybody comes back at the same moment. */
  async function catchUp(): Promise<void> {
    if (isCatchingUp) return
    isCatchingUp = true
    let isAway = false
    while (!isAway && waitingPurges[0]) {
      const [filter] = waitingPurges
      isAway = !(await purges.add(filter))
      if (!isAway) waitingPurges = waitingPurges.filter((one) => one !== filter)
    }
    for (const [key, one] of waiting) {
      if (isAway) break
      takeWaiting(key)
      isAway = (await send(key, one.entry, null)) === 'away'
      if (isAway && !waiting.has(key)) waitFor(key, one)
    }
    isCatchingUp = false
  }

  function keepTrack(work: Promise<unknown>): void {
    underWay.add(work)
    void work.finally(() => underWay.delete(work))
  }
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

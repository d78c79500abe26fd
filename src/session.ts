/**
 * The session of this process among all that share the store: one entry, one sign of life every few seconds. What a process holds in
 * the store (flights, permits, jobs, credits in hand) belongs to its session, so that who is gone is known in one place.
 *
 * Times are those of the store, measured on the monotonic clock of this process: a wall clock that is off by hours changes nothing.
 * While the store is away nobody is declared gone; nor is anybody for a while after the store was away, was replaced by another server
 * or has lost its data, because those who live need time to say so.
 */
import { luaScript } from './lua.ts'
import type { Clock, SharedStore, Timer } from './ports.ts'

export interface Session {
  /** The same for the whole life of this process, another one after a restart. */
  readonly id: string
  /**
   * What to write on things that the store may forget to forget: an id, and a generation that begins anew when the store has lost data. What is
   * marked with an older generation, and was not marked anew, is nobody's.
   */
  mark(): string
  /** How many processes live, this one included, as last heard. */
  size(): number
  /**
   * Not heard of for SILENT_MS, or ended, or (of a mark) of an older generation: others may take over what it was doing. Asks the store
   * before it says yes.
   */
  isLost(idOrMark: string): Promise<boolean>
  /** Lost for so long that others have taken over what they could: ENDS_MS of silence, or the time in between after an end. Asks as well. */
  isGone(id: string): Promise<boolean>
  /** No other process can have taken this one for lost. */
  isTrusted(): boolean
  /**
   * `ended`: it ended, or has been silent for ENDS_MS. `in-doubt`: so it is, but the store was away or lost data meanwhile. As of the last
   * sign of life, without asking; an id that nobody has heard of is in doubt.
   */
  fateOf(id: string): 'alive' | 'ended' | 'in-doubt'
  /** The ids of all that live, without this one; null = some may be missing, because the store has lost data. */
  others(): readonly string[] | null
  /** False = others may have declared this process gone, so nothing that its session holds may be used before the next sign of life. */
  isValid(): boolean
  /** The wall clock of the store. */
  wallMs(): number
  /** Gives a sign of life now, or rides along with the one under way. Resolves also when the store is away. */
  beat(): Promise<void>
  /**
   * Calls back after each sign of life. `isNew`: it is the first, or the store may have lost data, or others may have taken this process for
   * lost: what the session holds must be told again. Returns the way to stop listening.
   */
  onBeat(listener: (isNew: boolean) => void): () => void
  /** Ends the session: what it held is free. */
  close(): Promise<void>
}

export interface SessionPorts {
  readonly store: Pick<SharedStore, 'run' | 'onState'>
  readonly clock: Clock
  /** No other process's. */
  readonly id: string
}

const BEAT_MS = 5_000
/** Three signs of life were missed: what it was doing may be taken over. */
export const SILENT_MS = 15_000
/** Then its session is over, and what it held is given to others. */
export const ENDS_MS = 60_000
/** An entry so young may be unknown to others, so it is renewed often and valid only for a moment. */
const YOUNG_MS = 15_000
const YOUNG_BEAT_MS = 1_000
export const YOUNG_VALID_MS = 2_500
const MARGIN_MS = 2_000
const KEPT_MS = 60 * 60_000
const KEYS = ['session:{all}']

const script = luaScript('session.lua', import.meta.url, 1)

interface Seen {
  /** On the clock of this process. */
  readonly at: number
  /** 0 = it has ended. */
  readonly generation: number
}

export function createSession({ store, clock, id }: SessionPorts): Session {
  const seen = new Map<string, Seen>()
  const listeners = new Set<(isNew: boolean) => void>()
  const startedAt = clock.now()
  /** When the last sign of life that was heard had been sent, and when the reply came. */
  let sentAt = Number.NEGATIVE_INFINITY
  let sentWallAt = Number.NEGATIVE_INFINITY
  let heardAt = Number.NEGATIVE_INFINITY
  let replies = 0
  let generation = 1
  /** The first sign of life since then that was not heard. */
  let missedAt: number | null = null
  let changedAt = Number.NEGATIVE_INFINITY
  /** Until the store changed it was known who lives. */
  let wasInformed = false
  let server: string | null = null
  let aheadMs: number | null = null
  let underWay: Promise<void> | null = null
  let timer: Timer | null = null
  let isClosed = false
  const stopListening = store.onState((state) => void (state === 'up' && beat()))
  void beat()

  const mark = (): string => `${id}.${generation}`

  return { id, mark, size, isLost, isGone, isTrusted, fateOf, others, isValid, wallMs, beat, onBeat, close }

  function beat(): Promise<void> {
    if (isClosed) return Promise.resolve()
    underWay ??= once().finally(() => {
      underWay = null
    })
    return underWay
  }

  async function once(): Promise<void> {
    timer?.cancel()
    const at = clock.now()
    const wallAt = clock.wall()
    const said = await store.run(script, KEYS, [id, generation, SILENT_MS, KEPT_MS])
    const isNew = said.kind === 'known' ? hear(said.value, at, wallAt) : null
    if (isNew === null) missedAt ??= at
    if (isClosed) return
    timer = clock.after(clock.now() - startedAt < YOUNG_MS ? YOUNG_BEAT_MS : BEAT_MS, () => void beat())
    if (isNew !== null) for (const listener of listeners) listener(isNew)
  }

  /** Null = not a reply of the script. */
  function hear(reply: unknown, at: number, wallAt: number): boolean | null {
    const parsed = readReply(reply)
    if (!parsed) return null
    const now = clock.now()
    const toLocal = (ms: number): number => now - (parsed.nowMs - ms)
    const isFirst = heardAt === Number.NEGATIVE_INFINITY
    const isOther = server !== parsed.server
    const isForgotten = parsed.own === null || parsed.nowMs - parsed.own.ms > SILENT_MS
    const isNew = isOther || isForgotten || isFirst
    // Told to the others with the next sign of life: what is still ours has been marked anew by then.
    if (isNew && !isFirst) generation += 1
    const storeChangedAt = toLocal(parsed.changedAtMs)
    // The same moment is measured a little differently each time.
    if (storeChangedAt > changedAt + YOUNG_BEAT_MS) {
      wasInformed = (missedAt ?? now) - heardAt <= 2 * BEAT_MS
      changedAt = storeChangedAt
    }
    for (const { id: other, ms, generation } of parsed.entries) learn(other, { at: toLocal(ms), generation })
    forgetOld(now)
    server = parsed.server
    aheadMs = parsed.nowMs - now
    sentAt = at
    sentWallAt = wallAt
    heardAt = now
    replies += 1
    missedAt = null
    return isNew
  }

  /** A standby may know less than was known before. */
  function learn(other: string, now: Seen): void {
    const known = seen.get(other)
    const isOver = now.generation === 0
    if (!known || (isOver ? known.generation > 0 : now.at > known.at)) seen.set(other, now)
  }

  function forgetOld(now: number): void {
    for (const [other, { at }] of seen) if (now - at > KEPT_MS) seen.delete(other)
  }

  /**
   * How long it has been silent, for all that can be said: the time in which nobody could be heard does not count. A process that has ended
   * need not be waited for.
   */
  function silenceOf(other: string, now: number): number {
    const known = seen.get(other)
    return known?.generation === 0 ? now - known.at + SILENT_MS : now - Math.max(known?.at ?? changedAt, changedAt)
  }

  function isUpToDate(now: number): boolean {
    return now - heardAt <= 2 * BEAT_MS
  }

  function size(): number {
    const now = clock.now()
    let others = 0
    for (const other of seen.keys()) {
      // What was last heard holds while the store is away.
      if (other !== id && silenceOf(other, Math.min(now, heardAt)) < SILENT_MS) others += 1
    }
    return others + 1
  }

  async function isSurely(isSo: () => boolean): Promise<boolean> {
    if (!isSo()) return false
    const before = replies
    await beat()
    return replies > before && isSo()
  }

  function isLost(idOrMark: string): Promise<boolean> {
    const [other = '', of] = idOrMark.split('.')
    return isSurely(() => {
      if (of !== undefined && Number(of) < (other === id ? generation : (seen.get(other)?.generation ?? 0))) return true
      return other !== id && silenceOf(other, clock.now()) >= SILENT_MS
    })
  }

  function isGone(other: string): Promise<boolean> {
    return isSurely(() => other !== id && silenceOf(other, clock.now()) >= ENDS_MS)
  }

  function fateOf(other: string): 'alive' | 'ended' | 'in-doubt' {
    const now = clock.now()
    const known = seen.get(other)
    if (known?.generation === 0) return 'ended'
    if (other === id || !isUpToDate(now) || silenceOf(other, now) < ENDS_MS) return 'alive'
    return known && known.at >= changedAt ? 'ended' : 'in-doubt'
  }

  function others(): readonly string[] | null {
    const now = clock.now()
    const isComplete = isUpToDate(now) && (wasInformed || now - changedAt > ENDS_MS)
    return isComplete ? Array.from(seen.keys()).filter((other) => other !== id && fateOf(other) === 'alive') : null
  }

  /** Since the last sign of life. The wall clock counts the time in which the whole machine was suspended. */
  function passedMs(): number {
    return Math.max(clock.now() - sentAt, clock.wall() - sentWallAt)
  }

  function isTrusted(): boolean {
    return passedMs() < SILENT_MS - MARGIN_MS
  }

  function isValid(): boolean {
    return passedMs() < (sentAt - startedAt < YOUNG_MS ? YOUNG_VALID_MS : ENDS_MS - MARGIN_MS)
  }

  function wallMs(): number {
    return aheadMs === null ? clock.wall() : clock.now() + aheadMs
  }

  function onBeat(listener: (isNew: boolean) => void): () => void {
    listeners.add(listener)
    return () => void listeners.delete(listener)
  }

  async function close(): Promise<void> {
    isClosed = true
    stopListening()
    timer?.cancel()
    await underWay
    await store.run(script, KEYS, [id, 0, SILENT_MS, KEPT_MS])
  }
}

interface Reply {
  readonly nowMs: number
  readonly changedAtMs: number
  readonly server: string
  readonly own: Entry | null
  readonly entries: readonly Entry[]
}

interface Entry {
  readonly id: string
  readonly ms: number
  readonly generation: number
}

function readReply(value: unknown): Reply | null {
  if (!Array.isArray(value) || value.length < 4) return null
  const [nowMs, changedAtMs, server = '', own = '', ...flat] = value.map(String)
  const entries = flat.flatMap((id, index) => (index % 2 === 0 ? (entryOf(id, flat[index + 1] ?? '') ?? []) : []))
  return { nowMs: Number(nowMs), changedAtMs: Number(changedAtMs), server, own: entryOf('', own), entries }
}

function entryOf(id: string, text: string): Entry | null {
  const [, ms, generation] = /^(\d+) (\d+)$/.exec(text) ?? []
  return ms === undefined ? null : { id, ms: Number(ms), generation: Number(generation) }
}

/** For a process that shares nothing: whoever else there was is gone. */
export function soloSession(id: string, clock: Clock): Session {
  return {
    id,
    mark: () => id,
    size: () => 1,
    isLost: async (other) => other !== id,
    isGone: async (other) => other !== id,
    isTrusted: () => true,
    fateOf: (other) => (other === id ? 'alive' : 'ended'),
    others: () => [],
    isValid: () => true,
    wallMs: clock.wall,
    beat: async () => {},
    onBeat: () => () => {},
    close: async () => {},
  }
}

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

class SharedSession implements Session {
  readonly #store: Pick<SharedStore, 'run' | 'onState'>
  readonly #clock: Clock
  readonly id: string
  readonly #seen = new Map<string, Seen>()
  readonly #listeners = new Set<(isNew: boolean) => void>()
  readonly #startedAt: number
  /** When the last sign of life that was heard had been sent, and when the reply came. */
  #sentAt = Number.NEGATIVE_INFINITY
  #sentWallAt = Number.NEGATIVE_INFINITY
  #heardAt = Number.NEGATIVE_INFINITY
  #replies = 0
  #generation = 1
  /** The first sign of life since then that was not heard. */
  #missedAt: number | null = null
  #changedAt = Number.NEGATIVE_INFINITY
  /** Until the store changed it was known who lives. */
  #wasInformed = false
  #server: string | null = null
  #aheadMs: number | null = null
  #underWay: Promise<void> | null = null
  #timer: Timer | null = null
  #isClosed = false
  readonly #stopListening: () => void
  readonly mark = (): string => `${this.id}.${this.#generation}`

  constructor({ store, clock, id }: SessionPorts) {
    this.#store = store
    this.#clock = clock
    this.id = id
    this.#startedAt = clock.now()
    this.#stopListening = store.onState((state) => void (state === 'up' && this.beat()))
    void this.beat()
  }

  readonly size = (): number => {
    const now = this.#clock.now()
    let others = 0
    for (const other of this.#seen.keys()) {
      // What was last heard holds while the store is away.
      if (other !== this.id && this.#silenceOf(other, Math.min(now, this.#heardAt)) < SILENT_MS) others += 1
    }
    return others + 1
  }

  readonly isLost = (idOrMark: string): Promise<boolean> => {
    const [other = '', of] = idOrMark.split('.')
    return this.#isSurely(() => {
      if (
        of !== undefined &&
        Number(of) < (other === this.id ? this.#generation : (this.#seen.get(other)?.generation ?? 0))
      )
        return true
      return other !== this.id && this.#silenceOf(other, this.#clock.now()) >= SILENT_MS
    })
  }

  readonly isGone = (other: string): Promise<boolean> => {
    return this.#isSurely(() => other !== this.id && this.#silenceOf(other, this.#clock.now()) >= ENDS_MS)
  }

  readonly isTrusted = (): boolean => {
    return this.#passedMs() < SILENT_MS - MARGIN_MS
  }

  readonly fateOf = (other: string): 'alive' | 'ended' | 'in-doubt' => {
    const now = this.#clock.now()
    const known = this.#seen.get(other)
    if (known?.generation === 0) return 'ended'
    if (other === this.id || !this.#isUpToDate(now) || this.#silenceOf(other, now) < ENDS_MS) return 'alive'
    return known && known.at >= this.#changedAt ? 'ended' : 'in-doubt'
  }

  readonly others = (): readonly string[] | null => {
    const now = this.#clock.now()
    const isComplete = this.#isUpToDate(now) && (this.#wasInformed || now - this.#changedAt > ENDS_MS)
    return isComplete
      ? Array.from(this.#seen.keys()).filter((other) => other !== this.id && this.fateOf(other) === 'alive')
      : null
  }

  readonly isValid = (): boolean => {
    return this.#passedMs() < (this.#sentAt - this.#startedAt < YOUNG_MS ? YOUNG_VALID_MS : ENDS_MS - MARGIN_MS)
  }

  readonly wallMs = (): number => {
    return this.#aheadMs === null ? this.#clock.wall() : this.#clock.now() + this.#aheadMs
  }

  readonly beat = (): Promise<void> => {
    if (this.#isClosed) return Promise.resolve()
    this.#underWay ??= this.#once().finally(() => {
      this.#underWay = null
    })
    return this.#underWay
  }

  readonly onBeat = (listener: (isNew: boolean) => void): (() => void) => {
    this.#listeners.add(listener)
    return () => void this.#listeners.delete(listener)
  }

  readonly close = async (): Promise<void> => {
    this.#isClosed = true
    this.#stopListening()
    this.#timer?.cancel()
    await this.#underWay
    await this.#store.run(script, KEYS, [this.id, 0, SILENT_MS, KEPT_MS])
  }

  async #once(): Promise<void> {
    this.#timer?.cancel()
    const at = this.#clock.now()
    const wallAt = this.#clock.wall()
    const said = await this.#store.run(script, KEYS, [this.id, this.#generation, SILENT_MS, KEPT_MS])
    const isNew = said.kind === 'known' ? this.#hear(said.value, at, wallAt) : null
    if (isNew === null) this.#missedAt ??= at
    if (this.#isClosed) return
    this.#timer = this.#clock.after(
      this.#clock.now() - this.#startedAt < YOUNG_MS ? YOUNG_BEAT_MS : BEAT_MS,
      () => void this.beat(),
    )
    if (isNew !== null) for (const listener of this.#listeners) listener(isNew)
  }

  /** Null = not a reply of the script. */
  #hear(reply: unknown, at: number, wallAt: number): boolean | null {
    const parsed = readReply(reply)
    if (!parsed) return null
    const now = this.#clock.now()
    const toLocal = (ms: number): number => now - (parsed.nowMs - ms)
    const isFirst = this.#heardAt === Number.NEGATIVE_INFINITY
    const isOther = this.#server !== parsed.server
    const isForgotten = parsed.own === null || parsed.nowMs - parsed.own.ms > SILENT_MS
    const isNew = isOther || isForgotten || isFirst
    // Told to the others with the next sign of life: what is still ours has been marked anew by then.
    if (isNew && !isFirst) this.#generation += 1
    const storeChangedAt = toLocal(parsed.changedAtMs)
    // The same moment is measured a little differently each time.
    if (storeChangedAt > this.#changedAt + YOUNG_BEAT_MS) {
      this.#wasInformed = (this.#missedAt ?? now) - this.#heardAt <= 2 * BEAT_MS
      this.#changedAt = storeChangedAt
    }
    for (const { id: other, ms, generation } of parsed.entries) this.#learn(other, { at: toLocal(ms), generation })
    this.#forgetOld(now)
    this.#server = parsed.server
    this.#aheadMs = parsed.nowMs - now
    this.#sentAt = at
    this.#sentWallAt = wallAt
    this.#heardAt = now
    this.#replies += 1
    this.#missedAt = null
    return isNew
  }

  /** A standby may know less than was known before. */
  #learn(other: string, now: Seen): void {
    const known = this.#seen.get(other)
    const isOver = now.generation === 0
    if (!known || (isOver ? known.generation > 0 : now.at > known.at)) this.#seen.set(other, now)
  }

  #forgetOld(now: number): void {
    for (const [other, { at }] of this.#seen) if (now - at > KEPT_MS) this.#seen.delete(other)
  }

  /**
   * How long it has been silent, for all that can be said: the time in which nobody could be heard does not count. A process that has ended
   * need not be waited for.
   */
  #silenceOf(other: string, now: number): number {
    const known = this.#seen.get(other)
    return known?.generation === 0
      ? now - known.at + SILENT_MS
      : now - Math.max(known?.at ?? this.#changedAt, this.#changedAt)
  }

  #isUpToDate(now: number): boolean {
    return now - this.#heardAt <= 2 * BEAT_MS
  }

  async #isSurely(isSo: () => boolean): Promise<boolean> {
    if (!isSo()) return false
    const before = this.#replies
    await this.beat()
    return this.#replies > before && isSo()
  }

  /** Since the last sign of life. The wall clock counts the time in which the whole machine was suspended. */
  #passedMs(): number {
    return Math.max(this.#clock.now() - this.#sentAt, this.#clock.wall() - this.#sentWallAt)
  }
}

export function createSession(ports: SessionPorts): Session {
  return new SharedSession(ports)
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

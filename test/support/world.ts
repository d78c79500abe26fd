/**
 * A world under control: time moves only when a test moves it, chance repeats itself, and what is told to telemetry is
 * kept. The clock starts at a real epoch, because some libraries take a time near 0 for "never".
 */
import type { Clock, Emit, Random, Timer } from '../../src/ports.ts'
import type { TelemetryEvent } from '../../src/telemetry/events.ts'

export interface FakeClock extends Clock {
  /** Lets the time pass: timers fire in order, and what waits for them settles in between. */
  advance(ms: number): Promise<void>
  /** Lets the time pass until `work` has settled, however long that takes. Fails where nothing can settle it any more. */
  finish<T>(work: Promise<T>): Promise<T>
  /** Lets everything settle that needs no time. */
  settle(): Promise<void>
  /** Steps the wall clock, as an operator or NTP would; `now` does not notice. */
  stepWall(ms: number): void
  /** Timers that are armed. */
  readonly timers: number
}

export interface FakeWorld {
  readonly clock: FakeClock
  readonly random: Random
  readonly emit: Emit
  readonly events: readonly TelemetryEvent[]
  /** The events of one kind, in order. */
  readonly told: <K extends TelemetryEvent['kind']>(kind: K) => Extract<TelemetryEvent, { kind: K }>[]
}

export const epoch = Date.UTC(2026, 0, 15, 12)

export function fakeWorld(seed = 1): FakeWorld {
  const events: TelemetryEvent[] = []
  return {
    clock: fakeClock(),
    random: seededRandom(seed),
    emit: (event) => void events.push(event),
    events,
    told: <K extends TelemetryEvent['kind']>(kind: K) =>
      events.filter((event): event is Extract<TelemetryEvent, { kind: K }> => event.kind === kind),
  }
}

interface Armed {
  readonly at: number
  readonly job: () => void
}

export function fakeClock(startAt = epoch): FakeClock {
  const armed = new Set<Armed>()
  let now = startAt
  let wallAheadMs = 0

  function after(ms: number, job: () => void): Timer {
    const timer = { at: now + Math.max(0, ms), job }
    armed.add(timer)
    return { cancel: () => void armed.delete(timer) }
  }

  /** Of those that are due at the same time, the one armed first: a set keeps its order. */
  function next(): Armed | null {
    let first: Armed | null = null
    for (const timer of armed) if (!first || timer.at < first.at) first = timer
    return first
  }

  async function fire(timer: Armed): Promise<void> {
    armed.delete(timer)
    now = Math.max(now, timer.at)
    timer.job()
    await settle()
  }

  async function advance(ms: number): Promise<void> {
    const until = now + ms
    await settle()
    for (let timer = next(); timer && timer.at <= until; timer = next()) await fire(timer)
    now = until
    await settle()
  }

  async function finish<T>(work: Promise<T>): Promise<T> {
    const progress = { isSettled: false }
    const done = (): void => void (progress.isSettled = true)
    work.then(done, done)
    await settle()
    while (!progress.isSettled) {
      const timer = next()
      if (!timer) throw new Error('No timer is armed, and the work has not settled: it hangs.')
      await fire(timer)
    }
    return work
  }

  return {
    now: () => now,
    wall: () => Math.floor(now + wallAheadMs),
    after,
    advance,
    finish,
    settle,
    stepWall: (ms) => void (wallAheadMs += ms),
    get timers() {
      return armed.size
    },
  }
}

/** Once round the event loop: by then all promise reactions have run, and those that they brought about. */
async function settle(): Promise<void> {
  await new Promise(setImmediate)
}

/** Mulberry32: small, and the same everywhere. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0
  let ids = 0

  function next(): number {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }

  return { next, id: () => `00000000-0000-4000-8000-${String((ids += 1)).padStart(12, '0')}` }
}

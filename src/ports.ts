/**
 * The outside world as interfaces. The real ones live in `world/`; tests hand in their own. Nothing below `compose.ts`
 * may reach for time, chance, the network or the disk in any other way.
 */
import type { UpstreamRequest, WireResult } from './model.ts'
import type { TelemetryEvent } from './telemetry/events.ts'

export interface Timer {
  cancel(): void
}

export interface Clock {
  /** Epoch milliseconds that never run backwards: for deadlines, pauses, limits and durations. */
  now(): number
  /** Epoch milliseconds of the wall: for what is stored, shown, or counted by UTC days. Follows clock steps. */
  wall(): number
  /** Runs `job` once after `ms`. Does not keep the process alive. */
  after(ms: number, job: () => void): Timer
}

export interface Random {
  /** Uniform in [0, 1). */
  next(): number
  /** A new request id: 36 visible ASCII characters, unguessable. */
  id(): string
}

export interface Transport {
  /** One buffered exchange with upstream. Never rejects: wire failures are values. */
  forward(request: UpstreamRequest): Promise<WireResult>
  /** Ends all connections: what is under way breaks as `aborted`. */
  close(): void
}

/** Tells telemetry that something happened beside an outcome. Never throws. */
export type Emit = (event: TelemetryEvent) => void

export interface World {
  readonly clock: Clock
  readonly random: Random
}

/**
 * How a port is given up: first only said (readiness), while every answer closes its connection, then no new connections, then,
 * when the grace ends, the rest is cut. Node's own `close` takes answers for finished that are still being written, and cuts
 * them; so which connections are idle is decided here.
 */
import type { Server as HttpServer } from 'node:http'
import { Server as NetServer, type Socket } from 'node:net'
import type { Clock, Timer } from '../ports.ts'

export interface DrainTimes {
  /** How long connections are still taken, so that balancers can look elsewhere. */
  readonly readinessDelayMs: number
  /** How long open requests may go on after that. */
  readonly graceMs: number
}

export type Drained = 'clean' | 'forced'

export interface Drainer {
  /** Answers end the connections they go over. */
  readonly draining: boolean
  /** No new connection is taken. */
  readonly stopped: boolean
  /** The same promise each time; another call sets the times anew. */
  drain(times: DrainTimes): Promise<Drained>
}

/** What of a connection decides whether it is idle. */
export interface Activity {
  /** Requests that have not been answered. */
  readonly open: number
  /** How much the connection had brought when its last request was complete: more than that is the next one's beginning. */
  readonly seenBytes: number
}

const sweepMs = 250

export interface Cuts {
  /** Connections over which nothing can have been asked yet. */
  readonly cutHandshakes: () => void
  /** Every connection, those as well that are not among the known ones yet. */
  readonly cut: () => void
}

export function createDrainer(
  server: HttpServer,
  connections: ReadonlyMap<Socket, Activity>,
  clock: Clock,
  { cutHandshakes, cut }: Cuts,
): Drainer {
  const { promise, resolve } = Promise.withResolvers<Drained>()
  let result: Drained = 'clean'
  let timers: Timer[] = []
  let sweeping: Timer | null = null

  // Read with every request: values, not getters.
  const drainer = {
    draining: false,
    stopped: false,
    drain({ readinessDelayMs, graceMs }: DrainTimes) {
      drainer.draining = true
      cancel()
      at(readinessDelayMs, stop)
      at(readinessDelayMs + graceMs, force)
      return promise
    },
  }
  return drainer

  function at(ms: number, job: () => void): void {
    if (ms <= 0) job()
    else timers.push(clock.after(ms, job))
  }

  function cancel(): void {
    for (const timer of timers) timer.cancel()
    timers = []
  }

  function stop(): void {
    if (drainer.stopped) return
    drainer.stopped = true
    NetServer.prototype.close.call(server, () => {
      // Nothing is left to close but Node's interval that looks for slow requests.
      server.close(() => {})
      cancel()
      sweeping?.cancel()
      resolve(result)
    })
    cutHandshakes()
    sweep()
  }

  /** Again and again: an answer without `Connection: close` may still be on its way when the drain begins. */
  function sweep(): void {
    for (const [socket, { open, seenBytes }] of connections) {
      if (open === 0 && socket.writableLength === 0 && socket.bytesRead === seenBytes) socket.destroy()
    }
    sweeping = clock.after(sweepMs, sweep)
  }

  function force(): void {
    stop()
    for (const { open } of connections.values()) if (open > 0) result = 'forced'
    cut()
  }
}

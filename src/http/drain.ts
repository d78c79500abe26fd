/**
 * How a port is given up: first only said (readiness), then no new connections and every answer closes its own, then, when
 * the grace ends, the rest is cut. Node ends idle connections but once, at the beginning; here they are swept.
 */
import type { Server as HttpServer } from 'node:http'
import type { Socket } from 'node:net'
import type { Clock, Timer } from '../ports.ts'

export interface DrainTimes {
  /** How long connections are still taken, so that balancers can look elsewhere. */
  readonly readinessDelayMs: number
  /** How long open requests may go on after that. */
  readonly graceMs: number
}

export type Drained = 'clean' | 'forced'

export interface Drainer {
  readonly draining: boolean
  /** No new connection is taken, and answers end the connections they go over. */
  readonly stopped: boolean
  /** The same promise each time; another call sets the times anew. */
  drain(times: DrainTimes): Promise<Drained>
}

export interface Drainable {
  readonly server: HttpServer
  readonly sockets: () => Iterable<Socket>
  readonly openRequests: () => number
}

const sweepMs = 250

export function createDrainer({ server, sockets, openRequests }: Drainable, clock: Clock): Drainer {
  const { promise, resolve } = Promise.withResolvers<Drained>()
  let draining = false
  let stopped = false
  let result: Drained = 'clean'
  let timers: Timer[] = []
  let sweeping: Timer | null = null

  return {
    get draining() {
      return draining
    },
    get stopped() {
      return stopped
    },
    drain({ readinessDelayMs, graceMs }) {
      draining = true
      cancel()
      at(readinessDelayMs, stop)
      at(readinessDelayMs + graceMs, force)
      return promise
    },
  }

  function at(ms: number, job: () => void): void {
    if (ms <= 0) job()
    else timers.push(clock.after(ms, job))
  }

  function cancel(): void {
    for (const timer of timers) timer.cancel()
    timers = []
  }

  function stop(): void {
    if (stopped) return
    stopped = true
    server.close(() => {
      cancel()
      sweeping?.cancel()
      resolve(result)
    })
    sweep()
  }

  /** Connections on which an answer without `Connection: close` was still being written, and those that never spoke. */
  function sweep(): void {
    server.closeIdleConnections()
    for (const socket of sockets()) if (socket.bytesRead === 0) socket.destroy()
    sweeping = clock.after(sweepMs, sweep)
  }

  function force(): void {
    stop()
    if (openRequests() > 0) result = 'forced'
    for (const socket of sockets()) socket.destroy()
  }
}

/**
 * One replica: the composition of production (`compose.ts`), in a world of models. Only its two doors are played: callers hand requests
 * in instead of writing to a socket, and the operator reads status and metrics without a port.
 */
import prom from 'prom-client'
import { compose, type App, type Listeners } from '../../src/compose.ts'
import type { Loaded } from '../../src/config/load.ts'
import type { SettingsSource } from '../../src/config/reload.ts'
import type { Drained } from '../../src/http/drain.ts'
import type { Response } from '../../src/http/respond.ts'
import type { AdminParts } from '../../src/http/admin.ts'
import type { ServerParts } from '../../src/http/server.ts'
import type { StatusReport } from '../../src/http/status.ts'
import type { ProxyRequest } from '../../src/model.ts'
import type { Random, World } from '../../src/ports.ts'
import { createRedis } from '../../src/world/redis.ts'
import type { Machine } from './disk.ts'
import type { Process } from './process.ts'
import type { RedisLink } from './redis-link.ts'
import type { Vendor } from './vendor.ts'

export interface Replica {
  readonly process: Process
  readonly app: App
  /** Takes requests. */
  readonly isOpen: boolean
  /** Null = the caller had hung up. Never resolves when the process dies. */
  ask(request: ProxyRequest): Promise<Response | null>
  status(): StatusReport
  metrics(): Promise<string>
  purge(body: string): Promise<unknown>
}

export interface ReplicaParts {
  readonly loaded: Loaded
  readonly source: SettingsSource
  readonly index: number
  readonly life: number
  readonly process: Process
  readonly random: Random
  readonly vendor: Pick<Vendor, 'connect'>
  readonly machine: Machine
  readonly link: RedisLink
  /** The share of its memory that it uses. */
  readonly memory: () => number
  /** Everything it writes anywhere. */
  readonly wrote: (text: string, where: 'log' | 'audit') => void
}

/** They are of the real process, and each registry would start timers and observers of its own. */
Object.assign(prom, { collectDefaultMetrics: () => {} })

export function createReplica({
  loaded,
  source,
  index,
  life,
  process,
  random,
  vendor,
  machine,
  link,
  memory,
  wrote,
}: ReplicaParts): Replica {
  const { clock } = process
  let server: ServerParts | null = null
  let admin: AdminParts | null = null
  let isListening = false
  let isDraining = false
  let isStopped = false
  let open = 0
  const idle = Promise.withResolvers<Drained>()

  const world: World = {
    clock,
    random,
    environment: {},
    output: {
      write: (text) => {
        if (process.act()) wrote(text, 'log')
      },
      flush() {},
    },
    connect: () => vendor.connect(process, index, life),
    openDisk: () => machine.openDisk(process),
    openAuditFile: () => ({
      append: (line) => wrote(line, 'audit'),
      state: 'up',
      flush: async () => {},
      close: async () => {},
    }),
    openShared: (options, emit) => createRedis(options, clock, random, emit, link.connect),
    post: async () => null,
    gaugePressure: () => ({
      limitBytes: 1024 ** 3,
      read: () => ({ eventLoopDelayMs: 1, eventLoopBusy: 0.1, memory: memory() }),
      reclaim() {},
      close() {},
    }),
    watchFile: () => ({ close() {} }),
  }

  const doors: Listeners = {
    createServer(_options, parts) {
      server = parts
      return {
        listen: async () => void (isListening = true),
        port: 1,
        get openRequests() {
          return open
        },
        get draining() {
          return isDraining
        },
        drain({ readinessDelayMs, graceMs }) {
          isDraining = true
          const stop = clock.after(readinessDelayMs, () => {
            isStopped = true
            if (open === 0) idle.resolve('clean')
          })
          const grace = clock.after(readinessDelayMs + graceMs, () => idle.resolve('forced'))
          // It may be hurried, and end before any of these.
          return idle.promise.finally(() => {
            stop.cancel()
            grace.cancel()
          })
        },
      }
    },
    createAdmin(_options, parts) {
      admin = parts
      return { listen: async () => {}, port: 2, setToken() {}, close: async () => {} }
    },
  }

  const app = compose(loaded, world, 'simulated', doors, source)

  return {
    process,
    app,
    get isOpen() {
      return process.isAlive && isListening && !isStopped
    },
    async ask(request) {
      const parts = known(server)
      const { handle, respond } = parts.generations.current
      const exchange = { request, client: null, call: null, limits: null, credits: [], flight: null }
      open += 1
      try {
        return respond(exchange, await handle(exchange), clock.wall())
      } finally {
        open -= 1
        if (open === 0 && isStopped) idle.resolve('clean')
      }
    },
    status: () => known(admin).status() as StatusReport,
    metrics: async () => (await known(admin).metrics(undefined)).body,
    async purge(body) {
      const route = known(admin).routes?.find(({ path }) => path === '/cache/purge')
      return route?.run({ segment: '', params: new URLSearchParams(), body })
    },
  }
}

function known<T>(part: T | null): T {
  if (part === null) throw new TypeError('The composition has not opened its doors')
  return part
}

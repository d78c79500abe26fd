/**
 * Replicas of the real program before one simulated upstream, with what they share: a real Redis behind a line that can be
 * spoilt, or a file on the disk. Each life of a replica has an upstream key of its own, so that the ledger of upstream says
 * what every one of them was charged, those that were killed, too.
 */
import http from 'node:http'
import { createSimulator, type Simulator, type SimulatorOptions } from '../../src/simulator/simulator.ts'
import { type FaultProxy, startFaultProxy } from '../support/fault-proxy.ts'
import { type Running, startProxy } from '../support/process.ts'
import { type RedisProcess, startRedis } from '../support/redis.ts'
import type { Scope } from '../support/scope.ts'

export const TEAM_TOKEN = 'team-token-0123456789'

export interface FleetOptions {
  readonly size: number
  readonly store: 'redis' | { readonly diskPath: string; readonly maxSize?: string }
  readonly isDurable?: boolean
  /** Of the client `team`; the other one, anonymous, has no limit. */
  readonly teamCredits?: number
  readonly latency?: SimulatorOptions['latency']
  readonly sets?: readonly string[]
  /** Loaded into each replica before it begins. */
  readonly preload?: string
  readonly environment?: Readonly<Record<string, string>>
}

/** One life of a replica, from its start to its end. */
export interface Life {
  readonly name: string
  readonly secret: string
  readonly program: Running
  readonly agent: http.Agent
  state: 'up' | 'stopped' | 'leaving' | 'over'
  /** Its asks were cut by us: nothing can be promised for them. */
  isKilled: boolean
}

export interface Fleet {
  readonly options: FleetOptions
  readonly sim: Simulator
  readonly redis: RedisProcess | null
  /** Between the replicas and Redis. */
  readonly redisLine: FaultProxy | null
  /** Between the replicas and upstream. */
  readonly upstreamLine: FaultProxy
  readonly lives: readonly Life[]
  /** Those that can be asked now. */
  readonly up: () => readonly Life[]
  readonly begin: () => Promise<Life>
  readonly kill: (life: Life) => Promise<void>
  readonly stop: (life: Life) => void
  readonly resume: (life: Life) => void
  /** SIGTERM. Resolves when it has ended; asks that are open are its promise. */
  readonly dismiss: (life: Life) => Promise<void>
}

const quick = [
  'retry.backoff={ base: 1ms, max: 5ms }',
  'retry.budget={ capacity: 100000, cost: 1, costSlow: 1, refill: 1s }',
  'retry.classes={ rateLimited: { backoff: { base: 1ms } }, queueFull: { backoff: { base: 1ms } }, warmingUp: { backoff: { base: 1ms } } }',
  'breaker={ consecutive: 10000, failureRate: 1, window: 10000, minimum: 10000, hold: 0s }',
  'upstream.maxConcurrent=2000',
  'cache.emptyResultTtl=0s',
  'shutdown.grace=120s',
  // How late a busy machine is says nothing here.
  'overload.eventLoopDelay=60s',
]

export async function createFleet(scope: Scope, options: FleetOptions): Promise<Fleet> {
  const { store, latency = { minMs: 2, maxMs: 120 } } = options
  const sim = createSimulator({ latency })
  const { port } = await sim.start()
  scope.teardown(() => sim.close())
  const upstreamLine = await startFaultProxy(scope, port)
  const redis = store === 'redis' ? await startRedis(scope) : null
  const redisLine = redis && (await startFaultProxy(scope, redis.port))
  const lives: Life[] = []
  let born = 0

  const sets = [
    ...quick,
    'clients.anonymous={}',
    `clients.team={ token: ${TEAM_TOKEN}, credits: { perMonth: ${options.teamCredits ?? 1_000_000} } }`,
    `jobs.execution=${options.isDurable ? 'durable' : 'sync'}`,
    ...storeSets(),
    ...(options.sets ?? []),
  ]

  function storeSets(): string[] {
    if (redisLine) return [`redis.url=${redisLine.url}`, 'redis.signingKey=signing-key-of-the-faults']
    const { diskPath, maxSize = '64MiB' } = store as Exclude<FleetOptions['store'], 'redis'>
    return [`cache.disk={ path: "${diskPath}", maxSize: ${maxSize} }`]
  }

  async function begin(): Promise<Life> {
    const name = `life-${(born += 1)}`
    const secret = `upstream-key-of-${name}`
    const { preload } = options
    const nodeOptions = preload ? { NODE_OPTIONS: `${process.env['NODE_OPTIONS'] ?? ''} --import ${preload}` } : {}
    const environment = { SCRAPELLM_API_KEY: secret, ...options.environment, ...nodeOptions }
    const upstream = `http://127.0.0.1:${upstreamLine.port}`
    const program = await startProxy(scope, upstream, sets, environment)
    if (redis) await program.saw(/"msg":"redis is up"/)
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1_000 })
    scope.teardown(() => {
      agent.destroy()
      // A stopped process does not even end.
      program.signal('SIGCONT')
    })
    const life: Life = { name, secret, program, agent, state: 'up', isKilled: false }
    lives.push(life)
    return life
  }

  await Promise.all(Array.from({ length: options.size }, begin))

  return {
    options,
    sim,
    redis,
    redisLine,
    upstreamLine,
    lives,
    up: () => lives.filter(({ state }) => state === 'up'),
    begin,
    async kill(life) {
      life.state = 'over'
      life.isKilled = true
      life.program.signal('SIGKILL')
      await life.program.ended
      life.agent.destroy()
    },
    stop(life) {
      life.state = 'stopped'
      life.program.signal('SIGSTOP')
    },
    resume(life) {
      life.program.signal('SIGCONT')
      life.state = 'up'
    },
    async dismiss(life) {
      life.state = 'leaving'
      life.program.signal('SIGTERM')
      await life.program.ended
      life.state = 'over'
    },
  }
}

/** The incidents: what happens, and the one alert that must say so. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type RedisProcess, startRedis } from '../support/redis.ts'
import type { Scope } from '../support/scope.ts'
import { type Stage, type StageOptions, UPSTREAM_KEY } from './stage.ts'

export interface Incident {
  /** What an operator would call it. */
  readonly name: string
  /** Without its prefix; null = none may be raised. */
  readonly alert: string | null
  readonly prepare?: (scope: Scope) => StageOptions | Promise<StageOptions>
  readonly happens: (stage: Stage) => unknown
}

const preload = (name: string): string => `--import=${fileURLToPath(new URL(name, import.meta.url))}`

let redis: RedisProcess | null = null

async function withRedis(scope: Scope): Promise<StageOptions> {
  redis = await startRedis(scope)
  return { settings: { redis: { url: redis.url } } }
}

/** A small volume of memory, so that it can be full. */
function smallVolume(scope: Scope): StageOptions {
  const folder = mkdtempSync(join(tmpdir(), 'incident-volume-'))
  scope.teardown(() => rmSync(folder, { recursive: true, force: true }))
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=6m', 'tmpfs', folder])
  scope.teardown(() => execFileSync('umount', ['-l', folder]))
  const settings = {
    cache: { disk: { path: join(folder, 'cache.db') } },
    audit: { path: join(folder, 'audit.ndjson') },
    clients: { 'search-team': { credits: { perMonth: 1_000_000 } } },
  }
  return { settings, folder }
}

function steppedClock(scope: Scope): StageOptions {
  const folder = mkdtempSync(join(tmpdir(), 'incident-clock-'))
  scope.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const environment = {
    NODE_OPTIONS: preload('../faults/clock-step.ts'),
    CLOCK_OFFSET_FILE: join(folder, 'offset'),
  }
  return { folder, environment }
}

export const incidents: readonly Incident[] = [
  { name: 'calm', alert: null, happens: () => undefined },
  {
    name: '503 storm',
    alert: 'CircuitOpen',
    happens: ({ sim }) => sim.weather('chatgpt', { outage: true }),
  },
  {
    name: 'spent key',
    alert: 'OutOfCredits',
    happens: ({ sim }) => sim.setKey(UPSTREAM_KEY, { credits: 0 }),
  },
  {
    name: 'slow upstream (+75 s)',
    alert: 'UpstreamSlow',
    prepare: () => ({ environment: { NODE_OPTIONS: preload('scaled-pace.ts') } }),
    happens: ({ sim }) => sim.weather('chatgpt', { outage: { kind: '200', delayMs: 5_000 } }),
  },
  {
    name: 'budget burn',
    alert: 'BudgetNearlySpent',
    prepare: () => ({ settings: { clients: { batch: { credits: { perDay: 300 } } } } }),
    // 85 % of it.
    happens: (stage) => Promise.all(Array.from({ length: 85 }, (_, n) => stage.ask(`burn ${n}`, 'batch'))),
  },
  { name: 'Redis hangs', alert: 'RedisDown', prepare: withRedis, happens: () => redis?.pause() },
  { name: 'Redis refuses connections', alert: 'RedisDown', prepare: withRedis, happens: () => redis?.kill() },
  {
    name: 'bad reload',
    alert: 'ReloadRefused',
    happens: ({ write, settings }) => write({ ...settings, cache: { tl: '1h' } }),
  },
  {
    name: 'disk full',
    alert: 'DiskCacheLost',
    prepare: smallVolume,
    happens({ folder }) {
      try {
        writeFileSync(join(folder, 'ballast'), Buffer.alloc(16 * 1024 * 1024))
      } catch {
        // No room is left: that is what it is for.
      }
    },
  },
  {
    name: 'retry storm (45 % of attempts fail)',
    alert: 'RetryAmplification',
    happens: ({ sim }) => sim.weather('chatgpt', { failureRate: 0.45, failures: ['500'] }),
  },
  {
    name: 'memory in a small container',
    alert: 'MemoryHigh',
    prepare: () => ({
      environment: { NODE_OPTIONS: preload('small-container.ts') },
      settings: { cache: { memory: { maxSize: '256MiB' } } },
    }),
    async happens({ sim, ask }) {
      sim.weather('chatgpt', { outage: { kind: 'huge', bytes: 600_000 } })
      for (let round = 0; round < 9; round += 1)
        await Promise.all(Array.from({ length: 12 }, (_, n) => ask(`big ${round} ${n}`)))
    },
  },
  {
    name: 'a hammering client',
    alert: 'ClientLimited',
    prepare: () => ({ settings: { clients: { batch: { rate: { limit: 60, per: '1m' } } } } }),
    async happens({ ask }) {
      const until = Date.now() + 30_000
      while (Date.now() < until) {
        await Promise.all(Array.from({ length: 10 }, (_, n) => ask(`again ${n}`, 'batch')))
        await new Promise((resolve) => setTimeout(resolve, 200))
      }
    },
  },
  { name: 'kill -9', alert: 'Down', happens: ({ program }) => program.signal('SIGKILL') },
  { name: 'upstream refuses connections', alert: 'UpstreamUnreachable', happens: ({ sim }) => sim.close() },
  {
    name: 'the clock steps by an hour',
    alert: 'ClockWrong',
    prepare: steppedClock,
    happens({ folder, program }) {
      writeFileSync(join(folder, 'offset'), '3600000')
      program.signal('SIGUSR2')
    },
  },
]

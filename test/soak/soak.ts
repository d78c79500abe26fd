/** The real program and the simulated upstream, each in a process of its own, under traffic for a while: how they stand before, meanwhile and after. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { createDice } from '../faults/dice.ts'
import { startProgram } from '../support/process.ts'
import { request } from '../support/proxy.ts'
import type { Scope } from '../support/scope.ts'
import { type Sample, sampleOf, type Watched } from './sampler.ts'
import { startTraffic, type Traffic } from './traffic.ts'

export interface SoakOptions {
  readonly forMs: number
  readonly perSecond: number
  readonly seed: number
  readonly everyMs: number
  readonly patienceMs?: number
  readonly onSample?: (sample: Sample, atMs: number, traffic: Traffic) => void
}

export interface Soaked {
  /** Warm, with nothing to do. */
  readonly before: Sample
  readonly samples: readonly { readonly atMs: number; readonly sample: Sample }[]
  /** All traffic has stopped, and what it left has ended. */
  readonly after: Sample
  readonly traffic: Traffic
  readonly reloads: number
  readonly stderr: string
}

const TOKEN = 'soak-token-0123456789'

/** Bounds that are reached while it warms up: what still grows then has none. */
function settings(upstream: string, folder: string, turn: number): string {
  return `
listen: { port: 0 }
admin: { port: 0 }
upstream: { url: "${upstream}", keys: [{ name: main, secret: upstream-key-of-the-soak }], maxConcurrent: 500 }
clients:
  soak: { token: ${TOKEN}, rate: { limit: ${100_000 + (turn % 2)}, per: 1m }, concurrency: 400, credits: { perDay: 100000000 } }
cache: { ttl: 2m, staleIfError: 1m, memory: { maxSize: 2MiB }, disk: { path: "${join(folder, 'cache.db')}", maxSize: 8MiB } }
overload: { eventLoopDelay: 60s }
retry: { backoff: { base: 50ms, max: 200ms } }
breaker: { consecutive: 10000, failureRate: 1, window: 10000, minimum: 10000, hold: 0s }
audit: { path: "${join(folder, 'audit.ndjson')}", maxSize: 1MiB }
`
}

export async function soak(scope: Scope, options: SoakOptions): Promise<Soaked> {
  const folder = mkdtempSync(join(tmpdir(), 'slp-soak-'))
  scope.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const config = join(folder, 'soak.yaml')
  const simulator = startProgram(scope, ['simulator', '--port', '0'])
  const [, upstream = ''] = await simulator.saw(/listens on (http:\S+?)\. /)
  writeFileSync(config, settings(upstream, folder, 0))
  const program = startProgram(scope, ['--config', config], {
    keepsBytes: 100_000,
    environment: {
      NODE_OPTIONS: `${process.env['NODE_OPTIONS'] ?? ''} --import ${new URL('timers.ts', import.meta.url).href}`,
    },
  })
  const [line] = await program.saw(/^.*"msg":"listening".*$/m)
  const { url, admin_url: adminUrl } = JSON.parse(line) as { url: string; admin_url: string }
  let turn = 0
  const watched: Watched = {
    adminUrl,
    pid: program.pid(),
    async timers() {
      turn += 1
      program.signal('SIGUSR2')
      const [, count] = await program.saw(new RegExp(`"msg":"armed timers","turn":${turn},"count":(\\d+)`))
      return Number(count)
    },
  }

  const { perSecond, seed, patienceMs = 12_000 } = options
  const under = (seed: number): Traffic =>
    startTraffic({ url, token: TOKEN, perSecond, patienceMs, dice: createDice(seed) })
  // Once through everything, so that what is made on first use is there.
  const warming = under(seed)
  await pause(Math.min(2_000, options.forMs / 4))
  await warming.stop()
  const before = await rest(watched)

  const traffic = under(seed + 1)
  const startedAt = performance.now()
  const samples: Soaked['samples'][number][] = []
  const mayReload = await knowsReload(adminUrl)
  let reloads = 0
  for (let atMs = 0; atMs < options.forMs; atMs = performance.now() - startedAt) {
    await pause(Math.min(options.everyMs, options.forMs - atMs))
    const sample = await sampleOf(watched)
    samples.push({ atMs, sample })
    options.onSample?.(sample, atMs, traffic)
    if (mayReload) {
      reloads += 1
      writeFileSync(config, settings(upstream, folder, reloads))
      program.signal('SIGHUP')
    }
  }
  await traffic.stop()
  const after = await rest(watched, before)
  return { before, samples, after, traffic, reloads, stderr: program.stderr() }
}

/** What is counted, not weighed: must be at the end what it was at the start. */
export const counted = [
  'openFiles',
  'timers',
  'sockets',
  'inFlight',
  'upstreamInFlight',
  'flights',
  'heldCredits',
] as const

const IDLE_MS = 5_000
const LONGEST_MS = 60_000

/** Nothing is under way, and connections that were kept for more have been closed: or as few are left as there were `before`. */
async function rest(watched: Watched, before?: Sample): Promise<Sample> {
  const startedAt = performance.now()
  let last = await sampleOf(watched)
  let quietSince = startedAt
  for (;;) {
    const now = await sampleOf(watched)
    const isBusy = now.inFlight + now.upstreamInFlight + now.flights > 0
    if (isBusy || now.openFiles !== last.openFiles) quietSince = performance.now()
    last = now
    const isAsBefore = before !== undefined && counted.every((name) => now[name] <= before[name])
    const isQuiet = before === undefined && performance.now() - quietSince > IDLE_MS
    if (isAsBefore || isQuiet || performance.now() - startedAt > LONGEST_MS) return now
    await pause(100)
  }
}

async function knowsReload(adminUrl: string): Promise<boolean> {
  const { text } = await request(undefined, `${adminUrl}/metrics`)
  return text.includes('scrapellm_proxy_config_reloads_total')
}

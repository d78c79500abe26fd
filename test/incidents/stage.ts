/**
 * What an incident needs: the program in front of the simulator, with traffic; a real Prometheus with the shipped rules, a real
 * Alertmanager with the shipped routes, and somebody who is told. Time runs as `scaled.ts` says.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse, stringify } from 'yaml'
import { createSimulator, type Simulator } from '../../src/simulator/simulator.ts'
import { type Program, root, start, startProgram } from '../support/process.ts'
import { type Prometheus, startPrometheus } from '../support/prometheus.ts'
import { request } from '../support/proxy.ts'
import { until } from '../support/redis.ts'
import type { Scope } from '../support/scope.ts'
import { scaledRoutes, scaledRules, SPEED } from './scaled.ts'

export const UPSTREAM_KEY = 'upstream-key-of-the-incidents'

export interface Notification {
  readonly at: number
  readonly name: string
  readonly severity: string
  readonly summary: string
}

export interface Stage {
  readonly scope: Scope
  readonly sim: Simulator
  readonly program: Program
  /** An empty folder of this incident; the settings are in `settings.yaml`. */
  readonly folder: string
  /** Replaces the settings file. */
  readonly write: (settings: object) => void
  readonly settings: object
  /** One request, as this client; never rejects. */
  readonly ask: (prompt: string, client?: string) => Promise<void>
  readonly told: readonly Notification[]
  readonly prometheus: Prometheus
  /** The first line of the status page; null = it does not answer. */
  readonly firstLine: () => Promise<string | null>
}

export interface StageOptions {
  readonly settings?: object
  readonly environment?: Readonly<Record<string, string>>
  readonly folder?: string
}

const tokens = { 'search-team': 'search-team-token-0123456789', batch: 'batch-token-0123456789' } as const

/** All that has a duration is as fast as the rules. */
function settingsOf(upstream: string): object {
  const ms = (real: number): string => `${Math.round(real / SPEED)}ms`
  const rest = (real: number) => ({ attempts: 1, keyRest: ms(real) })
  return {
    listen: { port: 0 },
    admin: { port: 0 },
    upstream: { url: upstream, keys: [{ name: 'main', secret: UPSTREAM_KEY }], queue: { maxWait: ms(60_000) } },
    clients: Object.fromEntries(Object.entries(tokens).map(([name, token]) => [name, { token }])),
    retry: {
      deadline: '60s',
      backoff: { base: ms(500), max: ms(30_000) },
      budget: { refill: ms(12_000) },
      classes: {
        rateLimited: { backoff: { base: ms(1_000) } },
        queueFull: { backoff: { base: ms(1_000) } },
        warmingUp: { backoff: { base: ms(1_000) } },
        creditsExhausted: rest(900_000),
        unauthorized: rest(300_000),
      },
    },
    breaker: { openFor: ms(1_000), openForMax: ms(20_000), hold: ms(30_000) },
    cache: { disk: false },
  }
}

export async function aStage(scope: Scope, options: StageOptions = {}): Promise<Stage> {
  const folder = options.folder ?? mkdtempSync(join(tmpdir(), 'incident-'))
  if (options.folder === undefined) scope.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const sim = createSimulator({ keys: { [UPSTREAM_KEY]: { credits: 1_000_000 } }, speedUp: SPEED })
  const { url: upstream } = await sim.start()
  scope.teardown(() => sim.close())
  const settings = merged(settingsOf(upstream), options.settings ?? {})
  const file = join(mkdtempSync(join(tmpdir(), 'incident-settings-')), 'settings.yaml')
  const write = (next: object): void => writeFileSync(file, stringify(next))
  write(settings)
  const program = startProgram(scope, ['--config', file], {
    cwd: folder,
    environment: { NODE_OPTIONS: '', ...options.environment },
    keepsBytes: 1_000_000,
  })
  const [line] = await program.saw(/^.*"msg":"listening".*$/m)
  const { url, admin_url: adminUrl } = JSON.parse(line) as { url: string; admin_url: string }

  const told: Notification[] = []
  const alertmanager = await startAlertmanager(scope, (one) => told.push(one))
  const prometheus = await startPrometheus(scope, [new URL(adminUrl).host], [], { rules: scaledRules, alertmanager })

  async function ask(prompt: string, client: string = 'search-team'): Promise<void> {
    const headers = { 'x-api-key': tokens[client as keyof typeof tokens] }
    const path = `/scrapers/chatgpt?${new URLSearchParams({ prompt }).toString()}`
    await request(undefined, url + path, { headers }).catch(() => null)
  }

  async function firstLine(): Promise<string | null> {
    const page = await request(undefined, `${adminUrl}/?fragment`, { headers: { accept: 'text/html' } }).catch(
      () => null,
    )
    const health = /<div id="health"[^>]*>([^]*?)<\/div>/.exec(page?.text ?? '')?.[1]
    if (health === undefined) return null
    return health
      .replaceAll(/<[^>]*>/g, ' ')
      .replaceAll(/\s+/g, ' ')
      .trim()
  }

  return { scope, sim, program, folder, write, settings, ask, told, prometheus, firstLine }
}

/** Resolves to its address. */
async function startAlertmanager(scope: Scope, tell: (one: Notification) => void): Promise<string> {
  const hook = createServer((incoming, outgoing) => {
    let body = ''
    incoming.on('data', (chunk: Buffer) => (body += chunk.toString()))
    incoming.on('end', () => {
      outgoing.end()
      const { alerts } = JSON.parse(body) as {
        readonly alerts: readonly {
          readonly status: string
          readonly labels: Readonly<Record<string, string>>
          readonly annotations: Readonly<Record<string, string>>
        }[]
      }
      for (const { status, labels, annotations } of alerts)
        if (status === 'firing')
          tell({
            at: Date.now(),
            name: labels['alertname'] ?? '',
            severity: labels['severity'] ?? '',
            summary: annotations['summary'] ?? '',
          })
    })
  })
  await new Promise<void>((resolve) => hook.listen(0, '127.0.0.1', resolve))
  scope.teardown(() => hook.close())
  const { port } = hook.address() as AddressInfo
  const shipped = parse(scaledRoutes(readFileSync(join(root, 'deploy/alertmanager.yaml'), 'utf8'))) as {
    receivers: { name: string }[]
  }
  const webhook_configs = [{ url: `http://127.0.0.1:${port}/`, send_resolved: false }]
  const receivers = shipped.receivers.map(({ name }) => ({ name, webhook_configs }))
  const folder = mkdtempSync(join(tmpdir(), 'alertmanager-'))
  scope.teardown(() => rmSync(folder, { recursive: true, force: true }))
  writeFileSync(join(folder, 'alertmanager.yaml'), stringify({ ...shipped, receivers }))
  const words = ['--config.file=alertmanager.yaml', '--storage.path=data', '--web.listen-address=127.0.0.1:0']
  const alertmanager = start(scope, 'prometheus-alertmanager', [...words, '--cluster.listen-address='], { cwd: folder })
  const address = (): string | undefined => /address=(127\.0\.0\.1:\d+)/.exec(alertmanager.stderr())?.[1]
  await until(() => address() !== undefined)
  return address() ?? ''
}

function merged(base: object, over: object): object {
  const isMap = (value: unknown): value is object =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
  const known: Record<string, unknown> = { ...base }
  for (const [name, value] of Object.entries(over)) {
    const before = known[name]
    known[name] = isMap(before) && isMap(value) ? merged(before, value) : value
  }
  return known
}

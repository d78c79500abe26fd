/**
 * The whole proxy on real sockets in front of the simulator, in this process. Time is real but can be skipped; pauses between
 * attempts are a millisecond, because how long they are is tested elsewhere.
 */
import { readFileSync } from 'node:fs'
import http from 'node:http'
import type { Test } from 'tap'
import { compose, type App } from '../../src/compose.ts'
import { loadConfig } from '../../src/config/load.ts'
import type { SettingsSource } from '../../src/config/reload.ts'
import type { Clock, Pressure, SharedStore, Timer, World } from '../../src/ports.ts'
import { createSimulator, instant, type Simulator, type SimulatorOptions } from '../../src/simulator/simulator.ts'
import { createAuditFile } from '../../src/world/audit-file.ts'
import { createClock } from '../../src/world/clock.ts'
import { createDisk } from '../../src/world/disk.ts'
import { watchFile } from '../../src/world/file-watch.ts'
import { postWebhook } from '../../src/world/http-client.ts'
import { createRedis } from '../../src/world/redis.ts'
import { createTransport } from '../../src/world/transport.ts'
import { seededRandom } from './world.ts'

export interface ElasticClock extends Clock {
  /** So much time has passed, all at once: what is due fires, in order. */
  skip(ms: number): void
  /** That are armed. */
  readonly timers: number
}

export interface Answer {
  readonly status: number
  readonly headers: http.IncomingHttpHeaders
  readonly text: string
  /** The body as JSON. */
  readonly json: Record<string, unknown>
}

export interface Asking {
  readonly method?: string
  readonly headers?: Record<string, string | string[]>
  readonly body?: string
  /** Hang up when this is aborted. */
  readonly signal?: AbortSignal
}

export interface Proxy {
  readonly url: string
  readonly adminUrl: string
  readonly sim: Simulator
  readonly clock: ElasticClock
  readonly app: App
  /** `question` is a path, or a prompt for chatgpt. */
  readonly ask: (question: string, asking?: Asking) => Promise<Answer>
  readonly admin: (path: string, asking?: Asking) => Promise<Answer>
  /** Everything that was written to standard output. */
  readonly output: () => string
  readonly lines: () => Record<string, unknown>[]
  /** What the settings file holds from now on. */
  readonly write: (settings: string) => void
  /** Whoever watches a file looks again: the settings file, or another one by its path. */
  readonly look: (path?: string) => void
  /** The samples of a metric: label text → value. */
  readonly metric: (name: string) => Promise<Record<string, number>>
}

const calm: Pressure = { eventLoopDelayMs: 0, eventLoopBusy: 0, memory: 0.1 }

export interface ProxyOptions {
  /** How hard the process is pressed; it is always calm otherwise. */
  readonly pressure?: () => Pressure
  readonly simulator?: SimulatorOptions
  readonly environment?: Record<string, string>
  /** How far its clock is ahead of the real one. */
  readonly aheadMs?: number
  /** Instead of the simulator. */
  readonly upstream?: string
  /** Listens in on what is asked of Redis. */
  readonly watchShared?: (store: SharedStore) => SharedStore
  /** Files that hold secrets, by path; those on the disk when left out. */
  readonly files?: Record<string, string>
}

/** Where something runs that has to be ended: a test, or a command of the tests. */
export type Stage = Pick<Test, 'teardown'>

export const UPSTREAM_KEY = 'upstream-key-of-the-proxy'

const SETTINGS_FILE = 'settings.yaml'

const quickPauses = `
retry:
  backoff: { base: 1ms, max: 1ms }
  classes: { rateLimited: { backoff: { base: 1ms } }, queueFull: { backoff: { base: 1ms } }, warmingUp: { backoff: { base: 1ms } } }
`

export function elasticClock(aheadMs = 0): ElasticClock {
  const real = createClock()
  const armed = new Set<{ readonly dueAt: number; readonly fire: () => void }>()
  let skippedMs = aheadMs
  const now = (): number => real.now() + skippedMs

  function after(ms: number, job: () => void): Timer {
    const timer = { dueAt: now() + ms, fire: () => cancel() && job() }
    const waiting = real.after(ms, timer.fire)
    const cancel = (): boolean => {
      waiting.cancel()
      return armed.delete(timer)
    }
    armed.add(timer)
    return { cancel: () => void cancel() }
  }

  function skip(ms: number): void {
    skippedMs += ms
    const due = [...armed].filter((timer) => timer.dueAt <= now()).toSorted((a, b) => a.dueAt - b.dueAt)
    for (const timer of due) timer.fire()
  }

  return {
    now,
    wall: () => real.wall() + skippedMs,
    after,
    skip,
    get timers() {
      return armed.size
    },
  }
}

/** `settings` is YAML over: free ports, the simulator as upstream, one key, quick pauses. */
export async function aProxy(t: Stage, settings = '', options: ProxyOptions = {}): Promise<Proxy> {
  const sim = createSimulator({ latency: instant, ...options.simulator })
  const { url: simulator } = await sim.start()
  const { upstream = simulator } = options
  // Raw requests of tests call the proxy `a`.
  const base = `
listen: { port: 0, hosts: [a] }
admin: { port: 0 }
cache: { disk: false }
upstream: { url: "${upstream}", keys: [{ name: main, secret: ${UPSTREAM_KEY} }] }
`
  let written = settings
  const watched = new Map<string, Set<(text: string | null) => void>>()
  const source: SettingsSource = {
    files: [SETTINGS_FILE],
    read() {
      const sources = [base, quickPauses, written].filter((text) => text.trim() !== '')
      return loadConfig(
        sources.map((text, index) => ({ name: `settings ${index}`, text })),
        [],
        options.environment ?? {},
        (path) => {
          if (!options.files) return readFileSync(path, 'utf8')
          const text = options.files[path]
          if (text === undefined) throw Object.assign(new Error('not there'), { code: 'ENOENT' })
          return text
        },
      )
    },
  }
  const clock = elasticClock(options.aheadMs)
  let printed = ''
  const world: World = {
    clock,
    random: seededRandom(7),
    output: { write: (text) => void (printed += text), flush: () => undefined },
    environment: options.environment ?? {},
    connect: (upstreamOptions) => createTransport(upstreamOptions, clock),
    openDisk: (diskOptions, emit) => createDisk(diskOptions, clock, emit),
    openAuditFile: (auditOptions, emit) => createAuditFile(auditOptions, clock, emit),
    openShared(sharedOptions, emit) {
      const store = createRedis(sharedOptions, clock, seededRandom(13), emit)
      return options.watchShared?.(store) ?? store
    },
    gaugePressure: () => ({
      limitBytes: 1024 ** 3,
      read: options.pressure ?? (() => calm),
      reclaim: () => undefined,
      close: () => undefined,
    }),
    post: postWebhook,
    watchFile(path, onChange) {
      if (!options.files && path !== SETTINGS_FILE) return watchFile(path, clock, onChange)
      const watching = watched.get(path) ?? new Set()
      watched.set(path, watching.add(onChange))
      onChange(options.files?.[path] ?? null)
      return { close: () => void watching.delete(onChange) }
    },
  }
  const app = compose(source.read(), world, '0.0.0-test', undefined, source)
  const { port, adminPort } = await app.listen()
  const agent = new http.Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY })
  t.teardown(async () => {
    app.hurry()
    await sim.close()
    await app.close()
    agent.destroy()
  })
  const url = `http://127.0.0.1:${port}`
  const adminUrl = `http://127.0.0.1:${adminPort}`
  const ask = (path: string, asking: Asking = {}) => request(agent, url + targetOf(path), asking)
  const admin = (path: string, asking: Asking = {}) => request(agent, adminUrl + path, asking)

  return {
    url,
    adminUrl,
    sim,
    clock,
    app,
    ask,
    admin,
    output: () => printed,
    lines: () =>
      printed
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line) as Record<string, unknown>),
    write: (text) => void (written = text),
    look: (path = SETTINGS_FILE) => watched.get(path)?.forEach((onChange) => onChange(options.files?.[path] ?? null)),
    metric: async (name) => samplesOf((await admin('/metrics')).text, `scrapellm_proxy_${name}`),
  }
}

function targetOf(question: string): string {
  return question.startsWith('/')
    ? question
    : `/scrapers/chatgpt?${new URLSearchParams({ prompt: question }).toString()}`
}

export function request(
  agent: http.Agent | undefined,
  url: string,
  { method = 'GET', headers = {}, body, signal }: Asking = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const options = { method, headers, ...(agent ? { agent } : {}), ...(signal ? { signal } : {}) }
    const outgoing = http.request(url, options, (incoming) => {
      const chunks: Buffer[] = []
      incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
      incoming.on('error', reject)
      incoming.on('end', () => {
        const text = Buffer.concat(chunks).toString()
        resolve({
          status: incoming.statusCode ?? 0,
          headers: incoming.headers,
          text,
          get json() {
            return JSON.parse(text) as Record<string, unknown>
          },
        })
      })
    })
    outgoing.on('error', reject)
    outgoing.end(body)
  })
}

function samplesOf(text: string, name: string): Record<string, number> {
  const samples: Record<string, number> = {}
  for (const line of text.split('\n')) {
    const match = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line)
    if (match?.[1] === name) samples[match[2] ?? ''] = Number(match[3])
  }
  return samples
}

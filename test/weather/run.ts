/**
 * One run of the weather table: the composition of production with its real settings, in virtual time, in front of the modelled
 * upstream. Only sockets, files and upstream are replaced; a setting of `redis` is served by the model of Redis that the
 * simulation uses.
 */
import { known } from '../../src/compose.ts'
import { loadConfig, type Loaded } from '../../src/config/load.ts'
import { createTargets } from '../../src/http/target.ts'
import { readFields, readRequest } from '../../src/http/request.ts'
import type { Random } from '../../src/ports.ts'
import { createSeededRandom } from '../../src/replay/chance.ts'
import { createVirtualClock } from '../../src/replay/virtual-clock.ts'
import { createChance } from '../simulation/chance.ts'
import { createMachine } from '../simulation/disk.ts'
import { createProcess } from '../simulation/process.ts'
import { createRedisHost, createRedisLink } from '../simulation/redis-link.ts'
import { createRedisServer } from '../simulation/redis-server.ts'
import { createReplica } from '../simulation/replica.ts'
import { type Behaviour, createModelledUpstream, type SeenCall } from './upstream.ts'

/** A request to be made. */
export interface Ask {
  /** Since the start of the run. */
  readonly atMs: number
  readonly prompt: string
  /** Token of a client; null = anonymous. */
  readonly token?: string
  /** In seconds, as the header has it. */
  readonly patienceSeconds?: number
  readonly noCache?: boolean
}

/** A request and what came of it. */
export interface Asked extends Ask {
  readonly durationMs: number
  readonly status: number
  /** `X-Proxy-Code`. */
  readonly code: string | null
  readonly attempts: number
  readonly credits: number
  readonly isHit: boolean
  /**
   * In real time: how long a request took that was sent right behind this one, and that the proxy answers without a look at upstream. So
   * much of the duration may be the machine's.
   */
  readonly bareMs?: number
}

export interface Run {
  readonly asked: readonly Asked[]
  readonly calls: readonly SeenCall[]
  /** Epoch milliseconds of the start. */
  readonly startsAt: number
  /** When the circuit opened, epoch milliseconds. */
  readonly openings: readonly number[]
}

export interface RunOptions {
  readonly loaded: Loaded
  readonly seed: number
  readonly asks: Iterable<Ask>
  readonly behaviour: Behaviour
}

const STARTS_AT = Date.UTC(2026, 0, 15, 12)

export async function run({ loaded, seed, asks, behaviour }: RunOptions): Promise<Run> {
  const virtual = createVirtualClock(STARTS_AT, setImmediate)
  const upstream = createModelledUpstream(virtual, STARTS_AT, seed, behaviour)
  const process = createProcess(virtual, () => {})
  const random: Random = createSeededRandom(seed)
  const server = loaded.config.redis ? createRedisServer(() => Math.floor(virtual.now() * 1_000), false) : null
  const link = server
    ? createRedisLink(createRedisHost(server), process, virtual, createChance(`link/${seed}`))
    : noLink
  const replica = createReplica({
    loaded,
    source: { read: () => loaded, files: [] },
    index: 0,
    life: 1,
    process,
    random,
    vendor: upstream,
    machine: createMachine(),
    link,
    memory: () => 0.3,
    wrote(text) {
      if (text.includes('"circuit opened"')) openings.push(virtual.now())
    },
  })
  const target = createTargets()
  const asked: Asked[] = []
  const openings: number[] = []
  let open = 0
  let isLast = false

  await replica.app.listen()
  const left = asks[Symbol.iterator]()
  next()
  await virtual.run()
  return { asked, calls: upstream.calls, startsAt: STARTS_AT, openings }

  function next(): void {
    const { done, value } = left.next()
    if (done) {
      isLast = true
      if (open === 0) void finish()
      return
    }
    virtual.after(STARTS_AT + value.atMs - virtual.now(), () => {
      void ask(value)
      next()
    })
  }

  async function ask(one: Ask): Promise<void> {
    open += 1
    const startedAt = virtual.now()
    const headers = ['Host', '127.0.0.1:8080']
    if (one.token !== undefined) headers.push('X-API-Key', one.token)
    if (one.patienceSeconds !== undefined) headers.push('X-Request-Timeout', String(one.patienceSeconds))
    if (one.noCache) headers.push('Cache-Control', 'no-cache')
    const raw = { method: 'GET', url: `/scrapers/chatgpt?prompt=${encodeURIComponent(one.prompt)}`, httpVersion: '1.1' }
    const request = readRequest(raw, readFields(headers), {
      id: random.id(),
      arrivedAt: startedAt,
      onGone: () => () => {},
      target,
    })
    const response = await replica.ask(request)
    if (!response) throw new Error('a caller who waits got no answer')
    const header = (name: string): string | null => {
      const at = response.headers.indexOf(name)
      return at < 0 ? null : (response.headers[at + 1] ?? null)
    }
    asked.push({
      ...one,
      durationMs: virtual.now() - startedAt,
      status: response.status,
      code: header('X-Proxy-Code'),
      attempts: Number(header('X-Proxy-Attempts') ?? '0'),
      credits: Number(header('X-Proxy-Credits') ?? '0'),
      isHit: (header('Cache-Status') ?? '').includes('; hit'),
    })
    open -= 1
    if (open === 0 && isLast) await finish()
  }

  /** Ends all timers, so that virtual time ends. */
  async function finish(): Promise<void> {
    await replica.app.drain()
    await replica.app.close()
  }
}

/** Of the files, or the packaged settings, as the proxy itself would load them. */
export function loadSettings(
  files: readonly { readonly name: string; readonly text: string }[],
  sets: readonly string[],
) {
  const environment = { SCRAPELLM_API_KEY: 'not-needed' }
  const quiet = ['log.level=warn']
  return loadConfig(files, [...quiet, ...sets], environment, () => 'not-needed', known)
}

const noLink = {
  connect() {
    throw new Error('These settings have no redis')
  },
  cut() {},
  reset() {},
}

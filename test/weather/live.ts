/**
 * Some rows of the weather table in real time: the program as a process of its own, on real sockets, in front of the simulator, asked
 * by a client. All rows run at the same time. What reached upstream is read from the audit file, which `replay` is given afterwards: it must
 * predict the success of the same policy.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import http from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { text } from 'node:stream/consumers'
import { createSimulator, type Simulator } from '../../src/simulator/simulator.ts'
import { runProgram, startProxy } from '../support/process.ts'
import { createScope, type Scope } from '../support/scope.ts'
import { answers, capacity, type Case, MINUTE, must, percent, queueFull } from './cases.ts'
import { isAnswered, share } from './figures.ts'
import { judged, type Row } from './measure.ts'
import { burstCase, cases } from './rows.ts'
import type { Ask, Asked, Run } from './run.ts'
import type { SeenCall } from './upstream.ts'

/** What the simulator does at these times of the run, in place of the row's modelled upstream. */
type Staging = readonly (readonly [atMs: number, change: (sim: Simulator) => void])[]

interface LiveCase extends Case {
  readonly staging: Staging
}

interface LiveAsked extends Asked {
  readonly reason: string | null
}

interface AuditLine {
  readonly id: string
  readonly flight_at?: number
  readonly role?: string
  readonly attempts?: readonly {
    readonly number: number
    readonly after_ms: number
    readonly duration_ms: number
    readonly class: string
    readonly credits: number
  }[]
}

const SEED = 1
/** Replayed success may differ by no more. */
const PREDICTED_WITHIN = 0.02
const REPLAY_SEEDS = ['1', '2', '3', '4', '5']
/** The share of requests that may be left out because this machine was too busy. */
const LEFT_OUT_WITHIN = 0.05
/** A machine that keeps this process waiting for longer than that measures itself: callers and upstream are in it. */
const LATE_WITHIN_MS = 2_000
/** Where 500 come at once, 10 min of waiting show nothing more. */
const BURST_EVERY_MS = 3.75 * MINUTE
const fast = { failureRate: 0.1, failures: [{ kind: '500', delayMs: 500 }] } as const
const failing: Staging = [[0, (sim) => sim.weather('chatgpt', fast)]]
const down: Staging = [
  [2 * MINUTE, (sim) => sim.weather('chatgpt', { outage: { kind: '503', delayMs: 100 } })],
  [3.5 * MINUTE, (sim) => sim.weather('chatgpt', null)],
]
const takes100: Staging = [[0, (sim) => sim.setSwitches({ queueDepth: 100 })]]
const badQuestion: Staging = [
  [
    0,
    (sim) => {
      sim.weather('chatgpt', fast)
      sim.script({ prompt: 'bad 0' }, [{ kind: '500', delayMs: 300, times: 'forever' }])
    },
  ],
]

export const liveCases: readonly LiveCase[] = [
  staged('10 % fail after 0.5 s, 20/s', failing),
  staged('outage of 90 s (503), 1/s', down),
  staged('outage of 90 s (503), 20/s', down),
  staged('one question fails, asked 10/s; 10 % of the others fail, 20/s', badQuestion),
  staged('takes 100 at once (429 queue full), offered 80 %, bursts of 200', takes100),
  { ...burstCase('', answers, BURST_EVERY_MS), staging: [] },
  {
    ...burstCase(
      ', upstream takes 100 at once',
      capacity(() => 100, queueFull),
      BURST_EVERY_MS,
    ),
    staging: takes100,
  },
]

function staged(weather: string, staging: Staging): LiveCase {
  const found = cases.find((one) => one.weather === weather)
  if (!found) throw new Error(`There is no row "${weather}"`)
  return { ...found, staging }
}

/** `sets` go to the proxy, and to the replay; the audit files stay in `audits`, if there is such a folder. */
export async function runLive(
  wanted: readonly LiveCase[],
  sets: readonly string[],
  audits: string | null,
): Promise<readonly Row[]> {
  const scope = createScope()
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => void scope.end().finally(() => process.exit(130)))
  try {
    return await Promise.all(wanted.map((one, index) => runOne(scope, one, sets, folderOf(scope, audits, index))))
  } finally {
    await scope.end()
  }
}

function folderOf(scope: Scope, audits: string | null, index: number): string {
  if (audits !== null) return mkdtempSync(join(audits, `row-${index}-`))
  const folder = mkdtempSync(join(tmpdir(), 'scrapellm-proxy-weather-'))
  scope.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

async function runOne(scope: Scope, one: LiveCase, sets: readonly string[], folder: string): Promise<Row> {
  const audit = join(folder, 'audit.ndjson')
  const all = [...(one.sets ?? []), ...sets, 'cache.disk=false', 'log.level=info']
  const sim = createSimulator({ seed: SEED, switches: { latencyShape: 'log-normal' } })
  scope.teardown(() => sim.close())
  const proxy = await startProxy(scope, (await sim.start()).url, [...all, `audit={ path: ${audit} }`])
  const startsAt = Date.now()
  const loop = monitorEventLoopDelay()
  loop.enable()
  const everybody = await askAll(one.plan(SEED).asks, proxy.url, sim, one)
  const lateMs = loop.max / 1e6
  proxy.signal('SIGTERM')
  const { stdout } = await proxy.ended
  const lines = readFileSync(audit, 'utf8').trim().split('\n')
  const asked = everybody.filter((one) => !isShed(one))
  const run: Run = { asked, calls: callsIn(lines, everybody), startsAt, openings: openingsIn(stdout) }
  const row = await judged(one, [run], 1)
  const recorded = share(asked.filter(isAnswered).length, asked.length)
  const predicted = await replayedSuccess(scope, audit, all)
  return {
    ...row,
    weather: `live: ${one.weather}`,
    replay: { recorded, predicted },
    broken: [
      ...row.broken,
      ...must(
        lateMs <= LATE_WITHIN_MS,
        `this machine was too busy to measure in real time: the process of callers and upstream waited for ${(lateMs / 1_000).toFixed(1)} s`,
      ),
      ...must(
        everybody.length - asked.length <= LEFT_OUT_WITHIN * everybody.length,
        `${everybody.length - asked.length} of ${everybody.length} were refused because this machine was too busy: it cannot measure in real time`,
      ),
      ...must(
        Math.abs(predicted - recorded) <= PREDICTED_WITHIN,
        `replay predicts ${percent(predicted)} of success, and it was ${percent(recorded)}`,
      ),
    ],
  }
}

/** The proxy protects its own process, which got too little processor time or memory: that says nothing of weather. */
function isShed({ code, reason }: LiveAsked): boolean {
  return code === 'OVERLOADED' && (reason === 'event-loop' || reason === 'memory')
}

async function askAll(
  asks: readonly Ask[],
  url: string,
  sim: Simulator,
  { staging, recoveredMs }: LiveCase,
): Promise<readonly LiveAsked[]> {
  const agent = new http.Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY })
  const startedAt = performance.now()
  const at = (ms: number): Promise<void> =>
    new Promise((resolve) => setTimeout(resolve, Math.max(0, startedAt + ms - performance.now())))
  const changes = staging.map(async ([atMs, change]) => {
    await at(atMs)
    change(sim)
  })
  const asked: Promise<LiveAsked>[] = []
  for (const ask of asks) {
    if (ask.atMs > performance.now() - startedAt) await at(ask.atMs)
    const answered = askOne(agent, url, ask, asked.length)
    asked.push(recoveredMs === undefined ? answered : withBareTime(answered, timeOfBareRequest(agent, url)))
  }
  const all = await Promise.all(asked)
  await Promise.all(changes)
  agent.destroy()
  return all
}

async function withBareTime(answered: Promise<LiveAsked>, bareMs: Promise<number>): Promise<LiveAsked> {
  return { ...(await answered), bareMs: await bareMs }
}

/** Of one that there is no route for: it comes in, is read and is answered as others are, and nothing is decided about it. */
function timeOfBareRequest(agent: http.Agent, url: string): Promise<number> {
  const startedAt = performance.now()
  return new Promise((resolve) => {
    const done = (): void => resolve(performance.now() - startedAt)
    http.get(`${url}/nothing`, { agent }, (response) => response.resume().on('end', done)).on('error', () => resolve(0))
  })
}

function askOne(agent: http.Agent, url: string, ask: Ask, number: number): Promise<LiveAsked> {
  const headers: Record<string, string> = { 'X-Request-Id': `request-${number}` }
  if (ask.token !== undefined) headers['X-API-Key'] = ask.token
  if (ask.noCache) headers['Cache-Control'] = 'no-cache'
  const startedAt = performance.now()
  return new Promise((resolve) => {
    const ended = (response: http.IncomingMessage | null, body: string): void => {
      const header = (name: string): string | null => response?.headers[name]?.toString() ?? null
      const code = header('x-proxy-code')
      resolve({
        ...ask,
        durationMs: performance.now() - startedAt,
        status: response?.statusCode ?? 0,
        code,
        reason: code === null ? null : ((JSON.parse(body) as { readonly reason?: string }).reason ?? null),
        attempts: Number(header('x-proxy-attempts') ?? '0'),
        credits: Number(header('x-proxy-credits') ?? '0'),
        isHit: (header('cache-status') ?? '').includes('; hit'),
      })
    }
    const path = `${url}/scrapers/chatgpt?prompt=${encodeURIComponent(ask.prompt)}`
    const request = http.get(path, { agent, headers }, (response) => {
      text(response).then(
        (body) => ended(response, body),
        () => ended(null, ''),
      )
    })
    request.on('error', () => {
      // The proxy may close an idle connection at the moment at which it is used again.
      if (request.reusedSocket) resolve(askOne(agent, url, ask, number))
      else ended(null, '')
    })
  })
}

function callsIn(lines: readonly string[], asked: readonly Asked[]): SeenCall[] {
  return lines.flatMap((line) => {
    const { id, flight_at: flightAt = 0, role, attempts = [] } = JSON.parse(line) as AuditLine
    const number = Number(id.split('-')[1])
    const prompt = asked[number]?.prompt ?? ''
    if (role !== 'leader') return []
    return attempts.map(({ number: attempt, after_ms: afterMs, duration_ms: durationMs, class: ended, credits }) => ({
      question: number,
      prompt,
      attempt,
      startedAt: flightAt + afterMs,
      endedAt: flightAt + afterMs + durationMs,
      end: ended === 'ok' ? ('answered' as const) : ('failed' as const),
      credits,
    }))
  })
}

function openingsIn(log: string): number[] {
  return log
    .split('\n')
    .filter((line) => line.includes('"msg":"circuit opened"'))
    .map((line) => Date.parse((JSON.parse(line) as { time: string }).time))
}

/**
 * The same policy over what was recorded, as a tuner would ask for it. The mean of some seeds: when a trial after an outage comes is chance,
 * and 10 s earlier or later are 3 points of success in 6 min.
 */
async function replayedSuccess(scope: Scope, audit: string, sets: readonly string[]): Promise<number> {
  const settings = sets.flatMap((set) => ['--set', set])
  let sum = 0
  for (const seed of REPLAY_SEEDS) {
    const words = ['replay', '--audit', audit, '--json', '--seed', seed, ...settings]
    const { stdout, stderr, code } = await runProgram(scope, words)
    if (code !== 0) throw new Error(`replay failed: ${stderr}`)
    const { columns } = JSON.parse(stdout) as {
      readonly columns: readonly { readonly name: string; readonly figures: { readonly successRate: number } }[]
    }
    sum += columns.find(({ name }) => name === 'candidate')?.figures.successRate ?? 0
  }
  return sum / REPLAY_SEEDS.length
}

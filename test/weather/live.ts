/**
 * Some rows of the weather table in real time: the program as a process of its own, on real sockets, in front of the simulator, asked
 * by a client. All rows run at the same time. What reached upstream is read from the audit file, which `replay` is given afterwards: it must
 * predict the success of the same policy.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import http from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createSimulator, type Simulator } from '../../src/simulator/simulator.ts'
import { runProgram, startProxy } from '../support/process.ts'
import { createScope, type Scope } from '../support/scope.ts'
import { type Case, MINUTE, percent } from './cases.ts'
import { isAnswered, share } from './figures.ts'
import { judged, type Row } from './measure.ts'
import { cases } from './rows.ts'
import type { Ask, Asked, Run } from './run.ts'
import type { SeenCall } from './upstream.ts'

/** What the simulator does at these times of the run, in place of the row's modelled upstream. */
type Staging = readonly (readonly [atMs: number, change: (sim: Simulator) => void])[]

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
const fast = { failureRate: 0.1, failures: [{ kind: '500', delayMs: 500 }] } as const
const down: Staging = [
  [2 * MINUTE, (sim) => sim.weather('chatgpt', { outage: { kind: '503', delayMs: 100 } })],
  [3.5 * MINUTE, (sim) => sim.weather('chatgpt', null)],
]
const staged: Readonly<Record<string, Staging>> = {
  '10 % fail after 0.5 s, 20/s': [[0, (sim) => sim.weather('chatgpt', fast)]],
  'outage of 90 s (503), 1/s': down,
  'outage of 90 s (503), 20/s': down,
  'one question fails, asked 10/s; 10 % of the others fail, 20/s': [
    [
      0,
      (sim) => {
        sim.weather('chatgpt', fast)
        sim.script({ prompt: 'bad 0' }, [{ kind: '500', delayMs: 300, times: 'forever' }])
      },
    ],
  ],
}

export const liveCases: readonly Case[] = cases.filter(({ weather }) => staged[weather])

/** `sets` go to the proxy, and to the replay. */
export async function runLive(wanted: readonly Case[], sets: readonly string[]): Promise<readonly Row[]> {
  const scope = createScope()
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => void scope.end().finally(() => process.exit(130)))
  try {
    return await Promise.all(wanted.map((one) => runOne(scope, one, sets)))
  } finally {
    await scope.end()
  }
}

async function runOne(scope: Scope, one: Case, sets: readonly string[]): Promise<Row> {
  const folder = mkdtempSync(join(tmpdir(), 'scrapellm-proxy-weather-'))
  scope.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const audit = join(folder, 'audit.ndjson')
  const all = [...(one.sets ?? []), ...sets, 'cache.disk=false', 'log.level=info']
  const sim = createSimulator()
  scope.teardown(() => sim.close())
  const proxy = await startProxy(scope, (await sim.start()).url, [...all, `audit={ path: ${audit} }`])
  const startsAt = Date.now()
  const asked = await askAll(one.plan(SEED).asks, proxy.url, sim, staged[one.weather] ?? [])
  proxy.signal('SIGTERM')
  const { stdout } = await proxy.ended
  const lines = readFileSync(audit, 'utf8').trim().split('\n')
  const run: Run = { asked, calls: callsIn(lines, asked), startsAt, openings: openingsIn(stdout) }
  const row = await judged(one, [run], 1)
  const success = share(asked.filter(isAnswered).length, asked.length)
  return {
    ...row,
    weather: `live: ${one.weather}`,
    broken: [...row.broken, ...overloads(asked), ...(await misprediction(scope, audit, all, success))],
  }
}

/** Without places to wait for, the proxy refuses for this reason only when it gets no processor time: then real time measures the machine. */
function overloads(asked: readonly Asked[]): string[] {
  const count = asked.filter(({ code }) => code === 'OVERLOADED').length
  return count === 0 ? [] : [`${count} were refused as OVERLOADED: this machine was too busy to measure in real time`]
}

async function askAll(asks: readonly Ask[], url: string, sim: Simulator, staging: Staging): Promise<readonly Asked[]> {
  const agent = new http.Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY })
  const startedAt = performance.now()
  const at = (ms: number): Promise<void> =>
    new Promise((resolve) => setTimeout(resolve, Math.max(0, startedAt + ms - performance.now())))
  const changes = staging.map(async ([atMs, change]) => {
    await at(atMs)
    change(sim)
  })
  const asked: Promise<Asked>[] = []
  for (const ask of asks) {
    if (ask.atMs > performance.now() - startedAt) await at(ask.atMs)
    asked.push(askOne(agent, url, ask, asked.length))
  }
  const all = await Promise.all(asked)
  await Promise.all(changes)
  agent.destroy()
  return all
}

function askOne(agent: http.Agent, url: string, ask: Ask, number: number): Promise<Asked> {
  const headers: Record<string, string> = { 'X-Request-Id': `request-${number}` }
  if (ask.token !== undefined) headers['X-API-Key'] = ask.token
  if (ask.noCache) headers['Cache-Control'] = 'no-cache'
  const startedAt = performance.now()
  return new Promise((resolve) => {
    const path = `${url}/scrapers/chatgpt?prompt=${encodeURIComponent(ask.prompt)}`
    const request = http.get(path, { agent, headers }, (response) => {
      const header = (name: string): string | null => response.headers[name]?.toString() ?? null
      response.resume().on('end', () =>
        resolve({
          ...ask,
          durationMs: performance.now() - startedAt,
          status: response.statusCode ?? 0,
          code: header('x-proxy-code'),
          attempts: Number(header('x-proxy-attempts') ?? '0'),
          credits: Number(header('x-proxy-credits') ?? '0'),
          isHit: (header('cache-status') ?? '').includes('; hit'),
        }),
      )
    })
    request.on('error', () => {
      // The proxy may close an idle connection at the moment at which it is used again.
      if (request.reusedSocket) return resolve(askOne(agent, url, ask, number))
      resolve({
        ...ask,
        durationMs: performance.now() - startedAt,
        status: 0,
        code: null,
        attempts: 0,
        credits: 0,
        isHit: false,
      })
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

/** The same policy over what was recorded, as a tuner would ask for it. */
async function misprediction(scope: Scope, audit: string, sets: readonly string[], success: number): Promise<string[]> {
  const settings = sets.flatMap((set) => ['--set', set])
  const { stdout, stderr, code } = await runProgram(scope, ['replay', '--audit', audit, '--json', ...settings])
  if (code !== 0) return [`replay failed: ${stderr}`]
  const { columns } = JSON.parse(stdout) as {
    readonly columns: readonly { readonly name: string; readonly figures: { readonly successRate: number } }[]
  }
  const predicted = columns.find(({ name }) => name === 'candidate')?.figures.successRate ?? 0
  if (Math.abs(predicted - success) <= PREDICTED_WITHIN) return []
  return [`replay predicts ${percent(predicted)} of success, and it was ${percent(success)}`]
}

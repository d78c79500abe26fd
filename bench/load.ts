/**
 * The load: wrk where it is there and can make it, our own client otherwise. Both say how many requests were answered, how
 * many failed, and how long they took.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { has, pathOf, run } from './program.ts'

export interface Order {
  readonly port: number
  readonly connections: number
  readonly seconds?: number
  readonly requests?: number
  /** Open loop: so many requests are due per second, whatever becomes of them. */
  readonly perSecond?: number
  /** A whole request; `%d` becomes the number of the question, `%c` that of the client. */
  readonly question: string
  readonly start: number
  /** How many different questions, and clients, there are. */
  readonly count: number
  readonly clients: number
  /** Each connection asks once. */
  readonly once?: boolean
  readonly anyStatus?: boolean
}

export interface LoadResult {
  readonly requests: number
  readonly failed: number
  readonly perSecond: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly maxMs: number
  /** Epoch milliseconds of the last answer. */
  readonly lastAt: number
  readonly statuses: Readonly<Record<string, number>>
}

export type Asking = Pick<Order, 'question' | 'start' | 'count' | 'clients'>

export const isWrkHere = has('wrk')

/** A question to the proxy, or to whoever stands in for it, `%d` being its number. */
export function asking(count: number, from = 0, token = 'bench-client-token-0', clients = 1): Asking {
  const question = [
    'GET /scrapers/chatgpt?prompt=what+is+the+best+crm+number+%d HTTP/1.1',
    'Host: 127.0.0.1',
    `X-API-Key: ${token}`,
    'Accept: application/json',
    '',
    '',
  ].join('\r\n')
  return { question, start: from, count, clients }
}

/** The same question to Portkey, which forwards chat completions. It keeps nothing in its open version. */
export function portkeyAsking(upstreamPort: number): Asking {
  const body = JSON.stringify({ model: 'gpt', messages: [{ role: 'user', content: 'what is the best crm' }] })
  const question = [
    'POST /v1/chat/completions HTTP/1.1',
    'Host: 127.0.0.1',
    'Authorization: Bearer bench-key',
    'x-portkey-provider: openai',
    `x-portkey-custom-host: http://127.0.0.1:${upstreamPort}/v1`,
    'Content-Type: application/json',
    `Content-Length: ${body.length}`,
    '',
    body,
  ].join('\r\n')
  return { question, start: 0, count: 1, clients: 1 }
}

/** As many as get through. */
export function full(port: number, seconds: number, what: Asking, connections = 32): Promise<LoadResult> {
  const order: Order = { port, connections, seconds, ...what }
  return isWrkHere ? wrk(order) : own(order)
}

export async function own(order: Order): Promise<LoadResult> {
  const client = pathOf('bench/programs/client.ts')
  return JSON.parse(await run(process.execPath, [client], 'load', JSON.stringify(order))) as LoadResult
}

async function wrk({ port, connections, seconds = 1, question, start, count, clients }: Order): Promise<LoadResult> {
  const folder = mkdtempSync(join(tmpdir(), 'bench-'))
  try {
    const script = join(folder, 'load.lua')
    writeFileSync(script, scriptOf(question, start, count, clients))
    const args = ['-t1', `-c${connections}`, `-d${seconds}s`, '--timeout', '30s', '-s', script]
    const printed = await run('wrk', [...args, `http://127.0.0.1:${port}/`], 'load')
    return JSON.parse(printed.slice(printed.indexOf('{"requests"'))) as LoadResult
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Few questions are written down before the load begins, many are made as they are asked. */
function scriptOf(question: string, start: number, count: number, clients: number): string {
  const many = Math.max(count, clients)
  const text = JSON.stringify(question)
    .replaceAll('%d', '" .. string.format("%d", n % COUNT) .. "')
    .replaceAll('%c', '" .. string.format("%d", n % CLIENTS) .. "')
  return `
local COUNT, CLIENTS = ${count}, ${clients}
local n = ${start} - 1
local made = {}
local function make(n) return ${text} end
function init() ${many <= 10_000 ? `for i = 0, ${many} - 1 do made[i] = make(i) end` : ''} end
function request()
  n = n + 1
  return made[n % ${many}] or make(n)
end
function done(summary, latency)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  io.write(string.format('{"requests":%d,"failed":%d,"perSecond":%.3f,"p50Ms":%.4f,"p99Ms":%.4f,"maxMs":%.3f,"lastAt":0,"statuses":{}}',
    summary.requests, failed, summary.requests * 1e6 / summary.duration,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency.max / 1000))
end
`
}

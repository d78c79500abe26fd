// A bare client over real sockets: it reports what arrived and how the exchange ended, and never retries or follows.

import { request, type IncomingHttpHeaders } from 'node:http'
import type { Test } from 'tap'
import { createSimulator, instant, type Simulator, type SimulatorOptions } from '../../src/simulator/simulator.ts'

export interface Received {
  readonly status: number | null
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
  /** How the exchange broke; null when it was complete. */
  readonly broken: string | null
  readonly json: () => Record<string, unknown>
}

export interface Call {
  readonly answer: Promise<Received>
  readonly leave: () => void
  /** Resolves with the first bytes of the body. */
  readonly firstBytes: Promise<void>
}

export interface Asking {
  readonly method?: string
  readonly key?: string | null
  readonly body?: string
  readonly headers?: Record<string, string>
}

export interface Station {
  readonly sim: Simulator
  readonly url: string
  readonly begin: (path: string, asking?: Asking) => Call
  readonly ask: (path: string, asking?: Asking) => Promise<Received>
  readonly submit: (query: string) => Promise<Received>
}

export async function startSimulator(t: Test, options: SimulatorOptions = {}): Promise<Station> {
  const sim = createSimulator({ latency: instant, ...options })
  const { url } = await sim.start()
  t.teardown(() => sim.close())
  const begin = (path: string, asking: Asking = {}): Call => call(`${url}${path}`, asking)
  return {
    sim,
    url,
    begin,
    ask: (path, asking) => begin(path, asking).answer,
    submit: (query) => begin(`/scrapers/grok/jobs?${query}`, { method: 'POST' }).answer,
  }
}

function call(url: string, { method = 'GET', key = 'key-one', body, headers = {} }: Asking): Call {
  const first = Promise.withResolvers<void>()
  const answer = Promise.withResolvers<Received>()
  const parts: Buffer[] = []
  let status: number | null = null
  let received: IncomingHttpHeaders = {}
  const end = (broken: string | null): void => {
    const whole = Buffer.concat(parts)
    answer.resolve({ status, headers: received, body: whole, broken, json: () => JSON.parse(whole.toString()) })
  }
  const length = body === undefined ? {} : { 'Content-Length': Buffer.byteLength(body) }
  const sent = { ...(key === null ? {} : { 'X-API-Key': key }), ...length, ...headers }
  const req = request(url, { method, headers: sent, agent: false }, (res) => {
    status = res.statusCode ?? null
    received = res.headers
    res.on('data', (part: Buffer) => {
      parts.push(part)
      first.resolve()
    })
    res.on('end', () => end(null))
    res.on('error', (error: NodeJS.ErrnoException) => end(error.code ?? error.message))
  })
  req.on('error', (error: NodeJS.ErrnoException) => end(error.code ?? error.message))
  req.end(body)
  return { answer: answer.promise, leave: () => req.destroy(), firstBytes: first.promise }
}

// ScrapeLLM without the bill: the vendor's API on a local port, scriptable in code and by /__sim/, with a ledger of charges.
// Used by the demo, the tests and the benchmarks; imports nothing of the proxy. README.md beside this file is its manual.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Account } from './accounts.ts'
import { readCall } from './call.ts'
import { createChance } from './chance.ts'
import { control, controlPrefix, type Controlled } from './control.ts'
import { createLedger, type Ledger } from './ledger.ts'
import type { Match } from './match.ts'
import { createRecorder } from './recorder.ts'
import type { RecordedRequest } from './request.ts'
import { createScripts } from './script.ts'
import { createStage } from './stage.ts'
import { readStep, type Step } from './step.ts'
import { defaultSwitches, readSwitches, type Switches } from './switches.ts'
import { createTimers } from './timers.ts'
import { createVendor, type Latency } from './vendor.ts'
import { createFaultInjector, readFaultProfile, type FaultProfile } from './faults.ts'

export interface SimulatorOptions {
  /** 0 = any free port. */
  readonly port?: number
  readonly host?: string
  /** Secret to account; left out, every non-empty key is valid and has endless credits. */
  readonly keys?: Readonly<Record<string, Account>>
  /** Of an answered question, before speedUp; 5-30 s when left out. */
  readonly latency?: Latency
  readonly speedUp?: number
  readonly seed?: number
  readonly switches?: Partial<Switches>
  /** Epoch milliseconds for jobs, refunds, the vendor's cache and rate windows; latency always uses real timers. */
  readonly now?: () => number
  /** How many requests and ledger entries are remembered. */
  readonly keepLast?: number
  readonly keepAliveTimeoutMs?: number
}

export interface Simulator {
  /** After close(), takes the same port again and keeps all state. */
  readonly start: () => Promise<{ readonly url: string; readonly port: number }>
  readonly close: () => Promise<void>
  readonly script: (match: Match, steps: readonly Step[]) => void
  /** 'all' = every scraper without weather of its own; null = fair. */
  readonly weather: (scraper: string, weather: FaultProfile | null) => void
  readonly setSwitches: (changes: Partial<Switches>) => void
  /** null revokes the key. */
  readonly setKey: (secret: string, account: Account | null) => void
  /** Everything but the listening socket: releases what is held, forgets the rest. */
  readonly reset: () => void
  readonly received: (count: number, match?: Match) => Promise<void>
  /** Resolves when the condition holds; it is looked at whenever a request arrives, is answered or ends. */
  readonly until: (condition: () => boolean) => Promise<void>
  readonly idle: () => Promise<void>
  /** Lets held requests and pending jobs go on; says how many. */
  readonly release: (match?: Match) => number
  readonly open: number
  readonly requests: readonly RecordedRequest[]
  readonly ledger: Ledger
  readonly switches: Readonly<Switches>
}

/** No waiting at all, for tests. */
export const instant: Latency = { minMs: 0, maxMs: 0 }

// 4,000 emoji are 48 kB of percent-encoding; Node's own limit of 16 kB would hide what the vendor says to them.
const MAX_HEADER_BYTES = 128 * 1024

export function createSimulator(options: SimulatorOptions = {}): Simulator {
  const { now = Date.now, keepLast = 100_000, host = '127.0.0.1' } = options
  let switches = initialSwitches(options)
  const timers = createTimers()
  const recorder = createRecorder(keepLast)
  const scripts = createScripts()
  const faults = createFaultInjector(now)
  const ledger = createLedger(now, keepLast)
  const vendor = createVendor({
    now,
    chance: createChance(options.seed ?? 1),
    latency: options.latency ?? { minMs: 5000, maxMs: 30_000 },
    speedUp: options.speedUp ?? 1,
    keys: options.keys,
    ledger,
    scripts,
    faults,
    open: recorder.open,
    switches: () => switches,
  })
  const stage = createStage(recorder, vendor, timers, () => switches)
  let server: Server | null = null
  let port = options.port ?? 0

  const actions = {
    script: (match: Match, steps: readonly Step[]) => scripts.add(match, steps.map(readStep)),
    weather: (scraper: string, weather: FaultProfile | null) =>
      faults.set(scraper, weather === null ? null : readFaultProfile(weather)),
    setSwitches: (changes: Partial<Switches>) => {
      switches = { ...switches, ...readSwitches(changes) }
    },
    setKey: vendor.accounts.set,
    reset,
    received: (count: number, match: Match = {}) => recorder.received(count, match),
    release,
    requests: recorder.requests,
    ledger,
  }
  const controlled: Controlled = {
    ...actions,
    get switches() {
      return switches
    },
  }

  async function start(): Promise<{ url: string; port: number }> {
    const listening = createServer({ maxHeaderSize: MAX_HEADER_BYTES }, accept)
    listening.keepAliveTimeout = options.keepAliveTimeoutMs ?? 60_000
    await new Promise<void>((resolve, reject) => {
      listening.once('error', reject)
      listening.listen(port, host, resolve)
    })
    server = listening
    port = (listening.address() as AddressInfo).port
    return { url: `http://${host.includes(':') ? `[${host}]` : host}:${port}`, port }
  }

  function accept(req: IncomingMessage, res: ServerResponse): void {
    const parts: Buffer[] = []
    // Without a listener, a client that resets the connection would end the process.
    req.on('error', () => undefined)
    res.on('error', () => undefined)
    req.on('data', (part: Buffer) => parts.push(part))
    req.on('end', () => serve(req, res, Buffer.concat(parts).toString()))
  }

  function serve(req: IncomingMessage, res: ServerResponse, body: string): void {
    if (req.url?.startsWith(controlPrefix) === true) return void control(controlled, req, res, body)
    const request = recorder.add(readCall(req, body, now(), switches))
    stage.play(vendor.decide(request), req, res)
    recorder.changed()
  }

  function release(match: Match = {}): number {
    return stage.release(match) + vendor.jobs.release(match)
  }

  function reset(): void {
    release()
    switches = initialSwitches(options)
    for (const part of [scripts, faults, vendor, ledger, recorder]) part.clear()
  }

  async function close(): Promise<void> {
    const closing = server
    server = null
    stage.abandon()
    if (closing === null) return
    await new Promise<void>((resolve) => {
      closing.close(() => resolve())
      closing.closeAllConnections()
    })
  }

  return {
    ...actions,
    start,
    close,
    until: recorder.until,
    idle: () => recorder.until(() => recorder.open.size === 0),
    get open() {
      return recorder.open.size
    },
    get switches() {
      return switches
    },
  }
}

function initialSwitches({ switches = {} }: SimulatorOptions): Switches {
  return { ...defaultSwitches(), ...readSwitches(switches) }
}

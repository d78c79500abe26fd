// The control endpoint under /__sim/: what tests do in code, for curl and other processes. JSON in, JSON out.

import type { IncomingMessage, ServerResponse } from 'node:http'
import { readAccounts, type Account } from './accounts.ts'
import { check, readFields, SimulatorInputError } from './input.ts'
import type { Ledger } from './ledger.ts'
import { matches, readMatch, type Match } from './match.ts'
import type { RecordedRequest } from './request.ts'
import { readSteps, type Step } from './step.ts'
import { readSwitches, type Switches } from './switches.ts'
import { readFaultProfile, type FaultProfile } from './faults.ts'

/** What the endpoint works on: the part of a simulator that does not listen. */
export interface Controlled {
  readonly script: (match: Match, steps: readonly Step[]) => void
  readonly weather: (scraper: string, weather: FaultProfile | null) => void
  readonly setSwitches: (changes: Partial<Switches>) => void
  readonly setKey: (secret: string, account: Account | null) => void
  readonly reset: () => void
  readonly received: (count: number, match?: Match) => Promise<void>
  readonly release: (match?: Match) => number
  readonly requests: readonly RecordedRequest[]
  readonly ledger: Ledger
  readonly switches: Readonly<Switches>
}

type Command = (simulator: Controlled, body: unknown, query: URLSearchParams) => unknown

export const controlPrefix = '/__sim/'

const COMMANDS: Readonly<Record<string, Command>> = {
  'POST script': (simulator, body) => {
    const { match = {}, steps } = readFields(body, 'the body', ['match', 'steps'])
    simulator.script(readMatch(match), readSteps(steps))
    return { ok: true }
  },
  'POST weather': (simulator, body) => {
    const { scraper, ...weather } = readFields(body, 'the body', [
      'scraper',
      'outage',
      'failureRate',
      'failures',
      'warmUp',
    ])
    check(typeof scraper === 'string', 'scraper must be a string, "all" for all of them')
    simulator.weather(scraper, Object.keys(weather).length === 0 ? null : readFaultProfile(weather))
    return { ok: true }
  },
  'POST release': (simulator, body) => ({ released: simulator.release(readMatch(body)) }),
  'POST reset': (simulator) => {
    simulator.reset()
    return { ok: true }
  },
  'PUT switches': (simulator, body) => {
    simulator.setSwitches(readSwitches(body))
    return simulator.switches
  },
  'GET switches': (simulator) => simulator.switches,
  'PUT keys': (simulator, body) => {
    for (const [secret, account] of readAccounts(body)) simulator.setKey(secret, account)
    return { ok: true }
  },
  'GET ledger': ({ ledger }) => ({ total: ledger.total(), totals: ledger.totals(), entries: ledger.entries }),
  'GET requests': ({ requests }, _body, query) => {
    const match = matchOf(query)
    return requests.filter((request) => matches(request, match))
  },
  'GET received': async (simulator, _body, query) => {
    const count = Number(query.get('count') ?? 1)
    check(Number.isInteger(count) && count >= 0, 'count must be a whole number')
    query.delete('count')
    await simulator.received(count, matchOf(query))
    return { ok: true }
  },
}

export async function control(
  simulator: Controlled,
  req: IncomingMessage,
  res: ServerResponse,
  body: string,
): Promise<void> {
  const [path = '', query = ''] = (req.url ?? '').slice(controlPrefix.length).split('?')
  const command = COMMANDS[`${req.method} ${path}`]
  if (command === undefined) {
    return answer(res, 404, {
      error: `there is no ${req.method} ${path}; there are ${Object.keys(COMMANDS).join(', ')}`,
    })
  }
  try {
    answer(res, 200, await command(simulator, parse(body), new URLSearchParams(query)))
  } catch (error) {
    if (!(error instanceof SimulatorInputError)) throw error
    answer(res, 400, { error: error.message })
  }
}

function parse(body: string): unknown {
  if (body.trim() === '') return {}
  try {
    return JSON.parse(body)
  } catch {
    throw new SimulatorInputError('the body must be JSON')
  }
}

function matchOf(query: URLSearchParams): Match {
  const { bypassCache, ...fields } = Object.fromEntries(query)
  return readMatch(bypassCache === undefined ? fields : { ...fields, bypassCache: bypassCache === 'true' })
}

function answer(res: ServerResponse, status: number, body: unknown): void {
  res.writeHead(status, { 'Content-Type': 'application/json' })
  res.end(`${JSON.stringify(body)}\n`)
}

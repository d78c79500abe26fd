/** What the tests of jobs share: calls as the vendor's routes make them, callers that can hang up, and flights without retries. */
import type { Call, Client, Landing, Outcome, Param, ProxyRequest, Reply, Verdict } from '../../src/model.ts'
import type { Asked, Hold, Question, Upstream } from '../../src/fetch-parts.ts'
import type { Jobs, Profile, Through } from '../../src/parts.ts'
import type { Clock } from '../../src/ports.ts'
import { createFlights } from '../../src/resilience/coalesce.ts'
import { createProfile } from '../../src/scrapellm/profile.ts'
import { aClient, attempted, retryDefaults } from '../support/verdicts.ts'
import { epoch, seededRandom } from '../support/world.ts'

export const profile: Profile = createProfile({ version: '0.0.0-test' }, { wall: () => epoch })

export const team = aClient({ name: 'team' })
export const others = aClient({ name: 'others' })
export const anonymous = aClient({ name: 'anonymous' })

export const UUID = '5c0d9c1e-8d57-4b6e-9a55-0f3a6f1f2b10'
export const day = 24 * 60 * 60_000

/** `prompt=…` and the rest, as in a query. */
export function questionOf(query: string, scraper = 'grok'): Call {
  return read('GET', `/scrapers/${scraper}`, query)
}

export function submissionOf(query: string, scraper = 'grok'): Call {
  return read('POST', `/scrapers/${scraper}/jobs`, query)
}

export function pollOf(id: string): Call {
  return read('GET', `/jobs/${id}`, '')
}

function read(method: string, path: string, query: string): Call {
  const params = [...new URLSearchParams(query)] satisfies Param[]
  return profile.read({ method, target: { path, params, token: null } } as unknown as ProxyRequest)
}

export interface Caller {
  readonly request: ProxyRequest
  readonly leave: () => void
  /** How many wait to be told that it has left. */
  readonly listeners: () => number
}

export function aCaller(clock: Clock, changes: Partial<ProxyRequest> = {}): Caller {
  const listeners = new Set<() => void>()
  const request = {
    id: 'request',
    arrivedAt: clock.now(),
    patienceMs: null,
    idempotencyKey: null,
    hasFallback: false,
    onGone: (listener: () => void) => {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    ...changes,
  } as ProxyRequest
  return {
    request,
    listeners: () => listeners.size,
    leave: () => {
      for (const listener of listeners) listener()
    },
  }
}

export function aHold(id = 'hold'): Hold & { readonly settled: () => boolean } {
  let isSettled = false
  return { id, secure: async () => {}, spend() {}, settle: () => void (isSettled = true), settled: () => isSettled }
}

export function aQuestion(call: Call, changes: Partial<Question> = {}): Question {
  return {
    call,
    turn: {
      number: 1,
      waitedMs: 0,
      bypassCache: false,
      isLast: false,
      isOverBudget: false,
      leftMs: () => 600_000,
      startableMs: () => 590_000,
      spentKeys: new Set(),
    },
    key: { name: 'main', secret: 'key-one', report: () => {} },
    identity: { id: 'request', traceparent: null },
    client: team,
    hold: aHold(),
    cacheKey: call.key,
    lease: { fence: null, begin: async () => null, submitted: async () => {} },
    takeover: null,
    ...changes,
  }
}

export function landingOf(verdict: Verdict): Landing {
  const { attempt } = attempted(verdict)
  const chargedCredits = verdict.charge.state === 'charged' ? verdict.charge.credits : 0
  const stoppedBy = verdict.kind === 'answered' ? null : 'attempts'
  return { verdict, attempts: [attempt], stoppedBy, chargedCredits, entry: null }
}

/** Forwards as the pipeline does, with one attempt each. */
export function createForwarder(clock: Clock, upstream: Upstream) {
  const flights = createFlights({ clock, emit: () => {}, random: seededRandom(1) })

  return (request: ProxyRequest, client: Client) =>
    async (call: Call, joinKey: string | null, through: Through): Promise<Outcome> => {
      const { arrivedAt: askedAt, onGone } = request
      const { scraper } = call
      const deadlineAt = askedAt + 600_000
      const waiter = { scraper, deadlineAt, askedAt, policy: retryDefaults, client, hasFallback: false, onGone }
      const { role, landing } = flights.join(joinKey, waiter, () => through(fly(call, client)))
      const landed = await landing
      return landed ? { kind: 'fetched', landing: landed, role, forwardedBecause: 'method' } : { kind: 'gone' }
    }

  async function fly(call: Call, client: Client): Promise<Landing> {
    const { verdict } = await upstream.ask(aQuestion(call, { client }))
    return landingOf(verdict)
  }
}

export interface Desk {
  readonly jobs: Jobs
  readonly submit: (query: string, key?: string | null, client?: Client, caller?: Caller) => Promise<Outcome>
  readonly poll: (id: string, client?: Client) => Promise<Outcome>
}

export function createDesk(jobs: Jobs, clock: Clock, upstream: Upstream): Desk {
  const forwarder = createForwarder(clock, upstream)
  const go = (caller: Caller, client: Client, call: Call): Promise<Outcome> =>
    jobs.follow(caller.request, client, call, forwarder(caller.request, client))
  return {
    jobs,
    submit: (query, key = null, client = team, caller = aCaller(clock, { idempotencyKey: key })) =>
      go(caller, client, submissionOf(query)),
    poll: (id, client = team) => go(aCaller(clock), client, pollOf(id)),
  }
}

/** The answer as its caller gets it. */
export function replyOf(outcome: Outcome): Reply {
  if (outcome.kind === 'job') return outcome.reply
  if (outcome.kind === 'fetched' && outcome.landing.verdict.reply) return outcome.landing.verdict.reply
  throw new Error(`no reply, but ${outcome.kind}`)
}

export function bodyOf(outcome: Outcome): Record<string, unknown> {
  return JSON.parse(replyOf(outcome).body.toString()) as Record<string, unknown>
}

/** Upstream as a function of the call; what it says is judged as always. */
export function upstreamOf(says: (call: Call, n: number) => Reply | 'cut' | 'down' | Promise<Reply | 'cut' | 'down'>): {
  readonly upstream: Upstream
  readonly calls: Call[]
} {
  const calls: Call[] = []
  async function ask({ call, key }: Question): Promise<Asked> {
    calls.push(call)
    const said = await says(call, calls.length)
    if (typeof said === 'string') {
      const sent = said === 'cut'
      return {
        verdict: profile.classify(call, { kind: 'broken', sent, reason: 'reset', code: null }, key),
        status: null,
        trouble: { reason: 'reset', code: null },
      }
    }
    return { verdict: profile.classify(call, { kind: 'reply', reply: said }, key), status: said.status, trouble: null }
  }
  return { upstream: { ask }, calls }
}

export function json(status: number, body: unknown): Reply {
  const bytes = Buffer.from(typeof body === 'string' ? body : JSON.stringify(body))
  return { status, contentType: 'application/json', retryAfter: null, location: null, body: bytes }
}

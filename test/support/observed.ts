/**
 * The real parts in the real order, watched as in production: audit trail, tracing, metrics, status and the admin port over
 * real sockets; in front of an upstream that says what a test tells it to, under a clock that the test moves.
 */
import { hash } from 'node:crypto'
import type { Test } from 'tap'
import { noDirectives } from '../../src/http/cache-directives.ts'
import { parseDuration } from '../../src/config/units.ts'
import { createCache } from '../../src/cache/tiered.ts'
import { createLocalTier } from '../../src/cache/local-tier.ts'
import { type Admin, createAdmin } from '../../src/http/admin.ts'
import { createCircuitRoute } from '../../src/http/circuits.ts'
import { problemPage } from '../../src/http/html.ts'
import { createKeyRoute } from '../../src/http/keys.ts'
import { createPurgeRoute } from '../../src/http/purge.ts'
import { createReloadRoute } from '../../src/http/reload.ts'
import { createRequestRoutes } from '../../src/http/requests.ts'
import { matches } from '../../src/http/respond.ts'
import { createStatus, type StatusGauges } from '../../src/http/status.ts'
import { createStatusPage } from '../../src/http/status-page.ts'
import { createKeys } from '../../src/keys/pool.ts'
import { Secret } from '../../src/keys/secret.ts'
import { createAdmission } from '../../src/limits/admission.ts'
import { createBudget } from '../../src/limits/budget.ts'
import { createLinkedList } from '../../src/linked-list.ts'
import type { Client, Exchange, Outcome, ProxyRequest, Verdict, CacheDirectives } from '../../src/model.ts'
import type { Question } from '../../src/fetch-parts.ts'
import type { Profile } from '../../src/parts.ts'
import { createPipeline, type Parts } from '../../src/pipeline.ts'
import { createBreakers } from '../../src/resilience/breaker.ts'
import { createBulkhead } from '../../src/resilience/bulkhead.ts'
import { createFlights } from '../../src/resilience/coalesce.ts'
import { neverOverloaded } from '../../src/resilience/overload.ts'
import { createRetryBudget } from '../../src/resilience/retry-budget.ts'
import { loneFlights } from '../../src/resilience/shared-flight.ts'
import { createRetry } from '../../src/resilience/retry.ts'
import { createAccessLog } from '../../src/telemetry/access-log.ts'
import { type AuditOptions, createAudit } from '../../src/telemetry/audit.ts'
import { createHistory } from '../../src/telemetry/history.ts'
import { createLog } from '../../src/telemetry/log.ts'
import { createMetrics } from '../../src/telemetry/metrics.ts'
import { createPace } from '../../src/telemetry/pace.ts'
import { createRecorder } from '../../src/telemetry/recorder.ts'
import { createTracing } from '../../src/telemetry/tracing.ts'
import { aCall, aClient, breakerDefaults, budgetDefaults, failed, keyRestDefaults } from './verdicts.ts'
import { fakeWorld } from './world.ts'

export interface Observation {
  /** What upstream says to its n-th call. */
  readonly says?: (n: number, question: Question) => Verdict
  /** How long it takes over each answer. */
  readonly takesMs?: number
  readonly clients?: readonly Client[]
  readonly keys?: readonly string[]
  readonly scrapers?: readonly string[]
  readonly breaker?: Partial<typeof breakerDefaults>
  readonly audit?: Partial<AuditOptions>
  /** No file is wanted. */
  readonly noFile?: boolean
  readonly gauges?: Partial<StatusGauges>
  readonly adminToken?: string
  /** Other parts in the place of those that are right. */
  readonly instead?: (parts: Parts) => Partial<Parts>
}

export interface Asking {
  readonly id?: string
  /** Path; the scraper is its last segment. */
  readonly question?: string
  readonly prompt?: string
  readonly client?: string
  readonly patienceMs?: number
  readonly cacheDirectives?: Partial<CacheDirectives>
  readonly traceparent?: string
}

export interface Asked {
  readonly outcome: Promise<Outcome>
  readonly hangUp: () => void
}

export const UPSTREAM_SECRET = 'CANARY-upstream-secret'
export const CALLER_TOKEN = 'CANARY-caller-token'

export function observed(observation: Observation = {}) {
  const {
    says = () => failed('serverError'),
    takesMs = 1_000,
    clients = [aClient()],
    keys: names = ['main'],
  } = observation
  const scrapers = observation.scrapers ?? ['alpha']
  const world = fakeWorld()
  const { clock, random } = world
  const lines: string[] = []
  const output: string[] = []
  const calls: Question[] = []

  const local = createLocalTier({ maxBytes: 10_000_000, onEvicted: () => undefined })
  const tiers = () => [{ tier: 'memory' as const, entries: local.count, bytes: local.bytes, maxBytes: local.maxBytes }]
  const metrics = createMetrics({
    clients: clients.map(({ name }) => name),
    scrapers,
    keys: names,
    tiers: ['memory'],
    version: '0.0.0-test',
  })
  metrics.showGauges({
    breakers: () => breakers.states(),
    keys: () => keys.states(),
    budgets: () => budget.states(),
    retryTokens: (scraper) => retryBudget.tokens(scraper),
    cache: tiers,
    configGeneration: () => 1,
  })
  const sink = (text: string): void => void output.push(text)
  const access = createAccessLog({ level: 'info', prompts: false }, { clock, sink })
  const log = createLog({ level: 'info', sink, secrets: [] })
  const tracing = createTracing({ clock, random, version: '0.0.0-test' })
  const open = createLinkedList<Exchange>()
  const audit = createAudit(
    { prompts: false, ...observation.audit },
    {
      clock,
      open,
      append: observation.noFile ? null : (line) => void lines.push(line),
    },
  )
  const history = createHistory({ clock, credits: () => recorder.totals(), open: () => open.size })
  const pace = createPace({ clock })
  const recorder = createRecorder({
    metrics,
    access,
    log,
    clock,
    matches,
    watchers: [audit, ...tracing.watchers, history],
    open,
    traceIdOf: tracing.traceIdOf,
    openPrompts: audit.openPrompts,
  })
  recorder.watch(audit)
  recorder.watch(tracing)
  recorder.watch(history)
  recorder.watch(pace)
  const { emit } = recorder

  const cache = createCache(
    { replay: (body) => body, policies: [] },
    { local, durable: null, shared: null },
    clock,
    emit,
  )
  const budget = createBudget({ clock, emit, random, store: null, clients: () => clients })
  const flights = createFlights({ clock, emit, random })
  const admission = createAdmission({ clock })
  const breakers = createBreakers({
    policy: { ...breakerDefaults, ...observation.breaker },
    scrapers,
    clock,
    random,
    emit,
  })
  const retryBudget = createRetryBudget({ ...budgetDefaults, clock, isWell: breakers.isWell })
  const keys = createKeys({
    clock,
    random,
    emit,
    keys: names.map((name) => ({ name, secret: new Secret(UPSTREAM_SECRET), weight: 1 })),
    keyRest: keyRestDefaults,
  })

  const parts: Parts = {
    clock,
    emit,
    clients: {
      identify: ({ token }) =>
        clients.find(({ name }) => `${CALLER_TOKEN}-${name}` === token) ?? clients[0] ?? aClient(),
    },
    profile: {
      vendor: 'the vendor',
      scrapers,
      read: ({ target }) =>
        aCall({
          scraper: target.path.split('/').at(-1) ?? 'alpha',
          path: target.path,
          params: target.params,
          key: hash('sha256', JSON.stringify(target), 'hex'),
          promptHash: 'abc123abc123',
        }),
      sign: () => {
        throw new Error('the upstream of this test is asked without a wire')
      },
      classify: () => failed('ambiguous'),
      jobs: {} as Profile['jobs'],
      replay: (body) => body,
    },
    admission,
    cache,
    budget,
    flights,
    retry: createRetry({ clock, random, emit, budget: retryBudget }),
    breakers,
    overload: neverOverloaded,
    bulkhead: createBulkhead(
      { maxConcurrent: 200, perScraper: null, adaptive: false, queue: { size: 0, maxWait: 0 } },
      { clock, random, emit },
    ),
    keys,
    traces: tracing,
    upstream: {
      async ask(question) {
        calls.push(question)
        const verdict = says(calls.length, question)
        await new Promise<void>((resolve) => clock.after(takesMs, resolve))
        return { verdict, status: verdict.reply?.status ?? null, trouble: null }
      },
    },
    sharedFlights: loneFlights,
    jobs: {
      follow: () => Promise.reject(new Error('no jobs here')),
      promise: () => Promise.reject(new Error('no jobs here')),
      interrupted: () => [],
      resume: () => {},
    },
    recorder,
  }
  const { handle } = createPipeline({ ...parts, ...observation.instead?.(parts) })

  const status = createStatus({
    version: '0.0.0-test',
    startedAt: clock.wall(),
    clock,
    configGeneration: () => 1,
    ready: () => true,
    draining: () => false,
    openRequests: () => 0,
    breakers: breakers.states,
    slow: pace.slow,
    keys: keys.states,
    flights: flights.list,
    cache: tiers,
    disk: () => null,
    credits: recorder.credits,
    budgets: budget.states,
    clients: () =>
      budget.spending().map(({ client, dayCredits, monthCredits }) => ({
        name: client,
        openQuestions: admission.open(client),
        dayCredits,
        monthCredits,
      })),
    trails: audit,
    history,
    ...observation.gauges,
  })
  const routes = [
    createStatusPage({ status, history, trails: audit }),
    ...createRequestRoutes({ trails: audit, clock }),
    createKeyRoute({ tryNow: keys.tryNow }),
    createCircuitRoute({ closeNow: breakers.closeNow }),
    createPurgeRoute({ purge: cache.purge, scrapers, promptHash: (text) => text, durationMs: parseDuration, clock }),
    createReloadRoute({
      random,
      reload: () => ({ result: 'invalid', generation: 1, mistakes: ['log.levle: unknown'] }),
    }),
  ]

  function ask(asking: Asking = {}): Asked {
    const listeners = new Set<() => void>()
    const { question = '/scrapers/alpha', prompt = 'CANARY-prompt', client = clients[0]?.name } = asking
    const request: ProxyRequest = {
      id: asking.id ?? random.id(),
      method: 'GET',
      target: { path: question, params: [['prompt', prompt]], token: null },
      token: `${CALLER_TOKEN}-${client}`,
      cacheDirectives: { ...noDirectives, ...asking.cacheDirectives },
      ifNoneMatch: null,
      patienceMs: asking.patienceMs ?? null,
      idempotencyKey: null,
      respondAsyncAfterMs: null,
      traceparent: asking.traceparent ?? null,
      source: { host: null, origin: null, fetchSite: null },
      arrivedAt: clock.now(),
      onGone(listener) {
        listeners.add(listener)
        return () => void listeners.delete(listener)
      },
    }
    const exchange: Exchange = { request, client: null, call: null, limits: null, credits: [], flight: null }
    return {
      outcome: Promise.resolve(handle(exchange)),
      hangUp: () => [...listeners].forEach((listener) => listener()),
    }
  }

  /** The admin port, until the test ends. */
  async function listen(t: Test): Promise<Admin> {
    const admin = createAdmin(
      { host: '127.0.0.1', port: 0, token: observation.adminToken ?? null },
      { random, emit, ready: () => true, metrics: metrics.text, status, problemPage, routes },
    )
    await admin.listen()
    t.teardown(() => admin.close())
    return admin
  }

  return {
    clock,
    audit,
    history,
    recorder,
    status,
    metrics,
    calls,
    ask,
    listen,
    /** Asks, and lets the time pass until there is an outcome. */
    finish: (asking: Asking = {}) => clock.finish(ask(asking).outcome),
    /** The audit file, line by line. */
    lines: () => lines.map((line) => JSON.parse(line) as Record<string, unknown>),
    rawLines: () => lines,
    output() {
      access.flush()
      return output.join('')
    },
  }
}

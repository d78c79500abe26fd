/**
 * One circuit breaker per scraper, for calls that take minutes.
 *
 * What opossum does: it is the gate. Every guarded call goes through `fire`, and while the gate is open opossum refuses it.
 * What we do: we decide when the gate opens, for how long, and how many pass while upstream is on trial. Outcomes are
 * counted when they are known, and only those of calls that started in the present state; opossum's own window counts calls
 * at their start, takes late answers for news and has one probe that may hang for ever, so none of its rules or timers
 * decides anything here.
 */
import { EventEmitter } from 'node:events'
import CircuitBreaker from 'opossum'
import { ProxyError } from '../errors.ts'
import type { Health } from '../model.ts'
import type { Breakers, BreakerStatus } from '../parts.ts'
import type { Clock, Emit, Random } from '../ports.ts'
import type { BreakerState } from '../telemetry/events.ts'

/** Durations in milliseconds. */
export interface BreakerPolicy {
  /** So many failures in a row open it. */
  readonly consecutive: number
  /** So much of the last `window` completions, of which there must be at least `minimum`. */
  readonly failureRate: number
  readonly window: number
  readonly minimum: number
  readonly openFor: number
  readonly openForMax: number
}

/** What replicas tell each other; it can only put a probe off. */
export interface BreakerHints {
  opened(scraper: string, openForMs: number): void
  /** When a circuit that is open until then may be tried. */
  triedAt(scraper: string, openUntil: number): number
}

const noHints: BreakerHints = { opened: () => {}, triedAt: (_scraper, openUntil) => openUntil }

interface BreakersPorts {
  readonly hints?: BreakerHints
  readonly policy: BreakerPolicy
  /** The scrapers that have a breaker; any other name passes unguarded. */
  readonly scrapers: readonly string[]
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
}

/** Completions older than this say nothing about now. */
const memoryMs = 10 * 60_000
/** So long must it have been closed for one doubling of the open time to be forgiven. */
const forgiveMs = 10 * 60_000
/** A probe that has survived so long is taken for a provisional success, and more calls may follow it. */
const survivalMs = 15_000
const successesPerDoubling = 3
/** Longer timers fire at once in Node. opossum's never does, within the time that a gate is open. */
const neverMs = 2 ** 31 - 1

const weight = { up: 0, slow: 0.5, down: 1 } as const

/** How many may try at a time while upstream is on trial, and who does. */
interface Trial {
  allowed: number
  steppedAt: number
  inFlight: number
  successes: number
  isProbed: boolean
}

type State =
  | { readonly kind: 'closed'; readonly since: number }
  | { readonly kind: 'open'; readonly until: number }
  | { readonly kind: 'half-open'; readonly trial: Trial }

/** What a call was let in with: what it brings back counts only for the state it started in. */
interface Pass {
  readonly generation: number
  readonly isProbe: boolean
}

interface Circuit {
  run<T>(work: () => Promise<T>, health: (result: T) => Health, policy: BreakerPolicy): Promise<T>
  status(): BreakerStatus
  close(): void
}

export interface CircuitBreakers extends Breakers {
  /** The same circuits for calls of another policy: each call is judged by its own. */
  under(policy: BreakerPolicy): Breakers
  close(): void
}

export function createBreakers(ports: BreakersPorts): CircuitBreakers {
  const circuits = new Map(ports.scrapers.map((scraper) => [scraper, createCircuit(scraper, ports)]))
  return {
    ...under(ports.policy),
    under,
    close() {
      for (const circuit of circuits.values()) circuit.close()
    },
  }

  function under(policy: BreakerPolicy): Breakers {
    return {
      async run(scraper, work, health) {
        const circuit = circuits.get(scraper)
        return circuit ? circuit.run(work, health, policy) : work()
      },
      isOpen: (scraper) => circuits.get(scraper)?.status().state === 'open',
      states: () => Array.from(circuits.values(), (circuit) => circuit.status()),
    }
  }
}

function createCircuit(scraper: string, { clock, random, emit, hints = noHints }: BreakersPorts): Circuit {
  const gate = createGate()
  let state: State = { kind: 'closed', since: clock.now() }
  let generation = 0
  let doublings = 0
  /** The latest last. */
  let completions: { readonly at: number; readonly weight: number }[] = []

  async function run<T>(work: () => Promise<T>, health: (result: T) => Health, policy: BreakerPolicy): Promise<T> {
    const pass = admit()
    let learnt: Health = 'neutral'
    try {
      const result = await gate.through(work, remainingMs)
      learnt = health(result)
      return result
    } finally {
      learn(pass, learnt, policy)
    }
  }

  /** Throws where there is no place on trial. An open gate refuses by itself. */
  function admit(): Pass {
    refresh()
    if (state.kind !== 'half-open') return { generation, isProbe: false }

    const { trial } = state
    const now = clock.now()
    if (trial.isProbed) widen(trial, now)
    else trial.steppedAt = now
    if (trial.inFlight >= trial.allowed) throw circuitOpen(trial.steppedAt + survivalMs - now)
    const isProbe = !trial.isProbed
    trial.isProbed = true
    trial.inFlight += 1
    return { generation, isProbe }
  }

  function learn(pass: Pass, health: Health, policy: BreakerPolicy): void {
    if (pass.generation !== generation) return
    if (state.kind === 'half-open') return judge(state.trial, pass, health, policy)
    if (health !== 'neutral') count(weight[health], policy)
  }

  function judge(trial: Trial, pass: Pass, health: Health, policy: BreakerPolicy): void {
    trial.inFlight -= 1
    const isDecisive = pass.isProbe || !trial.isProbed
    if (pass.isProbe) trial.isProbed = false
    if (health === 'down' || health === 'slow') return open(policy)
    if (health === 'neutral') return
    if (isDecisive) return close()

    trial.successes += 1
    if (trial.successes % successesPerDoubling !== 0) return
    trial.allowed *= 2
    trial.steppedAt = clock.now()
  }

  function count(weight: number, policy: BreakerPolicy): void {
    const now = clock.now()
    // 'slow' counts half, so a row may be twice as long as `consecutive`.
    const kept = Math.max(policy.window, 2 * policy.consecutive)
    completions.push({ at: now, weight })
    while (completions.length > kept || now - (completions[0]?.at ?? now) >= memoryMs) completions.shift()
    if (isRowTooLong(policy) || isRateTooHigh(policy)) open(policy)
  }

  function isRowTooLong({ consecutive }: BreakerPolicy): boolean {
    const row = completions.slice(completions.findLastIndex(({ weight }) => weight === 0) + 1)
    return sum(row) >= consecutive
  }

  function isRateTooHigh({ window, minimum, failureRate }: BreakerPolicy): boolean {
    const recent = completions.slice(-window)
    return recent.length >= minimum && sum(recent) / recent.length >= failureRate
  }

  function open(policy: BreakerPolicy): void {
    const now = clock.now()
    if (state.kind === 'closed') doublings = Math.max(0, doublings - Math.floor((now - state.since) / forgiveMs))
    const fullMs = Math.min(policy.openFor * 2 ** doublings, policy.openForMax)
    const openForMs = Math.round(fullMs * (0.8 + 0.4 * random.next()))
    doublings += 1
    gate.shut()
    enter({ kind: 'open', until: now + openForMs }, openForMs)
    hints.opened(scraper, openForMs)
  }

  function close(): void {
    completions = []
    enter({ kind: 'closed', since: clock.now() }, null)
  }

  /** The end of the open time has no timer: it is noticed by the next call, or whoever looks. */
  function refresh(): void {
    if (state.kind !== 'open' || clock.now() < hints.triedAt(scraper, state.until)) return
    gate.unlock()
    const trial = { allowed: 1, steppedAt: clock.now(), inFlight: 0, successes: 0, isProbed: false }
    enter({ kind: 'half-open', trial }, null)
  }

  function enter(next: State, openForMs: number | null): void {
    state = next
    generation += 1
    emit({ kind: 'breaker-changed', scraper, to: next.kind, openForMs })
  }

  function remainingMs(): number {
    return state.kind === 'open' ? hints.triedAt(scraper, state.until) - clock.now() : 0
  }

  function status(): BreakerStatus {
    refresh()
    const kind: BreakerState = state.kind
    return { scraper, state: kind, openUntil: state.kind === 'open' ? hints.triedAt(scraper, state.until) : null }
  }

  function shutDown(): void {
    // What is still under way has nothing to tell any more, and nothing moves the gate again.
    generation += 1
    state = { kind: 'closed', since: clock.now() }
    gate.end()
  }

  return { run, status, close: shutDown }
}

function widen(trial: Trial, now: number): void {
  while (now - trial.steppedAt >= survivalMs) {
    trial.allowed *= 2
    trial.steppedAt += survivalMs
  }
}

function sum(completions: readonly { readonly weight: number }[]): number {
  return completions.reduce((sum, { weight }) => sum + weight, 0)
}

function circuitOpen(leftMs: number): ProxyError {
  return new ProxyError('CIRCUIT_OPEN', 'This scraper is failing and is given a rest.', {
    retryAfterMs: Math.max(1_000, leftMs),
  })
}

/** opossum with all that decides or ticks switched off. */
function createGate() {
  // opossum keeps the duration of every call; it forgets them when told to rotate, here instead of by a timer.
  const rotation = new EventEmitter()
  const breaker = new CircuitBreaker((work: () => Promise<unknown>) => work(), {
    timeout: false,
    resetTimeout: neverMs,
    volumeThreshold: Number.MAX_SAFE_INTEGER,
    rollingCountBuckets: 2,
    enableSnapshots: false,
    rollingPercentilesEnabled: false,
    rotateBucketController: rotation,
  })

  async function through<T>(work: () => Promise<T>, leftMs: () => number): Promise<T> {
    try {
      return (await breaker.fire(work)) as T
    } catch (error) {
      if (breaker.isShutdown && isRefusal(error)) throw new ProxyError('SHUTTING_DOWN', 'The proxy is shutting down.')
      if (isRefusal(error)) throw circuitOpen(leftMs())
      throw error
    } finally {
      rotation.emit('rotate')
    }
  }

  return {
    through,
    shut: () => breaker.open(),
    unlock: () => breaker.close(),
    end: () => breaker.shutdown(),
  }
}

function isRefusal(error: unknown): boolean {
  return error instanceof Error && CircuitBreaker.isOurError(error)
}

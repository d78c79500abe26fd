/**
 * One circuit breaker per scraper, for answers that take minutes, failures that come at once, and callers who would rather wait
 * than fail. It opens when hardly anything succeeds (`evidence.ts`). For a while an open circuit holds attempts instead of
 * refusing them, so a short outage costs callers seconds; later it refuses them at once. Trials are free, because failures are:
 * they come after 1, 2, 4 … s. A trial that outlives failures lets two more in, then four; an answer closes the circuit, and
 * those that were held are let in a few at a time.
 *
 * opossum is the gate: every attempt goes through its `fire`, and while it is open nothing passes. When it opens and closes is
 * decided here: its own rules count calls at their start and have one probe, which may hang. Longer than other files, because the
 * states of a circuit are read together.
 */
import { EventEmitter } from 'node:events'
import CircuitBreaker from 'opossum'
import { ProxyError } from '../errors.ts'
import type { Health } from '../model.ts'
import type { Attempted, BreakerEntry, Breakers, BreakerStatus, Pass } from '../parts.ts'
import type { Clock, Emit, Random, Timer } from '../ports.ts'
import type { BreakerState } from '../telemetry/events.ts'
import { createDoubts } from './doubts.ts'
import { createEvidence, type EvidencePolicy, type SeenCall } from './evidence.ts'
import { createHeldQueue } from './held.ts'

/** Durations in milliseconds. */
export interface BreakerPolicy extends EvidencePolicy {
  /** Until the first trial; doubled for each one that fails. */
  readonly openFor: number
  readonly openForMax: number
  /** For so long after the opening attempts wait instead of failing. */
  readonly hold: number
}

interface BreakersPorts {
  readonly policy: BreakerPolicy
  /** The scrapers that have a breaker; any other name passes unguarded. */
  readonly scrapers: readonly string[]
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
}

export interface CircuitBreakers extends Breakers {
  /** The same circuits for calls of another policy: each call is judged by its own. */
  under(policy: BreakerPolicy): Breakers
  /** Most calls of this scraper are well, as far as is known. */
  isWell(scraper: string): boolean
  /** For an operator who knows better; null = there is no such circuit. */
  closeNow(scraper: string): BreakerStatus | null
  close(): void
}

type Work = (pass: Pass) => Promise<Attempted | null>

interface Circuit {
  run(entry: BreakerEntry, work: Work, policy: BreakerPolicy): Promise<Attempted | null>
  status(): BreakerStatus
  isWell(): boolean
  closeNow(): BreakerStatus
  close(): void
}

/** One more is refused: what it would wait for is not a short outage. */
const MOST_HELD = 10_000
/** After a circuit has closed, so many of those that were held are let in, then twice as many, each after so long. */
const FIRST_BATCH = 4
const BATCH_EVERY_MS = 1_000
/** Trials of replicas that opened together must not come together. */
const SPREAD = 0.2

/** From the opening of a circuit until it closes. */
interface Opening {
  readonly policy: BreakerPolicy
  readonly holdUntil: number
  nextTrialAt: number
  readonly trials: Set<Trial>
  /** Trials that failed since the last setback. Those that began before it are no sign of recovery any more. */
  failed: number
  setbackAt: number
  /** The trial that failed was the second one of two. */
  isSecond: boolean
}

interface Trial {
  /** Null = it waits for its place. */
  startedAt: number | null
}

/** What an attempt is let in with: what it brings back counts only for the state in which it began. */
interface Grant {
  readonly generation: number
  readonly trial: Trial | null
}

interface Admitted {
  readonly pass: Pass
  generation: number
  trial: Trial | null
  call: SeenCall | null
}

export function createBreakers(ports: BreakersPorts): CircuitBreakers {
  const circuits = new Map(ports.scrapers.map((scraper) => [scraper, createCircuit(scraper, ports)]))
  return {
    ...under(ports.policy),
    under,
    isWell: (scraper) => circuits.get(scraper)?.isWell() ?? true,
    closeNow: (scraper) => circuits.get(scraper)?.closeNow() ?? null,
    close() {
      for (const circuit of circuits.values()) circuit.close()
    },
  }

  function under(policy: BreakerPolicy): Breakers {
    return {
      async run(entry, work) {
        const circuit = circuits.get(entry.scraper)
        return circuit ? circuit.run(entry, work, policy) : work(unguarded)
      },
      isOpen: (scraper) => (circuits.get(scraper)?.status().state ?? 'closed') !== 'closed',
      states: () => Array.from(circuits.values(), (circuit) => circuit.status()),
    }
  }
}

const unguarded: Pass = { heldMs: 0, isVoid: () => false, start() {} }

function createCircuit(scraper: string, { clock, random, emit }: BreakersPorts): Circuit {
  const gate = createGate()
  const evidence = createEvidence()
  const doubts = createDoubts(clock)
  const held = createHeldQueue<Grant>(clock, (end, heldMs) => {
    emit({ kind: 'hold-ended', scraper, end, heldMs })
    if (end === 'left') arm()
  })
  let state: BreakerState = 'closed'
  let opening: Opening | null = null
  let generation = 0
  /** How often the time until the next trial has been doubled. */
  let doublings = 0
  let closedAt = clock.now()
  let batch = FIRST_BATCH
  let nextBatchAt = 0
  let timer: Timer | null = null

  async function run(entry: BreakerEntry, work: Work, policy: BreakerPolicy): Promise<Attempted | null> {
    for (;;) {
      const admitted = await admit(entry, policy)
      if (!admitted) return null
      if (admitted.pass.isVoid()) continue
      let health: Health = 'neutral'
      try {
        const attempted = await gate.through(() => work(admitted.pass))
        // Null = the circuit opened while the attempt waited for its place.
        if (attempted) {
          health = attempted.verdict.health
          return attempted
        }
      } finally {
        learn(admitted, health, policy)
      }
    }
  }

  // Letting in

  /** Null = the retry budget forbids it, and the circuit does not open. */
  async function admit(entry: BreakerEntry, policy: BreakerPolicy): Promise<Admitted | null> {
    const { isLast, isOverBudget, flight } = entry
    const since = clock.now()
    let isAllowed = !isOverBudget
    if ((isLast || isOverBudget) && isDoubtful(policy) && doubts.size < MOST_HELD) {
      const answer = await doubts.wait(() => isDoubtful(policy), policy.hold, flight)
      if (answer === 'known') isAllowed = true
    }
    if (!opening && held.size === 0) {
      if (!isAllowed) return null
      return letIn(entry, policy, { generation, trial: null }, clock.now() - since)
    }
    if (opening && held.size === 0 && mayTry(opening))
      return letIn(entry, policy, tryOnce(opening), clock.now() - since)
    if (held.size >= MOST_HELD || (opening && isHoldOver(opening))) throw circuitOpen()
    const granted = held.wait(flight, isLast, circuitOpen)
    arm()
    return letIn(entry, policy, await granted, clock.now() - since)
  }

  function isDoubtful(policy: BreakerPolicy): boolean {
    return opening === null && evidence.isDoubtful(policy, clock.now())
  }

  function letIn({ question }: BreakerEntry, policy: BreakerPolicy, grant: Grant, heldMs: number): Admitted {
    const admitted: Admitted = {
      ...grant,
      call: null,
      pass: {
        heldMs,
        isVoid: () => opening !== null && admitted.generation !== generation,
        start() {
          if (admitted.generation !== generation) admitted.trial = null
          admitted.generation = generation
          if (admitted.trial) {
            admitted.trial.startedAt = clock.now()
            arm()
          } else admitted.call = evidence.started(question, clock.now(), policy)
        },
      },
    }
    return admitted
  }

  /** Lets in as many as it may, and refuses the others when they have been held for long enough. */
  function pump(): void {
    const now = clock.now()
    if (opening) {
      while (held.size > 0 && mayTry(opening)) held.letIn(tryOnce(opening), 'trial')
      if (held.size > 0 && isHoldOver(opening)) held.refuse(circuitOpen())
    } else if (held.size > 0 && now >= nextBatchAt) {
      for (let left = batch; left > 0 && held.size > 0; left -= 1) held.letIn({ generation, trial: null }, 'free')
      batch *= 2
      nextBatchAt = now + BATCH_EVERY_MS
    }
    arm()
  }

  /** A timer is set only while somebody is held. */
  function arm(): void {
    timer?.cancel()
    timer = held.size === 0 ? null : clock.after((opening ? nextChangeOf(opening) : nextBatchAt) - clock.now(), pump)
  }

  // Trials

  /** One at its time, though the one before may hang; and two more for each that outlives failures. */
  function mayTry(opening: Opening): boolean {
    const survivors = survivorsOf(opening)
    return clock.now() >= opening.nextTrialAt || (survivors > 0 && opening.trials.size < 1 + 2 * survivors)
  }

  function tryOnce(opening: Opening): Grant {
    const trial = { startedAt: null }
    opening.trials.add(trial)
    doublings += 1
    opening.nextTrialAt = clock.now() + openMs(opening.policy)
    if (state === 'open') {
      gate.unlock()
      enter('half-open')
    }
    return { generation, trial }
  }

  function survivorsOf({ trials, setbackAt }: Opening): number {
    const before = clock.now() - evidence.survivalMs()
    let survivors = 0
    for (const { startedAt } of trials)
      if (startedAt !== null && startedAt >= setbackAt && startedAt <= before) survivors += 1
    return survivors
  }

  /** While a trial looks well, nobody is refused. */
  function isHoldOver(opening: Opening): boolean {
    return clock.now() >= opening.holdUntil && survivorsOf(opening) === 0
  }

  function nextChangeOf({ trials, nextTrialAt, holdUntil, setbackAt }: Opening): number {
    const now = clock.now()
    const survivalMs = evidence.survivalMs()
    let next = holdUntil > now ? Math.min(nextTrialAt, holdUntil) : nextTrialAt
    for (const { startedAt } of trials) {
      if (startedAt === null || startedAt < setbackAt) continue
      const survivesAt = startedAt + survivalMs
      if (survivesAt > now) next = Math.min(next, survivesAt)
    }
    return next
  }

  /** Where trials are rare, a second one soon follows the first: one call may fail in fair weather, too. */
  function trySoonAgain(opening: Opening): void {
    const soonAt = clock.now() + opening.policy.openFor
    opening.isSecond = !opening.isSecond && opening.nextTrialAt - soonAt > opening.policy.openForMax / 2
    if (opening.isSecond) opening.nextTrialAt = soonAt
  }

  function openMs({ openFor, openForMax }: BreakerPolicy): number {
    return Math.min(openFor * 2 ** doublings, openForMax) * (1 - SPREAD * random.next())
  }

  // Learning

  function learn({ generation: began, trial, call }: Admitted, health: Health, policy: BreakerPolicy): void {
    if (began !== generation) return
    if (opening && trial) return judge(opening, trial, health)
    if (!call) return
    const now = clock.now()
    evidence.ended(call, health, now)
    if (isFailure(health) && evidence.isDamning(policy, now)) open(policy)
    else if (doubts.size > 0) doubts.review()
  }

  function judge(opening: Opening, trial: Trial, health: Health): void {
    opening.trials.delete(trial)
    if (health === 'up') return close()
    const now = clock.now()
    if (!isFailure(health)) opening.nextTrialAt = Math.min(opening.nextTrialAt, now + opening.policy.openFor)
    else {
      evidence.failureTook(now - (trial.startedAt ?? now))
      opening.failed += 1
      const survivors = survivorsOf(opening)
      if (opening.failed >= opening.policy.failureRate * (opening.failed + survivors)) {
        opening.failed = 0
        opening.setbackAt = now
        trySoonAgain(opening)
      }
    }
    if (opening.trials.size === 0 && state === 'half-open') {
      gate.shut()
      enter('open', opening.nextTrialAt - now, true)
    }
    pump()
  }

  // States

  function open(policy: BreakerPolicy): void {
    const now = clock.now()
    // A recovery that lasted is one.
    if (now - closedAt >= policy.openForMax) doublings = 0
    const openForMs = openMs(policy)
    opening = {
      policy,
      holdUntil: now + policy.hold,
      nextTrialAt: now + openForMs,
      trials: new Set(),
      failed: 0,
      setbackAt: now,
      isSecond: false,
    }
    generation += 1
    evidence.forget()
    gate.shut()
    enter('open', openForMs)
    doubts.endAll()
    arm()
  }

  function close(): void {
    opening = null
    generation += 1
    closedAt = clock.now()
    batch = FIRST_BATCH
    nextBatchAt = closedAt
    enter('closed')
    pump()
  }

  function closeNow(): BreakerStatus {
    if (opening) {
      if (state === 'open') gate.unlock()
      doublings = 0
      close()
    }
    return status()
  }

  function enter(to: BreakerState, openForMs: number | null = null, isStillOpen = false): void {
    state = to
    const roundedMs = openForMs === null ? null : Math.round(openForMs)
    emit({ kind: 'breaker-changed', scraper, to, openForMs: roundedMs, isStillOpen })
  }

  function circuitOpen(): ProxyError {
    const leftMs = opening ? opening.nextTrialAt - clock.now() : 0
    return new ProxyError(
      'CIRCUIT_OPEN',
      'Upstream has been failing for this scraper, so it is not asked now. Retry after the time in Retry-After.',
      { retryAfterMs: Math.max(1_000, leftMs) },
    )
  }

  function status(): BreakerStatus {
    const openUntil = state === 'open' && opening ? opening.nextTrialAt : null
    return { scraper, state, openUntil, held: held.size + doubts.size }
  }

  function shutDown(): void {
    // What is under way has nothing to tell any more.
    generation += 1
    opening = null
    state = 'closed'
    gate.end()
    doubts.endAll()
    held.refuse(shuttingDown())
    arm()
  }

  return {
    run,
    status,
    isWell: () => opening === null && evidence.isMostlyWell(clock.now()),
    closeNow,
    close: shutDown,
  }
}

function isFailure(health: Health): boolean {
  return health === 'down' || health === 'slow'
}

function shuttingDown(): ProxyError {
  return new ProxyError('SHUTTING_DOWN', 'The proxy is shutting down.')
}

/** opossum with all that decides or ticks switched off. */
function createGate() {
  // opossum keeps the duration of every call; it forgets them when told to rotate, here instead of by a timer.
  const rotation = new EventEmitter()
  const breaker = new CircuitBreaker((work: () => Promise<Attempted | null>) => work(), {
    timeout: false,
    resetTimeout: NEVER_MS,
    volumeThreshold: Number.MAX_SAFE_INTEGER,
    rollingCountBuckets: 2,
    enableSnapshots: false,
    rollingPercentilesEnabled: false,
    rotateBucketController: rotation,
  })

  async function through(work: () => Promise<Attempted | null>): Promise<Attempted | null> {
    try {
      return await breaker.fire(work)
    } catch (error) {
      if (error instanceof Error && CircuitBreaker.isOurError(error)) throw shuttingDown()
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

/** Longer timers fire at once in Node. opossum's never does, within the time that a gate is open. */
const NEVER_MS = 2 ** 31 - 1

/**
 * One circuit breaker per scraper, for answers that take minutes, failures that come at once, and callers who would rather wait
 * than fail. It opens when hardly anything succeeds (`evidence.ts`). For a while an open circuit holds attempts instead of
 * refusing them, so a short outage costs callers seconds; later it refuses them at once. Trials are free, because failures are:
 * they come after 1, 2, 4 … s. A trial that outlives failures lets two more in, then four; an answer closes the circuit, and
 * those that were held are let in a few at a time.
 *
 * opossum is the gate: every attempt goes through its `fire`, and while it is open nothing passes. When it opens and closes is
 * decided here: its own rules count calls at their start and have one probe, which may hang.
 */
import { EventEmitter } from 'node:events'
import CircuitBreaker from 'opossum'
import { ProxyError } from '../errors.ts'
import type { Health } from '../model.ts'
import type { Attempted, BreakerEntry, Breakers, BreakerStatus, Pass } from '../fetch-parts.ts'
import type { Clock, Emit, Random, Timer } from '../ports.ts'
import type { BreakerState } from '../telemetry/events.ts'
import { type Doubts, createDoubts } from './doubts.ts'
import { createEvidence, type EvidencePolicy, type SeenCall } from './evidence.ts'
import { createHeldQueue, type HeldQueue } from './held.ts'

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
/** Where failures take longer than this, as in a hang, the last look is not waited for: `hold` is a promise to callers. */
const LONGEST_LAST_LOOK_MS = 5_000
/** The last look may start so much after the end of the hold: timers are late. */
const LAST_LOOK_MS = 250
/** Trials of replicas that opened together must not come together. */
const SPREAD = 0.2

/** From the opening of a circuit until it closes. */
interface Opening {
  readonly policy: BreakerPolicy
  readonly holdUntil: number
  nextTrialAt: number
  lastTrialAt: number
  readonly trials: Set<Trial>
  /** Trials that failed since the last setback. Those that began before it are no sign of recovery any more. */
  failed: number
  setbackAt: number
  /** The trial that failed was the second one of two. */
  isSecond: boolean
}

interface Trial {
  readonly letInAt: number
  /** Null = it waits for its place or a key. */
  startedAt: number | null
  /** The next trial starts so much later than this one. */
  readonly pauseMs: number
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

const unguarded: Pass = { heldMs: 0, isVoid: () => false, start() {}, ended() {} }

class ScraperCircuit implements Circuit {
  readonly #scraper: string
  readonly #clock: Clock
  readonly #random: Random
  readonly #emit: Emit
  readonly #gate = createGate()
  readonly #evidence = createEvidence()
  readonly #doubts: Doubts
  readonly #held: HeldQueue<Grant>
  #state: BreakerState = 'closed'
  #opening: Opening | null = null
  #generation = 0
  /** How often the time until the next trial has been doubled. */
  #doublings = 0
  #closedAt: number
  #batch = FIRST_BATCH
  #nextBatchAt = 0
  #timer: Timer | null = null

  constructor(scraper: string, { clock, random, emit }: BreakersPorts) {
    this.#scraper = scraper
    this.#clock = clock
    this.#random = random
    this.#emit = emit
    this.#doubts = createDoubts(clock)
    this.#held = createHeldQueue<Grant>(clock, (end, heldMs) => {
      emit({ kind: 'hold-ended', scraper, end, heldMs })
      if (end === 'left') this.#arm()
    })
    this.#closedAt = clock.now()
  }

  readonly run = async (entry: BreakerEntry, work: Work, policy: BreakerPolicy): Promise<Attempted | null> => {
    for (;;) {
      const admitted = await this.#admit(entry, policy)
      if (!admitted) return null
      if (admitted.pass.isVoid()) continue
      let health: Health = 'neutral'
      try {
        const attempted = await this.#gate.through(() => work(admitted.pass))
        // Null = the circuit opened while the attempt waited for its place.
        if (attempted) {
          health = attempted.verdict.health
          return attempted
        }
      } finally {
        admitted.pass.ended(health)
      }
    }
  }

  readonly status = (): BreakerStatus => {
    const nextTrialAt = this.#state === 'open' && this.#opening ? this.#opening.nextTrialAt : null
    const openUntil = nextTrialAt !== null && nextTrialAt > this.#clock.now() ? nextTrialAt : null
    return { scraper: this.#scraper, state: this.#state, openUntil, held: this.#held.size + this.#doubts.size }
  }

  readonly isWell: Circuit['isWell'] = () => this.#opening === null && this.#evidence.isMostlyWell(this.#clock.now())

  readonly closeNow = (): BreakerStatus => {
    if (this.#opening) {
      if (this.#state === 'open') this.#gate.unlock()
      this.#doublings = 0
      this.#close()
    }
    return this.status()
  }

  readonly close = (): void => {
    // What is under way has nothing to tell any more.
    this.#generation += 1
    this.#opening = null
    this.#state = 'closed'
    this.#gate.end()
    this.#doubts.endAll()
    this.#held.refuse(shuttingDown())
    this.#arm()
  }

  // Letting in

  /** Null = the retry budget forbids it, and the circuit does not open. */
  async #admit(entry: BreakerEntry, policy: BreakerPolicy): Promise<Admitted | null> {
    const { isLast, isOverBudget, flight } = entry
    const since = this.#clock.now()
    let isAllowed = !isOverBudget
    if ((isLast || isOverBudget) && this.#isDoubtful(policy) && this.#doubts.size < MOST_HELD) {
      const answer = await this.#doubts.wait(() => this.#isDoubtful(policy), policy.hold, flight)
      if (answer === 'known') isAllowed = true
    }
    if (!this.#opening && this.#held.size === 0) {
      if (!isAllowed) return null
      return this.#letIn(entry, policy, { generation: this.#generation, trial: null }, this.#clock.now() - since)
    }
    if (this.#opening && this.#held.size === 0 && this.#mayTry(this.#opening))
      return this.#letIn(entry, policy, this.#tryOnce(this.#opening), this.#clock.now() - since)
    if (this.#held.size >= MOST_HELD || (this.#opening && this.#isHoldOver(this.#opening))) throw this.#circuitOpen()
    const granted = this.#held.wait(flight, isLast, this.#circuitOpen)
    this.#arm()
    return this.#letIn(entry, policy, await granted, this.#clock.now() - since)
  }

  #isDoubtful(policy: BreakerPolicy): boolean {
    return this.#opening === null && this.#evidence.isDoubtful(policy, this.#clock.now())
  }

  #letIn({ question }: BreakerEntry, policy: BreakerPolicy, grant: Grant, heldMs: number): Admitted {
    let isUnderWay = true
    const admitted: Admitted = {
      ...grant,
      call: null,
      pass: {
        heldMs,
        isVoid: () => this.#opening !== null && admitted.generation !== this.#generation,
        start: () => {
          if (admitted.generation !== this.#generation) admitted.trial = null
          admitted.generation = this.#generation
          if (admitted.trial) this.#trialStarted(admitted.trial)
          else admitted.call = this.#evidence.started(question, this.#clock.now(), policy)
        },
        ended: (health) => {
          if (!isUnderWay) return
          isUnderWay = false
          this.#learn(admitted, health, policy)
        },
      },
    }
    return admitted
  }

  /** Lets in as many as it may, and refuses the others when they have been held for long enough. */
  readonly #pump = (): void => {
    const now = this.#clock.now()
    if (this.#opening) {
      while (this.#held.size > 0 && this.#mayTry(this.#opening)) this.#held.letIn(this.#tryOnce(this.#opening), 'trial')
      if (this.#held.size > 0 && this.#isHoldOver(this.#opening)) this.#held.refuse(this.#circuitOpen())
    } else if (this.#held.size > 0 && now >= this.#nextBatchAt) {
      for (let left = this.#batch; left > 0 && this.#held.size > 0; left -= 1)
        this.#held.letIn({ generation: this.#generation, trial: null }, 'free')
      this.#batch *= 2
      this.#nextBatchAt = now + BATCH_EVERY_MS
    }
    this.#arm()
  }

  /** A timer is set only while somebody is held. */
  #arm(): void {
    this.#timer?.cancel()
    const nextAt = this.#opening ? this.#nextChangeOf(this.#opening) : this.#nextBatchAt
    const isNeeded = this.#held.size > 0 && nextAt < Number.POSITIVE_INFINITY
    this.#timer = isNeeded ? this.#clock.after(nextAt - this.#clock.now(), this.#pump) : null
  }

  // Trials

  /** One at its time, though the one before may hang; and two more for each that outlives failures. */
  #mayTry(opening: Opening): boolean {
    const survivors = this.#survivorsOf(opening)
    if (survivors > 0 && opening.trials.size < 1 + 2 * survivors) return true
    return !isTrialWaiting(opening) && (this.#clock.now() >= opening.nextTrialAt || this.#isLastLookDue(opening))
  }

  /** Nobody who was held is refused before a trial at the end of the hold: upstream may be back for long when pauses are. */
  #isLastLookDue({ holdUntil, lastTrialAt, policy }: Opening): boolean {
    const now = this.#clock.now()
    return now >= holdUntil && now <= holdUntil + LAST_LOOK_MS && now - lastTrialAt >= policy.openFor
  }

  #tryOnce(opening: Opening): Grant {
    const now = this.#clock.now()
    const { policy } = opening
    const isInTurn = now >= opening.nextTrialAt
    if (isInTurn) this.#doublings += 1
    const trial: Trial = { letInAt: now, startedAt: null, pauseMs: isInTurn ? this.#openMs(policy) : policy.openFor }
    opening.trials.add(trial)
    opening.lastTrialAt = now
    opening.nextTrialAt = Math.max(isInTurn ? 0 : opening.nextTrialAt, now + trial.pauseMs)
    if (this.#state === 'open') {
      this.#gate.unlock()
      this.#enter('half-open')
    }
    return { generation: this.#generation, trial }
  }

  /** Its place or key may have come late: the time until the next trial counts from now. */
  #trialStarted(trial: Trial): void {
    const now = this.#clock.now()
    trial.startedAt = now
    if (this.#opening) this.#opening.nextTrialAt = Math.max(this.#opening.nextTrialAt, now + trial.pauseMs)
    this.#arm()
  }

  #survivorsOf({ trials, setbackAt }: Opening): number {
    const before = this.#clock.now() - this.#evidence.survivalMs()
    let survivors = 0
    for (const { startedAt } of trials)
      if (startedAt !== null && startedAt >= setbackAt && startedAt <= before) survivors += 1
    return survivors
  }

  /** While a trial looks well, nobody is refused; nor before the last look has had the time that a failure takes. */
  #isHoldOver(opening: Opening): boolean {
    const now = this.#clock.now()
    if (now < opening.holdUntil || this.#survivorsOf(opening) > 0) return false
    const { trials, setbackAt, holdUntil } = opening
    const before = now - Math.min(this.#evidence.survivalMs(), LONGEST_LAST_LOOK_MS)
    return !trials.values().some(({ letInAt, startedAt }) => {
      const at = startedAt ?? letInAt
      return at >= setbackAt && at > before && at <= holdUntil + LAST_LOOK_MS
    })
  }

  /** Infinite while all depends on a trial that waits for its place or a key. */
  #nextChangeOf(opening: Opening): number {
    const { trials, holdUntil, setbackAt } = opening
    const now = this.#clock.now()
    const survivalMs = this.#evidence.survivalMs()
    let next = isTrialWaiting(opening) ? Number.POSITIVE_INFINITY : opening.nextTrialAt
    for (const at of [holdUntil, holdUntil + LAST_LOOK_MS + LONGEST_LAST_LOOK_MS])
      if (at > now) next = Math.min(next, at)
    for (const { startedAt } of trials) {
      if (startedAt === null || startedAt < setbackAt) continue
      const survivesAt = startedAt + survivalMs
      if (survivesAt > now) next = Math.min(next, survivesAt)
    }
    return next
  }

  /** Where trials are rare, a second one soon follows the first: one call may fail in fair weather, too. */
  #trySoonAgain(opening: Opening): void {
    const soonAt = this.#clock.now() + opening.policy.openFor
    opening.isSecond = !opening.isSecond && opening.nextTrialAt - soonAt > opening.policy.openForMax / 2
    if (opening.isSecond) opening.nextTrialAt = soonAt
  }

  #openMs({ openFor, openForMax }: BreakerPolicy): number {
    return Math.min(openFor * 2 ** this.#doublings, openForMax) * (1 - SPREAD * this.#random.next())
  }

  // Learning

  #learn({ generation: began, trial, call }: Admitted, health: Health, policy: BreakerPolicy): void {
    if (began !== this.#generation) return
    if (this.#opening && trial) return this.#judge(this.#opening, trial, health)
    if (!call) return
    const now = this.#clock.now()
    this.#evidence.ended(call, health, now)
    if (isFailure(health) && this.#evidence.isDamning(policy, now)) this.#open(policy)
    else if (this.#doubts.size > 0) this.#doubts.review()
  }

  #judge(opening: Opening, trial: Trial, health: Health): void {
    opening.trials.delete(trial)
    if (health === 'up') return this.#close()
    const now = this.#clock.now()
    if (!isFailure(health)) opening.nextTrialAt = Math.min(opening.nextTrialAt, now + opening.policy.openFor)
    else {
      this.#evidence.failureTook(now - (trial.startedAt ?? now))
      opening.failed += 1
      const survivors = this.#survivorsOf(opening)
      if (opening.failed >= opening.policy.failureRate * (opening.failed + survivors)) {
        opening.failed = 0
        opening.setbackAt = now
        this.#trySoonAgain(opening)
      }
    }
    if (opening.trials.size === 0 && this.#state === 'half-open') {
      this.#gate.shut()
      this.#enter('open', opening.nextTrialAt - now, true)
    }
    this.#pump()
  }

  // States

  #open(policy: BreakerPolicy): void {
    const now = this.#clock.now()
    // A recovery that lasted is one.
    if (now - this.#closedAt >= policy.openForMax) this.#doublings = 0
    const openForMs = this.#openMs(policy)
    this.#opening = {
      policy,
      holdUntil: now + policy.hold,
      nextTrialAt: now + openForMs,
      lastTrialAt: now,
      trials: new Set(),
      failed: 0,
      setbackAt: now,
      isSecond: false,
    }
    this.#generation += 1
    this.#evidence.forget()
    this.#gate.shut()
    this.#enter('open', openForMs)
    this.#doubts.endAll()
    this.#arm()
  }

  #close(): void {
    this.#opening = null
    this.#generation += 1
    this.#closedAt = this.#clock.now()
    this.#batch = FIRST_BATCH
    this.#nextBatchAt = this.#closedAt
    this.#enter('closed')
    this.#pump()
  }

  #enter(to: BreakerState, openForMs: number | null = null, isStillOpen = false): void {
    this.#state = to
    const roundedMs = openForMs === null ? null : Math.round(openForMs)
    this.#emit({ kind: 'breaker-changed', scraper: this.#scraper, to, openForMs: roundedMs, isStillOpen })
  }

  readonly #circuitOpen = (): ProxyError => {
    const leftMs = this.#opening ? this.#opening.nextTrialAt - this.#clock.now() : 0
    return new ProxyError(
      'CIRCUIT_OPEN',
      'Calls to this scraper keep failing, so the proxy has stopped sending them for now. Retry after the time in Retry-After.',
      { retryAfterMs: Math.max(1_000, leftMs) },
    )
  }
}

function createCircuit(scraper: string, ports: BreakersPorts): Circuit {
  return new ScraperCircuit(scraper, ports)
}

function isFailure(health: Health): boolean {
  return health === 'down' || health === 'slow'
}

function shuttingDown(): ProxyError {
  return new ProxyError('SHUTTING_DOWN', 'The proxy is shutting down. Retry later, or on another replica.')
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

function isTrialWaiting({ trials }: Opening): boolean {
  return trials.values().some(({ startedAt }) => startedAt === null)
}

/**
 * One upstream question, shared by all who ask the same at the same time. A flight belongs to no client: each asker has its own
 * deadline and may hang up, and neither ends the flight. It is finished even when all have left, because it is probably paid
 * for, and a later request for the same question joins it.
 *
 * Promises: joining is synchronous; every asker gets the landing, the flight's error, or DEADLINE_EXCEEDED at its own deadline;
 * afterwards there is neither a flight nor a timer left. It knows nothing of what is flown.
 */
import { overloaded, ProxyError } from '../errors.ts'
import type { Landing, Made, RetryPolicy } from '../model.ts'
import type { Asker, Flight, Flights, FlightStatus, Joined } from '../parts.ts'
import type { Clock, Emit, Random } from '../ports.ts'
import { createRoster, type Present } from '../roster.ts'

interface FlightsPorts {
  readonly clock: Clock
  readonly emit: Emit
  readonly random: Random
  /** So many may wait for one flight; the next one is refused with OVERLOADED. */
  readonly maxAskers?: number
}

const LATE =
  'The time limit of this request passed before upstream answered. The call in progress is completed and its answer cached: retry, or allow more time.'

type Fly = (flight: Flight) => Promise<Landing>

interface Waiting {
  readonly deadlineAt: number
  /** When the flight must have ended, as far as this asker's client decides. */
  readonly endsAt: number
  readonly policy: RetryPolicy
  readonly hasFallback: boolean
  readonly land: (landing: Landing) => void
  readonly fail: (error: unknown) => void
}

/** A flight under way, with those who wait for it. */
interface Airborne {
  readonly scraper: string
  readonly startedAt: number
  /** Who began it: the first to board. */
  leader: Waiting | null
  /** The latest of those who wait; null = an asker has left since they were computed. */
  latest: { readonly deadlineAt: number; readonly endsAt: number } | null
  readonly made: Made
  readonly waiting: Set<Waiting>
  readonly listeners: Set<() => void>
  progress: Landing | null
  /** It waits for an open circuit. */
  isHeld: boolean
}

class FlightTable implements Flights {
  readonly #clock: Clock
  readonly #emit: Emit
  readonly #random: Random
  readonly #maxAskers: number
  readonly #aloft = createRoster<Airborne>()
  /** Places in the roster: what the map forgets late is empty by then. */
  readonly #joinable = new Map<string, Present<Airborne>>()
  #whenIdle: (() => void)[] = []
  #grounded: ProxyError | null = null

  constructor({ clock, emit, random, maxAskers = 10_000 }: FlightsPorts) {
    this.#clock = clock
    this.#emit = emit
    this.#random = random
    this.#maxAskers = maxAskers
  }

  readonly join = (key: string | null, asker: Asker, fly: Fly): Joined => {
    if (this.#grounded) throw this.#grounded
    const known = key === null ? null : this.#joinable.get(key)?.member
    if (known) return { role: 'joined', landing: this.#board(known, asker), made: known.made }

    const { scraper } = asker
    const airborne: Airborne = {
      scraper,
      startedAt: this.#clock.wall(),
      leader: null,
      latest: { deadlineAt: 0, endsAt: 0 },
      made: { attempts: 0, credits: 0 },
      waiting: new Set(),
      listeners: new Set(),
      progress: null,
      isHeld: false,
    }
    const place = this.#aloft.add(airborne)
    if (key !== null) this.#joinable.set(key, place)
    // The leader boards before the take-off, so that there is patience from the first moment.
    const landing = this.#board(airborne, asker)
    void this.#start(key, place, airborne, fly)
    return { role: 'leader', landing, made: airborne.made }
  }

  readonly has: Flights['has'] = (key) => key !== null && this.#joinable.has(key)

  readonly list = (): FlightStatus[] => {
    return Array.from(this.#aloft, ({ scraper, startedAt, waiting }) => ({ scraper, startedAt, askers: waiting.size }))
  }

  readonly ground: Flights['ground'] = (error) => {
    this.#grounded = error
    for (const { waiting } of this.#aloft) for (const { fail } of waiting) fail(error)
  }

  readonly idle: Flights['idle'] = () =>
    this.#aloft.size === 0 ? Promise.resolve() : new Promise((resolve) => this.#whenIdle.push(resolve))

  get size(): number {
    return this.#aloft.size
  }

  #board(airborne: Airborne, asker: Asker): Promise<Landing | null> {
    if (airborne.waiting.size >= this.#maxAskers)
      throw overloaded('queue', 'Too many requests are waiting for the same answer.', this.#random.next())

    const landing = new Promise<Landing | null>((resolve, reject) => {
      const waiting: Waiting = {
        deadlineAt: asker.deadlineAt,
        endsAt: asker.askedAt + asker.policy.deadline,
        policy: asker.policy,
        hasFallback: asker.hasFallback,
        land: (landing) => leave(() => resolve(landing)),
        fail: (error) => leave(() => reject(error)),
      }
      airborne.waiting.add(waiting)
      if (airborne.latest) airborne.latest = later(airborne.latest, waiting)
      airborne.leader ??= waiting
      const timer = this.#clock.after(asker.deadlineAt - this.#clock.now(), () => leave(timeIsUp))
      let stopListening = (): void => {}
      stopListening = asker.onGone(() => leave(() => resolve(null)))
      // Gone already, and the listener was called before it could be taken off.
      if (!airborne.waiting.has(waiting)) stopListening()
      else if (airborne.isHeld && asker.hasFallback) this.#fallBack(airborne, waiting)

      function timeIsUp(): void {
        if (airborne.progress) return resolve(airborne.progress)
        reject(new ProxyError('DEADLINE_EXCEEDED', LATE))
      }

      function leave(settle: () => void): void {
        if (!airborne.waiting.delete(waiting)) return
        airborne.latest = null
        timer.cancel()
        stopListening()
        settle()
        if (airborne.waiting.size === 0) for (const listener of airborne.listeners) listener()
      }
    })
    // Whoever asked may have stopped looking; a rejection is no reason to end the process.
    landing.catch(() => {})
    return landing
  }

  async #start(key: string | null, place: Present<Airborne>, airborne: Airborne, fly: Fly): Promise<void> {
    const flight: Flight = {
      leaderWaits: () => airborne.leader !== null && airborne.waiting.has(airborne.leader),
      patienceUntil: () => this.#latestOf(airborne).deadlineAt,
      endsAt: () => this.#latestOf(airborne).endsAt,
      policies: () => new Set(Array.from(airborne.waiting, ({ policy }) => policy)),
      made: airborne.made,
      onAbandoned(listener) {
        airborne.listeners.add(listener)
        return () => void airborne.listeners.delete(listener)
      },
      report(progress) {
        airborne.progress = progress
        airborne.isHeld = false
      },
      held: () => {
        airborne.isHeld = true
        for (const waiting of airborne.waiting) if (waiting.hasFallback) this.#fallBack(airborne, waiting)
      },
    }
    try {
      const landing = await fly(flight)
      this.#end(key, place, airborne, ({ land }) => land(landing))
    } catch (error) {
      // Nobody is left to be told of a bug, so the log is.
      if (airborne.waiting.size === 0 && !(error instanceof ProxyError))
        this.#emit({ kind: 'broke', where: 'flight', error })
      this.#end(key, place, airborne, ({ fail }) => fail(error))
    }
  }

  #fallBack({ progress }: Airborne, { land, fail }: Waiting): void {
    if (progress) land(progress)
    else
      fail(
        new ProxyError(
          'CIRCUIT_OPEN',
          'Calls to this scraper keep failing, so the proxy has stopped sending them for now. Retry later.',
        ),
      )
  }

  /** 0 when nobody waits. */
  #latestOf(airborne: Airborne): { readonly deadlineAt: number; readonly endsAt: number } {
    if (airborne.latest) return airborne.latest
    let latest = { deadlineAt: 0, endsAt: 0 }
    for (const waiting of airborne.waiting) latest = later(latest, waiting)
    return (airborne.latest = latest)
  }

  #end(key: string | null, place: Present<Airborne>, airborne: Airborne, tell: (waiting: Waiting) => void): void {
    place.leave()
    if (key !== null) this.#joinable.delete(key)
    airborne.listeners.clear()
    for (const waiting of airborne.waiting) tell(waiting)
    if (this.#aloft.size > 0) return
    for (const resolve of this.#whenIdle) resolve()
    this.#whenIdle = []
  }
}

export function createFlights(ports: FlightsPorts): Flights {
  return new FlightTable(ports)
}

function later(
  one: { readonly deadlineAt: number; readonly endsAt: number },
  other: { readonly deadlineAt: number; readonly endsAt: number },
) {
  return { deadlineAt: Math.max(one.deadlineAt, other.deadlineAt), endsAt: Math.max(one.endsAt, other.endsAt) }
}

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
import type { Waiter, Flight, Flights, FlightStatus, Joined, QueuedClient } from '../flights.ts'
import type { Clock, Emit, Random } from '../ports.ts'
import { createLinkedList, type ListEntry } from '../linked-list.ts'

interface FlightsPorts {
  readonly clock: Clock
  readonly emit: Emit
  readonly random: Random
  /** So many may wait for one flight; the next one is refused with OVERLOADED. */
  readonly maxWaiters?: number
}

const LATE =
  'The time limit of this request passed before upstream answered. The call in progress is completed and its answer cached: retry, or allow more time.'

type Run = (flight: Flight) => Promise<Landing>

interface Waiting {
  readonly deadlineAt: number
  /** When the flight must have ended, as far as this asker's client decides. */
  readonly endsAt: number
  readonly policy: RetryPolicy
  readonly client: QueuedClient
  readonly hasFallback: boolean
  readonly fulfil: (landing: Landing) => void
  readonly fail: (error: unknown) => void
}

/** A flight under way, with those who wait for it. */
interface OpenFlight {
  readonly id: number
  readonly scraper: string
  readonly startedAt: number
  /** Who began it: the first to board. */
  leader: Waiting | null
  /** The latest of those who wait; null = an asker has left since they were computed. */
  latest: { readonly deadlineAt: number; readonly endsAt: number } | null
  readonly made: Made
  readonly waiting: Set<Waiting>
  readonly listeners: Set<() => void>
  joined: (() => void) | null
  progress: Landing | null
  /** It waits for an open circuit. */
  isHeld: boolean
}

class FlightTable implements Flights {
  readonly #clock: Clock
  readonly #emit: Emit
  readonly #random: Random
  readonly #maxWaiters: number
  readonly #open = createLinkedList<OpenFlight>()
  /** Places in the roster: what the map forgets late is empty by then. */
  readonly #joinable = new Map<string, ListEntry<OpenFlight>>()
  #whenIdle: (() => void)[] = []
  #begun = 0
  #grounded: ProxyError | null = null

  constructor({ clock, emit, random, maxWaiters = 10_000 }: FlightsPorts) {
    this.#clock = clock
    this.#emit = emit
    this.#random = random
    this.#maxWaiters = maxWaiters
  }

  readonly join = (key: string | null, waiter: Waiter, fly: Run): Joined => {
    if (this.#grounded) throw this.#grounded
    const known = key === null ? null : this.#joinable.get(key)?.member
    if (known) return { id: known.id, role: 'joined', landing: this.#addWaiter(known, waiter), made: known.made }

    const { scraper } = waiter
    const openFlight: OpenFlight = {
      id: ++this.#begun,
      scraper,
      startedAt: this.#clock.wall(),
      leader: null,
      latest: { deadlineAt: 0, endsAt: 0 },
      made: { attempts: 0, credits: 0 },
      waiting: new Set(),
      listeners: new Set(),
      joined: null,
      progress: null,
      isHeld: false,
    }
    const place = this.#open.add(openFlight)
    if (key !== null) this.#joinable.set(key, place)
    // The leader waits before the fetch starts, so that there is a deadline from the first moment.
    const landing = this.#addWaiter(openFlight, waiter)
    void this.#start(key, place, openFlight, fly)
    return { id: openFlight.id, role: 'leader', landing, made: openFlight.made }
  }

  readonly has: Flights['has'] = (key) => key !== null && this.#joinable.has(key)

  readonly list = (): FlightStatus[] => {
    return Array.from(this.#open, ({ scraper, startedAt, waiting }) => ({ scraper, startedAt, waiters: waiting.size }))
  }

  readonly ground: Flights['ground'] = (error) => {
    this.#grounded = error
    for (const { waiting } of this.#open) for (const { fail } of waiting) fail(error)
  }

  readonly idle: Flights['idle'] = () =>
    this.#open.size === 0 ? Promise.resolve() : new Promise((resolve) => this.#whenIdle.push(resolve))

  get size(): number {
    return this.#open.size
  }

  #addWaiter(openFlight: OpenFlight, waiter: Waiter): Promise<Landing | null> {
    if (openFlight.waiting.size >= this.#maxWaiters)
      throw overloaded('queue', 'Too many requests are waiting for the same answer.', this.#random.next())

    const landing = new Promise<Landing | null>((resolve, reject) => {
      const waiting: Waiting = {
        deadlineAt: waiter.deadlineAt,
        endsAt: waiter.askedAt + waiter.policy.deadline,
        policy: waiter.policy,
        client: waiter.client,
        hasFallback: waiter.hasFallback,
        fulfil: (landing) => leave(() => resolve(landing)),
        fail: (error) => leave(() => reject(error)),
      }
      openFlight.waiting.add(waiting)
      if (openFlight.latest) openFlight.latest = later(openFlight.latest, waiting)
      openFlight.leader ??= waiting
      const timer = this.#clock.after(waiter.deadlineAt - this.#clock.now(), () => leave(timeIsUp))
      let stopListening = (): void => {}
      stopListening = waiter.onGone(() => leave(() => resolve(null)))
      // Gone already, and the listener was called before it could be taken off.
      if (!openFlight.waiting.has(waiting)) stopListening()
      else if (openFlight.isHeld && waiter.hasFallback) this.#fallBack(openFlight, waiting)
      else openFlight.joined?.()

      function timeIsUp(): void {
        if (openFlight.progress) return resolve(openFlight.progress)
        reject(new ProxyError('DEADLINE_EXCEEDED', LATE))
      }

      function leave(settle: () => void): void {
        if (!openFlight.waiting.delete(waiting)) return
        openFlight.latest = null
        timer.cancel()
        stopListening()
        settle()
        if (openFlight.waiting.size === 0) for (const listener of openFlight.listeners) listener()
      }
    })
    // Whoever asked may have stopped looking; a rejection is no reason to end the process.
    landing.catch(() => {})
    return landing
  }

  async #start(key: string | null, place: ListEntry<OpenFlight>, openFlight: OpenFlight, fly: Run): Promise<void> {
    const flight: Flight = {
      id: openFlight.id,
      leaderWaits: () => openFlight.leader !== null && openFlight.waiting.has(openFlight.leader),
      patienceUntil: () => this.#latestOf(openFlight).deadlineAt,
      endsAt: () => this.#latestOf(openFlight).endsAt,
      policies: () => new Set(Array.from(openFlight.waiting, ({ policy }) => policy)),
      made: openFlight.made,
      mostUrgent: () => mostUrgentOf(openFlight),
      onJoined(listener) {
        openFlight.joined = listener
        return () => void (openFlight.joined = null)
      },
      onAbandoned(listener) {
        openFlight.listeners.add(listener)
        return () => void openFlight.listeners.delete(listener)
      },
      report(progress) {
        openFlight.progress = progress
        openFlight.isHeld = false
      },
      held: () => {
        openFlight.isHeld = true
        for (const waiting of openFlight.waiting) if (waiting.hasFallback) this.#fallBack(openFlight, waiting)
      },
    }
    try {
      const landing = await fly(flight)
      this.#end(key, place, openFlight, ({ fulfil }) => fulfil(landing))
    } catch (error) {
      // Nobody is left to be told of a bug, so the log is.
      if (openFlight.waiting.size === 0 && !(error instanceof ProxyError))
        this.#emit({ kind: 'broke', where: 'flight', error })
      this.#end(key, place, openFlight, ({ fail }) => fail(error))
    }
  }

  #fallBack({ progress }: OpenFlight, { fulfil, fail }: Waiting): void {
    if (progress) fulfil(progress)
    else
      fail(
        new ProxyError(
          'CIRCUIT_OPEN',
          'Calls to this scraper keep failing, so the proxy has stopped sending them for now. Retry later.',
        ),
      )
  }

  /** 0 when nobody waits. */
  #latestOf(openFlight: OpenFlight): { readonly deadlineAt: number; readonly endsAt: number } {
    if (openFlight.latest) return openFlight.latest
    let latest = { deadlineAt: 0, endsAt: 0 }
    for (const waiting of openFlight.waiting) latest = later(latest, waiting)
    return (openFlight.latest = latest)
  }

  #end(
    key: string | null,
    place: ListEntry<OpenFlight>,
    openFlight: OpenFlight,
    tell: (waiting: Waiting) => void,
  ): void {
    place.leave()
    if (key !== null) this.#joinable.delete(key)
    openFlight.listeners.clear()
    for (const waiting of openFlight.waiting) tell(waiting)
    if (this.#open.size > 0) return
    for (const resolve of this.#whenIdle) resolve()
    this.#whenIdle = []
  }
}

export function createFlights(ports: FlightsPorts): Flights {
  return new FlightTable(ports)
}

function mostUrgentOf({ waiting }: OpenFlight): QueuedClient | null {
  for (const { client } of waiting) if (client.priority === 'interactive') return client
  const [first] = waiting
  return first?.client ?? null
}

function later(
  one: { readonly deadlineAt: number; readonly endsAt: number },
  other: { readonly deadlineAt: number; readonly endsAt: number },
) {
  return { deadlineAt: Math.max(one.deadlineAt, other.deadlineAt), endsAt: Math.max(one.endsAt, other.endsAt) }
}

/**
 * One flight for a question among all replicas. The leader of a local flight comes here before it asks upstream: it gets the
 * lease and flies, or waits for the replica that does and takes what that one brings home. Messages are hints: whoever
 * waits looks for itself, when one comes and now and then without.
 *
 * Promises: the store can only save calls. Away, it costs its own time limit once and the flight is flown here. Whoever waits has its own
 * deadline, and when a replica is lost, one of those who wait flies in its stead. Afterwards there is no lease, no
 * subscription and no timer left. What upstream is asked and where answers are kept is known elsewhere.
 */
import { hash } from 'node:crypto'
import { ProxyError } from '../errors.ts'
import type { Entry, Landing } from '../model.ts'
import type { FlightLease, SharedFlights, SharedQuestion } from '../parts.ts'
import type { Clock, Emit, Random, SharedStore } from '../ports.ts'
import { type Bell, createBell } from './shared-flight-bell.ts'
import {
  type Bid,
  bid,
  FAILED_MARK_MS,
  type LeaseTimes,
  type Names,
  openLease,
  type OpenLease,
  type Pilot,
} from './shared-flight-lease.ts'
import { landingOfEntry, landingOfMark, markOf, mayTryMore, readMark, type Seal } from './shared-flight-marks.ts'

export interface SharedFlightPorts {
  readonly store: SharedStore
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
  readonly seal: Seal
  /** What all replicas keep under this key; null = nothing that may be used. */
  readonly read: (key: string) => Promise<Entry | null | 'away'>
  /**
   * Sees to it that they keep this entry, or one of a greater fence: true = they do. Asked again when it was `away`.
   */
  readonly keep: (key: string, entry: Entry, fence: string | null) => Promise<boolean | 'away'>
}

export interface SharedFlightOptions extends Partial<LeaseTimes> {
  readonly replicaId: string
  /** Between two looks at a flight of which no message came. */
  readonly pollMs?: number
  /** An answer that could not be passed on is passed on for so long. */
  readonly lateMs?: number
}

type Flown = Parameters<SharedFlights['fly']>[1]

interface Course extends Pilot {
  readonly question: SharedQuestion & { readonly key: string }
  readonly flight: Flown
  /** The newest end of a flight that was of no use. */
  ignored: string
}

type Found =
  | { readonly kind: 'mine'; readonly lease: OpenLease }
  | { readonly kind: 'landed'; readonly landing: Landing }
  /** Others have an answer that cannot be passed on: everybody flies alone, and at the same time. */
  | { readonly kind: 'unshared' }
  | { readonly kind: 'held'; readonly job: string }
  | { readonly kind: 'away' }

/** Of whatever is in the store: a reader of another format has nothing to do with it. */
const FORMAT = 'flight-1'
/** The store answers, yet not this. */
const MAX_TRIES = 3
/** Landings that wait for the store to return. */
const MAX_LATE = 1_000

const unleased: FlightLease = { fence: null, begin: async () => null, submitted: async () => {} }

/** For a replica that is alone. */
export const loneFlights: SharedFlights = {
  fly: (_question, _flight, lead) => lead(unleased),
  idle: async () => {},
  close: () => {},
}

export function createSharedFlights(options: SharedFlightOptions, ports: SharedFlightPorts): SharedFlights {
  const { replicaId, leaseMs = 15_000, heartbeatMs = 5_000, pollMs = 1_000, lateMs = 60_000 } = options
  const { store, clock, random, emit, seal, read, keep } = ports
  const times: LeaseTimes = { leaseMs, heartbeatMs }
  const bells = new Set<Bell>()
  const telling = new Set<Promise<void>>()
  const leases = new Set<OpenLease>()
  const stopListening = store.onState(() => bells.forEach((bell) => bell.ring()))
  let isClosed = false

  return { fly, idle, close }

  async function fly(
    question: SharedQuestion,
    flight: Flown,
    lead: (lease: FlightLease) => Promise<Landing>,
  ): Promise<Landing> {
    const { key, scraper } = question
    if (key === null) return lead(unleased)
    const owner = `${replicaId}/${random.id()}`
    const course = { question: { ...question, key }, flight, names: namesOf(key), scraper, owner, ignored: '0' }
    for (;;) {
      const found = await find(course)
      if (found.kind === 'landed') return found.landing
      if (found.kind === 'unshared') {
        const landing = await lead(unleased)
        tell(course, null, landing)
        return landing
      }
      const { lease } = found
      try {
        const landing = await lead(lease)
        tell(course, lease, landing)
        return landing
      } catch (error) {
        if (!lease.isTurnedBack) {
          tell(course, lease, null)
          throw error
        }
        forget(lease)
      }
    }
  }

  // Whose flight it is

  async function find(course: Course): Promise<Exclude<Found, { kind: 'held' | 'away' }>> {
    const found = await look(course)
    if (found.kind === 'held') return follow(course, found.job)
    return found.kind === 'away' ? alone(course, '') : found
  }

  /** Waits while another replica flies and somebody here wants to know. Nobody's deadline is kept here: those who wait have theirs. */
  async function follow(course: Course, heldJob: string): Promise<Exclude<Found, { kind: 'held' | 'away' }>> {
    const { names, scraper, flight } = course
    const bell = hang()
    const ears = store.subscribe(names.channel, { onMessage: bell.ring, onSubscribed: bell.ring })
    const stopListening = flight.onAbandoned(bell.ring)
    let job = heldJob
    let end: 'landed' | 'led' | 'left' = 'left'
    try {
      for (;;) {
        await bell.rest(pollMs * (0.75 + 0.5 * random.next()))
        if (isClosed) throw new ProxyError('SHUTTING_DOWN', 'The proxy is shutting down.')
        if (flight.patienceUntil() === 0) throw new ProxyError('DEADLINE_EXCEEDED', 'Nobody waits any more.')
        const found = await lookTwice(course)
        if (found.kind === 'held') {
          job = found.job
          continue
        }
        end = found.kind === 'landed' ? 'landed' : 'led'
        return found.kind === 'away' ? alone(course, job) : found
      }
    } finally {
      stopListening()
      ears.close()
      bells.delete(bell)
      emit({ kind: 'flight-followed', scraper, end })
    }
  }

  /** One reply that did not come is not an outage: following costs nothing, flying does. */
  async function lookTwice(course: Course): Promise<Found> {
    const found = await look(course)
    return found.kind === 'away' && store.state === 'up' ? look(course) : found
  }

  async function look(course: Course): Promise<Found> {
    for (;;) {
      const said = await bid(ports, times, course, clock.now() - course.question.askedAt, course.ignored)
      if (said.kind === 'away') return said
      if (said.value.kind === 'held') return said.value
      if (said.value.kind === 'leased') return mine(course, said.value)
      const landed = await landingOf(course, said.value.mark)
      if (landed) return landed
      // Forged, or the answer is gone already, or a client that waits here is more patient than those who waited there.
      course.ignored = said.value.token
    }
  }

  async function landingOf({ question, names, flight }: Course, sealed: string): Promise<Found | null> {
    const text = seal.open(names.digest, sealed)
    if (text === null) return null
    const mark = readMark(text)
    if (mark.kind === 'unshared') return { kind: 'unshared' }
    if (mark.kind === 'failed' && mayTryMore(mark, flight.policies())) return null
    if (mark.kind !== 'kept') return { kind: 'landed', landing: landingOfMark(mark) }
    const entry = await read(question.key)
    if (entry === 'away') return { kind: 'away' }
    return entry && { kind: 'landed', landing: landingOfEntry(entry) }
  }

  function mine(course: Course, { token, from, job }: Extract<Bid, { kind: 'leased' }>): Found {
    const left = jobOf(course, job)
    if (from === 'queued' || from === 'sent') {
      emit({ kind: 'flight-taken-over', scraper: course.scraper, from: left === null ? from : 'job' })
    }
    return { kind: 'mine', lease: open(course, token, left) }
  }

  function alone(course: Course, job: string): { readonly kind: 'mine'; readonly lease: OpenLease } {
    return { kind: 'mine', lease: open(course, null, jobOf(course, job)) }
  }

  function open(course: Course, token: string | null, job: string | null): OpenLease {
    const lease = openLease(ports, times, course, { token, job })
    leases.add(lease)
    return lease
  }

  function forget(lease: OpenLease): void {
    lease.end()
    leases.delete(lease)
  }

  function jobOf({ names }: Course, sealed: string): string | null {
    return sealed === '' ? null : seal.open(names.digest, sealed)
  }

  // What became of it

  /** Behind the back of those who wait here: they have their answer already. */
  function tell(course: Course, lease: OpenLease | null, landing: Landing | null): void {
    const told = pass(course, lease, landing)
      .catch((error: unknown) => emit({ kind: 'broke', where: 'shared flight', error }))
      .finally(() => {
        if (lease) forget(lease)
        telling.delete(told)
      })
    telling.add(told)
  }

  async function pass({ question }: Course, lease: OpenLease | null, landing: Landing | null): Promise<void> {
    const landedAt = clock.now()
    const entry = landing?.entry ?? null
    // The answer first: whoever hears of it finds it. Meanwhile the lease is kept, so that nobody asks again.
    const kept = entry ? await insist(landedAt, () => keep(question.key, entry, lease?.fence ?? null)) : false
    if (!lease) return
    const mark = landing && markOf(landing, kept === true)
    await insist(landedAt, async () => {
      lease.end()
      const isStale = mark?.kind === 'failed' && clock.now() - landedAt > FAILED_MARK_MS
      return lease.land(isStale ? null : mark)
    })
  }

  async function insist<T>(since: number, ask: () => Promise<T | 'away'>): Promise<T | 'away'> {
    const bell = hang()
    let tries = 0
    try {
      for (;;) {
        const said = await ask()
        if (store.state === 'up') tries += 1
        const leftMs = since + lateMs - clock.now()
        const isHopeless = isClosed || leftMs <= 0 || tries === MAX_TRIES || telling.size > MAX_LATE
        if (said !== 'away' || isHopeless) return said
        await bell.rest(store.state === 'up' ? Math.min(pollMs, leftMs) : leftMs)
      }
    } finally {
      bells.delete(bell)
    }
  }

  async function idle(): Promise<void> {
    while (telling.size > 0) await Promise.all(telling)
  }

  function close(): void {
    isClosed = true
    stopListening()
    for (const lease of leases) giveBack(lease)
    for (const bell of bells) bell.ring()
  }

  /** What others can go on with need not wait until we are missed. */
  function giveBack(lease: OpenLease): void {
    lease.end()
    const told = lease.land(null).then(() => void telling.delete(told))
    telling.add(told)
  }

  function hang(): Bell {
    const bell = createBell(clock)
    bells.add(bell)
    return bell
  }
}

function namesOf(key: string): Names {
  const digest = hash('sha256', `${FORMAT} ${key}`, 'base64url')
  const tag = `flight:{${digest}}`
  return { digest, keys: [`${tag}:lease`, `${tag}:record`], channel: `flight:${digest}` }
}

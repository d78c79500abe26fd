/**
 * One call to upstream for a question among all replicas. The leader of a local flight comes here before it asks upstream: it gets the
 * lease and makes the call, or follows the replica that has the lease and gets what that one was answered. Messages are hints: a follower
 * also looks by itself now and then.
 *
 * Promises: the store can only save calls; where it is away, and for longer than a blink, the call is made here. A follower has seen a lease, so it
 * waits until the process that holds it is gone, or, while the store is away, until it would have been found gone: a store that blinks
 * costs no second call. Whoever waits has its own deadline. Afterwards there is no lease, no subscription and no timer left. What upstream is asked
 * and where answers are kept is known elsewhere.
 */
import { hash } from 'node:crypto'
import { createBlink } from '../blink.ts'
import { ProxyError } from '../errors.ts'
import type { Entry, Landing } from '../model.ts'
import type { FlightLease, SharedFlights, SharedQuestion } from '../parts.ts'
import type { Clock, Emit, Random, SharedStore } from '../ports.ts'
import { type Session, SILENT_MS } from '../session.ts'
import { acquire, type Acquired, type Claimant, type Names, openLease, type OpenLease } from './shared-flight-lease.ts'
import { landingOfEntry, landingOfMark, mayTryMore, readMark, type Seal } from './shared-flight-marks.ts'
import { createNotifier, type Notifier } from './shared-flight-notifier.ts'
import { createOutcomes, type Keep } from './shared-flight-outcome.ts'

export interface SharedFlightPorts {
  readonly store: SharedStore
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
  readonly session: Session
  readonly seal: Seal
  /** What all replicas keep under this key; null = nothing that may be used. */
  readonly read: (key: string) => Promise<Entry | null | 'away'>
  readonly keep: Keep
}

export interface SharedFlightOptions {
  /** Between two looks at a flight of which no message came. */
  readonly pollMs?: number
  /** An answer that could not be passed on is passed on for so long. */
  readonly lateMs?: number
  /** So long a store that went away is waited for, before the call is made here. */
  readonly blinkMs?: number
  /** So long after it was last seen, a lease is taken to be over while the store cannot be asked. */
  readonly silentMs?: number
}

type Flown = Parameters<SharedFlights['fly']>[1]

interface Course extends Claimant {
  readonly question: SharedQuestion & { readonly key: string }
  readonly flight: Flown
  /** The newest end of a flight that was of no use. */
  ignoredToken: string
  /** The newest lease of another replica that was seen. */
  seenToken: string
  /** A reply was lost: the lease may be ours, and nobody knows. */
  isUnsure: boolean
}

type Found =
  | { readonly kind: 'mine'; readonly lease: OpenLease }
  | { readonly kind: 'landed'; readonly landing: Landing }
  /** Others have an answer that cannot be passed on: everybody makes the call, and at the same time. */
  | { readonly kind: 'unshared' }
  | { readonly kind: 'held'; readonly owner: string; readonly job: string }
  /** The store has lost the lease that was seen: its holder may still be there to say so. */
  | { readonly kind: 'forgotten' }
  | { readonly kind: 'away' }

type Settled = Exclude<Found, { kind: 'held' | 'forgotten' | 'away' }>

/** Of whatever is in the store: a reader of another format has nothing to do with it. */
const FORMAT = 'flight-1'
/** Leases that are announced at a time. */
const BATCH = 50
/** Looks at a store that is up and does not answer, before the call is made here. */
const LOOKS = 4

const unleased: FlightLease = { fence: null, begin: async () => null, submitted: async () => {} }

/** For a replica that is alone. */
export const loneFlights: SharedFlights = {
  fly: (_question, _flight, lead) => lead(unleased),
  idle: async () => {},
  close: () => {},
}

export function createSharedFlights(ports: SharedFlightPorts, options: SharedFlightOptions = {}): SharedFlights {
  const { pollMs = 1_000, lateMs = 60_000, silentMs = SILENT_MS } = options
  const { store, clock, random, emit, session, seal, read, keep } = ports
  const notifiers = new Set<Notifier>()
  const leases = new Set<OpenLease>()
  const blink = createBlink(store, clock, options.blinkMs)
  const outcomes = createOutcomes({ store, clock, emit, keep, pollMs, lateMs, forget })
  const stopListening = store.onState(() => notifiers.forEach(({ notify }) => notify()))
  const stopBeats = session.onBeat((isNew) => {
    void announce(isNew)
    void outcomes.releaseAll()
  })
  let isClosed = false

  return { fly, idle: outcomes.idle, close }

  async function fly(
    question: SharedQuestion,
    flight: Flown,
    lead: (lease: FlightLease) => Promise<Landing>,
  ): Promise<Landing> {
    const { key, scraper } = question
    if (key === null) return lead(unleased)
    const id = random.id()
    const course = {
      question: { ...question, key },
      flight,
      names: namesOf(key),
      scraper,
      owner: () => `${session.mark()}/${id}`,
      ignoredToken: '0',
      seenToken: '0',
      isUnsure: false,
    }
    for (;;) {
      const found = await find(course).catch((error: unknown) => {
        if (course.isUnsure) outcomes.releaseLater(course)
        throw error
      })
      if (found.kind === 'landed') {
        if (course.isUnsure) outcomes.releaseLater(course)
        return found.landing
      }
      if (found.kind === 'unshared') {
        const landing = await lead(unleased)
        outcomes.tell(course, null, landing)
        return landing
      }
      const { lease } = found
      try {
        const landing = await lead(lease)
        outcomes.tell(course, lease, landing)
        return landing
      } catch (error) {
        if (!lease.isTurnedBack) {
          outcomes.tell(course, lease, null)
          throw error
        }
        forget(lease)
      }
    }
  }

  // Who makes the call

  async function find(course: Course): Promise<Settled> {
    let found = await look(course)
    for (let n = 1; n < LOOKS && found.kind === 'away' && (await blink.isOver()); n++) {
      if (course.flight.patienceUntil() === 0) throw new ProxyError('DEADLINE_EXCEEDED', 'Nobody waits any more.')
      found = await look(course)
    }
    if (found.kind === 'held') {
      const gone = await goneOf(found.owner)
      if (gone !== '') found = await look(course, gone)
    }
    if (found.kind === 'held') return follow(course, found.owner, found.job)
    return found.kind === 'away' || found.kind === 'forgotten' ? alone(course, '') : found
  }

  /** Waits while another replica makes the call and somebody here wants to know. Nobody's deadline is kept here: those who wait have theirs. */
  async function follow(course: Course, heldBy: string, heldJob: string): Promise<Settled> {
    const { names, scraper, flight } = course
    const notifier = openNotifier()
    const subscription = store.subscribe(names.channel, { onMessage: notifier.notify, onSubscribed: notifier.notify })
    const stopWatching = flight.onAbandoned(notifier.notify)
    let end: 'landed' | 'led' | 'left' = 'left'
    let [owner, job, seenAt] = [heldBy, heldJob, clock.now()]
    try {
      for (;;) {
        await notifier.pause(pollMs * (0.75 + 0.5 * random.next()))
        if (isClosed) throw new ProxyError('SHUTTING_DOWN', 'The proxy is shutting down.')
        if (flight.patienceUntil() === 0) throw new ProxyError('DEADLINE_EXCEEDED', 'Nobody waits any more.')
        let found = await look(course, await goneOf(owner))
        const isOver = clock.now() - seenAt >= silentMs
        if (found.kind === 'forgotten' && isOver) {
          course.seenToken = '0'
          found = await look(course)
        }
        if (found.kind === 'held') {
          ;[owner, job, seenAt] = [found.owner, found.job, clock.now()]
          continue
        }
        if (found.kind === 'forgotten' || (found.kind === 'away' && !isOver)) continue
        end = found.kind === 'landed' ? 'landed' : 'led'
        return found.kind === 'away' ? alone(course, job) : found
      }
    } finally {
      stopWatching()
      subscription.close()
      notifiers.delete(notifier)
      emit({ kind: 'flight-followed', scraper, end })
    }
  }

  /** What the owners of a process that is gone begin with; '' = it is there. */
  async function goneOf(owner: string): Promise<string> {
    const mark = owner.slice(0, owner.indexOf('/'))
    return (await session.isLost(mark)) ? `${mark}/` : ''
  }

  async function look(course: Course, gone = ''): Promise<Found> {
    for (;;) {
      const { ignoredToken, seenToken } = course
      const sinceMs = clock.now() - course.question.askedAt
      const said = await acquire(ports, course, { sinceMs, ignoredToken, gone, seenToken })
      if (said.kind === 'away') {
        course.isUnsure ||= said.sent
        return said
      }
      const { value } = said
      if (value.kind === 'forgotten') return value
      if (value.kind === 'leased') return mine(course, value)
      if (value.kind === 'held') {
        course.seenToken = value.token
        return value
      }
      const landed = await landingOf(course, value.mark)
      if (landed) return landed
      // Forged, or the answer is gone already, or a client that waits here is more patient than those who waited there.
      course.ignoredToken = value.token
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

  function mine(course: Course, { token, from, job }: Extract<Acquired, { kind: 'leased' }>): Found {
    const left = jobOf(course, job)
    if (from === 'sent')
      emit({ kind: 'flight-taken-over', scraper: course.scraper, from: left === null ? 'sent' : 'job' })
    return { kind: 'mine', lease: open(course, token, left) }
  }

  function alone(course: Course, job: string): { readonly kind: 'mine'; readonly lease: OpenLease } {
    return { kind: 'mine', lease: open(course, null, jobOf(course, job)) }
  }

  function open(course: Course, token: string | null, job: string | null): OpenLease {
    const lease = openLease(ports, course, { token, job })
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

  function close(): void {
    isClosed = true
    blink.close()
    stopListening()
    stopBeats()
    // What others can go on with need not wait until we are missed.
    for (const lease of leases) outcomes.giveBack(lease)
    outcomes.close()
    for (const { notify } of notifiers) notify()
  }

  /** What the store may not know of: all leases, or those of flights that began while it was away. */
  async function announce(isNew: boolean): Promise<void> {
    const unknown = Array.from(leases).filter(({ fence }) => isNew || fence === null)
    for (let from = 0; from < unknown.length; from += BATCH) {
      await Promise.all(unknown.slice(from, from + BATCH).map((lease) => lease.announce()))
    }
  }

  function openNotifier(): Notifier {
    const notifier = createNotifier(clock)
    notifiers.add(notifier)
    return notifier
  }
}

function namesOf(key: string): Names {
  const digest = hash('sha256', `${FORMAT} ${key}`, 'base64url')
  const tag = `flight:{${digest}}`
  return { digest, keys: [`${tag}:lease`, `${tag}:record`], channel: `flight:${digest}` }
}

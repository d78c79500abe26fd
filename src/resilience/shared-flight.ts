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
import { type Blink, createBlink } from '../blink.ts'
import { ProxyError } from '../errors.ts'
import type { Entry, Landing } from '../model.ts'
import type { FlightLease, SharedFlights, SharedQuestion } from '../flights.ts'
import type { Clock, Emit, Random, SharedStore } from '../ports.ts'
import { type Session, SILENT_MS } from '../session.ts'
import { acquire, type Acquired, type Claimant, type Names, openLease, type OpenLease } from './shared-flight-lease.ts'
import { landingOfEntry, landingOfRecord, mayTryMore, readRecord, type Signer } from './shared-flight-records.ts'
import { createNotifier, type Notifier } from './shared-flight-notifier.ts'
import { type Outcomes, createOutcomes, type Keep } from './shared-flight-outcome.ts'

export interface SharedFlightPorts {
  readonly store: SharedStore
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
  readonly session: Session
  readonly signer: Signer
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

interface FlightState extends Claimant {
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
const FORMAT = 'flight-2'
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

class ReplicaFlights implements SharedFlights {
  readonly #ports: SharedFlightPorts
  readonly #pollMs: number
  readonly #silentMs: number
  readonly #store: SharedStore
  readonly #clock: Clock
  readonly #random: Random
  readonly #emit: Emit
  readonly #session: Session
  readonly #signer: Signer
  readonly #read: (key: string) => Promise<Entry | null | 'away'>
  readonly #notifiers = new Set<Notifier>()
  readonly #leases = new Set<OpenLease>()
  readonly #blink: Blink
  readonly #outcomes: Outcomes
  readonly #stopListening: () => void
  readonly #stopBeats: () => void
  #isClosed = false
  readonly idle: SharedFlights['idle']

  constructor(ports: SharedFlightPorts, options: SharedFlightOptions = {}) {
    this.#ports = ports
    const { pollMs = 1_000, lateMs = 60_000, silentMs = SILENT_MS } = options
    this.#pollMs = pollMs
    this.#silentMs = silentMs
    const { store, clock, random, emit, session, signer, read, keep } = ports
    this.#store = store
    this.#clock = clock
    this.#random = random
    this.#emit = emit
    this.#session = session
    this.#signer = signer
    this.#read = read
    this.#blink = createBlink(store, clock, options.blinkMs)
    this.#outcomes = createOutcomes({ store, clock, emit, keep, pollMs, lateMs, forget: this.#forget })
    this.#stopListening = store.onState(() => this.#notifiers.forEach(({ notify }) => notify()))
    this.#stopBeats = session.onBeat((isNew) => {
      void this.#announce(isNew)
      void this.#outcomes.releaseAll()
    })
    this.idle = this.#outcomes.idle
  }

  readonly fly = async (
    question: SharedQuestion,
    flight: Flown,
    lead: (lease: FlightLease) => Promise<Landing>,
  ): Promise<Landing> => {
    const { key, scraper } = question
    if (key === null) return lead(unleased)
    const id = this.#random.id()
    const state = {
      question: { ...question, key },
      flight,
      names: namesOf(key),
      scraper,
      owner: () => `${this.#session.mark()}/${id}`,
      ignoredToken: '0',
      seenToken: '0',
      isUnsure: false,
    }
    for (;;) {
      const found = await this.#find(state).catch((error: unknown) => {
        if (state.isUnsure) this.#outcomes.releaseLater(state)
        throw error
      })
      if (found.kind === 'landed') {
        if (state.isUnsure) this.#outcomes.releaseLater(state)
        return found.landing
      }
      if (found.kind === 'unshared') {
        const landing = await lead(unleased)
        this.#outcomes.tell(state, null, landing)
        return landing
      }
      const { lease } = found
      try {
        const landing = await lead(lease)
        this.#outcomes.tell(state, lease, landing)
        return landing
      } catch (error) {
        if (!lease.isTurnedBack) {
          this.#outcomes.tell(state, lease, null)
          throw error
        }
        this.#forget(lease)
      }
    }
  }

  readonly close = (): void => {
    this.#isClosed = true
    this.#blink.close()
    this.#stopListening()
    this.#stopBeats()
    // What others can go on with need not wait until we are missed.
    for (const lease of this.#leases) this.#outcomes.giveBack(lease)
    this.#outcomes.close()
    for (const { notify } of this.#notifiers) notify()
  }

  // Who makes the call

  async #find(state: FlightState): Promise<Settled> {
    let found = await this.#look(state)
    for (let n = 1; n < LOOKS && found.kind === 'away' && (await this.#blink.isOver()); n++) {
      if (state.flight.patienceUntil() === 0)
        throw new ProxyError('DEADLINE_EXCEEDED', 'All callers have disconnected.')
      found = await this.#look(state)
    }
    if (found.kind === 'held') {
      const gone = await this.#goneOf(found.owner)
      if (gone !== '') found = await this.#look(state, gone)
    }
    if (found.kind === 'held') return this.#follow(state, found.owner, found.job)
    return found.kind === 'away' || found.kind === 'forgotten' ? this.#alone(state, '') : found
  }

  /** Waits while another replica makes the call and somebody here wants to know. Nobody's deadline is kept here: those who wait have theirs. */
  async #follow(state: FlightState, heldBy: string, heldJob: string): Promise<Settled> {
    const { names, scraper, flight } = state
    const notifier = this.#openNotifier()
    const subscription = this.#store.subscribe(names.channel, {
      onMessage: notifier.notify,
      onSubscribed: notifier.notify,
    })
    const stopWatching = flight.onAbandoned(notifier.notify)
    let end: 'landed' | 'led' | 'left' = 'left'
    let [owner, job, seenAt] = [heldBy, heldJob, this.#clock.now()]
    try {
      for (;;) {
        await notifier.pause(this.#pollMs * (0.75 + 0.5 * this.#random.next()))
        if (this.#isClosed)
          throw new ProxyError('SHUTTING_DOWN', 'The proxy is shutting down. Retry later, or on another replica.')
        if (flight.patienceUntil() === 0) throw new ProxyError('DEADLINE_EXCEEDED', 'All callers have disconnected.')
        let found = await this.#look(state, await this.#goneOf(owner))
        const isOver = this.#clock.now() - seenAt >= this.#silentMs
        if (found.kind === 'forgotten' && isOver) {
          state.seenToken = '0'
          found = await this.#look(state)
        }
        if (found.kind === 'held') {
          ;[owner, job, seenAt] = [found.owner, found.job, this.#clock.now()]
          continue
        }
        if (found.kind === 'forgotten' || (found.kind === 'away' && !isOver)) continue
        end = found.kind === 'landed' ? 'landed' : 'led'
        return found.kind === 'away' ? this.#alone(state, job) : found
      }
    } finally {
      stopWatching()
      subscription.close()
      this.#notifiers.delete(notifier)
      this.#emit({ kind: 'flight-followed', scraper, end })
    }
  }

  /** What the owners of a process that is gone begin with; '' = it is there. */
  async #goneOf(owner: string): Promise<string> {
    const mark = owner.slice(0, owner.indexOf('/'))
    return (await this.#session.isLost(mark)) ? `${mark}/` : ''
  }

  async #look(state: FlightState, gone = ''): Promise<Found> {
    for (;;) {
      const { ignoredToken, seenToken } = state
      const sinceMs = this.#clock.now() - state.question.askedAt
      const said = await acquire(this.#ports, state, { sinceMs, ignoredToken, gone, seenToken })
      if (said.kind === 'away') {
        state.isUnsure ||= said.sent
        return said
      }
      const { value } = said
      if (value.kind === 'forgotten') return value
      if (value.kind === 'leased') return this.#mine(state, value)
      if (value.kind === 'held') {
        state.seenToken = value.token
        return value
      }
      const landed = await this.#landingOf(state, value.mark)
      if (landed) return landed
      // Forged, or the answer is gone already, or a client that waits here is more patient than those who waited there.
      state.ignoredToken = value.token
    }
  }

  async #landingOf({ question, names, flight }: FlightState, sealed: string): Promise<Found | null> {
    const text = this.#signer.open(names.digest, sealed)
    if (text === null) return null
    const mark = readRecord(text)
    if (mark.kind === 'unshared') return { kind: 'unshared' }
    if (mark.kind === 'failed' && mayTryMore(mark, flight.policies())) return null
    if (mark.kind !== 'kept') return { kind: 'landed', landing: landingOfRecord(mark) }
    const entry = await this.#read(question.key)
    if (entry === 'away') return { kind: 'away' }
    return entry && { kind: 'landed', landing: landingOfEntry(entry) }
  }

  #mine(state: FlightState, { token, from, job }: Extract<Acquired, { kind: 'leased' }>): Found {
    const left = this.#jobOf(state, job)
    if (from === 'sent')
      this.#emit({ kind: 'flight-taken-over', scraper: state.scraper, from: left === null ? 'sent' : 'job' })
    return { kind: 'mine', lease: this.#open(state, token, left) }
  }

  #alone(state: FlightState, job: string): { readonly kind: 'mine'; readonly lease: OpenLease } {
    return { kind: 'mine', lease: this.#open(state, null, this.#jobOf(state, job)) }
  }

  #open(state: FlightState, token: string | null, job: string | null): OpenLease {
    const lease = openLease(this.#ports, state, { token, job })
    this.#leases.add(lease)
    return lease
  }

  readonly #forget = (lease: OpenLease): void => {
    lease.end()
    this.#leases.delete(lease)
  }

  #jobOf({ names }: FlightState, sealed: string): string | null {
    return sealed === '' ? null : this.#signer.open(names.digest, sealed)
  }

  /** What the store may not know of: all leases, or those of flights that began while it was away. */
  async #announce(isNew: boolean): Promise<void> {
    const unknown = Array.from(this.#leases).filter(({ fence }) => isNew || fence === null)
    for (let from = 0; from < unknown.length; from += BATCH) {
      await Promise.all(unknown.slice(from, from + BATCH).map((lease) => lease.announce()))
    }
  }

  #openNotifier(): Notifier {
    const notifier = createNotifier(this.#clock)
    this.#notifiers.add(notifier)
    return notifier
  }
}

export function createSharedFlights(ports: SharedFlightPorts, options: SharedFlightOptions = {}): SharedFlights {
  return new ReplicaFlights(ports, options)
}

function namesOf(key: string): Names {
  const digest = hash('sha256', `${FORMAT} ${key}`, 'base64url')
  // In the slot of the answer: it is written and the flight ended in one command.
  const tag = `${FORMAT}:{${key}}`
  return { digest, keys: [`${tag}:lease`, `${tag}:record`], channel: `flight:${digest}` }
}

/**
 * One submission per `Idempotency-Key` and client: a repetition gets the first reply, and waits for it while it is on its way.
 *
 * The key is taken, in the store, before anything is sent, and free again when nothing can have been submitted. Where it may have
 * been, by a call that was cut off or a process that died, no repetition is safe: the key stays taken and every repetition is
 * refused as IDEMPOTENCY_UNRESOLVED, until its caller decides for a new key and a possible second charge. Kept for 24 h. Of all
 * processes that share the store one gets a key; while the store is away, no key is accepted, because nobody can know whether it
 * was used before.
 */
import { hash } from 'node:crypto'
import { ProxyError } from '../errors.ts'
import type { Call, Client, Landing, Outcome, ProxyRequest, Reply } from '../model.ts'
import type { Through } from '../parts.ts'
import type { Clock, DiskRecord, Random } from '../ports.ts'
import type { Session } from '../session.ts'
import { type JobStore, KEPT_MS } from './store.ts'

export interface Idempotency {
  /** `accepted` gives what must be written down together with the reply. Throws IDEMPOTENCY_CONFLICT, IDEMPOTENCY_UNRESOLVED and IDEMPOTENCY_UNAVAILABLE. */
  once(
    submission: Submission,
    submit: (through: Through) => Promise<Outcome>,
    accepted: (landing: Landing) => readonly DiskRecord[],
  ): Promise<Outcome>
}

export interface Submission {
  readonly request: ProxyRequest
  readonly client: Client
  readonly call: Call
  readonly idempotencyKey: string
}

interface Ports {
  /** The key of the question that is submitted; null = it has none. */
  readonly questionKey: (submission: Call) => string | null
  readonly store: JobStore
  readonly clock: Clock
  readonly random: Pick<Random, 'id'>
  readonly session: Pick<Session, 'id' | 'isGone'>
}

/** `unknown`: it may have been submitted, and nothing will ever tell. */
interface Taken {
  readonly parameters: string
  readonly state: 'submitting' | 'submitted' | 'unknown'
  readonly processId: string
  /** No two are the same. */
  readonly claim: string
  readonly takenAt: number
  readonly reply: KeptReply | null
}

interface KeptReply {
  readonly status: number
  readonly contentType: string | null
  readonly body: string
}

interface UnderWay {
  /** The parameters that the key is taken with, by us or before. */
  readonly parameters: Promise<string>
  /** Null = it ended before it was a flight, or in an error: whoever waits may try themselves. */
  readonly ended: Promise<Landing | null>
}

const SPACE = 'idempotency'
const LONGEST_WAIT_MS = 10_000
const RETRY_AFTER_MS = 1_000
const UNAVAILABLE_RETRY_MS = 2_000
/** Between two looks at what another process submits. */
const LOOK_MS = 250

class IdempotencyKeys implements Idempotency {
  readonly #questionKey: (submission: Call) => string | null
  readonly #store: JobStore
  readonly #clock: Clock
  readonly #random: Pick<Random, 'id'>
  readonly #session: Pick<Session, 'id' | 'isGone'>
  readonly #underWay = new Map<string, UnderWay>()

  constructor({ questionKey, store, clock, random, session }: Ports) {
    this.#questionKey = questionKey
    this.#store = store
    this.#clock = clock
    this.#random = random
    this.#session = session
  }

  readonly once = async (
    submission: Submission,
    submit: (through: Through) => Promise<Outcome>,
    accepted: (landing: Landing) => readonly DiskRecord[],
  ): Promise<Outcome> => {
    const { request, client, call, idempotencyKey } = submission
    const name = nameOf(client, idempotencyKey)
    const parameters = parametersOf(call, this.#questionKey(call))
    for (;;) {
      const other = this.#underWay.get(name)
      if (!other) return this.#first(request, name, parameters, submit, accepted)
      if ((await other.parameters) !== parameters) throw otherParameters()
      const ended = await this.#patiently(request, other.ended)
      if (ended === 'gone') return { kind: 'gone' }
      if (ended === 'late') throw stillSubmitting()
      if (ended?.verdict.kind === 'failed') {
        return { kind: 'fetched', landing: ended, role: 'joined', forwardedBecause: 'method' }
      }
    }
  }

  /** Of those who come to this process. */
  async #first(
    request: ProxyRequest,
    name: string,
    parameters: string,
    submit: (through: Through) => Promise<Outcome>,
    accepted: (landing: Landing) => readonly DiskRecord[],
  ): Promise<Outcome> {
    const { promise: ended, resolve } = Promise.withResolvers<Landing | null>()
    const known = Promise.withResolvers<string>()
    const { id: processId } = this.#session
    const takenAt = this.#clock.wall()
    const taken: Taken = { parameters, state: 'submitting', processId, claim: this.#random.id(), takenAt, reply: null }
    this.#underWay.set(name, { parameters: known.promise, ended })
    let isAloft = false
    let isMine = false
    const end = async (landing: Landing | null, records: readonly DiskRecord[]): Promise<void> => {
      if (records.length > 0) await this.#store.put(records)
      this.#underWay.delete(name)
      resolve(landing)
    }
    const settled = (landing: Landing): readonly DiskRecord[] => {
      const { verdict, attempts } = landing
      if (verdict.kind === 'answered') {
        const reply = keep(verdict.reply)
        return [recordOf(name, { ...taken, state: 'submitted', reply }), ...accepted(landing)]
      }
      const isSafe = attempts.every(({ charge }) => charge.state === 'free')
      return [isSafe ? freed(name) : recordOf(name, { ...taken, state: 'unknown' })]
    }
    const through: Through = async (flight) => {
      isAloft = true
      try {
        const landing = await flight
        await end(landing, settled(landing))
        return landing
      } catch (error) {
        // A refusal is thrown only before the first attempt; anything else is a bug, and may have come after it.
        const isSafe = error instanceof ProxyError
        await end(null, [isSafe ? freed(name) : recordOf(name, { ...taken, state: 'unknown' })])
        throw error
      }
    }
    try {
      const outcome = await this.#claim(request, name, taken, known.resolve)
      if (outcome) return outcome
      isMine = true
      return await submit(through)
    } finally {
      if (!isAloft) await end(null, isMine ? [freed(name)] : [])
    }
  }

  /** Null = the key is ours. Whoever submits elsewhere and lives is waited for. */
  async #claim(
    request: ProxyRequest,
    name: string,
    taken: Taken,
    tell: (parameters: string) => void,
  ): Promise<Outcome | null> {
    for (;;) {
      const said = await this.#store.claim(recordOf(name, taken))
      if (said.kind === 'away') throw unavailable()
      const there = (said.kind === 'written' ? taken : said.there?.value) as Taken | undefined
      tell(there?.parameters ?? taken.parameters)
      if (said.kind === 'written') return null
      if (!there) throw fateUnknown()
      if (there.parameters !== taken.parameters) throw otherParameters()
      if (there.reply) return { kind: 'job', reply: restore(there.reply), idempotentReplay: true }
      if (there.state !== 'submitting' || (await this.#session.isGone(there.processId))) throw fateUnknown()
      // A neighbour in the same process, which nobody here can hear.
      if (there.processId === this.#session.id) throw stillSubmitting()
      const { promise: rested, resolve } = Promise.withResolvers<'rested'>()
      const timer = this.#clock.after(LOOK_MS, () => resolve('rested'))
      const ended = await this.#patiently(request, rested)
      timer.cancel()
      if (ended === 'gone') return { kind: 'gone' }
      if (ended === 'late') throw stillSubmitting()
    }
  }

  /** Waits as long as the caller would, and no longer than is decent. */
  #patiently<T>(request: ProxyRequest, work: Promise<T>): Promise<T | 'gone' | 'late'> {
    const patienceMs = Math.min(LONGEST_WAIT_MS, request.patienceMs ?? Number.POSITIVE_INFINITY)
    return new Promise((resolve) => {
      const timer = this.#clock.after(request.arrivedAt + patienceMs - this.#clock.now(), () => settle('late'))
      let stopListening = (): void => {}
      let isSettled = false
      stopListening = request.onGone(() => settle('gone'))
      // Gone already, and the listener was called before it could be taken off.
      if (isSettled) stopListening()
      void work.then(settle)

      function settle(result: T | 'gone' | 'late'): void {
        isSettled = true
        timer.cancel()
        stopListening()
        resolve(result)
      }
    })
  }
}

export function createIdempotency(ports: Ports): Idempotency {
  return new IdempotencyKeys(ports)
}

function recordOf(name: string, taken: Taken): DiskRecord {
  return { space: SPACE, key: name, value: taken, expiresAt: taken.takenAt + KEPT_MS }
}

function freed(name: string): DiskRecord {
  return { space: SPACE, key: name, value: null, expiresAt: null }
}

/** What a caller chose may say something about them: only its hash is kept. */
function nameOf({ name }: Client, idempotencyKey: string): string {
  return hash('sha256', `${name}\n${idempotencyKey}`, 'hex')
}

/** Of the canonical question, so that `us` is `US`; where a value has no documented meaning, of the parameters as they are, in any order. */
function parametersOf({ scraper, params }: Call, questionKey: string | null): string {
  if (questionKey !== null) return questionKey
  const ordered = params.toSorted(([a], [b]) => (a < b ? -1 : 1))
  return hash('sha256', JSON.stringify([scraper, ordered]), 'hex')
}

function keep({ status, contentType, body }: Reply): KeptReply {
  return { status, contentType, body: body.toString() }
}

function restore({ status, contentType, body }: KeptReply): Reply {
  return { status, contentType, retryAfter: null, location: null, body: Buffer.from(body) }
}

function otherParameters(): ProxyError {
  return new ProxyError('IDEMPOTENCY_CONFLICT', 'This Idempotency-Key was used with other parameters: use a new key.', {
    status: 422,
  })
}

function stillSubmitting(): ProxyError {
  const detail = 'The submission with this Idempotency-Key is still in progress. Retry with the same key.'
  return new ProxyError('IDEMPOTENCY_CONFLICT', detail, { status: 409, retryAfterMs: RETRY_AFTER_MS })
}

function unavailable(): ProxyError {
  const detail =
    'The store of used keys is unavailable, so this Idempotency-Key cannot be checked. Nothing was submitted. ' +
    'Retry with the same key.'
  return new ProxyError('IDEMPOTENCY_UNAVAILABLE', detail, { retryAfterMs: UNAVAILABLE_RETRY_MS })
}

function fateUnknown(): ProxyError {
  const detail =
    'The submission with this Idempotency-Key was interrupted. The job may have been submitted and charged; its outcome is ' +
    'unknown. To submit again, possibly at a second charge, use a new key.'
  return new ProxyError('IDEMPOTENCY_UNRESOLVED', detail)
}

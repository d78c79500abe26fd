/**
 * Gives upstream keys to requests, heavier ones more often, and learns from every verdict which keys must rest. Where a key is being
 * tried, or comes back within moments, a request waits for it; otherwise it is told when it does. A key may get another secret while
 * the proxy runs: that is another key, and what is said of the old one is dropped. The secrets are revealed here and nowhere else.
 */
import { ProxyError } from '../errors.ts'
import type { FailureClass } from '../failures.ts'
import type { Call, Verdict } from '../model.ts'
import type { KeyLease, Keys, KeyStatus, Turn } from '../fetch-parts.ts'
import type { Clock, Emit, Random } from '../ports.ts'
import {
  isNews,
  isOpen,
  isTriable,
  judged,
  type KeyCondition,
  type KeyRest,
  nextUseAt,
  ready,
  refreshed,
  restEnded,
  stateOf,
  told,
  used,
} from './key-state.ts'
import { type KeyMemory, noMemory } from './key-memory.ts'
import { noKeyText, problemOf } from './no-key.ts'
import { nextInTurn, type Weighted } from './rotation.ts'
import type { Secret } from './secret.ts'

export interface KeyOptions {
  readonly name: string
  readonly secret: Secret
  /** How often it is taken, compared with the others. */
  readonly weight: number
}

export interface KeysPolicy {
  readonly keys: readonly KeyOptions[]
  readonly keyRest: KeyRest
}

interface KeysPorts extends KeysPolicy {
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
  /** Rests that an earlier process left behind. */
  readonly memory?: KeyMemory
}

export interface KeyPool extends Keys {
  /** False when the key has this secret already, or there is no such key. */
  replace(name: string, secret: Secret): boolean
  /** Another replica lets this key rest. */
  applyRemoteCooldown(name: string, because: FailureClass, untilAt: number): void
  /** Its rest is over: the next request tries it. Null = there is no such key. */
  tryNow(name: string): KeyStatus | null
  /**
   * Other keys, of which those that stay are as they are; one with another secret is another key. Nothing changes for this pool until
   * the new one is `inForce`: then the rests of its keys are over, and nothing more is reported of keys that are not in it.
   */
  under(policy: KeysPolicy): KeyPool
  inForce(): void
}

/** One secret, shared by the pools of all generations that have it. */
interface Known {
  readonly name: string
  secret: Secret
  condition: KeyCondition
  /** The question that was blocked last with it, until it brings an answer. */
  blockedQuestion: string | null
}

/** A key as one pool has it. */
interface Key extends Weighted {
  readonly known: Known
}

interface PoolContext {
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
  readonly memory: KeyMemory
  /** The keys whose changes are reported. */
  reported: ReadonlySet<Known>
  /** Called when a verdict or an operator has changed a key. */
  readonly waiting: Set<() => void>
}

/** A limited key that comes back within this is worth waiting for. */
const worthWaitingMs = 30_000
/** Requests that wait for the same key do not come back all at once. */
const spread = 0.1
const shortestRetryAfterMs = 1_000

export function createKeys({ clock, random, emit, memory = noMemory, ...policy }: KeysPorts): KeyPool {
  const pool = poolOf({ clock, random, emit, memory, reported: new Set(), waiting: new Set() }, policy, [])
  pool.inForce()
  return pool
}

class Pool implements KeyPool {
  readonly #context: PoolContext
  readonly #before: readonly Key[]
  readonly #clock: Clock
  readonly #random: Random
  readonly #emit: Emit
  readonly #memory: KeyMemory
  readonly #keyRest: KeyRest
  readonly #keys: Key[]

  constructor(context: PoolContext, policy: KeysPolicy, before: readonly Key[]) {
    this.#context = context
    this.#before = before
    const { clock, random, emit, memory } = context
    this.#clock = clock
    this.#random = random
    this.#emit = emit
    this.#memory = memory
    const { keyRest } = policy
    this.#keyRest = keyRest
    this.#keys = policy.keys.map(({ name, secret, weight }): Key => ({
      known: this.#knownAs(name, secret),
      weight,
      turn: 0,
    }))
  }

  readonly lease = async (call: Call, turn: Turn): Promise<KeyLease> => {
    for (;;) {
      // The attempt has waited for a place, credits, the shared lease, or for a key, since this was last checked.
      if (turn.startableMs() <= 0)
        throw new ProxyError(
          'DEADLINE_EXCEEDED',
          'The time limit of this request passed before upstream could be called.',
        )
      if (call.endpoint === 'status') return noKeyNeeded
      const key = nextInTurn(this.#usable(turn.spentKeys))
      if (key) return this.#acquired(key, call)
      const waitMs = this.#worthwhileWait(turn)
      if (waitMs === null) throw this.#noneAvailable(turn.spentKeys)
      await this.#changeWithin(waitMs)
    }
  }

  readonly hasOther = (spent: ReadonlySet<string>): boolean => {
    return this.#usable(spent).length > 0
  }

  readonly refusal: KeyPool['refusal'] = () => this.#noneAvailable(new Set())

  readonly replace = (name: string, secret: Secret): boolean => {
    const known = this.#named(name)
    if (!known || known.secret.reveal() === secret.reveal()) return false
    known.secret = secret
    known.blockedQuestion = null
    this.#change(known, ready)
    this.#memory.note(name, secret, ready)
    return true
  }

  readonly applyRemoteCooldown = (name: string, reason: FailureClass, untilAt: number): void => {
    const known = this.#named(name)
    if (known) this.#change(known, told(this.#current(known), { reason, untilAt }, this.#clock.now()))
  }

  readonly tryNow = (name: string): KeyStatus | null => {
    const known = this.#named(name)
    if (!known) return null
    this.#change(known, restEnded(this.#current(known), this.#clock.now()))
    return this.#statusOf(known)
  }

  readonly under: KeyPool['under'] = (next) => poolOf(this.#context, next, this.#keys)

  readonly inForce = (): void => {
    this.#context.reported = new Set(this.#keys.map(({ known }) => known))
    for (const known of this.#context.reported) {
      this.#change(known, restEnded(known.condition, this.#clock.now()))
      this.#memory.note(known.name, known.secret, known.condition)
    }
  }

  readonly states = (): KeyStatus[] => {
    return this.#keys.map(({ known }) => this.#statusOf(known))
  }

  #knownAs(name: string, secret: Secret): Known {
    const known = this.#before.find((one) => one.known.name === name)?.known
    if (!known) return { name, secret, condition: this.#memory.recall(name, secret), blockedQuestion: null }
    // Whoever still asks with the old secret keeps it: it may be of another upstream.
    return known.secret.reveal() === secret.reveal() ? known : { name, secret, condition: ready, blockedQuestion: null }
  }

  #changeWithin(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        timer.cancel()
        this.#context.waiting.delete(wake)
        resolve()
      }
      const timer = this.#clock.after(ms, wake)
      this.#context.waiting.add(wake)
    })
  }

  #acquired({ known }: Key, call: Call): KeyLease {
    const isTrial = known.condition.kind === 'resting'
    const { name, secret } = known
    this.#become(known, used(known.condition, this.#clock.now()))
    return {
      name,
      secret: secret.reveal(),
      report: (verdict: Verdict) => {
        if (known.secret !== secret || this.#mayBeTheQuestion(known, call, verdict)) return
        const isLast = this.#isNoneOpen(known)
        const judging = { isTrial, isLast, rest: this.#keyRest, now: this.#clock.now(), chance: this.#random.next }
        this.#change(known, judged(this.#current(known), verdict, judging))
      },
    }
  }

  /**
   * A firewall may refuse one prompt: that must not take the last key from everybody else. It rests once two different questions in a
   * row were blocked.
   */
  #mayBeTheQuestion(known: Known, { promptHash }: Call, verdict: Verdict): boolean {
    const isBlocked = verdict.kind === 'failed' && verdict.class === 'blocked'
    const isFirst = known.blockedQuestion === null || known.blockedQuestion === promptHash
    if (isBlocked) known.blockedQuestion = promptHash
    else if (verdict.kind === 'answered') known.blockedQuestion = null
    return isBlocked && isFirst && !this.hasOther(new Set([known.name]))
  }

  #named(name: string): Known | undefined {
    return this.#keys.find(({ known }) => known.name === name)?.known
  }

  /** How long to wait for a key that is being tried, or that comes back by itself and soon; null = do not. */
  #worthwhileWait(turn: Turn): number | null {
    const next = this.#firstToReturn(turn.spentKeys)
    if (next?.condition.kind !== 'resting') return null
    const { trialAt, reason, untilAt } = next.condition
    const now = this.#clock.now()
    const isWorthIt = trialAt !== null || (reason === 'rateLimited' && untilAt - now <= worthWaitingMs)
    const waitMs = ((this.#nextUse(next) ?? now) - now) * (1 + spread * this.#random.next())
    return isWorthIt && waitMs < turn.startableMs() ? Math.max(1, waitMs) : null
  }

  #noneAvailable(spent: ReadonlySet<string>): ProxyError {
    const next = this.#firstToReturn(spent)
    const leftMs = next ? (this.#nextUse(next) ?? 0) - this.#clock.now() : 0
    return new ProxyError('NO_KEY_AVAILABLE', noKeyText(this.states(), this.#clock.now(), this.#clock.wall()), {
      retryAfterMs: Math.max(shortestRetryAfterMs, leftMs) * (1 + spread * this.#random.next()),
    })
  }

  #firstToReturn(spent: ReadonlySet<string>): Known | null {
    const unspent = this.#keys.map(({ known }) => known).filter(({ name }) => !spent.has(name))
    const resting = unspent.filter((known) => this.#nextUse(known) !== null)
    return resting.toSorted((a, b) => (this.#nextUse(a) ?? 0) - (this.#nextUse(b) ?? 0))[0] ?? null
  }

  #nextUse(known: Known): number | null {
    return nextUseAt(this.#current(known), this.#isNoneOpen(known), this.#clock.now())
  }

  #usable(spent: ReadonlySet<string>): Key[] {
    const now = this.#clock.now()
    return this.#keys.filter(({ known }) => {
      const condition = this.#current(known)
      return !spent.has(known.name) && (isOpen(condition, now) || isTriable(condition, this.#isNoneOpen(known), now))
    })
  }

  /** No key but this one can be used without a trial. */
  #isNoneOpen(but: Known): boolean {
    return !this.#keys.some(({ known }) => known !== but && isOpen(this.#current(known), this.#clock.now()))
  }

  #current(known: Known): KeyCondition {
    this.#become(known, refreshed(known.condition, this.#clock.now()))
    return known.condition
  }

  /** By a verdict, an operator or another replica: a request that waits for a key looks again. */
  #change(known: Known, next: KeyCondition): void {
    if (next === known.condition) return
    this.#become(known, next)
    for (const wake of this.#context.waiting) wake()
  }

  #become(known: Known, next: KeyCondition): void {
    const { name, secret, condition: before } = known
    if (next === before) return
    known.condition = next
    if (!this.#context.reported.has(known)) return
    this.#memory.note(name, secret, next)
    if (!isNews(before, next, this.#clock.now())) return
    const [reason, untilAt] = next.kind === 'resting' ? [next.reason, next.untilAt] : [null, null]
    this.#emit({ kind: 'key-changed', key: name, to: stateOf(next), because: reason, untilAt })
  }

  #statusOf(known: Known): KeyStatus {
    const { name } = known
    const condition = this.#current(known)
    const state = stateOf(condition)
    if (condition.kind === 'ready') return { name, state, problem: null, untilAt: null, tryAt: null }
    const untilAt = condition.untilAt > this.#clock.now() ? condition.untilAt : null
    return { name, state, problem: problemOf(name, condition.reason), untilAt, tryAt: this.#nextUse(known) }
  }
}

function poolOf(context: PoolContext, policy: KeysPolicy, before: readonly Key[]): KeyPool {
  return new Pool(context, policy, before)
}

const noKeyNeeded: KeyLease = { name: 'none', secret: null, report: () => {} }

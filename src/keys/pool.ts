/**
 * Gives upstream keys to requests, heavier ones more often, and learns from every verdict which keys must rest. Where a key is being
 * tried, or comes back within moments, a request waits for it; otherwise it is told when it does. A key may get another secret while
 * the proxy runs: that is another key, and what is said of the old one is dropped. The secrets are revealed here and nowhere else.
 */
import { ProxyError } from '../errors.ts'
import type { FailureClass } from '../failures.ts'
import type { Call, Verdict } from '../model.ts'
import type { KeyLease, Keys, KeyStatus, Turn } from '../parts.ts'
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
  heed(name: string, because: FailureClass, untilAt: number): void
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

interface Surroundings {
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

function poolOf(surroundings: Surroundings, policy: KeysPolicy, before: readonly Key[]): KeyPool {
  const { clock, random, emit, memory } = surroundings
  const { keyRest } = policy
  const keys = policy.keys.map(({ name, secret, weight }): Key => ({ known: knownAs(name, secret), weight, turn: 0 }))

  function knownAs(name: string, secret: Secret): Known {
    const known = before.find((one) => one.known.name === name)?.known
    if (!known) return { name, secret, condition: memory.recall(name, secret), blockedQuestion: null }
    // Whoever still asks with the old secret keeps it: it may be of another upstream.
    return known.secret.reveal() === secret.reveal() ? known : { name, secret, condition: ready, blockedQuestion: null }
  }

  function inForce(): void {
    surroundings.reported = new Set(keys.map(({ known }) => known))
    for (const known of surroundings.reported) {
      change(known, restEnded(known.condition, clock.now()))
      memory.note(known.name, known.secret, known.condition)
    }
  }

  async function lease(call: Call, turn: Turn): Promise<KeyLease> {
    for (;;) {
      // The attempt has waited for a place, credits, the shared lease, or for a key, since this was last checked.
      if (turn.startableMs() <= 0)
        throw new ProxyError('DEADLINE_EXCEEDED', 'The time for this request was up before upstream could be asked.')
      if (call.endpoint === 'status') return noKeyNeeded
      const key = nextInTurn(usable(turn.spentKeys))
      if (key) return acquired(key, call)
      const waitMs = worthwhileWait(turn)
      if (waitMs === null) throw noneAvailable(turn.spentKeys)
      await changeWithin(waitMs)
    }
  }

  function changeWithin(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = clock.after(ms, wake)
      surroundings.waiting.add(wake)
      function wake(): void {
        timer.cancel()
        surroundings.waiting.delete(wake)
        resolve()
      }
    })
  }

  function hasOther(spent: ReadonlySet<string>): boolean {
    return usable(spent).length > 0
  }

  function acquired({ known }: Key, call: Call): KeyLease {
    const isTrial = known.condition.kind === 'resting'
    const { name, secret } = known
    become(known, used(known.condition, clock.now()))
    return {
      name,
      secret: secret.reveal(),
      report(verdict: Verdict) {
        if (known.secret !== secret || mayBeTheQuestion(known, call, verdict)) return
        const isLast = isNoneOpen(known)
        const judging = { isTrial, isLast, rest: keyRest, now: clock.now(), chance: random.next }
        change(known, judged(current(known), verdict, judging))
      },
    }
  }

  /**
   * A firewall may refuse one prompt: that must not take the last key from everybody else. It rests once two different questions in a
   * row were blocked.
   */
  function mayBeTheQuestion(known: Known, { promptHash }: Call, verdict: Verdict): boolean {
    const isBlocked = verdict.kind === 'failed' && verdict.class === 'blocked'
    const isFirst = known.blockedQuestion === null || known.blockedQuestion === promptHash
    if (isBlocked) known.blockedQuestion = promptHash
    else if (verdict.kind === 'answered') known.blockedQuestion = null
    return isBlocked && isFirst && !hasOther(new Set([known.name]))
  }

  function replace(name: string, secret: Secret): boolean {
    const known = named(name)
    if (!known || known.secret.reveal() === secret.reveal()) return false
    known.secret = secret
    known.blockedQuestion = null
    change(known, ready)
    memory.note(name, secret, ready)
    return true
  }

  function heed(name: string, reason: FailureClass, untilAt: number): void {
    const known = named(name)
    if (known) change(known, told(current(known), { reason, untilAt }, clock.now()))
  }

  function tryNow(name: string): KeyStatus | null {
    const known = named(name)
    if (!known) return null
    change(known, restEnded(current(known), clock.now()))
    return statusOf(known)
  }

  function named(name: string): Known | undefined {
    return keys.find(({ known }) => known.name === name)?.known
  }

  /** How long to wait for a key that is being tried, or that comes back by itself and soon; null = do not. */
  function worthwhileWait(turn: Turn): number | null {
    const next = firstToReturn(turn.spentKeys)
    if (next?.condition.kind !== 'resting') return null
    const { trialAt, reason, untilAt } = next.condition
    const now = clock.now()
    const isWorthIt = trialAt !== null || (reason === 'rateLimited' && untilAt - now <= worthWaitingMs)
    const waitMs = ((nextUse(next) ?? now) - now) * (1 + spread * random.next())
    return isWorthIt && waitMs < turn.startableMs() ? Math.max(1, waitMs) : null
  }

  function noneAvailable(spent: ReadonlySet<string>): ProxyError {
    const next = firstToReturn(spent)
    const leftMs = next ? (nextUse(next) ?? 0) - clock.now() : 0
    return new ProxyError('NO_KEY_AVAILABLE', noKeyText(statuses(), clock.now(), clock.wall()), {
      retryAfterMs: Math.max(shortestRetryAfterMs, leftMs) * (1 + spread * random.next()),
    })
  }

  function firstToReturn(spent: ReadonlySet<string>): Known | null {
    const unspent = keys.map(({ known }) => known).filter(({ name }) => !spent.has(name))
    const resting = unspent.filter((known) => nextUse(known) !== null)
    return resting.toSorted((a, b) => (nextUse(a) ?? 0) - (nextUse(b) ?? 0))[0] ?? null
  }

  function nextUse(known: Known): number | null {
    return nextUseAt(current(known), isNoneOpen(known), clock.now())
  }

  function usable(spent: ReadonlySet<string>): Key[] {
    const now = clock.now()
    return keys.filter(({ known }) => {
      const condition = current(known)
      return !spent.has(known.name) && (isOpen(condition, now) || isTriable(condition, isNoneOpen(known), now))
    })
  }

  /** No key but this one can be used without a trial. */
  function isNoneOpen(but: Known): boolean {
    return !keys.some(({ known }) => known !== but && isOpen(current(known), clock.now()))
  }

  function current(known: Known): KeyCondition {
    become(known, refreshed(known.condition, clock.now()))
    return known.condition
  }

  /** By a verdict, an operator or another replica: a request that waits for a key looks again. */
  function change(known: Known, next: KeyCondition): void {
    if (next === known.condition) return
    become(known, next)
    for (const wake of surroundings.waiting) wake()
  }

  function become(known: Known, next: KeyCondition): void {
    const { name, secret, condition: before } = known
    if (next === before) return
    known.condition = next
    if (!surroundings.reported.has(known)) return
    memory.note(name, secret, next)
    if (!isNews(before, next, clock.now())) return
    const [reason, untilAt] = next.kind === 'resting' ? [next.reason, next.untilAt] : [null, null]
    emit({ kind: 'key-changed', key: name, to: stateOf(next), because: reason, untilAt })
  }

  function statusOf(known: Known): KeyStatus {
    const { name } = known
    const condition = current(known)
    const state = stateOf(condition)
    if (condition.kind === 'ready') return { name, state, problem: null, untilAt: null, tryAt: null }
    const untilAt = condition.untilAt > clock.now() ? condition.untilAt : null
    return { name, state, problem: problemOf(name, condition.reason), untilAt, tryAt: nextUse(known) }
  }

  function statuses(): KeyStatus[] {
    return keys.map(({ known }) => statusOf(known))
  }

  return {
    lease,
    hasOther,
    refusal: () => noneAvailable(new Set()),
    replace,
    heed,
    tryNow,
    under: (next) => poolOf(surroundings, next, keys),
    inForce,
    states: statuses,
  }
}

const noKeyNeeded: KeyLease = { name: 'none', secret: null, report: () => {} }

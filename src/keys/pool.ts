/**
 * Lends upstream keys, heavier ones more often, and learns from every verdict which of them must rest. Where the next key
 * comes back within moments, whoever asks waits for it; otherwise they are told when it does. A key may get another secret
 * while it runs: what is said of the old one is then said of nobody. The secrets are revealed here and nowhere else.
 */
import { ProxyError } from '../errors.ts'
import type { FailureClass } from '../failures.ts'
import type { Call, Verdict } from '../model.ts'
import type { KeyLease, Keys, Turn } from '../parts.ts'
import type { Clock, Emit, Random } from '../ports.ts'
import {
  awaken,
  heed,
  becauseOf,
  isLendable,
  judge,
  type KeyCondition,
  type KeyRest,
  labelOf,
  lend,
  renew,
  untilOf,
} from './key-state.ts'
import { type KeyMemory, noMemory } from './key-memory.ts'
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
  /**
   * Other keys, of which those that stay are as they are, and one with another secret is tried at once. Nothing changes for this
   * pool but that, once the new one is `inForce`, nothing more is told of keys that are not in it.
   */
  under(policy: KeysPolicy): KeyPool
  inForce(): void
}

/** One secret, whichever pools have it. */
interface Known {
  readonly name: string
  secret: Secret
  condition: KeyCondition
  /** The question that was blocked last with it, until it brings an answer. */
  blockedQuestion: string | null
}

/** A key as one pool has it. */
interface Key {
  readonly known: Known
  readonly weight: number
  /** Its credit in the smooth weighted round robin. */
  turn: number
}

interface Surroundings {
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
  readonly memory: KeyMemory
  /** The keys that are told of. */
  told: ReadonlySet<Known>
}

/** A limited key that returns within this is worth waiting for. */
const worthWaitingMs = 30_000
/** Spread, so that those who wait for the same key do not come all at once. */
const spread = 0.1
const shortestRetryAfterMs = 1_000

export function createKeys({ clock, random, emit, memory = noMemory, ...policy }: KeysPorts): KeyPool {
  const pool = poolOf({ clock, random, emit, memory, told: new Set() }, policy, [])
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
    return known.secret.reveal() === secret.reveal()
      ? known
      : { name, secret, condition: renew(known.condition), blockedQuestion: null }
  }

  function inForce(): void {
    surroundings.told = new Set(keys.map(({ known }) => known))
    for (const { name, secret, condition } of surroundings.told) memory.note(name, secret, condition)
  }

  async function lease(call: Call, turn: Turn): Promise<KeyLease> {
    for (;;) {
      // The attempt has waited for a place, credits, the shared lease, or for a key, since this was last checked.
      if (turn.startableMs() <= 0)
        throw new ProxyError('DEADLINE_EXCEEDED', 'The time for this request was up before upstream could be asked.')
      if (call.endpoint === 'status') return noKeyNeeded
      const key = pick(turn.spentKeys)
      if (key) return lent(key, call)
      const waitMs = worthwhileWait(turn)
      if (waitMs === null) throw noneAvailable(turn.spentKeys)
      await new Promise<void>((resolve) => clock.after(waitMs, resolve))
    }
  }

  function hasOther(spent: ReadonlySet<string>): boolean {
    return lendable(spent).length > 0
  }

  /** Smooth weighted round robin, as nginx does it: everybody gains their weight, the richest pays for the whole round. */
  function pick(spent: ReadonlySet<string>): Key | null {
    const candidates = lendable(spent)
    let richest: Key | null = null
    for (const key of candidates) {
      key.turn += key.weight
      if (!richest || key.turn > richest.turn) richest = key
    }
    if (richest) richest.turn -= candidates.reduce((sum, { weight }) => sum + weight, 0)
    return richest
  }

  function lent({ known }: Key, call: Call): KeyLease {
    const isTrial = known.condition.kind === 'trial'
    const { name, secret } = known
    become(known, lend(known.condition, clock.now()))
    return {
      name,
      secret: secret.reveal(),
      report(verdict: Verdict) {
        if (known.secret !== secret || mayBeTheQuestion(known, call, verdict)) return
        become(known, judge(current(known), verdict, isTrial, clock.now(), keyRest))
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
    become(known, renew(current(known)))
    return true
  }

  function heedOther(name: string, because: FailureClass, untilAt: number): void {
    const known = named(name)
    if (known) become(known, heed(current(known), untilAt, because))
  }

  function named(name: string): Known | undefined {
    return keys.find(({ known }) => known.name === name)?.known
  }

  /** How long to wait for a key that comes back by itself and soon; null = do not. */
  function worthwhileWait(turn: Turn): number | null {
    const next = firstToReturn(turn.spentKeys)
    const until = next && untilOf(next.condition)
    if (!next || !until || becauseOf(next.condition) !== 'rateLimited') return null
    const restMs = until - clock.now()
    const waitMs = restMs * (1 + spread * random.next())
    return restMs <= worthWaitingMs && waitMs < turn.startableMs() ? waitMs : null
  }

  function noneAvailable(spent: ReadonlySet<string>): ProxyError {
    const next = firstToReturn(spent)
    // A trial under way may end at any moment.
    const isTried = keys.some(({ known }) => !spent.has(known.name) && current(known).kind === 'trial')
    const leftMs = next && !isTried ? (untilOf(next.condition) ?? 0) - clock.now() : 0
    return new ProxyError('NO_KEY_AVAILABLE', 'Every upstream key rests.', {
      retryAfterMs: Math.max(shortestRetryAfterMs, leftMs),
    })
  }

  function firstToReturn(spent: ReadonlySet<string>): Known | null {
    const unspent = keys.map(({ known }) => known).filter(({ name }) => !spent.has(name))
    const resting = unspent.filter((known) => untilOf(current(known)) !== null)
    return resting.toSorted((a, b) => (untilOf(a.condition) ?? 0) - (untilOf(b.condition) ?? 0))[0] ?? null
  }

  function lendable(spent: ReadonlySet<string>): Key[] {
    return keys.filter(({ known }) => !spent.has(known.name) && isLendable(current(known), clock.now()))
  }

  function current(known: Known): KeyCondition {
    become(known, awaken(known.condition, clock.now()))
    return known.condition
  }

  function become(known: Known, next: KeyCondition): void {
    const { name, secret, condition: before } = known
    known.condition = next
    if (!surroundings.told.has(known)) return
    memory.note(name, secret, next)
    const isBackFromTrial = before.kind === 'trial' && next.kind !== 'trial'
    if (labelOf(before) === labelOf(next) && !isBackFromTrial) return
    emit({
      kind: 'key-changed',
      key: name,
      to: labelOf(next),
      because: becauseOf(next),
      untilAt: untilOf(next),
    })
  }

  return {
    lease,
    hasOther,
    replace,
    heed: heedOther,
    under: (next) => poolOf(surroundings, next, keys),
    inForce,
    states: () =>
      keys.map(({ known }) => {
        const condition = current(known)
        return { name: known.name, state: labelOf(condition), untilAt: untilOf(condition) }
      }),
  }
}

const noKeyNeeded: KeyLease = { name: 'none', secret: null, report: () => {} }

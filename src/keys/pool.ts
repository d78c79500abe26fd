/**
 * Lends upstream keys, heavier ones more often, and learns from every verdict which of them must rest. Where the next key
 * comes back within moments, whoever asks waits for it; otherwise they are told when it does. A key may get another secret
 * while it runs: what is said of the old one is then said of nobody. The secrets are revealed here and nowhere else.
 */
import { ProxyError } from '../errors.ts'
import type { FailureClass, Call, Verdict } from '../model.ts'
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

interface KeysPorts {
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
  readonly keys: readonly KeyOptions[]
  readonly keyRest: KeyRest
  /** Rests that an earlier process left behind. */
  readonly memory?: KeyMemory
}

export interface KeyPool extends Keys {
  /** False when the key has this secret already, or there is no such key. */
  replace(name: string, secret: Secret): boolean
  /** Another replica lets this key rest. */
  heed(name: string, because: FailureClass, untilAt: number): void
}

interface Key {
  readonly name: string
  readonly weight: number
  secret: Secret
  condition: KeyCondition
  /** Its credit in the smooth weighted round robin. */
  turn: number
}

/** A limited key that returns within this is worth waiting for. */
const worthWaitingMs = 30_000
/** Spread, so that those who wait for the same key do not come all at once. */
const spread = 0.1
const shortestRetryAfterMs = 1_000

export function createKeys({ clock, random, emit, keys: options, keyRest, memory = noMemory }: KeysPorts): KeyPool {
  const keys: readonly Key[] = options.map((key) => ({
    ...key,
    condition: memory.recall(key.name, key.secret),
    turn: 0,
  }))

  async function lease(call: Call, turn: Turn): Promise<KeyLease> {
    if (call.endpoint === 'status') return noKeyNeeded
    for (;;) {
      const key = pick(turn.spentKeys)
      if (key) return lent(key)
      const waitMs = worthwhileWait(turn)
      if (waitMs === null) throw noneAvailable(turn.spentKeys)
      await new Promise<void>((resolve) => clock.after(waitMs, resolve))
      if (turn.leftMs <= 0) throw noneAvailable(turn.spentKeys)
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

  function lent(key: Key): KeyLease {
    const isTrial = key.condition.kind === 'trial'
    const { secret } = key
    become(key, lend(key.condition, clock.now()))
    return {
      name: key.name,
      secret: secret.reveal(),
      report(verdict: Verdict) {
        if (key.secret === secret) become(key, judge(current(key), verdict, isTrial, clock.now(), keyRest))
      },
    }
  }

  function replace(name: string, secret: Secret): boolean {
    const key = keys.find((one) => one.name === name)
    if (!key || key.secret.reveal() === secret.reveal()) return false
    key.secret = secret
    become(key, renew(current(key)))
    return true
  }

  function heedOther(name: string, because: FailureClass, untilAt: number): void {
    const key = keys.find((one) => one.name === name)
    if (key) become(key, heed(current(key), untilAt, because))
  }

  /** How long to wait for a key that comes back by itself and soon; null = do not. */
  function worthwhileWait({ spentKeys, leftMs }: Turn): number | null {
    const next = firstToReturn(spentKeys)
    const until = next && untilOf(next.condition)
    if (!next || !until || becauseOf(next.condition) !== 'rateLimited') return null
    const restMs = until - clock.now()
    const waitMs = restMs * (1 + spread * random.next())
    return restMs <= worthWaitingMs && waitMs < leftMs ? waitMs : null
  }

  function noneAvailable(spent: ReadonlySet<string>): ProxyError {
    const next = firstToReturn(spent)
    // A trial under way may end at any moment.
    const isTried = keys.some((key) => !spent.has(key.name) && current(key).kind === 'trial')
    const leftMs = next && !isTried ? (untilOf(next.condition) ?? 0) - clock.now() : 0
    return new ProxyError('NO_KEY_AVAILABLE', 'Every upstream key rests.', {
      retryAfterMs: Math.max(shortestRetryAfterMs, leftMs),
    })
  }

  function firstToReturn(spent: ReadonlySet<string>): Key | null {
    const resting = keys.filter((key) => !spent.has(key.name) && untilOf(current(key)) !== null)
    return resting.toSorted((a, b) => (untilOf(a.condition) ?? 0) - (untilOf(b.condition) ?? 0))[0] ?? null
  }

  function lendable(spent: ReadonlySet<string>): Key[] {
    return keys.filter((key) => !spent.has(key.name) && isLendable(current(key), clock.now()))
  }

  function current(key: Key): KeyCondition {
    become(key, awaken(key.condition, clock.now()))
    return key.condition
  }

  function become(key: Key, next: KeyCondition): void {
    const before = key.condition
    key.condition = next
    memory.note(key.name, key.secret, next)
    const isBackFromTrial = before.kind === 'trial' && next.kind !== 'trial'
    if (labelOf(before) === labelOf(next) && !isBackFromTrial) return
    emit({
      kind: 'key-changed',
      key: key.name,
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
    states: () =>
      keys.map((key) => ({ name: key.name, state: labelOf(current(key)), untilAt: untilOf(key.condition) })),
  }
}

const noKeyNeeded: KeyLease = { name: 'none', secret: null, report: () => {} }

/**
 * Rests that replicas share: a key that met its limit on one of them is left alone by all. What another replica says of a key only
 * makes it rest longer, never shorter, and never longer than it said; whether the key is good again, each finds out by itself.
 * A hint is signed with the secret of the key: who does not have it cannot make it rest, and another secret under the same name
 * is not meant. Of the secret nothing can be read from a signature.
 */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { type FailureClass, keyFailures } from '../failures.ts'
import type { Clock } from '../ports.ts'
import type { KeyMemory } from './key-memory.ts'
import { ready } from './key-state.ts'
import type { Secret } from './secret.ts'

export interface SharedCooldowns extends KeyMemory {
  /** Calls back with the rests that other replicas tell of. Once. */
  follow(applyRemoteCooldown: (rest: RemoteCooldown) => void): void
  close(): void
}

export interface RemoteCooldown {
  readonly name: string
  readonly because: FailureClass
  readonly untilAt: number
}

interface RestsPorts {
  readonly clock: Clock
  /** Where hints are told and heard, of the names of keys. */
  readonly openHints: (heard: (name: string, note: string, leftMs: number) => void) => Hints
}

interface Hints {
  tell(name: string, note: string, leftMs: number): void
  look(name: string): void
  close(): void
}

/** Two hundred calls in flight extend a rest by moments each: not all of that is told. */
const toleranceMs = 1_000
/** The clocks of two replicas differ by less. A hint that was kept and sent again later has nothing to say. */
const slackMs = 60_000
const noteForm = /^(\w+)\.(\d{1,12})\.(\d{13,15})\.([0-9a-f]{32})$/

export function createSharedCooldowns({ clock, openHints }: RestsPorts): SharedCooldowns {
  const secrets = new Map<string, Secret>()
  /** Until when the others know it to rest. */
  const known = new Map<string, number>()
  let hints: Hints | null = null
  let applyRemoteCooldown: (rest: RemoteCooldown) => void = () => {}

  function note(name: string, secret: Secret, condition: Parameters<KeyMemory['note']>[2]): void {
    if (secrets.get(name) !== secret) known.delete(name)
    secrets.set(name, secret)
    if (condition.kind === 'ready') return
    const { untilAt, reason: because } = condition
    if (!keyFailures.has(because)) return
    const leftMs = Math.floor(untilAt - clock.now())
    if (leftMs < toleranceMs || untilAt - (known.get(name) ?? 0) < toleranceMs) return
    known.set(name, untilAt)
    const said = `${because}.${leftMs}.${clock.wall()}`
    hints?.tell(name, `${said}.${signatureOf(secret, name, said)}`, leftMs)
  }

  function hear(name: string, note: string, leftMs: number): void {
    const secret = secrets.get(name)
    const [, because = '', toldMs, toldAt, signature = ''] = noteForm.exec(note) ?? []
    if (!secret || !isShared(because)) return
    const expected = signatureOf(secret, name, `${because}.${toldMs}.${toldAt}`)
    if (!timingSafeEqual(Buffer.from(signature), Buffer.from(expected))) return
    const sinceMs = clock.wall() - Number(toldAt)
    const restMs = Math.min(leftMs, Number(toldMs), Number(toldMs) - sinceMs + slackMs)
    const untilAt = clock.now() + restMs
    if (restMs <= 0 || untilAt <= (known.get(name) ?? 0)) return
    known.set(name, untilAt)
    applyRemoteCooldown({ name, because, untilAt })
  }

  return {
    recall(name, secret) {
      secrets.set(name, secret)
      hints?.look(name)
      return ready
    },
    note,
    follow(listener) {
      applyRemoteCooldown = listener
      hints = openHints(hear)
    },
    close: () => hints?.close(),
  }
}

function isShared(because: string): because is FailureClass {
  return keyFailures.has(because)
}

function signatureOf(secret: Secret, name: string, said: string): string {
  return createHmac('sha256', secret.reveal()).update(`key-rest\n${name}\n${said}`).digest('hex').slice(0, 32)
}

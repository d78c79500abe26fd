/**
 * Distrust that outlives the process: a key that was refused before a restart is tried with one request after it, so that not every
 * caller finds out. Of the secret only a short mark is kept, so that another secret under the same name is another key. Short rests are
 * not worth a write.
 */
import { hash } from 'node:crypto'
import { type FailureClass, keyFailures } from '../failures.ts'
import type { Clock, Disk } from '../ports.ts'
import { type KeyCondition, ready } from './key-state.ts'
import type { Secret } from './secret.ts'

export interface KeyMemory {
  /** What a key begins with. */
  recall(name: string, secret: Secret): KeyCondition
  /** Of every condition that a key gets into. */
  note(name: string, secret: Secret, condition: KeyCondition): void
}

export const noMemory: KeyMemory = { recall: () => ready, note: () => {} }

const space = 'key-rest'
const shortestRestMs = 30_000
/** So long after the end of a rest that it must still prove itself. */
const distrustMs = 86_400_000

export function createKeyMemory(disk: Pick<Disk, 'get' | 'put'>, clock: Clock): KeyMemory {
  /** What is on the disk, as far as we know: the reason, and until when (in the time of `clock.now`) it is kept. */
  const noted = new Map<string, { readonly reason: FailureClass; readonly keptUntil: number }>()

  function recall(name: string, secret: Secret): KeyCondition {
    const rest = readRest(disk.get(space, name))
    if (rest === null || rest.mark !== markOf(secret)) return ready
    const now = clock.now()
    noted.set(name, { reason: rest.reason, keptUntil: now })
    return { kind: 'resting', reason: rest.reason, untilAt: now, tryAt: now, trialAt: null }
  }

  function note(name: string, secret: Secret, condition: KeyCondition): void {
    if (condition.kind === 'ready') return forget(name)
    const { reason, untilAt } = condition
    const before = noted.get(name)
    const restMs = untilAt - clock.now()
    // Two hundred calls in flight extend a rest by moments each: not all of that is written.
    if (restMs < shortestRestMs || (before?.reason === reason && untilAt < before.keptUntil)) return
    noted.set(name, { reason, keptUntil: untilAt + distrustMs / 2 })
    const value = { mark: markOf(secret), because: reason }
    disk.put([{ space, key: name, value, expiresAt: Math.ceil(clock.wall() + restMs + distrustMs) }])
  }

  function forget(name: string): void {
    if (noted.delete(name)) disk.put([{ space, key: name, value: null, expiresAt: null }])
  }

  return { recall, note }
}

/** Eight digits of a digest: enough to tell two keys apart, and nothing to guess a key from. */
function markOf(secret: Secret): string {
  return hash('sha256', secret.reveal()).slice(0, 8)
}

/** Null for anything but a rest: the file may be of another version. */
function readRest(value: unknown): { readonly mark: string; readonly reason: FailureClass } | null {
  if (typeof value !== 'object' || value === null) return null
  const { mark, because } = value as { readonly mark?: unknown; readonly because?: unknown }
  return typeof mark === 'string' && isKeyFailure(because) ? { mark, reason: because } : null
}

function isKeyFailure(name: unknown): name is FailureClass {
  return typeof name === 'string' && keyFailures.has(name)
}

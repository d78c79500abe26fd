/**
 * Rests that outlive the process: a key that was spent before a restart is still spent after it, and must not be asked by
 * everybody at once to find out. Of the secret only a short mark is kept, so that another one under the same name starts
 * afresh. Short rests are not worth a write.
 */
import { hash } from 'node:crypto'
import { type FailureClass, keyFailures } from '../failures.ts'
import type { Clock, Disk } from '../ports.ts'
import { becauseOf, type KeyCondition, ready, untilOf } from './key-state.ts'
import type { Secret } from './secret.ts'

export interface KeyMemory {
  recall(name: string, secret: Secret): KeyCondition
  /** Of every condition that a key gets into. */
  note(name: string, secret: Secret, condition: KeyCondition): void
}

export const noMemory: KeyMemory = { recall: () => ready, note: () => {} }

const space = 'key-rest'
const shortestRestMs = 30_000
/** Two hundred calls in flight extend a rest by moments each: not all of that is written. */
const toleranceMs = 1_000
/** A rest that is over leaves the need of a trial behind; for so long it is remembered. */
const distrustMs = 86_400_000

export function createKeyMemory(disk: Pick<Disk, 'get' | 'put'>, clock: Clock): KeyMemory {
  /** What is on the disk, as far as we know: until when a key rests, in the time of `clock.now`. */
  const noted = new Map<string, number>()

  function recall(name: string, secret: Secret): KeyCondition {
    const rest = readRest(disk.get(space, name))
    if (rest === null || rest.mark !== markOf(secret)) return ready
    // Never longer than it was, wherever the wall clock has been put meanwhile.
    const untilAt = clock.now() + Math.min(rest.untilWallAt - clock.wall(), rest.restMs)
    noted.set(name, untilAt)
    const { because } = rest
    return because === 'creditsExhausted' ? { kind: 'spent', untilAt } : { kind: 'resting', untilAt, because }
  }

  function note(name: string, secret: Secret, condition: KeyCondition): void {
    if (condition.kind === 'ready') return forget(name)
    const untilAt = untilOf(condition)
    const because = becauseOf(condition)
    if (untilAt === null || untilAt - clock.now() < shortestRestMs) return
    if (untilAt - (noted.get(name) ?? 0) < toleranceMs) return
    noted.set(name, untilAt)
    const restMs = Math.ceil(untilAt - clock.now())
    const untilWallAt = clock.wall() + restMs
    const value = { mark: markOf(secret), because, untilWallAt, restMs }
    disk.put([{ space, key: name, value, expiresAt: untilWallAt + distrustMs }])
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

interface Rest {
  readonly mark: string
  readonly because: FailureClass
  readonly untilWallAt: number
  /** How long it was to last when it was written. */
  readonly restMs: number
}

/** Null for anything but a rest: the file may be of another version. */
function readRest(value: unknown): Rest | null {
  if (typeof value !== 'object' || value === null) return null
  const { mark, because, untilWallAt, restMs } = value as Partial<Rest>
  if (typeof mark !== 'string' || because === undefined || !keyFailures.has(because)) return null
  if (typeof untilWallAt !== 'number' || typeof restMs !== 'number') return null
  return { mark, because, untilWallAt, restMs }
}

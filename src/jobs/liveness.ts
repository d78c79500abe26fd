/**
 * Which processes live, as far as those that share a store can tell: each signs now and then, and whoever is not heard of for so
 * long is dead. Only the store's own word counts: while it is away nobody dies. Where the store is not shared, all others are dead.
 */
import type { Clock, DiskRecord, Timer } from '../ports.ts'
import type { JobStore } from './store.ts'

export interface Liveness {
  /** The same for all that share this process, another one after a restart. */
  readonly processId: string
  /** To be written together with whatever this process answers for. */
  sign(): readonly DiskRecord[]
  isDead(processId: string): Promise<boolean>
  /** So long that whoever would take up what it has left behind has done so. */
  isLongDead(processId: string): Promise<boolean>
  /** Signs off: what is left here may be taken up at once. */
  close(): Promise<void>
}

interface Ports {
  readonly store: Pick<JobStore, 'isShared' | 'put' | 'isGone'>
  readonly clock: Clock
  readonly processId: string
}

const SPACE = 'process'
const SIGN_MS = 10_000
const ALIVE_MS = 30_000
const GRACE_MS = 60_000
const MAX_DEAD = 1_000

export function createLiveness({ store, clock, processId }: Ports): Liveness {
  /** When each was found dead. */
  const dead = new Map<string, number>()
  let timer: Timer | null = null
  let isClosed = false
  if (store.isShared) beat()

  return { processId, sign, isDead, isLongDead, close }

  function sign(): readonly DiskRecord[] {
    if (!store.isShared || isClosed) return []
    return [{ space: SPACE, key: processId, value: 1, expiresAt: clock.wall() + ALIVE_MS }]
  }

  async function isDead(other: string): Promise<boolean> {
    if (other === processId) return false
    const isGone = await store.isGone(SPACE, other)
    if (!isGone) dead.delete(other)
    else if (!dead.has(other)) found(other)
    return isGone
  }

  async function isLongDead(other: string): Promise<boolean> {
    if (!(await isDead(other))) return false
    return !store.isShared || clock.now() - (dead.get(other) ?? clock.now()) >= GRACE_MS
  }

  function found(other: string): void {
    for (const [oldest] of dead) if (dead.size >= MAX_DEAD) dead.delete(oldest)
    dead.set(other, clock.now())
  }

  function beat(): void {
    void store.put(sign())
    timer = clock.after(SIGN_MS, beat)
  }

  async function close(): Promise<void> {
    isClosed = true
    timer?.cancel()
    if (store.isShared) await store.put([{ space: SPACE, key: processId, value: null, expiresAt: null }])
  }
}

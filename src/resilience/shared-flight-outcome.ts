/**
 * How a flight ended, told to the other replicas behind the back of those who wait here: the answer first, then that it is there. Tried
 * again while the store is away. A lease that the store may still hold for us is given back however long that takes, because it belongs to
 * a session that goes on, and nobody else would ever take it.
 */
import type { Entry, Landing } from '../model.ts'
import type { Clock, Emit, SharedStep, SharedStore } from '../ports.ts'
import { type Claimant, FAILED_MARK_MS, type OpenLease, release } from './shared-flight-lease.ts'
import { recordOf } from './shared-flight-records.ts'
import { createNotifier, type Notifier } from './shared-flight-notifier.ts'

export interface Outcomes {
  /** `lease` null = the call was made without one; `landing` null = another replica may make it. */
  tell(flight: Told, lease: OpenLease | null, landing: Landing | null): void
  /** The call goes on without this process. A lease whose outcome is being told is left alone: its answer may be on the way to the store. */
  giveBack(lease: OpenLease): void
  releaseLater(claimant: Claimant): void
  /** Once more for those that could not be released. */
  releaseAll(): Promise<void>
  /** Resolves when all is told, or cannot be. */
  idle(): Promise<void>
  close(): void
}

/** The flight that has ended. */
export interface Told extends Claimant {
  readonly question: { readonly key: string }
  readonly isUnsure: boolean
}

export type Keep = (
  key: string,
  entry: Entry,
  fence: string | null,
  end: SharedStep | null,
) => Promise<boolean | 'ended' | 'away'>

interface OutcomePorts {
  /**
   * Sees to it that all replicas keep this entry, or one of a greater fence: true = they do, `ended` = and `end` was run with it. Asked again
   * when it was `away`.
   */
  readonly keep: Keep
  readonly store: SharedStore
  readonly clock: Clock
  readonly emit: Emit
  readonly pollMs: number
  /** What could not be told is tried for so long. */
  readonly lateMs: number
  readonly forget: (lease: OpenLease) => void
}

/** The store answers, yet not this. */
const MAX_TRIES = 3
/** Landings that wait for the store to return. */
const MAX_LATE = 1_000

export function createOutcomes(ports: OutcomePorts): Outcomes {
  const { store, clock, emit, keep, pollMs, lateMs, forget } = ports
  const notifiers = new Set<Notifier>()
  const telling = new Set<Promise<void>>()
  /** Their flights are over, and the store does not know yet. */
  const ended = new Set<OpenLease>()
  const unreleased = new Set<Claimant>()
  const stopListening = store.onState(wake)
  let isClosed = false

  return { tell, giveBack, releaseLater, releaseAll, idle, close }

  function tell(flight: Told, lease: OpenLease | null, landing: Landing | null): void {
    if (lease) ended.add(lease)
    const told = pass(flight, lease, landing)
      .then((isTold) => {
        if (!isTold || flight.isUnsure || lease?.isUnsure) releaseLater(flight)
      })
      .catch((error: unknown) => {
        releaseLater(flight)
        emit({ kind: 'broke', where: 'shared flight', error })
      })
      .finally(() => {
        if (lease) {
          ended.delete(lease)
          forget(lease)
        }
        telling.delete(told)
      })
    telling.add(told)
  }

  /** False = the store may still hold the lease for us. */
  async function pass({ question }: Told, lease: OpenLease | null, landing: Landing | null): Promise<boolean> {
    const landedAt = clock.now()
    const entry = landing?.entry ?? null
    // The answer first: whoever hears of it finds it. Meanwhile the lease is kept, so that nobody asks again.
    const kept = entry
      ? await insist(landedAt, () =>
          keep(question.key, entry, lease?.fence ?? null, lease?.ending({ kind: 'kept' }) ?? null),
        )
      : false
    if (kept === 'ended') lease?.end()
    if (!lease || kept === 'ended') return true
    const mark = landing && recordOf(landing, kept === true)
    const told = await insist(landedAt, async () => {
      lease.end()
      const isStale = mark?.kind === 'failed' && clock.now() - landedAt > FAILED_MARK_MS
      return lease.land(isStale ? null : mark)
    })
    return told === 'told'
  }

  async function insist<T>(since: number, ask: () => Promise<T | 'away'>): Promise<T | 'away'> {
    const notifier = createNotifier(clock)
    notifiers.add(notifier)
    let tries = 0
    try {
      for (;;) {
        const said = await ask()
        if (store.state === 'up') tries += 1
        const leftMs = since + lateMs - clock.now()
        const isHopeless = isClosed || leftMs <= 0 || tries === MAX_TRIES || telling.size > MAX_LATE
        if (said !== 'away' || isHopeless) return said
        await notifier.pause(store.state === 'up' ? Math.min(pollMs, leftMs) : leftMs)
      }
    } finally {
      notifiers.delete(notifier)
    }
  }

  function giveBack(lease: OpenLease): void {
    if (ended.has(lease)) return
    lease.end()
    const told = lease.land(null).then(() => void telling.delete(told))
    telling.add(told)
  }

  function releaseLater(claimant: Claimant): void {
    unreleased.add(claimant)
    void releaseAll()
  }

  async function releaseAll(): Promise<void> {
    for (const claimant of unreleased) {
      if (isClosed || !(await release(ports, claimant))) return
      unreleased.delete(claimant)
    }
  }

  async function idle(): Promise<void> {
    while (telling.size > 0) await Promise.all(telling)
  }

  function wake(): void {
    for (const { notify } of notifiers) notify()
  }

  function close(): void {
    isClosed = true
    stopListening()
    wake()
  }
}

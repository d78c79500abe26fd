/**
 * The lease under which this replica flies a question: kept alive by a heartbeat, taken late when the store was away at first,
 * given back when the flight is over. While the store is away it changes nothing: the flight goes on.
 */
import type { FlightLease } from '../parts.ts'
import type { Clock, Emit, Shared, SharedStore, Timer } from '../ports.ts'
import { type Mark, type Seal, writeMark } from './shared-flight-marks.ts'
import { acquire, land, renew } from './shared-flight-scripts.ts'

export interface LeasePorts {
  readonly store: Pick<SharedStore, 'run' | 'channelName'>
  readonly clock: Clock
  readonly emit: Emit
  readonly seal: Seal
}

export interface LeaseTimes {
  /** A holder that is not heard of for so long has lost its lease. */
  readonly leaseMs: number
  readonly heartbeatMs: number
}

/** One question in the store. */
export interface Names {
  readonly digest: string
  readonly keys: readonly [lease: string, record: string]
  readonly channel: string
}

/** Who flies: another one for each flight, so that a reply that got lost can be asked for again. */
export interface Pilot {
  readonly names: Names
  readonly scraper: string
  readonly owner: string
}

/** What an attempt to get the lease came to. Jobs and marks are sealed. */
export type Bid =
  | { readonly kind: 'leased'; readonly token: string; readonly from: string; readonly job: string }
  | { readonly kind: 'held'; readonly job: string }
  | { readonly kind: 'marked'; readonly token: string; readonly mark: string }

export interface OpenLease extends FlightLease {
  readonly isTurnedBack: boolean
  /** Null = another one may fly. Say it again when the store was away. */
  land(mark: Mark | null): Promise<'told' | 'away'>
  /** No heartbeat any more. */
  end(): void
}

/** How long the record is kept: longer than anybody waits; and when all is over, longer than they need to hear of it. */
const RECORD_MS = 60 * 60_000
const OVER_MS = 60_000
/** "It is answered" is true as long as the answer is kept; a failure is told to those who wait now, and no longer. */
const KEPT_MARK_MS = 60_000
export const FAILED_MARK_MS = 5_000
/** A question takes so long at most to the store. An answer that came meanwhile is its answer, a failure is not its failure. */
const ON_ITS_WAY_MS = 250

class TakenOver extends Error {
  override readonly name = 'TakenOver'
}

/** `sinceMs`: how long ago the question was asked, null = how an earlier flight ended does not matter. */
export async function bid(
  { store }: Pick<LeasePorts, 'store'>,
  { leaseMs, heartbeatMs }: LeaseTimes,
  { names, owner }: Pilot,
  sinceMs: number | null,
  ignoredToken: string,
): Promise<Shared<Bid>> {
  const overdueMs = Math.floor(leaseMs - 1.5 * heartbeatMs)
  const since = sinceMs === null ? -1 : Math.ceil(Math.max(0, sinceMs) + ON_ITS_WAY_MS)
  const said = await store.run(acquire, names.keys, [owner, leaseMs, overdueMs, since, ignoredToken, RECORD_MS])
  return said.kind === 'away' ? said : { kind: 'known', value: bidOf(said.value as readonly string[]) }
}

function bidOf([kind, first = '', second = '', third = '']: readonly string[]): Bid {
  if (kind === 'marked') return { kind, token: first, mark: second }
  if (kind === 'held') return { kind, job: first }
  return { kind: 'leased', token: first, from: second, job: third }
}

/** `token` null = the store is away, and may be back before the flight is over. `left` is the job to be taken up. */
export function openLease(
  ports: LeasePorts,
  times: LeaseTimes,
  pilot: Pilot,
  leased: { readonly token: string | null; readonly job: string | null },
): OpenLease {
  const { store, clock, emit, seal } = ports
  const { names, scraper, owner } = pilot
  let { job: left } = leased
  /** What the others shall know now, sealed; null = what they know already. */
  let job = left === null ? '' : seal.close(names.digest, left)
  let hasBegun = false
  let isLost = false
  let isOver = false
  let timer: Timer = clock.after(times.heartbeatMs, beat)

  const lease = { fence: leased.token, isTurnedBack: false, begin, submitted, land: tell, end }
  return lease

  async function begin(): Promise<string | null> {
    const takenUp = left
    left = null
    if (takenUp === null) job = ''
    const isFirst = !hasBegun
    hasBegun = true
    if (lease.fence !== null) await hold()
    if (isFirst && isLost) {
      lease.isTurnedBack = true
      throw new TakenOver('Another replica flies this question.')
    }
    return takenUp
  }

  async function submitted(submittedJob: string): Promise<void> {
    job = seal.close(names.digest, submittedJob)
    if (lease.fence !== null) await hold()
  }

  function beat(): void {
    void holdOrJoin().then(() => {
      if (!isOver && !isLost) timer = clock.after(times.heartbeatMs, beat)
    })
  }

  async function holdOrJoin(): Promise<void> {
    if (lease.fence === null) await join()
    if (lease.fence !== null) await hold()
  }

  /** The store was away when the flight began: whoever asks from now on need not fly as well. */
  async function join(): Promise<'away' | 'settled'> {
    const said = await bid(ports, times, pilot, null, '0')
    if (said.kind === 'away') return 'away'
    if (said.value.kind === 'leased') lease.fence = said.value.token
    return 'settled'
  }

  async function hold(): Promise<void> {
    if (isLost || isOver || lease.fence === null) return
    const state = hasBegun || job !== '' ? 'sent' : 'queued'
    const said = await store.run(renew, names.keys, [lease.fence, owner, times.leaseMs, state, job, RECORD_MS])
    if (said.kind === 'away' || said.value === 1 || isOver || isLost) return
    isLost = true
    emit({ kind: 'lease-lost', scraper })
  }

  async function tell(mark: Mark | null): Promise<'told' | 'away'> {
    if (isLost) return 'told'
    if (lease.fence === null) {
      if (mark === null) return 'told'
      if ((await join()) === 'away') return 'away'
      // Somebody else flies: they will tell.
      if (lease.fence === null) return 'told'
    }
    const sealed = mark ? seal.close(names.digest, writeMark(mark)) : ''
    const markMs = mark?.kind === 'kept' || mark?.kind === 'answered' ? KEPT_MARK_MS : FAILED_MARK_MS
    const agoMs = mark?.kind === 'failed' ? ON_ITS_WAY_MS : 0
    const leftJob = mark ? '' : job
    const channel = store.channelName(names.channel)
    const args = [lease.fence, sealed, markMs, agoMs, leftJob, OVER_MS, channel, names.digest]
    return (await store.run(land, names.keys, args)).kind === 'away' ? 'away' : 'told'
  }

  function end(): void {
    isOver = true
    timer.cancel()
  }
}

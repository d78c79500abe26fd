/**
 * The lease under which this process makes a call for all replicas. It belongs to the session: no heartbeat of its own keeps it, it is said
 * again when the store may have forgotten it, taken late when the store was away at first, and given back when the flight is over. While
 * the store is away it changes nothing: the flight goes on.
 */
import { luaScript } from '../lua.ts'
import type { FlightLease } from '../flights.ts'
import type { Emit, Shared, SharedStep, SharedStore } from '../ports.ts'
import type { Session } from '../session.ts'
import { type OutcomeRecord, type Signer, writeRecord } from './shared-flight-records.ts'

export interface LeasePorts {
  readonly store: Pick<SharedStore, 'run' | 'channelName'>
  readonly session: Pick<Session, 'isTrusted'>
  readonly emit: Emit
  readonly signer: Signer
}

/** One question in the store. */
export interface Names {
  readonly digest: string
  readonly keys: readonly [lease: string, record: string]
  readonly channel: string
}

/** One flight of this process. */
export interface Claimant {
  readonly names: Names
  readonly scraper: string
  /** Another one for each flight, so that a reply that got lost can be asked for again; it begins with the mark of the session, and changes with it. */
  readonly owner: () => string
}

/** What an attempt to get the lease came to. Jobs and marks are sealed. */
export type Acquired =
  | { readonly kind: 'leased'; readonly token: string; readonly from: string; readonly job: string }
  | { readonly kind: 'held'; readonly token: string; readonly owner: string; readonly job: string }
  | { readonly kind: 'marked'; readonly token: string; readonly mark: string }
  | { readonly kind: 'forgotten' }

export interface AcquireOptions {
  /** How long ago the question was asked; null = how an earlier flight ended does not matter. */
  readonly sinceMs: number | null
  /** Marks up to this token are of no use. */
  readonly ignoredToken?: string
  /** A process that is gone: its lease may be taken. */
  readonly gone?: string
  /** The newest lease that was seen: a store that does not know it has lost data. */
  readonly seenToken?: string
}

export interface OpenLease extends FlightLease {
  readonly isTurnedBack: boolean
  /** A reply was lost: the store may hold a lease of this owner. */
  readonly isUnsure: boolean
  /** Null = another process may make the call. Say it again when the store was away. */
  land(mark: OutcomeRecord | null): Promise<'told' | 'away'>
  /** What `land` says, to be said with the answer; null = the store may not know the lease. */
  ending(mark: OutcomeRecord): SharedStep | null
  /** Tells the store of the lease, which it may not know. */
  announce(): Promise<void>
  /** The flight is over. */
  end(): void
}

export const acquireScript = luaScript('flight-acquire.lua', import.meta.url, 2)
export const renewScript = luaScript('flight-renew.lua', import.meta.url, 2)
const releaseScript = luaScript('flight-release.lua', import.meta.url, 2)
export const landScript = luaScript('flight-land.lua', import.meta.url, 2)

/** Longer than any flight takes; and when it is over, longer than anybody needs to hear of it. */
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

export async function acquire(
  { store }: Pick<LeasePorts, 'store'>,
  { names, owner }: Claimant,
  { sinceMs, ignoredToken = '0', gone = '', seenToken = '0' }: AcquireOptions,
): Promise<Shared<Acquired>> {
  const since = sinceMs === null ? -1 : Math.ceil(Math.max(0, sinceMs) + ON_ITS_WAY_MS)
  const said = await store.run(acquireScript, names.keys, [owner(), RECORD_MS, since, ignoredToken, gone, seenToken])
  return said.kind === 'away' ? said : { kind: 'known', value: acquiredOf(said.value as readonly string[]) }
}

/** False = say it again: the store was away. */
export async function release({ store }: Pick<LeasePorts, 'store'>, { names, owner }: Claimant): Promise<boolean> {
  return (await store.run(releaseScript, names.keys, [owner()])).kind === 'known'
}

function acquiredOf([kind, first = '', second = '', third = '']: readonly string[]): Acquired {
  if (kind === 'marked') return { kind, token: first, mark: second }
  if (kind === 'held') return { kind, token: first, owner: second, job: third }
  if (kind === 'forgotten') return { kind }
  return { kind: 'leased', token: first, from: second, job: third }
}

/** `token` null = the store is away, and may be back before the flight is over. `left` is the job to be taken up. */
export function openLease(
  ports: LeasePorts,
  claimant: Claimant,
  leased: { readonly token: string | null; readonly job: string | null },
): OpenLease {
  const { store, session, emit, signer } = ports
  const { names, scraper, owner } = claimant
  let { job: left } = leased
  /** What the others shall know now, sealed; '' = nothing. */
  let job = left === null ? '' : signer.close(names.digest, left)
  let hasBegun = false
  let isLost = false
  let isOver = false
  let joining: Promise<'away' | 'settled'> | null = null

  const lease = {
    fence: leased.token,
    isTurnedBack: false,
    isUnsure: false,
    begin,
    submitted,
    announce,
    land,
    ending,
    end: () => void (isOver = true),
  }
  return lease

  async function begin(): Promise<string | null> {
    const takenUp = left
    left = null
    if (takenUp === null && job !== '') {
      job = ''
      await renew()
    } else if (!session.isTrusted()) await renew()
    const isFirst = !hasBegun
    hasBegun = true
    if (isFirst && isLost) {
      lease.isTurnedBack = true
      throw new TakenOver('Another replica makes this call.')
    }
    return takenUp
  }

  async function submitted(submittedJob: string): Promise<void> {
    job = signer.close(names.digest, submittedJob)
    await renew()
  }

  async function announce(): Promise<void> {
    if (isOver) return
    // Whoever asks from now on need not make the call as well.
    if (lease.fence === null) await join()
    else await renew()
  }

  /** The store was away when the flight began. Whoever ends the flight meanwhile waits for it. */
  function join(): Promise<'away' | 'settled'> {
    joining ??= joinNow().finally(() => (joining = null))
    return joining
  }

  async function joinNow(): Promise<'away' | 'settled'> {
    const said = await acquire(ports, claimant, { sinceMs: null })
    if (said.kind === 'away') {
      lease.isUnsure ||= said.sent
      return 'away'
    }
    if (said.value.kind !== 'leased') return 'settled'
    lease.fence = said.value.token
    if (job !== '') await renew()
    return 'settled'
  }

  async function renew(): Promise<void> {
    if (isLost || isOver || lease.fence === null) return
    const said = await store.run(renewScript, names.keys, [lease.fence, owner(), RECORD_MS, job])
    if (said.kind === 'away' || said.value === 1 || isOver || isLost) return
    isLost = true
    emit({ kind: 'lease-lost', scraper })
  }

  async function land(mark: OutcomeRecord | null): Promise<'told' | 'away'> {
    if (isLost) return 'told'
    if (lease.fence === null) {
      if (mark === null && !joining) return 'told'
      if ((await join()) === 'away') return 'away'
      // Another process makes the call: it will tell.
      if (lease.fence === null) return 'told'
    }
    const { script, keys, args } = landStep(ports, names, lease.fence, { mark, job })
    return (await store.run(script, keys, args)).kind === 'away' ? 'away' : 'told'
  }

  function ending(mark: OutcomeRecord): SharedStep | null {
    return isLost || lease.fence === null ? null : landStep(ports, names, lease.fence, { mark, job })
  }
}

function landStep(
  { store, signer }: Pick<LeasePorts, 'store' | 'signer'>,
  names: Names,
  fence: string,
  { mark, job }: { readonly mark: OutcomeRecord | null; readonly job: string },
): SharedStep {
  const sealed = mark ? signer.close(names.digest, writeRecord(mark)) : ''
  const markMs = mark?.kind === 'kept' || mark?.kind === 'answered' ? KEPT_MARK_MS : FAILED_MARK_MS
  const agoMs = mark?.kind === 'failed' ? ON_ITS_WAY_MS : 0
  const leftJob = mark ? '' : job
  const channel = store.channelName(names.channel)
  const args = [fence, sealed, markMs, agoMs, leftJob, OVER_MS, channel, names.digest]
  return { script: landScript, keys: names.keys, args }
}

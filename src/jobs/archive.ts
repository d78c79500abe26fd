/**
 * What is known of each job: whose it is, what it was asked, how it ended. Written down for as long as upstream keeps jobs; the
 * documents of those that have ended here are bounded in bytes, the oldest go first, and who owned them is known all the same.
 * What jobs are looked up by is the canonical form of their ids. Knows neither requests nor upstream.
 */
import type { Call, Charge } from '../model.ts'
import type { Clock, DiskRecord } from '../ports.ts'
import { type JobStore, KEPT_MS } from './store.ts'

export interface Job {
  /** As it was given out. */
  readonly id: string
  /** By name; null = nobody is known to have submitted it here. */
  readonly owner: string | null
  /** The question asked at once; null when it is not known, or not needed any more. */
  readonly question: Call | null
  readonly keyName: string | null
  readonly charge: Charge | null
  readonly createdAt: number
  /** The process that promised to end it; null = upstream does. */
  readonly promisedBy: string | null
  readonly status: 'pending' | 'done' | 'failed'
}

/** A job as it was found, and what is left to say about it when it has ended; null = nothing yet, or nothing any more. */
export interface Found {
  readonly job: Job
  readonly document: string | null
  readonly revision: string | null
}

export interface Archive {
  get(id: string): Promise<Found | null>
  /** To be put into the store, together with what else must be true at the same time. */
  opening(id: string, job: Omit<Job, 'status'>): readonly DiskRecord[]
  /** Only the first end of a job counts: true = this one. `until`: nobody may be given the document later. */
  end(id: string, found: Found, status: 'done' | 'failed', document: string, until: number): Promise<boolean>
  /** Promises that are not kept yet, whosever they are. */
  promised(): Promise<readonly Job[]>
  /** From now on this process will end it. False = somebody has ended it, or will. */
  promiseInstead(id: string, found: Found): Promise<boolean>
}

interface Kept extends Job {
  readonly document: string | null
  readonly until: number
  /** Two that tell the same end at the same time tell it apart. */
  readonly endedBy: string | null
}

const SPACE = 'job'
/** What is promised is found without reading all that has ended. */
const PROMISES = 'promise'
/** Upstream's clock may be behind ours: as long as it might know a job, we know whose it is. */
const SLACK_MS = 60 * 60 * 1_000

export function createArchive(store: JobStore, clock: Clock, processId: string, maxDocumentBytes: number): Archive {
  /** Bytes by id, the oldest first. */
  const documents = new Map<string, number>()
  let bytes = 0
  const counted = store.isShared ? Promise.resolve() : countAll()

  return { get, opening, end, promised, promiseInstead }

  async function get(id: string): Promise<Found | null> {
    const there = await store.get(SPACE, id)
    if (!there) return null
    const kept = there.value as Kept
    return { job: kept, document: clock.wall() < kept.until ? kept.document : null, revision: there.revision }
  }

  function opening(id: string, job: Omit<Job, 'status'>): readonly DiskRecord[] {
    const opened = record(id, { ...job, status: 'pending', document: null, until: 0, endedBy: null })
    return job.promisedBy === null ? [opened] : [opened, { ...opened, space: PROMISES, value: id }]
  }

  async function end(
    id: string,
    { job, revision }: Found,
    status: 'done' | 'failed',
    document: string,
    until: number,
  ): Promise<boolean> {
    await counted
    // The question holds the prompt: it is not kept longer than it is needed.
    const ended = record(id, { ...job, question: null, status, document, until, endedBy: processId })
    const kept = job.promisedBy === null ? [] : [{ ...ended, space: PROMISES, value: null }]
    const swapped = await store.swap(ended, revision, kept)
    if (swapped.kind !== 'written') return false
    count(id, document)
    await trim()
    return true
  }

  async function promised(): Promise<readonly Job[]> {
    const ids = await store.list(PROMISES)
    const found = await Promise.all(ids.map(([id]) => get(id)))
    return found.flatMap((one) => one?.job ?? [])
  }

  async function promiseInstead(id: string, { job, revision }: Found): Promise<boolean> {
    const mine = record(id, { ...job, promisedBy: processId, document: null, until: 0, endedBy: null })
    return (await store.swap(mine, revision)).kind === 'written'
  }

  function record(id: string, value: Kept): DiskRecord {
    return { space: SPACE, key: id, value, expiresAt: value.createdAt + KEPT_MS + SLACK_MS }
  }

  async function countAll(): Promise<void> {
    for (const [id, value] of await store.list(SPACE)) {
      const { document } = value as Kept
      if (document !== null) count(id, document)
    }
  }

  function count(id: string, text: string): void {
    const length = Buffer.byteLength(text)
    bytes += length - (documents.get(id) ?? 0)
    documents.set(id, length)
  }

  async function trim(): Promise<void> {
    for (const [id, length] of documents) {
      if (bytes <= maxDocumentBytes) return
      documents.delete(id)
      bytes -= length
      const there = await store.get(SPACE, id)
      if (there) await store.put([record(id, { ...(there.value as Kept), document: null })])
    }
  }
}

/**
 * What is known of each job: whose it is, what it was asked, how it ended. Written down for as long as upstream keeps jobs; the
 * documents of those that have ended are bounded in bytes, the oldest go first, and who owned them is known all the same.
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

export interface Archive {
  get(id: string): Job | null
  /** What is left to say about a job that has ended; null = nothing yet, or nothing any more. */
  document(id: string): string | null
  /** To be put into the store, together with what else must be true at the same time. */
  opening(id: string, job: Omit<Job, 'status'>): DiskRecord
  /** Only the first end of a job counts. `until`: nobody may be given the document later. */
  end(id: string, job: Job, status: 'done' | 'failed', document: string, until: number): void
  promised(): Iterable<Job>
}

interface Kept extends Job {
  readonly document: string | null
  readonly until: number
}

const SPACE = 'job'
/** Upstream's clock may be behind ours: as long as it might know a job, we know whose it is. */
const SLACK_MS = 60 * 60 * 1_000

export function createArchive(store: JobStore, clock: Clock, maxDocumentBytes: number): Archive {
  /** Bytes by id, the oldest first. */
  const documents = new Map<string, number>()
  let bytes = 0
  for (const [id, value] of store.list(SPACE)) count(id, (value as Kept).document)

  return { get, document, opening, end, promised }

  function get(id: string): Job | null {
    return kept(id)
  }

  function document(id: string): string | null {
    const job = kept(id)
    return job && clock.wall() < job.until ? job.document : null
  }

  function opening(id: string, job: Omit<Job, 'status'>): DiskRecord {
    return record(id, { ...job, status: 'pending', document: null, until: 0 })
  }

  function end(id: string, job: Job, status: 'done' | 'failed', text: string, until: number): void {
    // The question holds the prompt: it is not kept longer than it is needed.
    store.put([record(id, { ...job, question: null, status, document: text, until })])
    count(id, text)
    trim()
  }

  function* promised(): Iterable<Job> {
    for (const [, value] of store.list(SPACE)) if ((value as Kept).promisedBy !== null) yield value as Kept
  }

  function kept(id: string): Kept | null {
    return store.get(SPACE, id) as Kept | null
  }

  function record(id: string, value: Kept): DiskRecord {
    return { space: SPACE, key: id, value, expiresAt: value.createdAt + KEPT_MS + SLACK_MS }
  }

  function count(id: string, text: string | null): void {
    if (text === null) return
    const length = Buffer.byteLength(text)
    bytes += length - (documents.get(id) ?? 0)
    documents.set(id, length)
  }

  function trim(): void {
    for (const [id, length] of documents) {
      if (bytes <= maxDocumentBytes) return
      documents.delete(id)
      bytes -= length
      const job = kept(id)
      if (job) store.put([record(id, { ...job, document: null })])
    }
  }
}

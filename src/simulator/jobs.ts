// Async jobs: submitted and charged, pending, then done or failed; failed ones are refunded; all are forgotten after 24 h.
// A job's fate is fixed when it is submitted and looked up by the injected clock, so no timer runs for it.

import { isoOf, type Body } from './answers.ts'
import type { Books, LedgerEntry } from './ledger.ts'
import { matches, type Match } from './match.ts'
import type { Switches } from './switches.ts'

export type Outcome = 'done' | 'failed'

/** When a job ends: at a time, after so many polls answered "pending", or when it is released. */
export type Ending =
  | { readonly kind: 'at'; readonly at: number }
  | { readonly kind: 'polls'; readonly polls: number }
  | { readonly kind: 'release' }

export interface NewJob {
  readonly id: string
  readonly key: string
  readonly scraper: string
  readonly prompt: string
  readonly country: string
  readonly result: Body
  readonly entry: LedgerEntry
  readonly ending: Ending
  readonly outcome: Outcome
}

interface Job extends NewJob {
  readonly createdAt: number
  outcome: Outcome
  ending: Ending
  completedAt: number | null
}

export interface Jobs {
  readonly create: (job: NewJob) => void
  /** The document a poll gets, counting that poll; null for unknown and expired ids. */
  readonly poll: (id: string, says?: Outcome | 'pending') => Body | null
  readonly known: (id: string) => boolean
  readonly release: (match: Match) => number
  readonly clear: () => void
}

const RETENTION_MS = 24 * 60 * 60 * 1000

export function createJobs(now: () => number, ledger: Books, switches: () => Switches): Jobs {
  const jobs = new Map<string, Job>()

  function create(job: NewJob): void {
    const created: Job = { ...job, createdAt: now(), completedAt: null }
    jobs.set(job.id, created)
    // A refund comes when the job has failed, whether or not anybody polls it.
    if (job.ending.kind === 'at' && job.outcome === 'failed') refund(created, job.ending.at)
  }

  function poll(id: string, says?: Outcome | 'pending'): Body | null {
    const job = find(id)
    if (job === null) return null
    endInTime(job)
    if (says === 'done' || says === 'failed') finish(job, says)
    if (says === undefined) countPoll(job)
    return documentOf(job, says === 'pending' || job.completedAt === null, switches())
  }

  function endInTime(job: Job): void {
    if (job.completedAt === null && job.ending.kind === 'at' && now() >= job.ending.at) job.completedAt = job.ending.at
  }

  function countPoll(job: Job): void {
    const { ending } = job
    if (ending.kind !== 'polls') return
    if (ending.polls === 0) finish(job, job.outcome)
    else job.ending = { kind: 'polls', polls: ending.polls - 1 }
  }

  function finish(job: Job, outcome: Outcome): void {
    if (job.completedAt !== null) return
    job.completedAt = now()
    job.outcome = outcome
    refund(job, outcome === 'failed' ? job.completedAt : Infinity)
  }

  function refund(job: Job, failedAt: number): void {
    ledger.refundAt(job.entry, failedAt + switches().refundDelayMs)
  }

  function find(id: string): Job | null {
    const job = jobs.get(id)
    if (job === undefined) return null
    if (now() - job.createdAt <= RETENTION_MS) return job
    jobs.delete(id)
    return null
  }

  function release(match: Match): number {
    let released = 0
    for (const job of jobs.values()) {
      if (job.ending.kind !== 'release' || job.completedAt !== null) continue
      if (!matches({ ...job, jobId: job.id, call: 'submit', bypassCache: match.bypassCache ?? false }, match)) continue
      finish(job, job.outcome)
      released += 1
    }
    return released
  }

  return { create, poll, known: (id) => find(id) !== null, release, clear: () => jobs.clear() }
}

function documentOf(job: Job, pending: boolean, switches: Switches): Body {
  const head = { job_id: job.id, scraper: job.scraper }
  const created = { created_at: isoOf(job.createdAt) }
  if (pending) {
    const completed = switches.pendingCompletedAt === 'null' ? { completed_at: null } : {}
    return { ...head, status: 'pending', prompt: job.prompt, country: job.country, ...created, ...completed }
  }
  const times = { ...created, completed_at: isoOf(job.completedAt ?? job.createdAt) }
  if (job.outcome === 'failed') return { ...head, status: 'failed', error: 'execution failed', ...times }
  return { ...head, status: 'done', prompt: job.prompt, country: job.country, result: job.result, ...times }
}

/**
 * An attempt backed by a job: submitted, written down by its id, polled until it has ended. A process that dies meanwhile leaves
 * the id behind, and the same question asked again, of another replica or the next process, polls that job and submits nothing.
 * A replica that waits for this very flight gets the job with its lease; what nobody waits for is found in the store.
 *
 * Written down before the submission as well, so that one which a crash cut off is known: its fate is not. A job is polled to its
 * end even when nobody waits any more, because it is paid for. Polls are patient; only upstream's own word ends a job.
 */
import { hash } from 'node:crypto'
import type { Call, Charge, Reply, Verdict } from '../model.ts'
import type { Asked, Hold, Question, Upstream } from '../fetch-parts.ts'
import type { JobDialect, Profile } from '../parts.ts'
import type { Clock, DiskRecord, Random, Timer } from '../ports.ts'
import type { Session } from '../session.ts'
import { type JobStore, KEPT_MS } from './store.ts'

/** What the settings say of it. */
export interface DurablePolicy {
  readonly plain: Upstream
  /** `sync`: nothing new is submitted, but what an earlier process submitted is taken up. */
  readonly execution: 'sync' | 'durable'
}

export interface DurablePorts {
  readonly profile: Pick<Profile, 'classify' | 'jobs'>
  readonly store: JobStore
  readonly clock: Clock
  readonly random: Random
  /** Of this process. */
  readonly session: Pick<Session, 'id' | 'isLost'>
  /** The hold under which another process submitted, when another question takes up its job: that one pays then. */
  readonly adoptHold: (holdId: string) => Hold | null
}

export interface DurableUpstream {
  /** Attempts under these settings; the jobs are the same under all of them. */
  under(policy: DurablePolicy): Upstream
  /**
   * What dead processes left behind and nobody else has taken up: it is ours now, and told once. Asking the same takes up what is
   * `submitted`. To be called at start, and now and then where processes share the store.
   */
  orphaned(): Promise<OrphanedJobs>
  /** Polls no more; what is under way is left for others, and told. */
  close(): readonly UnfinishedJob[]
}

/** A question whose job goes on without us. */
export interface UnfinishedJob {
  readonly requestId: string
  readonly client: string
  readonly scraper: string
  readonly credits: number
}

export interface OrphanedJobs {
  readonly submitted: readonly DurableRecord[]
  /** Cut off while being submitted: may have been charged, and nothing will ever tell. They are forgotten with this call. */
  readonly lost: readonly DurableRecord[]
}

export interface DurableRecord {
  readonly cacheKey: string | null
  readonly call: Call
  /** By name, as is the key. */
  readonly client: string
  readonly keyName: string
  readonly holdId: string
  /** Null = being submitted. */
  readonly jobId: string | null
  readonly submittedAt: number
  /** It was answered, and its charge counted: kept a moment longer, until the answer itself is safe. */
  readonly isSettled: boolean
  readonly processId: string
}

const SPACE = 'durable'
const FIRST_POLL_MS = 1_000
const POLL_GROWTH = 1.5
const LONGEST_POLL_MS = 5_000
const LONGEST_PAUSE_MS = 30_000
/** Upstream tries three or four times for up to 600 s each (its documentation leaves it open): later a job is not pending but lost. */
const LONGEST_JOB_MS = 40 * 60_000
const SAFE_AFTER_MS = 5_000
/** One 404 may come from a machine that has not heard of the job yet. */
const BELIEVED = 3

/** As a lease passes it on. */
interface LeasedJob {
  readonly id: string
  readonly record: DurableRecord
}

/** Where a poll leaves us. */
type Polled =
  | { readonly kind: 'pending'; readonly waitMs: number }
  | { readonly kind: 'over'; readonly verdict: Verdict }

/** What the polls of a job have come to. Failures and 404s are counted in a row. */
interface PollCounts {
  rounds: number
  failures: number
  unknowns: number
}

class DurableJobs implements DurableUpstream {
  readonly #profile: Pick<Profile, 'classify' | 'jobs'>
  readonly #store: JobStore
  readonly #clock: Clock
  readonly #random: Random
  readonly #session: Pick<Session, 'id' | 'isLost'>
  readonly #adoptHold: (holdId: string) => Hold | null
  readonly #processId: string
  readonly #dialect: JobDialect
  /** Left behind by others, and ours now. */
  readonly #orphans = new Map<string, DurableRecord>()
  readonly #unreported: { submitted: DurableRecord[]; lost: DurableRecord[] } = { submitted: [], lost: [] }
  readonly #sleeping = new Set<Timer>()
  /** Jobs that are being followed, by the id of their record. */
  readonly #followed = new Map<string, Question>()
  #searched: Promise<void> | null = null
  #isClosed = false

  constructor(ports: DurablePorts) {
    const { profile, store, clock, random, session, adoptHold } = ports
    this.#profile = profile
    this.#store = store
    this.#clock = clock
    this.#random = random
    this.#session = session
    this.#adoptHold = adoptHold
    this.#dialect = profile.jobs
    const { id: processId } = session
    this.#processId = processId
  }

  readonly under = ({ plain, execution }: DurablePolicy): Upstream => {
    return {
      ask: async (question) => {
        if (question.call.endpoint !== 'answer') return plain.ask(question)
        await (this.#searched ??= this.#search())
        const mayBeLeft = question.takeover !== null || this.#orphans.size > 0
        const left = mayBeLeft ? ((await this.#fromLease(question)) ?? (await this.#adopt(question))) : null
        if (left) return this.#resume(plain, ...left, question)
        return execution === 'durable' ? this.#submit(plain, question) : plain.ask(question)
      },
    }
  }

  readonly orphaned = async (): Promise<OrphanedJobs> => {
    await (this.#searched = this.#search())
    return { submitted: this.#unreported.submitted.splice(0), lost: this.#unreported.lost.splice(0) }
  }

  readonly close = (): readonly UnfinishedJob[] => {
    this.#isClosed = true
    for (const timer of this.#sleeping) timer.cancel()
    this.#sleeping.clear()
    const left = Array.from(this.#followed.values(), ({ identity, client, call }) => ({
      requestId: identity.id,
      client: client.name,
      scraper: call.scraper,
      credits: call.priceCredits,
    }))
    this.#followed.clear()
    return left
  }

  async #submit(plain: Upstream, question: Question): Promise<Asked> {
    const id = this.#random.id()
    const record = this.#recordOf(question)
    await this.#write(id, record)
    const asked = await plain.ask({ ...question, call: this.#dialect.toSubmission(question.call) })
    const jobId = asked.verdict.kind === 'answered' ? this.#dialect.submittedId(asked.verdict.reply) : null
    if (jobId === null) {
      await this.#forget(id)
      return asked
    }
    const submitted = { ...record, jobId }
    await this.#announce(id, submitted, question)
    return this.#follow(plain, id, submitted, question, FIRST_POLL_MS)
  }

  async #resume(plain: Upstream, id: string, record: DurableRecord, question: Question): Promise<Asked> {
    const left = record.holdId === question.hold.id ? question.hold : this.#adoptHold(record.holdId)
    if (left !== question.hold && !(record.isSettled && this.#store.isShared)) left?.settle()
    // A hold that is still there has not been settled, whatever was written down just before a crash: its charge is counted now.
    const isSettled = record.isSettled && (this.#store.isShared || left === null)
    const mine = { ...record, processId: this.#processId, isSettled }
    await this.#announce(id, mine, question)
    return this.#follow(plain, id, mine, question, FIRST_POLL_MS * this.#random.next())
  }

  /** For the next process, and for those who wait for this flight. */
  async #announce(id: string, record: DurableRecord, { lease }: Question): Promise<void> {
    const job: LeasedJob = { id, record }
    await Promise.all([this.#write(id, record), lease.submitted(JSON.stringify(job))])
  }

  /** The job that came with the lease, as far as it has come by now. */
  async #fromLease({ takeover }: Question): Promise<[string, DurableRecord] | null> {
    if (takeover === null) return null
    const { id, record } = JSON.parse(takeover) as LeasedJob
    this.#orphans.delete(id)
    const there = await this.#store.get(SPACE, id)
    return [id, (there?.value as DurableRecord | undefined) ?? record]
  }

  async #follow(
    plain: Upstream,
    id: string,
    record: DurableRecord,
    question: Question,
    firstMs: number,
  ): Promise<Asked> {
    const poll = { ...question, call: this.#dialect.toPoll(record.jobId ?? '', question.call) }
    const counts: PollCounts = { rounds: 0, failures: 0, unknowns: 0 }
    this.#followed.set(id, question)
    await this.#sleep(firstMs)
    for (;;) {
      const { verdict } = await plain.ask(poll)
      count(counts, verdict)
      const polled = this.#judge(verdict, record, question, counts)
      if (polled.kind === 'over') return this.#over(id, record, polled.verdict)
      await this.#sleep(polled.waitMs)
    }
  }

  /** Only upstream's word ends a job: that it has ended, that it is unknown, or that it is pending when it cannot be any more. */
  #judge(verdict: Verdict, record: DurableRecord, question: Question, counts: PollCounts): Polled {
    const ageMs = this.#clock.wall() - record.submittedAt
    if (verdict.kind === 'answered') {
      const answer = this.#dialect.toAnswer(question.call, verdict.reply)
      if (answer) return { kind: 'over', verdict: this.#ending(question, answer) }
      if (ageMs >= LONGEST_JOB_MS) {
        const isPending = this.#dialect.read(verdict.reply)?.status === 'pending'
        // A document that nobody understands is all that will ever be known of a job that was paid for.
        return { kind: 'over', verdict: isPending ? lost(question.call) : this.#ending(question, verdict.reply) }
      }
      return { kind: 'pending', waitMs: this.#pauseMs(counts.rounds, LONGEST_POLL_MS) }
    }
    if (counts.unknowns >= BELIEVED || ageMs >= KEPT_MS) return { kind: 'over', verdict: lost(question.call) }
    const backoffMs = this.#pauseMs(counts.failures, LONGEST_PAUSE_MS)
    // A poll is free, and the job may be done long before upstream wants to be asked again.
    const askedMs = Math.min(verdict.retryAfterMs ?? 0, LONGEST_PAUSE_MS)
    return { kind: 'pending', waitMs: Math.max(backoffMs, askedMs) }
  }

  /**
   * What the job was done for, judged as if it had been asked at once; it was paid for when it was submitted. Upstream has tried a job that
   * failed three times already: it is submitted anew once at most.
   */
  #ending({ call, key }: Question, reply: Reply): Verdict {
    const verdict = this.#profile.classify(call, { kind: 'reply', reply }, key)
    if (verdict.kind === 'answered') return verdict
    if (verdict.charge.state === 'free') return { repeatable: 'once', ...verdict }
    return { ...verdict, charge: { state: 'charged', credits: verdict.charge.credits } }
  }

  async #over(id: string, record: DurableRecord, verdict: Verdict): Promise<Asked> {
    this.#followed.delete(id)
    const status = verdict.reply?.status ?? null
    const there = (await this.#store.get(SPACE, id))?.value as DurableRecord | undefined
    // This process was taken for dead: whoever has taken it up pays.
    if (there && there.processId !== this.#processId)
      return { verdict: { ...verdict, charge: paidBefore }, status, trouble: null }
    if (verdict.kind === 'failed') {
      await this.#forget(id)
      return { verdict, status, trouble: null }
    }
    // Until the answer is kept, the job is the only way back to it.
    await this.#write(id, { ...record, isSettled: true })
    void this.#sleep(SAFE_AFTER_MS).then(() => this.#forget(id))
    return { verdict: record.isSettled ? { ...verdict, charge: paidBefore } : verdict, status, trouble: null }
  }

  /** Who wants a fresh answer takes up only a job of somebody who did, too. */
  async #adopt({ call, client, cacheKey }: Question): Promise<[string, DurableRecord] | null> {
    const wanted = identityOf(cacheKey, call, client.name)
    for (const [id, record] of this.#orphans) {
      const isSame = identityOf(record.cacheKey, record.call, record.client) === wanted
      if (!isSame || (call.bypass && !record.call.bypass)) continue
      this.#orphans.delete(id)
      const there = (await this.#store.get(SPACE, id))?.value as DurableRecord | undefined
      // Another replica has got it with the lease.
      if (there?.processId === this.#processId) return [id, record]
    }
    return null
  }

  /** Of several that search at the same time one gets it. */
  async #search(): Promise<void> {
    const verdicts = new Map<string, Promise<boolean>>()
    for (const [id, value] of await this.#store.list(SPACE)) {
      const { processId: owner } = value as DurableRecord
      const isDead = verdicts.get(owner) ?? this.#session.isLost(owner)
      verdicts.set(owner, isDead)
      if (await isDead) await this.#claim(id, owner)
    }
  }

  async #claim(id: string, owner: string): Promise<void> {
    const there = await this.#store.get(SPACE, id)
    const record = there?.value as DurableRecord | undefined
    if (!there || record?.processId !== owner) return
    // Who wanted a fresh answer has got it: nobody else may be given it as theirs. What was being submitted is not heard of again.
    const isLost = record.jobId === null
    const isUseless = isLost || (record.isSettled && record.call.bypass)
    const mine = { ...record, processId: this.#processId }
    const swapped = await this.#store.swap(isUseless ? gone(id) : recorded(id, mine), there.revision)
    if (swapped.kind !== 'written') return
    if (isLost) this.#unreported.lost.push(record)
    if (isUseless) return
    this.#orphans.set(id, mine)
    this.#unreported.submitted.push(mine)
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      if (this.#isClosed) return
      const timer = this.#clock.after(ms, () => {
        this.#sleeping.delete(timer)
        resolve()
      })
      this.#sleeping.add(timer)
    })
  }

  /** Spread by a fifth, so that jobs submitted together are not polled together. */
  #pauseMs(round: number, longestMs: number): number {
    return Math.min(longestMs, FIRST_POLL_MS * POLL_GROWTH ** round) * (0.8 + 0.4 * this.#random.next())
  }

  #recordOf({ cacheKey, call, client, key, hold }: Question): DurableRecord {
    const submittedAt = this.#clock.wall()
    return {
      cacheKey,
      call,
      client: client.name,
      keyName: key.name,
      holdId: hold.id,
      jobId: null,
      submittedAt,
      isSettled: false,
      processId: this.#processId,
    }
  }

  #write(id: string, record: DurableRecord): Promise<void> {
    return this.#store.put([recorded(id, record)])
  }

  #forget(id: string): Promise<void> {
    return this.#store.put([gone(id)])
  }
}

export function createDurableUpstream(ports: DurablePorts): DurableUpstream {
  return new DurableJobs(ports)
}

function recorded(id: string, record: DurableRecord): DiskRecord {
  return { space: SPACE, key: id, value: record, expiresAt: record.submittedAt + KEPT_MS }
}

function gone(id: string): DiskRecord {
  return { space: SPACE, key: id, value: null, expiresAt: null }
}

function count(counts: PollCounts, verdict: Verdict): void {
  counts.rounds += 1
  counts.failures = verdict.kind === 'answered' ? 0 : counts.failures + 1
  counts.unknowns = verdict.reply?.status === 404 ? counts.unknowns + 1 : 0
}

const paidBefore: Charge = { state: 'free', credits: 0 }

/** Where the answer is kept; what is kept nowhere is the same for the same client only. */
function identityOf(cacheKey: string | null, { path, params }: Call, client: string): string {
  if (cacheKey !== null) return cacheKey
  const ordered = params.toSorted(([a], [b]) => (a < b ? -1 : 1))
  return hash('sha256', JSON.stringify([client, path, ordered]), 'hex')
}

function lost({ priceCredits }: Call): Verdict {
  return {
    kind: 'failed',
    class: 'ambiguous',
    fault: 'upstream',
    reply: null,
    refusal: 'UPSTREAM_UNREACHABLE',
    charge: { state: 'unknown', credits: priceCredits },
    health: 'neutral',
    retryAfterMs: null,
  }
}

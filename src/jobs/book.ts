/**
 * The book of jobs: who submitted what, what is remembered of it, and what we promised ourselves. A submission and a poll take
 * their way through here; what is known is not asked again, and a job is nobody's business but its owner's.
 *
 * Jobs that callers without a token submitted are everybody's, and so are those that nobody is known to have submitted. Ids
 * are secrets: none is told to telemetry.
 */
import type { Call, Client, Landing, Outcome, ProxyRequest, Reply, Verdict } from '../model.ts'
import type { JobState, Jobs, KeyLease, OwnJob, Profile, PromisedAnswer, Through } from '../parts.ts'
import type { Clock, DiskRecord, Emit, Random } from '../ports.ts'
import { type Archive, createArchive, type Job } from './archive.ts'
import { createIdempotency } from './idempotency.ts'
import { type JobStore, KEPT_MS } from './store.ts'

export interface JobPorts {
  readonly profile: Pick<Profile, 'classify' | 'jobs'>
  readonly store: JobStore
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
  /** A job is done, and with it the question asked at once is answered. */
  readonly fill: (answer: JobAnswer) => void
  /** Credits that upstream has given back, and when they were spent. */
  readonly refund: (client: string, credits: number, spentAt: number) => void
  /** The same for all that share this process, another one after a restart. */
  readonly processId: string
  readonly maxDocumentBytes?: number
}

export interface JobAnswer {
  /** Who paid for it, by name. */
  readonly client: string
  readonly call: Call
  readonly verdict: Verdict
  /** How long ago it was answered. */
  readonly ageMs: number
}

type Forward = Parameters<Jobs['follow']>[3]

const ANONYMOUS = 'anonymous'
const PENDING_MS = 1_000
const MAX_PENDING = 10_000
const MAX_DOCUMENT_BYTES = 64 * 1_048_576
const INTERRUPTED = 'interrupted by a restart of the proxy'
const noKey: KeyLease = { name: 'none', secret: null, report: () => {} }

export function createJobs(ports: JobPorts): Jobs {
  const { profile, store, clock, random, emit, fill, refund, processId } = ports
  const dialect = profile.jobs
  const archive: Archive = createArchive(store, clock, ports.maxDocumentBytes ?? MAX_DOCUMENT_BYTES)
  const idempotency = createIdempotency({ store, clock, processId })
  /** Documents of jobs that were pending a moment ago. */
  const pending = new Map<string, { readonly reply: Reply; readonly until: number }>()
  /** Promises of an earlier process that this one keeps. */
  const resumed = new Set<string>()

  return { follow, promise, interrupted, resume }

  async function follow(request: ProxyRequest, client: Client, call: Call, forward: Forward): Promise<Outcome> {
    return call.endpoint === 'submit' ? submit(request, client, call, forward) : poll(client, call, forward)
  }

  // Submissions

  async function submit(request: ProxyRequest, client: Client, call: Call, forward: Forward): Promise<Outcome> {
    const accepted = (landing: Landing): readonly DiskRecord[] => opened(client, call, landing)
    const { idempotencyKey } = request
    if (idempotencyKey !== null) {
      const submission = { request, client, call, idempotencyKey }
      return idempotency.once(submission, (through) => forward(null, through), accepted)
    }
    return forward(
      null,
      noting((landing) => store.put(accepted(landing))),
    )
  }

  function opened({ name }: Client, call: Call, { verdict, attempts }: Landing): readonly DiskRecord[] {
    const id = verdict.kind === 'answered' ? dialect.submittedId(verdict.reply) : null
    if (id === null) return []
    return [
      archive.opening(dialect.canonicalId(id), {
        id,
        owner: name,
        question: dialect.toQuestion(call),
        keyName: attempts.at(-1)?.keyName ?? null,
        charge: verdict.charge,
        createdAt: clock.wall(),
        promisedBy: null,
      }),
    ]
  }

  // Polls

  async function poll(client: Client, call: Call, forward: Forward): Promise<Outcome> {
    const id = dialect.idOf(call)
    const job = archive.get(id)
    if (job && !mayRead(job, client)) return told(dialect.unknown)
    const known = remembered(id, job)
    if (known) return told(known)
    return forward(
      `job/${id}`,
      noting(({ verdict }) => {
        if (verdict.kind === 'answered') note(id, verdict.reply)
      }),
    )
  }

  function remembered(id: string, job: Job | null): Reply | null {
    const recent = pending.get(id)
    if (recent && clock.now() < recent.until) return recent.reply
    pending.delete(id)
    const document = archive.document(id)
    if (document !== null) return documentReply(document)
    return job && job.promisedBy !== null ? own(job) : null
  }

  function note(id: string, reply: Reply): void {
    const state = dialect.read(reply)
    if (!state) return
    if (state.status === 'pending') return notePending(id, reply)
    const job = archive.get(id) ?? stranger(id)
    if (job.status === 'pending') ended(id, job, state, state.status, reply)
  }

  function notePending(id: string, reply: Reply): void {
    const nowMs = clock.now()
    pending.delete(id)
    for (const [oldest, { until }] of pending) {
      if (nowMs < until && pending.size < MAX_PENDING) break
      pending.delete(oldest)
    }
    pending.set(id, { reply, until: nowMs + PENDING_MS })
  }

  /** Once per job. */
  function ended(id: string, job: Job, state: JobState, status: 'done' | 'failed', reply: Reply): void {
    const wallMs = clock.wall()
    const createdAt = Math.min(state.createdAt ?? job.createdAt, wallMs)
    archive.end(id, job, status, reply.body.toString(), createdAt + KEPT_MS)
    const { owner, question } = job
    if (owner === null || question === null) return
    if (status === 'failed') return refunded(job, owner, question.scraper)
    const answer = dialect.toAnswer(question, reply)
    if (!answer) return
    const ageMs = Math.max(0, wallMs - (state.completedAt ?? wallMs))
    const verdict = profile.classify(question, { kind: 'reply', reply: answer }, noKey)
    if (verdict.kind === 'answered') fill({ client: owner, call: question, verdict, ageMs })
  }

  function refunded({ charge, keyName, createdAt }: Job, payer: string, scraper: string): void {
    if (charge?.state !== 'charged') return
    refund(payer, charge.credits, createdAt)
    emit({ kind: 'job-refunded', payer, scraper, key: keyName ?? noKey.name, credits: charge.credits })
  }

  function stranger(id: string): Job {
    return {
      id,
      owner: null,
      question: null,
      keyName: null,
      charge: null,
      createdAt: clock.wall(),
      promisedBy: null,
      status: 'pending',
    }
  }

  // Promises

  function promise(client: Client, call: Call, landing: Promise<Landing | null>): Outcome {
    const id = random.id()
    const createdAt = clock.wall()
    const job = {
      id,
      owner: client.name,
      question: call,
      keyName: null,
      charge: null,
      createdAt,
      promisedBy: processId,
    }
    store.put([archive.opening(dialect.canonicalId(id), job)])
    void keep(id, landing)
    return told(dialect.write({ id, question: call, createdAt, state: { kind: 'accepted' } }))
  }

  function interrupted(): readonly PromisedAnswer[] {
    return Array.from(archive.promised())
      .filter(isInterrupted)
      .flatMap(({ id, owner, question }) => (owner && question ? [{ id, client: owner, call: question }] : []))
  }

  function resume(id: string, landing: Promise<Landing | null>): void {
    resumed.add(id)
    void keep(id, landing)
  }

  async function keep(id: string, landing: Promise<Landing | null>): Promise<void> {
    const landed = await landing.catch(() => null)
    const verdict = landed?.verdict
    end(id, verdict?.kind === 'answered' ? verdict.reply.body : null, null)
  }

  function end(id: string, answer: Buffer | null, error: string | null): void {
    const canonical = dialect.canonicalId(id)
    const job = archive.get(canonical)
    // What has ended stays ended, and has no question any more.
    if (!job?.question) return
    const completedAt = clock.wall()
    const state: OwnJob['state'] = answer
      ? { kind: 'done', completedAt, answer }
      : { kind: 'failed', completedAt, error }
    const { body } = dialect.write({ id, question: job.question, createdAt: job.createdAt, state })
    archive.end(canonical, job, answer ? 'done' : 'failed', body.toString(), job.createdAt + KEPT_MS)
  }

  /** Upstream does not know it, and is not asked. */
  function own(job: Job): Reply {
    const { id, question, createdAt } = job
    if (job.status !== 'pending' || !question || clock.wall() >= createdAt + KEPT_MS) return dialect.unknown
    if (!isInterrupted(job)) return dialect.write({ id, question, createdAt, state: { kind: 'pending' } })
    end(id, null, INTERRUPTED)
    const document = archive.document(dialect.canonicalId(id))
    return document === null ? dialect.unknown : documentReply(document)
  }

  function isInterrupted({ id, status, promisedBy }: Job): boolean {
    return status === 'pending' && promisedBy !== null && promisedBy !== processId && !resumed.has(id)
  }
}

function mayRead({ owner }: Job, client: Client): boolean {
  return owner === null || owner === ANONYMOUS || owner === client.name
}

/** What a landing tells is remembered before anybody gets it. */
function noting(note: (landing: Landing) => void): Through {
  return async (flight) => {
    const landing = await flight
    note(landing)
    return landing
  }
}

function told(reply: Reply): Outcome {
  return { kind: 'job', reply, idempotentReplay: false }
}

function documentReply(text: string): Reply {
  return { status: 200, contentType: 'application/json', retryAfter: null, location: null, body: Buffer.from(text) }
}

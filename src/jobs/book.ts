/**
 * The book of jobs: who submitted what, what is remembered of it, and what we promised ourselves. A submission and a poll take
 * their way through here; what is known is not asked again, and a job is nobody's business but its owner's.
 *
 * Jobs that callers without a token submitted are everybody's, and so are those that nobody is known to have submitted. Ids
 * are secrets: none is told to telemetry.
 */
import { hash } from 'node:crypto'
import type { Call, Client, Landing, Outcome, ProxyRequest, Reply, Verdict } from '../model.ts'
import type { Budget, JobReply, JobState, Jobs, KeyLease, OwnJob, Profile, PromisedAnswer, Through } from '../parts.ts'
import type { Clock, DiskRecord, Emit, Random } from '../ports.ts'
import { type Archive, createArchive, type Found, type Job } from './archive.ts'
import { createIdempotency } from './idempotency.ts'
import { type PromiseEnd, promiseEnd } from './promise-end.ts'
import type { Session } from '../session.ts'
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
  readonly refund: Budget['refund']
  /** Of this process. */
  readonly session: Pick<Session, 'id' | 'isLost' | 'isGone'>
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

export interface JobBook extends Jobs {
  /** What is promised and not kept by now is left to the next process. */
  close(): void
}

export function createJobs(ports: JobPorts): JobBook {
  const { profile, store, clock, random, emit, fill, refund, session } = ports
  const dialect = profile.jobs
  const archive: Archive = createArchive(store, clock, session.id, ports.maxDocumentBytes ?? MAX_DOCUMENT_BYTES)
  const idempotency = createIdempotency({
    questionKey: (call) => dialect.toQuestion(call).key,
    store,
    clock,
    random,
    session,
  })
  /** Documents of jobs that were pending a moment ago. */
  const pending = new Map<string, { readonly reply: Reply; readonly until: number }>()

  /** So that nobody can tell for which job an unknown id stands. */
  const unknownIds = random.id()
  let isClosed = false

  return { follow, promise, interrupted, resume, close: () => void (isClosed = true) }

  async function follow(request: ProxyRequest, client: Client, call: Call, forward: Forward): Promise<Outcome> {
    return call.endpoint === 'submit' ? submit(request, client, call, forward) : poll(client, call, forward)
  }

  // Submissions

  async function submit(request: ProxyRequest, client: Client, call: Call, forward: Forward): Promise<Outcome> {
    const accepted = (landing: Landing): readonly DiskRecord[] => opened(client, call, landing)
    const { idempotencyKey } = request
    if (idempotencyKey !== null) {
      const submission = { request, client, call, idempotencyKey }
      return idempotency.once(submission, (through) => forward(call, null, through), accepted)
    }
    return forward(
      call,
      null,
      noting((landing) => store.put(accepted(landing))),
    )
  }

  function opened({ name }: Client, call: Call, { verdict, attempts }: Landing): readonly DiskRecord[] {
    const id = verdict.kind === 'answered' ? dialect.submittedId(verdict.reply) : null
    if (id === null) return []
    return archive.opening(dialect.canonicalId(id), {
      id,
      owner: name,
      question: dialect.toQuestion(call),
      keyName: attempts.at(-1)?.keyName ?? null,
      charge: verdict.charge,
      createdAt: clock.wall(),
      promisedBy: null,
    })
  }

  // Polls

  async function poll(client: Client, call: Call, forward: Forward): Promise<Outcome> {
    const id = dialect.idOf(call)
    const found = await archive.get(id)
    if (found && !mayRead(found.job, client)) return pollUnknown(id, call, forward)
    const known = await remembered(id, found)
    if (known) return told(known)
    return forward(
      call,
      `job/${id}`,
      noting(async ({ verdict }) => {
        if (verdict.kind === 'answered') await note(id, verdict.reply)
      }),
    )
  }

  /**
   * Another client's job must look like one that nobody knows, in every header, in the body and in how long it takes: so upstream is
   * asked for an id that it does not know. Always the same one, because polls of one unknown job join each other as well.
   */
  async function pollUnknown(id: string, call: Call, forward: Forward): Promise<Outcome> {
    const digits = hash('sha256', `${unknownIds}/${id}`, 'hex')
    const unknownId = digits.replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12}).*$/, '$1-$2-4$3-8$4-$5')
    const outcome = await forward(dialect.toPoll(unknownId, call), `job/${dialect.canonicalId(unknownId)}`, straight)
    const isKnown = outcome.kind === 'fetched' && outcome.landing.verdict.kind === 'answered'
    return isKnown ? told(dialect.unknown) : outcome
  }

  async function remembered(id: string, found: Found | null): Promise<Reply | null> {
    if (found && found.document !== null) return documentReply(found.document)
    const recent = pending.get(id)
    if (recent && clock.now() < recent.until) return recent.reply
    pending.delete(id)
    return found && found.job.promisedBy !== null ? own(found) : null
  }

  async function note(id: string, reply: Reply): Promise<void> {
    const state = dialect.read(reply)
    if (!state) return
    if (state.status === 'pending') return notePending(id, reply)
    const found = (await archive.get(id)) ?? stranger(id)
    if (found.job.status === 'pending') await ended(id, found, state, state.status, reply)
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
  async function ended(
    id: string,
    found: Found,
    state: JobState,
    status: 'done' | 'failed',
    reply: Reply,
  ): Promise<void> {
    const { job } = found
    const wallMs = clock.wall()
    const createdAt = Math.min(state.createdAt ?? job.createdAt, wallMs)
    const isFirst = await archive.end(id, found, status, reply.body.toString(), createdAt + KEPT_MS)
    const { owner, question } = job
    if (!isFirst || owner === null || question === null) return
    if (status === 'failed') return refunded(job, owner, question.scraper)
    const answer = dialect.toAnswer(question, reply)
    if (!answer) return
    const ageMs = Math.max(0, wallMs - (state.completedAt ?? wallMs))
    const verdict = profile.classify(question, { kind: 'reply', reply: answer }, noKey)
    if (verdict.kind === 'answered' && verdict.keepable) fill({ client: owner, call: question, verdict, ageMs })
  }

  function refunded({ charge, keyName, createdAt }: Job, payer: string, scraper: string): void {
    if (charge?.state !== 'charged') return
    const key = keyName ?? noKey.name
    refund(payer, charge.credits, createdAt, { scraper, key })
    emit({ kind: 'job-refunded', payer, scraper, key, credits: charge.credits })
  }

  function stranger(id: string): Found {
    const job: Job = {
      id,
      owner: null,
      question: null,
      keyName: null,
      charge: null,
      createdAt: clock.wall(),
      promisedBy: null,
      status: 'pending',
    }
    return { job, document: null, revision: null }
  }

  // Promises

  async function promise(client: Client, call: Call, landing: Promise<Landing | null>): Promise<JobReply> {
    // It may come to nothing before the promise is written down.
    const ended = promiseEnd(landing, dialect)
    const id = random.id()
    const createdAt = clock.wall()
    const job = {
      id,
      owner: client.name,
      question: call,
      keyName: null,
      charge: null,
      createdAt,
      promisedBy: session.id,
    }
    await store.put(archive.opening(dialect.canonicalId(id), job))
    void keep(id, ended)
    return told(dialect.write({ id, question: call, createdAt, state: { kind: 'accepted' } }))
  }

  async function interrupted(): Promise<readonly PromisedAnswer[]> {
    const left: PromisedAnswer[] = []
    for (const { id, owner, question, status, promisedBy } of await archive.promised()) {
      if (status !== 'pending' || promisedBy === null || !owner || !question) continue
      if (await session.isLost(promisedBy)) left.push({ id, client: owner, call: question })
    }
    return left
  }

  async function resume(id: string, landing: Promise<Landing | null>): Promise<void> {
    const ended = promiseEnd(landing, dialect)
    const canonical = dialect.canonicalId(id)
    const found = await archive.get(canonical)
    if (found?.job.status !== 'pending' || !(await archive.promiseInstead(canonical, found))) return
    void keep(id, ended)
  }

  async function keep(id: string, landing: Promise<PromiseEnd>): Promise<void> {
    const ended = await landing
    if (isClosed && ended.answer === null) return
    await end(id, ended)
  }

  async function end(id: string, { answer, error }: PromiseEnd): Promise<void> {
    const canonical = dialect.canonicalId(id)
    const found = await archive.get(canonical)
    // What has ended stays ended, and has no question any more.
    if (!found?.job.question) return
    const { question, createdAt } = found.job
    const completedAt = clock.wall()
    const state: OwnJob['state'] = answer
      ? { kind: 'done', completedAt, answer }
      : { kind: 'failed', completedAt, error }
    const { body } = dialect.write({ id, question, createdAt, state })
    await archive.end(canonical, found, answer ? 'done' : 'failed', body.toString(), createdAt + KEPT_MS)
  }

  /** Upstream does not know it, and is not asked. */
  async function own({ job }: Found): Promise<Reply> {
    const { id, question, createdAt, promisedBy } = job
    if (job.status !== 'pending' || !question || clock.wall() >= createdAt + KEPT_MS) return dialect.unknown
    // Others may be about to take up what a dead process has left behind.
    const isLost = promisedBy !== null && (await session.isGone(promisedBy))
    if (!isLost) return dialect.write({ id, question, createdAt, state: { kind: 'pending' } })
    await end(id, { answer: null, error: INTERRUPTED })
    const document = (await archive.get(dialect.canonicalId(id)))?.document ?? null
    return document === null ? dialect.unknown : documentReply(document)
  }
}

function mayRead({ owner }: Job, client: Client): boolean {
  return owner === null || owner === ANONYMOUS || owner === client.name
}

const straight: Through = (flight) => flight

/** What a landing tells is remembered before anybody gets it. */
function noting(note: (landing: Landing) => Promise<void>): Through {
  return async (flight) => {
    const landing = await flight
    await note(landing)
    return landing
  }
}

function told(reply: Reply): JobReply {
  return { kind: 'job', reply, idempotentReplay: false }
}

function documentReply(text: string): Reply {
  return { status: 200, contentType: 'application/json', retryAfter: null, location: null, body: Buffer.from(text) }
}

/**
 * The book of jobs: who submitted what, what is remembered of it, and what we promised ourselves. A submission and a poll take
 * their way through here; what is known is not asked again, and a job is nobody's business but its owner's.
 *
 * Jobs that callers without a token submitted are everybody's, and so are those that nobody is known to have submitted. Ids
 * are secrets: none is told to telemetry.
 */
import { hash } from 'node:crypto'
import type { Call, Client, Landing, Outcome, ProxyRequest, Reply, Verdict } from '../model.ts'
import type { KeyLease } from '../fetch-parts.ts'
import type {
  Budget,
  JobDialect,
  JobReply,
  JobState,
  Jobs,
  OwnJob,
  Profile,
  PromisedAnswer,
  Through,
} from '../parts.ts'
import type { Clock, DiskRecord, Emit, Random } from '../ports.ts'
import { type Archive, createArchive, type Found, type Job } from './archive.ts'
import { type Idempotency, createIdempotency } from './idempotency.ts'
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

class JobRegister implements JobBook {
  readonly #profile: Pick<Profile, 'classify' | 'jobs'>
  readonly #store: JobStore
  readonly #clock: Clock
  readonly #random: Random
  readonly #emit: Emit
  readonly #fill: (answer: JobAnswer) => void
  readonly #refund: Budget['refund']
  readonly #session: Pick<Session, 'id' | 'isLost' | 'isGone'>
  readonly #dialect: JobDialect
  readonly #archive: Archive
  readonly #idempotency: Idempotency
  /** Documents of jobs that were pending a moment ago. */
  readonly #pending = new Map<string, { readonly reply: Reply; readonly until: number }>()
  /** So that nobody can tell for which job an unknown id stands. */
  readonly #unknownIds: string
  #isClosed = false

  constructor(ports: JobPorts) {
    const { profile, store, clock, random, emit, fill, refund, session } = ports
    this.#profile = profile
    this.#store = store
    this.#clock = clock
    this.#random = random
    this.#emit = emit
    this.#fill = fill
    this.#refund = refund
    this.#session = session
    this.#dialect = profile.jobs
    this.#archive = createArchive(store, clock, session.id, ports.maxDocumentBytes ?? MAX_DOCUMENT_BYTES)
    this.#idempotency = createIdempotency({
      questionKey: (call) => this.#dialect.toQuestion(call).key,
      store,
      clock,
      random,
      session,
    })
    this.#unknownIds = random.id()
  }

  readonly follow = async (request: ProxyRequest, client: Client, call: Call, forward: Forward): Promise<Outcome> => {
    return call.endpoint === 'submit' ? this.#submit(request, client, call, forward) : this.#poll(client, call, forward)
  }

  // Promises

  readonly promise = async (client: Client, call: Call, landing: Promise<Landing | null>): Promise<JobReply> => {
    // It may come to nothing before the promise is written down.
    const ended = promiseEnd(landing, this.#dialect)
    const id = this.#random.id()
    const createdAt = this.#clock.wall()
    const job = {
      id,
      owner: client.name,
      question: call,
      keyName: null,
      charge: null,
      createdAt,
      promisedBy: this.#session.id,
    }
    await this.#store.put(this.#archive.opening(this.#dialect.canonicalId(id), job))
    void this.#keep(id, ended)
    return told(this.#dialect.write({ id, question: call, createdAt, state: { kind: 'accepted' } }))
  }

  readonly interrupted = async (): Promise<readonly PromisedAnswer[]> => {
    const left: PromisedAnswer[] = []
    for (const { id, owner, question, status, promisedBy } of await this.#archive.promised()) {
      if (status !== 'pending' || promisedBy === null || !owner || !question) continue
      if (await this.#session.isLost(promisedBy)) left.push({ id, client: owner, call: question })
    }
    return left
  }

  readonly resume = async (id: string, landing: Promise<Landing | null>): Promise<void> => {
    const ended = promiseEnd(landing, this.#dialect)
    const canonical = this.#dialect.canonicalId(id)
    const found = await this.#archive.get(canonical)
    if (found?.job.status !== 'pending' || !(await this.#archive.promiseInstead(canonical, found))) return
    void this.#keep(id, ended)
  }

  readonly close: JobBook['close'] = () => void (this.#isClosed = true)

  // Submissions

  async #submit(request: ProxyRequest, client: Client, call: Call, forward: Forward): Promise<Outcome> {
    const accepted = (landing: Landing): readonly DiskRecord[] => this.#opened(client, call, landing)
    const { idempotencyKey } = request
    if (idempotencyKey !== null) {
      const submission = { request, client, call, idempotencyKey }
      return this.#idempotency.once(submission, (through) => forward(call, null, through), accepted)
    }
    return forward(
      call,
      null,
      noting((landing) => this.#store.put(accepted(landing))),
    )
  }

  #opened({ name }: Client, call: Call, { verdict, attempts }: Landing): readonly DiskRecord[] {
    const id = verdict.kind === 'answered' ? this.#dialect.submittedId(verdict.reply) : null
    if (id === null) return []
    return this.#archive.opening(this.#dialect.canonicalId(id), {
      id,
      owner: name,
      question: this.#dialect.toQuestion(call),
      keyName: attempts.at(-1)?.keyName ?? null,
      charge: verdict.charge,
      createdAt: this.#clock.wall(),
      promisedBy: null,
    })
  }

  // Polls

  async #poll(client: Client, call: Call, forward: Forward): Promise<Outcome> {
    const id = this.#dialect.idOf(call)
    const found = await this.#archive.get(id)
    if (found && !mayRead(found.job, client)) return this.#pollUnknown(id, call, forward)
    const known = await this.#remembered(id, found)
    if (known) return told(known)
    return forward(
      call,
      `job/${id}`,
      noting(async ({ verdict }) => {
        if (verdict.kind === 'answered') await this.#note(id, verdict.reply)
      }),
    )
  }

  /**
   * Another client's job must look like one that nobody knows, in every header, in the body and in how long it takes: so upstream is
   * asked for an id that it does not know. Always the same one, because polls of one unknown job join each other as well.
   */
  async #pollUnknown(id: string, call: Call, forward: Forward): Promise<Outcome> {
    const digits = hash('sha256', `${this.#unknownIds}/${id}`, 'hex')
    const unknownId = digits.replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12}).*$/, '$1-$2-4$3-8$4-$5')
    const outcome = await forward(
      this.#dialect.toPoll(unknownId, call),
      `job/${this.#dialect.canonicalId(unknownId)}`,
      straight,
    )
    const isKnown = outcome.kind === 'fetched' && outcome.landing.verdict.kind === 'answered'
    return isKnown ? told(this.#dialect.unknown) : outcome
  }

  async #remembered(id: string, found: Found | null): Promise<Reply | null> {
    if (found && found.document !== null) return documentReply(found.document)
    const recent = this.#pending.get(id)
    if (recent && this.#clock.now() < recent.until) return recent.reply
    this.#pending.delete(id)
    return found && found.job.promisedBy !== null ? this.#own(found) : null
  }

  async #note(id: string, reply: Reply): Promise<void> {
    const state = this.#dialect.read(reply)
    if (!state) return
    if (state.status === 'pending') return this.#notePending(id, reply)
    const found = (await this.#archive.get(id)) ?? this.#stranger(id)
    if (found.job.status === 'pending') await this.#ended(id, found, state, state.status, reply)
  }

  #notePending(id: string, reply: Reply): void {
    const nowMs = this.#clock.now()
    this.#pending.delete(id)
    for (const [oldest, { until }] of this.#pending) {
      if (nowMs < until && this.#pending.size < MAX_PENDING) break
      this.#pending.delete(oldest)
    }
    this.#pending.set(id, { reply, until: nowMs + PENDING_MS })
  }

  /** Once per job. */
  async #ended(id: string, found: Found, state: JobState, status: 'done' | 'failed', reply: Reply): Promise<void> {
    const { job } = found
    const wallMs = this.#clock.wall()
    const createdAt = Math.min(state.createdAt ?? job.createdAt, wallMs)
    const isFirst = await this.#archive.end(id, found, status, reply.body.toString(), createdAt + KEPT_MS)
    const { owner, question } = job
    if (!isFirst || owner === null || question === null) return
    if (status === 'failed') return this.#refunded(job, owner, question.scraper)
    const answer = this.#dialect.toAnswer(question, reply)
    if (!answer) return
    const ageMs = Math.max(0, wallMs - (state.completedAt ?? wallMs))
    const verdict = this.#profile.classify(question, { kind: 'reply', reply: answer }, noKey)
    if (verdict.kind === 'answered' && verdict.keepable) this.#fill({ client: owner, call: question, verdict, ageMs })
  }

  #refunded({ charge, keyName, createdAt }: Job, payer: string, scraper: string): void {
    if (charge?.state !== 'charged') return
    const key = keyName ?? noKey.name
    this.#refund(payer, charge.credits, createdAt, { scraper, key })
    this.#emit({ kind: 'job-refunded', payer, scraper, key, credits: charge.credits })
  }

  #stranger(id: string): Found {
    const job: Job = {
      id,
      owner: null,
      question: null,
      keyName: null,
      charge: null,
      createdAt: this.#clock.wall(),
      promisedBy: null,
      status: 'pending',
    }
    return { job, document: null, revision: null }
  }

  async #keep(id: string, landing: Promise<PromiseEnd>): Promise<void> {
    const ended = await landing
    if (this.#isClosed && ended.answer === null) return
    await this.#end(id, ended)
  }

  async #end(id: string, { answer, error }: PromiseEnd): Promise<void> {
    const canonical = this.#dialect.canonicalId(id)
    const found = await this.#archive.get(canonical)
    // What has ended stays ended, and has no question any more.
    if (!found?.job.question) return
    const { question, createdAt } = found.job
    const completedAt = this.#clock.wall()
    const state: OwnJob['state'] = answer
      ? { kind: 'done', completedAt, answer }
      : { kind: 'failed', completedAt, error }
    const { body } = this.#dialect.write({ id, question, createdAt, state })
    await this.#archive.end(canonical, found, answer ? 'done' : 'failed', body.toString(), createdAt + KEPT_MS)
  }

  /** Upstream does not know it, and is not asked. */
  async #own({ job }: Found): Promise<Reply> {
    const { id, question, createdAt, promisedBy } = job
    if (job.status !== 'pending' || !question || this.#clock.wall() >= createdAt + KEPT_MS) return this.#dialect.unknown
    // Others may be about to take up what a dead process has left behind.
    const isLost = promisedBy !== null && (await this.#session.isGone(promisedBy))
    if (!isLost) return this.#dialect.write({ id, question, createdAt, state: { kind: 'pending' } })
    await this.#end(id, { answer: null, error: INTERRUPTED })
    const document = (await this.#archive.get(this.#dialect.canonicalId(id)))?.document ?? null
    return document === null ? this.#dialect.unknown : documentReply(document)
  }
}

export function createJobs(ports: JobPorts): JobBook {
  return new JobRegister(ports)
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

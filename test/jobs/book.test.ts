/**
 * The book of jobs: idempotent submissions, owners, remembered polls, promises. In front of the simulator over real sockets where
 * money is at stake, of a function where only the order of things is. Long, because all share one setting.
 */
import t, { type Test } from 'tap'
import { ProxyError } from '../../src/errors.ts'
import { createJobs, type JobAnswer, type JobPorts } from '../../src/jobs/book.ts'
import { createPlainUpstream } from '../../src/jobs/plain.ts'
import { createLocalJobStore, createMemoryStore, type JobStore } from '../../src/jobs/store.ts'
import type { Landing, Outcome } from '../../src/model.ts'
import type { Upstream } from '../../src/fetch-parts.ts'
import type { Through } from '../../src/parts.ts'
import type { Clock } from '../../src/ports.ts'
import { soloSession } from '../../src/session.ts'
import { createSimulator, instant, type SimulatorOptions } from '../../src/simulator/simulator.ts'
import { createTransport } from '../../src/world/transport.ts'
import { elasticClock } from '../support/proxy.ts'
import { answered, failed } from '../support/verdicts.ts'
import { fakeWorld, seededRandom } from '../support/world.ts'
import {
  aCaller,
  anonymous,
  bodyOf,
  createDesk,
  day,
  type Desk,
  json,
  landingOf,
  others,
  profile,
  questionOf,
  replyOf,
  submissionOf,
  team,
  upstreamOf,
  UUID,
} from './desk.ts'

type Event = Parameters<JobPorts['emit']>[0]

interface Book extends Desk {
  readonly filled: JobAnswer[]
  readonly events: Event[]
}

type Changes = Partial<JobPorts> & { readonly processId?: string }

function aBook(clock: Clock, upstream: Upstream, store: JobStore, changes: Changes = {}): Book {
  const { processId = 'first', ...others } = changes
  const filled: JobAnswer[] = []
  const events: Event[] = []
  const jobs = createJobs({
    profile,
    store,
    clock,
    random: seededRandom(1),
    emit: (event) => void events.push(event),
    fill: (answer) => void filled.push(answer),
    refund: () => {},
    session: soloSession(processId, clock),
    ...others,
  })
  return { ...createDesk(jobs, clock, upstream), filled, events }
}

async function withSimulator(t: Test, options: SimulatorOptions = {}) {
  const clock = elasticClock()
  const sim = createSimulator({ latency: instant, now: clock.wall, ...options })
  const { url } = await sim.start()
  const transport = createTransport(
    { url, connectTimeoutMs: 5_000, connectionMaxAgeMs: 30_000, maxResponseBytes: 1_000_000 },
    clock,
  )
  t.teardown(async () => {
    transport.close()
    await sim.close()
  })
  const upstream = createPlainUpstream({ profile, transport, emit: () => {} })
  const store = createLocalJobStore(createMemoryStore(clock))
  return { clock, sim, upstream, store, ...aBook(clock, upstream, store) }
}

/** Upstream is a function, time is ours. */
function withFunction(says: Parameters<typeof upstreamOf>[0] = () => json(202, { job_id: UUID })) {
  const world = fakeWorld()
  const { upstream, calls } = upstreamOf(says)
  const store = createLocalJobStore(createMemoryStore(world.clock))
  return { ...world, upstream, calls, store, ...aBook(world.clock, upstream, store) }
}

const jobIdOf = (outcome: Outcome): string => String(bodyOf(outcome)['job_id'])

async function refusalOf(work: Promise<Outcome>): Promise<ProxyError> {
  try {
    await work
  } catch (error) {
    if (error instanceof ProxyError) return error
    throw error
  }
  throw new Error('was not refused')
}

// Submissions

void t.test('the same key 20 times at once: one job, one charge, 20 equal answers', async (t) => {
  const { sim, submit } = await withSimulator(t)
  sim.script({ call: 'submit' }, ['hold'])
  const asked = Array.from({ length: 20 }, (_, n) => submit(n % 2 ? 'prompt=x&country=DE' : 'country=DE&prompt=x', 'k'))
  await sim.received(1)
  sim.release()
  const outcomes = await Promise.all(asked)
  t.equal(new Set(outcomes.map((outcome) => replyOf(outcome).body.toString())).size, 1)
  t.equal(new Set(outcomes.map((outcome) => replyOf(outcome).status)).size, 1)
  t.equal(outcomes.filter((outcome) => outcome.kind === 'fetched').length, 1)
  t.equal(outcomes.filter((outcome) => outcome.kind === 'job' && outcome.idempotentReplay).length, 19)
  t.equal(sim.ledger.entries.length, 1)
  t.equal(sim.requests.length, 1)
})

void t.test('a key means one submission per client and parameters, for 24 hours', async (t) => {
  const { sim, clock, jobs, submit } = await withSimulator(t)
  const first = await submit('prompt=x', 'k')
  const replay = await submit('prompt=x', 'k')
  t.match(replay, { kind: 'job', idempotentReplay: true, reply: { status: 202, contentType: 'application/json' } })
  t.strictSame(replyOf(replay).body, replyOf(first).body)

  for (const query of ['prompt=x&country=us', 'prompt=x&country=US', 'timeout=60&prompt=x', 'prompt=x&sample=1'])
    t.strictSame(replyOf(await submit(query, 'k')).body, replyOf(first).body, `${query} is the same question`)
  for (const query of ['prompt=y', 'prompt=x&country=DE', 'prompt=x&sample=2', 'prompt=x&timeout=soon', ''])
    t.match(await refusalOf(submit(query, 'k')), { code: 'IDEMPOTENCY_CONFLICT', status: 422 }, query)

  const elsewhere = jobs.follow(
    aCaller(clock, { idempotencyKey: 'k' }).request,
    team,
    submissionOf('prompt=x', 'gemini'),
    () => t.fail('is not asked') as never,
  )
  t.match(await refusalOf(elsewhere), { status: 422 }, 'another scraper is another question')

  t.not(jobIdOf(await submit('prompt=x', 'k', others)), jobIdOf(first), 'another client has keys of its own')
  t.not(jobIdOf(await submit('prompt=x', 'l')), jobIdOf(first), 'another key is another job')
  t.not(jobIdOf(await submit('prompt=x')), jobIdOf(await submit('prompt=x')), 'without a key nothing is the same')
  t.equal(sim.ledger.entries.length, 5)
  clock.skip(day)
  t.not(jobIdOf(await submit('prompt=y', 'k')), jobIdOf(first))
})

void t.test('other parameters are refused while the first ones are being submitted', async (t) => {
  const { sim, submit } = await withSimulator(t)
  sim.script({ call: 'submit' }, ['hold'])
  const first = submit('prompt=x', 'k')
  await sim.received(1)
  t.match(await refusalOf(submit('prompt=y', 'k')), { status: 422 })
  sim.release()
  t.match(await first, { kind: 'fetched' })
})

void t.test('a key survives a restart', async (t) => {
  const { sim, clock, upstream, store, submit } = await withSimulator(t)
  const first = await submit('prompt=x', 'k')
  const next = aBook(clock, upstream, store, { processId: 'second' })
  t.strictSame(replyOf(await next.submit('prompt=x', 'k')).body, replyOf(first).body)
  t.match(await refusalOf(next.submit('prompt=y', 'k')), { status: 422 })
  t.equal(sim.ledger.entries.length, 1)
})

void t.test('when nothing was submitted, those who wait learn it and the key is free', async (t) => {
  const { sim, submit } = await withSimulator(t)
  sim.script({ call: 'submit' }, [{ kind: 'hold', next: '503' }])
  const asked = Array.from({ length: 3 }, () => submit('prompt=x', 'k'))
  await sim.received(1)
  sim.release()
  for (const outcome of await Promise.all(asked)) t.equal(replyOf(outcome).status, 503)
  t.equal(sim.requests.length, 1, 'one failure is told to all')
  t.match(await submit('prompt=y', 'k'), { kind: 'fetched', landing: { verdict: { kind: 'answered' } } })
})

void t.test('when it may have been submitted, the key stays taken, and no repetition is charged', async (t) => {
  const { sim, submit } = await withSimulator(t)
  sim.script({ call: 'submit' }, ['reset-after-charge'])
  t.match(await submit('prompt=x', 'k'), { landing: { verdict: { class: 'ambiguous' } } })
  const refusal = await refusalOf(submit('prompt=x', 'k'))
  t.match(refusal, { code: 'IDEMPOTENCY_UNRESOLVED', status: 409, retryAfterMs: null })
  t.match(refusal.message, /its outcome is unknown/)
  t.match(await refusalOf(submit('prompt=y', 'k')), { status: 422 })
  t.equal(sim.ledger.entries.length, 1)
})

void t.test('a caller that hangs up does not lose its job', async (t) => {
  const { sim, clock, submit, poll } = await withSimulator(t)
  sim.script({ call: 'submit' }, ['hold'])
  const caller = aCaller(clock, { idempotencyKey: 'k' })
  const left = submit('prompt=x', 'k', team, caller)
  await sim.received(1)
  caller.leave()
  t.strictSame(await left, { kind: 'gone' })
  const again = submit('prompt=x', 'k')
  sim.release()
  const outcome = await again
  t.match(outcome, { kind: 'job', idempotentReplay: true })
  t.equal(sim.ledger.entries.length, 1)
  t.equal(replyOf(await poll(jobIdOf(outcome), others)).status, 404, 'and it is the owner’s')
})

void t.test('whoever waits for a submission waits as long as they would, and 10 s at most', async (t) => {
  const release = Promise.withResolvers<void>()
  const { clock, submit, calls } = withFunction(async () => {
    await release.promise
    return json(202, { job_id: UUID })
  })
  const first = submit('prompt=x', 'k')
  const hasty = refusalOf(submit('prompt=x', 'k', team, aCaller(clock, { idempotencyKey: 'k', patienceMs: 500 })))
  const patient = refusalOf(submit('prompt=x', 'k'))
  const leaver = aCaller(clock, { idempotencyKey: 'k' })
  const left = submit('prompt=x', 'k', team, leaver)
  await clock.advance(499)
  leaver.leave()
  t.strictSame(await left, { kind: 'gone' })
  await clock.advance(1)
  t.match(await hasty, { code: 'IDEMPOTENCY_CONFLICT', status: 409, retryAfterMs: 1_000 })
  await clock.advance(9_499)
  const late = submit('prompt=x', 'k')
  await clock.advance(1)
  t.match(await patient, { status: 409, retryAfterMs: 1_000 })
  const stayer = aCaller(clock, { idempotencyKey: 'k', arrivedAt: clock.now() - 9_000 })
  const since = refusalOf(submit('prompt=x', 'k', team, stayer))
  await clock.settle()
  t.equal(stayer.listeners(), 1)
  await clock.advance(1_000)
  t.match(await since, { status: 409 }, 'counted from its arrival')
  t.equal(stayer.listeners(), 0)
  release.resolve()
  t.match(await first, { kind: 'fetched' })
  t.match(await late, { kind: 'job', idempotentReplay: true })
  t.equal(calls.length, 1)
  const timers = clock.timers
  await clock.advance(600_000)
  t.ok(timers <= 1, 'nobody who is answered is waited for')
})

void t.test('a caller that has left before it waits is not waited for', async (t) => {
  const { clock, submit } = withFunction(() => new Promise(() => {}))
  void submit('prompt=x', 'k')
  const caller = aCaller(clock, {
    idempotencyKey: 'k',
    onGone: (listener) => {
      listener()
      return () => {}
    },
  })
  t.strictSame(await submit('prompt=x', 'k', team, caller), { kind: 'gone' })
})

void t.test('a refusal before the flight frees the key, and the next in line tries', async (t) => {
  const { clock, jobs } = withFunction()
  const call = submissionOf('prompt=x')
  const { request } = aCaller(clock, { idempotencyKey: 'k' })
  const gate = Promise.withResolvers<void>()
  let tries = 0
  const refuse = async (): Promise<Outcome> => {
    tries += 1
    await gate.promise
    throw new ProxyError('BUDGET_EXHAUSTED', 'None left.')
  }
  const all = Array.from({ length: 3 }, () => refusalOf(jobs.follow(request, team, call, refuse)))
  await clock.settle()
  t.equal(tries, 1)
  gate.resolve()
  for (const refusal of await Promise.all(all)) t.equal(refusal.code, 'BUDGET_EXHAUSTED')
  t.equal(tries, 3)
  t.equal(clock.timers, 0)
})

void t.test('a flight that was refused frees the key; one that broke by a bug does not', async (t) => {
  const { clock, jobs } = withFunction()
  const submit = (key: string, error: unknown) =>
    jobs.follow(
      aCaller(clock, { idempotencyKey: key }).request,
      team,
      submissionOf('prompt=x'),
      async (_call, _key, through: Through) => {
        const landing = await through(Promise.reject(error))
        return { kind: 'fetched', landing, role: 'leader', forwardedBecause: 'method' }
      },
    )
  const resting = new ProxyError('NO_KEY_AVAILABLE', 'Every key rests.')
  await t.rejects(submit('k', resting), resting)
  await t.rejects(submit('k', resting), resting, 'free again')
  const bug = new TypeError('a bug')
  await t.rejects(submit('l', bug), bug)
  await t.rejects(submit('l', bug), { code: 'IDEMPOTENCY_UNRESOLVED', status: 409 }, 'it may have been submitted')
})

void t.test(
  'a key that a dead process left behind is not free; one of a living neighbour is being submitted',
  async (t) => {
    const { clock, upstream, store, submit, calls } = withFunction(() => new Promise(() => {}))
    void submit('prompt=x', 'k')
    await clock.settle()
    const next = aBook(clock, upstream, store, { processId: 'second' })
    t.match(await refusalOf(next.submit('prompt=x', 'k')), {
      code: 'IDEMPOTENCY_UNRESOLVED',
      status: 409,
      retryAfterMs: null,
    })
    const reloaded = aBook(clock, upstream, store)
    t.match(await refusalOf(reloaded.submit('prompt=x', 'k')), { status: 409, retryAfterMs: 1_000 })
    t.equal(calls.length, 1)
  },
)

// Polls

void t.test('a job is its owner’s; what nobody owns is everybody’s', async (t) => {
  const { sim, submit, poll } = await withSimulator(t)
  const id = jobIdOf(await submit('prompt=x'))
  const unknown = await poll(UUID, others)
  t.match(unknown, { kind: 'fetched' }, 'upstream is asked for an unknown id')

  for (const client of [others, anonymous]) {
    for (const spelling of [id, id.toUpperCase(), id.replaceAll('-', '')]) {
      const outcome = await poll(spelling, client)
      t.equal(replyOf(outcome).status, 404)
      t.strictSame(replyOf(outcome).body, replyOf(unknown).body, 'as if it did not exist')
      t.match(outcome, { kind: 'fetched', landing: { attempts: [{ status: 404 }] } }, 'upstream is asked as well')
    }
  }
  const polled = new Set(sim.requests.slice(2).map(({ path }) => path))
  t.equal(polled.size, 1, 'always for the same id')
  t.match([...polled][0], /^\/jobs\/[\da-f]{8}-[\da-f]{4}-4[\da-f]{3}-8[\da-f]{3}-[\da-f]{12}$/)
  t.notOk(polled.has(`/jobs/${id}`), 'and not for the job')
  t.equal(replyOf(await poll(id)).status, 200)

  const free = jobIdOf(await submit('prompt=y', null, anonymous))
  t.equal(replyOf(await poll(free, others)).status, 200)
  t.equal(replyOf(await poll(free, anonymous)).status, 200)
})

void t.test('the owner is remembered over a restart and for as long as upstream may know the job', async (t) => {
  const { clock, sim, upstream, store, submit } = await withSimulator(t)
  const id = jobIdOf(await submit('prompt=x'))
  const next = aBook(clock, upstream, store, { processId: 'second' })
  t.equal(replyOf(await next.poll(id, others)).status, 404)
  clock.skip(day)
  await next.poll(id, others)
  t.notOk(
    sim.requests.some(({ path }) => path === `/jobs/${id}`),
    'not even then is it asked for by others',
  )
})

void t.test('polls of one job that come together are one', async (t) => {
  const { sim, submit, poll } = await withSimulator(t)
  const id = jobIdOf(await submit('prompt=x'))
  sim.script({ call: 'poll' }, ['hold'])
  const polls = Array.from({ length: 10 }, () => poll(id))
  await sim.received(1, { call: 'poll' })
  sim.release()
  const outcomes = await Promise.all(polls)
  t.equal(new Set(outcomes.map((outcome) => replyOf(outcome).body.toString())).size, 1)
  t.equal(outcomes.filter((outcome) => outcome.kind === 'fetched' && outcome.role === 'joined').length, 9)
  t.equal(sim.requests.filter(({ call }) => call === 'poll').length, 1)
})

void t.test('a pending job is remembered for a second, and never longer', async (t) => {
  const { clock, submit, poll, calls } = withFunction((call) =>
    call.endpoint === 'submit' ? json(202, { job_id: UUID }) : json(200, { job_id: UUID, status: 'pending' }),
  )
  await submit('prompt=x')
  t.equal((await poll(UUID)).kind, 'fetched')
  await clock.advance(999)
  const known = await poll(UUID)
  t.match(known, { kind: 'job', idempotentReplay: false })
  t.equal(bodyOf(known)['status'], 'pending')
  t.equal(replyOf(await poll(UUID, others)).status, 404, 'by its owner')
  await clock.advance(1)
  t.equal((await poll(UUID)).kind, 'fetched')
  t.equal(calls.filter(({ path }) => path === `/jobs/${UUID}`).length, 2)
})

void t.test('pending documents do not pile up', async (t) => {
  const { clock, poll, calls } = withFunction((call) =>
    json(200, { job_id: call.path.slice('/jobs/'.length), status: 'pending' }),
  )
  for (let n = 0; n <= 10_000; n += 1) await poll(`job_${n}`)
  t.equal((await poll('job_0')).kind, 'fetched', 'the oldest had to go')
  t.equal((await poll('job_10000')).kind, 'job')
  await clock.advance(1_000)
  await poll('job_10001')
  t.equal(calls.length, 10_003)
})

void t.test('what is no document, or an error, is passed on and not remembered', async (t) => {
  const says = [json(404, { detail: 'Job not found.' }), json(503, { detail: 'Warming up.' }), json(200, { a: 1 })]
  const { poll } = withFunction((_, n) => says[(n - 1) % 3] ?? 'down')
  for (const status of [404, 503, 200, 404]) {
    const outcome = await poll(UUID)
    t.equal(outcome.kind, 'fetched')
    t.equal(replyOf(outcome).status, status)
  }
})

void t.test(
  'a job that is done is asked for once, fills the question, and is kept until 24 h after it was made',
  async (t) => {
    const { sim, clock, upstream, store, submit, poll, filled, events } = await withSimulator(t)
    sim.script({ call: 'submit' }, [{ kind: 'done', polls: 1 }])
    const id = jobIdOf(await submit('prompt=x&country=DE&bypass_cache=true'))
    await poll(id)
    t.same(filled, [])
    clock.skip(1_000)
    const done = await poll(id)
    t.equal(bodyOf(done)['status'], 'done')

    const question = questionOf('prompt=x&country=DE&bypass_cache=true')
    const [answer] = filled
    t.match(answer, {
      client: 'team',
      call: { key: question.key, endpoint: 'answer', scraper: 'grok' },
      verdict: { kind: 'answered' },
    })
    const body = JSON.parse(String(answer?.verdict.reply?.body)) as Record<string, unknown>
    t.match(body, { status: 'done', job_id: id, prompt: 'x', country: 'DE', credits_used: 3 })
    t.ok(answer && answer.ageMs >= 0 && answer.ageMs < 60_000)

    const polls = sim.requests.length
    const known = await poll(id.toUpperCase())
    t.match(known, { kind: 'job', reply: { status: 200, contentType: 'application/json' } })
    t.strictSame(replyOf(known).body, replyOf(done).body)
    const next = aBook(clock, upstream, store, { processId: 'second' })
    t.strictSame(replyOf(await next.poll(id)).body, replyOf(done).body, 'after a restart as well')
    t.equal(sim.requests.length, polls)
    t.equal(replyOf(await next.poll(id, others)).status, 404)
    t.equal(filled.length + next.filled.length, 1, 'filled once')
    t.same(events, [], 'nothing is told, ids above all')

    clock.skip(day)
    t.equal(replyOf(await poll(id)).status, 404, 'as long as upstream keeps it')
    t.equal(sim.requests.filter(({ path }) => path === `/jobs/${id}`).length, polls)
  },
)

void t.test('the age of an answer is known from when the job was completed', async (t) => {
  const { clock, submit, poll, filled } = withFunction((call) => {
    if (call.endpoint === 'submit') return json(202, { job_id: UUID })
    const completed_at = new Date(clock.wall() - 120_000).toISOString()
    return json(200, { job_id: UUID, status: 'done', result: { result: 'Yes.' }, completed_at })
  })
  await submit('prompt=x')
  await poll(UUID)
  t.match(filled, [{ ageMs: 120_000, verdict: { charge: { state: 'charged', credits: 3 } } }])
})

void t.test('a job that is done without an answer fills nothing, and is a true document', async (t) => {
  const { submit, poll, filled } = withFunction((call) =>
    call.endpoint === 'submit' ? json(202, { job_id: UUID }) : json(200, { job_id: UUID, status: 'done', result: {} }),
  )
  await submit('prompt=x')
  await poll(UUID)
  t.match(await poll(UUID), { kind: 'job' })
  t.same(filled, [])
})

void t.test('a job that failed is kept, and its refund told once', async (t) => {
  const { sim, clock, upstream, store, submit, poll, filled, events } = await withSimulator(t)
  sim.script({ call: 'submit' }, [{ kind: 'failed', polls: 0 }])
  const id = jobIdOf(await submit('prompt=x'))
  t.equal(bodyOf(await poll(id))['status'], 'failed')
  t.match(await poll(id), { kind: 'job' })
  const next = aBook(clock, upstream, store, { processId: 'second' })
  await next.poll(id)
  t.strictSame(
    [...events, ...next.events],
    [{ kind: 'job-refunded', payer: 'team', scraper: 'grok', key: 'main', credits: 3 }],
  )
  t.equal(sim.ledger.total(), 0)
  t.same(filled, [])
})

void t.test('a job that nobody submitted here is kept when it has ended, and nothing is made of it', async (t) => {
  const { sim, upstream, clock, poll, events, filled } = await withSimulator(t)
  const elsewhere = aBook(clock, upstream, createLocalJobStore(createMemoryStore(clock)))
  sim.script({ call: 'submit', prompt: 'bad' }, [{ kind: 'failed', polls: 0 }])
  for (const query of ['prompt=good', 'prompt=bad']) {
    const id = jobIdOf(await elsewhere.submit(query))
    await poll(id)
    t.match(await poll(id, others), { kind: 'job' })
  }
  t.same([...filled, ...events], [])
})

void t.test('documents are bounded: the oldest is asked for again, and is its owner’s all the same', async (t) => {
  const { clock, upstream, store, calls } = withFunction((call, n) =>
    call.endpoint === 'submit'
      ? json(202, { job_id: `job_${n}` })
      : json(200, { job_id: call.path.slice('/jobs/'.length), status: 'done', result: { result: 'x'.repeat(500) } }),
  )
  const { submit, poll } = aBook(clock, upstream, store, { maxDocumentBytes: 1_200 })
  const ids = [await submit('prompt=1'), await submit('prompt=2'), await submit('prompt=3')].map(jobIdOf)
  for (const id of ids) await poll(id)
  const kinds = async (book: Desk) => [await book.poll('job_3'), await book.poll('job_2')].map(({ kind }) => kind)
  t.strictSame(await kinds({ submit, poll } as Desk), ['job', 'job'])
  t.equal(replyOf(await poll('job_1', others)).status, 404)
  t.equal(calls.filter(({ path }) => path === '/jobs/job_1').length, 1)
  t.equal((await poll('job_1')).kind, 'fetched')

  const next = aBook(clock, upstream, store, { processId: 'second', maxDocumentBytes: 1_200 })
  t.strictSame(await kinds(next), ['job', 'job'], 'those of an earlier process are counted, too')
  for (const prompt of ['4', '5']) await next.poll(jobIdOf(await next.submit(`prompt=${prompt}`)))
  t.equal((await next.poll('job_3')).kind, 'fetched')
})

void t.test('a document from the future is not kept longer than a day', async (t) => {
  const { clock, poll, calls } = withFunction(() =>
    json(200, { job_id: UUID, status: 'failed', created_at: '2099-01-01T00:00:00+00:00' }),
  )
  await poll(UUID)
  await clock.advance(day - 1)
  t.equal((await poll(UUID)).kind, 'job')
  await clock.advance(1)
  t.equal((await poll(UUID)).kind, 'fetched')
  t.equal(calls.length, 2)
})

void t.test('a submission whose reply has no id is nobody’s job', async (t) => {
  const { submit, store } = withFunction(() => json(202, { ok: true }))
  t.match(await submit('prompt=x'), { landing: { verdict: { kind: 'answered', anomalies: ['unknownShape'] } } })
  t.same(await store.list('job'), [])
})

// Promises

const answer = landingOf(answered({ reply: json(200, '{"status":"done","result":"Yes.","credits_used":3}') }))

async function promised(landing: Promise<Landing | null>) {
  const setting = withFunction()
  const outcome = await setting.jobs.promise(team, questionOf('prompt=x&country=de'), landing)
  return { ...setting, outcome, id: jobIdOf(outcome) }
}

void t.test('a promise is kept: 202, pending, then the answer', async (t) => {
  const landing = Promise.withResolvers<Landing | null>()
  const { clock, outcome, id, poll, calls } = await promised(landing.promise)
  t.match(outcome, { kind: 'job', idempotentReplay: false, reply: { status: 202, location: `/jobs/${id}` } })
  t.strictSame(bodyOf(outcome), { job_id: id, status: 'pending', scraper: 'grok' })
  const asked = { prompt: 'x', country: 'DE', created_at: '2026-01-15T12:00:00+00:00' }
  t.strictSame(bodyOf(await poll(id)), { job_id: id, status: 'pending', scraper: 'grok', ...asked })
  t.equal(replyOf(await poll(id, others)).status, 404)

  await clock.advance(2_000)
  landing.resolve(answer)
  await clock.settle()
  const done = await poll(id)
  t.strictSame(bodyOf(done), {
    job_id: id,
    status: 'done',
    scraper: 'grok',
    ...asked,
    result: { status: 'done', result: 'Yes.', credits_used: 3 },
    completed_at: '2026-01-15T12:00:02+00:00',
  })
  t.equal(replyOf(await poll(id, others)).status, 404)
  await clock.advance(day - 2_001)
  t.strictSame(replyOf(await poll(id.toUpperCase())).body, replyOf(done).body)
  await clock.advance(1)
  t.match(await poll(id), { kind: 'job', reply: { status: 404 } }, 'for 24 h')
  t.notOk(
    calls.some(({ path }) => path === `/jobs/${id}`),
    'upstream knows nothing of it and is never asked',
  )
})

void t.test('a promise that cannot be kept has failed, and says why', async (t) => {
  const endings: readonly (readonly [string, () => Promise<Landing | null>, error: string])[] = [
    ['failed', async () => landingOf(failed('serverError', { reply: json(500, { detail: 'Broken.' }) })), 'Broken.'],
    [
      'a list',
      async () => landingOf(failed('rejected', { reply: json(422, { detail: [{ msg: 'x' }] }) })),
      '[{"msg":"x"}]',
    ],
    ['no words', async () => landingOf(failed('serverError', { reply: json(500, {}) })), 'execution failed'],
    [
      'no answer',
      async () => landingOf(failed('unreachable')),
      'UPSTREAM_UNREACHABLE: Upstream could not be reached, or the connection was lost before its answer was complete.',
    ],
    ['nobody there', async () => null, 'execution failed'],
    ['refused', () => Promise.reject(new ProxyError('DEADLINE_EXCEEDED', 'Late.')), 'DEADLINE_EXCEEDED: Late.'],
    [
      'a bug',
      () => Promise.reject(new Error('secret')),
      'INTERNAL: Internal error. Include the request ID when you report it.',
    ],
  ]
  for (const [name, landing, error] of endings) {
    const { clock, id, poll, filled } = await promised(landing())
    await clock.settle()
    const document = bodyOf(await poll(id))
    t.match(document, { status: 'failed', error }, name)
    t.same(filled, [])
  }
})

void t.test('a promise of a dead process has failed, unless it is taken up again', async (t) => {
  const { clock, upstream, store, jobs, id } = await promised(new Promise(() => {}))
  const other = jobIdOf(await jobs.promise(others, questionOf('prompt=y'), new Promise(() => {})))
  t.same(await jobs.interrupted(), [], 'the living keep their own')

  const next = aBook(clock, upstream, store, { processId: 'second' })
  t.match(await next.jobs.interrupted(), [
    { id, client: 'team', call: questionOf('prompt=x&country=de') },
    { id: other, client: 'others' },
  ])
  const landing = Promise.withResolvers<Landing | null>()
  await next.jobs.resume(id, landing.promise)
  t.match(await next.jobs.interrupted(), [{ id: other }])
  t.equal(bodyOf(await next.poll(id))['status'], 'pending')
  t.match(bodyOf(await next.poll(other, others)), { status: 'failed', error: /interrupted/ })
  t.same(await next.jobs.interrupted(), [])
  await clock.advance(1_000)
  t.match(
    bodyOf(await next.poll(other, others)),
    { completed_at: '2026-01-15T12:00:00+00:00' },
    'and has failed for good',
  )

  landing.resolve(answer)
  await clock.settle()
  t.equal(bodyOf(await next.poll(id))['status'], 'done')
  await next.jobs.resume(id, Promise.resolve(null))
  await clock.settle()
  t.equal(bodyOf(await next.poll(id))['status'], 'done', 'what has ended stays ended')
})

void t.test('a promise older than a day is not answered any more', async (t) => {
  const { clock, id, poll, calls } = await promised(new Promise(() => {}))
  await clock.advance(day)
  t.equal(replyOf(await poll(id)).status, 404)
  t.equal(calls.length, 0)
})

void t.test('an answer too big to be kept leaves an unknown job behind, not a question to upstream', async (t) => {
  const { clock, upstream, store, calls } = withFunction()
  const { jobs, poll } = aBook(clock, upstream, store, { maxDocumentBytes: 10 })
  const id = jobIdOf(await jobs.promise(team, questionOf('prompt=x'), Promise.resolve(answer)))
  await clock.settle()
  t.equal(replyOf(await poll(id)).status, 404)
  const left = aBook(clock, upstream, store, { processId: 'second', maxDocumentBytes: 10 })
  const lost = jobIdOf(await jobs.promise(team, questionOf('prompt=x'), new Promise(() => {})))
  t.equal(replyOf(await left.poll(lost)).status, 404, 'nor one that was interrupted')
  t.equal(calls.length, 0)
})

// The store without a disk

void t.test('memory keeps only so many records, and forgets the oldest first', async (t) => {
  const { clock } = fakeWorld()
  const store = createMemoryStore(clock, 3)
  const put = (key: string, value: unknown = 1) => store.put([{ space: 's', key, value, expiresAt: null }])
  for (const key of ['a', 'b', 'c']) put(key)
  put('a', 2)
  put('d')
  t.strictSame(
    [...store.list('s')].map(([key]) => key),
    ['c', 'a', 'd'],
    'what was written again is young again',
  )
})

void t.test('memory keeps what was written until it expires, and copies of it', async (t) => {
  const { clock } = fakeWorld()
  const store = createMemoryStore(clock)
  const value = { a: [1] }
  const expiresAt = clock.wall() + 1_000
  store.put([
    { space: 's', key: 'k', value, expiresAt },
    { space: 's', key: 'l', value: 2, expiresAt: null },
    { space: 'r', key: 'k', value: 3, expiresAt: null },
  ])
  value.a.push(2)
  t.strictSame(store.get('s', 'k'), { a: [1] })
  t.strictSame(
    [...store.list('s')],
    [
      ['k', { a: [1] }],
      ['l', 2],
    ],
  )
  store.put([{ space: 's', key: 'l', value: null, expiresAt: null }])
  t.equal(store.get('s', 'l'), null)
  await clock.advance(1_000)
  t.equal(store.get('s', 'k'), null)
  t.strictSame([...store.list('s')], [])
  store.put([])
  t.equal(store.get('r', 'k'), 3)
})

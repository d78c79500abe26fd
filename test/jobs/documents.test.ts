/** What the vendor's documents about jobs mean, and that ours read like them (docs/vendor-api.md, "Jobs"). */
import t from 'tap'
import { json, pollOf, profile, questionOf, submissionOf, UUID } from './desk.ts'

const { jobs } = profile
const question = questionOf('prompt=Hi&country=de&timeout=60')
const created = '2026-05-11T12:00:00+00:00'
const at = Date.UTC(2026, 4, 11, 12)
const key = { name: 'main', secret: null, report: () => {} }

void t.test('the documented documents, and what they mean', async (t) => {
  const head = { job_id: UUID, scraper: 'grok' }
  t.strictSame(jobs.read(json(200, { ...head, status: 'pending', prompt: 'Hi', country: 'DE', created_at: created })), {
    status: 'pending',
    createdAt: at,
    completedAt: null,
  })
  const done = { ...head, status: 'done', result: {}, created_at: created, completed_at: '2026-05-11T12:00:18+00:00' }
  t.strictSame(jobs.read(json(200, done)), { status: 'done', createdAt: at, completedAt: at + 18_000 })
  const failed = { ...head, status: 'failed', error: 'execution failed', created_at: created, completed_at: null }
  t.strictSame(jobs.read(json(200, failed)), { status: 'failed', createdAt: at, completedAt: null })
})

void t.test('what is no document of a job says nothing about one', async (t) => {
  for (const body of ['', '[]', '{"status":"running"}', '{"status":7}', '<html>', '{"status":"done"'])
    t.equal(jobs.read(json(200, body)), null, body)
  t.equal(jobs.read(json(404, { status: 'done' })), null, 'an error is none, whatever it says')
})

void t.test('a time is believed in the documented form only', async (t) => {
  const timeOf = (value: unknown) => jobs.read(json(200, { status: 'pending', created_at: value }))?.createdAt
  t.equal(timeOf('2026-05-11T12:00:00Z'), at)
  t.equal(timeOf('2026-05-11T14:00:00+02:00'), at)
  t.equal(timeOf('2026-05-11T12:00:00.123456+00:00'), at + 123)
  for (const value of ['2026-05-11T12:00:00', '2026-05-11', 'yesterday', at, null, '2026-13-11T12:00:00Z'])
    t.equal(timeOf(value), null, String(value))
})

void t.test('the id of a submission, and nothing else for one', async (t) => {
  t.equal(jobs.submittedId(json(202, { job_id: UUID })), UUID)
  for (const body of ['{"job_id":""}', '{"job_id":5}', '{}', 'x'])
    t.equal(jobs.submittedId(json(202, body)), null, body)
})

void t.test('an id is the same in any spelling that reads as the same UUID', async (t) => {
  for (const id of [UUID, UUID.toUpperCase(), UUID.replaceAll('-', '')])
    t.equal(jobs.idOf(pollOf(id)), jobs.canonicalId(UUID), id)
  t.not(jobs.idOf(pollOf('job_2')), jobs.idOf(pollOf('job_1')))
})

void t.test('a question and its submission are the same but for where they go', async (t) => {
  const submission = submissionOf('prompt=Hi&country=de&timeout=60')
  t.strictSame(jobs.toSubmission(question), submission)
  t.strictSame(jobs.toQuestion(submission), question)
  t.ok(question.key, 'with the key that its answer is kept under')
  t.strictSame(jobs.toPoll(UUID, question), { ...pollOf(UUID), scraper: 'grok' })
})

void t.test('the result of a job is the answer, byte for byte, with what it lacks', async (t) => {
  const result = '{"scraper":"grok","status":"done","result":"Yes.","big":12345678901234567890,"credits_used":3}'
  const answer = jobs.toAnswer(question, json(200, `{"job_id":"${UUID}","status":"done", "result": ${result} ,"x":1}`))
  const missing = `,"job_id":"${UUID}","prompt":"Hi","country":"DE","result_markdown":"Yes."}`
  t.equal(answer?.body.toString().trim().replaceAll(/ +}/g, '}'), result.slice(0, -1) + missing)
  t.match(profile.classify(question, { kind: 'reply', reply: answer ?? json(0, '') }, key), {
    kind: 'answered',
    keepable: true,
    charge: { state: 'charged', credits: 3 },
  })
})

void t.test(
  'what a result says itself is not overwritten, and the document knows more than the question',
  async (t) => {
    const result = { status: 'done', result: 'Yes.', job_id: 'own', country: 'FR', scraper: 'grok' }
    const document = { job_id: UUID, status: 'done', prompt: 'Hi there', country: 'US', result }
    const answer = jobs.toAnswer(question, json(200, document))
    t.strictSame(JSON.parse(String(answer?.body)), { ...result, prompt: 'Hi there', result_markdown: 'Yes.' })
    const bare = jobs.toAnswer(question, json(200, { status: 'done', country: 'US', result: { result: 'Yes.' } }))
    t.match(JSON.parse(String(bare?.body)), { country: 'US', prompt: 'Hi' })
  },
)

void t.test('a document of another shape is handed on, and ends the job only if it says so', async (t) => {
  const answerTo = (document: unknown, status = 200) => {
    const answer = jobs.toAnswer(question, json(status, document))
    return answer && { answer, verdict: profile.classify(question, { kind: 'reply', reply: answer }, key) }
  }
  const head = { job_id: UUID, scraper: 'grok' }
  const whole = { scraper: 'grok', status: 'done', result: 'Yes.', credits_used: 3 }
  const kept = { kind: 'answered', keepable: true, anomalies: undefined }
  const odd = { kind: 'answered', keepable: false, anomalies: ['unknownShape'] }
  const empty = { kind: 'answered', keepable: false, anomalies: ['emptyAnswer'] }
  const rows: readonly (readonly [document: object, verdict: object])[] = [
    [{ ...head, status: 'completed', result: whole }, kept],
    [{ ...head, status: 'Success', result: { text: 'Yes.' } }, odd],
    [{ ...head, result: whole }, kept],
    [{ ...head, status: 'half-way', result: whole, completed_at: created }, kept],
    [{ ...head, status: 'done', result: 'Yes.' }, kept],
    [{ ...head, status: 'done', result: [{ text: 'Yes.' }] }, odd],
    [{ ...head, status: 'done', result: { status: 'completed', result: 'Yes.' } }, odd],
    [{ ...head, status: 'done', output: { text: 'Yes.' } }, odd],
    [{ ...head, status: 'done', result: { answer: { text: 'Yes.' } } }, odd],
    ...[undefined, null, {}, [], { status: 'done', result: '' }].map(
      (result) => [{ ...head, status: 'done', result }, empty] as const,
    ),
  ]
  for (const [document, verdict] of rows) t.match(answerTo(document)?.verdict, verdict, JSON.stringify(document))
  t.equal(answerTo(`\ufeff${JSON.stringify({ status: 'done', result: whole })}`)?.verdict.kind, 'answered')

  const unfinished = [
    { status: 'pending' },
    { status: 'pending', result: whole },
    { status: 'running', result: { text: 'half of it' } },
    { status: 'running' },
    { state: 'finished', output: 'Yes.' },
    {},
    [],
    'text',
  ]
  for (const document of unfinished) t.equal(answerTo(document), null, JSON.stringify(document))
  t.equal(jobs.toAnswer(question, json(404, { detail: 'Job not found.' })), null)
})

void t.test('a job that says in other words that it failed has failed', async (t) => {
  for (const document of [
    { status: 'error', job_id: UUID },
    { status: 'FAILED', error: 'x' },
    { error: 'x' },
    { detail: 'x' },
  ])
    t.match(jobs.toAnswer(question, json(200, document)), { status: 500 }, JSON.stringify(document))
})

void t.test('the error of a failed job is judged by its words, and free', async (t) => {
  const rows = [
    ['execution failed', 'serverError'],
    ['Scraper returned an empty result.', 'emptyResult'],
    [undefined, 'serverError'],
    ['', 'serverError'],
    [{ a: 1 }, 'serverError'],
  ] as const
  for (const [error, expected] of rows) {
    const answer = jobs.toAnswer(question, json(200, { job_id: UUID, status: 'failed', error }))
    t.match(answer, { status: 500, contentType: 'application/json' })
    const verdict = answer && profile.classify(question, { kind: 'reply', reply: answer }, key)
    t.match(verdict, { kind: 'failed', class: expected, charge: { state: 'free' } }, JSON.stringify(error))
  }
})

void t.test('jobs of our own read like the vendor’s', async (t) => {
  const job = { id: UUID, question, createdAt: at }
  const written = (state: Parameters<typeof jobs.write>[0]['state']) => {
    const { body, ...rest } = jobs.write({ ...job, state })
    return { ...rest, body: JSON.parse(body.toString()) as unknown }
  }
  const head = { job_id: UUID, scraper: 'grok' }
  const base = { contentType: 'application/json', retryAfter: null }
  t.strictSame(written({ kind: 'accepted' }), {
    ...base,
    status: 202,
    location: `/jobs/${UUID}`,
    body: { ...head, status: 'pending' },
  })
  const asked = { prompt: 'Hi', country: 'DE' }
  t.strictSame(written({ kind: 'pending' }), {
    ...base,
    status: 200,
    location: null,
    body: { ...head, status: 'pending', ...asked, created_at: created },
  })
  const answer = Buffer.from('{"status":"done","result":"Yes."}')
  const times = { created_at: created, completed_at: '2026-05-11T12:00:02+00:00' }
  t.strictSame(written({ kind: 'done', completedAt: at + 2_000, answer }), {
    ...base,
    status: 200,
    location: null,
    body: { ...head, status: 'done', ...asked, result: { status: 'done', result: 'Yes.' }, ...times },
  })
  for (const [error, says] of [
    [null, 'execution failed'],
    ['interrupted', 'interrupted'],
  ] as const) {
    t.strictSame(written({ kind: 'failed', completedAt: at + 2_000, error }), {
      ...base,
      status: 200,
      location: null,
      body: { ...head, status: 'failed', error: says, ...times },
    })
  }
  const done = jobs.write({ ...job, state: { kind: 'done', completedAt: at, answer } })
  t.match(jobs.toAnswer(question, done), { status: 200 }, 'and can be read as such')
  for (const [odd, value] of [
    ['\ufeff{"a":1}', { a: 1 }],
    ['[1]', [1]],
    ['null', null],
  ] as const) {
    const { body } = jobs.write({ ...job, state: { kind: 'done', completedAt: at, answer: Buffer.from(odd) } })
    t.match(JSON.parse(body.toString()), { result: value }, odd)
  }
})

void t.test('an unknown id gets the literal text of the vendor', async (t) => {
  t.match(jobs.unknown, { status: 404, contentType: 'application/json', location: null })
  const detail = 'Job not found. It may have expired (jobs are retained for 24 hours) or the ID is invalid.'
  t.equal(jobs.unknown.body.toString(), JSON.stringify({ detail }))
})

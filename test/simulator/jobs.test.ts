// Async jobs: charged when submitted, ended as scripted or by the clock, refunded when they fail.

import t from 'tap'
import { startSimulator } from './client.ts'

const DAY_MS = 24 * 60 * 60 * 1000
const NOON = Date.UTC(2026, 4, 11, 12)

void t.test(
  'a job is charged when submitted, pending, then done with its result, then forgotten after a day',
  async (t) => {
    let time = NOON
    const { sim, ask, submit } = await startSimulator(t, { now: () => time, latency: { minMs: 18_000, maxMs: 18_000 } })
    const submitted = await submit('prompt=x&country=DE')
    const id = String(submitted.json()['job_id'])
    t.equal(submitted.status, 202)
    t.same(submitted.json(), { job_id: id, status: 'pending', scraper: 'grok' })
    t.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
    t.match(sim.ledger.entries, [{ kind: 'job', jobId: id, credits: 3, at: NOON, state: 'charged', key: 'key-one' }])
    const created = { job_id: id, scraper: 'grok', prompt: 'x', country: 'DE', created_at: '2026-05-11T12:00:00+00:00' }
    t.same((await ask(`/jobs/${id}`, { key: null })).json(), { ...created, status: 'pending' })
    time += 18_000
    const done = (await ask(`/jobs/${id}`, { key: null })).json()
    t.match(done, { ...created, status: 'done', completed_at: '2026-05-11T12:00:18+00:00' })
    t.match(done['result'], { scraper: 'grok', status: 'done', result: /call 1/, credits_used: 3 })
    t.notMatch(done['result'], { job_id: /./ })
    time = NOON + DAY_MS
    t.equal((await ask(`/jobs/${id}`)).status, 200)
    time += 1
    t.match((await ask(`/jobs/${id}`)).json(), { detail: /^Job not found/ })
    t.not(String((await submit('prompt=x')).json()['job_id']), id)
  },
)

void t.test('jobs end as scripted: after polls, on release, or badly with a refund', async (t) => {
  const { sim, ask, submit } = await startSimulator(t, { now: () => NOON, switches: { pendingCompletedAt: 'null' } })
  const statusOf = async (id: unknown): Promise<unknown> => (await ask(`/jobs/${String(id)}`)).json()['status']
  const play = async (step: Parameters<typeof sim.script>[1][number]): Promise<unknown> => {
    sim.script({ call: 'submit' }, [step])
    return (await submit('prompt=x')).json()['job_id']
  }
  const slow = await play({ kind: 'done', polls: 2 })
  t.same([await statusOf(slow), await statusOf(slow), await statusOf(slow)], ['pending', 'pending', 'done'])
  const failing = await play({ kind: 'failed', polls: 1 })
  t.equal((await ask(`/jobs/${String(failing)}`)).json()['completed_at'], null)
  t.equal(sim.ledger.total(), 6)
  t.match((await ask(`/jobs/${String(failing)}`)).json(), {
    status: 'failed',
    error: 'execution failed',
    completed_at: /^2026/,
  })
  t.equal(sim.ledger.total(), 3)
  const held = [await play('pending'), await play({ kind: 'pending', outcome: 'failed' })]
  t.equal(await statusOf(held[0]), 'pending')
  t.equal(sim.release({ jobId: String(held[1]) }), 1)
  t.equal(sim.release({ prompt: 'x' }), 1)
  t.same([await statusOf(held[0]), await statusOf(held[1])], ['done', 'failed'])
  t.equal(await statusOf(await play('failed')), 'failed')
  t.equal(sim.ledger.entries.filter(({ state }) => state === 'refunded').length, 3)
})

void t.test('polls can be scripted too, and cost nothing', async (t) => {
  const { sim, ask, submit } = await startSimulator(t)
  const poll = async (id: unknown): Promise<unknown> => {
    const answer = await ask(`/jobs/${String(id)}`, { key: null })
    return answer.status === 200 ? answer.json()['status'] : answer.status
  }
  const first = (await submit('prompt=x')).json()['job_id']
  sim.script({ call: 'poll' }, ['pending', '503', 'failed'])
  t.same([await poll(first), await poll(first), await poll(first), await poll(first)], ['pending', 503, 'done', 'done'])
  sim.script({ call: 'submit' }, ['pending'])
  const second = (await submit('prompt=x')).json()['job_id']
  sim.script({ call: 'poll', jobId: String(second) }, ['failed'])
  t.same([await poll(second), await poll(second)], ['failed', 'failed'])
  t.equal(sim.ledger.total(), 3)
  const broken = ['reset-after-charge', '503'] as const
  sim.script({ call: 'submit' }, broken)
  for (const _ of broken) await submit('prompt=y')
  t.match(sim.ledger.entries.slice(2), [{ prompt: 'y', kind: 'job' }])
  t.match(sim.requests.at(-1), { call: 'submit', status: 503 })
})

void t.test('switches for jobs and refunds', async (t) => {
  let time = NOON
  const { sim, ask, submit } = await startSimulator(t, { now: () => time, switches: { submitBody: 'job-id' } })
  t.same(Object.keys((await submit('prompt=x')).json()), ['job_id'])
  sim.setSwitches({ submitBody: 'created-at', jobResult: 'full', refundDelayMs: 100, jobAttempts: 4 })
  const submitted = (await submit('prompt=x')).json()
  t.same(Object.keys(submitted), ['job_id', 'status', 'scraper', 'created_at'])
  const done = (await ask(`/jobs/${String(submitted['job_id'])}`)).json()
  t.match(done['result'], { job_id: submitted['job_id'], markdown_url: /md$/ })
  sim.script({ call: 'submit' }, ['failed'])
  await submit('prompt=x')
  sim.setSwitches({ sync500: 'reserve' })
  sim.script({}, ['500'])
  await ask('/scrapers/grok?prompt=x')
  t.equal(sim.ledger.total(), 12, 'what was reserved or failed is not back yet')
  time += 100
  t.equal(sim.ledger.total(), 6)
  t.match(sim.ledger.entries.slice(2), [
    { kind: 'job', refundedAt: time },
    { kind: 'sync', refundedAt: time },
  ])
})

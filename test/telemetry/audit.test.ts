/** What can be told of a request afterwards: in memory for whoever asks by its id, and as lines for the tuner. */
import t from 'tap'
import { ProxyError } from '../../src/errors.ts'
import { createRequestRoutes } from '../../src/http/requests.ts'
import { createTrailRing } from '../../src/telemetry/trail-ring.ts'
import { msText, reasonText, whyOf } from '../../src/telemetry/trail.ts'
import { CALLER_TOKEN, observed, type Observation, UPSTREAM_SECRET } from '../support/observed.ts'
import { aClient, answered, failed } from '../support/verdicts.ts'
import { epoch } from '../support/world.ts'

type Report = Record<string, unknown> & { attempts: Record<string, unknown>[]; earlier: Report[] }

function setUp(observation: Observation = {}) {
  const o = observed(observation)
  const [byId, byQuery] = createRequestRoutes({ trails: o.audit, clock: o.clock })
  const tell = (id: string): Report => {
    const answer = byId?.run({ segment: id, params: new URLSearchParams(), body: '' })
    if (!answer || answer instanceof Promise) throw new Error('told at once')
    return JSON.parse(String(answer.body)) as Report
  }
  return { ...o, tell, byQuery }
}

void t.test('every attempt is told, and why it was or was not repeated', async (t) => {
  const { finish, tell, lines } = setUp({
    keys: ['main', 'spare'],
    says: (n, { key }) => {
      if (n === 1) return failed('serverError', { retryAfterMs: 4_000 })
      if (n === 2) return failed('creditsExhausted')
      return key.name === 'none' ? failed('ambiguous') : answered()
    },
  })
  await finish({ id: 'req-1', traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' })
  const report = tell('req-1')
  t.match(report, {
    id: 'req-1',
    trace_id: '0af7651916cd43dd8448eb211c80319c',
    at: '2026-01-15T12:00:00.000Z',
    is_under_way: false,
    client: 'team',
    scraper: 'alpha',
    endpoint: 'answer',
    prompt_hash: 'abc123abc123',
    status: 200,
    code: null,
    cache: 'miss',
    credits: 3,
    role: 'leader',
    flight: 'req-1',
    stopped_by: null,
    earlier: [],
    flight_started_at: '2026-01-15T12:00:00.000Z',
  })
  t.match(report.attempts, [
    {
      number: 1,
      after_ms: 0,
      duration_ms: 1_000,
      waited_ms: 0,
      class: 'serverError',
      status: 500,
      retry_after_ms: 4_000,
    },
    { number: 2, class: 'creditsExhausted', status: 429, why: /^repeated at once with key (main|spare)$/ },
    { number: 3, class: 'ok', status: 200, charge: 'charged', credits: 3, why: 'answered' },
  ])
  t.match(report.attempts[0]?.['why'], /^repeated after \d/)
  t.equal(Math.floor(Number(report.attempts[1]?.['waited_ms'])), Number(report.attempts[1]?.['after_ms']) - 1_000)
  t.notSame(report.attempts[1]?.['key'], report.attempts[2]?.['key'])
  t.match(JSON.stringify(report['events']), /key (main|spare) was spent after creditsExhausted until 2026-01-15 12:15/)

  const [line] = lines()
  t.match(line, {
    v: 1,
    kind: 'request',
    at: epoch,
    id: 'req-1',
    client: 'team',
    question: String,
    price: 3,
    patience_ms: 600_000,
    cache: 'miss',
    status: 200,
    credits: 3,
    stored: true,
    role: 'leader',
    flight: 'req-1',
    flight_at: epoch,
    landed: true,
    trace_id: '0af7651916cd43dd8448eb211c80319c',
    attempts: [{ class: 'serverError', retry_after_ms: 4_000, charge: 'free' }, { key: String }, { charge: 'charged' }],
  })
  t.equal(lines().length, 1)
})

void t.test('the last attempt says why it was the last, in the words of the reason', async (t) => {
  const { finish, tell, lines } = setUp({ says: (n) => failed(n === 1 ? 'timeout' : 'rejected') })
  await finish({ id: 'final' })
  t.match(tell('final').attempts.at(-1)?.['why'], /^not repeated: a failure of this class is final/)

  const slow = setUp({ says: () => failed('timeout') })
  await slow.finish({ id: 'twice' })
  t.match(slow.tell('twice'), { stopped_by: 'attempts', status: 408 })
  t.match(slow.tell('twice').attempts.at(-1)?.['why'], /not repeated: no more attempts are allowed/)
  t.match(slow.lines()[0], { stopped_by: 'attempts', stored: false })
  t.match(lines()[0], { stopped_by: 'final' })
  const all = ['attempts', 'budget', 'deadline', 'breaker', 'key', 'shutdown', 'final', 'abandoned'] as const
  t.equal(new Set(all.map(reasonText)).size, all.length, 'each reason has words of its own')
})

void t.test('a hit is a short line, and a trail without attempts', async (t) => {
  const { finish, tell, lines, clock } = setUp({ says: () => answered(), clients: [aClient({ name: 'team "x"' })] })
  await finish({ id: 'miss' })
  await clock.advance(5_000)
  await finish({ id: 'hit"\\', traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' })
  t.match(tell('hit"\\'), { cache: 'hit', tier: 'memory', status: 200, credits: 0, attempts: [], flight: null })
  const { question, ...line } = lines()[1] ?? {}
  t.strictSame(line, {
    v: 1,
    kind: 'request',
    at: epoch + 6_000,
    duration_ms: 0,
    id: 'hit"\\',
    client: 'team "x"',
    scraper: 'alpha',
    endpoint: 'answer',
    prompt_hash: 'abc123abc123',
    price: 3,
    cache: 'hit',
    tier: 'memory',
    age_ms: 5_000,
    status: 200,
    trace_id: '0af7651916cd43dd8448eb211c80319c',
  })
  t.equal(question, lines()[0]?.['question'], 'the same question has the same hash')
})

void t.test('who joins a flight is shown its attempts; its line leaves them to the leader', async (t) => {
  const { ask, clock, tell, lines } = setUp({ says: (n) => (n === 1 ? failed('warmingUp') : answered()) })
  const both = Promise.all([ask({ id: 'first' }).outcome, ask({ id: 'second' }).outcome])
  await clock.settle()
  t.match(tell('first'), { is_under_way: true, status: null, role: 'leader', attempts: [{ why: 'under way' }] })
  t.match(tell('second'), {
    is_under_way: true,
    role: 'joined',
    flight: 'first',
    attempts: [{ number: 1, key: 'main' }],
  })
  await clock.advance(1_000)
  t.match(tell('second').attempts, [{ class: 'warmingUp', why: /the pause before the next attempt/ }])
  await clock.finish(both)
  t.match(tell('second'), { role: 'joined', flight: 'first', cache: 'joined', credits: 0 })
  t.same(tell('second').attempts, tell('first').attempts)
  const joined = lines().find(({ id }) => id === 'second')
  t.match(joined, { role: 'joined', flight: 'first', credits: 0 })
  t.notOk(joined && 'attempts' in joined)
})

void t.test('who hangs up, or has no patience, is told with all that happened afterwards', async (t) => {
  const { ask, clock, tell, lines, finish } = setUp({ takesMs: 9_000, says: () => answered() })
  const asked = ask({ id: 'gone' })
  await clock.settle()
  const late = finish({ id: 'late', patienceMs: 500 })
  await late
  asked.hangUp()
  await asked.outcome
  t.match(tell('gone'), { status: 'gone', role: 'leader', attempts: [{ why: 'under way' }] })
  t.match(tell('late'), { status: 504, code: 'DEADLINE_EXCEEDED', role: 'joined', flight: 'gone' })
  t.match(tell('late').detail, /time limit of this request passed/)
  t.strictSame(
    lines().map(({ id }) => id),
    ['late'],
    'the line of who pays waits for the flight',
  )
  await clock.advance(9_000)
  t.match(tell('gone').attempts, [{ class: 'ok', credits: 3, why: 'answered' }])
  t.match(lines()[1], { id: 'gone', status: 'gone', landed: true, credits: 3, attempts: [{ class: 'ok' }] })
})

void t.test('at the end of the process, what is still in the air is written as it stands', async (t) => {
  const { ask, clock, audit, lines } = setUp({ takesMs: 9_000, says: () => answered() })
  const asked = ask({ id: 'gone' })
  await clock.settle()
  asked.hangUp()
  await asked.outcome
  audit.close()
  t.match(lines(), [{ id: 'gone', landed: false, attempts: [] }])
  await clock.advance(9_000)
  t.equal(lines().length, 1, 'nothing is written after the end')
})

void t.test('a refresh that nobody waits for has a line and a trail of its own', async (t) => {
  const client = aClient({ cache: { ...aClient().cache, ttl: 1_000, staleWhileRevalidate: 60_000 } })
  const { finish, clock, tell, lines } = setUp({ clients: [client], says: () => answered() })
  await finish({ id: 'miss' })
  await clock.advance(2_000)
  await finish({ id: 'stale' })
  await clock.advance(2_000)
  const report = tell('stale')
  t.match(report, { role: 'unattended', client: 'team', status: 200, credits: 3, attempts: [{ class: 'ok' }] })
  t.match(report.earlier, [{ cache: 'stale', role: null, attempts: [] }])
  t.match(lines().slice(1), [
    { kind: 'request', id: 'stale', cache: 'stale', age_ms: 2_000 },
    { kind: 'flight', id: 'stale', role: 'unattended', attempts: [{ charge: 'charged' }] },
  ])
})

void t.test('what stood in the way is told: an open circuit, keys that rest', async (t) => {
  const { finish, tell, clock, audit } = setUp({
    breaker: { consecutive: 2, questions: 1, hold: 0 },
    says: () => failed('serverError'),
  })
  await finish({ id: 'breaks' })
  t.match(tell('breaks'), {
    stopped_by: 'breaker',
    events: [{ text: /^the circuit of alpha opened; next trial in \d+ ms$/ }],
  })
  await finish({ id: 'refused' })
  t.match(tell('refused'), { code: 'CIRCUIT_OPEN', attempts: [], events: [{ text: /circuit of alpha opened/ }] })
  await clock.advance(30_000)
  await finish({ id: 'probe' })
  t.match(JSON.stringify(tell('probe')['events']), /let one call through to try/)
  audit.note({ kind: 'breaker-changed', scraper: 'alpha', to: 'closed', openForMs: null, isStillOpen: false })
  audit.note({ kind: 'key-changed', key: 'main', to: 'resting', because: null, untilAt: Infinity })
  await finish({ id: 'after' })
  t.same(
    (tell('after')['events'] as { text: string }[]).map(({ text }) => text).slice(0, 1),
    ['key main rested'],
    'a circuit that has closed stands in nobody’s way',
  )
  audit.note({ kind: 'key-changed', key: 'main', to: 'ready', because: null, untilAt: null })

  const keyless = setUp({ says: () => failed('unauthorized') })
  await keyless.finish({ id: 'ends the key' })
  await keyless.finish({ id: 'no key' })
  t.match(keyless.tell('no key'), {
    code: 'NO_KEY_AVAILABLE',
    events: [{ text: /^key main .* after unauthorized until/ }],
  })
})

void t.test('ids are the callers’: the newest of several is told first, the others with it', async (t) => {
  const { finish, tell, clock, byQuery } = setUp({ says: () => answered() })
  for (const prompt of ['one', 'two', 'three']) {
    await finish({ id: 'same', prompt })
    await clock.advance(10_000)
  }
  const report = tell('same')
  const times = [report, ...report.earlier].map(({ at }) => String(at))
  t.equal(times.length, 3)
  t.strictSame(times, times.toSorted().toReversed())
  const latest = await byQuery?.run({ segment: '', params: new URLSearchParams(), body: '' })
  t.match(JSON.parse(String(latest?.body)), { requests: [{ id: 'same' }, { id: 'same' }, { id: 'same' }] })
  const same = await byQuery?.run({ segment: '', params: new URLSearchParams({ id: ' same ' }), body: '' })
  t.match(JSON.parse(String(same?.body)), { id: 'same', earlier: [{}, {}] })
})

void t.test('an id that is not known is a 404 that says what is kept', async (t) => {
  const { finish, tell } = setUp({ says: () => answered(), audit: { mostAsked: 20, mostOthers: 10 } })
  t.throws(() => tell('never'), { code: 'ENDPOINT_UNKNOWN', message: /latest 20 .* \(none yet\)/ })
  await finish()
  t.throws(() => tell('never'), { status: 404, message: /latest 20 that asked upstream .*12:00:00.* latest 10 others/ })
})

void t.test('memory is bounded, and hits do not push out what asked upstream', async (t) => {
  const { finish, audit, recorder } = setUp({
    says: () => failed('rejected'),
    audit: { mostAsked: 3, mostOthers: 2 },
  })
  for (let n = 0; n < 5; n += 1) await finish({ id: `asked-${n}`, prompt: `${n}` })
  for (let n = 0; n < 50; n += 1) recorder.refused(new ProxyError('REQUEST_INVALID', 'No such thing.'), `early-${n}`)
  t.match(audit.kept(), { asked: { most: 3, now: 3 }, others: { most: 2, now: 2 } })
  t.equal(audit.find('asked-4').length, 1)
  t.equal(audit.find('asked-0').length, 0)
  t.match(audit.find('early-49'), [
    { code: 'REQUEST_INVALID', detail: 'No such thing.', status: 400, client: 'unknown' },
  ])
  t.equal(audit.find('early-0').length, 0)
  t.match(audit.recent(2).length, 2)

  const ring = createTrailRing<{ bytes: number; n: number }>(4, 100)
  for (let n = 0; n < 10; n += 1) ring.push({ bytes: 30, n })
  t.match(ring, { count: 3, bytes: 90, oldest: { n: 7 } }, 'bytes bind before the count does')
  ring.push({ bytes: 100, n: 10 })
  t.match(ring, { count: 1, bytes: 100 })
  ring.push({ bytes: 101, n: 11 })
  t.match(ring, { count: 0, bytes: 0, oldest: null }, 'what is too big for all of it is not kept')
  t.strictSame([...ring.newestFirst()], [])
})

void t.test('early refusals have lines, too, and an id or none', async (t) => {
  const { recorder, lines } = setUp()
  recorder.refused(new ProxyError('REQUEST_INVALID', 'What?'))
  recorder.refused(new ProxyError('REQUEST_INVALID', 'What?'), 'mine')
  t.match(lines(), [
    { kind: 'request', id: '', status: 400, code: 'REQUEST_INVALID' },
    { id: 'mine', scraper: 'none' },
  ])
})

void t.test('what went wrong lately is counted by class and by code', async (t) => {
  const { finish, ask, clock, audit } = setUp({ says: (n) => failed(n < 3 ? 'timeout' : 'unreachable') })
  await finish({ id: 'slow' })
  const both = [ask({ id: 'cut' }).outcome, ask({ id: 'cut too' }).outcome]
  await clock.finish(Promise.all(both))
  const troubles = audit.troubles()
  t.match(
    troubles.find(({ name }) => name === 'timeout'),
    { kind: 'attempt', count: 2, status: 408, requestId: 'slow', scraper: 'alpha', lastAt: Number },
  )
  t.match(
    troubles.find(({ name }) => name === 'unreachable'),
    { count: 4, requestId: 'cut', status: null },
    'a flight that two rode on is counted once',
  )
  t.match(
    troubles.find(({ name }) => name === 'UPSTREAM_UNREACHABLE'),
    { kind: 'refusal', count: 2, status: 504 },
  )
  t.same(
    troubles.map(({ lastAt }) => lastAt),
    troubles.map(({ lastAt }) => lastAt).toSorted((a, b) => b - a),
  )
})

void t.test('no key, no token, and no prompt unless it is asked for', async (t) => {
  const { finish, tell, rawLines, status, output } = setUp({ says: (n) => (n === 1 ? failed('timeout') : answered()) })
  await finish({ id: 'a' })
  await finish({ id: 'b' })
  const all = [JSON.stringify([tell('a'), tell('b')]), rawLines().join(''), JSON.stringify(status()), output()].join(
    '\n',
  )
  t.match(all, 'abc123abc123')
  for (const canary of [UPSTREAM_SECRET, CALLER_TOKEN, 'CANARY']) t.notMatch(all, canary)

  const open = setUp({ says: () => answered(), audit: { prompts: true } })
  await open.finish({ id: 'a' })
  await open.finish({ id: 'b' })
  t.match(open.tell('a'), { prompt: 'CANARY-prompt' })
  t.match(open.lines(), [{ prompt: 'CANARY-prompt' }, { cache: 'hit', prompt: 'CANARY-prompt' }])
})

void t.test('without a file nothing is written, and everything is remembered', async (t) => {
  const { finish, ask, clock, tell, rawLines, audit } = setUp({ noFile: true, says: () => answered() })
  await finish({ id: 'miss' })
  await finish({ id: 'hit' })
  const asked = ask({ id: 'gone', prompt: 'another' })
  await clock.settle()
  asked.hangUp()
  await asked.outcome
  audit.close()
  t.same(rawLines(), [])
  t.match([tell('miss'), tell('hit'), tell('gone')], [{ cache: 'miss' }, { cache: 'hit' }, { status: 'gone' }])
})

void t.test('the trace goes on upstream with a parent of ours, and is in the access line', async (t) => {
  const { finish, calls, output } = setUp({ says: (n) => (n === 1 ? failed('serverError') : answered()) })
  await finish({ id: 'traced', traceparent: 'cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff' })
  await finish({ id: 'untraced', prompt: 'other' })
  const [first, second, third] = calls.map(({ identity }) => identity.traceparent)
  t.match(first, /^00-0af7651916cd43dd8448eb211c80319c-(?!b7ad6b7169203331)(?!0{16})[\da-f]{16}-03$/)
  t.match(second, /^00-0af7651916cd43dd8448eb211c80319c-[\da-f]{16}-03$/)
  t.not(first, second, 'each attempt is a parent of its own')
  t.equal(third, null)
  const access = output()
    .split('\n')
    .filter((line) => line.includes('"msg":"request"'))
  t.match(access[0], '"trace_id":"0af7651916cd43dd8448eb211c80319c"')
  t.notMatch(access[1], 'trace_id')
})

void t.test('durations are written with the digits that count', async (t) => {
  const texts = [0, 627.4, 4_000, 12_345, 99_900, 150_000, 6_600_000, 36_000_000].map(msText)
  t.strictSame(texts, ['0 ms', '627 ms', '4.00 s', '12.3 s', '99.9 s', '2.5 min', '1.8 h', '10.0 h'])
  const flight = { id: 'x', startedAt: 0, landedAt: 1, stoppedBy: null, attempts: [], underWay: null, events: [] }
  t.equal(whyOf(flight, 0), 'not repeated', 'a flight that ended in a refusal of ours has no reason of its own')
})

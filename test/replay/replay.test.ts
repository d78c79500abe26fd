/**
 * `replay` as its user meets it: audit lines and settings in, a table or JSON out. The recordings are of a real run of the
 * pipeline, or written line by line where the point is what a single line does. Long, because all share one desk.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { parseCommandLine } from '../../src/cli/args.ts'
import { replayOptions } from '../../src/cli/replay-options.ts'
import { runReplay } from '../../src/cli/replay.ts'
import { failureClasses } from '../../src/failures.ts'
import type { Figures } from '../../src/replay/figures.ts'
import { createVirtualClock } from '../../src/replay/virtual-clock.ts'
import { observed } from '../support/observed.ts'
import { aClient, answered, failed } from '../support/verdicts.ts'
import { epoch } from '../support/world.ts'

interface Ran {
  readonly exitCode: number
  readonly out: string
  readonly err: string
  readonly progress: readonly string[]
}

interface Json {
  readonly format: number
  readonly traffic: { readonly requests: number; readonly from: string; readonly until: string }
  readonly weather: string | null
  readonly columns: readonly { readonly name: string; readonly kind: string; readonly figures: Figures }[]
  readonly warnings: readonly string[]
  readonly notes: readonly string[]
}

/** A folder with files in it, and the command run there. */
function desk(t: Test, files: Readonly<Record<string, string>> = {}) {
  const cwd = t.testdir(files)

  async function run(...words: string[]): Promise<Ran> {
    const parsed = parseCommandLine(['replay', ...words])
    if (parsed.kind !== 'run') return { exitCode: 1, out: '', err: JSON.stringify(parsed), progress: [] }
    const out: string[] = []
    const err: string[] = []
    const progress: string[] = []
    const exitCode = await runReplay(replayOptions(parsed), {
      stdout: (text) => void out.push(text),
      stderr: (text) => void err.push(text),
      environment: {},
      readFile: (path) => readFileSync(path, 'utf8'),
      cwd,
      progress: (text) => void progress.push(text),
    })
    return { exitCode, out: out.join(''), err: err.join(''), progress }
  }

  async function json(...words: string[]): Promise<Json> {
    const { out, err } = await run('--json', ...words)
    if (out === '') throw new Error(err)
    return JSON.parse(out) as Json
  }

  /** The figures of one column. */
  async function figures(name: string, ...words: string[]): Promise<Figures> {
    const { columns } = await json(...words)
    const column = columns.find((one) => one.name === name)
    if (!column) throw new Error(`no column ${name}`)
    return column.figures
  }

  return { run, json, figures }
}

function breaker(...settings: readonly string[]): string[] {
  return settings.flatMap((one) => ['--set', `breaker.${one}`])
}

/** A fifth of failures will not open it. */
const patience = ['consecutive=30', 'window=30', 'minimum=30', 'failureRate=1']
const patientBreaker = breaker(...patience)
const noBreaker = breaker('consecutive=10000', 'window=10000', 'minimum=10000')

/** One line of the file, as far as it is given. */
function line(fields: Readonly<Record<string, unknown>> = {}): string {
  const usual = {
    v: 1,
    kind: 'request',
    at: epoch,
    duration_ms: 1_000,
    id: 'a',
    client: 'anonymous',
    scraper: 'chatgpt',
    endpoint: 'answer',
    price: 3,
    cache: 'miss',
    status: 200,
    credits: 3,
  }
  return `${JSON.stringify({ ...usual, ...fields })}\n`
}

function attempt(fields: Readonly<Record<string, unknown>> = {}) {
  const usual = { number: 1, after_ms: 0, duration_ms: 1_000, waited_ms: 0, class: 'ok', status: 200, key: 'main' }
  return { ...usual, charge: 'charged', credits: 3, ...fields }
}

function led(at: number, attempts: readonly object[], fields: Readonly<Record<string, unknown>> = {}): string {
  const { id = `led-${at}` } = fields
  return line({ at, role: 'leader', flight: id, flight_at: at, landed: true, stored: true, attempts, id, ...fields })
}

const crash = attempt({ class: 'serverError', status: 500, charge: 'free', credits: 0 })

const teamSettings = `
clients: { team: { token: team-token-of-the-tests } }
cache: { ttl: 60s, staleIfError: 0s, emptyResultTtl: 0s }
upstream: { adaptive: false }
`

/** A real run of the pipeline: questions that come again, a quarter of the attempts failing in different ways. */
async function realRun() {
  const scattered = ['serverError', 'emptyResult', 'timeout', 'queueFull', 'ambiguous'] as const
  const seen = observed({
    scrapers: ['chatgpt'],
    clients: [aClient()],
    takesMs: 4_000,
    says: (n) => (n % 4 === 0 ? failed(scattered[(n / 4) % scattered.length] ?? 'serverError') : answered()),
  })
  for (let i = 0; i < 600; i += 1) {
    seen.ask({ question: '/scrapers/chatgpt', prompt: `prompt ${(i * i) % 97}` })
    await seen.clock.advance(700)
  }
  await seen.clock.advance(700_000)
  return { lines: seen.rawLines(), parsed: seen.lines(), credits: seen.recorder.credits() }
}

void t.test('the recorded column is what the lines and the ledger of that run say', async (t) => {
  const { lines, parsed, credits } = await realRun()
  const { json } = desk(t, { 'audit.ndjson': lines.join(''), 'then.yaml': teamSettings })
  const { columns, traffic } = await json('--audit', 'audit.ndjson', '--recorded', 'then.yaml', '--config', 'then.yaml')
  const [recorded, current, candidate] = columns.map(({ figures }) => figures)
  t.strictSame(
    columns.map(({ name, kind }) => [name, kind]),
    [
      ['recorded', 'recorded'],
      ['current policy', 'simulated'],
      ['then.yaml', 'simulated'],
    ],
  )
  const attempts = parsed.flatMap((one) => (one['attempts'] as { class: string }[] | undefined) ?? [])
  const { spent, uncertain, saved } = credits.total
  t.equal(traffic.requests, 600)
  t.equal(recorded?.attempts, attempts.length)
  t.ok(attempts.some((one) => one.class === 'ambiguous') && attempts.length > 100 && attempts.length < 500)
  t.strictSame(recorded?.credits, { spent, uncertain, saved: saved.hit + saved.joined + saved.stale + saved.rescued })
  t.ok(saved.hit > 0 && saved.joined > 0, 'some were hits, some joined')
  const failures = parsed.filter((one) => [408, 429, 500, 504].includes(Number(one['status']))).length
  t.ok(failures > 0)
  t.equal(recorded?.successRate, (600 - failures) / 600)

  for (const simulated of [current, candidate]) {
    t.equal(simulated?.attempts, recorded?.attempts, 'the same policy asks as often as it did')
    t.strictSame(simulated?.credits, recorded?.credits, 'and spends as much')
    t.equal(simulated?.successRate, recorded?.successRate)
    t.equal(simulated?.retries, recorded?.retries)
    t.strictSame(simulated?.retriesRefused, recorded?.retriesRefused)
    t.equal(simulated?.breakerOpenings, recorded?.breakerOpenings)
  }
})

void t.test('another policy makes another hour of it', async (t) => {
  const { lines } = await realRun()
  const { json } = desk(t, {
    'audit.ndjson': lines.join(''),
    'once.yaml': `${teamSettings}retry: { attempts: 1 }`,
    'uncached.yaml': teamSettings.replace('60s', '0s'),
    'poor.yaml': teamSettings.replace('token:', 'credits: { perDay: 30 }, token:'),
    'strangers.yaml': 'clients: { anonymous: {} }',
    'nobody.yaml': 'clients: { other: { token: other-token-of-the-tests } }',
  })
  const names = ['once.yaml', 'uncached.yaml', 'poor.yaml', 'strangers.yaml', 'nobody.yaml']
  const { columns, notes } = await json('--audit', 'audit.ndjson', ...names.flatMap((name) => ['--candidate', name]))
  const [recorded, once, uncached, poor, strangers, nobody] = columns.map(({ figures }) => figures)
  if (!recorded || !once || !uncached || !poor || !strangers || !nobody) throw new Error('a column is missing')
  t.equal(once.retries, 0)
  t.ok((once.successRate ?? 1) < (recorded.successRate ?? 0))
  t.ok(
    uncached.attempts > 1.3 * recorded.attempts,
    'without a cache upstream is asked more often, by luck that is drawn',
  )
  t.ok(poor.credits.spent <= 30 + 3 && (poor.refusals.BUDGET_EXHAUSTED ?? 0) > 100)
  t.ok(strangers.attempts > 0)
  t.strictSame(nobody.refusals, { CLIENT_UNKNOWN: 600 })
  t.equal(nobody.successRate, null)
  t.ok(notes.includes('Not in the settings of strangers.yaml, and so anonymous: team.'))
  t.ok(notes.includes('Not in the settings of nobody.yaml, and so unknown and refused: team.'))
})

void t.test(
  'R2, P12: with a fifth of the attempts failing, 99.84 % are answered where the circuit stays shut',
  async (t) => {
    const cwd = t.testdir({
      'patient.yaml': `breaker: { ${patience.map((one) => one.replace('=', ': ')).join(', ')} }`,
    })
    // In a process of its own, as it is called: the hooks of a test runner make promises slow.
    const main = fileURLToPath(new URL('../../src/main.ts', import.meta.url))
    const words = [
      '--requests',
      '100000',
      '--rate',
      '5',
      '--failure-rate',
      '0.2',
      '--json',
      '--recorded',
      'patient.yaml',
    ]
    const { stdout, stderr, status } = spawnSync(process.execPath, [main, 'replay', ...words], {
      cwd,
      encoding: 'utf8',
    })
    t.strictSame([status, stderr], [0, ''], 'no progress where nobody looks')
    const found = (JSON.parse(stdout) as Json).columns[0]?.figures
    if (!found) throw new Error('a column is missing')
    t.ok(Math.abs((found.successRate ?? 0) - 0.9984) <= 0.0006, `${found.successRate}`)
    t.ok(Math.abs(found.attempts / 100_000 - 1.248) <= 0.01, `${found.attempts}`)
    t.equal(found.requests, 100_000)
  },
)

void t.test('attempts and openFor of a candidate change what they should', async (t) => {
  const { figures } = desk(t)
  const failing = [
    '--requests',
    '10000',
    '--rate',
    '5',
    '--failure-rate',
    '0.2',
    ...patientBreaker,
    '--set',
    'retry.attempts=3',
  ]
  const three = await figures('candidate', ...failing)
  t.ok(Math.abs((three.successRate ?? 0) - 0.992) <= 0.002, `${three.successRate}`)

  const outage = ['--requests', '4000', '--rate', '2', '--outage', '20m']
  const half = await figures('candidate', ...outage, ...breaker('openFor=30s', 'openForMax=30s'))
  const whole = await figures('candidate', ...outage, ...breaker('openFor=60s', 'openForMax=60s'))
  t.ok(whole.attempts < half.attempts, 'fewer trials')
  t.strictSame([whole.breakerOpenings, half.breakerOpenings], [1, 1], 'a trial that fails is not another opening')
})

void t.test('R1, P12: a total outage of a thousand requests costs at most a tenth more attempts', async (t) => {
  const { figures } = desk(t)
  const outage = ['--requests', '1000', '--rate', '10', '--outage', '1d', '--outage-at', '0s']
  const found = await figures('current policy', ...outage)
  t.equal(found.successRate, 0)
  t.ok(found.breakerOpenings > 0 && found.attempts < 100, 'the circuit spares upstream nearly all of them')
  const unguarded = await figures('candidate', ...outage, ...noBreaker)
  t.ok(unguarded.attempts > 1_000 && unguarded.attempts <= 1_100, `${unguarded.attempts}`)
  t.ok((unguarded.retriesRefused.budget ?? 0) > 900)
})

void t.test('R12: the same seed makes the same bytes, another one does not', async (t) => {
  const { lines } = await realRun()
  const { run } = desk(t, { 'audit.ndjson': lines.join('') })
  const words = ['--audit', 'audit.ndjson', '--failure-rate', '0.3', '--json', '--set', 'cache.ttl=1s']
  const [first, again, other] = [await run(...words), await run(...words), await run(...words, '--seed', '2')]
  t.equal(first.out, again.out)
  t.not(JSON.stringify(JSON.parse(first.out).columns), JSON.stringify(JSON.parse(other.out).columns))
  t.ok(first.progress.includes('current policy: 0 of 600 requests') && first.progress.at(-1) === '')
})

const hour = [
  led(epoch, [crash, attempt({ number: 2, after_ms: 1_500 })], { question: 'q1', duration_ms: 2_500, id: 'one' }),
  line({
    at: epoch + 500,
    id: 'two',
    question: 'q1',
    cache: 'joined',
    role: 'joined',
    flight: 'one',
    duration_ms: 2_000,
    credits: 0,
  }),
  line({
    at: epoch + 9_000,
    id: 'three',
    question: 'q1',
    cache: 'hit',
    tier: 'memory',
    age_ms: 6_500,
    duration_ms: 0.4,
  }),
  led(epoch + 10_000, [crash, crash, crash, crash], {
    question: 'q2',
    status: 500,
    stopped_by: 'attempts',
    stored: false,
    credits: 0,
    duration_ms: 6_000,
  }),
  line({
    at: epoch + 11_000,
    id: 'five',
    cache: 'none',
    status: 429,
    code: 'RATE_LIMITED',
    credits: 0,
    duration_ms: 0,
  }),
]

void t.test('the table, to the letter', async (t) => {
  const { run } = desk(t, { 'audit.ndjson': hour.join('') })
  const { out, exitCode } = await run('--audit', 'audit.ndjson', '--set', 'retry.attempts=3')
  t.equal(exitCode, 0)
  t.equal(
    out,
    `5 requests, 2026-01-15 12:00:00 to 2026-01-15 12:00:11 UTC; seed 1
weather: as recorded

                         recorded  candidate
                         recorded  simulated
requests                        5          5
  caller hung up                0          0
success rate             60.000 %   60.000 %
latency p50                 2.0 s      2.3 s
latency p95                 6.0 s      3.9 s
latency p99                 6.0 s      3.9 s
upstream attempts               6          8
  of them retries               4          5
retry refused: attempts         1          2
credits spent                   3          3
credits uncertain               0          0
credits saved                   6          6
breaker openings                0          0
refused: RATE_LIMITED           1          0

recorded: sums over the audit lines; breaker openings: their attempts, led past the breaker of the packaged settings.
simulated: the real pipeline in virtual time, with empty circuits and full retry budgets at its start.
`,
  )
})

void t.test('JSON says the same', async (t) => {
  const { json } = desk(t, { 'audit.ndjson': hour.join('') })
  const { columns, ...rest } = await json('--audit', 'audit.ndjson')
  t.match(rest, {
    format: 1,
    traffic: { requests: 5, from: '2026-01-15T12:00:00.000Z', until: '2026-01-15T12:00:11.000Z' },
    weather: null,
    seed: 1,
  })
  t.strictSame(columns[0], {
    name: 'recorded',
    kind: 'recorded',
    figures: {
      requests: 5,
      gone: 0,
      successRate: 0.6,
      latencyMs: { p50: 2_000, p95: 6_000, p99: 6_000 },
      attempts: 6,
      guessedAttempts: 0,
      retries: 4,
      retriesRefused: { attempts: 1 },
      credits: { spent: 3, uncertain: 0, saved: 6 },
      breakerOpenings: 0,
      refusals: { RATE_LIMITED: 1 },
    },
  })
})

void t.test('circuits that opened in the recording are counted by its attempts', async (t) => {
  const lines = Array.from({ length: 24 }, (_, i) =>
    led(epoch + 100 * i, [crash], { status: 500, stopped_by: 'breaker', question: `q${i}` }),
  )
  const { figures } = desk(t, { 'audit.ndjson': lines.join('') })
  t.equal((await figures('recorded', '--audit', 'audit.ndjson')).breakerOpenings, 1)
})

void t.test('each kind of line is replayed as what it was', async (t) => {
  const play = (...lines: string[]) => {
    const { figures } = desk(t, { 'audit.ndjson': lines.join('') })
    return figures('candidate', '--audit', 'audit.ndjson', '--set', 'cache.staleWhileRevalidate=0s')
  }
  const later = epoch + 60_000

  const gone = await play(
    led(epoch, [attempt({ duration_ms: 9_000 })], { status: 'gone', cache: 'none', duration_ms: 2_000 }),
  )
  t.match(gone, { gone: 1, attempts: 1, successRate: null, credits: { spent: 3 } }, 'who hangs up has paid')

  const early = await play(
    line({
      client: 'unknown',
      scraper: 'none',
      endpoint: undefined,
      cache: 'none',
      status: 414,
      code: 'REQUEST_INVALID',
    }),
    line({
      client: 'unknown',
      scraper: 'none',
      endpoint: undefined,
      cache: 'none',
      status: 401,
      code: 'CLIENT_UNKNOWN',
    }),
    line({ at: later, cache: 'none', status: 504, code: 'CACHE_MISS', question: 'q' }),
    line({ at: later, cache: 'none', status: 405, code: 'METHOD_NOT_ALLOWED', question: 'q' }),
    line({ at: later, endpoint: 'submit', cache: 'none', status: 409, code: 'IDEMPOTENCY_CONFLICT' }),
    line({ at: later, endpoint: 'status', scraper: 'none', price: 0, cache: 'none', status: 200 }),
  )
  t.strictSame(
    [early.refusals, early.attempts, early.successRate],
    [{ CACHE_MISS: 1, CLIENT_UNKNOWN: 1, IDEMPOTENCY_CONFLICT: 1, METHOD_NOT_ALLOWED: 1, REQUEST_INVALID: 1 }, 0, 1],
  )

  const promised = await play(
    led(epoch, [attempt({ duration_ms: 30_000 })], { status: 202, cache: 'none', duration_ms: 10 }),
  )
  t.match(promised, { attempts: 1, successRate: 1, latencyMs: { p50: 10 } }, 'a job id instead of an answer')
  const submitted = await play(
    led(epoch, [attempt({ status: 202 })], { endpoint: 'submit', status: 202, cache: 'none' }),
  )
  t.match(submitted, { attempts: 1, successRate: 1, credits: { spent: 3 } })

  const old = line({ at: later, question: 'q', cache: 'hit', age_ms: 3_600_000, duration_ms: 0 })
  const warm = await play(old, line({ at: later + 5, question: 'q', cache: 'hit', age_ms: 3_600_005, duration_ms: 0 }))
  t.match(warm, { attempts: 0, credits: { saved: 6 } }, 'what was kept before is kept')
  const empty = await play(
    line({ question: 'q', cache: 'hit', status: 500, age_ms: 5, duration_ms: 0 }),
    led(later, [attempt()]),
  )
  t.match(empty, { attempts: 2 }, 'a remembered failure is nothing to be kept')

  const bypassed = await play(
    led(epoch, [attempt()], { question: 'q' }),
    led(later, [attempt()], { question: 'q', cache: 'bypass' }),
  )
  t.equal(bypassed.attempts, 2)

  const flight = { kind: 'flight', cache: undefined, role: 'unattended' }
  const { json } = desk(t, {
    'audit.ndjson': [
      led(epoch, [attempt()], { question: 'q' }),
      line({ at: later, id: 'r', question: 'q', cache: 'stale', age_ms: 59_000 }),
      led(later, [attempt({ duration_ms: 77 })], { ...flight, id: 'r', question: 'q' }),
      led(later, [attempt(), attempt({ number: 2 })], { ...flight, id: 'of-nobody', question: 'z' }),
      `${JSON.stringify({ v: 1, kind: 'tide', at: 'high' })}\n`,
    ].join(''),
  })
  const refreshed = await json(
    '--audit',
    'audit.ndjson',
    '--set',
    'cache.ttl=30s',
    '--set',
    'cache.staleWhileRevalidate=1h',
  )
  t.match(refreshed.columns, [
    { figures: { requests: 2, attempts: 4, credits: { spent: 12, saved: 3 } } },
    { figures: { requests: 2, attempts: 2, credits: { spent: 6, saved: 3 } } },
  ])
  t.ok(refreshed.notes.includes('Attempts for no request in here, in no simulated column: 2.'))
})

void t.test("a caller's own patience stays, that of the policy goes with it", async (t) => {
  const slow = [attempt({ duration_ms: 50_000 })]
  const { figures } = desk(t, {
    'audit.ndjson': led(epoch, slow, { patience_ms: 5_000 }) + led(epoch + 1, slow, { patience_ms: 20_000 }),
    'then.yaml': 'retry: { deadline: 20s }',
    'now.yaml': 'retry: { deadline: 90s }',
  })
  const found = await figures('now.yaml', '--audit', 'audit.ndjson', '--recorded', 'then.yaml', '--config', 'now.yaml')
  t.match(found, { successRate: 0.5, refusals: { DEADLINE_EXCEEDED: 1 }, attempts: 2 })
  t.equal(found.credits.spent, 6, 'the call that outlasts its caller is completed and charged')
})

void t.test('failures keep their meaning', async (t) => {
  const fate = async (fields: object, ...words: string[]) => {
    const { figures } = desk(t, { 'audit.ndjson': led(epoch, [attempt({ charge: 'free', credits: 0, ...fields })]) })
    return figures('candidate', '--audit', 'audit.ndjson', '--set', 'retry.attempts=1', ...words)
  }
  t.match(await fate({ class: 'rejected', status: 400 }), { successRate: null, retriesRefused: {} })
  t.match(await fate({ class: 'unreachable', status: undefined }), { refusals: { UPSTREAM_UNREACHABLE: 1 } })
  const cut = { class: 'ambiguous', charge: 'unknown', credits: 3 }
  t.match(await fate({ ...cut, status: 200 }), { refusals: { UPSTREAM_INVALID: 1 }, credits: { uncertain: 3 } })
  const hung = await fate({ ...cut, status: undefined, duration_ms: 900_000 }, '--set', 'retry.deadline=500s')
  t.match(hung, { refusals: { UPSTREAM_UNREACHABLE: 1 }, latencyMs: { p50: 315_000 } })
  t.match(await fate({ class: 'unauthorized', status: 401 }), { retriesRefused: { key: 1 } })
})

void t.test('weather is laid over what was recorded', async (t) => {
  const lines = Array.from({ length: 300 }, (_, i) => led(epoch + 1_000 * i, [attempt({ duration_ms: 2_000 })]))
  const { json, figures } = desk(t, { 'audit.ndjson': lines.join('') })
  const audit = ['--audit', 'audit.ndjson']
  const outage = await json(...audit, '--outage', '1m', '--set', 'breaker.openFor=5s')
  t.strictSame(
    [outage.weather, outage.columns.map(({ name, kind }) => `${kind} ${name}`)],
    ['an outage of 1m after a third', ['simulated current policy', 'simulated candidate']],
  )
  t.ok(outage.notes.includes('All columns are simulated; the current policy is the packaged settings.'))
  for (const { figures } of outage.columns) t.ok(figures.breakerOpenings > 0 && (figures.successRate ?? 1) < 1)

  const slow = await figures('current policy', ...audit, '--slow', '2.5x')
  t.equal(slow.latencyMs.p50, 5_000)
  const stuck = await json(...audit, '--slow', '200x', '--outage', '1s', '--outage-at', '10m', '--failure-rate', '0')
  t.equal(stuck.weather, 'an outage of 1s after 10m; 0 % of the attempts fail; upstream takes 200 times as long')
  t.equal(stuck.columns[0]?.figures.credits.spent, 0, 'longer than 300 s is a 408')

  const limited = await json(...audit, '--rate-limit', '20/1m')
  t.equal(limited.weather, 'upstream takes 20 attempts per 1m and key')
  const spent = limited.columns[0]?.figures.credits.spent ?? 0
  t.ok(spent > 0 && spent <= 3 * 20 * 10, `${spent}`)
})

void t.test('what is asked beyond the recording is drawn from what happened at about that time', async (t) => {
  const bad = Array.from({ length: 40 }, (_, i) =>
    led(epoch + 100 * i, [crash], { status: 500, stopped_by: 'breaker' }),
  )
  const good = Array.from({ length: 40 }, (_, i) => led(epoch + 3_600_000 + 100 * i, [attempt()]))
  const refused = (at: number, scraper = 'chatgpt') =>
    Array.from({ length: 30 }, (_, i) =>
      line({ at: at + i, scraper, cache: 'none', status: 503, code: 'CIRCUIT_OPEN', credits: 0 }),
    )
  const asked = async (...lines: string[]) => {
    const { figures } = desk(t, { 'audit.ndjson': lines.join('') })
    return figures('candidate', '--audit', 'audit.ndjson', '--set', 'retry.attempts=1', ...noBreaker)
  }
  t.equal((await asked(...bad, ...good, ...refused(epoch + 5_000))).successRate, 40 / 110)
  t.equal((await asked(...bad, ...good, ...refused(epoch + 3_605_000))).successRate, 70 / 110)
  t.equal((await asked(...good, ...refused(epoch + 3_605_000, 'grok'))).successRate, 1, 'from another scraper at worst')
  t.strictSame((await asked(...refused(epoch))).refusals, { UPSTREAM_UNREACHABLE: 30 }, 'from nothing comes nothing')
})

/** A request each second for five minutes; in the second one, three of ten seconds into it, upstream fails, and a circuit is open but for rare trials. */
function anOutage(): string[] {
  const isDown = (second: number) => second >= 100 && second < 190
  return Array.from({ length: 300 }, (_, second) => {
    const at = epoch + 1_000 * second
    const question = `q${second}`
    if (!isDown(second)) return led(at, [attempt()], { question })
    if (second % 30 === 0) return led(at, [crash], { question, status: 500, stopped_by: 'breaker', stored: false })
    return line({ at, id: question, question, cache: 'none', status: 503, code: 'CIRCUIT_OPEN', credits: 0 })
  })
}

void t.test(
  'a recorded outage is one for every policy, also where the circuit kept requests from seeing it',
  async (t) => {
    const { json } = desk(t, { 'audit.ndjson': anOutage().join('') })
    const audit = ['--audit', 'audit.ndjson', '--set', 'retry.attempts=1']
    const { columns, warnings } = await json(...audit, ...noBreaker)
    t.equal(columns[0]?.figures.successRate, 0.7)
    const { successRate, attempts, guessedAttempts } = columns[1]?.figures ?? {}
    t.ok((successRate ?? 1) >= 0.68 && (successRate ?? 1) <= 0.77, `${successRate} of success without a breaker`)
    t.ok((guessedAttempts ?? 0) > 0 && (guessedAttempts ?? 0) < 90)
    const share = ((100 * (guessedAttempts ?? 0)) / (attempts ?? 1)).toFixed(1)
    const guesses = `${share} % of the attempts of candidate (${guessedAttempts} of ${attempts}) are guesses: nothing was asked within 10 s of them`
    t.ok(
      warnings.some((warning) => warning.startsWith(guesses)),
      warnings.join('; '),
    )

    const held = await json('--audit', 'audit.ndjson', '--set', 'breaker.hold=2m')
    t.ok((held.columns[1]?.figures.successRate ?? 0) > 0.95, 'a longer hold would have brought most through')
  },
)

void t.test('a replay that does not repeat what was recorded says so before anything else', async (t) => {
  const lines = Array.from({ length: 100 }, (_, second) => {
    const at = epoch + 1_000 * second
    const refusal = { cache: 'none', status: 503, code: 'OVERLOADED', credits: 0 }
    return second % 2 === 0
      ? led(at, [attempt()], { question: `q${second}` })
      : line({ at, id: `${second}`, ...refusal })
  })
  const { run, json } = desk(t, { 'audit.ndjson': lines.join('') })
  const { out } = await run('--audit', 'audit.ndjson')
  t.match(
    out,
    /as recorded\n\nWARNING: The recorded success rate is 50\.0 %, but replaying the packaged settings gives 100\.0 %: /,
  )
  t.strictSame((await json('--audit', 'audit.ndjson', '--slow', '2x')).warnings, [], 'other weather repeats nothing')
})

void t.test('how failures end, how long they take, and how long answers do', async (t) => {
  const { json, figures } = desk(t)
  const invented = ['--requests', '300', '--rate', '5', '--set', 'retry.attempts=1']
  const half = [...invented, '--failure-rate', '0.5']
  t.match((await figures('candidate', ...half)).latencyMs, { p50: 1_000 }, 'failures come at once')
  // Half of all calls refused for a full queue would make the others wait for places.
  const fixed = ['--set', 'upstream.adaptive=false']
  const slow = await json(
    ...half,
    ...fixed,
    '--failure-duration',
    '7s',
    '--failure-class',
    'queueFull',
    '--latency',
    '1s-2s',
  )
  t.equal(slow.weather, '50 % of the attempts fail; failures are queueFull; failures take 7s; answers take 1s to 2s')
  const [current] = slow.columns
  t.ok((current?.figures.latencyMs.p95 ?? 0) > 7_000)
  const candidate = slow.columns[1]?.figures
  t.match(candidate, { latencyMs: { p99: 7_000 }, breakerOpenings: 0 }, 'a full queue opens no circuit')
  const unreachable = await figures(
    'candidate',
    ...invented,
    '--outage',
    '1d',
    '--outage-at',
    '0s',
    '--failure-class',
    'unreachable',
  )
  t.ok((unreachable.refusals.UPSTREAM_UNREACHABLE ?? 0) > 0)
  const uncertain = await figures('candidate', ...half, '--failure-class', 'ambiguous')
  t.ok(uncertain.credits.uncertain > 3 * 100, 'may have been charged')
})

void t.test('a line that is cut off at the end is passed over, and so is one in a hundred', async (t) => {
  const good = Array.from({ length: 300 }, (_, i) => led(epoch + i, [attempt()]))
  const { run, json } = desk(t, {
    'cut.ndjson': `${hour.join('')}{"v":1,"kind":"requ`,
    'some.ndjson': [...good.slice(0, 20), '{"v":1\n', '\n', '[]\n', ...good.slice(20)].join(''),
    'many.ndjson': [
      ...hour,
      'x\n',
      '{}\n',
      line({ at: -1 }),
      line({ status: 'maybe' }),
      led(epoch, [{}]),
      led(epoch, [3 as never]),
    ].join(''),
    'odd.ndjson': [...hour, line({ attempts: 'none' }), line({ id: 7 }), line({ cache: 'hot' })].join(''),
    'some.1.ndjson': hour.join(''),
  })
  t.ok((await json('--audit', 'cut.ndjson')).notes.includes('Broken lines passed over: cut.ndjson:6.'))
  const some = await json('--audit', 'some.ndjson', '--audit', 'some.1.ndjson')
  t.equal(some.traffic.requests, 305)
  t.ok(some.notes.includes('Broken lines passed over: some.ndjson:21, some.ndjson:23.'))
  t.match(await run('--audit', 'many.ndjson'), {
    exitCode: 1,
    out: '',
    err: '6 of 11 lines are no lines of an audit file (many.ndjson:6, many.ndjson:7, many.ndjson:8, many.ndjson:9, many.ndjson:10, …)\n',
  })
  t.match(await run('--audit', 'odd.ndjson'), { exitCode: 1, err: /^3 of 8 lines/ })
})

void t.test('what cannot be replayed is said in one sentence', async (t) => {
  const { run } = desk(t, {
    'audit.ndjson': hour.join(''),
    'empty.ndjson': '',
    'flights.ndjson': led(epoch, [attempt()], { kind: 'flight' }),
    'next.ndjson': line({ v: 2 }),
    'wrong.yaml': 'retry: { atempts: 3 }',
  })
  const rows: [string[], string][] = [
    [[], 'replay needs --audit FILE, or --requests N for invented requests\n'],
    [
      ['--audit', 'audit.ndjson', '--requests', '5'],
      '--requests invents requests, and --audit reads them: leave one out\n',
    ],
    [['--audit', 'audit.ndjson', '--rate', '5'], '--rate is for invented requests: add --requests N\n'],
    [
      ['--requests', '5', '--failure-class', 'queueFull'],
      '--failure-class is for the failures of weather: add --failure-rate or --outage\n',
    ],
    [['--requests', '5', '--outage-at', '5m'], '--outage-at says when: add --outage, which says how long\n'],
    [['--audit', 'none.ndjson'], 'none.ndjson: cannot be read (no such file)\n'],
    [['--audit', '.'], '.: cannot be read (is a directory)\n'],
    [['--audit', 'empty.ndjson'], 'empty.ndjson: no request is recorded in there\n'],
    [['--audit', 'flights.ndjson'], 'flights.ndjson: no request is recorded in there\n'],
    [['--audit', 'next.ndjson'], 'next.ndjson:1: format 2 is not known; this is for format 1\n'],
  ]
  for (const [words, err] of rows) t.match(await run(...words), { exitCode: 1, out: '', err }, words.join(' '))
  t.match(await run('--audit', 'audit.ndjson', '--config', 'wrong.yaml'), { exitCode: 78, err: /atempts.*attempts/ })
  t.match(await run('--audit', 'audit.ndjson', '--recorded', 'gone.yaml'), { exitCode: 78, err: /gone\.yaml/ })
})

void t.test('an option says what it needs', async (t) => {
  const rows: [string, string, string][] = [
    ['--outage', '0s', 'a duration such as 10m'],
    ['--outage-at', 'noon', 'a duration such as 5m'],
    ['--failure-rate', '20%', 'a number from 0 to 1'],
    ['--failure-rate', '1.5', 'a number from 0 to 1'],
    ['--failure-class', 'bad luck', `a class of failure: ${failureClasses.join(', ')}`],
    ['--failure-duration', 'long', 'a duration such as 1s'],
    ['--latency', '30s', 'two durations, the shorter one first, such as 5s-30s'],
    ['--latency', '30s-5s', 'two durations, the shorter one first, such as 5s-30s'],
    ['--rate-limit', '60', 'a number per duration such as 60/1m'],
    ['--rate-limit', '60/1m/2', 'a number per duration such as 60/1m'],
    ['--slow', '3', 'a factor such as 3x'],
    ['--slow', '0x', 'a factor such as 3x'],
    ['--requests', '0', 'a whole number from 1 to 100000000'],
    ['--rate', '0', 'a number above 0, at most 100000'],
    ['--seed', '-1', 'a whole number from 0 to 4294967295'],
  ]
  for (const [option, value, needs] of rows)
    t.strictSame(parseCommandLine(['replay', `${option}=${value}`]), {
      kind: 'wrong',
      message: `${option} needs ${needs}`,
    })
  t.match(parseCommandLine(['serve', '--json']), { kind: 'wrong', message: '--json is not an option of serve' })
})

void t.test('invented requests come from a client that the settings let in', async (t) => {
  const { json } = desk(t, {
    'team.yaml': teamSettings,
    'tight.yaml': `${teamSettings.replace('token:', 'concurrency: 2, token:')}redis: { url: "redis://127.0.0.1:1" }\n`,
  })
  const words = ['--requests', '50', '--rate', '10', '--recorded', 'team.yaml', '--candidate', 'tight.yaml']
  const { columns, weather } = await json(...words)
  t.equal(weather, 'fair')
  t.match(columns, [
    { name: 'current policy', figures: { requests: 50, attempts: 50, successRate: 1 } },
    { name: 'tight.yaml', figures: { requests: 50 } },
  ])
  t.ok((columns[1]?.figures.refusals.CONCURRENCY_LIMITED ?? 0) > 20)
  t.equal((await json('--requests', '5')).columns.length, 1, 'one policy is one column')
})

void t.test('a candidate says what differs from the recorded settings', async (t) => {
  const { json } = desk(t, {
    'tight.yaml': teamSettings.replace('token:', 'concurrency: 2, token:'),
    'fewer.yaml': 'retry: { attempts: 2 }\n',
  })
  const words = ['--requests', '50', '--rate', '10', '--recorded', 'tight.yaml']
  for (const option of ['--candidate', '--config']) {
    const { columns } = await json(...words, option, 'fewer.yaml')
    t.ok((columns[1]?.figures.refusals.CONCURRENCY_LIMITED ?? 0) > 20, option)
  }
})

void t.test('virtual time: timers fire in order, and what is cancelled does not', async (t) => {
  const clock = createVirtualClock(epoch, setImmediate)
  const fired: number[] = []
  const at = (n: number) => (n * 7_919) % 5_003
  const timers = Array.from({ length: 5_000 }, (_, n) => clock.after(at(n), () => void fired.push(clock.now() - epoch)))
  for (const [n, timer] of timers.entries()) if (n % 10 !== 0) timer.cancel()
  timers[1]?.cancel()
  t.equal(clock.timers, 500)
  clock.after(-5, () => {
    fired.push(-1)
    void Promise.resolve().then(() => clock.after(0, () => void fired.push(-2)))
  })
  await clock.run()
  const wanted = Array.from({ length: 500 }, (_, n) => at(n * 10)).toSorted((a, b) => a - b)
  t.strictSame(
    fired.filter((one) => one >= 0),
    wanted,
  )
  t.ok(fired.indexOf(-1) < fired.indexOf(-2))
  t.equal(clock.timers, 0)
  timers[0]?.cancel()
  t.equal(clock.timers, 0, 'to cancel what has fired changes nothing')

  const failing = createVirtualClock(epoch, setImmediate)
  failing.after(1, () => {
    throw new Error('broken')
  })
  await t.rejects(failing.run(), { message: 'broken' })
})

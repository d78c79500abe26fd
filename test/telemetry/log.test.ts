/** Lines: what is in them, when they leave, and what happens when nobody takes them. */
import t from 'tap'
import type { Call } from '../../src/model.ts'
import type { Clock } from '../../src/ports.ts'
import { createAccessLog, type Access, type AccessLogOptions } from '../../src/telemetry/access-log.ts'
import { createLog, type LogLevel } from '../../src/telemetry/log.ts'

const call: Call = {
  endpoint: 'answer',
  method: 'GET',
  scraper: 'chatgpt',
  path: '/scrapers/chatgpt',
  params: [
    ['country', 'US'],
    ['prompt', 'say "CANARY"\n'],
  ],
  key: 'k1',
  bypass: false,
  timeoutMs: null,
  country: 'US',
  priceCredits: 3,
  promptHash: 'abc123',
}

const access: Access = {
  id: 'req-1',
  client: 'search-team',
  call,
  status: 200,
  cache: 'hit',
  tier: 'memory',
  code: null,
  attempts: 0,
  credits: 0,
  outcome: 'cached',
  saved: null,
  durationMs: 0.123456,
}

function createDesk(options: Partial<AccessLogOptions> = {}) {
  const timers: { ms: number; job: () => void; isCancelled: boolean }[] = []
  const texts: string[] = []
  let wall = Date.UTC(2026, 0, 2, 3, 4, 5, 6)
  const clock: Clock = {
    now: () => 0,
    wall: () => wall,
    after(ms, job) {
      const timer = { ms, job, isCancelled: false }
      timers.push(timer)
      return { cancel: () => void (timer.isCancelled = true) }
    },
  }
  const sink = (text: string) => void texts.push(text)
  const log = createAccessLog({ level: 'info', prompts: false, ...options }, { clock, sink })
  const lines = () => texts.flatMap((text) => text.trimEnd().split('\n')).map((line) => JSON.parse(line))
  return { timers, texts, log, lines, setWall: (at: number) => void (wall = at) }
}

void t.test('access lines leave together, a tenth of a second after the first', async (t) => {
  const desk = createDesk()
  desk.log.write(access)
  desk.log.write({ ...access, id: 'req-2' })
  t.strictSame(desk.texts, [])
  t.equal(desk.timers.length, 1)
  t.equal(desk.timers[0]?.ms, 100)
  desk.timers[0]?.job()
  t.equal(desk.texts.length, 1)
  t.strictSame(
    desk.lines().map(({ id }) => id),
    ['req-1', 'req-2'],
  )
  desk.log.write({ ...access, id: 'req-3' })
  t.equal(desk.timers.length, 2, 'the next batch has its own timer')
})

void t.test('a full batch leaves at once, and a flush hands on what is there', async (t) => {
  const desk = createDesk()
  let written = 0
  while (desk.texts.length === 0) {
    desk.log.write(access)
    written += 1
  }
  t.equal(desk.lines().length, written)
  t.ok((desk.texts[0]?.length ?? 0) >= 16_384)
  t.ok(desk.timers[0]?.isCancelled)

  desk.log.write(access)
  desk.log.flush()
  t.equal(desk.lines().length, written + 1)
  desk.log.flush()
  t.equal(desk.texts.length, 2, 'an empty batch is not handed on')
})

void t.test('what a caller supplies cannot break out of its line', async (t) => {
  const desk = createDesk()
  const id = 'a"b\\c'
  desk.log.write({ ...access, id, client: 'team "x"', call: null, status: 'gone', cache: 'none', tier: null })
  desk.log.flush()
  t.strictSame(desk.lines(), [
    {
      level: 'info',
      time: '2026-01-02T03:04:05.006Z',
      msg: 'request',
      id,
      client: 'team "x"',
      scraper: 'none',
      endpoint: null,
      status: 'gone',
      cache: 'none',
      tier: null,
      code: null,
      attempts: 0,
      credits: 0,
      duration_ms: 0.123,
      prompt_hash: null,
    },
  ])
})

void t.test('time goes on within a second and from one to the next', async (t) => {
  const desk = createDesk()
  for (const wall of [1_767_323_045_006, 1_767_323_045_999, 1_767_323_046_000]) {
    desk.setWall(wall)
    desk.log.write(access)
  }
  desk.log.flush()
  t.strictSame(
    desk.lines().map(({ time }) => time),
    ['2026-01-02T03:04:05.006Z', '2026-01-02T03:04:05.999Z', '2026-01-02T03:04:06.000Z'],
  )
})

void t.test('the prompt is in the line only where the operator asks for it', async (t) => {
  const without = createDesk()
  without.log.write(access)
  without.log.flush()
  t.notMatch(without.texts[0], 'CANARY')
  t.equal(without.lines()[0]?.prompt_hash, 'abc123')

  const desk = createDesk({ prompts: true })
  desk.log.write(access)
  desk.log.write({ ...access, call: null })
  desk.log.flush()
  t.equal(desk.lines()[0]?.prompt, 'say "CANARY"\n')
  t.notOk('prompt' in (desk.lines()[1] ?? {}))
})

void t.test('access lines are of level info', async (t) => {
  for (const [level, count] of Object.entries({ debug: 1, info: 1, warn: 0, error: 0, silent: 0 })) {
    const desk = createDesk({ level: level as LogLevel })
    desk.log.write(access)
    desk.log.flush()
    t.equal(desk.lines().length, count, level)
  }
})

function createPad(options: { level?: LogLevel; secrets?: string[] } = {}) {
  const texts: string[] = []
  const log = createLog({ level: 'info', secrets: [], ...options, sink: (text) => void texts.push(text) })
  return { log, texts, lines: () => texts.map((text) => JSON.parse(text)) }
}

void t.test('the log writes its level and above, one JSON object per line', async (t) => {
  const { log, texts, lines } = createPad({ level: 'warn' })
  log.debug('a')
  log.info('b')
  log.warn('c', { scraper: 'chatgpt' })
  log.error('d')
  t.match(lines(), [
    { level: 'warn', msg: 'c', scraper: 'chatgpt', time: /^\d{4}-\d\d-\d\dT[\d:.]+Z$/ },
    { level: 'error', msg: 'd' },
  ])
  t.strictSame(Object.keys(lines()[0]).toSorted(), ['level', 'msg', 'scraper', 'time'], 'no host name, no process id')
  for (const text of texts) t.equal(text.indexOf('\n'), text.length - 1)

  const all = createPad({ level: 'debug' })
  all.log.debug('a')
  all.log.info('b')
  t.strictSame(
    all.lines().map(({ level }) => level),
    ['debug', 'info'],
  )
})

void t.test('fields with telling names are blanked', async (t) => {
  const { log, texts, lines } = createPad()
  log.info('x', {
    token: 'CANARY',
    secret: 'CANARY',
    prompt: 'CANARY',
    request: { authorization: 'CANARY', 'x-api-key': 'CANARY', api_key: 'CANARY', target: '/?prompt=CANARY' },
    'x-api-key': 'CANARY',
    key_name: 'main',
  })
  t.notMatch(texts[0], 'CANARY')
  t.equal(lines()[0].token, '[redacted]')
  t.equal(lines()[0].key_name, 'main')
})

void t.test('a known secret is blotted out wherever it got in', async (t) => {
  const secret = 'CANARY/"key"+1'
  const { log, texts, lines } = createPad({ secrets: ['', secret] })
  log.error(`plain ${secret}`, {
    url: `https://upstream.example/?x=${encodeURIComponent(secret)}`,
    error: new Error(`refused ${secret}`),
    deep: { list: [{ name: secret }] },
  })
  t.notMatch(texts[0], 'CANARY')
  t.match(lines()[0], { msg: 'plain [redacted]', url: 'https://upstream.example/?x=[redacted]' })
})

void t.test('errors are written with stack, code and cause, without what libraries hang on them', async (t) => {
  const { log, texts, lines } = createPad()
  const cause = Object.assign(new Error('connect refused'), { code: 'ECONNREFUSED', request: { body: 'CANARY' } })
  log.error('failed', { error: new TypeError('no answer', { cause }) })
  log.error('failed', { error: 'just text' })
  t.match(lines(), [
    {
      error: {
        name: 'TypeError',
        message: 'no answer',
        stack: /log\.test\.ts/,
        cause: { code: 'ECONNREFUSED', message: 'connect refused' },
      },
    },
    { error: { message: 'just text' } },
  ])
  t.notMatch(texts[0], 'CANARY')
})

void t.test('an error does not quote what it must not, in whatever form, nor what could not be parsed', async (t) => {
  const { log, texts, lines } = createPad()
  const prompt = 'CANARY "of" somebody & ünique'
  const cause = new Error(`in a URL: ${encodeURIComponent(prompt)}`)
  const error = new Error(`for ${prompt}: in JSON ${JSON.stringify(prompt)}`, { cause })
  log.error('bug', { error }, ['', prompt])
  const [line] = lines()
  t.equal(line.error.message, 'for [prompt]: in JSON "[prompt]"')
  t.equal(line.error.cause.message, 'in a URL: [prompt]')
  t.match(line.error.stack, /^Error: for \[prompt\]: in JSON "\[prompt\]"\n +at .*log\.test/)
  log.error('bug', { error: `only a text: ${prompt}` }, [prompt])
  try {
    JSON.parse('{"prompt": "CANARY of nobody"')
  } catch (unparsed) {
    log.error('bug', { error: unparsed })
  }
  try {
    JSON.parse('CANARY of nobody')
  } catch (unparsed) {
    log.error('bug', { error: unparsed })
  }
  t.match(lines()[3].error, { name: 'SyntaxError', message: /"…"/ })
  log.info('next', { text: 'the veil is for one line' })
  t.notMatch(texts.join(''), /CANARY|somebody|nobody/)
})

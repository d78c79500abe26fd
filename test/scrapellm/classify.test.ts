/** Every documented reply of the vendor, with its source, and everything that none of the rules foresees. */
import fc from 'fast-check'
import t from 'tap'
import { verdictClasses } from '../../src/failures.ts'
import type { Call, Charge, Reply, Verdict, WireResult } from '../../src/model.ts'
import type { KeyLease } from '../../src/fetch-parts.ts'
import { createProfile } from '../../src/scrapellm/profile.ts'

const NOW = Date.UTC(2026, 4, 11, 12, 0, 0)
const SECRET = 'sk-live/"4f9a'
const KEY: KeyLease = { name: 'main', secret: SECRET, report: () => {} }
const profile = createProfile({ version: '1.2.3' }, { wall: () => NOW })

const FREE: Charge = { state: 'free', credits: 0 }
const PAID: Charge = { state: 'charged', credits: 3 }
const UNKNOWN: Charge = { state: 'unknown', credits: 3 }

function call(endpoint: Call['endpoint'], scraper = 'chatgpt'): Call {
  const path = { answer: `/scrapers/${scraper}`, submit: `/scrapers/${scraper}/jobs`, status: '/jobs/job_1' }[endpoint]
  const target = { path, params: [['prompt', 'Hi']], token: null }
  return profile.read({ target, method: endpoint === 'submit' ? 'POST' : 'GET' } as unknown as Parameters<
    typeof profile.read
  >[0])
}

const ANSWER = call('answer')
const SUBMIT = call('submit')
const STATUS = call('status')

function reply(status: number, body: unknown, more: Partial<Reply> = {}): Reply {
  const bytes = Buffer.isBuffer(body) ? body : Buffer.from(typeof body === 'string' ? body : JSON.stringify(body))
  return { status, contentType: 'application/json', retryAfter: null, location: null, body: bytes, ...more }
}

function judge(call: Call, reply: Reply, key = KEY): Verdict {
  return profile.classify(call, { kind: 'reply', reply }, key)
}

type Reason = Extract<WireResult, { kind: 'broken' }>['reason']

function judgeBroken(call: Call, sent: boolean, reason: Reason): Verdict {
  return profile.classify(call, { kind: 'broken', sent, reason, code: null }, KEY)
}

const error = (detail: unknown): unknown => ({ detail })
const HTML = '<html><body>Rate limit exceeded: credit limit reached, empty result</body></html>'

// source, status, body, class, fault, health
type ErrorRow = readonly [string, number, unknown, string, string, string]
const errors: readonly ErrorRow[] = [
  ['[error-handling] 400, text undocumented', 400, error('prompt is too long'), 'rejected', 'client', 'neutral'],
  [
    '[inferred] 422 with a list',
    422,
    error([{ loc: ['query'], msg: 'empty result' }]),
    'rejected',
    'client',
    'neutral',
  ],
  [
    '[error-handling] 401 missing key',
    401,
    error('Missing API key. Pass your key in the X-API-Key header or as ?api_key= in the URL.'),
    'unauthorized',
    'key',
    'neutral',
  ],
  ['[error-handling] 401 without credits', 401, error('No credits left.'), 'unauthorized', 'key', 'neutral'],
  ['[error-handling] 401, none matched', 401, HTML, 'unauthorized', 'key', 'neutral'],
  [
    '[error-handling] 404 job',
    404,
    error('Job not found. It may have expired (jobs are retained for 24 hours) or the ID is invalid.'),
    'rejected',
    'client',
    'neutral',
  ],
  ['[error-handling] 408, text undocumented', 408, error('Timed out.'), 'timeout', 'upstream', 'slow'],
  ['[inferred] 408 of a gateway', 408, HTML, 'timeout', 'upstream', 'slow'],
  [
    '[error-handling] 429 credits',
    429,
    error('Credit limit reached. Upgrade your plan or wait for your billing cycle to reset.'),
    'creditsExhausted',
    'key',
    'neutral',
  ],
  ['429 credits in another case', 429, error('CREDIT LIMIT REACHED'), 'creditsExhausted', 'key', 'neutral'],
  ['429 credits in a list', 429, error([{ msg: 'Credit limit reached.' }]), 'creditsExhausted', 'key', 'neutral'],
  ['429 credits in an object', 429, error({ message: 'Credit limit reached.' }), 'creditsExhausted', 'key', 'neutral'],
  [
    '[credits-and-limits] 429 rate',
    429,
    error('Rate limit exceeded. Retry after a moment.'),
    'rateLimited',
    'key',
    'neutral',
  ],
  ['429 rate in a list of strings', 429, error(['RATE LIMIT exceeded']), 'rateLimited', 'key', 'neutral'],
  ['[credits-and-limits] 429 queue', 429, error('The scraper queue is full.'), 'queueFull', 'upstream', 'neutral'],
  ['[inferred] 429 of a gateway, HTML', 429, HTML, 'queueFull', 'upstream', 'neutral'],
  ['429, words outside of detail', 429, { error: 'Credit limit reached.' }, 'queueFull', 'upstream', 'neutral'],
  ['429, detail three levels down', 429, error([[['credit']]]), 'queueFull', 'upstream', 'neutral'],
  ['429, detail a number', 429, error(7), 'queueFull', 'upstream', 'neutral'],
  ['429, detail null', 429, error(null), 'queueFull', 'upstream', 'neutral'],
  ['429, a bare JSON string', 429, '"Credit limit reached."', 'queueFull', 'upstream', 'neutral'],
  ['429, detail of a prototype', 429, '{"__proto__":{"detail":"credit"}}', 'queueFull', 'upstream', 'neutral'],
  ['429, empty', 429, '', 'queueFull', 'upstream', 'neutral'],
  ['[error-handling] 500 rufus', 500, error('Scraper returned an empty result.'), 'emptyResult', 'upstream', 'neutral'],
  ['[error-handling] 500, text undocumented', 500, error('Unexpected error'), 'serverError', 'upstream', 'down'],
  ['500, none matched', 500, HTML, 'serverError', 'upstream', 'down'],
  ['[error-handling] 503', 503, error('Scraper pool is warming up.'), 'warmingUp', 'upstream', 'down'],
  ['503 of a gateway', 503, HTML, 'warmingUp', 'upstream', 'down'],
  ['[error-handling] 504', 504, error('Gateway timeout'), 'gatewayTimeout', 'upstream', 'down'],
  ['504 of a gateway', 504, HTML, 'gatewayTimeout', 'upstream', 'down'],
  ...[502, 520, 524, 527, 599].map((status): ErrorRow => [
    `5xx of a gateway: ${status}`,
    status,
    HTML,
    'gatewayTimeout',
    'upstream',
    'down',
  ]),
  ...[405, 410, 413, 414, 418, 499].map((status): ErrorRow => [
    `4xx not in the vendor's list: ${status}`,
    status,
    error('credit, rate limit, empty result'),
    'rejected',
    'client',
    'neutral',
  ]),
  ...[501, 505].map((status): ErrorRow => [
    `final: ${status}`,
    status,
    error('empty result'),
    'rejected',
    'client',
    'neutral',
  ]),
  ['402, Payment Required', 402, error('Payment required.'), 'creditsExhausted', 'key', 'neutral'],
  ['402 of a gateway', 402, HTML, 'creditsExhausted', 'key', 'neutral'],
  ...[403, 407, 451].flatMap((status): ErrorRow[] => [
    [`blocked: ${status}`, status, error('Forbidden'), 'blocked', 'key', 'neutral'],
    [`blocked by a gateway: ${status}`, status, HTML, 'blocked', 'key', 'neutral'],
  ]),
  ['405 of a firewall, HTML', 405, HTML, 'blocked', 'key', 'neutral'],
  ['429 of both: "rate limit" wins', 429, error('Credit plan: rate limit exceeded'), 'rateLimited', 'key', 'neutral'],
  ['429 of both, the other way round', 429, error(['rate-limited', 'no credits']), 'rateLimited', 'key', 'neutral'],
  ['429 with underscores', 429, error('credit_limit_reached'), 'creditsExhausted', 'key', 'neutral'],
  ...['accredited', 'discredit', 'corporate limits', 'accelerate limit', 'creditor'].map((word): ErrorRow => [
    `429 with a part of a word: ${word}`,
    429,
    error(word),
    'queueFull',
    'upstream',
    'neutral',
  ]),
  ['500, part of a word', 500, error('nonempty results'), 'serverError', 'upstream', 'down'],
  [
    '429 with the request echoed in a list',
    429,
    error([{ type: 'queue', msg: 'Queue full', input: 'What is my credit limit?', ctx: 'credit' }]),
    'queueFull',
    'upstream',
    'neutral',
  ],
  [
    '429 with the request echoed in an object',
    429,
    error({ message: 'Queue full', input: 'credit', prompt: 'rate limit' }),
    'queueFull',
    'upstream',
    'neutral',
  ],
]

void t.test('errors keep their words, are free, and are told apart', async (t) => {
  for (const [source, status, body, verdictClass, fault, health] of errors) {
    for (const asked of [ANSWER, SUBMIT, STATUS]) {
      const sent = reply(status, body)
      t.strictSame(
        judge(asked, sent),
        {
          kind: 'failed',
          class: verdictClass,
          fault,
          reply: sent,
          refusal: null,
          charge: FREE,
          health,
          retryAfterMs: null,
        },
        `${source} (${asked.endpoint})`,
      )
    }
  }
})

void t.test('words of the prompt are not upstream’s', async (t) => {
  const rows: readonly (readonly [prompt: string, detail: string, verdictClass: string])[] = [
    ['best credit card', 'No slot for "best credit card" now.', 'queueFull'],
    ['what is a rate limit?', 'Busy: what is a rate limit?', 'queueFull'],
    [' credit ', 'No slot for " credit " now.', 'queueFull'],
    ['credit (a|b)+', 'No slot for credit (a|b)+ now.', 'queueFull'],
    ['e', 'Credit limit reached.', 'creditsExhausted'],
    ['re', 'Credit limit reached.', 'creditsExhausted'],
    ['best credit card', 'Credit limit reached for "best credit card".', 'creditsExhausted'],
  ]
  for (const [prompt, detail, verdictClass] of rows) {
    const asked = { ...ANSWER, params: [['prompt', prompt] as const] }
    t.match(judge(asked, reply(429, error(detail))), { class: verdictClass }, detail)
  }
})

void t.test('a documented sentence is read as it is, whatever word of it the prompt is', async (t) => {
  const rows: readonly (readonly [prompt: string, status: number, detail: string, verdictClass: string])[] = [
    ['empty', 500, 'Scraper returned an empty result.', 'emptyResult'],
    [
      'Credit limit',
      429,
      'Credit limit reached. Upgrade your plan or wait for your billing cycle to reset.',
      'creditsExhausted',
    ],
    ['Rate limit', 429, 'Rate limit exceeded. Retry after a moment.', 'rateLimited'],
    ['empty', 500, 'Scraper returned an empty result for "empty".', 'serverError'],
  ]
  for (const [prompt, status, detail, verdictClass] of rows) {
    const asked = { ...ANSWER, params: [['prompt', prompt] as const] }
    t.match(judge(asked, reply(status, error(detail))), { class: verdictClass }, detail)
  }
})

const done = (more: object): object => ({ status: 'done', job_id: 'job_1', credits_used: 3, cached: false, ...more })
const RUFUS = { products: [{ asin: 'B000000001', title: 'Dishwasher A' }], related_questions: [] }

void t.test('a complete answer is paid for and may be kept', async (t) => {
  const rows: readonly (readonly [string, string, object, Charge])[] = [
    ['[README-chatgpt]', 'chatgpt', done({ result: 'a', result_markdown: '**a**', links: [] }), PAID],
    ['[monitor-perplexity]', 'perplexity', done({ result: 'A [1]', sources: [{ url: 'https://example.com' }] }), PAID],
    ['[monitor-gemini]', 'gemini', done({ result: 'a', citations: [{ favicon: null }] }), PAID],
    ['[client-B] copilot', 'copilot', done({ result: 'a', links: ['https://example.com/b'] }), PAID],
    ['[client-B] grok', 'grok', done({ result: 'a', x_results: [] }), PAID],
    ['[client-B] google_ai_mode', 'google_ai_mode', done({ result: 'a', search_results: [] }), PAID],
    ['[client-A] rufus has no text', 'amazon_rufus', done(RUFUS), PAID],
    ['rufus with a text', 'amazon_rufus', done({ result: 'a' }), PAID],
    ['markdown alone', 'chatgpt', done({ result: '', result_markdown: 'a' }), PAID],
    ['unknown fields', 'chatgpt', done({ result: 'a', url: 'https://example.com', new_field: {} }), PAID],
    ["the vendor's cache, charged", 'chatgpt', done({ result: 'a', cached: true }), PAID],
    ["the vendor's cache, free", 'chatgpt', done({ result: 'a', cached: true, credits_used: 0 }), FREE],
    ['1 credit', 'chatgpt', done({ result: 'a', credits_used: 1 }), { state: 'charged', credits: 1 }],
    ...[undefined, null, -1, 2.5, '1'].map(
      (credits_used) =>
        [`credits_used ${credits_used}: the price`, 'chatgpt', done({ result: 'a', credits_used }), PAID] as const,
    ),
  ]
  for (const [source, scraper, body, charge] of rows) {
    const sent = reply(200, body)
    const verdict = judge(call('answer', scraper), sent)
    t.strictSame(verdict, { kind: 'answered', reply: sent, charge, health: 'up', keepable: true }, source)
  }
})

const BLANK = ' \t\r\n\u00a0\u2003\u200b\u200d\u2060\ufeff\u00ad'
const UNKNOWN_SHAPE = { health: 'neutral', keepable: false, anomalies: ['unknownShape'] }
const EMPTY = { health: 'neutral', keepable: false, anomalies: ['emptyAnswer'] }
const OTHER = { health: 'up', keepable: false, anomalies: ['otherQuestion'] }
const KNOWN = { health: 'up', keepable: true }

void t.test(
  'a complete answer of whatever shape is an answer, paid for, and kept only if it is understood',
  async (t) => {
    const rufus = call('answer', 'amazon_rufus')
    const ai = call('answer', 'google_ai_mode')
    const text = { result: '', result_markdown: '' }
    const rows: readonly (readonly [string, Call, Reply, Charge, object])[] = [
      [
        'empty text beside search results',
        ai,
        reply(200, done({ ...text, search_results: [{ url: 'u' }] })),
        PAID,
        UNKNOWN_SHAPE,
      ],
      ['text in blocks', ANSWER, reply(200, done({ result: [{ type: 'text', text: 'a' }] })), PAID, UNKNOWN_SHAPE],
      [
        'text in an object',
        ANSWER,
        reply(200, done({ result: { text: 'a' }, result_markdown: 7 })),
        PAID,
        UNKNOWN_SHAPE,
      ],
      ['status completed', ANSWER, reply(200, { status: 'completed', result: 'a' }), PAID, UNKNOWN_SHAPE],
      ['status pending', ANSWER, reply(200, { status: 'pending', result: 'a' }), PAID, UNKNOWN_SHAPE],
      ['no status', ANSWER, reply(200, { result: 'a' }), PAID, UNKNOWN_SHAPE],
      [
        'no status, 1 credit',
        ANSWER,
        reply(200, { result: 'a', credits_used: 1 }),
        { state: 'charged', credits: 1 },
        UNKNOWN_SHAPE,
      ],
      ['no status, free', ANSWER, reply(200, { result: 'a', credits_used: 0 }), FREE, UNKNOWN_SHAPE],
      ['a renamed member', ANSWER, reply(200, done({ answer: { text: 'a' } })), PAID, UNKNOWN_SHAPE],
      ['a list of products that is none', rufus, reply(200, done({ products: { a: 1 } })), PAID, UNKNOWN_SHAPE],
      ['products of another scraper', ANSWER, reply(200, done(RUFUS)), PAID, UNKNOWN_SHAPE],
      ['failed, with a result', ANSWER, reply(200, { status: 'failed', result: 'half of it' }), PAID, UNKNOWN_SHAPE],
      ['an error beside a result', ANSWER, reply(200, { error: 'slow', result: 'a' }), PAID, UNKNOWN_SHAPE],
      ['an array', ANSWER, reply(200, '[{"status":"done","result":"a"}]'), PAID, UNKNOWN_SHAPE],
      ['a text', ANSWER, reply(200, '"a"'), PAID, UNKNOWN_SHAPE],
      ['a number', ANSWER, reply(200, '7'), PAID, UNKNOWN_SHAPE],
      ['null', ANSWER, reply(200, 'null'), PAID, UNKNOWN_SHAPE],
      ['an empty object', ANSWER, reply(200, '{}'), PAID, UNKNOWN_SHAPE],
      [
        'answer of a prototype',
        ANSWER,
        reply(200, '{"__proto__":{"status":"done","result":"a"}}'),
        PAID,
        UNKNOWN_SHAPE,
      ],
      ...[201, 202, 203, 206, 226, 299].map(
        (status) => [`${status}`, ANSWER, reply(status, done({ result: 'a' })), PAID, UNKNOWN_SHAPE] as const,
      ),
      ['202 with a job id', ANSWER, reply(202, { job_id: 'job_1' }), PAID, UNKNOWN_SHAPE],

      ['nothing in it', ANSWER, reply(200, done({})), PAID, EMPTY],
      ['empty text', ANSWER, reply(200, done({ ...text, links: [] })), PAID, EMPTY],
      ['white space alone', ANSWER, reply(200, done({ result: BLANK, result_markdown: BLANK })), PAID, EMPTY],
      ['no products', rufus, reply(200, done({ products: [] })), PAID, EMPTY],
      ['a text with white space around it', ANSWER, reply(200, done({ result: `${BLANK}.` })), PAID, KNOWN],
      ['an emoji with a joiner', ANSWER, reply(200, done({ result: '👩\u200d🔬' })), PAID, KNOWN],

      ['another prompt', ANSWER, reply(200, done({ result: 'a', prompt: 'Ho' })), PAID, OTHER],
      ['another scraper', ANSWER, reply(200, done({ result: 'a', scraper: 'grok' })), PAID, OTHER],
      [
        'the same, in another spelling',
        ai,
        reply(200, done({ result: 'a', scraper: 'Google-AI-Mode', prompt: ' hi\n' })),
        PAID,
        KNOWN,
      ],
      ['names nothing', ANSWER, reply(200, done({ result: 'a', scraper: null, prompt: '' })), PAID, KNOWN],
      [
        'another country is upstream’s own choice',
        ANSWER,
        reply(200, done({ result: 'a', country: 'DE' })),
        PAID,
        KNOWN,
      ],

      ['a byte-order mark', ANSWER, reply(200, '\ufeff{"status":"done","result":"a"}'), PAID, KNOWN],
      ['white space around it', ANSWER, reply(200, '\n {"status":"done","result":"a"} \n'), PAID, KNOWN],

      ['202 with a job id', SUBMIT, reply(202, { job_id: 'job_1' }), PAID, { ...KNOWN, keepable: false }],
      ['200 with a job id', SUBMIT, reply(200, { job_id: 'job_1' }), PAID, { ...KNOWN, keepable: false }],
      ['201 with a job id', SUBMIT, reply(201, { job_id: 'job_1' }), PAID, { ...KNOWN, keepable: false }],
      ['202 without an id', SUBMIT, reply(202, { status: 'pending' }), PAID, UNKNOWN_SHAPE],
      ['202 with an empty id', SUBMIT, reply(202, { job_id: '' }), PAID, UNKNOWN_SHAPE],
      ['202 with a number', SUBMIT, reply(202, { job_id: 7 }), PAID, UNKNOWN_SHAPE],
      ['202 with a text', SUBMIT, reply(202, '"job_1"'), PAID, UNKNOWN_SHAPE],

      ...['pending', 'done', 'failed'].map(
        (status) =>
          [
            `a poll: ${status}`,
            STATUS,
            reply(200, { status, credits_used: 3 }),
            FREE,
            { ...KNOWN, keepable: false },
          ] as const,
      ),
      ['a poll: something new', STATUS, reply(200, { status: 'running' }), FREE, UNKNOWN_SHAPE],
      ['a poll: an array', STATUS, reply(200, '[]'), FREE, UNKNOWN_SHAPE],
      ['a poll: an error', STATUS, reply(200, error('gone')), FREE, UNKNOWN_SHAPE],
      ['a poll with 202', STATUS, reply(202, { status: 'pending' }), FREE, UNKNOWN_SHAPE],
    ]
    for (const [what, asked, sent, charge, more] of rows)
      t.strictSame(judge(asked, sent), { kind: 'answered', reply: sent, charge, ...more }, what)
  },
)

void t.test('an answer without a Content-Type gets the one that it has in the cache', async (t) => {
  const sent = reply(200, done({ result: 'a' }), { contentType: null })
  t.match(judge(ANSWER, sent), { kind: 'answered', reply: { contentType: 'application/json', body: sent.body } })
  t.match(judge(ANSWER, reply(503, error('x'), { contentType: null })), { reply: { contentType: 'application/json' } })
  t.match(judge(ANSWER, reply(503, HTML, { contentType: null })), { reply: { contentType: null } }, 'nobody knows')
})

void t.test('credits_used beyond ten times the price is not believed', async (t) => {
  const rows: readonly (readonly [number, Charge, boolean])[] = [
    [30, { state: 'charged', credits: 30 }, false],
    [31, PAID, true],
    [Number.MAX_SAFE_INTEGER, PAID, true],
    [1e300, PAID, true],
  ]
  for (const [credits_used, charge, isImplausible] of rows) {
    const anomalies = isImplausible ? ['implausibleCharge'] : undefined
    const good = judge(ANSWER, reply(200, done({ result: 'a', credits_used })))
    t.match(good, { charge, keepable: true }, String(credits_used))
    t.strictSame(good.anomalies, anomalies)
    const bad = judge(ANSWER, reply(200, { status: 'failed', credits_used }))
    t.match(bad, { kind: 'failed', charge, anomalies }, String(credits_used))
  }
  const both = judge(ANSWER, reply(200, { answer: 'a', credits_used: 99 }))
  t.match(both, { charge: PAID, anomalies: ['unknownShape', 'implausibleCharge'] })
})

void t.test('an answer that says itself that it failed is a failure, and is handed on', async (t) => {
  const rows: readonly (readonly [string, Call, object, Charge])[] = [
    ['failed', ANSWER, { status: 'failed', error: 'execution failed' }, UNKNOWN],
    ['failed, empty result', ANSWER, { status: 'failed', result: ' ', products: [] }, UNKNOWN],
    ['error', ANSWER, { status: 'Error', job_id: 'job_1', message: 'x' }, UNKNOWN],
    ['failed, and says it was free', ANSWER, { status: 'failed', credits_used: 0 }, FREE],
    ['failed, and says it was not', ANSWER, { status: 'failed', credits_used: 3 }, PAID],
    ['nothing but detail', ANSWER, { detail: 'Scraper returned an empty result.' }, UNKNOWN],
    ['nothing but a list of details', ANSWER, { detail: [{ msg: 'x' }] }, UNKNOWN],
    ['nothing but error', ANSWER, { error: { message: 'x' } }, UNKNOWN],
    ['nothing but error, charged', ANSWER, { error: 'x', credits_used: 3 }, PAID],
    ['a submission', SUBMIT, { error: 'x' }, UNKNOWN],
  ]
  for (const [what, asked, body, charge] of rows) {
    for (const status of [200, 202]) {
      const sent = reply(status, body)
      t.strictSame(
        judge(asked, sent),
        {
          kind: 'failed',
          class: 'ambiguous',
          fault: 'upstream',
          reply: sent,
          refusal: null,
          charge,
          health: 'down',
          retryAfterMs: null,
          repeatable: 'once',
        },
        what,
      )
    }
  }
})

void t.test('an error whose credits_used says that it was charged has been charged', async (t) => {
  t.match(judge(ANSWER, reply(500, { detail: 'x', credits_used: 3 })), { class: 'serverError', charge: PAID })
  t.match(judge(ANSWER, reply(429, { detail: 'x', credits_used: 0 })), { class: 'queueFull', charge: FREE })
  t.match(judge(STATUS, reply(404, { detail: 'x', credits_used: 3 })), { class: 'rejected', charge: FREE }, 'a poll')
})

void t.test('what is neither an error nor an answer is shown to nobody', async (t) => {
  const cut = JSON.stringify(done({ result: 'a long text' })).slice(0, -9)
  const rows: readonly (readonly [string, Call, Reply, Charge])[] = [
    ['empty', ANSWER, reply(200, ''), UNKNOWN],
    ['a byte-order mark alone', ANSWER, reply(200, '\ufeff'), UNKNOWN],
    ['HTML with a 200', ANSWER, reply(200, HTML, { contentType: 'text/html' }), UNKNOWN],
    ['cut off', ANSWER, reply(200, cut), UNKNOWN],
    ['two values', ANSWER, reply(200, '{"status":"done","result":"a"}{}'), UNKNOWN],
    ['not UTF-8', ANSWER, reply(200, Buffer.from('{"status":"done","result":"\xff"}', 'latin1')), UNKNOWN],
    ['deep beyond reason', ANSWER, reply(200, '['.repeat(100_000)), UNKNOWN],
    ['204', ANSWER, reply(204, ''), UNKNOWN],
    ['302', ANSWER, reply(302, '', { location: 'https://evil.example/' }), FREE],
    ['304 that claims a charge', ANSWER, reply(304, done({ result: 'a' })), FREE],
    ['a status beyond all', ANSWER, reply(999, done({ result: 'a' })), FREE],
    ['202 cut off', SUBMIT, reply(202, '{"job_id":"job_1'), UNKNOWN],
    ['307 for a job', SUBMIT, reply(307, { job_id: 'job_1' }), FREE],
    ['a poll in HTML', STATUS, reply(200, HTML), FREE],
    ['a poll with 302', STATUS, reply(302, '{}'), FREE],
  ]
  for (const [what, asked, sent, charge] of rows) {
    t.strictSame(
      judge(asked, sent),
      {
        kind: 'failed',
        class: 'ambiguous',
        fault: 'upstream',
        reply: null,
        refusal: 'UPSTREAM_INVALID',
        charge,
        health: 'down',
        retryAfterMs: null,
      },
      what,
    )
  }
})

void t.test('a wire that broke: nothing was sent, or nobody knows', async (t) => {
  const base = { kind: 'failed', fault: 'upstream', reply: null, retryAfterMs: null }
  const unsent = { ...base, class: 'unreachable', refusal: 'UPSTREAM_UNREACHABLE', charge: FREE, health: 'down' }
  for (const reason of [
    'refused',
    'name-not-found',
    'tls-expired',
    'outbound-proxy',
    'connect-timeout',
    'reset',
    'timeout',
  ] as const) {
    for (const asked of [ANSWER, SUBMIT, STATUS]) t.strictSame(judgeBroken(asked, false, reason), unsent, reason)
  }
  const sent = { ...base, class: 'ambiguous', health: 'down' }
  const rows = [
    ['reset', 'UPSTREAM_UNREACHABLE'],
    ['timeout', 'UPSTREAM_UNREACHABLE'],
    ['malformed', 'UPSTREAM_INVALID'],
    ['truncated', 'UPSTREAM_INVALID'],
  ] as const
  for (const [reason, refusal] of rows) {
    t.strictSame(judgeBroken(ANSWER, true, reason), { ...sent, refusal, charge: UNKNOWN }, reason)
    t.strictSame(judgeBroken(SUBMIT, true, reason), { ...sent, refusal, charge: UNKNOWN }, reason)
    t.strictSame(judgeBroken(STATUS, true, reason), { ...sent, refusal, charge: FREE }, `${reason} of a poll`)
  }
  for (const asked of [ANSWER, SUBMIT]) {
    const tooBig = { ...sent, refusal: 'UPSTREAM_INVALID', charge: UNKNOWN, health: 'neutral', repeatable: 'never' }
    t.strictSame(judgeBroken(asked, true, 'too-big'), tooBig, 'it would be too big again')
  }
  t.match(judgeBroken(ANSWER, true, 'aborted'), { class: 'ambiguous', charge: UNKNOWN, health: 'neutral' })
  t.match(judgeBroken(ANSWER, false, 'aborted'), { class: 'unreachable', charge: FREE, health: 'neutral' })
})

void t.test('every class that the retry policy knows can be reached', async (t) => {
  const verdicts = [
    ...errors.map(([, status, body]) => judge(ANSWER, reply(status, body))),
    judge(ANSWER, reply(200, '')),
    judgeBroken(ANSWER, false, 'refused'),
  ]
  const reached = new Set(verdicts.map((verdict) => (verdict.kind === 'failed' ? verdict.class : 'ok')))
  t.strictSame([...reached].toSorted(), [...verdictClasses].toSorted())
})

void t.test('Retry-After in all its forms, up to an hour', async (t) => {
  const rows: readonly (readonly [string | null, number | null])[] = [
    ['0', null],
    ['000', null],
    ['7', 7000],
    [' 7 ', 7000],
    ['3600', 3_600_000],
    ['3601', 3_600_000],
    ['60000', 3_600_000],
    ['9'.repeat(400), null],
    ['Mon, 11 May 2026 12:00:30 GMT', 30_000],
    ['Monday, 11-May-26 12:00:30 GMT', 30_000],
    ['Mon May 11 12:00:30 2026', 30_000],
    ['Mon, 11 May 2026 11:00:00 GMT', null],
    ['Mon, 11 May 2026 12:00:00 GMT', null],
    ['Tue, 12 May 2026 12:00:00 GMT', 3_600_000],
    ['Mon, 11 May 2099 12:00:00 GMT', null],
    ['-5', null],
    ['1.5', null],
    ['0x10', null],
    ['soon', null],
    ['Mon, some day', null],
    ['2026-05-11T12:00:30Z', null],
    ['', null],
    [null, null],
  ]
  for (const [retryAfter, expected] of rows) {
    const verdict = judge(ANSWER, reply(429, '', { retryAfter }))
    t.equal(verdict.kind === 'failed' && verdict.retryAfterMs, expected, String(retryAfter))
    t.equal(verdict.reply?.retryAfter === null, expected === null, 'nobody is handed one that was not understood')
  }
  const handedOn = (retryAfter: string) => judge(ANSWER, reply(429, '', { retryAfter })).reply?.retryAfter
  t.equal(handedOn('60000'), '60000', 'as upstream says it')
  t.equal(handedOn('Mon, 11 May 2026 12:00:30 GMT'), '30')
  t.match(judge(ANSWER, reply(302, '', { retryAfter: '7' })), { class: 'ambiguous', retryAfterMs: 7000 })
})

void t.test('a key that upstream echoes is blotted out before anyone sees it', async (t) => {
  const spellings = [
    SECRET,
    JSON.stringify(SECRET).slice(1, -1),
    encodeURIComponent(SECRET),
    encodeURIComponent(SECRET).toLowerCase(),
    // As PHP writes it, as .NET does, in HTML, and a mixture.
    'sk-live\\/\\"4f9a',
    'sk-live/\\u00224f9a',
    'sk-live\\u002F\\u00224f9a',
    'sk-live&#47;&quot;4f9a',
    'sk-live&#x2f;&#034;4f9a',
    'sk-live\\/&#x22;4f9a',
  ]
  for (const spelling of spellings) {
    const raw = Buffer.concat([Buffer.from([0xff, 0xfe]), Buffer.from(`${spelling} and ${spelling}`)])
    const verdict = judge(
      ANSWER,
      reply(403, raw, {
        contentType: `text/${spelling}`,
        location: `/${spelling}`,
        retryAfter: spelling,
      }),
    )
    const clean = Buffer.concat([Buffer.from([0xff, 0xfe]), Buffer.from('[redacted] and [redacted]')])
    t.strictSame(
      verdict.kind === 'failed' && verdict.reply,
      reply(403, clean, { contentType: 'text/[redacted]', location: '/[redacted]', retryAfter: null }),
    )
  }

  const good = judge(ANSWER, reply(200, done({ result: `Your key is ${SECRET}, é` })))
  t.equal(good.kind, 'answered', 'and what is left is still JSON')
  t.match(good.reply && JSON.parse(good.reply.body.toString()), { result: 'Your key is [redacted], é' })

  const marked = judge(ANSWER, reply(429, error('The key credit-7 is slow')), { ...KEY, secret: 'credit-7' })
  t.match(marked, { class: 'queueFull' }, 'nor does the key speak for upstream')

  const dotNet = { ...KEY, secret: 'a+b<c>d&e' }
  for (const spelling of [
    'a\\u002Bb\\u003Cc\\u003Ed\\u0026e',
    'a&#43;b&lt;c&gt;d&amp;e',
    'a%2Bb%3Cc%3Ed%26e',
    'a%2bb<c>d&e',
  ])
    t.match(judge(ANSWER, reply(500, spelling), dotNet), { reply: { body: Buffer.from('[redacted]') } }, spelling)

  const php = { ...KEY, secret: 'a/b"c+d' }
  const once = JSON.stringify(php.secret).slice(1, -1).replace('/', '\\/').replace('+', '\\u002B')
  for (const spelling of [once, JSON.stringify(once).slice(1, -1)])
    t.match(judge(ANSWER, reply(500, spelling), php), { reply: { body: Buffer.from('[redacted]') } }, spelling)

  const odd = { ...KEY, secret: 'ключ\ud800' }
  t.equal(judge(ANSWER, reply(500, 'ok'), odd).kind, 'failed', 'whatever the key is made of')
  for (const secret of [null, '']) {
    const sent = reply(500, 'as it is')
    t.match(judge(STATUS, sent, { ...KEY, secret }), { reply: { body: sent.body } })
  }
})

void t.test('whatever arrives gets a verdict, and prototypes stay as they are', async (t) => {
  const before = Object.getOwnPropertyNames(Object.prototype)
  const body = fc.oneof(
    fc.json().map((text) => Buffer.from(text)),
    fc.uint8Array().map((bytes) => Buffer.from(bytes)),
    fc.jsonValue().map((detail) => Buffer.from(JSON.stringify({ detail, status: 'done', ['__proto__']: detail }))),
  )
  fc.assert(
    fc.property(
      fc.constantFrom(ANSWER, SUBMIT, STATUS),
      fc.integer({ min: 100, max: 999 }),
      body,
      fc.option(fc.string()),
      (asked, status, body, retryAfter) => {
        const verdict = judge(asked, reply(status, body, { retryAfter }))
        if (verdict.kind === 'answered') return status >= 200 && status < 300
        const hasOne = (verdict.reply === null) !== (verdict.refusal === null)
        return hasOne && (verdict.retryAfterMs === null || verdict.retryAfterMs >= 0)
      },
    ),
    { numRuns: 2000 },
  )
  t.strictSame(Object.getOwnPropertyNames(Object.prototype), before)
  t.equal(Reflect.get({}, 'detail'), undefined)
})

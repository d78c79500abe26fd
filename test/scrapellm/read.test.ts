/** What a target becomes: which call, at which price, under which key. The table "Parameters" of docs/vendor-api.md, and what tries to trick it. */
import fc from 'fast-check'
import t from 'tap'
import { ProxyError } from '../../src/errors.ts'
import type { Call, Param, ProxyRequest, Target } from '../../src/model.ts'
import type { KeyLease, Turn } from '../../src/fetch-parts.ts'
import { createProfile } from '../../src/scrapellm/profile.ts'

const profile = createProfile({ version: '1.2.3' }, { wall: () => 0 })
const SEVEN = ['chatgpt', 'perplexity', 'grok', 'copilot', 'gemini', 'google_ai_mode', 'amazon_rufus']
const JOB = '/jobs/5c0d9c1e-8d57-4b6e-9a55-0f3a6f1f2b10'
const KEY: KeyLease = { name: 'main', secret: 'sk-secret', report: () => {} }
const TURN: Turn = {
  number: 1,
  waitedMs: 0,
  bypassCache: false,
  isLast: false,
  isOverBudget: false,
  leftMs: () => 600_000,
  startableMs: () => 590_000,
  spentKeys: new Set(),
}

function target(path: string, ...params: readonly Param[]): Target {
  return { path, params, token: null }
}

function read(target: Target, method = 'GET'): Call {
  return profile.read({ target, method } as unknown as ProxyRequest)
}

function refusal(target: Target, method = 'GET'): ProxyError {
  try {
    read(target, method)
  } catch (error) {
    if (error instanceof ProxyError) return error
  }
  throw new Error(`${method} ${target.path} was let through`)
}

function ask(scraper: string, ...params: readonly Param[]): Call {
  return read(target(`/scrapers/${scraper}`, ...params))
}

/** The parameters upstream finds in what we send, decoded by somebody else's code. */
function forwarded(call: Call): readonly Param[] {
  const { target } = profile.sign(call, TURN, KEY, { id: 'r1', traceparent: null })
  return [...new URL(target, 'http://upstream').searchParams]
}

void t.test('each route is open for each scraper, with its method and price', async (t) => {
  for (const scraper of SEVEN) {
    const prompt: Param = ['prompt', 'Hi']
    for (const method of ['GET', 'HEAD']) {
      t.match(
        read(target(`/scrapers/${scraper}`, prompt), method),
        { endpoint: 'answer', method: 'GET', scraper, path: `/scrapers/${scraper}`, priceCredits: 3, country: 'US' },
        `${method} an answer of ${scraper}`,
      )
    }
    t.match(
      read(target(`/scrapers/${scraper}/jobs`, prompt, ['timeout', '20']), 'POST'),
      { endpoint: 'submit', method: 'POST', scraper, priceCredits: 3, key: null, timeoutMs: 20_000, country: 'US' },
      `submit a job to ${scraper}`,
    )
  }
  t.strictSame(
    read(target(JOB, ['bypass_cache', 'true'], ['timeout', '20'], ['prompt', 'Hi'])),
    {
      endpoint: 'status',
      method: 'GET',
      scraper: 'none',
      path: JOB,
      params: [
        ['bypass_cache', 'true'],
        ['timeout', '20'],
        ['prompt', 'Hi'],
      ],
      key: null,
      bypass: false,
      timeoutMs: null,
      priceCredits: 0,
      promptHash: null,
      country: null,
    },
    'a poll is free, of no scraper, and its parameters mean nothing',
  )
  t.equal(read(target('/jobs/job_abc123')).endpoint, 'status', 'an id as the sync answers have it [making-requests]')
  t.equal(read(target(`/jobs/${'a'.repeat(128)}`)).endpoint, 'status', 'the longest id')
  t.strictSame(profile.scrapers, SEVEN)
})

void t.test('what is not exactly a route is 404, and is told what there is', async (t) => {
  const paths = [
    '/',
    '/scrapers',
    '/scrapers/',
    '/scrapers/none',
    '/scrapers/bing',
    '/scrapers/ChatGPT',
    '/SCRAPERS/chatgpt',
    '/scrapers/chatgpt/',
    '/scrapers//chatgpt',
    '/scrapers/chatgpt/x.css',
    '/scrapers/chatgpt;x.js',
    '/scrapers/chatgpt%23.css',
    '/scrapers/chatgp%74',
    '/scrapers/chatgpt/jobs/',
    '/scrapers/chatgpt/jobs/1',
    '/scrapers/__proto__',
    '/scrapers/constructor',
    '/scrapers/toString/jobs',
    '/scrapers/{scraper}',
    '/jobs',
    '/jobs/',
    '/jobs/a/b',
    '/jobs/a.b',
    '/jobs/a%20b',
    '/jobs/a\n',
    `/jobs/${'a'.repeat(129)}`,
    '/md/job_1.md',
    '/metrics',
    '//scrapers/chatgpt',
    '/x/scrapers/chatgpt',
  ]
  for (const path of paths) {
    for (const method of ['GET', 'POST', 'TRACE']) {
      const error = refusal(target(path), method)
      t.match(error, { code: 'ENDPOINT_UNKNOWN', status: 404, allow: null }, `${method} ${path}`)
    }
  }
  const { message } = refusal(target('/scrapers/my-secret-name'))
  for (const scraper of SEVEN) t.match(message, scraper)
  for (const route of ['GET /scrapers/{scraper}', 'POST /scrapers/{scraper}/jobs', 'GET /jobs/{job_id}']) {
    t.ok(message.includes(route), route)
  }
  t.notMatch(message, 'my-secret-name', 'what was asked for is not echoed')
})

void t.test('a known path with another method is 405, and is told which', async (t) => {
  const rows = [
    ['/scrapers/chatgpt', ['POST', 'PUT', 'DELETE', 'OPTIONS', 'get'], 'GET, HEAD'],
    ['/scrapers/chatgpt/jobs', ['GET', 'HEAD', 'PUT'], 'POST'],
    [JOB, ['POST', 'HEAD', 'DELETE'], 'GET'],
  ] as const
  for (const [path, methods, allow] of rows) {
    for (const method of methods) {
      t.match(refusal(target(path), method), { code: 'METHOD_NOT_ALLOWED', status: 405, allow }, `${method} ${path}`)
    }
  }
  const known = target('/scrapers/chatgpt', ['prompt', 'Hi'])
  read(known)
  t.equal(refusal(known, 'POST').code, 'METHOD_NOT_ALLOWED', 'also when the target has been read before')
})

void t.test('a parameter that comes twice, or is half a character, is refused', async (t) => {
  const twice = (name: string): ProxyError => refusal(target('/scrapers/grok', [name, 'a'], ['x', ''], [name, 'a']))
  t.match(twice('prompt'), { code: 'REQUEST_INVALID', status: 400, message: /prompt/ })
  t.match(twice('web_search').message, /web_search/, 'named when it is one of ours, on whichever scraper')
  t.match(twice('private').code, 'REQUEST_INVALID')
  t.notMatch(twice('private').message, /private/, 'not echoed when it is not')
  for (const name of ['__proto__', 'constructor', 'toString']) t.notMatch(twice(name).message, name)
  t.equal(refusal(target(JOB, ['a', '1'], ['a', '2'])).code, 'REQUEST_INVALID', 'on a poll as well')
  t.equal(
    refusal(target('/scrapers/grok/jobs', ['a', '1'], ['a', '2']), 'POST').code,
    'REQUEST_INVALID',
    'and a submit',
  )
  t.equal(refusal(target('/scrapers/grok', ['prompt', '\ud800'])).code, 'REQUEST_INVALID')
  t.equal(refusal(target('/scrapers/grok', ['\udfff', ''])).code, 'REQUEST_INVALID')
})

void t.test('the key, row by row of the vendor’s parameters', async (t) => {
  const p: Param = ['prompt', 'Which note apps?']
  const same: readonly (readonly [string, Call, Call])[] = [
    ['no country is US', ask('grok', p), ask('grok', p, ['country', 'US'])],
    ['the case of a country', ask('grok', p, ['country', 'de']), ask('grok', p, ['country', 'DE'])],
    ['perplexity searches by default', ask('perplexity', p), ask('perplexity', p, ['web_search', 'true'])],
    ['chatgpt leaves the tree out by default', ask('chatgpt', p), ask('chatgpt', p, ['markdown_json', 'false'])],
    ['bypass_cache selects behaviour', ask('grok', p), ask('grok', p, ['bypass_cache', 'true'])],
    ['bypass_cache=false is the default', ask('grok', p), ask('grok', p, ['bypass_cache', 'false'])],
    ['timeout decides only whether an answer comes', ask('grok', p), ask('grok', p, ['timeout', '20.5'])],
    ['as Python writes it', ask('perplexity', p), ask('perplexity', p, ['web_search', 'True'])],
    ['in capitals', ask('chatgpt', p), ask('chatgpt', p, ['markdown_json', 'FALSE'])],
    ['sample 1 is the usual one', ask('grok', p), ask('grok', p, ['sample', '1'])],
    ['order', ask('grok', p, ['country', 'GB'], ['x', '1']), ask('grok', ['x', '1'], ['country', 'GB'], p)],
  ]
  for (const [why, one, other] of same) {
    t.match(one.key, /^[0-9a-f]{64}$/)
    t.equal(one.key, other.key, `same: ${why}`)
  }

  const plain = ask('chatgpt', p)
  const different: readonly (readonly [string, Call])[] = [
    ['another scraper', ask('gemini', p)],
    ['another prompt', ask('chatgpt', ['prompt', 'Which note app?'])],
    ['the case of a prompt', ask('chatgpt', ['prompt', 'which note apps?'])],
    ['a space behind a prompt', ask('chatgpt', ['prompt', 'Which note apps? '])],
    ['an empty prompt', ask('chatgpt', ['prompt', ''])],
    ['another sample', ask('chatgpt', p, ['sample', '2'])],
    ['yet another sample', ask('chatgpt', p, ['sample', '100'])],
    ['another country', ask('chatgpt', p, ['country', 'GB'])],
    ['an empty country is not the default', ask('chatgpt', p, ['country', ''])],
    ['ß is no country, SS is', ask('chatgpt', p, ['country', 'ß'])],
    ['SS', ask('chatgpt', p, ['country', 'SS'])],
    ['the tree', ask('chatgpt', p, ['markdown_json', 'true'])],
    ['web_search is unknown to chatgpt: verbatim', ask('chatgpt', p, ['web_search', 'true'])],
    ['… and every other value of it', ask('chatgpt', p, ['web_search', 'yes'])],
    ['an unknown parameter', ask('chatgpt', p, ['model', 'x'])],
    ['the case of its value', ask('chatgpt', p, ['model', 'X'])],
    ['the case of a name', ask('chatgpt', p, ['Country', 'US'])],
    ['a nameless one', ask('chatgpt', p, ['', ''])],
    ['brackets', ask('chatgpt', p, ['prompt[]', ''])],
    ['a composed letter', ask('chatgpt', ['prompt', '\u00e9'])],
    ['the same letter decomposed', ask('chatgpt', ['prompt', 'e\u0301'])],
  ]
  const keys = [plain, ...different.map(([, call]) => call)].map((call) => call.key)
  t.notOk(keys.includes(null))
  t.equal(new Set(keys).size, keys.length, `all different: ${different.map(([why]) => why).join(' | ')}`)

  const none: readonly (readonly [string, Call])[] = [
    ['no prompt: upstream says 400', ask('grok')],
    ['web_search=1', ask('perplexity', p, ['web_search', '1'])],
    ['web_search=', ask('perplexity', p, ['web_search', ''])],
    ['markdown_json=on', ask('chatgpt', p, ['markdown_json', 'on'])],
    ['bypass_cache=yes', ask('grok', p, ['bypass_cache', 'yes'])],
    ['timeout=soon', ask('grok', p, ['timeout', 'soon'])],
    ['timeout=9.9', ask('grok', p, ['timeout', '9.9'])],
    ['timeout=601', ask('grok', p, ['timeout', '601'])],
  ]
  for (const [why, call] of none) {
    t.equal(call.key, null, `no key: ${why}`)
    t.equal(call.unknownValue, !why.startsWith('no prompt'), why)
    t.strictSame(forwarded(call), call.params, `forwarded untouched: ${why}`)
  }
})

void t.test('booleans in another case are forwarded as upstream documents them, all else as it came', async (t) => {
  const call = ask('perplexity', ['prompt', 'True'], ['web_search', 'False'], ['bypass_cache', 'TRUE'], ['x', 'True'])
  t.strictSame(call.params, [
    ['prompt', 'True'],
    ['web_search', 'false'],
    ['bypass_cache', 'true'],
    ['x', 'True'],
  ])
  t.strictSame(
    ask('grok', ['prompt', 'x'], ['web_search', 'True']).params[1],
    ['web_search', 'True'],
    'unknown to grok',
  )
})

void t.test('a sample is ours: read from the parameter or the header, and never forwarded', async (t) => {
  const asked = ask('grok', ['prompt', 'x'], ['sample', '7'])
  t.match(asked, { sample: 7, params: [['prompt', 'x']], bypass: false })
  t.equal(ask('grok', ['prompt', 'x']).sample, 1)
  for (const value of ['0', '101', '-1', '1.5', '01', '', 'x', '1e1'])
    t.match(
      refusal(target('/scrapers/grok', ['prompt', 'x'], ['sample', value])),
      { code: 'REQUEST_INVALID', message: /1 to 100/ },
      value,
    )
  const byHeader = (sample: number | null, ...params: Param[]) =>
    profile.read({
      method: 'GET',
      target: target('/scrapers/grok', ['prompt', 'x'], ...params),
      sample,
    } as ProxyRequest)
  t.match(byHeader(3), { sample: 3, key: ask('grok', ['prompt', 'x'], ['sample', '3']).key ?? '' })
  t.equal(byHeader(3, ['sample', '3']).sample, 3)
  t.throws(() => byHeader(3, ['sample', '4']), { code: 'REQUEST_INVALID' })
})

void t.test('the key and the hash of the prompt do not change between versions unnoticed', async (t) => {
  const call = ask('chatgpt', ['prompt', 'Hi'], ['country', 'de'])
  // sha256('1:1' '7:chatgpt' '7:country' '2:DE' '13:markdown_json' '5:false' '6:prompt' '2:Hi'), sha256('Hi')
  t.equal(call.key, '49f7b63213ba56ec9456c3771fde63e9e4516f7ae8312e8e97fc55f4859de4a6')
  t.equal(call.promptHash, '3639efcd08ab')
  t.equal(ask('chatgpt').promptHash, null)
})

void t.test('bypass, timeout and country as the rest of the proxy sees them', async (t) => {
  t.equal(ask('grok', ['bypass_cache', 'true']).bypass, true)
  for (const value of ['True', 'TRUE']) t.equal(ask('grok', ['bypass_cache', value]).bypass, true, value)
  for (const value of ['false', 'False', '1', '']) t.equal(ask('grok', ['bypass_cache', value]).bypass, false, value)
  const timeouts: readonly (readonly [string, number | null])[] = [
    ['10', 10_000],
    ['0.5', 500],
    ['.5', 500],
    ['20.', 20_000],
    ['+20', 20_000],
    ['1e2', 100_000],
    ['0.0015', 2],
    ['99999', 99_999_000],
    ['', null],
    ['0', null],
    ['-5', null],
    ['nan', null],
    ['Infinity', null],
    ['1e308', null],
    ['0x10', null],
    ['5s', null],
    [' 5', null],
    ['1_000', null],
  ]
  for (const [value, ms] of timeouts) t.equal(ask('grok', ['timeout', value]).timeoutMs, ms, `timeout=${value}`)
  t.equal(ask('grok').timeoutMs, null)
  t.equal(ask('grok', ['country', 'gb']).country, 'GB')
  t.equal(ask('grok', ['country', '']).country, '')
})

void t.test('a target is read once, and what was read cannot change', async (t) => {
  const known = target('/scrapers/chatgpt', ['prompt', 'Hi'])
  const call = read(known)
  t.equal(read(known), call)
  t.equal(read(known, 'HEAD'), call, 'HEAD is about the same call')
  t.strictSame(read(target('/scrapers/chatgpt', ['prompt', 'Hi'])), call, 'an equal target, an equal call')
  t.throws(() => Object.assign(call, { key: 'other' }), TypeError)
})

// Properties

const text = fc.oneof(
  fc.string({ unit: 'grapheme', maxLength: 12 }),
  fc.string({ unit: 'binary', maxLength: 6 }),
  fc.string({ unit: fc.constantFrom(...'01:|,=&;+% \0a'.split('')), maxLength: 8 }),
  fc.constantFrom('__proto__', 'constructor', 'toString', 'US', 'us', 'true', 'false', '1:1', 'country', '6:prompt'),
)
const name = fc.oneof(
  text,
  fc.constantFrom('country', 'web_search', 'markdown_json', 'bypass_cache', 'timeout', '__proto__', 'a', 'a|b', '1:a'),
)
const extras = fc
  .uniqueArray(fc.tuple(name, text), { selector: ([name]) => name, maxLength: 5 })
  .map((params): readonly Param[] => params.filter(([name]) => name !== 'prompt'))
const question = fc.record({ scraper: fc.constantFrom(...SEVEN), prompt: text, extras })
type Question = typeof question extends fc.Arbitrary<infer T> ? T : never

function callOf({ scraper, prompt, extras }: Question): Call {
  return ask(scraper, ['prompt', prompt], ...extras)
}

/** What the question means by the table, without any hashing: an independent statement of when two are the same. */
function meaning({ scraper, prompt, extras }: Question): string {
  const defaults: readonly (readonly [string, string, string])[] = [
    ['', 'country', 'US'],
    ['perplexity', 'web_search', 'true'],
    ['chatgpt', 'markdown_json', 'false'],
  ]
  const folded = new Map(extras.filter(([name]) => name !== 'bypass_cache' && name !== 'timeout'))
  for (const [only, name, value] of defaults) {
    if (only === '' || only === scraper) folded.set(name, folded.get(name) ?? value)
  }
  const country = folded.get('country') ?? ''
  folded.set(
    'country',
    country.replaceAll(/[a-z]+/g, (letters) => letters.toUpperCase()),
  )
  return JSON.stringify([scraper, prompt, [...folded].map((param) => JSON.stringify(param)).toSorted()])
}

void t.test('two questions have the same key if and only if they mean the same', async () => {
  const keys = new Map<string, string>()
  const meanings = new Map<string, string>()
  fc.assert(
    fc.property(question, (asked) => {
      const { key } = callOf(asked)
      if (key === null) return true
      const meant = meaning(asked)
      const isConsistent = (keys.get(meant) ?? key) === key && (meanings.get(key) ?? meant) === meant
      keys.set(meant, key)
      meanings.set(key, meant)
      return isConsistent
    }),
    { numRuns: 5000 },
  )
})

void t.test('no delimiter moves a letter from one field into the next', async () => {
  const field = fc.string({ unit: fc.constantFrom(...'01:|,=&ab\0'.split('')), maxLength: 4 })
  fc.assert(
    fc.property(field, field, field, field, (a, b, c, d) => {
      const one = ask('grok', ['prompt', ''], [`x${a}`, b])
      const other = ask('grok', ['prompt', ''], [`x${c}`, d])
      return (one.key === other.key) === (a === c && b === d)
    }),
    { numRuns: 3000 },
  )
})

void t.test('the order of parameters changes neither key nor meaning, and is kept on the way', async () => {
  const shuffled = question.chain((asked) => {
    const params: readonly Param[] = [['prompt', asked.prompt], ...asked.extras]
    return fc.tuple(
      fc.constant(asked.scraper),
      fc.constant(params),
      fc.shuffledSubarray([...params], { minLength: params.length }),
    )
  })
  fc.assert(
    fc.property(shuffled, ([scraper, params, other]) => {
      const call = ask(scraper, ...other)
      return call.key === ask(scraper, ...params).key && JSON.stringify(forwarded(call)) === JSON.stringify(other)
    }),
  )
})

void t.test('the key is of exactly what upstream will read', async () => {
  fc.assert(
    fc.property(question, (asked) => {
      const call = callOf(asked)
      const arrived = forwarded(call)
      return JSON.stringify(arrived) === JSON.stringify(call.params) && ask(asked.scraper, ...arrived).key === call.key
    }),
    { numRuns: 2000 },
  )
})

void t.test('prototypes are names like any other', async (t) => {
  const before = Object.getOwnPropertyNames(Object.prototype)
  const call = ask('grok', ['prompt', 'Hi'], ['__proto__', 'x'], ['constructor', 'y'], ['toString', 'z'])
  t.not(call.key, ask('grok', ['prompt', 'Hi']).key)
  t.strictSame(forwarded(call), call.params)
  t.strictSame(Object.getOwnPropertyNames(Object.prototype), before)
  t.equal(Reflect.get({}, 'x'), undefined)
})

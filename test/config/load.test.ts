/** The loader: golden files with one mistake each, then what is right: merging, references, defaults, masks. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import fc from 'fast-check'
import { hostname, networkInterfaces } from 'node:os'
import t from 'tap'
import { loadConfig } from '../../src/config/load.ts'
import { cacheBytesOf } from '../../src/config/policy.ts'
import { resolveRetry } from '../../src/config/policy.ts'
import { ConfigError } from '../../src/errors.ts'
import type { RetryPolicy } from '../../src/model.ts'

const folder = new URL('cases/', import.meta.url)
const separator = '=== expected\n'

interface Case {
  readonly text: string
  readonly expected: string
}

function readCase(name: string): Case {
  const [text = '', expected = ''] = readFileSync(new URL(name, folder), 'utf8').split(separator)
  return { text, expected }
}

/** Lines `#! environment NAME=value`, `#! without NAME`, `#! set path=value`, `#! file /path content` arrange the case. */
function loadCase(name: string, text: string) {
  const environment: Record<string, string> = { SCRAPELLM_API_KEY: 'upstream-key-of-the-tests' }
  const files = new Map<string, string>()
  const sets: string[] = []
  for (const [, verb, rest = ''] of text.matchAll(/^#! (\w+) (.*)$/gm)) {
    const [, first = '', second = ''] = /^([^= ]+)[= ]?(.*)$/.exec(rest) ?? []
    if (verb === 'environment') environment[first] = second
    if (verb === 'without') delete environment[first]
    if (verb === 'set') sets.push(rest)
    if (verb === 'file') files.set(first, second)
  }
  const readFile = (path: string) => {
    const content = files.get(path)
    if (content === undefined) throw Object.assign(new Error('gone'), { code: 'ENOENT' })
    return content
  }
  return loadConfig([{ name, text }], sets, environment, readFile, known)
}

const known = { scrapers: ['chatgpt', 'perplexity'], priceCredits: 3 }

function mistakesOf(run: () => unknown): readonly string[] {
  try {
    run()
  } catch (error) {
    if (error instanceof ConfigError) return error.mistakes
    throw error
  }
  return []
}

/** After a change of wording: GOLDEN=write node test/config/load.test.ts, then read the difference. */
const isWriting = process.env['GOLDEN'] === 'write'

void t.test('maps are merged in with <<, and what begins with x- is only there to be referred to', async (t) => {
  const text = `
x-limits: &limits { rate: { limit: 5, per: 1m }, credits: { perDay: 100 } }
x-more: &more { credits: { perDay: 7 }, concurrency: 2, scrapers: [chatgpt] }
clients:
  first: { <<: *limits, token: a-token-of-the-tests-1 }
  second:
    <<: [*limits, *more]
    token: a-token-of-the-tests-2
    concurrency: 5
`
  const { clients } = loadCase('merge', text).config
  t.match(clients, {
    first: { rate: { limit: 5 }, credits: { perDay: 100 } },
    second: { rate: { limit: 5 }, credits: { perDay: 100 }, concurrency: 5, scrapers: ['chatgpt'] },
  })
  t.match(
    mistakesOf(() => loadCase('quoted', 'clients: { one: { "<<": {}, token: a-token-of-the-tests } }')),
    [/^clients\.one\.<<: unknown key/],
  )
})

void t.test('each mistake is named with its path, its place and the remedy', async (t) => {
  for (const name of readdirSync(folder)) {
    const { text, expected } = readCase(name)
    const found = mistakesOf(() => loadCase(name, text)).map((line) => `${line}\n`)
    if (isWriting) writeFileSync(new URL(name, folder), text + separator + found.join(''))
    t.ok(found.length > 0, `${name} is a mistake`)
    t.equal(found.join(''), isWriting ? found.join('') : expected, name)
    t.notMatch(found.join(''), /do.?n.?t.?show|sk-live|31337|user:|upstream-key-of/, `${name} repeats no secret`)
  }
})

const environment = { SCRAPELLM_API_KEY: 'upstream-key-of-the-tests' }

function load(text: string | readonly string[], sets: readonly string[] = [], more: Record<string, string> = {}) {
  const texts = typeof text === 'string' ? [text] : text
  const sources = texts.map((one, index) => ({ name: `${index}.yaml`, text: one }))
  const readFile = (path: string) => `content of ${path}\r\n`.replaceAll(' ', '-')
  return loadConfig(sources, sets, { ...environment, ...more }, readFile, known)
}

void t.test('with nothing but the upstream key, everything has its default', async (t) => {
  const { config, warnings } = load('listen: {}')
  t.strictSame(config.listen, {
    host: '127.0.0.1',
    port: 8080,
    reusePort: false,
    hosts: [],
    maxConnections: 20_000,
    keepAlive: 75_000,
  })
  t.strictSame(config.admin, { host: '127.0.0.1', port: 9464 })
  t.equal(config.upstream.keys[0]?.secret.reveal(), 'upstream-key-of-the-tests')
  t.strictSame(Object.keys(config.clients), ['anonymous'], 'callers on loopback are let in')
  t.equal(config.cache.ttl, 12 * 3_600_000)
  t.equal(cacheBytesOf(config, 16 * 1024 ** 3), 256 * 1024 ** 2)
  t.equal(cacheBytesOf(config, 300 * 1024 ** 2), 75 * 1024 ** 2, 'a quarter of a small container')
  t.equal(cacheBytesOf(load('cache: { memory: { maxSize: 1GiB } }').config, 1024 ** 3), 1024 ** 3)
  t.equal(config.cache.staleWhileRevalidate, 0)
  t.strictSame(config.cache.disk, { path: 'data/cache.db', maxSize: 2 * 1024 ** 3 }, 'paid answers survive a restart')
  t.strictSame(config.jobs, { execution: 'sync' })
  t.strictSame(config.breaker, {
    failureRate: 0.9,
    window: 50,
    minimum: 30,
    consecutive: 20,
    questions: 3,
    openFor: 1_000,
    openForMax: 20_000,
    hold: 30_000,
  })
  t.strictSame(config.shutdown, { readinessDelay: 0, grace: 660_000 })
  t.strictSame(warnings, [])
})

void t.test('nobody can change a setting that is in use', async (t) => {
  const { config } = load('clients: { search-team: { token: a-token-of-enough-letters } }')
  const visit = (value: unknown): void => {
    if (typeof value !== 'object' || value === null) return
    t.ok(Object.isFrozen(value))
    Object.values(value).forEach(visit)
  }
  visit(config)
})

void t.test('several files are merged left to right, and --set comes last', async (t) => {
  const below = 'retry: { attempts: 3, backoff: { base: 1s, max: 9s } }\nupstream: { keys: [{ name: one, secret: x }] }'
  const above =
    'retry: { backoff: { base: 2s } }\nupstream: { keys: [{ name: two, secret: y }, { name: three, secret: z }] }'
  const { config } = load(
    [below, above],
    ['retry.backoff.max=20s', 'upstream.keys.1.weight=7', 'clients.a={ token: a-token-of-enough-letters }'],
  )
  t.equal(config.retry.attempts, 3)
  t.strictSame(config.retry.backoff, { base: 2000, max: 20_000 })
  t.strictSame(
    config.upstream.keys.map(({ name, weight }) => [name, weight]),
    [
      ['two', 1],
      ['three', 7],
    ],
    'lists replace',
  )
  t.strictSame(Object.keys(config.clients), ['a'], 'a client may come from the command line')
})

void t.test('what is empty is as if it had not been written', async (t) => {
  const { config } = load(['clients: { a: { token: a-token-of-enough-letters } }', 'clients:\ncache:\n  ttl:\nlog: ~'])
  t.strictSame(Object.keys(config.clients), ['a'], 'an empty "clients:" lets no stranger in')
  t.equal(config.cache.ttl, 12 * 3_600_000)
  const { config: named } = load('clients:\n  anonymous:\n')
  t.strictSame(Object.keys(named.clients), ['anonymous'], 'a client may have nothing to say')
})

void t.test('references are replaced and take the type of their field', async (t) => {
  const text = [
    'listen: { port: "${PORT:-8080}" }',
    'log: { prompts: "${PROMPTS}", level: "${LEVEL:-warn}" }',
    'cache: { ttl: "${HOURS}h" }',
    'admin: { token: "${ADMIN:-}" }',
    'clients:',
    '  a: { token: "${NUMBER}" }',
    '  b: { token: file:/run/secrets/client-b }',
    '  c: { token: "$${not-a-reference}" }',
    '  d: { token: 12345678901234567890 }',
  ].join('\n')
  const { config } = load(text, [], { PORT: '0', PROMPTS: 'true', HOURS: '6', NUMBER: '01234567890123456' })
  t.equal(config.listen.port, 0)
  t.equal(config.log.prompts, true)
  t.equal(config.log.level, 'warn')
  t.equal(config.cache.ttl, 6 * 3_600_000)
  t.equal(config.admin.token, undefined, 'empty = none')
  const tokens = Object.values(config.clients).map((client) => client.token[0]?.reveal())
  t.strictSame(tokens, [
    '01234567890123456',
    'content-of-/run/secrets/client-b',
    '${not-a-reference}',
    '12345678901234567890',
  ])
})

void t.test('a retry class in full: what was said, else its own default, else what holds for all', async (t) => {
  const { config } = load(
    'retry: { attempts: 3, backoff: { base: 2s }, classes: { timeout: { keyRest: 1m }, rateLimited: { attempts: 9, backoff: { max: 40s } } } }',
  )
  const policy: RetryPolicy = resolveRetry(config.retry)
  t.strictSame(policy.classes.timeout, {
    attempts: 2,
    backoff: { base: 2000, max: 30_000 },
    bypassCache: true,
    keyRest: 60_000,
  })
  t.strictSame(policy.classes.rateLimited, {
    attempts: 9,
    backoff: { base: 1000, max: 40_000 },
    bypassCache: false,
    keyRest: null,
  })
  t.strictSame(policy.classes.serverError, {
    attempts: 3,
    backoff: { base: 2000, max: 30_000 },
    bypassCache: false,
    keyRest: null,
  })
  t.equal(policy.classes.creditsExhausted.keyRest, 900_000)

  const never = resolveRetry(load('retry: { attempts: 1 }').config.retry)
  t.ok(
    Object.values(never.classes).every(({ attempts }) => attempts === 1),
    'no default outlives `attempts: 1`',
  )
})

void t.test('the disk may be elsewhere, or not at all', async (t) => {
  t.equal(load('cache: { disk: false }').config.cache.disk, false)
  t.equal(load('cache: { disk: "${DISK:-false}" }').config.cache.disk, false)
  t.strictSame(load('cache: { disk: { path: /var/kept.db } }', ['cache.disk.maxSize=64MiB']).config.cache.disk, {
    path: '/var/kept.db',
    maxSize: 64 * 1024 ** 2,
  })
  const { config } = load(['cache: { disk: false }', 'cache: { disk: { maxSize: 1GiB } }'])
  t.strictSame(config.cache.disk, { path: 'data/cache.db', maxSize: 1024 ** 3 }, 'a later file switches it on again')
  t.doesNotThrow(() => load('jobs: { execution: durable }'), 'the disk is there by default')
})

void t.test('an upstream that is the proxy itself is refused, by whatever name', async (t) => {
  const tokens = 'clients: { a: { token: a-token-of-enough-letters } }\n'
  const addresses = Object.values(networkInterfaces()).flatMap((all = []) => all)
  const own = addresses.find(({ family, internal }) => family === 'IPv4' && !internal)?.address ?? '127.0.0.1'
  const listening = (host: string, url: string) => () =>
    load(`${tokens}listen: { host: "${host}", port: 8080 }\nupstream: { url: "${url}", allowInsecure: true }`)
  const itself: readonly (readonly [host: string, url: string])[] = [
    ['127.0.0.1', 'http://127.0.0.1:8080'],
    ['127.0.0.1', 'http://localhost:8080'],
    ['127.0.0.1', 'https://LOCALHOST.:8080'],
    ['127.0.0.1', 'http://proxy.localhost:8080'],
    ['127.0.0.1', 'http://0.0.0.0:8080'],
    ['localhost', 'http://[::1]:8080'],
    ['localhost', 'http://127.0.0.1:8080'],
    ['::1', 'http://localhost:8080'],
    ['0.0.0.0', 'http://127.0.0.9:8080'],
    ['0.0.0.0', `http://${own}:8080`],
    ['::', `http://${hostname().toLowerCase()}:8080`],
    ['proxy.example', 'http://Proxy.example:8080'],
  ]
  for (const [host, url] of itself)
    t.throws(listening(host, url), { message: /^upstream\.url: is this proxy itself \(listen/ }, `${url} on ${host}`)
  const other: readonly (readonly [host: string, url: string])[] = [
    ['127.0.0.1', 'http://127.0.0.1:8081'],
    ['127.0.0.1', 'http://127.0.0.2:8080'],
    ['0.0.0.0', 'http://192.0.2.1:8080'],
    ['proxy.example', 'http://api.example:8080'],
  ]
  for (const [host, url] of other) t.doesNotThrow(listening(host, url), `${url} on ${host}`)
  t.doesNotThrow(() => load('listen: { port: 0 }\nupstream: { url: "http://127.0.0.1:8080" }'), 'any free port')
})

void t.test('it is known which upstream keys came from which file', async (t) => {
  const { keyFiles } = load(
    [
      'upstream:',
      '  keys:',
      '    - { name: main, secret: "${SCRAPELLM_API_KEY}" }',
      '    - { name: reserve, secret: file:/run/secrets/reserve }',
      '    - { name: far, secret: "file:${FOLDER}/far" }',
      'admin: { token: file:/run/secrets/admin-token }',
    ].join('\n'),
    [],
    { FOLDER: 'mounted' },
  )
  t.strictSame(keyFiles, [
    { name: 'reserve', path: '/run/secrets/reserve' },
    { name: 'far', path: 'mounted/far' },
  ])
  t.strictSame(load('listen: {}').keyFiles, [])
})

void t.test('names of scrapers are taken as they are where nobody knows them', async (t) => {
  const text = 'clients: { anonymous: { scrapers: [nonesuch] } }'
  t.doesNotThrow(() => loadConfig([{ name: 'a', text }], [], environment, () => ''))
})

void t.test('one or more: a token or a list, a limit or a map', async (t) => {
  const { config } = load([
    'clients: { a: { token: [a-token-of-enough-letters, another-token-of-enough-letters] } }',
    'upstream: { perScraper: { chatgpt: 5 } }',
    'clients: { b: { tokenSha256: 5DAC79B33B540A2046B6C008415315B5A4C3D3ADAD16BE2E2E71344B25D80027, rate: { limit: 60, per: 1m } } }',
  ])
  t.equal(config.clients['a']?.token.length, 2)
  t.strictSame(config.clients['b']?.tokenSha256, ['5dac79b33b540a2046b6c008415315b5a4c3d3adad16be2e2e71344b25d80027'])
  t.strictSame(config.clients['b']?.rate, { limit: 60, per: 60_000, burst: 60 }, 'burst is the limit when left out')
  t.strictSame(config.upstream.perScraper, { chatgpt: 5 })
})

void t.test('what is allowed off loopback', async (t) => {
  const client = 'clients: { a: { token: a-token-of-enough-letters } }'
  t.doesNotThrow(() => load([client, 'listen: { host: 0.0.0.0 }']))
  t.doesNotThrow(() => load('listen: { host: "::" }\nclients: { anonymous: { allowAnonymousOnNetwork: true } }'))
  t.doesNotThrow(() => load('admin: { host: 0.0.0.0, token: a-token-of-enough-letters }'))
  for (const host of ['localhost', '127.0.0.53', '::1'])
    t.doesNotThrow(() => load('listen: {}', [`listen.host="${host}"`]), host)
  for (const url of ['http://127.0.0.1:9', 'http://[::1]:9', 'http://localhost', 'https://api.example.com/']) {
    t.equal(load('listen: {}', [`upstream.url="${url}"`]).config.upstream.url, new URL(url).origin)
  }
  t.doesNotThrow(() => load('upstream: { url: http://api.example.com, allowInsecure: true }'))
})

void t.test('settings that work but are hardly meant are warned about', async (t) => {
  const rows: [string, RegExp][] = [
    ['cache: { ttl: 20h, staleIfError: 5h }', /^cache\.ttl and cache\.staleIfError together are 25h; links/],
    ['cache: { staleWhileRevalidate: 13h }', /^cache\.ttl and cache\.staleWhileRevalidate together are 25h; links/],
    [
      'retry: { classes: { serverError: { attempts: 6 } } }',
      /^retry\.classes\.serverError\.attempts is 6, but retry\.attempts ends every request after 4/,
    ],
    [
      'clients: { anonymous: { cache: { ttl: 24h, staleIfError: 1h } } }',
      /^clients\.anonymous\.cache\.ttl and clients\.anonymous\.cache\.staleIfError together are 25h/,
    ],
    [
      'clients: { anonymous: { retry: { attempts: 2, classes: { timeout: { attempts: 3 } } } } }',
      /^clients\.anonymous\.retry\.classes\.timeout\.attempts is 3, but clients\.anonymous\.retry\.attempts ends .* after 2/,
    ],
    [
      'clients: { anonymous: { credits: { perDay: 301, perMonth: 300 } } }',
      /^clients\.anonymous\.credits\.perDay is 301, but .*perMonth ends the month after 300/,
    ],
    ['clients: { anonymous: { credits: { perDay: 2 } } }', /^clients\.anonymous\.credits\.perDay is 2, .* costs 3/],
    ['clients: { anonymous: { credits: { perMonth: 0 } } }', /^clients\.anonymous\.credits\.perMonth is 0, .* costs 3/],
  ]
  for (const [text, expected] of rows) {
    const { warnings } = load(text)
    t.equal(warnings.length, 1, text)
    t.match(warnings[0], expected)
  }
  const fine = [
    'cache: { ttl: 12h, staleIfError: 12h, staleWhileRevalidate: 12h }',
    'clients: { anonymous: { credits: { perDay: 3, perMonth: 3 } } }',
    'clients: { anonymous: { retry: { attempts: 9, classes: { serverError: { attempts: 9 } } } } }',
  ]
  for (const text of fine) t.strictSame(load(text).warnings, [], text)
})

void t.test('mistakes in several files are told apart, in the order of the files', async (t) => {
  const found = mistakesOf(() => load(['log: { level: loud }', 'listen: { port: -1 }'], ['breaker.window=0']))
  t.strictSame(
    found.map((line) => /\(([^()]+)\)$/.exec(line)?.[1]),
    ['0.yaml:1:15', '1.yaml:1:17', '--set breaker.window'],
  )
})

void t.test('a file of any content is settings or a ConfigError, never a crash', async () => {
  const word = fc.constantFrom(
    'listen',
    'clients',
    'upstream',
    'keys',
    ': ',
    '\n',
    '  ',
    '- ',
    '{',
    '}',
    '[',
    ']',
    '"',
    '${',
    '}',
    '*a',
    '&a ',
    '1s',
    '#',
    '\t',
  )
  fc.assert(
    fc.property(fc.array(word, { maxLength: 30 }), (words) => {
      mistakesOf(() => load(words.join('')))
    }),
    { numRuns: 300 },
  )
})

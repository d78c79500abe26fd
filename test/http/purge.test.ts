/** `POST /cache/purge`: what an operator writes, and which answers go; through the real cache, and over the admin port. */
import { request } from 'node:http'
import t from 'tap'
import { createLocalTier } from '../../src/cache/local-tier.ts'
import { createCache } from '../../src/cache/tiered.ts'
import { parseDuration } from '../../src/config/units.ts'
import { ProxyError } from '../../src/errors.ts'
import { createAdmin } from '../../src/http/admin.ts'
import { createPurgeRoute } from '../../src/http/purge.ts'
import type { PurgeFilter } from '../../src/model.ts'
import { epoch, fakeWorld } from '../support/world.ts'
import { aCall, aClient, answered } from '../support/verdicts.ts'

const minute = 60_000

function stage() {
  const world = fakeWorld()
  const filters: PurgeFilter[] = []
  const local = createLocalTier({ maxBytes: 10_000_000, onEvicted: () => undefined })
  const cache = createCache(
    { replay: (body) => body, policies: [] },
    { local, durable: null, shared: null },
    world.clock,
    world.emit,
  )
  const route = createPurgeRoute({
    purge(filter) {
      filters.push(filter)
      return cache.purge(filter)
    },
    scrapers: ['alpha', 'beta'],
    promptHash: (prompt) => `hash of ${prompt}`,
    durationMs: parseDuration,
    clock: world.clock,
  })
  const run = (body: string) => route.run({ segment: '', params: new URLSearchParams(), body })
  const kept: string[] = []
  const keep = (key: string, scraper: string, prompt: string, country: string) => {
    kept.push(key)
    cache.store(
      key,
      aCall({ key, scraper, promptHash: `hash of ${prompt}`, country }),
      answered(),
      { ...aClient().cache, ttl: 24 * 60 * minute },
      { unclaimed: false, ageMs: 0, isPassedOn: false },
    )
  }
  const left = () => kept.filter((key) => local.get(key)).toSorted()
  return { ...world, route, run, keep, left, filters }
}

async function filled() {
  const all = stage()
  all.keep('old', 'alpha', 'one', 'US')
  await all.clock.advance(60 * minute)
  all.keep('a', 'alpha', 'one', 'US')
  all.keep('b', 'beta', 'one', 'DE')
  all.keep('c', 'beta', 'two', 'US')
  await all.clock.advance(minute)
  return all
}

void t.test('What matches all that is given goes, and it says how many that were', async (t) => {
  const rows: [body: object, left: string[]][] = [
    [{}, []],
    [{ scraper: 'beta' }, ['a', 'old']],
    [{ prompt: 'one' }, ['c']],
    [{ country: 'de' }, ['a', 'c', 'old']],
    [{ olderThan: '1h' }, ['a', 'b', 'c']],
    [{ olderThan: '0s' }, []],
    [{ olderThan: '1m' }, ['a', 'b', 'c']],
    [{ olderThan: '2h' }, ['a', 'b', 'c', 'old']],
    [{ scraper: 'alpha', prompt: 'one', country: 'US', olderThan: '30m' }, ['a', 'b', 'c']],
    [{ scraper: 'alpha', prompt: 'two' }, ['a', 'b', 'c', 'old']],
  ]
  for (const [body, expected] of rows) {
    const { run, left } = await filled()
    const answer = await run(JSON.stringify(body))
    t.strictSame(answer.status, 200)
    t.strictSame(answer.body, JSON.stringify({ purged: 4 - expected.length }), JSON.stringify(body))
    t.strictSame(left(), expected, JSON.stringify(body))
  }
})

void t.test('The filter has what was given and nothing else', async (t) => {
  const { run, filters } = stage()
  await run(' {} \n')
  await run('{"scraper":"alpha","prompt":"p","country":"us","olderThan":"90m"}')
  t.strictSame(filters, [
    {},
    { scraper: 'alpha', promptHash: 'hash of p', country: 'US', storedBefore: epoch - 90 * minute },
  ])
})

void t.test('Whatever is not understood drops nothing, and is named', async (t) => {
  const rows: [body: string, detail: RegExp][] = [
    ['', /send \{\} to purge everything/],
    [' \n', /send \{\} to purge everything/],
    ['{', /must be a JSON object/],
    ['null', /must be a JSON object/],
    ['[]', /must be a JSON object/],
    ['"alpha"', /must be a JSON object/],
    ['{"scrapper":"alpha"}', /^Unknown: "scrapper"\. What can be given is scraper, prompt, country, olderThan\.$/],
    ['{"scraper":"alpha","a":1,"b":2}', /^Unknown: "a", "b"\./],
    ['{"__proto__":{}}', /^Unknown: "__proto__"/],
    ['{"toString":"x"}', /^Unknown: "toString"/],
    ['{"scraper":"gamma"}', /^scraper must be one of alpha, beta\./],
    ['{"scraper":null}', /^scraper must be a non-empty string/],
    ['{"prompt":""}', /^prompt must be a non-empty string/],
    ['{"country":["US"]}', /^country must be a non-empty string/],
    ['{"olderThan":60}', /^olderThan must be a non-empty string/],
    ['{"olderThan":"60"}', /^olderThan must be a duration/],
    ['{"olderThan":"1h30m"}', /^olderThan must be a duration/],
  ]
  const { run, left, filters } = await filled()
  for (const [body, detail] of rows) {
    const refusal = await Promise.resolve()
      .then(() => run(body))
      .then(
        () => null,
        (error: unknown) => error,
      )
    t.ok(refusal instanceof ProxyError, body)
    t.match(refusal, { code: 'REQUEST_INVALID', status: 400, message: detail }, body)
  }
  t.equal(left().length, 4)
  t.strictSame(filters, [])
})

void t.test('Over the admin port, with its token only', async (t) => {
  const { route, left, keep, ...world } = stage()
  keep('a', 'alpha', 'one', 'US')
  const admin = createAdmin(
    { host: '127.0.0.1', port: 0, token: 'the-admin-token-here' },
    {
      ...world,
      ready: () => true,
      metrics: async () => ({ contentType: 'text/plain', body: '' }),
      status: () => ({}),
      routes: [route],
    },
  )
  await admin.listen()
  t.teardown(() => admin.close())

  const ask = (method: string, body: string, headers: Record<string, string>): Promise<[number, string]> =>
    new Promise((resolve, reject) => {
      const options = { host: '127.0.0.1', port: admin.port, path: '/cache/purge', method, headers, agent: false }
      const outgoing = request(options, (incoming) => {
        let text = ''
        incoming.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
        incoming.on('end', () => resolve([incoming.statusCode ?? 0, text]))
      })
      outgoing.on('error', reject).end(body)
    })
  const known = { Authorization: 'Bearer the-admin-token-here' }
  t.match(await ask('POST', '{}', {}), [401])
  t.match(await ask('GET', '', known), [405])
  t.match(await ask('POST', '', known), [400, /send \{\} to purge everything/])
  t.strictSame(left(), ['a'])
  t.strictSame(await ask('POST', '{}', known), [200, '{"purged":1}'])
  t.strictSame(left(), [])
})

/** What changed between two configurations, and which of it needs a restart: the whole list, so that it only shrinks on purpose. */
import t from 'tap'
import { needsRestart } from '../../src/config/describe.ts'
import { differences } from '../../src/config/difference.ts'
import { loadConfig } from '../../src/config/load.ts'
import type { Config } from '../../src/config/schema.ts'

const environment = { SCRAPELLM_API_KEY: 'the-key' }

function configOf(text: string, keys = environment): Config {
  const noFile = () => {
    throw new Error('no file')
  }
  return loadConfig([{ name: 'x', text }], [], keys, noFile).config
}

function changes(before: string, after: string): string[] {
  return differences(configOf(before), configOf(after)).map((path) => path.join('.'))
}

void t.test('Fields that differ are told by their path, lists of another length as a whole', async (t) => {
  const rows: readonly (readonly [before: string, after: string, paths: readonly string[]])[] = [
    ['cache: { ttl: 1h }', 'cache: { ttl: 60m } # in other words', []],
    ['cache: { ttl: 1h }', 'cache: { ttl: 2h, disk: false }', ['cache.ttl', 'cache.disk']],
    ['cache: { disk: { maxSize: 1GiB } }', 'cache: { disk: { maxSize: 2GiB } }', ['cache.disk.maxSize'].slice(0, 1)],
    ['log: {}', 'redis: { url: "redis://127.0.0.1" }', ['redis']],
    [
      'clients: { a: { token: a-token-0123456789 }, anonymous: {} }',
      'clients: { a: { token: b-token-0123456789 } }',
      ['clients.a.token.0', 'clients.anonymous'],
    ],
    [
      'upstream: { keys: [{ name: a, secret: s }] }',
      'upstream: { keys: [{ name: a, secret: s, weight: 2 }] }',
      ['upstream.keys.0.weight'],
    ],
    [
      'upstream: { keys: [{ name: a, secret: s }] }',
      'upstream: { keys: [{ name: a, secret: s }, { name: b, secret: t }] }',
      ['upstream.keys'],
    ],
    ['retry: {}', 'retry: { classes: { timeout: { keyRest: 5s } } }', ['retry.classes.timeout.keyRest']],
  ]
  for (const [before, after, paths] of rows) t.strictSame(changes(before, after).toSorted(), paths.toSorted(), after)
})

void t.test('Secrets differ by what they are, not by how they are shown', async (t) => {
  const before = configOf('log: {}', { SCRAPELLM_API_KEY: 'aaaa-the-same-end' })
  const after = configOf('log: {}', { SCRAPELLM_API_KEY: 'bbbb-the-same-end' })
  t.strictSame(differences(before, after), [['upstream', 'keys', '0', 'secret']])
  t.strictSame(differences(before, configOf('log: {}', { SCRAPELLM_API_KEY: 'aaaa-the-same-end' })), [])
})

void t.test('What needs a restart: sockets, files, and the connection to Redis', async (t) => {
  const fixed = [
    'listen.host',
    'listen.port',
    'listen.reusePort',
    'admin.host',
    'admin.port',
    'cache.disk',
    'cache.disk.path',
    'cache.disk.maxSize',
    'audit',
    'audit.path',
    'audit.maxSize',
    'redis',
    'redis.url',
    'redis.sentinel',
    'redis.sentinel.urls',
    'redis.sentinel.urls.0',
    'redis.cluster',
    'redis.username',
    'redis.password',
    'redis.database',
    'redis.timeout',
    'redis.prefix',
  ]
  for (const name of fixed) t.ok(needsRestart(name.split('.')), name)
  const living = [
    'admin.token',
    'upstream.url',
    'upstream.keys',
    'upstream.keys.0.secret',
    'clients.team',
    'clients.team.credits.perDay',
    'cache.memory.maxSize',
    'redis.signingKey',
    'redis.signingKey.0',
    'redis.whenAway',
    'jobs.execution',
    'log.level',
    'shutdown.grace',
    'breaker.window',
    'retry.classes.timeout.backoff.base',
  ]
  for (const name of living) t.notOk(needsRestart(name.split('.')), name)
})

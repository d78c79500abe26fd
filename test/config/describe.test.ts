/** The projections of the schema: JSON Schema, settings table, generated files, and what is printed of a running configuration. */
import { existsSync, readFileSync } from 'node:fs'
import { parse } from 'yaml'
import t from 'tap'
import { fillBlocks, projections } from '../../src/cli/docs.ts'
import { effective, fieldAt, jsonSchema, settingsRows } from '../../src/config/describe.ts'
import { loadConfig } from '../../src/config/load.ts'
import { toYaml } from '../../src/config/yaml.ts'

const root = new URL('../../', import.meta.url)

function read(path: string): string {
  return readFileSync(new URL(path, root), 'utf8')
}

const environment = {
  SCRAPELLM_API_KEY: 'first-upstream-key-0001',
  RESERVE_API_KEY: 'second-upstream-key-0002',
  REPORTS_TOKEN: 'first-reports-token-0003',
  REPORTS_TOKEN_NEXT: 'second-reports-token-0004',
  MY_SERVICE_TOKEN: 'my-service-token-0005',
  ADMIN_TOKEN: 'administrator-token-0006',
}

function load(path: string) {
  return loadConfig([{ name: path, text: read(path) }], [], environment, read)
}

/** Every path of the schema that holds a value, not a map. */
function leaves(path: readonly string[] = []): string[] {
  const names = fieldAt(path)?.names
  return names ? names.flatMap((name) => leaves([...path, name])) : [path.join('.')]
}

void t.test('generated files are fresh: npm run docs', async (t) => {
  for (const { path, render } of projections) {
    const text = existsSync(new URL(path, root)) ? read(path) : null
    t.equal(text, render(text), path)
  }
})

void t.test('generated blocks are filled, once and for all', async (t) => {
  const empty =
    'Before\n<!-- generated:failures -->\n<!-- /generated:failures -->\n<!-- generated:metrics-page -->\nold\n<!-- /generated:metrics-page -->\n'
  const filled = fillBlocks(empty)
  t.match(filled, /\| `ambiguous` \|/)
  t.match(filled, /\| `scrapellm_proxy_requests_total` \| counter \|/)
  t.notMatch(filled, /\nold\n/)
  t.equal(fillBlocks(filled), filled)
  t.throws(() => fillBlocks('<!-- generated:failures -->\n'), /no end/)
  t.throws(() => fillBlocks('<!-- generated:weather -->\n<!-- /generated:weather -->'), /weather/)
})

void t.test('every setting has a meaning and says whether it changes live', async (t) => {
  const visit = (described: unknown, path: string): void => {
    const { properties, additionalProperties, items, anyOf } = described as Record<
      string,
      Record<string, unknown> | undefined
    >
    for (const [name, field] of Object.entries(properties ?? {})) {
      const { description, reload } = field as Record<string, unknown>
      t.match(description, /^.*\.$/, `${path}${name} ends in a full stop`)
      t.match(reload, /^(live|restart)$/, `${path}${name}`)
      visit(field, `${path}${name}.`)
    }
    for (const inner of [additionalProperties, items, ...Object.values(anyOf ?? {})])
      if (typeof inner === 'object') visit(inner, `${path}*.`)
  }
  visit(jsonSchema(), '')
})

void t.test('the JSON Schema knows defaults as people write them, and takes references', async (t) => {
  const { properties, $defs } = jsonSchema() as {
    properties: Record<string, { properties: Record<string, unknown> }>
    $defs: unknown
  }
  t.match(properties['cache']?.properties['ttl'], { default: '12h', reload: 'live' })
  t.match(properties['listen']?.properties['port'], {
    default: 8080,
    anyOf: [{ type: 'integer' }, { $ref: '#/$defs/reference' }],
  })
  t.match($defs, { reference: { type: 'string' } })
})

void t.test('every setting is described', async (t) => {
  const names = settingsRows().map(({ name }) => name)
  for (const path of leaves())
    t.ok(names.includes(path.startsWith('retry.classes.') ? path.split('.').slice(0, 3).join('.') : path), path)
  for (const name of [
    'clients.NAME.rate.limit',
    'upstream.keys[].secret',
    'clients.NAME.retry.classes.CLASS.bypassCache',
  ])
    t.ok(names.includes(name), name)
  t.notOk(
    names.some((name) => name.startsWith('clients.NAME.retry.classes.timeout')),
    'said once for all classes',
  )
})

void t.test('the packaged settings are valid, and editors find their schema', async (t) => {
  for (const path of ['config/default.yaml', 'config/example.yaml', 'config/minimal.yaml']) {
    t.strictSame(load(path).warnings, [], path)
    t.match(read(path), /^# yaml-language-server: \$schema=\.\/schema\.json\n/)
  }
  t.equal(read('config/minimal.yaml').trim().split('\n').length, 5)
})

void t.test('the example shows every setting there is', async (t) => {
  const example: unknown = parse(read('config/example.yaml'))
  const text = read('config/example.yaml')
  for (const path of leaves().filter((one) => !one.startsWith('retry.classes.') && one !== 'clients')) {
    // In comments: the three ways to say where Redis is shut each other out; files of certificates, an outbound proxy, an account of the
    // reader's and webhooks are not there.
    if (/^(?:redis|upstream\.credits|notify|price)\b|\.tls\.|\.ca$|\.proxy$/.test(path)) {
      t.match(text, new RegExp(`^ *#.*\\b${path.split('.').at(-1)}:`, 'm'), path)
      continue
    }
    const value = path
      .split('.')
      .reduce<unknown>((node, step) => (node as Record<string, unknown> | undefined)?.[step], example)
    t.not(value, undefined, path)
  }
  for (const name of fieldAt(['clients', 'any'])?.names ?? [])
    t.ok(read('config/example.yaml').includes(`${name}:`), name)
})

void t.test('the example has the defaults, so that reading it is reading them', async (t) => {
  const example = effective(load('config/example.yaml').config) as Record<string, unknown>
  const defaults = effective(load('config/default.yaml').config) as Record<string, object>
  // The one default that depends on the machine.
  defaults['cache'] = { ...defaults['cache'], memory: { maxSize: '256MiB' } }
  for (const name of ['listen', 'cache', 'retry', 'breaker', 'jobs', 'log', 'shutdown'])
    t.strictSame(example[name], defaults[name], name)
})

void t.test('the settings in effect are printed in human units, without a secret', async (t) => {
  const { config } = load('config/example.yaml')
  const printed = toYaml(effective(config))
  t.match(parse(printed), {
    cache: { ttl: '12h', memory: { maxSize: '256MiB' }, disk: { path: 'data/cache.db', maxSize: '2GiB' } },
    upstream: { keys: [{ name: 'main', secret: '****0001' }, { secret: '****0002' }] },
    admin: { token: '****0006' },
    retry: { classes: { creditsExhausted: { attempts: 1, keyRest: '15m', backoff: { base: '500ms' } } } },
    clients: {
      'search-team': {
        tokenSha256: ['5dac79b3…'],
        rate: { per: '1m', burst: 20 },
        credits: { perDay: 3000, perMonth: 60_000 },
        scrapers: ['chatgpt', 'perplexity', 'gemini'],
      },
      reports: {
        cache: { ttl: '1h', staleIfError: '1h', scope: 'client' },
        retry: { attempts: 2, deadline: '2m', classes: { emptyResult: { attempts: 1 } } },
      },
    },
  })
  for (const secret of Object.values(environment)) t.notMatch(printed, secret)
  t.equal(toYaml(effective(load('config/example.yaml').config)), printed, 'in the same order each time')
  t.notMatch(printed, /undefined|null/)
  const off = loadConfig([{ name: 'off', text: 'cache: { disk: false }' }], [], environment, read)
  t.match(effective(off.config), { cache: { disk: false } })
})

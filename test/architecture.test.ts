/**
 * The shape of src/, kept: who may import whom, one door per library, the vendor's name in its own folder, effects only
 * at the edge, files that say what they are. Each rule is first shown to notice what it forbids.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path/posix'
import t from 'tap'

/** Path below src/ to text. */
type Sources = ReadonlyMap<string, string>

interface Import {
  readonly from: string
  readonly to: string
  readonly isType: boolean
}

const root = new URL('../src/', import.meta.url)
const sources: Sources = new Map(
  readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.ts'))
    .map((path) => [path, readFileSync(new URL(path, root), 'utf8')]),
)

/**
 * What each folder, or file at the root, may import beside itself: folders end in a slash. Types count.
 * Everyone may import config/schema.ts as a type.
 */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  'addresses.ts': [],
  'errors.ts': [],
  'failures.ts': ['errors.ts'],
  'linked-list.ts': [],
  'lua.ts': ['ports.ts'],
  'blink.ts': ['ports.ts'],
  'session.ts': ['lua.ts', 'ports.ts'],
  'model.ts': ['errors.ts', 'failures.ts'],
  'parts.ts': ['fetch-parts.ts', 'failures.ts', 'model.ts', 'errors.ts', 'telemetry/events.ts'],
  'flights.ts': ['model.ts', 'errors.ts'],
  'fetch-parts.ts': ['flights.ts', 'failures.ts', 'model.ts', 'errors.ts', 'telemetry/events.ts'],
  'ports.ts': ['model.ts', 'telemetry/events.ts'],
  'fetch.ts': ['fetch-parts.ts', 'flights.ts', 'parts.ts', 'ports.ts', 'model.ts', 'errors.ts', 'telemetry/events.ts'],
  'pipeline.ts': ['fetch.ts', 'flights.ts', 'parts.ts', 'model.ts', 'errors.ts'],
  // What is shown of the parts, in the words of those who know it.
  'http/': [
    'addresses.ts',
    'failures.ts',
    'fetch-parts.ts',
    'flights.ts',
    'parts.ts',
    'ports.ts',
    'model.ts',
    'errors.ts',
    'linked-list.ts',
    'cache/entry.ts',
    'telemetry/events.ts',
    'telemetry/ledger.ts',
    'telemetry/trail.ts',
    'telemetry/history.ts',
    'telemetry/history-step.ts',
    'telemetry/outcome-status.ts',
    'telemetry/pace.ts',
  ],
  'scrapellm/': ['failures.ts', 'fetch-parts.ts', 'parts.ts', 'model.ts', 'errors.ts', 'telemetry/events.ts'],
  'cache/': ['blink.ts', 'lua.ts', 'parts.ts', 'ports.ts', 'model.ts', 'errors.ts', 'telemetry/events.ts'],
  'limits/': [
    'fetch-parts.ts',
    'parts.ts',
    'ports.ts',
    'model.ts',
    'errors.ts',
    'lua.ts',
    'session.ts',
    'telemetry/events.ts',
  ],
  'jobs/': ['fetch-parts.ts', 'parts.ts', 'ports.ts', 'model.ts', 'errors.ts', 'session.ts', 'telemetry/events.ts'],
  'notify/': ['lua.ts', 'ports.ts', 'telemetry/events.ts'],
  'keys/': ['fetch-parts.ts', 'failures.ts', 'ports.ts', 'model.ts', 'errors.ts', 'telemetry/events.ts'],
  'resilience/': [
    'blink.ts',
    'failures.ts',
    'fetch-parts.ts',
    'flights.ts',
    'parts.ts',
    'ports.ts',
    'model.ts',
    'errors.ts',
    'lua.ts',
    'linked-list.ts',
    'session.ts',
    'telemetry/events.ts',
  ],
  'telemetry/': ['failures.ts', 'fetch-parts.ts', 'parts.ts', 'ports.ts', 'model.ts', 'errors.ts', 'linked-list.ts'],
  'world/': ['parts.ts', 'ports.ts', 'model.ts', 'errors.ts', 'linked-list.ts', 'telemetry/events.ts'],
  'config/': ['addresses.ts', 'errors.ts', 'failures.ts', 'keys/secret.ts'],
  'config/reload.ts': ['errors.ts', 'ports.ts', 'config/'],
  // One generation of settings, and which of them are in use.
  'serving.ts': [
    'addresses.ts',
    'http/',
    'cache/',
    'jobs/',
    'keys/',
    'resilience/',
    'telemetry/',
    'config/',
    'options.ts',
    'pipeline.ts',
    'fetch-parts.ts',
    'flights.ts',
    'parts.ts',
    'ports.ts',
    'model.ts',
  ],
  'generations.ts': ['serving.ts', 'ports.ts', 'model.ts'],
  // Over the parts, after and before their time.
  'shutdown.ts': ['flights.ts', 'generations.ts', 'http/', 'jobs/', 'ports.ts', 'errors.ts', 'telemetry/'],
  'crash-recovery.ts': [
    'serving.ts',
    'http/cache-directives.ts',
    'jobs/durable.ts',
    'parts.ts',
    'ports.ts',
    'model.ts',
  ],
  'options.ts': ['addresses.ts', 'config/', 'keys/key-state.ts', 'model.ts', 'ports.ts', 'resilience/bulkhead.ts'],
  'simulator/': [],
  // The parts once more, in virtual time, in front of an upstream that is played.
  'replay/': [
    'failures.ts',
    'pipeline.ts',
    'fetch-parts.ts',
    'parts.ts',
    'ports.ts',
    'model.ts',
    'errors.ts',
    'cache/',
    'config/policy.ts',
    'config/schema.ts',
    'keys/',
    'limits/',
    'resilience/',
    'telemetry/ledger.ts',
    'telemetry/outcome-status.ts',
    'http/cache-directives.ts',
  ],
  // A look at the world before the start, through the doors that will be used.
  'doctor/': [
    'addresses.ts',
    'config/route.ts',
    'config/policy.ts',
    'config/units.ts',
    'ports.ts',
    'world/authority.ts',
    'world/clock.ts',
    'world/dial.ts',
    'world/redis-client.ts',
    'world/redis-failure.ts',
  ],
  'cli/': [
    'config/',
    'simulator/',
    'compose.ts',
    'options.ts',
    'world/',
    'errors.ts',
    'keys/secret.ts',
    'ports.ts',
    'replay/',
    'doctor/',
  ],
  // Writes the tables of the README, the one of all metrics among them.
  'cli/docs.ts': [
    'failures.ts',
    'config/',
    'cli/',
    'compose.ts',
    'errors.ts',
    'telemetry/labels.ts',
    'telemetry/metrics.ts',
  ],
  'compose.ts': [
    'compose/',
    'scrapellm/',
    'http/',
    'limits/',
    'config/',
    'serving.ts',
    'options.ts',
    'shutdown.ts',
    'ports.ts',
    'telemetry/',
  ],
  // Its builders, one for each group of parts.
  'compose/': [
    'http/',
    'cache/',
    'limits/',
    'jobs/',
    'keys/',
    'resilience/',
    'telemetry/',
    'config/',
    'notify/',
    'serving.ts',
    'options.ts',
    'crash-recovery.ts',
    'generations.ts',
    'session.ts',
    'linked-list.ts',
    'parts.ts',
    'ports.ts',
    'model.ts',
    'errors.ts',
  ],
  'main.ts': ['compose.ts', 'config/', 'world/', 'cli/', 'errors.ts'],
}

/** A library is used in the files named here and nowhere else; what is not named is not used at all. */
const doors: Readonly<Record<string, readonly string[]>> = {
  'http-proxy-3': ['world/transport.ts'],
  undici: ['world/http-client.ts', 'world/transport.ts'],
  ioredis: ['world/redis-client.ts'],
  opossum: ['resilience/breaker.ts'],
  'lru-cache': ['cache/local-tier.ts'],
  'prom-client': ['telemetry/metrics.ts'],
  pino: ['telemetry/log.ts'],
  'sonic-boom': ['world/output.ts'],
  zod: ['config/'],
  yaml: ['config/yaml.ts'],
  '@opentelemetry/api': ['telemetry/tracing.ts'],
}

/** Parts of Node that have a door, too; their types may be named by the neighbours of the door. */
const nodeDoors: Readonly<Record<string, readonly string[]>> = {
  'node:http': [
    'http/server.ts',
    'http/node-server.ts',
    'http/bad-request.ts',
    'world/transport.ts',
    'world/dial.ts',
    'doctor/exchange.ts',
    'simulator/',
  ],
  'node:https': ['http/node-server.ts', 'doctor/exchange.ts'],
  'node:tls': ['world/authority.ts', 'world/dial.ts', 'doctor/upstream.ts'],
  'node:sqlite': ['world/disk-file.ts'],
}

const edge = ['world/', 'main.ts', 'cli/', 'doctor/', 'simulator/', 'config/reload.ts', 'lua.ts']
const effects =
  /\bDate\.now\b|\bnew Date\(\)|\bperformance\.now\b|\bMath\.random\b|\brandom(?:UUID|Bytes|Int)\b|(?<![.\w])set(?:Timeout|Interval|Immediate)\b|\bprocess\.(?:env|argv|exit|exitCode|on|once|stdout|stderr|hrtime)\b|'node:(?:fs|fs\/promises|child_process)'/g

const vendorFolders = ['scrapellm/', 'simulator/', 'compose.ts']
/** The product's own name, and the two words of its settings that its users must be able to write. */
const ownNames = /scrapellm[-_]proxy|SCRAPELLM_API_KEY|https:\/\/api\.scrapellm\.com/g

// Rules: each returns its violations, one line each

function importViolations(files: Sources): string[] {
  return importsOf(files)
    .filter(
      ({ from, to, isType }) =>
        !(isType && to === 'config/schema.ts') && !isIn([homeOf(from), ...(rowOf(from) ?? [])], to),
    )
    .map(({ from, to }) => `${from} must not import ${to}`)
}

function cycles(files: Sources): string[] {
  const edges = Map.groupBy(importsOf(files), ({ from }) => from)
  const done = new Set<string>()
  const visit = (path: string, trail: readonly string[]): string[] => {
    const start = trail.indexOf(path)
    if (start >= 0) return [[...trail.slice(start), path].join(' → ')]
    if (done.has(path)) return []
    const found = (edges.get(path) ?? []).flatMap(({ to }) => visit(to, [...trail, path]))
    done.add(path)
    return found
  }
  return [...files.keys()].flatMap((path) => visit(path, []))
}

function doorViolations(files: Sources): string[] {
  const isNode = (to: string) => to.startsWith('node:')
  return librariesOf(files)
    .filter(({ from, to, isType }) =>
      isNode(to) ? !isType && to in nodeDoors && !isIn(nodeDoors[to] ?? [], from) : !isIn(doors[to] ?? [], from),
    )
    .map(({ from, to }) => `${from} must not use ${to}`)
}

function vocabularyViolations(files: Sources): string[] {
  return linesOf(files, vendorFolders, (text) => text.replaceAll(ownNames, ''), /scrapellm/i)
}

function effectViolations(files: Sources): string[] {
  return linesOf(files, edge, withoutComments, new RegExp(effects.source))
}

function styleViolations(files: Sources): string[] {
  return [...files].flatMap(([path, text]) => [
    ...(/(^|\/)[a-z][a-z0-9]*(-[a-z0-9]+)*\.ts$/.test(path) ? [] : [`${path} is not named in kebab-case`]),
    ...(/(^|\/)(utils?|helpers?|common|types|index)\.ts$/.test(path) ? [`${path} has a name that says nothing`] : []),
    ...(headOf(text) === '' ? [`${path} does not begin by saying what it is`] : []),
    ...(/^export default\b/m.test(text) ? [`${path} has a default export`] : []),
    ...(/^export (type )?(\*|\{[^}]*\}) from /m.test(text) ? [`${path} passes on what others export`] : []),
  ])
}

// Reading

function importsOf(files: Sources): Import[] {
  return statementsOf(files)
    .filter(({ to }) => to.startsWith('.'))
    .map(({ from, to, isType }) => ({ from, to: join(dirname(from), to), isType }))
}

function librariesOf(files: Sources): Import[] {
  return statementsOf(files)
    .filter(({ to }) => !to.startsWith('.'))
    .map((one) => ({ ...one, to: packageOf(one.to) }))
}

function packageOf(specifier: string): string {
  if (specifier.startsWith('node:')) return specifier
  return specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/')
}

const statement = /^(?:import|export)\s+(type\s+)?(?:[\w*{}\s,$]+?\s+from\s+)?'([^']+)'|\bimport\(\s*'([^']+)'/gm

function statementsOf(files: Sources): Import[] {
  return [...files].flatMap(([from, text]) =>
    [...withoutComments(text).matchAll(statement)].map(([, type, to, late]) => ({
      from,
      to: to ?? late ?? '',
      isType: type !== undefined,
    })),
  )
}

/** The row of a file itself, or else of its folder. */
function rowOf(path: string): readonly string[] | undefined {
  return mayImport[path] ?? mayImport[homeOf(path)]
}

function homeOf(path: string): string {
  return path.includes('/') ? `${path.split('/')[0]}/` : path
}

function isIn(places: readonly string[], path: string): boolean {
  return places.some((place) => (place.endsWith('/') ? path.startsWith(place) : path === place))
}

function linesOf(
  files: Sources,
  allowed: readonly string[],
  prepare: (text: string) => string,
  forbidden: RegExp,
): string[] {
  return [...files]
    .filter(([path]) => !isIn(allowed, path))
    .flatMap(([path, text]) =>
      prepare(text)
        .split('\n')
        .flatMap((line, index) => (forbidden.test(line) ? [`${path}:${index + 1} ${line.trim()}`] : [])),
    )
}

/** Line numbers stay as they are. */
function withoutComments(text: string): string {
  return text
    .replaceAll(/\/\*[\s\S]*?\*\//g, (comment) => comment.replaceAll(/[^\n]/g, ''))
    .replaceAll(/(^|\s)\/\/.*$/gm, '$1')
}

function headOf(text: string): string {
  return /^(?:#!.*\n)?(\/\*\*[\s\S]*?\*\/|(\/\/.*\n)+)/.exec(text)?.[0] ?? ''
}

// Tests

interface Rule {
  readonly name: string
  readonly check: (files: Sources) => string[]
  /** What it must notice, by path and text. */
  readonly wrong: readonly (readonly [path: string, text: string])[]
  readonly right: readonly (readonly [path: string, text: string])[]
}

const rules: readonly Rule[] = [
  {
    name: 'who may import whom',
    check: importViolations,
    wrong: [
      ['model.ts', "import type { X } from './parts.ts'"],
      ['cache/a.ts', "import {\n  x,\n} from '../http/b.ts'"],
      ['scrapellm/a.ts', "import type { Clock } from '../ports.ts'"],
      ['keys/a.ts', "import { schema } from '../config/schema.ts'"],
      ['simulator/a.ts', "const later = await import('../model.ts')"],
      ['stray.ts', "import './model.ts'"],
    ],
    right: [
      ['cache/a.ts', "import type { Config } from '../config/schema.ts'\nimport { b } from './b.ts'"],
      ['compose/a.ts', "import { a } from '../cache/a.ts'"],
    ],
  },
  {
    name: 'no import goes in a circle, types included',
    check: cycles,
    wrong: [
      ['cache/a.ts', "import { b } from './b.ts'"],
      ['cache/b.ts', "import { c } from './c.ts'"],
      ['cache/c.ts', "import type { A } from './a.ts'"],
    ],
    right: [
      ['cache/a.ts', "import { b } from './b.ts'\nimport { c } from './c.ts'"],
      ['cache/b.ts', "import { c } from './c.ts'"],
    ],
  },
  {
    name: 'one door per library',
    check: doorViolations,
    wrong: [
      ['http/a.ts', "import { z } from 'zod'"],
      ['cache/a.ts', "import http from 'node:http'"],
      ['cache/b.ts', "import leftPad from 'left-pad'"],
      ['cache/c.ts', "import type { LRUCache } from 'lru-cache/raw'"],
    ],
    right: [
      ['http/a.ts', "import type { Socket } from 'node:http'\nimport { join } from 'node:path'"],
      ['config/schema.ts', "import * as z from 'zod'"],
    ],
  },
  {
    name: "the vendor's name is in its own folder only",
    check: vocabularyViolations,
    wrong: [
      ['cache/a.ts', '// as ScrapeLLM does'],
      ['http/a.ts', "const host = 'scrapellm.com'"],
    ],
    right: [
      ['cache/a.ts', "const name = 'scrapellm-proxy'"],
      ['scrapellm/a.ts', '// ScrapeLLM'],
    ],
  },
  {
    name: 'time, chance, environment and disk are reached at the edge only',
    check: effectViolations,
    wrong: [
      ['cache/a.ts', 'const now = Date.now()'],
      ['cache/b.ts', 'setTimeout(job, 5)'],
      ['cache/c.ts', "import { readFileSync } from 'node:fs'"],
      ['config/load.ts', "const home = process.env['HOME']"],
      ['cache/d.ts', 'const at = new Date()'],
    ],
    right: [
      ['cache/a.ts', '// Date.now() would be wrong here\nsocket.setTimeout(5)\nnew Date(at)'],
      ['world/clock.ts', 'Date.now()'],
    ],
  },
  {
    name: 'files have a name and a head that say what they are, and export what is theirs',
    check: styleViolations,
    wrong: [
      ['cache/localTier.ts', '/** A. */\n'],
      ['cache/helper.ts', '/** A. */\n'],
      ['cache/a.ts', 'const a = 1\n'],
      ['cache/b.ts', '/** A. */\nexport default 1\n'],
      ['cache/c.ts', "/** A. */\nexport * from './a.ts'\n"],
    ],
    right: [
      ['cache/local-tier.ts', '/** A. */\nexport { a }\n'],
      ['cache/b.ts', '// A.\nexport const b = 1\n'],
      ['main.ts', '#!/usr/bin/env node\n/** A. */\n'],
    ],
  },
]

for (const { name, check, wrong, right } of rules) {
  void t.test(name, async (t) => {
    // A circle needs all of its files; any other rule must notice each one alone.
    const samples = check === cycles ? [wrong] : wrong.map((sample) => [sample])
    for (const sample of samples)
      t.equal(check(new Map(sample)).length, 1, `notices ${sample[0]?.[1].split('\n')[0]?.slice(0, 60)}`)
    t.strictSame(check(new Map(right)), [], 'lets pass what is allowed')
    t.strictSame(check(sources), [])
  })
}

void t.test('the tables speak of what exists', async (t) => {
  t.ok(sources.size > 50)
  const homes = new Set([...sources.keys()].map(homeOf))
  for (const home of homes) t.ok(mayImport[home], `${home} has a row`)
})

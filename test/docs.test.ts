/**
 * The documentation says what is so: its tables are those of the code, its samples work, its links lead somewhere, and there is a row for
 * every code, log line, class and story. `pages.test.ts` runs what is on the pages.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { helpText } from '../src/cli/help.ts'
import { fillBlocks, projections } from '../src/cli/docs.ts'
import { fieldAt, settingsRows } from '../src/config/describe.ts'
import { loadConfig } from '../src/config/load.ts'
import { resolveRetry } from '../src/config/policy.ts'
import { schema } from '../src/config/schema.ts'
import { refusals } from '../src/errors.ts'
import { labelLists } from '../src/telemetry/labels.ts'
import { metricCatalogue } from '../src/telemetry/metrics.ts'
import { usesIn } from './support/grafana.ts'
import { anchorsOf, blocksOf, pagePaths } from './support/pages.ts'
import { root, start, type Finished } from './support/process.ts'
import { aProxy } from './support/proxy.ts'

const TOKEN = 'search-team-example-token'

const read = (path: string): string => readFileSync(join(root, path), 'utf8')
const readme = read('README.md')
const { scripts } = JSON.parse(read('package.json')) as { scripts: Readonly<Record<string, string>> }

/** What stands below a heading, up to the next one of its level. */
function section(heading: string): string {
  const [, text = ''] = new RegExp(`^## ${heading}$([^]*?)(?=^## |$(?![^]))`, 'm').exec(readme) ?? []
  return text
}

/** First cells of the rows of a table, without the backticks. */
function rowsIn(text: string): string[][] {
  return [...text.matchAll(/^\| (`.*) \|$/gm)].map(([, row = '']) => row.split(' | '))
}

function bare(cell: string | undefined): string {
  return (cell ?? '').replaceAll('`', '')
}

// Tables

void t.test('what is generated is fresh', async (t) => {
  for (const { path, render } of projections) {
    const text = read(path)
    t.equal(render(text) ?? text, text, `${path}: npm run docs`)
  }
})

void t.test('npm run docs:check says so, and without a wish the program says what it takes', async (t) => {
  const docs = join(root, 'src/cli/docs.ts')
  t.match(await start(t, process.execPath, [docs, '--check']).ended, { code: 0, stderr: '' })
  t.match(await start(t, process.execPath, [docs]).ended, { code: 1, stderr: /--write \| --check/ })
})

void t.test('a block that nobody can fill, or that has no end, is noticed', async (t) => {
  t.match(fillBlocks('<!-- generated:failures -->\nold\n<!-- /generated:failures -->'), /^<!-- [^]*ambiguous[^]* -->$/)
  t.notMatch(fillBlocks('<!-- generated:failures -->\nold\n<!-- /generated:failures -->'), 'old')
  t.throws(() => fillBlocks('<!-- generated:nonsense -->\n<!-- /generated:nonsense -->'), /nonsense/)
  t.throws(() => fillBlocks('<!-- generated:failures -->\n'), /no end/)
})

void t.test('the table of failure classes has a row for each, with its attempts', async (t) => {
  const { config } = loadConfig([], [], { SCRAPELLM_API_KEY: 'key' }, () => '')
  const { classes } = resolveRetry(config.retry)
  const [, table = ''] = /^## What is repeated$([^]*?)^## /m.exec(read('docs/retries-breakers-limits.md')) ?? []
  const rows = rowsIn(table).map(([name, , attempts]) => [bare(name), attempts])
  const wanted = Object.entries(classes).map(([name, { attempts }]) => [name, String(attempts)])
  t.strictSame(rows, [...wanted, ['rejected', 'never']])
  t.strictSame(
    rows.map(([name]) => name),
    labelLists.class,
  )
})

void t.test('every metric that is named exists', async (t) => {
  const names = new Set(
    metricCatalogue.flatMap(({ name, type }) =>
      type === 'histogram' ? ['', '_bucket', '_sum', '_count'].map((end) => name + end) : [name],
    ),
  )
  const grafana = readdirSync(join(root, 'grafana'), { recursive: true, encoding: 'utf8' })
  const files = grafana.filter((path) => /\.(?:md|json|ya?ml)$/.test(path)).map((path) => `grafana/${path}`)
  t.ok(files.length > 2)
  for (const path of [...pagePaths, 'CHANGELOG.md', ...files]) {
    // A name with a colon is a recording rule's, which the rules themselves define.
    for (const [name] of read(path).matchAll(/scrapellm_proxy_[a-z][a-z_]*[a-z](?![a-z_\d:])/g))
      t.ok(names.has(name), `${path}: ${name}`)
  }
})

void t.test('every query on a page asks for labels and values that there are', async (t) => {
  const lists: Readonly<Record<string, readonly (string | number)[]>> = labelLists
  const catalogue = new Map(metricCatalogue.map(({ name, labels }) => [name, labels]))
  const queries = pagePaths.flatMap((path) => blocksOf(read(path)).filter(({ language }) => language === 'promql'))
  t.ok(queries.length > 3)
  for (const { text } of queries) {
    for (const query of text.split(/\n\s*\n/)) {
      const uses = usesIn(query)
      t.ok(uses.length > 0, query)
      const offered = uses.flatMap(({ name }) => catalogue.get(name.replace(/_(?:bucket|sum|count)$/, '')) ?? [])
      for (const { matchers, grouped } of uses) {
        for (const label of grouped) t.ok(offered.includes(label), `${label}: ${query}`)
        for (const { label, values } of matchers) {
          t.ok(offered.includes(label), `${label}: ${query}`)
          for (const value of lists[label] ? values : [])
            t.ok(lists[label]?.map(String).includes(value), `${value}: ${query}`)
        }
      }
    }
  }
})

/** The first table of the page. */
function mapOfSource(): string {
  return /^## The map$([^]*?)^## /m.exec(read('src/README.md'))?.[1] ?? ''
}

void t.test('the map of src/ has a row for every folder and root file', async (t) => {
  const rows = rowsIn(mapOfSource()).map(([name]) => bare(name))
  const there = readdirSync(join(root, 'src'), { withFileTypes: true })
    .filter(({ name }) => name !== 'README.md')
    .map((entry) => (entry.isDirectory() ? `${entry.name}/` : entry.name))
  t.strictSame(rows.toSorted(), there.toSorted())
})

void t.test('every feature is the title of a story', async (t) => {
  const stories = readdirSync(join(root, 'test/stories')).map((name) => read(`test/stories/${name}`))
  const features = [...read('docs/features.md').matchAll(/^- (.+)$/gm)].map(([, title = '']) => title)
  t.ok(features.length > 20)
  for (const title of features) {
    const isTold = stories.some((text) => [`'${title}'`, `"${title}"`].some((quoted) => text.includes(quoted)))
    t.ok(isTold, title)
  }
})

// Pages

const docs = pagePaths.filter((path) => path.startsWith('docs/'))

void t.test('every page says for whom it is and what one can do after it, and is in the index', async (t) => {
  const index = read('docs/README.md')
  for (const path of docs) {
    const people = '(?:everyone|service developers|operators|tuners|contributors)'
    t.match(read(path), new RegExp(`^# .+\\n\\n\\*For ${people}[^]*?After this page [^]*?\\*\\n`), path)
    if (path !== 'docs/README.md') t.match(index, `](${path.replace('docs/', '')})`, path)
    if (path !== 'docs/README.md') t.match(readme, `](${path})`, path)
  }
})

void t.test('every code is a heading, with its statuses, causes and remedy', async (t) => {
  const [, section = ''] = /^## Refusals of the proxy$([^]*?)^## /m.exec(read('docs/troubleshooting.md')) ?? []
  const told = section.matchAll(/^### (\w+)\n\nStatus ([\d, ]+)\. \*\*Causes:\*\* .+ \*\*Remedy:\*\* .+$/gm)
  t.strictSame(
    Array.from(told, ([, code, statuses]) => [code, statuses]),
    Object.entries(refusals).map(([code, { statuses }]) => [code, statuses.join(', ')]),
  )
})

void t.test('every setting that is named exists', async (t) => {
  const sections = Object.keys(schema.shape).join('|')
  const pattern = new RegExp(`\`((?:${sections})(?:\\.[\\w-]+)+)\``, 'g')
  const all = new Set(settingsRows().map(({ name }) => name))
  const isKnown = (name: string): boolean =>
    [...all].some((one) => one === name || one.startsWith(`${name}.`)) ||
    fieldAt(name.split('.').map((step) => (step === 'CLASS' ? 'timeout' : step))) !== null
  for (const path of [...pagePaths, 'CHANGELOG.md', 'deploy/README.md']) {
    for (const [, name = ''] of read(path).matchAll(pattern)) {
      if (!/\.(?:ts|json|yaml|md)$/.test(name)) t.ok(isKnown(name), `${path}: ${name}`)
    }
  }
})

void t.test('every log line has a row, and every row is a log line', async (t) => {
  const source = sourcesIn('src').map(read).join('\n')
  const written = [...source.matchAll(/\blog\.(?:info|warn|error)\('([^']+)'/g)].map(([, msg = '']) => msg)
  const [, table = ''] = /^\| `msg` \|([^]*?)\n\n/m.exec(read('docs/dashboards-and-alerts.md')) ?? []
  const told = rowsIn(table).flatMap(([names = '']) => [...names.matchAll(/`([^`]+)`/g)].map(([, msg = '']) => msg))
  t.ok(written.length > 15)
  for (const msg of written) t.ok(told.includes(msg), `the page tells of "${msg}"`)
  for (const msg of told) t.ok(source.includes(msg), `the program says "${msg}"`)
})

void t.test('the recipes name every file that a change of their kind touches', async (t) => {
  const text = read('CONTRIBUTING.md')
  const recipes = { 'a failure class': /warmingUp/, 'a scraper': /google_ai_mode/, 'a metric': /'overload_state'/ }
  for (const [what, marker] of Object.entries(recipes)) {
    const [, recipe = ''] = new RegExp(`^### Add ${what}$([^]*?)^##`, 'm').exec(text) ?? []
    for (const path of sourcesIn('src').filter((one) => marker.test(read(one))))
      t.match(recipe, `\`${path}\``, `${what}: ${path}`)
  }
})

function sourcesIn(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.ts'))
    .map((path) => `${folder}/${path}`)
}

// Commands

void t.test('every npm command that is named is a script', async (t) => {
  const missing = pagePaths.flatMap((path) =>
    [...read(path).matchAll(/npm run (?:-s )?([\w:-]+)/g)]
      .map(([, script = '']) => script)
      .filter((script) => !scripts[script])
      .map((script) => `${path}: npm run ${script}`),
  )
  t.strictSame(missing, [])
  const commands = helpText(null)
  for (const path of pagePaths) {
    for (const [, command = ''] of read(path).matchAll(/npm start -- ([a-z]+)/g))
      t.match(commands, new RegExp(`^  ${command} `, 'm'), `${path}: npm start -- ${command}`)
  }
  for (const line of ['npm ci && npm run demo', 'npm ci && npm start', 'npm ci && npm test'])
    t.match(section('Run it'), line)
})

void t.test('every packaged settings file is right', async (t) => {
  const environment = new Proxy({}, { get: (_target, name) => `${String(name)}-of-the-documentation-test` })
  for (const text of ['default', 'minimal', 'example'].map((name) => read(`config/${name}.yaml`))) {
    // example.yaml takes its port from the environment, which answers with words here.
    t.doesNotThrow(() =>
      loadConfig([{ name: 'sample', text }], ['listen.port=8080'], environment, () => 'x'.repeat(20)),
    )
  }
})

// Samples

interface Sample {
  readonly file: string
  readonly command: readonly [string, ...string[]]
  /** It asks again by itself. */
  readonly isPersistent: boolean
}

const samples: readonly Sample[] = [
  { file: 'ask_requests.py', command: ['/usr/bin/python3'], isPersistent: true },
  { file: 'ask_httpx.py', command: ['/usr/bin/python3'], isPersistent: false },
  { file: 'ask.ts', command: [process.execPath], isPersistent: false },
  { file: 'ask.go', command: ['go', 'run'], isPersistent: false },
]

for (const { file, command, isPersistent } of samples) {
  void t.test(`${file} runs as it stands, meets a failure, and reads our refusals`, async (t) => {
    // A proxy that gives every failure on to its caller.
    const { url, sim } = await aProxy(t, `retry: { attempts: 1 }\nclients: { search-team: { token: ${TOKEN} } }`)
    const text = blocksOf(read('docs/point-your-service.md')).find((block) => block.file === file)?.text ?? ''
    const path = join(t.testdir({ [file]: text }), file)
    const [program, ...words] = command
    const ask = (token: string): Promise<Finished> =>
      start(t, program, [...words, path], { environment: { BASE_URL: url, API_KEY: token } }).ended

    const refused = await ask('a-token-that-nobody-has')
    t.equal(refused.code, 1)
    t.match(refused.stderr, 'The client token is not valid.')
    t.equal(sim.requests.length, 0)

    sim.script({}, ['503', '200'])
    const first = await ask(TOKEN)
    t.equal(first.code, isPersistent ? 0 : 1, first.stderr)
    const { code, stdout, stderr } = isPersistent ? first : await ask(TOKEN)
    t.strictSame({ code, stderr }, { code: 0, stderr: '' })
    t.match(stdout, 'Which note apps do students like?')
  })
}

// Links

void t.test('every link leads to a file, and to a heading of it', async (t) => {
  let links = 0
  for (const page of [...pagePaths, 'CHANGELOG.md', 'src/README.md', 'deploy/README.md', 'bench/README.md']) {
    for (const [, link = ''] of read(page).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(link)) continue
      links += 1
      const [path = '', anchor] = link.split('#')
      const target = path === '' ? page : join(dirname(page), path)
      t.ok(existsSync(join(root, target)), `${page}: ${link}`)
      if (anchor !== undefined) t.ok(anchorsOf(read(target)).includes(anchor), `${page}: ${link}`)
    }
  }
  t.ok(links > 100)
})

void t.test('every file of the project that is named is there', async (t) => {
  for (const page of pagePaths) {
    const text = read(page).replace(/<!-- generated:[^]*?<!-- \/generated:[\w-]+ -->/g, '')
    for (const [, path = ''] of text.matchAll(/[`\s]((?:bench|config|deploy|grafana|src|test)\/[\w./-]*\w\/?)/g)) {
      if (/\bNAME\b|^grafana\/grafana$/.test(path)) continue
      const places = [path, `src/${path}`]
      t.ok(
        places.some((place) => existsSync(join(root, place))),
        `${page}: ${path}`,
      )
    }
  }
})

/** README says what is so: its tables are those of the code, its commands run, its samples work, its links lead somewhere. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { fillBlocks, projections } from '../src/cli/docs.ts'
import { loadConfig } from '../src/config/load.ts'
import { resolveRetry } from '../src/config/schema.ts'
import { refusals } from '../src/errors.ts'
import { labelLists } from '../src/telemetry/labels.ts'
import { metricCatalogue } from '../src/telemetry/metrics.ts'
import { root, runProgram, shell, start, startDemo, type Finished } from './support/process.ts'
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

/** The blocks of code of one language. */
function fenced(text: string, language: string): string[] {
  return [...text.matchAll(/^```(\w+)\n([^]*?)^```$/gm)]
    .filter(([, one]) => one === language)
    .map(([, , code = '']) => code)
}

/** The block after `<!-- example:NAME -->`. */
function example(name: string): string {
  return new RegExp(`<!-- example:${name} -->\\n+\`\`\`\\w+\\n([^]*?)^\`\`\`$`, 'm').exec(readme)?.[1] ?? ''
}

/** Single commands, without their comments. */
function commandsIn(text: string): string[] {
  return fenced(text, 'sh')
    .flatMap((block) => block.split('\n'))
    .flatMap((line) => line.replace(/\s+#.*$/, '').split(' && '))
    .map((command) => command.trim())
    .filter((command) => command !== '')
}

/** First cells of the rows of a table, without the backticks. */
function rowsIn(text: string): string[][] {
  return [...text.matchAll(/^\| (`.*) \|$/gm)].map(([, row = '']) => row.split(' | '))
}

function bare(cell: string | undefined): string {
  return (cell ?? '').replaceAll('`', '')
}

// Tables

void t.test('the table of errors is the one of the code, both ways', async (t) => {
  const rows = rowsIn(section('Error codes')).map(([code, statuses, fault]) => [bare(code), statuses, fault])
  const wanted = Object.entries(refusals).map(([code, { statuses, fault }]) => [code, statuses.join(', '), fault])
  t.strictSame(rows, wanted)
})

void t.test('what is generated is fresh', async (t) => {
  for (const name of ['errors', 'settings', 'metrics']) t.match(readme, `<!-- generated:${name} -->`)
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
  t.match(fillBlocks('<!-- generated:errors -->\nold\n<!-- /generated:errors -->'), /^<!-- [^]*CLIENT_UNKNOWN[^]* -->$/)
  t.notMatch(fillBlocks('<!-- generated:errors -->\nold\n<!-- /generated:errors -->'), 'old')
  t.throws(() => fillBlocks('<!-- generated:nonsense -->\n<!-- /generated:nonsense -->'), /nonsense/)
  t.throws(() => fillBlocks('<!-- generated:errors -->\n'), /no end/)
})

void t.test('the table of failure classes has a row for each, with its attempts', async (t) => {
  const { config } = loadConfig([], [], { SCRAPELLM_API_KEY: 'key' }, () => '')
  const { classes } = resolveRetry(config.retry)
  const rows = rowsIn(section('What is repeated')).map(([name, , attempts]) => [bare(name), attempts])
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
  for (const path of ['README.md', 'CHANGELOG.md', ...files]) {
    // A name with a colon is a recording rule's, which the rules themselves define.
    for (const [name] of read(path).matchAll(/scrapellm_proxy_[a-z][a-z_]*[a-z](?![a-z_\d:])/g))
      t.ok(names.has(name), `${path}: ${name}`)
  }
})

void t.test('the map of src/ has a row for every folder and root file', async (t) => {
  const rows = rowsIn(section('Contributing')).map(([name]) => bare(name))
  const there = readdirSync(join(root, 'src'), { withFileTypes: true })
    .filter(({ name }) => name !== 'README.md')
    .map((entry) => (entry.isDirectory() ? `${entry.name}/` : entry.name))
  t.strictSame(rows.toSorted(), there.toSorted())
})

void t.test('every feature is the title of a story', async (t) => {
  const stories = readdirSync(join(root, 'test/stories')).map((name) => read(`test/stories/${name}`))
  const features = [...section('What it does for you').matchAll(/^- (.+)$/gm)].map(([, title = '']) => title)
  t.ok(features.length > 20)
  for (const title of features) {
    const isTold = stories.some((text) => [`'${title}'`, `"${title}"`].some((quoted) => text.includes(quoted)))
    t.ok(isTold, title)
  }
})

// Commands

const packageCommand = /^npm (?:run )?([\w:-]+)/
/** What npm does without a script of ours, and what is the reader's own. */
const needsNoScript = /^(?:npm ci|git clone |cd |export )/

void t.test('every command of the page is a script, or a program that is run below', async (t) => {
  const commands = commandsIn(readme)
  for (const literal of [
    'npm ci',
    'npm run demo',
    'npm start',
    'npm test',
    'npm run check',
    'npm run dev',
    'npm run docs',
  ])
    t.ok(commands.includes(literal), literal)
  for (const command of commands.filter((one) => !needsNoScript.test(one))) {
    const [, script] = packageCommand.exec(command) ?? []
    if (script === undefined) t.match(command, /^(?:curl|npx node) /, command)
    else t.ok(scripts[script], command)
  }
  for (const [, script = ''] of readme.matchAll(/`npm run ([\w:]+)/g)) t.ok(scripts[script], script)
  for (const line of ['npm ci && npm run demo', 'npm ci && npm start', 'npm ci && npm test'])
    t.match(section('Run it'), line)
})

void t.test('the curl lines work against the demo, as they stand but for the ports', async (t) => {
  const demo = await startDemo(t)
  const lines = commandsIn(readme).filter((command) => command.startsWith('curl '))
  t.ok(lines.length >= 3)
  for (const line of lines) {
    const here = line.replace('http://127.0.0.1:8080', demo.url).replace('http://127.0.0.1:9464', demo.adminUrl)
    t.not(here, line)
    const { code, stderr } = await shell(t, here.replace('curl ', 'curl --fail --silent --show-error '))
    t.equal(code, 0, `${line} ${stderr}`)
  }
})

void t.test('what is passed to npm start does what the page says, with the settings it shows', async (t) => {
  const files = { 'my.yaml': example('settings'), 'replica.yaml': example('replica') }
  const cwd = t.testdir(files)
  const names = [
    ...Object.values(files)
      .join('')
      .matchAll(/\$\{(\w+)\}/g),
  ].map(([, name = '']) => name)
  t.ok(names.includes('SCRAPELLM_API_KEY') && names.includes('REDIS_PASSWORD'))
  const environment = Object.fromEntries(names.map((name) => [name, `${name}-of-the-documentation-test`]))
  const invocations = commandsIn(readme).flatMap((command) => /^npm start -- (.*)$/.exec(command)?.[1] ?? [])
  t.ok(invocations.length >= 4)
  for (const words of invocations) {
    // What would serve until it is stopped is checked instead.
    const args = words.startsWith('--config') ? `check ${words}` : words
    const { code, stderr } = await runProgram(t, args.split(' '), { cwd, environment })
    t.strictSame({ code, stderr }, { code: 0, stderr: '' }, words)
  }
})

void t.test('every sample of settings is right', async (t) => {
  const environment = new Proxy({}, { get: (_target, name) => `${String(name)}-of-the-documentation-test` })
  const samples = [
    example('settings'),
    example('replica'),
    ...['default', 'minimal', 'example'].map((name) => read(`config/${name}.yaml`)),
  ]
  for (const text of samples) {
    // example.yaml takes its port from the environment, which answers with words here.
    t.doesNotThrow(() =>
      loadConfig([{ name: 'sample', text }], ['listen.port=8080'], environment, () => 'x'.repeat(20)),
    )
  }
})

// Samples

/** A proxy that gives every failure on to its caller. */
async function aPlainProxy(t: Test) {
  return aProxy(t, `retry: { attempts: 1 }\nclients: { search-team: { token: ${TOKEN} } }`)
}

function runSample(t: Test, command: string, file: string, url: string, token = TOKEN): Promise<Finished> {
  return start(t, command, [file], { environment: { BASE_URL: url, API_KEY: token } }).ended
}

void t.test('the Python sample runs as it stands, and its loop meets a failure', async (t) => {
  const { url, sim } = await aPlainProxy(t)
  const file = join(t.testdir({ 'sample.py': example('python') }), 'sample.py')
  sim.script({}, ['503', '200'])
  const { code, stdout, stderr } = await runSample(t, '/usr/bin/python3', file, url)
  t.strictSame({ code, stderr }, { code: 0, stderr: '' })
  t.match(stdout, 'Which note apps do students like?')
  t.strictSame(
    sim.requests.map(({ status, prompt }) => [status, prompt]),
    [
      [503, 'Which note apps do students like?'],
      [200, 'Which note apps do students like?'],
    ],
  )
})

void t.test('the Python sample reads our refusals as it reads those of the vendor', async (t) => {
  const { url, sim } = await aPlainProxy(t)
  const file = join(t.testdir({ 'sample.py': example('python') }), 'sample.py')
  const { code, stderr } = await runSample(t, '/usr/bin/python3', file, url, 'a-token-that-nobody-has')
  t.equal(code, 1)
  t.match(stderr, 'RuntimeError: This client token is not known.')
  t.equal(sim.requests.length, 0)
})

void t.test('the TypeScript sample runs as it stands, and reads our refusals', async (t) => {
  const { url } = await aPlainProxy(t)
  const file = join(t.testdir({ 'sample.ts': example('typescript') }), 'sample.ts')
  const { code, stdout, stderr } = await runSample(t, process.execPath, file, url)
  t.strictSame({ code, stderr }, { code: 0, stderr: '' })
  t.match(stdout, /^3 \S/)
  const refused = await runSample(t, process.execPath, file, url, 'a-token-that-nobody-has')
  t.equal(refused.code, 1)
  t.match(refused.stderr, 'This client token is not known.')
})

// Links

void t.test('every link and every file that is named leads somewhere', async (t) => {
  let links = 0
  const pages = {
    'README.md': '',
    'CHANGELOG.md': '',
    'deploy/README.md': 'deploy',
    'grafana/README.md': 'grafana',
    'src/README.md': 'src',
  }
  for (const [page, folder] of Object.entries(pages)) {
    for (const [, link = ''] of read(page).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(link)) continue
      links += 1
      const [path = '', anchor] = link.split('#')
      t.ok(existsSync(join(root, folder, path)), `${page}: ${link}`)
      if (anchor !== undefined)
        t.match(read(join(folder, path || 'README.md')).toLowerCase(), anchor.replaceAll('-', ' '))
    }
  }
  t.ok(links > 5)
  const text = readme.replace(/<!-- generated:[^]*?<!-- \/generated:\w+ -->/g, '')
  for (const [, path = ''] of text.matchAll(/[`\s]((?:config|deploy|grafana|src|test)\/[\w./-]*\w\/?)/g)) {
    const places = [path, `src/${path}`]
    t.ok(
      places.some((place) => existsSync(join(root, place))),
      `README.md: ${path}`,
    )
  }
})

void t.test('the changelog has a place for what comes next', async (t) => {
  t.match(read('CHANGELOG.md'), /^## \[Unreleased\]$/m)
})

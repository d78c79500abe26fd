/**
 * Every page of the documentation, followed to the letter: what it says to save is saved, what it says to run is run, in order, in a
 * folder of its own; what it shows as output comes out; settings go through the loader, queries through Prometheus' own parser. Ports are
 * exchanged for free ones, ScrapeLLM for the simulator, and nothing listens beyond loopback. What cannot be run here is on a closed list.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { stringify } from 'yaml'
import { known } from '../src/compose.ts'
import { loadConfig } from '../src/config/load.ts'
import { createSimulator, instant } from '../src/simulator/simulator.ts'
import { anAuthority, type Issued } from './support/certificates.ts'
import { blocksOf, missingLine, pagePaths, readPage, type Block } from './support/pages.ts'
import { root, shell, start } from './support/process.ts'
import { freePort, startRedis } from './support/redis.ts'

/** Commands that need another machine, or would do to the reader's what a test must not do: a block of nothing else is not run. */
const elsewhere: ReadonlySet<string> = new Set([
  'git clone <this repository> scrapellm-proxy && cd scrapellm-proxy',
  'git pull && npm ci',
  'npm ci',
  'npm ci && npm start',
  'npm ci && npm test',
  'npm ci && npm run check',
  'npm pack',
  'mkdir release && cd release && npm init --yes && npm install ../scrapellm-proxy-*.tgz',
  'npm sbom --sbom-format cyclonedx > ../sbom.json',
  'docker run --rm --network host -e PROMETHEUS_URL=http://127.0.0.1:9090 -e PROXY_ADMIN_URL=http://127.0.0.1:9464 ' +
    '-v "$PWD/grafana/provisioning:/etc/grafana/provisioning:ro" -v "$PWD/grafana/dashboards:/var/lib/grafana/dashboards:ro" grafana/grafana',
])

/** What a command of a page may begin with to be run as it stands: nothing that installs, deletes, or reaches beyond the reader's folder. */
const harmless =
  /^(?:export |curl |python3 |npx node |go run |seq |xargs |cat |tail |mkdir |openssl req |npm run demo\b|npm start\b|scrapellm-proxy )/

const PORTS = ['8080', '8081', '8082', '9464', '9465', '9466', '6379']

/** A page may need its ports half a minute after it got them: not from the range of the servers that other tests start meanwhile. */
const LATER = 21_768

/** Without a page's words: `listening` of the log, or the last line of the demo. */
const ready = /"msg":"listening"|^Ctrl-C stops it/m

t.jobs = 3

for (const path of pagePaths) {
  void t.test(path, { buffered: true }, async (t) => {
    const blocks = blocksOf(readPage(path))
    const reader = await aReader(t, blocks)
    for (const block of blocks) await kindOf(block)(t, reader, block)
  })
}

void t.test('a block that nobody knows what to do with is noticed', async (t) => {
  t.throws(() => kindOf({ language: 'cobol', role: null, file: null, text: '', line: 1 }), /cobol/)
})

void t.test('a command that might do harm, or reaches beyond this machine, is not run', async (t) => {
  for (const text of ['rm -rf data', 'cat a | sh', 'curl https://api.scrapellm.com'])
    t.throws(() => mustBeHarmless({ language: 'sh', role: null, file: null, text, line: 1 }), /line 1: /, text)
})

void t.test('what is on the closed lists is on a page', async (t) => {
  const blocks = pagePaths.flatMap((path) => blocksOf(readPage(path)))
  const used = new Set(blocks.map(({ language, role }) => (role === null ? language : `${language} ${role}`)))
  t.strictSame(new Set(Object.keys(kinds)), used)
  const commands = new Set(blocks.filter(({ language }) => language === 'sh').flatMap(({ text }) => commandsIn(text)))
  for (const command of elsewhere) t.ok(commands.has(command), command)
})

void t.test('output that is not shown, in another order or of another shape is noticed', async (t) => {
  const real = 'HTTP/1.1 200 OK\r\nX-Proxy-Credits: 3\r\n\r\n{"a":"b","n":1}\n'
  t.equal(missingLine('HTTP/1.1 200 OK\nX-Proxy-Credits: …\n…\n{"a":"b",…}', real), null)
  t.equal(missingLine('X-Proxy-Credits: 3\nHTTP/1.1 200 OK', real), 'HTTP/1.1 200 OK')
  t.equal(missingLine('X-Proxy-Credits: 0', real), 'X-Proxy-Credits: 0')
  t.equal(missingLine('X-Proxy-Code: NONE', real), 'X-Proxy-Code: NONE')
})

// Following

interface Reader {
  readonly folder: string
  /** The text with this reader's ports. */
  readonly here: (text: string) => string
  readonly upstream: string
  /** `export` lines so far. */
  exports: string
  /** What the last command said. */
  said: string
  saidBy: string
}

async function aReader(t: Test, blocks: readonly Block[]): Promise<Reader> {
  const folder = t.testdir({})
  for (const name of readdirSync(root)) {
    if (!['data', '.git', '.tap', 'coverage'].includes(name)) symlinkSync(join(root, name), join(folder, name))
  }
  const all = blocks.map(({ text }) => text).join('')
  const ports = new Map<string, string>()
  for (const port of PORTS.filter((one) => all.includes(one) || one === '8080' || one === '9464')) {
    ports.set(port, port === '6379' ? String((await startRedis(t)).port) : String(await freePort(LATER)))
  }
  const sim = createSimulator({ latency: instant })
  const { url: upstream } = await sim.start()
  t.teardown(() => sim.close())
  const pattern = new RegExp(String.raw`\b(?:${PORTS.join('|')})\b`, 'g')
  const here = (text: string): string => text.replace(pattern, (port) => ports.get(port) ?? port)
  return { folder, here, upstream, exports: '', said: '', saidBy: '' }
}

type Kind = (t: Test, reader: Reader, block: Block) => Promise<void> | void

const program: Kind = async (t, reader, block) => {
  t.ok(block.file, `line ${block.line}: a program is saved under a name`)
  save(reader, block)
}

const output: Kind = (t, reader, { text, line }) => {
  const missing = missingLine(reader.here(text), reader.said)
  t.equal(missing, null, `line ${line}: shown, and not said by ${reader.saidBy}\n${reader.said}`)
}

const kinds: Readonly<Record<string, Kind>> = {
  sh: (t, reader, block) =>
    commandsIn(block.text).every((command) => elsewhere.has(command)) ? undefined : run(t, reader, block, true),
  'sh fails': (t, reader, block) => run(t, reader, block, false),
  'sh server': serve,
  // The only kind that nothing can check.
  'text drawing'() {},
  'text output': output,
  'json output': output,
  yaml: settings,
  'yaml wrong'(_t, reader, block) {
    save(reader, block)
  },
  'yaml prometheus': prometheus,
  json(t, reader, block) {
    t.doesNotThrow(() => JSON.parse(block.text), `line ${block.line}: is JSON`)
    save(reader, block)
  },
  'json n8n': n8n,
  promql,
  'js parsed'(t, reader, { text, line }) {
    const file = join(reader.folder, 'parsed.mjs')
    writeFileSync(file, text)
    const { status, stderr } = spawnSync(process.execPath, ['--check', file], { encoding: 'utf8' })
    t.equal(status, 0, `line ${line}: ${stderr}`)
  },
  python: program,
  ts: program,
  go: program,
}

function kindOf({ language, role, line }: Block): Kind {
  const name = role === null ? language : `${language} ${role}`
  const kind = kinds[name]
  if (!kind) throw new Error(`line ${line}: nobody knows what to do with a block of ${name}`)
  return kind
}

function save({ folder, here }: Reader, { file, text }: Block): void {
  if (file === null) return
  mkdirSync(dirname(join(folder, file)), { recursive: true })
  writeFileSync(join(folder, file), here(text))
}

// Commands

function commandsIn(text: string): string[] {
  return text
    .replace(/\\\n\s*/g, ' ')
    .split('\n')
    .map((line) =>
      line
        .replace(/(?:^|\s)#.*$/, '')
        .replace(/ +/g, ' ')
        .trim(),
    )
    .filter((line) => line !== '')
}

/** What is to be installed for the project itself is, or this would not run. */
function installed(text: string): string {
  return text.replaceAll('npm ci && ', '')
}

function mustBeHarmless({ text, line }: Block): void {
  const strange = commandsIn(installed(text))
    .flatMap((command) => command.split(/ (?:&&|\||;) /))
    .find((command) => !harmless.test(command))
  if (strange !== undefined) throw new Error(`line ${line}: not known to be harmless: ${strange}`)
  const far = /\bhttps?:\/\/(?!127\.0\.0\.1)\S*/.exec(text)?.[0]
  if (far !== undefined) throw new Error(`line ${line}: beyond this machine: ${far}`)
}

/** As the reader's shell gets it: a curl that is refused is an error, the Python of the packages, one simulator for all. */
function scriptOf({ here, exports, upstream, folder }: Reader, text: string): string {
  const own = ['listen.host=127.0.0.1', 'admin.host=127.0.0.1', 'listen.port=8080', 'admin.port=9464']
  const sets = (more: readonly string[]) => [...own, ...more].map((one) => ` --set ${one}`).join('')
  const body = installed(text)
    .replace(/\bcurl /g, String.raw`curl --fail-with-body --silent --show-error --write-out '\n' `)
    .replace(/\bpython3 /g, '/usr/bin/python3 ')
    .replace(/\bnpm run demo(?: --)?(?=\s|$)/g, `npm run demo --${sets([])}`)
    .replace(/\bnpm start -- (doctor|trace)\b/g, `npm start -- $1${sets([`upstream.url=${upstream}`])}`)
    .replace(/\bnpm start(?: --(?= --)|(?=\s*$))/gm, `npm start --${sets([`upstream.url=${upstream}`])}`)
  return `cd '${folder}'\n${exports}${here(body)}`
}

const environment = {
  GO111MODULE: 'off',
  NO_UPDATE_NOTIFIER: '1',
  npm_config_update_notifier: 'false',
}

async function run(t: Test, reader: Reader, block: Block, isFine: boolean): Promise<void> {
  const { text, line } = block
  mustBeHarmless(block)
  const { code, stdout, stderr } = await shell(t, `set -e\n${scriptOf(reader, text)}`, surroundings(reader))
  t.equal(code === 0, isFine, `line ${line}: ${text}${stdout}${stderr}`)
  reader.exports += commandsIn(text)
    .filter((command) => command.startsWith('export '))
    .map((command) => `${command}\n`)
    .join('')
  reader.said = `${stdout}\n${stderr}`
  reader.saidBy = text
}

/** In a terminal of its own, until the page ends. */
async function serve(t: Test, reader: Reader, block: Block): Promise<void> {
  mustBeHarmless(block)
  const { text } = block
  const lines = scriptOf(reader, text).trimEnd().split('\n')
  const last = lines.pop() ?? ''
  const server = start(t, '/bin/sh', ['-c', [...lines, `exec ${last}`].join('\n')], surroundings(reader))
  await server.saw(ready)
  if (text.includes('replica.yaml')) await server.saw(/"msg":"redis is up"/)
  reader.said = server.stdout()
  reader.saidBy = text
}

function surroundings({ folder }: Reader) {
  return { cwd: folder, environment: { ...environment, GOCACHE: join(root, '.tap', 'go-build') } }
}

/** Each HTTP Request node of what is pasted into n8n, sent as n8n would. */
async function n8n(t: Test, { here }: Reader, { text, line }: Block): Promise<void> {
  interface Pairs {
    readonly parameters: readonly { readonly name: string; readonly value: string }[]
  }
  interface Parameters {
    readonly method: string
    readonly url: string
    readonly queryParameters: Pairs
    readonly headerParameters: Pairs
  }
  const { nodes } = JSON.parse(here(text)) as { nodes: readonly { type: string; parameters: Parameters }[] }
  const entries = ({ parameters }: Pairs) => parameters.map(({ name, value }): [string, string] => [name, value])
  for (const { type, parameters } of nodes) {
    t.equal(type, 'n8n-nodes-base.httpRequest')
    const { method, url, queryParameters, headerParameters } = parameters
    const query = new URLSearchParams(entries(queryParameters))
    const answer = await fetch(`${url}?${query.toString()}`, { method, headers: entries(headerParameters) })
    t.equal(answer.status, 200, `line ${line}: ${url}`)
    t.match(await answer.json(), { status: 'done', prompt: query.get('prompt') })
  }
}

// Settings, queries

const surroundingWords = new Proxy<Record<string, string>>(
  {},
  { get: (_target, name) => (name === 'PORT' ? '8080' : `${String(name)}-of-the-documentation-test`) },
)

/** What the files hold that settings name. */
function secretOrPem(t: Test): (path: string) => string {
  let issued: Issued | null = null
  return (path) => {
    if (!path.endsWith('.pem')) return 'x'.repeat(20)
    issued ??= anAuthority(t).issue('localhost')
    return readFileSync(path.endsWith('-key.pem') ? issued.key : issued.cert, 'utf8')
  }
}

function settings(t: Test, reader: Reader, block: Block): void {
  const load = () =>
    loadConfig([{ name: `line ${block.line}`, text: block.text }], [], surroundingWords, secretOrPem(t), known)
  t.doesNotThrow(load, `line ${block.line}: settings`)
  save(reader, block)
}

function prometheus(t: Test, { folder }: Reader, { text, line }: Block): void {
  writeFileSync(join(folder, 'prometheus.yaml'), text)
  promtool(t, folder, ['check', 'config', 'prometheus.yaml'], `line ${line}`)
}

function promql(t: Test, { folder }: Reader, { text, line }: Block): void {
  const rules = text
    .split(/\n\s*\n/)
    .filter((one) => one.trim() !== '')
    .map((expr, index) => ({ record: `documented:query:${index}`, expr }))
  writeFileSync(join(folder, 'queries.yaml'), stringify({ groups: [{ name: 'page', rules }] }))
  promtool(t, folder, ['check', 'rules', 'queries.yaml'], `line ${line}`)
}

function promtool(t: Test, cwd: string, args: readonly string[], what: string): void {
  const { status, stdout, stderr } = spawnSync('promtool', args, { cwd, encoding: 'utf8' })
  t.equal(status, 0, `${what}\n${stdout}${stderr}`)
}

/**
 * `npm run measure`: how much code one request runs. A hit and a miss, from V8's precise coverage of this process, where the
 * whole proxy runs; the Redis commands of a miss, as Redis itself reports them. Counts only, so that a busy machine gives the
 * same figures. `src/README.md` keeps the history of the table. `--list` prints each function that runs, with its calls.
 */
import { Session } from 'node:inspector/promises'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, get } from 'node:http'
import { connect, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { compose, type App } from '../src/compose.ts'
import { loadConfig } from '../src/config/load.ts'
import type { SharedStore, World } from '../src/ports.ts'
import { realWorld } from '../src/world/real.ts'
import { pathOf, stopAll } from './program.ts'
import { startRedis } from './redis.ts'

interface Path {
  readonly files: number
  readonly functions: number
  readonly calls: number
  /** Each function that ran, with its calls, by file. */
  readonly ran: readonly string[]
}

/** Requests before the one that counts: connections, lazy parts and memories of the first request are not its cost. */
const WARM_UP = 20

const folder = mkdtempSync(join(tmpdir(), 'measure-'))
/** Called when upstream is asked. */
let onAsked = (): void => {}
let roundTripsMade = 0
const upstream = createServer((request, response) => {
  onAsked()
  const { searchParams } = new URL(request.url ?? '', 'http://upstream')
  const answer = {
    scraper: 'chatgpt',
    status: 'done',
    prompt: searchParams.get('prompt'),
    result: 'text',
    credits_used: 3,
  }
  response.setHeader('Content-Type', 'application/json')
  response.end(JSON.stringify(answer))
})
await new Promise<void>((resolve) => upstream.listen(0, '127.0.0.1', resolve))
const upstreamPort = (upstream.address() as AddressInfo).port
const session = new Session()
session.connect()

try {
  const alone = await pathsOf('')
  const redis = await startRedis()
  const shared = redis ? await commandsOf(redis.port) : null
  process.stdout.write(`${table(alone, shared)}\n`)
  if (process.argv.includes('--list'))
    process.stdout.write(`\na hit\n${alone.hit.ran.join('\n')}\n\na miss\n${alone.miss.ran.join('\n')}\n`)
} finally {
  await stopAll()
  rmSync(folder, { recursive: true, force: true })
}
process.exit(0)

/** What a hit and a miss run in a process of its own settings. */
async function pathsOf(settings: string): Promise<{ readonly hit: Path; readonly miss: Path }> {
  const { app, ask } = await startProxy(settings)
  for (let number = 0; number < WARM_UP; number += 1) {
    await ask(`warm up ${number}`)
    await ask('kept')
  }
  await session.post('Profiler.enable')
  await session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: false })
  const hit = await counted(() => ask('kept'))
  const miss = await counted(() => ask('never asked before'))
  await session.post('Profiler.stopPreciseCoverage')
  await close(app)
  return { hit, miss }
}

async function counted(work: () => Promise<void>): Promise<Path> {
  // The last answer is recorded after it was sent; a turn of the loop later nothing of it is left.
  await turns()
  await session.post('Profiler.takePreciseCoverage')
  await work()
  await turns()
  const { result } = await session.post('Profiler.takePreciseCoverage')
  const root = new URL('../src/', import.meta.url).href
  const files = result
    .filter(({ url }) => url.startsWith(root))
    .map(({ url, functions }) => ({
      name: url.slice(root.length),
      functions: functions
        .filter(({ functionName }) => functionName !== '')
        .map(({ functionName, ranges }) => ({ functionName, calls: ranges[0]?.count ?? 0 }))
        .filter(({ calls }) => calls > 0),
    }))
    .filter(({ functions }) => functions.length > 0)
  const functions = files.flatMap((file) => file.functions)
  return {
    files: files.length,
    functions: functions.length,
    calls: functions.reduce((sum, { calls }) => sum + calls, 0),
    ran: files.map(
      ({ name, functions }) =>
        `${name}: ${functions.map(({ functionName, calls }) => (calls > 1 ? `${functionName} ${calls}` : functionName)).join(', ')}`,
    ),
  }
}

/** The commands that one miss sends to Redis, those of heartbeats left out, and those that wait for one before. */
async function commandsOf(port: number) {
  const audit = `audit: { path: "${folder}/audit.ndjson" }`
  const { app, ask } = await startProxy(`redis: { url: "redis://127.0.0.1:${port}" }\n${audit}`)
  for (let number = 0; number < WARM_UP; number += 1) await ask(`warm up with redis ${number}`)
  const monitor = connect(port, '127.0.0.1')
  let seen = ''
  monitor.on('data', (bytes: Buffer) => (seen += bytes.toString()))
  monitor.write('MONITOR\r\n')
  await until(() => seen.includes('+OK'))
  seen = ''
  let [before, roundTrips] = [0, 0]
  roundTripsMade = 0
  onAsked = () => void ([before, roundTrips] = [commandsIn(seen), roundTripsMade])
  await ask('never asked before, with redis')
  // Redis reports in order: the rate check of the next request comes after everything the miss has sent.
  const sent = seen
  await ask('warm up with redis 1')
  await until(() => commandsIn(seen) > commandsIn(sent))
  monitor.destroy()
  await close(app)
  return { all: commandsIn(seen) - 1, before, roundTrips }
}

/** A command that is sent while no other is under way begins a round trip. */
function countingRoundTrips(store: SharedStore): SharedStore {
  let underWay = 0
  return {
    ...store,
    get state() {
      return store.state
    },
    async run(...asked) {
      if (underWay === 0) roundTripsMade += 1
      underWay += 1
      const reply = await store.run(...asked)
      underWay -= 1
      return reply
    },
  }
}

/** Commands of clients: not those that scripts call, and not what is said and asked once in a while without a request. */
function commandsIn(monitored: string): number {
  const others = / lua\] |session:\{all\}|:purges"/
  return monitored.split('\r\n').filter((line) => line.startsWith('+') && !others.test(line)).length
}

async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await turns()
}

async function startProxy(settings: string) {
  const loaded = loadConfig(
    [
      {
        name: 'measure',
        text: `
listen: { port: 0 }
admin: { port: 0 }
cache: { disk: false }
log: { level: warn }
upstream: { url: "http://127.0.0.1:${upstreamPort}", keys: [{ name: main, secret: upstream-key-of-measure }] }
clients:
  team: { token: a-token-of-the-team, rate: { limit: 100000, per: 1s }, concurrency: 1000, credits: { perDay: 1000000, perMonth: 1000000 } }
${settings}
`,
      },
    ],
    [],
    {},
    (path) => readFileSync(path, 'utf8'),
  )
  const world = realWorld()
  const openShared: World['openShared'] = (options, emit) => countingRoundTrips(world.openShared(options, emit))
  const app = compose(loaded, { ...world, openShared }, '0.0.0')
  const { port } = await app.listen()
  return { app, ask: (prompt: string) => ask(port, prompt) }
}

function ask(port: number, prompt: string): Promise<void> {
  const path = `/scrapers/chatgpt?${new URLSearchParams({ prompt }).toString()}`
  return new Promise((resolve, reject) => {
    const request = get({ port, path, headers: { 'X-API-Key': 'a-token-of-the-team' } }, (response) => {
      if (response.statusCode !== 200) reject(new Error(`answered ${response.statusCode}`))
      response.resume().once('end', resolve)
    })
    request.once('error', reject)
  })
}

async function close(app: App): Promise<void> {
  app.hurry()
  await app.drain()
  await app.close()
}

async function turns(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve))
}

function table(
  alone: Awaited<ReturnType<typeof pathsOf>>,
  commands: Awaited<ReturnType<typeof commandsOf>> | null,
): string {
  const pathRow = (name: string, { files, functions, calls }: Path): string =>
    `| ${name}: files, functions, calls | ${files}, ${functions}, ${calls} |`
  const sources = sourcesIn(pathOf('src'))
  return [
    '| figure | value |',
    '|---|---|',
    `| lines of \`src/\` | ${sources.reduce((sum, path) => sum + linesOf(path), 0)} |`,
    pathRow('a hit', alone.hit),
    pathRow('a miss without Redis', alone.miss),
    ...(commands
      ? [
          `| a miss with Redis and audit: Redis commands, of them before upstream is asked, in round trips | ${commands.all}, ${commands.before}, ${commands.roundTrips} |`,
        ]
      : []),
    `| functions over 100 lines, over 150 | ${longerThan(100)}, ${longerThan(150)} |`,
    `| disk store, lines | ${linesMatching(sources, /world\/disk/)} |`,
  ].join('\n')
}

function sourcesIn(path: string): readonly string[] {
  return readdirSync(path, { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(ts|lua|css|js)$/.test(name))
    .map((name) => join(path, name))
}

function linesOf(path: string): number {
  return readFileSync(path, 'utf8').split('\n').length - 1
}

function linesMatching(paths: readonly string[], pattern: RegExp): number {
  return paths.filter((path) => pattern.test(path)).reduce((sum, path) => sum + linesOf(path), 0)
}

/** Functions of `src/` by the linter's count. */
function longerThan(lines: number): number {
  const rule = `max-lines-per-function`
  const config = join(folder, `${lines}.json`)
  writeFileSync(
    config,
    JSON.stringify({ categories: { correctness: 'off' }, rules: { [rule]: ['error', { max: lines }] } }),
  )
  const { stdout } = spawnSync(pathOf('node_modules/.bin/oxlint'), ['-c', config, '--format', 'json', pathOf('src')], {
    encoding: 'utf8',
  })
  return (JSON.parse(stdout) as { diagnostics: readonly unknown[] }).diagnostics.length
}

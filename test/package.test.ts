/**
 * The package as a stranger gets it: packed, installed into an empty folder from the registry without a compiler, and run under every
 * Node that it is for: 22, 24 and 26. The others than the one at hand come from the registry, too (Linux only).
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join, relative } from 'node:path'
import t, { type Test } from 'tap'
import { createSimulator, instant } from '../src/simulator/simulator.ts'
import { root, shell, startBare, type Program } from './support/process.ts'
import { request } from './support/proxy.ts'

const KEY = 'upstream-key-of-the-tests'
/** Beside the one that runs this. */
const OTHER_NODES = ['22', '26']

const folder = mkdtempSync(join(tmpdir(), 'scrapellm-proxy-package-'))
const home = join(folder, 'home')
const installed = join(home, 'node_modules/scrapellm-proxy')
t.teardown(() => rmSync(folder, { recursive: true, force: true }))

const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  readonly version: string
}

/** In a shell, as a reader would, and without what coverage puts into the environment of every Node. */
async function run(t: Test, line: string, cwd: string): Promise<string> {
  const { code, stdout, stderr } = await shell(t, `unset NODE_OPTIONS; ${line}`, { cwd })
  if (code !== 0) throw new Error(`${line}\n${stdout}\n${stderr}`)
  return stdout
}

/** For each Node a folder with nothing but it, for the front of PATH. */
async function nodes(t: Test): Promise<readonly string[]> {
  const shelf = join(folder, 'nodes')
  mkdirSync(join(shelf, 'own'), { recursive: true })
  symlinkSync(process.execPath, join(shelf, 'own/node'))
  const isServed = process.platform === 'linux' && ['x64', 'arm64'].includes(process.arch)
  const others = isServed ? OTHER_NODES : []
  const wanted = others.map((version) => `node${version}@npm:node-linux-${process.arch}@${version}`)
  if (wanted.length > 0) await run(t, `npm install --silent --no-audit --no-fund --prefix . ${wanted.join(' ')}`, shelf)
  return [join(shelf, 'own'), ...others.map((version) => join(shelf, `node_modules/node${version}/bin`))]
}

/** As deploy/README.md says where to keep them. */
function aSecret(t: Test): string {
  const folder = join(root, 'deploy/secrets')
  const isNew = mkdirSync(folder, { recursive: true }) !== undefined
  const file = join(folder, `of-the-tests-${process.pid}`)
  writeFileSync(file, KEY)
  t.teardown(() => rmSync(isNew ? folder : file, { recursive: true }))
  return file
}

void t.test('the package', async (t) => {
  mkdirSync(home)
  writeFileSync(join(home, 'package.json'), '{ "name": "home", "version": "1.0.0" }')
  const secret = aSecret(t)
  const packed = run(t, `npm pack --silent --json --pack-destination ${folder}`, root)
  const shelves = nodes(t)
  const [tarball] = JSON.parse(await packed) as { filename: string; files: { path: string }[] }[]
  await run(t, `npm install --silent --no-audit --no-fund --prefix . ../${tarball?.filename ?? ''}`, home)

  await t.test('holds what runs and what an operator needs, and nothing else', async (t) => {
    const paths = tarball?.files.map(({ path }) => path) ?? []
    for (const path of ['dist/main.js', 'config/default.yaml', 'config/schema.json', 'README.md', 'CHANGELOG.md'])
      t.ok(paths.includes(path), path)
    const allowed =
      /^(dist\/.*\.(?:js|lua)|dist\/scrapellm\/client\.d\.ts|(config|deploy|docs|grafana)\/.*|[A-Z]+\.md|package\.json|src\/simulator\/README\.md)$/
    t.strictSame(
      paths.filter((path) => !allowed.test(path) || /test|secrets\//.test(path)),
      [],
    )
    t.ok(existsSync(secret), 'there was a secret to be left out')
  })

  await t.test('brings nothing that must be compiled, and no Node of its own', async (t) => {
    const lock = JSON.parse(readFileSync(join(home, 'node_modules/.package-lock.json'), 'utf8')) as {
      packages: Record<string, { hasInstallScript?: boolean }>
    }
    const packages = Object.entries(lock.packages)
    t.ok(packages.length > 9)
    t.strictSame(
      packages.filter(([path, { hasInstallScript }]) => hasInstallScript || /node-linux|typescript|engine/.test(path)),
      [],
    )
    t.notOk(existsSync(join(home, 'node_modules/.bin/node')))
  })

  await t.test('has a list of all that is in it, as docs/releasing.md makes it', async (t) => {
    const command = /^(npm sbom .*) > .*$/m.exec(readFileSync(join(root, 'docs/releasing.md'), 'utf8'))?.[1]
    const sbom = JSON.parse(await run(t, String(command), home)) as {
      bomFormat: string
      components: { group?: string; name: string; version: string; hashes?: unknown[] }[]
    }
    t.equal(sbom.bomFormat, 'CycloneDX')
    const lock = JSON.parse(readFileSync(join(home, 'node_modules/.package-lock.json'), 'utf8')) as {
      packages: Record<string, { version: string }>
    }
    const installedNow = Object.entries(lock.packages).map(
      ([path, { version }]) => `${path.replace(/^.*node_modules\//, '')}@${version}`,
    )
    const listed = sbom.components.map(({ name, version }) => `${name}@${version}`)
    t.strictSame(listed.toSorted(), [...new Set(installedNow)].toSorted())
    for (const { name, hashes = [] } of sbom.components) t.ok(hashes.length > 0, `${name} has a hash`)
  })

  await t.test('has a schema for each of its settings files, where an editor looks for it', async (t) => {
    const files = [...(tarball?.files ?? [])].map(({ path }) => path).filter((path) => path.endsWith('.yaml'))
    const schemas = files.flatMap((path) => {
      const [, schema] =
        /^# yaml-language-server: \$schema=(\S+)$/m.exec(readFileSync(join(installed, path), 'utf8')) ?? []
      return schema === undefined ? [] : [relative(installed, join(installed, dirname(path), schema))]
    })
    t.ok(schemas.length >= 3)
    t.strictSame([...new Set(schemas)], ['config/schema.json'])
  })

  const versions: string[] = []
  for (const shelf of await shelves) {
    const version = (await run(t, `${shelf}/node --version`, folder)).trim()
    versions.push(version.slice(0, 3))
    await t.test(`runs under Node ${version}`, async (t) => runsUnder(t, shelf))
  }
  if (process.platform === 'linux') t.strictSame(versions.toSorted(), ['v22', 'v24', 'v26'])
})

/** As somebody writes it who has installed the package. */
const clientProgram = `
import { createClient } from 'scrapellm-proxy/client'
const client = createClient({ baseUrl: process.argv[2] })
const answer = await client.ask('grok', { prompt: 'hello' })
console.log(answer.kind, answer.credits, answer.body.scraper)
const refusal = await client.ask('nobody', { prompt: 'hello' })
console.log(refusal.kind, refusal.code)
`

async function runsUnder(t: Test, shelf: string): Promise<void> {
  const environment = {
    SCRAPELLM_API_KEY: KEY,
    PATH: [shelf, process.env['PATH'] ?? ''].join(delimiter),
  }
  const cwd = t.testdir()
  const bin = join(home, 'node_modules/.bin/scrapellm-proxy')
  const begin = (...args: string[]): Program => startBare(t, [bin, ...args], { cwd, environment })

  const help = await startBare(t, ['npx', 'scrapellm-proxy', '--help'], { cwd: home, environment }).ended
  t.match(help, { code: 0, stderr: '', stdout: /^scrapellm-proxy \[COMMAND\]/ })
  t.strictSame(await begin('--version').ended, { code: 0, stdout: `${manifest.version}\n`, stderr: '' })
  t.match(await begin('check').ended, { code: 0, stdout: /^ok\n/, stderr: '' })
  t.match(await begin('check', '--set', 'cahce.ttl=1h').ended, { code: 78, stderr: /did you mean "cache"/ })

  await t.test('the demo answers', async (t) => {
    const demo = begin('demo', '--quiet', '--port', '0', '--set', 'admin.port=0')
    const [, url = ''] = await demo.saw(/proxy +(http:\S+)/)
    const asked = await shell(t, `curl --fail --silent '${url}/scrapers/chatgpt?prompt=hello'`)
    t.match(JSON.parse(asked.stdout), { scraper: 'chatgpt', credits_used: 3 })
    demo.signal('SIGTERM')
    t.match(await demo.ended, { code: 0, stderr: '' })
  })

  await t.test('its client asks, with the types that come with it', async (t) => {
    const demo = begin('demo', '--quiet', '--port', '0', '--set', 'admin.port=0')
    const [, url = ''] = await demo.saw(/proxy +(http:\S+)/)
    writeFileSync(join(home, 'ask.mjs'), clientProgram)
    const said = await startBare(t, ['node', join(home, 'ask.mjs'), url], { cwd: home, environment }).ended
    t.strictSame(said, { code: 0, stdout: 'answer 3 grok\nrefusal ENDPOINT_UNKNOWN\n', stderr: '' })
    demo.signal('SIGTERM')
    await demo.ended
  })

  await t.test('doctor finds it fit, a paid answer survives a restart, and Node has nothing to say', async (t) => {
    const sim = createSimulator({ latency: instant })
    const { url: upstream } = await sim.start()
    t.teardown(() => sim.close())
    const examined = await begin(
      'doctor',
      '--json',
      '--set',
      `upstream.url=${upstream}`,
      '--set',
      'listen.port=0',
      '--set',
      'admin.port=0',
    ).ended
    t.match(examined, { code: 0, stderr: '' })
    t.match(JSON.parse(examined.stdout), { findings: [{ name: 'settings', status: 'ok' }] })
    const told: unknown[] = []
    for (let turn = 0; turn < 2; turn += 1) {
      const sets = ['listen.port=0', 'admin.port=0', `upstream.url=${upstream}`].flatMap((one) => ['--set', one])
      const proxy = begin(...sets)
      const [, url = ''] = await proxy.saw(/"url":"(http:[^"]+)"/)
      const { status, headers } = await request(undefined, `${url}/scrapers/gemini?prompt=kept`)
      told.push([status, headers['x-proxy-credits'], /detail=(\w+)/.exec(String(headers['cache-status']))?.[1]])
      proxy.signal('SIGTERM')
      t.match(await proxy.ended, { code: 0, stderr: '' })
    }
    t.strictSame(told, [
      [200, '3', undefined],
      [200, '0', 'disk'],
    ])
  })
}

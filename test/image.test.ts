/**
 * The image without Docker: the steps of the Dockerfile, done in a folder, make a proxy that runs as another user on files that it
 * cannot change, and the health check tells whether it lives.
 */
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { parse } from 'yaml'
import { createSimulator, instant } from '../src/simulator/simulator.ts'
import { anAuthority } from './support/certificates.ts'
import { root, startBare } from './support/process.ts'
import { request } from './support/proxy.ts'

interface Step {
  readonly word: string
  readonly rest: string
}

interface Stage {
  readonly name: string
  readonly steps: Step[]
}

const isRoot = process.getuid?.() === 0

const read = (path: string): string => readFileSync(join(root, path), 'utf8')

function stagesOf(text: string): Stage[] {
  const lines = text
    .replaceAll(/^\s*#.*\n/gm, '')
    .replaceAll(/\\\n\s*/g, '')
    .split('\n')
    .filter((line) => line !== '')
  const stages: Stage[] = []
  for (const line of lines) {
    const [, word = '', rest = ''] = /^([A-Z]+) (.*)$/.exec(line) ?? []
    if (word === 'FROM') stages.push({ name: /AS (\w+)$/.exec(rest)?.[1] ?? 'image', steps: [] })
    else stages.at(-1)?.steps.push({ word, rest })
  }
  return stages
}

const stages = stagesOf(read('Dockerfile'))
/** Of the last stage, which is the image. */
const steps = stages.at(-1)?.steps ?? []
const step = (wanted: string): string => steps.find(({ word }) => word === wanted)?.rest ?? ''
const words = (wanted: string): string[] => JSON.parse(step(wanted).replace(/^.*?CMD /, '')) as string[]

/** Each stage is a folder; where the last one works is returned. */
function build(folder: string): string {
  const context = join(folder, 'context')
  for (const [, path = ''] of read('.dockerignore').matchAll(/^!(.*)$/gm))
    cpSync(join(root, path), join(context, path), { recursive: true })
  // As a checkout of somebody with umask 077.
  spawnSync('chmod', ['-R', 'go=', context])
  let workdir = ''
  for (const { name, steps } of stages) {
    const stage = join(folder, name)
    for (const { word, rest } of steps) {
      if (word === 'WORKDIR') mkdirSync((workdir = join(stage, rest)), { recursive: true })
      else if (word === 'COPY') copy(rest, context, folder, workdir)
      else if (word === 'RUN') run(rest, stage, workdir)
    }
  }
  return workdir
}

function copy(rest: string, context: string, folder: string, workdir: string): void {
  const [, mode, stage, sources = '', target = ''] =
    /^(?:--chmod=(\d+) )?(?:--from=(\w+) )?(.*) (\S+)$/.exec(rest) ?? []
  for (const source of sources.split(' ')) {
    const from = join(stage === undefined ? context : join(folder, stage), source)
    const to = join(workdir, target.endsWith('/') ? join(target, source) : target)
    cpSync(from, to, { recursive: true, verbatimSymlinks: true })
    if (mode !== undefined) spawnSync('chmod', ['-R', mode, to])
  }
}

/** The tests stand on what `npm ci` installs for development: it is not done again. */
function run(command: string, stage: string, workdir: string): void {
  if (command.startsWith('install --directory'))
    spawnSync('/bin/sh', [
      '-c',
      (isRoot ? command : command.replaceAll(/--(owner|group)=\S+ /g, '')).replace(/\S+$/, (folder) =>
        join(stage, folder),
      ),
    ])
  else if (command.startsWith('npm ci') && !command.includes('--omit=dev'))
    symlinkSync(join(root, 'node_modules'), join(workdir, 'node_modules'))
  else {
    const { status, stderr } = spawnSync('/bin/sh', ['-c', `unset NODE_OPTIONS; ${command}`], {
      cwd: workdir,
      encoding: 'utf8',
    })
    if (status !== 0) throw new Error(`${command}\n${stderr}`)
  }
}

void t.test(
  'the steps of the image, done with umask 077, make a proxy that any user can run on files that it cannot change',
  async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'image-'))
    t.teardown(() => rmSync(folder, { recursive: true, force: true }))
    chmodSync(folder, 0o755)
    const app = build(folder)
    t.notOk(existsSync(join(app, 'node_modules/.bin/node')), 'no second Node')
    for (const name of ['typescript', 'tap', 'scrapellm-proxy-engine'])
      t.notOk(existsSync(join(app, 'node_modules', name)), name)
    t.notOk(existsSync(join(app, 'src')))

    t.equal(step('USER'), '1000:0')
    const data = join(folder, 'image', step('VOLUME'))
    // As OpenShift does: a user id of its own, in group 0.
    const user = isRoot ? ['setpriv', '--reuid=1000660000', '--regid=0', '--clear-groups'] : []
    spawnSync('chmod', ['-R', 'a-w', app])
    t.teardown(() => void spawnSync('chmod', ['-R', 'u+w', app]))
    // Where the user of the image can reach it.
    const node = join(folder, 'node')
    copyFileSync(process.execPath, node)

    const sim = createSimulator({ latency: instant })
    const { url: upstream } = await sim.start()
    t.teardown(() => sim.close())
    const [entry, ...args] = [...words('ENTRYPOINT'), ...words('CMD')]
    t.equal(entry, 'node')
    const environment = {
      SCRAPELLM_API_KEY: 'a-key',
      CLIENT_TOKEN: 'client-token-of-the-tests',
      ADMIN_TOKEN: 'admin-token-of-the-tests',
      ADMIN_PORT: '0',
    }
    const sets = [`cache.disk.path=${data}/cache.db`, `upstream.url=${upstream}`, 'listen.port=0']
    const command = [...user, node, ...args, ...sets.flatMap((one) => ['--set', one])]
    const proxy = startBare(t, command, { cwd: app, environment })
    const [line] = await proxy.saw(/^.*"msg":"listening".*$/m)
    const { port, admin_port: adminPort } = JSON.parse(line) as { port: number; admin_port: number }
    const url = `http://127.0.0.1:${port}/scrapers/chatgpt?prompt=hello`
    t.equal((await request(undefined, url, { headers: { 'x-api-key': environment.CLIENT_TOKEN } })).status, 200)

    const check = () =>
      startBare(t, [...user, node, ...words('HEALTHCHECK').slice(1)], {
        cwd: app,
        environment: { ADMIN_PORT: String(adminPort) },
      }).ended
    t.strictSame(await check(), { code: 0, stdout: '', stderr: '' })
    proxy.signal('SIGTERM')
    t.match(await proxy.ended, { code: 0, stderr: '' })
    t.match(await check(), { code: 1 })
    t.ok(existsSync(join(data, 'cache.db')), 'what is to survive is in the volume')
  },
)

void t.test('the health check takes an admin port with a certificate for another name', async (t) => {
  const { cert, key } = anAuthority(t).issue('proxy.example.com', ['DNS:proxy.example.com'])
  const settings = [
    `admin.tls.cert=${cert}`,
    `admin.tls.key=${key}`,
    'admin.port=0',
    'listen.port=0',
    'cache.disk=false',
  ]
  const proxy = startBare(
    t,
    [process.execPath, join(root, 'src/main.ts'), ...settings.flatMap((one) => ['--set', one])],
    {
      environment: { SCRAPELLM_API_KEY: 'a-key' },
    },
  )
  const [line] = await proxy.saw(/^.*"msg":"listening".*$/m)
  const { admin_port: adminPort } = JSON.parse(line) as { admin_port: number }
  const check = startBare(t, [process.execPath, ...words('HEALTHCHECK').slice(1)], {
    environment: { ADMIN_PORT: String(adminPort) },
  })
  t.strictSame(await check.ended, { code: 0, stdout: '', stderr: '' })
})

void t.test('the image exposes, checks and keeps what its settings say', async (t) => {
  const settings = parse(read('deploy/container.yaml')) as {
    listen: { port: number }
    admin: { port: string }
    cache: { disk: { path: string } }
  }
  const adminPort = /\d+/.exec(settings.admin.port)?.[0] ?? ''
  t.equal(step('EXPOSE'), `${settings.listen.port} ${adminPort}`)
  t.match(step('HEALTHCHECK'), `?? ${adminPort}`)
  t.ok(settings.cache.disk.path.startsWith(`${step('VOLUME')}/`))
})

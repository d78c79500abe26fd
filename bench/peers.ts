/**
 * Others that do this job or a part of it, one thread each, in front of the same upstream: those that are installed, and those that
 * npm has, in a temporary folder. Their settings are the files in `peers/`, as good for this job as they can be made.
 */
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Contestant } from './figure.ts'
import { freePort, has, pathOf, run, start, type Start } from './program.ts'

export type PeerName = keyof typeof peers

export interface PeerOptions {
  readonly upstreamPort: number
  /** How long answers are fresh. */
  readonly ttlSeconds?: number
  /** Another start with what is on its disk; the caller removes it. */
  readonly folder?: string
  readonly port?: number
}

interface Peer {
  /** What must be installed; null = npm brings it. */
  readonly command: string | null
  /** Answers are kept, so that it can be asked for hits. */
  readonly keeps: boolean
  /** GET requests get through. */
  readonly gets: boolean
  /** Run once in a new folder. */
  readonly prepare?: (given: Given) => readonly string[]
  readonly args: (given: Given) => readonly string[]
}

interface Given {
  readonly port: number
  readonly upstreamPort: number
  readonly ttlSeconds: number
  readonly folder: string
}

const varnishLimits = [
  'http_req_size=131072',
  'http_req_hdr_len=65536',
  'workspace_client=256k',
  'workspace_backend=256k',
]
const packages = ['hono@4', '@hono/node-server@2', '@portkey-ai/gateway@1', 'lru-cache@11', 'undici@8']

const peers = {
  nginx: {
    command: 'nginx',
    keeps: true,
    gets: true,
    args: ({ folder }) => ['-c', join(folder, 'nginx.conf'), '-p', folder],
  },
  varnish: {
    command: 'varnishd',
    keeps: true,
    gets: true,
    args: ({ folder, port }) =>
      ['-F', '-a', `127.0.0.1:${port}`, '-f', join(folder, 'varnish.vcl'), '-s', 'malloc,512m'].concat(
        ['-n', join(folder, 'varnish')],
        varnishLimits.flatMap((limit) => ['-p', limit]),
      ),
  },
  'traffic server': {
    command: 'traffic_server',
    keeps: true,
    gets: true,
    args: ({ folder }) => [`--run-root=${join(folder, 'trafficserver/runroot.yaml')}`],
  },
  squid: {
    command: 'squid',
    keeps: true,
    gets: true,
    prepare: ({ folder, port }) => ['-N', '-z', '-n', `bench${port}`, '-f', join(folder, 'squid.conf')],
    args: ({ folder, port }) => ['-N', '-n', `bench${port}`, '-f', join(folder, 'squid.conf')],
  },
  haproxy: {
    command: 'haproxy',
    keeps: true,
    gets: true,
    args: ({ folder }) => ['-db', '-f', join(folder, 'haproxy.cfg')],
  },
  caddy: {
    command: 'caddy',
    keeps: false,
    gets: true,
    args: ({ folder }) => ['run', '--config', join(folder, 'Caddyfile'), '--adapter', 'caddyfile'],
  },
  undici: {
    command: null,
    keeps: true,
    gets: true,
    args: ({ folder, upstreamPort, ttlSeconds }) => [join(folder, 'undici.mjs'), `${upstreamPort}`, `${ttlSeconds}`],
  },
  hono: {
    command: null,
    keeps: true,
    gets: true,
    args: ({ folder, upstreamPort, ttlSeconds }) => [join(folder, 'hono.mjs'), `${upstreamPort}`, `${ttlSeconds}`],
  },
  portkey: {
    command: null,
    keeps: false,
    gets: false,
    args: ({ folder, port }) =>
      ['--import', join(folder, 'loopback.mjs')].concat(
        join(folder, 'node_modules/@portkey-ai/gateway/build/start-server.js'),
        [`--port=${port}`, '--headless'],
      ),
  },
} satisfies Readonly<Record<string, Peer>>

const all: Readonly<Record<string, Peer>> = peers

/** Downloaded once per run; null = npm has no registry here. */
let modules: Promise<string | null> | null = null

export async function removePackages(): Promise<void> {
  const folder = await modules
  if (folder) rmSync(folder, { recursive: true, force: true })
}

/** Those that can be started here. */
export async function installed(which: (peer: Peer) => boolean = () => true): Promise<PeerName[]> {
  const names: string[] = []
  for (const [name, peer] of Object.entries(all)) {
    if (!which(peer)) continue
    if (peer.command === null ? (await packagesFolder()) !== null : has(peer.command)) names.push(name)
  }
  return names as PeerName[]
}

export async function startPeers(upstreamPort: number, which: (peer: Peer) => boolean): Promise<Contestant[]> {
  const started: Contestant[] = []
  for (const name of await installed(which)) started.push(await startPeer(name, { upstreamPort }))
  return started
}

export async function startPeer(name: PeerName, options: PeerOptions): Promise<Contestant> {
  const { upstreamPort, ttlSeconds = 3600 } = options
  const peer: Peer = peers[name]
  const port = options.port ?? (await freePort())
  const folder = options.folder ?? mkdtempSync(join(tmpdir(), 'bench-'))
  const given: Given = { port, upstreamPort, ttlSeconds, folder }
  const isNew = readdirSync(folder).length === 0
  fillIn(folder, given)
  if (isNew && peer.command !== null && peer.prepare) await run(peer.command, peer.prepare(given), 'server')
  if (isNew && peer.command === null)
    symlinkSync(join((await packagesFolder()) ?? '', 'node_modules'), join(folder, 'node_modules'))
  const isTold = peer.command === null && peer.gets
  const program: Start = {
    command: peer.command ?? process.execPath,
    args: peer.args(given),
    core: 'server',
    port: isTold ? 'told' : port,
    ...(options.folder === undefined ? { folder } : {}),
  }
  return { name, program: await start(program) }
}

/** The files of `peers/` with ports, folder and times. Some peers give up the rights they were started with before they read them. */
function fillIn(folder: string, { port, upstreamPort, ttlSeconds }: Given): void {
  chmodSync(folder, 0o777)
  for (const made of ['cache', 'run', 'trafficserver']) {
    mkdirSync(join(folder, made), { recursive: true })
    chmodSync(join(folder, made), 0o777)
  }
  const values = { PORT: port, UPSTREAM: upstreamPort, TTL: ttlSeconds, TTL_MINUTES: Math.floor(ttlSeconds / 60) }
  for (const path of readdirSync(pathOf('bench/peers'), { recursive: true, encoding: 'utf8' })) {
    const from = pathOf(`bench/peers/${path}`)
    if (statSync(from).isDirectory()) continue
    const to = join(folder, path)
    let text = readFileSync(from, 'utf8').replaceAll('__FOLDER__', folder)
    for (const [key, value] of Object.entries(values)) text = text.replaceAll(`__${key}__`, String(value))
    writeFileSync(to, text)
  }
}

function packagesFolder(): Promise<string | null> {
  return (modules ??= download())
}

/** Never dependencies of this project: they are fetched when they are to be measured, their install scripts are not run. */
async function download(): Promise<string | null> {
  const folder = mkdtempSync(join(tmpdir(), 'bench-npm-'))
  process.stderr.write(`npm: ${packages.join(', ')}\n`)
  const flags = ['--no-audit', '--no-fund', '--ignore-scripts', '--loglevel=error', '--prefix', folder]
  try {
    await run('npm', ['install', ...flags, ...packages], 'load')
    return folder
  } catch (error) {
    rmSync(folder, { recursive: true, force: true })
    process.stderr.write(`${String(error)}: undici, Hono and Portkey are left out\n`)
    return null
  }
}

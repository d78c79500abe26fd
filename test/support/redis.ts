/**
 * Real Redis servers, Sentinels and Clusters on free ports, with nothing on the disk. What they say of themselves is the
 * barrier. Each can be killed, stopped and started empty again; all end with the test, by their own ids.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Scope } from './scope.ts'

export interface RedisProcess {
  readonly port: number
  readonly url: string
  readonly pid: () => number
  /** One command, over a connection of its own; the reply as it is on the wire, rejects when there is no connection. */
  readonly ask: (...command: string[]) => Promise<string>
  /** kill -9. */
  readonly kill: () => Promise<void>
  /** SIGSTOP and SIGCONT. */
  readonly pause: () => void
  readonly resume: () => void
  /** On the same port, with nothing in it. */
  readonly restart: () => Promise<void>
}

export interface SentinelTrio {
  readonly name: string
  readonly urls: readonly string[]
  readonly master: RedisProcess
  readonly replica: RedisProcess
}

export async function startRedis(t: Scope, args: readonly string[] = []): Promise<RedisProcess> {
  return startServer(t, await freePort(), args)
}

/** A master, a replica, and three Sentinels that need `quorum` votes. */
export async function startSentinels(t: Scope, name = 'slp'): Promise<SentinelTrio> {
  const master = await startRedis(t)
  const replica = await startRedis(t, ['--replicaof', '127.0.0.1', String(master.port)])
  await until(async () => (await replica.ask('INFO', 'replication')).includes('master_link_status:up'))
  const directory = temporaryDirectory(t)
  const sentinels: RedisProcess[] = []
  for (let number = 1; number <= 3; number++) {
    const file = join(directory, `sentinel-${number}.conf`)
    writeFileSync(
      file,
      [
        `sentinel monitor ${name} 127.0.0.1 ${master.port} 2`,
        `sentinel down-after-milliseconds ${name} 1000`,
        `sentinel failover-timeout ${name} 3000`,
        '',
      ].join('\n'),
    )
    sentinels.push(await startServer(t, await freePort(), [], [file, '--sentinel']))
  }
  const [first] = sentinels
  // All know of each other and of the replica: only then can they fail over.
  await until(async () => {
    const info = (await first?.ask('INFO', 'sentinel')) ?? ''
    return info.includes('slaves=1') && info.includes('sentinels=3')
  })
  return { name, urls: sentinels.map(({ url }) => url), master, replica }
}

/** Masters without replicas that share all slots. */
export async function startCluster(t: Scope, size = 3): Promise<readonly RedisProcess[]> {
  const nodes: RedisProcess[] = []
  for (let number = 0; number < size; number++) {
    const settings = [
      '--cluster-enabled',
      'yes',
      '--cluster-node-timeout',
      '2000',
      '--cluster-config-file',
      'nodes.conf',
    ]
    const more = ['--cluster-require-full-coverage', 'no', '--cluster-port', String(await freePort())]
    nodes.push(await startRedis(t, [...settings, ...more, '--dir', temporaryDirectory(t)]))
  }
  const create = spawn(
    'redis-cli',
    ['--cluster', 'create', ...nodes.map(({ port }) => `127.0.0.1:${port}`), '--cluster-yes'],
    { stdio: 'ignore' },
  )
  const [code] = (await once(create, 'exit')) as [number | null]
  if (code !== 0) throw new Error('The cluster could not be made')
  for (const node of nodes) await until(async () => (await node.ask('CLUSTER', 'INFO')).includes('cluster_state:ok'))
  return nodes
}

async function startServer(
  t: Scope,
  port: number,
  args: readonly string[],
  first: readonly string[] = [],
): Promise<RedisProcess> {
  const directory = temporaryDirectory(t)
  const all = [...first, '--port', String(port), '--bind', '127.0.0.1', '--dir', directory]
  const inMemory = first.length > 0 ? [] : ['--save', '', '--appendonly', 'no']
  let child = await launch()
  t.teardown(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  })

  async function launch(): Promise<ChildProcess> {
    const started = spawn('redis-server', [...all, ...inMemory, ...args], { stdio: ['ignore', 'pipe', 'ignore'] })
    await readyIn(started)
    return started
  }

  return {
    port,
    url: `redis://127.0.0.1:${port}`,
    pid: () => child.pid ?? 0,
    ask: (...command) => askOver(port, command),
    async kill() {
      const gone = once(child, 'exit')
      child.kill('SIGKILL')
      await gone
    },
    pause: () => void child.kill('SIGSTOP'),
    resume: () => void child.kill('SIGCONT'),
    async restart() {
      child = await launch()
    },
  }
}

function readyIn(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    let said = ''
    child.stdout?.on('data', (chunk: Buffer) => {
      said += chunk.toString()
      if (/Ready to accept connections|Sentinel ID is/.test(said)) resolve()
    })
    child.once('error', reject)
    child.once('exit', () => reject(new Error(`redis-server ended\n${said}`)))
  })
}

function askOver(port: number, command: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('error', reject)
    let reply = ''
    socket.on('data', (chunk: Buffer) => {
      reply += chunk.toString('latin1')
      if (endOf(reply, 0) !== null) socket.destroy()
    })
    socket.once('close', () => resolve(reply))
    const words = command.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`)
    socket.write(`*${command.length}\r\n${words.join('')}`)
  })
}

/** Where the value that begins at `from` ends; null = it is not whole yet. */
function endOf(reply: string, from: number): number | null {
  const lineEnd = reply.indexOf('\r\n', from)
  if (lineEnd < 0) return null
  const size = Number(reply.slice(from + 1, lineEnd))
  let end: number | null = lineEnd + 2
  if (reply[from] === '$' && size >= 0) end += size + 2
  if (reply[from] === '*') for (let item = 0; item < size && end !== null; item++) end = endOf(reply, end)
  return end !== null && end <= reply.length ? end : null
}

/** Asks again and again, until it is so: for states that nobody announces. */
export async function until(isSo: () => Promise<boolean> | boolean): Promise<void> {
  while (!(await isSo())) await new Promise((resolve) => setTimeout(resolve, 10))
}

/** Free now, and, like the port of its cluster bus, below those that the system gives to outgoing connections. Files run side by side. */
const LOWEST = 11_000
const RANGE = 11_000

/** Whoever needs the port only later takes it from another range. */
export async function freePort(lowest: number = LOWEST): Promise<number> {
  for (;;) {
    const nextPort = lowest + Math.floor(Math.random() * RANGE)
    const server = createServer()
    const isFree = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false))
      server.listen(nextPort, '127.0.0.1', () => server.close(() => resolve(true)))
    })
    if (isFree) return nextPort
  }
}

function temporaryDirectory(t: Scope): string {
  const directory = mkdtempSync(join(tmpdir(), 'slp-redis-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

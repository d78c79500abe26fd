/**
 * Programs that are measured, or measure: each in a process of its own, on a core of its own where the machine has two and
 * `taskset` is there. What was started here is ended here, whatever happens.
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { readdirSync, readFileSync, rmSync } from 'node:fs'
import { createConnection, createServer, type AddressInfo } from 'node:net'
import { availableParallelism } from 'node:os'

export interface Program {
  readonly pid: number
  readonly port: number
  readonly adminPort: number
  /** Of all its threads, since it began. */
  cpuMs(): number
  residentBytes(): number
  signal(signal: NodeJS.Signals): void
  stop(): Promise<void>
}

export interface Start {
  readonly command: string
  readonly args: readonly string[]
  readonly core: Core
  /** A port of the program's own choice is told by a JSON line with `port`; one that it was given answers in the end. */
  readonly port: 'told' | number
  /** Removed when the program has ended. */
  readonly folder?: string
}

/** What is measured has one core, whatever keeps it busy the other one; `any` where several processes are measured at once. */
export type Core = 'server' | 'load' | 'any'

const cores: Readonly<Record<Core, string>> = { server: '0', load: '1', any: '0,1' }
const running = new Set<ChildProcess>()
const READY_MS = 120_000

export const isPinned = availableParallelism() > 1 && has('taskset')

/** How many files, and so sockets, a program may have open. It is raised as far as this user may. */
export function mostFiles(): number {
  const told = spawnSync('sh', ['-c', `${raised}; ulimit -n`], { encoding: 'utf8' }).stdout.trim()
  return Number(told) || 1_000_000
}

const raised = 'ulimit -n 100000 2>/dev/null || ulimit -n "$(ulimit -H -n)"'

export function has(command: string): boolean {
  return spawnSync('sh', ['-c', `command -v ${command}`], { stdio: 'ignore' }).status === 0
}

/** This process only waits and counts; it must not do so where something is measured. */
export function pinSelf(): void {
  if (isPinned) spawnSync('taskset', ['-a', '-cp', cores.load, String(process.pid)], { stdio: 'ignore' })
}

/** A program of this repository. */
export function startNode(path: string, core: Core, args: readonly string[] = []): Promise<Program> {
  return start({ command: process.execPath, args: [pathOf(path), ...args], core, port: 'told' })
}

export function pathOf(path: string): string {
  return new URL(`../${path}`, import.meta.url).pathname
}

export async function start({ command, args, core, port, folder }: Start): Promise<Program> {
  const child = launch(command, args, core)
  if (folder !== undefined) child.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  const exited = new Promise<never>((_, reject) => {
    child.once('error', reject)
    child.once('exit', (code) => reject(new Error(`${command} ${args.join(' ')} ended (${code}): ${tail(child)}`)))
  })
  exited.catch(() => undefined)
  const ready = port === 'told' ? toldPorts(child) : answers(port).then(() => ({ port, adminPort: 0 }))
  const ports = await Promise.race([ready, exited, late(`${command} is not ready`)])
  const { pid = 0 } = child
  return {
    pid,
    ...ports,
    cpuMs: () => cpuMsOf(pid),
    residentBytes: () => residentBytesOf(pid),
    signal: (signal) => void child.kill(signal),
    stop: () => stop(child),
  }
}

/** Runs a program to its end and gives what it printed. */
export async function run(command: string, args: readonly string[], core: Core, input = ''): Promise<string> {
  const child = launch(command, args, core)
  let output = ''
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (output += text))
  child.stdin?.end(input)
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  if (code !== 0) throw new Error(`${command} ${args.join(' ')} failed (${code}): ${tail(child)} ${output.slice(-500)}`)
  return output
}

/** Nothing that was started here is left behind. */
export async function stopAll(): Promise<void> {
  await Promise.all(Array.from(running, stop))
}

export async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

const errors = new WeakMap<ChildProcess, string>()

function tail(child: ChildProcess): string {
  return (errors.get(child) ?? '').trim().slice(-500)
}

function launch(command: string, args: readonly string[], core: Core): ChildProcess {
  const pinned = isPinned ? ['taskset', '-c', cores[core]] : []
  const child = spawn('sh', ['-c', `${raised}; exec "$@"`, 'sh', ...pinned, command, ...args], {
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  running.add(child)
  child.once('exit', () => running.delete(child))
  child.stdin?.on('error', () => undefined)
  child.stderr?.setEncoding('utf8').on('data', (text: string) => errors.set(child, (errors.get(child) ?? '') + text))
  return child
}

/** Everything behind the line that tells the ports is read and dropped, as a log collector would read it. */
async function toldPorts(child: ChildProcess): Promise<{ port: number; adminPort: number }> {
  return new Promise((resolve) => {
    let text = ''
    child.stdout?.on('data', (bytes: Buffer) => {
      if (text === '\n') return
      text += bytes.toString()
      const line = text.split('\n').find((one) => one.startsWith('{') && one.endsWith('}') && one.includes('"port":'))
      if (!line) return
      text = '\n'
      const { port, admin_port: adminPort = 0 } = JSON.parse(line) as { port: number; admin_port?: number }
      resolve({ port, adminPort })
    })
  })
}

async function answers(port: number): Promise<void> {
  const isOpen = (): Promise<boolean> =>
    new Promise((resolve) => {
      const socket = createConnection(port, '127.0.0.1')
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
      socket.once('connect', () => socket.destroy())
    })
  while (!(await isOpen())) await pause(50)
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

async function late(what: string): Promise<never> {
  await new Promise((resolve) => setTimeout(resolve, READY_MS).unref())
  throw new Error(`${what} after ${READY_MS / 1000} s`)
}

async function stop(child: ChildProcess): Promise<void> {
  if (!running.has(child)) return
  const gone = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGTERM')
  const hard = setTimeout(() => child.kill('SIGKILL'), 3_000)
  await gone
  clearTimeout(hard)
}

/** Nanoseconds of every thread's time on a core, where the kernel tells them; of its children as well. */
function cpuMsOf(pid: number): number {
  const own = threadsOf(pid).reduce((sum, thread) => sum + onCpuMs(`/proc/${pid}/task/${thread}/schedstat`), 0)
  return childrenOf(pid).reduce((sum, child) => sum + cpuMsOf(child), own)
}

/** Some do their work in a process that they start. */
function childrenOf(pid: number): readonly number[] {
  try {
    const pids = threadsOf(pid).map((thread) => readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8'))
    return pids.flatMap((text) => text.split(' ').filter(Boolean).map(Number))
  } catch {
    return []
  }
}

function threadsOf(pid: number): readonly string[] {
  try {
    return readdirSync(`/proc/${pid}/task`)
  } catch {
    return []
  }
}

function onCpuMs(path: string): number {
  try {
    return Number(readFileSync(path, 'utf8').split(' ')[0]) / 1e6
  } catch {
    return 0
  }
}

function residentBytesOf(pid: number): number {
  const found = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
  return childrenOf(pid).reduce((sum, child) => sum + residentBytesOf(child), Number(found?.[1] ?? 0) * 1024)
}

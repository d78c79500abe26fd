/**
 * The real program as a child process. What it says is the barrier: wait for the line, never for a time. It is stopped by
 * its id and asked politely, so that what it covered is written down, too.
 */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Scope } from './scope.ts'

export interface Finished {
  /** Null = ended by a signal. */
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export interface Program {
  readonly stdout: () => string
  readonly stderr: () => string
  /** The log: the lines of standard output that are JSON. */
  readonly lines: () => Record<string, unknown>[]
  /** Resolves once standard output matches; rejects when the program ends before. */
  readonly saw: (pattern: RegExp) => Promise<RegExpExecArray>
  readonly signal: (name: NodeJS.Signals) => void
  readonly pid: () => number
  readonly ended: Promise<Finished>
}

export interface Running extends Program {
  readonly url: string
  readonly adminUrl: string
}

export interface Surroundings {
  readonly environment?: Readonly<Record<string, string>>
  readonly cwd?: string
  /** Of its output only so much is remembered, the latest: for those that run for long. */
  readonly keepsBytes?: number
}

export const root = fileURLToPath(new URL('../../', import.meta.url))
const main = fileURLToPath(new URL('../../src/main.ts', import.meta.url))

/** What the machine of a developer may have set and a test must not depend on. */
const foreign = /_proxy$|^(?:SCRAPELLM_API_KEY|BASE_URL|API_KEY|NODE_TLS_REJECT_UNAUTHORIZED)$/i

function surroundingsOf(more: Readonly<Record<string, string>>): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([name]) => !foreign.test(name))
  return { ...Object.fromEntries(kept), ...more }
}

/** Any program, in an empty folder if nothing is said; ended with the test, if not before. */
export function start(
  t: Scope,
  command: string,
  args: readonly string[],
  { environment = {}, cwd, keepsBytes = Number.POSITIVE_INFINITY }: Surroundings = {},
): Program {
  const folder = cwd ?? mkdtempSync(join(tmpdir(), 'scrapellm-proxy-'))
  const child = spawn(command, args, {
    cwd: folder,
    env: surroundingsOf(environment),
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let stdout = ''
  let stderr = ''
  let isOver = false
  const waiting = new Set<() => void>()
  const look = (): void => {
    for (const one of waiting) one()
  }
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk.toString()
    if (stdout.length > 2 * keepsBytes) stdout = stdout.slice(-keepsBytes)
    look()
  })
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
  const ended = new Promise<Finished>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code) => {
      isOver = true
      look()
      resolve({ code, stdout, stderr })
    })
  })

  t.teardown(async () => {
    // The second one ends a drain; to one that has ended, nothing is sent.
    child.kill('SIGTERM')
    child.kill('SIGTERM')
    await ended
    if (cwd === undefined) rmSync(folder, { recursive: true, force: true })
  })

  function saw(pattern: RegExp): Promise<RegExpExecArray> {
    return new Promise((resolve, reject) => {
      function check(): void {
        const found = pattern.exec(stdout)
        if (!found && !isOver) return
        waiting.delete(check)
        if (found) resolve(found)
        else reject(new Error(`ended before it said ${String(pattern)}\n${stdout}\n${stderr}`))
      }
      waiting.add(check)
      check()
    })
  }

  return {
    stdout: () => stdout,
    stderr: () => stderr,
    lines: () =>
      stdout
        .split('\n')
        .filter((line) => line.startsWith('{'))
        .map((line) => JSON.parse(line) as Record<string, unknown>),
    saw,
    signal: (name) => void child.kill(name),
    pid: () => child.pid ?? 0,
    ended,
  }
}

/** A program as a stranger runs it: without what coverage puts into the environment of every Node. */
export function startBare(t: Scope, command: readonly string[], surroundings?: Surroundings): Program {
  return start(t, '/bin/sh', ['-c', 'unset NODE_OPTIONS; exec "$@"', 'sh', ...command], surroundings)
}

/** `scrapellm-proxy ARGS`, not waited for. */
export function startProgram(t: Scope, args: readonly string[], surroundings?: Surroundings): Program {
  return start(t, process.execPath, [main, ...args], surroundings)
}

/** `scrapellm-proxy ARGS`, until it ends. */
export function runProgram(t: Scope, args: readonly string[], surroundings?: Surroundings): Promise<Finished> {
  return startProgram(t, args, surroundings).ended
}

/** The proxy on free ports, once it listens. `sets` are `path=value`. */
export async function startProxy(
  t: Scope,
  upstream: string,
  sets: readonly string[] = [],
  environment: Readonly<Record<string, string>> = { SCRAPELLM_API_KEY: 'upstream-key-of-the-tests' },
): Promise<Running> {
  const all = ['listen.port=0', 'admin.port=0', `upstream.url=${upstream}`, ...sets]
  // Without what coverage puts into it: these run by the dozen, and the same code is measured in the process of the test.
  const program = startProgram(
    t,
    all.flatMap((one) => ['--set', one]),
    { environment: { NODE_OPTIONS: '', ...environment } },
  )
  const [line] = await program.saw(/^.*"msg":"listening".*$/m)
  const { url, admin_url: adminUrl } = JSON.parse(line) as { url: string; admin_url: string }
  return { ...program, url, adminUrl }
}

/** The demo on free ports, once it has said what it started. */
export async function startDemo(t: Scope, args: readonly string[] = ['--quiet']): Promise<Running> {
  const program = startProgram(t, ['demo', '--port', '0', '--set', 'admin.port=0', ...args])
  const [, url = '', adminUrl = ''] = await program.saw(/proxy +(http:\S+)\n +admin +(http:\S+)\/metrics[^]*Ctrl-C/)
  return { ...program, url, adminUrl }
}

/** A line for the shell, as a reader would paste it. */
export function shell(t: Scope, line: string, surroundings?: Surroundings): Promise<Finished> {
  return start(t, '/bin/sh', ['-c', line], surroundings).ended
}

/** Runs one command of the command line, and says in words why it could not. */
import { readFileSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import { setFlagsFromString } from 'node:v8'
import { styleText } from 'node:util'
import { parseCommandLine, type Invocation } from './args.ts'
import { runCheck } from './check.ts'
import { runDemo } from './demo.ts'
import { runDoctor } from './doctor.ts'
import { helpText } from './help.ts'
import type { Host } from './host.ts'
import type { Io } from './io.ts'
import { replayOptions } from './replay-options.ts'
import { runReplay } from './replay.ts'
import { runReport } from './report.ts'
import { runSchema } from './schema.ts'
import { serve } from './serve.ts'
import { settingsSource } from './settings.ts'
import { runSimulator } from './simulator.ts'
import { runToken } from './token.ts'
import { runTrace } from './trace.ts'
import { ConfigError } from '../errors.ts'
import { realWorld } from '../world/real.ts'

// V8 takes what lives long while questions are asked upstream as a sign that the next ones will, too, and makes objects of every
// request old from the start. What they point to then outlives its request: measured, 4.6 KB of each hit were copied by every collection.
setFlagsFromString('--no-allocation-site-pretenuring')

const EXIT_FAILURE = 1
/** EX_CONFIG of sysexits.h: a supervisor need not try again. */
const EXIT_CONFIG = 78

const io: Io = {
  stdout: (text) => void process.stdout.write(text),
  stderr: (text) => void process.stderr.write(text),
  environment: process.env,
  readFile: (path) => readFileSync(path, 'utf8'),
  cwd: process.cwd(),
  randomBytes: (count) => randomBytes(count),
}

/** One line that is written over, for whoever looks; not in a file. */
const progress = process.stderr.isTTY ? (text: string) => io.stderr(`\r\u001B[K${text}`) : null

/** Only on a terminal, and not where NO_COLOR is set. */
const paint: typeof styleText = (format, text) => styleText(format, text, { stream: process.stdout })

/** Resolves to the exit code. */
export async function main(words: readonly string[], host: Host, version: string): Promise<number> {
  return run(words, host, version).catch(explain)
}

async function run(words: readonly string[], host: Host, version: string): Promise<number> {
  const parsed = parseCommandLine(words)
  switch (parsed.kind) {
    case 'help':
      io.stdout(helpText(parsed.command))
      return 0
    case 'version':
      io.stdout(`${version}\n`)
      return 0
    case 'wrong':
      io.stderr(`${parsed.message}\nscrapellm-proxy --help lists the commands and options.\n`)
      return EXIT_FAILURE
    case 'run':
      return runCommand(parsed, host, version)
    default:
      return parsed satisfies never
  }
}

async function runCommand(invocation: Invocation, host: Host, version: string): Promise<number> {
  if (invocation.command !== 'serve' && invocation.command !== 'demo') host.endOnHangUp()
  switch (invocation.command) {
    case 'serve':
      return (await serve(settingsSource(invocation, io), realWorld(), version, host)).ended
    case 'demo':
      return runDemo(invocation, io, realWorld(), version, host)
    case 'simulator':
      return runSimulator(invocation, io, host)
    case 'check':
      return runCheck(invocation, io)
    case 'doctor':
      return runDoctor(invocation, { ...io, paint })
    case 'schema':
      return runSchema(invocation, io)
    case 'token':
      return runToken({ name: invocation.operand ?? '' }, io)
    case 'report':
      return runReport(
        {
          ...invocation,
          month: invocation.given['month']?.at(-1) ?? new Date().toISOString().slice(0, 7),
          format: invocation.given['format']?.at(-1) === 'json' ? 'json' : 'csv',
        },
        io,
        realWorld(),
      )
    case 'trace':
      return runTrace({ ...invocation, id: invocation.operand ?? '' }, io)
    case 'replay':
      return runReplay(replayOptions(invocation), { ...io, progress })
    default:
      return invocation.command satisfies never
  }
}

/** What went wrong, in words for the person at the terminal. */
function explain(error: unknown): number {
  if (error instanceof ConfigError) {
    for (const mistake of error.mistakes) io.stderr(`${mistake}\n`)
    return EXIT_CONFIG
  }
  const { code, port, address, hostname } = error as {
    readonly code?: string
    readonly port?: number
    readonly address?: string
    readonly hostname?: string
  }
  if (code === 'ENOTFOUND') {
    io.stderr(
      `Cannot listen on "${hostname}": there is no such host. Set listen.host or admin.host to an address of this machine, such as 127.0.0.1.\n`,
    )
    return EXIT_CONFIG
  }
  if (code === 'EADDRINUSE')
    io.stderr(
      `Port ${port} on ${address} is in use: stop what listens there, or set another one with --set listen.port=N (admin.port=N).\n`,
    )
  else if (code === 'EACCES' || code === 'EADDRNOTAVAIL')
    io.stderr(`Cannot listen on ${address}:${port} (${code}): choose another address or port.\n`)
  else io.stderr(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`)
  return EXIT_FAILURE
}

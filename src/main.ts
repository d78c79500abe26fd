#!/usr/bin/env node
/** The way in: reads the command line, runs one command, and ends with its exit code. Everything else is elsewhere. */
import { readFileSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import { setFlagsFromString } from 'node:v8'
import { styleText } from 'node:util'
import { parseCommandLine, type Invocation } from './cli/args.ts'
import { runCheck } from './cli/check.ts'
import { runCompletion } from './cli/completion.ts'
import { runDemo } from './cli/demo.ts'
import { runDoctor } from './cli/doctor.ts'
import { helpText } from './cli/help.ts'
import type { Io } from './cli/io.ts'
import { replayOptions } from './cli/replay-options.ts'
import { runReplay } from './cli/replay.ts'
import { runSchema } from './cli/schema.ts'
import { serve } from './cli/serve.ts'
import { settingsSource } from './cli/settings.ts'
import { runSimulator } from './cli/simulator.ts'
import { runToken } from './cli/token.ts'
import { ConfigError } from './errors.ts'
import { realWorld } from './world/real.ts'

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

const { version, engines } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
  readonly version: string
  readonly engines: { readonly node: string }
}

/** One line that is written over, for whoever looks; not in a file. */
const progress = process.stderr.isTTY ? (text: string) => io.stderr(`\r\u001B[K${text}`) : null

/** Only on a terminal, and not where NO_COLOR is set. */
const paint: typeof styleText = (format, text) => styleText(format, text, { stream: process.stdout })

async function main(words: readonly string[]): Promise<number> {
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
      return run(parsed)
    default:
      return parsed satisfies never
  }
}

async function run(invocation: Invocation): Promise<number> {
  switch (invocation.command) {
    case 'serve':
      return (await serve(settingsSource(invocation, io), realWorld(), version, process)).ended
    case 'demo':
      return runDemo(invocation, io, realWorld(), version, process)
    case 'simulator':
      return runSimulator(invocation, io, process)
    case 'check':
      return runCheck(invocation, io)
    case 'doctor':
      return runDoctor({ ...invocation, neededNode: engines.node }, { ...io, paint })
    case 'schema':
      return runSchema(invocation, io)
    case 'token':
      return runToken({ name: invocation.operand ?? '' }, io)
    case 'completion':
      return runCompletion(invocation, io)
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
  const { code, port, address } = error as { code?: string; port?: number; address?: string }
  if (code === 'EADDRINUSE')
    io.stderr(
      `Port ${port} on ${address} is in use: stop what listens there, or set another one with --set listen.port=N (admin.port=N).\n`,
    )
  else if (code === 'EACCES' || code === 'EADDRNOTAVAIL')
    io.stderr(`Cannot listen on ${address}:${port} (${code}): choose another address or port.\n`)
  else io.stderr(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`)
  return EXIT_FAILURE
}

process.exitCode = await main(process.argv.slice(2)).catch(explain)
// A pipe may not have taken all of a long text yet. A reader that is gone (`| head`) is no error.
process.stdout.on('error', () => process.exit())
// What is still open by now (a connection nobody drained) must not keep a stopped process alive.
process.stdout.write('', () => process.exit())

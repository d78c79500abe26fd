#!/usr/bin/env node
/**
 * The way in. Signals are taken and the version of Node is looked at before the rest is loaded: loading takes half a second, in
 * which SIGHUP would kill the process, and an older Node fails at what it does not know.
 */
import { readFileSync } from 'node:fs'
import { createHost } from './cli/host.ts'

/** EX_CONFIG of sysexits.h: a supervisor need not try again. */
const EXIT_CONFIG = 78

const host = createHost()
const about = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
  readonly version: string
  readonly engines: { readonly node: string }
}

if (isNodeNewEnough()) {
  const { main } = await import('./cli/run.ts')
  process.exitCode = await main(process.argv.slice(2), host, about.version)
} else {
  const wanted = about.engines.node.replace('>=', '')
  process.stderr.write(
    `scrapellm-proxy needs Node.js ${wanted} or later; this is ${process.versions.node}. Install a newer one from https://nodejs.org, or use the image.\n`,
  )
  process.exitCode = EXIT_CONFIG
}
// A pipe may not have taken all of a long text yet. A reader that is gone (`| head`) is no error.
process.stdout.on('error', () => process.exit())
// What is still open by now (a connection nobody drained) must not keep a stopped process alive.
process.stdout.write('', () => process.exit())

function isNodeNewEnough(): boolean {
  const [major = 0, minor = 0] = numbersIn(process.versions.node)
  const [wantedMajor = 0, wantedMinor = 0] = numbersIn(about.engines.node)
  return major > wantedMajor || (major === wantedMajor && minor >= wantedMinor)
}

function numbersIn(version: string): number[] {
  return (version.match(/\d+/g) ?? []).map(Number)
}

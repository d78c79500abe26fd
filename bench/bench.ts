/**
 * `npm run bench`: the figures of the goals, measured side by side in one run. Prints one table and writes all numbers to
 * `bench/results/latest.json`. Ends by itself and leaves nothing running; README.md beside this file says how to read it.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { cpus, release } from 'node:os'
import { parseArgs } from 'node:util'
import type { Figure, Options, Row } from './figure.ts'
import { added } from './figures/added.ts'
import { credits } from './figures/credits.ts'
import { growth } from './figures/growth.ts'
import { hits } from './figures/hits.ts'
import { misses } from './figures/misses.ts'
import { open } from './figures/open.ts'
import { processes } from './figures/processes.ts'
import { startUp } from './figures/start.ts'
import { success } from './figures/success.ts'
import { tiers } from './figures/tiers.ts'
import { isWrkHere } from './load.ts'
import { removePackages } from './peers.ts'
import { isPinned, pinSelf, stopAll } from './program.ts'
import { tableOf } from './table.ts'

const figures: readonly Figure[] = [hits, misses, added, tiers, open, growth, processes, startUp, credits, success]

const help = `npm run bench -- [--peers] [--only P1,P6] [--rounds N] [--quick]

  --peers    nginx, Varnish, Traffic Server, Squid, HAProxy and Caddy as well, where they are installed, and from npm
             undici's interceptors, Hono with lru-cache and Portkey
  --only     the figures of these goals
  --rounds   how often everything is measured; the median counts (default 5)
  --quick    short loads: to see that everything works, not to be believed
`

const { values } = parseArgs({
  options: {
    peers: { type: 'boolean', default: false },
    only: { type: 'string' },
    rounds: { type: 'string' },
    quick: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})

if (values.help) {
  process.stdout.write(help)
  process.exit(0)
}

const options: Options = {
  peers: values.peers,
  quick: values.quick,
  rounds: Number(values.rounds ?? (values.quick ? 1 : 5)),
}
const wanted = values.only?.toUpperCase().split(',') ?? null
const rows: Row[] = []

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    // What was measured so far took minutes.
    if (rows.length > 0) process.stdout.write(`\n${tableOf(rows)}\n`)
    void end(1)
  })
}
pinSelf()
try {
  for (const figure of figures) {
    if (wanted && !figure.ids.some((id) => wanted.includes(id))) continue
    process.stderr.write(`${figure.ids.join(', ')}: ${figure.title}\n`)
    rows.push(...(await figure.measure(options)))
  }
  process.stdout.write(`\n${tableOf(rows)}\n`)
  write()
  await end(0)
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`)
  await end(1)
}

function write(): void {
  const folder = new URL('results/', import.meta.url)
  mkdirSync(folder, { recursive: true })
  const machine = { node: process.version, cpu: cpus()[0]?.model, cores: cpus().length, kernel: release() }
  const how = { ...options, at: new Date().toISOString(), pinned: isPinned, client: isWrkHere ? 'wrk' : 'own' }
  const file = new URL('latest.json', folder)
  writeFileSync(file, `${JSON.stringify({ machine, how, rows }, null, 2)}\n`)
  process.stderr.write(`\nAll numbers: ${file.pathname}\n`)
}

async function end(code: number): Promise<never> {
  await stopAll()
  await removePackages()
  process.exit(code)
}

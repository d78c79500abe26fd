/**
 * The command `npm run simulate`: many seeds in two processes, or all planted bugs. Prints what broke and the command that shows it again.
 *
 *   npm run simulate -- [--requests N] [--seed N] [--seeds N] [--trace N] [--processes N] [--all] | --planted [--only TEXT]
 */
import { fork } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { bugs } from './bugs.ts'
import { hunt, type Caught } from './plant.ts'
import { simulate, type Result } from './simulation.ts'
import { LONG_RUN, wanted } from './sometimes.ts'

interface Share {
  readonly from: number
  readonly step: number
}

/** What a worker says of a seed, and how long it has worked in all. */
interface Done {
  readonly result: Result
  readonly reached: readonly string[]
  readonly cpuMs: number
}

const MOST_OF_A_SEED = 2_000

const { values } = parseArgs({
  options: {
    requests: { type: 'string' },
    seed: { type: 'string' },
    seeds: { type: 'string' },
    trace: { type: 'string' },
    processes: { type: 'string', default: '2' },
    /** Goes on after a seed that breaks something. */
    all: { type: 'boolean', default: false },
    planted: { type: 'boolean', default: false },
    only: { type: 'string' },
    /** Passes over so many bugs of the list. */
    from: { type: 'string' },
    /** Of a worker: first seed and step. */
    share: { type: 'string' },
  },
})
const most = Number(values.requests ?? MOST_OF_A_SEED)

if (values.share !== undefined) await work(shareOf(values.share))
else if (values.planted) await huntAll()
else if (values.seed !== undefined && values.seeds === undefined) await showOne(Number(values.seed))
else await runAll()

/** One seed, with the end of its story. */
async function showOne(seed: number): Promise<void> {
  const tailLines = Number(values.trace ?? '40')
  const result = await simulate(seed, { requests: Math.min(most, MOST_OF_A_SEED), tailLines })
  for (const line of result.tail) console.log(line.trimEnd())
  console.log(
    `seed ${seed}: ${result.requests} requests, ${result.calls} calls, ${result.charged} charged, trace ${result.hash}`,
  )
  if (result.broken) tell(result)
}

/** Until so many requests have been simulated, or so many seeds; or something breaks. */
async function runAll(): Promise<void> {
  const startedAt = performance.now()
  const wantedRequests = Number(values.requests ?? Number.POSITIVE_INFINITY)
  const seeds = Number(values.seeds ?? (values.requests === undefined ? '200' : 'Infinity'))
  const first = Number(values.seed ?? '1')
  const count = Math.max(1, Math.min(Number(values.processes), availableParallelism()))
  const sum = { seeds: 0, requests: 0, calls: 0, charged: 0, virtualMs: 0 }
  const broken: Result[] = []
  const all = new Set<string>()
  const workers = Array.from({ length: count }, (_, at) =>
    fork(fileURLToPath(import.meta.url), ['--share', `${first + at}/${count}`], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    }),
  )
  const stop = (): void => workers.forEach((worker) => worker.kill())
  const cpuSeconds = new Map<number, number>()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, stop)
  const isDone = (): boolean =>
    sum.requests >= wantedRequests || sum.seeds >= seeds || (broken.length > 0 && !values.all)
  await Promise.all(
    workers.map(
      (worker) =>
        new Promise<void>((resolve) => {
          worker.on('exit', () => resolve())
          worker.on('message', ({ result, reached, cpuMs }: Done) => {
            cpuSeconds.set(worker.pid ?? 0, cpuMs / 1_000)
            if (isDone()) return
            sum.seeds += 1
            sum.requests += result.requests
            sum.calls += result.calls
            sum.charged += result.charged
            sum.virtualMs += result.virtualMs
            for (const what of reached) all.add(what)
            if (result.broken) broken.push(result)
            if (process.stderr.isTTY) process.stderr.write(`\r${sum.seeds} seeds, ${sum.requests} requests `)
            if (isDone()) stop()
          })
        }),
    ),
  )
  const seconds = (performance.now() - startedAt) / 1_000
  if (process.stderr.isTTY) process.stderr.write('\r')
  console.log(
    `${sum.seeds} seeds from ${first} on, ${sum.requests} requests, ${sum.calls} upstream calls, ${sum.charged} of them charged, ` +
      `${(sum.virtualMs / 3_600_000).toFixed(1)} virtual hours in ${seconds.toFixed(1)} s on ${count} processes, ` +
      `${[...cpuSeconds.values()].reduce((all, one) => all + one, 0).toFixed(1)} s of processor time: ${broken.length === 0 ? 'no invariant broke' : 'BROKEN'}`,
  )
  for (const result of broken) tell(result)
  tellUnreached(
    wanted.filter((what) => !all.has(what)),
    sum.requests,
  )
}

async function work({ from, step }: Share): Promise<void> {
  for (let seed = from; process.connected; seed += step) {
    const result = await simulate(seed, { requests: MOST_OF_A_SEED })
    const { user, system } = process.cpuUsage()
    const done: Done = { result, reached: [...result.reached], cpuMs: (user + system) / 1_000 }
    await new Promise((resolve) => process.send?.(done, undefined, {}, resolve))
  }
}

/** What never happens is not tested; in a short run that is no wonder. */
function tellUnreached(missing: readonly string[], requests: number): void {
  if (missing.length === 0) return
  console.log(`never reached: ${missing.join(', ')}`)
  if (requests >= LONG_RUN) process.exitCode = 1
}

function shareOf(text: string): Share {
  const [from = '1', step = '1'] = text.split('/')
  return { from: Number(from), step: Number(step) }
}

function tell({ seed, broken }: Result): void {
  if (!broken) return
  console.log(
    `seed ${seed} broke ${broken.invariant} at ${(broken.atMs / 1_000).toFixed(3)} s of virtual time: ${broken.what}`,
  )
  console.log(`  npm run simulate -- --seed ${seed} --trace 400`)
  process.exitCode = 1
}

async function huntAll(): Promise<void> {
  const chosen = bugs
    .filter(({ name, file }) => `${file} ${name}`.includes(values.only ?? ''))
    .slice(Number(values.from ?? '0'))
  const queue = [...chosen]
  const caught: Caught[] = []
  const next = async (): Promise<void> => {
    for (let bug = queue.shift(); bug; bug = queue.shift()) {
      const found = await hunt(bug)
      caught.push(found)
      const how = found.invariant === null ? 'MISSED' : `${found.invariant} by seed ${found.seed}`
      console.log(`| ${bug.name} | ${bug.file} | ${how} | ${found.requests} |`)
    }
  }
  console.log('| planted bug | file | caught by | after requests |\n|---|---|---|---|')
  await Promise.all([next(), next()])
  const missed = caught.filter(({ invariant }) => invariant === null)
  console.log(`${caught.length - missed.length} of ${chosen.length} caught`)
  if (missed.length > 0) process.exitCode = 1
}

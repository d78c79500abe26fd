/**
 * The command `npm run weather`: what the proxy makes of bad weather at upstream, row by row, and whether that is good enough.
 *
 *   npm run weather -- [--config FILE]… [--set path=value]… [--only TEXT] [--seeds N] [--json]
 *   npm run weather -- --live [--set path=value]… [--only TEXT] [--audits FOLDER] [--json]
 *
 * `--live`: some rows in real time, through real sockets, with the packaged settings; takes seven minutes. Their audit files stay in the
 * folder of `--audits`.
 * Exit code 1 when a row does not hold.
 */
import { fork } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { defaultFile } from '../../src/cli/settings.ts'
import { ConfigError } from '../../src/errors.ts'
import type { Case } from './cases.ts'
import { liveCases, runLive } from './live.ts'
import { measure, type Row } from './measure.ts'
import { cases } from './rows.ts'
import { loadSettings } from './run.ts'
import { toTable } from './table.ts'

const { values } = parseArgs({
  options: {
    config: { type: 'string', multiple: true, default: [] },
    set: { type: 'string', multiple: true, default: [] },
    only: { type: 'string', default: '' },
    seeds: { type: 'string', default: '3' },
    json: { type: 'boolean', default: false },
    live: { type: 'boolean', default: false },
    audits: { type: 'string' },
    /** Of a worker process: it is sent the numbers of the cases that it runs. */
    worker: { type: 'boolean', default: false },
  },
})

const files = (values.config.length > 0 ? values.config : [defaultFile]).map((name) => ({
  name,
  text: readFileSync(name, 'utf8'),
}))

function load(sets: readonly string[]) {
  return loadSettings(files, [...sets, ...values.set])
}

if (values.worker) work()
else await main()

async function main(): Promise<void> {
  try {
    load([])
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    for (const mistake of error.mistakes) console.error(mistake)
    process.exitCode = 78
    return
  }
  const startedAt = performance.now()
  const rows = values.live
    ? await runLive(liveCases.filter(isWanted), values.set, values.audits ?? null)
    : await runAll(cases.flatMap((one, index) => (isWanted(one) ? [index] : [])))
  const seconds = (performance.now() - startedAt) / 1_000
  const requests = rows.reduce((sum, { requests }) => sum + requests, 0)
  const broken = rows.filter(({ broken }) => broken.length > 0)
  if (values.json) console.log(JSON.stringify({ rows }, null, 2))
  else {
    console.log(toTable(rows))
    console.log(
      `${requests} requests in ${seconds.toFixed(0)} s. ${rows.length - broken.length} of ${rows.length} rows hold.`,
    )
  }
  if (broken.length > 0) process.exitCode = 1
}

function isWanted({ row, weather }: Case): boolean {
  return values.only === row || (!/^W\d+$/.test(values.only) && `${row} ${weather}`.includes(values.only))
}

/** Each worker takes the next case when it has finished one. */
async function runAll(wanted: readonly number[]): Promise<readonly Row[]> {
  const rows = new Map<number, Row>()
  const queue = [...wanted]
  const count = Math.min(availableParallelism(), wanted.length, 4)
  const workers = Array.from({ length: count }, () =>
    fork(fileURLToPath(import.meta.url), [...process.argv.slice(2), '--worker']),
  )
  await Promise.all(
    workers.map(
      (worker) =>
        new Promise<void>((resolve, reject) => {
          let current: number | undefined
          const next = (): void => {
            current = queue.shift()
            if (current === undefined) return worker.disconnect()
            worker.send(current)
          }
          worker.on('message', (row: Row) => {
            rows.set(current ?? 0, row)
            if (process.stderr.isTTY) process.stderr.write(`\r${rows.size} of ${wanted.length} `)
            next()
          })
          worker.on('exit', (code) => {
            if (current === undefined) return resolve()
            reject(new Error(`The process that ran ${cases[current]?.weather} ended with ${code}`))
          })
          next()
        }),
    ),
  ).finally(() => workers.forEach((worker) => worker.kill()))
  if (process.stderr.isTTY) process.stderr.write('\r')
  return wanted.flatMap((index) => rows.get(index) ?? [])
}

function work(): void {
  process.on('message', (index: number) => {
    const one = cases[index]
    if (one) void measure(one, Number(values.seeds), load).then((row) => process.send?.(row))
  })
}

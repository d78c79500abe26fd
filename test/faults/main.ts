/**
 * `npm run faults -- [--rounds N] [--seed N] [--what KIND]… [--lanes N] [--minutes N]`: the long rounds. Says how far it is on a terminal; in the end what
 * was done to whom, a table, for what failed the command that does it again, and for what was not done the one that goes on. Ends all that it started.
 */
import { parseArgs } from 'node:util'
import { createScope, type OwnScope } from '../support/scope.ts'
import { type Failure, kinds, ROUNDS_OF_A_FLEET, runCampaign, type What } from './campaign.ts'
import { abouts } from './judge.ts'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '24' },
    seed: { type: 'string', default: '1' },
    what: { type: 'string', multiple: true, default: Object.keys(kinds) },
    lanes: { type: 'string', default: '2' },
    minutes: { type: 'string', default: '600' },
  },
})
const rounds = Number(values.rounds)
const seed = Number(values.seed)
const names = Object.keys(kinds) as readonly What[]
const unknown = values.what.filter((name) => !names.some((one) => one === name))
if (unknown.length > 0) {
  console.error(`--what ${unknown.join(', ')}: there are ${names.join(', ')}`)
  process.exit(1)
}
const wanted = names.filter((name) => values.what.includes(name))

const counts = new Map<What, Map<string, number>>()
const progress = new Map<What, number>()
const nextSeeds = new Map<What, number>()
let failures = 0
const state = { isCut: false }
const FAILED = 'failed'
const columns: readonly string[] = [
  FAILED,
  'questions',
  'charges',
  'charges that the faults explain, beside the first',
  ...abouts,
]
const startedAt = Date.now()
const queue = [...wanted]

function count(kind: What, what: string, times = 1): void {
  const own = counts.get(kind) ?? new Map<string, number>()
  counts.set(kind, own.set(what, (own.get(what) ?? 0) + times))
}

const open = new Set<OwnScope>()

function newScope(): OwnScope {
  const scope = createScope()
  open.add(scope)
  scope.teardown(() => open.delete(scope))
  return scope
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    state.isCut = true
    void Promise.allSettled([...open].map((scope) => scope.end())).then(() => {
      sum()
      process.exit(130)
    })
  })
}

function mayGoOn(): boolean {
  return Date.now() - startedAt < Number(values.minutes) * 60_000
}

function show(): void {
  if (!process.stderr.isTTY) return
  const parts = [...progress].map(([what, done]) => `${what} ${done}/${rounds}`)
  process.stderr.write(`\r\u001B[K${parts.join('  ')}  failures ${failures}`)
}

function fail({ what, seed, rounds, complaints, logs }: Failure): void {
  // What was cut off in the middle has not failed.
  if (state.isCut) return
  failures += 1
  count(what, FAILED)
  for (const { about } of complaints) count(what, about)
  console.log(`\nnpm run faults -- --what ${what} --seed ${seed} --rounds ${rounds}\n  logs: ${logs}`)
  for (const complaint of complaints.slice(0, 20)) console.log(`  ${complaint.about}: ${complaint.text}`)
}

function sum(): void {
  if (process.stderr.isTTY) process.stderr.write('\r\u001B[K')
  for (const [kind, own] of counts) {
    for (const [what, times] of own)
      if (!columns.includes(what)) console.log(`${String(times).padStart(6)}  ${kind}: ${what}`)
  }
  console.log(`\n| what | rounds | ${columns.join(' | ')} |\n|---|---|${'---|'.repeat(columns.length)}`)
  for (const [kind, done] of progress) {
    const cells = columns.map((what) => counts.get(kind)?.get(what) ?? 0)
    console.log(`| ${kind} | ${done} | ${cells.join(' | ')} |`)
  }
  console.log(`\nfrom seed ${seed} on, in ${Math.round((Date.now() - startedAt) / 1_000)} s`)
  for (const kind of wanted) {
    const next = nextSeeds.get(kind) ?? seed
    const left = rounds - (next - seed) * ROUNDS_OF_A_FLEET
    if (left > 0) console.log(`to go on: npm run faults -- --what ${kind} --seed ${next} --rounds ${left}`)
  }
}

async function lane(): Promise<void> {
  for (let what = queue.shift(); what; what = queue.shift()) {
    const kind = what
    const onRound = (done: number): void => {
      progress.set(kind, done)
      show()
    }
    const onFleet = (next: number): void => {
      if (!state.isCut) nextSeeds.set(kind, next)
    }
    const countOwn = (what: string, times?: number): void => count(kind, what, times)
    await runCampaign({
      what: kind,
      rounds,
      seed,
      count: countOwn,
      onRound,
      onFleet,
      onFailure: fail,
      newScope,
      mayGoOn,
    })
  }
}

await Promise.all(Array.from({ length: Number(values.lanes) }, lane))
sum()
process.exit(failures === 0 ? 0 : 1)

/**
 * `npm run faults -- [--rounds N] [--seed N] [--what KIND]… [--lanes N] [--minutes N]`: the long rounds. Says how far it is on a terminal, what was
 * done to whom in the end, and for what failed the command that does it again. Ends all that it started.
 */
import { parseArgs } from 'node:util'
import { createScope, type OwnScope } from '../support/scope.ts'
import { type Failure, kinds, runCampaign, type What } from './campaign.ts'

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

const counts = new Map<string, number>()
const progress = new Map<What, number>()
let failures = 0
const state = { isCut: false }
const startedAt = Date.now()
const queue = [...wanted]

function count(what: string): void {
  counts.set(what, (counts.get(what) ?? 0) + 1)
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

function fail({ what, seed, rounds, complaints }: Failure): void {
  // What was cut off in the middle has not failed.
  if (state.isCut) return
  failures += 1
  console.log(`\nnpm run faults -- --what ${what} --seed ${seed} --rounds ${rounds}`)
  for (const complaint of complaints.slice(0, 20)) console.log(`  ${complaint}`)
}

function sum(): void {
  if (process.stderr.isTTY) process.stderr.write('\r\u001B[K')
  for (const [what, times] of counts) console.log(`${String(times).padStart(6)}  ${what}`)
  const parts = Array.from(progress, ([what, done]) => `${done} of ${what}`)
  const seconds = Math.round((Date.now() - startedAt) / 1_000)
  console.log(`rounds from seed ${seed}: ${parts.join(', ')}; ${failures} failed (${seconds} s)`)
}

async function lane(): Promise<void> {
  for (let what = queue.shift(); what; what = queue.shift()) {
    const kind = what
    const onRound = (done: number): void => {
      progress.set(kind, done)
      show()
    }
    await runCampaign({ what: kind, rounds, seed, count, onRound, onFailure: fail, newScope, mayGoOn })
  }
}

await Promise.all(Array.from({ length: Number(values.lanes) }, lane))
sum()
process.exit(failures === 0 ? 0 : 1)

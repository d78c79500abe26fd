/**
 * The long rounds: `npm run fuzz -- [--what requests|answers|redis|disk|settings|keys] [--seed N] [--cases N] [--from N]`, all of them one
 * after the other when none is named. Ends by itself: 0 when everything held, 1 with what did not and the seed to see it again.
 */
import { parseArgs } from 'node:util'
import { fuzzers, type FuzzerName, isFuzzer } from './fuzzers.ts'

const { values } = parseArgs({
  options: {
    what: { type: 'string' },
    seed: { type: 'string', default: '1' },
    cases: { type: 'string' },
    from: { type: 'string', default: '0' },
  },
})
const seed = Number(values.seed)
const wanted = values.what === undefined ? Object.keys(fuzzers) : [values.what]
const cleanups: (() => unknown)[] = []
const stage = { teardown: (cleanup: () => unknown) => void cleanups.unshift(cleanup) }
let isHeld = true

for (const name of wanted) {
  if (!isFuzzer(name)) throw new TypeError(`--what is one of ${Object.keys(fuzzers).join(', ')}`)
  await run(name)
}
for (const cleanup of cleanups) await cleanup()
process.exit(isHeld ? 0 : 1)

async function run(name: FuzzerName): Promise<void> {
  const { fuzz, longCases } = fuzzers[name]
  const cases = Number(values.cases ?? longCases)
  const startedAt = performance.now()
  const progress = (done: number): void => {
    if (process.stderr.isTTY) process.stderr.write(`\r\u001B[K${name}: ${done} of ${cases}`)
  }
  const findings = await fuzz(stage, { seed, cases, from: Number(values.from), progress })
  if (process.stderr.isTTY) process.stderr.write('\r\u001B[K')
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1)
  console.log(
    `${name}: seed ${seed}, ${cases} cases in ${seconds} s, ${findings.length === 0 ? 'all held' : `${findings.length} did not hold`}`,
  )
  for (const finding of findings) console.log(`  ${finding}`)
  isHeld &&= findings.length === 0
}

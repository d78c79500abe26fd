/**
 * `npm run soak -- [--minutes N] [--rps N] [--seed N] [--json FILE]`: does anything grow? Mixed traffic for a while, and the slopes of what the
 * program holds, with their errors and a verdict. The samples are written as JSON. Ends all that it started.
 */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { createScope } from '../support/scope.ts'
import { type Measure, measures } from './sampler.ts'
import { isGrowing, medians, slopeOf } from './slope.ts'
import { counted, soak } from './soak.ts'

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    rps: { type: 'string', default: '40' },
    seed: { type: 'string', default: '1' },
    json: { type: 'string', default: 'soak.json' },
  },
})
const forMs = Number(values.minutes) * 60_000
const perSecond = Number(values.rps)
/** Caches fill, code is compiled, the heap finds its size. */
const WARM_UP = 0.4
const WINDOWS = 20

/**
 * What a slope may be: measured over minutes and given per hour, memory is never still. What is open at one moment depends on
 * how busy the machine is, and is judged by what is left in the end.
 */
const tolerances: Partial<Record<Measure, number>> = { rssMiB: 5, heapMiB: 3, externalMiB: 2, series: 50 }

const scope = createScope()
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => void scope.end().finally(() => process.exit(130)))
}

const { before, samples, after, traffic, reloads, stderr } = await soak(scope, {
  forMs,
  perSecond,
  seed: Number(values.seed),
  everyMs: Math.min(5_000, forMs / 60),
  onSample(sample, atMs) {
    if (!process.stderr.isTTY) return
    const minutes = (atMs / 60_000).toFixed(1)
    process.stderr.write(
      `\r\u001B[K${minutes}/${values.minutes} min  ${sample.rssMiB.toFixed(0)} MiB  ${sample.openFiles} files  ${sample.timers} timers`,
    )
  },
})
await scope.end()
if (process.stderr.isTTY) process.stderr.write('\r\u001B[K')
writeFileSync(values.json, JSON.stringify({ options: values, before, after, samples, ...traffic, reloads }))

const warm = samples.filter(({ atMs }) => atMs >= WARM_UP * forMs)
const windowMs = (forMs * (1 - WARM_UP)) / WINDOWS
const wrong: string[] = stderr === '' ? [] : [stderr]

console.log(
  `${'what'.padEnd(30)}${['at rest', 'median', 'after', 'per hour', '+-'].map((head) => head.padStart(10)).join('')}  verdict`,
)
for (const [key, name] of Object.entries(measures)) {
  const measure = key as Measure
  const points = warm.map(({ atMs, sample }) => ({ atMs, value: sample[measure] }))
  const slope = slopeOf(medians(points, windowMs))
  const [all] = medians(points, Number.POSITIVE_INFINITY)
  const tolerance = tolerances[measure]
  const grows = tolerance !== undefined && isGrowing(slope, tolerance)
  const isLeft = counted.some((one) => one === measure) && after[measure] > before[measure]
  if (grows) wrong.push(`${name}: grows`)
  if (isLeft) wrong.push(`${name}: ${after[measure]} are left of ${before[measure]}`)
  const figures = [before[measure], all?.value ?? 0, after[measure], slope.perHour, 2 * slope.error]
  const verdict = grows ? 'GROWS' : isLeft ? 'LEFT BEHIND' : 'flat'
  console.log(`${name.padEnd(30)}${figures.map((figure) => figure.toFixed(1).padStart(10)).join('')}  ${verdict}`)
}
if (after.bugs > 0) wrong.push(`${after.bugs} faults of its own`)
if (after.imbalance !== 0) wrong.push(`${after.imbalance} credits are not accounted for`)

const total = Object.values(traffic.asked).reduce((sum, count) => sum + count, 0)
console.log(`asked ${total} in ${values.minutes} min: ${listOf(traffic.asked)}`)
console.log(`answered: ${listOf(traffic.answered)}; reloads: ${reloads}; samples in ${values.json}`)
console.log(wrong.length === 0 ? 'nothing grows, nothing is left behind' : wrong.join('\n'))
process.exit(wrong.length === 0 ? 0 : 1)

function listOf(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts)
    .map(([name, count]) => `${name} ${count}`)
    .join(', ')
}

/**
 * `npm run incidents -- [--what NAME]… [--write]`: plays the incidents, one after the other, and prints who was told what, and which panels of the dashboards are red; `--write` puts all of
 * them into `docs/dashboards-and-alerts.md`. Takes about a minute for each, ends all that it started, and ends with 1 when one did not raise
 * exactly the alert that names its cause within five minutes, or a panel shows nonsense.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { root } from '../support/process.ts'
import { incidents } from './incidents.ts'
import { play, type Played } from './play.ts'
import { tableOf, withTable } from './table.ts'

const { values } = parseArgs({
  options: { what: { type: 'string', multiple: true }, write: { type: 'boolean', default: false } },
})
const { what = [] } = values
const wanted = incidents.filter(({ name }) => what.length === 0 || what.includes(name))
if (wanted.length < Math.max(1, what.length)) {
  console.error(`--what is one of: ${incidents.map(({ name }) => name).join(', ')}`)
  process.exit(1)
}
const played: Played[] = []
for (const incident of wanted) {
  const one = await play(incident)
  played.push(one)
  const { name, first, delaySeconds, firstLine, red, faults } = one
  console.log(`${name}: ${first?.name ?? 'none'} after ${delaySeconds ?? '–'} s. ${first?.summary ?? ''}`)
  console.log(`  page: ${firstLine ?? 'does not answer'}`)
  if (red.length > 0) console.log(`  red panels: ${red.join('; ')}`)
  for (const fault of faults) console.log(`  FAULT: ${fault}`)
}
console.log(`\n${tableOf(played)}`)
if (values.write) {
  if (wanted.length < incidents.length) throw new Error('--write takes all incidents')
  const path = join(root, 'docs/dashboards-and-alerts.md')
  writeFileSync(path, withTable(readFileSync(path, 'utf8'), tableOf(played)))
}
process.exit(played.some(({ faults }) => faults.length > 0) ? 1 : 0)

/**
 * P12: how many questions are answered when one attempt in five fails, and how many attempts a total outage costs. The real
 * pipeline in virtual time (`replay`). The breaker is out of the way where chance alone is at work: of one failure in five it
 * makes an outage sooner or later, as its settings say.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { row, type Figure, type Row } from '../figure.ts'
import { pathOf, run } from '../program.ts'

const OUTAGE_REQUESTS = 1_000

interface Report {
  readonly columns: readonly {
    readonly figures: { readonly requests: number; readonly successRate: number; readonly attempts: number }
  }[]
}

export const success: Figure = {
  ids: ['P12'],
  title: 'chance and outages',
  async measure({ rounds, quick }) {
    const folder = mkdtempSync(join(tmpdir(), 'bench-'))
    try {
      const patient = join(folder, 'no-breaker.yaml')
      writeFileSync(patient, 'breaker: { consecutive: 1000, failureRate: 1, window: 1000, minimum: 1000 }\n')
      const [rates, storms, bareStorms]: [number[], number[], number[]] = [[], [], []]
      for (let seed = 1; seed <= Math.min(rounds, 3); seed += 1) {
        const chance = ['--requests', quick ? '5000' : '40000', '--rate', '5', '--failure-rate', '0.2']
        const lucky = await replayed([...chance, '--seed', String(seed), '--recorded', patient])
        rates.push(lucky.successRate * 100)
        const outage = [
          '--requests',
          String(OUTAGE_REQUESTS),
          '--outage',
          '24h',
          '--outage-at',
          '0s',
          '--seed',
          String(seed),
        ]
        storms.push((await replayed(outage)).attempts / OUTAGE_REQUESTS)
        bareStorms.push((await replayed([...outage, '--recorded', patient])).attempts / OUTAGE_REQUESTS)
      }
      return rowsOf(rates, storms, bareStorms)
    } finally {
      rmSync(folder, { recursive: true })
    }
  },
}

function rowsOf(rates: readonly number[], storms: readonly number[], bareStorms: readonly number[]): Row[] {
  const outage = `attempts per request in a total outage of ${OUTAGE_REQUESTS}`
  return [
    row('P12', 'answered when 20 % of the attempts fail, 4 attempts, without the breaker', '%', rates, {
      least: 99.78,
      most: 99.9,
    }),
    row('P12', `${outage}, default settings`, 'x', storms, { most: 1.1 }),
    row('P12', `${outage}, without the breaker`, 'x', bareStorms, { most: 1.1 }),
  ]
}

async function replayed(args: readonly string[]): Promise<Report['columns'][number]['figures']> {
  const printed = await run(process.execPath, [pathOf('src/main.ts'), 'replay', '--json', ...args], 'any')
  const [column] = (JSON.parse(printed) as Report).columns
  if (!column) throw new Error('replay printed no column')
  return column.figures
}

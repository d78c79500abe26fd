/** What a replay found, side by side: as a table for people, as JSON for programs. Says of every column where it comes from. */
import type { Figures } from './figures.ts'

export interface Scenario {
  readonly name: string
  /** `recorded`: sums over the audit lines. `simulated`: what that policy would have done. */
  readonly kind: 'recorded' | 'simulated'
  readonly figures: Figures
}

export interface Report {
  readonly traffic: { readonly requests: number; readonly from: number; readonly until: number }
  /** In words; null = as it was recorded. */
  readonly weather: string | null
  readonly seed: number
  readonly columns: readonly Scenario[]
  /** Why the figures may be wrong. */
  readonly warnings: readonly string[]
  readonly notes: readonly string[]
}

const FORMAT = 1
const NONE = '–'

/** The format of the JSON is kept: fields may be added. */
export function toJson({ traffic, ...report }: Report): string {
  const { requests, from, until } = traffic
  const times = { from: new Date(from).toISOString(), until: new Date(until).toISOString() }
  return `${JSON.stringify({ format: FORMAT, traffic: { requests, ...times }, ...report }, null, 2)}\n`
}

export function toTable({ traffic, weather, seed, columns, warnings, notes }: Report): string {
  const rows: string[][] = [
    ['', ...columns.map(({ name }) => name)],
    ['', ...columns.map(({ kind }) => kind)],
    ...rowsOf(columns.map(({ figures }) => figures)),
  ]
  const widths = (rows[0] ?? []).map((_, index) => Math.max(...rows.map((row) => row[index]?.length ?? 0)))
  const table = rows.map((row) =>
    row
      .map((cell, index) => (index === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[index] ?? 0)))
      .join('  '),
  )
  const { requests, from, until } = traffic
  return [
    `${requests} requests, ${time(from)} to ${time(until)} UTC; seed ${seed}`,
    `weather: ${weather ?? 'as recorded'}`,
    '',
    ...warnings.flatMap((warning) => [`WARNING: ${warning}`, '']),
    ...table.map((line) => line.trimEnd()),
    '',
    ...notes,
    '',
  ].join('\n')
}

function rowsOf(all: readonly Figures[]): string[][] {
  const row = (title: string, cell: (figures: Figures) => string) => [title, ...all.map(cell)]
  const counts = (title: string, pick: (figures: Figures) => Readonly<Record<string, number | undefined>>) =>
    [...new Set(all.flatMap((figures) => Object.keys(pick(figures))))]
      .toSorted()
      .map((name) => row(`${title} ${name}`, (figures) => String(pick(figures)[name] ?? 0)))
  return [
    row('requests', ({ requests }) => String(requests)),
    row('  caller hung up', ({ gone }) => String(gone)),
    row('success rate', ({ successRate }) => (successRate === null ? NONE : `${(successRate * 100).toFixed(3)} %`)),
    row('latency p50', ({ latencyMs }) => seconds(latencyMs.p50)),
    row('latency p95', ({ latencyMs }) => seconds(latencyMs.p95)),
    row('latency p99', ({ latencyMs }) => seconds(latencyMs.p99)),
    row('upstream attempts', ({ attempts }) => String(attempts)),
    row('  of them retries', ({ retries }) => String(retries)),
    ...counts('retry refused:', ({ retriesRefused }) => retriesRefused),
    row('credits spent', ({ credits }) => String(credits.spent)),
    row('credits uncertain', ({ credits }) => String(credits.uncertain)),
    row('credits saved', ({ credits }) => String(credits.saved)),
    row('breaker openings', ({ breakerOpenings }) => String(breakerOpenings)),
    ...counts('refused:', ({ refusals }) => refusals),
  ]
}

function seconds(ms: number | null): string {
  if (ms === null) return NONE
  return ms < 1_000 ? `${ms.toFixed(0)} ms` : `${(ms / 1_000).toFixed(1)} s`
}

function time(at: number): string {
  return new Date(at).toISOString().slice(0, 19).replace('T', ' ')
}

/** All rows as one table for people. */
import { isMet, type Goal, type Row } from './figure.ts'

const titles = ['', 'what', 'median', 'goal', '', 'rounds']

export function tableOf(rows: readonly Row[]): string {
  const lines = [titles, ...rows.map(cellsOf)]
  const widths = titles.map((_, column) => Math.max(...lines.map((line) => (line[column] ?? '').length)))
  return lines
    .map((line) =>
      line
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

function cellsOf(row: Row): string[] {
  const { id, what, value, unit, goal, rounds } = row
  const several = rounds.length > 1 ? rounds.map((one) => numberOf(one)).join(' ') : ''
  return [
    id,
    what,
    `${numberOf(value)} ${signOf(unit)}`.trim(),
    goal ? goalOf(goal, unit) : '',
    verdictOf(row),
    several,
  ]
}

function verdictOf(row: Row): string {
  if (row.failed > 0) return `void: ${row.failed} failed`
  const met = isMet(row)
  return met === null ? '' : met ? 'met' : 'missed'
}

function goalOf({ least, most }: Goal, unit: Row['unit']): string {
  if (least !== undefined && most !== undefined) return `${least} … ${most} ${signOf(unit)}`.trim()
  return least === undefined ? `≤ ${most} ${signOf(unit)}`.trim() : `≥ ${least} ${signOf(unit)}`.trim()
}

function signOf(unit: Row['unit']): string {
  return { x: '×', us: 'µs', ms: 'ms', s: 's', '/s': '/s', B: 'B', '%': '%', n: '' }[unit]
}

/** Three digits that count. */
function numberOf(value: number): string {
  if (!Number.isFinite(value)) return '-'
  if (Number.isInteger(value) || Math.abs(value) >= 100) return String(Math.round(value))
  return value.toPrecision(3)
}

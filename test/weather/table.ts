/** The weather table as text: Markdown that also reads well on a terminal. */
import type { Row } from './measure.ts'
import { peers } from './peers.ts'

const NONE = '–'

export function toTable(rows: readonly Row[]): string {
  const heads = [
    'row',
    'weather',
    'success',
    'possible',
    ...Object.keys(peers),
    'refused by circuit',
    'attempts/request',
    'credits/answer',
    'p50',
    'p95',
    'first success',
    ...(rows.some(({ replay }) => replay) ? ['recorded', 'replayed'] : []),
    'holds',
  ]
  const table = [heads, ...rows.map(cellsOf)]
  const widths = heads.map((_, column) => Math.max(...table.map((cells) => cells[column]?.length ?? 0)))
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, at) => (at < 2 ? cell.padEnd(widths[at] ?? 0) : cell.padStart(widths[at] ?? 0))).join(' | ')} |`
  const rule = `|${widths.map((width, at) => (at < 2 ? '-'.repeat(width + 2) : `${'-'.repeat(width + 1)}:`)).join('|')}|`
  const complaints = rows
    .filter(({ broken }) => broken.length > 0)
    .map(({ row, weather, broken }) => `${row}, ${weather}: ${broken.join('; ')}.`)
  return [line(heads), rule, ...table.slice(1).map(line), '', ...complaints].join('\n')
}

function cellsOf({ row, weather, figures, possible, peers: others, firstSuccessMs, broken, replay }: Row): string[] {
  const { success, refusedByCircuit, attemptsPerRequest, creditsPerAnswer, p50Ms, p95Ms } = figures
  return [
    row,
    weather,
    percent(success),
    percent(possible),
    ...Object.keys(peers).map((name) => percent(others[name] ?? 0)),
    percent(refusedByCircuit),
    attemptsPerRequest.toFixed(2),
    creditsPerAnswer === null ? NONE : creditsPerAnswer.toFixed(2),
    seconds(p50Ms),
    seconds(p95Ms),
    firstSuccessMs === null ? NONE : seconds(firstSuccessMs),
    ...(replay ? [percent(replay.recorded), percent(replay.predicted)] : []),
    broken.length === 0 ? 'yes' : 'NO',
  ]
}

function percent(share: number): string {
  return `${(share * 100).toFixed(2)} %`
}

/** JSON knows no infinity: it arrives as null. */
function seconds(ms: number | null): string {
  return ms !== null && Number.isFinite(ms) ? `${(ms / 1_000).toFixed(1)} s` : 'never'
}

/** The table of `docs/dashboards-and-alerts.md`: what was told of each incident. */
import type { Played } from './play.ts'

const BEGIN = '<!-- incidents: written by npm run incidents -->'
const END = '<!-- end of incidents -->'

export function tableOf(played: readonly Played[]): string {
  const rows = played.map(({ name, first, delaySeconds, firstLine }) => {
    const alert = first ? `\`${first.name}\` (${first.severity})` : 'none'
    const cells = [name, alert, delaySeconds === null ? '' : delayText(delaySeconds), first?.summary ?? '']
    return `| ${[...cells, firstLine ?? 'does not answer'].map(cellOf).join(' | ')} |`
  })
  const head = ['| incident | first alert | after | it says | first line of the page |', '|---|---|---|---|---|']
  return [...head, ...rows].join('\n')
}

/** The page with another table in the place of its own. */
export function withTable(page: string, table: string): string {
  const [before, rest = ''] = page.split(BEGIN)
  const [, after] = rest.split(END)
  if (before === undefined || after === undefined) throw new Error(`the page has no ${BEGIN} and ${END}`)
  return `${before}${BEGIN}\n\n${table}\n\n${END}${after}`
}

/** Incident to alert, as the page has them. */
export function rowsIn(page: string): ReadonlyMap<string, string> {
  const table = page.slice(page.indexOf(BEGIN), page.indexOf(END))
  const rows = [...table.matchAll(/^\| ([^|]+?) +\| (?:`(\w+)` \(\w+\)|none) +\|/gm)]
  return new Map(rows.map(([, name = '', alert = 'none']) => [name, alert]))
}

function delayText(seconds: number): string {
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`
}

/** What differs from one run to the next is left out. */
function cellOf(text: string): string {
  return text
    .replaceAll('|', '\\|')
    .replaceAll(/127\.0\.0\.1:\d+/g, '127.0.0.1:9464')
    .replaceAll(/\/tmp\/[^ ]*\//g, '')
    .replaceAll('&quot;', '"')
    .replaceAll(/,? since [\d:]+ \([^)]*\)/g, '')
    .replaceAll('\n', ' ')
    .trim()
}

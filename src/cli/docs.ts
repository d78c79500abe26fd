/**
 * Writes what is generated from the code, or says what is stale: config/schema.json, and in README.md every block between
 * `<!-- generated:NAME -->` and `<!-- /generated:NAME -->`. Run through `npm run docs` and `npm run docs:check`.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { settingsTable } from '../config/describe.ts'
import { refusals } from '../errors.ts'
import { metricCatalogue } from '../telemetry/metrics.ts'
import { schemaText } from './schema.ts'

/** One for each name of a block. */
const blocks: Readonly<Record<string, () => string>> = {
  settings: settingsTable,
  errors: errorTable,
  metrics: metricTable,
}

export interface Projection {
  readonly path: string
  /** Given the text that is there now, null when there is none; null to leave it so. */
  readonly render: (text: string | null) => string | null
}

/** Every generated file. */
export const projections: readonly Projection[] = [
  { path: 'config/schema.json', render: schemaText },
  { path: 'README.md', render: (text) => (text === null ? null : fillBlocks(text)) },
]

const block = /(<!-- generated:(\w+) -->\n)([\s\S]*?)(<!-- \/generated:\2 -->)/g

/** Throws for a block that nobody can fill, or that has no end. */
export function fillBlocks(text: string): string {
  const filled = text.replace(block, (_whole, begin: string, name: string, _old: string, end: string) => {
    const render = blocks[name]
    if (render === undefined) throw new Error(`nothing is generated under the name ${name}`)
    return `${begin}\n${render()}\n\n${end}`
  })
  const begun = text.match(/<!-- generated:\w+ -->/g)?.length ?? 0
  const ended = text.match(block)?.length ?? 0
  if (begun !== ended) throw new Error('a generated block has no end, or a name that does not match its beginning')
  return filled
}

function errorTable(): string {
  const rows = Object.entries(refusals).map(
    ([code, { statuses, fault, when }]) => `| \`${code}\` | ${statuses.join(', ')} | ${fault} | ${when} |`,
  )
  return ['| code | status | who must act | when |', '|---|---|---|---|', ...rows].join('\n')
}

function metricTable(): string {
  const rows = metricCatalogue.map(({ name, type, labels, help }) => {
    const names = labels.map((label) => `\`${label}\``).join(', ')
    return `| \`${name}\` | ${type} | ${names === '' ? '—' : names} | ${help.replaceAll('|', String.raw`\|`)} |`
  })
  return ['| metric | type | labels | meaning |', '|---|---|---|---|', ...rows].join('\n')
}

function main(words: readonly string[]): number {
  const [mode] = words
  if (words.length !== 1 || (mode !== '--write' && mode !== '--check')) {
    process.stderr.write('node src/cli/docs.ts --write | --check\n')
    return 1
  }
  const root = fileURLToPath(new URL('../../', import.meta.url))
  let stale = 0
  for (const { path, render } of projections) {
    const now = existsSync(root + path) ? readFileSync(root + path, 'utf8') : null
    const wanted = render(now)
    if (wanted === null || wanted === now) continue
    if (mode === '--write') writeFileSync(root + path, wanted)
    else process.stderr.write(`${path} is stale; run "npm run docs"\n`)
    stale += 1
  }
  return mode === '--check' && stale > 0 ? 1 : 0
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = main(process.argv.slice(2))

/**
 * Writes what is generated from the code, or says what is stale: config/schema.json, and in docs/ every block between
 * `<!-- generated:NAME -->` and `<!-- /generated:NAME -->`. Run through `npm run docs` and `npm run docs:check`.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { answerHeaders, known, openApi } from '../compose.ts'
import { resolveRetry } from '../config/policy.ts'
import { schema } from '../config/schema.ts'
import { settingsPage } from '../config/settings-page.ts'
import { failureClasses, failures } from '../failures.ts'

import { labelLists } from '../telemetry/labels.ts'
import { metricCatalogue } from '../telemetry/metrics.ts'
import { schemaText } from './schema.ts'

const root = fileURLToPath(new URL('../../', import.meta.url))

/** One for each name of a block. */
const blocks: Readonly<Record<string, () => string>> = {
  failures: failureTable,
  'settings-page': () => settingsPage(readFileSync(join(root, 'config/example.yaml'), 'utf8')),
  'metrics-page': metricsPage,
  'label-values': labelTable,
  headers: headerTable,
}

export interface Projection {
  readonly path: string
  /** Given the text that is there now, null when there is none; null to leave it so. */
  readonly render: (text: string | null) => string | null
}

/** Every generated file. */
export const projections: readonly Projection[] = [
  { path: 'config/schema.json', render: schemaText },
  { path: 'docs/openapi.json', render: () => openApiText() },
  ...['docs/settings.md', 'docs/headers-and-clients.md', 'docs/metrics.md', 'docs/retries-breakers-limits.md'].map(
    (path) => ({
      path,
      render: (text: string | null) => (text === null ? null : fillBlocks(text)),
    }),
  ),
]

const block = /(<!-- generated:([\w-]+) -->\n)([\s\S]*?)(<!-- \/generated:\2 -->)/g

/** Throws for a block that nobody can fill, or that has no end. */
export function fillBlocks(text: string): string {
  const filled = text.replace(block, (_whole, begin: string, name: string, _old: string, end: string) => {
    const render = blocks[name]
    if (render === undefined) throw new Error(`nothing is generated under the name ${name}`)
    return `${begin}\n${render()}\n\n${end}`
  })
  const begun = text.match(/<!-- generated:[\w-]+ -->/g)?.length ?? 0
  const ended = text.match(block)?.length ?? 0
  if (begun !== ended) throw new Error('a generated block has no end, or a name that does not match its beginning')
  return filled
}

function headerTable(): string {
  const rows = Object.entries(answerHeaders).map(([name, { says }]) => `| \`${name}\` | ${says} |`)
  return ['| header | what it says |', '|---|---|', ...rows].join('\n')
}

function openApiText(): string {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }
  return `${JSON.stringify(openApi(version), null, 2)}\n`
}

const counted = { down: 'yes', slow: 'half', neutral: 'no' }

function failureTable(): string {
  const { retry } = schema.parse({ upstream: { keys: [{ name: 'main', secret: 'unused' }] } })
  const { classes } = resolveRetry(retry)
  const rows = failureClasses.map((name) => {
    const { meaning, action, health } = failures[name]
    const charged = name === 'ambiguous' ? 'perhaps' : 'no'
    return `| \`${name}\` | ${meaning} | ${classes[name].attempts} | ${action} | ${counted[health]} | ${charged} |`
  })
  return [
    '| class | what it is | attempts | what is done | counts for the circuit | charged? |',
    '|---|---|---|---|---|---|',
    ...rows,
    '| `rejected` | any other 4xx, 501, 505: the request itself | never | given back as it is | no | no |',
  ].join('\n')
}

/** With the alerts and dashboards that show each of them: whoever meets a name wants to see it. */
function metricsPage(): string {
  const shown = readdirSync(join(root, 'grafana/dashboards')).map((name): [string, string] => [
    name.replace('.json', ''),
    readFileSync(join(root, 'grafana/dashboards', name), 'utf8'),
  ])
  const rows = metricCatalogue.map(({ name, type, labels, help, bounds }) => {
    const names = labels.map((label) => `\`${label}\``).join(', ')
    const pattern = new RegExp(`${name}(?:_bucket|_sum|_count)?(?![a-z_])`)
    const dashboards = shown.filter(([, text]) => pattern.test(text)).map(([dashboard]) => dashboard)
    const buckets = bounds ? ` Buckets: ${bounds.join(', ')} s.` : ''
    const meaning = `${help}${buckets}`.replaceAll('|', String.raw`\|`)
    return `| \`${name}\` | ${type} | ${names === '' ? '—' : names} | ${meaning} | ${dashboards.join(', ')} |`
  })
  return ['| metric | type | labels | meaning | dashboards |', '|---|---|---|---|---|', ...rows].join('\n')
}

const fromSettings: Readonly<Record<string, string>> = {
  client: 'names of `clients`; `unknown` where nobody was identified',
  scraper: `${known.scrapers.map((name) => `\`${name}\``).join(' ')}; \`none\` where the call names none`,
  key: 'names of `upstream.keys`',
  version: 'of the proxy',
  node: 'of Node.js',
}

function labelTable(): string {
  const lists: Readonly<Record<string, readonly (string | number)[]>> = labelLists
  const used = [...new Set(metricCatalogue.flatMap(({ labels }) => labels))].toSorted()
  const rows = used.map((label) => {
    const values = lists[label]?.map((value) => `\`${value}\``).join(' ')
    return `| \`${label}\` | ${values ?? fromSettings[label] ?? ''} |`
  })
  return ['| label | values |', '|---|---|', ...rows].join('\n')
}

function main(words: readonly string[]): number {
  const [mode] = words
  if (words.length !== 1 || (mode !== '--write' && mode !== '--check')) {
    process.stderr.write('node src/cli/docs.ts --write | --check\n')
    return 1
  }
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

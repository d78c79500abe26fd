/**
 * Writes dashboards/*.json, or says what is stale. Run through `npm run docs` and `npm run docs:check`.
 */
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { dashboardOf, type Page } from './dashboard.ts'
import { cache } from './pages/cache.ts'
import { clients } from './pages/clients.ts'
import { credits } from './pages/credits.ts'
import { overview } from './pages/overview.ts'
import { runtime } from './pages/runtime.ts'
import { slo } from './pages/slo.ts'
import { upstream } from './pages/upstream.ts'

export const pages: readonly Page[] = [overview, credits, upstream, clients, cache, slo, runtime]

const folder = fileURLToPath(new URL('dashboards/', import.meta.url))

/** The text of every file of `dashboards/`, by its name. */
export function files(): ReadonlyMap<string, string> {
  return new Map(pages.map((page) => [`${page.name}.json`, `${JSON.stringify(dashboardOf(page), null, 2)}\n`]))
}

/** Files that are not what the code says: changed, missing, or of a dashboard that is no more. */
export function stale(): string[] {
  const wanted = files()
  const foreign = readdirSync(folder).filter((name) => !wanted.has(name))
  const changed = [...wanted].filter(
    ([name, text]) => !existsSync(folder + name) || readFileSync(folder + name, 'utf8') !== text,
  )
  return [...foreign, ...changed.map(([name]) => name)]
}

function main(words: readonly string[]): number {
  const [mode] = words
  if (words.length !== 1 || (mode !== '--write' && mode !== '--check')) {
    process.stderr.write('node grafana/build.ts --write | --check\n')
    return 1
  }
  if (mode === '--write') {
    for (const [name, text] of files()) writeFileSync(folder + name, text)
  }
  const left = stale()
  for (const name of left) process.stderr.write(`grafana/dashboards/${name} is stale; run "npm run docs"\n`)
  return left.length > 0 ? 1 : 0
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = main(process.argv.slice(2))

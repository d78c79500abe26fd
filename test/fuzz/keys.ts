/** Questions made to be confused with one another: do two that differ ever have the same key? */
import type { Param } from '../../src/model.ts'
import { readQuestion } from '../../src/scrapellm/params.ts'
import { createChance } from './chance.ts'

/** What a careless key would take for a border between fields. */
const borders = ['|', ':', ',', '&', '=', '\0', '\n', ' ', '1', '2', '6:prompt', '0:', 'a', 'b', '"', '\\', 'é', '🙂']

export interface Collisions {
  readonly collisions: readonly unknown[]
  readonly distinct: number
}

export function collisions({ seed, cases }: { readonly seed: number; readonly cases: number }): Collisions {
  const { int, pick } = createChance(seed)
  const known = new Map<string, string>()
  const found: unknown[] = []
  const text = (): string => Array.from({ length: int(6) }, () => pick(borders)).join('')
  const scrapers = ['chatgpt', 'grok'] as const

  while (known.size < cases) {
    const scraper = pick(scrapers)
    const names = new Set(Array.from({ length: int(4) }, () => `x${text()}`))
    const params: Param[] = [['prompt', text()], ...[...names].map((name): Param => [name, text()])]
    const { key } = readQuestion(scraper, params)
    // The order of parameters is no difference; everything else is.
    const question = JSON.stringify([scraper, params.toSorted(([a], [b]) => (a < b ? -1 : 1))])
    if (key === null) continue
    const other = known.get(key)
    if (other !== undefined && other !== question) found.push([other, question])
    known.set(key, question)
  }
  return { collisions: found, distinct: known.size }
}

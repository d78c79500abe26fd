/** The list of attacks is complete: every id occurs in the name of a test, here or in the tests of the part that it is about. */
import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'

const root = new URL('../', import.meta.url)
const sources = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('.test.ts') && path !== 'attacks/ids.test.ts')
  .map((path) => readFileSync(new URL(path, root), 'utf8').replaceAll(/^\s*(?:\/\*\*|\*|\/\/).*$/gm, ''))
  .join('\n')

/** `A7 …`, `A31, A34`, `A21–A25`: all of a range are named, too. */
function idsIn(text: string): ReadonlySet<number> {
  const ids = new Set<number>()
  for (const [, from = '', to = from] of text.matchAll(/\bA(\d{1,2})(?:–A(\d{1,2}))?\b/g)) {
    for (let id = Number(from); id <= Number(to); id++) ids.add(id)
  }
  return ids
}

void t.test('every attack A1 to A72 has a test that is named after it', async (t) => {
  t.same([...idsIn('A1, A3–A5 x A72')], [1, 3, 4, 5, 72])
  const found = idsIn(sources)
  const missing = Array.from({ length: 72 }, (_, at) => at + 1).filter((id) => !found.has(id))
  t.same(missing, [])
})

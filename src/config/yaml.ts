/** YAML to a tree with the place of each value, or what is wrong with it; and back, for people. The one door to the library. */
import { isAlias, isMap, isScalar, isSeq, LineCounter, parseDocument, stringify, type Document } from 'yaml'
import type { Mistake } from './mistake.ts'
import type { MapTree, SourceLocation, Tree } from './tree.ts'

export type Locate = (position: { line: number; col: number } | null) => SourceLocation

/** As YAML, for people. */
export function toYaml(value: unknown): string {
  return stringify(value, { lineWidth: 0 })
}

/** More values than ten thousand clients with all their limits have; fewer than an alias bomb makes. */
const mostValues = 200_000

/** Null when it is not YAML; the mistakes say why. */
export function readText(text: string, locate: Locate, mistakes: Mistake[]): Tree | null {
  const counter = new LineCounter()
  const at = (offset: number | undefined) => locate(offset === undefined ? null : counter.linePos(offset))
  const complain = (text: string, offset?: number) => mistakes.push({ path: [], text, location: at(offset) })
  const before = mistakes.length
  try {
    const document = parseDocument(text, {
      lineCounter: counter,
      prettyErrors: false,
      schema: 'core',
      logLevel: 'error',
    })
    for (const error of [...document.errors, ...document.warnings]) complain(inWords(error, text), error.pos[0])
    let left = mostValues
    const tree = toTree(document, document.contents, at, (text, offset) => {
      if (text !== null) complain(text, offset)
      else if (left-- === 0) throw new RangeError()
    })
    return mistakes.length > before ? null : withoutExtensions(tree)
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    complain(`holds more than ${mostValues} values, or lists and maps too deep, or aliases that contain themselves`)
    return null
  }
}

/** Keys of the top level that begin with `x-` hold what is only there to be referred to, as in Compose files. */
function withoutExtensions(tree: Tree): Tree {
  if (tree.kind !== 'map') return tree
  return { ...tree, entries: new Map([...tree.entries].filter(([key]) => !key.startsWith('x-'))) }
}

function inWords(
  error: { readonly code: string; readonly message: string; readonly pos: readonly [number, number] },
  text: string,
): string {
  if (error.code === 'DUPLICATE_KEY') {
    const key = /^[\w-]*/.exec(text.slice(error.pos[0]))?.[0] ?? ''
    return `the key "${key}" is written twice`
  }
  if (error.code === 'MULTIPLE_DOCS') return 'holds more than one YAML document; take out the lines "---"'
  // What follows a colon quotes the file, perhaps a secret.
  return `is not valid YAML: ${error.message.split(/: |\n/)[0] ?? ''}`
}

/** `visit` is told of each value (null), so that it can end a bomb, and of what cannot be taken. */
type Visit = (complaint: string | null, offset?: number) => void

function toTree(
  document: Document,
  node: unknown,
  at: (offset: number | undefined) => SourceLocation,
  visit: Visit,
): Tree {
  visit(null)
  if (isAlias(node)) {
    const target = node.resolve(document)
    if (target === undefined) visit(`nothing before it is marked &${node.source}`, node.range?.[0])
    return toTree(document, target, at, visit)
  }
  if (isMap(node)) {
    const merged: MapTree['entries'][] = []
    const entries = node.items.flatMap(({ key, value }) => {
      if (isMergeKey(key)) {
        merged.push(...mapsIn(toTree(document, value, at, visit), () => visit(NO_MERGE, node.range?.[0])))
        return []
      }
      const offset = isScalar(key) ? key.range?.[0] : node.range?.[0]
      const name = isScalar(key) ? String(key.value) : ''
      if (name === '' || name === '__proto__') visit('this key cannot be a setting', offset)
      return [[name, { keyLocation: at(offset), tree: toTree(document, value, at, visit) }] as const]
    })
    // The map's own keys win, then the first map that is merged in.
    const all = [...merged.toReversed().flatMap((one) => [...one]), ...entries]
    return { kind: 'map', entries: new Map(all), location: at(node.range?.[0]) }
  }
  if (isSeq(node)) {
    return {
      kind: 'list',
      items: node.items.map((item) => toTree(document, item, at, visit)),
      location: at(node.range?.[0]),
    }
  }
  const scalar = isScalar(node) ? node : null
  const value = scalar?.value ?? null
  const known = typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean' ? value : null
  return {
    kind: 'scalar',
    value: known,
    written: scalar?.source ?? String(known),
    references: [],
    location: at(scalar?.range?.[0]),
  }
}

const NO_MERGE = '"<<" merges maps in; expected an alias of a map (*NAME), or a list of such'

/** https://yaml.org/type/merge.html: in quotes, it is a key like any other. */
function isMergeKey(key: unknown): boolean {
  return isScalar(key) && key.value === '<<' && key.type === 'PLAIN'
}

function mapsIn(tree: Tree, complain: () => void): MapTree['entries'][] {
  const all = tree.kind === 'list' ? tree.items : [tree]
  return all.flatMap((one) => (one.kind === 'map' ? [one.entries] : (complain(), [])))
}

/**
 * Settings as they were written, each value with the place where it stands: what several files and `--set` are merged
 * into before anything is checked. Knows nothing of YAML and nothing of the schema.
 */

export type Path = readonly string[]

export interface SourceLocation {
  /** A file name, or the `--set` that says so. */
  readonly source: string
  /** Of the source among all sources, for sorting. */
  readonly order: number
  readonly line: number | null
  readonly column: number | null
}

export interface ScalarTree {
  readonly kind: 'scalar'
  readonly value: string | number | boolean | null
  /** The text in the file, where it is not the same as the value: `0123`, `1e3`. */
  readonly written: string
  /** Variables and files the value came from; such a value is never shown. */
  readonly references: readonly string[]
  readonly location: SourceLocation
}

interface Entry {
  readonly keyLocation: SourceLocation
  readonly tree: Tree
}

export interface MapTree {
  readonly kind: 'map'
  readonly entries: ReadonlyMap<string, Entry>
  readonly location: SourceLocation
}

export type Tree =
  | ScalarTree
  | MapTree
  | { readonly kind: 'list'; readonly items: readonly Tree[]; readonly location: SourceLocation }

/** Maps merge deeply; lists and scalars replace. What is empty is as if it had not been written. */
export function merge(below: Tree | undefined, above: Tree): Tree {
  if (below === undefined) return above
  if (isEmpty(above)) return below
  if (below.kind !== 'map' || above.kind !== 'map') return above
  const entries = new Map(below.entries)
  for (const [key, entry] of above.entries) {
    entries.set(key, { keyLocation: entry.keyLocation, tree: merge(below.entries.get(key)?.tree, entry.tree) })
  }
  return { kind: 'map', entries, location: above.location }
}

/** Merges `value` in at `path`; a number in the path selects an item of a list that exists. */
export function assign(tree: Tree | undefined, path: Path, value: Tree): Tree {
  const [step, ...rest] = path
  if (step === undefined) return merge(tree, value)
  if (tree?.kind === 'list' && !isOutside(tree, step)) {
    const items = [...tree.items]
    items[Number(step)] = assign(items[Number(step)], rest, value)
    return { ...tree, items }
  }
  const entries = new Map(tree?.kind === 'map' ? tree.entries : [])
  entries.set(step, { keyLocation: value.location, tree: assign(entries.get(step)?.tree, rest, value) })
  return { kind: 'map', entries, location: value.location }
}

/** A list has no such item, and it cannot be added at its end either. */
export function isOutside(tree: Tree | undefined, step: string): boolean {
  return tree?.kind === 'list' && !(/^\d{1,4}$/.test(step) && Number(step) <= tree.items.length)
}

export function isEmpty(tree: Tree): boolean {
  return tree.kind === 'scalar' && tree.value === null
}

/** The value at a path, or undefined. */
export function find(tree: Tree, path: Path): Tree | undefined {
  const [step, ...rest] = path
  if (step === undefined) return tree
  const child = childOf(tree, step)
  return child === undefined ? undefined : find(child, rest)
}

/** Where a path is written, or the innermost of its parents that is. */
export function locationOf(tree: Tree, path: Path, wanted: 'key' | 'value'): SourceLocation {
  const [step, ...rest] = path
  const child = step === undefined ? undefined : childOf(tree, step)
  if (step === undefined || child === undefined) return tree.location
  if (wanted === 'key' && rest.length === 0 && tree.kind === 'map')
    return tree.entries.get(step)?.keyLocation ?? child.location
  return locationOf(child, rest, wanted)
}

function childOf(tree: Tree, step: string): Tree | undefined {
  if (tree.kind === 'map') return tree.entries.get(step)?.tree
  if (tree.kind === 'list') return tree.items[Number(step)]
  return undefined
}

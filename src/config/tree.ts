/**
 * Settings as they were written, each value with the place where it stands: what several files and `--set` are merged
 * into before anything is checked. Knows nothing of YAML and nothing of the schema.
 */

export type Path = readonly string[]

export interface Place {
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
  readonly place: Place
}

interface Entry {
  readonly keyPlace: Place
  readonly tree: Tree
}

export interface MapTree {
  readonly kind: 'map'
  readonly entries: ReadonlyMap<string, Entry>
  readonly place: Place
}

export type Tree =
  | ScalarTree
  | MapTree
  | { readonly kind: 'list'; readonly items: readonly Tree[]; readonly place: Place }

/** Maps merge deeply; lists and scalars replace. What is empty is as if it had not been written. */
export function merge(below: Tree | undefined, above: Tree): Tree {
  if (below === undefined) return above
  if (isEmpty(above)) return below
  if (below.kind !== 'map' || above.kind !== 'map') return above
  const entries = new Map(below.entries)
  for (const [key, entry] of above.entries) {
    entries.set(key, { keyPlace: entry.keyPlace, tree: merge(below.entries.get(key)?.tree, entry.tree) })
  }
  return { kind: 'map', entries, place: above.place }
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
  entries.set(step, { keyPlace: value.place, tree: assign(entries.get(step)?.tree, rest, value) })
  return { kind: 'map', entries, place: value.place }
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
export function placeOf(tree: Tree, path: Path, wanted: 'key' | 'value'): Place {
  const [step, ...rest] = path
  const child = step === undefined ? undefined : childOf(tree, step)
  if (step === undefined || child === undefined) return tree.place
  if (wanted === 'key' && rest.length === 0 && tree.kind === 'map')
    return tree.entries.get(step)?.keyPlace ?? child.place
  return placeOf(child, rest, wanted)
}

function childOf(tree: Tree, step: string): Tree | undefined {
  if (tree.kind === 'map') return tree.entries.get(step)?.tree
  if (tree.kind === 'list') return tree.items[Number(step)]
  return undefined
}

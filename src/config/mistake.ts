/**
 * Mistakes in words: one line each, with the path, what was found, what was expected, and where it is written.
 * What a secret field holds, or what came from the environment or a mounted file, is never repeated.
 */
import { fieldAt } from './describe.ts'
import { nearest } from './nearest.ts'
import type { schema } from './schema.ts'
import { find, locationOf, type Path, type SourceLocation, type ScalarTree, type Tree } from './tree.ts'

export interface Mistake {
  readonly path: Path
  readonly text: string
  readonly location: SourceLocation | null
}

type Validated = ReturnType<typeof schema.safeParse>
export type Issue = NonNullable<Validated['error']>['issues'][number]

/** The issues that the schema raised about the plain values of this tree. */
export function explain(issues: readonly Issue[], tree: Tree): Mistake[] {
  const mistakes = issues.flatMap((issue) => explainOne(issue, [], tree))
  const meant = issues.flatMap((issue) =>
    issue.code === 'unrecognized_keys' ? issue.keys.map((key) => meantBy([...issue.path.map(String), key])) : [],
  )
  // `limt` for `limit` is one mistake, not a key too many and a key too few.
  return mistakes.filter((one) => !(one.text.startsWith('missing;') && meant.includes(one.path.join('.'))))
}

/** The path that a misspelt one was probably meant to be. */
function meantBy(path: Path): string | null {
  const parent = path.slice(0, -1)
  const near = nearest(path.at(-1) ?? '', fieldAt(parent)?.names ?? [])
  return near === null ? null : [...parent, near].join('.')
}

function explainOne(issue: Issue, parents: Path, tree: Tree): Mistake[] {
  const path = [...parents, ...issue.path.map(String)]
  if (issue.code === 'unrecognized_keys') return issue.keys.map((key) => unknownKey([...path, key], tree))
  if (issue.code === 'invalid_key')
    return issue.issues.map((inner) =>
      about(path, inner.message.replace('{found}', quoted(path.at(-1) ?? '')), tree, 'key'),
    )
  if (issue.code === 'invalid_union') {
    const branch = likeliest(issue.errors)
    return branch === null
      ? [about(path, fill(issue.message, path, tree), tree)]
      : branch.flatMap((inner) => explainOne(inner, path, tree))
  }
  return [about(path, fill(issue.message, path, tree), tree)]
}

/** Of the things a value may be, the one that was meant: whose outer form is right. Null when none is. */
function likeliest(branches: readonly (readonly Issue[])[]): readonly Issue[] | null {
  const isOuter = ({ code }: Issue) => code === 'invalid_type' || code === 'invalid_value'
  const isInside = (issue: Issue) => issue.path.length > 0 || !isOuter(issue)
  return (
    branches.find((branch) => branch.every(isInside)) ??
    (branches.length > 0 && isSecretBranch(branches) ? (branches[0] ?? null) : null)
  )
}

/** A union without a message of its own: its first branch says what is usually written. */
function isSecretBranch(branches: readonly (readonly Issue[])[]): boolean {
  return branches[0]?.[0]?.message.includes('{found}') === false
}

function unknownKey(path: Path, tree: Tree): Mistake {
  const key = path.at(-1) ?? ''
  const known = fieldAt(path.slice(0, -1))?.names ?? []
  const near = nearest(key, known)
  const advice = near === null ? `known here: ${known.join(', ')}` : `did you mean ${quoted(near)}?`
  return about(path, `unknown key; ${advice}`, tree, 'key')
}

export function about(path: Path, text: string, tree: Tree, wanted: 'key' | 'value' = 'value'): Mistake {
  const node = find(tree, path)
  const isWritten = find(tree, path.slice(0, 1)) !== undefined
  return { path, text, location: isWritten ? locationOf(tree, path, node?.kind === 'map' ? 'key' : wanted) : null }
}

function fill(message: string, path: Path, tree: Tree): string {
  const node = find(tree, path)
  if (node === undefined) return `missing; ${message.replace(', found {found}', '')}`
  if (node.kind !== 'scalar') return message.replace('{found}', kindOfTree(node))
  if (node.references.length > 0) {
    // The hint may repeat digits of the value.
    return message
      .replace(/\{found\} is not a (duration|size); .*/, '{found} is not a $1')
      .replace('{found}', `the value of ${node.references.join(' and ')}`)
  }
  const isContainer = /^expected a (map|list)/.test(message)
  return message.replace('{found}', () => (isContainer ? kindOf(node.value) : printed(node.value)))
}

function kindOfTree(node: Tree): string {
  if (node.kind === 'list') return node.items.length === 0 ? 'an empty list' : 'a list'
  return 'a map'
}

/** A list of keys that is written as one text holds a key: say what it is, not what it says. */
function kindOf(value: ScalarTree['value']): string {
  if (typeof value === 'string') return 'text'
  return value === null ? 'nothing' : `a ${typeof value}`
}

function printed(value: ScalarTree['value']): string {
  if (value === null) return 'nothing'
  return typeof value === 'string' ? quoted(value.length > 40 ? `${value.slice(0, 40)}…` : value) : String(value)
}

function quoted(text: string): string {
  return JSON.stringify(text)
}

/** One line each, in the order of the files. */
export function render(mistakes: readonly Mistake[]): string[] {
  const sorted = mistakes.toSorted((a, b) => rank(a) - rank(b) || line(a) - line(b) || column(a) - column(b))
  return [...new Set(sorted.map(inFull))]
}

/** What has no path, because the file could not be read so far, begins with its place; what has one ends with it. */
function inFull({ path, text, location }: Mistake): string {
  const where =
    location === null || location.source === ''
      ? null
      : [location.source, location.line, location.column].filter((part) => part !== null).join(':')
  if (path.length === 0) return inOneLine(where === null ? text : `${where}: ${text}`)
  const name = path.map((step) => (step.length > longestName ? `${step.slice(0, longestName)}…` : step)).join('.')
  return inOneLine(where === null ? `${name}: ${text}` : `${name}: ${text} (${where})`)
}

const longestName = 64

/** Keys and values may be any text, and a terminal may obey some of it. */
function inOneLine(line: string): string {
  return line.replaceAll(/[\p{C}\p{Zl}\p{Zp}]/gu, (one) => `\\u{${one.codePointAt(0)?.toString(16)}}`)
}

function rank(mistake: Mistake): number {
  return mistake.location?.order ?? -1
}

function line(mistake: Mistake): number {
  return mistake.location?.line ?? 0
}

function column(mistake: Mistake): number {
  return mistake.location?.column ?? 0
}

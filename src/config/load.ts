/**
 * Text and environment to a frozen Config, or every mistake at once. Pure: reading files is the caller's business.
 *
 *   YAML → merge (defaults, files left to right, `--set`) → references → schema → dangers → Config
 */
import { ConfigError } from '../errors.ts'
import { Secret } from '../keys/secret.ts'
import { crossFieldIssues, unknownScrapers, type CrossFieldIssue } from './cross-field.ts'
import { fieldAt } from './describe.ts'
import { about, explain, render, type Issue, type Mistake } from './mistake.ts'
import { filePrefix, resolve, type ReferenceSources } from './reference.ts'
import { schema, type Config } from './schema.ts'
import { defaultKeys } from './sections/upstream.ts'
import { assign, find, isEmpty, isOutside, merge, type Path, type SourceLocation, type Tree } from './tree.ts'
import { warnings } from './warning.ts'
import { type Locate, readText, toYaml } from './yaml.ts'

export interface Source {
  /** As it is named in messages. */
  readonly name: string
  readonly text: string
}

export interface Loaded {
  readonly config: Config
  /** For the log: nothing that stops the start. */
  readonly warnings: readonly string[]
  /** Upstream keys whose secret is in a file, which may change while we run. */
  readonly keyFiles: readonly KeyFile[]
  /** Files that hold any other secret. */
  readonly secretFiles: readonly string[]
  /** What would be wrong with these settings where some differ from those that were read; every single one is right. */
  readonly flawsOf: (config: Config) => readonly string[]
}

export interface KeyFile {
  /** Of the key. */
  readonly name: string
  readonly path: string
}

/** What upstream has and takes, which the settings cannot know by themselves. */
export interface Known {
  readonly scrapers: readonly string[]
  /** Of the cheapest call. */
  readonly priceCredits: number
}

/** Throws a ConfigError with every mistake. Without `known`, names of scrapers are taken as they are. */
export function loadConfig(
  sources: readonly Source[],
  sets: readonly string[],
  environment: ReferenceSources['environment'],
  readFile: ReferenceSources['readFile'],
  known: Known | null = null,
): Loaded {
  const dangersOf = (config: Config): CrossFieldIssue[] => crossFieldIssues(config, { environment, readFile })
  const mistakes: Mistake[] = []
  const written = combine(sources, sets, mistakes)
  // A file that cannot be read makes every other complaint doubtful.
  if (mistakes.length > 0) throw new ConfigError(render(mistakes))

  const unresolved: string[] = []
  const tree = resolve(written, { environment, readFile }, (path, text) => {
    unresolved.push(path.join('.'))
    mistakes.push(about(path, text, written))
  })
  const missing = missingLimits(tree).filter((path) => !unresolved.includes(path.join('.')))
  mistakes.push(...missing.map((path) => about(path, NO_VALUE, tree)))
  const { config, issues } = validate(plain(tree, []))
  mistakes.push(...explain(issues, tree).filter((one) => !unresolved.includes(one.path.join('.'))))
  const wrong = mistakes.map((one) => one.path.join('.'))
  const found = (
    config === null ? [] : [...dangersOf(config), ...(known ? unknownScrapers(config, known.scrapers) : [])]
  ).filter((one) => !isDoubtful(one, wrong))
  mistakes.push(...found.map((one) => about(one.path, one.text, tree)))
  if (mistakes.length > 0 || config === null) throw new ConfigError(render(mistakes))
  return {
    config: freeze(config),
    warnings: warnings(config, known?.priceCredits ?? null),
    keyFiles: keyFilesOf(config, tree),
    secretFiles: secretFilesOf(tree),
    flawsOf: (other) => render(dangersOf(other).map((one) => about(one.path, one.text, tree))),
  }
}

function keyFilesOf(config: Config, tree: Tree): KeyFile[] {
  return config.upstream.keys.flatMap(({ name }, index) => {
    const written = find(tree, ['upstream', 'keys', String(index), 'secret'])
    const file = written?.kind === 'scalar' ? written.references.find((one) => one.startsWith(filePrefix)) : undefined
    return file === undefined ? [] : [{ name, path: file.slice(filePrefix.length) }]
  })
}

function secretFilesOf(tree: Tree, path: Path = []): string[] {
  if (path.join('.') === 'upstream.keys') return []
  if (tree.kind === 'map')
    return [...new Set([...tree.entries].flatMap(([key, entry]) => secretFilesOf(entry.tree, [...path, key])))]
  if (tree.kind === 'list') return tree.items.flatMap((item, index) => secretFilesOf(item, [...path, String(index)]))
  if (fieldAt(path)?.kind !== 'secret') return []
  return tree.references.filter((one) => one.startsWith(filePrefix)).map((one) => one.slice(filePrefix.length))
}

/** Not worth saying while what it is about, or depends on, is wrong itself. */
function isDoubtful({ path, because = [] }: CrossFieldIssue, wrong: readonly string[]): boolean {
  const name = path.join('.')
  const sources = because.map((one) => one.join('.'))
  return wrong.some(
    (one) =>
      name.startsWith(`${one}.`) ||
      `${one}.`.startsWith(`${name}.`) ||
      sources.some((source) => `${source}.`.startsWith(`${one}.`)),
  )
}

// Reading

function combine(sources: readonly Source[], sets: readonly string[], mistakes: Mistake[]): Tree {
  const nowhere: SourceLocation = { source: '', order: -1, line: null, column: null }
  let tree: Tree = { kind: 'map', entries: new Map(), location: nowhere }
  const text = toYaml({ upstream: { keys: defaultKeys } })
  tree = merge(tree, readText(text, () => nowhere, mistakes) ?? tree)
  for (const [order, { name, text }] of sources.entries()) {
    const read = readText(text, placeIn(name, order), mistakes)
    if (read === null) continue
    if (read.kind === 'map') tree = merge(tree, read)
    else
      mistakes.push({
        path: [],
        text: isEmpty(read) ? 'is empty' : 'does not hold settings; expected lines like "listen:" at the top level',
        location: read.location,
      })
  }
  return sets.reduce((below, set, index) => applySet(below, set, sources.length + index, mistakes), tree)
}

function applySet(below: Tree, set: string, order: number, mistakes: Mistake[]): Tree {
  const equals = set.indexOf('=')
  const name = equals < 0 ? set : set.slice(0, equals)
  const location: SourceLocation = { source: `--set ${name}`, order, line: null, column: null }
  const path = name.split('.')
  const text = equals < 0 ? '' : set.slice(equals + 1)
  if (text.trim() === '' || path.includes('') || path.includes('__proto__')) {
    mistakes.push({ path: [], text: 'expected path=value, such as log.level=debug', location })
    return below
  }
  const crossed = path.findIndex((step, at) => isOutside(find(below, path.slice(0, at)), step))
  if (crossed >= 0) {
    const text = `there is no item ${path[crossed]} in ${path.slice(0, crossed).join('.')}`
    mistakes.push({ path: [], text, location })
    return below
  }
  const value = readText(text, () => location, mistakes)
  return value === null ? below : assign(below, path, value)
}

function placeIn(source: string, order: number): Locate {
  return (position) => ({ source, order, line: position?.line ?? null, column: position?.col ?? null })
}

// Checking

const NO_VALUE = 'has no value, and would count as unlimited; write one, or remove the line'

/**
 * Settings of a client, and budgets, that are named without a value. Elsewhere an empty setting has its default; here the default is
 * "unlimited", and a file that was read half written, or a template without its value, would lift a limit.
 */
function missingLimits(tree: Tree, path: Path = []): Path[] {
  const isLimit = path[0] === 'clients' ? path.length > 2 : path[0] === 'upstream' && path[1] === 'credits'
  const isBudget = path.at(-1) === 'credits' && tree.kind === 'map' && tree.entries.size === 0
  if (isLimit && (isEmpty(tree) || isBudget)) return [path]
  if (tree.kind !== 'map') return []
  return [...tree.entries].flatMap(([key, entry]) => missingLimits(entry.tree, [...path, key]))
}

/** For the schema. What is empty is as if it had not been written, but for a client, which may have nothing to say. */
function plain(tree: Tree, path: Path): unknown {
  if (tree.kind === 'scalar') return tree.value
  if (tree.kind === 'list') return tree.items.map((item, index) => plain(item, [...path, String(index)]))
  const isNamed = fieldAt(path)?.isRecord === true
  const entries = [...tree.entries].filter(([, entry]) => isNamed || !isEmpty(entry.tree))
  return Object.fromEntries(
    entries.map(([name, { tree }]) => [name, isEmpty(tree) ? {} : plain(tree, [...path, name])]),
  )
}

/** With issues, `config` is what remains without the wrong parts, so that the rest can be checked all the same. */
function validate(input: unknown): { readonly config: Config | null; readonly issues: readonly Issue[] } {
  const first = schema.safeParse(input)
  if (first.success) return { config: first.data, issues: [] }
  let rest = input
  let result = first
  for (let round = 0; round < 20 && !result.success; round++) {
    for (const issue of result.error?.issues ?? []) {
      const inside = issue.code === 'unrecognized_keys' ? issue.keys : [null]
      for (const key of inside) rest = without(rest, [...issue.path.map(String), ...(key === null ? [] : [key])])
    }
    result = schema.safeParse(rest) as typeof first
  }
  return { config: result.success ? (result.data ?? null) : null, issues: first.error.issues }
}

/** Takes out the value at the path; a list goes as a whole, and so does a map that lacks what it must have. */
function without(value: unknown, path: Path): unknown {
  const [step, ...rest] = path
  if (step === undefined || typeof value !== 'object' || value === null || Array.isArray(value)) return undefined
  if (!Object.hasOwn(value, step)) return undefined
  const { [step]: inner, ...others } = value as Record<string, unknown>
  const left = without(inner, rest)
  return left === undefined ? others : { ...others, [step]: left }
}

function freeze<T>(value: T): T {
  if (typeof value !== 'object' || value === null || value instanceof Secret) return value
  for (const inner of Object.values(value)) freeze(inner)
  return Object.freeze(value)
}

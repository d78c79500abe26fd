/**
 * Text and environment to a frozen Config, or every mistake at once. Pure: reading files is the caller's business.
 *
 *   YAML → merge (defaults, files left to right, `--set`) → references → schema → dangers → Config
 */
import { isAlias, isMap, isScalar, isSeq, LineCounter, parseDocument, stringify, type Document } from 'yaml'
import { ConfigError } from '../errors.ts'
import { Secret } from '../keys/secret.ts'
import { dangers, unknownScrapers, type Danger } from './danger.ts'
import { fieldAt } from './describe.ts'
import { about, explain, render, type Issue, type Mistake } from './mistake.ts'
import { filePrefix, resolve, type Surroundings } from './reference.ts'
import { defaultKeys, schema, type Config } from './schema.ts'
import { assign, find, isEmpty, isOutside, merge, type Path, type Place, type Tree } from './tree.ts'
import { warnings } from './warning.ts'

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
  environment: Surroundings['environment'],
  readFile: Surroundings['readFile'],
  known: Known | null = null,
): Loaded {
  const dangersOf = (config: Config): Danger[] => dangers(config, { environment, readFile })
  const mistakes: Mistake[] = []
  const written = combine(sources, sets, mistakes)
  // A file that cannot be read makes every other complaint doubtful.
  if (mistakes.length > 0) throw new ConfigError(render(mistakes))

  const unresolved: string[] = []
  const tree = resolve(written, { environment, readFile }, (path, text) => {
    unresolved.push(path.join('.'))
    mistakes.push(about(path, text, written))
  })
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

/** As YAML, for people. */
export function toYaml(value: unknown): string {
  return stringify(value, { lineWidth: 0 })
}

/** Not worth saying while what it is about, or depends on, is wrong itself. */
function isDoubtful({ path, because = [] }: Danger, wrong: readonly string[]): boolean {
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
  const nowhere: Place = { source: '', order: -1, line: null, column: null }
  let tree: Tree = { kind: 'map', entries: new Map(), place: nowhere }
  const text = stringify({ upstream: { keys: defaultKeys } })
  tree = merge(tree, readText(text, () => nowhere, mistakes) ?? tree)
  for (const [order, { name, text }] of sources.entries()) {
    const read = readText(text, placeIn(name, order), mistakes)
    if (read === null) continue
    if (read.kind === 'map') tree = merge(tree, read)
    else
      mistakes.push({
        path: [],
        text: isEmpty(read) ? 'is empty' : 'does not hold settings; expected lines like "listen:" at the top level',
        place: read.place,
      })
  }
  return sets.reduce((below, set, index) => applySet(below, set, sources.length + index, mistakes), tree)
}

function applySet(below: Tree, set: string, order: number, mistakes: Mistake[]): Tree {
  const equals = set.indexOf('=')
  const name = equals < 0 ? set : set.slice(0, equals)
  const place: Place = { source: `--set ${name}`, order, line: null, column: null }
  const path = name.split('.')
  const text = equals < 0 ? '' : set.slice(equals + 1)
  if (text.trim() === '' || path.includes('') || path.includes('__proto__')) {
    mistakes.push({ path: [], text: 'expected path=value, such as log.level=debug', place })
    return below
  }
  const crossed = path.findIndex((step, at) => isOutside(find(below, path.slice(0, at)), step))
  if (crossed >= 0) {
    const text = `there is no item ${path[crossed]} in ${path.slice(0, crossed).join('.')}`
    mistakes.push({ path: [], text, place })
    return below
  }
  const value = readText(text, () => place, mistakes)
  return value === null ? below : assign(below, path, value)
}

type Locate = (position: { line: number; col: number } | null) => Place

function placeIn(source: string, order: number): Locate {
  return (position) => ({ source, order, line: position?.line ?? null, column: position?.col ?? null })
}

/** More values than ten thousand clients with all their limits have; fewer than an alias bomb makes. */
const mostValues = 200_000

/** Null when it is not YAML; the mistakes say why. */
function readText(text: string, locate: Locate, mistakes: Mistake[]): Tree | null {
  const counter = new LineCounter()
  const at = (offset: number | undefined) => locate(offset === undefined ? null : counter.linePos(offset))
  const complain = (text: string, offset?: number) => mistakes.push({ path: [], text, place: at(offset) })
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
    return mistakes.length > before ? null : tree
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    complain(`holds more than ${mostValues} values, or lists and maps too deep, or aliases that contain themselves`)
    return null
  }
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

function toTree(document: Document, node: unknown, at: (offset: number | undefined) => Place, visit: Visit): Tree {
  visit(null)
  if (isAlias(node)) {
    const target = node.resolve(document)
    if (target === undefined) visit(`nothing before it is marked &${node.source}`, node.range?.[0])
    return toTree(document, target, at, visit)
  }
  if (isMap(node)) {
    const entries = node.items.map(({ key, value }) => {
      const offset = isScalar(key) ? key.range?.[0] : node.range?.[0]
      const name = isScalar(key) ? String(key.value) : ''
      if (name === '' || name === '__proto__') visit('this key cannot be a setting', offset)
      return [name, { keyPlace: at(offset), tree: toTree(document, value, at, visit) }] as const
    })
    return { kind: 'map', entries: new Map(entries), place: at(node.range?.[0]) }
  }
  if (isSeq(node)) {
    return {
      kind: 'list',
      items: node.items.map((item) => toTree(document, item, at, visit)),
      place: at(node.range?.[0]),
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
    place: at(scalar?.range?.[0]),
  }
}

// Checking

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

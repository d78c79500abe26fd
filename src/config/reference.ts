/**
 * What a setting refers to: `${NAME}` and `${NAME:-default}` in the environment, `file:/path` where a secret is
 * expected. What comes back is typed by the field it is for: `port: ${PORT}` is a number, a secret stays text.
 */
import { fieldAt } from './describe.ts'
import { withoutLineEnd } from '../keys/secret.ts'
import type { Path, ScalarTree, Tree } from './tree.ts'

export interface ReferenceSources {
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Throws when the file cannot be read. */
  readonly readFile: (path: string) => string
}

/** Begins the path of a file that holds a secret. */
export const filePrefix = 'file:'

export type Complain = (path: Path, text: string) => void

/** Plain values for the schema, and the tree they came from with its references resolved. */
export function resolve(tree: Tree, sources: ReferenceSources, complain: Complain): Tree {
  return walk(tree, [])

  function walk(node: Tree, path: Path): Tree {
    if (node.kind === 'map') {
      const entries = [...node.entries].map(
        ([key, entry]) => [key, { ...entry, tree: walk(entry.tree, [...path, key]) }] as const,
      )
      return { ...node, entries: new Map(entries) }
    }
    if (node.kind === 'list')
      return { ...node, items: node.items.map((item, index) => walk(item, [...path, String(index)])) }
    return scalar(node, path)
  }

  function scalar(node: ScalarTree, path: Path): Tree {
    const field = fieldAt(path)
    if (typeof node.value !== 'string')
      return field?.takes === 'text' && node.value !== null ? { ...node, value: node.written } : node
    if (bareReference.test(node.value))
      complain(path, 'is "$" and a name, which is no reference; write ${NAME}, with braces')
    const { text, references } = substitute(node.value, sources.environment, (message) => complain(path, message))
    if (field?.kind === 'secret' && references.length > 0 && isQuoted(text))
      complain(path, `the value of ${references.join(' and ')} ${QUOTED}`)
    if (field?.kind === 'secret' && node.value.startsWith(filePrefix)) return mounted(node, path, text)
    if (references.length === 0) return { ...node, value: text }
    if (text === '') return { ...node, value: null, references }
    return { ...node, value: field?.takes === 'text' ? text : typed(text), references }
  }

  function mounted(node: ScalarTree, path: Path, text: string): Tree {
    const references = [text]
    try {
      const content = withoutLineEnd(sources.readFile(text.slice(filePrefix.length)))
      if (isQuoted(content)) complain(path, `what ${text} holds ${QUOTED}`)
      return { ...node, value: content, references }
    } catch (error) {
      complain(path, `cannot read ${text} (${reason(error)})`)
      return { ...node, references }
    }
  }
}

/** What went wrong with a file, in a word: the system's own message would repeat the path. */
export function reason(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : 'unreadable'
  return { ENOENT: 'no such file', EACCES: 'permission denied', EISDIR: 'is a directory' }[code] ?? code
}

/** As shells have it, and we do not. */
const bareReference = /^\$[A-Z_][A-Z0-9_]*$/

const QUOTED =
  'is in quotes, which would be sent as part of it; take them out (only a shell takes them off, `docker --env-file` and mounted files do not)'

function isQuoted(text: string): boolean {
  return /^(["']).*\1$/s.test(text)
}

const reference = /\$\$\{|\$\{([A-Za-z_]\w*)(?::-([^}]*))?\}|\$\{/g

function substitute(written: string, environment: ReferenceSources['environment'], complain: (text: string) => void) {
  const references: string[] = []
  const text = written.replace(reference, (whole: string, name?: string, fallback?: string) => {
    if (whole === '$${') return '${'
    if (name === undefined) {
      complain('"${" begins no reference; write ${NAME} or ${NAME:-default}, or $${ for the characters themselves')
      return whole
    }
    references.push(`\${${name}}`)
    const value = environment[name] ?? ''
    if (value === '' && fallback === undefined) complain(missing(name))
    return value === '' ? (fallback ?? '') : value
  })
  return { text, references }
}

function missing(name: string): string {
  if (name !== 'SCRAPELLM_API_KEY')
    return `the environment variable ${name} is not set; set it, or write \${${name}:-default}`
  return 'the environment variable SCRAPELLM_API_KEY is not set; run "export SCRAPELLM_API_KEY=your-key" first, or try "npm run demo" (installed as a package: "scrapellm-proxy demo"), which needs no key'
}

/** As YAML would read it, had it been in the file: numbers and booleans are not text. */
function typed(text: string): string | number | boolean {
  if (/^[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?$/i.test(text)) return Number(text)
  if (/^(true|True|TRUE)$/.test(text)) return true
  if (/^(false|False|FALSE)$/.test(text)) return false
  return text
}

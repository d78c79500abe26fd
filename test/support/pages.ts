/**
 * The pages of the documentation as a reader follows them: their blocks of code, in order. What is to be done with a block is in
 * the words after its language, which nobody sees on the page: a role (`server`, `fails`, `output` …) and `file=NAME` for
 * what the reader saves. A block without a role is run, or checked, as its language says.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './process.ts'

export interface Block {
  readonly language: string
  readonly role: string | null
  /** What it is saved as. */
  readonly file: string | null
  readonly text: string
  /** Of the page, where it begins. */
  readonly line: number
}

export function readPage(path: string): string {
  return readFileSync(join(root, path), 'utf8')
}

/** Everything that is documentation for users and contributors, from the root of the project. */
export const pagePaths: readonly string[] = [
  'README.md',
  'CONTRIBUTING.md',
  'SECURITY.md',
  ...readdirSync(join(root, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
  'grafana/README.md',
]

const fence = /^```(\S+)(.*)\n([^]*?)^```$/gm

export function blocksOf(markdown: string): Block[] {
  return [...markdown.matchAll(fence)].map(({ 1: language = '', 2: words = '', 3: text = '', index }) => {
    const all = words.trim().split(/ +/).filter(Boolean)
    const [file = null] = all.flatMap((word) => /^file=(.+)$/.exec(word)?.[1] ?? [])
    const [role = null, ...surplus] = all.filter((word) => !word.startsWith('file='))
    if (surplus.length > 0) throw new Error(`more than one role: ${words}`)
    return { language, role, file, text, line: markdown.slice(0, index).split('\n').length }
  })
}

/** Anchors as GitHub makes them of headings. */
export function anchorsOf(markdown: string): string[] {
  return [...markdown.replace(fence, '').matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .trim()
      .replace(/\s/g, '-'),
  )
}

/** The first line of what the page shows that the real output does not have, in this order; null = all are there. `…` stands for anything. */
export function missingLine(shown: string, real: string): string | null {
  const lines = real.split('\n').map((line) => line.trimEnd())
  let from = 0
  for (const line of shown.split('\n').filter((one) => !['', '…'].includes(one.trim()))) {
    const pattern = new RegExp(`^${line.trimEnd().split('…').map(RegExp.escape).join('.*')}$`)
    const at = lines.findIndex((one, index) => index >= from && pattern.test(one))
    if (at < 0) return line
    from = at + 1
  }
  return null
}

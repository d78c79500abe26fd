/**
 * Follows the files that upstream keys were read from, so that a key can be changed without a restart. A file that cannot
 * be read, or holds nothing that can be a key, changes nothing: the old secret stays, and that is told once.
 */
import { secretOf, type Secret } from './secret.ts'

export interface KeyFilesPorts {
  /** `name` is that of the key. */
  readonly files: readonly { readonly name: string; readonly path: string }[]
  /** Calls back with what the file holds now, and again after each change; null = it cannot be read. */
  readonly watch: (path: string, onChange: (text: string | null) => void) => { close(): void }
  /** False when the key has this secret already. */
  readonly replace: (name: string, secret: Secret) => boolean
  readonly tell: (news: KeyNews) => void
}

export interface KeyNews {
  readonly name: string
  readonly kind: 'replaced' | 'unreadable' | 'not a key'
  /** The new one, so that it can be kept out of the log; null = the old one stays. */
  readonly secret: Secret | null
}

export function followKeyFiles({ files, watch, replace, tell }: KeyFilesPorts): { close(): void } {
  const watches = files.map(({ name, path }) => {
    let isUsable = true
    return watch(path, (text) => {
      const secret = text === null ? null : secretOf(text)
      if (secret !== null) {
        if (replace(name, secret)) tell({ name, kind: 'replaced', secret })
      } else if (isUsable) {
        tell({ name, kind: text === null ? 'unreadable' : 'not a key', secret: null })
      }
      isUsable = secret !== null
    })
  })
  return { close: () => watches.forEach((one) => one.close()) }
}

/**
 * A text that shows itself to nobody: printed, logged or serialised it is masked. `reveal` is the only way to it, so
 * that every use of a secret can be found by one word.
 */
import { inspect } from 'node:util'

export class Secret {
  readonly #text: string

  constructor(text: string) {
    this.#text = text
    Object.freeze(this)
  }

  reveal(): string {
    return this.#text
  }

  /** The last four characters, where they give away less than a quarter of it. */
  toString(): string {
    return this.#text.length > 16 ? `****${this.#text.slice(-4)}` : '****'
  }

  toJSON(): string {
    return this.toString()
  }

  [inspect.custom](): string {
    return `Secret(${this.toString()})`
  }
}

/** Anything else could not be sent in a header, or would arrive there changed. */
export const sendable = /^[\x21-\x7e]+$/

/** Editors and `echo` end a file with one. */
export function withoutLineEnd(text: string): string {
  return text.replace(/\r?\n$/, '')
}

/** What a file says, as a secret; null when that cannot be one. */
export function secretOf(text: string): Secret | null {
  const bare = withoutLineEnd(text)
  return sendable.test(bare) ? new Secret(bare) : null
}

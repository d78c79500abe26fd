/** What happened, in order, as a number: two runs that did the same have the same. */
export interface Trace {
  note(text: string): void
  readonly hash: string
  /** The latest lines, for whoever looks for a bug. */
  readonly tail: readonly string[]
}

/** `tailLines`: how many of the latest are kept. */
export function createTrace(tailLines: number): Trace {
  let [low, high] = [0x811c9dc5, 0x9747b28c]
  let tail: string[] = []

  return {
    note(text) {
      for (let at = 0; at < text.length; at += 1) {
        const code = text.charCodeAt(at)
        low = Math.imul(low ^ code, 0x01000193)
        high = Math.imul(high ^ code, 0x5bd1e995) ^ (high >>> 15)
      }
      if (tailLines === 0) return
      tail.push(text)
      if (tail.length > 2 * tailLines) tail = tail.slice(-tailLines)
    },
    get hash() {
      return [low, high].map((part) => (part >>> 0).toString(16).padStart(8, '0')).join('')
    },
    get tail() {
      return tail.slice(-tailLines)
    },
  }
}

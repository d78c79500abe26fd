/** Closes what was opened, in the reverse order. */
type Close = () => void | Promise<void>

export class Closing {
  readonly #closes: Close[] = []

  /** Called once everything that is added later has been closed. */
  add(close: Close): void {
    this.#closes.push(close)
  }

  /** What ends at once is not waited for: the next one is closed in the same turn of the loop. */
  async close(): Promise<void> {
    for (const close of this.#closes.toReversed()) {
      const closing = close()
      if (closing) await closing
    }
  }
}

/**
 * Tells what a small file holds whenever that changes. It looks again every few seconds and compares the text itself, so it
 * sees what the events of file systems miss: links that are swapped (as Kubernetes does with mounted secrets), files that are
 * renamed into place, network mounts, and two changes within one tick of the clock. Never throws.
 */
import { readFileSync, statSync } from 'node:fs'
import type { Clock, Timer } from '../ports.ts'

export interface FileWatch {
  close(): void
}

const everyMs = 5_000
const mostBytes = 1_048_576

/** Calls back at once with what it holds now, and again after each change; null = it cannot be read, or is far too big. */
export function watchFile(path: string, clock: Clock, onChange: (text: string | null) => void): FileWatch {
  let timer: Timer
  let last: string | null | undefined
  look()
  return { close: () => timer.cancel() }

  function look(): void {
    // First, so that `onChange` may close it.
    timer = clock.after(everyMs, look)
    const text = read()
    if (text === undefined || text === last) return
    last = text
    onChange(text)
  }

  function read(): string | null | undefined {
    try {
      const found = statSync(path)
      // A pipe has said once what it had to say, and reading it again would hang.
      if (!found.isFile()) return found.isDirectory() ? null : undefined
      return found.size > mostBytes ? null : readFileSync(path, 'utf8')
    } catch {
      return null
    }
  }
}

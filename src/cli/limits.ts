/** What this process may take of the machine or container it runs in. */
import { readFileSync } from 'node:fs'
import { memoryLimit } from '../world/pressure.ts'

/** `openFiles`: null = it cannot be seen here. */
export function limitsHere(): { memoryBytes: number; openFiles: number | null } {
  return { memoryBytes: memoryLimit(), openFiles: openFiles() }
}

/** Node has raised it to what it may be; null = not on this system. */
function openFiles(): number | null {
  try {
    const [, limit = ''] = /^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? []
    return limit === '' ? null : Number(limit)
  } catch {
    return null
  }
}

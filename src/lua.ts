/** Scripts for the shared store are files of their own beside the code that calls them; they are read once, when that code is loaded. */
import { readFileSync } from 'node:fs'
import type { SharedScript } from './ports.ts'

/** `file` is beside `module`, which is the caller's `import.meta.url`. Replies come as text. */
export function luaScript(file: string, module: string, numberOfKeys: number): SharedScript {
  return { lua: readFileSync(new URL(file, module), 'utf8'), numberOfKeys, replies: 'text' }
}

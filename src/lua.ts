/** Scripts for the shared store are files of their own beside the code that calls them; they are read once, when that code is loaded. */
import { readFileSync } from 'node:fs'
import type { SharedScript } from './ports.ts'

type Argument = string | number | Buffer

/** `file` is beside `module`, which is the caller's `import.meta.url`. Replies come as text. */
export function luaScript(file: string, module: string, numberOfKeys: number): SharedScript {
  return { lua: readFileSync(new URL(file, module), 'utf8'), numberOfKeys, replies: 'text' }
}

/** Two scripts whose keys share a slot, as one command. The reply is a list of theirs. */
export function inOne(first: SharedScript, second: SharedScript): SharedScript {
  const lua = `local function first(KEYS, ARGV)
${first.lua}
end
local function second(KEYS, ARGV)
${second.lua}
end
local keys, args = { {}, {} }, { {}, {} }
for i = 1, #KEYS do table.insert(keys[i <= ${first.numberOfKeys} and 1 or 2], KEYS[i]) end
for i = 2, #ARGV do table.insert(args[i <= ARGV[1] + 1 and 1 or 2], ARGV[i]) end
return { first(keys[1], args[1]), second(keys[2], args[2]) }`
  return { lua, numberOfKeys: first.numberOfKeys + second.numberOfKeys, replies: 'text' }
}

/** The arguments of such a script. */
export function argumentsInOne(first: readonly Argument[], second: readonly Argument[]): readonly Argument[] {
  return [first.length, ...first, ...second]
}

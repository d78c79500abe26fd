/** Looks at what the machine or container gives: Node, memory, open files. Pure: the figures are handed in. */
import type { Config } from '../config/schema.ts'
import { formatSize } from '../config/units.ts'
import { fine, finding, type Finding } from './finding.ts'

export interface Machine {
  /** Its version; an older one than is needed is refused before anything else. */
  readonly node: string
  readonly memoryBytes: number
  /** Null = it cannot be seen here. */
  readonly openFiles: number | null
}

const MIB = 1024 ** 2
/** What the process takes beside kept answers, under load (measured, rounded up). */
const BASE_BYTES = 256 * MIB
/** For all that is neither a connection of a caller nor one to upstream. */
const OTHER_FILES = 200

export function examineMachine(machine: Machine, config: Config): Finding[] {
  return [fine('node', `Node ${machine.node}`), aboutMemory(machine, config), aboutFiles(machine, config)]
}

function aboutMemory({ memoryBytes }: Machine, { cache, overload }: Config): Finding {
  const needed = cache.memory.maxSize + BASE_BYTES
  const text = `${inMiB(memoryBytes)}, of which kept answers may take ${formatSize(cache.memory.maxSize)}`
  if (needed <= memoryBytes * overload.memory) return fine('memory', text)
  const advice = `give it ${inMiB(needed / overload.memory)}, or lower cache.memory.maxSize: from ${overload.memory * 100} % on new questions are refused`
  return finding(needed > memoryBytes ? 'fail' : 'warn', 'memory', `${text}: too much`, advice)
}

function inMiB(bytes: number): string {
  return `${Math.ceil(bytes / MIB)} MiB`
}

function aboutFiles({ openFiles }: Machine, { listen, upstream }: Config): Finding {
  const name = 'open files'
  const needed = listen.maxConnections + upstream.maxConcurrent + OTHER_FILES
  if (openFiles === null) return finding('note', name, 'the limit cannot be seen here', `let it have ${needed}`)
  const text = `${openFiles} at most, ${needed} for listen.maxConnections and upstream.maxConcurrent`
  if (openFiles >= needed) return fine(name, text)
  const advice = `lower them, or raise it: ulimit -n, LimitNOFILE= of systemd, --ulimit nofile= of Docker`
  return finding('warn', name, text, advice)
}

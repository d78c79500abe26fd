/** Looks at what the machine or container gives: Node, memory, open files. Pure: the figures are handed in. */
import { cacheBytesOf } from '../config/policy.ts'
import type { Config } from '../config/schema.ts'
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
  return [fine('node', `Node ${machine.node}`), ...examineLimits(machine, config)]
}

/** What the proxy looks at when it starts, too. */
export function examineLimits(limits: Pick<Machine, 'memoryBytes' | 'openFiles'>, config: Config): Finding[] {
  return [aboutMemory(limits, config), aboutFiles(limits, config)]
}

function aboutMemory({ memoryBytes }: Pick<Machine, 'memoryBytes'>, config: Config): Finding {
  const most = config.overload.memory
  const forAnswers = cacheBytesOf(config, memoryBytes)
  const text = `${inMiB(memoryBytes)}, of which kept answers may take ${inMiB(forAnswers)}`
  if (BASE_BYTES + forAnswers <= memoryBytes * most) return fine('memory', text)
  const enough = inMiB((BASE_BYTES + forAnswers) / most)
  const from = `from ${most * 100} % on`
  return BASE_BYTES > memoryBytes
    ? finding('fail', 'memory', `${text}: too little`, `give it ${enough}: ${from} new questions are refused`)
    : finding(
        'warn',
        'memory',
        `${text}: too little under load`,
        `give it ${enough}, or lower cache.memory.maxSize: ${from} kept answers give way, then new questions are refused`,
      )
}

function inMiB(bytes: number): string {
  return `${Math.ceil(bytes / MIB)} MiB`
}

function aboutFiles({ openFiles }: Pick<Machine, 'openFiles'>, { listen, upstream }: Config): Finding {
  const name = 'open files'
  const needed = listen.maxConnections + upstream.maxConcurrent + OTHER_FILES
  if (openFiles === null) return finding('note', name, 'the limit cannot be seen here', `let it have ${needed}`)
  const text = `${openFiles} at most, ${needed} for listen.maxConnections and upstream.maxConcurrent`
  if (openFiles >= needed) return fine(name, text)
  const advice = `lower them, or raise it: ulimit -n, LimitNOFILE= of systemd, --ulimit nofile= of Docker`
  return finding('warn', name, text, advice)
}

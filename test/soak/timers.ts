/**
 * Loaded into the program before it begins: counts the timers that are armed, which Node tells of nobody whose timers are
 * not to keep it alive. Asked by SIGUSR2, it answers with a line like those of the log.
 */
const { setTimeout: arm, clearTimeout: disarm } = globalThis
const armed = new Set<unknown>()

function count(job: (...args: unknown[]) => void, ms?: number, ...args: unknown[]): NodeJS.Timeout {
  const timer = arm(() => {
    armed.delete(timer)
    job(...args)
  }, ms)
  armed.add(timer)
  return timer
}

globalThis.setTimeout = Object.assign(count, arm)
globalThis.clearTimeout = (timer) => {
  armed.delete(timer)
  disarm(timer)
}

let turn = 0
process.on('SIGUSR2', () => {
  turn += 1
  process.stdout.write(`${JSON.stringify({ msg: 'armed timers', turn, count: armed.size })}\n`)
})

// Real timers that all end with the simulator, so that a process using it can end too.

export interface Timers {
  /** Runs at once, in the same turn, when there is nothing to wait for; returns how to cancel. */
  readonly after: (delayMs: number, run: () => void) => () => void
  readonly every: (periodMs: number, run: () => void) => () => void
  readonly clear: () => void
}

export function createTimers(): Timers {
  const running = new Set<NodeJS.Timeout>()

  function stop(timer: NodeJS.Timeout): void {
    clearTimeout(timer)
    running.delete(timer)
  }

  function after(delayMs: number, run: () => void): () => void {
    if (delayMs <= 0) {
      run()
      return () => undefined
    }
    const timer = setTimeout(() => {
      running.delete(timer)
      run()
    }, delayMs)
    running.add(timer)
    return () => stop(timer)
  }

  function every(periodMs: number, run: () => void): () => void {
    const timer = setInterval(run, periodMs)
    running.add(timer)
    return () => stop(timer)
  }

  return {
    after,
    every,
    clear: () => {
      for (const timer of running) stop(timer)
    },
  }
}

/**
 * The process as its supervisor and its terminal see it: signals in, state out. Signals are taken the moment this is made, before
 * the rest of the program is loaded: until then, a signal does what it does to any process, and most of them kill it.
 */
import { execFile } from 'node:child_process'
import { isatty } from 'node:tty'

export interface Host {
  /** SIGTERM, SIGINT, SIGQUIT and a terminal that was closed. Without a listener, each ends the process at once. */
  onStop(listener: (reason: string) => void): void
  /** SIGHUP; one that came before there was a listener counts. */
  onReload(listener: () => void): void
  /** An exception or a rejected promise that nobody caught. */
  onFault(listener: (error: unknown) => void): void
  /** SIGHUP ends the process, as it does by default: for commands that have nothing to reload. */
  endOnHangUp(): void
  /**
   * Tells systemd (sd_notify(3)), in order; does nothing where no supervisor asked for it in `NOTIFY_SOCKET`. Rejects when the message could not
   * be sent.
   */
  notify(assignments: readonly string[]): Promise<void>
}

/** 128 + SIGHUP: what a shell reports of a process that this signal ended. */
const EXIT_HUNG_UP = 129
/** systemd-notify waits until its message was read. */
const LONGEST_NOTIFICATION_MS = 10_000

export function createHost(): Host {
  // A terminal that was closed is no terminal any more. Of a process under nohup or a supervisor, none of these was one.
  const terminals = [0, 1, 2].filter((fd) => isatty(fd))
  let stop: ((reason: string) => void) | null = null
  let reload: (() => void) | null = null
  let isReloadWanted = false
  let isHungUp = false
  let told = Promise.resolve()

  process.on('SIGHUP', () => {
    if (terminals.some((fd) => !isatty(fd))) return hangUp()
    if (reload) reload()
    else isReloadWanted = true
  })
  // Node would open its inspector at this signal, to everybody on this machine.
  process.on('SIGUSR1', () => undefined)
  // What others take for "reopen the logs" or "report" must not end the process.
  process.on('SIGUSR2', () => undefined)

  /** The shell and the kernel may both send one: only the first stops, or the second would cut the drain. */
  function hangUp(): void {
    if (isHungUp) return
    isHungUp = true
    if (stop) stop('terminal closed')
    else process.exit(EXIT_HUNG_UP)
  }

  return {
    onStop(listener) {
      stop = listener
      for (const signal of ['SIGTERM', 'SIGINT', 'SIGQUIT']) process.on(signal, () => listener(signal))
    },
    onReload(listener) {
      reload = listener
      if (isReloadWanted) listener()
      isReloadWanted = false
    },
    onFault: (listener) => void process.on('uncaughtException', listener),
    endOnHangUp: () => void process.removeAllListeners('SIGHUP'),
    notify(assignments) {
      if (!process.env['NOTIFY_SOCKET']) return Promise.resolve()
      const sent = told.then(() => send(assignments))
      told = sent.catch(() => undefined)
      return sent
    },
  }
}

/** By systemd's own command: Node has no datagram sockets of the unix kind. */
function send(assignments: readonly string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    execFile('systemd-notify', assignments, { timeout: LONGEST_NOTIFICATION_MS }, (error) =>
      error ? reject(error) : resolve(),
    )
  })
}

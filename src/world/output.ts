/**
 * Where log lines go: a file descriptor, written by sonic-boom, the one door to it. Lines that a full pipe or disk does not take
 * wait, up to a limit; once the reader has gone, lines are dropped: logging never ends the process or throws into it. How many
 * lines were lost is reported as soon as a line gets through again.
 */
import sonicBoom from 'sonic-boom'

const maxWaitingBytes = 8 * 1024 * 1024
/** A pipe takes 64 KiB at a time: often enough for all lines of a fast cache. */
const retryMs = 5

export interface Output {
  readonly write: (text: string) => void
  /** Writes what waits, as far as the reader takes it now: for the end of the process. */
  readonly flush: () => void
}

type After = (ms: number, job: () => void) => unknown

export function createStdout(): Output {
  // A pipe is given to us blocking, and then a reader who pauses stops the process; Node makes it otherwise as soon as it is looked at.
  void process.stdout
  return createOutput(1, (ms, job) => setTimeout(job, ms).unref())
}

export function createOutput(fd: number, after: After): Output {
  // `sync`: a line is out when `write` returns. Then sonic-boom would sleep on EAGAIN and stop the process, so the retry is ours.
  const stream = new sonicBoom.SonicBoom({ fd, sync: true, maxLength: maxWaitingBytes, retryEAGAIN: () => false })
  let lostLines = 0
  let isRetrying = false
  let isBroken = false

  stream.on('drop', (text: string) => {
    if (lostLines === 0) stream.once('drain', reportLoss)
    lostLines += text.split('\n').length - 1
  })
  stream.on('error', ({ code }: NodeJS.ErrnoException) => {
    if (code === 'EAGAIN') retryLater()
    // Anything else, as a full disk, is tried again with the next line.
    else if (code === 'EPIPE') giveUp()
  })

  // Not `flushSync`, which repeats for ever what a full disk refuses.
  return { write, flush: () => write('') }

  function write(text: string): void {
    if (!isBroken) stream.write(text)
  }

  function retryLater(): void {
    if (isRetrying) return
    isRetrying = true
    after(retryMs, () => {
      isRetrying = false
      write('')
    })
  }

  function giveUp(): void {
    isBroken = true
    stream.destroy()
  }

  function reportLoss(): void {
    const lines = lostLines
    lostLines = 0
    write(`{"level":"warn","time":"${new Date().toISOString()}","msg":"log lines lost","lines":${lines}}\n`)
  }
}

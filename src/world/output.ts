/**
 * Where log lines go: a file descriptor. What a full pipe does not take waits, up to a limit; when the reader has gone, lines
 * vanish: logging never ends the process or throws into it. What was lost is said as soon as a line gets through again.
 */
import { writeSync } from 'node:fs'

const waitingBytesLimit = 8 * 1024 * 1024
/** A pipe takes 64 KiB at a time: often enough for all lines of a fast cache. */
const retryMs = 5

export interface Output {
  readonly write: (text: string) => void
  /** Writes what waits, as far as the reader takes it now: for the end of the process. */
  readonly flush: () => void
}

export interface OutputPorts {
  /** Says how many bytes it took; throws as `fs.writeSync` does. */
  readonly write: (bytes: Uint8Array) => number
  readonly after: (ms: number, job: () => void) => unknown
}

export function createStdout(): Output {
  // A pipe is given to us blocking, and then a reader who pauses stops the process; Node makes it otherwise as soon as it is looked at.
  void process.stdout
  return createOutput({
    write: (bytes) => writeSync(1, bytes),
    after: (ms, job) => setTimeout(job, ms).unref(),
  })
}

export function createOutput({ write, after }: OutputPorts): Output {
  const waiting: Buffer[] = []
  let waitingBytes = 0
  let lostLines = 0
  let isRetrying = false
  let isBroken = false

  return {
    write(text) {
      if (isBroken) return
      if (waitingBytes > waitingBytesLimit) lostLines += linesIn(text)
      else push(text)
      if (!isRetrying) drain()
    },
    flush: drain,
  }

  function push(text: string): void {
    const bytes = Buffer.from(text)
    waiting.push(bytes)
    waitingBytes += bytes.length
  }

  function drain(): void {
    for (let bytes = waiting[0]; bytes; bytes = waiting[0]) {
      const taken = tryWrite(bytes)
      if (taken === null) return
      waitingBytes -= taken
      if (taken < bytes.length) waiting[0] = bytes.subarray(taken)
      else waiting.shift()
      if (waiting.length === 0 && lostLines > 0) tellLoss()
    }
  }

  /** Null = not now, or never. */
  function tryWrite(bytes: Buffer): number | null {
    try {
      return write(bytes)
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : null
      if (code === 'EAGAIN') retryLater()
      else if (code === 'EPIPE') giveUp()
      else drop(bytes)
      return null
    }
  }

  function retryLater(): void {
    if (isRetrying) return
    isRetrying = true
    after(retryMs, () => {
      isRetrying = false
      drain()
    })
  }

  function giveUp(): void {
    isBroken = true
    waiting.length = 0
  }

  /** A full disk, say: the next line may fare better. */
  function drop(bytes: Buffer): void {
    waiting.shift()
    waitingBytes -= bytes.length
    lostLines += linesIn(bytes.toString())
  }

  function tellLoss(): void {
    const lines = lostLines
    lostLines = 0
    push(`{"level":"warn","time":"${new Date().toISOString()}","msg":"log lines lost","lines":${lines}}\n`)
  }
}

function linesIn(text: string): number {
  return text.split('\n').length - 1
}

/**
 * The audit file: lines are gathered in memory and appended in batches, off the way of any request. At `maxBytes` the file
 * becomes `….1` and a new one is begun, so that both together never hold more than twice that. Only its owner may read it.
 *
 * Never throws and never blocks. While lines cannot be written they wait, up to a limit; then the newest are given up, and
 * what was lost is told with the recovery. A batch that got in by half is taken back: lines are whole, but for the last one of
 * a process that was killed, and the next process begins on a new line.
 */
import { mkdir, open, rename, stat, type FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { AuditFile, Clock, Emit, Timer } from '../ports.ts'
import type { AuditTrouble } from '../telemetry/events.ts'

export interface AuditFileOptions {
  readonly path: string
  readonly maxBytes: number
}

/** What it needs of a file system. */
export interface AuditDoor {
  /** Appends all of it, or throws and leaves the file as it was. Resolves to the size afterwards. */
  append(path: string, text: string): Promise<number>
  rename(from: string, to: string): Promise<void>
  /** 0 = there is none. Throws when it is not a file. */
  sizeOf(path: string): Promise<number>
}

const batchMs = 250
const batchChars = 64 * 1024
const waitingChars = 8 * 1024 * 1024
const retryMs = 5_000

export function createAuditFile(
  { path, maxBytes }: AuditFileOptions,
  clock: Clock,
  emit: Emit,
  door: AuditDoor = realDoor(),
): AuditFile {
  let batches: string[] = []
  let batch = ''
  let waiting = 0
  let lostLines = 0
  let trouble: AuditTrouble | null = null
  let timer: Timer | null = null
  let writing: Promise<void> | null = null
  let isClosed = false

  return {
    append,
    flush,
    close,
    get state() {
      return trouble ? 'down' : 'up'
    },
  }

  function append(line: string): void {
    if (isClosed) return
    if (waiting + line.length > waitingChars) {
      lostLines += 1
      if (!trouble) setTrouble('slow')
      return
    }
    batch += line
    waiting += line.length
    if (batch.length >= batchChars) {
      cut()
      // In trouble, the next try has its time.
      if (!trouble) return void flush()
    }
    timer ??= clock.after(trouble ? retryMs : batchMs, () => void flush())
  }

  function cut(): void {
    if (batch !== '') batches.push(batch)
    batch = ''
  }

  /** Resolves when all that waits now has been tried once. */
  function flush(): Promise<void> {
    timer?.cancel()
    timer = null
    cut()
    writing ??= write().finally(() => {
      writing = null
      if (waiting > 0 && !isClosed) timer ??= clock.after(trouble ? retryMs : batchMs, () => void flush())
    })
    return writing
  }

  async function write(): Promise<void> {
    for (let text = batches[0]; text !== undefined; text = batches[0]) {
      try {
        await put(text)
      } catch (error) {
        return setTrouble(troubleOf(error))
      }
      batches = batches.slice(1)
      waiting -= text.length
      recovered()
    }
  }

  async function put(text: string): Promise<void> {
    const size = await door.sizeOf(path)
    if (size > 0 && size + Buffer.byteLength(text) > maxBytes) await door.rename(path, `${path}.1`)
    await door.append(path, text)
  }

  function setTrouble(because: AuditTrouble): void {
    if (trouble) return
    trouble = because
    emit({ kind: 'audit-changed', to: 'down', because, lostLines: 0 })
  }

  /** Of slowness only once there is room again, or it would be told line by line. */
  function recovered(): void {
    if (!trouble || waiting > waitingChars / 2) return
    emit({ kind: 'audit-changed', to: 'up', because: trouble, lostLines })
    trouble = null
    lostLines = 0
  }

  async function close(): Promise<void> {
    if (isClosed) return
    await flush()
    // What came while the last batch was on its way.
    if (!trouble) await flush()
    isClosed = true
    timer?.cancel()
  }
}

const troubles: Readonly<Record<string, AuditTrouble>> = {
  ENOSPC: 'full',
  EDQUOT: 'full',
  EFBIG: 'full',
  EACCES: 'read-only',
  EPERM: 'read-only',
  EROFS: 'read-only',
  EISDIR: 'path',
  ENOTDIR: 'path',
  ENAMETOOLONG: 'path',
  ELOOP: 'path',
}

function troubleOf(error: unknown): AuditTrouble {
  return troubles[(error as NodeJS.ErrnoException).code ?? ''] ?? 'io'
}

/** Opens anew for each batch: whoever moves the file away, or deletes it, gets a new one. */
function realDoor(): AuditDoor {
  return {
    async append(path, text) {
      await mkdir(dirname(path), { recursive: true, mode: 0o700 })
      const file = await open(path, 'a+', 0o600)
      try {
        const { size } = await file.stat()
        const whole = (await endsWhole(file, size)) ? text : `\n${text}`
        try {
          await file.appendFile(whole)
        } catch (error) {
          await file.truncate(size).catch(() => undefined)
          throw error
        }
        return size + Buffer.byteLength(whole)
      } finally {
        await file.close()
      }
    },
    rename,
    async sizeOf(path) {
      try {
        const found = await stat(path)
        // To open a pipe would wait for its reader for ever.
        if (!found.isFile()) throw Object.assign(new Error('not a file'), { code: 'EISDIR' })
        return found.size
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0
        throw error
      }
    },
  }
}

async function endsWhole(file: FileHandle, size: number): Promise<boolean> {
  if (size === 0) return true
  const { buffer } = await file.read(Buffer.alloc(1), 0, 1, size - 1)
  return buffer[0] === 0x0a
}

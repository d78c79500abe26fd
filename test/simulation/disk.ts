/**
 * What a machine keeps, in memory: the port `Disk` for one process after another, and for two at a time. Records reach the file
 * when `put` returns, so a kill leaves them, and are safe from a power cut once `secure` has resolved. A power cut takes the last commits of the
 * log. The file can be full (read, not written) or away (neither), and belongs to one process.
 */
import type { Entry } from '../../src/model.ts'
import type { Disk, DiskRecord, DiskSum } from '../../src/ports.ts'
import type { Process } from './process.ts'

export type DiskWeather = 'up' | 'full' | 'away'

export interface Machine {
  /** For a process that runs on it. */
  openDisk(process: Process): Disk
  setDisk(weather: DiskWeather): void
  /** To be called when its processes are dead. `keep` in [0, 1] of what was not synced is there afterwards. */
  cutPower(keep: number): void
}

type Sum = Readonly<Record<string, number>>

interface Stored {
  /** JSON; null = deleted. */
  readonly text: string | null
  readonly isSum: boolean
  readonly expiresAt: number | null
}

type Commit = readonly (readonly [name: string, stored: Stored])[]

const SYNC_MS = 3
const RETRY_MS = 1_000

export function createMachine(): Machine {
  const answers = new Map<string, Entry>()
  const synced = new Map<string, Stored>()
  /** `synced`, and on it all commits since. */
  const file = new Map<string, Stored>()
  let commits: Commit[] = []
  let weather: DiskWeather = 'up'
  let owner: Process | null = null
  const changed = new Set<() => void>()

  return {
    openDisk,
    setDisk(next) {
      weather = next
      // A file that is away is closed, and with it the lock is gone: another process may be the first to open it again.
      if (next === 'away') owner = null
      for (const look of [...changed].toReversed()) look()
    },
    cutPower(keep) {
      const left = commits.slice(0, Math.floor(commits.length * keep))
      commits = []
      for (const commit of left) apply(synced, commit)
      file.clear()
      for (const [name, stored] of synced) file.set(name, stored)
      owner = null
    },
  }

  function openDisk(process: Process): Disk {
    const { clock } = process
    /** What the file does not have yet. */
    const unsaved = new Map<string, Stored>()
    const listeners: (() => void)[] = []
    let isRead = false
    let isClosed = false
    let retry = { cancel() {} }
    changed.add(look)
    look()

    function isHeld(): boolean {
      return owner !== null && owner !== process && owner.isAlive
    }

    function canRead(): boolean {
      return !isClosed && weather !== 'away' && owner === process
    }

    function canWrite(): boolean {
      return canRead() && weather === 'up'
    }

    /** Again and again until the folder is ours; each change of the weather is another reason to look. */
    function look(): void {
      retry.cancel()
      if (isClosed || !process.isAlive) return void changed.delete(look)
      const isNew = weather !== 'away' && !isHeld() && owner !== process
      if (isNew) owner = process
      save()
      if (isNew) {
        isRead = true
        for (const listener of listeners) listener()
      }
      if (owner !== process || unsaved.size > 0) retry = clock.after(RETRY_MS, look)
    }

    function save(): void {
      if (unsaved.size === 0 || !canWrite() || !process.act()) return
      const commit = Array.from(unsaved, ([name, stored]) => [name, together(file.get(name), stored)] as const)
      commits.push(commit)
      apply(file, commit)
      unsaved.clear()
    }

    function put(list: readonly (DiskRecord | DiskSum)[]): void {
      for (const record of list) {
        const name = nameOf(record.space, record.key)
        const isSum = 'add' in record
        const value = isSum ? record.add : record.value
        const stored = { text: value === null ? null : JSON.stringify(value), isSum, expiresAt: record.expiresAt }
        unsaved.set(name, together(unsaved.get(name), stored))
      }
      save()
    }

    function read(name: string): unknown {
      const pending = unsaved.get(name)
      const known = canRead() ? file.get(name) : undefined
      return valueOf(pending ? together(known, pending) : known)
    }

    function secure(): Promise<boolean> {
      if (!canWrite() || unsaved.size > 0) return Promise.resolve(false)
      const log = commits
      const count = log.length
      return new Promise((resolve) => {
        process.deliver(SYNC_MS, () => {
          // After a power cut the log is another one, and nobody hears of this.
          if (log === commits) for (const commit of log.splice(0, Math.min(count, log.length))) apply(synced, commit)
          resolve(true)
        })
      })
    }

    function valueOf(stored: Stored | undefined): unknown {
      const isGood = stored?.text && (stored.expiresAt === null || stored.expiresAt > clock.wall())
      return isGood ? JSON.parse(stored.text ?? '') : null
    }

    return {
      readEntry(key) {
        const entry = canRead() ? answers.get(key) : undefined
        return entry && entry.keptUntil > clock.wall() ? entry : null
      },
      writeEntry(key, entry) {
        if (canWrite() && process.act()) answers.set(key, entry)
      },
      purge({ scraper, promptHash, country, storedBefore }) {
        const meant = [...answers].filter(
          ([, entry]) =>
            (scraper === undefined || entry.scraper === scraper) &&
            (promptHash === undefined || entry.promptHash === promptHash) &&
            (country === undefined || entry.country === country) &&
            (storedBefore === undefined || entry.storedAt < storedBefore),
        )
        for (const [key] of meant) answers.delete(key)
        return meant.length
      },
      put,
      secure,
      get: (space, key) => read(nameOf(space, key)),
      list(space) {
        const names = new Set([...(canRead() ? file.keys() : []), ...unsaved.keys()])
        return Array.from(names)
          .filter((name) => name.startsWith(`${space}/`))
          .map((name) => [name.slice(space.length + 1), read(name)] as const)
          .filter(([, value]) => value !== null)
      },
      onRead: (listener) => void listeners.push(listener),
      get isRead() {
        return isRead
      },
      get records() {
        if (isHeld()) return 'held'
        return canWrite() ? 'up' : 'down'
      },
      get answers() {
        return canWrite() ? 'up' : 'down'
      },
      get entries() {
        return answers.size
      },
      get bytes() {
        return answers.size
      },
      close() {
        save()
        retry.cancel()
        isClosed = true
        changed.delete(look)
        if (owner === process) owner = null
      },
    }
  }
}

function apply(file: Map<string, Stored>, commit: Commit): void {
  for (const [name, stored] of commit) {
    if (stored.text === null) file.delete(name)
    else file.set(name, stored)
  }
}

function together(known: Stored | undefined, next: Stored): Stored {
  if (!known?.isSum || !next.isSum) return next
  const [one, other] = [JSON.parse(known.text ?? '{}') as Sum, JSON.parse(next.text ?? '{}') as Sum]
  const names = Object.keys({ ...one, ...other })
  const sum = Object.fromEntries(names.map((name) => [name, (one[name] ?? 0) + (other[name] ?? 0)]))
  return { ...next, text: JSON.stringify(sum) }
}

function nameOf(space: string, key: string): string {
  return `${space}/${key}`
}

/**
 * What a machine keeps of a process, in memory: the port `Disk` for one process after the other. Records are kept when `put` returns;
 * answers a moment later, so a kill may lose them. It can be out of order for a while, and is as the port promises: memory goes on.
 */
import type { Entry } from '../../src/model.ts'
import type { Disk, DiskRecord } from '../../src/ports.ts'
import type { Process } from './process.ts'

export interface Machine {
  /** For the process that runs on it now. */
  openDisk(process: Process): Disk
  setDisk(state: 'up' | 'down'): void
}

type Record = Pick<DiskRecord, 'value' | 'expiresAt'>

const QUEUE_MS = 50

export function createMachine(): Machine {
  const answers = new Map<string, Entry>()
  const records = new Map<string, Map<string, Record>>()
  let state: 'up' | 'down' = 'up'
  let recover: (() => void)[] = []

  return {
    openDisk,
    setDisk(next) {
      state = next
      if (next === 'down') return
      for (const job of recover) job()
      recover = []
    },
  }

  function openDisk(process: Process): Disk {
    const { clock } = process
    const cached = new Map(answers)
    const memory = new Map(Array.from(records, ([space, kept]) => [space, new Map(kept)]))

    /** Now, or when the disk is back, if the process still lives. */
    function save(job: () => void): void {
      if (!process.act()) return
      if (state === 'up') job()
      else recover.push(() => process.isAlive && job())
    }

    function good(record: Record | undefined): record is Record {
      return record !== undefined && (record.expiresAt === null || record.expiresAt > clock.wall())
    }

    function writeEntry(key: string, entry: Entry | null): void {
      if (entry) cached.set(key, entry)
      else cached.delete(key)
      process.deliver(QUEUE_MS, () =>
        save(() => {
          if (entry) answers.set(key, entry)
          else answers.delete(key)
        }),
      )
    }

    return {
      readEntry(key) {
        const entry = cached.get(key)
        if (!entry || state === 'down') return null
        return entry.keptUntil > clock.wall() ? entry : null
      },
      writeEntry,
      deleteEntry: (key) => writeEntry(key, null),
      purge({ scraper, promptHash, country, storedBefore }) {
        const meant = [...cached].filter(
          ([, entry]) =>
            (scraper === undefined || entry.scraper === scraper) &&
            (promptHash === undefined || entry.promptHash === promptHash) &&
            (country === undefined || entry.country === country) &&
            (storedBefore === undefined || entry.storedAt < storedBefore),
        )
        for (const [key] of meant) writeEntry(key, null)
        return meant.length
      },
      put(list) {
        // By value, as a file has them: nobody can change from outside what was written.
        const copies = list.map((record) => ({ ...record, value: JSON.parse(JSON.stringify(record.value)) as unknown }))
        write(memory, copies)
        save(() => write(records, copies))
      },
      get(space, key) {
        const record = memory.get(space)?.get(key)
        return good(record) ? record.value : null
      },
      list(space) {
        return [...(memory.get(space) ?? [])].flatMap(([key, record]) =>
          good(record) ? [[key, record.value] as const] : [],
        )
      },
      get state() {
        return state
      },
      get entries() {
        return cached.size
      },
      get bytes() {
        return cached.size
      },
      flush() {},
      close() {},
    }
  }
}

function write(into: Map<string, Map<string, Record>>, list: readonly DiskRecord[]): void {
  for (const { space, key, value, expiresAt } of list) {
    const kept = into.get(space) ?? new Map<string, Record>()
    into.set(space, kept)
    if (value === null) kept.delete(key)
    else kept.set(key, { value, expiresAt })
  }
}

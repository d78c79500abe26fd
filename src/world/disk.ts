/**
 * The disk store: what was paid for, and what is known of money, survives a restart. For one process on one machine.
 *
 * Answers are queued and written in small transactions off the hit path; records are on the disk when `put` returns. Nothing
 * here throws for trouble with the file: the store goes down with one event, serves records from memory and answers from its
 * queue, tries again now and then, and brings the file up to date before it is up again. Must not know what the records mean.
 */
import type { Entry, PurgeFilter } from '../model.ts'
import type { Clock, Disk, DiskRecord, Emit, Timer } from '../ports.ts'
import type { DiskTrouble } from '../telemetry/events.ts'
import { type Answers, createAnswers } from './disk-answers.ts'
import {
  closeQuietly,
  openFile,
  type OpenFile,
  PAGE_BYTES,
  removeFile,
  roomFor,
  setAside,
  transaction,
  troubleOf,
} from './disk-file.ts'
import { boundsOf } from './disk-bounds.ts'
import { createDiskQueue, type Waiting, weightOf } from './disk-queue.ts'
import { createRecords } from './disk-records.ts'

export interface DiskOptions {
  readonly path: string
  /** All in all: pages, indexes, free room, and the log beside the file. Below 1 MiB counts as 1 MiB. */
  readonly maxBytes: number
}

const FLUSH_MS = 50
const RETRY_MS = 30_000
const SWEEP_MS = 60_000
const QUEUE_BYTES = 8_388_608
const BATCH_USES = 100
const MAX_TOUCHED = 10_000
const MAX_PURGES = 64

interface Open {
  readonly file: OpenFile
  readonly answers: Answers
}

export function createDisk(options: DiskOptions, clock: Clock, emit: Emit): Disk {
  const { path } = options
  let bounds = boundsOf(options.maxBytes)
  const records = createRecords()
  const queue = createDiskQueue(QUEUE_BYTES)
  const touched = new Map<number, number>()
  /** Asked for while the file was away. */
  let purges: PurgeFilter[] = []
  let open: Open | null = null
  let outage: DiskTrouble | null = null
  let closed = false
  let flushTimer: Timer | null = null
  let retryTimer: Timer | null = null
  let sweepTimer: Timer = clock.after(SWEEP_MS, sweep)
  start()

  return {
    readEntry,
    writeEntry,
    deleteEntry: (key) => enqueue(key, null),
    purge,
    put,
    get: (space, key) => records.get(space, key, clock.wall()),
    list: (space) => records.list(space, clock.wall()),
    get state() {
      return open ? 'up' : 'down'
    },
    get entries() {
      return open?.answers.count ?? 0
    },
    get bytes() {
      return attempt(({ answers }) => answers.usedPages * PAGE_BYTES, 0)
    },
    flush,
    close,
  }

  function readEntry(key: string): Entry | null {
    const wallMs = clock.wall()
    const queued = queue.get(key)
    if (queued !== undefined) return queued && queued.keptUntil > wallMs ? queued : null
    const found = attempt(({ answers }) => answers.read(key, wallMs), null)
    if (found?.kind === 'damaged') enqueue(key, null)
    if (found?.kind !== 'found') return null
    if (found.staleUseId !== null && touched.size < MAX_TOUCHED) touched.set(found.staleUseId, wallMs)
    return found.entry
  }

  function writeEntry(key: string, entry: Entry): void {
    if (weightOf(key, entry) <= bounds.entryBytes) enqueue(key, entry)
  }

  function purge(filter: PurgeFilter): number {
    flush()
    const wallMs = clock.wall()
    const purged = attempt(({ file, answers }) => {
      let count = 0
      transaction(file.db, () => {
        count = answers.purge(filter, wallMs)
        answers.saveCount()
      })
      return count
    }, null)
    if (purged !== null) {
      schedule()
      return purged
    }
    purgeLater(filter, wallMs)
    return purgeQueue(filter)
  }

  function put(list: readonly DiskRecord[]): void {
    records.remember(list)
    attempt(({ file }) => {
      file.check()
      records.save(list)
    }, null)
  }

  function flush(): void {
    let more = queue.size + touched.size > 0
    while (more) {
      more = attempt((now) => {
        writeBatch(now)
        return queue.size + touched.size > 0
      }, false)
    }
  }

  function close(): void {
    flush()
    closed = true
    for (const timer of [flushTimer, retryTimer, sweepTimer]) timer?.cancel()
    // Closing moves the log into the file and removes it.
    detach()
  }

  // The queue

  function enqueue(key: string, entry: Waiting): void {
    if (closed) return
    queue.set(key, entry)
    if (queue.isFull) attempt(writeBatch, null)
    if (queue.isFull && queue.shorten()) purgeLater({}, clock.wall())
    schedule()
  }

  function purgeLater(filter: PurgeFilter, wallMs: number): void {
    // What is stored from now on is not meant. Too many to remember: everything then.
    if (purges.length === MAX_PURGES) purges = [{ storedBefore: wallMs + 1 }]
    else purges.push({ ...filter, storedBefore: Math.min(filter.storedBefore ?? Number.POSITIVE_INFINITY, wallMs + 1) })
  }

  function purgeQueue(filter: PurgeFilter): number {
    const keys = queue.matching(filter)
    for (const key of keys) enqueue(key, null)
    return keys.length
  }

  function schedule(): void {
    if (!open || closed) return
    flushTimer ??= clock.after(FLUSH_MS, () => {
      flushTimer = null
      const isUntidy = attempt(writeBatch, false)
      if (isUntidy || queue.size > 0) schedule()
    })
  }

  /** One transaction: the oldest of the queue, which answers were used, and a step of tidying; true when there is more of that. */
  function writeBatch({ file, answers }: Open): boolean {
    file.check()
    const wallMs = clock.wall()
    const batch = queue.batch(bounds.batchBytes)
    const uses = [...touched.entries().take(BATCH_USES)]
    let isUntidy = false
    transaction(file.db, () => {
      for (const [key, entry] of batch) {
        if (entry) answers.write(key, entry, wallMs)
        else answers.remove(key)
      }
      for (const [id, usedAt] of uses) answers.markUsed(id, usedAt)
      isUntidy = answers.tidy(wallMs)
      answers.saveCount()
    })
    queue.done(batch)
    for (const [id] of uses) touched.delete(id)
    return isUntidy || touched.size > 0
  }

  function sweep(): void {
    sweepTimer = clock.after(SWEEP_MS, sweep)
    attempt((now) => {
      records.sweep(clock.wall())
      writeBatch(now)
    }, null)
    if (!open) records.sweep(clock.wall())
    schedule()
  }

  // Up and down

  function attempt<T>(job: (now: Open) => T, otherwise: T): T {
    if (!open) return otherwise
    try {
      return job(open)
    } catch (error) {
      const because = troubleOf(error)
      detach()
      goDown(because)
      if (because === 'corrupt') setAside(path, clock.wall())
      return otherwise
    }
  }

  function start(): void {
    let because = attach()
    if (because === 'corrupt') {
      goDown(because)
      setAside(path, clock.wall())
      because = attach()
    }
    if (because === null) goUp()
    else goDown(because)
  }

  function attach(): DiskTrouble | null {
    let file: OpenFile | null = null
    try {
      // A volume that is smaller than the limit would be full again and again.
      bounds = boundsOf(Math.min(options.maxBytes, roomFor(path)))
      file = openFile(path, bounds.walPages)
      records.load(file.db, clock.wall())
      if (file.outdated) {
        // Answers of an earlier format are not worth a migration; records are carried over in memory.
        file.db.close()
        removeFile(path)
        file = openFile(path, bounds.walPages)
        records.load(file.db, clock.wall())
      }
      records.attach(file.db)
      open = {
        file,
        answers: createAnswers(file.db, bounds.pages, () => emit({ kind: 'cache-evicted', tier: 'disk' })),
      }
      catchUp(open)
      return null
    } catch (error) {
      detach()
      closeQuietly(file)
      return troubleOf(error)
    }
  }

  function catchUp(now: Open): void {
    const wallMs = clock.wall()
    transaction(now.file.db, () => {
      for (const filter of purges) now.answers.purge(filter, wallMs)
      now.answers.saveCount()
    })
    purges = []
    // Row ids of the file as it was.
    touched.clear()
    writeBatch(now)
  }

  function detach(): void {
    const file = open?.file ?? null
    open = null
    records.detach()
    flushTimer?.cancel()
    flushTimer = null
    closeQuietly(file)
  }

  function goUp(): void {
    if (outage) emit({ kind: 'disk-changed', to: 'up', because: outage })
    outage = null
    schedule()
  }

  function goDown(because: DiskTrouble): void {
    retryTimer?.cancel()
    retryTimer = clock.after(RETRY_MS, start)
    if (!outage) emit({ kind: 'disk-changed', to: 'down', because })
    outage ??= because
  }
}

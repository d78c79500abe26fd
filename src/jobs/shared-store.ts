/**
 * Jobs of all replicas, in the store they share. While that is away, this process knows what it has written itself, and nothing
 * else: an owner is unknown, as of a job that was submitted elsewhere, and no idempotency key can be claimed.
 *
 * What is written meanwhile is written there as soon as it is back, and gives way to what is there if it was written because nothing
 * was known. What a store that returns empty has lost is written again when it is asked for. What this process remembers
 * for all that is bounded; the oldest goes first.
 */
import type { Clock, DiskRecord, Timer } from '../ports.ts'
import type { SharedRecords } from './shared-records.ts'
import { createLocalJobStore, type JobStore, type Swap, type Written } from './store.ts'

export interface SharedJobStore extends JobStore {
  /** Writes no more of what could not be written. */
  close(): void
}

const RETRY_MS = 1_000
const MAX_OWN = 20_000
const BATCH = 100

export function createSharedJobStore(records: SharedRecords, clock: Clock, maxOwn = MAX_OWN): SharedJobStore {
  /** The newest of each record that this process has written, the oldest first. */
  const own = new Map<string, DiskRecord>()
  const local = createLocalJobStore({
    put: remember,
    secure: async () => true,
    get: ownValue,
    list: ownList,
    isRead: true,
    onRead() {},
  })
  /**
   * Names of those that are not there yet. Null = whatever is there is older; else only what is one of these texts, because it was
   * written where nothing was known.
   */
  const late = new Map<string, string[] | null>()
  /** Claims that may be in the store although the caller was told `away`. */
  const unsure = new Map<string, DiskRecord>()
  let retry: Timer | null = null
  let isClosed = false

  return { isShared: true, put, get, list, swap, claim, close }

  async function put(list: readonly DiskRecord[]): Promise<void> {
    remember(list)
    await send(list.filter((record) => !givesWay(record)))
  }

  async function get(space: string, key: string): Promise<Written | null> {
    if (late.has(nameOf(space, key))) return local.get(space, key)
    const said = await records.get(space, key)
    if (said.kind === 'away') return local.get(space, key)
    return said.value ?? restored(space, key)
  }

  async function list(space: string): Promise<readonly (readonly [string, unknown])[]> {
    const said = await records.list(space)
    if (said.kind === 'away') return [...ownList(space)]
    const all = new Map(said.value)
    for (const name of late.keys()) {
      const record = own.get(name)
      if (record?.space === space) all.set(record.key, record.value)
    }
    return [...all].filter(([, value]) => value !== null)
  }

  async function swap(record: DiskRecord, revision: string | null, others: readonly DiskRecord[] = []): Promise<Swap> {
    const { space, key } = record
    // What this process has not given back is there, also when the store has lost it.
    if (late.has(nameOf(space, key)) || (revision === null && ownValue(space, key) !== null)) {
      return swapHere(record, revision, others)
    }
    const said = await records.swap(record, revision, others)
    if (said.kind === 'away') return swapHere(record, revision, others)
    if (said.value.kind === 'written') acknowledge([record, ...others])
    return said.value
  }

  async function claim(
    record: DiskRecord,
    others: readonly DiskRecord[] = [],
  ): Promise<Swap | { readonly kind: 'away' }> {
    const { space, key } = record
    const name = nameOf(space, key)
    if (ownValue(space, key) !== null) return local.swap(record, null, others)
    const earlier = unsure.get(name)
    if (earlier && !(await withdraw(name, earlier))) return { kind: 'away' }
    const said = await records.swap(record, null, others)
    if (said.kind === 'away') {
      if (said.sent) unsure.set(name, record)
      again()
      return { kind: 'away' }
    }
    if (said.value.kind === 'written') acknowledge([record, ...others])
    return said.value
  }

  /** Deletes a claim that nobody relies on. False = the store is away. */
  async function withdraw(name: string, record: DiskRecord): Promise<boolean> {
    const there = await records.get(record.space, record.key)
    if (there.kind === 'away') return false
    const isOurs = JSON.stringify(there.value?.value) === JSON.stringify(record.value)
    const said = isOurs ? await records.swap({ ...record, value: null }, there.value?.revision ?? null) : there
    if (said.kind === 'away') return false
    if (unsure.get(name) === record) unsure.delete(name)
    return true
  }

  function acknowledge(list: readonly DiskRecord[]): void {
    remember(list)
    for (const one of list) settle(nameOf(one.space, one.key), one)
  }

  /** A revision of there is none of here: what was read there and can be written only here has not been changed here. */
  async function swapHere(record: DiskRecord, revision: string | null, others: readonly DiskRecord[]): Promise<Swap> {
    const { space, key, value } = record
    const mine = await local.get(space, key)
    const swapped = await local.swap(record, revision === null ? null : (mine?.revision ?? null), others)
    if (swapped.kind !== 'written') return swapped
    const name = nameOf(space, key)
    if (revision === null && !late.has(name)) late.set(name, [JSON.stringify(value)])
    await send([record, ...others].filter((one) => !givesWay(one)))
    again()
    return swapped
  }

  /** It waits for its turn, and whoever was first is right. */
  function givesWay({ space, key, value }: DiskRecord): boolean {
    const texts = late.get(nameOf(space, key))
    texts?.push(JSON.stringify(value))
    return Boolean(texts)
  }

  async function send(list: readonly DiskRecord[]): Promise<void> {
    if (list.length === 0) return
    const said = await records.put(list)
    for (const record of list) {
      const name = nameOf(record.space, record.key)
      // A newer one takes care of itself.
      if (own.get(name) !== record) continue
      if (said.kind === 'known') settle(name, record)
      else late.set(name, null)
    }
    again()
  }

  function settle(name: string, { value }: DiskRecord): void {
    late.delete(name)
    if (value === null) own.delete(name)
  }

  function again(): void {
    if (isClosed || late.size + unsure.size === 0) return
    retry ??= clock.after(RETRY_MS, () => {
      void catchUp().finally(() => {
        retry = null
        again()
      })
    })
  }

  async function catchUp(): Promise<void> {
    const waiting = [...late].slice(0, BATCH)
    const sure = waiting.filter(([, texts]) => texts === null)
    await send(sure.flatMap(([name]) => own.get(name) ?? []))
    for (const [name, texts] of waiting) if (texts && !(await offer(name, texts))) return
    for (const [name, record] of [...unsure].slice(0, BATCH)) if (!(await withdraw(name, record))) return
  }

  /** False = the store is away. */
  async function offer(name: string, texts: readonly string[]): Promise<boolean> {
    const record = own.get(name)
    if (!record) return late.delete(name)
    const said = await records.swap(record, null)
    if (said.kind === 'away') return false
    const there = said.value.kind === 'written' ? record : said.value.there
    const isOurs = there !== null && texts.includes(JSON.stringify(there.value))
    if (!isOurs) {
      late.delete(name)
      own.delete(name)
    } else if (said.value.kind === 'written' && own.get(name) === record) {
      settle(name, record)
    } else {
      late.set(name, null)
    }
    return true
  }

  function restored(space: string, key: string): Promise<Written | null> {
    if (ownValue(space, key) !== null) {
      late.set(nameOf(space, key), null)
      again()
    }
    return local.get(space, key)
  }

  function remember(list: readonly DiskRecord[]): void {
    for (const record of list) {
      const name = nameOf(record.space, record.key)
      own.delete(name)
      own.set(name, record)
    }
    for (const [name, record] of own) {
      if (own.size <= maxOwn && (isGood(record) || late.has(name))) break
      own.delete(name)
      late.delete(name)
    }
  }

  function ownValue(space: string, key: string): unknown {
    const record = own.get(nameOf(space, key))
    return record && isGood(record) ? record.value : null
  }

  function* ownList(space: string): Iterable<readonly [string, unknown]> {
    for (const record of own.values()) {
      if (record.space === space && record.value !== null && isGood(record)) yield [record.key, record.value]
    }
  }

  function isGood({ expiresAt }: DiskRecord): boolean {
    return expiresAt === null || expiresAt > clock.wall()
  }

  function close(): void {
    isClosed = true
    retry?.cancel()
  }
}

function nameOf(space: string, key: string): string {
  return `${space}/${key}`
}

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

class RedisJobStore implements SharedJobStore {
  readonly #records: SharedRecords
  readonly #clock: Clock
  readonly #maxOwn: number
  /** The newest of each record that this process has written, the oldest first. */
  readonly #own = new Map<string, DiskRecord>()
  readonly #local: JobStore
  /**
   * Names of those that are not there yet. Null = whatever is there is older; else only what is one of these texts, because it was
   * written where nothing was known.
   */
  readonly #late = new Map<string, string[] | null>()
  /** Claims that may be in the store although the caller was told `away`. */
  readonly #unsure = new Map<string, DiskRecord>()
  #retry: Timer | null = null
  #isClosed = false
  readonly isShared: SharedJobStore['isShared']

  constructor(records: SharedRecords, clock: Clock, maxOwn = MAX_OWN) {
    this.#records = records
    this.#clock = clock
    this.#maxOwn = maxOwn
    this.#local = createLocalJobStore({
      put: this.#remember,
      secure: async () => true,
      get: this.#ownValue,
      list: this.#ownList,
      isRead: true,
      onRead() {},
    })
    this.isShared = true
  }

  readonly put = async (list: readonly DiskRecord[]): Promise<void> => {
    this.#remember(list)
    await this.#send(list.filter((record) => !this.#givesWay(record)))
  }

  readonly get = async (space: string, key: string): Promise<Written | null> => {
    if (this.#late.has(nameOf(space, key))) return this.#local.get(space, key)
    const said = await this.#records.get(space, key)
    if (said.kind === 'away') return this.#local.get(space, key)
    return said.value ?? this.#restored(space, key)
  }

  readonly list = async (space: string): Promise<readonly (readonly [string, unknown])[]> => {
    const said = await this.#records.list(space)
    if (said.kind === 'away') return this.#ownList(space)
    const all = new Map(said.value)
    for (const name of this.#late.keys()) {
      const record = this.#own.get(name)
      if (record?.space === space) all.set(record.key, record.value)
    }
    return [...all].filter(([, value]) => value !== null)
  }

  readonly swap = async (
    record: DiskRecord,
    revision: string | null,
    others: readonly DiskRecord[] = [],
  ): Promise<Swap> => {
    const { space, key } = record
    // What this process has not given back is there, also when the store has lost it.
    if (this.#late.has(nameOf(space, key)) || (revision === null && this.#ownValue(space, key) !== null)) {
      return this.#swapHere(record, revision, others)
    }
    const said = await this.#records.swap(record, revision, others)
    if (said.kind === 'away') return this.#swapHere(record, revision, others)
    if (said.value.kind === 'written') this.#acknowledge([record, ...others])
    return said.value
  }

  readonly claim = async (
    record: DiskRecord,
    others: readonly DiskRecord[] = [],
  ): Promise<Swap | { readonly kind: 'away' }> => {
    const { space, key } = record
    const name = nameOf(space, key)
    if (this.#ownValue(space, key) !== null) return this.#local.swap(record, null, others)
    const earlier = this.#unsure.get(name)
    if (earlier && !(await this.#withdraw(name, earlier))) return { kind: 'away' }
    const said = await this.#records.swap(record, null, others)
    if (said.kind === 'away') {
      if (said.sent) this.#unsure.set(name, record)
      this.#again()
      return { kind: 'away' }
    }
    if (said.value.kind === 'written') this.#acknowledge([record, ...others])
    return said.value
  }

  readonly close = (): void => {
    this.#isClosed = true
    this.#retry?.cancel()
  }

  /** Deletes a claim that nobody relies on. False = the store is away. */
  async #withdraw(name: string, record: DiskRecord): Promise<boolean> {
    const there = await this.#records.get(record.space, record.key)
    if (there.kind === 'away') return false
    const isOurs = JSON.stringify(there.value?.value) === JSON.stringify(record.value)
    const said = isOurs ? await this.#records.swap({ ...record, value: null }, there.value?.revision ?? null) : there
    if (said.kind === 'away') return false
    if (this.#unsure.get(name) === record) this.#unsure.delete(name)
    return true
  }

  #acknowledge(list: readonly DiskRecord[]): void {
    this.#remember(list)
    for (const one of list) this.#settle(nameOf(one.space, one.key), one)
  }

  /** A revision of there is none of here: what was read there and can be written only here has not been changed here. */
  async #swapHere(record: DiskRecord, revision: string | null, others: readonly DiskRecord[]): Promise<Swap> {
    const { space, key, value } = record
    const mine = await this.#local.get(space, key)
    const swapped = await this.#local.swap(record, revision === null ? null : (mine?.revision ?? null), others)
    if (swapped.kind !== 'written') return swapped
    const name = nameOf(space, key)
    if (revision === null && !this.#late.has(name)) this.#late.set(name, [JSON.stringify(value)])
    await this.#send([record, ...others].filter((one) => !this.#givesWay(one)))
    this.#again()
    return swapped
  }

  /** It waits for its turn, and whoever was first is right. */
  #givesWay({ space, key, value }: DiskRecord): boolean {
    const texts = this.#late.get(nameOf(space, key))
    texts?.push(JSON.stringify(value))
    return Boolean(texts)
  }

  async #send(list: readonly DiskRecord[]): Promise<void> {
    if (list.length === 0) return
    const said = await this.#records.put(list)
    for (const record of list) {
      const name = nameOf(record.space, record.key)
      // A newer one takes care of itself.
      if (this.#own.get(name) !== record) continue
      if (said.kind === 'known') this.#settle(name, record)
      else this.#late.set(name, null)
    }
    this.#again()
  }

  #settle(name: string, { value }: DiskRecord): void {
    this.#late.delete(name)
    if (value === null) this.#own.delete(name)
  }

  #again(): void {
    if (this.#isClosed || this.#late.size + this.#unsure.size === 0) return
    this.#retry ??= this.#clock.after(RETRY_MS, () => {
      void this.#catchUp().finally(() => {
        this.#retry = null
        this.#again()
      })
    })
  }

  async #catchUp(): Promise<void> {
    const waiting = [...this.#late].slice(0, BATCH)
    const sure = waiting.filter(([, texts]) => texts === null)
    await this.#send(sure.flatMap(([name]) => this.#own.get(name) ?? []))
    for (const [name, texts] of waiting) if (texts && !(await this.#offer(name, texts))) return
    for (const [name, record] of [...this.#unsure].slice(0, BATCH)) if (!(await this.#withdraw(name, record))) return
  }

  /** False = the store is away. */
  async #offer(name: string, texts: readonly string[]): Promise<boolean> {
    const record = this.#own.get(name)
    if (!record) return this.#late.delete(name)
    const said = await this.#records.swap(record, null)
    if (said.kind === 'away') return false
    const there = said.value.kind === 'written' ? record : said.value.there
    const isOurs = there !== null && texts.includes(JSON.stringify(there.value))
    if (!isOurs) {
      this.#late.delete(name)
      this.#own.delete(name)
    } else if (said.value.kind === 'written' && this.#own.get(name) === record) {
      this.#settle(name, record)
    } else {
      this.#late.set(name, null)
    }
    return true
  }

  #restored(space: string, key: string): Promise<Written | null> {
    if (this.#ownValue(space, key) !== null) {
      this.#late.set(nameOf(space, key), null)
      this.#again()
    }
    return this.#local.get(space, key)
  }

  readonly #remember = (list: readonly DiskRecord[]): void => {
    for (const record of list) {
      const name = nameOf(record.space, record.key)
      this.#own.delete(name)
      this.#own.set(name, record)
    }
    for (const [name, record] of this.#own) {
      if (this.#own.size <= this.#maxOwn && (this.#isGood(record) || this.#late.has(name))) break
      this.#own.delete(name)
      this.#late.delete(name)
    }
  }

  readonly #ownValue = (space: string, key: string): unknown => {
    const record = this.#own.get(nameOf(space, key))
    return record && this.#isGood(record) ? record.value : null
  }

  readonly #ownList = (space: string): readonly (readonly [string, unknown])[] => {
    return [...this.#own.values()]
      .filter((record) => record.space === space && record.value !== null && this.#isGood(record))
      .map(({ key, value }) => [key, value] as const)
  }

  #isGood({ expiresAt }: DiskRecord): boolean {
    return expiresAt === null || expiresAt > this.#clock.wall()
  }
}

export function createSharedJobStore(records: SharedRecords, clock: Clock, maxOwn = MAX_OWN): SharedJobStore {
  return new RedisJobStore(records, clock, maxOwn)
}

function nameOf(space: string, key: string): string {
  return `${space}/${key}`
}

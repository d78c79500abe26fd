/**
 * What replicas tell each other about their memories: "there is a newer answer to this", "something was purged". Messages are
 * hints: anybody may forge them and any may be lost, so they only make a replica look again, and what memory holds is looked up
 * again after a short while without any message.
 */
import type { Entry } from '../model.ts'
import type { Clock, SharedStore } from '../ports.ts'

/** How long an entry in memory that is shared, too, is good without another look at the shared tier. */
export const MEMORY_TRUST_MS = 10_000

export interface CacheBus {
  /** This entry is what the shared tier holds now. */
  trust(entry: Entry): void
  /** No need to look for a newer one: looked up a moment ago, and no message can have been missed since. */
  isTrusted(entry: Entry): boolean
  close(): void
}

export interface CacheBusOptions {
  readonly channel: string
  /** Of this process: it does not listen to itself. */
  readonly id: string
  readonly onReplaced: (key: string, storedAt: number) => void
  readonly onPurged: () => void
  /** Messages may have been missed. */
  readonly onGap: () => void
}

export function replacedMessage(id: string, key: string, storedAt: number): string {
  return JSON.stringify([id, key, storedAt])
}

export function purgedMessage(id: string): string {
  return JSON.stringify([id])
}

export function createCacheBus(options: CacheBusOptions, store: SharedStore, clock: Clock): CacheBus {
  const trustedAt = new WeakMap<Entry, number>()
  let gapAt = Number.NEGATIVE_INFINITY
  const subscription = store.subscribe(options.channel, {
    onMessage,
    onSubscribed: () => {
      gapAt = clock.now()
      options.onGap()
    },
  })

  return {
    trust: (entry) => void trustedAt.set(entry, clock.now()),
    isTrusted(entry) {
      const at = trustedAt.get(entry)
      return at !== undefined && at > gapAt && clock.now() - at < MEMORY_TRUST_MS
    },
    close: () => subscription.close(),
  }

  function onMessage(message: string): void {
    const [from, key, storedAt] = partsOf(message)
    if (from === options.id) return
    if (typeof key === 'string' && typeof storedAt === 'number') options.onReplaced(key, storedAt)
    else if (typeof from === 'string') options.onPurged()
  }
}

function partsOf(message: string): readonly unknown[] {
  try {
    const parsed: unknown = JSON.parse(message)
    return Array.isArray(parsed) ? parsed : []
  } catch {
    return []
  }
}

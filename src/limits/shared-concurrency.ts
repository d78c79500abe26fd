/**
 * How many questions of a client may be open at a time, on all replicas together. Each replica says how many it has open, as a number that
 * replaces what it said before; the numbers of a replica that is gone are dropped when they stand in the way. While the store is away,
 * each replica grants its share.
 */
import { ProxyError } from '../errors.ts'
import { luaScript } from '../lua.ts'
import type { Client } from '../model.ts'
import type { Place } from '../fetch-parts.ts'
import type { SharedStore } from '../ports.ts'
import type { Session } from '../session.ts'
import { keyOf, shareOf } from './shares.ts'

export interface SharedConcurrencyLimits {
  /** Throws or rejects with CONCURRENCY_LIMITED. A client without a limit is counted all the same, without asking. */
  enter(client: Client): Place | Promise<Place>
  /** On this replica. */
  open(clientName: string): number
  close(): void
}

interface ConcurrencyPorts {
  readonly store: Pick<SharedStore, 'run'>
  readonly session: Session
}

/** Of one client on this replica. */
interface Permits {
  open: number
  /** Those that the other replicas must know of, and that are being asked for. */
  shared: number
  /** What the store has of them, as of its latest reply; null = not known. */
  told: number | null
  isTelling: boolean
}

const KEPT_MS = 60 * 60_000
/** Nobody knows when one of the open questions is answered. */
const RETRY_AFTER_MS = 1_000

const takeScript = luaScript('permits-take.lua', import.meta.url, 1)
const setScript = luaScript('permits-set.lua', import.meta.url, 1)

export function createSharedConcurrencyLimits({ store, session }: ConcurrencyPorts): SharedConcurrencyLimits {
  const clients = new Map<string, Permits>()
  const stopListening = session.onBeat(tellAll)

  function enter({ name, concurrency }: Client): Place | Promise<Place> {
    const permits = clients.get(name) ?? { open: 0, shared: 0, told: 0, isTelling: false }
    clients.set(name, permits)
    return concurrency === null ? granted(name, permits, false) : ask(name, permits, concurrency)
  }

  async function ask(name: string, permits: Permits, limit: number): Promise<Place> {
    const count = (permits.shared += 1)
    const said = await take(name, count, limit)
    // The share is of what is open here; this one is in `shared` already.
    const isGranted = said === 'away' ? permits.shared <= shareOf(limit, session.size()) : said
    if (said === 'away') permits.told = null
    else if (said) permits.told = count
    if (!isGranted) permits.shared -= 1
    // It may have counted others that were asked for at the same time, and that have been refused or have left since.
    tell(name, permits)
    if (isGranted) return granted(name, permits, true)
    throw new ProxyError(
      'CONCURRENCY_LIMITED',
      'This client has as many open requests as it may have. Wait until one is answered.',
      {
        retryAfterMs: RETRY_AFTER_MS,
      },
    )
  }

  async function take(name: string, count: number, limit: number): Promise<boolean | 'away'> {
    const said = await store.run(takeScript, [keyOf('permits', name)], [limit, session.id, count, KEPT_MS])
    if (said.kind === 'away' || !Array.isArray(said.value)) return 'away'
    const [isGranted, ...others] = said.value as readonly unknown[]
    if (isGranted === 1) return true
    const gone: string[] = []
    for (const other of others) if (await session.isLost(String(other))) gone.push(String(other))
    if (gone.length === 0) return false
    const again = await store.run(takeScript, [keyOf('permits', name)], [limit, session.id, count, KEPT_MS, ...gone])
    return again.kind === 'away' ? 'away' : Array.isArray(again.value) && again.value[0] === 1
  }

  function granted(name: string, permits: Permits, isShared: boolean): Place {
    let isLeft = false
    permits.open += 1
    return {
      leave() {
        if (isLeft) return
        isLeft = true
        permits.open -= 1
        if (!isShared) return
        permits.shared -= 1
        tell(name, permits)
      },
    }
  }

  /** One command at a time for each client: what changes meanwhile is in the next one. */
  function tell(name: string, permits: Permits): void {
    const { shared, told } = permits
    // Less than there are: then a reply is under way that brings the rest.
    if (permits.isTelling || (told !== null && told <= shared)) return
    permits.isTelling = true
    void store.run(setScript, [keyOf('permits', name)], [session.id, shared, KEPT_MS]).then((said) => {
      permits.isTelling = false
      permits.told = said.kind === 'known' ? shared : null
      if (said.kind === 'known') tell(name, permits)
    })
  }

  function tellAll(isNew: boolean): void {
    for (const [name, permits] of clients) {
      if (isNew && permits.shared > 0) permits.told = null
      tell(name, permits)
    }
  }

  return { enter, open: (clientName) => clients.get(clientName)?.open ?? 0, close: stopListening }
}

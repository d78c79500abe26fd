/**
 * How many questions of a client may be open at a time, on all replicas together. Each replica says how many it has open, as a number that
 * replaces what it said before; the numbers of a replica that is gone are dropped when they stand in the way. While the store is away,
 * each replica grants its share.
 *
 * Far from the limit (a quarter of it, at 20 or more) this takes no command of its own: the number goes along with the command of the rate
 * limit, with the request counted that may take a permit in a moment, and is at most a second late when it falls.
 */
import { ProxyError } from '../errors.ts'
import { luaScript } from '../lua.ts'
import type { Client } from '../model.ts'
import type { Place } from '../fetch-parts.ts'
import type { Clock, SharedStore, Timer } from '../ports.ts'
import type { Session } from '../session.ts'
import { keyOf, shareOf } from './shares.ts'

export interface SharedConcurrencyLimits {
  /** Throws or rejects with CONCURRENCY_LIMITED. A client without a limit is counted all the same, without asking. */
  enter(client: Client): Place | Promise<Place>
  /** To be asked for in a command about the same client, which may need a permit next. Null = it will ask by itself. */
  comeAlong(client: Client): ComingPermits | null
  /** On this replica. */
  open(clientName: string): number
  close(): void
}

/** For `rate.lua`. */
export interface ComingPermits {
  readonly key: string
  readonly args: readonly (string | number)[]
  /** Once; null = nobody knows whether they were granted. */
  ended(areGranted: boolean | null): void
}

interface ConcurrencyPorts {
  readonly store: Pick<SharedStore, 'run'>
  readonly clock: Clock
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
  /** In commands about them that have no reply yet. */
  readonly underWay: number[]
  /** Requests that may need a permit in a moment. */
  coming: number
  /** The limit was far off when the store was asked last. */
  isFar: boolean
  /** Says the number when nothing else does. */
  timer: Timer | null
}

const KEPT_MS = 60 * 60_000
const LATE_MS = 1_000
/** Of a smaller limit every single permit counts. */
const FEW = 20
/** Nobody knows when one of the open questions is answered. */
const RETRY_AFTER_MS = 1_000

const takeScript = luaScript('permits-take.lua', import.meta.url, 1)
const setScript = luaScript('permits-set.lua', import.meta.url, 1)

class SharedPermits implements SharedConcurrencyLimits {
  readonly #store: Pick<SharedStore, 'run'>
  readonly #session: Session
  readonly #clock: Clock
  readonly #clients = new Map<string, Permits>()
  readonly #stopListening: () => void

  constructor({ store, session, clock }: ConcurrencyPorts) {
    this.#store = store
    this.#session = session
    this.#clock = clock
    this.#stopListening = session.onBeat(this.#tellAll)
  }

  readonly enter = ({ name, concurrency }: Client): Place | Promise<Place> => {
    const permits = this.#permitsOf(name)
    if (concurrency === null) return this.#granted(name, permits, false)
    if (permits.shared >= Math.min(permits.told ?? 0, ...permits.underWay)) return this.#ask(name, permits, concurrency)
    permits.shared += 1
    return this.#granted(name, permits, true)
  }

  readonly comeAlong = ({ name, concurrency }: Client): ComingPermits | null => {
    if (concurrency === null || concurrency < FEW) return null
    const permits = this.#permitsOf(name)
    permits.coming += 1
    const count = permits.shared + permits.coming
    const isSaid = say(permits, count)
    return {
      key: keyOf('permits', name),
      args: [this.#session.id, count, concurrency, KEPT_MS],
      ended: (areGranted) => {
        permits.coming -= 1
        isSaid(areGranted)
        permits.isFar = areGranted ?? false
        this.#tellSoon(name, permits)
      },
    }
  }

  readonly open = (clientName: string): number => this.#clients.get(clientName)?.open ?? 0

  readonly close = (): void => {
    this.#stopListening()
    for (const { timer } of this.#clients.values()) timer?.cancel()
  }

  #permitsOf(name: string): Permits {
    const known = this.#clients.get(name)
    if (known) return known
    const counts = { open: 0, shared: 0, told: 0, underWay: [], coming: 0 }
    const made: Permits = { ...counts, isTelling: false, isFar: false, timer: null }
    this.#clients.set(name, made)
    return made
  }

  async #ask(name: string, permits: Permits, limit: number): Promise<Place> {
    permits.shared += 1
    const isSaid = say(permits, permits.shared)
    const taken = await this.#take(name, permits.shared, limit)
    isSaid(taken === 'away' ? null : taken)
    // The share is of what is open here; this one is in `shared` already.
    const isGranted = taken === 'away' ? permits.shared <= shareOf(limit, this.#session.size()) : taken
    if (!isGranted) permits.shared -= 1
    // It may have counted others that were asked for at the same time, and that have been refused or have left since.
    this.#tellSoon(name, permits)
    if (isGranted) return this.#granted(name, permits, true)
    throw new ProxyError(
      'CONCURRENCY_LIMITED',
      'This client has as many open requests as it may have. Wait until one is answered.',
      { retryAfterMs: RETRY_AFTER_MS },
    )
  }

  async #take(name: string, count: number, limit: number): Promise<boolean | 'away'> {
    const session = this.#session
    const args = [limit, session.id, count, KEPT_MS]
    const said = await this.#store.run(takeScript, [keyOf('permits', name)], args)
    if (said.kind === 'away' || !Array.isArray(said.value)) return 'away'
    const [isGranted, ...others] = said.value as readonly unknown[]
    if (isGranted === 1) return true
    const gone: string[] = []
    for (const other of others) if (await session.isLost(String(other))) gone.push(String(other))
    if (gone.length === 0) return false
    const again = await this.#store.run(takeScript, [keyOf('permits', name)], [...args, ...gone])
    return again.kind === 'away' ? 'away' : Array.isArray(again.value) && again.value[0] === 1
  }

  #granted(name: string, permits: Permits, isShared: boolean): Place {
    let isLeft = false
    permits.open += 1
    return {
      leave: () => {
        if (isLeft) return
        isLeft = true
        permits.open -= 1
        if (!isShared) return
        permits.shared -= 1
        this.#tellSoon(name, permits)
      },
    }
  }

  /** One command at a time for each client: what changes meanwhile is in the next one. */
  #tell(name: string, permits: Permits): void {
    const { shared, told } = permits
    // Less than there are: then a reply is under way that brings the rest.
    if (permits.isTelling || (told !== null && told <= shared)) return
    permits.isTelling = true
    const isSaid = say(permits, shared)
    const args = [this.#session.id, shared, KEPT_MS]
    void this.#store.run(setScript, [keyOf('permits', name)], args).then((said) => {
      permits.isTelling = false
      isSaid(said.kind === 'known' || null)
      if (said.kind === 'known') this.#tell(name, permits)
    })
  }

  /** Far from the limit the next command about the client may say it as well. */
  #tellSoon(name: string, permits: Permits): void {
    if (!permits.isFar) return this.#tell(name, permits)
    permits.timer ??= this.#clock.after(LATE_MS, () => {
      permits.timer = null
      this.#tell(name, permits)
    })
  }

  readonly #tellAll = (isNew: boolean): void => {
    for (const [name, permits] of this.#clients) {
      if (isNew && permits.shared > 0) permits.told = null
      this.#tell(name, permits)
    }
  }
}

/** A number is on its way. To be called when that has ended: it has arrived, it has not, or (null) nobody knows. */
function say(permits: Permits, count: number): (isTold: boolean | null) => void {
  permits.underWay.push(count)
  return (isTold) => {
    permits.underWay.splice(permits.underWay.indexOf(count), 1)
    if (isTold) permits.told = count
    else if (isTold === null) permits.told = null
  }
}

export function createSharedConcurrencyLimits(ports: ConcurrencyPorts): SharedConcurrencyLimits {
  return new SharedPermits(ports)
}

/**
 * What was purged from the shared tier: a short list of filters with numbers, in the store. Nothing is searched and deleted
 * there: each entry says how far the purges had come when it was stored, and one that a later purge meant is as good as gone.
 * Knows nothing of clocks: numbers count, not times, so that a replica with a wrong clock cannot bring an entry back.
 */
import type { Entry, PurgeFilter } from '../model.ts'
import type { Clock, Random, SharedScript, SharedStore } from '../ports.ts'
import type { PurgeMark } from './codec.ts'
import { matches } from './entry.ts'

export interface Purges {
  /** How far they have come, as far as is known here; asks the store where that is not fresh. Null = nobody can tell. */
  known(): Promise<PurgeMark | null>
  /** Judged by what is known: after `known`. Asks the store where the entry knows more. */
  isPurged(entry: Entry, mark: PurgeMark): Promise<boolean>
  /** What is known is out of date. */
  forget(): void
  /** Asks the store anew; false = it is away. */
  refresh(): Promise<boolean>
  /** False = the store is away: it has to be asked for again. */
  add(filter: PurgeFilter): Promise<boolean>
}

export interface PurgesOptions {
  readonly channelName: string
  readonly message: string
  /** Another replica has purged this. Called once for each. */
  readonly onPurged: (filter: PurgeFilter) => void
}

/** How long what is known may be old: as long as a purge elsewhere may go unnoticed when its message is lost. */
const FRESH_MS = 1_000
const MAX_PURGES = 64
const KEY = 'purges'

const heal = `local known = redis.call('TYPE', KEYS[1]).ok == 'hash' and redis.call('HMGET', KEYS[1], 'epoch', 'number')
if not (known and known[1] and known[2] and string.match(known[2], '^%d+$') and #known[2] < 16) then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'number', 0)
end
`
const readScript: SharedScript = {
  numberOfKeys: 1,
  replies: 'text',
  lua: `${heal}return redis.call('HGETALL', KEYS[1])`,
}
/** More than a list should hold are one: everything. */
const addScript: SharedScript = {
  numberOfKeys: 1,
  replies: 'text',
  lua: `${heal}local number = redis.call('HINCRBY', KEYS[1], 'number', 1)
local filter = ARGV[2]
if redis.call('HLEN', KEYS[1]) >= ${MAX_PURGES} + 2 then
  local epoch = redis.call('HGET', KEYS[1], 'epoch')
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'number', number)
  filter = '{}'
end
redis.call('HSET', KEYS[1], number, filter)
redis.call('PUBLISH', ARGV[3], ARGV[4])
return redis.call('HGETALL', KEYS[1])`,
}

interface Known {
  readonly mark: PurgeMark
  readonly filters: ReadonlyMap<number, PurgeFilter>
  readonly readAt: number
}

export function createPurges(options: PurgesOptions, store: SharedStore, clock: Clock, random: Random): Purges {
  let last: Known | null = null
  let isFresh = false
  let asking: Promise<boolean> | null = null

  return {
    async known() {
      if (last && isFresh && clock.now() - last.readAt < FRESH_MS) return last.mark
      // In a Cluster the list may be away alone; while it is, nothing can be purged, so what was known holds.
      const isThere = await refresh()
      return last && (isThere || isFresh) ? last.mark : null
    },
    isPurged,
    forget: () => void (isFresh = false),
    refresh,
    async add(filter) {
      const args = [random.id(), JSON.stringify(filter), options.channelName, options.message]
      const done = await store.run(addScript, [KEY], args)
      return done.kind === 'known' && learn(done.value)
    },
  }

  function refresh(): Promise<boolean> {
    asking ??= store.run(readScript, [KEY], [random.id()]).then((found) => {
      asking = null
      return found.kind === 'known' && learn(found.value)
    })
    return asking
  }

  function learn(reply: unknown): boolean {
    const now = knownOf(reply, clock.now())
    if (!now) return false
    const before = last
    last = now
    isFresh = true
    // After a restart the numbers begin anew: what they meant before was heard then.
    if (!before || before.mark.epoch !== now.mark.epoch) return true
    for (const [number, filter] of now.filters) if (number > before.mark.number) options.onPurged(filter)
    return true
  }

  async function isPurged(entry: Entry, mark: PurgeMark): Promise<boolean> {
    if (last?.mark.epoch !== mark.epoch || last.mark.number < mark.number) await refresh()
    if (!last || last.mark.epoch !== mark.epoch) return true
    for (const [number, filter] of last.filters) if (number > mark.number && matches(entry, filter)) return true
    return false
  }
}

/** From names and values in turn; null = that is no such list. */
function knownOf(reply: unknown, readAt: number): Known | null {
  if (!Array.isArray(reply)) return null
  const filters = new Map<number, PurgeFilter>()
  let epoch: string | null = null
  let number = 0
  for (let at = 0; at + 1 < reply.length; at += 2) {
    const [name, value] = [String(reply[at]), String(reply[at + 1])]
    if (name === 'epoch') epoch = value
    else if (name === 'number') number = Number(value)
    else if (/^\d+$/.test(name)) filters.set(Number(name), filterOf(value))
  }
  return epoch !== null && Number.isFinite(number) ? { mark: { epoch, number }, filters, readAt } : null
}

/** What cannot be read purges everything: better paid twice than shown again. */
function filterOf(json: string): PurgeFilter {
  try {
    const parsed: unknown = JSON.parse(json)
    if (typeof parsed !== 'object' || parsed === null) return {}
    const given = new Map(Object.entries(parsed))
    const text = (name: string): string | undefined => {
      const value: unknown = given.get(name)
      return typeof value === 'string' ? value : undefined
    }
    const before: unknown = given.get('storedBefore')
    return {
      scraper: text('scraper'),
      promptHash: text('promptHash'),
      country: text('country'),
      storedBefore: typeof before === 'number' ? before : undefined,
    }
  } catch {
    return {}
  }
}

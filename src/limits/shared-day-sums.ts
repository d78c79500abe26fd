/**
 * The day sums of all replicas, in the shared store: the figures of the report. Each session writes its own, as they are in all, and nobody
 * else writes them: what is written twice or again counts once. What a session that has ended could not write any more is known from the
 * books of credits, and counts as uncertain.
 */
import { ProxyError } from '../errors.ts'
import type { Clock, DiskRecord, DiskSum, SharedScript, SharedStore, Timer } from '../ports.ts'
import type { Session } from '../session.ts'
import { type DayRow, netOf, rowNamed, spaceOf, summed } from './day-sums.ts'
import { countersOf, sessionOf } from './shared-run.ts'
import { keyOf } from './shares.ts'

export interface SharedDaySums {
  put(sums: readonly (DiskRecord | DiskSum)[]): void
  /** `clients`: whose books are looked at. Rejects with STORE_UNAVAILABLE. */
  rowsOf(month: string, clients: readonly string[]): Promise<readonly DayRow[]>
  close(): Promise<void>
}

interface DaySumPorts {
  readonly store: Pick<SharedStore, 'run'>
  readonly clock: Clock
  readonly session: Pick<Session, 'id' | 'fateOf' | 'onBeat'>
}

const SOON_MS = 1_000
/** A script holds up everybody else: more goes in pieces. */
const MAX_ROWS = 200
const KEPT_MS = 400 * 86_400_000
const RETRY_AFTER_MS = 5_000

/** KEYS: the rows of a month. ARGV: how long they are kept (ms); then `session/name` and the figures of each. */
const writeScript: SharedScript = {
  numberOfKeys: 1,
  replies: 'text',
  lua: `for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1`,
}
const readScript: SharedScript = { numberOfKeys: 1, replies: 'text', lua: `return redis.call('HGETALL', KEYS[1])` }

class RedisDaySums implements SharedDaySums {
  readonly #store: Pick<SharedStore, 'run'>
  readonly #clock: Clock
  readonly #session: DaySumPorts['session']
  /** Of this session, by month and name. */
  readonly #months = new Map<string, Map<string, Record<string, number>>>()
  /** What the store may not know. */
  readonly #dirty = new Map<string, Set<string>>()
  readonly #stopListening: () => void
  #timer: Timer | null = null

  constructor({ store, clock, session }: DaySumPorts) {
    this.#store = store
    this.#clock = clock
    this.#session = session
    this.#stopListening = session.onBeat((isNew) => {
      if (isNew) for (const [space, rows] of this.#months) this.#dirty.set(space, new Set(rows.keys()))
      if (this.#dirty.size > 0) void this.#flush()
    })
  }

  readonly put = (sums: readonly (DiskRecord | DiskSum)[]): void => {
    for (const sum of sums) {
      if (!('add' in sum)) continue
      const { space, key, add } = sum
      const rows = this.#months.get(space) ?? this.#begin(space)
      const row = rows.get(key) ?? {}
      rows.set(key, row)
      for (const [name, by] of Object.entries(add)) row[name] = (row[name] ?? 0) + by
      this.#dirty.set(space, (this.#dirty.get(space) ?? new Set()).add(key))
    }
    this.#timer ??= this.#clock.after(SOON_MS, () => void this.#flush())
  }

  readonly rowsOf: SharedDaySums['rowsOf'] = async (month, clients) => {
    await this.#flush()
    const rows: DayRow[] = []
    /** Credits by session and client. */
    const written = new Map<string, number>()
    for (const [name, json] of await this.#read(spaceOf(month))) {
      const [session = ''] = name.split('/')
      const row = rowNamed(name.slice(session.length + 1), parsed(json))
      rows.push(row)
      written.set(`${session}/${row.client}`, (written.get(`${session}/${row.client}`) ?? 0) + netOf(row))
    }
    for (const client of new Set([...clients, ...rows.map((row) => row.client)])) {
      for (const [session, { day, credits }] of this.#ended(await this.#read(keyOf(`credits:${month}`, client)))) {
        const uncertain = credits - (written.get(`${session}/${client}`) ?? 0)
        if (uncertain > 0) rows.push(rowNamed(`${day}/${client}/none/none`, { uncertain }))
      }
    }
    return summed(rows)
  }

  readonly close = async (): Promise<void> => {
    this.#stopListening()
    this.#timer?.cancel()
    await this.#flush()
  }

  /** What was spent last month may still be given back. */
  #begin(space: string): Map<string, Record<string, number>> {
    const [oldest] = [...this.#months.keys()].toSorted()
    if (this.#months.size > 1 && oldest !== undefined) this.#months.delete(oldest)
    const made = new Map<string, Record<string, number>>()
    this.#months.set(space, made)
    return made
  }

  async #flush(): Promise<void> {
    this.#timer?.cancel()
    this.#timer = null
    for (const [space, dirty] of this.#dirty) {
      const names = [...dirty].slice(0, MAX_ROWS)
      for (const name of names) dirty.delete(name)
      if (dirty.size === 0) this.#dirty.delete(space)
      const rows = names.flatMap((name) => {
        const row = this.#months.get(space)?.get(name)
        return row ? [`${this.#session.id}/${name}`, JSON.stringify(row)] : []
      })
      const said = await this.#store.run(writeScript, [space], [KEPT_MS, ...rows])
      // With the next sign of life.
      if (said.kind === 'away')
        return void this.#dirty.set(space, new Set([...(this.#dirty.get(space) ?? []), ...names]))
    }
    if (this.#dirty.size > 0) await this.#flush()
  }

  async #read(key: string): Promise<readonly (readonly [field: string, value: string])[]> {
    const said = await this.#store.run(readScript, [key], [])
    if (said.kind === 'known' && Array.isArray(said.value)) {
      const flat = said.value.map(String)
      return flat.flatMap((field, at) => (at % 2 === 0 ? [[field, flat[at + 1] ?? ''] as const] : []))
    }
    const detail = 'Redis is unavailable, and the report is kept there. Retry later.'
    throw new ProxyError('STORE_UNAVAILABLE', detail, { retryAfterMs: RETRY_AFTER_MS })
  }

  /** What sessions that have ended have spent in all, and on which day last. */
  #ended(book: readonly (readonly [run: string, record: string])[]) {
    const sessions = new Map<string, { readonly day: string; readonly credits: number }>()
    for (const [run, record] of book.toSorted(([a], [b]) => (a < b ? -1 : 1))) {
      const session = sessionOf(run)
      if (run[10] !== '/' || session === this.#session.id || this.#session.fateOf(session) === 'alive') continue
      const [, , spent, , , refunded] = countersOf(record)
      const credits = (sessions.get(session)?.credits ?? 0) + spent - refunded
      sessions.set(session, { day: run.slice(0, 10), credits })
    }
    return sessions
  }
}

function parsed(json: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(json)
    return typeof value === 'object' && value !== null ? { ...value } : {}
  } catch {
    return {}
  }
}

export function createSharedDaySums(ports: DaySumPorts): SharedDaySums {
  return new RedisDaySums(ports)
}

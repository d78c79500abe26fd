/**
 * Records like those on the disk, for all replicas: small JSON values under names, all or nothing, each until it expires. Asked over
 * the network, so everything takes a moment and may be away. A record has a revision, and can be written on the condition that
 * nobody else has written it meanwhile: so of many replicas one gets an idempotency key. All are in one slot of a cluster.
 */
import type { Clock, DiskRecord, Shared, SharedScript, SharedStore } from '../ports.ts'

export interface SharedRecords {
  /** All or nothing, whatever was there. */
  put(records: readonly DiskRecord[]): Promise<Shared<null>>
  get(space: string, key: string): Promise<Shared<Revised | null>>
  /** In no order; what is written meanwhile may be missing. */
  list(space: string): Promise<Shared<readonly (readonly [key: string, value: unknown])[]>>
  /**
   * Writes the first record and the others, if the first is still of this revision (null = is not there). Where this very
   * record is there already, it was written before, and only the reply was lost.
   */
  swap(record: DiskRecord, revision: string | null, others?: readonly DiskRecord[]): Promise<Shared<Swapped>>
}

export interface Revised {
  readonly value: unknown
  /** Never the same again. */
  readonly revision: string
}

export type Swapped = { readonly kind: 'written' } | { readonly kind: 'other'; readonly there: Revised | null }

const KEYS = ['records:{jobs}', 'records:{jobs}:due']
const PAGE = 100
const NOT_THERE = '0'

const common = `local time = redis.call('TIME')
local nowUs = time[1] * 1000000 + time[2]
local now = math.floor(nowUs / 1000)
local function read(field)
  local dueAt = redis.call('ZSCORE', KEYS[2], field)
  if dueAt and tonumber(dueAt) <= now then return false end
  return redis.call('HGET', KEYS[1], field)
end
`

/**
 * KEYS: records, when they expire. ARGV: revision of the first record (0 = is not there, '' = whatever it is), then per record: field,
 * text ('' deletes it), ttl (0 = none). Reply: nil when written, else what is there instead ('' = nothing).
 */
const writeScript: SharedScript = {
  numberOfKeys: 2,
  replies: 'text',
  lua: `${common}local there = read(ARGV[2])
local revision = there and string.match(there, '^%d+') or '0'
if ARGV[1] ~= '' and ARGV[1] ~= revision then
  if there and string.sub(there, #revision + 2) == ARGV[3] then return false end
  return there or ''
end
for _, field in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100)) do
  redis.call('HDEL', KEYS[1], field)
  redis.call('ZREM', KEYS[2], field)
end
for i = 2, #ARGV, 3 do
  local field, text, ttl = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  if text == '' then redis.call('HDEL', KEYS[1], field)
  else redis.call('HSET', KEYS[1], field, string.format('%.0f ', math.max(nowUs, tonumber(revision) + 1)) .. text) end
  if text == '' or ttl == 0 then redis.call('ZREM', KEYS[2], field)
  else redis.call('ZADD', KEYS[2], now + ttl, field) end
end
return false
`,
}

/** KEYS: as above. ARGV: field. Reply: what is there. */
const readScript: SharedScript = { numberOfKeys: 2, replies: 'text', lua: `${common}return read(ARGV[1])` }

/** KEYS: as above. ARGV: cursor, pattern of fields, how many at a time. Reply: the next cursor, fields and texts in turns. */
const scanScript: SharedScript = {
  numberOfKeys: 2,
  replies: 'text',
  lua: `${common}local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local found = { page[1] }
for i = 1, #page[2], 2 do
  local text = read(page[2][i])
  if text then
    table.insert(found, page[2][i])
    table.insert(found, text)
  end
end
return found
`,
}

export function createSharedRecords(store: SharedStore, clock: Clock): SharedRecords {
  return { put, get, list, swap }

  async function put(records: readonly DiskRecord[]): Promise<Shared<null>> {
    if (records.length === 0) return { kind: 'known', value: null }
    const reply = await store.run(writeScript, KEYS, ['', ...records.flatMap(argumentsOf)])
    return reply.kind === 'away' ? reply : { kind: 'known', value: null }
  }

  async function get(space: string, key: string): Promise<Shared<Revised | null>> {
    const reply = await store.run(readScript, KEYS, [fieldOf(space, key)])
    return reply.kind === 'away' ? reply : { kind: 'known', value: revised(reply.value) }
  }

  async function list(space: string): Promise<Shared<readonly (readonly [string, unknown])[]>> {
    const pattern = `${space.replaceAll(/[*?[\]\\]/g, String.raw`\$&`)}/*`
    const found = new Map<string, unknown>()
    let cursor = '0'
    do {
      const reply = await store.run(scanScript, KEYS, [cursor, pattern, PAGE])
      if (reply.kind === 'away') return reply
      const [next = '0', ...page] = Array.isArray(reply.value) ? reply.value.map(String) : []
      for (let at = 0; at < page.length; at += 2) {
        const one = revised(page[at + 1])
        if (one) found.set((page[at] ?? '').slice(space.length + 1), one.value)
      }
      cursor = next
    } while (cursor !== '0')
    return { kind: 'known', value: [...found] }
  }

  async function swap(
    record: DiskRecord,
    revision: string | null,
    others: readonly DiskRecord[] = [],
  ): Promise<Shared<Swapped>> {
    const records = [record, ...others].flatMap(argumentsOf)
    const reply = await store.run(writeScript, KEYS, [revision ?? NOT_THERE, ...records])
    if (reply.kind === 'away') return reply
    if (reply.value === null) return { kind: 'known', value: { kind: 'written' } }
    return { kind: 'known', value: { kind: 'other', there: revised(reply.value) } }
  }

  function argumentsOf({ space, key, value, expiresAt }: DiskRecord): readonly (string | number)[] {
    const ttlMs = expiresAt === null ? 0 : Math.ceil(expiresAt - clock.wall())
    const isGone = value === null || (expiresAt !== null && ttlMs <= 0)
    return [fieldOf(space, key), isGone ? '' : JSON.stringify(value), isGone ? 0 : ttlMs]
  }
}

function fieldOf(space: string, key: string): string {
  return `${space}/${key}`
}

/** Null = nothing, or nothing of ours. */
function revised(text: unknown): Revised | null {
  if (typeof text !== 'string') return null
  const [, revision, json] = /^(\d+) ([\s\S]+)$/.exec(text) ?? []
  if (revision === undefined || json === undefined) return null
  try {
    return { value: JSON.parse(json), revision }
  } catch {
    return null
  }
}

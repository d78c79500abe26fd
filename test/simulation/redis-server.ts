/**
 * A Redis in memory, with the commands that our scripts and our client use, and its own clock. One command, or one script, is one step.
 * It can lose its latest writes, as a failover does, or everything. That it answers as the real one does is shown by
 * `redis-server.test.ts`.
 */
import { createHash } from 'node:crypto'
import { compileLua, formatNumber, LuaError, LuaTable, type LuaValue, type Script, withField } from './lua.ts'

/** Texts are byte strings. */
export type Reply = null | number | string | { readonly ok: string } | readonly Reply[]

type Value =
  | { readonly type: 'string'; text: string }
  | { readonly type: 'hash'; readonly fields: Map<string, string> }
  | { readonly type: 'zset'; readonly scores: Map<string, number> }

export type Kept = Value & { dueAt: number | null }

export interface RedisServer {
  /** Throws a ReplyError. May be replaced by whoever listens in. */
  command: (name: string, args: readonly string[]) => Reply
  /** So many of the latest steps have never happened, as after a failover to a replica that lagged behind. */
  loseLast(steps: number): void
  /** It was restarted and has kept nothing. */
  forgetAll(): void
  onPublish: (channel: string, message: string) => void
  /** Told of each key that a step is about to write, with what it was. For those who watch over it. */
  onWrite: (key: string, before: string | null, after: string | null) => void
  readonly keys: () => string[]
  /** For those who watch over it. */
  read(key: string): Kept | null
}

export class ReplyError extends Error {
  override readonly name = 'ReplyError'
}

const MOST_REMEMBERED_STEPS = 256
const scripts = new Map<string, Script>()
const digests = new Map<string, string>()

/** `timeUs`: whole microseconds. `remembers` steps, so that it can lose them. */
export function createRedisServer(timeUs: () => number, remembers = false): RedisServer {
  let space = new Map<string, Kept>()
  let loaded = new Map<string, Script>()
  let journal: Map<string, Kept | null>[] = []
  /** Each server has an id of its own, also one that is started again. */
  let runs = 1
  let step: Map<string, Kept | null> | null = null
  const commands: Readonly<Record<string, (args: readonly string[]) => Reply>> = {
    info: () => `# Server\r\nrun_id:${String(runs).padStart(40, '0')}\r\n`,
    time: () => [`${Math.floor(timeUs() / 1e6)}`, `${timeUs() % 1e6}`],
    get: ([key = '']) => find(key, 'string')?.text ?? null,
    set: ([key = '', text = '', px = '', ms = '']) => {
      const dueAt = px === '' ? null : nowMs() + wholeNumber(ms)
      if (px !== '' && px.toLowerCase() !== 'px') throw new ReplyError('ERR syntax error')
      if (px !== '' && wholeNumber(ms) <= 0) throw new ReplyError("ERR invalid expire time in 'set' command")
      const before = peek(key)
      if (server.onWrite !== quiet) server.onWrite(key, before?.type === 'string' ? before.text : null, text)
      touch(key)
      space.set(key, { type: 'string', text, dueAt })
      return { ok: 'OK' }
    },
    getrange: ([key = '', from = '', to = '']) => {
      const text = find(key, 'string')?.text ?? ''
      return text.slice(wholeNumber(from), wholeNumber(to) + 1)
    },
    del: (keys) => keys.filter((key) => remove(key)).length,
    unlink: (keys) => keys.filter((key) => remove(key)).length,
    type: ([key = '']) => ({ ok: peek(key)?.type ?? 'none' }),
    pttl: ([key = '']) => {
      const kept = peek(key)
      if (!kept) return -2
      return kept.dueAt === null ? -1 : kept.dueAt - nowMs()
    },
    pexpire: ([key = '', ms = '']) => {
      const kept = peek(key)
      const leftMs = wholeNumber(ms)
      if (!kept) return 0
      touch(key)
      if (leftMs <= 0) space.delete(key)
      else kept.dueAt = nowMs() + leftMs
      return 1
    },
    hget: ([key = '', field = '']) => find(key, 'hash')?.fields.get(field) ?? null,
    hmget: ([key = '', ...fields]) => {
      const hash = find(key, 'hash')
      return fields.map((field) => hash?.fields.get(field) ?? null)
    },
    hgetall: ([key = '']) => [...(find(key, 'hash')?.fields ?? [])].flat(),
    hkeys: ([key = '']) => [...(find(key, 'hash')?.fields.keys() ?? [])],
    hlen: ([key = '']) => find(key, 'hash')?.fields.size ?? 0,
    hset: ([key = '', ...pairs]) => {
      const { fields } = made(key, 'hash')
      let added = 0
      for (let at = 0; at < pairs.length; at += 2) {
        const [field = '', text = ''] = [pairs[at], pairs[at + 1]]
        if (!fields.has(field)) added += 1
        fields.set(field, text)
      }
      return added
    },
    hdel: ([key = '', ...names]) => {
      const hash = find(key, 'hash')
      if (!hash) return 0
      touch(key)
      const gone = names.filter((name) => hash.fields.delete(name)).length
      if (hash.fields.size === 0) space.delete(key)
      return gone
    },
    hincrby: ([key = '', field = '', by = '']) => {
      const { fields } = made(key, 'hash')
      const text = fields.get(field) ?? '0'
      if (!/^-?\d+$/.test(text)) throw new ReplyError('ERR hash value is not an integer')
      const next = Number(text) + wholeNumber(by)
      fields.set(field, `${next}`)
      return next
    },
    hscan: ([key = '', , , pattern = '*']) => {
      const matches = globOf(pattern)
      return ['0', [...(find(key, 'hash')?.fields ?? [])].filter(([field]) => matches.test(field)).flat()]
    },
    zadd: ([key = '', ...pairs]) => {
      const { scores } = made(key, 'zset')
      let added = 0
      for (let at = 0; at < pairs.length; at += 2) {
        const [score, member = ''] = [float(pairs[at] ?? ''), pairs[at + 1]]
        if (!scores.has(member)) added += 1
        scores.set(member, score)
      }
      return added
    },
    zrem: ([key = '', ...members]) => zremove(key, members),
    zscore: ([key = '', member = '']) => {
      const score = find(key, 'zset')?.scores.get(member)
      return score === undefined ? null : formatNumber(score, 17)
    },
    zcard: ([key = '']) => find(key, 'zset')?.scores.size ?? 0,
    zrangebyscore: ([key = '', from = '', to = '', limit = '', offset = '0', count = '0']) => {
      const all = between(key, from, to)
      return limit === '' ? all : all.slice(wholeNumber(offset)).slice(0, wholeNumber(count))
    },
    zremrangebyscore: ([key = '', from = '', to = '']) => zremove(key, between(key, from, to)),
    publish: ([channel = '', message = '']) => {
      server.onPublish(channel, message)
      return 0
    },
    eval: ([lua = '', count = '', ...rest]) => {
      const digest = digestOf(lua)
      let script = scripts.get(digest)
      if (!script) scripts.set(digest, (script = compileLua(lua)))
      loaded.set(digest, script)
      return run(script, count, rest)
    },
    evalsha: ([digest = '', count = '', ...rest]) => {
      const script = loaded.get(digest)
      if (!script) throw new ReplyError('NOSCRIPT No matching script. Please use EVAL.')
      return run(script, count, rest)
    },
  }

  const server: RedisServer = {
    command(name, args) {
      step = remembers ? new Map() : null
      try {
        return commandNamed(name)(args)
      } finally {
        if (step && step.size > 0) journal.push(step)
        if (journal.length > 2 * MOST_REMEMBERED_STEPS) journal = journal.slice(-MOST_REMEMBERED_STEPS)
        step = null
      }
    },
    loseLast(steps) {
      runs += 1
      for (const lost of journal.splice(Math.max(0, journal.length - steps)).toReversed()) {
        for (const [key, before] of lost) {
          if (before) space.set(key, before)
          else space.delete(key)
        }
      }
    },
    forgetAll() {
      runs += 1
      space = new Map()
      loaded = new Map()
      journal = []
    },
    onPublish: () => {},
    onWrite: quiet,
    keys: () => [...space.keys()].filter((key) => peek(key)),
    read: peek,
  }
  return server

  function commandNamed(name: string): (args: readonly string[]) => Reply {
    const command = commands[name.toLowerCase()]
    if (!command) throw new ReplyError(`ERR unknown command '${name}'`)
    return command
  }

  function run(script: Script, count: string, rest: readonly string[]): Reply {
    const keys = rest.slice(0, Number(count))
    try {
      return replyOf(script(callFromLua, keys, rest.slice(keys.length)))
    } catch (error) {
      if (error instanceof LuaError) throw new ReplyError(error.message)
      throw error
    }
  }

  function callFromLua([name = '', ...args]: readonly string[]): LuaValue {
    try {
      return luaOf(commandNamed(name)(args))
    } catch (error) {
      throw error instanceof ReplyError ? new LuaError(error.message) : error
    }
  }

  // Keys

  function nowMs(): number {
    return Math.floor(timeUs() / 1000)
  }

  function peek(key: string): Kept | null {
    const kept = space.get(key)
    if (!kept) return null
    if (kept.dueAt === null || kept.dueAt > nowMs()) return kept
    space.delete(key)
    return null
  }

  function find<T extends Value['type']>(key: string, type: T): Extract<Kept, { type: T }> | null {
    const kept = peek(key)
    if (!kept) return null
    if (kept.type !== type) throw new ReplyError('WRONGTYPE Operation against a key holding the wrong kind of value')
    return kept as Extract<Kept, { type: T }>
  }

  function made<T extends 'hash' | 'zset'>(key: string, type: T): Extract<Kept, { type: T }> {
    const known = find(key, type)
    touch(key)
    if (known) return known
    const value: Kept =
      type === 'hash'
        ? { type: 'hash', fields: new Map(), dueAt: null }
        : { type: 'zset', scores: new Map(), dueAt: null }
    space.set(key, value)
    return value as Extract<Kept, { type: T }>
  }

  /** It is going to be changed. */
  function touch(key: string): void {
    if (!step || step.has(key)) return
    const kept = space.get(key)
    step.set(key, kept ? copyOf(kept) : null)
  }

  function remove(key: string): boolean {
    const isThere = peek(key) !== null
    touch(key)
    space.delete(key)
    return isThere
  }

  function zremove(key: string, members: readonly string[]): number {
    const set = find(key, 'zset')
    if (!set) return 0
    touch(key)
    const gone = members.filter((member) => set.scores.delete(member)).length
    if (set.scores.size === 0) space.delete(key)
    return gone
  }

  function between(key: string, from: string, to: string): string[] {
    const [least, most] = [float(from), float(to)]
    return [...(find(key, 'zset')?.scores ?? [])]
      .filter(([, score]) => score >= least && score <= most)
      .toSorted(([a, x], [b, y]) => x - y || (a < b ? -1 : 1))
      .map(([member]) => member)
  }
}

function quiet(): void {}

export function digestOf(lua: string): string {
  const known = digests.get(lua)
  if (known !== undefined) return known
  const digest = createHash('sha1').update(Buffer.from(lua, 'latin1')).digest('hex')
  digests.set(lua, digest)
  return digest
}

function copyOf(kept: Kept): Kept {
  if (kept.type === 'hash') return { ...kept, fields: new Map(kept.fields) }
  return kept.type === 'zset' ? { ...kept, scores: new Map(kept.scores) } : { ...kept }
}

function wholeNumber(text: string): number {
  if (!/^-?\d+$/.test(text)) throw new ReplyError('ERR value is not an integer or out of range')
  return Number(text)
}

function float(text: string): number {
  if (text === '-inf') return Number.NEGATIVE_INFINITY
  if (text === '+inf' || text === 'inf') return Number.POSITIVE_INFINITY
  const value = Number(text)
  if (text === '' || Number.isNaN(value)) throw new ReplyError('ERR value is not a valid float')
  return value
}

function globOf(pattern: string): RegExp {
  const source = pattern.replaceAll(/\\(.)|[*?]|[.+^${}()|[\]\\/]/g, (found, escaped: string | undefined) => {
    if (escaped !== undefined) return escaped.replaceAll(/\W/g, String.raw`\$&`)
    return found === '*' ? '[^]*' : found === '?' ? '[^]' : `\\${found}`
  })
  return new RegExp(`^${source}$`)
}

function luaOf(reply: Reply): LuaValue {
  if (reply === null) return false
  if (typeof reply === 'object') return 'ok' in reply ? withField('ok', reply.ok) : new LuaTable(reply.map(luaOf))
  return reply
}

function replyOf(value: LuaValue): Reply {
  if (value === undefined || value === false) return null
  if (value === true) return 1
  if (typeof value === 'number') return Math.trunc(value)
  if (typeof value === 'string') return value
  if (!(value instanceof LuaTable)) return null
  const error = value.fields.get('err')
  if (typeof error === 'string') throw new ReplyError(error)
  const ok = value.fields.get('ok')
  if (typeof ok === 'string') return { ok }
  const end = value.list.indexOf(undefined)
  return (end < 0 ? value.list : value.list.slice(0, end)).map(replyOf)
}

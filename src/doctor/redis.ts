/**
 * Looks at Redis as the proxy will use it: is it there, how fast, which version, may we do what our scripts do, and is it set up so that what is
 * counted in it stays. Writes a few keys of its own, and takes them away again.
 */
import { createHash, randomUUID } from 'node:crypto'
import { performance } from 'node:perf_hooks'
import type { SharedOptions } from '../ports.ts'
import { createRedisClient, type RedisClient } from '../world/redis-client.ts'
import { failureOf } from '../world/redis-failure.ts'
import { fine, finding, type Finding } from './finding.ts'

const PATIENCE_MS = 5_000
const ROUNDS = 9
/** Tested with 7.0; what is used came with 6.2. */
const OLDEST_VERSION = 6.2

/** Each command that a script of ours uses, once, on keys that are not there. Says which of them fail. */
export const everyCommand = `
  local refused = {}
  local function try(...)
    local reply = redis.pcall(...)
    if type(reply) == 'table' and reply.err then refused[#refused + 1] = (...) end
  end
  local text, map, set = KEYS[1], KEYS[2], KEYS[3]
  try('SET', text, 'x', 'PX', 5000) try('GET', text) try('GETRANGE', text, 0, 1) try('TYPE', text) try('PTTL', text)
  try('HSET', map, 'a', 1) try('HGET', map, 'a') try('HMGET', map, 'a') try('HGETALL', map) try('HINCRBY', map, 'a', 1)
  try('HLEN', map) try('HSCAN', map, 0) try('HDEL', map, 'b') try('PEXPIRE', map, 5000)
  try('ZADD', set, 1, 'a') try('ZSCORE', set, 'a') try('ZRANGEBYSCORE', set, 0, 1) try('ZREM', set, 'b')
  try('PEXPIRE', set, 5000) try('TIME') try('INFO', 'server') try('PUBLISH', ARGV[1], '')
  try('DEL', text, map, set)
  return refused
`

export async function examineRedis(options: SharedOptions): Promise<Finding[]> {
  const connection = await connected(options)
  if (connection.kind === 'failed') return [connection.finding]
  const { client } = connection
  try {
    const info = await infoOf(client)
    return [
      aboutServer(options, info, await latencyMs(client, options)),
      await aboutCommands(client, options),
      await aboutChannels(client, options),
      ...(info === null ? [] : [aboutMemory(info), aboutPersistence(info)]),
    ]
  } catch (error) {
    const text = `broke off (${failureOf(error).because})`
    return [finding('fail', 'redis', text, 'look at its log, and at the network between')]
  } finally {
    client.close()
  }
}

type Connection =
  | { readonly kind: 'open'; readonly client: RedisClient }
  | { readonly kind: 'failed'; readonly finding: Finding }

function connected(options: SharedOptions): Promise<Connection> {
  return new Promise((resolve) => {
    let because = 'timeout'
    const patience = { silenceMs: PATIENCE_MS, pauseMs: () => 200, mayMove: () => false }
    const client = createRedisClient(options, patience, {
      ready: () => {
        clearTimeout(timer)
        resolve({ kind: 'open', client })
      },
      lost: () => undefined,
      failed: (error) => (because = failureOf(error).because),
    })
    const timer = setTimeout(() => {
      client.close()
      const text = `no connection to ${placeOf(options)} (${because})`
      resolve({ kind: 'failed', finding: finding('fail', 'redis', text, connectionAdvice(because)) })
    }, PATIENCE_MS)
  })
}

function connectionAdvice(because: string): string {
  if (because === 'auth') return 'check redis.username and redis.password'
  if (because === 'loading') return 'it reads its data from the disk: try again later'
  return 'check the address under redis, that it runs, and that this machine may connect to it'
}

function placeOf({ place }: SharedOptions): string {
  if (place.kind === 'sentinel') return `the Sentinels of ${place.name}`
  if (place.kind === 'cluster') return 'the cluster'
  return new URL(place.url).host
}

type Info = ReadonlyMap<string, string>

/** Null = we may not ask. */
async function infoOf(client: RedisClient): Promise<Info | null> {
  try {
    const text = String(await client.call('info', [], false))
    return new Map([...text.matchAll(/^(\w+):(.*?)\r?$/gm)].map(([, name = '', value = '']) => [name, value]))
  } catch (error) {
    if (failureOf(error).isRefusal) return null
    throw error
  }
}

async function latencyMs(client: RedisClient, { prefix }: SharedOptions): Promise<number> {
  const took: number[] = []
  for (let round = 0; round < ROUNDS; round += 1) {
    const startedAt = performance.now()
    await client.call('get', [`${prefix}doctor:{latency}`], false)
    took.push(performance.now() - startedAt)
  }
  return took.toSorted((a, b) => a - b)[Math.floor(ROUNDS / 2)] ?? 0
}

function aboutServer(options: SharedOptions, info: Info | null, tookMs: number): Finding {
  const version = info?.get('redis_version')
  const text = `${version === undefined ? 'Redis' : `Redis ${version}`} at ${placeOf(options)} answers within ${tookMs.toFixed(1)} ms`
  if (info?.get('role') === 'slave')
    return finding(
      'fail',
      'redis',
      `${text}, but is a replica, which takes no writes`,
      'name its master, or the Sentinels',
    )
  if (version !== undefined && Number.parseFloat(version) < OLDEST_VERSION)
    return finding('fail', 'redis', `${text}, and is too old`, `use ${OLDEST_VERSION} or newer (tested with 7.0)`)
  if (tookMs > options.timeoutMs / 4) {
    const slow = `${text}, while redis.timeout is ${options.timeoutMs} ms`
    return finding('warn', 'redis', slow, 'put it nearer, or raise redis.timeout: what takes longer is done without it')
  }
  return fine('redis', text)
}

async function aboutCommands(client: RedisClient, { prefix }: SharedOptions): Promise<Finding> {
  const slot = `${prefix}doctor:{${randomUUID()}}`
  const keys = ['text', 'map', 'set'].map((kind) => `${slot}:${kind}`)
  const run = [keys.length, ...keys, `${prefix}doctor`]
  const digest = createHash('sha1').update(everyCommand).digest('hex')
  const refused: string[] = []
  const own: readonly (readonly [string, readonly (string | number)[]])[] = [
    ['set', [slot, 'x', 'PX', PATIENCE_MS]],
    ['get', [slot]],
    ['unlink', [slot]],
    ['publish', [`${prefix}doctor`, '']],
    ['eval', [everyCommand, ...run]],
    ['evalsha', [digest, ...run]],
  ]
  for (const [command, args] of own) {
    try {
      const reply = await client.call(command, args, false)
      if (command === 'eval' && Array.isArray(reply)) refused.push(...reply.map(String))
    } catch (error) {
      if (!failureOf(error).isRefusal) throw error
      refused.push(command.toUpperCase())
    }
  }
  if (refused.length === 0) return fine('redis commands', 'writing, reading and scripts work')
  const text = `not allowed: ${[...new Set(refused)].join(', ')}`
  return finding(
    'fail',
    'redis commands',
    text,
    `let the user have them: ACL SETUSER … ~${prefix}* &${prefix}* +@all -@dangerous +info`,
  )
}

async function aboutChannels(client: RedisClient, { prefix }: SharedOptions): Promise<Finding> {
  const ear = client.listen()
  try {
    await new Promise<void>((resolve, reject) => {
      ear.onReady(() => void ear.subscribe([`${prefix}doctor`]).then(() => resolve(), reject))
      ear.onEnd(() => reject(new Error('ended')))
    })
    return fine('redis channels', 'replicas hear each other')
  } catch {
    const advice = `allow SUBSCRIBE and the channels: ACL SETUSER … &${prefix}*; without them replicas hear of each other late`
    return finding('warn', 'redis channels', 'not allowed', advice)
  } finally {
    ear.close()
  }
}

function aboutMemory(info: Info): Finding {
  const policy = info.get('maxmemory_policy') ?? 'unknown'
  const isBounded = Number(info.get('maxmemory') ?? 0) > 0
  const name = 'redis memory'
  if (isBounded && policy.startsWith('allkeys'))
    return finding(
      'fail',
      name,
      `${policy} throws out what is counted, and purges`,
      'set maxmemory-policy noeviction (or volatile-lru)',
    )
  if (!isBounded)
    return finding(
      'warn',
      name,
      'without a limit, it takes all of its machine',
      'set maxmemory, and maxmemory-policy noeviction',
    )
  return fine(name, `${info.get('maxmemory_human') ?? ''} at most, ${policy}`)
}

function aboutPersistence(info: Info): Finding {
  if (info.get('aof_enabled') === '1') return fine('redis persistence', 'it keeps what it has through a restart (AOF)')
  const advice = 'set appendonly yes, if answers and what is counted shall survive its restart'
  return finding('note', 'redis persistence', 'without AOF, its restart forgets its last moments or everything', advice)
}

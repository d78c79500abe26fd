/**
 * Values that are nearly ours: what the codec has written, then damaged, moved to another key, of another format or another
 * signer; and a real Redis in which everything that two replicas keep is spoiled while they work.
 */
import { deflateRawSync } from 'node:zlib'
import { isDeepStrictEqual } from 'node:util'
import { createCodec, signingKeyOf, type Stored } from '../../src/cache/codec.ts'
import { startRedis, type RedisProcess } from '../support/redis.ts'
import { siege, type Siege } from '../support/siege.ts'
import type { Chance } from './chance.ts'
import { type Fuzzer, playCases } from './round.ts'

const maxBytes = 1_048_576
const ours = createCodec({ signingKeys: () => [signingKeyOf('ours')], maxBytes })
const foreign = createCodec({ signingKeys: () => [signingKeyOf('theirs')], maxBytes })

const bomb = deflateRawSync(Buffer.alloc(3 * maxBytes))

function storedOf({ int, isTrue }: Chance): Stored {
  const body = Buffer.from(`{"answer":"${'lorem ipsum '.repeat(int(200))}"}`)
  const at = 1_800_000_000_000 + int(1_000_000)
  const about = {
    status: isTrue(0.9) ? 200 : 500,
    contentType: 'application/json',
    body,
    etag: '"e"',
    scraper: 'chatgpt',
    promptHash: null,
    country: 'US',
    priceCredits: 3,
    unclaimed: isTrue(0.1),
  }
  return {
    entry: { ...about, storedAt: at, keptUntil: at + 2 },
    mark: { epoch: 'e', number: int(9) },
  }
}

function playCodec(chance: Chance): string | null {
  const { int, pick, bytes, damage } = chance
  const stored = storedOf(chance)
  const key = `key-${int(1_000)}`
  const whole = ours.encode(key, stored) ?? Buffer.alloc(0)
  const spoiled = pick<() => Buffer>([
    () => damage(whole),
    () => damage(whole, 30),
    () => whole.subarray(0, int(whole.length + 1)),
    () => bytes(int(400)),
    () => Buffer.concat([whole, bytes(int(50))]),
    () => foreign.encode(key, stored) ?? whole,
    () => ours.encode(`${key}x`, stored) ?? whole,
    () => Buffer.concat([Buffer.from(pick(['@', 'B', 'a', '0'])), whole.subarray(1)]),
    () => Buffer.concat([whole.subarray(0, 50), bomb]),
    () => Buffer.from(pick(['', 'null', '{}', '[]', '{"__proto__":{"x":1}}', 'A1', 'A'.repeat(50), '\0'.repeat(60)])),
    () => whole,
  ])()
  const read = ours.decode(key, spoiled)
  if (typeof read === 'string') return spoiled.equals(whole) ? `its own value is refused: ${read}` : null
  if (!spoiled.equals(whole)) return `believed: ${spoiled.toString('base64').slice(0, 300)}`
  return isDeepStrictEqual(read, stored) ? null : 'its own value has changed'
}

export const fuzzRedis: Fuzzer = async (stage, round) => {
  const codec = await playCases(round, 1, async (chance, number) => {
    if (number % 200 === 0) await new Promise(setImmediate)
    return playCodec(chance)
  })
  return [
    ...codec,
    ...(await spoilAll(stage, { ...round, cases: Math.min(300, Math.max(20, Math.floor(round.cases / 100))) })),
  ]
}

const spoilers: readonly ((key: string, chance: Chance) => string[])[] = [
  (key, { bytes, int }) => ['SET', key, bytes(int(300)).toString('latin1')],
  (key) => ['SET', key, ''],
  (key) => ['SET', key, '{"__proto__":{"x":1}}'],
  (key) => ['APPEND', key, 'x'],
  (key, { int }) => ['SETRANGE', key, String(int(60)), 'x'],
  (key) => ['SET', key, '99999999999999999999999999'],
]
const wrongTypes: readonly ((key: string) => string[])[] = [
  (key) => ['HSET', key, '__proto__', 'x'],
  (key) => ['LPUSH', key, 'x'],
  (key) => ['SADD', key, 'x'],
  (key) => ['ZADD', key, '1', 'x'],
]

/** Everything in it is spoiled between two questions: each is answered, with its own answer. */
async function spoilAll(
  stage: Parameters<Fuzzer>[0],
  round: { readonly seed: number; readonly cases: number },
): Promise<readonly string[]> {
  const redis = await startRedis(stage)
  const settings = `redis: { url: "${redis.url}", timeout: 2s }\nlog: { level: error }\nretry: { attempts: 1 }\nclients: { anonymous: { rate: { limit: 1000000, per: 1s }, concurrency: 50, credits: { perDay: 1000000000, perMonth: 1000000000 } } }`
  const replicas = [await siege(stage, settings), await siege(stage, settings)]
  const findings = await playCases(round, 1, (chance, number) => playStore(redis, replicas, chance, number))
  const logged = replicas.flatMap(({ proxy }) => proxy.lines().filter((line) => 'error' in line))
  return [...findings, ...logged.map((line) => `logged: ${JSON.stringify(line)}`)]
}

async function playStore(
  redis: RedisProcess,
  replicas: readonly Siege[],
  chance: Chance,
  number: number,
): Promise<string | null> {
  const one = chance.pick(replicas)
  const prompt = `q-${chance.int(Math.max(1, number / 2))}`
  const { status, text, headers } = await one.proxy.ask(prompt)
  if (status === 500 || (status !== 200 && headers['x-proxy-code'] === undefined))
    return `${status} for ${prompt}: ${text.slice(0, 300)}`
  if (status === 200 && (JSON.parse(text) as { prompt?: string }).prompt !== prompt)
    return `another's answer for ${prompt}: ${text}`
  const keys = [...(await redis.ask('KEYS', '*')).matchAll(/^(?!\*|\$\d)(.+)\r$/gm)].map(([, key = '']) => key)
  for (const key of keys) {
    if (!chance.isTrue(0.3)) continue
    if (chance.isTrue(0.2)) {
      await redis.ask('DEL', key)
      await redis.ask(...chance.pick(wrongTypes)(key))
    } else await redis.ask(...chance.pick(spoilers)(key, chance))
  }
  for (const channel of ['slp:cache', 'slp:flights'])
    await redis.ask('PUBLISH', channel, chance.bytes(20).toString('latin1'))
  return null
}

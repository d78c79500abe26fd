/** A52–A56: a Redis that holds poison, is slow, lies or has another time. It may cost the cache, never an answer. */
import t from 'tap'
import { startFaultProxy } from '../support/fault-proxy.ts'
import { startRedis, until, type RedisProcess } from '../support/redis.ts'
import { getOnce, siege, type Siege, TARGET } from '../support/siege.ts'
import type { Test } from 'tap'

const settingsOf = (url: string, timeout = '2s'): string => `redis: { url: "${url}", timeout: ${timeout} }`

async function isUp({ proxy }: Siege): Promise<void> {
  await until(async () => Object.values(await proxy.metric('redis_up'))[0] === 1)
}

async function keysOf(redis: RedisProcess): Promise<string[]> {
  const reply = await redis.ask('KEYS', '*')
  return [...reply.matchAll(/^(slp:\S*)\r$/gm)].map(([, key = '']) => key)
}

/** Two replicas, so that what one keeps the other finds in Redis alone. */
async function aFleet(t: Test): Promise<{ redis: RedisProcess; one: Siege; two: Siege }> {
  const redis = await startRedis(t)
  const [one, two] = [await siege(t, settingsOf(redis.url)), await siege(t, settingsOf(redis.url))]
  await Promise.all([isUp(one), isUp(two)])
  return { redis, one, two }
}

void t.test('A52: a poisoned value is a miss and counted, whatever it is', async (t) => {
  const { redis, one, two } = await aFleet(t)
  const entryKey = async (): Promise<string> =>
    (await keysOf(redis)).find((key) => /^slp:cB:\{[\da-f]+\}$/.test(key)) ?? ''
  const stored = async (prompt: string): Promise<string> => {
    await redis.ask('FLUSHALL')
    t.equal((await one.proxy.ask(prompt)).status, 200)
    await until(async () => (await entryKey()) !== '')
    return entryKey()
  }
  const huge = 'A1000000000000000'.padEnd(6_000_000, 'x')
  const rows: readonly (readonly [id: string, spoil: (key: string) => Promise<unknown>])[] = [
    ['not ours', (key) => redis.ask('SET', key, 'hello')],
    ['empty', (key) => redis.ask('SET', key, '')],
    ['JSON with __proto__', (key) => redis.ask('SET', key, '{"__proto__":{"status":200}}')],
    ['an older format', (key) => redis.ask('SETRANGE', key, '0', '@')],
    ['a byte changed', (key) => redis.ask('SETRANGE', key, '60', '\x01')],
    ['the signature changed', (key) => redis.ask('SETRANGE', key, '20', '\x01')],
    ['longer', (key) => redis.ask('APPEND', key, 'x')],
    ['6 MB', (key) => redis.ask('SET', key, huge)],
    ['a list', async (key) => [await redis.ask('DEL', key), await redis.ask('LPUSH', key, 'x')]],
    ['a hash', async (key) => [await redis.ask('DEL', key), await redis.ask('HSET', key, '__proto__', 'x')]],
  ]
  for (const [index, [id, spoil]] of rows.entries()) {
    await spoil(await stored(`A52 ${index}`))
    const heard = two.upstream.heard.length
    const answer = await two.proxy.ask(`A52 ${index}`)
    t.equal(answer.status, 200, `A52 ${id}`)
    t.match(answer.text, new RegExp(`answer to A52 ${index}"`))
    t.equal(two.upstream.heard.length, heard + 1, `A52 ${id}: a miss`)
  }
  // A whole and signed value of another question.
  const first = await stored('A52 first')
  await redis.ask('COPY', first, 'aside')
  const second = await stored('A52 second')
  t.equal((await one.proxy.ask('A52 first')).status, 200)
  await redis.ask('COPY', first, second, 'REPLACE')
  t.match((await two.proxy.ask('A52 second')).text, /answer to A52 second"/, "A52 another key's payload")
  const rejected = await two.proxy.metric('cache_rejections_total')
  t.ok(Object.values(rejected).reduce((all, count) => all + count, 0) >= 7, 'A52 and counted')
  t.notMatch(two.proxy.output(), /"level":"error"/)
})

void t.test('A53: a Redis that refuses, hangs or is slow fails no request', async (t) => {
  const redis = await startRedis(t)
  const line = await startFaultProxy(t, redis.port)
  const at = await siege(t, settingsOf(line.url, '50ms'))
  const { proxy } = at
  await isUp(at)
  let count = 0
  const holds = async (id: string): Promise<void> => {
    for (let turn = 0; turn < 3; turn++) {
      const prompt = `A53 ${count++}`
      t.match(await proxy.ask(prompt), { status: 200, text: new RegExp(`answer to ${prompt}"`) }, `A53 ${id}`)
      t.match((await proxy.ask(prompt)).headers['cache-status'], /; hit/, `A53 ${id}: and is kept here`)
    }
  }
  const faults: readonly (readonly [id: string, begin: () => unknown, end: () => unknown])[] = [
    ['READONLY', () => redis.ask('REPLICAOF', '127.0.0.1', '1'), () => redis.ask('REPLICAOF', 'NO', 'ONE')],
    ['OOM', () => redis.ask('CONFIG', 'SET', 'maxmemory', '1'), () => redis.ask('CONFIG', 'SET', 'maxmemory', '0')],
    ['NOAUTH', () => redis.ask('CONFIG', 'SET', 'requirepass', 'x'), () => undefined],
    ['5 s late', () => line.delay(5_000), () => line.heal()],
    ['half-open', () => line.blackhole(), () => line.heal()],
    ['reset', () => line.reset(), () => undefined],
    ['refused', () => line.refuse(), () => line.heal()],
    ['stopped', () => redis.pause(), () => redis.resume()],
    ['killed', () => redis.kill(), () => redis.restart()],
  ]
  for (const [id, begin, end] of faults) {
    await begin()
    await holds(id)
    await end()
  }
  await redis.ask('CONFIG', 'SET', 'requirepass', '')
  await isUp(at)
  t.pass('A53 and all is well afterwards')
})

void t.test('A54: forged messages are hints at most', async (t) => {
  const { redis, one, two } = await aFleet(t)
  const answer = await one.proxy.ask('A54')
  await until(async () => (await keysOf(redis)).some((name) => name.startsWith('slp:cB:')))
  await two.proxy.ask('A54')
  const channels = await redis.ask('PUBSUB', 'CHANNELS', '*')
  const names = [...channels.matchAll(/^(slp:\S+)\r$/gm)].map(([, name = '']) => name)
  t.ok(names.length > 0)
  const key = (await keysOf(redis)).find((name) => name.startsWith('slp:cB:')) ?? ''
  const hash = /\{(.+)\}/.exec(key)?.[1] ?? ''
  const forged = [
    '',
    'x',
    'null',
    '{"__proto__":1}',
    `replaced ${hash} 99999999999999`,
    `{"id":"x","key":"${hash}","storedAt":99999999999999}`,
    'purged',
    `done ${hash}`,
    '\0\r\nSET x y\r\n',
    'x'.repeat(100_000),
  ]
  for (const name of names) for (const message of forged) await redis.ask('PUBLISH', name, message)
  for (const [index, { proxy }] of [one, two].entries()) {
    const again = await proxy.ask('A54')
    t.equal(again.status, 200)
    t.equal(
      (JSON.parse(again.text) as { result: string }).result,
      (JSON.parse(answer.text) as { result: string }).result,
      'A54 the answer is the signed one',
    )
    t.match((await proxy.ask(`A54 next ${index}`)).text, /answer to A54 next/)
    t.notMatch(proxy.output(), /"level":"error"/)
  }
  t.equal(one.upstream.heard.length + two.upstream.heard.length, 3, 'A54 and nobody was made to pay again')
})

void t.test('A55: what callers write is in no command and no pattern', async (t) => {
  const { redis, one } = await aFleet(t)
  await redis.ask('SET', 'victim', 'untouched')
  const nasty = [
    '\r\nFLUSHALL\r\n',
    '*',
    '?[a-z]*',
    '{x}',
    '\0',
    '\\',
    '"; redis.call("FLUSHALL") --',
    '$-1\r\n',
    '__proto__',
    '%s %n',
    '\u{202e}',
  ]
  for (const text of nasty) {
    const encoded = encodeURIComponent(text)
    const status = text === '\0' ? 400 : 200
    t.same(
      (await one.send(getOnce(`${TARGET}?prompt=${encoded}&x${encoded}=${encoded}`))).statuses(),
      [status],
      `A55 ${JSON.stringify(text)}`,
    )
    const header = text.replaceAll(/[^\x20-\x7e]/g, '.')
    await one.send(
      `POST ${TARGET}/jobs?prompt=${encoded} HTTP/1.1\r\nHost: a\r\nIdempotency-Key: ${header}\r\nX-Request-Id: ${header}\r\nX-API-Key: ${header}\r\nConnection: close\r\n\r\n`,
    )
  }
  const keys = await keysOf(redis)
  t.ok(keys.length > 5)
  t.same(
    keys.filter((key) => !/^slp:[\w:{}.@/+-]+$/.test(key)),
    [],
    'A55 keys are hashes and words of ours',
  )
  t.match(await redis.ask('GET', 'victim'), /untouched/)
})

void t.test('A56: a replica whose clock is an hour off shares answers and limits all the same', async (t) => {
  const redis = await startRedis(t)
  const limited = `${settingsOf(redis.url)}\nclients: { anonymous: { rate: { limit: 4, per: 10m, burst: 4 } } }`
  const [one, two] = [await siege(t, limited), await siege(t, limited, { aheadMs: 3_600_000 })]
  await Promise.all([isUp(one), isUp(two)])
  t.equal((await one.proxy.ask('A56')).status, 200)
  await until(async () => (await keysOf(redis)).some((name) => name.startsWith('slp:cB:')))
  t.match((await two.proxy.ask('A56')).headers['cache-status'], /; hit/, 'A56 an hour later by its own clock')
  const statuses: number[] = []
  for (let turn = 0; turn < 6; turn++) statuses.push((await (turn % 2 === 0 ? one : two).proxy.ask('A56')).status)
  t.same(statuses.filter((status) => status === 200).length, 2, 'A56 the limit is one of both: 4 in all')
  t.same(new Set(statuses), new Set([200, 429]))
})

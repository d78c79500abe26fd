/** The tier that replicas share, against a real Redis: several tiers in one process are several replicas. */
import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import { MEMORY_TRUST_MS } from '../../src/cache/bus.ts'
import { createCodec, signingKeyOf, type Stored } from '../../src/cache/codec.ts'
import { createSharedTier, type SharedTier } from '../../src/cache/shared-tier.ts'
import type { Entry, PurgeFilter } from '../../src/model.ts'
import type { SharedStore } from '../../src/ports.ts'
import { createRedis } from '../../src/world/redis.ts'
import type { RedisPlace } from '../../src/world/redis-client.ts'
import { type RedisProcess, startCluster, startRedis, until } from '../support/redis.ts'
import { epoch, type FakeWorld, fakeWorld, seededRandom } from '../support/world.ts'

const hour = 3_600_000
const maxBytes = 1_000_000
const keyOne = signingKeyOf('secret one')
const keyTwo = signingKeyOf('secret two')

function anEntry(more: Partial<Entry> = {}): Entry {
  return {
    status: 200,
    contentType: 'application/json',
    body: Buffer.from(`{"answer":"${'wörds and words '.repeat(200)}"}`),
    etag: 'W/"abc"',
    storedAt: epoch,
    keptUntil: epoch + 2 * hour,
    scraper: 'chatgpt',
    promptHash: 'hash',
    country: 'DE',
    priceCredits: 3,
    unclaimed: true,
    ...more,
  }
}

interface Replica {
  readonly tier: SharedTier
  readonly store: SharedStore
  readonly world: FakeWorld
  readonly outdated: [key: string, storedAt: number][]
  readonly purged: PurgeFilter[]
  /** Written and told. */
  readonly writes: (key: string, entry: Entry) => Promise<void>
  readonly becomes: (state: 'up' | 'down') => Promise<void>
}

async function aReplica(t: Test, at: RedisProcess | RedisPlace, signingKeys = [keyOne]): Promise<Replica> {
  const world = fakeWorld()
  const random = { ...seededRandom(1), id: () => randomUUID() }
  const place: RedisPlace = 'kind' in at ? at : { kind: 'single', url: at.url }
  const access = { place, username: null, password: null, database: 0 }
  const store = createRedis({ ...access, timeoutMs: 250, prefix: 't:' }, world.clock, random, world.emit)
  const outdated: [string, number][] = []
  const purged: PurgeFilter[] = []
  const tier = createSharedTier({
    codec: createCodec({ signingKeys: () => signingKeys, maxBytes }),
    store,
    memory: {
      outdated: (key, storedAt) => void outdated.push([key, storedAt]),
      purge: (filter) => void purged.push(filter),
    },
    clock: world.clock,
    random,
    emit: world.emit,
  })
  t.teardown(() => {
    tier.close()
    store.close()
  })
  const becomes = (state: 'up' | 'down'): Promise<void> =>
    until(async () => {
      await world.clock.advance(50)
      return store.state === state
    })
  await becomes('up')
  await tier.settled()
  return {
    tier,
    store,
    world,
    outdated,
    purged,
    becomes,
    async writes(key, entry) {
      tier.write(key, entry)
      await tier.settled()
    },
  }
}

/** All but its times: Redis measures them by its own clock, and time passes there. */
function timeless(entry: Entry | null | 'away'): Omit<Entry, 'storedAt' | 'keptUntil'> | null {
  if (!entry || entry === 'away') return null
  const { storedAt: _, keptUntil: __, ...rest } = entry
  return rest
}

function flawsOf({ world }: Replica): string[] {
  return world.told('cache-rejected').map(({ because }) => because)
}

void t.test(
  'an entry is the same on every replica, smaller on the way, and gone when it is no good any more',
  async (t) => {
    const redis = await startRedis(t)
    const [one, two] = [await aReplica(t, redis), await aReplica(t, redis)]
    const entry = anEntry()
    await one.writes('k', entry)

    const read = await two.tier.read('k')
    t.same(timeless(read), timeless(entry))
    t.ok(read && read !== 'away' && read.body.buffer.byteLength === read.body.length, 'it keeps nothing else alive')
    t.equal(await two.tier.read('other'), null)
    t.ok(Number((await redis.ask('STRLEN', 't:cB:{k}')).slice(1)) < entry.body.length / 4)
    t.match(await redis.ask('PTTL', 't:cB:{k}'), /:7199\d\d\d|:7200000/)

    const small = anEntry({ body: Buffer.from('{}'), contentType: 'text/plain', promptHash: null, country: null })
    await one.writes('k', { ...small, unclaimed: false })
    t.same(
      timeless(await two.tier.read('k')),
      timeless({ ...small, unclaimed: false }),
      'of the same age: the last one counts',
    )

    await one.writes('gone', anEntry({ keptUntil: epoch - 1 }))
    await one.writes('huge', anEntry({ body: Buffer.alloc(maxBytes + 1) }))
    t.same([await two.tier.read('gone'), await two.tier.read('huge')], [null, null])
    t.same([flawsOf(one), flawsOf(two)], [['too-big'], []])
  },
)

void t.test('late is not newer: an older entry never takes the place of a newer one', async (t) => {
  const redis = await startRedis(t)
  const one = await aReplica(t, redis)
  await one.writes('k', anEntry({ etag: '"new"' }))
  await one.writes('k', anEntry({ storedAt: epoch - hour, etag: '"old"' }))
  t.match(await one.tier.read('k'), { etag: '"new"' })

  await one.writes('k', anEntry({ status: 500, etag: '"empty"' }))
  t.match(await one.tier.read('k'), { etag: '"new"' }, 'nor does "empty result" that of an answer')
  await one.writes('e', anEntry({ status: 500, etag: '"empty"' }))
  await one.writes('e', anEntry({ etag: '"answer"' }))
  t.match(await one.tier.read('e'), { etag: '"answer"' }, 'but the other way round')

  await one.writes('f', anEntry({ storedAt: epoch + 24 * hour, keptUntil: epoch + 25 * hour, etag: '"future"' }))
  const storedAt = one.world.clock.wall()
  await one.writes('f', anEntry({ storedAt, etag: '"now"' }))
  t.match(await one.tier.read('f'), { etag: '"now"' }, 'a broken clock does not block a key')
  await redis.ask('PERSIST', 't:cB:{f}')
  await one.writes('f', anEntry({ storedAt, etag: '"again"' }))
  t.match(await one.tier.read('f'), { etag: '"again"' }, 'nor does a value without an end')
})

void t.test('a clock that is hours off makes an answer neither newer nor younger for the others', async (t) => {
  const redis = await startRedis(t)
  const [one, ahead, behind] = [await aReplica(t, redis), await aReplica(t, redis), await aReplica(t, redis)]
  ahead.world.clock.stepWall(2 * hour)
  behind.world.clock.stepWall(-2 * hour)
  const storedBy = ({ world }: Replica, etag: string): Entry => {
    const storedAt = world.clock.wall()
    return anEntry({ etag, storedAt, keptUntil: storedAt + 3 * hour })
  }
  const read = async ({ tier }: Replica): Promise<Entry> => {
    const entry = await tier.read('k')
    if (!entry || entry === 'away') throw new Error('it is there')
    return entry
  }
  const near = (actual: number, expected: number, message: string): void => {
    t.ok(Math.abs(actual - expected) < 60_000, `${message}: ${actual - expected} ms`)
  }

  await ahead.writes('k', storedBy(ahead, '"ahead"'))
  // As if half an hour had passed in Redis.
  await redis.ask('PEXPIRE', 't:cB:{k}', String(2.5 * hour))
  const found = await read(one)
  near(found.storedAt, epoch - hour / 2, 'half an hour old, not minus one and a half')
  near(found.keptUntil, epoch + 2.5 * hour, 'and not kept for longer')

  await one.writes('k', storedBy(one, '"newer"'))
  t.match(await read(one), { etag: '"newer"' }, 'an answer from two hours ahead is not newer for ever')
  near((await read(behind)).storedAt, epoch - 2 * hour, 'new for a replica that is behind')
  near((await read(ahead)).storedAt, epoch, 'for one that is ahead as old as its own clock says')
  await behind.writes('k', storedBy(behind, '"newest"'))
  t.match(await read(one), { etag: '"newest"' })
})

void t.test('what is not exactly what was written is a miss and counted, whatever it is', async (t) => {
  const redis = await startRedis(t)
  const [one, foreign] = [await aReplica(t, redis), await aReplica(t, redis, [keyTwo])]
  await one.writes('k', anEntry())

  await redis.ask('COPY', 't:cB:{k}', 't:cB:{other}')
  t.equal(await one.tier.read('other'), null, 'of another key')
  t.equal(await foreign.tier.read('k'), null, 'signed by somebody else')
  await redis.ask('SETRANGE', 't:cB:{other}', '0', '@')
  t.equal(await one.tier.read('other'), null, 'another format')
  await redis.ask('SET', 't:cB:{other}', '{"__proto__":{"polluted":1}}')
  t.equal(await one.tier.read('other'), null, 'JSON of somebody')
  await redis.ask('SET', 't:cB:{other}', `B1${'9'.repeat(15)}`)
  t.equal(await one.tier.read('other'), null, 'cut off')
  await redis.ask('EVAL', `redis.call('SET', KEYS[1], 'B' .. string.rep('x', 2000000))`, '1', 't:cB:{other}')
  t.equal(await one.tier.read('other'), null, 'endless')
  await redis.ask('SET', 't:cB:{other}', '')
  t.equal(await one.tier.read('other'), null, 'nothing')
  t.same(flawsOf(one), ['signature', 'version', 'version', 'damaged', 'too-big', 'version'])
  t.same(flawsOf(foreign), ['signature'])
  await redis.ask('DEL', 't:cB:{other}')
  await redis.ask('LPUSH', 't:cB:{other}', 'x')
  t.equal(await one.tier.read('other'), null, 'a list')
  await one.writes('other', anEntry())
  t.match(await one.tier.read('other'), { status: 200 }, 'all of it can be overwritten')
  t.equal(({} as { polluted?: number }).polluted, undefined)
})

void t.test('no bit of a stored entry can change or be missing', async (t) => {
  const codec = createCodec({ signingKeys: () => [keyOne], maxBytes })
  for (const body of [Buffer.from('short'), Buffer.from('long '.repeat(500))]) {
    const stored: Stored = { entry: anEntry({ body }), mark: { epoch: 'e', number: 7 } }
    const bytes = codec.encode('k', stored) ?? Buffer.alloc(0)
    t.same(codec.decode('k', bytes), stored)
    for (let at = 0; at < bytes.length; at++) {
      const changed = Buffer.from(bytes)
      changed[at] = (changed[at] ?? 0) ^ 1
      if (typeof codec.decode('k', changed) !== 'string') t.fail(`byte ${at} may change`)
      if (typeof codec.decode('k', bytes.subarray(0, at)) !== 'string') t.fail(`may end at ${at}`)
    }
    t.equal(codec.decode('k2', bytes), 'signature')
  }
})

void t.test('a signed entry that makes no sense is refused all the same', async (t) => {
  // What only a replica of ours with a fault could write.
  const codec = createCodec({ signingKeys: () => [keyOne], maxBytes })
  const good: Stored = { entry: anEntry(), mark: { epoch: 'e', number: 1 } }
  const wrong: readonly Partial<Record<keyof Entry, unknown>>[] = [
    { status: '200' },
    { contentType: 1 },
    { etag: null },
    { scraper: ['x'] },
    { storedAt: Number.NaN },
    { keptUntil: 'x' },
    { priceCredits: '3' },
    { promptHash: 1 },
    { country: {} },
    { unclaimed: 'yes' },
  ]
  for (const change of wrong) {
    const stored = { ...good, entry: { ...good.entry, ...change } as Entry }
    t.equal(codec.decode('k', codec.encode('k', stored) ?? Buffer.alloc(0)), 'damaged', JSON.stringify(change))
  }
  for (const mark of [
    { epoch: 1, number: 1 },
    { epoch: 'e', number: '1' },
  ] as unknown as Stored['mark'][]) {
    t.equal(codec.decode('k', codec.encode('k', { ...good, mark }) ?? Buffer.alloc(0)), 'damaged')
  }
  const wide = createCodec({ signingKeys: () => [keyOne], maxBytes: 10_000_000 })
  const bomb = wide.encode('k', { ...good, entry: anEntry({ body: Buffer.alloc(5_000_000) }) }) ?? Buffer.alloc(0)
  t.ok(bomb.length < maxBytes)
  t.equal(codec.decode('k', bomb), 'damaged', 'what would become too big is not unpacked')
  t.equal(createCodec({ signingKeys: () => [], maxBytes }).encode('k', good), null, 'nothing is written unsigned')
})

void t.test('signing keys change one replica after the other', async (t) => {
  const redis = await startRedis(t)
  const before = await aReplica(t, redis, [keyOne])
  const during = await aReplica(t, redis, [keyOne, keyTwo])
  const after = await aReplica(t, redis, [keyTwo, keyOne])
  await before.writes('a', anEntry())
  await after.writes('b', anEntry())
  t.match(await during.tier.read('a'), { status: 200 })
  t.match(await during.tier.read('b'), { status: 200 })
  t.match(await after.tier.read('a'), { status: 200 })
  t.equal(await before.tier.read('b'), null)
  t.notOk(signingKeyOf('x').equals(signingKeyOf('y')))
})

void t.test('a purge holds for all replicas and for what matches only', async (t) => {
  const redis = await startRedis(t)
  const [one, two] = [await aReplica(t, redis), await aReplica(t, redis)]
  await one.writes('gpt', anEntry())
  await one.writes('gem', anEntry({ scraper: 'gemini', promptHash: 'p2', country: 'US', storedAt: epoch + 5 }))
  const found = async (at: Replica): Promise<string> =>
    [await at.tier.read('gpt'), await at.tier.read('gem')].map((entry) => (entry ? 'x' : '-')).join('')

  for (const filter of [
    { scraper: 'nobody' },
    { scraper: 'chatgpt', country: 'US' },
    { promptHash: 'p3' },
    { storedBefore: epoch },
  ]) {
    one.tier.purge(filter)
  }
  await one.tier.settled()
  t.equal(await found(one), 'xx')

  one.tier.purge({ storedBefore: epoch + 5 })
  await one.tier.settled()
  t.equal(await found(one), '-x')
  await until(() => two.purged.length === 5)
  t.equal(await found(two), '-x')
  t.match(two.purged.at(-1), { storedBefore: epoch + 5 })

  await one.writes('gpt', anEntry())
  t.equal(await found(two), 'xx', 'what is stored after the purge is not meant')
  two.tier.purge({ country: 'US' })
  await two.tier.settled()
  await until(() => one.purged.some(({ country }) => country === 'US'))
  t.equal(await found(one), 'x-')
  one.tier.purge({})
  await one.tier.settled()
  t.equal(await found(one), '--')
})

void t.test('a purge is noticed within a second where its message is lost', async (t) => {
  const redis = await startRedis(t)
  const [one, two] = [await aReplica(t, redis), await aReplica(t, redis)]
  await one.writes('k', anEntry())
  t.match(await two.tier.read('k'), { status: 200 })
  // As another replica would, but for the message.
  await redis.ask('HINCRBY', 't:purges', 'number', '1')
  await redis.ask('HSET', 't:purges', '1', '{"scraper":"chatgpt"}')
  await two.world.clock.advance(1_000)
  t.equal(await two.tier.read('k'), null)
  t.match(two.purged, [{ scraper: 'chatgpt' }], 'memory hears of it as well')
})

void t.test('many purges become one of everything, and the list is mended when somebody has broken it', async (t) => {
  const redis = await startRedis(t)
  const [one, two] = [await aReplica(t, redis), await aReplica(t, redis)]
  await one.writes('k', anEntry({ storedAt: one.world.clock.wall() }))
  for (let turn = 0; turn < 64; turn++) one.tier.purge({ scraper: 'nobody' })
  await one.tier.settled()
  t.match(await two.tier.read('k'), { status: 200 })
  one.tier.purge({ scraper: 'nobody' })
  await one.tier.settled()
  t.equal(await one.tier.read('k'), null)
  t.equal(await redis.ask('HLEN', 't:purges'), ':3\r\n')

  const broken: [name: string, value: string, hits: boolean][] = [
    ['100', 'not json', true],
    ['101', 'null', true],
    ['102', '{"storedBefore":"x","scraper":5,"__proto__":{"country":"DE"}}', true],
    ['103', '{"country":"FR"}', false],
    ['x', '{}', false],
  ]
  for (const [name, value, hits] of broken) {
    await one.writes('k', anEntry({ storedAt: one.world.clock.wall() }))
    await redis.ask('HSET', 't:purges', name, value)
    await one.world.clock.advance(1_000)
    t.equal((await one.tier.read('k')) === null, hits, value)
    await redis.ask('HDEL', 't:purges', name)
    await one.world.clock.advance(1_000)
  }
  await redis.ask('SET', 't:purges', 'no list')
  await one.world.clock.advance(1_000)
  t.equal(await one.tier.read('k'), null, 'with the list the numbers are lost: nothing older counts')
  await one.writes('k', anEntry({ storedAt: one.world.clock.wall() }))
  t.match(await one.tier.read('k'), { status: 200 })
  for (const change of [
    ['HDEL', 'epoch'],
    ['HSET', 'number', '1.5'],
    ['HDEL', 'number'],
  ] as const) {
    await redis.ask(change[0], 't:purges', ...change.slice(1))
    one.tier.purge({ scraper: 'nobody' })
    await one.tier.settled()
    t.equal(await one.tier.read('k'), null)
    await one.writes('k', anEntry({ storedAt: one.world.clock.wall() }))
    t.match(await one.tier.read('k'), { status: 200 })
  }
})

void t.test(
  'while Redis is away reads cost nothing, and what was written and purged meanwhile is made up for',
  async (t) => {
    const redis = await startRedis(t)
    const [one, two] = [await aReplica(t, redis), await aReplica(t, redis)]
    await redis.kill()
    await until(() => one.store.state === 'down' && two.store.state === 'down')

    t.equal(await one.tier.read('k'), 'away', 'nor do they wait, unless somebody says how long')
    const blink = one.tier.read('k', Number.POSITIVE_INFINITY)
    await one.world.clock.advance(2_000)
    t.equal(await blink, 'away')
    t.equal(await one.tier.read('k', Number.POSITIVE_INFINITY), 'away', 'nobody waits for it a second time')
    await one.writes('kept', anEntry())
    await one.writes('purged', anEntry({ scraper: 'gemini' }))
    one.tier.purge({ scraper: 'gemini' })
    await one.writes('later', anEntry({ scraper: 'gemini', storedAt: epoch + hour }))
    await one.tier.settled()
    t.equal(await one.tier.read('kept'), 'away')

    await redis.restart()
    await one.becomes('up')
    await one.tier.settled()
    await two.becomes('up')
    t.match(await two.tier.read('kept'), { status: 200 })
    t.equal(await two.tier.read('purged'), null)
    t.match(await two.tier.read('later'), { scraper: 'gemini' })
  },
)

void t.test('an answer that Redis has is had from it after a blink', async (t) => {
  const redis = await startRedis(t)
  const one = await aReplica(t, redis)
  await one.writes('k', anEntry())
  redis.pause()
  const read = one.tier.read('k', Number.POSITIVE_INFINITY)
  const impatient = one.tier.read('k', one.world.clock.now() + 300)
  await until(async () => (await one.world.clock.advance(250), one.store.state === 'down'))
  await one.world.clock.advance(100)
  t.equal(await impatient, 'away', 'not longer than its caller waits')
  redis.resume()
  await one.becomes('up')
  t.match(await read, { status: 200 })
})

void t.test('what waits for Redis is bounded in bytes and in time', async (t) => {
  const redis = await startRedis(t)
  const one = await aReplica(t, redis)
  await redis.kill()
  await until(() => one.store.state === 'down')
  const body = Buffer.alloc(900_000)
  for (let turn = 0; turn < 40; turn++) one.tier.write(`k${turn}`, anEntry({ body }))
  t.equal(one.world.told('redis-failed').filter(({ operation }) => operation === 'set').length, 3)
  await one.tier.settled()
  one.tier.write('k0', anEntry({ body: Buffer.alloc(1) }))
  for (let turn = 0; turn < 70; turn++) one.tier.purge({ scraper: `s${turn}` })
  await one.tier.settled()

  await one.world.clock.advance(60_000)
  one.tier.write('fits again', anEntry({ body }))
  await one.tier.settled()
  await redis.restart()
  await one.becomes('up')
  await one.tier.settled()
  t.match(await one.tier.read('fits again'), { status: 200 })
  t.equal(await one.tier.read('k1'), null, 'the others are too old')
  await one.world.clock.advance(10_000)
  t.match(await redis.ask('HLEN', 't:purges'), /^:/)
})

void t.test('a Redis that takes nothing more is read on, and a purge holds here even so', async (t) => {
  const redis = await startRedis(t)
  const one = await aReplica(t, redis)
  await one.writes('a', anEntry())
  await one.writes('b', anEntry({ scraper: 'gemini' }))
  await redis.ask('CONFIG', 'SET', 'maxmemory', '1')
  await one.writes('c', anEntry())
  one.tier.purge({ scraper: 'gemini' })
  await one.tier.settled()
  t.match(await one.tier.read('a'), { status: 200 })
  t.equal(await one.tier.read('b'), null)
  t.equal(await one.tier.read('c'), null)

  await one.world.clock.advance(5_000)
  t.equal(await one.tier.read('c'), null, 'tried again, in vain')
  await redis.ask('CONFIG', 'SET', 'maxmemory', '0')
  await one.becomes('up')
  await one.tier.settled()
  t.match(await one.tier.read('c'), { status: 200 })
  t.equal(await one.tier.read('b'), null)
  t.match(await redis.ask('HGET', 't:purges', '1'), 'gemini')
})

void t.test('replicas tell each other what is newer, and believe nobody', async (t) => {
  const redis = await startRedis(t)
  const [one, two] = [await aReplica(t, redis), await aReplica(t, redis)]
  await until(async () => (await redis.ask('PUBSUB', 'NUMSUB', 't:cache')).endsWith(':2\r\n'))
  await one.writes('k', anEntry())
  await until(() => two.outdated.length > 0)
  t.same(two.outdated, [['k', epoch]])
  await one.writes('k', anEntry({ storedAt: epoch - hour }))

  for (const forged of ['', 'null', '{}', '[]', '[1]', '["x","k","7"]', '["x",{"__proto__":1},7]', '["x"]']) {
    await redis.ask('PUBLISH', 't:cache', forged)
  }
  await redis.ask('PUBLISH', 't:cache', '["x","last",9]')
  await until(() => two.outdated.length > 1 && one.outdated.length > 0)
  t.same(
    two.outdated,
    [
      ['k', epoch],
      ['last', 9],
    ],
    'what was not written is not announced',
  )
  t.same(one.outdated, [['last', 9]], 'nobody listens to himself')
  await two.tier.settled()
  t.same(two.purged, [], 'a purge that nobody asked for is none')
  t.match(await two.tier.read('k'), { status: 200 })
})

void t.test('memory is good for a while without another look, and not after a gap', async (t) => {
  const redis = await startRedis(t)
  const [one, two] = [await aReplica(t, redis), await aReplica(t, redis)]
  await until(async () => (await redis.ask('PUBSUB', 'NUMSUB', 't:cache')).endsWith(':2\r\n'))
  await one.world.clock.advance(1)
  await two.world.clock.advance(1)
  const entry = anEntry()
  t.notOk(one.tier.isTrusted(entry))
  await one.writes('k', entry)
  t.ok(one.tier.isTrusted(entry), 'just written')
  const read = await two.tier.read('k')
  if (!read || read === 'away') throw new Error('it is there')
  t.ok(two.tier.isTrusted(read), 'just read')
  await two.world.clock.advance(MEMORY_TRUST_MS - 1)
  t.ok(two.tier.isTrusted(read))
  await two.world.clock.advance(1)
  t.notOk(two.tier.isTrusted(read))

  const again = await two.tier.read('k')
  if (!again || again === 'away') throw new Error('it is there')
  t.ok(two.tier.isTrusted(again))
  await redis.kill()
  await redis.restart()
  await two.becomes('up')
  await until(async () => {
    await two.world.clock.advance(50)
    return (await redis.ask('PUBSUB', 'NUMSUB', 't:cache')).startsWith('*2\r\n$7\r\nt:cache\r\n:1')
  })
  await until(() => !two.tier.isTrusted(again))
  t.equal(await two.tier.read('k'), null, 'Redis has forgotten it; memory has not')
})

void t.test('in a Cluster all of it works alike, although every key may be somewhere else', async (t) => {
  const nodes = await startCluster(t)
  const place: RedisPlace = { kind: 'cluster', urls: nodes.map(({ url }) => url) }
  const [one, two] = [await aReplica(t, place), await aReplica(t, place)]
  const keys = Array.from({ length: 20 }, (_, number) => `k${number}`)
  for (const key of keys) one.tier.write(key, anEntry({ scraper: key }))
  await one.tier.settled()
  for (const key of keys) t.match(await two.tier.read(key), { scraper: key })
  one.tier.purge({ scraper: 'k7' })
  await one.tier.settled()
  await until(() => two.purged.length > 0)
  for (const key of keys) t.equal((await two.tier.read(key)) === null, key === 'k7')

  // The list of purges is on one of them; the entries on the others do without it, because nothing can be purged meanwhile.
  const holders = await Promise.all(nodes.map(async (node) => (await node.ask('EXISTS', 't:purges')) === ':1\r\n'))
  const holder = nodes[holders.indexOf(true)]
  const theirs = await Promise.all(keys.map(async (key) => (await holder?.ask('EXISTS', `t:cB:{${key}}`)) === ':1\r\n'))
  const elsewhere = keys.filter((key, index) => !theirs[index] && key !== 'k7')
  await holder?.kill()
  await two.world.clock.advance(1_000)
  for (const key of elsewhere) t.match(await two.tier.read(key), { scraper: key })
})

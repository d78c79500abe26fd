/**
 * The shared store against real servers, and what can happen to them. The time limit runs on a fake clock: a call that is
 * answered before the test moves the time has cost nothing, whatever the real clock says.
 */
import t, { type Test } from 'tap'
import type { Shared, SharedScript, SharedState, SharedStore } from '../../src/ports.ts'
import { createRedisBreaker } from '../../src/world/redis-breaker.ts'
import type { RedisPlace } from '../../src/world/redis-client.ts'
import { createRedis } from '../../src/world/redis.ts'
import { startFaultProxy } from '../support/fault-proxy.ts'
import { startCluster, startRedis, startSentinels, until } from '../support/redis.ts'
import { type FakeWorld, fakeWorld } from '../support/world.ts'

const timeoutMs = 250
const none = { kind: 'away', sent: false }
const unsure = { kind: 'away', sent: true }
const setAndGet: SharedScript = {
  numberOfKeys: 1,
  replies: 'text',
  lua: `redis.call('SET', KEYS[1], ARGV[1], 'PX', 60000) return {redis.call('GET', KEYS[1]), 7, false}`,
}

interface Opened {
  readonly store: SharedStore
  readonly world: FakeWorld
  /** Lets the time pass until the store is so. */
  readonly becomes: (state: SharedState) => Promise<void>
}

function openStore(t: Test, place: RedisPlace, more: { password?: string; username?: string } = {}): Opened {
  const world = fakeWorld()
  const access = { username: more.username ?? null, password: more.password ?? null, database: 0 }
  const store = createRedis({ place, ...access, timeoutMs, prefix: 't:' }, world.clock, world.random, world.emit)
  t.teardown(() => store.close())
  return {
    store,
    world,
    becomes: (state) =>
      until(async () => {
        // Only what waits in the background is helped on; calls under test are never open meanwhile.
        await world.clock.advance(50)
        return store.state === state
      }),
  }
}

async function upStore(t: Test, url: string): Promise<Opened> {
  const opened = openStore(t, { kind: 'single', url })
  await until(() => opened.store.state === 'up')
  return opened
}

function text(found: Shared<Buffer | null>): string | null {
  return found.kind === 'known' && found.value ? found.value.toString() : null
}

void t.test('what one replica writes another reads, under the prefix, until its time is over', async (t) => {
  const redis = await startRedis(t)
  const { store } = await upStore(t, redis.url)
  const { store: other } = await upStore(t, redis.url)

  t.same(await store.get('a'), { kind: 'known', value: null })
  t.same(await store.set('a', Buffer.from([0, 255, 10]), 60_000), { kind: 'known', value: null })
  t.same(await other.get('a'), { kind: 'known', value: Buffer.from([0, 255, 10]) })
  t.match(await redis.ask('KEYS', '*'), 't:a')
  t.match(await redis.ask('PTTL', 't:a'), /:5\d{4}|:60000/)

  await store.set('b', 'text', 1)
  await until(async () => text(await store.get('b')) === null)
  t.same(await other.delete(['a', 'b', 'c']), { kind: 'known', value: 1 }, 'says how many there were')
  t.same(await store.get('a'), { kind: 'known', value: null })
})

void t.test('a script is one step, sent in full only once, and knows bytes from text', async (t) => {
  const redis = await startRedis(t)
  const { store, world } = await upStore(t, redis.url)

  t.same(await store.run(setAndGet, ['k'], ['v']), { kind: 'known', value: ['v', 7, null] })
  t.same(await store.run({ ...setAndGet, replies: 'bytes' }, ['k'], [Buffer.from([255])]), {
    kind: 'known',
    value: [Buffer.from([255]), 7, null],
  })
  const stats = await redis.ask('INFO', 'commandstats')
  t.match(stats, /cmdstat_eval:calls=1,/, 'the text went over the wire once')
  await redis.ask('SCRIPT', 'FLUSH')
  t.match(await store.run(setAndGet, ['k'], ['w']), { kind: 'known' }, 'a server that has forgotten it is told again')

  const broken: SharedScript = { numberOfKeys: 0, replies: 'text', lua: `return redis.error_reply('ERR mine')` }
  for (let turn = 0; turn < 5; turn++) t.same(await store.run(broken, [], []), unsure)
  t.equal(store.state, 'up', 'a server that answers is not given up for a script of ours')
  t.same(
    world.told('redis-failed').map(({ operation }) => operation),
    Array(5).fill('script'),
  )
})

void t.test('something else under our key is nothing, and counted', async (t) => {
  const redis = await startRedis(t)
  const { store, world } = await upStore(t, redis.url)
  await redis.ask('LPUSH', 't:a', 'x')

  t.same(await store.get('a'), { kind: 'known', value: null })
  t.match(world.told('redis-failed'), [{ operation: 'get' }])
  t.match(await store.set('a', 'ours', 1000), { kind: 'known' })
  t.equal(text(await store.get('a')), 'ours')
})

void t.test('nobody there: calls cost nothing, it is said once, and sharing begins when somebody comes', async (t) => {
  const redis = await startRedis(t)
  await redis.kill()
  const { store, world, becomes } = openStore(t, { kind: 'single', url: redis.url })
  const states: string[] = []
  store.onState((state) => states.push(state))

  t.same(await store.get('a'), none)
  t.same(await store.set('a', 'x', 1000), none)
  t.same(await store.run(setAndGet, ['a'], ['x']), none)
  t.same(await store.delete(['a', 'b']), none)
  t.same(await store.publish('c', 'x'), none)
  await until(() => world.told('redis-failed').length > 2)
  t.same(world.told('redis-changed'), [{ kind: 'redis-changed', to: 'down', because: 'unreachable', word: null }])

  await redis.restart()
  await becomes('up')
  t.match(await store.set('a', 'x', 1000), { kind: 'known' })
  t.match(world.told('redis-changed').at(-1), { to: 'up', because: 'unreachable' })
  t.same(states, ['up'])
})

void t.test('what is told of a Redis that is away is its present cause, not the first', async (t) => {
  const redis = await startRedis(t, ['--requirepass', 'p@ss:word'])
  await redis.kill()
  const { store, world } = openStore(t, { kind: 'single', url: redis.url })
  await until(() => store.trouble === 'unreachable')
  await redis.restart()
  await until(() => store.trouble === 'auth')
  await world.clock.advance(10_000)
  await until(() => world.told('redis-cause-changed').length > 0)
  t.same(world.told('redis-cause-changed'), [
    { kind: 'redis-cause-changed', state: 'down', because: 'auth', word: null },
  ])
  t.match(world.told('redis-changed'), [{ to: 'down', because: 'unreachable' }])
})

void t.test(
  'stopped with SIGSTOP: the first call pays the time limit and no more, the next ones nothing',
  async (t) => {
    const redis = await startRedis(t)
    const { store, world, becomes } = await upStore(t, redis.url)
    const states: string[] = []
    const stop = store.onState((state) => states.push(state))
    await store.set('a', 'x', 600_000)
    redis.pause()

    let ended = 0
    const calls = [
      store.get('a'),
      store.run(setAndGet, ['b'], ['y']),
      store.set('c', 'z', 1000),
      store.publish('c', 'm'),
    ]
    for (const call of calls) void call.then(() => (ended += 1))
    await world.clock.advance(timeoutMs - 1)
    t.equal(ended, 0, 'a moment before the limit all of them still hope')
    await world.clock.advance(1)
    t.equal(ended, calls.length, 'at the limit all have ended')
    t.same(
      await Promise.all(calls),
      calls.map(() => unsure),
    )

    const before = world.clock.now()
    for (let turn = 0; turn < 100; turn++) t.same(await store.get('a'), none)
    t.equal(world.clock.now(), before, 'none of them needed any time')
    t.equal(world.told('redis-changed').filter(({ to }) => to === 'down').length, 1)
    t.match(world.told('redis-changed').at(-1), { to: 'down', because: 'timeout' })

    await world.clock.advance(10_000)
    t.equal(store.state, 'down', 'the probe in the background finds nobody')
    redis.resume()
    await becomes('up')
    t.equal(text(await store.get('a')), 'x')
    t.same(states, ['down', 'up'])
    stop()
    t.match(world.told('redis-changed').at(-1), { to: 'up', because: 'timeout' })
  },
)

void t.test('killed with calls under way: they end at once; it comes back empty and sharing goes on', async (t) => {
  const redis = await startRedis(t)
  const { store, world, becomes } = await upStore(t, redis.url)
  await store.run(setAndGet, ['k'], ['v'])
  redis.pause()
  const calls = [store.get('k'), store.run(setAndGet, ['k'], ['w'])]
  const before = world.clock.now()
  await redis.kill()
  t.same(await Promise.all(calls), [unsure, unsure])
  t.equal(world.clock.now(), before, 'without any waiting')
  t.same(await store.get('k'), none)

  await redis.restart()
  await becomes('up')
  t.same(await store.get('k'), { kind: 'known', value: null })
  t.match(await store.run(setAndGet, ['k'], ['w']), { kind: 'known' }, 'the script is sent in full again')
})

void t.test('a single slow answer is bad luck, three failures in a row are not', async (t) => {
  const redis = await startRedis(t)
  const proxy = await startFaultProxy(t, redis.port)
  const { store, world, becomes } = await upStore(t, proxy.url)

  proxy.delay(300)
  const slow = store.get('a')
  await until(async () => (await redis.ask('INFO', 'commandstats')).includes('cmdstat_get'))
  proxy.heal()
  t.same(await slow, { kind: 'known', value: null }, 'late is not too late as long as the limit has not come')

  proxy.blackhole()
  const lost = store.get('a')
  await world.clock.advance(timeoutMs)
  t.same(await lost, unsure)
  t.equal(store.state, 'down', 'not a word until the limit is enough')
  proxy.heal()
  await becomes('up')
})

void t.test('what trips: one silent timeout, or three failures in a row; each part by itself', async (t) => {
  const { clock, random } = fakeWorld()
  const probed: string[] = []
  const changes: (string | null)[] = []
  let isThere = false
  const breaker = createRedisBreaker({
    clock,
    random,
    probe: async (key) => {
      probed.push(key)
      return isThere
    },
    changed: (because) => void changes.push(because),
  })
  const start = breaker.answers('a')
  breaker.answered('a')
  breaker.failed('a', 'timeout', start, 'k')
  breaker.failed('a', 'timeout', start, 'k')
  t.notOk(breaker.isDown('a'), 'others were answered meanwhile')
  breaker.answered('a')
  breaker.failed('a', 'cluster', start, 'k')
  breaker.failed('a', 'unreachable', start, 'k')
  t.notOk(breaker.isDown('a'), 'an answer ends the row')
  breaker.failed('a', 'loading', start, 'k')
  t.ok(breaker.isDown('a'))
  breaker.failed('b', 'timeout', breaker.answers('b'), 'l')
  t.ok(breaker.isDown('b'))
  breaker.failed('b', 'timeout', 0, 'm')
  t.same([breaker.downParts, changes, breaker.isDown('c')], [2, ['loading', 'timeout'], false])

  await clock.advance(5_000)
  t.ok(probed.length >= 8 && probed.length <= 14, 'about once a second each')
  isThere = true
  breaker.probeNow()
  breaker.probeNow()
  await clock.settle()
  t.same([breaker.downParts, changes.slice(2), clock.timers], [0, [null, null], 0])

  breaker.failed('a', 'timeout', 0, 'k')
  breaker.close()
  t.equal(clock.timers, 0)
  breaker.probeNow()
  breaker.failed('d', 'timeout', 0, 'k')
  t.notOk(breaker.isDown('d'))
})

void t.test('three refusals to work in a row are a reason to ask no more: BUSY', async (t) => {
  const redis = await startRedis(t, ['--busy-reply-threshold', '1'])
  const { store, world, becomes } = await upStore(t, redis.url)
  const endless = redis.ask('EVAL', 'while true do end', '0')
  await until(async () => (await redis.ask('GET', 'x')).startsWith('-BUSY'))

  for (let turn = 0; turn < 3; turn++) t.same(await store.get('a'), unsure)
  t.same(await store.get('a'), none)
  t.match(world.told('redis-changed').at(-1), { to: 'down', because: 'busy' })

  await redis.ask('SCRIPT', 'KILL')
  await endless
  await becomes('up')
  t.match(await store.get('a'), { kind: 'known' })
})

void t.test('M3: a server that refuses writes is still read, and its word is told: OOM', async (t) => {
  const redis = await startRedis(t)
  const { store, world, becomes } = await upStore(t, redis.url)
  const states: string[] = []
  store.onState((state) => states.push(state))
  await store.set('a', 'x', 600_000)
  await redis.ask('CONFIG', 'SET', 'maxmemory', '1')

  for (let turn = 0; turn < 5; turn++) {
    t.same(await store.set('b', 'y', 1000), unsure)
    t.same(await store.run(setAndGet, ['b'], ['y']), unsure)
    t.equal(text(await store.get('a')), 'x')
  }
  t.equal(store.state, 'refusing')
  t.match(world.told('redis-changed').at(-1), { to: 'refusing', because: 'out-of-memory', word: 'OOM' })
  await world.clock.advance(5_000)
  t.equal(store.state, 'refusing', 'the probe is refused as well')
  await redis.ask('CONFIG', 'SET', 'maxmemory', '0')
  t.match(await store.set('b', 'y', 1000), { kind: 'known' })
  await becomes('up')
  t.same(states, ['refusing', 'up'])
  t.match(world.told('redis-changed').at(-1), { to: 'up', because: 'out-of-memory', word: null })
})

void t.test(
  'M3: every way to refuse is told by its word, and over when that kind of command is accepted',
  async (t) => {
    const redis = await startRedis(t)
    const { store, world, becomes } = await upStore(t, redis.url)
    await redis.ask('ACL', 'SETUSER', 'default', '-@scripting')
    t.same(await store.run(setAndGet, ['b'], ['y']), unsure)
    t.match(world.told('redis-changed').at(-1), { to: 'refusing', because: 'no-permission', word: 'NOPERM' })
    t.match(await store.set('b', 'y', 1000), { kind: 'known' }, 'what is permitted is done')
    t.equal(store.state, 'refusing', 'and proves nothing')
    await redis.ask('ACL', 'SETUSER', 'default', '+@scripting')
    await becomes('up')

    for (const [command, operation] of [
      ['publish', () => store.publish('c', 'm')],
      ['unlink', () => store.delete(['b'])],
      ['get', () => store.get('b')],
    ] as const) {
      await redis.ask('ACL', 'SETUSER', 'default', `-${command}`)
      t.same(await operation(), unsure)
      t.equal(store.state, 'refusing', command)
      await redis.ask('ACL', 'SETUSER', 'default', `+${command}`)
      await becomes('up')
      t.match(await operation(), { kind: 'known' })
    }

    await redis.ask('CONFIG', 'SET', 'min-replicas-to-write', '1')
    t.same(await store.set('b', 'y', 1000), unsure)
    t.match(world.told('redis-changed').at(-1), { to: 'refusing', because: 'too-few-replicas', word: 'NOREPLICAS' })
    store.close()
    await redis.ask('CONFIG', 'SET', 'min-replicas-to-write', '0')
    await world.clock.advance(5_000)
    t.equal(world.clock.timers, 0)
  },
)

void t.test('a master that has become a replica: another connection is tried, then it is read', async (t) => {
  const redis = await startRedis(t)
  const { store, becomes } = await upStore(t, redis.url)
  await store.set('a', 'x', 600_000)
  await redis.ask('REPLICAOF', '127.0.0.1', '1')

  t.same(await store.set('a', 'y', 1000), unsure)
  await until(() => store.state === 'down')
  await until(() => store.state === 'refusing')
  for (let turn = 0; turn < 5; turn++) {
    t.same(await store.set('a', 'y', 1000), unsure)
    t.equal(text(await store.get('a')), 'x')
  }
  t.equal(store.state, 'refusing', 'not a new connection for each refusal')
  await redis.ask('REPLICAOF', 'NO', 'ONE')
  await becomes('up')
  t.match(await store.set('a', 'y', 1000), { kind: 'known' })
})

void t.test('a server that is still loading is left alone until it is done', async (t) => {
  const redis = await startRedis(t, ['--enable-debug-command', 'yes'])
  const { store, world, becomes } = await upStore(t, redis.url)
  await store.set('a', 'x', 600_000)
  await redis.ask('DEBUG', 'POPULATE', '20000')
  await redis.ask('CONFIG', 'SET', 'loading-process-events-interval-bytes', '1024')
  await redis.ask('CONFIG', 'SET', 'key-load-delay', '100')
  const reloading = redis.ask('DEBUG', 'RELOAD')
  await until(async () => (await redis.ask('GET', 'x')).startsWith('-LOADING'))

  for (let turn = 0; turn < 3; turn++) t.same(await store.get('a'), unsure)
  t.same(await store.get('a'), none)
  t.match(world.told('redis-changed').at(-1), { to: 'down', because: 'loading' })
  await redis.ask('CONFIG', 'SET', 'key-load-delay', '0')
  await reloading
  await becomes('up')
  t.equal(text(await store.get('a')), 'x')
})

void t.test('user names and passwords: from the URL or beside it; a wrong one is said to be wrong', async (t) => {
  const redis = await startRedis(t, [
    '--requirepass',
    'p@ss:word',
    '--user',
    'ann',
    'on',
    '>s3cret',
    '~*',
    '&*',
    '+@all',
  ])
  const { port } = redis
  await upStore(t, `redis://:${encodeURIComponent('p@ss:word')}@127.0.0.1:${port}`)
  await upStore(t, `redis://ann:s3cret@127.0.0.1:${port}`)
  const beside = openStore(t, { kind: 'single', url: redis.url }, { username: 'ann', password: 's3cret' })
  await beside.becomes('up')

  const { store, world } = openStore(t, { kind: 'single', url: `redis://:wrong@127.0.0.1:${port}` })
  await until(() => world.told('redis-changed').length > 0)
  t.match(world.told('redis-changed'), [{ to: 'down', because: 'auth' }])
  t.same(await store.get('a'), none)
  const without = openStore(t, { kind: 'single', url: redis.url })
  await until(() => without.world.told('redis-changed').length > 0)
  t.match(without.world.told('redis-changed'), [{ to: 'down', because: 'auth' }])
  t.notMatch(
    JSON.stringify([world.events, without.world.events]),
    /wrong|127\.0\.0\.1/,
    'no secret and no host is told',
  )
})

void t.test('a reset in the middle of a call, a thin line, a half-open one', async (t) => {
  const redis = await startRedis(t)
  const proxy = await startFaultProxy(t, redis.port)
  const { store, world, becomes } = await upStore(t, proxy.url)
  await store.set('big', Buffer.alloc(100_000, 'x'), 600_000)

  redis.pause()
  const cut = store.get('big')
  proxy.reset()
  t.same(await cut, unsure)
  redis.resume()
  await becomes('up')

  proxy.throttle(2_000)
  const thin = store.get('big')
  await world.clock.advance(timeoutMs)
  t.same(await thin, unsure)
  t.same(await store.get('big'), none)
  proxy.heal()
  await becomes('up')
  t.equal(text(await store.get('big'))?.length, 100_000)

  proxy.blackhole()
  const deaf = store.get('big')
  await world.clock.advance(timeoutMs)
  t.same(await deaf, unsure)
  // The dead socket is given up although nobody closes it, and a new one opened, which is dead as well.
  await until(() => world.told('redis-failed').some(({ operation }) => operation === 'connect'))
  proxy.reset()
  proxy.heal()
  await becomes('up')
  t.equal(text(await store.get('big'))?.length, 100_000)
})

void t.test('what waits for a dead server is bounded', async (t) => {
  const redis = await startRedis(t)
  const { store, world } = await upStore(t, redis.url)
  redis.pause()
  const calls = Array.from({ length: 1_200 }, () => store.get('a'))
  const before = world.clock.now()
  t.same(
    await Promise.all(calls.slice(1_000)),
    Array.from({ length: 200 }, () => none),
    'those beyond a thousand are turned away at once',
  )
  t.equal(world.clock.now(), before)
  await world.clock.advance(timeoutMs)
  t.same(
    await Promise.all(calls.slice(0, 1_000)),
    Array.from({ length: 1_000 }, () => unsure),
  )
})

void t.test('a closed store is away, and nothing of it stays', async (t) => {
  const redis = await startRedis(t)
  const { store, world } = await upStore(t, redis.url)
  redis.pause()
  const call = store.get('a')
  store.subscribe('c', { onMessage: () => {}, onSubscribed: () => {} })
  store.close()
  t.same(await call, unsure)
  t.same(await store.get('a'), none)
  t.equal(store.state, 'down')
  t.equal(world.clock.timers, 0)
})

interface Heard {
  readonly said: string[]
  readonly listener: Parameters<SharedStore['subscribe']>[1]
}

function ear(): Heard {
  const said: string[] = []
  return {
    said,
    listener: { onMessage: (message) => void said.push(message), onSubscribed: () => void said.push('(stands)') },
  }
}

void t.test('messages reach all who listen, and a subscription survives the server', async (t) => {
  const redis = await startRedis(t)
  const { store, becomes } = await upStore(t, redis.url)
  const { store: other } = await upStore(t, redis.url)
  const [first, second, third] = [ear(), ear(), ear()]
  store.subscribe('c', first.listener)
  await until(() => first.said.length === 1)
  const leaving = store.subscribe('c', second.listener)
  store.subscribe('d', third.listener)
  await until(() => second.said.length + third.said.length === 2)

  t.match(await other.publish('c', 'one'), { kind: 'known' })
  await until(() => second.said.length === 2)
  leaving.close()
  leaving.close()
  const speaking: SharedScript = {
    numberOfKeys: 0,
    replies: 'text',
    lua: `return redis.call('PUBLISH', ARGV[1], 'two')`,
  }
  t.same(await other.run(speaking, [], [other.channelName('c')]), { kind: 'known', value: 1 })
  await until(() => first.said.length === 3)
  t.same(first.said, ['(stands)', 'one', 'two'])
  t.same(second.said, ['(stands)', 'one'])
  t.same(third.said, ['(stands)'])

  await redis.kill()
  await redis.restart()
  await becomes('up')
  await until(() => first.said.length === 4 && third.said.length === 2)
  await until(async () => (await other.publish('c', 'three')).kind === 'known')
  await until(() => first.said.length > 4)
  t.same(first.said, ['(stands)', 'one', 'two', '(stands)', 'three'])
})

void t.test('a subscription whose line is dead without a word is found out', async (t) => {
  const redis = await startRedis(t)
  const proxy = await startFaultProxy(t, redis.port)
  const { store, world, becomes } = await upStore(t, proxy.url)
  const heard = ear()
  const subscription = store.subscribe('c', heard.listener)
  await until(() => heard.said.length === 1)
  await world.clock.advance(20_000)
  t.same(heard.said, ['(stands)'], 'the heartbeat is not told to listeners')

  proxy.blackhole()
  await world.clock.advance(5_000)
  await until(() => world.told('redis-failed').some(({ operation }) => operation === 'subscribe'))
  proxy.reset()
  proxy.heal()
  await becomes('up')
  await until(async () => {
    await world.clock.advance(500)
    return heard.said.length > 1
  })
  await store.publish('c', 'again')
  await until(() => heard.said.includes('again'))
  subscription.close()
  await until(async () => (await redis.ask('PUBSUB', 'CHANNELS')) === '*0\r\n')
  t.pass('the last to leave ends the subscription')
})

void t.test('Sentinel: the master dies, its replica takes over, nobody has to do anything', async (t) => {
  const { urls, name, master, replica } = await startSentinels(t)
  const { store, becomes } = openStore(t, { kind: 'sentinel', urls, name })
  await becomes('up')
  const heard = ear()
  store.subscribe('c', heard.listener)
  await until(() => heard.said.length === 1)
  await store.set('a', 'x', 600_000)
  await until(async () => (await replica.ask('GET', 't:a')).includes('x'))

  await master.kill()
  await until(() => store.state === 'down')
  t.same(await store.get('a'), none)
  await becomes('up')
  t.equal(text(await store.get('a')), 'x')
  t.match(await store.set('a', 'y', 1000), { kind: 'known' })
  await becomes('up')
  await until(() => heard.said.length > 1)
  t.match(await replica.ask('ROLE'), 'master')
})

void t.test('Cluster: every key has its server, and one that hangs costs the others nothing', async (t) => {
  const nodes = await startCluster(t)
  const { store, world, becomes } = openStore(t, { kind: 'cluster', urls: nodes.map(({ url }) => url) })
  await becomes('up')
  const keys = Array.from({ length: 30 }, (_, number) => `k${number}`)
  for (const key of keys) t.match(await store.set(key, key, 600_000), { kind: 'known' })
  for (const key of keys) t.equal(text(await store.get(key)), key)
  for (const node of nodes) t.notMatch(await node.ask('DBSIZE'), ':0', 'all of them have something')
  t.same(await store.delete(['k0', 'k1', 'k2', 'unknown']), { kind: 'known', value: 3 })
  const pair: SharedScript = {
    numberOfKeys: 2,
    replies: 'text',
    lua: `redis.call('SET', KEYS[1], 1) redis.call('SET', KEYS[2], 2) return 'both'`,
  }
  t.same(await store.run(pair, ['{x}a', '{x}b'], []), { kind: 'known', value: 'both' })
  t.same(await store.run(pair, ['x', 'y'], []), unsure, 'keys of two servers are refused')
  const heard = ear()
  store.subscribe('c', heard.listener)
  await until(() => heard.said.length === 1)
  for (let turn = 0; turn < 10; turn++) await store.publish('c', `m${turn}`)
  await until(() => heard.said.length === 11)

  // Found out by asking: which keys are on the node that is about to hang.
  const [hanging] = nodes
  const theirs: string[] = []
  for (const key of keys.slice(3)) if ((await hanging?.ask('EXISTS', `t:${key}`)) === ':1\r\n') theirs.push(key)
  const others = keys.slice(3).filter((key) => !theirs.includes(key))
  const [one = ''] = theirs
  hanging?.pause()
  const first = store.get(one)
  await world.clock.advance(timeoutMs)
  t.same(await first, unsure)
  const before = world.clock.now()
  for (const key of theirs) t.same(await store.get(key), none)
  for (const key of others) t.equal(text(await store.get(key)), key)
  t.same(await store.delete([one, others[0] ?? '']), unsure)
  t.equal(world.clock.now(), before, 'no time has passed')
  t.equal(store.state, 'down', 'a part of it is away, and that is said')
  hanging?.resume()
  await becomes('up')
  t.equal(text(await store.get(one)), one)
})

void t.test('Cluster: nobody there at first, then all', async (t) => {
  const nodes = await startCluster(t)
  for (const node of nodes) node.pause()
  const { store, world, becomes } = openStore(t, { kind: 'cluster', urls: nodes.map(({ url }) => url) })
  t.same(await store.get('a'), none)
  await until(() => world.told('redis-changed').length > 0)
  for (const node of nodes) node.resume()
  await becomes('up')
  t.same(await store.get('a'), { kind: 'known', value: null })
})

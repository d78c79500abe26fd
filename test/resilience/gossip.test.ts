/** What replicas tell each other through a real Redis: keys that rest. */
import fc from 'fast-check'
import t, { type Test } from 'tap'
import type { FailureClass } from '../../src/failures.ts'
import type { KeyCondition } from '../../src/keys/key-state.ts'
import { Secret } from '../../src/keys/secret.ts'
import { createSharedCooldowns, type RemoteCooldown, type SharedCooldowns } from '../../src/keys/shared-cooldowns.ts'
import type { SharedListener, SharedStore } from '../../src/ports.ts'
import { createGossip } from '../../src/resilience/gossip.ts'
import { createClock } from '../../src/world/clock.ts'
import { createRandom } from '../../src/world/random.ts'
import { createRedis } from '../../src/world/redis.ts'
import { type RedisProcess, startRedis, until } from '../support/redis.ts'
import { epoch, type FakeClock, fakeClock } from '../support/world.ts'

const random = createRandom()
const minute = 60_000

interface Opened {
  readonly store: SharedStore
  readonly clock: FakeClock
}

async function open(t: Test, redis: RedisProcess): Promise<Opened> {
  const place = { kind: 'single', url: redis.url } as const
  const access = { place, username: null, password: null, database: 0, timeoutMs: 5_000, prefix: 't:' }
  const store = createRedis(access, createClock(), random, () => {})
  t.teardown(() => store.close())
  await until(() => store.state === 'up')
  return { store, clock: fakeClock() }
}

/** The subscription stands, and what was kept has been read. */
async function listening(redis: RedisProcess, channel: string, count: number): Promise<void> {
  await until(async () => (await redis.ask('PUBSUB', 'NUMSUB', channel)).includes(`:${count}\r\n`))
}

/** A store that hands over the listener, and keeps what was run. */
function deaf(): { readonly store: SharedStore; readonly heard: () => SharedListener; readonly sent: unknown[][] } {
  let listener: SharedListener | null = null
  const sent: unknown[][] = []
  const away = async () => ({ kind: 'away', sent: false }) as const
  return {
    sent,
    heard: () => listener ?? { onMessage() {}, onSubscribed() {} },
    store: {
      get: away,
      set: away,
      delete: away,
      publish: away,
      async run(_script, keys, args) {
        sent.push([...keys, ...args])
        return { kind: 'away', sent: false }
      },
      channelName: (channel) => channel,
      subscribe(_channel, one) {
        listener = one
        return { close() {} }
      },
      state: 'up',
      trouble: null,
      trust: () => false,
      onState: () => () => {},
      close() {},
    },
  }
}

type Told = readonly [name: string, note: string, leftMs: number]

function hintsOver({ store, clock }: Opened) {
  const told: Told[] = []
  const names = (): string[] => ['alpha', 'beta']
  const heard = (...all: Told): void => void told.push(all)
  const hints = createGossip({
    store,
    clock,
    random,
    topic: 'rest',
    names,
    maxLeftMs: () => 5 * minute,
    heard,
  })
  return { hints, told }
}

void t.test('What is told while Redis is away is told when it is back', async (t) => {
  const redis = await startRedis(t)
  const one = await open(t, redis)
  const two = await open(t, redis)
  const [first, second] = [hintsOver(one), hintsOver(two)]
  await listening(redis, 't:hints:rest', 2)
  const betas = (): number => second.told.filter(([name]) => name === 'beta').length
  first.hints.tell('beta', 'open', 1_000)
  // It may arrive twice: as a message, and in what a new subscriber reads.
  await until(() => betas() > 0)
  await redis.kill()
  await until(() => one.store.state === 'down' && two.store.state === 'down')
  const before = betas()
  first.hints.tell('alpha', 'open', minute)
  await one.clock.advance(2_000)
  await redis.restart()
  await until(() => second.told.some(([name]) => name === 'alpha'))
  const [, , leftMs] = second.told.find(([name]) => name === 'alpha') ?? ['', '', 0]
  t.ok(leftMs > 0 && leftMs <= minute - 2_000)
  t.equal(betas(), before, 'what is over is not told again')
  t.strictSame(first.told, [], 'what it said itself is no news')
})

void t.test('A forged hint is nothing, or is bounded', async (t) => {
  const { store, heard } = deaf()
  const { told } = hintsOver({ store, clock: fakeClock() })
  for (const text of [
    '',
    'x'.repeat(100_000),
    '1 me 60000 alpha',
    '2 me 60000 alpha open',
    '1 me -5 alpha open',
    '1 me 0 alpha open',
    '1 me 1e9 alpha open',
    '1 me 60000 gamma open',
    '1 me 60000 __proto__ open',
    '1 me 60000 alpha open\n',
    '{"name":"alpha"}',
  ]) {
    heard().onMessage(text)
    t.strictSame(told, [], `is nothing: ${text.slice(0, 30)}`)
  }
  heard().onMessage('1 me 999999999999 alpha open')
  t.strictSame(told, [['alpha', 'open', 5 * minute]])
  t.doesNotThrow(() =>
    fc.assert(fc.property(fc.string({ unit: 'binary', maxLength: 600 }), (text) => heard().onMessage(text))),
  )
})

void t.test('A hint that was kept holds no longer than it is kept, and only under its own name', async (t) => {
  const redis = await startRedis(t)
  const one = await open(t, redis)
  await redis.ask('SET', 't:hints:{circuit/alpha}', '1 other 60000 alpha open', 'PX', '30000')
  await redis.ask('SET', 't:hints:{circuit/beta}', '1 other 60000 alpha open')
  const told: [string, string, number][] = []
  const hints = createGossip({
    ...one,
    random,
    topic: 'circuit',
    names: () => ['beta', 'alpha'],
    maxLeftMs: () => minute,
    heard: (...all) => void told.push(all),
  })
  await until(() => told.length > 0)
  t.match(told, [['alpha', 'open', Number]])
  t.ok((told[0]?.[2] ?? 0) <= 30_000)
  hints.tell('alpha', 'open', 1_000)
  await redis.ask('SET', 't:hints:{circuit/alpha}', 'garbage', 'PX', '30000')
  hints.tell('alpha', 'open', 50_000)
  await until(async () => (await redis.ask('GET', 't:hints:{circuit/alpha}')).includes(' 50000 alpha open'))
  hints.tell('alpha', 'open', 20_000)
  hints.tell('beta', 'open', 10 * minute)
  await until(async () => (await redis.ask('GET', 't:hints:{circuit/beta}')).includes(' 60000 beta open'))
  t.match(await redis.ask('GET', 't:hints:{circuit/alpha}'), / 50000 alpha/, 'the longer one is kept')
})

// Keys

const secret = new Secret('vendor-key-that-nobody-may-see')
const resting = (untilAt: number, reason: FailureClass = 'rateLimited'): KeyCondition => ({
  kind: 'resting',
  reason,
  untilAt,
  tryAt: 0,
  trialAt: null,
})

function rests({ store, clock }: Opened): { readonly rests: SharedCooldowns; readonly heard: RemoteCooldown[] } {
  const heard: RemoteCooldown[] = []
  const made = createSharedCooldowns({
    clock,
    openHints: (listener) =>
      createGossip({
        store,
        clock,
        random,
        topic: 'key',
        names: () => ['main', 'spare'],
        maxLeftMs: () => 60 * minute,
        heard: listener,
      }),
  })
  made.recall('main', secret)
  made.recall('spare', new Secret('another-one'))
  made.follow((rest) => {
    heard.push(rest)
    // As the pool does: whatever a key gets into is noted.
    made.note(rest.name, rest.name === 'main' ? secret : new Secret('another-one'), resting(rest.untilAt))
  })
  return { rests: made, heard }
}

void t.test('A key that rests on one replica rests on the others, for the same reason and as long', async (t) => {
  const redis = await startRedis(t)
  const one = await open(t, redis)
  const two = await open(t, redis)
  const [first, second] = [rests(one), rests(two)]
  await listening(redis, 't:hints:key', 2)

  first.rests.note('main', secret, resting(epoch + 15 * minute, 'creditsExhausted'))
  await until(() => second.heard.length === 1)
  t.strictSame(second.heard, [{ name: 'main', because: 'creditsExhausted', untilAt: epoch + 15 * minute }])
  t.strictSame(first.heard, [], 'and nothing echoes')

  first.rests.note('main', secret, resting(epoch + 15 * minute + 500, 'creditsExhausted'))
  first.rests.note('main', secret, { kind: 'ready' })
  first.rests.note('main', secret, resting(epoch - 1, 'creditsExhausted'))
  first.rests.note('spare', secret, resting(epoch + minute, 'emptyResult'))
  first.rests.note('main', secret, resting(epoch + 40 * minute, 'unauthorized'))
  await until(() => second.heard.length === 2)
  t.match(
    second.heard[1],
    { because: 'unauthorized', untilAt: epoch + 40 * minute },
    'longer is news, moments are none',
  )
  second.rests.note('main', secret, resting(epoch + 10 * minute))
  t.strictSame(first.heard, [])
  t.notMatch(await redis.ask('GET', 't:hints:{key/main}'), /nobody-may-see/)

  const third = rests(await open(t, redis))
  await until(() => third.heard.length === 1)
  t.match(third.heard, [{ name: 'main', because: 'unauthorized' }], 'who comes later reads it')
  t.ok((third.heard[0]?.untilAt ?? 0) <= epoch + 40 * minute, 'and adds nothing to it')
  for (const each of [first, second, third]) each.rests.close()
})

void t.test(
  'A rest that was not signed with the secret of the key is no rest, nor is one sent again much later',
  async (t) => {
    const clock = fakeClock()
    const { store, heard, sent } = deaf()
    const honest = rests({ store, clock })
    honest.rests.note('main', secret, resting(epoch + 5 * minute))
    const message = String(sent[0]?.[2]).replace(/^1 \S+/, '1 another')
    t.match(message, /^1 another 300000 main rateLimited\.300000\.\d+\.[0-9a-f]{32}$/)

    const target = rests({ store, clock })
    const say = (text: string): number => {
      heard().onMessage(text)
      return target.heard.length
    }
    t.equal(say(message.replace('rateLimited', 'unauthorized')), 0)
    t.equal(say(message.replace('.300000.', '.900000.')), 0)
    t.equal(say(message.replace(/.$/, (digit) => (digit === '0' ? '1' : '0'))), 0)
    t.equal(say(message.replace(' main ', ' spare ')), 0, 'it is of another key')
    t.equal(say('1 another 300000 main rateLimited'), 0)
    t.equal(say('1 another 300000 main .300000.1764000000000.00000000000000000000000000000000'), 0)
    t.equal(say(message.replace(' 300000 ', ' 60000 ')), 1)
    t.equal(target.heard[0]?.untilAt, epoch + minute, 'who is told less rests less')
    t.equal(say(message.replace(' 300000 ', ' 900000 ')), 2)
    t.equal(target.heard[1]?.untilAt, epoch + 5 * minute, 'and never more than was signed')
    await clock.advance(4 * minute)
    t.equal(say(message), 3)
    t.equal(target.heard[2]?.untilAt, epoch + 6 * minute, 'sent again, it is the slack of two clocks too long at most')
    await clock.advance(3 * minute)
    t.equal(say(message), 3)

    target.rests.note('main', new Secret('its successor'), { kind: 'ready' })
    t.equal(say(message), 3, 'another secret is not meant')
  },
)

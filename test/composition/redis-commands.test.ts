/** What one request asks of Redis: which commands, and how many round trips that wait for each other. */
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { SharedStore } from '../../src/ports.ts'
import { aProxy, type Proxy } from '../support/proxy.ts'
import { startRedis, until } from '../support/redis.ts'

const TOKEN = { 'x-api-key': 'token-of-the-team-0123456789' }
const LIMITS = 'rate: { limit: 1000000, per: 1s }, concurrency: 1000, credits: { perDay: 100000 }'

interface Counted {
  /** By what they are about, in order. */
  commands: string[]
  /** Commands that were sent while no other was under way: each of these is a round trip of its own. */
  roundTrips: number
}

async function aCountedProxy(t: Test, limits = LIMITS): Promise<{ proxy: Proxy; counted: Counted }> {
  const redis = await startRedis(t)
  const counted: Counted = { commands: [], roundTrips: 0 }
  const audit = join(t.testdir(), 'audit.ndjson')
  const team = `clients: { team: { token: ${TOKEN['x-api-key']}, ${limits} } }`
  const settings = `redis: { url: "${redis.url}" }\naudit: { path: "${audit}" }\n${team}`
  const proxy = await aProxy(t, settings, { watchShared: (store) => counting(store, counted) })
  await until(() => proxy.output().includes('redis is up'))
  // The first miss leases credits that are enough for many.
  for (let n = 1; n <= 5; n += 1) await miss(proxy, counted, `before ${n}`)
  Object.assign(counted, { commands: [], roundTrips: 0 })
  return { proxy, counted }
}

/** Asks, and waits until the other replicas know the answer. */
async function miss(proxy: Proxy, { commands }: Counted, prompt: string): Promise<void> {
  const before = commands.filter((name) => name === 'answer and flight').length
  t.match((await proxy.ask(prompt, { headers: TOKEN })).headers, { 'x-proxy-attempts': '1' })
  await until(() => commands.filter((name) => name === 'answer and flight').length > before)
}

function counting(store: SharedStore, counted: Counted): SharedStore {
  let underWay = 0
  return {
    ...store,
    get state() {
      return store.state
    },
    get trouble() {
      return store.trouble
    },
    async run(script, keys, args) {
      const name = nameOf(keys, args)
      if (name === null) return store.run(script, keys, args)
      counted.commands.push(name)
      if (underWay === 0) counted.roundTrips += 1
      underWay += 1
      const reply = await store.run(script, keys, args)
      underWay -= 1
      return reply
    },
  }
}

/** Null = what is said or asked once in a while for all requests: signs of life, purges, and what has become free or was spent. */
function nameOf(keys: readonly string[], args: readonly unknown[]): string | null {
  const [first = '', second = ''] = keys
  if (first.startsWith('session:') || first === 'purges' || first.endsWith(':permits')) return null
  if (first.endsWith(':rate')) return second.endsWith(':permits') ? 'rate and permit' : 'rate'
  if (first.endsWith(':credits')) return args[5] === 0 && args[6] === 0 ? null : 'credits'
  if (first.startsWith('flight-')) return 'flight'
  return keys.length === 1 ? 'answer' : 'answer and flight'
}

void t.test('a miss takes five commands, and three round trips before ScrapeLLM is asked', async (t) => {
  const { proxy, counted } = await aCountedProxy(t)
  proxy.sim.script({ prompt: 'held' }, ['hold'])
  const answer = miss(proxy, counted, 'held')
  await proxy.sim.received(1, { prompt: 'held' })
  t.strictSame(counted, { commands: ['rate and permit', 'answer', 'flight', 'credits'], roundTrips: 3 })
  proxy.sim.release()
  await answer
  t.strictSame(counted.commands.slice(4), ['answer and flight'])
})

void t.test('a hit in memory takes one command, and none without a rate limit', async (t) => {
  async function commandsOfAHit(limits: string): Promise<readonly string[]> {
    const { proxy, counted } = await aCountedProxy(t, limits)
    const ask = () => proxy.ask('before 1', { headers: TOKEN })
    // An answer in memory is looked up in Redis again after a while.
    await ask()
    counted.commands = []
    t.match((await ask()).headers['cache-status'], /hit.*detail=memory/)
    return counted.commands
  }

  t.strictSame(await commandsOfAHit(LIMITS), ['rate and permit'])
  t.strictSame(await commandsOfAHit('concurrency: 1000, credits: { perDay: 100000 }'), [])
})

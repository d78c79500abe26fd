/** What users notice when there are more questions than places for calls, or no credits: over real sockets, with the simulator behind. */
import t from 'tap'
import { aProxy } from '../support/proxy.ts'

const one = { headers: { 'x-api-key': 'one-token-0123456789' } }
const two = { headers: { 'x-api-key': 'two-token-0123456789' } }

function clients(more: string): string {
  return `
clients:
  one: { token: one-token-0123456789, rate: { limit: 2, per: 1h, burst: 2 } }
  two: { token: two-token-0123456789${more} }
`
}

void t.test('a request refused for lack of a permit says so, and its rate token is returned', async (t) => {
  const { ask, sim } = await aProxy(t, `upstream: { maxConcurrent: 1, queue: { size: 0 } }\n${clients('')}`)
  sim.script({ prompt: 'long' }, ['hold'])
  const long = ask('long', two)
  await sim.received(1)
  for (let i = 0; i < 5; i += 1) {
    t.match(await ask('other', one), {
      status: 503,
      json: { code: 'OVERLOADED', reason: 'places' },
      headers: { 'retry-after': /^[1-5]$/, ratelimit: /r=2/ },
    })
  }
  sim.release()
  await long
  t.match(await ask('other', one), { status: 200, headers: { ratelimit: /r=1/ } })
})

void t.test('without permits or credits, an expired answer is returned', async (t) => {
  const proxy = await aProxy(
    t,
    `cache: { ttl: 1s, staleIfError: 12h }\nupstream: { maxConcurrent: 1, queue: { size: 0 } }\n${clients(', credits: { perDay: 3 }')}`,
  )
  const { ask, sim, clock } = proxy
  t.equal((await ask('known', two)).status, 200)
  clock.skip(2_000)
  const stale = { status: 200, headers: { 'cache-status': /hit; ttl=-\d+; detail=stale-if-error/ } }
  t.match(await ask('known', two), stale, 'its three credits are spent')
  t.match(await ask('new', two), { status: 429, json: { code: 'BUDGET_EXHAUSTED' } })
  sim.script({ prompt: 'long' }, ['hold'])
  const long = ask('long', one)
  await sim.received(2)
  t.match(await ask('known', one), stale, 'the only place is taken')
  sim.release()
  await long
})

void t.test('a call waits in the queue only as long as its client waits', async (t) => {
  const { ask, sim, metric } = await aProxy(t, `upstream: { maxConcurrent: 1 }\n${clients('')}`)
  sim.script({ prompt: 'long' }, ['hold'])
  const long = ask('long', two)
  await sim.received(1)
  const patient = ask('patient', two)
  t.match(await ask('hasty', { headers: { ...two.headers, 'x-request-timeout': '1' } }), {
    status: 504,
    json: { code: 'DEADLINE_EXCEEDED' },
    headers: { 'x-proxy-attempts': '0' },
  })
  sim.release()
  t.match([await long, await patient], [{ status: 200 }, { status: 200 }])
  t.equal((await metric('upstream_queue_length'))['scraper="chatgpt"'], 0)
  t.strictSame(
    sim.requests.map(({ prompt }) => prompt),
    ['long', 'patient'],
    'nobody waits for the hasty one any more',
  )
})

void t.test('batch requests run when no interactive one waits', async (t) => {
  const { ask, sim, until } = await withQueue(t)
  sim.script({ prompt: 'long' }, ['hold'])
  const all = [ask('long', one)]
  await sim.received(1)
  for (const [index, prompt] of ['batch 1', 'batch 2', 'batch 3'].entries()) {
    all.push(ask(prompt, two))
    await until(index + 1)
  }
  all.push(ask('interactive', one))
  await until(4)
  sim.release()
  await Promise.all(all)
  t.strictSame(
    sim.requests.map(({ prompt }) => prompt),
    ['long', 'interactive', 'batch 1', 'batch 2', 'batch 3'],
  )
})

async function withQueue(t: Parameters<typeof aProxy>[0]) {
  const proxy = await aProxy(t, `upstream: { maxConcurrent: 1 }\n${clients(', priority: batch')}`)
  const places = async () => (await proxy.admin('/status')).json['places'] as { scraper: string; waiting: number }[]
  return {
    ...proxy,
    /** So many wait for a place. */
    async until(waiting: number) {
      for (;;) if ((await places()).some((one) => one.waiting === waiting)) return
    },
  }
}

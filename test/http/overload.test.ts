/**
 * The whole proxy when it is too much: what is shed and what still comes, attacks A18, A58, A65 and A66 over real sockets, and
 * more connections than there may be. Nothing is timed: floods are bounded in number, and what is left of them is counted.
 */
import t from 'tap'
import type { Pressure } from '../../src/ports.ts'
import { aProxy } from '../support/proxy.ts'

const calm: Pressure = { eventLoopDelayMs: 0, eventLoopBusy: 0, memory: 0.1 }

void t.test(
  'short of memory, known answers still come and nothing new is asked; then nothing comes at all',
  async (t) => {
    let pressure = calm
    const proxy = await aProxy(t, '', { pressure: () => pressure })
    const looks = (count: number): void => {
      for (let i = 0; i < count; i += 1) proxy.clock.skip(500)
    }
    const states = async () => ({
      metric: (await proxy.metric('overload_state'))[''],
      status: (await proxy.admin('/status')).json['overload'],
      health: (await proxy.admin('/healthz')).status,
      ready: (await proxy.admin('/readyz')).status,
    })
    t.equal((await proxy.ask('known')).status, 200)
    t.match(await states(), { metric: 0, status: 'calm', health: 200, ready: 200 })

    pressure = { ...calm, memory: 0.9 }
    looks(4)
    t.match((await proxy.ask('known')).headers['cache-status'], /hit/)
    const refused = await proxy.ask('new')
    t.match(refused, { status: 503, headers: { 'x-proxy-code': 'OVERLOADED', 'retry-after': /^[1-5]$/ } })
    t.match(refused.json, { code: 'OVERLOADED', detail: /known answers/ })
    t.equal((await proxy.ask('/scrapers/chatgpt/jobs?prompt=new', { method: 'POST' })).status, 503)
    t.match(await states(), { metric: 1, status: 'shedding', health: 200, ready: 200 })
    t.match((await proxy.admin('/status')).json, {
      health: { state: 'degraded', because: ['overloaded, misses are refused: memory is nearly full'] },
    })

    pressure = { ...calm, memory: 0.97 }
    looks(4)
    const all = await proxy.ask('known')
    t.match(all, { status: 503, headers: { 'x-proxy-code': 'OVERLOADED', connection: 'close' } })
    t.match(await states(), { metric: 2, status: 'critical', health: 200, ready: 200 })

    pressure = calm
    looks(20)
    t.equal((await proxy.ask('new')).status, 200)
    t.match(await states(), { metric: 0, status: 'calm' })
    t.match((await proxy.admin('/status')).json, { health: { state: 'ok' } })
    t.equal(proxy.sim.requests.length, 2, 'nothing was asked meanwhile')
    t.match(
      proxy.lines().filter(({ msg }) => String(msg).startsWith('overload')),
      [
        { level: 'warn', msg: 'overload: misses are refused', because: 'memory', memory: 0.9 },
        { level: 'error', msg: 'overload: all new requests are refused', because: 'memory', memory: 0.97 },
        { level: 'warn', msg: 'overload: misses are refused', because: 'memory', memory: 0.1 },
        { level: 'info', msg: 'overload is over', because: null },
      ],
    )
  },
)

void t.test('an expired answer that may be given instead of an error is given instead of OVERLOADED', async (t) => {
  let pressure = calm
  const proxy = await aProxy(t, 'cache: { ttl: 1h, staleIfError: 12h }', { pressure: () => pressure })
  await proxy.ask('known')
  proxy.clock.skip(2 * 3_600_000)
  pressure = { ...calm, eventLoopDelayMs: 300, eventLoopBusy: 1 }
  for (let i = 0; i < 4; i += 1) proxy.clock.skip(500)
  t.match((await proxy.ask('known')).headers['cache-status'], /stale-if-error/)
  t.equal((await proxy.ask('new')).status, 503)
})

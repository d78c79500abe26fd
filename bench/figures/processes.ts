/**
 * P9: two processes on one port, with what they share in Redis, against one. Nothing is pinned: with two cores the load and Redis
 * take their part of both. So the CPU time says, too, what two free cores would give.
 */
import { interleaved, failures, ratios, row, type Figure } from '../figure.ts'
import { asking, full, own } from '../load.ts'
import { freePort, startNode } from '../program.ts'
import { startProxy } from '../proxy.ts'
import { startRedis } from '../redis.ts'

const QUESTIONS = 1_000
/** A rate would be counted in Redis for each request, and Redis is not what is measured. */
const UNLIMITED = 'clients: { client-0: { token: bench-client-token-0 } }'

export const processes: Figure = {
  ids: ['P9'],
  title: 'two processes on one port',
  async measure({ rounds, quick }) {
    const redis = await startRedis()
    if (!redis) return []
    const upstream = await startNode('bench/programs/upstream.ts', 'load')
    const settings = [UNLIMITED, 'cache: {}', `redis: { url: "redis://127.0.0.1:${redis.port}" }`]
    const [alone, shared] = [await freePort(), await freePort()]
    const started = await Promise.all(
      [alone, shared, shared].map((port) => startProxy({ upstreamPort: upstream.port, settings, port, core: 'any' })),
    )
    const [one, two, three] = started
    if (!one || !two || !three) return []
    for (const port of [alone, shared, shared]) {
      await own({ port, connections: 16, requests: QUESTIONS * 4, ...asking(QUESTIONS) })
    }
    const contestants = [
      { name: 'one', program: one },
      { name: 'two', program: { ...two, cpuMs: () => two.cpuMs() + three.cpuMs() } },
    ]
    const samples = await interleaved(contestants, Math.min(rounds, 4), ({ program: { port } }) =>
      full(port, quick ? 1 : 3, asking(QUESTIONS)),
    )
    await Promise.all([...started.map((program) => program.stop()), redis.stop(), upstream.stop()])
    const [single = [], double = []] = [samples.get('one'), samples.get('two')]
    const rates = ratios(
      double.map(({ perSecond }) => perSecond),
      single.map(({ perSecond }) => perSecond),
    )
    const perCore = ratios(
      single.map(({ cpuUs }) => 2 * cpuUs),
      double.map(({ cpuUs }) => cpuUs),
    )
    const failed = failures(single) + failures(double)
    return [
      row('P9', 'hits/s of two processes with Redis / of one', 'x', rates, { least: 1.7 }, failed),
      row('P9', 'the same by CPU time per hit, as on two free cores', 'x', perCore, { least: 1.7 }, failed),
    ]
  },
}

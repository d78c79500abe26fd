/** P4: what a caller waits longer for an answer than without the proxy, at 200 misses a second. */
import { failures, interleaved, row, type Figure } from '../figure.ts'
import { asking, own } from '../load.ts'
import { startNode } from '../program.ts'
import { startProxy } from '../proxy.ts'

const MANY = 1_000_000_000
const PER_SECOND = 200

export const added: Figure = {
  ids: ['P4'],
  title: 'time added to a miss',
  async measure({ rounds, quick }) {
    const upstream = await startNode('bench/programs/upstream.ts', 'load')
    const proxy = await startProxy({ upstreamPort: upstream.port })
    const contestants = [
      { name: 'direct', program: upstream },
      { name: 'proxy', program: proxy },
    ]
    const samples = await interleaved(contestants, Math.min(rounds, 3), ({ program: { port } }, round) => {
      const seconds = quick ? 2 : 8
      return own({ port, connections: 32, perSecond: PER_SECOND, seconds, ...asking(MANY, round * 1_000_000) })
    })
    await Promise.all([proxy.stop(), upstream.stop()])
    const [ours = [], direct = []] = [samples.get('proxy'), samples.get('direct')]
    const failed = failures(ours) + failures(direct)
    const more = (of: 'p50Ms' | 'p99Ms'): number[] =>
      ours.map((sample, round) => sample[of] - (direct[round]?.[of] ?? 0))
    return [
      row('P4', `time added to a miss at ${PER_SECOND}/s, p50`, 'ms', more('p50Ms'), { most: 0.5 }, failed),
      row('P4', `time added to a miss at ${PER_SECOND}/s, p99`, 'ms', more('p99Ms'), { most: 5 }, failed),
    ]
  },
}

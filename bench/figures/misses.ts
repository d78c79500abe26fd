/** P3: how many questions per second are asked upstream, beside http-proxy-3 as it comes. */
import { failures, interleaved, ratios, row, type Figure } from '../figure.ts'
import { asking, full } from '../load.ts'
import { startNode } from '../program.ts'
import { startProxy } from '../proxy.ts'

const MANY = 1_000_000_000

export const misses: Figure = {
  ids: ['P3'],
  title: 'misses as fast as they come',
  async measure({ rounds, quick }) {
    const upstream = await startNode('bench/programs/upstream.ts', 'load')
    const stock = await startNode('bench/programs/stock.ts', 'server', [
      '--target',
      `http://127.0.0.1:${upstream.port}`,
    ])
    const proxy = await startProxy({ upstreamPort: upstream.port })
    const contestants = [
      { name: 'stock', program: stock },
      { name: 'proxy', program: proxy },
    ]
    // Each round asks what nobody has asked before.
    const samples = await interleaved(contestants, rounds, ({ program }, round) =>
      full(program.port, quick ? 1 : 4, asking(MANY, round * 10_000_000)),
    )
    await Promise.all([stock.stop(), proxy.stop(), upstream.stop()])
    const [ours = [], theirs = []] = [samples.get('proxy'), samples.get('stock')]
    const failed = failures(ours) + failures(theirs)
    const rates = ratios(
      ours.map(({ perSecond }) => perSecond),
      theirs.map(({ perSecond }) => perSecond),
    )
    const costs = ratios(
      theirs.map(({ cpuUs }) => cpuUs),
      ours.map(({ cpuUs }) => cpuUs),
    )
    return [
      row('P3', 'miss, requests/s: proxy / stock http-proxy-3', 'x', rates, { least: 1 }, failed),
      row('P3', 'miss, CPU time per request: stock / proxy', 'x', costs, null, failed),
      row(
        'P3',
        'miss, requests/s: proxy',
        '/s',
        ours.map(({ perSecond }) => perSecond),
        null,
        failed,
      ),
      row(
        'P3',
        'miss, requests/s: stock http-proxy-3',
        '/s',
        theirs.map(({ perSecond }) => perSecond),
        null,
        failed,
      ),
      row(
        'P3',
        'miss, CPU time per request: proxy',
        'us',
        ours.map(({ cpuUs }) => cpuUs),
        null,
        failed,
      ),
    ]
  },
}

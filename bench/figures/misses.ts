/** P3: how many questions per second are asked upstream, beside http-proxy-3 as it comes, and beside other programs. */
import { failures, interleaved, ratios, row, type Contestant, type Figure, type Row, type Sample } from '../figure.ts'
import { asking, full, portkeyAsking } from '../load.ts'
import { startPeers } from '../peers.ts'
import { startNode } from '../program.ts'
import { startProxy } from '../proxy.ts'

const MANY = 1_000_000_000
const goals: ReadonlyMap<string, number> = new Map([
  ['stock http-proxy-3', 0.85],
  ['portkey', 5],
])

export const misses: Figure = {
  ids: ['P3'],
  title: 'misses as fast as they come',
  async measure({ peers, rounds, quick }) {
    const upstream = await startNode('bench/programs/upstream.ts', 'load')
    const target = ['--target', `http://127.0.0.1:${upstream.port}`]
    const contestants: Contestant[] = [
      { name: 'stock http-proxy-3', program: await startNode('bench/programs/stock.ts', 'server', target) },
      { name: 'proxy', program: await startProxy({ upstreamPort: upstream.port }) },
      ...(peers ? await startPeers(upstream.port, () => true) : []),
    ]
    // Each round asks what nobody has asked before.
    const samples = await interleaved(contestants, rounds, ({ name, program: { port } }, round) =>
      full(port, quick ? 1 : 4, name === 'portkey' ? portkeyAsking(upstream.port) : asking(MANY, round * 10_000_000)),
    )
    await Promise.all([...contestants.map(({ program }) => program.stop()), upstream.stop()])
    return rowsOf(samples)
  },
}

function rowsOf(samples: ReadonlyMap<string, readonly Sample[]>): Row[] {
  const of = (name: string): readonly Sample[] => samples.get(name) ?? []
  const rates = (name: string): number[] => of(name).map(({ perSecond }) => perSecond)
  const costs = (name: string): number[] => of(name).map(({ cpuUs }) => cpuUs)
  const failed = failures(of('proxy'))
  const rows = [
    row('P3', 'miss, requests/s: proxy', '/s', rates('proxy'), null, failed),
    row('P3', 'miss, CPU time per request: proxy', 'us', costs('proxy'), null, failed),
  ]
  for (const name of samples.keys()) {
    if (name === 'proxy') continue
    const least = goals.get(name)
    const lost = failed + failures(of(name))
    const goal = least === undefined ? null : { least }
    rows.push(
      row('P3', `miss, requests/s: proxy / ${name}`, 'x', ratios(rates('proxy'), rates(name)), goal, lost),
      row('P3', `miss, CPU time per request: ${name} / proxy`, 'x', ratios(costs(name), costs('proxy')), null, lost),
      row('P3', `miss, requests/s: ${name}`, '/s', rates(name), null, lost),
    )
  }
  return rows
}

/** P1 and P2: what an answer from memory costs, beside the least that Node can do, and beside the caches of the trade. */
import {
  failures,
  interleaved,
  ratios,
  row,
  type Contestant,
  type Figure,
  type Options,
  type Row,
  type Sample,
} from '../figure.ts'
import { asking, full, own } from '../load.ts'
import { startPeers } from '../peers.ts'
import { startNode } from '../program.ts'
import { startProxy } from '../proxy.ts'

const QUESTIONS = 1_000

export const hits: Figure = {
  ids: ['P1', 'P2'],
  title: 'hits from memory',
  async measure({ peers, rounds, quick }: Options) {
    const upstream = await startNode('bench/programs/upstream.ts', 'load')
    const bare = await startNode('bench/programs/bare.ts', 'server')
    const proxy = await startProxy({ upstreamPort: upstream.port })
    const others = peers ? await startPeers(upstream.port, ({ keeps, gets }) => keeps && gets) : []
    const contestants: Contestant[] = [{ name: 'bare', program: bare }, { name: 'proxy', program: proxy }, ...others]
    for (const { program } of [contestants[1], ...others].filter((one) => one !== undefined)) {
      await own({ port: program.port, connections: 8, requests: QUESTIONS, ...asking(QUESTIONS) })
    }
    const asked = await (await fetch(`http://127.0.0.1:${upstream.port}/__calls`)).text()
    const samples = await interleaved(contestants, rounds, ({ program }) =>
      full(program.port, quick ? 1 : 3, asking(QUESTIONS)),
    )
    const askedLater = await (await fetch(`http://127.0.0.1:${upstream.port}/__calls`)).text()
    await Promise.all([...contestants.map(({ program }) => program.stop()), upstream.stop()])
    return rowsOf(samples, Number(askedLater) - Number(asked))
  },
}

function rowsOf(samples: ReadonlyMap<string, readonly Sample[]>, misses: number): Row[] {
  const of = (name: string): readonly Sample[] => samples.get(name) ?? []
  const rates = (name: string): number[] => of(name).map(({ perSecond }) => perSecond)
  const costs = (name: string): number[] => of(name).map(({ cpuUs }) => cpuUs)
  const ours = rates('proxy')
  const failed = failures(of('proxy')) + failures(of('bare')) + misses
  const rows = [
    row('P1', 'hit, requests/s: proxy / bare node:http', 'x', ratios(ours, rates('bare')), { least: 0.75 }, failed),
    row('P1', 'hit, CPU time per request: bare / proxy', 'x', ratios(costs('bare'), costs('proxy')), null, failed),
    row('P1', 'hit, requests/s: proxy', '/s', ours, null, failed),
    row('P1', 'hit, requests/s: bare node:http', '/s', rates('bare'), null, failed),
    row('P1', 'hit, CPU time per request: proxy', 'us', costs('proxy'), null, failed),
    row('P1', 'hit, CPU time per request: bare node:http', 'us', costs('bare'), null, failed),
  ]
  const goals: ReadonlyMap<string, number> = new Map([
    ['hono', 1],
    ['varnish', 0.85],
    ['nginx', 0.75],
    ['traffic server', 0.5],
  ])
  for (const name of samples.keys()) {
    if (name === 'proxy' || name === 'bare') continue
    const least = goals.get(name)
    const id = name === 'hono' ? 'P1' : 'P2'
    const lost = failed + failures(of(name))
    rows.push(
      row(
        id,
        `hit, requests/s: proxy / ${name}`,
        'x',
        ratios(ours, rates(name)),
        least === undefined ? null : { least },
        lost,
      ),
    )
    rows.push(row(id, `hit, requests/s: ${name}`, '/s', rates(name), null, lost))
  }
  return rows
}

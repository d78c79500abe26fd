/**
 * P4: what a caller waits longer for an answer than without a proxy: one at a time and at 200 misses a second. And the throughput
 * frontier: the most misses per second of which 99 % take no longer than 1, 5, 10 ms.
 */
import {
  failures,
  interleaved,
  median,
  row,
  type Contestant,
  type Figure,
  type Options,
  type Row,
  type Sample,
} from '../figure.ts'
import { asking, full, own, portkeyAsking, type Asking } from '../load.ts'
import { startPeers } from '../peers.ts'
import { startNode } from '../program.ts'
import { startProxy } from '../proxy.ts'

const MANY = 1_000_000_000
const PER_SECOND = 200
const CONNECTIONS = [1, 2, 4, 8, 16, 32, 64]
const LIMITS_MS = [1, 5, 10]

export const added: Figure = {
  ids: ['P4'],
  title: 'time added to a miss',
  async measure(options) {
    const upstream = await startNode('bench/programs/upstream.ts', 'load')
    const target = ['--target', `http://127.0.0.1:${upstream.port}`]
    const contestants: Contestant[] = [
      { name: 'direct', program: upstream },
      { name: 'proxy', program: await startProxy({ upstreamPort: upstream.port }) },
      { name: 'stock http-proxy-3', program: await startNode('bench/programs/stock.ts', 'server', target) },
      ...(options.peers ? await startPeers(upstream.port, () => true) : []),
    ]
    let asked = 0
    const questions = (name: string): Asking => {
      asked += 1
      return name === 'portkey' ? portkeyAsking(upstream.port) : asking(MANY, asked * 1_000_000)
    }
    const rows = [
      ...(await oneAtATime(contestants, options, questions)),
      ...(await atARate(contestants.slice(0, 2), options, questions)),
      ...(await frontier(contestants.slice(1), options, questions)),
    ]
    await Promise.all(contestants.map(({ program }) => program.stop()))
    return rows
  },
}

type Questions = (name: string) => Asking

async function oneAtATime(contestants: readonly Contestant[], options: Options, questions: Questions): Promise<Row[]> {
  const seconds = options.quick ? 1 : 3
  const samples = await interleaved(contestants, Math.min(options.rounds, 3), ({ name, program: { port } }) =>
    own({ port, connections: 1, seconds, ...questions(name) }),
  )
  return [...samples.keys()].slice(1).flatMap((name) => {
    const isOurs = name === 'proxy'
    return [
      addedRow(`time added at one at a time, p50: ${name}`, 'p50Ms', samples, name, isOurs ? 0.35 : null),
      addedRow(`time added at one at a time, p99: ${name}`, 'p99Ms', samples, name, isOurs ? 0.5 : null),
    ]
  })
}

async function atARate(contestants: readonly Contestant[], options: Options, questions: Questions): Promise<Row[]> {
  const seconds = options.quick ? 2 : 8
  const samples = await interleaved(contestants, Math.min(options.rounds, 3), ({ name, program: { port } }) =>
    own({ port, connections: 32, perSecond: PER_SECOND, seconds, ...questions(name) }),
  )
  return [
    addedRow(`time added to a miss at ${PER_SECOND}/s, p50`, 'p50Ms', samples, 'proxy', 0.35),
    addedRow(`time added to a miss at ${PER_SECOND}/s, p99`, 'p99Ms', samples, 'proxy', 2),
  ]
}

function addedRow(
  what: string,
  of: 'p50Ms' | 'p99Ms',
  samples: ReadonlyMap<string, readonly Sample[]>,
  name: string,
  most: number | null,
): Row {
  const [measured = [], direct = []] = [samples.get(name), samples.get('direct')]
  const more = measured.map((sample, round) => sample[of] - (direct[round]?.[of] ?? 0))
  return row('P4', what, 'ms', more, most === null ? null : { most }, failures(measured) + failures(direct))
}

/** As many connections as it takes, each with one question under way: the number with the most answers within the limit counts. */
async function frontier(contestants: readonly Contestant[], options: Options, questions: Questions): Promise<Row[]> {
  const steps = new Map<string, Sample[][]>(contestants.map(({ name }) => [name, []]))
  for (const connections of CONNECTIONS) {
    const samples = await interleaved(contestants, Math.min(options.rounds, 3), ({ name, program: { port } }) =>
      full(port, options.quick ? 1 : 2, questions(name), connections),
    )
    for (const [name, some] of samples) steps.get(name)?.push([...some])
  }
  return LIMITS_MS.flatMap((limit) =>
    contestants.map(({ name }) => {
      const within = (steps.get(name) ?? []).filter(
        (some) => failures(some) === 0 && median(some.map(({ p99Ms }) => p99Ms)) <= limit,
      )
      const best = Math.max(0, ...within.map((some) => median(some.map(({ perSecond }) => perSecond))))
      return row('P4', `misses/s with 99 % within ${limit} ms: ${name}`, '/s', [best], null)
    }),
  )
}

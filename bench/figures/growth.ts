/** P8: what a hit costs when a thousand times as much is kept, or ten thousand clients ask, and what an entry takes beside its bytes. */
import { failures, interleaved, median, ratios, row, type Figure, type Sample } from '../figure.ts'
import { asking, full, own } from '../load.ts'
import { pause, startNode } from '../program.ts'
import { startProxy, type Proxy } from '../proxy.ts'

const FEW = 1_000
const CLIENTS = 10_000
const KEY_AND_BODY_BYTES = 64 + 256
const ROOM = [
  'cache: { memory: { maxSize: 8GiB }, disk: { path: FOLDER/played.db } }',
  'overload: { memory: 1, memoryCritical: 1 }',
]

export const growth: Figure = {
  ids: ['P8'],
  title: 'growth of entries and clients',
  async measure({ rounds, quick }) {
    const entries = quick ? 20_000 : 1_000_000
    const upstream = await startNode('bench/programs/upstream.ts', 'load')
    const start = (clients: number): Promise<Proxy> =>
      startProxy({ upstreamPort: upstream.port, settings: ROOM, main: 'bench/programs/filled.ts', clients })
    const [small, big, crowded] = [await start(1), await start(1), await start(CLIENTS)]
    const before = await settled(big)
    const filled = await own({ port: big.port, connections: 32, requests: entries, ...asking(entries) })
    const perEntry = ((await settled(big)) - before) / entries - KEY_AND_BODY_BYTES
    const kept = await big.metric('scrapellm_proxy_cache_entries', 'tier="memory"')

    const contestants = [
      { name: 'small', program: small },
      { name: 'big', program: big },
      { name: 'spread', program: big },
      { name: 'crowded', program: crowded },
    ]
    const seconds = quick ? 1 : 2
    const samples = await interleaved(contestants, Math.min(rounds, 4), ({ name, program: { port } }) => {
      if (name === 'spread') return full(port, seconds, asking(entries))
      if (name === 'crowded') return full(port, seconds, asking(FEW, 0, 'bench-client-token-%c', CLIENTS))
      return full(port, seconds, asking(FEW))
    })
    await Promise.all([small.stop(), big.stop(), crowded.stop(), upstream.stop()])
    const costs = (name: string): number[] => samplesOf(name).map(({ cpuUs }) => cpuUs)
    const samplesOf = (name: string): readonly Sample[] => samples.get(name) ?? []
    const failed =
      filled.failed +
      Math.abs(entries - kept) +
      contestants.reduce((sum, { name }) => sum + failures(samplesOf(name)), 0)
    const times = (name: string): number[] => ratios(costs(name), costs('small'))
    return [
      row(
        'P8',
        `hit, CPU time: ${entries} entries / ${FEW}, ${FEW} of them asked for`,
        'x',
        times('big'),
        { most: 1.3 },
        failed,
      ),
      row(
        'P8',
        `hit, CPU time: ${entries} entries / ${FEW}, all asked for in turn`,
        'x',
        times('spread'),
        null,
        failed,
      ),
      row('P8', `hit, CPU time: ${CLIENTS} clients / 1`, 'x', times('crowded'), { most: 1.3 }, failed),
      row('P8', 'memory of an entry beside its key and body', 'B', [perEntry], { most: 300 }, failed),
      row(
        'P8',
        `hit, CPU time per request with ${FEW} entries and one client`,
        'us',
        [median(costs('small'))],
        null,
        failed,
      ),
    ]
  },
}

/** What a process takes once its garbage is gone. */
async function settled(proxy: Proxy): Promise<number> {
  proxy.signal('SIGUSR2')
  await pause(4_000)
  return proxy.residentBytes()
}

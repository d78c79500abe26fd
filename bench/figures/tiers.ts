/** P5: a hit from Redis beside a bare `GET` of Redis, and one from the disk beside a bare `GET` of Node's server; one at a time. */
import { type Figure, type Options, ratios, row, type Row } from '../figure.ts'
import { asking, own } from '../load.ts'
import { pathOf, run, startNode, type Program } from '../program.ts'
import { startProxy, type Proxy } from '../proxy.ts'
import { startRedis } from '../redis.ts'

/** Far more than memory holds, asked in turn: memory never has the next one. */
const QUESTIONS = 2_000
const SMALL_MEMORY = 'memory: { maxSize: 1MiB }'
/** Its rate would be counted in Redis, a second round trip that the bare GET does not make. */
const UNLIMITED = 'clients: { client-0: { token: bench-client-token-0 } }'

export const tiers: Figure = {
  ids: ['P5'],
  title: 'hits from Redis and from disk',
  async measure(options) {
    const upstream = await startNode('bench/programs/upstream.ts', 'load')
    const rows = [...(await fromRedis(upstream, options)), ...(await fromDisk(upstream, options))]
    await upstream.stop()
    return rows
  },
}

async function fromRedis(upstream: Program, options: Options): Promise<Row[]> {
  const redis = await startRedis()
  if (!redis) return []
  const settings = [UNLIMITED, `cache: { ${SMALL_MEMORY} }`, `redis: { url: "redis://127.0.0.1:${redis.port}" }`]
  const proxy = await startProxy({ upstreamPort: upstream.port, settings })
  const { seconds, times, failed } = await measured(proxy, options)
  const bare: number[] = []
  for (let round = 0; round < times.length; round += 1) {
    const args = [pathOf('bench/programs/bare-get.ts'), '--port', String(redis.port), '--seconds', String(seconds)]
    bare.push((JSON.parse(await run(process.execPath, args, 'server')) as { p50Ms: number }).p50Ms)
  }
  const hits = await proxy.metric('scrapellm_proxy_cache_lookups_total', 'tier="redis",result="hit"')
  await Promise.all([proxy.stop(), redis.stop()])
  return rowsOf('Redis', 'GET of Redis', times, bare, hits > 0 ? failed : 1)
}

async function fromDisk(upstream: Program, options: Options): Promise<Row[]> {
  const settings = [`cache: { ${SMALL_MEMORY}, disk: { path: FOLDER/cache.db } }`]
  const proxy = await startProxy({ upstreamPort: upstream.port, settings })
  const { seconds, times, failed } = await measured(proxy, options)
  const server = await startNode('bench/programs/bare.ts', 'server')
  const bare: number[] = []
  for (let round = 0; round < times.length; round += 1) {
    bare.push((await own({ port: server.port, connections: 1, seconds, ...asking(QUESTIONS) })).p50Ms)
  }
  const hits = await proxy.metric('scrapellm_proxy_cache_lookups_total', 'tier="disk",result="hit"')
  await Promise.all([proxy.stop(), server.stop()])
  return rowsOf('disk', "GET of Node's server", times, bare, hits > 0 ? failed : 1)
}

/** Fills the tier, then asks for what memory has forgotten. */
async function measured({ port }: Proxy, { quick, rounds }: Options) {
  const seconds = quick ? 1 : 2
  await own({ port, connections: 8, requests: QUESTIONS, ...asking(QUESTIONS) })
  const times: number[] = []
  let failed = 0
  for (let round = 0; round <= Math.min(rounds, 3); round += 1) {
    const result = await own({ port, connections: 1, seconds, ...asking(QUESTIONS) })
    failed += result.failed
    if (round > 0) times.push(result.p50Ms)
  }
  return { seconds, times, failed }
}

function rowsOf(
  tier: string,
  bareName: string,
  times: readonly number[],
  bare: readonly number[],
  failed: number,
): Row[] {
  return [
    row('P5', `hit from ${tier}, p50: proxy / bare ${bareName}`, 'x', ratios(times, bare), { most: 2 }, failed),
    row('P5', `hit from ${tier}, p50`, 'ms', times, null, failed),
    row('P5', `bare ${bareName}, p50`, 'ms', bare, null, failed),
  ]
}

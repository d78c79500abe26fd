// undici's own interceptors behind Node's server: cache, deduplicate, retry.
import { createServer } from 'node:http'
import { Agent, cacheStores, interceptors } from 'undici'

const [upstreamPort, ttl] = process.argv.slice(2).map(Number)
const origin = `http://127.0.0.1:${upstreamPort}`
const store = new cacheStores.MemoryCacheStore({
  maxSize: 512 * 1024 ** 2,
  maxCount: 1_000_000,
  maxEntrySize: 4 * 1024 ** 2,
})
const agent = new Agent({ connections: 20_000, headersTimeout: 330_000, bodyTimeout: 330_000 }).compose(
  interceptors.retry({ maxRetries: 2, minTimeout: 100 }),
  interceptors.deduplicate(),
  interceptors.cache({ store, cacheByDefault: ttl }),
)

const server = createServer({ maxHeaderSize: 72 * 1024 }, async (request, response) => {
  try {
    const headers = { accept: 'application/json', 'x-api-key': 'bench-key' }
    const answer = await agent.request({ origin, path: request.url, method: request.method, headers })
    const body = Buffer.from(await answer.body.arrayBuffer())
    response.writeHead(answer.statusCode, ['Content-Type', 'application/json', 'Content-Length', String(body.length)])
    response.end(body)
  } catch {
    response.writeHead(502, ['Content-Length', '0']).end()
  }
})
server.keepAliveTimeout = 60_000
server.listen({ port: 0, host: '127.0.0.1', backlog: 16_384 }, () => {
  console.log(JSON.stringify({ port: server.address().port }))
})

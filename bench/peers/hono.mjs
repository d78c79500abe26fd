// A Hono app that keeps what it fetched in lru-cache, and does nothing else.
import { serve } from '@hono/node-server'
import { Hono } from 'hono'
import { LRUCache } from 'lru-cache'

const [upstreamPort, ttl] = process.argv.slice(2).map(Number)
const origin = `http://127.0.0.1:${upstreamPort}`
const cache = new LRUCache({
  maxSize: 512 * 1024 ** 2,
  ttl: ttl * 1000,
  sizeCalculation: ({ byteLength }) => byteLength,
})
const app = new Hono()

app.get('*', async (c) => {
  const target = c.req.url.slice(c.req.url.indexOf('/', 8))
  let body = cache.get(target)
  if (!body) {
    const answer = await fetch(origin + target, { headers: { 'x-api-key': 'bench-key' } })
    if (!answer.ok) return c.body(await answer.text(), answer.status)
    body = await answer.arrayBuffer()
    cache.set(target, body)
  }
  return c.body(body, 200, { 'Content-Type': 'application/json', 'Content-Length': String(body.byteLength) })
})

const options = { fetch: app.fetch, port: 0, hostname: '127.0.0.1', serverOptions: { maxHeaderSize: 72 * 1024 } }
const server = serve(options, ({ port }) => console.log(JSON.stringify({ port })))
server.keepAliveTimeout = 60_000

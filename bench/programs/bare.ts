/** The reference of all hits: what Node's own server takes to send 4 KB, and nothing else. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

const body = Buffer.from(JSON.stringify({ result: 'x'.repeat(4_096 - 13) }))
const headers = ['Content-Type', 'application/json', 'Content-Length', String(body.length)]
const server = createServer((_request, response) => {
  response.writeHead(200, headers)
  response.end(body)
})
server.keepAliveTimeout = 60_000
server.listen({ port: 0, host: '127.0.0.1', backlog: 1024 }, () => {
  console.log(JSON.stringify({ port: (server.address() as AddressInfo).port }))
})

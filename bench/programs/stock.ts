/** The reference of all misses: http-proxy-3 as it comes, with a keep-alive agent, in front of the upstream of `--target`. */
import { Agent, createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { parseArgs } from 'node:util'
import { createProxyServer } from 'http-proxy-3'

const { values } = parseArgs({ options: { target: { type: 'string', default: '' } } })
const agent = new Agent({ keepAlive: true, maxFreeSockets: 256 })
const proxy = createProxyServer({ target: new URL(values.target), agent, changeOrigin: true })
const server = createServer((request, response) => {
  proxy.web(request, response, {}, () => response.writeHead(502).end())
})
server.keepAliveTimeout = 60_000
server.listen({ port: 0, host: '127.0.0.1', backlog: 1024 }, () => {
  console.log(JSON.stringify({ port: (server.address() as AddressInfo).port }))
})

/**
 * An upstream that answers at once, or after `--delay` ms: a valid answer of 4 KB for every question. It costs as little as a
 * Node server can, so that the proxy in front of it is what is measured. `/__calls` says how many questions it got,
 * `/__last` when it answered the last one. `--failure-rate` makes answers fail by chance.
 */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: {
    delay: { type: 'string', default: '0' },
    'failure-rate': { type: 'string', default: '0' },
    bytes: { type: 'string', default: '4096' },
  },
})
const delayMs = Number(values.delay)
const failureRate = Number(values['failure-rate'])
const [start = '', rest = ''] = answerOf(Number(values.bytes)).split('PROMPT')
const failure = '{"detail":"Scraper failed"}'
let calls = 0
let lastAnsweredAt = 0

const server = createServer((request, response) => {
  if (request.url === '/__calls') response.end(String(calls))
  else if (request.url === '/__last') response.end(String(lastAnsweredAt))
  else {
    calls += 1
    if (delayMs === 0) answer()
    else setTimeout(answer, delayMs)
  }

  function answer(): void {
    lastAnsweredAt = Date.now()
    const failed = failureRate > 0 && Math.random() < failureRate
    const sent = failed ? failure : `${start}${promptOf(request.url ?? '')}${rest}`
    const length = String(Buffer.byteLength(sent))
    response.writeHead(failed ? 500 : 200, ['Content-Type', 'application/json', 'Content-Length', length])
    response.end(sent)
  }
})
server.keepAliveTimeout = 60_000
server.listen({ port: 0, host: '127.0.0.1', backlog: 16_384 }, () => {
  console.log(JSON.stringify({ port: (server.address() as AddressInfo).port }))
})

function promptOf(target: string): string {
  return decodeURIComponent(/[?&]prompt=([^&]*)/.exec(target)?.[1]?.replaceAll('+', ' ') ?? '')
}

function answerOf(bytes: number): string {
  const about = {
    scraper: 'chatgpt',
    status: 'done',
    job_id: '0b6e7c55-3f0e-4a8e-9d62-1d3c5a1f7a10',
    prompt: 'PROMPT',
    country: 'US',
    links: [{ url: 'https://example.com/a', text: 'A page' }],
    credits_used: 3,
    elapsed_ms: 21_000,
    cached: false,
  }
  const missing = Math.max(1, bytes - JSON.stringify({ ...about, result: '' }).length)
  return JSON.stringify({ ...about, result: 'Lorem ipsum dolor sit amet. '.repeat(missing / 28 + 1).slice(0, missing) })
}

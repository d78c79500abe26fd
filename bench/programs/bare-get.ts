/**
 * The reference of a hit from Redis: a bare `GET` of 4 KB through the same client library, one at a time, for `--seconds`.
 * Prints its median time in milliseconds.
 */
import { parseArgs } from 'node:util'
import { Redis } from 'ioredis'

const { values } = parseArgs({
  options: { port: { type: 'string', default: '6379' }, seconds: { type: 'string', default: '1' } },
})
const redis = new Redis({ host: '127.0.0.1', port: Number(values.port) })
await redis.set('value', Buffer.alloc(4_096, 'x'))
const times: number[] = []
const endsAt = performance.now() + Number(values.seconds) * 1000
for (let at = performance.now(); at < endsAt; at = performance.now()) {
  await redis.getBuffer('value')
  times.push(performance.now() - at)
}
console.log(JSON.stringify({ p50Ms: times.toSorted((a, b) => a - b)[times.length >> 1] }))
redis.disconnect()

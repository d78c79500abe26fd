/** Writes a disk cache of `--bytes` of answers to `--path`, as the proxy does. */
import { createHash } from 'node:crypto'
import { parseArgs } from 'node:util'
import { createClock } from '../../src/world/clock.ts'
import { createDisk } from '../../src/world/disk.ts'

const { values } = parseArgs({
  options: { path: { type: 'string', default: '' }, bytes: { type: 'string', default: '0' } },
})
const clock = createClock()
const maxBytes = Number(values.bytes)
const disk = createDisk({ path: values.path, maxBytes }, clock, () => undefined)
const BODY_BYTES = 8 * 1024
const DAY_MS = 86_400_000
const storedAt = clock.wall()
const times = { storedAt, keptUntil: storedAt + DAY_MS }
const about = { scraper: 'chatgpt', promptHash: '0123456789ab', country: 'US', priceCredits: 3, unclaimed: false }

// What is beside the body: key, record, index, free room of pages.
const entries = Math.floor(maxBytes / (BODY_BYTES * 1.12))
for (let number = 0; number < entries; number += 1) {
  const key = createHash('sha256').update(String(number)).digest('hex')
  const body = Buffer.alloc(BODY_BYTES, 'x')
  disk.writeEntry(key, {
    status: 200,
    contentType: 'application/json',
    body,
    etag: `"${key.slice(0, 27)}"`,
    ...times,
    ...about,
  })
}
console.log(JSON.stringify({ entries: disk.entries, bytes: disk.bytes }))
disk.close()

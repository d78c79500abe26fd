/**
 * The proxy as its command line runs it, but its disk is played: it has an answer of 256 bytes to every question, so that
 * memory fills as fast as questions are asked. On SIGUSR2 it collects its garbage, for memory to be measured.
 */
import { readFileSync } from 'node:fs'
import { createHost } from '../../src/cli/host.ts'
import { serve } from '../../src/cli/serve.ts'
import { settingsSource } from '../../src/cli/settings.ts'
import type { Disk } from '../../src/ports.ts'
import { realWorld } from '../../src/world/real.ts'

const BODY_BYTES = 256
const HOUR_MS = 3_600_000
const wanted = { configs: [process.argv[4] ?? ''], sets: [] }
const io = { environment: process.env, readFile: (path: string) => readFileSync(path, 'utf8'), cwd: process.cwd() }
const world = realWorld()

const played: Disk = {
  readEntry(key) {
    const body = Buffer.allocUnsafeSlow(BODY_BYTES)
    body.fill('x')
    const storedAt = world.clock.wall()
    const times = { storedAt, keptUntil: storedAt + HOUR_MS }
    const about = { scraper: 'chatgpt', promptHash: key.slice(0, 12), country: 'US', priceCredits: 3, unclaimed: false }
    return { status: 200, contentType: 'application/json', body, etag: `W/"${key.slice(0, 27)}"`, ...times, ...about }
  },
  writeEntry() {},
  purge: () => 0,
  put() {},
  get: () => undefined,
  list: () => [],
  secure: async () => true,
  onRead() {},
  isRead: true,
  records: 'up',
  answers: 'up',
  entries: 0,
  bytes: 0,
  close() {},
}

process.on('SIGUSR2', () => globalThis.gc?.())
const { ended } = await serve(settingsSource(wanted, io), { ...world, openDisk: () => played }, 'bench', createHost())
process.exit(await ended)

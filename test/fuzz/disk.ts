/**
 * Files that are nearly ours: a real `cache.db` with answers and records in it, then damaged, cut, or with pieces of it in other
 * places. What is read is what was written or nothing; nothing throws; and what is written afterwards is there.
 */
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import type { Entry } from '../../src/model.ts'
import type { Disk } from '../../src/ports.ts'
import { createDisk } from '../../src/world/disk.ts'
import { epoch, fakeClock } from '../support/world.ts'
import type { Chance } from './chance.ts'
import { type Fuzzer, playCases } from './round.ts'

const ENTRIES = 12
const RECORDS = 12
const maxBytes = 4 * 1_048_576

function entryOf(number: number): Entry {
  return {
    status: 200,
    contentType: 'application/json',
    body: Buffer.from(`{"answer":${number},"text":"${'x'.repeat(number * 700)}"}`),
    etag: `"e${number}"`,
    storedAt: epoch,
    keptUntil: epoch + 120_000,
    scraper: 'chatgpt',
    promptHash: 'abc',
    country: 'US',
    priceCredits: 3,
    unclaimed: false,
  }
}

const recordOf = (number: number): unknown => ({ number, text: `${number}`.repeat(100) })

function fill(path: string): void {
  const disk = createDisk({ path, maxBytes }, fakeClock(), () => undefined)
  for (let number = 0; number < ENTRIES; number++) disk.writeEntry(`entry-${number}`, entryOf(number))
  disk.put(
    Array.from({ length: RECORDS }, (_, number) => ({
      space: 's',
      key: `record-${number}`,
      value: recordOf(number),
      expiresAt: null,
    })),
  )
  disk.close()
}

function damaged({ int, isTrue, bytes, damage }: Chance, whole: Buffer): Buffer {
  const file = Buffer.from(whole)
  const page = 4_096
  switch (int(6)) {
    case 0:
      return file.subarray(0, int(file.length))
    case 1:
      file.subarray(int(file.length)).subarray(0, page).fill(0)
      return file
    case 2: {
      const from = page * int(file.length / page)
      file.copy(file, page * int(file.length / page), from, from + page)
      return file
    }
    case 3:
      return isTrue(0.5) ? bytes(int(3_000)) : Buffer.concat([file, bytes(100)])
    case 4:
      return Buffer.concat([damage(file.subarray(0, page), 8), file.subarray(page)])
    default:
      for (let left = 1 + int(40); left > 0; left--) file[int(file.length)] = int(256)
      return file
  }
}

function read(disk: Disk): string | null {
  for (let number = 0; number < ENTRIES; number++) {
    const entry = disk.readEntry(`entry-${number}`)
    if (entry !== null && !isDeepStrictEqual({ ...entry, body: Buffer.from(entry.body) }, entryOf(number)))
      return `another answer: ${JSON.stringify(entry).slice(0, 300)}`
    const record: unknown = disk.get('s', `record-${number}`)
    if (record !== null && !isDeepStrictEqual(record, recordOf(number)))
      return `another record: ${JSON.stringify(record)}`
  }
  for (const [key, value] of disk.list('s')) {
    if (!isDeepStrictEqual(value, recordOf(Number(key.split('-')[1])))) return `another record in the list: ${key}`
  }
  return null
}

export const fuzzDisk: Fuzzer = async (stage, round) => {
  const directory = mkdtempSync(join(tmpdir(), 'slp-fuzz-'))
  stage.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const original = join(directory, 'original.db')
  fill(original)
  const whole = readFileSync(original)

  return playCases(round, 1, async (chance, number) => {
    if (number % 20 === 0) await new Promise(setImmediate)
    const folder = mkdtempSync(join(directory, 'case-'))
    const path = join(folder, 'cache.db')
    let disk: Disk | null = null
    const events: unknown[] = []
    try {
      if (chance.isTrue(0.1)) {
        copyFileSync(original, path)
        writeFileSync(`${path}-wal`, chance.bytes(chance.int(2_000)))
      } else writeFileSync(path, damaged(chance, whole))
      const clock = fakeClock()
      disk = createDisk({ path, maxBytes }, clock, (event) => void events.push(event))
      const finding = read(disk)
      if (finding !== null) return finding
      disk.purge({ scraper: 'grok' })
      disk.writeEntry('new', entryOf(1))
      disk.put([{ space: 's', key: 'record-1', value: recordOf(1), expiresAt: null }])
      if (!isDeepStrictEqual(disk.get('s', 'record-1'), recordOf(1))) return 'what was written afterwards is not there'
      // A file that turns out bad only now is put aside, and a new one begun when its time has come.
      await clock.advance(120_000)
      disk.writeEntry('newer', entryOf(2))
      await clock.advance(60_000)
      const state = disk.answers === 'up' && disk.records === 'up' ? 'up' : 'down'
      // One of a later format is left alone.
      return state === 'up' || JSON.stringify(events).includes('"format"')
        ? null
        : `the disk stays away: ${JSON.stringify(events)}`
    } catch (error) {
      return error instanceof Error ? String(error.stack) : String(error)
    } finally {
      disk?.close()
      rmSync(folder, { recursive: true, force: true })
    }
  })
}

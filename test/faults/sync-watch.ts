/** Loaded into the program before it begins: writes down how much of a log is synced, which is what a power cut leaves at the least. */
import { readlinkSync, renameSync, writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { readLog } from './write-ahead-log.ts'

const path = process.env['SYNCED_FILE'] ?? ''
const own = await open(import.meta.filename)
const prototype = Object.getPrototypeOf(own) as typeof own
await own.close()
const { datasync } = prototype
prototype.datasync = async function () {
  // What is written while the sync runs may or may not be safe after it.
  const { generation, frames } = readLog(readlinkSync(`/proc/self/fd/${this.fd}`))
  await datasync.call(this)
  writeFileSync(`${path}.new`, JSON.stringify({ generation, frames }))
  renameSync(`${path}.new`, path)
}

/**
 * Loaded into the program before it begins: SIGUSR2 steps its wall clock by what the file says, as an operator or NTP would.
 * The monotonic clock goes on as it does.
 */
import { readFileSync } from 'node:fs'

const path = process.env['CLOCK_OFFSET_FILE'] ?? ''
const { now } = Date
let offsetMs = 0
let turn = 0
Date.now = () => now() + offsetMs
process.on('SIGUSR2', () => {
  turn += 1
  offsetMs = Number(readFileSync(path, 'utf8'))
  process.stdout.write(`${JSON.stringify({ msg: 'clock stepped', turn })}\n`)
})

/**
 * A57 with a stopwatch: does a token that begins like a right one take longer to refuse? `node test/attacks/token-timing.ts [SAMPLES]`.
 * Interleaved samples of each length of common prefix, against those of none: medians, and Welch's t of the middle 90 %. Run by hand
 * on a quiet machine; no test depends on it.
 */
import { hash } from 'node:crypto'
import { createClients } from '../../src/http/clients.ts'
import type { ProxyRequest } from '../../src/model.ts'
import { aClient } from '../support/verdicts.ts'
import { createChance } from '../fuzz/chance.ts'

const TOKEN = 'slp_0123456789abcdefghijklmnopqrstuvwxyz'
const samples = Number(process.argv[2] ?? 100_000)
const prefixes = [0, 1, 4, 8, 16, 24, 32, 39]
const clients = createClients({
  clients: [{ client: aClient(), tokens: [{ hash: hash('sha256', TOKEN, 'hex'), expiresAt: null }] }],
  uses: { used() {}, lastUsed: () => null },
  wall: () => 0,
  anonymous: null,
  hosts: null,
  vendor: 'the vendor',
})
const { int, pick } = createChance(1)
const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'.split('')
const times = prefixes.map(() => new Float64Array(samples))

function refuse(token: string): number {
  const request = { token } as unknown as ProxyRequest
  const startedAt = process.hrtime.bigint()
  try {
    clients.identify(request)
  } catch {
    // As it should be.
  }
  return Number(process.hrtime.bigint() - startedAt)
}

function guess(prefix: number): string {
  const rest = Array.from({ length: TOKEN.length }, () => pick(letters)).join('')
  // As flat as what comes from a socket: a text that was put together is hashed more slowly.
  return Buffer.from(TOKEN.slice(0, prefix) + rest.slice(prefix), 'latin1').toString('latin1')
}

for (let warm = 0; warm < 20_000; warm++) refuse(guess(pick(prefixes)))
for (let sample = 0; sample < samples; sample++) {
  // In another order each time: whoever comes after a pause for collecting garbage is not always the same.
  const first = int(prefixes.length)
  for (let turn = 0; turn < prefixes.length; turn++) {
    const row = (first + turn) % prefixes.length
    const list = times[row]
    if (list) list[sample] = refuse(guess(prefixes[row] ?? 0))
  }
}

function middle(list: Float64Array): { readonly median: number; readonly mean: number; readonly variance: number } {
  const sorted = list.toSorted().subarray(Math.floor(list.length * 0.05), Math.ceil(list.length * 0.95))
  const mean = sorted.reduce((all, one) => all + one, 0) / sorted.length
  const variance = sorted.reduce((all, one) => all + (one - mean) ** 2, 0) / (sorted.length - 1)
  return { median: sorted[Math.floor(sorted.length / 2)] ?? 0, mean, variance }
}

const rows = times.map(middle)
const [none] = rows
for (const [row, { median, mean, variance }] of rows.entries()) {
  const t = none ? (mean - none.mean) / Math.sqrt((variance + none.variance) / (samples * 0.9)) : 0
  console.log(`prefix ${prefixes[row]}: median ${median} ns, mean ${mean.toFixed(1)} ns, t ${t.toFixed(2)}`)
}

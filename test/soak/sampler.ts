/** How the program stands, seen from outside: its own metrics, and what the system says of its process. */
import { readdirSync, readFileSync } from 'node:fs'
import { request } from '../support/proxy.ts'

export const measures = {
  rssMiB: 'resident memory, MiB',
  heapMiB: 'heap in use, MiB',
  externalMiB: 'memory outside the heap, MiB',
  openFiles: 'open descriptors',
  timers: 'armed timers',
  sockets: 'open sockets',
  inFlight: 'requests open',
  upstreamInFlight: 'upstream calls open',
  flights: 'flights in the air',
  heldCredits: 'credits held',
  memoryEntries: 'answers in memory',
  series: 'metric series',
  bugs: 'faults of its own',
  imbalance: 'credits not accounted for',
} as const

export type Measure = keyof typeof measures
export type Sample = Readonly<Record<Measure, number>>

export interface Watched {
  readonly adminUrl: string
  readonly pid: number
  /** See `timers.ts`. */
  readonly timers: () => Promise<number>
}

const MIB = 1_048_576

export async function sampleOf({ adminUrl, pid, timers }: Watched): Promise<Sample> {
  const { text } = await request(undefined, `${adminUrl}/metrics`)
  const { json } = await request(undefined, `${adminUrl}/status`)
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))

  function sum(start: string): number {
    const found = lines.filter((line) => line.startsWith(`${start}{`) || line.startsWith(`${start} `))
    return found.reduce((total, line) => total + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)
  }

  function resources(type: string): number {
    return sumOf(lines.filter((line) => line.startsWith(`nodejs_active_resources{type="${type}"`)))
  }

  return {
    rssMiB: residentKiB(pid) / 1_024,
    heapMiB: sum('nodejs_heap_size_used_bytes') / MIB,
    externalMiB: sum('nodejs_external_memory_bytes') / MIB,
    openFiles: readdirSync(`/proc/${pid}/fd`).length,
    timers: await timers(),
    sockets: resources('TCPSocketWrap'),
    // The one that asks is not among them: it is on the admin port.
    inFlight: sum('scrapellm_proxy_in_flight_requests'),
    upstreamInFlight: sum('scrapellm_proxy_upstream_in_flight'),
    flights: (json['flights'] as readonly unknown[]).length,
    heldCredits: sum('scrapellm_proxy_credits_budget_held'),
    memoryEntries: sumOf(lines.filter((line) => line.startsWith('scrapellm_proxy_cache_entries{tier="memory"'))),
    series: lines.length,
    bugs: sum('scrapellm_proxy_bugs_total'),
    imbalance: sum('scrapellm_proxy_ledger_imbalance_credits'),
  }
}

function sumOf(lines: readonly string[]): number {
  return lines.reduce((total, line) => total + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)
}

function residentKiB(pid: number): number {
  const [, text = '0'] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return Number(text)
}

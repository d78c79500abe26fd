// What was charged to which key, and what was given back.
// Refunds that arrive late are booked when their time has come by the injected clock, so no timer is needed.

export interface LedgerEntry {
  readonly id: number
  readonly at: number
  readonly key: string
  readonly scraper: string
  readonly prompt: string
  readonly kind: 'sync' | 'job'
  readonly jobId: string
  readonly credits: number
  readonly state: 'charged' | 'refunded'
  readonly refundedAt: number | null
}

export interface Ledger {
  readonly entries: readonly LedgerEntry[]
  /** Credits charged and not refunded, of one key or of all. */
  readonly total: (key?: string) => number
  readonly totals: () => Record<string, number>
}

export type Charge = Pick<LedgerEntry, 'key' | 'scraper' | 'prompt' | 'kind' | 'jobId' | 'credits'>

export interface Books extends Ledger {
  readonly charge: (charge: Charge) => LedgerEntry
  /** Infinity takes an announced refund back. */
  readonly refundAt: (entry: LedgerEntry, dueAt: number) => void
  readonly clear: () => void
}

type Entry = { -readonly [Name in keyof LedgerEntry]: LedgerEntry[Name] }

export function createLedger(now: () => number, keepLast: number): Books {
  let nextId = 1
  const entries: Entry[] = []
  const totals = new Map<string, number>()
  const due = new Map<Entry, number>()

  function charge(details: Charge): LedgerEntry {
    const entry: Entry = { id: nextId, at: now(), ...details, state: 'charged', refundedAt: null }
    nextId += 1
    entries.push(entry)
    if (entries.length > keepLast) entries.shift()
    add(entry.key, entry.credits)
    return entry
  }

  function settle(): void {
    if (due.size === 0) return
    const time = now()
    for (const [entry, dueAt] of due) {
      if (dueAt > time) continue
      due.delete(entry)
      entry.state = 'refunded'
      entry.refundedAt = dueAt
      add(entry.key, -entry.credits)
    }
  }

  function add(key: string, credits: number): void {
    totals.set(key, (totals.get(key) ?? 0) + credits)
  }

  return {
    get entries() {
      settle()
      return entries
    },
    total: (key) => {
      settle()
      if (key !== undefined) return totals.get(key) ?? 0
      return totals.values().reduce((sum, credits) => sum + credits, 0)
    },
    totals: () => {
      settle()
      return Object.fromEntries(totals)
    },
    charge,
    refundAt: (entry, dueAt) => {
      settle()
      due.delete(entry)
      if (dueAt < Infinity && entry.state === 'charged') due.set(entry, dueAt)
    },
    clear: () => {
      entries.length = 0
      totals.clear()
      due.clear()
    },
  }
}

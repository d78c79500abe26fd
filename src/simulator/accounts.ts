// The vendor's side of a key: whether it is valid, what is left on it, and how fast it may ask.
// A balance is the allowance minus what the ledger says, so refunds come back by themselves.

import { check, checkOptional, readFields } from './input.ts'
import type { Ledger } from './ledger.ts'
import type { RecordedRequest } from './request.ts'
import type { StepDetail } from './step.ts'
import type { Switches } from './switches.ts'

export interface Account {
  /** The allowance; left out = endless. */
  readonly credits?: number
  readonly name?: string
  readonly revoked?: boolean
}

export interface Accounts {
  readonly set: (secret: string, account: Account | null) => void
  /** The refusal of a missing, unknown, revoked or spent key; null when it may be used. */
  readonly refuse: (key: string | null, priceCredits: number, switches: Switches) => StepDetail | null
  /** The refusal of a key that asks too fast; counts the call. */
  readonly limit: (
    request: RecordedRequest,
    open: ReadonlySet<RecordedRequest>,
    switches: Switches,
  ) => StepDetail | null
  readonly clear: () => void
}

export function createAccounts(
  keys: Readonly<Record<string, Account>> | undefined,
  ledger: Ledger,
  now: () => number,
): Accounts {
  const accounts = new Map(Object.entries(keys ?? {}))
  const windows = new Map<string, { startedAt: number; calls: number }>()

  function refuse(key: string | null, priceCredits: number, switches: Switches): StepDetail | null {
    if (key === null) return { kind: '401-missing' }
    const account = accounts.get(key)
    if (account === undefined) return keys === undefined ? null : { kind: '401' }
    if (account.revoked === true) return { kind: '401' }
    if (account.credits === undefined || account.credits - ledger.total(key) >= priceCredits) return null
    return { kind: switches.noCredits === '429' ? '429-credits' : '401-no-credits' }
  }

  function limit(request: RecordedRequest, open: ReadonlySet<RecordedRequest>, switches: Switches): StepDetail | null {
    return limitRate(request, switches) ?? limitQueue(request, open, switches)
  }

  function limitRate(request: RecordedRequest, { rateLimit, limitScope }: Switches): StepDetail | null {
    if (rateLimit === null) return null
    const scope = limitScope === 'key' ? `key ${request.key}` : 'account'
    const time = now()
    const known = windows.get(scope)
    const window =
      known !== undefined && time < known.startedAt + rateLimit.windowMs ? known : { startedAt: time, calls: 0 }
    windows.set(scope, window)
    window.calls += 1
    if (window.calls <= rateLimit.limit) return null
    const waitMs = window.startedAt + rateLimit.windowMs - time
    return { kind: '429-rate', ...(rateLimit.retryAfter === true ? { retryAfter: Math.ceil(waitMs / 1000) } : {}) }
  }

  function limitQueue(
    request: RecordedRequest,
    open: ReadonlySet<RecordedRequest>,
    { queueDepth, limitScope }: Switches,
  ): StepDetail | null {
    if (queueDepth === null || request.call !== 'sync') return null
    let depth = 0
    for (const other of open) {
      if (other.call === 'sync' && (limitScope === 'account' || other.key === request.key)) depth += 1
    }
    return depth > queueDepth ? { kind: '429-queue' } : null
  }

  return {
    set: (secret, account) => {
      accounts.set(secret, account ?? { revoked: true })
    },
    refuse,
    limit,
    clear: () => {
      accounts.clear()
      for (const [secret, account] of Object.entries(keys ?? {})) accounts.set(secret, account)
      windows.clear()
    },
  }
}

/** Throws a SimulatorInputError; null revokes. */
export function readAccounts(value: unknown): ReadonlyMap<string, Account | null> {
  check(typeof value === 'object' && value !== null && !Array.isArray(value), 'keys must be an object')
  return new Map(
    Object.entries(value).map(([secret, account]) => {
      if (account === null) return [secret, null]
      const fields = readFields(account, 'account', ['credits', 'name', 'revoked'])
      checkOptional(fields, { credits: 'number', name: 'string', revoked: 'boolean' })
      return [secret, fields]
    }),
  )
}

/**
 * Whether upstream can be reached, as log lines: one when a reason begins, one when all are over, however many calls fail in between.
 * A reason is over when a call has reached upstream and none has failed for it for a minute, so that a few failures among many
 * calls are one line.
 */
import type { WireReason, WireTrouble } from '../model.ts'
import type { Clock } from '../ports.ts'
import type { Log } from './log.ts'

export interface Reachability {
  /** An exchange with upstream has ended; null = it was answered. */
  note(trouble: WireTrouble | null): void
}

const OVER_AFTER_MS = 60_000

/** Upstream was reached all the same: slow, or with an answer that is none; `aborted` says nothing. */
const reached: ReadonlySet<WireReason> = new Set(['timeout', 'idle-closed', 'malformed', 'truncated', 'too-big'])

export function createReachability({ clock, log }: { readonly clock: Clock; readonly log: Log }): Reachability {
  /** When each reason was met last. */
  const current = new Map<WireReason, number>()
  let failedCalls = 0

  return {
    note(trouble) {
      if (trouble === null || reached.has(trouble.reason)) return current.size === 0 ? undefined : forget()
      if (trouble.reason === 'aborted') return
      const isNew = !current.has(trouble.reason)
      current.set(trouble.reason, clock.now())
      failedCalls += 1
      if (isNew) tell(trouble)
    },
  }

  function tell({ reason, code }: WireTrouble): void {
    const fields = { reason, error_code: code }
    if (reason === 'local') log.error('no connection to upstream: trouble of this machine', fields)
    else log.warn('upstream unreachable', fields)
  }

  function forget(): void {
    const now = clock.now()
    for (const [reason, lastAt] of current) if (now - lastAt >= OVER_AFTER_MS) current.delete(reason)
    if (current.size > 0) return
    log.info('upstream reachable again', { failed_calls: failedCalls })
    failedCalls = 0
  }
}

/** Everything that can happen beside an outcome, as one union: parts emit it, the recorder turns it into metrics and log lines. */
import type { Attempt, FailureClass, Refused, Tier, VerdictClass } from '../model.ts'

export type BreakerState = 'closed' | 'half-open' | 'open'
export type KeyState = 'ready' | 'resting' | 'spent'

export type DiskTrouble = 'corrupt' | 'locked' | 'read-only' | 'full' | 'io' | 'format'

export type TelemetryEvent =
  | { readonly kind: 'attempt-started'; readonly scraper: string }
  /** One attempt has ended; `payer` is the client that is charged for it. */
  | { readonly kind: 'attempt-ended'; readonly scraper: string; readonly payer: string; readonly attempt: Attempt }
  | { readonly kind: 'retried'; readonly scraper: string; readonly class: VerdictClass; readonly waitMs: number }
  | { readonly kind: 'retry-refused'; readonly scraper: string; readonly reason: Refused }
  | {
      readonly kind: 'breaker-changed'
      readonly scraper: string
      readonly to: BreakerState
      readonly openForMs: number | null
    }
  | {
      readonly kind: 'key-changed'
      readonly key: string
      readonly to: KeyState
      readonly because: FailureClass | null
      readonly untilAt: number | null
    }
  | { readonly kind: 'cache-looked-up'; readonly tier: Tier; readonly result: 'hit' | 'stale' | 'miss' }
  | { readonly kind: 'cache-evicted'; readonly tier: Tier }
  /** The store on the disk was lost or is back; `because` is why it was lost. */
  | { readonly kind: 'disk-changed'; readonly to: 'up' | 'down'; readonly because: DiskTrouble }
  /** The last asker left; the call is finished and kept all the same. */
  | { readonly kind: 'flight-orphaned'; readonly scraper: string }
  /** A bug: shown to nobody but the log. */
  | { readonly kind: 'broke'; readonly where: string; readonly error: unknown }

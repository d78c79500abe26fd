/**
 * Where the credits of a hold come from: a record of its own in the shared store, the allowance that this replica leased before
 * the store was away, or a tab, which is only written up. Each knows how much of it is left and what was spent; none asks the
 * store by itself.
 */
import { type Slip, slipOf } from './shared-accounts.ts'

export interface Purse {
  /**
   * So much may be spent next. `away`: the store does not say; `short`: this purse has no more. Rejects when the client has
   * no more.
   */
  secure(credits: number): Promise<'secured' | 'away' | 'short'>
  spend(credits: number): void
  /** Also after a late `spend`, again. */
  settle(): void
}

/** Credits that the store counts as held by this replica, for use while the store is away. */
export interface Lease {
  readonly slip: Slip
  /** The UTC day that it belongs to, as the store has it; null = not known yet. */
  dayId: string | null
  inUseCredits: number
  /** Nothing new is taken from it; it ends with the last flight that uses it. */
  isRetired: boolean
}

/** What was spent without asking. */
export interface Tab {
  readonly slip: Slip
  readonly dayId: string
  heldCredits: number
}

export function leaseOf(id: string): Lease {
  return { slip: { ...slipOf(id), isSent: true }, dayId: null, inUseCredits: 0, isRetired: false }
}

export function freeOf({ slip, inUseCredits }: Lease): number {
  return slip.heldCredits - inUseCredits
}

/** Null = there is not so much in it. */
export function takeFrom(lease: Lease, credits: number): Purse | null {
  if (lease.isRetired || freeOf(lease) < credits) return null
  const { slip } = lease
  let restCredits = credits
  lease.inUseCredits += credits

  return {
    async secure(credits) {
      const missing = Math.max(0, credits - restCredits)
      if (missing > 0 && (lease.isRetired || freeOf(lease) < missing)) return 'short'
      lease.inUseCredits += missing
      restCredits += missing
      return 'secured'
    },
    spend(credits) {
      const taken = Math.min(restCredits, credits)
      restCredits -= taken
      lease.inUseCredits -= taken
      slip.heldCredits -= taken
      slip.spentCredits += credits
    },
    settle() {
      lease.inUseCredits -= restCredits
      restCredits = 0
    },
  }
}

export function tabOf(id: string, dayId: string): Tab {
  return { slip: { ...slipOf(id), isSent: true }, dayId, heldCredits: 0 }
}

/** What is on a tab and the store does not know. */
export function untold({ slip }: Tab): number {
  return slip.spentCredits - (slip.told?.spentCredits ?? 0)
}

/** `mayTake` throws when more than there is would be set aside. */
export function writeUpOn(tab: () => Tab, credits: number, mayTake: (credits: number) => void): Purse {
  mayTake(credits)
  let held = { on: tab(), credits }
  held.on.heldCredits += credits

  function hold(credits: number): void {
    held.on.heldCredits += credits - held.credits
    held = { ...held, credits }
  }

  return {
    async secure(credits) {
      if (credits > held.credits) {
        mayTake(credits - held.credits)
        hold(credits)
      }
      return 'secured'
    },
    spend(credits) {
      hold(Math.max(0, held.credits - credits))
      tab().slip.spentCredits += credits
    },
    settle: () => hold(0),
  }
}

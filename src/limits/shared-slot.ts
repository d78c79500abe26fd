/** What one hold has set aside of the slice of one of its payers, or of what may be spent without the store. */
import { ProxyError } from '../errors.ts'
import type { SharedAccount } from './shared-account.ts'
import type { AccountPorts } from './shared-book.ts'
import type { Asked, Run } from './shared-run.ts'
import { isLimited, type Payer, type Standing } from './shared-standing.ts'

/** Money was asked for while the store is away. */
export interface AwayNews {
  /** From what was marked in advance, counted by this replica alone, or not granted. */
  readonly kind: 'allowance' | 'open' | 'refused'
  readonly client: string
  readonly credits: number
}

export interface Slot {
  readonly run: Run
  /** Sets aside so much more. Rejects with BUDGET_EXHAUSTED or BUDGET_UNAVAILABLE. */
  reserve(credits: number): Promise<void>
  /** From now on so much may be charged. Rejects likewise; then nothing may be sent. */
  secure(credits: number): Promise<void>
  spend(credits: number): void
  settle(): void
}

interface SlotPorts extends Pick<AccountPorts, 'store' | 'session'> {
  readonly whenAway: () => 'closed' | 'open'
  readonly tell: (news: Omit<AwayNews, 'client'>) => void
  readonly standings: (payer: Payer) => readonly Standing[]
  readonly refusal: (payer: Payer, credits: number) => ProxyError
}

const RETRY_AFTER_MS = 5_000

export function createSlot(payer: Payer, account: SharedAccount, ports: SlotPorts): Slot {
  const { store, session, whenAway, tell, standings, refusal } = ports
  const run = account.run(payer.mayUseReserve)
  let restCredits = 0
  let markedCredits = 0

  return { run, reserve, secure, spend, settle }

  async function reserve(credits: number): Promise<void> {
    if (!isLimited(payer)) return setAside(credits, 0)
    const asked = store.state === 'up' ? await account.setAside(run, credits) : 'away'
    if (asked === 'done') restCredits += credits
    else insteadOf(asked, credits)
  }

  async function secure(credits: number): Promise<void> {
    if (restCredits < credits) await reserve(credits - restCredits)
    const missing = credits - markedCredits
    if (missing <= 0 || !isLimited(payer)) return
    const asked = await account.mark(run, missing)
    if (asked === 'done') {
      markedCredits += missing
      return
    }
    setAside(-missing, 0)
    insteadOf(asked, missing)
  }

  /** The store has not granted it. */
  function insteadOf(asked: Asked, credits: number): void {
    if (asked === 'exhausted') throw refusal(payer, credits)
    const isOpen = whenAway() === 'open'
    if (isOpen && standings(payer).some(({ leftCredits }) => leftCredits < credits)) throw refusal(payer, credits)
    if (isOpen) {
      setAside(credits, credits)
      run.own[3] += credits
    } else if (run.floatCredits >= credits && session.isValid()) {
      setAside(credits, credits)
      run.floatCredits -= credits
    } else {
      tell({ kind: 'refused', credits })
      throw unavailable(asked)
    }
    tell({ kind: isOpen ? 'open' : 'allowance', credits })
  }

  function setAside(credits: number, marked: number): void {
    restCredits += credits
    run.heldCredits += credits
    markedCredits += marked
    run.markedCredits += marked
  }

  function spend(credits: number): void {
    const taken = Math.min(restCredits, credits)
    const marked = Math.min(markedCredits, credits)
    setAside(-taken, -marked)
    run.own[2] += credits
    run.own[3] += credits - marked
    // It cost more than was set aside for it: a crash must not forget that.
    account.tellSoon(taken < credits && isLimited(payer))
  }

  function settle(): void {
    run.own[4] += markedCredits
    setAside(-restCredits, -markedCredits)
    account.tellSoon()
  }
}

/** There are credits, but nobody can take them now. */
export function unavailable(asked: Asked): ProxyError {
  const detail =
    asked === 'recovering'
      ? 'Redis may have lost data, and no more credits are granted until all replicas have restored it. Cached answers are still served. Retry later.'
      : 'Redis is unavailable, and the credits that this replica may spend without Redis are used up. Cached answers are still served. Retry later.'
  return new ProxyError('BUDGET_UNAVAILABLE', detail, { retryAfterMs: RETRY_AFTER_MS })
}

/**
 * Where clients stand with the credits of all replicas, without asking: as the last reply of the store had it, and what this replica has
 * spent and set aside since. Others may have spent in between.
 */
import type { ProxyError } from '../errors.ts'
import type { AccountLimits, Client, CreditLimits, LimitState } from '../model.ts'
import type { BudgetStatus } from '../parts.ts'
import type { Emit } from '../ports.ts'
import type { Session } from '../session.ts'
import { exhausted, limitOf, TOLD_AT, usedUpAtThisPace, WHOLE } from './accounts.ts'
import type { Spending } from './budget.ts'
import { dayOf, monthOf, type Period } from './period.ts'
import { creditsPolicy } from './policy.ts'
import type { SharedAccount } from './shared-account.ts'

/** A client, or the account as a whole, as it pays for a client. */
export interface Payer {
  readonly name: string
  readonly credits: CreditLimits
  readonly mayUseReserve?: boolean
}

export interface Standing {
  readonly period: Period
  readonly limitCredits: number
  readonly leftCredits: number
  readonly heldCredits: number
  readonly spentCredits: number
}

interface StandingPorts {
  readonly emit: Emit
  readonly session: Pick<Session, 'wallMs'>
  readonly clients: () => readonly Client[]
  readonly whole: () => AccountLimits | null
}

export function createStandings(
  { emit, session, clients, whole }: StandingPorts,
  accountOf: (name: string) => SharedAccount | null,
) {
  /** Up to this share of the limit has been told, by client and period. */
  const told = new Map<string, { readonly id: string; readonly percent: number }>()

  return { of: standings, hasRoom, limits, states, spending, tellShares, refusal }

  function hasRoom(client: Client): boolean {
    const all = [client, wholeFor(whole(), client)].flatMap(standings)
    return all.every(({ leftCredits, limitCredits }) => leftCredits * 5 >= limitCredits)
  }

  function limits(client: Client): readonly LimitState[] {
    const wallMs = session.wallMs()
    return standings(client).map(({ period, limitCredits, leftCredits }) => ({
      policy: creditsPolicy(period, limitCredits),
      remaining: Math.max(0, leftCredits),
      resetMs: Math.max(0, period.resetAt - wallMs),
    }))
  }

  function states(): readonly BudgetStatus[] {
    return [...clients(), wholeFor(whole(), { mayUseReserve: true })].flatMap((payer) =>
      standings(payer).map(({ period: { kind, resetAt }, ...credits }) => ({
        ...credits,
        client: payer.name,
        period: kind,
        resetAt,
      })),
    )
  }

  function spending(): readonly Spending[] {
    return clients().map(({ name }) => {
      const account = accountOf(name)
      const day = account?.used('day')
      return {
        client: name,
        dayCredits: day?.spentCredits ?? 0,
        monthCredits: account?.used('month').spentCredits ?? 0,
        heldCredits: day?.heldCredits ?? 0,
      }
    })
  }

  function standings({ name, credits }: Payer): readonly Standing[] {
    const wallMs = session.wallMs()
    const account = accountOf(name)
    return [dayOf(wallMs), monthOf(wallMs)].flatMap((period) => {
      const limitCredits = limitOf(credits, period, wallMs)
      if (limitCredits === null) return []
      const { heldCredits, spentCredits } = account?.used(period.kind) ?? { heldCredits: 0, spentCredits: 0 }
      return [
        { period, limitCredits, leftCredits: limitCredits - heldCredits - spentCredits, heldCredits, spentCredits },
      ]
    })
  }

  /** Once per replica, period and share. */
  function tellShares({ name, credits }: Payer): void {
    const wallMs = session.wallMs()
    for (const period of [dayOf(wallMs), monthOf(wallMs)]) {
      const limitCredits = limitOf(credits, period, wallMs)
      if (limitCredits === null || limitCredits === 0) continue
      const spentCredits = accountOf(name)?.used(period.kind).spentCredits ?? 0
      const before = told.get(`${period.kind}/${name}`)
      for (const percent of TOLD_AT) {
        if (before?.id === period.id && percent <= before.percent) continue
        if (spentCredits * 100 < percent * limitCredits) continue
        told.set(`${period.kind}/${name}`, { id: period.id, percent })
        const usedUpAt = usedUpAtThisPace({ period, spentCredits }, limitCredits, wallMs)
        emit({ kind: 'budget-used', client: name, period, percent, spentCredits, limitCredits, usedUpAt })
      }
    }
  }

  function refusal(payer: Payer, credits: number): ProxyError {
    const wallMs = session.wallMs()
    const refusing = standings(payer).flatMap(({ period, limitCredits, leftCredits, spentCredits }) =>
      leftCredits < credits ? [{ client: payer.name, period, isHeld: limitCredits - spentCredits >= credits }] : [],
    )
    // What was left when it was refused may have become more since: then it was held.
    const held = { client: payer.name, period: dayOf(wallMs), isHeld: true }
    return exhausted(refusing.length > 0 ? refusing : [held], wallMs)
  }
}

export function isLimited({ credits }: Payer): boolean {
  return credits.perDay !== null || credits.perMonth !== null
}

/** The account as a whole as it pays for a client: without the reserve for those who may not use it. */
export function wholeFor(whole: AccountLimits | null, { mayUseReserve = false }: Pick<Client, 'mayUseReserve'>): Payer {
  const kept = mayUseReserve ? 0 : (whole?.reserveCredits ?? 0)
  const less = (limit: number | null = null): number | null => (limit === null ? null : Math.max(0, limit - kept))
  return { name: WHOLE, credits: { perDay: less(whole?.perDay), perMonth: less(whole?.perMonth) }, mayUseReserve }
}

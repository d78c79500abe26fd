/**
 * Where clients stand with the credits of all replicas, without asking: as the last reply of the store had it, and what this
 * replica has written up since and not told. Others may have spent in between.
 */
import { ProxyError } from '../errors.ts'
import type { Client, LimitState } from '../model.ts'
import type { BudgetStatus } from '../parts.ts'
import { limitOf } from './accounts.ts'
import type { Spending } from './budget.ts'
import { dayOf, monthOf, type Period } from './period.ts'
import { creditsPolicy } from './policy.ts'
import { type Tab, untold } from './purse.ts'
import type { SharedAccounts } from './shared-accounts.ts'

export interface Standings {
  hasRoom(client: Client): boolean
  limits(client: Client): readonly LimitState[]
  states(): readonly BudgetStatus[]
  spending(): readonly Spending[]
  refuses(client: Client, credits: number): boolean
  /** With the reset of the last to be over of the periods that refuse. */
  exhausted(client: Client, credits: number): ProxyError
}

interface Used {
  readonly period: Period
  readonly heldCredits: number
  readonly spentCredits: number
}

interface Standing extends Used {
  readonly limitCredits: number
  readonly leftCredits: number
}

export function createStandings(
  accounts: SharedAccounts,
  tabsOf: (clientName: string) => readonly Tab[],
  clients: () => readonly Client[],
): Standings {
  return { hasRoom, limits, states, spending, refuses, exhausted }

  function hasRoom(client: Client): boolean {
    return standings(client).every(({ leftCredits, limitCredits }) => leftCredits * 5 >= limitCredits)
  }

  function limits(client: Client): readonly LimitState[] {
    const wallMs = accounts.wallMs(client.name)
    return standings(client).map(({ period, limitCredits, leftCredits }) => ({
      policy: creditsPolicy(period, limitCredits),
      remaining: Math.max(0, leftCredits),
      resetMs: Math.max(0, period.resetAt - wallMs),
    }))
  }

  function states(): readonly BudgetStatus[] {
    return clients().flatMap((client) =>
      standings(client).map(({ period: { kind, resetAt }, ...credits }) => ({
        ...credits,
        client: client.name,
        period: kind,
        resetAt,
      })),
    )
  }

  function spending(): readonly Spending[] {
    return clients().map((client) => {
      const [day, month] = totals(client)
      return {
        client: client.name,
        dayCredits: day.spentCredits,
        monthCredits: month.spentCredits,
        heldCredits: day.heldCredits,
      }
    })
  }

  function refuses(client: Client, credits: number): boolean {
    return standings(client).some(({ leftCredits }) => leftCredits < credits)
  }

  function exhausted(client: Client, credits: number): ProxyError {
    const all = standings(client).toSorted((a, b) => b.period.resetAt - a.period.resetAt)
    // What was left when it was refused may have become more since.
    const refusing = all.find(({ leftCredits }) => leftCredits < credits) ?? all.at(-1)
    const wallMs = accounts.wallMs(client.name)
    const { kind, resetAt } = refusing?.period ?? dayOf(wallMs)
    const reset = new Date(resetAt).toISOString().replace('.000Z', 'Z')
    return new ProxyError(
      'BUDGET_EXHAUSTED',
      `The credit budget of this client for the ${kind} does not cover this request. The budget resets at ${reset}.`,
      { retryAfterMs: Math.max(0, resetAt - wallMs) },
    )
  }

  function standings(client: Client): readonly Standing[] {
    const wallMs = accounts.wallMs(client.name)
    const limited = totals(client).map((used) => ({
      ...used,
      limitCredits: limitOf(client.credits, used.period, wallMs),
    }))
    return limited.flatMap(({ limitCredits, ...used }) =>
      limitCredits === null
        ? []
        : [{ ...used, limitCredits, leftCredits: limitCredits - used.heldCredits - used.spentCredits }],
    )
  }

  function totals({ name }: Client): readonly [day: Used, month: Used] {
    const known = accounts.known(name)
    const wallMs = accounts.wallMs(name)
    const tabs = tabsOf(name)
    const heldCredits = tabs.reduce((sum, tab) => sum + tab.heldCredits, 0)
    const spentCredits = tabs.reduce((sum, tab) => sum + untold(tab), 0)
    const withTabs = (used: Used): Used => ({
      period: used.period,
      heldCredits: used.heldCredits + heldCredits,
      spentCredits: used.spentCredits + spentCredits,
    })
    return [
      withTabs(known?.day ?? { period: dayOf(wallMs), heldCredits: 0, spentCredits: 0 }),
      withTabs(known?.month ?? { period: monthOf(wallMs), heldCredits: 0, spentCredits: 0 }),
    ]
  }
}

export function isLimited({ credits }: Client): boolean {
  return credits.perDay !== null || credits.perMonth !== null
}

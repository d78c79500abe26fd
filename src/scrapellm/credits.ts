/**
 * What a call costs, and what an attempt at it did cost (docs/vendor-api.md, "Credits"). Upstream has no balance or usage endpoint: the price
 * list and `credits_used` are all there is, and where neither tells, the charge is unknown rather than zero.
 */
import type { Call, Charge } from '../model.ts'
import type { JsonObject } from './answers.ts'
import { scrapers } from './endpoints.ts'

const prices: Readonly<Record<(typeof scrapers)[number], number>> = {
  chatgpt: 3,
  perplexity: 3,
  grok: 3,
  copilot: 3,
  gemini: 3,
  google_ai_mode: 3,
  amazon_rufus: 3,
}

const priceList: ReadonlyMap<string, number> = new Map(Object.entries(prices))

/** Beyond this many times the price, `credits_used` is a mistake or an attack: one number must not use up a budget. */
const BELIEVED_TIMES = 10

export const FREE: Charge = { state: 'free', credits: 0 }

export interface Stated {
  readonly charge: Charge
  /** `credits_used` was not believed, and the price is charged. */
  readonly isImplausible: boolean
}

/** Of a question, asked at once or as a job. What names no scraper, the poll of a job, is free. */
export function priceOf(scraper: string): number {
  return priceList.get(scraper) ?? 0
}

/** What `credits_used` says; null = nothing, or nothing that could be a number of credits. */
export function statedCharge(call: Call, body: JsonObject | null): Stated | null {
  const { priceCredits } = call
  const credits = body?.['credits_used']
  if (priceCredits === 0 || typeof credits !== 'number' || !Number.isInteger(credits) || credits < 0) return null
  const isImplausible = credits > BELIEVED_TIMES * priceCredits
  return { charge: charged(isImplausible ? priceCredits : credits), isImplausible }
}

/**
 * For an answer that says nothing of its own. It is not documented whether an answer from the vendor's cache is charged, so it is. A job is
 * paid for when it is accepted; a poll is free.
 */
export function priceCharge({ priceCredits }: Call): Charge {
  return charged(priceCredits)
}

/** For an attempt that reached upstream and brought no complete answer back. */
export function possibleCharge({ priceCredits }: Call): Charge {
  return priceCredits === 0 ? FREE : { state: 'unknown', credits: priceCredits }
}

function charged(credits: number): Charge {
  return credits === 0 ? FREE : { state: 'charged', credits }
}

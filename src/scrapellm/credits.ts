/**
 * What a call costs, and what an attempt at it did cost. Upstream has no balance or usage endpoint (api notes 3.3): the price
 * list and `credits_used` are all there is, and where neither tells, the charge is unknown rather than zero.
 */
import type { Call, Charge } from '../model.ts'
import type { JsonObject } from './answers.ts'
import { scrapers } from './endpoints.ts'

/** Api notes 3.1 [credits-and-limits]. */
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

export const FREE: Charge = { state: 'free', credits: 0 }

/** Of a question, asked at once or as a job. What names no scraper, the poll of a job, is free. */
export function priceOf(scraper: string): number {
  return priceList.get(scraper) ?? 0
}

/**
 * For an answer, `credits_used` before the price. Undocumented whether one of the vendor's cache is charged: it is, unless it
 * says otherwise (api notes 3.4). A job is paid when it is accepted, and given back when it fails (3.2); a poll is free.
 */
export function chargeOf(call: Call, body: JsonObject): Charge {
  const stated = call.endpoint === 'answer' ? statedCharge(body) : null
  return stated ?? charged(call.priceCredits)
}

/** For an attempt that reached upstream and brought nothing usable back. */
export function chargeOfLoss(call: Call, body: JsonObject | null): Charge {
  if (call.priceCredits === 0) return FREE
  return (body && statedCharge(body)) ?? { state: 'unknown', credits: call.priceCredits }
}

function statedCharge(body: JsonObject): Charge | null {
  const credits = body['credits_used']
  return typeof credits === 'number' && Number.isSafeInteger(credits) && credits >= 0 ? charged(credits) : null
}

function charged(credits: number): Charge {
  return credits === 0 ? FREE : { state: 'charged', credits }
}

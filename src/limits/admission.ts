/** Whether a client may ask now: not too often, and not too much at a time. Its limits come with the client. */
import { ProxyError } from '../errors.ts'
import type { Call, Client, LimitState } from '../model.ts'
import type { Place } from '../fetch-parts.ts'
import type { Clock } from '../ports.ts'
import { createConcurrencyLimits } from './concurrency.ts'
import { withOneMore } from './policy.ts'
import { createRateLimits } from './rate.ts'

export interface AdmissionGauges {
  /** Questions of this client that are open now. */
  open(clientName: string): number
}

/** For one process: it never has to wait for anything. */
export interface LocalAdmission extends AdmissionGauges {
  admit(client: Client, call: Call): LimitState | null
  giveBack(client: Client, limits: LimitState, leftMs: number): LimitState
  enter(client: Client): Place
}

export function createAdmission({ clock }: { readonly clock: Clock }): LocalAdmission {
  const rates = createRateLimits({ clock })
  const concurrency = createConcurrencyLimits()
  return {
    admit(client, call) {
      mayAsk(client, call)
      return rates.admit(client)
    },
    giveBack(client, limits, leftMs) {
      rates.giveBack(client, leftMs)
      return client.rate ? withOneMore(limits, client.rate) : limits
    },
    enter: (client) => concurrency.enter(client),
    open: (clientName) => concurrency.open(clientName),
  }
}

/** Throws SCRAPER_NOT_ALLOWED. */
export function mayAsk({ scrapers }: Client, { scraper, endpoint }: Call): void {
  if (scrapers === null || endpoint === 'status' || scrapers.has(scraper)) return
  const detail = `This client may not use ${scraper}, only ${[...scrapers].join(', ')}. The operator can add ${scraper} to clients.NAME.scrapers.`
  throw new ProxyError('SCRAPER_NOT_ALLOWED', detail)
}

/** `POST /circuits/{scraper}/close` of the admin port: closed by hand, it opens again if calls go on failing. */
import { ProxyError } from '../errors.ts'
import type { BreakerStatus } from '../fetch-parts.ts'
import { type AdminRoute, json } from './admin.ts'

interface CircuitsParts {
  /** Null = there is no such circuit. */
  readonly closeNow: (scraper: string) => BreakerStatus | null
}

export function createCircuitRoute({ closeNow }: CircuitsParts): AdminRoute {
  return {
    method: 'POST',
    path: '/circuits/{scraper}/close',
    run({ segment }) {
      const circuit = closeNow(segment)
      if (!circuit)
        throw new ProxyError('ENDPOINT_UNKNOWN', 'There is no circuit of this name: it is that of a scraper.')
      const { scraper, state, held } = circuit
      return { ...json({ scraper, state, held }), acted: { action: 'circuit-close', what: { scraper } } }
    },
  }
}

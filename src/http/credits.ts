/** `POST /clients/{name}/credits` of the admin port: what a client has really spent this month, where upstream or a crash has it wrong. */
import { ProxyError } from '../errors.ts'
import { type AdminRoute, json } from './admin.ts'

interface CreditsPorts {
  readonly clients: () => readonly string[]
  /** Says what was counted before, and what is now. */
  readonly correct: (client: string, spentCredits: number) => Corrected | Promise<Corrected>
}

interface Corrected {
  readonly beforeCredits: number
  readonly spentCredits: number
}

export function createCreditsRoute({ clients, correct }: CreditsPorts): AdminRoute {
  return {
    method: 'POST',
    path: '/clients/{name}/credits',
    async run({ segment: client, body }) {
      if (!clients().includes(client))
        throw new ProxyError('ENDPOINT_UNKNOWN', 'The settings have no client with this name.')
      const { beforeCredits, spentCredits } = await correct(client, spentIn(body))
      const corrected = { client, before: beforeCredits, spent: spentCredits }
      return { ...json(corrected), acted: { action: 'credits', what: corrected } }
    },
  }
}

function spentIn(body: string): number {
  const { spent, ...others } = objectIn(body)
  if (Number.isSafeInteger(spent) && Number(spent) >= 0 && Object.keys(others).length === 0) return Number(spent)
  throw new ProxyError(
    'REQUEST_INVALID',
    'The body must be {"spent": N}, where N is the number of credits the client has spent this month (an integer, at least 0).',
  )
}

function objectIn(body: string): { readonly spent?: unknown } {
  try {
    return Object(JSON.parse(body)) as { readonly spent?: unknown }
  } catch {
    return {}
  }
}

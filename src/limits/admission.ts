/** Whether a client may ask now: not too often, and not too much at a time. Its limits come with the client. */
import type { Admission } from '../parts.ts'
import type { Clock } from '../ports.ts'
import { createConcurrencyLimits } from './concurrency.ts'
import { createRateLimits } from './rate.ts'

export interface AdmissionGauges {
  /** Questions of this client that are open now. */
  open(clientName: string): number
}

export function createAdmission({ clock }: { readonly clock: Clock }): Admission & AdmissionGauges {
  const rates = createRateLimits({ clock })
  const concurrency = createConcurrencyLimits()
  return {
    admit: (client) => rates.admit(client),
    enter: (client) => concurrency.enter(client),
    open: (clientName) => concurrency.open(clientName),
  }
}

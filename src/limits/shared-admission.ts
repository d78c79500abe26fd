/** Whether a client may ask now, counted by all replicas together. */
import type { Admission } from '../parts.ts'
import { mayAsk, type AdmissionGauges } from './admission.ts'
import type { SharedConcurrencyLimits } from './shared-concurrency.ts'
import type { SharedRateLimits } from './shared-rate.ts'

interface SharedAdmissionPorts {
  readonly rates: SharedRateLimits
  readonly concurrency: SharedConcurrencyLimits
}

export function createSharedAdmission({ rates, concurrency }: SharedAdmissionPorts): Admission & AdmissionGauges {
  return {
    admit(client, call) {
      mayAsk(client, call)
      return rates.admit(client, () => concurrency.comeAlong(client))
    },
    giveBack: rates.giveBack,
    enter: concurrency.enter,
    open: concurrency.open,
  }
}

/**
 * What processes that are gone have begun and paid for is flown to its end: by this one, if it is their successor, or by
 * whichever replica looks first.
 */
import { noDirectives } from './http/cache-directives.ts'
import type { DurableUpstream } from './jobs/durable.ts'
import type { Call, Client } from './model.ts'
import type { Budget, Jobs, PromisedAnswer } from './parts.ts'
import type { Clock, Emit, Random, Timer } from './ports.ts'
import type { Serving } from './serving.ts'

export interface CrashRecoveryPorts {
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
  readonly jobs: Jobs
  readonly durable: DurableUpstream
  readonly budget: Budget
  readonly clientNamed: (name: string) => Client | null
  readonly serving: () => Serving
}

export interface CrashRecovery {
  /** Begins with all that is there now. */
  resumeOrphans(): Promise<void>
  /** Again and again: other replicas may be lost at any time, and what they have begun with them. */
  keepResuming(): void
  close(): void
}

const TAKE_UP_EVERY_MS = 15_000

export function createCrashRecovery(ports: CrashRecoveryPorts): CrashRecovery {
  const { clock, random, emit, jobs, durable, budget, clientNamed, serving } = ports
  let timer: Timer | null = null

  return { resumeOrphans, keepResuming, close: () => timer?.cancel() }

  async function resumeOrphans(): Promise<void> {
    const promised = await jobs.interrupted()
    for (const { call, client: payer, cacheKey: key, holdId } of (await durable.orphaned()).submitted) {
      const client = clientNamed(payer)
      if (!client) continue
      const request = { id: random.id(), traceparent: null, cacheDirectives: noDirectives }
      const askedAt = clock.now()
      const landing = serving().resume({ request, client, call, key, askedAt }, budget.adopt(holdId) ?? budget.none)
      for (const promise of promised) if (isFor(promise, payer, call, key)) await jobs.resume(promise.id, landing)
    }
  }

  function keepResuming(): void {
    timer = clock.after(TAKE_UP_EVERY_MS, () => {
      keepResuming()
      resumeOrphans().catch((error: unknown) => emit({ kind: 'broke', where: 'taking up', error }))
    })
  }

  /** An answer kept under a key is for all who would find it there; any other only for the client that asked so. */
  function isFor(promise: PromisedAnswer, payer: string, call: Call, key: string | null): boolean {
    const owner = clientNamed(promise.client)
    if (!owner || promise.call.path !== call.path) return false
    if (key !== null) return serving().cache.keyOf(promise.call, owner) === key
    return owner.name === payer && JSON.stringify(promise.call.params) === JSON.stringify(call.params)
  }
}

/** The options of `replay`, as the command line has them, in the units that it reckons in. Their form has been looked at already. */
import { parseDuration } from '../config/units.ts'
import type { Invocation } from './args.ts'
import { failureNamed } from '../replay/faults.ts'
import type { ReplayWanted } from './replay.ts'

const PER_SECOND = 10
const SEED = 1

export function replayOptions({
  configs,
  sets,
  given,
  json,
}: Pick<Invocation, 'configs' | 'sets' | 'given' | 'json'>): ReplayWanted {
  const last = (name: string): string | null => given[name]?.at(-1) ?? null
  const ms = (text: string | null): number | null => (text === null ? null : parseDuration(text))
  const number = (text: string | null): number | null => (text === null ? null : Number.parseFloat(text))
  const count = number(last('requests'))
  const [limit = null, per = null] = last('rate-limit')?.split('/') ?? []
  const [fast = null, slow = null] = last('latency')?.split('-') ?? []
  const outageMs = ms(last('outage'))
  return {
    configs,
    sets,
    audits: given['audit'] ?? [],
    candidates: given['candidate'] ?? [],
    recorded: given['recorded'] ?? [],
    synthetic: count === null ? null : { count, perSecond: number(last('rate')) ?? PER_SECOND },
    weather: {
      outage: outageMs === null ? null : { forMs: outageMs, afterMs: ms(last('outage-at')) },
      failureRate: number(last('failure-rate')),
      failureClass: failureNamed(last('failure-class')),
      failureMs: ms(last('failure-duration')),
      latency: fast === null ? null : { fastMs: ms(fast) ?? 0, slowMs: ms(slow) ?? 0 },
      rateLimit: limit === null ? null : { limit: Number(limit), perMs: ms(per) ?? 0 },
      slow: number(last('slow')) ?? 1,
    },
    isOutageTimed: last('outage-at') !== null,
    isRateGiven: last('rate') !== null,
    seed: number(last('seed')) ?? SEED,
    json,
  }
}

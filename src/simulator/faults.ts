// Standing conditions per scraper: outages, failure rates, warm-up. They last until told otherwise, scripts come first.

import type { Chance } from './chance.ts'
import { check, checkOptional, readFields } from './input.ts'
import { detailOf, readStep, readSteps, type Step, type StepDetail } from './step.ts'

export interface FaultProfile {
  /** Every sync call and submit gets 503, or this step. */
  readonly outage?: boolean | Step
  /** 0-1; for jobs the chance that one of the vendor's own attempts fails. */
  readonly failureRate?: number
  readonly failures?: readonly Step[]
  /** 503 for the first so many calls, or milliseconds, after this weather began. */
  readonly warmUp?: { readonly requests?: number; readonly forMs?: number }
}

interface Standing {
  readonly weather: FaultProfile
  readonly since: number
  warmedUp: number
}

export interface FaultInjector {
  readonly set: (scraper: string, weather: FaultProfile | null) => void
  /** The failure that this call meets, if any; `draw` is in [0, 1). */
  readonly failureOf: (scraper: string, call: 'sync' | 'submit', draw: number) => StepDetail | null
  readonly failureRate: (scraper: string) => number
  readonly clear: () => void
}

const FAILURES: readonly Step[] = ['500', '503', '504', '408']

export function createFaultInjector(now: () => number): FaultInjector {
  const standing = new Map<string, Standing>()

  function failureOf(scraper: string, call: 'sync' | 'submit', draw: number): StepDetail | null {
    const standing = over(scraper)
    if (standing === undefined) return null
    const { outage = false, failureRate = 0, failures = FAILURES } = standing.weather
    if (outage !== false) return outage === true ? { kind: '503' } : detailOf(outage)
    if (isWarmingUp(standing)) return { kind: '503' }
    // A failed attempt of a job is the vendor's: it is retried there and seen only in the job's outcome.
    if (call === 'submit' || draw >= failureRate) return null
    return detailOf(failures[Math.floor((draw / failureRate) * failures.length)] ?? '500')
  }

  function isWarmingUp(standing: Standing): boolean {
    const { requests = 0, forMs = 0 } = standing.weather.warmUp ?? {}
    standing.warmedUp += 1
    return standing.warmedUp <= requests || now() - standing.since < forMs
  }

  function over(scraper: string): Standing | undefined {
    return standing.get(scraper) ?? standing.get('all')
  }

  return {
    set: (scraper, weather) => {
      if (weather === null) standing.delete(scraper)
      else standing.set(scraper, { weather, since: now(), warmedUp: 0 })
    },
    failureOf,
    failureRate: (scraper) => over(scraper)?.weather.failureRate ?? 0,
    clear: () => standing.clear(),
  }
}

/** Randomness for one call, as a number the weather can be drawn with. */
export function drawOf(chance: Chance, scraper: string, prompt: string, callNumber: number): number {
  return chance.number('weather', scraper, prompt, callNumber)
}

export function readFaultProfile(value: unknown): FaultProfile {
  const fields = readFields(value, 'weather', ['outage', 'failureRate', 'failures', 'warmUp'])
  checkOptional(fields, { failureRate: 'number' })
  const { outage, failures, warmUp } = fields
  check(Number(fields['failureRate'] ?? 0) <= 1, 'failureRate must be from 0 to 1')
  if (outage !== undefined && typeof outage !== 'boolean') readStep(outage)
  if (failures !== undefined) check(readSteps(failures).length > 0, 'failures must name at least one step')
  if (warmUp !== undefined) {
    checkOptional(readFields(warmUp, 'warmUp', ['requests', 'forMs']), { requests: 'number', forMs: 'number' })
  }
  return fields
}

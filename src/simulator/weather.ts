// Standing conditions per scraper: outages, failure rates, warm-up. They last until told otherwise, scripts come first.

import type { Chance } from './chance.ts'
import { check, checkOptional, readFields } from './input.ts'
import { detailOf, readStep, readSteps, type Step, type StepDetail } from './step.ts'

export interface Weather {
  /** Every sync call and submit gets 503, or this step. */
  readonly outage?: boolean | Step
  /** 0-1; for jobs the chance that one of the vendor's own attempts fails. */
  readonly failureRate?: number
  readonly failures?: readonly Step[]
  /** 503 for the first so many calls, or milliseconds, after this weather began. */
  readonly warmUp?: { readonly requests?: number; readonly forMs?: number }
}

interface Climate {
  readonly weather: Weather
  readonly since: number
  warmedUp: number
}

export interface Skies {
  readonly set: (scraper: string, weather: Weather | null) => void
  /** The failure that this call meets, if any; `luck` is in [0, 1). */
  readonly meet: (scraper: string, call: 'sync' | 'submit', luck: number) => StepDetail | null
  readonly failureRate: (scraper: string) => number
  readonly clear: () => void
}

const FAILURES: readonly Step[] = ['500', '503', '504', '408']

export function createSkies(now: () => number): Skies {
  const climates = new Map<string, Climate>()

  function meet(scraper: string, call: 'sync' | 'submit', luck: number): StepDetail | null {
    const climate = over(scraper)
    if (climate === undefined) return null
    const { outage = false, failureRate = 0, failures = FAILURES } = climate.weather
    if (outage !== false) return outage === true ? { kind: '503' } : detailOf(outage)
    if (isWarmingUp(climate)) return { kind: '503' }
    // A job's bad luck is the vendor's: it is retried there and seen only in the job's outcome.
    if (call === 'submit' || luck >= failureRate) return null
    return detailOf(failures[Math.floor((luck / failureRate) * failures.length)] ?? '500')
  }

  function isWarmingUp(climate: Climate): boolean {
    const { requests = 0, forMs = 0 } = climate.weather.warmUp ?? {}
    climate.warmedUp += 1
    return climate.warmedUp <= requests || now() - climate.since < forMs
  }

  function over(scraper: string): Climate | undefined {
    return climates.get(scraper) ?? climates.get('all')
  }

  return {
    set: (scraper, weather) => {
      if (weather === null) climates.delete(scraper)
      else climates.set(scraper, { weather, since: now(), warmedUp: 0 })
    },
    meet,
    failureRate: (scraper) => over(scraper)?.weather.failureRate ?? 0,
    clear: () => climates.clear(),
  }
}

/** Randomness for one call, as a number the weather can be drawn with. */
export function luckOf(chance: Chance, scraper: string, prompt: string, callNumber: number): number {
  return chance.number('weather', scraper, prompt, callNumber)
}

export function readWeather(value: unknown): Weather {
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

/** `retry`: attempts and pauses, for each failure class. */
import { type FailureClass, failureClasses, failures } from '../../failures.ts'
import { count, day, duration, flag, live, longestTimer, map } from '../field.ts'

export function attempts() {
  return count(1, 20)
}

export function deadline() {
  return duration(1000, day)
}

const pause = () => duration(0, day)

const baseMeaning =
  'Upper limit of the first pause, doubled for each further pause. The actual pause is random between 0 and that limit.'

const maxMeaning = 'Maximum pause.'

const backoff = map({
  base: live(pause().prefault('500ms'), baseMeaning),
  max: live(pause().prefault('30s'), maxMeaning),
})

export function classBackoff(base: string | undefined) {
  return map({
    base: live(base === undefined ? pause().optional() : pause().prefault(base).optional(), baseMeaning),
    max: live(pause().optional(), maxMeaning),
  })
}

function failureClass(name: FailureClass) {
  const { defaults, meaning } = failures[name]
  const rest = duration(0, longestTimer)
  return live(
    map({
      // No prefault: a default above `retry.attempts` must not outlive someone's `retry.attempts: 1`.
      attempts: live(
        attempts().optional(),
        'Total attempts for failures of this class. Default: `retry.attempts`.',
      ).meta(defaults.attempts === undefined ? {} : { default: defaults.attempts }),
      backoff: live(
        classBackoff(defaults.base).prefault({}),
        'Pause before the next attempt; missing values come from `retry.backoff`.',
      ),
      bypassCache: live(
        flag().prefault(defaults.bypassCache ?? false),
        "Sends the next attempt with `bypass_cache=true`, past upstream's own cache.",
      ),
      keyRest: live(
        defaults.keyRest === undefined ? rest.optional() : rest.prefault(defaults.keyRest),
        'How long the key is not used after a failure of this class; 0s = keep using it. While no key is ready, each is tried every 30 s.',
      ),
    }).prefault({}),
    meaning,
  )
}

export const retry = map({
  attempts: live(attempts().prefault(4), 'Total attempts per request, including the first.'),
  deadline: live(
    deadline().prefault('600s'),
    "Time limit for a request to upstream including all attempts and pauses. No attempt starts with less than 10 s left. `X-Request-Timeout` of a caller ends only that caller's wait.",
  ),
  backoff: live(backoff.prefault({}), 'Pauses between attempts (exponential back-off with full jitter).'),
  budget: live(
    map({
      capacity: live(count(1, 1_000_000).prefault(100), 'Capacity of the retry budget of each scraper, in tokens.'),
      cost: live(count(0, 1_000_000).prefault(5), 'Tokens that a retry takes.'),
      costSlow: live(count(0, 1_000_000).prefault(10), 'Tokens that a retry after a timeout takes.'),
      refill: live(duration(1, day).prefault('12s'), 'Time in which one token is refilled.'),
    }).prefault({}),
    'Limits retries while upstream is failing.',
  ),
  classes: live(
    map(
      Object.fromEntries(failureClasses.map((name) => [name, failureClass(name)])) as Record<
        FailureClass,
        ReturnType<typeof failureClass>
      >,
    ).prefault({}),
    'Overrides for each failure class.',
  ),
})

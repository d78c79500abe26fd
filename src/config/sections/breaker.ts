/** `breaker`: when the circuit of a scraper opens and closes. */
import { count, day, duration, live, map, share } from '../field.ts'

export const breaker = map({
  failureRate: live(
    share('a share of failures').prefault(0.9),
    'The circuit of a scraper opens when at least this share of its calls fails. Calls in progress count as successful once they have run longer than failures take.',
  ),
  window: live(count(1, 10_000).prefault(50), 'Number of recent requests from which the failure rate is calculated.'),
  minimum: live(
    count(1, 10_000).prefault(30),
    'Minimum number of results before the failure rate counts; at most `window`.',
  ),
  consecutive: live(count(1, 10_000).prefault(20), 'Number of failures in a row that also opens the circuit.'),
  questions: live(
    count(1, 10_000).prefault(3),
    'Minimum number of different requests that must have failed before the circuit opens; at most `consecutive`.',
  ),
  openFor: live(duration(1, day).prefault('1s'), 'Time from opening to the first trial call.'),
  openForMax: live(
    duration(1, day).prefault('20s'),
    'Maximum time between trial calls; each failed trial doubles the time until the next.',
  ),
  hold: live(
    duration(0, day).prefault('30s'),
    'How long after opening requests wait for the circuit to close instead of failing with 503 CIRCUIT_OPEN, within their own deadline. 0s = requests fail at once.',
  ),
})

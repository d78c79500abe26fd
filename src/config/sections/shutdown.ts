/** `shutdown`: how long a graceful shutdown takes. */
import { day, duration, live, map } from '../field.ts'

export const shutdown = map({
  readinessDelay: live(
    duration(0, 3_600_000).prefault('0s'),
    'Time between `/readyz` turning 503 and the proxy refusing new connections.',
  ),
  grace: live(duration(0, day).prefault('660s'), 'Time for open requests to finish before they are cut.'),
})

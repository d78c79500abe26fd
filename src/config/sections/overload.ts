/** `overload`: when requests are refused to protect the process. */
import { duration, live, map, share } from '../field.ts'

export const overload = map({
  eventLoopDelay: live(
    duration(0, 60_000).prefault('200ms'),
    'Event loop delay that, sustained for two seconds, makes the proxy serve cached answers only; at five times this delay it refuses all new requests. 0s = off.',
  ),
  memory: live(
    share('a share of memory').prefault(0.85),
    'Share of the available memory (container, machine or heap) from which the memory cache shrinks and, if that is not enough, only cached answers are served.',
  ),
  memoryCritical: live(
    share('a share of memory').prefault(0.95),
    'Share of the available memory from which every new request is refused; the admin port still answers.',
  ),
})

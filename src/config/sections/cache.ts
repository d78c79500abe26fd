/** `cache`: how long answers are kept, and where. */
import * as z from 'zod'
import { day, duration, flag, live, map, restart, size, text } from '../field.ts'

export function keeping() {
  return duration(0, 365 * day)
}

export function scope() {
  return z.enum(['shared', 'client'], { error: 'expected shared or client, found {found}' })
}

const disk = map({
  path: restart(
    text('the path of a file')
      .regex(/^(?!(?:.*\/)?records\.db$)/, { error: 'expected another name: records.db is the file of money and jobs' })
      .prefault('data/cache.db'),
    'Path of the cache file. Budgets, jobs and key cooldowns are in `records.db` in the same folder. The folder is created if missing, and is used by one process only.',
  ),
  maxSize: restart(
    size(1024 ** 2, 1024 ** 4).prefault('2GiB'),
    'Maximum size of the cache file; the least recently used answers are evicted first. `records.db` is small and not included.',
  ),
})

export const cache = map({
  ttl: live(keeping().prefault('12h'), 'How long an answer is fresh.'),
  staleIfError: live(keeping().prefault('12h'), 'How much longer an expired answer may be served instead of an error.'),
  staleWhileRevalidate: live(
    keeping().prefault('0s'),
    'How much longer an expired answer is served at once while a fresh answer is fetched in the background.',
  ),
  emptyResultTtl: live(keeping().prefault('60s'), 'How long an "empty result" answer is cached; 0s = never.'),
  scope: live(
    scope().prefault('shared'),
    '`shared`: all clients share cached answers; `client`: each client has its own.',
  ),
  markReplays: live(
    flag().prefault(true),
    'Sets `"cached": true` and `"credits_used": 0` in the body of a cached answer.',
  ),
  memory: live(
    map({
      maxSize: live(
        size(1024 ** 2, 1024 ** 4).optional(),
        'Memory for cached answers; the least recently used are evicted first. Default: 256MiB or a quarter of the memory available to the process, whichever is less. Smaller while memory is low (`overload.memory`).',
      ),
    }).prefault({}),
    'Answers cached in memory.',
  ),
  disk: restart(
    z
      .union([disk, z.literal(false)], { error: 'expected false, or a map with path and maxSize, found {found}' })
      .prefault({}),
    'Answers, jobs and budgets that survive a restart; `false` = nothing survives a restart.',
  ),
})

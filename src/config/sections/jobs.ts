/** `jobs`: how requests are executed upstream. */
import * as z from 'zod'
import { live, map } from '../field.ts'

export const jobs = map({
  execution: live(
    z.enum(['sync', 'durable'], { error: 'expected sync or durable, found {found}' }).prefault('sync'),
    '`durable`: each request runs as an upstream job, which is resumed after a restart.',
  ),
})

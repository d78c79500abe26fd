/** `log`: the log on standard output. */
import * as z from 'zod'
import { flag, live, map } from '../field.ts'

export const log = map({
  level: live(
    z
      .enum(['debug', 'info', 'warn', 'error'], { error: 'expected debug, info, warn or error, found {found}' })
      .prefault('info'),
    'Lowest level that is written.',
  ),
  prompts: live(flag().prefault(false), 'Logs prompts, which are sensitive, instead of their hash.'),
})

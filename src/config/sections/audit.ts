/** `audit`: the audit file. */
import { map, restart, size, text } from '../field.ts'

export const audit = map({
  path: restart(
    text('the path of a file').prefault('data/audit.ndjson'),
    'Path of the audit file; its folder is created if missing.',
  ),
  maxSize: restart(
    size(1024 ** 2, 1024 ** 4).prefault('100MiB'),
    'Maximum size. A full file is renamed to `.1`, replacing the previous `.1`.',
  ),
})

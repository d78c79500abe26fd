// Which requests a script, a barrier or a release is about: every field named must be equal.

import { check, checkOptional, readFields } from './input.ts'
import type { RecordedRequest } from './request.ts'

export interface Match {
  readonly prompt?: string
  readonly scraper?: string
  readonly country?: string
  readonly key?: string
  readonly jobId?: string
  readonly bypassCache?: boolean
  readonly call?: 'sync' | 'submit' | 'poll'
}

const FIELDS = ['prompt', 'scraper', 'country', 'key', 'jobId', 'bypassCache', 'call'] as const
const CALLS: readonly unknown[] = [undefined, 'sync', 'submit', 'poll']

export function matches(request: Pick<RecordedRequest, (typeof FIELDS)[number]>, match: Match): boolean {
  return FIELDS.every((name) => match[name] === undefined || match[name] === request[name])
}

export function readMatch(value: unknown): Match {
  const fields = readFields(value, 'match', FIELDS)
  checkOptional(fields, { prompt: 'string', scraper: 'string', country: 'string', key: 'string', jobId: 'string' })
  checkOptional(fields, { bypassCache: 'boolean' })
  check(CALLS.includes(fields['call']), 'call must be sync, submit or poll')
  return fields
}

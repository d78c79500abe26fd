/** What went wrong with a command or a connection, in our words. */
import type { RedisTrouble } from '../telemetry/events.ts'

const troubles: Readonly<Record<string, RedisTrouble>> = {
  LOADING: 'loading',
  MASTERDOWN: 'loading',
  BUSY: 'busy',
  NOAUTH: 'auth',
  WRONGPASS: 'auth',
  READONLY: 'read-only',
  OOM: 'out-of-memory',
  NOPERM: 'no-permission',
  MISCONF: 'cannot-persist',
  NOREPLICAS: 'too-few-replicas',
  CLUSTERDOWN: 'cluster',
  TRYAGAIN: 'cluster',
  'Too many': 'cluster',
}

/** The server is there, and will refuse the next command of this kind, too. */
const refusing: ReadonlySet<RedisTrouble> = new Set([
  'read-only',
  'out-of-memory',
  'no-permission',
  'cannot-persist',
  'too-few-replicas',
])

export interface RedisFailure {
  readonly because: RedisTrouble
  /** The server is there and said no to this one command: no reason to ask it nothing else. */
  readonly isRefusal: boolean
  /** It says so whatever is to be written. */
  readonly refusesWrites: boolean
  /** The first word of the error reply, as Redis has it: OOM, NOPERM, … */
  readonly word: string
}

export function failureOf(error: unknown): RedisFailure {
  const message = error instanceof Error ? error.message : ''
  const isReply = error instanceof Error && error.name === 'ReplyError'
  const word = /^(?:Too many|-?[A-Z]+)/.exec(message)?.[0] ?? ''
  const because = (isReply || word === 'Too many' ? troubles[word] : null) ?? (isReply ? 'error' : brokenBy(message))
  const refusesWrites = isReply && refusing.has(because)
  return { because, isRefusal: refusesWrites || (isReply && because === 'error'), refusesWrites, word }
}

function brokenBy(message: string): RedisTrouble {
  return /ETIMEDOUT|timeout|timed out/i.test(message) ? 'timeout' : 'unreachable'
}

export const TIMED_OUT: RedisFailure = { because: 'timeout', isRefusal: false, refusesWrites: false, word: '' }

/** Something else is kept under this key: not by us, so it is nothing to us. */
export function isOtherType({ word }: RedisFailure): boolean {
  return word === 'WRONGTYPE'
}

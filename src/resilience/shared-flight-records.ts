/**
 * How a flight ended, as other replicas are told: that its answer is kept, how it failed, or that everybody must see for
 * themselves. Answers are not in here but where answers are kept. What is told is sealed, so that whoever can write
 * to the store still cannot put words into upstream's mouth, or move them from one question to another.
 */
import { createHmac, type KeyObject, timingSafeEqual } from 'node:crypto'
import { failureClasses } from '../failures.ts'
import type { Entry, Landing, Refused, RetryPolicy, Verdict } from '../model.ts'
import { mostGenerous } from './retry-policy.ts'

type Failed = Extract<Verdict, { kind: 'failed' }>
type Answered = Extract<Verdict, { kind: 'answered' }>

export type OutcomeRecord =
  | { readonly kind: 'kept' }
  | FailedRecord
  /** The answer itself, because it is one that is not kept. */
  | { readonly kind: 'answered'; readonly verdict: Answered }
  /** There was an answer, and it cannot be had here. */
  | { readonly kind: 'unshared' }

export interface FailedRecord {
  readonly kind: 'failed'
  readonly verdict: Failed
  readonly stoppedBy: Refused | null
  /** How each attempt failed. Absent in the marks of earlier versions. */
  readonly tried?: readonly string[]
}

/** Texts bound to a name, which nobody without the secret can make. */
export interface Signer {
  close(name: string, text: string): string
  /** Null = not ours, or of another name. */
  open(name: string, sealed: string): string | null
}

const MAX_BODY_BYTES = 64 * 1024
const MAC_LENGTH = 43
/** The flight ended for reasons of its own replica; the question is as good as it was. */
const ownReasons: ReadonlySet<Refused | null> = new Set<Refused>(['deadline', 'abandoned', 'shutdown'])

/** The first key of now seals; each of them is believed, so that keys can be changed one replica after the other. */
export function createSigner(keys: () => readonly [KeyObject, ...KeyObject[]]): Signer {
  return {
    close: (name, text) => macOf(keys()[0], name, text) + text,
    open(name, sealed) {
      const text = sealed.slice(MAC_LENGTH)
      const mac = Buffer.from(sealed.slice(0, MAC_LENGTH))
      const isOurs = keys().some((key) => isSame(mac, Buffer.from(macOf(key, name, text))))
      return isOurs ? text : null
    },
  }
}

function macOf(key: KeyObject, name: string, text: string): string {
  return createHmac('sha256', key).update(`flight ${name} ${text}`).digest('base64url')
}

function isSame(one: Buffer, other: Buffer): boolean {
  return one.length === other.length && timingSafeEqual(one, other)
}

/** Null = nothing that others must know: whoever of them waits may try it. */
export function recordOf({ verdict, stoppedBy, attempts }: Landing, isKept: boolean): OutcomeRecord | null {
  if (verdict.kind === 'answered') {
    if (isKept) return { kind: 'kept' }
    const isPassedOn = !verdict.keepable && verdict.reply.body.length <= MAX_BODY_BYTES
    return isPassedOn ? { kind: 'answered', verdict } : { kind: 'unshared' }
  }
  if (ownReasons.has(stoppedBy)) return null
  if (verdict.reply && verdict.reply.body.length > MAX_BODY_BYTES) return { kind: 'unshared' }
  return { kind: 'failed', verdict, stoppedBy, tried: attempts.map((attempt) => attempt.class) }
}

export function writeRecord(mark: OutcomeRecord): string {
  if (!('verdict' in mark)) return JSON.stringify(mark)
  const { verdict } = mark
  const reply = verdict.reply && { ...verdict.reply, body: verdict.reply.body.toString('base64') }
  return JSON.stringify({ ...mark, verdict: { ...verdict, reply } })
}

/** Only for what a seal has vouched for. */
export function readRecord(text: string): OutcomeRecord {
  const mark = JSON.parse(text) as OutcomeRecord
  if (!('verdict' in mark) || !mark.verdict.reply) return mark
  const { reply } = mark.verdict
  const whole = { ...reply, body: Buffer.from(String(reply.body), 'base64') }
  return mark.kind === 'failed'
    ? { ...mark, verdict: { ...mark.verdict, reply: whole } }
    : { ...mark, verdict: { ...mark.verdict, reply: whole } }
}

/** The other replica stopped because its clients allowed no more attempts, and a client that waits here does. */
export function mayTryMore({ stoppedBy, tried }: FailedRecord, policies: ReadonlySet<RetryPolicy>): boolean {
  const policy = mostGenerous(policies)
  // The class of the last attempt: the verdict may be that of an earlier one, which was answered.
  const ended = failureClasses.find((name) => name === tried?.at(-1))
  if (stoppedBy !== 'attempts' || !policy || !tried || !ended) return false
  const sameClass = tried.filter((name) => name === ended).length
  return tried.length < policy.attempts && sameClass < policy.classes[ended].attempts
}

/** What another replica was told, as it looks to those who rode along: nothing was tried here, and nothing spent. */
export function landingOfEntry(entry: Entry): Landing {
  return {
    verdict: {
      kind: 'answered',
      reply: {
        status: entry.status,
        contentType: entry.contentType,
        retryAfter: null,
        location: null,
        body: entry.body,
      },
      // Somebody has paid that: for the sums of what is saved by sharing.
      charge: { state: 'charged', credits: entry.priceCredits },
      health: 'neutral',
      keepable: true,
    },
    attempts: [],
    stoppedBy: null,
    chargedCredits: 0,
    entry,
  }
}

export function landingOfRecord(mark: Extract<OutcomeRecord, { kind: 'failed' | 'answered' }>): Landing {
  const verdict: Verdict = { ...mark.verdict, health: 'neutral' }
  const stoppedBy = mark.kind === 'failed' ? mark.stoppedBy : null
  return { verdict, attempts: [], stoppedBy, chargedCredits: 0, entry: null }
}

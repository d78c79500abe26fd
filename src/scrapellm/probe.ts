/**
 * Whether upstream takes a key, asked without spending a credit: by a question without its prompt. It is refused (400), which is free
 * (docs/vendor-api.md, "Credits"), but nobody documents whether the key is looked at before. So a key that nobody has is tried beside it: only if that one is
 * refused for what it is (401), the other one has been accepted. Pure: sending is up to the caller.
 */
import type { VerdictClass } from '../failures.ts'
import { parseObject } from './answers.ts'
import { scrapers } from './endpoints.ts'
import { errorClassOf } from './error-class.ts'

/** Long enough to be one, and told apart by whoever reads upstream's logs. */
const NOBODYS_KEY = 'scrapellm-proxy-doctor-tries-a-key-that-nobody-has'

/** Null = the key that nobody has. */
function probe(secret: string | null) {
  return { method: 'GET', path: `/scrapers/${scrapers[0]}`, headers: { 'X-API-Key': secret ?? NOBODYS_KEY } } as const
}

interface ProbeReply {
  readonly status: number
  readonly body: string
}

/** `refused` is an invalid key or an account without credits; `untold`: upstream complains about the question before it looks at the key. */
function standingOf(reply: ProbeReply, nobodys: ProbeReply) {
  const verdictClass = reply.status < 500 ? classOf(reply) : null
  const standing = (verdictClass && standings[verdictClass]) ?? 'unwell'
  return standing === 'accepted' && nobodys.status !== 401 ? 'untold' : standing
}

const standings: Partial<Record<VerdictClass, 'refused' | 'spent' | 'limited' | 'blocked' | 'accepted'>> = {
  unauthorized: 'refused',
  creditsExhausted: 'spent',
  rateLimited: 'limited',
  queueFull: 'limited',
  blocked: 'blocked',
  // The question without a prompt was looked at.
  rejected: 'accepted',
}

function classOf({ status, body }: ProbeReply): VerdictClass | null {
  const bytes = Buffer.from(body)
  const reply = { status, contentType: null, retryAfter: null, location: null, body: bytes }
  return errorClassOf(reply, parseObject(bytes), [])
}

export const keyCheck = { probe, standingOf }

/**
 * Whether upstream takes a key, asked without spending a credit: by a question without its prompt. It is refused (400), which is free
 * (api notes 3.2), but nobody documents whether the key is looked at before. So a key that nobody has is tried beside it: only if that one is
 * refused for what it is (401), the other one has been accepted. Pure: sending is up to the caller.
 */
import { scrapers } from './endpoints.ts'

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
  if (reply.status === 401) return 'refused'
  if (reply.status === 429) return reply.body.toLowerCase().includes('credit') ? 'spent' : 'limited'
  if (reply.status < 400 || reply.status >= 500) return 'unwell'
  return nobodys.status === 401 ? 'accepted' : 'untold'
}

export const keyCheck = { probe, standingOf }

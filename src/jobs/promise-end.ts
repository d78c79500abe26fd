/** How a promised answer came out, for the document of its job: the answer, or upstream's words, or a code of ours and its sentence. */
import { ProxyError, unanswered } from '../errors.ts'
import type { Landing, Verdict } from '../model.ts'
import type { JobDialect } from '../parts.ts'

/** `error` null = nothing is known but that it failed. */
export interface PromiseEnd {
  readonly answer: Buffer | null
  readonly error: string | null
}

/** Never rejects. */
export function promiseEnd(
  landing: Promise<Landing | null>,
  dialect: Pick<JobDialect, 'errorOf'>,
): Promise<PromiseEnd> {
  return landing.then(
    (landed) => (landed ? endOf(landed.verdict, dialect) : { answer: null, error: null }),
    (error: unknown) => ({ answer: null, error: sentenceOf(ProxyError.from(error)) }),
  )
}

function endOf(verdict: Verdict, { errorOf }: Pick<JobDialect, 'errorOf'>): PromiseEnd {
  if (verdict.kind === 'answered') return { answer: verdict.reply.body, error: null }
  if (verdict.reply) return { answer: null, error: errorOf(verdict.reply) }
  return { answer: null, error: sentenceOf(unanswered(verdict.refusal ?? 'UPSTREAM_UNREACHABLE')) }
}

function sentenceOf({ code, message }: ProxyError): string {
  return `${code}: ${message}`
}

/**
 * Invented traffic: questions that come one by one as chance has it (Poisson), none asked twice, all to one scraper by one
 * client, to an upstream that always answers, nine times out of ten within 5 to 30 s (log-normal).
 */
import type { VerdictClass } from '../failures.ts'
import { answerTime, type SeededHash } from './chance.ts'
import type { AttemptOutcome, Question, Traffic } from './traffic.ts'

export interface SyntheticOptions {
  readonly count: number
  readonly perSecond: number
  readonly client: string
  readonly scraper: string
  readonly priceCredits: number
}

/** Some day, so that UTC days and months are what they are everywhere else. */
const EPOCH = Date.UTC(2026, 0, 15)

const FAST_MS = 5_000
const SLOW_MS = 30_000

/** What chance decides, besides what the weather does. */
const ARRIVAL = 1

export function createSynthetic(options: SyntheticOptions, hash: SeededHash): Traffic {
  const { count, perSecond, client, scraper, priceCredits } = options

  function* questions(): Generator<Question> {
    let at = EPOCH
    for (let number = 0; number < count; number += 1) {
      at += (-Math.log(1 - hash(number, 0, ARRIVAL)) * 1_000) / perSecond
      yield {
        number,
        at,
        client,
        scraper,
        endpoint: 'answer',
        key: `question-${number}`,
        priceCredits,
        timeoutMs: null,
        patienceMs: null,
        wish: null,
        goneAfterMs: null,
        laterAfterMs: null,
        refusal: null,
        known: null,
        plays: [],
      }
    }
  }

  function draw({ number }: Question, attempt: number): AttemptOutcome {
    const durationMs = answerTime(hash, number, attempt, FAST_MS, SLOW_MS)
    const charge = { state: 'charged', credits: priceCredits } as const
    return { class: 'ok', status: 200, durationMs, charge, retryAfterMs: null }
  }

  return {
    count,
    from: EPOCH,
    until: EPOCH + (count * 1_000) / perSecond,
    questions,
    kept: [],
    responses: {
      draw: (question, attempt, _after: VerdictClass | null) => draw(question, attempt),
      drawOk: (question, attempt) => draw(question, attempt),
    },
  }
}

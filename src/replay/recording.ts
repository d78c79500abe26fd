/**
 * Audit lines, turned into what is replayed and into the figures that were recorded: these are sums over the lines and nothing
 * else. A broken line is passed over and told; more than one in a hundred, and nothing is believed.
 */
import { traitsOf } from '../failures.ts'
import type { SeededHash } from './chance.ts'
import { readLine, type RecordedLine } from './audit-line.ts'
import { createTally, type Tally } from './figures.ts'
import type { AttemptMade } from './openings.ts'
import { createPool, type Drawn, SAME_TIME_MS } from './pool.ts'
import { FREE, type Kept, type AttemptOutcome, type Question, type RecordedAttempt, type Traffic } from './traffic.ts'

/** One sentence for whoever asked for the replay. */
export class ReplayError extends Error {
  override readonly name = 'ReplayError'
}

export interface AuditSource {
  readonly name: string
  readonly lines: Iterable<string>
}

export interface Recording {
  readonly traffic: Traffic
  /** All but how often circuits opened, which is in no line. */
  readonly tally: Tally
  /** By their start. */
  readonly attempts: readonly AttemptMade[]
  readonly clients: readonly string[]
  /** Where broken lines are, as `file:line`. */
  readonly broken: readonly string[]
  /** Attempts of flights that no request in here has begun: they are recorded, and nothing can replay them. */
  readonly strayAttempts: number
}

type Draft = { -readonly [Field in keyof Question]: Question[Field] }

/** A line that is written when the process is killed may end anywhere. */
const MOST_BROKEN = 0.01
/** An answer was stored by a flight if the times differ by no more. */
const SAME_MOMENT_MS = 2_000
const DRAW = 11
/** Upstream may have been another one before, or after. */
export const KNOWN_WITHIN_MS = 10_000
const nothing: AttemptOutcome = { class: 'unreachable', status: null, durationMs: 1, charge: FREE, retryAfterMs: null }

/** Throws a ReplayError. */
export function readRecording(sources: readonly AuditSource[], hash: SeededHash): Recording {
  const { lines, broken } = readLines(sources)
  if (!lines.some(({ kind }) => kind === 'request'))
    throw new ReplayError(`${sources.map(({ name }) => name).join(', ')}: no request is recorded in there`)

  // Who rode along must come after whose flight it was, also within one millisecond.
  const requests = lines.filter(({ kind }) => kind === 'request').toSorted((a, b) => a.at - b.at || rank(a) - rank(b))
  const drafts = requests.map(questionOf)
  const flights = lines.filter(({ kind }) => kind === 'flight')
  const strays = giveToTheirRequests(flights, drafts, requests)
  const pool = createPool()
  const attempts = lines
    .flatMap(({ scraper, question, id, attempts }) =>
      attempts.map((attempt) => ({ ...attempt, scraper, question: question ?? id })),
    )
    .toSorted((a, b) => a.at - b.at)
  for (const { scraper, question, attempts } of lines)
    for (const [index, attempt] of attempts.entries())
      pool.add(scraper, question, failureOf(attempts[index - 1]), attempt)

  const from = drafts[0]?.at ?? 0
  return {
    traffic: {
      count: drafts.length,
      from,
      until: drafts.at(-1)?.at ?? from,
      questions: () => drafts,
      kept: keptIn(lines, from),
      responses: {
        draw: ({ number, scraper, key, plays }, attempt, after, at) =>
          playedAt(plays[attempt - 1], at, () => pool.draw(scraper, key, after, at, hash(number, attempt, DRAW))),
        drawOk({ number, scraper, plays }, attempt, at) {
          const play = plays[attempt - 1]
          if (play?.class === 'ok') return play
          return pool.drawOk(scraper, at, hash(number, attempt, DRAW))?.attempt ?? nothing
        },
      },
    },
    tally: tallyOf(lines),
    attempts,
    clients: [...new Set(requests.filter(({ endpoint }) => endpoint !== null).map(({ client }) => client))].toSorted(),
    broken,
    strayAttempts: strays.reduce((sum, { attempts }) => sum + attempts.length, 0),
  }
}

/**
 * What was recorded for this very attempt, or, where that was at another time, what upstream did at this time, if that is known better.
 * Failures that say nothing of upstream's health are the same at any time.
 */
function playedAt(recorded: RecordedAttempt | undefined, at: number, draw: () => Drawn | null): AttemptOutcome {
  const awayMs = recorded ? Math.abs(recorded.at - at) : Number.POSITIVE_INFINITY
  if (recorded && (awayMs <= SAME_TIME_MS || isTimeless(recorded))) return recorded
  const drawn = draw()
  if (!recorded) return drawn ? guess(drawn.attempt, drawn.awayMs) : nothing
  const isSameEnd = drawn !== null && (drawn.attempt.class === 'ok') === (recorded.class === 'ok')
  if (!drawn || awayMs <= drawn.awayMs || isSameEnd)
    return guess(recorded, Math.min(awayMs, drawn?.awayMs ?? Number.POSITIVE_INFINITY))
  return guess(drawn.attempt, drawn.awayMs)
}

function isTimeless({ class: ended }: RecordedAttempt): boolean {
  return ended !== 'ok' && traitsOf(ended).health === 'neutral'
}

function guess(play: AttemptOutcome, awayMs: number): AttemptOutcome {
  return awayMs > KNOWN_WITHIN_MS ? { ...play, isGuess: true } : play
}

function readLines(sources: readonly AuditSource[]): { readonly lines: RecordedLine[]; readonly broken: string[] } {
  const lines: RecordedLine[] = []
  const broken: string[] = []
  let count = 0
  let torn = 0
  for (const { name, lines: texts } of sources) {
    let number = 0
    let isLastBroken = false
    for (const text of texts) {
      number += 1
      if (text === '') continue
      count += 1
      const read = readLine(text)
      isLastBroken = read.kind === 'broken'
      if (read.kind === 'line') lines.push(read.line)
      if (read.kind === 'broken') broken.push(`${name}:${number}`)
      if (read.kind === 'version')
        throw new ReplayError(
          `${name}:${number}: format ${JSON.stringify(read.version)} is not known; this is for format 1`,
        )
    }
    if (isLastBroken) torn += 1
  }
  if (broken.length - torn > count * MOST_BROKEN || (broken.length > 0 && broken.length === count)) {
    const some = broken.slice(0, 5).join(', ')
    throw new ReplayError(
      `${broken.length} of ${count} lines are no lines of an audit file (${some}${broken.length > 5 ? ', …' : ''})`,
    )
  }
  return { lines, broken }
}

function questionOf(line: RecordedLine, number: number): Draft {
  const { at, client, scraper, endpoint, question, priceCredits, timeoutMs, patienceMs, status, code, durationMs } =
    line
  const isWrong = endpoint === null || code === 'IDEMPOTENCY_CONFLICT' || code === 'IDEMPOTENCY_UNRESOLVED'
  const isKnown = endpoint !== null && endpoint !== 'answer' && line.role !== 'leader' && code === null
  return {
    number,
    at,
    client,
    scraper,
    endpoint,
    key: question,
    priceCredits,
    timeoutMs,
    patienceMs,
    wish: wishOf(line),
    goneAfterMs: status === 'gone' ? durationMs : null,
    laterAfterMs: endpoint === 'answer' && status === 202 ? durationMs : null,
    refusal: isWrong && code !== null && typeof status === 'number' ? { code, status } : null,
    known: isKnown && typeof status === 'number' ? status : null,
    plays: line.attempts,
  }
}

function wishOf({ endpoint, cache, code }: RecordedLine): Question['wish'] {
  if (code === 'CACHE_MISS') return 'only-if-cached'
  if (code === 'METHOD_NOT_ALLOWED') return 'head'
  return endpoint === 'answer' && cache === 'bypass' ? 'bypass' : null
}

/** A refresh belongs to the request that set it off. Gives back those whose request is not here. */
function giveToTheirRequests(
  flights: readonly RecordedLine[],
  drafts: readonly Draft[],
  requests: readonly RecordedLine[],
): RecordedLine[] {
  if (flights.length === 0) return []
  const idle = new Map<string, Draft>()
  for (const [index, draft] of drafts.entries()) {
    const id = requests[index]?.id
    if (id !== undefined && draft.plays.length === 0 && !idle.has(id)) idle.set(id, draft)
  }
  return flights.filter(({ id, attempts }) => {
    const draft = idle.get(id)
    if (!draft) return true
    draft.plays = attempts
    idle.delete(id)
    return false
  })
}

function rank({ role, cache }: RecordedLine): number {
  if (role === 'leader') return 0
  return cache === 'hit' ? 2 : 1
}

function failureOf(attempt: RecordedAttempt | undefined) {
  return attempt === undefined || attempt.class === 'ok' ? null : attempt.class
}

/** Answers that were given out of the cache and that no flight in here has brought. */
function keptIn(lines: readonly RecordedLine[], from: number): Kept[] {
  const stored = new Map<string, number[]>()
  const note = (key: string, at: number) => {
    const known = stored.get(key)
    if (known) known.push(at)
    else stored.set(key, [at])
  }
  for (const { question, attempts, stored: isStored, kind } of lines) {
    const last = attempts.at(-1)
    if (question !== null && last?.class === 'ok' && (isStored || kind === 'flight'))
      note(question, last.at + last.durationMs)
  }
  const kept: Kept[] = []
  for (const { question: key, cache, ageMs, at, durationMs, status, ...line } of lines) {
    if (key === null || ageMs === null || (cache !== 'hit' && cache !== 'stale')) continue
    if (status !== 200 && status !== 304) continue
    const storedAt = Math.round(at + (cache === 'hit' ? (durationMs ?? 0) : 0) - ageMs)
    if (stored.get(key)?.some((one) => Math.abs(one - storedAt) <= SAME_MOMENT_MS)) continue
    note(key, storedAt)
    const { scraper, priceCredits, client } = line
    kept.push({ at: Math.max(from, storedAt), storedAt, key, scraper, priceCredits, client })
  }
  return kept.toSorted((a, b) => a.at - b.at)
}

function tallyOf(lines: readonly RecordedLine[]): Tally {
  const tally = createTally()
  const flights = new Map<string, RecordedAttempt>()
  for (const { id, attempts, stoppedBy } of lines) {
    for (const { charge } of attempts) tally.attempted(charge)
    tally.retried(Math.max(0, attempts.length - 1))
    if (stoppedBy) tally.stopped(stoppedBy)
    const last = attempts.at(-1)
    if (last) flights.set(id, last)
  }
  for (const line of lines) {
    if (line.kind !== 'request') continue
    const { status, code, durationMs } = line
    tally.answered({ status: status ?? 'gone', code, durationMs: durationMs ?? 0 })
    tally.saved(savedBy(line, flights))
  }
  return tally
}

function savedBy({ cache, status, priceCredits, flight }: RecordedLine, flights: ReadonlyMap<string, RecordedAttempt>) {
  const isAnswered = status === 200 || status === 304
  if (!isAnswered) return 0
  if (cache === 'hit' || cache === 'stale') return priceCredits
  if (cache !== 'joined') return 0
  const paid = flight === null ? undefined : flights.get(flight)?.charge
  if (!paid) return priceCredits
  return paid.state === 'charged' ? paid.credits : 0
}

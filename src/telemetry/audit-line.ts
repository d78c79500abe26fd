/**
 * The lines of the audit file, format 1: NDJSON, in the order in which the requests ended. Written for `replay`, readable by
 * people. Times are epoch milliseconds of the wall, `…_ms` are durations. What is not known or does not apply is left out; who
 * reads must skip fields, kinds and broken last lines that it does not know. A change of meaning is a new `v`.
 *
 * | field | of | meaning |
 * |---|---|---|
 * | `v` | all | 1 |
 * | `kind` | all | `request`: one caller was answered, or has left. `flight`: upstream was asked for nobody who waits (a refresh, or what an earlier process began). `operator`: somebody acted on the admin port; such a line has only `at`, `action`, `from` (an address), `by` (the user name that came with the token), and what the action is about: `key-try` `key`; `circuit-close` `scraper`; `purge` the filter and how many were `purged`; `reload` `result` and `generation`; `credits` `client`, `before` and `spent` |
 * | `at`, `duration_ms` | all | when it arrived, and how long it took |
 * | `id`, `trace_id` | all | the `X-Request-Id`, and the trace of its `traceparent` |
 * | `client`, `scraper`, `endpoint` | all | who, what; `endpoint` is `answer`, `submit` or `status` (of a job) |
 * | `question` | all | hash of all that changes the answer: equal = may share one. Left out = never shared |
 * | `prompt_hash`, `prompt` | all | the prompt's hash; the prompt itself with `log.prompts` only |
 * | `price` | all | credits that asking upstream costs |
 * | `sample` | not hits | which independent answer was asked for, from 2 on |
 * | `patience_ms`, `timeout_ms` | not hits | how long the caller waited at most; its `timeout` parameter |
 * | `cache`, `tier` | requests | as in `Cache-Status`: `hit`, `stale`, `miss`, `joined`, `bypass`, `none` |
 * | `age_ms` | hits, stale | age of the answer that was given |
 * | `status`, `code`, `reason` | all | of the answer; `"gone"` = the caller hung up first; the code of our own refusal, and its reason where the code has several causes |
 * | `credits` | not hits | what it cost its client; for joined requests 0 |
 * | `stored` | leaders | the answer was kept |
 * | `role` | who rode on a flight | `leader` paid for it; `joined` shared it, its attempts are in the leader's line; `unattended` |
 * | `flight` | who rode on a flight | the `id` of the leader's line; left out where that is in the file of another replica |
 * | `flight_at`, `landed` | leaders | when the flight began; false = the process ended before it |
 * | `stopped_by` | leaders | why its last attempt was not repeated |
 * | `attempts` | leaders | `number`, `after_ms` (since `flight_at`), `duration_ms`, `waited_ms` (before it), `class`, `status`, `key` (its name), `charge` (`charged`, `free`, `unknown`), `credits`, `retry_after_ms`; without a complete answer `reason` and, where there is one, the system's code as `error_code`; `anomalies` (what was unexpected about an answer) |
 */
import type { Call, Entry } from '../model.ts'
import type { OperatorAct } from './events.ts'
import type { RecordedFlight } from './flight-trails.ts'
import type { Trail } from './trail.ts'

const VERSION = 1

/** What a line says that a trail does not. */
export interface LineFacts {
  readonly call: Call | null
  readonly patienceMs: number | null
  /** Null = not known. */
  readonly stored: boolean | null
  readonly ageMs: number | null
}

/** For an answer out of the cache: as little work as can be. */
export function hitLine(trail: Trail, call: Call, entry: Entry): string {
  const { at, durationMs, id, client, prompt, tier, status, traceId } = trail
  const tookMs = durationMs ?? 0
  return (
    `{"v":${VERSION},"kind":"request","at":${at},"duration_ms":${round(tookMs)},"id":${quoted(id)}` +
    `,"client":${quoted(client)}${questionOf(call)},"cache":"hit","tier":"${tier ?? 'none'}"` +
    `,"age_ms":${Math.max(0, Math.round(at + tookMs - entry.storedAt))},"status":${status ?? 0}` +
    (traceId === null ? '' : `,"trace_id":"${traceId}"`) +
    (prompt === null ? '}\n' : `,"prompt":${JSON.stringify(prompt)}}\n`)
  )
}

/** What a hit's line says of its question is the same each time it is asked. */
const questions = new WeakMap<Call, string>()

function questionOf(call: Call): string {
  const known = questions.get(call)
  if (known !== undefined) return known
  const { scraper, endpoint, key, promptHash, priceCredits } = call
  const facts = { scraper, endpoint, question: given(key), prompt_hash: given(promptHash), price: priceCredits }
  const text = `,${JSON.stringify(facts).slice(1, -1)}`
  questions.set(call, text)
  return text
}

/** Most ids and names need no escaping, and to look is cheaper than to do it. */
function quoted(text: string): string {
  return /^[\w.:/+-]*$/.test(text) ? `"${text}"` : JSON.stringify(text)
}

export function requestLine(trail: Trail, flight: RecordedFlight | null, facts: LineFacts): string {
  return line('request', trail, flight, facts)
}

export function flightLine(trail: Trail, flight: RecordedFlight): string {
  return line('flight', trail, flight, { call: flight.call, patienceMs: null, stored: null, ageMs: null })
}

/** What somebody did on the admin port. */
export function operatorLine(at: number, { action, what, from, by }: OperatorAct): string {
  return `${JSON.stringify({ v: VERSION, kind: 'operator', at, action, ...what, from, by: given(by) })}\n`
}

function line(kind: string, trail: Trail, flight: RecordedFlight | null, facts: LineFacts): string {
  const { call } = facts
  const isHit = trail.cache === 'hit'
  return `${JSON.stringify({
    v: VERSION,
    kind,
    at: trail.at,
    duration_ms: given(trail.durationMs === null ? null : round(trail.durationMs)),
    id: trail.id,
    client: trail.client,
    scraper: trail.scraper,
    endpoint: given(trail.endpoint),
    question: given(call?.key),
    prompt_hash: given(trail.promptHash),
    price: given(call?.priceCredits),
    patience_ms: given(facts.patienceMs),
    timeout_ms: given(call?.timeoutMs),
    sample: (call?.sample ?? 1) > 1 ? call?.sample : undefined,
    cache: kind === 'request' ? given(trail.cache) : undefined,
    tier: given(trail.tier),
    age_ms: given(facts.ageMs),
    status: given(trail.status),
    code: given(trail.code),
    reason: given(trail.reason),
    credits: isHit ? undefined : trail.credits,
    stored: given(facts.stored),
    role: given(trail.role),
    flight: given(trail.role === null ? null : flight?.id),
    ...(flight && trail.role !== 'joined' ? attemptsOf(flight) : {}),
    trace_id: given(trail.traceId),
    prompt: given(trail.prompt),
  })}\n`
}

function attemptsOf(flight: RecordedFlight): object {
  return {
    flight_at: flight.startedAt,
    landed: flight.landedAt !== null,
    stopped_by: given(flight.stoppedBy),
    attempts: flight.attempts.map((attempt) => ({
      number: attempt.number,
      after_ms: attempt.startedAt - flight.startedAt,
      duration_ms: round(attempt.durationMs),
      waited_ms: round(attempt.waitedMs),
      class: attempt.class,
      status: given(attempt.status),
      key: attempt.keyName,
      charge: attempt.charge.state,
      credits: attempt.charge.credits,
      retry_after_ms: given(attempt.retryAfterMs),
      anomalies: attempt.anomalies.length > 0 ? attempt.anomalies : undefined,
      reason: given(attempt.trouble?.reason),
      error_code: given(attempt.trouble?.code),
    })),
  }
}

/** `JSON.stringify` leaves out what is undefined. */
function given<T>(value: T | null | undefined): T | undefined {
  return value ?? undefined
}

function round(ms: number): number {
  return Math.round(ms * 1000) / 1000
}

/** A trail for a terminal: the facts and attempts of its page as plain text. Nothing in it can move the cursor or change a colour. */
import {
  type AttemptTrail,
  type FlightTrail,
  msText,
  reasonText,
  type Trail,
  troubleText,
  whyOf,
} from '../telemetry/trail.ts'
import type { AdminAnswer } from './admin.ts'

/** `trails` are those of one id, the newest first. */
export function trailTextAnswer(trails: readonly Trail[], now: number): AdminAnswer {
  const body = `${trails.map((trail) => textOf(trail, now)).join('\n\n')}\n`
  return { status: 200, contentType: 'text/plain; charset=utf-8', headers: ['Vary', 'Accept'], body }
}

function textOf(trail: Trail, now: number): string {
  const events = [...trail.events, ...(trail.flight?.events ?? [])]
  const parts = [
    [`Request ${trail.id}`, ...factsOf(trail).map(([name, value]) => `  ${name.padEnd(12)} ${value}`)],
    trail.flight ? attemptsOf(trail.flight, now) : [],
    events.length === 0 ? [] : ['What else happened', ...events.map(({ at, text }) => `  ${iso(at)}  ${text}`)],
  ]
  return parts
    .filter((lines) => lines.length > 0)
    .map((lines) => lines.map(printable).join('\n'))
    .join('\n\n')
}

function factsOf(trail: Trail): readonly (readonly [name: string, value: string])[] {
  const { durationMs, endpoint, code, reason, detail, cache, tier, promptHash, prompt, traceId } = trail
  const status = trail.status === 'gone' ? 'hung up' : (trail.status ?? 'under way')
  const facts: readonly (readonly [name: string, value: string | null])[] = [
    ['Came', `${iso(trail.at)}, ${durationMs === null ? 'under way' : `took ${msText(durationMs)}`}`],
    ['Asked by', trail.client],
    ['For', endpoint === null ? trail.scraper : `${trail.scraper}, ${endpoint}`],
    ['Answer', `${status}${code === null ? '' : ` ${code}`}${reason === null ? '' : `, ${reason}`}`],
    ['It was told', detail],
    ['Cache', cache === null || tier === null ? cache : `${cache}, ${tier}`],
    ['Credits', String(trail.credits)],
    ['Flight', rideOf(trail)],
    ['Prompt hash', promptHash],
    ['Prompt', prompt],
    ['Trace', traceId],
  ]
  return facts.flatMap(([name, value]) => (value === null ? [] : [[name, value] as const]))
}

function rideOf({ role, flight, stoppedBy }: Trail): string | null {
  if (!role) return null
  if (!flight) return 'shared, for nothing, with a request that another replica asked for'
  const left =
    stoppedBy && stoppedBy !== flight.stoppedBy ? `. It was not waited for to its end: ${reasonText(stoppedBy)}` : ''
  if (role === 'leader') return `its own: it pays for it${left}`
  if (role === 'joined') return `shared, for nothing, with ${flight.id ?? 'another request'}${left}`
  return `for nobody who waited: to refresh an answer, or to finish what an earlier process began${left}`
}

function attemptsOf(flight: FlightTrail, now: number): string[] {
  const rows = flight.attempts.map((attempt, index) => rowOf(attempt, whyOf(flight, index), flight.startedAt))
  const { underWay } = flight
  if (underWay) {
    const { number, startedAt, waitedMs, keyName } = underWay
    const took = `${msText(now - startedAt)} so far`
    rows.push([String(number), ...beganOf(startedAt, flight.startedAt, waitedMs), took, 'under way', keyName, '–', '–'])
  }
  if (rows.length === 0) return ['Upstream has not been asked.']
  const all = [['Attempt', 'Began', 'Waited', 'Took', 'Ended as', 'Key', 'Credits', 'And then'], ...rows]
  const widths = all[0]?.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0))) ?? []
  return all.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  )
}

function rowOf(attempt: AttemptTrail, why: string, startedAt: number): string[] {
  const { number, class: ended, status, charge, durationMs, retryAfterMs, trouble, keyName } = attempt
  const credits = charge.state === 'unknown' ? `${charge.credits}, perhaps` : String(charge.credits)
  const asked = retryAfterMs === null ? '' : `; upstream asked for ${msText(retryAfterMs)}`
  const began = beganOf(attempt.startedAt, startedAt, attempt.waitedMs)
  const end = `${ended} ${status ?? troubleText(trouble)}`
  return [String(number), ...began, msText(durationMs), end, keyName, credits, why + asked]
}

function beganOf(at: number, startedAt: number, waitedMs: number): [began: string, waited: string] {
  return [`${iso(at).slice(11, 19)} +${msText(at - startedAt)}`, waitedMs === 0 ? '–' : msText(waitedMs)]
}

/** Ids, prompts and details are words of others. */
function printable(line: string): string {
  return line.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (one) => `\\u{${(one.codePointAt(0) ?? 0).toString(16)}}`)
}

function iso(at: number): string {
  return new Date(at).toISOString()
}

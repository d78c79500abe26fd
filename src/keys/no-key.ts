/**
 * What is said of keys that cannot be used: which key is out, why, until when, and what ends it. Names of keys are labels that the
 * operator has chosen and that metrics show, so callers may see them; nothing of a secret is in here.
 */
import { type FailureClass, failures } from '../failures.ts'
import type { KeyStatus } from '../fetch-parts.ts'

const NAMED = 3
const DAY_MS = 86_400_000

/** What a key that rests for this reason is said to be, and what an operator does about it. */
export function problemOf(name: string, reason: FailureClass): NonNullable<KeyStatus['problem']> {
  const { says = `rests after ${reason}`, remedy = null } = failures[reason].ofKey ?? {}
  const advice = remedy === null ? 'Retry later.' : `${remedy}, then run \`POST /keys/${name}/try\`.`
  return { reason, says, remedy: advice }
}

/** The detail of NO_KEY_AVAILABLE. `wall` is the same moment as `now`, which the times of `keys` belong to. */
export function noKeyText(keys: readonly KeyStatus[], now: number, wall: number): string {
  const resting = keys.filter(({ problem }) => problem !== null).toSorted((a, b) => severityOf(b) - severityOf(a))
  const [worst] = resting
  if (!worst?.problem) return 'No upstream API key is usable for this request right now. Retry later.'
  const named = resting.slice(0, NAMED).map((key) => clauseOf(key, now, wall))
  const others = resting.length > NAMED ? [`${resting.length - NAMED} more cannot be used either`] : []
  return `No upstream API key is usable right now: ${[...named, ...others].join(', ')}. ${worst.problem.remedy}`
}

function clauseOf({ name, problem, untilAt }: KeyStatus, now: number, wall: number): string {
  return `\`${name}\` ${problem?.says ?? ''}${untilAt === null || untilAt <= now ? ' and is being tried' : ` until ${timeText(untilAt - now + wall, wall)}`}`
}

/** The minute in which it is over; with the day, where that is another one. */
function timeText(at: number, now: number): string {
  const text = new Date(Math.ceil(at / 60_000) * 60_000).toISOString()
  const isSameDay = Math.floor(at / DAY_MS) === Math.floor(now / DAY_MS)
  return `${isSameDay ? text.slice(11, 16) : `${text.slice(0, 10)} ${text.slice(11, 16)}`} UTC`
}

function severityOf({ problem }: KeyStatus): number {
  return problem === null ? 0 : (failures[problem.reason].keySeverity ?? 0)
}

/**
 * What the calls of one circuit say about upstream. Failures here come within seconds or at once while answers take up to
 * minutes, so the order in which calls end says nothing: a hundred fast failures are known before the first of a thousand
 * answers. Calls are therefore looked at in the order of their start, and a call under way counts as not failed to the degree
 * that a failing call of its age would have failed by now, which recent failures tell. In a hang, where failures take as long
 * as the time limit, younger calls say nothing. Pure: it is told the time.
 */
import type { Health } from '../model.ts'

export interface EvidencePolicy {
  /** So many failures since the last answer open the circuit. */
  readonly consecutive: number
  /** At least this share of the calls that could be known has failed; holds for both rules. */
  readonly failureRate: number
  /** Of the last `window` questions, of which at least `minimum` could be known. */
  readonly window: number
  readonly minimum: number
  /** Failures of at least so many different questions. */
  readonly questions: number
}

export interface SeenCall {
  readonly question: string
  readonly startedAt: number
  health: Health | 'under way'
}

export interface Evidence {
  started(question: string, now: number, policy: EvidencePolicy): SeenCall
  ended(call: SeenCall, health: Health, now: number): void
  /** A failure of a call that is not among the evidence, for how long failures take. */
  failureTook(ms: number): void
  /** Hardly anything succeeds. */
  isDamning(policy: EvidencePolicy, now: number): boolean
  /** It may soon be damning: only failures, of enough questions, since a call was last known to be well. */
  isDoubtful(policy: EvidencePolicy, now: number): boolean
  /** Most calls are well, as far as is known. */
  isMostlyWell(now: number): boolean
  /** Failing calls do not live so long. */
  survivalMs(): number
  /** A new state of the circuit begins. */
  forget(): void
  /** Calls that are remembered. */
  readonly size: number
}

/** 408: the AI was silent, the way to it may be well. */
const weights: Readonly<Record<Health | 'under way', number>> = {
  up: 0,
  neutral: 0,
  'under way': 0,
  slow: 0.5,
  down: 1,
}
const MEMORY_MS = 10 * 60_000
/** How long failures and answers take is told by the last so many. */
const REMEMBERED_FAILURES = 20
/** More, because the last answers before a hang are the slowest ones. */
const REMEMBERED_ANSWERS = 100
/** A call under way is taken to be well when so many of the recent failures had shown by its age. */
const SURELY = 0.9
const SHORTEST_SURVIVAL_MS = 1_000
const SURVIVAL_FACTOR = 4
/** Upstream is well with a smaller share of failures, known from at least so many questions. */
const WELL_WINDOW = 50
const WELL_BELOW = 0.4
const FEWEST_VOTES = 5
const SHORTEST_OVERDUE_MS = 30_000
const OVERDUE_FACTOR = 1.5
/** Before anything was answered. */
const USUAL_OVERDUE_MS = 60_000

class OutcomeWindow implements Evidence {
  /** In the order of their start. */
  #calls: SeenCall[] = []
  #pruneAt = 0
  /** How long the latest failures and answers took. */
  readonly #failures: number[] = []
  #longestFailureMs = 0
  /** Null = not worked out since the last answer. */
  #usualAnswerMs: number | null = null
  readonly #answers: number[] = []

  readonly started = (question: string, now: number, policy: EvidencePolicy): SeenCall => {
    const call: SeenCall = { question, startedAt: now, health: 'under way' }
    if (this.#calls.length >= this.#pruneAt) this.#prune(policy, now)
    this.#calls.push(call)
    return call
  }

  readonly ended = (call: SeenCall, health: Health, now: number): void => {
    call.health = health
    if (weights[health] > 0) this.failureTook(now - call.startedAt)
    if (health !== 'up') return
    remember(this.#answers, REMEMBERED_ANSWERS, now - call.startedAt)
    this.#usualAnswerMs = null
  }

  readonly failureTook = (ms: number): void => {
    remember(this.#failures, REMEMBERED_FAILURES, ms)
    this.#longestFailureMs = Math.max(...this.#failures)
  }

  readonly isDamning = (policy: EvidencePolicy, now: number): boolean => {
    return this.#isRowDamning(policy, now) || this.#isRateDamning(policy, now)
  }

  readonly isDoubtful = (policy: EvidencePolicy, now: number): boolean => {
    const questions = questionsOf(policy)
    const known = this.#weigher(now)
    const failing = new Set<string>()
    for (const call of newestFirst(this.#calls)) {
      if (isWell(call, known)) return false
      if (weights[call.health] > 0) failing.add(call.question)
      if (failing.size >= questions) return true
    }
    return false
  }

  readonly isMostlyWell = (now: number): boolean => {
    const { failed, all } = this.#voteOf(WELL_WINDOW, WELL_WINDOW, now)
    return all >= FEWEST_VOTES && failed < WELL_BELOW * all
  }

  readonly survivalMs = (): number => {
    return Math.max(SHORTEST_SURVIVAL_MS, SURVIVAL_FACTOR * most(this.#failures))
  }

  readonly forget: Evidence['forget'] = () => {
    this.#calls = []
    this.#pruneAt = 0
  }

  get size(): number {
    return this.#calls.length
  }

  /** The chance that a failing call has failed by that age. */
  #shownBy(ageMs: number): number {
    if (ageMs >= this.#longestFailureMs) return this.#failures.length === 0 ? 0 : 1
    let shown = 0
    for (const duration of this.#failures) if (duration <= ageMs) shown += 1
    return shown / this.#failures.length
  }

  /** How much a call counts in the denominator. One that is under way for longer than answers take may hang: it says nothing. */
  #weigher(now: number): (call: SeenCall) => number {
    const overdueBefore = now - this.#overdueMs()
    return ({ health, startedAt }) => {
      if (health === 'neutral' || (health === 'under way' && startedAt < overdueBefore)) return 0
      if (health === 'up') return 1
      return health === 'slow' ? weights.slow * this.#shownBy(now - startedAt) : this.#shownBy(now - startedAt)
    }
  }

  #overdueMs(): number {
    this.#usualAnswerMs ??= most(this.#answers)
    if (this.#answers.length === 0) return USUAL_OVERDUE_MS
    return Math.max(SHORTEST_OVERDUE_MS, OVERDUE_FACTOR * this.#usualAnswerMs)
  }

  /** Failures since the last answer. One question fills a part of the row at most. */
  #isRowDamning(policy: EvidencePolicy, now: number): boolean {
    const { consecutive, failureRate } = policy
    const questions = questionsOf(policy)
    const known = this.#weigher(now)
    const votes = new Map<string, number>()
    const mostVotes = Math.ceil(consecutive / questions)
    let failed = 0
    let all = 0
    for (const call of newestFirst(this.#calls)) {
      if (isWell(call, known)) return false
      const cast = votes.get(call.question) ?? 0
      if (weights[call.health] > 0 && cast >= mostVotes) continue
      all += known(call)
      if (weights[call.health] === 0) continue
      votes.set(call.question, cast + 1)
      failed += weights[call.health]
      if (failed >= consecutive && votes.size >= questions && failed >= failureRate * all) return true
    }
    return false
  }

  #isRateDamning(policy: EvidencePolicy, now: number): boolean {
    const { window, failureRate } = policy
    const { failures, failed, all } = this.#voteOf(window, (1 - failureRate) * window, now)
    return all >= policy.minimum && failures >= questionsOf(policy) && failed >= failureRate * all
  }

  /** The latest call of each question has a vote. It stops when more than `most` have not failed. */
  #voteOf(window: number, most: number, now: number) {
    const known = this.#weigher(now)
    const voted = new Set<string>()
    let failures = 0
    let failed = 0
    let all = 0
    for (const call of newestFirst(this.#calls)) {
      if (all >= window || all - failed > most) break
      if (call.health === 'neutral' || voted.has(call.question)) continue
      voted.add(call.question)
      all += known(call)
      failed += weights[call.health]
      if (weights[call.health] > 0) failures += 1
    }
    return { failures, failed, all }
  }

  /** Calls under way stay; of the others as many as the rules can look at. */
  #prune({ window, consecutive }: EvidencePolicy, now: number): void {
    const most = 4 * Math.max(window, consecutive)
    let left = most
    this.#calls = this.#calls
      .toReversed()
      .filter((call) => {
        if (call.health === 'under way') return true
        left -= 1
        return left >= 0 && call.health !== 'neutral' && now - call.startedAt < MEMORY_MS
      })
      .toReversed()
    this.#pruneAt = 2 * this.#calls.length + most
  }
}

export function createEvidence(): Evidence {
  return new OutcomeWindow()
}

/** Two failures in a row are those of two questions at most. */
function questionsOf({ questions, consecutive }: EvidencePolicy): number {
  return Math.min(questions, consecutive)
}

/** Answered, or has outlived failures. */
function isWell(call: SeenCall, known: (call: SeenCall) => number): boolean {
  return weights[call.health] === 0 && known(call) >= SURELY
}

function remember(durations: number[], count: number, ms: number): void {
  durations.push(ms)
  if (durations.length > count) durations.shift()
}

/** Nine of ten took no longer. */
function most(durations: readonly number[]): number {
  return durations.toSorted((a, b) => a - b)[Math.floor(durations.length * 0.9)] ?? 0
}

function* newestFirst(calls: readonly SeenCall[]): Generator<SeenCall> {
  for (let at = calls.length - 1; at >= 0; at -= 1) {
    const call = calls[at]
    if (call) yield call
  }
}

/**
 * The invariants of circuits, by a simple account of their own: a circuit opens only when hardly anything succeeds (C5), and then it
 * must (C6); while it is open there are trials at their times and nothing else (C9); it closes only after a call that began later was
 * answered (C3); and nobody is refused before it has been held (C10). What state a circuit is in is read from the log.
 */
import type { Plan } from './plan.ts'
import type { CallClass, UpstreamCall } from './vendor.ts'

export interface CircuitOracle {
  started(call: UpstreamCall): void
  ended(call: UpstreamCall): void
  /** A line of the log of this process. */
  logged(process: string, line: string): void
  /** A caller got CIRCUIT_OPEN from this process. */
  refused(process: string, scraper: string): void
  /** Closed all the while since then, and nothing that would make a repetition wait for its circuit. */
  isCalm(call: UpstreamCall, since: number): boolean
}

interface Circuit {
  readonly calls: UpstreamCall[]
  state: 'closed' | 'open' | 'half-open'
  since: number
  openedAt: number
  /** Starts of the calls since the opening. */
  trials: UpstreamCall[]
}

const weights: Partial<Record<CallClass, number>> = {
  ok: 0,
  timeout: 0.5,
  serverError: 1,
  warmingUp: 1,
  gatewayTimeout: 1,
  unreachable: 1,
  ambiguous: 1,
}
const QUESTIONS = 3
/** A trial that has lived so long may be a sign of health. */
const SURVIVAL_MS = 1_000
const REMEMBERED = 400
/** After a circuit has closed, all that were held are let in within this. */
const BATCHES_MS = 15_000

export function createCircuitOracle(
  plan: Plan,
  now: () => number,
  fail: (invariant: string, what: string) => void,
  /** Calls reach the vendor as soon as they are let go, and each is the proxy's own. */
  isExact: boolean,
): CircuitOracle {
  const circuits = new Map<string, Circuit>()

  function circuitOf(process: string, scraper: string): Circuit {
    const name = `${process}/${scraper}`
    const circuit = circuits.get(name) ?? { calls: [], state: 'closed', since: 0, openedAt: 0, trials: [] }
    circuits.set(name, circuit)
    return circuit
  }

  function started(call: UpstreamCall): void {
    const circuit = circuitOf(nameOf(call), call.scraper)
    circuit.calls.push(call)
    if (circuit.calls.length > REMEMBERED) circuit.calls.shift()
    if (circuit.state === 'closed') return
    if (isExact) triedInTime(circuit, call)
    circuit.trials.push(call)
  }

  function triedInTime({ trials, openedAt }: Circuit, call: UpstreamCall): void {
    const isFollower = trials.some(({ startedAt, ended }) => !ended && now() - startedAt >= SURVIVAL_MS)
    const before = Math.max(openedAt, ...trials.map(({ startedAt }) => startedAt))
    if (!isFollower && now() - before < 0.8 * plan.openForMs - 1)
      fail('C9', `${call.scraper} is tried ${now() - before} ms after the opening or the trial before`)
  }

  function ended(call: UpstreamCall): void {
    if (!isExact || (weights[call.ended?.class ?? 'aborted'] ?? 0) === 0) return
    const circuit = circuitOf(nameOf(call), call.scraper)
    if (circuit.state !== 'closed' || circuit.since === now()) return
    const own = circuit.calls.filter(({ startedAt }) => startedAt > circuit.since)
    if (own.some((one) => !one.ended)) return
    const row = own.slice(own.findLastIndex((one) => one.ended?.class === 'ok') + 1)
    const votes = new Map<string, number>()
    for (const one of row) {
      const weight = weights[one.ended?.class ?? 'aborted'] ?? 0
      const most = Math.ceil(plan.consecutive / QUESTIONS)
      votes.set(one.question, Math.min(most, (votes.get(one.question) ?? 0) + weight))
    }
    const sum = votes.values().reduce((sum, votes) => sum + votes, 0)
    if (votes.size >= QUESTIONS + 1 && sum >= plan.consecutive + 5)
      fail('C6', `${sum} failures in a row of ${call.scraper}, and its circuit is closed`)
  }

  function logged(process: string, line: string): void {
    const to = /"msg":"circuit (opened|closed|half-open|stays open)/.exec(line)?.[1]
    const scraper = /"scraper":"(\w+)"/.exec(line)?.[1]
    if (to === undefined || scraper === undefined) return
    const circuit = circuitOf(process, scraper)
    if (to === 'opened') mayOpen(circuit, scraper)
    if (to === 'closed') mayClose(circuit, scraper)
    if (to === 'opened' || to === 'closed') {
      Object.assign(circuit, { openedAt: to === 'opened' ? now() : 0, trials: [] })
    }
    circuit.since = now()
    circuit.state = to === 'closed' || to === 'half-open' ? to : 'open'
  }

  function mayOpen({ calls, since }: Circuit, scraper: string): void {
    if (!isExact) return
    const failing = new Set<string>()
    let failed = 0
    let answered = 0
    for (const call of calls.toReversed()) {
      if (call.startedAt < since || failed >= Math.max(plan.consecutive, 30)) break
      const weight = weights[call.ended?.class ?? 'aborted']
      if (weight === 0) answered += 1
      else if (weight !== undefined) {
        failed += weight
        failing.add(call.question)
      }
      // A row is over with the first answer before it.
      if (answered > 0 && failed >= plan.consecutive && failed < 27) break
    }
    if (failed < Math.min(plan.consecutive, 27) || failing.size < Math.min(QUESTIONS, plan.consecutive))
      fail('C5', `the circuit of ${scraper} opened after ${failed} failures of ${failing.size} questions`)
    if (answered > 1 + failed / 4) fail('C5', `the circuit of ${scraper} opened while ${answered} calls were answered`)
  }

  function mayClose({ calls, openedAt }: Circuit, scraper: string): void {
    const isAnswered = calls.some(({ startedAt, ended }) => startedAt >= openedAt && ended?.class === 'ok')
    if (isExact && !isAnswered)
      fail('C3', `the circuit of ${scraper} closed, and no call since its opening was answered`)
  }

  function refused(process: string, scraper: string): void {
    if (!isExact) return
    const { state, since, openedAt } = circuitOf(process, scraper)
    if (state === 'closed' && since < now()) fail('C5', `CIRCUIT_OPEN, and the circuit of ${scraper} is closed`)
    if (state !== 'closed' && now() - openedAt < plan.holdMs - 1)
      fail('C10', `CIRCUIT_OPEN for ${scraper} ${now() - openedAt} ms after the opening`)
  }

  function isCalm(call: UpstreamCall, since: number): boolean {
    const circuit = circuitOf(nameOf(call), call.scraper)
    // Whoever was held is let in in batches, and a repetition comes after them.
    if (circuit.state !== 'closed' || circuit.since + BATCHES_MS >= since) return false
    // An answer since then may have ended a doubt that made it wait.
    const { calls } = circuit
    const row = calls.slice(calls.findLastIndex(({ ended }) => ended?.class === 'ok' && ended.at < since) + 1)
    return new Set(row.filter(({ ended }) => ended).map(({ question }) => question)).size < QUESTIONS
  }

  return { started, ended, logged, refused, isCalm }
}

function nameOf({ replica, life }: UpstreamCall): string {
  return `${replica}.${life}`
}

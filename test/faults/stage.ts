/**
 * One fleet and the rounds it goes through. A fault acts on the stage and says on the way what it explains; after each round
 * the judge has the word, and what was paid for and kept is known to the next one.
 */
import type { OwnScope } from '../support/scope.ts'
import type { Dice } from './dice.ts'
import { createFleet, type Fleet, type FleetOptions, type Life } from './fleet.ts'
import { about, type Complaint, type Count, judge, type Round } from './judge.ts'
import { answerTo, ask, type Ask, type Load, type Mix, startLoad } from './load.ts'

export interface Stage {
  readonly scope: OwnScope
  readonly fleet: Fleet
  readonly dice: Dice
  /** A bounded round: no pause longer than a few seconds. */
  readonly isShort: boolean
  readonly load: (options?: Partial<Mix>) => Load
  readonly ask: (life: Life, prompt: string) => Ask
  /** In this round. */
  readonly asked: () => readonly Ask[]
  readonly count: Count
  readonly complain: (what: string) => void

  // What the fault explains in this round

  /** What this replica was flying may be asked once more. Durable: only what was being submitted at this moment. */
  readonly expose: (life: Life) => void
  /** From now on each replica is on its own: every question that is open or to come may be paid for by each. */
  readonly apart: () => void
  /** Attempts may have been charged and repeated once. */
  readonly ambiguous: () => void
  readonly mayLackRedis: () => void
  /** What was kept is gone. */
  readonly forget: () => void
  readonly mayAnswer: (test: Round['mayAnswer']) => void
}

export type Fault = (stage: Stage) => Promise<void>

export interface Series {
  readonly round: (dice: Dice, fault: Fault) => Promise<readonly Complaint[]>
  readonly fleet: Fleet
  /** Everybody goes home; complaints if they cannot. */
  readonly end: () => Promise<readonly Complaint[]>
}

export interface SeriesOptions {
  readonly scope: OwnScope
  readonly fleet: FleetOptions
  readonly isShort: boolean
  /** Fewer callers where many things run side by side. */
  readonly workers: number
  readonly count: Count
}

function lossesOf({ program }: Life): number {
  return program.stdout().split('"msg":"redis lost"').length - 1
}

/** Between the arrival of a submit and its id in the lease; generous, because the machine is busy. */
const SUBMIT_WINDOW_MS = 400

export async function createSeries({ scope, isShort, workers, count, ...options }: SeriesOptions): Promise<Series> {
  const fleet = await createFleet(scope, options.fleet)
  const known = new Set<string>()

  async function round(dice: Dice, fault: Fault): Promise<readonly Complaint[]> {
    const asks: Ask[] = []
    const complaints: Complaint[] = []
    const exposed: { readonly life: Life; readonly at: number; readonly prompts: ReadonlySet<string> }[] = []
    const lastEntry = fleet.sim.ledger.entries.at(-1)?.id ?? 0
    let apart: { readonly openThen: ReadonlySet<string>; readonly askedBefore: number } | null = null
    const laterOn = new Set<string>()
    let isAmbiguous = false
    let mayLackRedis = false
    let hasForgotten = false
    let mayAnswer: Round['mayAnswer'] = () => false

    function extraCharges(prompt: string): number {
      const lost = exposed.filter(({ life, at, prompts }) => {
        if (fleet.options.isDurable) return wasSubmitting(life, prompt, at)
        return !known.has(prompt) && prompts.has(prompt)
      })
      return lost.length + (mayBePaidByEach(prompt) ? fleet.options.size - 1 : 0) + (isAmbiguous ? 1 : 0)
    }

    function mayBePaidByEach(prompt: string): boolean {
      if (!apart) return false
      if (laterOn.size === 0) for (const one of asks.slice(apart.askedBefore)) laterOn.add(one.prompt)
      return apart.openThen.has(prompt) || laterOn.has(prompt)
    }

    function wasSubmitting({ secret }: Life, prompt: string, at: number): boolean {
      return fleet.sim.requests.some(
        (one) =>
          one.call === 'submit' &&
          one.key === secret &&
          one.prompt === prompt &&
          one.receivedAt > at - SUBMIT_WINDOW_MS,
      )
    }

    const stage: Stage = {
      scope,
      fleet,
      dice,
      isShort,
      load: (mix = {}) => startLoad(fleet, dice, known, (one) => asks.push(one), { workers, ...mix }),
      ask(life, prompt) {
        const one = ask(life, prompt)
        asks.push(one)
        return one
      },
      asked: () => asks,
      count,
      complain: (what) => complaints.push(about('other')(what)),
      expose(life) {
        const prompts = new Set(asks.filter((one) => one.life === life).map(({ prompt }) => prompt))
        exposed.push({ life, at: Date.now(), prompts })
      },
      apart() {
        const openThen = new Set(asks.filter(({ end }) => end === null).map(({ prompt }) => prompt))
        apart = { openThen, askedBefore: asks.length }
      },
      ambiguous: () => (isAmbiguous = true),
      mayLackRedis: () => (mayLackRedis = true),
      forget() {
        known.clear()
        hasForgotten = true
      },
      mayAnswer: (test) => (mayAnswer = test),
    }
    const losses = (): number => fleet.lives.reduce((sum, one) => sum + lossesOf(one), 0)
    const lossesBefore = losses()
    await fault(stage)
    if (!apart && losses() > lossesBefore) {
      count('rounds in which the machine was too busy for Redis')
      apart = { openThen: new Set(), askedBefore: 0 }
      mayLackRedis = true
    }
    complaints.push(...(await judge({ fleet, asks, known, lastEntry, extraCharges, mayLackRedis, mayAnswer, count })))
    if (!apart && !isAmbiguous && !hasForgotten) learn(asks)
    return complaints
  }

  /** What a living replica has answered by now is kept. */
  function learn(asks: readonly Ask[]): void {
    for (const one of asks) {
      if (one.life.state === 'up' && answerTo(one)?.status === 200) known.add(one.prompt)
    }
  }

  async function end(): Promise<readonly Complaint[]> {
    const last = fleet.up()
    await Promise.all(last.map(fleet.dismiss))
    const codes = await Promise.all(last.map(async ({ name, program }) => `${name}: ${(await program.ended).code}`))
    return codes.filter((text) => !text.endsWith(': 0')).map(about('other'))
  }

  return { round, fleet, end }
}

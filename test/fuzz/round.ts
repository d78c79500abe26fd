/** What all fuzzers have in common: a round of cases by seed, and what they found. */
import type { Stage } from '../support/proxy.ts'
import { type Chance, createChance } from './chance.ts'

export interface Round {
  readonly seed: number
  readonly cases: number
  /** The first one; to see a case again. */
  readonly from?: number
  /** Told now and then how many are done. */
  readonly progress?: (done: number) => void
}

/** Resolves to what must not be, in words with the number of the case; empty = all held. */
export type Fuzzer = (stage: Stage, round: Round) => Promise<readonly string[]>

/** More of them say nothing new. */
const MOST_FINDINGS = 20

/**
 * Every case has a chance of its own, so that one can be played again without those before it. `lanes` run side by side, each
 * its cases one after the other.
 */
export async function playCases(
  { seed, cases, from = 0, progress }: Round,
  lanes: number,
  play: (chance: Chance, number: number, lane: number) => Promise<string | null> | string | null,
): Promise<readonly string[]> {
  const findings: string[] = []
  let next = from
  async function run(lane: number): Promise<void> {
    while (next < from + cases && findings.length < MOST_FINDINGS) {
      const number = next++
      const finding = await play(createChance(Math.imul(seed, 0x9e3779b1) + number), number, lane)
      if (finding !== null) findings.push(`seed ${seed}, case ${number}: ${finding}`)
      if (number % 500 === 499) progress?.(number + 1)
    }
  }
  await Promise.all(Array.from({ length: lanes }, (_, lane) => run(lane)))
  return findings
}

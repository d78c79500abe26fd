/** What a figure is made of, and the arithmetic that all of them share. */
import type { LoadResult } from './load.ts'
import type { Program } from './program.ts'

export interface Options {
  /** Other programs are measured beside ours. */
  readonly peers: boolean
  readonly rounds: number
  /** Short loads and small numbers: to see that it works, not to be believed. */
  readonly quick: boolean
}

/** One line of the table. */
export interface Row {
  /** As in the goals: `P1`; several rows may belong to one. */
  readonly id: string
  readonly what: string
  readonly value: number
  readonly unit: 'x' | 'us' | 'ms' | 's' | '/s' | 'B' | '%' | 'n'
  /** Null = shown for comparison only. */
  readonly goal: Goal | null
  /** One value per round, in the order measured. */
  readonly rounds: readonly number[]
  /** Requests that failed: then the row proves nothing. */
  readonly failed: number
}

export interface Goal {
  readonly least?: number
  readonly most?: number
}

export interface Figure {
  readonly ids: readonly string[]
  readonly title: string
  measure(options: Options): Promise<readonly Row[]>
}

export interface Contestant {
  readonly name: string
  readonly program: Program
}

export interface Sample extends LoadResult {
  /** Of the program that was measured, per request. */
  readonly cpuUs: number
}

/** Each round measures everybody, one after the other; a first round that does not count warms them up. */
export async function interleaved(
  contestants: readonly Contestant[],
  rounds: number,
  load: (contestant: Contestant, round: number) => Promise<LoadResult>,
): Promise<ReadonlyMap<string, readonly Sample[]>> {
  const samples = new Map<string, Sample[]>(contestants.map(({ name }) => [name, []]))
  for (let round = 0; round <= rounds; round += 1) {
    for (const contestant of contestants) {
      const before = contestant.program.cpuMs()
      const result = await load(contestant, round)
      const cpuUs = ((contestant.program.cpuMs() - before) * 1000) / Math.max(1, result.requests)
      if (round > 0) samples.get(contestant.name)?.push({ ...result, cpuUs })
    }
  }
  return samples
}

export function failures(samples: readonly Sample[]): number {
  return samples.reduce((sum, { failed }) => sum + failed, 0)
}

/** The ratio of each round, so that what slows a whole round down slows both. */
export function ratios(ours: readonly number[], theirs: readonly number[]): number[] {
  return ours.map((value, round) => value / (theirs[round] ?? Number.NaN))
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  const [low = Number.NaN, high = low] =
    sorted.length % 2 === 1 ? [sorted[middle]] : sorted.slice(middle - 1, middle + 1)
  return (low + high) / 2
}

export function row(
  id: string,
  what: string,
  unit: Row['unit'],
  rounds: readonly number[],
  goal: Goal | null,
  failed = 0,
): Row {
  return { id, what, unit, value: median(rounds), rounds, goal, failed }
}

export function isMet({ value, goal, failed }: Row): boolean | null {
  if (!goal) return null
  if (failed > 0 || Number.isNaN(value)) return false
  return value >= (goal.least ?? -Infinity) && value <= (goal.most ?? Infinity)
}

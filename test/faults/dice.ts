/** Chance by seed, in the words that faults are drawn with. */
import { setTimeout as pause } from 'node:timers/promises'
import { seededRandom } from '../support/world.ts'

export interface Dice {
  /** From 0 (in) to 1 (out). */
  readonly luck: () => number
  readonly chance: (probability: number) => boolean
  /** Both ends are in. */
  readonly whole: (min: number, max: number) => number
  readonly pick: <T>(list: readonly T[]) => T
  readonly some: <T>(list: readonly T[], count: number) => T[]
  /** A real pause, so that what follows meets everything else in any phase. */
  readonly moment: (maxMs: number) => Promise<void>
}

export function createDice(seed: number): Dice {
  // Neighbouring seeds begin alike in a small generator.
  const random = seededRandom(Math.imul(seed + 1, 0x9e3779b1))
  const luck = random.next

  function whole(min: number, max: number): number {
    return min + Math.floor(luck() * (max - min + 1))
  }

  function pick<T>(list: readonly T[]): T {
    const [first, ...others] = list
    if (first === undefined) throw new Error('There is nothing to pick from')
    return list[whole(0, others.length)] ?? first
  }

  function some<T>(list: readonly T[], count: number): T[] {
    const left = [...list]
    const chosen: T[] = []
    while (left.length > 0 && chosen.length < count) chosen.push(...left.splice(whole(0, left.length - 1), 1))
    return chosen
  }

  return {
    luck,
    chance: (probability) => luck() < probability,
    whole,
    pick,
    some,
    moment: (maxMs) => pause(whole(0, maxMs)),
  }
}

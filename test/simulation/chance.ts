/** Chance that repeats itself: one seed, and from it as many independent streams as there are names. */
import { hash } from 'node:crypto'

export interface Chance {
  /** Uniform in [0, 1). */
  next(): number
  /** True with this probability. */
  happens(probability: number): boolean
  between(least: number, most: number): number
  /** Whole, both ends included. */
  whole(least: number, most: number): number
  pick<T>(from: readonly [T, ...T[]]): T
  /** Another stream, which does not move this one. */
  of(name: string): Chance
}

/** sfc32: small, fast, and good enough for statistics over 10⁶ draws. */
export function createChance(seed: string): Chance {
  const digest = hash('sha256', seed, 'buffer')
  let [a, b, c, d] = [digest.readInt32LE(0), digest.readInt32LE(4), digest.readInt32LE(8), 1]
  for (let i = 0; i < 12; i += 1) next()

  function next(): number {
    const sum = (((a + b) | 0) + d) | 0
    d = (d + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = (c << 21) | (c >>> 11)
    c = (c + sum) | 0
    return (sum >>> 0) / 2 ** 32
  }

  return {
    next,
    happens: (probability) => next() < probability,
    between: (least, most) => least + next() * (most - least),
    whole: (least, most) => least + Math.floor(next() * (most - least + 1)),
    pick: <T>(from: readonly [T, ...T[]]) => from[Math.floor(next() * from.length)] ?? from[0],
    of: (name) => createChance(`${seed}/${name}`),
  }
}

/** Chance by seed, and what the fuzzers do with it: the same seed makes the same cases, on every machine. */
import { seededRandom } from '../support/world.ts'

export interface Chance {
  /** Below `limit`. */
  readonly int: (limit: number) => number
  readonly pick: <T>(list: readonly T[]) => T
  readonly isTrue: (probability: number) => boolean
  readonly bytes: (length: number) => Buffer
  /** The same bytes after 1 to `most` small accidents: a byte changed, lost, doubled or put in, a piece cut out or copied. */
  readonly damage: (bytes: Buffer, most?: number) => Buffer
}

export function createChance(seed: number): Chance {
  const { next } = seededRandom(seed)
  const int = (limit: number): number => Math.floor(next() * limit)

  function pick<T>(list: readonly T[]): T {
    const one = list[int(list.length)]
    if (one === undefined) throw new RangeError('nothing to pick from')
    return one
  }

  function bytes(length: number): Buffer {
    return Buffer.from(Array.from({ length }, () => int(256)))
  }

  function damage(before: Buffer, most = 3): Buffer {
    let after = before
    for (let left = 1 + int(most); left > 0; left--) after = accident(after)
    return after
  }

  function accident(before: Buffer): Buffer {
    const at = int(before.length + 1)
    const end = Math.min(before.length, at + 1 + int(16))
    const [head, piece, tail] = [before.subarray(0, at), before.subarray(at, end), before.subarray(end)]
    switch (int(7)) {
      case 0:
        return Buffer.concat([head, bytes(1), before.subarray(at)])
      case 1:
        return Buffer.concat([head, bytes(1), before.subarray(at + 1)])
      case 2:
        return Buffer.concat([head, before.subarray(at + 1)])
      case 3:
        return Buffer.concat([head, piece, piece, tail])
      case 4:
        return Buffer.concat([head, tail])
      case 5:
        return head
      default: {
        const flipped = Buffer.from(before)
        if (at < flipped.length) flipped[at] = (flipped[at] ?? 0) ^ (1 << int(8))
        return flipped
      }
    }
  }

  return { int, pick, isTrue: (probability) => next() < probability, bytes, damage }
}

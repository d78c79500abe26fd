// Randomness that depends on what is asked and not on when: the same seed gives the same latency, weather and ids
// for the n-th call of a prompt, however calls interleave.

import { createHash } from 'node:crypto'

export interface Chance {
  /** A number in [0, 1) for this purpose and subject. */
  readonly number: (...about: readonly (string | number)[]) => number
  /** 16 hexadecimal digits. */
  readonly hex: (...about: readonly (string | number)[]) => string
  /** Nine of ten are between the bounds, which are positive. */
  readonly logNormal: (low: number, high: number, ...about: readonly (string | number)[]) => number
  readonly uuid: (...about: readonly (string | number)[]) => string
}

/** Of the normal distribution, 5 % are beyond so many deviations on either side. */
const NINETY_PERCENT = 1.6449

export function createChance(seed: number): Chance {
  function hash(about: readonly (string | number)[]): number {
    let value = (0x811c9dc5 ^ seed) >>> 0
    for (const part of about) {
      for (const char of `${part}\0`) value = Math.imul(value ^ (char.codePointAt(0) ?? 0), 0x01000193) >>> 0
    }
    // FNV leaves the high bits of short inputs poorly mixed; this finishing step spreads them.
    value = Math.imul(value ^ (value >>> 16), 0x85ebca6b)
    value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35)
    return (value ^ (value >>> 16)) >>> 0
  }

  function uuid(about: readonly (string | number)[]): string {
    const digits = createHash('sha256')
      .update([seed, ...about].join('\0'))
      .digest('hex')
    const variant = '89ab'[Number.parseInt(digits.charAt(16), 16) % 4]
    return [
      digits.slice(0, 8),
      digits.slice(8, 12),
      `4${digits.slice(13, 16)}`,
      `${variant}${digits.slice(17, 20)}`,
      digits.slice(20, 32),
    ].join('-')
  }

  function logNormal(low: number, high: number, ...about: readonly (string | number)[]): number {
    const [radius, angle] = ['radius', 'angle'].map((name) => hash([name, ...about]) / 2 ** 32) as [number, number]
    const normal = Math.sqrt(-2 * Math.log(1 - radius)) * Math.cos(2 * Math.PI * angle)
    return Math.sqrt(low * high) * (high / low) ** (normal / (2 * NINETY_PERCENT))
  }

  return {
    number: (...about) => hash(about) / 2 ** 32,
    logNormal,
    hex: (...about) => [about, [...about, 'more']].map((part) => hash(part).toString(16).padStart(8, '0')).join(''),
    uuid: (...about) => uuid(about),
  }
}

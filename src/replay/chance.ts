/**
 * Chance that repeats itself. What upstream does is not drawn from a stream but looked up by question and attempt: so the same
 * question meets the same luck under every policy, and two columns differ by their policies and nothing else.
 */
import type { Random } from '../ports.ts'

/** Uniform in [0, 1), always the same for the same numbers. */
export type SeededHash = (question: number, attempt: number, purpose: number) => number

export function createSeededHash(seed: number): SeededHash {
  const start = mix(seed ^ 0x5bd1e995)
  return (question, attempt, purpose) =>
    mix(Math.imul(mix(start ^ question), 31) ^ Math.imul(attempt, 0x9e3779b1) ^ Math.imul(purpose, 0x85ebca6b)) /
    2 ** 32
}

const RADIUS = 2
const ANGLE = 3
/** Of the normal distribution, 5 % are beyond so many deviations on either side. */
const NINETY_PERCENT = 1.6449

/** How long an answer takes: nine times out of ten between these two (log-normal). In milliseconds. */
export function answerTime(
  hash: SeededHash,
  question: number,
  attempt: number,
  fastMs: number,
  slowMs: number,
): number {
  const radius = Math.sqrt(-2 * Math.log(1 - hash(question, attempt, RADIUS)))
  const normal = radius * Math.cos(2 * Math.PI * hash(question, attempt, ANGLE))
  const deviation = Math.log(slowMs / fastMs) / (2 * NINETY_PERCENT)
  return Math.sqrt(fastMs * slowMs) * Math.exp(deviation * normal)
}

/** For the proxy's own chance: backoff, the open time of a circuit, keys. */
export function createSeededRandom(seed: number): Random {
  let state = mix(seed ^ 0x2545f491)
  let ids = 0
  return {
    next: () => mix((state = (state + 0x9e3779b9) >>> 0)) / 2 ** 32,
    id: () => `00000000-0000-4000-8000-${String((ids += 1)).padStart(12, '0')}`,
  }
}

/** A finaliser of MurmurHash3: each bit of the input changes half of those of the output. */
function mix(value: number): number {
  let mixed = value >>> 0
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b)
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35)
  return (mixed ^ (mixed >>> 16)) >>> 0
}

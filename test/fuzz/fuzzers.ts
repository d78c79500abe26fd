/** Every fuzzer by name, with the number of cases of its bounded round (in the tests) and of its long one (by the command). */
import { fuzzAnswers } from './answers.ts'
import { fuzzDisk } from './disk.ts'
import { collisions } from './keys.ts'
import { fuzzRedis } from './redis.ts'
import { fuzzRequests } from './requests.ts'
import type { Fuzzer } from './round.ts'
import { fuzzSettings } from './settings.ts'

interface Entry {
  readonly fuzz: Fuzzer
  readonly cases: number
  readonly longCases: number
}

const fuzzKeys: Fuzzer = (_stage, round) =>
  Promise.resolve(collisions(round).collisions.map((pair) => JSON.stringify(pair)))

export const fuzzers = {
  requests: { fuzz: fuzzRequests, cases: 4_000, longCases: 300_000 },
  answers: { fuzz: fuzzAnswers, cases: 1_500, longCases: 100_000 },
  redis: { fuzz: fuzzRedis, cases: 1_500, longCases: 100_000 },
  disk: { fuzz: fuzzDisk, cases: 120, longCases: 10_000 },
  settings: { fuzz: fuzzSettings, cases: 600, longCases: 100_000 },
  keys: { fuzz: fuzzKeys, cases: 10_000, longCases: 1_000_000 },
} as const satisfies Record<string, Entry>

export type FuzzerName = keyof typeof fuzzers

export function isFuzzer(name: string): name is FuzzerName {
  return Object.hasOwn(fuzzers, name)
}

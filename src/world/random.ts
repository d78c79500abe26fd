/** Real chance: pauses are spread by `Math.random`, request ids come from the cryptographic source and cannot be guessed. */
import { randomUUID } from 'node:crypto'
import type { Random } from '../ports.ts'

export function createRandom(): Random {
  return { next: () => Math.random(), id: () => randomUUID() }
}

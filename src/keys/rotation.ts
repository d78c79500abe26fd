/** Smooth weighted round robin, as nginx does it: every candidate gains its weight, the richest is taken and pays for the whole round. */

export interface Weighted {
  readonly weight: number
  turn: number
}

/** Null = there is no candidate. */
export function nextInTurn<T extends Weighted>(candidates: readonly T[]): T | null {
  let richest: T | null = null
  for (const candidate of candidates) {
    candidate.turn += candidate.weight
    if (!richest || candidate.turn > richest.turn) richest = candidate
  }
  if (richest) richest.turn -= candidates.reduce((sum, { weight }) => sum + weight, 0)
  return richest
}

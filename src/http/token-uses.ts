/** When each client token was used last, so that an operator sees which old one can be removed. Survives restarts to the minute. */
import type { KnownToken } from '../model.ts'
import type { Clock, Disk } from '../ports.ts'

export interface TokenUses {
  used(token: KnownToken): void
  /** By the wall; null = not as far as is known. */
  lastUsed(token: KnownToken): number | null
}

const SPACE = 'token-use'
const KEPT_MS = 400 * 86_400_000
/** Writing each use would cost more than the figure is worth. */
const NOTED_MS = 60_000

export function createTokenUses(store: Pick<Disk, 'get' | 'put'>, clock: Pick<Clock, 'wall'>): TokenUses {
  const uses = new Map<string, { at: number; notedAt: number }>()

  return {
    used({ hash }) {
      const at = clock.wall()
      const use = uses.get(hash) ?? { at, notedAt: Number.NEGATIVE_INFINITY }
      uses.set(hash, use)
      use.at = at
      if (at - use.notedAt < NOTED_MS) return
      use.notedAt = at
      store.put([{ space: SPACE, key: keyOf(hash), value: at, expiresAt: at + KEPT_MS }])
    },
    lastUsed({ hash }) {
      const stored = store.get(SPACE, keyOf(hash))
      return uses.get(hash)?.at ?? (typeof stored === 'number' ? stored : null)
    },
  }
}

/** Enough to tell tokens apart, and nothing to check a guess with. */
function keyOf(hash: string): string {
  return hash.slice(0, 12)
}

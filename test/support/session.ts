/** A session that does what the test says: who is gone, and when there is a sign of life. */
import type { Session } from '../../src/session.ts'

export interface FakeSession extends Session {
  /** The others have declared it gone, and it may not know that. */
  readonly fade: () => void
  /** A sign of life. */
  readonly beats: (isNew: boolean) => void
}

/** `gone` is known to all that share it. */
export function aSession(id: string, gone = new Set<string>(), size = 1): FakeSession {
  const listeners = new Set<(isNew: boolean) => void>()
  return {
    id,
    mark: () => id,
    size: () => size,
    isLost: async (other) => gone.has(other),
    isGone: async (other) => gone.has(other),
    isTrusted: () => !gone.has(id),
    fateOf: (other) => (gone.has(other) ? 'ended' : 'alive'),
    others: () => [],
    isValid: () => !gone.has(id),
    wallMs: () => 0,
    beat: async () => {},
    onBeat(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    close: async () => {},
    fade: () => void gone.add(id),
    beats(isNew) {
      for (const listener of listeners) listener(isNew)
    },
  }
}

/**
 * Which serving is in force, and which old ones still have flights in the air. An old one goes when the last of them has landed,
 * or after an hour, whatever happens; what it alone used goes with it.
 */
import type { Client } from './model.ts'
import type { Clock, Timer } from './ports.ts'
import type { Connection, Serving } from './serving.ts'

export interface Generations {
  readonly current: Serving
  /** From 1 on. */
  readonly number: number
  /** Old ones that are still in use. */
  readonly old: number
  /** Clients of the settings in force, and of older ones that are still in use. */
  people(): readonly Client[]
  /** Another one is in force. Returns its number. */
  swap(next: Serving): number
  /** Ends all calls. */
  close(): void
}

/** Longer than any call: a job is followed for 40 minutes at most. */
const longestMs = 3_600_000

export function createGenerations(first: Serving, clock: Clock): Generations {
  const old = new Map<Serving, Timer>()
  // `current` is read with every request: a value, not a getter.
  const generations = {
    current: first,
    number: 1,
    get old() {
      return old.size
    },
    people() {
      if (old.size === 0) return generations.current.people
      const all = [...old.keys(), generations.current].flatMap(({ people }) => people)
      return [...new Map(all.map((client) => [client.name, client])).values()]
    },
    swap(next: Serving) {
      const before = generations.current
      generations.current = next
      generations.number += 1
      old.set(
        before,
        clock.after(longestMs, () => retire(before)),
      )
      before.onIdle(() => retire(before))
      return generations.number
    },
    close() {
      for (const timer of old.values()) timer.cancel()
      for (const { transport } of inUse()) transport.close()
      old.clear()
    },
  }
  return generations

  function retire(serving: Serving): void {
    old.get(serving)?.cancel()
    if (old.delete(serving) && !inUse().has(serving.connection)) serving.connection.transport.close()
  }

  function inUse(): ReadonlySet<Connection> {
    return new Set([generations.current, ...old.keys()].map(({ connection }) => connection))
  }
}

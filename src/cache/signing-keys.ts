/**
 * What signs the values that replicas share, while secrets change: those of now sign and are believed, those of before are
 * still believed for a day, so that what was paid for under an old key is not paid for again.
 */
import type { KeyObject } from 'node:crypto'
import type { Clock } from '../ports.ts'
import { signingKeyOf } from './codec.ts'

export interface SigningKeys {
  /** The first one signs. */
  all(): readonly [KeyObject, ...KeyObject[]]
  /** From now on. At least one. */
  adopt(secrets: readonly string[]): void
}

/** As long as an answer is worth keeping. */
const believedMs = 86_400_000
const mostFormer = 16

export function createSigningKeys(clock: Clock): SigningKeys {
  let current: readonly KeyObject[] = []
  let former: readonly { readonly key: KeyObject; readonly until: number }[] = []
  let all: readonly KeyObject[] = []

  return {
    all() {
      if (former.some(({ until }) => clock.now() >= until)) settle()
      const [first, ...others] = all
      if (!first) throw new TypeError('no signing key')
      return [first, ...others]
    },
    adopt(secrets) {
      const next = secrets.map(signingKeyOf)
      const until = clock.now() + believedMs
      const leaving = current.filter((key) => !isIn(next, key)).map((key) => ({ key, until }))
      former = [...leaving, ...former.filter(({ key }) => !isIn(next, key))].slice(0, mostFormer)
      current = next
      settle()
    },
  }

  function settle(): void {
    former = former.filter(({ until }) => clock.now() < until)
    all = [...current, ...former.map(({ key }) => key)]
  }
}

function isIn(keys: readonly KeyObject[], key: KeyObject): boolean {
  return keys.some((one) => one.equals(key))
}

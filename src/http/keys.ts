/** `POST /keys/{name}/try` of the admin port: the rest of this upstream key is over, and the next request tries it. */
import { ProxyError } from '../errors.ts'
import type { KeyStatus } from '../fetch-parts.ts'
import { type AdminRoute, json } from './admin.ts'

interface KeysParts {
  /** Null = there is no such key. */
  readonly tryNow: (name: string) => KeyStatus | null
}

export function createKeyRoute({ tryNow }: KeysParts): AdminRoute {
  return {
    method: 'POST',
    path: '/keys/{name}/try',
    run({ segment }) {
      const key = tryNow(segment)
      if (!key) throw new ProxyError('ENDPOINT_UNKNOWN', 'The current settings have no upstream key with this name.')
      const { name, state, problem } = key
      const next = problem ? 'the next request tries it' : 'it is ready'
      return {
        ...json({ name, state, reason: problem?.reason ?? null, next }),
        acted: { action: 'key-try', what: { key: name } },
      }
    },
  }
}

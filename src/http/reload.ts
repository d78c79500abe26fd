/**
 * `POST /reload` of the admin port: 200 with the new generation, or what is wrong with the settings, while the old ones stay in
 * force: 422 for mistakes, 409 for a change that needs a restart.
 */
import type { Random } from '../ports.ts'
import { type AdminRoute, json } from './admin.ts'

interface ReloadParts {
  readonly random: Random
  readonly reload: () =>
    | { readonly result: 'applied'; readonly generation: number }
    | { readonly result: 'invalid' | 'restart'; readonly mistakes: readonly string[] }
}

const refusals = {
  invalid: { status: 422, title: 'Invalid settings' },
  restart: { status: 409, title: 'Restart needed' },
} as const

export function createReloadRoute({ random, reload }: ReloadParts): AdminRoute {
  return {
    method: 'POST',
    path: '/reload',
    run() {
      const reloaded = reload()
      if (reloaded.result === 'applied') return json({ generation: reloaded.generation })
      const { status, title } = refusals[reloaded.result]
      const { mistakes } = reloaded
      const problem = {
        type: 'urn:scrapellm-proxy:error:CONFIG_INVALID',
        title,
        status,
        detail: `The settings in force stay as they are. ${mistakes.join(' ')}`,
        code: 'CONFIG_INVALID',
        request_id: random.id(),
        mistakes,
      }
      return { ...json(problem, status), contentType: 'application/problem+json' }
    },
  }
}

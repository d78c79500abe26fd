/**
 * `POST /reload` of the admin port: 200 with the new generation and the settings that wait for a restart, or 422 with what is wrong
 * with the settings, while the old ones stay in force.
 */
import type { Random } from '../ports.ts'
import { type AdminRoute, json } from './admin.ts'

interface ReloadParts {
  readonly random: Random
  readonly reload: () =>
    | { readonly result: 'applied'; readonly generation: number }
    | { readonly result: 'restart'; readonly generation: number; readonly waiting: readonly string[] }
    | { readonly result: 'invalid'; readonly generation: number; readonly mistakes: readonly string[] }
}

export function createReloadRoute({ random, reload }: ReloadParts): AdminRoute {
  return {
    method: 'POST',
    path: '/reload',
    run() {
      const reloaded = reload()
      const { result, generation } = reloaded
      const acted = { action: 'reload', what: { result, generation } } as const
      if (result === 'applied') return { ...json({ generation }), acted }
      if (result === 'restart') return { ...json({ generation, waiting_for_restart: reloaded.waiting }), acted }
      const { mistakes } = reloaded
      const problem = {
        type: 'urn:scrapellm-proxy:error:CONFIG_INVALID',
        title: 'Invalid settings',
        status: 422,
        detail: `The settings in force stay as they are. ${mistakes.join(' ')}`,
        code: 'CONFIG_INVALID',
        request_id: random.id(),
        mistakes,
      }
      return { ...json(problem, 422), contentType: 'application/problem+json', acted }
    },
  }
}
